/* cursors.c -- what a commit asks of the sinks: is one in its way, and does one lose something by it?
 *
 * Cursors only grow, so each process keeps the least of them as it was when it looked last, and looks again where that is not enough, or
 * the word `sinks` has moved: that moves, under the lock, before a sink begins anywhere.
 */
#include "segment.h"

/* look -- keep the least position that a required sink needs, and the least that any has; UINT64_MAX: there is none. Lock held, or what
 * another opens just now would be missed for good. */
static void look(rcv_arena *a)
{
    a->sinks_seen = feed_load(&a->feed->sinks);
    a->sinks_need = a->sinks_have = UINT64_MAX;
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        const struct rcv_sink *s = &a->feed->sink[i];
        const uint32_t         state = atomic_load_explicit(&s->state, memory_order_acquire);
        const uint64_t         at = feed_load(&s->cursor);
        if (state == RCV_SINK_FREE || atomic_load(&s->lost))
            continue;
        a->sinks_have = at < a->sinks_have ? at : a->sinks_have;
        if (state == RCV_SINK_REQUIRED)
            a->sinks_need = at < a->sinks_need ? at : a->sinks_need;
    }
}

/* keeps -- where the ring begins once so many bytes more are in it. */
static uint64_t keeps(const rcv_arena *a, uint64_t bytes)
{
    const uint64_t end = feed_load(&a->feed->head) + bytes;
    return end > a->ring_size ? end - a->ring_size : 0;
}

bool sinks_need(rcv_arena *a, uint64_t bytes)
{
    const uint64_t from = keeps(a, bytes);
    if (likely(a->sinks_seen == feed_load(&a->feed->sinks) && a->sinks_need >= from))
        return false;
    look(a);
    return a->sinks_need < from;
}

const struct rcv_sink *sinks_wait(const rcv_arena *a, uint64_t bytes)
{
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        const struct rcv_sink *s = &a->feed->sink[i];
        if (atomic_load(&s->state) == RCV_SINK_REQUIRED && !atomic_load(&s->lost) && feed_load(&s->cursor) < keeps(a, bytes))
            return s;
    }
    return NULL;
}

int sinks_full(const rcv_arena *a, uint64_t bytes)
{
    const struct rcv_sink *s = sinks_wait(a, bytes);
    if (s == NULL)
        return 0;
    return rcv_raise(RCV_ERR_FEED, 0,
                     "arena \"%s\": its feed is full (%llu bytes) of commits that \"%.*s\" has not taken yet; nothing was committed; "
                     "send the request again, and look at what keeps it; a larger feed= holds more", a->name,
                     (unsigned long long)a->ring_size, (int)RCV_SINK_NAME - 1, s->name);
}

void sinks_lose(rcv_arena *a, uint64_t tail)
{
    if (likely(a->sinks_seen == feed_load(&a->feed->sinks) && a->sinks_have >= tail))
        return;
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        struct rcv_sink *s = &a->feed->sink[i];
        if (atomic_load(&s->state) != RCV_SINK_FREE && feed_load(&s->cursor) < tail)
            atomic_store(&s->lost, 1);
    }
    look(a);
}

void sinks_begin_anew(rcv_arena *a)
{
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        atomic_store(&a->feed->sink[i].lost, 1);
        feed_store(&a->feed->sink[i].token, 0);
    }
}
