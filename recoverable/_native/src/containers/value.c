/* value.c -- cells: how a value lies in a container's slot.
 *
 * A cell is 16 bytes: numbers and short text lie inside, longer bytes in a blob of their own. A cell is replaced whole by
 * one announced write; the bytes of a blob never change once it is linked.
 */
#include "containers.h"

#define BLOB_LIMIT UINT64_C(0xffffffff)

static bool is_bytes(unsigned tag) { return tag >= RCV_T_STR && tag <= RCV_T_CUSTOM; }

/* cell_make -- build a cell; bytes that do not fit go into a blob allocated for the transaction.
 * A failure leaves at most that allocation, as an intent of the transaction: undone with its operation. */
int cell_make(rcv_txn *t, const struct rcv_value *value, struct rcv_cell *out)
{
    memset(out, 0, sizeof *out);
    out->tag = value->tag;
    if (!is_bytes(value->tag)) {
        out->word = value->word;
        return 0;
    }
    if (value->len <= RCV_CELL_INLINE) {
        out->size = (uint8_t)value->len;
        if (value->len)
            memcpy(out->bytes, value->ptr, value->len);
        return 0;
    }
    if (value->len > BLOB_LIMIT)
        return rcv_raise(RCV_ERR_FULL, 0, "a value of %llu bytes: the limit for one value is 4 GiB", (unsigned long long)value->len);
    rcv_off blob;
    int     rc = txn_alloc(t, value->len, RCV_SPACE_GENERAL, 0, &blob);
    if (rc)
        return rc;
    /* Fresh memory: nobody can reach it before the cell is linked, so it needs no undo. */
    memcpy(t->arena->mem + blob, value->ptr, value->len);
    out->size = RCV_CELL_BLOB;
    out->len = (uint32_t)value->len;
    out->word = blob;
    return 0;
}

/* cell_read -- what a cell holds; `ptr` points into the arena (or the cell): copy before the lock is dropped. */
static int cell_read(rcv_arena *a, const struct rcv_cell *cell, struct rcv_value *out)
{
    out->tag = cell->tag;
    out->word = cell->word;
    out->ptr = NULL;
    out->len = 0;
    if (!is_bytes(cell->tag)) {
        if (unlikely(cell->tag == 0 || (cell->tag > RCV_T_CUSTOM && cell->tag != RCV_T_REF)))
            return seg_corrupt(a, "a cell of unknown type %u", cell->tag);
        return 0;
    }
    if (cell->size != RCV_CELL_BLOB) {
        if (unlikely(cell->size > RCV_CELL_INLINE))
            return seg_corrupt(a, "a cell with %u bytes inline", cell->size);
        out->ptr = cell->bytes;
        out->len = cell->size;
        return 0;
    }
    out->ptr = rcv_at(a, cell->word, cell->len);
    out->len = cell->len;
    if (unlikely(out->ptr == NULL))
        return seg_corrupt(a, "a value's bytes at %llu lie outside the claimed memory", (unsigned long long)cell->word);
    return 0;
}

/* cell_give_more -- cell_give() of anything. A container there must name `owner` as its parent, or a damaged cell could lead round in a
 * circle. */
int cell_give_more(rcv_arena *a, rcv_off owner, const struct rcv_cell *cell, struct rcv_value *out)
{
    int rc = cell_read(a, cell, out);
    if (rc == 0 && cell->tag == RCV_T_REF) {
        const struct rcv_container *c = container_at(a, cell->word, 0);
        if (unlikely(c == NULL || c->parent != owner))
            return seg_corrupt(a, "no container of its own at %llu, where one is stored", (unsigned long long)cell->word);
    }
    return rc;
}

/* container_adopt -- hang a container that hangs nowhere into `parent` at `slot`. */
int container_adopt(rcv_txn *t, rcv_off child, rcv_off parent, rcv_off slot)
{
    struct rcv_container *c = container_at(t->arena, child, 0);
    if (c == NULL)
        return rcv_raise(RCV_ERR_STALE, 0, "the container to be stored is gone");
    if (c->flags & RCV_DETACHED)
        return container_gone();
    if (c->parent != 0 || child == rcv_root(t->arena))
        return rcv_raise(RCV_ERR_MISUSE, 0, "a container has one parent, and this one is stored already; store a .copy() of it");
    /* Of one that this step has made, the place goes back with its memory; that it hangs nowhere is what a handle of it is told by. */
    int rc = txn_log(t, child + offsetof(struct rcv_container, parent), likely(c->id > t->first_id) ? 8 : 16, RCV_U_DATA);
    if (rc)
        return rc;
    c->parent = parent;
    c->slot = slot;
    return 0;
}

/* container_detach -- cut it off from its parent: handles of it and of all below it are stale from now on; its memory is
 * reclaimed after the commit. */
static int container_detach(rcv_txn *t, rcv_off child)
{
    struct rcv_container *c = container_at(t->arena, child, 0);
    if (c == NULL)
        return seg_corrupt(t->arena, "no container at %llu, where one is stored", (unsigned long long)child);
    int rc = stamp_write(t, child, c->id, RCV_UNIT_IDENTITY, 0);
    if (rc == 0)
        rc = txn_log(t, child + offsetof(struct rcv_container, kind), 8, RCV_U_DATA);
    if (rc == 0)
        rc = intent_add(t, RCV_I_RECLAIM, 0, child, 0);
    if (rc)
        return rc;
    c->flags |= RCV_DETACHED;
    lineage_cut(t, c->parent);
    return 0;
}

/* cell_drop -- the cell is about to be overwritten: free its blob, detach its container (both at commit). */
int cell_drop(rcv_txn *t, const struct rcv_cell *cell)
{
    if (cell->tag == RCV_T_REF)
        return container_detach(t, cell->word);
    if (is_bytes(cell->tag) && cell->size == RCV_CELL_BLOB)
        return txn_free(t, cell->word, 0);
    return 0;
}

/* cell_holds -- is it this container that lies there? `x[k] += y` stores a container where it is, which changes nothing: so
 * additions to a Counter in a Dict do not conflict over the Dict's key. */
bool cell_holds(const struct rcv_cell *cell, const struct rcv_value *value)
{
    return value->tag == RCV_T_REF && cell->tag == RCV_T_REF && cell->word == value->word;
}

/* cell_set -- replace a cell: everything that can fail comes before the one store, and goes back with the operation. */
int cell_set(rcv_txn *t, rcv_off owner, rcv_off slot, rcv_off at, const struct rcv_value *value)
{
    struct rcv_cell *old = (struct rcv_cell *)(void *)(t->arena->mem + at), cell;
    struct rcv_mark  mark;
    int              rc;
    if (cell_holds(old, value))
        return 0;
    if (value->tag < RCV_T_STR && old->tag < RCV_T_STR) { /* a number over a number: nothing to go back to */
        rc = txn_log(t, at, sizeof cell, RCV_U_DATA);
        if (rc == 0)
            *old = (struct rcv_cell){.tag = value->tag, .word = value->word};
        return rc;
    }
    rcv_op_begin(t, &mark);
    rc = cell_make(t, value, &cell);
    if (rc == 0 && cell.tag == RCV_T_REF)
        rc = container_adopt(t, cell.word, owner, slot);
    if (rc == 0)
        rc = cell_drop(t, old);
    if (rc == 0)
        rc = txn_log(t, at, sizeof cell, RCV_U_DATA);
    if (rc == 0)
        *old = cell;
    else
        rcv_op_fail(t, &mark);
    return rc;
}

/* cell_suffices -- see containers.h. */
bool cell_suffices(const struct rcv_value *value)
{
    return value->tag < RCV_T_STR || (is_bytes(value->tag) && value->len <= RCV_CELL_INLINE);
}

/* cell_fill -- see containers.h. */
int cell_fill(rcv_txn *t, rcv_off owner, rcv_off slot, rcv_off at, const struct rcv_value *value)
{
    struct rcv_cell *cell = (struct rcv_cell *)(void *)(t->arena->mem + at);
    int              rc = cell_make(t, value, cell);
    return rc == 0 && cell->tag == RCV_T_REF ? container_adopt(t, cell->word, owner, slot) : rc;
}
