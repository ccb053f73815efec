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
 *      record bytes at `head` -> next -> PUBLISH -> head = next, bell + 1 -> shadows, log cut -> IDLE -> those who sleep are woken
 *      recovery:  STEP: next = head          PUBLISH: head = next, bell + 1                   -> IDLE -> the same
 *
 * Written before PUBLISH, seen after it. All of it is idempotent, like the rest of recovery. Old records are overwritten: `tail` moves
 * first, so a reader that finds `tail` still before what it has copied has copied it whole, as with a sequence lock.
 *
 * Nobody sleeps on past a commit: the bell has moved by the time that it is seen, so whoever looks before it sleeps does not. Who sleeps
 * already, and whose committer is killed before it wakes them, is woken by whoever recovers, or else looks by itself: nobody sleeps
 * for longer than a second at a time (recoverable/feed.py, bell.py). A commit whose process was killed between PUBLISH and `head` is
 * seen once somebody has recovered it, which is whoever wants the lock next.
 *
 * The ring is mapped twice in a row, so that a record lies in one piece wherever it begins.
 *
 * Where it still fails: power loss, as all that is RAM; and stray stores, against which a record has its mark and its length, and a
 * sink its own checksums.
 */
#include "segment.h"

_Static_assert(sizeof(struct rcv_commit) == 64 && sizeof(struct rcv_commit_unit) == 24 && sizeof(struct rcv_sink) == 64, "part of the format");
_Static_assert(sizeof(struct rcv_feed) <= 4096, "its words have a page");

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

void feed_begin_anew(rcv_arena *a)
{
    struct rcv_feed *f = a->feed;
    const uint64_t   head = feed_load(&f->head) & ~UINT64_C(7);
    atomic_fetch_add(&f->epoch, 1);
    sinks_begin_anew(a);
    feed_store(&f->tail, head); /* whoever was told of what lay there was told of another life */
    feed_store(&f->next, head);
    feed_store(&f->head, head);
    feed_restored(a, atomic_load(&a->hdr->commit_seq), feed_load(&f->at));
}

void feed_begin_at(rcv_arena *a, uint64_t position, uint64_t epoch)
{
    struct rcv_feed *f = a->feed;
    feed_store(&f->epoch, epoch);
    feed_store(&f->tail, position);
    feed_store(&f->next, position);
    feed_store(&f->head, position);
    memset(&f->flushed, 0, sizeof f->flushed);
    for (unsigned i = 0; i < RCV_SINKS; i++)
        atomic_store(&f->sink[i].state, RCV_SINK_FREE);
}

void feed_restored(rcv_arena *a, uint64_t seq, uint64_t at)
{
    struct rcv_feed *f = a->feed;
    feed_store(&f->tail_seq, seq);
    feed_store(&f->head_seq, seq);
    feed_store(&f->seq, seq);
    feed_store(&f->at, at);
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

/* is_sound -- can these be tail and head, of one moment? */
static inline bool is_sound(const rcv_arena *a, uint64_t tail, uint64_t head)
{
    return (head | tail) % 8 == 0 && tail <= head && head - tail <= a->ring_size;
}

static int misshapen(rcv_arena *a, uint64_t tail, uint64_t head)
{
    return seg_corrupt(a, "its feed is said to reach from %llu to %llu", (unsigned long long)tail, (unsigned long long)head);
}

int feed_too_long(const rcv_arena *a, uint64_t bytes)
{
    return rcv_raise(RCV_ERR_FULL, 0,
                     "arena \"%s\": a commit of %llu bytes is more than its feed can hold (%llu); nothing was committed; make it in "
                     "several, or make the arena with a larger feed=", a->name, (unsigned long long)bytes, (unsigned long long)a->ring_size);
}

int feed_reserve(rcv_arena *a, uint64_t bytes, uint8_t **out)
{
    struct rcv_feed *f = a->feed;
    const uint64_t   head = feed_load(&f->head);
    uint64_t         tail = feed_load(&f->tail), last = feed_load(&f->tail_seq);
    if (bytes > a->ring_size)
        return feed_too_long(a, bytes);
    int rc = unlikely(sinks_need(a, bytes)) ? sinks_full(a, bytes) : 0; /* which may just have taken it */
    if (rc != 0)
        return rc;
    if (head + bytes - tail > a->ring_size) {
        if (unlikely(!is_sound(a, tail, head)))
            return misshapen(a, tail, head);
        while (head + bytes - tail > a->ring_size) {
            const struct rcv_commit *r = feed_record(a, tail, head);
            last = r != NULL ? r->seq : feed_load(&f->head_seq);
            tail = r != NULL ? tail + r->length : head; /* damage: nobody gets at what lies behind it */
        }
        sinks_lose(a, tail);
        feed_store(&f->tail_seq, last);
        feed_store(&f->tail, tail);
        atomic_thread_fence(memory_order_seq_cst); /* before a byte is overwritten */
        CRASHPOINT("feed.tail");
    }
    *out = ring_at(a, head);
    return 0;
}

uint64_t feed_now(rcv_arena *a)
{
    uint64_t now = os_clock(), before = feed_load(&a->feed->at);
    return now > before ? now : before; /* a clock that was set back: times never go backwards */
}

void feed_written(rcv_arena *a, const struct rcv_commit *r)
{
    struct rcv_feed *f = a->feed;
    CRASHPOINT("feed.record");
    feed_store(&f->seq, r->seq);
    feed_store(&f->at, r->at);
    store_fence();
    feed_store(&f->next, feed_load(&f->head) + r->length);
    CRASHPOINT("feed.next");
}

void feed_publish(rcv_arena *a)
{
    struct rcv_feed *f = a->feed;
    feed_store(&f->head_seq, feed_load(&f->seq));
    feed_store(&f->head, feed_load(&f->next));
    CRASHPOINT("feed.head");
    atomic_fetch_add(&f->bell, 1); /* with its fence: whom feed_wake() does not see sees it, and the new head */
    CRASHPOINT("feed.bell");
}

void feed_wake(rcv_arena *a)
{
    struct rcv_feed *f = a->feed;
    CRASHPOINT("feed.wake");
    if (unlikely(atomic_load_explicit(&f->waiters, memory_order_relaxed) != 0))
        os_futex_wake_all(&f->bell);
}

void rcv_feed_wake(rcv_arena *a)
{
    if (a->feed == NULL)
        return;
    atomic_fetch_add(&a->feed->bell, 1);
    feed_wake(a);
}

/* -- recovery ----------------------------------------------------------------------------------------------------------- */

/* feed_recover -- lock held, or alone. May be killed and run again. */
int feed_recover(rcv_arena *a, unsigned phase)
{
    struct rcv_feed *f = a->feed;
    if (f == NULL)
        return 0;
    const uint64_t head = feed_load(&f->head), next = feed_load(&f->next), tail = feed_load(&f->tail);
    if (next % 8 != 0 || !is_sound(a, tail, head))
        return misshapen(a, tail, head);
    if (phase == RCV_PUBLISH && next != head && feed_record(a, head, next) == NULL)
        return seg_corrupt(a, "no record lies at %llu of its feed, where one was committed", (unsigned long long)head);
    if (phase == RCV_PUBLISH) {
        feed_publish(a);
    } else {
        feed_store(&f->next, head);
        feed_store(&f->seq, feed_load(&f->head_seq));
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
    out->epoch = feed_load(&f->epoch);
    out->size = a->ring_size;
    out->tail = feed_load(&f->tail);
    out->head = feed_load(&f->head);
    out->seq = feed_load(&f->head_seq);
    out->at = feed_load(&f->at);
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
    const uint64_t head = feed_load(&f->head); /* before `tail`, which never passes it */
    if (at > head || at % 8 != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": its feed ends at %llu, before %llu", a->name, (unsigned long long)head,
                         (unsigned long long)at);
    if (at < feed_load(&f->tail))
        return overwritten(a, at);
    if (head - at > a->ring_size)
        return misshapen(a, at, head);
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
    if (at < feed_load(&f->tail))
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
    uint64_t       here = feed_load(&f->tail), tail;
    const uint64_t head = feed_load(&f->head); /* where it ends by now: others may commit faster than this walks */
    if (here > head)
        return misshapen(a, here, head);
    for (;;) {
        if (seq < feed_load(&f->tail_seq))
            return overwritten(a, here);
        if (here >= head)
            return *at = here, 0;
        const struct rcv_commit *r = feed_record(a, here, head);
        const uint64_t           its = r != NULL ? *(const volatile uint64_t *)&r->seq : 0;
        const uint32_t           length = r != NULL ? *(const volatile uint32_t *)&r->length : 0;
        atomic_thread_fence(memory_order_acquire);
        if (here < (tail = feed_load(&f->tail))) { /* that may have been overwritten under us; what was before it was not */
            here = tail;
            continue;
        }
        if (r == NULL || head - here > a->ring_size)
            return seg_corrupt(a, "no record lies at %llu of its feed", (unsigned long long)here);
        if (its > seq)
            return *at = here, 0;
        here += length;
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
