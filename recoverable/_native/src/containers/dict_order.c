/* dict_order.c -- Dict: the order of insertion, by iteration, at commit, and when it is taken apart.
 *
 * The order is that of the commits: the links are intentions (dict.c). A transaction sees committed entries in their order, then
 * its own.
 */
#include "containers.h"
#include "containers/dict.h"

/* -- iteration ------------------------------------------------------------------------------------------- */

/* give_entry, give -- hand out an entry's key and value. */
static inline int give_entry(rcv_arena *a, rcv_off d, const struct rcv_entry *e, struct rcv_value *key, struct rcv_value *value)
{
    if (key)
        *key = (struct rcv_value){.tag = e->key_tag, .word = e->key_kind, .ptr = e->key, .len = e->key_len};
    int rc = value ? cell_give(a, d, &e->value, value) : 0;
    return rc ? rc : 1;
}

/* give_row -- the same of a row. */
static inline int give_row(rcv_arena *a, rcv_off d, const struct rcv_row *r, struct rcv_value *key, struct rcv_value *value)
{
    if (key)
        *key = (struct rcv_value){.tag = r->key_tag, .word = r->key_kind, .ptr = r->key, .len = r->key_len};
    int rc = value ? cell_give(a, d, &r->value, value) : 0;
    return rc ? rc : 1;
}

static int give(rcv_arena *a, rcv_off d, rcv_off at, struct rcv_value *key, struct rcv_value *value)
{
    if (unlikely(at & RCV_ROW_NAMED)) {
        const struct rcv_row *r = row_at(a, at);
        return r ? give_row(a, d, r, key, value) : dict_no_entry(a, d, at);
    }
    const struct rcv_entry *e = dict_entry_at(a, at);
    return e ? give_entry(a, d, e, key, value) : dict_no_entry(a, d, at);
}

/* own_position -- where the intent is that inserted it->own_entry; n_intents: nowhere. Suspensions drop the intents of
 * growth between others, so the position noted may have moved. */
static uint64_t own_position(const rcv_txn *t, rcv_off d, const struct rcv_dict_iter *it)
{
    uint64_t n = t->n_intents, i = it->intent;
    if (i < n && t->intents[i].op == RCV_I_INSERT && t->intents[i].a == d && t->intents[i].b == it->own_entry)
        return i;
    for (i = 0; i < n; i++)
        if (t->intents[i].op == RCV_I_INSERT && t->intents[i].a == d && t->intents[i].b == it->own_entry)
            return i;
    return n;
}

/* next_own -- the transaction's own next insertion into `d`, or 0 at the end. */
static rcv_off next_own(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it)
{
    const struct rcv_summary *s = intent_summary(t, d);
    if (s == NULL || s->inserts == 0)
        return 0;
    uint64_t n = t->n_intents, at = it->own_entry ? own_position(t, d, it) : it->reverse ? n : UINT64_MAX;
    if (it->own_entry && at == n)
        return 0;
    while (it->reverse ? at-- > 0 : ++at < n) {
        const struct rcv_intent *i = &t->intents[at];
        if (i->op != RCV_I_INSERT || i->a != d)
            continue;
        const struct rcv_entry *e = dict_entry_at(a, i->b);
        if (e && !(e->flags & RCV_ENTRY_DEAD)) {
            it->intent = at;
            return it->own_entry = i->b;
        }
    }
    return 0;
}

/* next_linked -- the next committed entry that this transaction has not deleted. The one given last was checked then, and lies in memory
 * that stays the arena's. */
static inline int next_linked(rcv_arena *a, const struct rcv_entries *entries, rcv_off d, struct rcv_dict_iter *it, bool reverse)
{
    const struct rcv_entry *e = (const struct rcv_entry *)(const void *)(a->mem + it->entry);
    rcv_off                 at = it->entry == 0 ? reverse ? entries->tail : entries->head : reverse ? e->before : e->after;
    for (; at != 0; at = reverse ? e->before : e->after) {
        e = dict_entry_at(a, at);
        if (unlikely(e == NULL))
            return dict_no_entry(a, d, at);
        /* Of the whole iteration, looked at now and then: a ring must not keep the caller for ever. */
        if (unlikely((++it->steps & 63) == 0 && it->steps > dict_chain_bound(a)))
            return seg_corrupt(a, "the order of the Dict at %llu is a cycle", (unsigned long long)d);
        if (likely(!(e->flags & RCV_ENTRY_DEAD))) {
            /* Mostly the next to be asked for. It is not checked yet, so it is a number: a hint can't fault wherever it leads. */
            uintptr_t next = (uintptr_t)a->mem + (reverse ? e->before : e->after);
            __builtin_prefetch((const void *)next);
            __builtin_prefetch((const void *)(next + 64));
            it->entry = at;
            return 1;
        }
    }
    return 0;
}

/* next_committed -- the next entry or row: the rows are the oldest. */
static int next_committed(rcv_arena *a, const struct rcv_dict *dict, rcv_off d, struct rcv_dict_iter *it)
{
    rcv_off in = dict_entries(dict, d), row;
    bool    rows = dict_packed(dict);
    if (unlikely(rows) && !it->reverse && (it->entry == 0 || (it->entry & RCV_ROW_NAMED))) {
        if ((row = row_next(a, d, dict, it->entry)) != 0) {
            it->entry = row;
            return 1;
        }
        it->entry = 0;
    }
    if (in != 0 && !(it->entry & RCV_ROW_NAMED)) {
        const struct rcv_entries *entries = entries_at(a, in);
        int                       rc = entries ? next_linked(a, entries, d, it, it->reverse != 0) : dict_damaged(a, d);
        if (rc)
            return rc;
    }
    if (likely(!rows || !it->reverse) || (row = row_before(a, d, dict, it->entry & RCV_ROW_NAMED ? it->entry : 0)) == 0)
        return 0;
    it->entry = row;
    return 1;
}

/* note_iteration -- the transaction reads the whole Dict: once, also where the iteration began before it did. */
static int note_iteration(rcv_txn *t, rcv_off d, const struct rcv_dict *dict, struct rcv_dict_iter *it, unsigned what)
{
    int rc = stamp_read(t, d, dict->c.id, RCV_UNIT_MEMBERSHIP, 0);
    if (rc == 0 && (what & RCV_ITER_VALUES))
        rc = stamp_read(t, d, dict->c.id, RCV_UNIT_CONTENT, 0);
    if (rc == 0)
        it->serial = t->serial;
    return rc;
}

/* Where an iteration is: `own` of the iterator. Forwards the committed entries come first, backwards the transaction's own. */
enum { FIRST_PART, SECOND_PART, AT_END };

/* own_part -- the transaction's own next one: 1, or 0. */
static int own_part(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it)
{
    rcv_off own = t ? next_own(a, t, d, it) : 0;
    if (own == 0)
        return 0;
    it->entry = own;
    return 1;
}

/* version_of -- as rcv_dict_version() gives it. */
static inline uint64_t version_of(const struct rcv_dict *dict, const rcv_txn *t, rcv_off d)
{
    const struct rcv_summary *s = t != NULL && t->n_summaries != 0 ? intent_summary(t, d) : NULL;
    uint64_t version = dict_packed(dict) ? dict->rows.version : dict->e.version;
    return version + (s && s->changes ? rcv_mix(t->serial) + s->changes : 0); /* a number that no other transaction has */
}

int rcv_dict_version(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
{
    const struct rcv_dict *dict = dict_at(a, d);
    if (dict == NULL)
        return dict_damaged(a, d);
    *out = version_of(dict, t, d);
    return 0;
}

/* next_any -- next_entry(), wherever it is. */
static int __attribute__((noinline)) next_any(rcv_arena *a, rcv_txn *t, const struct rcv_dict *dict, rcv_off d, struct rcv_dict_iter *it,
                                              unsigned what, struct rcv_value *key, struct rcv_value *value)
{
    int rc;
    if (t != NULL && it->serial != t->serial && (rc = note_iteration(t, d, dict, it, what)) != 0)
        return rc;
    for (; it->own != AT_END; it->own++) {
        bool own = (it->own == FIRST_PART) == (it->reverse != 0);
        rc = own ? own_part(a, t, d, it) : next_committed(a, dict, d, it);
        if (rc < 0)
            return rc;
        if (rc == 1)
            return give(a, d, it->entry, key, value);
        if (own)
            it->entry = 0;
    }
    return 0;
}

/* next_entry -- the next one is mostly committed, forwards, and in a part of the Dict that has been noted. */
static inline int next_entry(rcv_arena *a, rcv_txn *t, const struct rcv_dict *dict, rcv_off d, struct rcv_dict_iter *it, unsigned what,
                             struct rcv_value *key, struct rcv_value *value)
{
    if (likely(it->own == FIRST_PART && !it->reverse && (t == NULL || it->serial == t->serial))) {
        rcv_off row;
        if (!dict_packed(dict)) {
            int rc = next_linked(a, &dict->e, d, it, false);
            if (likely(rc == 1)) /* just checked */
                return give_entry(a, d, (const struct rcv_entry *)(const void *)(a->mem + it->entry), key, value);
            if (rc < 0)
                return rc;
        } else if ((it->entry == 0 || (it->entry & RCV_ROW_NAMED)) && (row = row_next(a, d, dict, it->entry)) != 0) {
            it->entry = row;
            return give_row(a, d, (const struct rcv_row *)(const void *)(a->mem + row - RCV_ROW_NAMED), key, value);
        }
    }
    return next_any(a, t, dict, d, it, what, key, value);
}

int rcv_dict_next(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, unsigned what, struct rcv_value *key,
                  struct rcv_value *value)
{
    const struct rcv_dict *dict = dict_at(a, d);
    return dict ? next_entry(a, t, dict, d, it, what, key, value) : dict_damaged(a, d);
}

int rcv_dict_some(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, struct rcv_value *keys, struct rcv_value *values, int most)
{
    const struct rcv_dict *dict = dict_at(a, d);
    if (unlikely(dict == NULL))
        return dict_damaged(a, d);
    for (int n = 0, rc; n < most; n++)
        if ((rc = next_entry(a, t, dict, d, it, RCV_ITER_VALUES, &keys[n], &values[n])) != 1)
            return rc ? rc : n;
    return most;
}

int rcv_dict_go_on(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, unsigned what, struct rcv_value *key,
                   struct rcv_value *value)
{
    const struct rcv_dict *dict = dict_at(a, d);
    if (unlikely(dict == NULL))
        return dict_damaged(a, d);
    return likely(it->version == version_of(dict, t, d)) ? next_entry(a, t, dict, d, it, what, key, value) : RCV_ITER_CHANGED;
}

int rcv_dict_step(rcv_arena *a, void *context, struct rcv_handle *h, rcv_txn **t, struct rcv_dict_iter *it, unsigned what,
                  struct rcv_value *key, struct rcv_value *value)
{
    if (unlikely(rcv_begin(a, context, 0, h, t)))
        return RCV_ITER_REFUSED;
    return rcv_dict_go_on(a, *t, h->off, it, what, key, value);
}

int rcv_dict_key_at(rcv_arena *a, rcv_off slot, struct rcv_value *key)
{
    int rc = give(a, 0, slot, key, NULL);
    return rc < 0 ? rc : 0;
}

int rcv_dict_key_of_hash(rcv_arena *a, rcv_off d, uint64_t hash, struct rcv_value *key)
{
    const struct rcv_dict *dict = dict_at(a, d);
    for (rcv_off row = 0; dict != NULL && dict_packed(dict) && (row = row_next(a, d, dict, row)) != 0;) {
        struct rcv_key k;
        row_key(a, row_at(a, row), &k);
        if (k.hash == hash)
            return give(a, d, row, key, NULL);
    }
    rcv_off                   in = dict ? dict_entries(dict, d) : 0;
    const struct rcv_entries *entries = in ? entries_at(a, in) : NULL;
    rcv_off                   word = entries && entries->table.used ? table_word(a, &entries->table, dict_bucket_of(hash, entries->table.used)) : 0;
    uint64_t               steps = 0, bound = dict_chain_bound(a);
    for (rcv_off at = word ? *word_at(a, word) : 0; at != 0 && steps <= bound; steps++) {
        const struct rcv_entry *e = dict_entry_at(a, at);
        if (e == NULL)
            return 0;
        if (e->hash == hash)
            return give(a, d, at, key, NULL);
        at = e->next;
    }
    return 0;
}

/* -- at commit --------------------------------------------------------------------------------------------- */

/* log_order -- the end of the order of the entries at `in`, and their version, are about to change. */
static int log_order(rcv_txn *t, rcv_off in)
{
    const uint32_t tail = offsetof(struct rcv_entries, tail);
    return txn_log(t, in + tail, (uint32_t)offsetof(struct rcv_entries, table) - tail, RCV_U_STRUCT);
}

/* link_last -- append the entry to the insertion order. */
static int link_last(rcv_txn *t, rcv_off off, rcv_off entry)
{
    rcv_arena             *a = t->arena;
    const struct rcv_dict *d = dict_at(a, off);
    rcv_off                in = d ? dict_entries(d, off) : 0;
    struct rcv_entries    *entries = in ? entries_at(a, in) : NULL;
    struct rcv_entry      *e = dict_entry_at(a, entry);
    if (entries == NULL)
        return dict_damaged(a, off);
    if (e == NULL)
        return dict_no_entry(a, off, entry);
    if (e->flags & RCV_ENTRY_DEAD)
        return 0;
    rcv_off tail = entries->tail;
    if (tail != 0 && dict_entry_at(a, tail) == NULL)
        return dict_no_entry(a, off, tail);
    e->before = tail; /* not logged: were this commit undone, the entry would not be there at all */
    e->flags |= RCV_ENTRY_LINKED;
    int rc = log_order(t, in);
    if (rc)
        return rc;
    entries->tail = entry;
    return dict_set_word(t, tail ? tail + offsetof(struct rcv_entry, after) : in + offsetof(struct rcv_entries, head), entry);
}

/* unlink_and_free -- take the entry out of the insertion order and free it. */
static int unlink_and_free(rcv_txn *t, rcv_off off, rcv_off entry)
{
    rcv_arena             *a = t->arena;
    const struct rcv_dict *d = dict_at(a, off);
    rcv_off                in = d ? dict_entries(d, off) : 0;
    struct rcv_entries    *entries = in ? entries_at(a, in) : NULL;
    struct rcv_entry      *e = dict_entry_at(a, entry);
    int                    rc = 0;
    if (entries == NULL)
        return dict_damaged(a, off);
    if (e == NULL)
        return dict_no_entry(a, off, entry);
    if (e->flags & RCV_ENTRY_LINKED) {
        if ((e->before && dict_entry_at(a, e->before) == NULL) || (e->after && dict_entry_at(a, e->after) == NULL))
            return dict_no_entry(a, off, entry);
        rc = dict_set_word(t, e->before ? e->before + offsetof(struct rcv_entry, after) : in + offsetof(struct rcv_entries, head), e->after);
        if (rc == 0)
            rc = dict_set_word(t, e->after ? e->after + offsetof(struct rcv_entry, before) : in + offsetof(struct rcv_entries, tail), e->before);
    }
    return rc ? rc : heap_commit_free(a, entry);
}

/* entries_reclaim -- free some of the entries at `in`, from the head of the order, with their blobs and containers, at last the
 * table. `budget` counts entries down. */
static int entries_reclaim(rcv_txn *t, rcv_off off, rcv_off in, uint32_t *budget, bool *done)
{
    rcv_arena                *a = t->arena;
    const struct rcv_entries *entries = entries_at(a, in);
    int                       rc = 0;
    if (entries == NULL)
        return dict_damaged(a, off);
    while (entries->head != 0) {
        if (*budget == 0)
            return 0;
        --*budget;
        rcv_off           entry = entries->head;
        struct rcv_entry *e = dict_entry_at(a, entry);
        if (e == NULL)
            return dict_no_entry(a, off, entry);
        rc = cell_drop(t, &e->value);
        if (rc == 0)
            rc = dict_set_word(t, in + offsetof(struct rcv_entries, head), e->after);
        if (rc == 0)
            rc = txn_free(t, entry, 0);
        if (rc)
            return rc;
    }
    return table_reclaim(t, in + offsetof(struct rcv_entries, table), budget, done);
}

/* dict_reclaim -- free some of a detached Dict: its rows, its entries, what those lie in; reclaim.c frees the container itself. */
int dict_reclaim(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done)
{
    const struct rcv_dict *d = dict_at(t->arena, off);
    int                    rc = 0;
    *done = false;
    if (d == NULL)
        return dict_damaged(t->arena, off);
    if (dict_packed(d))
        rc = rows_reclaim(t, off, d, budget);
    rcv_off in = dict_entries(d, off);
    if (rc == 0 && in != 0)
        rc = entries_reclaim(t, off, in, budget, done);
    else
        *done = rc == 0;
    if (rc == 0 && *done && in != 0 && dict_packed(d))
        rc = txn_free(t, in, 0);
    return rc;
}

/* dict_apply -- see struct rcv_kind. A row that is deleted stays where it is, marked. */
int dict_apply(rcv_txn *t, rcv_off d, unsigned op, uint64_t entry)
{
    if (op == RCV_I_DELETE && (entry & RCV_ROW_NAMED))
        return 0;
    return op == RCV_I_INSERT ? link_last(t, d, entry) : unlink_and_free(t, d, entry);
}

/* dict_sum -- see struct rcv_kind. */
int dict_sum(rcv_txn *t, rcv_off off, const struct rcv_summary *s)
{
    struct rcv_dict *d = dict_at(t->arena, off);
    if (d == NULL)
        return dict_damaged(t->arena, off);
    const uint32_t count = offsetof(struct rcv_dict, c.count);
    if (unlikely(dict_packed(d))) {
        int rc = txn_log(t, off + count, (uint32_t)RCV_ROWS_AT - count, RCV_U_STRUCT);
        if (rc)
            return rc;
        d->c.count += (uint64_t)s->count;
        d->rows.version += s->changes != 0;
        return 0;
    }
    int rc = s->count ? dict_set_word(t, off + count, d->c.count + (uint64_t)s->count) : 0;
    if (rc || s->changes == 0)
        return rc;
    rc = log_order(t, off + offsetof(struct rcv_dict, e));
    d->e.version += rc == 0;
    return rc;
}
