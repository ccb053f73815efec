/* dict_check.c -- what must be true of a Dict or a Set, for rcv_verify.
 *
 * One that waits to be freed (RCV_DETACHED) is half taken apart: only what its order still leads to is looked at, for its bucket
 * chains lead to entries that are free already.
 */
#include "containers.h"
#include "containers/dict.h"

#include <stdio.h>

#define CHAIN_PAIRS 16u /* neighbours in a chain that are looked at for equal keys */

/* twin_after -- has one of the next few in the chain the same key? */
static bool twin_after(rcv_arena *a, const struct rcv_entry *e)
{
    rcv_off at = e->next;
    for (unsigned i = 0; i < CHAIN_PAIRS && at != 0; i++) {
        const struct rcv_entry *o = dict_entry_at(a, at);
        if (o == NULL)
            return false; /* found when the chain gets there */
        if (o->hash == e->hash && o->key_kind == e->key_kind && o->key_len == e->key_len && memcmp(o->key, e->key, e->key_len) == 0)
            return true;
        at = o->next;
    }
    return false;
}

static int check_entry(struct walk *w, rcv_off off, rcv_off at, const struct rcv_entries *d, uint64_t bucket)
{
    const struct rcv_entry *e = dict_entry_at(w->a, at);
    if (e == NULL)
        return check_damage(w, off, 0, at, "an entry outside the claimed memory");
    int rc = check_reach(w, off, 0, at, sizeof *e + e->key_len, "an entry");
    if (rc)
        return rc;
    struct rcv_key key = {.kind = e->key_kind, .ptr = e->key, .len = e->key_len};
    rcv_key_hash(w->a, &key);
    if (key.hash != e->hash)
        return check_damage(w, off, at, at, "an entry whose hash is not that of its key");
    if (dict_bucket_of(e->hash, d->table.used) != bucket)
        return check_damage(w, off, at, at, "an entry in bucket %llu, where it is not looked for", (unsigned long long)bucket);
    if (e->flags != RCV_ENTRY_LINKED)
        return check_damage(w, off, at, at, "an entry with the flags %#x", e->flags);
    if (twin_after(w->a, e))
        return check_damage(w, off, at, at, "two entries with one key");
    w->report->entries++;
    return check_cell(w, off, at, &e->value);
}

/* check_order -- the insertion order: forwards as long as the count, and each link back is right. */
static int check_order(struct walk *w, rcv_off off, const struct rcv_entries *d, uint64_t count)
{
    rcv_off  before = 0;
    uint64_t n = 0;
    for (rcv_off at = d->head; at != 0; n++) {
        const struct rcv_entry *e = dict_entry_at(w->a, at);
        if (e == NULL || !check_was_reached(w, at) || n == count)
            return check_damage(w, off, 0, at, "the insertion order leads to what is no entry of the Dict");
        if (e->before != before)
            return check_damage(w, off, at, at, "the insertion order differs forwards and backwards");
        before = at;
        at = e->after;
    }
    if (n != count || d->tail != before)
        return check_damage(w, off, 0, off, "%llu of %llu entries in the insertion order", (unsigned long long)n, (unsigned long long)count);
    return 0;
}

/* check_rest -- a Dict that is being taken apart: what its order list still leads to. */
static int check_rest(struct walk *w, rcv_off off, const struct rcv_entries *d)
{
    for (rcv_off at = d->head; at != 0;) {
        const struct rcv_entry *e = dict_entry_at(w->a, at);
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

/* check_entries -- `count` entries, in their buckets and in their order. */
static int check_entries(struct walk *w, rcv_off off, rcv_off in, uint64_t count, bool detached)
{
    const struct rcv_entries *d = entries_at(w->a, in);
    uint64_t                  n = 0;
    if (d == NULL)
        return check_damage(w, off, 0, in, "a Dict's entries outside the claimed memory");
    int rc = table_check(w, off, in + offsetof(struct rcv_entries, table), &d->table, detached);
    if (rc || detached)
        return rc ? rc : check_rest(w, off, d);
    if (d->table.used < RCV_TABLE_INLINE)
        return check_damage(w, off, 0, off, "a Dict with %llu buckets", (unsigned long long)d->table.used);
    for (uint64_t b = 0; b < d->table.used; b++)
        for (rcv_off at = *word_at(w->a, table_word(w->a, &d->table, b)); at != 0;) {
            if (n++ == count)
                return check_damage(w, off, 0, at, "more entries than the %llu that are counted", (unsigned long long)count);
            if ((rc = check_entry(w, off, at, d, b)) != 0)
                return rc;
            at = dict_entry_at(w->a, at)->next;
        }
    if (n != count)
        return check_damage(w, off, 0, off, "%llu entries, but %llu are counted", (unsigned long long)n, (unsigned long long)count);
    return check_order(w, off, d, count);
}

/* rows_check -- its rows, one by one; its entries are sound. */
static int rows_check(struct walk *w, rcv_off d)
{
    rcv_arena             *a = w->a;
    const struct rcv_dict *dict = (const struct rcv_dict *)(const void *)(a->mem + d);
    int                    rc = 0;
    for (rcv_off row = 0; rc == 0 && (row = row_next(a, d, dict, row)) != 0;) {
        const struct rcv_row *r = row_at(a, row);
        struct rcv_key        key;
        rcv_off               entry, link;
        row_key(a, r, &key);
        if (row_find(a, d, dict, &key) != row)
            return check_damage(w, d, row, row - RCV_ROW_NAMED, "two rows with one key");
        if (!(dict->c.flags & RCV_DETACHED) && dict_find_entry(a, d, &key, &entry, &link) != 0)
            return check_damage(w, d, row, row - RCV_ROW_NAMED, "a row and an entry with one key");
        rc = check_cell(w, d, row, &r->value);
        w->report->entries++;
    }
    return rc;
}

/* dict_check -- see struct rcv_kind. The rows' keys are looked for among the entries, so those come first. */
int dict_check(struct walk *w, rcv_off off)
{
    const struct rcv_dict *d = (const struct rcv_dict *)(const void *)(w->a->mem + off);
    const bool             detached = d->c.flags & RCV_DETACHED, packed = dict_packed(d);
    const rcv_off          in = dict_entries(d, off);
    uint64_t               rows = 0;
    int rc = check_room(w, off, packed ? RCV_ROWS_AT + d->rows.size : sizeof *d);
    if (rc == 0 && packed && in != 0)
        rc = check_reach(w, off, 0, in, sizeof(struct rcv_entries), "a Dict's entries");
    if (rc == 0 && packed)
        rc = rows_count(w, off, &rows);
    if (rc == 0 && rows > d->c.count && !detached)
        rc = check_damage(w, off, 0, off, "%llu rows, but %llu are counted", (unsigned long long)rows, (unsigned long long)d->c.count);
    if (rc == 0 && in != 0)
        rc = check_entries(w, off, in, d->c.count - rows, detached);
    else if (rc == 0 && rows != d->c.count && !detached)
        rc = check_damage(w, off, 0, off, "%llu entries, but %llu are counted", (unsigned long long)rows, (unsigned long long)d->c.count);
    return rc == 0 && packed ? rows_check(w, off) : rc;
}

/* dict_slot_text -- a key as Python would write it, cut. */
size_t dict_slot_text(rcv_arena *a, rcv_off slot, char *out, size_t size)
{
    struct rcv_value key;
    size_t           n = 0;
    if (rcv_dict_key_at(a, slot, &key) != 0 || key.len > UINT32_MAX)
        return (size_t)snprintf(out, size, "[?]");
    if (key.tag == RCV_T_INT && key.len == 8) {
        int64_t i;
        memcpy(&i, key.ptr, 8);
        return (size_t)snprintf(out, size, "[%lld]", (long long)i);
    }
    if (key.tag != RCV_T_STR && key.tag != RCV_T_BYTES)
        return (size_t)snprintf(out, size, "[key of type %u]", key.tag);
    n += (size_t)snprintf(out, size, key.tag == RCV_T_STR ? "[\"" : "[b\"");
    for (uint64_t i = 0; i < key.len && i < 40; i++) {
        uint8_t c = key.ptr[i];
        bool    plain = c >= ' ' && c != '"' && c != '\\' && (c < 0x7f || (c > 0x7f && key.tag == RCV_T_STR));
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "\\x%02x", c);
    }
    n += (size_t)snprintf(out + n, size - n, "%s\"]", key.len > 40 ? "..." : "");
    return n;
}
