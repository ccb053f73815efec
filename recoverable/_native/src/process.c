/* process.c -- who is attached, and who of them is alive.
 *
 * Alive = holds a write lock on the first byte of its slot in the process table, through an open file description of its
 * own. The kernel drops the lock with the last descriptor, however the process ends, and (unlike a robust mutex) whichever
 * of its threads opened it. Getting that lock *is* claiming the slot, so two joiners can't have the same one.
 *
 * Joining happens under flock on the object. Who holds the flock and finds no byte locked is therefore alone, and stays
 * alone until it lets go: it may make the mutex anew. A forked child is not in the table until its first use of the arena;
 * lock.c makes it join, under the flock, before it touches the mutex.
 */
#include "internal.h"

#include <errno.h>
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
    return os_byte_locked(a->fd, byte_of(a, slot), &locked) != 0 || locked;
}

/* process_join -- take a free slot. Under the segment's flock. A failure leaves the table and the arena as they were. */
int process_join(rcv_arena *a)
{
    int live = -1;
    int err = os_reopen(a->fd, &live);
    if (err != 0)
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't open it a second time through /proc", a->name);
    /* The slot of a dead lock holder comes last: recovery wants to tell its pid. */
    uint32_t holder = slot_of(atomic_load(&a->hdr->holder));
    for (uint32_t i = 0; i <= RCV_PROCESSES; i++) {
        uint32_t slot = i < RCV_PROCESSES ? i : holder;
        if ((i < RCV_PROCESSES && slot == holder) || slot == RCV_PROCESSES)
            continue;
        err = os_lock_byte(live, byte_of(a, slot));
        if (err == EAGAIN)
            continue;
        if (err != 0) {
            close(live);
            return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't lock a slot of the process table", a->name);
        }
        CRASHPOINT("join.before_token");
        struct rcv_process *p = entry_of(a, slot);
        uint64_t            incarnation = atomic_fetch_add(&a->hdr->process_counter, 1) + 1;
        uint64_t            token = incarnation << 8 | (slot + 1);
        atomic_store_explicit(&p->token, 0, memory_order_release); /* the dead one's token must not name our pid */
        p->pid = (uint64_t)getpid();
        p->attached_at = (uint64_t)time(NULL);
        atomic_store_explicit(&p->token, token, memory_order_release);
        CRASHPOINT("join.after_token");
        a->live_fd = live;
        a->slot = slot;
        a->token = token;
        a->needs_slot = false;
        return 0;
    }
    close(live);
    return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": %u processes are attached already, and there is no room for more",
                     a->name, RCV_PROCESSES);
}

/* process_leave -- give the slot back, if we have one. */
void process_leave(rcv_arena *a)
{
    if (a->token != 0 && a->live_fd >= 0) {
        atomic_store_explicit(&entry_of(a, a->slot)->token, 0, memory_order_release);
        CRASHPOINT("leave.before_close");
        close(a->live_fd);
    }
    a->live_fd = -1;
    a->token = 0;
}

/* process_slot_alive -- is somebody alive in that slot? */
bool process_slot_alive(const rcv_arena *a, uint32_t slot) { return slot_locked(a, slot); }

/* process_alive -- is the process with that token still attached? */
bool process_alive(const rcv_arena *a, uint64_t token)
{
    if (token != 0 && token == a->token)
        return true;
    return process_of(a, token) != NULL && slot_locked(a, slot_of(token));
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

/* process_after_fork -- in the child: the slot is the parent's; ours is taken at the first use of the arena. */
void process_after_fork(rcv_arena *a)
{
    if (a->live_fd >= 0)
        close(a->live_fd); /* the parent's descriptor keeps the lock; ours would keep it after the parent's death */
    a->live_fd = -1;
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
