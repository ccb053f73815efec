/* sink.c -- sinks: who reads the commit feed, and may not miss anything.
 *
 * A sink keeps its cursor in the segment, not in its process: when that dies, another goes on from there. One that is *required* is
 * waited for when the ring is full; one that is not has *lost* then, and begins anew with a copy of everything. One process serves it at
 * a time, and only that one moves its cursor: without the lock, but never back, and never beyond what is committed. Where a sink
 * begins, it begins under the lock, or the tail could pass it unseen.
 */
#include "segment.h"

#include <stdio.h>

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

int sink_attach(rcv_arena *a, const char *name, uint64_t cursor, uint64_t seq)
{
    struct rcv_sink *s = a->feed != NULL ? find_sink(a, name) : NULL;
    if (s == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": it has no feed, or that has %u sinks already", a->name, RCV_SINKS);
    if (cursor < feed_load(&a->feed->tail) || cursor > feed_load(&a->feed->head))
        return rcv_raise(RCV_ERR_STALE, 0, "arena \"%s\": its feed does not have what comes after position %llu", a->name,
                         (unsigned long long)cursor);
    atomic_fetch_add(&a->feed->sinks, 1);
    if (atomic_load(&s->state) == RCV_SINK_FREE) {
        memset(s->name, 0, sizeof s->name);
        snprintf(s->name, sizeof s->name, "%s", name);
        feed_store(&s->token, 0);
    }
    feed_store(&s->cursor, cursor);
    feed_store(&s->seq, seq);
    atomic_store(&s->lost, 0);
    atomic_store(&s->state, RCV_SINK_REQUIRED);
    return 0;
}

/* is_open -- has that name such a sink already? Then there is nothing to begin, and nobody's step is waited for. */
static bool is_open(const rcv_arena *a, const char *name, uint32_t state, uint32_t *sink)
{
    for (unsigned i = 0; i < RCV_SINKS; i++) {
        const struct rcv_sink *s = &a->feed->sink[i];
        if (atomic_load(&s->state) == state && strncmp(s->name, name, sizeof s->name) == 0) {
            *sink = i;
            return true;
        }
    }
    return false;
}

int rcv_sink_open(rcv_arena *a, const char *name, int required, uint32_t *sink)
{
    const uint32_t state = required ? RCV_SINK_REQUIRED : RCV_SINK_OPTIONAL;
    if (a->feed == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" has no feed, which it is made with: feed=", a->name);
    if (name[0] == '\0' || strlen(name) >= RCV_SINK_NAME)
        return rcv_raise(RCV_ERR_MISUSE, 0, "a sink's name has 1 to %u bytes", RCV_SINK_NAME - 1);
    if (is_open(a, name, state, sink))
        return 0;
    int rc = lock_take(a);
    if (rc != 0)
        return rc;
    struct rcv_sink *s = find_sink(a, name);
    if (s == NULL) {
        (void)lock_drop(a);
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": its feed has %u sinks already", a->name, RCV_SINKS);
    }
    atomic_fetch_add(&a->feed->sinks, 1);
    if (atomic_load(&s->state) == RCV_SINK_FREE) {
        memset(s->name, 0, sizeof s->name);
        snprintf(s->name, sizeof s->name, "%s", name);
        feed_store(&s->token, 0);
        feed_store(&s->cursor, feed_load(&a->feed->head));
        feed_store(&s->seq, feed_load(&a->feed->head_seq));
        atomic_store(&s->lost, 0);
        CRASHPOINT("feed.sink");
    }
    atomic_store(&s->state, state);
    *sink = (uint32_t)(s - a->feed->sink);
    return lock_drop(a);
}

static int no_sink(const rcv_arena *a, uint32_t sink)
{
    return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": its feed has no sink %u", a->name, sink);
}

/* server -- of a sink: the process that lives and has it, or NULL. */
static const struct rcv_process *server(const rcv_arena *a, const struct rcv_sink *s)
{
    const uint64_t token = feed_load(&s->token);
    return token != 0 && process_alive(a, token) ? process_of(a, token) : NULL;
}

static bool is_ours(const rcv_arena *a, const struct rcv_sink *s) { return !a->needs_slot && feed_load(&s->token) == a->token; }

int rcv_sink_close(rcv_arena *a, uint32_t sink)
{
    struct rcv_sink          *s = sink_of(a, sink);
    const struct rcv_process *p = s != NULL && !is_ours(a, s) ? server(a, s) : NULL;
    if (s == NULL)
        return no_sink(a, sink);
    if (p != NULL)
        return rcv_raise(RCV_ERR_BUSY, 0, "arena \"%s\": process %u serves the sink \"%.*s\"; it was not closed; end that process first", a->name,
                         (unsigned)p->pid, (int)RCV_SINK_NAME - 1, s->name);
    feed_store(&s->token, 0);
    atomic_store(&s->state, RCV_SINK_FREE);
    rcv_feed_wake(a); /* there may be room now */
    return 0;
}

int rcv_sink_get(const rcv_arena *a, uint32_t sink, struct rcv_sink_state *out)
{
    const struct rcv_sink *s = sink_of(a, sink);
    memset(out, 0, sizeof *out);
    if (s == NULL)
        return 0;
    const struct rcv_process *p = server(a, s);
    memcpy(out->name, s->name, sizeof out->name - 1);
    out->cursor = feed_load(&s->cursor);
    out->seq = feed_load(&s->seq);
    const uint64_t           head = feed_load(&a->feed->head);
    const struct rcv_commit *next = out->cursor < head ? feed_record(a, out->cursor, head) : NULL;
    if (next != NULL)
        out->since = next->at;
    if (feed_load(&a->feed->tail) > out->cursor) /* overwritten meanwhile, or before */
        out->since = 0;
    out->required = atomic_load(&s->state) == RCV_SINK_REQUIRED;
    out->lost = atomic_load(&s->lost) != 0;
    out->pid = p != NULL ? p->pid : 0;
    out->ours = p != NULL && is_ours(a, s);
    return 1;
}

int rcv_sink_serve(rcv_arena *a, uint32_t sink)
{
    struct rcv_sink *s = sink_of(a, sink);
    uint64_t         token = s != NULL ? feed_load(&s->token) : 0;
    if (s == NULL)
        return no_sink(a, sink);
    if (a->needs_slot)
        return rcv_raise(RCV_ERR_BUG, 0, "a sink is to be served by a process that has not joined yet");
    return token == a->token ||
           ((token == 0 || !process_alive(a, token)) && atomic_compare_exchange_strong(&s->token, &token, a->token));
}

/* sink_leave -- another process, or another mapping of this one, may serve it from now on. */
void sink_leave(rcv_arena *a, uint32_t sink)
{
    struct rcv_sink *s = sink_of(a, sink);
    uint64_t         token = a->token;
    if (s != NULL && !a->needs_slot)
        (void)atomic_compare_exchange_strong(&s->token, &token, 0);
}

/* check -- may this process say that the sink has taken all before `cursor`? */
static int check(const rcv_arena *a, const struct rcv_sink *s, uint64_t cursor)
{
    const uint64_t from = feed_load(&s->cursor), head = feed_load(&a->feed->head);
    if (!is_ours(a, s))
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": this process does not serve the sink \"%.*s\"; nothing was changed; serve it first",
                         a->name, (int)RCV_SINK_NAME - 1, s->name);
    if (cursor < from || cursor > head || cursor % 8 != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "arena \"%s\": the sink \"%.*s\" can't have taken all before %llu: it was at %llu, and the feed ends at %llu; nothing "
                         "was changed", a->name, (int)RCV_SINK_NAME - 1, s->name, (unsigned long long)cursor, (unsigned long long)from,
                         (unsigned long long)head);
    return 0;
}

static int has_lost(const rcv_arena *a, const struct rcv_sink *s)
{
    return rcv_raise(RCV_ERR_STALE, 0, "arena \"%s\": the feed has overwritten what the sink \"%.*s\" has not taken; begin with a copy of the state",
                     a->name, (int)RCV_SINK_NAME - 1, s->name);
}

int rcv_sink_taken(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
{
    struct rcv_sink *s = sink_of(a, sink);
    int              rc = s != NULL ? check(a, s, cursor) : no_sink(a, sink);
    if (rc == 0 && atomic_load(&s->lost))
        rc = has_lost(a, s);
    if (rc != 0)
        return rc;
    feed_store(&s->seq, seq);
    feed_store(&s->cursor, cursor);
    rcv_feed_wake(a);
    return 0;
}

int rcv_sink_renew(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
{
    int rc = lock_take(a);
    if (rc != 0)
        return rc;
    struct rcv_sink *s = sink_of(a, sink);
    rc = s != NULL ? check(a, s, cursor) : no_sink(a, sink);
    if (rc == 0 && cursor < feed_load(&a->feed->tail))
        rc = has_lost(a, s);
    if (rc == 0) {
        atomic_fetch_add(&a->feed->sinks, 1);
        feed_store(&s->seq, seq);
        feed_store(&s->cursor, cursor);
        atomic_store(&s->lost, 0);
    }
    const int dropped = lock_drop(a);
    if (rc == 0)
        rcv_feed_wake(a);
    return rc != 0 ? rc : dropped;
}
