/* savepoint.c -- going back to a point inside a step: of a savepoint, or of one operation.
 *
 * Both are a mark in the undo log and in the list of intentions. What was logged before the mark must be logged again after
 * it, or going back would miss it: so a mark begins a new epoch of the write barrier.
 */
#include "transaction.h"

/* in_order -- is this the moment for the mark to end? Everything that began after it has ended, in the step and the operation
 * that it began in, and in the same thread. */
static int in_order(rcv_txn *t, const struct rcv_mark *mark)
{
    rcv_arena *a = t->arena;
    if (t->state != RCV_ACTIVE)
        return txn_doomed_error(t);
    if (t->mounted && mark->mounting == t->mounting && mark->depth == t->savepoints && mark->held == a->held &&
        a->step_thread == os_thread_id() && mark->undo_tail <= undo_tail(a))
        return 0;
    rcv_txn_strand(t);
    return rcv_raise(RCV_ERR_MISUSE, 0,
                     "a savepoint of %s (or an edit, or a transaction block inside it) was left out of order: in another thread, in another step, or "
                     "before one that began later; %s is rolled back: leave blocks in the reverse of the order they were entered in, and in "
                     "the same thread", t->handler, t->handler);
}

int rcv_savepoint(rcv_txn *t, struct rcv_mark *out)
{
    if (!t->mounted)
        return t->state == RCV_ACTIVE ? rcv_raise(RCV_ERR_BUG, 0, "a savepoint of a transaction that is not mounted") : txn_doomed_error(t);
    uint64_t mark;
    int      rc = tracker_savepoint(t->arena, &mark);
    if (rc)
        return rc;
    t->savepoints++;
    rcv_op_begin(t, out);
    out->undo_tail = mark; /* a thread may have trapped since */
    return 0;
}

int rcv_rollback_to(rcv_txn *t, const struct rcv_mark *mark)
{
    int rc = in_order(t, mark);
    if (rc)
        return rc;
    struct rcv_recovery report = {0};
    rc = tracker_rollback_to(t->arena, mark->undo_tail, &report);
    intent_take_back(t, mark->intents);
    txn_log_epoch(t);
    t->epoch++;
    t->savepoints--;
    return rc;
}

int rcv_release(rcv_txn *t, const struct rcv_mark *mark)
{
    int rc = in_order(t, mark);
    if (rc == 0)
        t->savepoints--;
    return rc;
}

/* rcv_lapse -- a savepoint ends of one that can only roll back: there is nothing to keep, and nothing to go back to. Behind the last one
 * the step of an ambient one is over: its code may do anything else, and nobody else says where it ends. */
void rcv_lapse(rcv_txn *t)
{
    if (t->savepoints > 0)
        t->savepoints--;
    if (t->state == RCV_DOOMED && rcv_ambient_take(t))
        (void)rcv_txn_suspend(t);
}

void rcv_op_begin(rcv_txn *t, struct rcv_mark *out)
{
    txn_log_epoch(t); /* what was logged before must be logged again, or going back to here would miss it */
    *out = (struct rcv_mark){.undo_tail = undo_tail(t->arena), .intents = t->n_intents, .mounting = t->mounting,
                             .depth = t->savepoints, .held = t->arena->held};
}

/* rcv_op_fail -- its announced writes alone: what threads have stored through raw views meanwhile is the step's. */
void rcv_op_fail(rcv_txn *t, const struct rcv_mark *mark)
{
    if (unlikely(!t->mounted || t->arena->mounted != t || mark->mounting != t->mounting)) {
        rcv_txn_doom(t, RCV_ERR_BUG); /* its step is over, and undone or stashed as a whole: there is nothing to go back to */
        return;
    }
    (void)tracker_retract(t->arena, mark->undo_tail);
    intent_take_back(t, mark->intents);
    txn_log_epoch(t);
    t->epoch++;
}
