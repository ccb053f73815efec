/* process.c -- who is attached, and who of them is alive.
 *
 * What we want: to know of a process that it is dead, for certain, from any PID namespace, whatever it has done to its
 * descriptors; for then its lock is seized and its step undone.
 *
 * What does not work: process and thread ids (two namespaces have the same ones); a file lock that hangs on a descriptor
 * (closerange() and whoever makes a daemon of himself drop it alive, and a forked child keeps it after its parent's death); a
 * robust mutex (it tells of a thread, by its id); the start time of a process (it survives an exec, which ends a step).
 *
 * What does: a *witness* is a write lock on a byte of the process's slot, through an open file description of its own, which a
 * mapping of one page keeps open: the descriptor is closed at once. So it goes with the address space, however that ends (exit,
 * kill, exec), and with nothing else. A forked child gets no copy of that mapping; one that shares the address space until it
 * execs (vfork) does keep it, rightly: it could still store. Each process has two such witnesses, in two places of its address
 * space, and counts as alive while one of them stands: a stray munmap takes one.
 *
 * Who asks needs a descriptor, and may have lost it: another file may have its number, on which nobody is seen. So nobody counts
 * as dead unless the one who asks sees its own witnesses through that same descriptor.
 *
 * Joining happens under flock on the object. Who holds the flock and finds no byte locked is therefore alone, and stays
 * alone until it lets go: it may make the lock anew. A forked child is not in the table until its first use of the arena;
 * lock.c makes it join, under the flock, before it touches the lock.
 */
#include "segment.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct rcv_process) == 64, "part of the format");

static inline struct rcv_process *entry_of(const rcv_arena *a, uint32_t slot)
{
    return (struct rcv_process *)(a->core + a->hdr->region[RCV_R_PROCESS].off) + slot;
}

static inline uint64_t byte_of(const rcv_arena *a, uint32_t slot)
{
    return a->hdr->region[RCV_R_PROCESS].off + slot * sizeof(struct rcv_process);
}

/* slot_of -- the slot in a token, or RCV_PROCESSES if it has none. */
static inline uint32_t slot_of(uint64_t token)
{
    uint32_t slot = (uint32_t)(token & 0xff) - 1; /* 0 - 1 is above the bound, too */
    return slot < RCV_PROCESSES ? slot : RCV_PROCESSES;
}

/* slot_locked -- is somebody alive in it? Where the kernel won't say: yes, the careful answer. */
static bool slot_locked(const rcv_arena *a, uint32_t slot)
{
    bool locked = true;
    return os_bytes_locked(object_fd(a), byte_of(a, slot), RCV_WITNESSES, &locked) != 0 || locked;
}

/* slot_dead -- is nobody alive in it, for certain? */
static bool slot_dead(const rcv_arena *a, uint32_t slot)
{
    bool seen = false;
    if (slot_locked(a, slot))
        return false;
    /* Not in the table (we are attaching, or look from outside): the descriptor is new. */
    return a->token == 0 || (os_bytes_locked(object_fd(a), byte_of(a, a->slot), RCV_WITNESSES, &seen) == 0 && seen);
}

static void drop_witnesses(rcv_arena *a)
{
    for (unsigned i = 0; i < RCV_WITNESSES; i++)
        if (a->witness[i] != NULL)
            os_unmap(a->witness[i], os_page_size());
    memset(a->witness, 0, sizeof a->witness);
}

/* take_slot -- both witnesses of a slot that looked free: 0, EAGAIN (another has it), or an errno. All or none. */
static int take_slot(rcv_arena *a, uint32_t slot)
{
    int err = 0;
    for (unsigned i = 0; err == 0 && i < RCV_WITNESSES; i++) {
        int fd = -1;
        err = object_open(a, &fd);
        if (err == 0)
            err = os_witness(fd, byte_of(a, slot) + i, &a->witness[i]);
        CRASHPOINT("join.witness");
    }
    if (err == 0 && !slot_locked(a, slot))
        err = ENOLCK; /* this kernel drops the lock with the descriptor */
    if (err != 0)
        drop_witnesses(a);
    return err;
}

/* fill_slot -- say who has it. */
static void fill_slot(rcv_arena *a, uint32_t slot)
{
    struct rcv_process *p = entry_of(a, slot);
    uint64_t            incarnation = (atomic_fetch_add(&a->hdr->process_counter, 1) + 1) & RCV_TOKEN >> 8;
    uint64_t            token = incarnation << 8 | (slot + 1);
    CRASHPOINT("join.before_token");
    atomic_store_explicit(&p->token, 0, memory_order_release); /* the dead one's token must not name our pid */
    p->pid = (uint64_t)getpid();
    p->space = process_space();
    atomic_store(&p->answers, 0);
    p->attached_at = (uint64_t)time(NULL);
    atomic_store_explicit(&p->token, token, memory_order_release);
    CRASHPOINT("join.after_token");
    a->slot = slot;
    a->token = token;
    a->needs_slot = false;
    lock_orphan(a, slot);
}

/* process_join -- take a free slot. Under the segment's flock. A failure leaves the table and the arena as they were. */
int process_join(rcv_arena *a)
{
    /* The slot of a dead lock holder comes last: recovery wants to tell its pid. */
    uint32_t holder = slot_of(lock_owner(a));
    for (uint32_t i = 0; i <= RCV_PROCESSES; i++) {
        uint32_t slot = i < RCV_PROCESSES ? i : holder;
        if ((i < RCV_PROCESSES && slot == holder) || slot == RCV_PROCESSES || slot_locked(a, slot))
            continue;
        int err = take_slot(a, slot);
        if (err == EAGAIN)
            continue;
        if (err == ENOLCK)
            return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": the kernel keeps no lock on its process table (it needs open file "
                             "description locks that mappings keep); nothing was opened", a->name);
        if (err == EBADF)
            return object_lost(a);
        if (err != 0)
            return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't take a slot of its process table", a->name);
        fill_slot(a, slot);
        return 0;
    }
    return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": %u processes are attached already, and there is no room for more",
                     a->name, RCV_PROCESSES);
}

/* process_leave -- give the slot back, if we have one. */
void process_leave(rcv_arena *a)
{
    if (a->token != 0 && !a->needs_slot) {
        atomic_store_explicit(&entry_of(a, a->slot)->token, 0, memory_order_release);
        CRASHPOINT("leave.before_unlock");
        drop_witnesses(a);
    }
    a->token = 0;
}

/* process_slot_alive -- is somebody alive in that slot? */
bool process_slot_alive(const rcv_arena *a, uint32_t slot) { return slot_locked(a, slot); }

/* process_alive -- is the process with that token still attached? */
bool process_alive(const rcv_arena *a, uint64_t token)
{
    if (token != 0 && token == a->token)
        return true;
    return process_of(a, token) != NULL && !slot_dead(a, slot_of(token));
}

/* process_gone -- is the process with that token dead? Unlike process_alive() it does not believe the table, which a stray store
 * may have hit: of a slot that has another owner, process_join() has told the lock. */
bool process_gone(const rcv_arena *a, uint64_t token)
{
    uint32_t slot = slot_of(token);
    return slot == RCV_PROCESSES || (token != a->token && slot_dead(a, slot));
}

/* process_others -- is anybody alive but us? */
bool process_others(const rcv_arena *a)
{
    for (uint32_t slot = 0; slot < RCV_PROCESSES; slot++)
        if (!(a->token != 0 && a->slot == slot) && slot_locked(a, slot))
            return true;
    return false;
}

/* process_of -- the table's entry for a token, dead or alive; NULL once the slot has another owner. */
const struct rcv_process *process_of(const rcv_arena *a, uint64_t token)
{
    uint32_t slot = slot_of(token);
    if (slot == RCV_PROCESSES)
        return NULL;
    const struct rcv_process *p = entry_of(a, slot);
    return atomic_load_explicit(&p->token, memory_order_acquire) == token ? p : NULL;
}

void process_name(const rcv_arena *a, uint64_t token, struct rcv_holder *out)
{
    const struct rcv_process *p = process_of(a, token);
    memset(out, 0, sizeof *out);
    out->pid = p != NULL ? p->pid : 0;
}

/* process_space -- which PID namespace this process is in: two that are in one have the same number. 0: unknown. */
uint64_t process_space(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* process_after_fork -- in the child: the slot is the parent's; ours is taken at the first use of the arena. */
void process_after_fork(rcv_arena *a)
{
    memset(a->witness, 0, sizeof a->witness); /* the child has no copy of them */
    a->token = 0;
    a->needs_slot = true;
}

/* rcv_processes -- the pids of who is alive; returns how many are, which may be more than `max`. */
int rcv_processes(rcv_arena *a, uint64_t *pids, int max)
{
    int n = 0;
    for (uint32_t slot = 0; slot < RCV_PROCESSES; slot++) {
        if (!slot_locked(a, slot))
            continue;
        if (n < max)
            pids[n] = entry_of(a, slot)->pid;
        n++;
    }
    return n;
}
