/* redo.c -- what a commit has changed, as bytes, for its record in the feed.
 *
 * What we want: a copy of the segment, brought forward by each commit's record, is the segment, byte for byte of what is reachable; and
 * a commit pays for what it has changed, however large the arena is.
 *
 * What does not work: the undo log alone. It has the ranges of what was announced; but some memory changes without a log, since undoing
 * it needs none. Each of these was left out once, and the copy broke:
 *
 *      new blocks, filled before anybody can reach them        all of each, once the intentions are applied
 *      the bitmap of a small chunk, cleared when it is taken   where an info word goes from unused to SMALL
 *      raw writes to hot pages, which need no trap             the page against its shadow, before that is refreshed
 *      the same, and then that value announced                 what is announced there, against the shadow as well
 *      whole pages, trapped or opened by edit()                the page against its pre-image
 *      the counters that are never undone                      in the record's head
 *
 * Left out on purpose: owner words, stamps and the ring of written units (nobody is in flight where a copy begins to live), shadows and
 * their table (a copy has none), board, process table, lock.
 *
 * Ranges are aligned to words, sorted and merged: a commit writes few places, and the log names some of them twice. A gap of one word
 * costs as much as a range of its own, so it is copied. Long runs of zeros, as a new Array's, are told and not copied.
 */
#include "transaction.h"

#include <stdlib.h>

#define GAP 8u         /* bytes between two ranges that become one */
#define ZEROS 4096u    /* bytes: looked at together, whether they are all zeros */
#define SORT_SOME 64u  /* so many are sorted in place; they come nearly sorted */
#define MOST_UNITS 1024u
#define AN_INTENT 192u /* bytes: what applying one may write at most, but for a large block's words; each range with its own word */

struct piece {
    rcv_off lo, hi; /* multiples of 8; the lowest bit of `hi`: zeros */
};
struct rcv_redo { /* of an arena: one transaction commits at a time */
    struct piece *pieces;
    uint64_t      n, cap;
    uint64_t      ranges; /* of them that are something */
    uint64_t      bytes;  /* that are copied */
    uint8_t      *record; /* where it goes */
    uint32_t      length;
    uint8_t       name, id; /* bytes of the handler's name, and of the request's id */
    bool          failed;   /* no process memory */
};

static inline uint64_t padded(uint64_t n) { return (n + 7) & ~UINT64_C(7); }

/* -- units ----------------------------------------------------------------------------------------------------------- */

void redo_note(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    if (t->n_units >= MOST_UNITS)
        return;
    if (t->n_units == t->cap_units && vec_grow((void **)&t->units, &t->cap_units, t->n_units + 1, sizeof *t->units) != 0)
        return; /* names are for people: the record says that some are missing */
    t->units[t->n_units++] = (struct rcv_commit_unit){.where = RCV_UNIT_WHERE(off, kind), .id = id, .arg = arg};
}

void rcv_txn_name_request(rcv_txn *t, const char *id)
{
    size_t n = strnlen(id, RCV_REQUEST_ID);
    n = n < RCV_REQUEST_ID ? n : RCV_REQUEST_ID - 1;
    while (n > 0 && ((unsigned char)id[n] & 0xc0u) == 0x80u) /* not in the middle of a character */
        n--;
    memset(t->request, 0, sizeof t->request);
    memcpy(t->request, id, n);
}

uint64_t rcv_txn_position(const rcv_txn *t) { return t->position; }

int rcv_txn_stood_on(rcv_txn *t, uint64_t *seq, uint64_t *position)
{
    if (t->stood_in != t->serial)
        return 0;
    t->stood_in = 0;
    *seq = t->stood_on;
    *position = t->stood_at;
    return 1;
}

/* -- pieces ------------------------------------------------------------------------------------------------------------ */

static void add(struct rcv_redo *r, uint64_t lo, uint64_t len)
{
    if (unlikely(r->n == r->cap) && vec_grow((void **)&r->pieces, &r->cap, r->n + 1, sizeof *r->pieces) != 0) {
        r->failed = true;
        return;
    }
    r->pieces[r->n++] = (struct piece){lo & ~UINT64_C(7), padded(lo + len)};
}

static inline uint64_t word(const uint8_t *at)
{
    uint64_t w;
    memcpy(&w, at, 8);
    return w;
}

/* add_written -- [off, off+len), but for words at its ends that are what they were: the value of a cell changes more often than its
 * type. */
static inline void add_written(struct rcv_redo *r, const rcv_arena *a, rcv_off off, uint64_t len, const uint8_t *was)
{
    const uint8_t *now = a->core + off;
    uint64_t       lo = 0, hi = len;
    if (likely((off | len) % 8 == 0)) {
        while (lo < hi && word(now + lo) == word(was + lo))
            lo += 8;
        while (lo < hi && word(now + hi - 8) == word(was + hi - 8))
            hi -= 8;
    }
    if (lo < hi)
        add(r, off + lo, hi - lo);
}

/* add_announced -- in a step that has announced writes to hot pages: what the log has there as the old bytes may be those of a raw
 * write, which is in no record. The shadow has what was committed. */
static void add_announced(struct rcv_redo *r, const rcv_arena *a, const struct undo_record *u)
{
    const uint64_t page = a->hdr->page_size;
    for (rcv_off off = u->off, end = off + u->len, next; off < end; off = next) {
        next = off - (off - a->data_off) % page + page;
        next = next < end ? next : end;
        const uint8_t *committed = tracker_committed(a, off);
        add_written(r, a, off, next - off, committed != NULL ? committed : u->old + (off - u->off));
    }
}

/* add_changed -- the words of a page that differ from what it was. */
static void add_changed(struct rcv_redo *r, rcv_off off, const uint8_t *now, const uint8_t *was, uint32_t size)
{
    if (memcmp(now, was, size) == 0)
        return;
    for (uint32_t at = 0; at < size; at += 8) {
        const uint32_t from = at;
        while (at < size && memcmp(now + at, was + at, 8) != 0)
            at += 8;
        if (at != from)
            add(r, off + from, at - from);
    }
}

/* add_bitmap -- an info word has changed: if its chunk was unused, its bitmap was cleared without a log when it was taken. */
static void add_bitmap(rcv_arena *a, struct rcv_redo *r, const struct undo_record *u)
{
    rcv_off chunk;
    for (uint32_t i = 0; i < u->len; i += 8)
        if (heap_chunk_taken(a, u->off + i, u->old + i, &chunk) && !MUTATED("feed.bitmap"))
            add(r, chunk, sizeof(struct rcv_small_chunk));
}

/* add_logged -- what the log names. Where it names a word twice, the older record has what was committed. */
static int add_logged(rcv_arena *a, struct rcv_redo *r)
{
    const struct rcv_region *heap = &a->hdr->region[RCV_R_HEAP];
    const bool               hot = tracker_announced_hot(a);
    struct undo_walk         w = undo_walk(a, UNDO_ALL);
    while (undo_next(&w)) {
        const struct undo_record *u = &w.r;
        if (unlikely(u->kind == RCV_U_PAGE)) {
            if (tracker_is_raw(a, u->off) && !MUTATED("feed.page"))
                add_changed(r, u->off, a->core + u->off, u->old, u->len);
            continue;
        }
        if (unlikely(hot) && u->off >= a->data_off && !MUTATED("feed.announced"))
            add_announced(r, a, u);
        else
            add_written(r, a, u->off, u->len, u->old);
        if (u->off - heap->off < heap->size)
            add_bitmap(a, r, u);
    }
    return w.error;
}

/* add_hot -- raw writes to hot pages: their shadows are still what was committed. */
static void add_hot(rcv_arena *a, struct rcv_redo *r)
{
    const uint8_t *shadow;
    rcv_off        off;
    for (uint32_t i = 0; tracker_raw_hot(a, &i, &off, &shadow);)
        if (!MUTATED("feed.hot"))
            add_changed(r, off, a->core + off, shadow, a->hdr->page_size);
}

/* add_fresh -- blocks that are its own now. */
static int add_fresh(rcv_txn *t, struct rcv_redo *r)
{
    for (uint64_t i = 0; i < t->n_intents; i++) {
        uint64_t size;
        bool     live;
        if ((t->intents[i].op & ~RCV_I_TRANSIENT) != RCV_I_ALLOC || MUTATED("feed.fresh"))
            continue;
        int rc = heap_block(t->arena, t->intents[i].a, &size, &live);
        if (rc != 0)
            return rc;
        add(r, t->intents[i].a, size);
    }
    return 0;
}

static int by_place(const void *x, const void *y)
{
    const struct piece *l = x, *r = y;
    return (l->lo > r->lo) - (l->lo < r->lo);
}

static void sort(struct rcv_redo *r)
{
    if (r->n > SORT_SOME) {
        qsort(r->pieces, r->n, sizeof *r->pieces, by_place);
        return;
    }
    for (uint64_t i = 1; i < r->n; i++) {
        const struct piece it = r->pieces[i];
        uint64_t           at = i;
        for (; at > 0 && r->pieces[at - 1].lo > it.lo; at--)
            r->pieces[at] = r->pieces[at - 1];
        r->pieces[at] = it;
    }
}

/* merge -- but not over a region's end: the heap table may reach to the first chunk. */
static void merge(const rcv_arena *a, struct rcv_redo *r)
{
    struct piece *to = r->pieces;
    r->bytes = r->ranges = 0;
    if (r->n == 0)
        return;
    for (const struct piece *it = to + 1, *end = to + r->n; it < end; it++) {
        if (it->lo <= to->hi + GAP && (it->lo >= a->data_off) == (to->lo >= a->data_off)) {
            to->hi = it->hi > to->hi ? it->hi : to->hi;
            continue;
        }
        r->bytes += to->hi - to->lo;
        *++to = *it;
    }
    r->bytes += to->hi - to->lo;
    r->ranges = r->n = (uint64_t)(to - r->pieces) + 1;
}

/* is_zeros -- are the bytes from `at` on, so many as are looked at together? */
static bool is_zeros(const rcv_arena *a, rcv_off at, rcv_off hi)
{
    const uint64_t len = hi - at < ZEROS ? hi - at : ZEROS;
    uint64_t       first;
    memcpy(&first, a->core + at, 8);
    return first == 0 && memcmp(a->core + at, a->core + at + 8, len - 8) == 0;
}

/* split -- a long piece becomes several: none is longer than a range's word can say, and zeros are by themselves. */
static void split(const rcv_arena *a, struct rcv_redo *r, rcv_off lo, rcv_off hi)
{
    for (rcv_off at = lo, end; at < hi && !r->failed; at = end) {
        const bool zeros = is_zeros(a, at, hi);
        for (end = at; end < hi && end - at < RCV_RANGE_MOST - ZEROS && is_zeros(a, end, hi) == zeros;)
            end += hi - end < ZEROS ? hi - end : ZEROS;
        add(r, at, end - at);
        if (zeros && !r->failed)
            r->pieces[r->n - 1].hi |= 1;
    }
}

static void split_long(const rcv_arena *a, struct rcv_redo *r)
{
    for (uint64_t i = 0, n = r->n; i < n; i++) {
        const struct piece it = r->pieces[i];
        if (it.hi - it.lo >= 2 * ZEROS) {
            r->pieces[i].hi = it.lo; /* nothing */
            split(a, r, it.lo, it.hi);
        }
    }
    r->ranges = r->bytes = 0;
    for (uint64_t i = 0; i < r->n; i++) {
        const struct piece *p = &r->pieces[i];
        r->ranges += p->hi > p->lo;
        r->bytes += p->hi & 1 ? 0 : p->hi - p->lo;
    }
}

/* -- the record ---------------------------------------------------------------------------------------------------------- */

/* fixed_length -- of its record, but for what has changed. */
static uint64_t fixed_length(const rcv_txn *t, struct rcv_redo *r)
{
    r->name = (uint8_t)strnlen(t->handler, sizeof t->handler);
    r->id = t->request[0] == '\0' ? 0 : (uint8_t)strnlen(t->request, sizeof t->request);
    return sizeof(struct rcv_commit) + padded(r->name) + padded(r->id) + t->n_units * sizeof *t->units;
}

/* collect -- what it has written so far, in r. */
static int collect(rcv_txn *t, struct rcv_redo **out)
{
    rcv_arena       *a = t->arena;
    struct rcv_redo *r = a->redo;
    if (unlikely(r == NULL) && (r = a->redo = os_calloc(1, sizeof *r)) == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a commit's record");
    *out = r;
    r->n = r->bytes = 0;
    r->failed = false;
    int rc = add_logged(a, r);
    add_hot(a, r);
    return rc;
}

/* bound_at_once -- its record will not be longer, as far as can be told without looking. It is mounted, and about to commit. */
static uint64_t bound_at_once(const rcv_txn *t)
{
    const struct rcv_arena *a = t->arena;
    /* A record of the log takes at least what its range does; a page needs a word for each range, at most one for every two words. */
    return sizeof(struct rcv_commit) + RCV_HANDLER_NAME + RCV_REQUEST_ID + t->n_units * sizeof *t->units + undo_tail(a) + undo_tail(a) / 2 +
           t->n_intents * AN_INTENT + t->fresh_bytes + t->raw.n_pages * (a->hdr->page_size + a->hdr->page_size / 2);
}

/* add_now -- what it has written so far, with its new blocks. */
static int add_now(rcv_txn *t, struct rcv_redo **out)
{
    int rc = collect(t, out);
    if (rc == 0)
        rc = add_fresh(t, *out);
    if (rc != 0)
        return rc;
    sort(*out);
    merge(t->arena, *out);
    if ((*out)->bytes >= 2 * ZEROS)
        split_long(t->arena, *out);
    return (*out)->failed ? rcv_raise(RCV_ERR_FULL, 0, "no process memory for a commit's record") : 0;
}

/* applying -- what its intentions will write at most. */
static uint64_t applying(const rcv_txn *t)
{
    uint64_t bytes = t->n_intents * AN_INTENT, size;
    bool     live;
    for (uint64_t i = 0; i < t->n_intents; i++) {
        const unsigned op = t->intents[i].op & ~RCV_I_TRANSIENT;
        if ((op == RCV_I_ALLOC || op == RCV_I_FREE) && heap_block(t->arena, t->intents[i].a, &size, &live) == 0)
            bytes += size / RCV_CHUNK * 8; /* a word for each of its chunks */
    }
    return bytes;
}

int redo_is_short(rcv_txn *t)
{
    rcv_arena       *a = t->arena;
    struct rcv_redo *r;
    const uint64_t   ahead = room_ahead(t);
    if (t->feed_need == RCV_INSISTS || likely(!sinks_need(a, bound_at_once(t) + ahead)))
        return 0;
    int rc = add_now(t, &r);
    if (rc != 0)
        return rc;
    const uint64_t now = fixed_length(t, r) + r->ranges * 8 + r->bytes, more = applying(t);
    if (now > a->ring_size + more)
        return feed_too_long(a, now);
    const uint64_t need = now + more < a->ring_size ? now + more : a->ring_size; /* more there never is: its record decides then */
    if (!sinks_need(a, need + ahead))
        return 0;
    room_stand(t, need);
    return 1;
}

int redo_collect(rcv_txn *t)
{
    rcv_arena       *a = t->arena;
    struct rcv_redo *r;
    int              rc = add_now(t, &r);
    if (rc != 0)
        return rc;
    const uint64_t length = fixed_length(t, r) + r->ranges * 8 + r->bytes;
    rc = feed_reserve(a, length, &r->record);
    r->length = (uint32_t)length;
    return rc;
}

/* put -- so many words: few, mostly, and then faster than by a call. */
static inline uint8_t *put(uint8_t *to, const void *from, uint64_t bytes)
{
    if (unlikely(bytes > 128))
        return (uint8_t *)memcpy(to, from, bytes) + bytes;
    for (uint64_t i = 0; i < bytes; i += 8) {
        const uint64_t w = word((const uint8_t *)from + i);
        memcpy(to + i, &w, 8);
    }
    return to + bytes;
}

void redo_write(rcv_txn *t, bool request)
{
    rcv_arena             *a = t->arena;
    const struct rcv_redo *r = a->redo;
    struct rcv_commit     *head = (struct rcv_commit *)(void *)r->record;
    *head = (struct rcv_commit){
        .mark = RCV_COMMIT_MARK,
        .flags = (uint16_t)((request ? 0 : RCV_COMMIT_SLICE) | (t->n_units < t->n_writes ? RCV_COMMIT_UNITS_CUT : 0)),
        .length = r->length,
        .seq = atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed),
        .at = feed_now(a),
        .containers = atomic_load_explicit(&a->hdr->container_counter, memory_order_relaxed),
        .claimed = rcv_data_claimed(a),
        .token = a->token,
        .serial = t->serial,
        .ranges = (uint32_t)r->ranges,
        .units = (uint16_t)t->n_units,
        .name = r->name,
        .id = r->id,
    };
    uint8_t *to = put(put(r->record + sizeof *head, t->handler, padded(r->name)), t->request, padded(r->id)); /* filled up with zeros */
    to = put(to, t->units, t->n_units * sizeof *t->units);
    uint8_t *bytes = to + 8 * r->ranges;
    for (const struct piece *p = r->pieces, *end = p + r->n; p < end; p++) {
        const uint64_t len = (p->hi & ~UINT64_C(7)) - p->lo, range = RCV_RANGE(p->lo, len, p->hi & 1);
        if (unlikely(p->hi <= p->lo))
            continue;
        memcpy(to, &range, 8);
        to += 8;
        if (likely(!(p->hi & 1)))
            bytes = put(bytes, a->core + p->lo, len);
    }
    t->position = atomic_load_explicit(&a->feed->head, memory_order_relaxed) + r->length;
    feed_written(a, head);
}

void redo_publish(rcv_arena *a)
{
    const struct rcv_redo   *r = a->redo;
    const struct rcv_commit *head = (const struct rcv_commit *)(const void *)r->record;
    const uint8_t           *bytes = r->record + head->length - r->bytes;
    feed_publish(a);
    for (uint64_t i = 0; !a->trap_mode && i < r->n; i++) {
        const struct piece *p = &r->pieces[i];
        const uint64_t      len = (p->hi & ~UINT64_C(7)) - p->lo;
        if (p->hi <= p->lo)
            continue;
        if (p->lo >= a->data_off)
            tracker_refresh(a, p->lo, p->hi & 1 ? NULL : bytes, len);
        bytes += p->hi & 1 ? 0 : len;
    }
}

void redo_free(rcv_arena *a)
{
    if (a->redo != NULL)
        os_free(a->redo->pieces);
    os_free(a->redo);
    a->redo = NULL;
}
