/* stamp.c -- read and write sets, and the stamps they are checked against: what makes a transaction serialisable.
 *
 * What we want: a request loses if, and only if, another has changed a unit that it has read.
 *
 * What does not work: a stamp for each unit (units are keys, present and absent: there is no end of them); one table of
 * stamps, indexed by a hash of the unit (an ownership record, as in TL2: Dice, Shalev, Shavit, DISC 2006): a request that has
 * read thousands of units finds one that shares its stamp with another's write nearly every time; a tag of the last writer
 * beside the stamp (whoever wrote before that one is missed).
 *
 * What does: a stamp is the sequence number of a commit, and a unit has one in each of two tables, at places that are
 * independent. A commit moves both. So a unit of which one has stood still has not changed. Where both have moved, the units
 * that the latest commits have written are there by name, in a ring, and tell for certain; for a request that has waited
 * longer than the ring reaches back, two stamps that moved count as a change. That is needless now and then, but no change
 * is ever missed. (Not of a container's identity, which can be looked at.)
 *
 * A read is not kept with its stamps: all that a transaction has read was so at commit `seq`, when it was last valid. What
 * has not moved since then has not changed since then; and once it is found valid, all it has read was so *now*.
 *
 * Stamps change only at commit, under the lock; one's own writes need no special case. Reused memory cannot fool a reader:
 * a unit is named by its container's id, which is never used again; and whoever uses a container has read the identity of
 * all that hold it, so that cutting off the outermost one tells him (lineage.c). A container that the transaction has made
 * in this step needs no stamps at all: nobody else has seen it.
 *
 * Array items are validated by value instead: the read set keeps the committed bytes. A stamp an item would be 8 bytes for
 * 8 bytes of state; a stamp a page would make neighbours conflict.
 */
#include "transaction.h"

#define READ_BOUND 65536u /* reads kept one by one; beyond: valid only while nobody commits */

/* stamp_read_slow -- the transaction has read a unit. A failure leaves the set as it was. */
int stamp_read_slow(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    uint64_t unit = stamp_unit(id, kind, arg);
    if (unlikely(index_is_full(&t->read_index, t->n_reads))) {
        if (t->n_reads >= READ_BOUND) {
            t->overflowed = true;
            return 0;
        }
        int rc = index_grow(&t->read_index, t->reads, sizeof *t->reads, t->n_reads);
        if (rc)
            return rc;
    }
    uint32_t *slot = index_slot(&t->read_index, t->reads, sizeof *t->reads, unit);
    if (*slot != 0)
        return 0;
    if (unlikely(t->n_reads == t->cap_reads)) {
        int rc = vec_grow((void **)&t->reads, &t->cap_reads, t->n_reads + 1, sizeof *t->reads);
        if (rc)
            return rc;
    }
    t->reads[t->n_reads] = (struct rcv_read){.unit = unit, .kind = kind, .container = off, .arg = arg};
    *slot = (uint32_t)++t->n_reads;
    return 0;
}

/* read_at -- where in its read set the unit is, or UINT64_MAX. written_at -- has it written the unit? */
static uint64_t read_at(const rcv_txn *t, uint64_t unit)
{
    uint32_t at = t->n_reads ? *index_slot(&t->read_index, t->reads, sizeof *t->reads, unit) : 0;
    return at ? at - 1 : UINT64_MAX;
}

static bool written_at(const rcv_txn *t, uint64_t unit)
{
    return t->n_writes && *index_slot(&t->write_index, t->writes, sizeof *t->writes, unit) != 0;
}

uint64_t rcv_commits(const rcv_arena *a) { return atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed); }

uint64_t rcv_unit(uint64_t id, unsigned kind, uint64_t arg) { return stamp_unit(id, kind, arg); }

bool stamp_wrote(const rcv_txn *t, uint64_t id, unsigned kind, uint64_t arg)
{
    return id > t->first_id || written_at(t, stamp_unit(id, kind, arg));
}

/* -- the stamps -------------------------------------------------------------------------------------------- */

static inline _Atomic uint64_t *stamp_in(const rcv_arena *a, unsigned table, uint64_t unit)
{
    return &a->stamps[table][(table ? unit >> 32 : unit) & a->stamp_mask];
}

static inline uint64_t stamp_at(const rcv_arena *a, unsigned table, uint64_t unit)
{
    return atomic_load_explicit(stamp_in(a, table, unit), memory_order_relaxed);
}

/* moved -- has a commit after `seq` perhaps changed the unit? The second table is looked at only where the first has moved. */
static inline bool moved(const rcv_arena *a, uint64_t unit, uint64_t seq)
{
    return unlikely(stamp_at(a, 0, unit) > seq) && stamp_at(a, 1, unit) > seq;
}

/* last_change -- which commit has changed it last; that one, or a later one. */
static uint64_t last_change(const rcv_arena *a, uint64_t unit)
{
    uint64_t one = stamp_at(a, 0, unit), two = stamp_at(a, 1, unit);
    return one < two ? one : two;
}

/* still_there -- is it the identity of a container that lies there as it was? Whoever cuts one off writes that into it, and its id is
 * never used again: so of this, the unit that every request reads, no stamp need be believed. */
static bool still_there(rcv_arena *a, const struct rcv_read *r)
{
    const struct rcv_container *c = r->kind == RCV_UNIT_IDENTITY && r->container != 0 ? container_at(a, r->container, 0) : NULL;
    return c != NULL && stamp_unit(c->id, RCV_UNIT_IDENTITY, 0) == r->unit && !(c->flags & RCV_DETACHED);
}

/* changed -- a read of the transaction that is not so any more, or NULL. Stamps rule out nearly all; the ring decides. */
static const struct rcv_read *changed(const rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   i = 0, end = atomic_load_explicit(&a->hdr->units_written, memory_order_relaxed);
    while (i < t->n_reads && !moved(a, t->reads[i].unit, t->seq))
        i++;
    if (likely(i == t->n_reads))
        return NULL;
    if (end - t->written > a->recent_mask + 1) {
        while (i < t->n_reads && (!moved(a, t->reads[i].unit, t->seq) || still_there(a, &t->reads[i])))
            i++;
        return i < t->n_reads ? &t->reads[i] : NULL;
    }
    for (uint64_t n = t->written; n != end; n++) {
        uint64_t at = read_at(t, atomic_load_explicit(&a->recent[n & a->recent_mask], memory_order_relaxed));
        if (at != UINT64_MAX)
            return &t->reads[at];
    }
    return NULL;
}

/* -- independent transactions ---------------------------------------------------------------------------- */

/* kind_at -- what kind of container lies there, or NULL: none. */
static const struct rcv_kind *kind_at(rcv_arena *a, rcv_off off)
{
    const struct rcv_container *c = off ? container_at(a, off, 0) : NULL;
    return c != NULL ? rcv_kinds[container_kind(c)] : NULL;
}

/* is_shared -- is it a unit that several transactions may write at once, since what they do to it is no part of any stash?
 * Counts and order are intentions, items of Arrays are written one by one. A List's are not: its length is a word. */
static bool is_shared(rcv_arena *a, rcv_off off, unsigned kind)
{
    const struct rcv_kind *is = kind_at(a, off);
    if (kind == RCV_UNIT_PAGE)
        return true;
    return (kind == RCV_UNIT_MEMBERSHIP || kind == RCV_UNIT_CONTENT) && !(is != NULL && is->counts_are_words);
}

/* parent_allows -- may a transaction inside others write this unit? Not what one around it has written, unless it is shared:
 * its stash would overwrite what is committed now. Nor may it delete what one around it, which has written, works in; nor
 * write into a record whose fields one around it has moved. */
static int parent_allows(const rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t unit)
{
    rcv_arena             *a = t->arena;
    const struct rcv_kind *is = kind_at(a, off);
    for (const rcv_txn *p = t->parent; p != NULL; p = p->parent) {
        if (kind == RCV_UNIT_IDENTITY && p->wrote && (!p->record_reads || read_at(p, unit) != UINT64_MAX))
            return rcv_raise(RCV_ERR_MISUSE, 0,
                             "an independent transaction can't delete a container that the transaction around it works in");
        if ((!is_shared(a, off, kind) && written_at(p, unit)) ||
            (kind == RCV_UNIT_KEY && is != NULL && is->shape_moves_keys && written_at(p, stamp_unit(id, RCV_UNIT_SHAPE, 0))))
            return rcv_raise(RCV_ERR_MISUSE, 0,
                             "an independent transaction can't change what the transaction around it has written; change it "
                             "in one of the two, or before the other");
    }
    return 0;
}

/* hand_over -- the transactions around it have seen this one's changes: what they had read stays valid. They were valid
 * before it: rcv_txn_mount() has made sure, and the lock is held since. A task of theirs may have written meanwhile what
 * this one was allowed to write earlier: that is a conflict. */
static void hand_over(rcv_txn *t, uint64_t seq)
{
    for (rcv_txn *p = t->parent; p != NULL; p = p->parent) {
        if (!p->touched)
            continue;
        p->seq = seq;
        p->written = atomic_load_explicit(&t->arena->hdr->units_written, memory_order_relaxed);
        p->epoch++; /* containers may be gone */
        for (uint64_t i = 0; i < p->n_values; i++)
            memcpy(p->values[i].bytes, t->arena->core + p->values[i].off, p->values[i].len);
        for (uint64_t i = 0; i < t->n_writes && p->state == RCV_ACTIVE; i++) {
            uint64_t at = read_at(p, t->writes[i]);
            if (at == UINT64_MAX)
                continue;
            const struct rcv_read *r = &p->reads[at];
            if ((r->kind == RCV_UNIT_IDENTITY && p->wrote) ||
                (!is_shared(t->arena, r->container, r->kind) && written_at(p, r->unit))) {
                stamp_lost(p, r->container, r->kind, r->arg, seq);
                rcv_txn_doom(p, RCV_ERR_CONFLICT);
            }
        }
    }
}

/* -- writing ----------------------------------------------------------------------------------------------- */

/* stamp_write -- the transaction has written a unit: its stamps move when it commits. */
int stamp_write(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    uint64_t unit = stamp_unit(id, kind, arg);
    if (id > t->first_id) {
        t->wrote = true;
        return 0;
    }
    if (unlikely(t->parent != NULL)) {
        int rc = parent_allows(t, off, id, kind, unit);
        if (rc)
            return rc;
    }
    if (unlikely(index_is_full(&t->write_index, t->n_writes))) {
        int rc = index_grow(&t->write_index, t->writes, sizeof *t->writes, t->n_writes);
        if (rc)
            return rc;
    }
    uint32_t *slot = index_slot(&t->write_index, t->writes, sizeof *t->writes, unit);
    if (*slot != 0)
        return 0;
    if (unlikely(t->n_writes == t->cap_writes)) {
        int rc = vec_grow((void **)&t->writes, &t->cap_writes, t->n_writes + 1, sizeof *t->writes);
        if (rc)
            return rc;
    }
    t->writes[t->n_writes++] = unit;
    *slot = (uint32_t)t->n_writes;
    t->wrote = true;
    if (unlikely(t->arena->feed != NULL))
        redo_note(t, off, id, kind, arg);
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
    const struct rcv_read *lost = changed(t);
    if (lost != NULL) {
        stamp_lost(t, lost->container, lost->kind, lost->arg, last_change(a, lost->unit));
        return false;
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

static uint64_t page_unit(const rcv_arena *a, const struct rcv_value_read *v)
{
    return stamp_unit(0, RCV_UNIT_PAGE, (v->off - a->data_off) / a->hdr->page_size);
}

/* stamp_hopeless -- has it lost already? Another process may be in the middle of a step, so what is not validated by stamps
 * may look changed without being so: nothing but courtesy may depend on it. */
bool stamp_hopeless(const rcv_txn *t)
{
    const rcv_arena *a = t->arena;
    if (t->state != RCV_ACTIVE)
        return true;
    if (!t->touched || t->mounted || t->seq == atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed))
        return false;
    if (t->overflowed || !t->record_reads || changed(t) != NULL)
        return true;
    for (uint64_t i = 0; i < t->n_values; i++) {
        const struct rcv_value_read *v = &t->values[i];
        if (moved(a, page_unit(a, v), t->seq) && memcmp(a->core + v->off, v->bytes, v->len) != 0)
            return true;
    }
    return false;
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
        if (written_at(t, other->reads[i].unit))
            return true;
    for (uint64_t i = 0; i < t->n_writes && t->n_writes < other->n_reads; i++)
        if (read_at(other, t->writes[i]) != UINT64_MAX)
            return true;
    for (uint64_t i = 0; i < other->n_values; i++) /* by its page: what a value will be is not known from the write set */
        if (written_at(t, page_unit(a, &other->values[i])))
            return true;
    for (uint64_t i = 0; i < other->raw.n_pages; i++)
        if (written_at(t, stamp_unit(0, RCV_UNIT_PAGE, other->raw.pages[i])))
            return true;
    return false;
}

/* stamp_of_page -- which commit has changed a page of array memory last. */
uint64_t stamp_of_page(const rcv_arena *a, uint64_t page) { return last_change(a, stamp_unit(0, RCV_UNIT_PAGE, page)); }

/* stamp_publish -- give every written unit a new commit sequence number.
 *
 * The counters move first and are never undone. Were we killed between, a later commit must not use this number again: whoever
 * was found valid at it would miss that commit. And the ring's end must not lie over units that were overwritten. */
uint64_t stamp_publish(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   seq = atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed) + 1;
    uint64_t   end = atomic_load_explicit(&a->hdr->units_written, memory_order_relaxed);
    atomic_store_explicit(&a->hdr->commit_seq, seq, memory_order_release);
    atomic_store_explicit(&a->hdr->units_written, end + t->n_writes, memory_order_release);
    store_fence();
    CRASHPOINT("commit.after_seq");
    struct rcv_commit_note *note = &a->hdr->ring[seq % RCV_COMMIT_RING];
    atomic_store_explicit(&note->seq, 0, memory_order_release);
    store_fence();
    memcpy(note->handler, t->handler, sizeof note->handler);
    store_fence();
    atomic_store_explicit(&note->seq, seq, memory_order_release);
    for (uint64_t i = MUTATED("stamp.drop") ? 1 : 0; i < t->n_writes; i++) {
        uint64_t unit = t->writes[i];
        atomic_store_explicit(&a->recent[(end + i) & a->recent_mask], unit, memory_order_relaxed);
        atomic_store_explicit(stamp_in(a, 0, unit), seq, memory_order_release);
        atomic_store_explicit(stamp_in(a, 1, unit), seq, memory_order_release);
    }
    store_fence();
    CRASHPOINT("commit.after_stamps");
    if (unlikely(t->parent != NULL))
        hand_over(t, seq);
    return seq;
}
