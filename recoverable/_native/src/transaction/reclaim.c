/* reclaim.c -- freeing containers that were cut off, a slice at a time.
 *
 * Deleting a tree of a million entries must not stop the server: the request that deletes it cuts off its root and is done.
 * The container goes onto a list in the segment, undo-logged like all state, so a crash neither loses it nor frees it
 * twice. Later boundaries free it from there, a bounded number of entries at a time. Each slice is a small commit of its own:
 *
 *   free entries as intentions, demote freed pages -> publish (publish.c)
 *
 * A container inside one being freed is put on the list in its turn, so nesting costs no stack.
 *
 * No request in flight is hindered: a slice moves no stamp and has no commit number. Whoever has used a container in the
 * tree, by a handle or through a raw buffer, has read the identity of the root as well, whose stamp moved in the commit that
 * cut it off; and whoever comes later finds the id gone. So nobody puts back into the freed memory what he stashed.
 *
 * A slice that fails (no room in the undo log, damage) is undone, and a later boundary tries again.
 */
#include "transaction.h"

#define BUDGET 64u        /* entries freed at a boundary: a few tens of microseconds */
#define BUDGET_SHORT 512u /* while the arena is short of memory */
#define BUDGET_TRAP 8u    /* where each entry's pages are logged whole */

/* free_some -- from the head of the list. Every turn uses up some of the budget, so a list that is a ring ends, too. */
static int free_some(rcv_txn *t, uint32_t budget)
{
    rcv_arena *a = t->arena;
    int        rc = 0;
    for (rcv_off off; rc == 0 && budget > 0 && (off = atomic_load_explicit(&a->hdr->reclaim, memory_order_relaxed)) != 0;) {
        struct rcv_container *c = container_at(a, off, 0);
        bool                  done;
        if (c == NULL || !(c->flags & RCV_DETACHED) || c->id == 0)
            return seg_corrupt(a, "no detached container at %llu, where one waits to be freed", (unsigned long long)off);
        rc = rcv_kinds[container_kind(c)]->reclaim(t, off, &budget, &done);
        if (rc || !done)
            break;
        budget -= budget > 0;
        rc = txn_write64(t, offsetof(struct rcv_header, reclaim), c->next_reclaim, RCV_U_STRUCT);
        if (rc == 0) /* no handle finds it any more */
            rc = txn_write64(t, off + offsetof(struct rcv_container, id), 0, RCV_U_STRUCT);
        if (rc == 0)
            rc = txn_free(t, off, 0);
    }
    return rc;
}

/* reclaim_slice -- lock held, phase IDLE; no transaction has anything in the arena. Cannot fail: what it could not do is
 * undone and stays on the list. */
void reclaim_slice(rcv_arena *a)
{
    struct rcv_recovery report = {0};
    rcv_txn            *t;
    if (atomic_load_explicit(&a->hdr->reclaim, memory_order_relaxed) == 0 || (a->trap_mode && tracker_doomed(a)) ||
        rcv_txn_new(a, RCV_TXN_ONE_STEP, "(reclaiming)", &t) != 0)
        return;
    a->n.transactions--; /* nobody's request */
    t->empty = false;
    t->first_id = 0;     /* no unit of any container needs a stamp, as if it had made them all */
    rcv_txn *leaving = a->mounted;
    a->mounted = t;
    phase_set(a, RCV_STEP);
    int rc = free_some(t, a->trap_mode ? BUDGET_TRAP : heap_short(a) ? BUDGET_SHORT : BUDGET);
    if (rc == 0)
        rc = publish(t, false);
    if (rc == 0) {
        t->state = RCV_COMMITTED;
    } else {
        (void)undo_apply(a, 0, &report);
        if (a->trap_mode)
            tracker_revert(a);
        undo_cut(a, 0);
        CRASHPOINT("reclaim.undone");
        phase_set(a, RCV_IDLE);
    }
    a->mounted = leaving;
    t->wrote = false; /* a slice undone is no request rolled back */
    rcv_txn_free(t);
}
