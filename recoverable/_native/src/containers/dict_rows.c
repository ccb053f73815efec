/* dict_rows.c -- Dict: what it was made of at once.
 *
 * Most Dicts that a request stores come as a plain dict of a few numbers and short texts, and are never given another key. Made key
 * by key, each has a block of its own, two links, a bucket, an intention, and some ten undo records. But nobody can see the Dict
 * before it is linked, and its memory goes back if it never is: so all of it is filled in one block, and nothing is logged.
 *
 * The keys lie there in rows, which are searched one after another. Rows never move, since transactions in flight hold their new
 * values by offset; so no conflict unit is different from what it would be. None is added, either: what is inserted later gets an
 * entry, and the order and the buckets that entries need get a block, which is structure like all growth (dict.c). A row that is
 * deleted is marked, as structure again, and its bytes stay until the Dict goes. Since rows were there first, insertion order is:
 * rows, then entries.
 */
#include "containers.h"
#include "containers/dict.h"
#include "containers/set.h"

static inline uint64_t row_size(uint64_t key_len) { return (sizeof(struct rcv_row) + key_len + 7) & ~UINT64_C(7); }

struct rcv_row *row_at(rcv_arena *a, rcv_off row)
{
    struct rcv_row *r = rcv_at(a, row - RCV_ROW_NAMED, sizeof *r);
    return r != NULL && rcv_at(a, row - RCV_ROW_NAMED, sizeof *r + r->key_len) != NULL ? r : NULL;
}

/* The rows of `dict`, which dict_at() has checked, lie in [0, size) of `rows`. row_in -- the one at `at`, or NULL: the end, or damage,
 * which reads as the end. */
static inline uint8_t *rows_of(rcv_arena *a, rcv_off d) { return a->mem + d + RCV_ROWS_AT; }

static inline struct rcv_row *row_in(uint8_t *rows, uint64_t at, uint64_t size)
{
    struct rcv_row *r = (struct rcv_row *)(void *)(rows + at);
    return at + sizeof *r <= size && at + sizeof *r + r->key_len <= size ? r : NULL;
}

static inline rcv_off row_name(rcv_off d, uint64_t at) { return (d + RCV_ROWS_AT + at) | RCV_ROW_NAMED; }

rcv_off row_next(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, rcv_off row)
{
    uint8_t              *rows = rows_of(a, d);
    const struct rcv_row *r;
    uint64_t              at = 0;
    if (row != 0) {
        at = row - row_name(d, 0);
        if (at >= dict->rows.size || (r = row_in(rows, at, dict->rows.size)) == NULL)
            return 0;
        at += row_size(r->key_len);
    }
    for (; (r = row_in(rows, at, dict->rows.size)) != NULL; at += row_size(r->key_len))
        if (!(r->flags & RCV_ENTRY_DEAD))
            return row_name(d, at);
    return 0;
}

rcv_off row_before(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, rcv_off row)
{
    uint8_t              *rows = rows_of(a, d);
    const struct rcv_row *r;
    rcv_off               before = 0;
    for (uint64_t at = 0; (r = row_in(rows, at, dict->rows.size)) != NULL && row_name(d, at) != row; at += row_size(r->key_len))
        if (!(r->flags & RCV_ENTRY_DEAD))
            before = row_name(d, at);
    return before;
}

rcv_off row_find(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, const struct rcv_key *key)
{
    uint8_t              *rows = rows_of(a, d);
    const struct rcv_row *r;
    for (uint64_t at = 0; (r = row_in(rows, at, dict->rows.size)) != NULL; at += row_size(r->key_len))
        if (r->key_len == key->len && r->key_kind == key->kind && !(r->flags & RCV_ENTRY_DEAD) && memcmp(r->key, key->ptr, key->len) == 0)
            return row_name(d, at);
    return 0;
}

void row_key(const rcv_arena *a, const struct rcv_row *row, struct rcv_key *out)
{
    *out = (struct rcv_key){.tag = row->key_tag, .kind = row->key_kind, .ptr = row->key, .len = row->key_len};
    out->hash = rcv_siphash(a->hdr->hash_secret, out->kind, out->ptr, out->len); /* as rcv_key_hash() */
}

int row_cut(rcv_txn *t, rcv_off row)
{
    struct rcv_row *r = row_at(t->arena, row);
    if (r == NULL || (r->flags & RCV_ENTRY_DEAD))
        return seg_corrupt(t->arena, "no key of a Dict at %llu, where one was deleted", (unsigned long long)row);
    int rc = txn_log(t, row - RCV_ROW_NAMED + offsetof(struct rcv_row, key_tag), 4, RCV_U_STRUCT);
    if (rc == 0)
        r->flags |= RCV_ENTRY_DEAD;
    return rc;
}

/* -- making one ---------------------------------------------------------------------------------------------- */

/* fits -- can these be rows? Two that are one key, as Python's own equality may not have it, are for an insertion to sort out. */
static bool fits(const struct rcv_item *items, uint32_t n, uint64_t *size)
{
    *size = 0;
    if (n == 0 || n > RCV_ROWS_MOST)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct rcv_key *key = &items[i].key;
        if (key->len > RCV_ROW_KEY)
            return false;
        for (uint32_t j = 0; j < i; j++)
            if (items[j].key.len == key->len && items[j].key.kind == key->kind && memcmp(items[j].key.ptr, key->ptr, key->len) == 0)
                return false;
        *size += row_size(key->len);
    }
    return true;
}

/* pack -- nothing of this is logged: the block is fresh. */
static int pack(rcv_txn *t, unsigned kind, const struct rcv_item *items, uint32_t n, rcv_off *out)
{
    uint64_t size, at = 0;
    rcv_off  d;
    if (!fits(items, n, &size))
        return 1;
    int rc = txn_alloc(t, RCV_ROWS_AT + size, RCV_SPACE_GENERAL, 0, &d);
    if (rc == 0)
        rc = container_init(t, d, kind);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        const struct rcv_key *key = &items[i].key;
        struct rcv_row       *r = (struct rcv_row *)(void *)(t->arena->mem + d + RCV_ROWS_AT + at);
        memset((uint8_t *)r + row_size(key->len) - 8, 0, 8); /* what is padded */
        rc = cell_make(t, &items[i].value, &r->value);
        r->key_tag = key->tag;
        r->key_kind = key->kind;
        r->key_len = (uint8_t)key->len;
        r->flags = 0;
        memcpy(r->key, key->ptr, key->len);
        at += row_size(key->len);
    }
    if (rc)
        return rc;
    struct rcv_dict *dict = (struct rcv_dict *)(void *)(t->arena->mem + d);
    dict->c.flags = RCV_PACKED;
    dict->c.count = n;
    dict->rows = (struct rcv_rows){.n = (uint16_t)n, .size = (uint16_t)size};
    *out = d;
    return 0;
}

int rcv_dict_pack(rcv_txn *t, const struct rcv_item *items, uint32_t n, rcv_off *out) { return pack(t, RCV_K_DICT, items, n, out); }

int rcv_set_pack(rcv_txn *t, const struct rcv_item *items, uint32_t n, rcv_off *out) { return pack(t, RCV_K_SET, items, n, out); }

/* -- its end --------------------------------------------------------------------------------------------------- */

/* rows_reclaim -- drop what the rows of a detached Dict hold: all at once, since there are few. What a slice has dropped is marked. */
int rows_reclaim(rcv_txn *t, rcv_off d, const struct rcv_dict *dict, uint32_t *budget)
{
    rcv_arena *a = t->arena;
    int        rc = 0;
    for (rcv_off row = 0; rc == 0 && (row = row_next(a, d, dict, row)) != 0;) {
        rc = cell_drop(t, &row_at(a, row)->value);
        if (rc == 0)
            rc = row_cut(t, row);
        *budget -= *budget > 0;
    }
    return rc;
}

/* -- for rcv_verify -------------------------------------------------------------------------------------------- */

/* rows_count -- the rows of one that dict_at() has let pass are where they are said to be: how many of them are live? */
int rows_count(struct walk *w, rcv_off d, uint64_t *live)
{
    const struct rcv_dict *dict = (const struct rcv_dict *)(const void *)(w->a->mem + d);
    const struct rcv_row  *r;
    uint64_t               at = 0, n = 0;
    *live = 0;
    for (; (r = row_in(rows_of(w->a, d), at, dict->rows.size)) != NULL; at += row_size(r->key_len), n++) {
        if (r->flags & ~RCV_ENTRY_DEAD)
            return check_damage(w, d, row_name(d, at), d + RCV_ROWS_AT + at, "a row with the flags %#x", r->flags);
        *live += !(r->flags & RCV_ENTRY_DEAD);
    }
    if (n != dict->rows.n || n > RCV_ROWS_MOST || at != dict->rows.size)
        return check_damage(w, d, 0, d, "%llu rows in %llu bytes, of %u in %u", (unsigned long long)n, (unsigned long long)at, dict->rows.n,
                            dict->rows.size);
    return 0;
}
