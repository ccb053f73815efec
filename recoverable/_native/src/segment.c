/* segment.c -- making, attaching, closing a segment; the registry of what this process has open.
 *
 * rcv_open() runs under flock on the object, so formatting and attaching never race each other. What a kill leaves:
 *
 *   - while formatting: an object without its magic, which is stored last. The next opener makes it anew.
 *   - while attaching: at most a slot whose locks are gone, a half-done recovery, or a new lock nobody uses; each is mended
 *     or overwritten by the next attach.
 *
 * Nothing in the object is believed before it has been checked, and nothing beyond its length is touched: that would be
 * a SIGBUS. (Another program that truncates the object *while* it is mapped still causes one; shared memory has no defence.)
 */
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

_Static_assert(sizeof(struct rcv_header) <= 16384, "attaching maps it before anything else");

static uint64_t at_most(uint64_t n, uint64_t most) { return n < most ? n : most; }

/* -- errors ------------------------------------------------------------------------------------------------- */

/* seg_corrupt -- RCV_ERR_CORRUPT with the arena's name, the damage and the way out. Marks nothing: recover() does. */
int seg_corrupt(rcv_arena *a, const char *format, ...)
{
    char    damage[256];
    va_list args;
    va_start(args, format);
    vsnprintf(damage, sizeof damage, format, args);
    va_end(args);
    return rcv_raise(RCV_ERR_CORRUPT, 0,
                     "arena \"%s\" is damaged: %s; it was left as it is; copy /dev/shm/recoverable.%s if you want to look at "
                     "it, then unlink the arena and create it anew", a->name, damage, a->name);
}

/* seg_full -- RCV_ERR_FULL: the file system behind the object has no more memory. */
static int seg_full(rcv_arena *a, int err, const char *what)
{
    struct statvfs fs;
    char           total[48] = "its limit";
    if (fstatvfs(object_fd(a), &fs) == 0)
        snprintf(total, sizeof total, "%llu MiB in all",
                 (unsigned long long)((uint64_t)fs.f_blocks * fs.f_frsize >> 20));
    return rcv_raise(RCV_ERR_FULL, err,
                     "arena \"%s\": %s; /dev/shm holds %s: remove what is not needed there, or make it larger (docker run "
                     "--shm-size=…, or mount -o remount,size=… /dev/shm)", a->name, what, total);
}

/* seg_os -- RCV_ERR_FULL for want of memory, RCV_ERR_OS for the rest. `what` was being done. */
static int seg_os(rcv_arena *a, int err, const char *what)
{
    if (err == ENOSPC)
        return seg_full(a, err, "no shared memory left");
    return rcv_raise(err == ENOMEM ? RCV_ERR_FULL : RCV_ERR_OS, err, "arena \"%s\": a system call failed while %s", a->name,
                     what);
}

/* -- the registry ------------------------------------------------------------------------------------------- */

/* Changed under the GIL; read by the trap handler at any moment, so links are stored when what they point to is whole. */
static rcv_arena *_Atomic registry;

rcv_arena *seg_registry_first(void) { return atomic_load_explicit(&registry, memory_order_acquire); }

/* seg_registry_each -- call fn for every open arena; fn may close it. */
void seg_registry_each(void (*fn)(rcv_arena *))
{
    for (rcv_arena *a = seg_registry_first(), *next; a != NULL; a = next) {
        next = a->next;
        fn(a);
    }
}

/* Held by who changes it, and by a thread that looks at it without the GIL, at its end. */
static pthread_mutex_t registry_guard = PTHREAD_MUTEX_INITIALIZER;

/* seg_registry_hold -- call fn for every open arena, none of which is closed meanwhile. Without the GIL. */
void seg_registry_hold(void (*fn)(rcv_arena *))
{
    pthread_mutex_lock(&registry_guard);
    seg_registry_each(fn);
    pthread_mutex_unlock(&registry_guard);
}

static void registry_add(rcv_arena *a)
{
    pthread_mutex_lock(&registry_guard);
    a->next = seg_registry_first();
    atomic_store_explicit(&registry, a, memory_order_release);
    pthread_mutex_unlock(&registry_guard);
}

static void registry_remove(rcv_arena *a)
{
    pthread_mutex_lock(&registry_guard);
    rcv_arena *p = seg_registry_first();
    if (p == a)
        atomic_store_explicit(&registry, a->next, memory_order_release);
    for (; p != NULL; p = p->next)
        if (p->next == a) {
            p->next = a->next;
            break;
        }
    pthread_mutex_unlock(&registry_guard);
}

/* -- fork ---------------------------------------------------------------------------------------------------- */

/* forget_parent -- one arena in a forked child. Touches no shared memory: all of it is the parent's. */
static void forget_parent(rcv_arena *a)
{
    txn_forget_all(a);
    lock_after_fork(a);
    a->orphan_seen = a->orphan_untold = false; /* each process tells */
    tracker_after_fork(a);
    heap_after_fork(a);
    process_after_fork(a);
}

static void in_forked_child(void)
{
    registry_guard = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; /* another thread of the parent may have held it */
    lock_forget_thread();
    seg_registry_each(forget_parent);
}

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int            fork_error;

static void register_fork(void)
{
    fork_error = pthread_atfork(NULL, NULL, in_forked_child);
    if (fork_error == 0)
        fork_error = lock_once();
}

/* -- claiming ------------------------------------------------------------------------------------------------ */

/* seg_claim_data -- back the data region up to `upto` bytes, rounded up to a slice. Lock held, or alone. On RCV_ERR_FULL what
 * was claimed stays. A kill between memory and mark leaves a slice that the next claim takes over. */
int seg_claim_data(rcv_arena *a, uint64_t upto)
{
    uint64_t claimed = rcv_data_claimed(a);
    if (upto > a->data_size)
        return rcv_raise(RCV_ERR_FULL, 0,
                         "arena \"%s\" is full: its size is %llu bytes; delete something, or make it anew with a larger size",
                         a->name, (unsigned long long)a->data_size);
    while (claimed < upto) {
        uint64_t n = a->data_size - claimed;
        if (n > RCV_SLICE)
            n = RCV_SLICE;
        CRASHPOINT("claim.before_memory");
        int err = os_populate(a->core + a->data_off + claimed, n);
        if (err != 0)
            return seg_os(a, err, "claiming memory for data");
        CRASHPOINT("claim.before_mark");
        claimed += n;
        atomic_store_explicit(&a->hdr->data_claimed, claimed, memory_order_release);
        CRASHPOINT("claim.after_mark");
    }
    return 0;
}

/* -- mapping -------------------------------------------------------------------------------------------------- */

/* map_core -- the core view, and the addresses that are derived from a checked (or planned) header. */
static int map_core(rcv_arena *a, const struct rcv_header *h, int protection)
{
    void    *core;
    uint64_t total = h->total_size;
    int      err = os_map_shared(object_fd(a), 0, total, protection, &core);
    if (err != 0)
        return seg_os(a, err, "mapping it");
    a->core = a->mem = core;
    a->hdr = core;
    a->total_size = total;
    a->data_off = h->region[RCV_R_DATA].off;
    a->data_size = h->region[RCV_R_DATA].size;
    a->stamps[0] = (_Atomic uint64_t *)(a->core + h->region[RCV_R_STAMP].off);
    a->stamps[1] = a->stamps[0] + h->stamp_count;
    a->stamp_mask = h->stamp_count - 1;
    a->recent = a->stamps[1] + h->stamp_count;
    a->recent_mask = h->recent_count - 1;
    a->board = (struct rcv_board *)(a->core + h->region[RCV_R_BOARD].off);
    a->undo_off = h->region[RCV_R_UNDO].off;
    a->undo_size = h->region[RCV_R_UNDO].size;
    a->undo = a->core + a->undo_off;
    return 0;
}

static void unmap_core(rcv_arena *a)
{
    if (a->core != NULL)
        os_unmap(a->core, a->total_size);
    a->core = NULL;
    a->hdr = NULL;
}

/* -- making --------------------------------------------------------------------------------------------------- */

/* fill -- everything behind a planned header, and the magic last. */
static int fill(rcv_arena *a, struct rcv_header *fixed)
{
    int rc, err;
    for (int i = 0; i < RCV_REGIONS; i++) {
        bool     whole = i != RCV_R_UNDO && i != RCV_R_SHADOW && i != RCV_R_DATA; /* these grow */
        uint64_t first = whole ? fixed->region[i].size : i == RCV_R_SHADOW ? 0 : at_most(fixed->region[i].size, RCV_SLICE);
        if ((err = os_claim(object_fd(a), fixed->region[i].off, first)) != 0)
            return seg_os(a, err, "claiming memory for its tables");
        CRASHPOINT("open.format.claim");
    }
    if ((err = os_random(fixed->hash_secret, sizeof fixed->hash_secret)) != 0)
        return seg_os(a, err, "making its hash secret");
    if ((rc = map_core(a, fixed, PROT_READ | PROT_WRITE)) != 0)
        return rc;
    struct rcv_header *h = a->hdr;
    const size_t       from = offsetof(struct rcv_header, format);
    fixed->checksum = header_sum(fixed);
    memcpy((uint8_t *)h + from, (uint8_t *)fixed + from, offsetof(struct rcv_header, checksum) + sizeof h->checksum - from);
    CRASHPOINT("open.format.fixed");
    atomic_store(&h->data_claimed, at_most(a->data_size, RCV_SLICE));
    atomic_store(&h->undo_claimed, at_most(a->undo_size, RCV_SLICE));
    lock_init(a);
    CRASHPOINT("open.format.lock");
    if ((rc = heap_format(a)) != 0)
        return rc;
    CRASHPOINT("open.format.before_magic");
    store_fence();
    atomic_store(&h->magic, RCV_MAGIC);
    store_fence();
    CRASHPOINT("open.format.after_magic");
    return 0;
}

/* format -- make a segment in an object that is empty or half-made. A failure leaves an empty object. */
static int format(rcv_arena *a, const struct rcv_open_options *o, uint32_t uid)
{
    struct rcv_header fixed;
    struct statvfs    fs;
    memset(&fixed, 0, sizeof fixed);
    int rc = header_plan(a, o, uid, &fixed);
    if (rc != 0)
        return rc;
    if (fstatvfs(object_fd(a), &fs) == 0 && fs.f_blocks != 0 && fixed.region[RCV_R_DATA].size / fs.f_frsize > fs.f_blocks) {
        char what[80];
        snprintf(what, sizeof what, "its size of %llu MiB is more than there can be",
                 (unsigned long long)(fixed.region[RCV_R_DATA].size >> 20));
        return seg_full(a, 0, what);
    }
    /* To nothing first: a half-made object may hold anything, and what grows back reads as zero. */
    if (ftruncate(object_fd(a), 0) != 0)
        return seg_os(a, errno, "emptying it");
    CRASHPOINT("open.format.empty");
    if (ftruncate(object_fd(a), (off_t)fixed.total_size) != 0) {
        rc = seg_os(a, errno, "setting its length");
    } else {
        CRASHPOINT("open.format.sized");
        rc = fill(a, &fixed);
    }
    if (rc != 0) {
        unmap_core(a);
        (void)!ftruncate(object_fd(a), 0); /* if that fails, it is half-made, and made anew next time */
        return rc;
    }
    a->created = true;
    return 0;
}

/* -- attaching ------------------------------------------------------------------------------------------------ */

/* inspect -- look at the header alone, map nothing else: 0 and a copy of a sound one in *fixed, 1 if the object is
 * half-made, or an error. */
static int inspect(rcv_arena *a, uint64_t length, struct rcv_header *fixed)
{
    void    *p;
    uint64_t room = header_room();
    if (length == 0)
        return 1;
    if (length < room)
        return seg_corrupt(a, "it is %llu bytes long, which is less than a header", (unsigned long long)length);
    int err = os_map_shared(object_fd(a), 0, room, PROT_READ, &p);
    if (err != 0)
        return seg_os(a, err, "mapping its header");
    const struct rcv_header *h = p;
    int                      rc = header_half_made(h) ? 1 : header_check(a, h, length);
    if (rc == 0)
        memcpy(fixed, h, offsetof(struct rcv_header, lock));
    os_unmap(p, room);
    return rc;
}

/* seg_look -- map a sound segment read-only: 0, RCV_ERR_NOTFOUND if it is half-made, or what is wrong with it. */
int seg_look(rcv_arena *a, uint64_t length)
{
    struct rcv_header fixed;
    int               rc = inspect(a, length, &fixed);
    if (rc == 1)
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "there is no arena \"%s\": its making was not finished; open it with create",
                         a->name);
    return rc != 0 ? rc : map_core(a, &fixed, PROT_READ);
}

/* seg_unlook -- undo seg_look. */
void seg_unlook(rcv_arena *a) { unmap_core(a); }

/* agree -- on how writes are tracked: with those who are attached; or else, alone, for those who come. */
static int agree(rcv_arena *a, bool others)
{
    uint64_t mine = a->trap_mode ? RCV_TRACKING_TRAP : RCV_TRACKING_HYBRID, theirs = atomic_load(&a->hdr->tracking);
    if (others && theirs != mine)
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "arena \"%s\" is in use with tracking=\"%s\", and all processes must agree; nothing was opened; use that here, "
                         "too, or end the others first", a->name, theirs == RCV_TRACKING_TRAP ? "trap" : "hybrid");
    if (!others && theirs == RCV_TRACKING_TRAP && mine != theirs)
        hot_forget(a); /* containers' pages among them */
    atomic_store(&a->hdr->tracking, mine);
    return 0;
}

/* enter -- alone: a new lock, recovery. With others: whatever a dead lock holder left. Joins the process table. */
static int enter(rcv_arena *a)
{
    bool others = process_others(a);
    int  rc = process_join(a);
    if (rc != 0)
        return rc;
    CRASHPOINT("open.joined");
    if (!others) {
        lock_init(a);
        CRASHPOINT("open.lock");
        if (!a->created && (rc = recover(a, &a->recovered)) != 0)
            return rc;
        CRASHPOINT("open.recovered");
        uint64_t undo = atomic_load(&a->hdr->undo_claimed); /* what a killed undo_trim left behind its mark */
        if (undo < a->undo_size)
            os_punch(a->undo + undo, a->undo_size - undo);
        const struct rcv_region *shadow = &a->hdr->region[RCV_R_SHADOW];
        uint64_t                 kept = atomic_load(&a->hdr->shadow_claimed); /* the same of the shadows */
        if (kept < shadow->size)
            os_punch(a->core + shadow->off + kept, shadow->size - kept);
    }
    if ((rc = agree(a, others)) != 0)
        return rc;
    if ((rc = heap_open(a)) != 0)
        return rc;
    /* A lock that is taken (MISUSE: by this thread, through another handle) is in a living step: nothing to recover, and
     * the dead's chunks can wait. */
    if ((rc = lock_take(a)) == RCV_ERR_AGAIN || rc == RCV_ERR_MISUSE)
        return 0;
    if (rc == 0) {
        uint64_t chunks = 0;
        if (!a->created && (rc = heap_return_dead(a, &chunks)) == 0 && chunks != 0) {
            a->recovered.chunks = chunks;
            a->recovered.happened = 1;
        }
        CRASHPOINT("open.returned");
        (void)lock_drop(a);
    }
    return rc;
}

/* dispose -- undo whatever of an open was done; the segment stays. */
static void dispose(rcv_arena *a)
{
    if (a->heap != NULL)
        heap_close(a);
    if (a->tracker != NULL)
        tracker_close(a);
    if (a->hdr != NULL)
        process_leave(a);
    unmap_core(a);
    object_drop(a);
    os_free(a);
}

/* open_segment -- rcv_open with `a` allocated; the caller disposes of it on failure. */
static int open_segment(rcv_arena *a, int fd, const struct rcv_open_options *o)
{
    struct stat       st;
    struct rcv_header fixed;
    int               err = object_adopt(a, fd, &st);
    if (err != 0)
        return rcv_raise(err == EACCES || err == EPERM ? RCV_ERR_PERMISSION : RCV_ERR_OS, err,
                         "arena \"%s\": can't open its object", a->name);
    if (st.st_uid != geteuid())
        return rcv_raise(RCV_ERR_PERMISSION, 0,
                         "arena \"%s\" belongs to user %u, this process runs as user %u; nothing was touched; use another name",
                         a->name, (unsigned)st.st_uid, (unsigned)geteuid());
    int rc = inspect(a, (uint64_t)st.st_size, &fixed);
    if (rc < 0)
        return rc;
    if (rc == 1 && !o->create)
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "there is no arena \"%s\": its making was not finished; open it with create",
                         a->name);
    if (rc == 0 && fixed.owner_uid != st.st_uid)
        return rcv_raise(RCV_ERR_PERMISSION, 0, "arena \"%s\" was made by user %u, and its object belongs to user %u", a->name,
                         fixed.owner_uid, (unsigned)st.st_uid);
    CRASHPOINT("open.inspected");
    rc = rc == 1 ? format(a, o, (uint32_t)st.st_uid) : map_core(a, &fixed, PROT_READ | PROT_WRITE);
    if (rc == 0)
        rc = enter(a);
    if (rc == 0)
        rc = tracker_open(a, o);
    CRASHPOINT("open.done");
    return rc;
}

/* rcv_open -- see recoverable.h. A failure after formatting leaves a sound, empty segment. */
int rcv_open(int fd, const struct rcv_open_options *options, rcv_arena **out)
{
    pthread_once(&fork_once, register_fork);
    if (fork_error != 0)
        return rcv_raise(RCV_ERR_OS, fork_error, "can't register what a fork and the end of a thread must do");
    rcv_arena *a = os_calloc(1, sizeof *a);
    if (a == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for an arena's handle");
    a->fd = -1;
    a->busy_timeout = options->busy_timeout;
    a->trap_mode = options->trap_mode != 0;
    snprintf(a->name, sizeof a->name, "%s", options->name != NULL ? options->name : "?");
    snprintf(a->policy, sizeof a->policy, "%s", options->policy != NULL ? options->policy : "adaptive");
    int rc = open_segment(a, fd, options);
    if (rc != 0) {
        dispose(a);
        return rc;
    }
    a->untold = false; /* what the attach repaired itself is in rcv_recovered() */
    registry_add(a);
    *out = a;
    return 0;
}

/* -- closing -------------------------------------------------------------------------------------------------- */

/* may_close -- nobody else is using it. */
static int may_close(rcv_arena *a)
{
    uint64_t raw = tracker_raw_count(a), me = os_thread_id();
    if (atomic_load(&a->lock_thread) == RCV_THREAD_ENDED)
        (void)lock_adopt(a); /* what that thread was inside of is over */
    uint64_t holder = atomic_load(&a->lock_thread);
    if (raw != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "arena \"%s\" can't be closed: %llu raw buffer%s of it (numpy arrays, memoryviews) still in use; it "
                         "stays open; delete them first", a->name, (unsigned long long)raw, raw == 1 ? " is" : "s are");
    if ((holder != 0 && holder != me) || atomic_load(&a->waiters) != 0 || a->users != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" can't be closed: another thread is using it; it stays open", a->name);
    if (a->readers != 0 || a->held != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" can't be closed from inside an operation on it; it stays open", a->name);
    return 0;
}

/* rcv_close -- see recoverable.h. RCV_ERR_MISUSE leaves it open; otherwise `a` is gone. */
int rcv_close(rcv_arena *a)
{
    if (a == NULL)
        return 0;
    int rc = may_close(a);
    if (rc != 0)
        return rc;
    a->closing = true;
    while (a->in_flight != NULL)
        rcv_txn_free(a->in_flight); /* rolls back first; a mounted one lets the lock go */
    txn_pool_free(a);
    raw_free(a);
    lock_give_back(a);
    CRASHPOINT("close.rolled_back");
    registry_remove(a);
    dispose(a);
    return 0;
}

/* -- what others ask of it ------------------------------------------------------------------------------------- */

const struct rcv_recovery *rcv_recovered(const rcv_arena *a) { return &a->recovered; }

void rcv_get_recovered(const rcv_arena *a, struct rcv_recovery *out) { *out = a->recovered; }

/* rcv_repair_take -- see recoverable.h. */
int rcv_repair_take(rcv_arena *a)
{
    bool untold = a->untold;
    a->untold = false;
    return untold;
}

int rcv_created(const rcv_arena *a) { return a->created; }

/* rcv_get_stats -- a snapshot, without the lock: words that belong together may be from different moments. */
int rcv_get_stats(rcv_arena *a, struct rcv_stats *out)
{
    const struct rcv_header   *h = a->hdr;
    const struct rcv_counters *n = &a->n;
    memset(out, 0, sizeof *out);
    out->size = a->data_size;
    out->claimed = rcv_data_claimed(a);
    out->undo_size = a->undo_size;
    out->undo_claimed = atomic_load(&h->undo_claimed);
    out->shadow_claimed = atomic_load(&h->shadow_claimed);
    out->overhead = out->undo_claimed + out->shadow_claimed;
    for (int i = 0; i < RCV_REGIONS; i++)
        if (i != RCV_R_UNDO && i != RCV_R_SHADOW && i != RCV_R_DATA)
            out->overhead += h->region[i].size;
    out->commit_seq = atomic_load(&h->commit_seq);
    out->recoveries = atomic_load(&h->recoveries);
    out->processes = (uint64_t)rcv_processes(a, NULL, 0);
    out->orphaned = (uint64_t)rcv_orphaned(a);
    out->transactions = n->transactions;
    out->commits = n->commits;
    out->rollbacks = n->rollbacks;
    out->conflicts = n->conflicts;
    out->suspends = n->suspends;
    out->traps = n->traps;
    out->pages_compared = n->pages_compared;
    out->pages_copied = n->pages_copied;
    out->promotions = n->promotions;
    out->demotions = n->demotions;
    out->strays = n->strays;
    out->dooms = n->dooms;
    out->map_fallbacks = n->map_fallbacks;
    out->undo_bytes = n->undo_bytes;
    out->undo_records = n->undo_records;
    out->raw_buffers = tracker_raw_count(a);
    out->in_flight = a->n_in_flight;
    heap_stats(a, out);
    tracker_stats(a, out);
    return 0;
}
