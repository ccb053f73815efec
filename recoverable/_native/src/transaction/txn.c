/* txn.c -- transactions: mounted while a step runs, stashed while it waits.
 *
 * What we want: many requests in flight on one event loop, each free to await between its writes; nobody sees the writes
 * of another before it commits; a crash of one undoes exactly its own.
 *
 * What does not work: leaving the writes in place over an await (others would read them, and undoing them later would undo
 * what others have built on top); a copy of the state per request (cost by size, not by work); locks held over an await
 * (deadlocks, and one slow request stops the server).
 *
 * What does: at the end of each step the transaction copies its own writes into a stash in process memory and undoes them,
 * so that between steps the arena holds committed state only. When it touches the arena again, what it has read is
 * validated against the stamps, and the stash is written back, undo-logged anew. Its commit is the end of a step at which
 * the writes simply stay. The cost of a suspension is by what was written, a few dozen bytes a write.
 *
 * One that has touched nothing is `empty`: there is nothing to give back at its end, which most requests of a server reach so.
 *
 *   state       mount            suspend        commit            rollback
 *   ACTIVE      -> mounted       -> stashed     -> COMMITTED      -> ROLLED_BACK
 *   DOOMED      its doom         no-op          its doom          -> ROLLED_BACK
 *   COMMITTED   closed           no-op          closed            no-op
 *   ROLLED_BACK closed           no-op          closed            no-op
 */
#include "transaction.h"

/* clock_begin, clock_end -- the time of a checkpoint, or of a part of one, where somebody wants to know it. */
static inline uint64_t clock_begin(const rcv_txn *t) { return unlikely(t->timed) ? os_nanos() : 0; }

static inline uint64_t clock_end(rcv_txn *t, uint64_t begun)
{
    if (likely(begun == 0))
        return 0;
    uint64_t took = os_nanos() - begun;
    t->report.nanos += took;
    return pool_metered ? took : 0;
}

void rcv_txn_free(rcv_txn *t)
{
    rcv_txn_rollback(t);
    if (t->place != NULL)
        *t->place = NULL;
    t->place = NULL;
    if (t->mounted) { /* still, in the middle of an operation */
        t->end_after = RCV_FREE;
        return;
    }
    pool_put(t);
}

/* txn_step_lost -- the thread that was inside a step of ours has ended. Whoever locks next undoes the step in the segment. */
void txn_step_lost(rcv_arena *a)
{
    rcv_txn *t = a->mounted;
    a->mounted = NULL;
    atomic_store(&a->may_yield, false);
    a->step_thread = a->reader_thread = 0;
    a->readers = a->held = 0;
    a->watch.stopped = 0; /* with its thread */
    tracker_step_lost(a);
    if (t == NULL)
        return;
    bool unowned = t->end_after == RCV_FREE;
    t->mounted = false;
    t->end_after = RCV_GO_ON;
    t->log_epoch = 0;
    rcv_txn_doom(t, RCV_ERR_CLOSED);
    if (unowned)
        rcv_txn_free(t);
}

int rcv_txn_forked(const rcv_txn *t) { return t->forked; }

int rcv_txn_state(const rcv_txn *t) { return t->state; }
int rcv_txn_touched(const rcv_txn *t) { return t->touched; }
int rcv_txn_wrote(const rcv_txn *t) { return t->wrote; }
int rcv_txn_mounted(const rcv_txn *t) { return t->mounted; }

int rcv_txn_lock_held(const rcv_txn *t)
{
    if (t->empty || t->mounted || likely(atomic_load_explicit(&t->arena->hdr->lock.owner, memory_order_relaxed) == 0))
        return 0;
    return t->touched && t->state == RCV_ACTIVE && !lock_is_free_soon(t->arena);
}

void rcv_txn_get_report(const rcv_txn *t, struct rcv_txn_report *out) { *out = t->report; }

/* -- mounting -------------------------------------------------------------------------------------------- */

/* unmount -- the step is over: data is committed state, the log empty, the phase IDLE. */
static int unmount(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (unlikely(atomic_load_explicit(&a->hdr->reclaim, memory_order_relaxed) != 0))
        reclaim_slice(a); /* at every boundary, so that a full arena gets its garbage back although all roll back */
    tracker_leave(a);
    t->report.traps += a->n.traps - t->traps_before;
    t->mounted = false;
    t->log_epoch = 0;
    a->mounted = NULL;
    a->step_thread = 0;
    a->held = 0;
    if (unlikely(t->ambient))
        atomic_store(&a->may_yield, false);
    heap_boundary(a);
    undo_maybe_trim(a);
    if (unlikely(t->timed))
        t->report.held += os_nanos() - t->mounted_at;
    int rc = lock_drop(a);
    PHASE("step.left");
    return rc;
}

/* back_to_committed -- undo the step, which is shut; the phase is IDLE afterwards. An undo log that we have written ourselves and cannot
 * read back is damage: recovery by the next one to take the lock will say so. */
static void back_to_committed(rcv_txn *t, struct rcv_recovery *report)
{
    rcv_arena *a = t->arena;
    tracker_judge(a);
    if (undo_tail(a) != 0)
        (void)undo_apply(a, 0, report);
    PHASE("rollback.after_undo");
    if (!MUTATED("rollback.skip_pages"))
        tracker_revert(a);
    undo_cut(a, 0);
    PHASE("rollback.after_tail");
    phase_set(a, RCV_IDLE);
}

/* stands_on -- in an arena with a feed: it goes on with what there is up to that commit. */
static void __attribute__((noinline)) stands_on(rcv_txn *t, uint64_t seq)
{
    t->position = atomic_load_explicit(&t->arena->feed->head, memory_order_relaxed);
    if (t->stood_in != t->serial) {
        t->stood_in = t->serial;
        t->stood_on = seq;
        t->stood_at = t->position;
    }
}

/* still_valid -- is what it has seen still so? Else it is doomed. Nothing is mounted. */
static bool still_valid(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   seq = atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    if (t->state != RCV_ACTIVE)
        return false;
    if (t->touched && t->seq != seq && !stamp_valid(t)) {
        rcv_txn_doom(t, RCV_ERR_CONFLICT);
        return false;
    }
    t->seq = seq;
    if (unlikely(a->feed != NULL))
        stands_on(t, seq);
    t->written = atomic_load_explicit(&a->hdr->units_written, memory_order_relaxed);
    return true;
}

/* txn_make_room -- what else this thread has in the arena gives way: 0, or why it cannot. */
int txn_make_room(rcv_arena *a, uint64_t me)
{
    rcv_txn *other = a->mounted;
    if (a->readers > 0 && a->reader_thread == me)
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "a transaction cannot begin inside another operation on the arena; nothing was changed: begin it when the "
                         "operation has returned");
    if (other == NULL || (a->step_thread != me && !(unlikely(other->ambient) && rcv_ambient_take(other))))
        return 0;
    if (a->held > 0)
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "the arena was used from outside %s in the middle of one of its operations (by a codec, an iterator, a "
                         "finaliser or a signal handler); nothing was changed, and the operation goes on: do it when the operation has "
                         "returned, in after_commit() for one", other->handler);
    if (other->savepoints > 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "another task touched the arena inside a savepoint of %s", other->handler);
    (void)rcv_txn_suspend(other); /* on failure it is doomed and out of the way all the same */
    return 0;
}

int rcv_txn_mount(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (t->mounted)
        return 0;
    if (t->state != RCV_ACTIVE) {
        lock_give_back(a); /* it was ended while this thread waited */
        return txn_doomed_error(t);
    }
    uint64_t me = os_thread_id();
    int      rc = txn_make_room(a, me);
    if (rc == 0)
        rc = lock_take(a);
    if (rc)
        return rc;
    uint64_t begun = t->mounted_at = clock_begin(t);
    for (rcv_txn *p = t; p != NULL; p = p->parent)
        if (!still_valid(p)) {
            (void)lock_drop(a);
            return txn_doomed_error(p);
        }
    if (unlikely(a->feed != NULL) && !t->record_reads && !t->touched && sinks_need(a, a->ring_size / 2))
        t->record_reads = true; /* its commit may have to wait for room, while others commit */
    t->touched = true;
    t->empty = false;
    t->first_id = atomic_load_explicit(&a->hdr->container_counter, memory_order_relaxed);
    a->step_thread = me;
    rc = tracker_enter(a, &t->raw);
    if (rc) {
        a->step_thread = 0;
        (void)lock_drop(a);
        if (rc == RCV_ERR_STRAY) {
            rcv_txn_doom(t, rc);
            return txn_doomed_error(t);
        }
        return rc;
    }
    memcpy(a->hdr->holder_handler, t->handler, sizeof t->handler);
    phase_set(a, RCV_STEP);
    a->mounted = t;
    t->mounted = true;
    t->mounting = ++a->mountings;
    if (unlikely(t->ambient))
        atomic_store(&a->may_yield, true);
    txn_log_epoch(t);
    t->traps_before = a->n.traps;
    PHASE("step.entered");
    if (unlikely(a->trap_mode && t->raw.view == NULL)) /* else threads may store through it, and must not yet */
        tracker_capture(a, &t->raw, t->handler, t->route, t->steps); /* putting the stash back would trap, too */
    if (t->n_stash != 0 || t->n_intents != 0)
        rc = stash_put_back(t);
    if (rc == 0 && unlikely(t->raw.view != NULL || a->trap_mode) && (rc = tracker_join(a, &t->raw)) != 0)
        rc = rcv_raise(rc, 0, "%s", rcv_doom_text(rc));
    if (rc == 0 && unlikely(t->raw.view != NULL))
        tracker_capture(a, &t->raw, t->handler, t->route, t->steps);
    if (rc) {
        struct rcv_recovery report = {0};
        rcv_txn_doom(t, rc);
        intent_drop_transient(t);
        tracker_shut(a);
        back_to_committed(t, &report);
        (void)unmount(t);
    }
    clock_end(t, begun);
    return rc;
}

/* stopped_step_over -- the watchdog may have stopped the step that ends here: what it has set must not find who runs next in this
 * thread. A step that was stopped is doomed, so none that commits asks. */
static void stopped_step_over(rcv_arena *a)
{
    if (unlikely(a->watch.stopped != 0))
        a->above->stopped_step_over(a);
}

/* -- the end of a step ----------------------------------------------------------------------------------- */

/* step_doomed -- 0, or what the trap handler could not raise. */
static int step_doomed(const rcv_arena *a)
{
    int why = tracker_doomed(a);
    if (likely(why == 0))
        return 0;
    const char *text = rcv_doom_text(why);
    return rcv_raise(why, 0, "%s", text ? text : "the undo log is full: nothing of the transaction was kept");
}

int rcv_txn_suspend(rcv_txn *t)
{
    rcv_arena          *a = t->arena;
    struct rcv_recovery report = {0};
    int                 rc = 0;
    if (!t->mounted)
        return 0;
    if (unlikely(a->held > 0 || a->step_thread != os_thread_id()))
        return rcv_raise(RCV_ERR_MISUSE, 0, "%s can't be suspended in the middle of one of its operations, or by another thread", t->handler);
    uint64_t begun = clock_begin(t);
    tracker_shut(a);
    if (unlikely(a->trap_mode))
        tracker_observe(a);
    if (t->savepoints > 0)
        rcv_txn_doom(t, RCV_ERR_MISUSE); /* the way back to them ends with the step */
    if (t->state == RCV_ACTIVE) {
        rc = step_doomed(a);
        if (rc == 0)
            rc = raw_collect(t);
        if (rc == 0)
            rc = stash_fill(t);
        if (rc)
            rcv_txn_doom(t, rc);
    } else {
        stopped_step_over(a);
    }
    PHASE("suspend.after_stash");
    back_to_committed(t, &report);
    if (t->state == RCV_ACTIVE) {
        stash_keep_fresh(t);
        raw_base(t);
        stamp_capture(t);
    }
    intent_drop_transient(t);
    if (unlikely(a->privileged == t) && t->wrote)
        privilege_wrote(t);
    if (!t->record_reads)
        t->overflowed = true; /* it never expected this: valid only if nobody commits meanwhile */
    a->n.suspends++;
    t->steps++;
    int dropped = unmount(t);
    if (unlikely(dropped != 0))
        rcv_txn_doom(t, dropped);
    clock_end(t, begun);
    return rc != 0 ? rc : dropped;
}

/* finish -- process state of an ended transaction. */
static inline void finish(rcv_txn *t, int state)
{
    if (!t->empty) {
        if (unlikely(t->raw.view != NULL))
            views_ended(t->arena, &t->raw);
        privilege_drop(t);
        board_count(t, state == RCV_COMMITTED);
        pool_reset(t);
    }
    t->state = state;
    if (fault_watched())
        fault_ended();
}

int rcv_txn_commit(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (t->state != RCV_ACTIVE)
        return txn_doomed_error(t);
    if (t->savepoints > 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "a savepoint or an edit is still open");
    if (t->mounted && unlikely(a->held > 0 || a->step_thread != os_thread_id()))
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "%s can't commit in the middle of one of its operations, or in another thread than its step; it is rolled back: "
                         "leave its block when the operation has returned", t->handler);
    if (!t->mounted) {
        if (unlikely(views_lost(&t->raw))) {
            rcv_txn_doom(t, RCV_ERR_STRAY);
            return txn_doomed_error(t);
        }
        if (!t->wrote) { /* validated when it last ran: its reads were one committed state */
            finish(t, RCV_COMMITTED);
            return 0;
        }
        int rc = rcv_txn_mount(t);
        if (rc)
            return rc;
    }
    uint64_t begun = clock_begin(t);
    tracker_shut(a);
    int rc = step_doomed(a);
    if (rc == 0)
        rc = raw_collect(t);
    uint64_t tail = undo_tail(a);
    if (rc == 0 && t->n_writes == 0 && t->n_intents == 0 && (tail == 0 || tracker_wrote_nothing(a))) {
        /* Pages that ended as they began need no commit, but protection. */
        tracker_revert(a);
        undo_cut(a, 0);
        phase_set(a, RCV_IDLE);
        rc = unmount(t);
        t->report.micros = clock_end(t, begun) / 1000;
        finish(t, RCV_COMMITTED);
        return rc;
    }
    if (rc == 0 && unlikely(a->feed != NULL) && (rc = redo_is_short(t)) > 0) {
        clock_end(t, begun);
        rc = rcv_txn_suspend(t);
        return rc ? rc : rcv_raise(RCV_ERR_FEED, 0, "arena \"%s\": its feed has no room for this commit yet", a->name);
    }
    if (rc == 0)
        rc = publish(t, true);
    if (rc) {
        clock_end(t, begun);
        rcv_txn_rollback(t);
        return rc;
    }
    rc = unmount(t);
    if (unlikely(a->feed != NULL))
        feed_wake(a);
    t->report.micros = clock_end(t, begun) / 1000;
    finish(t, RCV_COMMITTED);
    return rc; /* not 0: our lock was taken from us, which is a bug, and to be told */
}

/* may_undo -- may the mounted transaction's step be undone now? Not in the middle of an operation: then at the end of that.
 * In another thread, whose GIL keeps the step's own thread from going on, the step becomes this thread's. */
static bool may_undo(rcv_txn *t, enum rcv_end_after what)
{
    rcv_arena *a = t->arena;
    if (a->held > 0) {
        rcv_txn_doom(t, RCV_ERR_CLOSED);
        if (t->end_after < what)
            t->end_after = (uint8_t)what;
        return false;
    }
    if (unlikely(a->step_thread != os_thread_id()))
        (void)lock_adopt(a); /* or that thread has ended, and the step is not mounted any more */
    return true;
}

void rcv_txn_strand(rcv_txn *t)
{
    rcv_txn_doom(t, RCV_ERR_MISUSE);
    if (t->mounted && may_undo(t, RCV_SUSPEND))
        (void)rcv_txn_suspend(t);
    t->savepoints = 0;
}

void txn_end_after(rcv_txn *t)
{
    int what = t->end_after;
    t->end_after = RCV_GO_ON;
    t->savepoints = 0;
    if (what == RCV_SUSPEND)
        (void)rcv_txn_suspend(t);
    else if (what == RCV_ROLL_BACK)
        rcv_txn_rollback(t);
    else
        rcv_txn_free(t);
}

void rcv_txn_rollback(rcv_txn *t)
{
    if (t->state != RCV_ACTIVE && t->state != RCV_DOOMED)
        return;
    if (t->empty) { /* most requests of a server that recovers some */
        finish(t, RCV_ROLLED_BACK);
        return;
    }
    rcv_arena          *a = t->arena;
    struct rcv_recovery report = {0};
    if (t->mounted && unlikely(!may_undo(t, RCV_ROLL_BACK)))
        return;
    bool                mounted = t->mounted;
    for (rcv_txn *other = MUTATED("rollback.others") ? a->in_flight : NULL; other; other = other->next)
        other->stash_items = 0;
    uint64_t            begun = mounted ? os_nanos() : 0; /* else there is nothing to undo that would take time */
    if (mounted) {
        tracker_shut(a);
        if (unlikely(a->trap_mode))
            tracker_observe(a);
        back_to_committed(t, &report);
        stopped_step_over(a);
        (void)unmount(t); /* it has ended, whatever became of the lock */
    }
    stash_count_lost(t, !mounted, &report);
    intent_truncate(t, 0);
    if (t->wrote)
        a->n.rollbacks++;
    t->report.records = report.records;
    t->report.bytes = report.bytes;
    t->report.pages = report.pages;
    uint64_t took = mounted ? os_nanos() - begun : 0;
    t->report.micros = took / 1000;
    t->report.nanos += took;
    t->savepoints = 0;
    finish(t, RCV_ROLLED_BACK);
}
