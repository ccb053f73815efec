/* check_kinds.c -- what must be true of each kind of container.
 *
 * Containers that wait to be freed (RCV_DETACHED) are half taken apart: of a Dict, only what its order list still leads to is
 * looked at, for its bucket chains lead to entries that are free already; of a List, not what lies past its end.
 */
#include "check.h"

#define CHAIN_PAIRS 16u /* neighbours in a chain that are looked at for equal keys */
#define FIELDS_LIMIT 4096u

/* -- tables ---------------------------------------------------------------------------------------------- */

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

/* check_table -- the blocks that hold a container's words. */
static int check_table(struct walk *w, rcv_off container, rcv_off off, const struct rcv_table *table, bool detached)
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

/* -- Dict and Set -------------------------------------------------------------------------------------------------- */

static const struct rcv_entry *entry_at(rcv_arena *a, rcv_off off)
{
    const struct rcv_entry *e = rcv_at(a, off, sizeof *e);
    return e != NULL && rcv_at(a, off, sizeof *e + e->key_len) != NULL ? e : NULL;
}

/* bucket_of -- linear hashing (dict.c). */
static uint64_t bucket_of(uint64_t hash, uint64_t buckets)
{
    uint64_t low = UINT64_C(1) << (63 - __builtin_clzll(buckets)), b = hash & (2 * low - 1);
    return b >= buckets ? hash & (low - 1) : b;
}

/* twin_after -- has one of the next few in the chain the same key? */
static bool twin_after(rcv_arena *a, const struct rcv_entry *e)
{
    rcv_off at = e->next;
    for (unsigned i = 0; i < CHAIN_PAIRS && at != 0; i++) {
        const struct rcv_entry *o = entry_at(a, at);
        if (o == NULL)
            return false; /* found when the chain gets there */
        if (o->hash == e->hash && o->key_kind == e->key_kind && o->key_len == e->key_len && memcmp(o->key, e->key, e->key_len) == 0)
            return true;
        at = o->next;
    }
    return false;
}

static int check_entry(struct walk *w, rcv_off off, rcv_off at, const struct rcv_dict *d, uint64_t bucket)
{
    const struct rcv_entry *e = entry_at(w->a, at);
    if (e == NULL)
        return check_damage(w, off, 0, at, "an entry outside the claimed memory");
    int rc = check_reach(w, off, 0, at, sizeof *e + e->key_len, "an entry");
    if (rc)
        return rc;
    struct rcv_key key = {.kind = e->key_kind, .ptr = e->key, .len = e->key_len};
    rcv_key_hash(w->a, &key);
    if (key.hash != e->hash)
        return check_damage(w, off, at, at, "an entry whose hash is not that of its key");
    if (bucket_of(e->hash, d->table.used) != bucket)
        return check_damage(w, off, at, at, "an entry in bucket %llu, where it is not looked for", (unsigned long long)bucket);
    if (e->flags != RCV_ENTRY_LINKED)
        return check_damage(w, off, at, at, "an entry with the flags %#x", e->flags);
    if (twin_after(w->a, e))
        return check_damage(w, off, at, at, "two entries with one key");
    w->report->entries++;
    return check_cell(w, off, at, &e->value);
}

/* check_order -- the insertion order: forwards as long as the count, and each link back is right. */
static int check_order(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    rcv_off  before = 0;
    uint64_t n = 0;
    for (rcv_off at = d->head; at != 0; n++) {
        const struct rcv_entry *e = entry_at(w->a, at);
        if (e == NULL || !check_was_reached(w, at) || n == d->c.count)
            return check_damage(w, off, 0, at, "the insertion order leads to what is no entry of the Dict");
        if (e->before != before)
            return check_damage(w, off, at, at, "the insertion order differs forwards and backwards");
        before = at;
        at = e->after;
    }
    if (n != d->c.count || d->tail != before)
        return check_damage(w, off, 0, off, "%llu of %llu entries in the insertion order", (unsigned long long)n, (unsigned long long)d->c.count);
    return 0;
}

/* check_rest -- a Dict that is being taken apart: what its order list still leads to. */
static int check_rest(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    for (rcv_off at = d->head; at != 0;) {
        const struct rcv_entry *e = entry_at(w->a, at);
        if (e == NULL)
            return check_damage(w, off, 0, at, "an entry outside the claimed memory");
        int rc = check_reach(w, off, 0, at, sizeof *e + e->key_len, "an entry");
        if (rc == 0)
            rc = check_cell(w, off, at, &e->value);
        if (rc)
            return rc;
        w->report->entries++;
        at = e->after;
    }
    return 0;
}

static int check_dict(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    bool detached = d->c.flags & RCV_DETACHED;
    int  rc = check_table(w, off, off + offsetof(struct rcv_dict, table), &d->table, detached);
    if (rc || detached)
        return rc ? rc : check_rest(w, off, d);
    if (d->table.used < RCV_TABLE_INLINE)
        return check_damage(w, off, 0, off, "a Dict with %llu buckets", (unsigned long long)d->table.used);
    uint64_t n = 0;
    for (uint64_t b = 0; b < d->table.used; b++)
        for (rcv_off at = *word_at(w->a, table_word(w->a, &d->table, b)); at != 0;) {
            if (n++ == d->c.count)
                return check_damage(w, off, 0, at, "more entries than the %llu that are counted", (unsigned long long)d->c.count);
            if ((rc = check_entry(w, off, at, d, b)) != 0)
                return rc;
            at = entry_at(w->a, at)->next;
        }
    if (n != d->c.count)
        return check_damage(w, off, 0, off, "%llu entries, but %llu are counted", (unsigned long long)n, (unsigned long long)d->c.count);
    return check_order(w, off, d);
}

/* -- Array ------------------------------------------------------------------------------------------------- */

static int check_array(struct walk *w, rcv_off off, const struct rcv_array *r)
{
    uint64_t bytes = r->itemsize;
    bool     sound = r->ndim >= 1 && r->ndim <= RCV_NDIM && r->itemsize != 0 && memchr(r->dtype, 0, sizeof r->dtype) != NULL;
    for (uint32_t i = 0; sound && i < r->ndim; i++)
        sound = !__builtin_mul_overflow(bytes, r->shape[i], &bytes);
    if (!sound || bytes != r->nbytes)
        return check_damage(w, off, 0, off, "an Array whose shape, type and %llu bytes do not fit", (unsigned long long)r->nbytes);
    if (r->nbytes == 0)
        return r->data == 0 ? 0 : check_damage(w, off, 0, r->data, "an empty Array with memory");
    uint32_t page_size = w->a->hdr->page_size;
    int      rc = check_reach_any(w, off, 0, r->data, r->nbytes, "an Array's items");
    if (rc)
        return rc;
    if (r->data % page_size != 0 || !heap_page_live(w->a, (uint32_t)((r->data - w->a->data_off) / page_size)))
        return check_damage(w, off, 0, r->data, "an Array's items outside the memory for Arrays");
    return 0;
}

/* -- List -------------------------------------------------------------------------------------------------- */

/* check_row -- `used` cells with a value, then empty ones up to `n`. */
static int check_row(struct walk *w, rcv_off off, rcv_off row, uint64_t used, uint64_t n)
{
    const struct rcv_cell *cells = (const struct rcv_cell *)(const void *)(w->a->mem + row);
    int                    rc = 0;
    for (uint64_t i = 0; i < n && rc == 0; i++) {
        if (i < used)
            rc = check_cell(w, off, 0, &cells[i]);
        else if (cells[i].tag != 0)
            rc = check_damage(w, off, 0, row + i * sizeof *cells, "a value past the end");
    }
    return rc;
}

static int check_list(struct walk *w, rcv_off off, const struct rcv_list *l)
{
    uint64_t leaves = l->length / RCV_LEAF + (l->length % RCV_LEAF != 0);
    bool     detached = l->c.flags & RCV_DETACHED;
    if (l->table.used != leaves)
        return check_damage(w, off, 0, off, "%llu items in %llu chunks", (unsigned long long)l->length, (unsigned long long)l->table.used);
    int rc = check_table(w, off, off + offsetof(struct rcv_list, table), &l->table, detached);
    for (uint64_t i = 0; i < leaves && rc == 0; i++) {
        rcv_off leaf = *word_at(w->a, table_word(w->a, &l->table, i));
        uint64_t here = l->length - i * RCV_LEAF < RCV_LEAF ? l->length - i * RCV_LEAF : RCV_LEAF;
        rc = check_reach(w, off, 0, leaf, RCV_LEAF * sizeof(struct rcv_cell), "a chunk of a List");
        if (rc == 0)
            rc = check_row(w, off, leaf, here, detached ? here : RCV_LEAF);
    }
    w->report->entries += l->length;
    return rc;
}

/* -- Deque ------------------------------------------------------------------------------------------------- */

/* check_block -- one block of the chain; adds up the items found in it. */
static int check_block(struct walk *w, rcv_off off, const struct rcv_deque *q, rcv_off at, rcv_off prev, uint64_t *items)
{
    int rc = check_reach(w, off, 0, at, sizeof(struct rcv_block), "a block of a Deque");
    if (rc)
        return rc;
    const struct rcv_block *b = (const struct rcv_block *)(const void *)(w->a->mem + at);
    if (b->prev != prev)
        return check_damage(w, off, 0, at, "a block whose neighbour is another");
    for (uint64_t i = 0; i < RCV_BLOCK && rc == 0; i++) {
        bool within = b->base + i >= q->left && b->base + i < q->right;
        if (within != (b->cells[i].tag != 0))
            return check_damage(w, off, 0, at, within ? "an item is missing" : "an item outside both ends");
        if (within) {
            ++*items;
            rc = check_cell(w, off, 0, &b->cells[i]);
        }
    }
    return rc;
}

static int check_deque(struct walk *w, rcv_off off, const struct rcv_deque *q)
{
    rcv_off  prev = 0, at = q->left_block;
    uint64_t items = 0, base = 0;
    for (;;) {
        int rc = check_block(w, off, q, at, prev, &items);
        if (rc)
            return rc;
        const struct rcv_block *b = (const struct rcv_block *)(const void *)(w->a->mem + at);
        if (prev != 0 && b->base != base + RCV_BLOCK)
            return check_damage(w, off, 0, at, "a block of a Deque out of its order");
        if (at == q->right_block) {
            if (b->next != 0)
                return check_damage(w, off, 0, at, "the last block of a Deque leads on");
            break;
        }
        base = b->base;
        prev = at;
        at = b->next;
    }
    w->report->entries += items;
    return q->left <= q->right && items == q->right - q->left
               ? 0
               : check_damage(w, off, 0, off, "%llu items between positions %llu and %llu", (unsigned long long)items,
                              (unsigned long long)q->left, (unsigned long long)q->right);
}

/* -- Record ------------------------------------------------------------------------------------------------ */

static int check_record(struct walk *w, rcv_off off, const struct rcv_record *r)
{
    if (r->fields > FIELDS_LIMIT || (r->fields == 0) != (r->cells == 0))
        return check_damage(w, off, 0, off, "a Record of %u fields", r->fields);
    int rc = r->fields ? check_reach(w, off, 0, r->cells, r->fields * sizeof(struct rcv_cell), "the fields of a Record") : 0;
    for (uint32_t i = 0; i < r->fields && rc == 0; i++)
        rc = check_cell(w, off, i, (const struct rcv_cell *)(const void *)(w->a->mem + r->cells) + i);
    w->report->entries += r->fields;
    return rc;
}

/* -- all kinds --------------------------------------------------------------------------------------------- */

int check_container(struct walk *w, rcv_off off)
{
    const struct rcv_container *c = container_at(w->a, off, 0);
    const void                 *body = c;
    switch (c->kind & 0xffffu) {
    case RCV_K_DICT:
    case RCV_K_SET: return check_dict(w, off, body);
    case RCV_K_LIST: return check_list(w, off, body);
    case RCV_K_DEQUE: return check_deque(w, off, body);
    case RCV_K_RECORD: return check_record(w, off, body);
    case RCV_K_ARRAY: return check_array(w, off, body);
    case RCV_K_COUNTER: return 0;
    default: return check_damage(w, off, 0, off, "a container of kind %u", c->kind & 0xffffu);
    }
}
