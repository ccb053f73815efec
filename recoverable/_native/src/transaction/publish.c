/* publish.c -- the one way to a new committed state: a request's commit, and a slice of reclaiming, which is a small one.
 *
 *   intentions applied -> stamps -> what has it changed? -> its record -> PUBLISH -> shadows -> the log is dropped -> IDLE
 *
 * Killed before the phase PUBLISH is stored, recovery undoes all of it; after it, all of it is there. Whatever else must know of
 * a commit learns of it from its record in the feed (redo.c).
 */
#include "transaction.h"

/* POINT -- where it may be killed: a phase of a request's commit, in every build; of a slice, for tests only. */
#define POINT(what)                                               \
    do {                                                          \
        CRASHPOINT(request ? "commit." what : "reclaim." what);   \
        if (fault_watched() && request)                           \
            fault_phase(RCV_FAULT_PHASE, "commit." what);         \
    } while (0)

/* publish -- the step is shut, its raw writes are collected. A failure leaves the caller to undo it. `request`: not a slice, which
 * moves no stamp. */
int publish(rcv_txn *t, bool request)
{
    rcv_arena *a = t->arena;
    const bool tracked = request || a->trap_mode; /* what a slice writes lies on pages that only trap mode tracks */
    if (request && MUTATED("commit.publish_first"))
        phase_set(a, RCV_PUBLISH);
    int rc = intent_apply(t);
    if (rc == 0 && !request && a->trap_mode)
        rc = tracker_doomed(a); /* its own stores trap, and may find the log full */
    if (rc == 0 && unlikely(a->feed != NULL))
        rc = redo_collect(t); /* the last thing that may fail */
    if (rc)
        return rc;
    POINT("applied");
    t->report.bytes = undo_tail(a);
    if (request)
        stamp_publish(t);
    if (tracked)
        tracker_settle(a);
    if (unlikely(a->feed != NULL))
        redo_write(t, request);
    POINT("before_publish");
    phase_set(a, RCV_PUBLISH);
    POINT("after_publish");
    if (unlikely(a->feed != NULL))
        redo_publish(a);
    if (tracked)
        tracker_publish(a);
    POINT("after_shadows");
    intent_settle(t);
    if (!(request && MUTATED("commit.keep_tail")))
        undo_cut(a, 0);
    POINT("after_tail");
    phase_set(a, RCV_IDLE);
    if (unlikely(a->mirror != NULL))
        mirror_compare(a);
    if (request)
        a->n.commits++;
    t->report.pages = t->raw.n_pages;
    return 0;
}
