/* stamp.c -- read and write sets over the stamp table: what makes a transaction serialisable.
 *
 * A stamp is the commit sequence number of the last change of a conflict unit (an ownership record, as in TL2: Dice,
 * Shalev, Shavit, DISC 2006). The table is fixed and indexed by a hash of the unit, so two units may share a stamp: that
 * makes a needless conflict, never a missed one. Stamps change only at commit, under the lock; one's own writes need no
 * special case, and reused memory cannot fool a reader, because a unit is named by its container's id, which is never
 * used again.
 *
 * Array items are validated by value instead: the read set keeps the committed bytes. A stamp an item would be 8 bytes for
 * 8 bytes of state; a stamp a page would make neighbours conflict.
 */
#include "internal.h"

#define READ_BOUND 65536u /* reads kept one by one; beyond: valid only while nobody commits */

/* PROBE -- walk an open-addressing table of positions + 1: return 0 from the caller where `match` holds for position `at`,
 * else leave the free slot in `slot`. */
#define PROBE(table, mask, start, match)                  \
    uint32_t slot = (start) & (mask);                     \
    while ((table)[slot] != 0) {                          \
        uint32_t at = (table)[slot] - 1;                  \
        if (match)                                        \
            return 0;                                     \
        slot = (slot + 1) & (mask);                       \
    }

/* table_grow -- a table of twice the size, empty; the caller fills it again. */
static int table_grow(uint32_t **table, uint32_t *mask)
{
    uint32_t  size = *mask ? (*mask + 1) * 2 : 64;
    uint32_t *bigger = os_calloc(size, sizeof **table);
    if (bigger == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a transaction's read and write sets");
    os_free(*table);
    *table = bigger;
    *mask = size - 1;
    return 0;
}

/* stamp_read_slow -- the transaction has read a unit. A failure leaves the set as it was. */
int stamp_read_slow(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    uint32_t index = stamp_index(t->arena, id, kind, arg);
    __builtin_prefetch(&t->arena->stamps[index]); /* it is rarely cached, and neither is the set */
    if (unlikely((t->n_reads + 1) * 2 > t->read_mask)) {
        if (t->n_reads >= READ_BOUND) {
            t->overflowed = true;
            return 0;
        }
        int rc = table_grow(&t->read_table, &t->read_mask);
        if (rc)
            return rc;
        for (uint64_t i = 0; i < t->n_reads; i++) {
            uint32_t s = t->reads[i].index & t->read_mask;
            while (t->read_table[s] != 0)
                s = (s + 1) & t->read_mask;
            t->read_table[s] = (uint32_t)i + 1;
        }
    }
    PROBE(t->read_table, t->read_mask, index, t->reads[at].index == index)
    if (unlikely(t->n_reads == t->cap_reads)) {
        int rc = vec_grow((void **)&t->reads, &t->cap_reads, t->n_reads + 1, sizeof *t->reads);
        if (rc)
            return rc;
    }
    uint64_t seen = atomic_load_explicit(&t->arena->stamps[index], memory_order_relaxed);
    t->reads[t->n_reads] = (struct rcv_read){.seen = seen, .index = index, .kind = kind, .container = off, .arg = arg};
    t->read_table[slot] = (uint32_t)++t->n_reads;
    return 0;
}

/* write_start -- where the search for a stamp begins in the write set, which may outgrow the stamps: spread over all of it. */
static inline uint32_t write_start(uint32_t index) { return index * UINT32_C(2654435769); }

/* same_unit -- is entry `at` of the write set that unit? Of very many, one for each stamp is kept, and stands for all. */
static inline bool same_unit(const rcv_txn *t, uint64_t at, uint32_t index, uint32_t tag)
{
    return t->writes[at].index == index && (t->writes[at].tag == tag || t->n_writes > t->arena->stamp_mask / 8);
}

/* -- independent transactions ---------------------------------------------------------------------------- */

/* read_at -- where in its read set the stamp is, or UINT64_MAX. written_at -- has it written exactly this unit?
 * index_written -- or one that shares the stamp? */
static uint64_t read_at(const rcv_txn *t, uint32_t index)
{
    for (uint32_t s = index & t->read_mask; t->n_reads && t->read_table[s] != 0; s = (s + 1) & t->read_mask)
        if (t->reads[t->read_table[s] - 1].index == index)
            return t->read_table[s] - 1;
    return UINT64_MAX;
}

static bool written_at(const rcv_txn *t, uint32_t index, uint32_t tag)
{
    for (uint32_t s = write_start(index) & t->write_mask; t->n_writes && t->write_table[s] != 0; s = (s + 1) & t->write_mask)
        if (same_unit(t, t->write_table[s] - 1, index, tag))
            return true;
    return false;
}

static bool index_written(const rcv_txn *t, uint32_t index)
{
    for (uint32_t s = write_start(index) & t->write_mask; t->n_writes && t->write_table[s] != 0; s = (s + 1) & t->write_mask)
        if (t->writes[t->write_table[s] - 1].index == index)
            return true;
    return false;
}

/* is_shared -- is it a unit that several transactions may write at once, since what they do to it is no part of any stash?
 * Counts and order are intentions, items of Arrays are written one by one. A List's are not: its length is a word. */
static bool is_shared(rcv_arena *a, rcv_off off, unsigned kind)
{
    if (kind == RCV_UNIT_PAGE)
        return true;
    return (kind == RCV_UNIT_MEMBERSHIP || kind == RCV_UNIT_CONTENT) && container_at(a, off, RCV_K_LIST) == NULL;
}

/* parent_allows -- may a transaction inside others write this unit? Not what one around it has written, unless it is shared:
 * its stash would overwrite what is committed now. Nor may it delete what one around it, which has written, works in; nor
 * write into a record whose fields one around it has moved. */
static int parent_allows(const rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t hash)
{
    rcv_arena *a = t->arena;
    uint32_t   index = (uint32_t)hash & a->stamp_mask, tag = (uint32_t)(hash >> 32);
    for (const rcv_txn *p = t->parent; p != NULL; p = p->parent) {
        uint64_t at = read_at(p, index), moved = stamp_hash(id, RCV_UNIT_SHAPE, 0);
        bool     works_in = p->record_reads ? at != UINT64_MAX && p->reads[at].container == off : true;
        if (kind == RCV_UNIT_IDENTITY && p->wrote && works_in)
            return rcv_raise(RCV_ERR_MISUSE, 0,
                             "an independent transaction can't delete a container that the transaction around it works in");
        if ((!is_shared(a, off, kind) && written_at(p, index, tag)) ||
            (kind == RCV_UNIT_KEY && container_at(a, off, RCV_K_RECORD) &&
             written_at(p, (uint32_t)moved & a->stamp_mask, (uint32_t)(moved >> 32))))
            return rcv_raise(RCV_ERR_MISUSE, 0,
                             "an independent transaction can't change what the transaction around it has written; change it "
                             "in one of the two, or before the other");
    }
    return 0;
}

/* hand_over -- the transactions around it have seen this one's changes: what they had read stays valid. They were valid
 * before it: rcv_txn_mount() has made sure, and the lock is held since. A task of theirs may have written meanwhile what
 * this one was allowed to write earlier: that stays a conflict. */
static void hand_over(rcv_txn *t, uint64_t seq)
{
    for (rcv_txn *p = t->parent; p != NULL; p = p->parent) {
        bool clash = false;
        if (!p->touched)
            continue;
        for (uint64_t i = 0; i < t->n_writes; i++) {
            uint64_t at = read_at(p, t->writes[i].index);
            if (at == UINT64_MAX)
                continue;
            const struct rcv_read *r = &p->reads[at];
            if ((r->kind == RCV_UNIT_IDENTITY && p->wrote) ||
                (!is_shared(t->arena, r->container, r->kind) && written_at(p, t->writes[i].index, t->writes[i].tag)))
                clash = true;
            else
                p->reads[at].seen = seq;
        }
        for (uint64_t i = 0; i < p->n_values; i++)
            memcpy(p->values[i].bytes, t->arena->core + p->values[i].off, p->values[i].len);
        if (!clash)
            p->seq = seq;
        p->epoch++; /* containers may be gone */
    }
}

/* -- writing ----------------------------------------------------------------------------------------------- */

/* stamp_write -- the transaction has written a unit: its stamp moves when it commits. */
int stamp_write(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    uint64_t hash = stamp_hash(id, kind, arg);
    uint32_t index = (uint32_t)hash & t->arena->stamp_mask, tag = (uint32_t)(hash >> 32);
    if (unlikely(t->parent != NULL)) {
        int rc = parent_allows(t, off, id, kind, hash);
        if (rc)
            return rc;
    }
    if (unlikely((t->n_writes + 1) * 2 > t->write_mask)) {
        int rc = table_grow(&t->write_table, &t->write_mask);
        if (rc)
            return rc;
        for (uint64_t i = 0; i < t->n_writes; i++) {
            uint32_t s = write_start(t->writes[i].index) & t->write_mask;
            while (t->write_table[s] != 0)
                s = (s + 1) & t->write_mask;
            t->write_table[s] = (uint32_t)i + 1;
        }
    }
    PROBE(t->write_table, t->write_mask, write_start(index), same_unit(t, at, index, tag))
    if (unlikely(t->n_writes == t->cap_writes)) {
        int rc = vec_grow((void **)&t->writes, &t->cap_writes, t->n_writes + 1, sizeof *t->writes);
        if (rc)
            return rc;
    }
    t->writes[t->n_writes++] = (struct rcv_written){.index = index, .tag = tag};
    t->write_table[slot] = (uint32_t)t->n_writes;
    t->wrote = true;
    return 0;
}

/* stamp_read_value -- it has read these bytes of an Array. Their committed content is captured when the step ends: the
 * lock is held until then, so it is what the step began with, whatever the transaction itself has written there since. */
int stamp_read_value(rcv_txn *t, rcv_off container, rcv_off off, uint32_t len)
{
    if (!t->record_reads || t->overflowed)
        return 0;
    /* Reading one item again and again is common (`a[3] += 1` in a loop): look at the newest few. */
    for (uint64_t i = t->n_values, seen = 0; i > 0 && seen < 4; i--, seen++)
        if (t->values[i - 1].off == off && t->values[i - 1].len == len)
            return 0;
    if (t->n_values >= READ_BOUND) {
        t->overflowed = true;
        return 0;
    }
    if (t->n_values == t->cap_values) {
        int rc = vec_grow((void **)&t->values, &t->cap_values, t->n_values + 1, sizeof *t->values);
        if (rc)
            return rc;
    }
    struct rcv_value_read *v = &t->values[t->n_values++];
    v->off = off;
    v->container = container;
    v->len = len;
    return 0;
}

/* stamp_capture -- the step is undone: keep the committed bytes of what it has read by value. */
void stamp_capture(rcv_txn *t)
{
    for (uint64_t i = t->n_captured; i < t->n_values; i++)
        memcpy(t->values[i].bytes, t->arena->core + t->values[i].off, t->values[i].len);
    t->n_captured = t->n_values;
}

/* stamp_lost -- write into the report where the transaction lost, and to whom; count it. `seq`: of the commit that won. */
void stamp_lost(rcv_txn *t, rcv_off container, unsigned kind, uint64_t arg, uint64_t seq)
{
    struct rcv_txn_report        *r = &t->report;
    const struct rcv_commit_note *note = &t->arena->hdr->ring[seq % RCV_COMMIT_RING];
    r->conflict_container = container;
    r->conflict_kind = kind;
    r->conflict_arg = arg;
    struct rcv_container *c = container ? container_at(t->arena, container, 0) : NULL;
    r->conflict_id = c ? c->id : 0;
    r->winner[0] = 0;
    hotspot_count(t->arena, r);
    if (seq != 0 && atomic_load_explicit(&note->seq, memory_order_relaxed) == seq) {
        memcpy(r->winner, note->handler, sizeof r->winner);
        r->winner[sizeof r->winner - 1] = 0;
    }
}

/* stamp_valid -- is everything as the transaction saw it? The arena must hold committed state (nothing mounted). */
bool stamp_valid(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (MUTATED("validate.skip"))
        return true;
    if (t->overflowed || !t->record_reads) {
        stamp_lost(t, 0, 0, 0, atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed));
        return false;
    }
    for (uint64_t i = 0; i < t->n_reads; i++) {
        const struct rcv_read *r = &t->reads[i];
        uint64_t               now = atomic_load_explicit(&a->stamps[r->index], memory_order_relaxed);
        if (unlikely(now != r->seen)) {
            stamp_lost(t, r->container, r->kind, r->arg, now);
            return false;
        }
    }
    for (uint64_t i = 0; i < t->n_values; i++) {
        const struct rcv_value_read *v = &t->values[i];
        if (unlikely(memcmp(a->core + v->off, v->bytes, v->len) != 0)) {
            uint64_t page = (v->off - a->data_off) / a->hdr->page_size;
            stamp_lost(t, v->container, RCV_UNIT_BYTES, v->off, stamp_of_page(a, page));
            return false;
        }
    }
    return true;
}

/* stamp_meets -- would committing `t` make `other`, as far as it has come, invalid? */
bool stamp_meets(const rcv_txn *t, const rcv_txn *other)
{
    const rcv_arena *a = t->arena;
    if (other->overflowed || !other->record_reads)
        return other->touched;
    if (t->n_writes == 0)
        return false;
    for (uint64_t i = 0; i < other->n_reads && other->n_reads <= t->n_writes; i++)
        if (index_written(t, other->reads[i].index))
            return true;
    for (uint64_t i = 0; i < t->n_writes && t->n_writes < other->n_reads; i++)
        if (read_at(other, t->writes[i].index) != UINT64_MAX)
            return true;
    for (uint64_t i = 0; i < other->n_values; i++) /* by its page: what a value will be is not known from the write set */
        if (index_written(t, stamp_index(a, 0, RCV_UNIT_PAGE, (other->values[i].off - a->data_off) / a->hdr->page_size)))
            return true;
    for (uint64_t i = 0; i < other->n_raw_pages; i++)
        if (index_written(t, stamp_index(a, 0, RCV_UNIT_PAGE, other->raw_pages[i])))
            return true;
    return false;
}

/* stamp_of_page -- which commit has changed a page of array memory last. */
uint64_t stamp_of_page(const rcv_arena *a, uint64_t page)
{
    return atomic_load_explicit(&a->stamps[stamp_index(a, 0, RCV_UNIT_PAGE, page)], memory_order_relaxed);
}

/* stamp_set -- the stamp of one unit, outside a transaction's write set (reclaiming). Lock held. */
void stamp_set(rcv_arena *a, uint64_t id, unsigned kind, uint64_t arg, uint64_t seq)
{
    atomic_store_explicit(&a->stamps[stamp_index(a, id, kind, arg)], seq, memory_order_release);
}

/* stamp_publish -- give every written unit a new commit sequence number.
 *
 * The counter moves first and is never undone: were we killed between, a later commit must not use this number again, or
 * a reader that has seen one of our stamps would take that commit's for it. */
uint64_t stamp_publish(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   seq = atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed) + 1;
    atomic_store_explicit(&a->hdr->commit_seq, seq, memory_order_release);
    store_fence();
    CRASHPOINT("commit.after_seq");
    struct rcv_commit_note *note = &a->hdr->ring[seq % RCV_COMMIT_RING];
    atomic_store_explicit(&note->seq, 0, memory_order_release);
    store_fence();
    memcpy(note->handler, t->handler, sizeof note->handler);
    store_fence();
    atomic_store_explicit(&note->seq, seq, memory_order_release);
    for (uint64_t i = MUTATED("stamp.drop") ? 1 : 0; i < t->n_writes; i++)
        atomic_store_explicit(&a->stamps[t->writes[i].index], seq, memory_order_release);
    store_fence();
    CRASHPOINT("commit.after_stamps");
    if (unlikely(t->parent != NULL))
        hand_over(t, seq);
    return seq;
}
