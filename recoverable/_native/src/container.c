/* container.c -- what all containers share: identity, parents, handles, the root.
 *
 * A handle (in a process) carries its container's offset and id. The id is unique in the segment and cleared when the
 * container is reclaimed, so that a handle of a deleted or rolled-back one is recognised, whatever lies there now.
 */
#include "internal.h"

#define OUTSIDE UINT64_MAX /* the serial of reads outside transactions; their epoch is the number of the last commit */

static const uint16_t sizes[] = {
    [RCV_K_DICT] = sizeof(struct rcv_dict),       [RCV_K_SET] = sizeof(struct rcv_dict),
    [RCV_K_LIST] = sizeof(struct rcv_list),       [RCV_K_DEQUE] = sizeof(struct rcv_deque),
    [RCV_K_COUNTER] = sizeof(struct rcv_counter), [RCV_K_RECORD] = sizeof(struct rcv_record),
    [RCV_K_ARRAY] = sizeof(struct rcv_array),
};

/* container_size -- bytes of a container's fixed part; 0 for an unknown kind. */
uint64_t container_size(unsigned kind) { return kind < sizeof sizes / sizeof *sizes ? sizes[kind] : 0; }

/* container_at -- the container of that kind (0: any) at `off`, or NULL. */
struct rcv_container *container_at(rcv_arena *a, rcv_off off, unsigned kind)
{
    struct rcv_container *c = rcv_at(a, off, sizeof *c);
    if (unlikely(c == NULL || (c->kind & 0xffff0000u) != RCV_CONTAINER_MARK))
        return NULL;
    unsigned is = c->kind & 0xffffu;
    if (unlikely(kind != 0 && is != kind))
        return NULL;
    uint64_t size = container_size(is);
    return size != 0 && rcv_at(a, off, size) != NULL ? c : NULL;
}

/* container_init -- make fresh memory a container that hangs nowhere. Ids are never used again, whatever happens. */
int container_init(rcv_txn *t, rcv_off off, unsigned kind)
{
    rcv_arena            *a = t->arena;
    struct rcv_container *c = (struct rcv_container *)(void *)(a->mem + off);
    uint64_t              id = atomic_load_explicit(&a->hdr->container_counter, memory_order_relaxed) + 1;
    atomic_store_explicit(&a->hdr->container_counter, id, memory_order_release);
    memset(c, 0, container_size(kind));
    c->id = id;
    c->kind = RCV_CONTAINER_MARK | kind;
    return 0;
}

static int stale(void)
{
    return rcv_raise(RCV_ERR_STALE, 0, "its container was deleted, replaced, or rolled back");
}

/* -- lineage: what a container lies in ------------------------------------------------------------------------
 *
 * A container is there as long as nothing above it is cut off, so whoever uses one depends on all of these. Walking up at
 * each use would make a deep tree slow, and each read makes a new handle; so the last few containers found sound are kept, with
 * the transaction and its epoch then, and a walk ends at one of them. Descending, that is the parent: one step. Outside
 * transactions what has been found holds until the next commit. */

static struct rcv_sound *lineage_place(rcv_arena *a, rcv_off off)
{
    return &a->sound[off * UINT64_C(0x9e3779b97f4a7c15) >> 58];
}

_Static_assert(RCV_SOUND == 1u << (64 - 58), "lineage_place() uses all of them");

static bool lineage_known(rcv_arena *a, rcv_off off, uint64_t serial, uint64_t epoch)
{
    const struct rcv_sound *s = lineage_place(a, off);
    return s->off == off && s->serial == serial && s->epoch == epoch;
}

static void lineage_keep(rcv_arena *a, rcv_off off, uint64_t serial, uint64_t epoch)
{
    *lineage_place(a, off) = (struct rcv_sound){.off = off, .serial = serial, .epoch = epoch};
}

/* walk_up -- see internal.h. `own`: the transaction itself may have cut it off, or what it lies in. A ring of parents is damage,
 * found as Brent does: comparing with where it was at the last power of two. */
static int walk_up(rcv_arena *a, rcv_txn *t, rcv_off start, bool own)
{
    bool           cut = false;
    const rcv_off  root = rcv_root(a), system = rcv_system(a);
    const uint64_t serial = t ? t->serial : OUTSIDE;
    const uint64_t epoch = t ? t->epoch : atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    rcv_off        off = start, before = 0;
    for (uint64_t steps = 0; !lineage_known(a, off, serial, epoch); steps++) {
        const struct rcv_container *c = container_at(a, off, 0);
        if (unlikely(c == NULL))
            return seg_corrupt(a, "a container's parent at %llu is none", (unsigned long long)off);
        if (c->flags & RCV_DETACHED) {
            if (!own || !stamp_wrote(t, c->id, RCV_UNIT_IDENTITY, 0))
                return stale();
            cut = true;
        }
        int rc = t ? stamp_read(t, off, c->id, RCV_UNIT_IDENTITY, 0) : 0;
        if (rc)
            return rc;
        if (off == root || off == system)
            break;
        if ((steps & (steps - 1)) == 0)
            before = off;
        off = c->parent;
        if (off == 0)
            return stale();
        if (unlikely(off == before))
            return seg_corrupt(a, "the container at %llu lies in itself", (unsigned long long)off);
    }
    if (!cut)
        lineage_keep(a, start, serial, epoch);
    return 0;
}

int container_lineage(rcv_arena *a, rcv_txn *t, rcv_off off) { return walk_up(a, t, off, false); }

int container_used(rcv_txn *t, rcv_off off) { return walk_up(t->arena, t, off, true); }

/* container_adopt -- hang a container that hangs nowhere into `parent` at `slot`. */
int container_adopt(rcv_txn *t, rcv_off child, rcv_off parent, rcv_off slot)
{
    struct rcv_container *c = container_at(t->arena, child, 0);
    if (c == NULL)
        return rcv_raise(RCV_ERR_STALE, 0, "the container to be stored is gone");
    if (c->flags & RCV_DETACHED)
        return stale();
    if (c->parent != 0 || child == rcv_root(t->arena))
        return rcv_raise(RCV_ERR_MISUSE, 0, "a container has one parent, and this one is stored already; store a .copy() of it");
    int rc = txn_log(t, child + offsetof(struct rcv_container, parent), 16, RCV_U_DATA);
    if (rc)
        return rc;
    c->parent = parent;
    c->slot = slot;
    return 0;
}

/* container_detach -- cut it off from its parent: handles of it and of all below it are stale from now on; its memory is
 * reclaimed after the commit. */
int container_detach(rcv_txn *t, rcv_off child)
{
    struct rcv_container *c = container_at(t->arena, child, 0);
    if (c == NULL)
        return seg_corrupt(t->arena, "no container at %llu, where one is stored", (unsigned long long)child);
    int rc = stamp_write(t, child, c->id, RCV_UNIT_IDENTITY, 0);
    if (rc == 0)
        rc = txn_log(t, child + offsetof(struct rcv_container, kind), 8, RCV_U_DATA);
    if (rc == 0)
        rc = intent_add(t, RCV_I_RECLAIM, child, 0);
    if (rc)
        return rc;
    bool known = lineage_known(t->arena, c->parent, t->serial, t->epoch);
    c->flags |= RCV_DETACHED;
    t->epoch++;
    if (known) /* nothing above the cut has changed */
        lineage_keep(t->arena, c->parent, t->serial, t->epoch);
    return 0;
}

/* -- handles -------------------------------------------------------------------------------------------- */

int rcv_handle_open(rcv_arena *a, rcv_off off, struct rcv_handle *out)
{
    struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return seg_corrupt(a, "no container at %llu, where one is stored", (unsigned long long)off);
    *out = (struct rcv_handle){.off = off, .id = c->id, .serial = 0, .epoch = 0};
    return (int)(c->kind & 0xffffu);
}

int rcv_handle_check(rcv_arena *a, rcv_txn *t, struct rcv_handle *h)
{
    struct rcv_container *c = rcv_at(a, h->off, sizeof *c);
    if (likely(t != NULL && h->serial == t->serial && h->epoch == t->epoch && c != NULL && c->id == h->id))
        return 0; /* as this transaction has found before */
    c = container_at(a, h->off, 0);
    if (unlikely(c == NULL || c->id != h->id))
        return stale();
    int rc = container_lineage(a, t, h->off);
    if (rc == 0 && t != NULL) {
        h->serial = t->serial;
        h->epoch = t->epoch;
    }
    return rc;
}

int rcv_begin(rcv_arena *a, void *context, int write, struct rcv_handle *h, rcv_txn **out)
{
    int rc = rcv_access(a, context, write, out);
    if (unlikely(rc))
        return rc;
    rc = rcv_handle_check(a, *out, h);
    if (unlikely(rc))
        (void)rcv_access_end(a, *out);
    return rc;
}

int rcv_container_slot(rcv_arena *a, rcv_off off, rcv_off *parent, rcv_off *slot, uint64_t *id)
{
    struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return stale();
    *parent = c->parent;
    *slot = c->slot;
    *id = c->id;
    return (int)(c->kind & 0xffffu);
}

/* -- the root ------------------------------------------------------------------------------------------- */

rcv_off rcv_root(rcv_arena *a) { return atomic_load_explicit(&a->hdr->root, memory_order_relaxed); }

rcv_off rcv_system(rcv_arena *a) { return atomic_load_explicit(&a->hdr->system, memory_order_relaxed); }

/* rcv_system_make -- the hidden Dict. Two transactions that both make it conflict over its identity. */
int rcv_system_make(rcv_txn *t)
{
    if (rcv_system(t->arena) != 0)
        return 0;
    rcv_off system;
    int     rc = rcv_dict_new(t, &system);
    if (rc == 0)
        rc = stamp_read(t, 0, 0, RCV_UNIT_IDENTITY, 1);
    if (rc == 0)
        rc = stamp_write(t, 0, 0, RCV_UNIT_IDENTITY, 1);
    return rc ? rc : txn_write64(t, offsetof(struct rcv_header, system), system, RCV_U_DATA);
}

/* rcv_root_make -- a new segment's root Dict; two processes that both try conflict on the lock, and the second finds it. */
int rcv_root_make(rcv_txn *t)
{
    if (rcv_root(t->arena) != 0)
        return 0;
    rcv_off root;
    int     rc = rcv_dict_new(t, &root);
    if (rc == 0)
        rc = stamp_write(t, 0, 0, RCV_UNIT_IDENTITY, 0);
    return rc ? rc : txn_write64(t, offsetof(struct rcv_header, root), root, RCV_U_DATA);
}
