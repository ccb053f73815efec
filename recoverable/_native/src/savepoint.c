/* savepoint.c -- going back to a point inside a step: of a savepoint, or of one operation.
 *
 * Both are a mark in the undo log and in the list of intentions. What was logged before the mark must be logged again after
 * it, or going back would miss it: so a mark begins a new epoch of the write barrier.
 */
#include "internal.h"

int rcv_savepoint(rcv_txn *t, struct rcv_mark *out)
{
    if (!t->mounted)
        return t->state == RCV_ACTIVE ? rcv_raise(RCV_ERR_BUG, 0, "a savepoint of a transaction that is not mounted") : txn_doomed_error(t);
    uint64_t mark;
    int      rc = tracker_savepoint(t->arena, &mark);
    if (rc)
        return rc;
    rcv_op_begin(t, out);
    out->undo_tail = mark; /* a thread may have trapped since */
    t->savepoints++;
    return 0;
}

int rcv_rollback_to(rcv_txn *t, const struct rcv_mark *mark)
{
    if (!t->mounted)
        return txn_doomed_error(t);
    struct rcv_recovery report = {0};
    int                 rc = tracker_rollback_to(t->arena, mark->undo_tail, &report);
    intent_truncate(t, mark->intents);
    txn_log_epoch(t);
    t->epoch++;
    t->savepoints--;
    return rc;
}

void rcv_release(rcv_txn *t, const struct rcv_mark *mark)
{
    (void)mark;
    if (t->savepoints > 0)
        t->savepoints--;
}

void rcv_op_begin(rcv_txn *t, struct rcv_mark *out)
{
    txn_log_epoch(t); /* what was logged before must be logged again, or going back to here would miss it */
    *out = (struct rcv_mark){.undo_tail = undo_tail(t->arena), .intents = t->n_intents, .epoch = t->epoch};
}

/* rcv_op_fail -- its announced writes alone: what threads have stored through raw views meanwhile is the step's. */
void rcv_op_fail(rcv_txn *t, const struct rcv_mark *mark)
{
    (void)tracker_retract(t->arena, mark->undo_tail);
    intent_truncate(t, mark->intents);
    txn_log_epoch(t);
    t->epoch++;
}
