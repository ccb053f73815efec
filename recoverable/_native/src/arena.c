/* arena.c -- making, attaching, closing an arena; fork; statistics.
 *
 * rcv_open() runs under flock on the object, so formatting and attaching never race each other. What a kill leaves:
 *
 *   - while formatting: an object without its magic, which is stored last. The next opener makes it again.
 *   - while attaching: at most a slot whose locks are gone, a half-done recovery, or a new lock nobody uses; each is mended
 *     or overwritten by the next attach.
 */
#include "transaction/transaction.h"
#include "watch.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* -- fork ------------------------------------------------------------------------------------------------------------ */

/* forget_parent -- one arena in a forked child. Touches no shared memory: all of it is the parent's. */
static void forget_parent(rcv_arena *a)
{
    txn_forget_all(a);
    lock_after_fork(a);
    a->orphan_seen = a->orphan_unreported = false; /* each process tells */
    tracker_after_fork(a);
    heap_after_fork(a);
    process_after_fork(a);
    watch_after_fork(a);
}

static void in_forked_child(void)
{
    registry_after_fork();
    os_ticks_after_fork();
    lock_forget_thread();
    registry_each(forget_parent);
    watch_forked();
}

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int            fork_error;

static void fault_bias_of(rcv_arena *a) { undo_share(a, a->undo_shared); }
static void fault_bias_changed(void) { registry_each(fault_bias_of); }

static void register_fork(void)
{
    fault_on_change(fault_bias_changed);
    fork_error = pthread_atfork(NULL, NULL, in_forked_child);
    if (fork_error == 0)
        fork_error = lock_once();
}

/* -- making ---------------------------------------------------------------------------------------------------------- */

static uint64_t at_most(uint64_t n, uint64_t most) { return n < most ? n : most; }

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
    if ((rc = seg_map(a, fixed, PROT_READ | PROT_WRITE)) != 0)
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
    if ((rc = heap_format(a)) != 0 || (rc = feed_format(a)) != 0)
        return rc;
    CRASHPOINT("open.format.before_magic");
    store_fence();
    atomic_store(&h->magic, RCV_MAGIC);
    store_fence();
    CRASHPOINT("open.format.after_magic");
    return 0;
}

/* format -- make a segment in an object that is empty or half-made; *fixed: room for its header's fixed part. A failure leaves an empty
 * object. */
static int format(rcv_arena *a, const struct rcv_open_options *o, uint32_t uid, struct rcv_header *fixed)
{
    struct statvfs fs;
    memset(fixed, 0, sizeof *fixed);
    int rc = header_plan(a, o, uid, fixed);
    if (rc != 0)
        return rc;
    if (fstatvfs(object_fd(a), &fs) == 0 && fs.f_blocks != 0 && fixed->region[RCV_R_DATA].size / fs.f_frsize > fs.f_blocks) {
        char what[80];
        snprintf(what, sizeof what, "its size of %llu MiB is more than there can be",
                 (unsigned long long)(fixed->region[RCV_R_DATA].size >> 20));
        return seg_full(a, 0, what);
    }
    /* To nothing first: a half-made object may hold anything, and what grows back reads as zero. */
    if (ftruncate(object_fd(a), 0) != 0)
        return seg_os(a, errno, "emptying it");
    CRASHPOINT("open.format.empty");
    if (ftruncate(object_fd(a), (off_t)fixed->total_size) != 0) {
        rc = seg_os(a, errno, "setting its length");
    } else {
        CRASHPOINT("open.format.sized");
        rc = fill(a, fixed);
    }
    if (rc != 0) {
        seg_unmap(a);
        (void)!ftruncate(object_fd(a), 0); /* if that fails, it stays half-made, and the next opener makes it again */
        return rc;
    }
    a->created = true;
    return 0;
}

/* -- attaching ------------------------------------------------------------------------------------------------------- */

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
        feed_alone(a);
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
    if (a->hdr != NULL && a->past == NULL)
        process_leave(a);
    mirror_free(a);
    redo_free(a);
    if (a->past != NULL)
        rcv_restore_close(a->past);
    else
        seg_unmap(a);
    object_drop(a);
    os_free(a);
}

/* open_segment -- rcv_open with `a` allocated, and room for a header, which is large for a stack; the caller disposes of both. */
static int open_segment(rcv_arena *a, int fd, const struct rcv_open_options *o, struct rcv_header *fixed)
{
    struct stat st;
    int         err = object_adopt(a, fd, &st);
    if (err != 0)
        return rcv_raise(err == EACCES || err == EPERM ? RCV_ERR_PERMISSION : RCV_ERR_OS, err,
                         "arena \"%s\": can't open its object", a->name);
    if (st.st_uid != geteuid())
        return rcv_raise(RCV_ERR_PERMISSION, 0,
                         "arena \"%s\" belongs to user %u, this process runs as user %u; nothing was touched; use another name",
                         a->name, (unsigned)st.st_uid, (unsigned)geteuid());
    int rc = seg_inspect(a, (uint64_t)st.st_size, fixed);
    if (rc < 0)
        return rc;
    if (rc == 1 && !o->create)
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "there is no arena \"%s\": its making was not finished; open it with create",
                         a->name);
    if (rc == 0 && fixed->owner_uid != st.st_uid)
        return rcv_raise(RCV_ERR_PERMISSION, 0, "arena \"%s\" was made by user %u, and its object belongs to user %u", a->name,
                         fixed->owner_uid, (unsigned)st.st_uid);
    CRASHPOINT("open.inspected");
    rc = rc == 1 ? format(a, o, (uint32_t)st.st_uid, fixed) : seg_map(a, fixed, PROT_READ | PROT_WRITE);
    if (rc == 0)
        rc = enter(a);
    if (rc == 0)
        rc = tracker_open(a, o);
    CRASHPOINT("open.done");
    return rc;
}

static const struct rcv_above above = {
    .thread_ended = tracker_protect_lost,
    .step_lost = txn_step_lost,
    .holds = intent_holds,
    .zeroed = tracker_zero,
    .stopped_step_over = watch_stopped_step_over,
};

/* rcv_open -- see recoverable.h. A failure after formatting leaves a sound, empty segment. */
int rcv_open(int fd, const struct rcv_open_options *options, rcv_arena **out)
{
    pthread_once(&fork_once, register_fork);
    if (fork_error != 0)
        return rcv_raise(RCV_ERR_OS, fork_error, "can't register what a fork and the end of a thread must do");
    rcv_arena         *a = os_calloc(1, sizeof *a);
    struct rcv_header *fixed = os_malloc(sizeof *fixed);
    if (a == NULL || fixed == NULL) {
        os_free(a);
        os_free(fixed);
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for an arena's handle");
    }
    a->fd = -1;
    a->above = &above;
    a->busy_timeout = options->busy_timeout;
    a->trap_mode = options->trap_mode != 0;
    snprintf(a->name, sizeof a->name, "%s", options->name != NULL ? options->name : "?");
    snprintf(a->policy, sizeof a->policy, "%s", options->policy != NULL ? options->policy : "adaptive");
    int rc = open_segment(a, fd, options, fixed);
    os_free(fixed);
    if (rc != 0) {
        dispose(a);
        return rc;
    }
    a->unreported = false; /* what the attach repaired itself is in rcv_recovered() */
    registry_add(a);
    *out = a;
    return 0;
}

int rcv_past_open(rcv_restore *r, rcv_arena **out)
{
    rcv_arena *a;
    int        rc = restore_share(r, &a);
    if (rc != 0)
        return rc;
    a->above = &above;
    a->token = 1; /* any: its lock is its own */
    lock_init(a);
    if ((rc = heap_open(a)) == 0)
        rc = tracker_open_past(a);
    if (rc != 0) {
        dispose(a);
        return rc;
    }
    *out = a;
    return 0;
}

/* -- closing --------------------------------------------------------------------------------------------------------- */

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

/* end_all -- all that goes on in it; nobody finds it any more. */
static void end_all(rcv_arena *a)
{
    a->closing = true;
    while (a->in_flight != NULL)
        rcv_txn_free(a->in_flight); /* rolls back first; a mounted one lets the lock go */
    txn_pool_free(a);
    viewed_free(a);
    lock_give_back(a);
    CRASHPOINT("close.rolled_back");
    registry_remove(a);
}

/* rcv_close -- see recoverable.h. RCV_ERR_MISUSE leaves it open; otherwise `a` is gone. */
int rcv_close(rcv_arena *a)
{
    if (a == NULL)
        return 0;
    int rc = may_close(a);
    if (rc != 0)
        return rc;
    end_all(a);
    dispose(a);
    return 0;
}

/* rcv_leave -- see recoverable.h. */
int rcv_leave(rcv_arena *a)
{
    a->users--; /* who it is left to */
    int rc = may_close(a);
    a->users++;
    if (rc == 0)
        end_all(a);
    return rc;
}

/* -- what others ask of it ------------------------------------------------------------------------------------------- */

const struct rcv_recovery *rcv_recovered(const rcv_arena *a) { return &a->recovered; }

void rcv_get_recovered(const rcv_arena *a, struct rcv_recovery *out) { *out = a->recovered; }

/* rcv_repair_take -- see recoverable.h. */
int rcv_repair_take(rcv_arena *a)
{
    bool unreported = a->unreported;
    a->unreported = false;
    return unreported;
}

int rcv_created(const rcv_arena *a) { return a->created; }

/* rcv_pending -- see recoverable.h. Every run of a handler asks: a dozen instructions, but for the look twice a second. */
int rcv_pending(rcv_arena *a)
{
    uint64_t now = os_ticks();
    if (unlikely(now - a->looked > OS_TICKS_HALF_SECOND)) {
        a->looked = now;
        rcv_orphaned(a);
    }
    return a->unreported || a->orphan_unreported || tracker_pending(a);
}

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
#define X(name, type, metric, help) out->name = n->name;
    RCV_COUNTERS(X)
#undef X
    out->in_flight = a->n_in_flight;
    heap_stats(a, out);
    tracker_stats(a, out);
    return 0;
}

const struct rcv_stat_info *rcv_stat_info(unsigned i)
{
    static const struct rcv_stat_info all[] = {
#define X(name, type, metric, help) {#name, metric, help, RCV_STAT_##type},
        RCV_STATS(X)
#undef X
    };
    _Static_assert(sizeof all / sizeof *all == sizeof(struct rcv_stats) / sizeof(uint64_t), "one of each, in the same order");
    return i < sizeof all / sizeof *all ? &all[i] : NULL;
}
