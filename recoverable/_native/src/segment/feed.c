/* feed.c -- the commit feed: a ring of records, one a commit, in the order of the commits; and who must not miss any.
 *
 * What we want: whoever outlives the segment (a journal, a replica, a history) learns of each commit exactly what it has changed, in
 * order, from any process, without ever taking the lock; no commit that is told is missing, none that was undone is there; and the
 * commit pays for copying its own bytes, no more.
 *
 * What does not work: a queue in process memory (it dies with the process that committed); copying pages afterwards (another commit
 * has changed them by then); operations instead of bytes (raw writes are none, and the copy could not be verified).
 *
 * What does: the record is written under the lock, behind everything that is published, and one store takes it along with the
 * commit.
 *
 *      record bytes at `head` -> next -> PUBLISH -> head = next -> shadows, log cut -> IDLE -> bell
 *      recovery:  STEP: next = head          PUBLISH: head = next
 *
 * Written before PUBLISH, seen after it. All of it is idempotent, like the rest of recovery. Old records are overwritten: `tail` moves
 * first, so a reader that finds `tail` still before what it has copied has copied it whole, as with a sequence lock.
 *
 * A sink keeps its cursor here, not in its process: when that dies, another goes on from there. One that is *required* is waited for
 * when the ring is full; one that is not has *lost* then, and begins anew with a copy of everything.
 *
 * The ring is mapped twice in a row, so that a record lies in one piece wherever it begins.
 *
 * Where it still fails: power loss, as all that is RAM; and stray stores, against which a record has its mark and its length, and a
 * sink its own checksums.
 */
#include "segment.h"

#include <stdio.h>

_Static_assert(sizeof(struct rcv_commit) == 64 && sizeof(struct rcv_commit_unit) == 32 && sizeof(struct rcv_sink) == 64, "part of the format");
_Static_assert(sizeof(struct rcv_feed) <= 4096, "its words have a page");

static inline uint64_t get(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_acquire); }
static inline void     set(_Atomic uint64_t *word, uint64_t to) { atomic_store_explicit(word, to, memory_order_release); }

static inline uint8_t *ring_at(const rcv_arena *a, uint64_t at) { return a->ring + (at & (a->ring_size - 1)); }

/* -- the mapping --------------------------------------------------------------------------------------------------- */

int feed_map(rcv_arena *a, const struct rcv_header *h, int protection)
{
    const struct rcv_region *r = &h->region[RCV_R_FEED];
    const uint64_t           words = h->page_size;
    void                    *ring;
    if (r->size == 0)
        return 0;
    int err = os_map_twice(object_fd(a), r->off + words, r->size - words, protection, &ring);
    if (err != 0)
        return seg_os(a, err, "mapping its feed");
    a->feed = (struct rcv_feed *)(void *)(a->core + r->off);
    a->ring = ring;
    a->ring_size = r->size - words;
    return 0;
}

void feed_unmap(rcv_arena *a)
{
    if (a->ring != NULL)
        os_unmap(a->ring, 2 * a->ring_size);
    a->feed = NULL;
    a->ring = NULL;
}

int feed_format(rcv_arena *a)
{
    if (a->feed == NULL)
        return 0;
    int err = os_random(a->feed->id, sizeof a->feed->id);
    return err == 0 ? 0 : seg_os(a, err, "making its identity");
}

void feed_alone(rcv_arena *a)
{
    if (a->feed != NULL)
        atomic_store(&a->feed->waiters, 0); /* of those who were killed */
}

/* -- writing --------------------------------------------------------------------------------------------------------- */

/* feed_record -- the record that begins at `at` and ends by `end`, or NULL: there is none. Its names, units and ranges are inside it. */
const struct rcv_commit *feed_record(const rcv_arena *a, uint64_t at, uint64_t end)
{
    const struct rcv_commit *r = (const struct rcv_commit *)(const void *)ring_at(a, at);
    if (end - at < sizeof *r || r->mark != RCV_COMMIT_MARK || r->length < sizeof *r || r->length % 8 != 0 || r->length > end - at)
        return NULL;
    return r;
}

/* needed -- where what a sink still needs begins; UINT64_MAX: it is not waited for. */
static uint64_t needed(const struct rcv_sink *s)
{
    return atomic_load_explicit(&s->state, memory_order_acquire) == RCV_SINK_REQUIRED && !atomic_load(&s->lost) ? get(&s->cursor) : UINT64_MAX;
}

static const struct rcv_sink *in_the_way(const rcv_arena *a, uint64_t bytes)
{
    const uint64_t end = get(&a->feed->head) + bytes, keeps = end > a->ring_size ? end - a->ring_size : 0;
    for (unsigned i = 0; i < RCV_SINKS; i++)
        if (needed(&a->feed->sink[i]) < keeps)
            return &a->feed->sink[i];
    return NULL;
}

bool feed_is_short(const rcv_arena *a, uint64_t bytes) { return in_the_way(a, bytes) != NULL; }

int feed_too_short(const rcv_arena *a, uint64_t bytes)
{
    const struct rcv_sink *s = in_the_way(a, bytes);
    if (s == NULL)
        return 0;
    return rcv_raise(RCV_ERR_FEED, 0,
                     "arena \"%s\": its feed is full (%llu bytes) of commits that \"%.*s\" has not taken yet; nothing was committed; "
                     "send the request again, and look at what keeps it; a larger feed= holds more", a->name,
                     (unsigned long long)a->ring_size, (int)RCV_SINK_NAME - 1, s->name);
}

int feed_reserve(rcv_arena *a, uint64_t bytes, uint8_t **out)
{
    struct rcv_feed *f = a->feed;
    const uint64_t   head = get(&f->head);
    uint64_t         tail = get(&f->tail), last = get(&f->tail_seq);
    if (bytes > a->ring_size)
        return rcv_raise(RCV_ERR_FULL, 0,
                         "arena \"%s\": a commit of %llu bytes is more than its feed can hold (%llu); nothing was committed; make it in "
                         "several, or make the arena with a larger feed=", a->name, (unsigned long long)bytes,
                         (unsigned long long)a->ring_size);
    int rc = feed_too_short(a, bytes);
    if (rc != 0)
        return rc;
    if (unlikely(head + bytes - tail > a->ring_size)) {
        while (head + bytes - tail > a->ring_size) {
            const struct rcv_commit *r = feed_record(a, tail, head);
            last = r != NULL ? r->seq : get(&f->head_seq);
            tail = r != NULL ? tail + r->length : head; /* damage: nobody gets at what lies behind it */
        }
        for (unsigned i = 0; i < RCV_SINKS; i++)
            if (atomic_load(&f->sink[i].state) != RCV_SINK_FREE && get(&f->sink[i].cursor) < tail)
                atomic_store(&f->sink[i].lost, 1);
        set(&f->tail_seq, last);
        set(&f->tail, tail);
        atomic_thread_fence(memory_order_seq_cst); /* before a byte is overwritten */
        CRASHPOINT("feed.tail");
    }
    *out = ring_at(a, head);
    return 0;
}

uint64_t feed_now(rcv_arena *a)
{
    uint64_t now = os_clock(), before = get(&a->feed->at);
    return now > before ? now : before; /* a clock that was set back: times never go backwards */
}

void feed_written(rcv_arena *a, const struct rcv_commit *r)
{
    struct rcv_feed *f = a->feed;
    CRASHPOINT("feed.record");
    set(&f->seq, r->seq);
    set(&f->at, r->at);
    store_fence();
    set(&f->next, get(&f->head) + r->length);
    CRASHPOINT("feed.next");
}

void feed_publish(rcv_arena *a)
{
    struct rcv_feed *f = a->feed;
    set(&f->head_seq, get(&f->seq));
    set(&f->head, get(&f->next));
    store_fence();
    CRASHPOINT("feed.head");
}

void feed_ring_bell(rcv_arena *a)
{
    struct rcv_feed *f = a->feed;
    atomic_fetch_add(&f->bell, 1); /* with its fence: who is not seen below sees the new head */
    if (unlikely(atomic_load(&f->waiters) != 0))
        os_futex_wake_all(&f->bell);
}

void rcv_feed_wake(rcv_arena *a)
{
    if (a->feed != NULL)
        feed_ring_bell(a);
}

/* -- recovery ----------------------------------------------------------------------------------------------------------- */

/* feed_recover -- lock held, or alone. May be killed and run again. */
int feed_recover(rcv_arena *a, unsigned phase)
{
    struct rcv_feed *f = a->feed;
    if (f == NULL)
        return 0;
    const uint64_t head = get(&f->head), next = get(&f->next), tail = get(&f->tail);
    if ((head | next | tail) % 8 != 0 || tail > head || head - tail > a->ring_size)
        return seg_corrupt(a, "its feed is said to reach from %llu to %llu", (unsigned long long)tail, (unsigned long long)head);
    if (phase == RCV_PUBLISH && next != head && feed_record(a, head, next) == NULL)
        return seg_corrupt(a, "no record lies at %llu of its feed, where one was committed", (unsigned long long)head);
    if (phase == RCV_PUBLISH) {
        feed_publish(a);
    } else {
        set(&f->next, head);
        set(&f->seq, get(&f->head_seq));
    }
    return 0;
}

/* -- reading ----------------------------------------------------------------------------------------------------------- */

int rcv_has_feed(const rcv_arena *a) { return a->feed != NULL; }

int rcv_feed_get(const rcv_arena *a, struct rcv_feed_state *out)
{
    const struct rcv_feed *f = a->feed;
    memset(out, 0, sizeof *out);
    if (f == NULL)
        return 0;
    memcpy(out->id, f->id, sizeof out->id);
    out->epoch = get(&f->epoch);
    out->size = a->ring_size;
    out->tail = get(&f->tail);
    out->head = get(&f->head);
    out->seq = get(&f->head_seq);
    out->at = get(&f->at);
    return 1;
}

static int overwritten(const rcv_arena *a, uint64_t at)
{
    return rcv_raise(RCV_ERR_STALE, 0, "arena \"%s\": its feed has overwritten what was at %llu; begin at a later commit, or with a copy",
                     a->name, (unsigned long long)at);
}

int64_t rcv_feed_read(rcv_arena *a, uint64_t at, void *to, uint64_t room, uint64_t *need)
{
    struct rcv_feed *f = a->feed;
    *need = 0;
    if (f == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" has no feed", a->name);
    const uint64_t head = get(&f->head);
    if (at > head || at % 8 != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": its feed ends at %llu, before %llu", a->name, (unsigned long long)head,
                         (unsigned long long)at);
    if (at < get(&f->tail))
        return overwritten(a, at);
    uint64_t n = 0;
    bool     damaged = false;
    while (at + n < head) {
        const struct rcv_commit *r = feed_record(a, at + n, head);
        const uint64_t           length = r != NULL ? *(const volatile uint32_t *)&r->length : 0; /* it may be overwritten under us */
        if ((damaged = length < sizeof *r || length > head - at - n))
            break;
        if (length > room - n) {
            *need = n == 0 ? length : 0;
            break;
        }
        n += length;
    }
    memcpy(to, ring_at(a, at), n);
    atomic_thread_fence(memory_order_acquire);
    if (at < get(&f->tail))
        return overwritten(a, at);
    if (damaged && n == 0)
        return seg_corrupt(a, "no record lies at %llu of its feed", (unsigned long long)at);
    return (int64_t)n;
}

int rcv_feed_seek(rcv_arena *a, uint64_t seq, uint64_t *at)
{
    struct rcv_feed *f = a->feed;
    if (f == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" has no feed", a->name);
    for (;;) {
        const uint64_t tail = get(&f->tail), head = get(&f->head);
        const bool     gone = seq < get(&f->tail_seq);
        uint64_t       here = tail;
        const struct rcv_commit *r = NULL;
        while (here < head && (r = feed_record(a, here, head)) != NULL && *(const volatile uint64_t *)&r->seq <= seq)
            here += *(const volatile uint32_t *)&r->length;
        atomic_thread_fence(memory_order_acquire);
        if (get(&f->tail) != tail)
            continue; /* the walk may have gone over what was being overwritten */
        if (gone)
            return overwritten(a, tail);
        if (here < head && r == NULL)
            return seg_corrupt(a, "no record lies at %llu of its feed", (unsigned long long)here);
        *at = here;
        return 0;
    }
}

uint32_t rcv_feed_bell(const rcv_arena *a) { return a->feed != NULL ? atomic_load(&a->feed->bell) : 0; }

void rcv_feed_wait(rcv_arena *a, uint32_t seen, uint64_t nanos)
{
    struct rcv_feed *f = a->feed;
    if (f == NULL)
        return;
    atomic_fetch_add(&f->waiters, 1); /* who is killed here leaves one: each commit is a system call slower until nobody is attached */
    os_futex_wait(&f->bell, seen, nanos);
    atomic_fetch_sub(&f->waiters, 1);
}

/* -- sinks --------------------------------------------------------------------------------------------------------------- */

static struct rcv_sink *sink_of(const rcv_arena *a, uint32_t sink)
{
    struct rcv_sink *s = a->feed != NULL && sink < RCV_SINKS ? &a->feed->sink[sink] : NULL;
    return s != NULL && atomic_load(&s->state) != RCV_SINK_FREE ? s : NULL;
}

/* find_sink -- the slot of that name, else the first free one, else NULL. Lock held. */
static struct rcv_sink *find_sink(rcv_arena *a, const char *name)
{
    struct rcv_sink *room = NULL;
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        struct rcv_sink *s = &a->feed->sink[i];
        if (atomic_load(&s->state) == RCV_SINK_FREE)
            room = room != NULL ? room : s;
        else if (strncmp(s->name, name, sizeof s->name) == 0)
            return s;
    }
    return room;
}

int rcv_sink_open(rcv_arena *a, const char *name, int required, uint32_t *sink)
{
    if (a->feed == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" has no feed, which it is made with: feed=", a->name);
    if (name[0] == '\0' || strlen(name) >= RCV_SINK_NAME)
        return rcv_raise(RCV_ERR_MISUSE, 0, "a sink's name has 1 to %u bytes", RCV_SINK_NAME - 1);
    int rc = lock_take(a);
    if (rc != 0)
        return rc;
    struct rcv_sink *s = find_sink(a, name);
    if (s == NULL) {
        (void)lock_drop(a);
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": its feed has %u sinks already", a->name, RCV_SINKS);
    }
    if (atomic_load(&s->state) == RCV_SINK_FREE) {
        memset(s->name, 0, sizeof s->name);
        snprintf(s->name, sizeof s->name, "%s", name);
        set(&s->token, 0);
        set(&s->cursor, get(&a->feed->head));
        set(&s->seq, get(&a->feed->head_seq));
        atomic_store(&s->lost, 0);
        CRASHPOINT("feed.sink");
    }
    atomic_store(&s->state, required ? RCV_SINK_REQUIRED : RCV_SINK_OPTIONAL);
    *sink = (uint32_t)(s - a->feed->sink);
    return lock_drop(a);
}

int rcv_sink_close(rcv_arena *a, uint32_t sink)
{
    struct rcv_sink *s = sink_of(a, sink);
    if (s == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": its feed has no sink %u", a->name, sink);
    set(&s->token, 0);
    atomic_store(&s->state, RCV_SINK_FREE);
    return 0;
}

int rcv_sink_get(const rcv_arena *a, uint32_t sink, struct rcv_sink_state *out)
{
    const struct rcv_sink *s = sink_of(a, sink);
    memset(out, 0, sizeof *out);
    if (s == NULL)
        return 0;
    memcpy(out->name, s->name, sizeof out->name - 1);
    out->cursor = get(&s->cursor);
    out->seq = get(&s->seq);
    out->required = atomic_load(&s->state) == RCV_SINK_REQUIRED;
    out->lost = atomic_load(&s->lost) != 0;
    const uint64_t token = get(&s->token);
    const struct rcv_process *p = token != 0 && process_alive(a, token) ? process_of(a, token) : NULL;
    out->pid = p != NULL ? p->pid : 0;
    return 1;
}

int rcv_sink_serve(rcv_arena *a, uint32_t sink)
{
    struct rcv_sink *s = sink_of(a, sink);
    uint64_t         token = s != NULL ? get(&s->token) : 0;
    if (s == NULL || a->needs_slot)
        return 0;
    return token == a->token ||
           ((token == 0 || !process_alive(a, token)) && atomic_compare_exchange_strong(&s->token, &token, a->token));
}

void rcv_sink_taken(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
{
    struct rcv_sink *s = sink_of(a, sink);
    if (s == NULL)
        return;
    set(&s->seq, seq);
    set(&s->cursor, cursor);
    feed_ring_bell(a);
}

void rcv_sink_renew(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
{
    rcv_sink_taken(a, sink, cursor, seq);
    struct rcv_sink *s = sink_of(a, sink);
    if (s != NULL && cursor >= get(&a->feed->tail))
        atomic_store(&s->lost, 0);
}
