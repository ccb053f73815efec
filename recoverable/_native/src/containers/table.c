/* table.c -- a growing table of words: the buckets of a Dict, the chunks of a List.
 *
 * A radix tree of pages with at most three levels. While it is small it is one array, doubled until it fills a page; from
 * then on it grows by a page at a time. So no operation ever copies more than a page, and a table of ten million words is
 * three reads deep.
 */
#include "containers.h"

rcv_off table_word(rcv_arena *a, const struct rcv_table *table, uint64_t i)
{
    rcv_off        node = table->root;
    const rcv_off *at;
    switch (table->depth) {
    case 0:
        return i < table->capacity && rcv_at(a, node, (uint64_t)table->capacity * 8) ? node + i * 8 : 0;
    case 2:
        if (i / RCV_NODE / RCV_NODE >= RCV_NODE || (at = rcv_at(a, node, RCV_NODE * 8)) == NULL)
            return 0;
        node = at[i / RCV_NODE / RCV_NODE];
        /* fall through */
    case 1:
        if ((at = rcv_at(a, node, RCV_NODE * 8)) == NULL || (table->depth == 1 && i >= (uint64_t)RCV_NODE * RCV_NODE))
            return 0;
        node = at[i / RCV_NODE % RCV_NODE];
        return rcv_at(a, node, RCV_NODE * 8) ? node + i % RCV_NODE * 8 : 0;
    default:
        return 0;
    }
}

void table_init(struct rcv_table *table, rcv_off off)
{
    memset(table, 0, sizeof *table);
    table->root = off + offsetof(struct rcv_table, first);
    table->capacity = RCV_TABLE_INLINE;
}

static int damaged(rcv_arena *a, rcv_off off) { return seg_corrupt(a, "the table at %llu", (unsigned long long)off); }

/* new_node -- a zeroed page of offsets. */
static int new_node(rcv_txn *t, unsigned flags, rcv_off *out)
{
    int rc = txn_alloc(t, RCV_NODE * 8, RCV_SPACE_GENERAL, flags, out);
    if (rc == 0)
        memset(t->arena->mem + *out, 0, RCV_NODE * 8);
    return rc;
}

/* set_shape -- depth and capacity, which share a word. */
static int set_shape(rcv_txn *t, rcv_off off, uint32_t depth, uint32_t capacity, unsigned kind)
{
    return txn_write64(t, off + offsetof(struct rcv_table, depth), depth | (uint64_t)capacity << 32, kind);
}

/* double_array -- a bigger array: at most a page is copied. */
static int double_array(rcv_txn *t, rcv_off off, const struct rcv_table *table, unsigned kind, unsigned flags)
{
    rcv_arena *a = t->arena;
    uint64_t   bytes = (uint64_t)table->capacity * 8;
    rcv_off    array, old = table->root;
    if (rcv_at(a, old, bytes) == NULL)
        return damaged(a, off);
    int rc = txn_alloc(t, bytes * 2, RCV_SPACE_GENERAL, flags, &array);
    if (rc)
        return rc;
    memcpy(a->mem + array, a->mem + old, bytes);
    memset(a->mem + array + bytes, 0, bytes);
    if (old != off + offsetof(struct rcv_table, first))
        rc = txn_free(t, old, flags);
    if (rc == 0)
        rc = txn_write64(t, off + offsetof(struct rcv_table, root), array, kind);
    return rc ? rc : set_shape(t, off, 0, table->capacity * 2, kind);
}

/* ensure_node -- the word at `slot` leads to a node. */
static int ensure_node(rcv_txn *t, rcv_off slot, unsigned kind, unsigned flags)
{
    rcv_off node;
    if (*word_at(t->arena, slot) != 0)
        return 0;
    int rc = new_node(t, flags, &node);
    return rc ? rc : txn_write64(t, slot, node, kind);
}

int table_widen(rcv_txn *t, rcv_off off, unsigned kind, unsigned flags)
{
    rcv_arena              *a = t->arena;
    const struct rcv_table *table = rcv_at(a, off, sizeof *table);
    if (table == NULL)
        return damaged(a, off);
    uint64_t i = table->used;
    rcv_off  node;
    int      rc;
    if (table->depth == 0) {
        if (i < table->capacity)
            return 0;
        if (table->capacity < RCV_NODE)
            return double_array(t, off, table, kind, flags);
    }
    if (table->depth == 0 || (table->depth == 1 && i >= (uint64_t)RCV_NODE * RCV_NODE)) { /* one level more */
        rc = new_node(t, flags, &node);
        if (rc)
            return rc;
        *word_at(a, node) = table->root;
        rc = txn_write64(t, off + offsetof(struct rcv_table, root), node, kind);
        if (rc == 0)
            rc = set_shape(t, off, table->depth + 1, table->capacity, kind);
        if (rc)
            return rc;
    }
    node = table->root;
    if (rcv_at(a, node, RCV_NODE * 8) == NULL)
        return damaged(a, off);
    if (table->depth == 2) {
        if (i / RCV_NODE / RCV_NODE >= RCV_NODE)
            return rcv_raise(RCV_ERR_FULL, 0, "a container with more than %llu words in its table", (unsigned long long)i);
        rcv_off slot = node + i / RCV_NODE / RCV_NODE * 8;
        rc = ensure_node(t, slot, kind, flags);
        if (rc)
            return rc;
        node = *word_at(a, slot);
        if (rcv_at(a, node, RCV_NODE * 8) == NULL)
            return damaged(a, off);
    }
    return ensure_node(t, node + i / RCV_NODE % RCV_NODE * 8, kind, flags);
}

int table_pop(rcv_txn *t, rcv_off off, unsigned kind)
{
    rcv_arena              *a = t->arena;
    const struct rcv_table *table = rcv_at(a, off, sizeof *table);
    if (table == NULL || table->used == 0)
        return damaged(a, off);
    uint64_t i = table->used - 1;
    rcv_off  top = table->root, slot;
    int      rc = txn_write64(t, off + offsetof(struct rcv_table, used), i, kind);
    if (rc || table->depth == 0 || i % RCV_NODE != 0)
        return rc;
    if (table->depth == 2) {
        if (rcv_at(a, top, RCV_NODE * 8) == NULL)
            return damaged(a, off);
        top = *word_at(a, top + i / RCV_NODE / RCV_NODE % RCV_NODE * 8);
    }
    if (rcv_at(a, top, RCV_NODE * 8) == NULL)
        return damaged(a, off);
    slot = top + i / RCV_NODE % RCV_NODE * 8;
    rc = txn_free(t, *word_at(a, slot), 0);
    if (rc == 0)
        rc = txn_write64(t, slot, 0, kind);
    if (rc == 0 && table->depth == 2 && i / RCV_NODE % RCV_NODE == 0) {
        slot = table->root + i / RCV_NODE / RCV_NODE * 8;
        rc = txn_free(t, *word_at(a, slot), 0);
        if (rc == 0)
            rc = txn_write64(t, slot, 0, kind);
    }
    return rc;
}

int table_reclaim(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done)
{
    rcv_arena              *a = t->arena;
    const struct rcv_table *table = rcv_at(a, off, sizeof *table);
    int                     rc = 0;
    *done = false;
    if (table == NULL)
        return damaged(a, off);
    while (table->depth != 0 && table->used > 0) {
        if (*budget == 0)
            return 0;
        --*budget;
        uint64_t last = (table->used - 1) / RCV_NODE;
        rcv_off  word = table_word(a, table, last * RCV_NODE);
        if (word == 0)
            return damaged(a, off);
        rc = txn_free(t, word, 0);
        if (rc == 0 && last % RCV_NODE == 0 && table->depth == 2) {
            const rcv_off *top = rcv_at(a, table->root, RCV_NODE * 8);
            rc = top ? txn_free(t, top[last / RCV_NODE], 0) : damaged(a, off);
        }
        if (rc == 0)
            rc = txn_write64(t, off + offsetof(struct rcv_table, used), last * RCV_NODE, RCV_U_STRUCT);
        if (rc)
            return rc;
    }
    if (table->root != off + offsetof(struct rcv_table, first))
        rc = txn_free(t, table->root, 0);
    *done = rc == 0;
    return rc;
}

/* -- for rcv_verify ---------------------------------------------------------------------------------------- */

/* check_node -- a node of a table, and below it `levels` more: those that lead to the first `used` words must be there; more
 * may be, in a table that is not being taken apart. */
static int check_node(struct walk *w, rcv_off container, rcv_off node, unsigned levels, uint64_t used, bool detached)
{
    uint64_t each = levels == 2 ? (uint64_t)RCV_NODE * RCV_NODE : RCV_NODE; /* words below one slot */
    int      rc = check_reach(w, container, 0, node, RCV_NODE * 8, "a part of a table");
    for (uint64_t i = 0; rc == 0 && levels > 0 && i < RCV_NODE; i++) {
        rcv_off  below = *word_at(w->a, node + i * 8);
        uint64_t first = i * each, here = used > first ? used - first : 0;
        if (here > 0 || (below != 0 && !detached))
            rc = check_node(w, container, below, levels - 1, here, detached);
    }
    return rc;
}

/* table_check -- the blocks that hold a container's words. */
int table_check(struct walk *w, rcv_off container, rcv_off off, const struct rcv_table *table, bool detached)
{
    static const uint64_t room[3] = {RCV_NODE, (uint64_t)RCV_NODE * RCV_NODE, (uint64_t)RCV_NODE * RCV_NODE * RCV_NODE};
    uint32_t              capacity = table->capacity;
    bool                  inlined = table->root == off + offsetof(struct rcv_table, first);
    if (table->depth > 2 || table->used > room[table->depth])
        return check_damage(w, container, 0, off, "%llu words in a table of depth %u", (unsigned long long)table->used, table->depth);
    if (table->depth > 0)
        return check_node(w, container, table->root, table->depth, table->used, detached);
    if (capacity < RCV_TABLE_INLINE || capacity > RCV_NODE || (capacity & (capacity - 1)) || table->used > capacity ||
        (inlined && capacity != RCV_TABLE_INLINE))
        return check_damage(w, container, 0, off, "%llu words in a table for %u", (unsigned long long)table->used, capacity);
    return inlined ? 0 : check_reach(w, container, 0, table->root, (uint64_t)capacity * 8, "a table");
}
