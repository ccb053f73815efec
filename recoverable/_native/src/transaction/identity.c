/* identity.c -- which container lies at an offset, and whether it is the one that was meant.
 *
 * A handle (in a process) carries its container's offset and id. The id is unique in the segment and cleared when the
 * container is reclaimed, so that a handle of a deleted or rolled-back one is recognised, whatever lies there now.
 */
#include "transaction.h"

/* container_size -- bytes of a container's fixed part; 0 for an unknown kind. */
static uint64_t container_size(unsigned kind) { return kind < RCV_KINDS && rcv_kinds[kind] ? rcv_kinds[kind]->size : 0; }

/* container_at -- the container of that kind (0: any) at `off`, or NULL. */
struct rcv_container *container_at(rcv_arena *a, rcv_off off, unsigned kind)
{
    struct rcv_container *c = rcv_at(a, off, sizeof *c);
    if (unlikely(c == NULL || (c->kind & 0xffff0000u) != RCV_CONTAINER_MARK))
        return NULL;
    unsigned is = container_kind(c);
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

int rcv_handle_open(rcv_arena *a, rcv_off off, struct rcv_handle *out)
{
    struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return seg_corrupt(a, "no container at %llu, where one is stored", (unsigned long long)off);
    *out = (struct rcv_handle){.off = off, .id = c->id, .serial = 0, .epoch = 0};
    return (int)container_kind(c);
}

/* container_gone -- raises what the use of a container raises that is not there any more. */
int container_gone(void)
{
    return rcv_raise(RCV_ERR_STALE, 0, "its container was deleted, replaced, or rolled back");
}

int rcv_container_slot(rcv_arena *a, rcv_off off, rcv_off *parent, rcv_off *slot, uint64_t *id)
{
    struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return container_gone();
    *parent = c->parent;
    *slot = c->slot;
    *id = c->id;
    return (int)container_kind(c);
}

rcv_off rcv_root(rcv_arena *a) { return atomic_load_explicit(&a->hdr->root, memory_order_relaxed); }

rcv_off rcv_system(rcv_arena *a) { return atomic_load_explicit(&a->hdr->system, memory_order_relaxed); }
