/* dict.c -- Dict: linear hashing, insertion order, and how both live with transactions.
 *
 * Conflict units are keys (the keyed hash of a key, with the Dict's id), present or absent: two requests conflict over a
 * Dict only if they meet at a key, or if one looks at the whole (len, iteration) while the other changes it.
 *
 * So the bucket chains must not be a meeting point either. They are *structure*: changed in place while a transaction is
 * mounted, logged as RCV_U_STRUCT, undone at a suspension like all else, but never stashed. At the next step the
 * transaction's own insertions are linked into whatever chain is there then, its deletions cut out again
 * (intent_resume). Growth is structure too: one bucket is split for each insertion that finds the table full (linear
 * hashing, Litwin, VLDB 1980), so no request pays for everybody, and nobody conflicts with it.
 *
 * Insertion order and counts are intentions, applied at commit: the order is that of the commits.
 *
 * An entry never moves. Its key bytes are canonical (1, 1.0 and True are one key), its tag says what the key was.
 */
#include "containers.h"
#include "containers/dict.h"
#include "containers/set.h"

int dict_damaged(rcv_arena *a, rcv_off d) { return seg_corrupt(a, "no Dict at %llu, where one is used", (unsigned long long)d); }

int dict_no_entry(rcv_arena *a, rcv_off d, rcv_off e)
{
    return seg_corrupt(a, "the Dict at %llu leads to no entry at %llu", (unsigned long long)d, (unsigned long long)e);
}

/* rcv_key_hash -- fill in a key's hash, keyed with the segment's secret: chosen keys cannot make chains long. */
void rcv_key_hash(const rcv_arena *a, struct rcv_key *key)
{
    key->hash = rcv_siphash(a->hdr->hash_secret, key->kind, key->ptr, key->len);
}

/* bucket_word -- offset of the word that holds the head of bucket `b`; 0: damage. */
static rcv_off bucket_word(rcv_arena *a, const struct rcv_entries *e, uint64_t b) { return table_word(a, &e->table, b); }

static int no_chain(rcv_arena *a, rcv_off d) { return seg_corrupt(a, "the buckets of the Dict at %llu", (unsigned long long)d); }

static inline uint64_t word_of(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* same_bytes -- memcmp() == 0; most keys are numbers and short names, which take fewer instructions than the call. */
static inline bool same_bytes(const uint8_t *p, const uint8_t *q, uint32_t len)
{
    if (len < 8 || len > 32)
        return memcmp(p, q, len) == 0;
    uint64_t differ = word_of(p + len - 8) ^ word_of(q + len - 8); /* the last word overlaps the one before */
    for (uint32_t i = 0; i + 8 < len; i += 8)
        differ |= word_of(p + i) ^ word_of(q + i);
    return differ == 0;
}

static inline bool has_key(const struct rcv_entry *e, const struct rcv_key *key)
{
    return e->hash == key->hash && e->key_len == key->len && e->key_kind == key->kind && same_bytes(e->key, key->ptr, key->len);
}

/* find_in -- dict_find_entry() among the entries at `in`; where there is none, *link is its bucket. */
static inline int find_in(rcv_arena *a, rcv_off d, rcv_off in, const struct rcv_key *key, rcv_off *entry, rcv_off *link)
{
    const struct rcv_entries *entries = entries_at(a, in);
    rcv_off word = entries && entries->table.used ? bucket_word(a, entries, dict_bucket_of(key->hash, entries->table.used)) : 0;
    if (unlikely(word == 0))
        return no_chain(a, d);
    uint64_t steps = 0, bound = dict_chain_bound(a);
    *link = word;
    for (rcv_off at = *word_at(a, word); at != 0; steps++) {
        struct rcv_entry *e = dict_entry_at(a, at);
        if (unlikely(e == NULL))
            return dict_no_entry(a, d, at);
        if (has_key(e, key)) {
            *entry = at;
            *link = word;
            return 1;
        }
        if (unlikely(steps > bound))
            return no_chain(a, d);
        word = at + offsetof(struct rcv_entry, next);
        at = e->next;
    }
    return 0;
}

int dict_find_entry(rcv_arena *a, rcv_off d, const struct rcv_key *key, rcv_off *entry, rcv_off *link)
{
    const struct rcv_dict *dict = dict_at(a, d);
    rcv_off                entries = dict ? dict_entries(dict, d) : 0;
    if (dict == NULL)
        return dict_damaged(a, d);
    return entries ? find_in(a, d, entries, key, entry, link) : 0;
}

/* find -- the entry or row with that key: 1 and its offset, and that of the word that leads to it (0: a row); or 0, and that of its
 * bucket (0: no entry was ever inserted). */
static int find(rcv_arena *a, rcv_off d, const struct rcv_key *key, rcv_off *entry, rcv_off *link)
{
    const struct rcv_dict *dict = dict_at(a, d);
    if (unlikely(dict == NULL))
        return dict_damaged(a, d);
    rcv_off entries = dict_entries(dict, d);
    if (unlikely(dict_packed(dict))) {
        *link = 0;
        if ((*entry = row_find(a, d, dict, key)) != 0)
            return 1;
        if (entries == 0)
            return 0;
    }
    return find_in(a, d, entries, key, entry, link);
}

/* find_again -- find(), of a key that the transaction looked at just before: `d[k] += 1` reads and writes it. Every change
 * of structure, and every mounting, begins a new log epoch, so that within one what was found is still there. */
static int find_again(rcv_arena *a, rcv_txn *t, rcv_off d, const struct rcv_key *key, rcv_off *entry, rcv_off *link)
{
    struct rcv_found *last = &t->found;
    if (last->dict == d && last->hash == key->hash && last->epoch == t->log_epoch &&
        has_key((const struct rcv_entry *)(const void *)(a->mem + last->entry), key)) {
        *entry = last->entry;
        *link = last->link;
        return 1;
    }
    int rc = find(a, d, key, entry, link);
    if (rc == 1 && likely(*link != 0))
        *last = (struct rcv_found){.dict = d, .hash = key->hash, .entry = *entry, .link = *link, .epoch = t->log_epoch};
    return rc;
}

/* -- making one ------------------------------------------------------------------------------------------ */

/* entries_init -- fresh memory: no entries, and their buckets in itself. */
static void entries_init(rcv_arena *a, rcv_off at)
{
    struct rcv_entries *e = (struct rcv_entries *)(void *)(a->mem + at);
    e->head = e->tail = e->version = 0;
    table_init(&e->table, at + offsetof(struct rcv_entries, table));
    e->table.used = RCV_TABLE_INLINE;
}

static int make(rcv_txn *t, unsigned kind, rcv_off *out)
{
    int rc = txn_alloc(t, sizeof(struct rcv_dict), RCV_SPACE_GENERAL, 0, out);
    if (rc == 0)
        rc = container_init(t, *out, kind);
    if (rc)
        return rc;
    entries_init(t->arena, *out + offsetof(struct rcv_dict, e));
    return 0;
}

int rcv_dict_new(rcv_txn *t, rcv_off *out) { return make(t, RCV_K_DICT, out); }

int rcv_set_new(rcv_txn *t, rcv_off *out) { return make(t, RCV_K_SET, out); }

/* need_entries -- one of rows is given its first entry: where those lie, which is structure, as growth is. */
static int need_entries(rcv_txn *t, rcv_off d, rcv_off *out)
{
    const struct rcv_dict *dict = dict_at(t->arena, d);
    if (dict == NULL)
        return dict_damaged(t->arena, d);
    if (likely((*out = dict_entries(dict, d)) != 0))
        return 0;
    int rc = txn_alloc(t, sizeof(struct rcv_entries), RCV_SPACE_GENERAL, RCV_I_TRANSIENT, out);
    if (rc)
        return rc;
    entries_init(t->arena, *out);
    return dict_set_word(t, d + offsetof(struct rcv_dict, rows.rest), *out);
}

/* split_one -- add bucket number `buckets`, moving to it what belongs there from the bucket that it splits. */
static int split_one(rcv_txn *t, rcv_off off, rcv_off in)
{
    rcv_arena                *a = t->arena;
    const struct rcv_entries *d = entries_at(a, in);
    if (d == NULL || d->table.used == 0)
        return dict_damaged(a, off);
    uint64_t b = d->table.used, low = floor_pow2(b);
    int      rc = table_widen(t, in + offsetof(struct rcv_entries, table), RCV_U_STRUCT, RCV_I_TRANSIENT);
    rcv_off  from = rc ? 0 : bucket_word(a, d, b - low), to = rc ? 0 : bucket_word(a, d, b);
    if (rc)
        return rc;
    if (from == 0 || to == 0)
        return no_chain(a, off);
    rcv_off  moved = 0;
    uint64_t steps = 0, bound = dict_chain_bound(a);
    for (rcv_off word = from, at = *word_at(a, word); at != 0;) {
        struct rcv_entry *e = dict_entry_at(a, at);
        if (e == NULL)
            return dict_no_entry(a, off, at);
        rcv_off next = e->next;
        if (dict_bucket_of(e->hash, b + 1) == b) {
            rc = dict_set_word(t, word, next);
            if (rc == 0)
                rc = dict_set_word(t, at + offsetof(struct rcv_entry, next), moved);
            if (rc)
                return rc;
            moved = at;
        } else {
            word = at + offsetof(struct rcv_entry, next);
        }
        if (++steps > bound)
            return no_chain(a, off);
        at = next;
    }
    if (likely(a->feed == NULL) || MUTATED("feed.split")) {
        *word_at(a, to) = moved; /* it has no meaning while `used` does not count it: undoing needs no record, but the feed does */
        rc = 0;
    } else {
        rc = dict_set_word(t, to, moved);
    }
    return rc ? rc : dict_set_word(t, in + offsetof(struct rcv_entries, table.used), b + 1);
}

/* grow -- one more bucket when there are more entries than buckets. Growing is never needed: a failure (no room) is undone
 * and forgotten, except damage. */
static int grow(rcv_txn *t, rcv_off off, const struct rcv_dict *d, rcv_off in)
{
    const struct rcv_summary *s = intent_summary(t, off);
    if (d->c.count + (uint64_t)(s ? s->count : 0) <= entries_at(t->arena, in)->table.used) /* rows count, too */
        return 0;
    struct rcv_mark mark;
    rcv_op_begin(t, &mark);
    int rc = split_one(t, off, in);
    if (rc == 0)
        return 0;
    uint64_t epoch = t->epoch;
    rcv_op_fail(t, &mark);
    t->epoch = epoch;
    return rc == RCV_ERR_CORRUPT ? rc : 0;
}

/* -- linking: structure too ------------------------------------------------------------------------------ */

/* link_in -- put the entry into the bucket whose word that is. */
static int link_in(rcv_txn *t, rcv_off off, rcv_off in, rcv_off word, rcv_off entry)
{
    rcv_arena *a = t->arena;
    /* Its own link is not logged: while the one to it is undone, nobody can reach it. */
    ((struct rcv_entry *)(void *)(a->mem + entry))->next = *word_at(a, word);
    int rc = dict_set_word(t, word, entry);
    return rc ? rc : grow(t, off, (const struct rcv_dict *)(const void *)(a->mem + off), in);
}

/* relink -- put it into its bucket, whichever that is now. */
static int relink(rcv_txn *t, rcv_off off, rcv_off entry)
{
    rcv_arena        *a = t->arena;
    struct rcv_entry *e = dict_entry_at(a, entry);
    rcv_off           in;
    if (e == NULL)
        return dict_no_entry(a, off, entry);
    int rc = need_entries(t, off, &in);
    if (rc)
        return rc;
    const struct rcv_entries *entries = entries_at(a, in);
    rcv_off word = entries && entries->table.used ? bucket_word(a, entries, dict_bucket_of(e->hash, entries->table.used)) : 0;
    return word ? link_in(t, off, in, word, entry) : no_chain(a, off);
}

/* cut_at -- take the entry that `link` leads to out of its chain and mark it dead; of a row, mark it. */
static int cut_at(rcv_txn *t, rcv_off entry, rcv_off link)
{
    if (unlikely(entry & RCV_ROW_NAMED))
        return row_cut(t, entry);
    struct rcv_entry *e = (struct rcv_entry *)(void *)(t->arena->mem + entry);
    int               rc = dict_set_word(t, link, e->next);
    if (rc == 0)
        rc = txn_log(t, entry + offsetof(struct rcv_entry, flags), 8, RCV_U_STRUCT);
    if (rc == 0)
        e->flags |= RCV_ENTRY_DEAD;
    return rc;
}

static int cut_out(rcv_txn *t, rcv_off off, rcv_off entry)
{
    rcv_arena        *a = t->arena;
    if (entry & RCV_ROW_NAMED)
        return row_cut(t, entry);
    struct rcv_entry *e = dict_entry_at(a, entry);
    if (e == NULL)
        return dict_no_entry(a, off, entry);
    struct rcv_key key = {.kind = e->key_kind, .ptr = e->key, .len = e->key_len, .hash = e->hash};
    rcv_off        found, link;
    int            rc = dict_find_entry(a, off, &key, &found, &link);
    if (rc < 0)
        return rc;
    if (rc == 0 || found != entry)
        return seg_corrupt(a, "an entry of the Dict at %llu is not in its bucket", (unsigned long long)off);
    return cut_at(t, entry, link);
}

/* dict_resume -- see struct rcv_kind: an inserted entry is put into its bucket again, a deleted one taken out. */
static int dict_resume(rcv_txn *t, rcv_off d, unsigned op, uint64_t entry)
{
    return op == RCV_I_INSERT ? relink(t, d, entry) : cut_out(t, d, entry);
}

/* -- the operations ----------------------------------------------------------------------------------------- */

static inline struct rcv_cell *found_cell(rcv_arena *a, rcv_off entry) { return (struct rcv_cell *)(void *)(a->mem + dict_cell(entry)); }

static uint64_t dict_id(rcv_arena *a, rcv_off d) { return ((struct rcv_container *)(void *)(a->mem + d))->id; }

int rcv_dict_get(rcv_arena *a, rcv_txn *t, rcv_off d, const struct rcv_key *key, struct rcv_value *out)
{
    rcv_off entry, link;
    int     rc = t ? find_again(a, t, d, key, &entry, &link) : find(a, d, key, &entry, &link);
    if (unlikely(rc < 0))
        return rc;
    if (t != NULL) {
        int failed = stamp_read(t, d, dict_id(a, d), RCV_UNIT_KEY, key->hash);
        if (unlikely(failed))
            return failed;
    }
    if (rc == 0)
        return 0;
    rc = cell_give(a, d, found_cell(a, entry), out);
    return rc ? rc : 1;
}

/* note_change -- the units that a change of one key writes. Whoever has read the content has read the membership, too. */
static int note_change(rcv_txn *t, rcv_off d, uint64_t hash, bool membership)
{
    uint64_t id = dict_id(t->arena, d);
    int      rc = stamp_read(t, d, id, RCV_UNIT_KEY, hash);
    if (rc == 0)
        rc = stamp_write(t, d, id, RCV_UNIT_KEY, hash);
    if (rc == 0 && membership)
        return stamp_write(t, d, id, RCV_UNIT_MEMBERSHIP, 0);
    if (rc || t->content_of == id)
        return rc;
    rc = stamp_write(t, d, id, RCV_UNIT_CONTENT, 0);
    if (rc == 0 && id <= t->first_id) /* else nothing was recorded */
        t->content_of = id;
    return rc;
}

/* insert -- a new entry: fresh memory first, then its link, then what is meant for the commit. `bucket`: as find() has found it. */
static int insert(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_cell *cell, rcv_off bucket)
{
    rcv_arena *a = t->arena;
    rcv_off    entry;
    int        rc = txn_alloc(t, sizeof(struct rcv_entry) + key->len, RCV_SPACE_GENERAL, 0, &entry);
    if (rc)
        return rc;
    struct rcv_entry *e = (struct rcv_entry *)(void *)(a->mem + entry);
    memset(e, 0, sizeof *e);
    e->hash = key->hash;
    e->value = *cell;
    e->key_len = key->len;
    e->key_tag = key->tag;
    e->key_kind = key->kind;
    if (key->len)
        memcpy(e->key, key->ptr, key->len);
    if (cell->tag == RCV_T_REF)
        rc = container_adopt(t, cell->word, d, entry);
    if (rc == 0)
        rc = intent_add(t, RCV_I_INSERT, RCV_K_DICT, d, entry);
    if (rc)
        return rc;
    return likely(bucket) ? link_in(t, d, dict_entries((const struct rcv_dict *)(const void *)(a->mem + d), d), bucket, entry) : relink(t, d, entry);
}

/* add -- insert a key that is not there: all of it or nothing. */
static int add(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_value *value, rcv_off bucket)
{
    struct rcv_cell cell;
    struct rcv_mark mark;
    int             rc = note_change(t, d, key->hash, true);
    if (rc)
        return rc;
    rcv_op_begin(t, &mark);
    rc = cell_make(t, value, &cell);
    if (rc == 0)
        rc = insert(t, d, key, &cell, bucket);
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_dict_set(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_value *value)
{
    rcv_off entry, link;
    int     rc = find_again(t->arena, t, d, key, &entry, &link);
    if (unlikely(rc < 0))
        return rc;
    if (rc == 0)
        return add(t, d, key, value, link);
    if (cell_holds(found_cell(t->arena, entry), value))
        return stamp_read(t, d, dict_id(t->arena, d), RCV_UNIT_KEY, key->hash);
    rc = note_change(t, d, key->hash, false);
    return rc ? rc : cell_set(t, d, entry, dict_cell(entry), value);
}

int rcv_dict_set_packed(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_item *items, uint32_t n)
{
    struct rcv_value made = {.tag = RCV_T_REF};
    struct rcv_mark  mark;
    rcv_op_begin(t, &mark);
    int rc = rcv_dict_pack(t, items, n, &made.word);
    if (rc == 0)
        rc = rcv_dict_set(t, d, key, &made);
    if (rc < 0)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_set_add(rcv_txn *t, rcv_off s, const struct rcv_key *key)
{
    rcv_off entry, link;
    int     rc = find(t->arena, s, key, &entry, &link);
    if (rc < 0)
        return rc;
    return rc == 0 ? add(t, s, key, &(struct rcv_value){.tag = RCV_T_NONE}, link)
                   : stamp_read(t, s, dict_id(t->arena, s), RCV_UNIT_KEY, key->hash);
}

/* remove_entry -- delete the entry, whose key has that hash, that `link` leads to. */
static int remove_entry(rcv_txn *t, rcv_off d, rcv_off entry, rcv_off link, uint64_t hash)
{
    struct rcv_mark mark;
    int             rc = note_change(t, d, hash, true);
    if (rc)
        return rc;
    rcv_op_begin(t, &mark);
    rc = cell_drop(t, found_cell(t->arena, entry));
    if (rc == 0)
        rc = intent_add(t, RCV_I_DELETE, RCV_K_DICT, d, entry);
    if (rc == 0)
        rc = cut_at(t, entry, link);
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_dict_del(rcv_txn *t, rcv_off d, const struct rcv_key *key)
{
    rcv_off entry, link;
    int     rc = find(t->arena, d, key, &entry, &link);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return stamp_read(t, d, dict_id(t->arena, d), RCV_UNIT_KEY, key->hash);
    rc = remove_entry(t, d, entry, link, key->hash);
    return rc ? rc : 1;
}

/* delete_entry -- delete a given entry: find what leads to it. */
static int delete_entry(rcv_txn *t, rcv_off d, rcv_off entry)
{
    struct rcv_key key;
    rcv_off        found, link;
    if (entry & RCV_ROW_NAMED) {
        row_key(t->arena, row_at(t->arena, entry), &key);
        return remove_entry(t, d, entry, 0, key.hash);
    }
    struct rcv_entry *e = (struct rcv_entry *)(void *)(t->arena->mem + entry);
    key = (struct rcv_key){.kind = e->key_kind, .ptr = e->key, .len = e->key_len, .hash = e->hash};
    int rc = dict_find_entry(t->arena, d, &key, &found, &link);
    if (rc == 1 && found == entry)
        return remove_entry(t, d, entry, link, key.hash);
    return rc < 0 ? rc : seg_corrupt(t->arena, "an entry of the Dict at %llu is not in its bucket", (unsigned long long)d);
}

int rcv_dict_clear(rcv_txn *t, rcv_off d)
{
    struct rcv_mark      mark;
    struct rcv_dict_iter it = {0};
    struct rcv_value     key;
    int                  rc;
    rcv_op_begin(t, &mark);
    while ((rc = rcv_dict_next(t->arena, t, d, &it, RCV_ITER_KEYS, &key, NULL)) == 1) {
        rc = delete_entry(t, d, it.entry);
        if (rc)
            break;
    }
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_dict_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
{
    const struct rcv_dict *dict = dict_at(a, d);
    if (dict == NULL || dict->c.count > dict_chain_bound(a))
        return dict_damaged(a, d);
    *out = dict->c.count;
    if (t == NULL)
        return 0;
    const struct rcv_summary *s = intent_summary(t, d);
    if (s)
        *out += (uint64_t)s->count;
    return stamp_read(t, d, dict->c.id, RCV_UNIT_MEMBERSHIP, 0);
}

#define KIND(name_)                                                                                                          \
    {.name = name_, .size = RCV_ROWS_AT, .marks = RCV_PACKED, .reclaim = dict_reclaim, .check = dict_check, .apply = dict_apply, \
     .resume = dict_resume, .sum = dict_sum, .slot_text = dict_slot_text}

const struct rcv_kind dict_kind = KIND("Dict"), set_kind = KIND("Set");
