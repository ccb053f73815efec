/* lineage.c -- what a container lies in: is it there?
 *
 * A container is there as long as nothing above it is cut off, so whoever uses one depends on all of these. Walking up at
 * each use would make a deep tree slow, and each read makes a new handle; so the last few containers found sound are kept, with
 * the transaction and its epoch then, and a walk ends at one of them. Descending, that is the parent: one step. Outside
 * transactions what has been found holds until the next commit. The root is never cut off, so nobody depends on it.
 */
#include "transaction.h"

_Static_assert(RCV_SOUND == 1u << (64 - 58), "lineage_place() uses all of them");

static struct rcv_sound *lineage_place(rcv_arena *a, rcv_off off)
{
    return &a->sound[off * UINT64_C(0x9e3779b97f4a7c15) >> 58];
}

static bool lineage_known(rcv_arena *a, rcv_off off, uint64_t serial, uint64_t epoch)
{
    const struct rcv_sound *s = lineage_place(a, off);
    return s->off == off && s->serial == serial && s->epoch == epoch;
}

static void lineage_keep(rcv_arena *a, rcv_off off, uint64_t serial, uint64_t epoch)
{
    *lineage_place(a, off) = (struct rcv_sound){.off = off, .serial = serial, .epoch = epoch};
}

/* walk_up -- are the container `c` at `start` and all it lies in not cut off? `c`: NULL if it was not looked at. `t`: it has read the identity of each, once an epoch; NULL: a read outside
 * transactions, lock held. `own`: the transaction itself may have cut it off, or what it lies in. RCV_ERR_STALE, RCV_ERR_CORRUPT: a ring
 * of parents, too, found as Brent does: comparing with where it was at the last power of two. */
static int walk_up(rcv_arena *a, rcv_txn *t, rcv_off start, const struct rcv_container *c, bool own)
{
    bool           cut = false;
    const rcv_off  root = rcv_root(a), system = rcv_system(a);
    const uint64_t serial = lineage_serial(t), epoch = lineage_epoch(a, t);
    rcv_off        off = start, before = 0;
    for (uint64_t steps = 0; off != root && off != system && !lineage_known(a, off, serial, epoch); steps++, c = NULL) {
        if (c == NULL && unlikely((c = container_at(a, off, 0)) == NULL))
            return seg_corrupt(a, "a container's parent at %llu is none", (unsigned long long)off);
        if (c->flags & RCV_DETACHED) {
            if (!own || !stamp_wrote(t, c->id, RCV_UNIT_IDENTITY, 0))
                return container_gone();
            cut = true;
        }
        int rc = t ? stamp_read(t, off, c->id, RCV_UNIT_IDENTITY, 0) : 0;
        if (rc)
            return rc;
        if ((steps & (steps - 1)) == 0)
            before = off;
        off = c->parent;
        if (off == 0)
            return container_gone();
        if (unlikely(off == before))
            return seg_corrupt(a, "the container at %llu lies in itself", (unsigned long long)off);
    }
    if (!cut)
        lineage_keep(a, start, serial, epoch);
    return 0;
}

int container_used(rcv_txn *t, rcv_off off) { return walk_up(t->arena, t, off, NULL, true); }

/* lineage_cut -- what lay in `parent` has been cut off: handles must be looked at again; nothing above has changed. */
void lineage_cut(rcv_txn *t, rcv_off parent)
{
    bool known = lineage_known(t->arena, parent, t->serial, t->epoch);
    t->epoch++;
    if (known)
        lineage_keep(t->arena, parent, t->serial, t->epoch);
}

int rcv_handle_check(rcv_arena *a, rcv_txn *t, struct rcv_handle *h)
{
    if (likely(handle_known(a, t, h)))
        return 0;
    const struct rcv_container *c = container_at(a, h->off, 0);
    if (unlikely(c == NULL || c->id != h->id))
        return container_gone();
    int rc = walk_up(a, t, h->off, c, false);
    if (rc == 0) {
        h->serial = lineage_serial(t);
        h->epoch = lineage_epoch(a, t);
    }
    return rc;
}
