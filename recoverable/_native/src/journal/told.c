/* told.c -- what all processes learn of a journal: what the thread that writes has done, and its last snapshot. */
#include "flusher.h"
#include "internal.h"
#include "segment/segment.h"

void rcv_journal_note_snapshot(rcv_arena *a, uint64_t seq, uint64_t at, uint64_t bytes)
{
    if (a->feed == NULL)
        return;
    atomic_store(&a->feed->flushed.snapshot_seq, seq);
    atomic_store(&a->feed->flushed.snapshot_bytes, bytes);
    atomic_store(&a->feed->flushed.snapshot_at, at);
}

static inline uint64_t get(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_acquire); }

int rcv_journal_get(const rcv_arena *a, struct rcv_journal_state *out)
{
    memset(out, 0, sizeof *out);
    if (a->feed == NULL)
        return 0;
    const struct rcv_flushed *w = &a->feed->flushed;
    out->batches = get(&w->batches);
    out->records = get(&w->records);
    out->bytes = get(&w->bytes);
    out->nanos = get(&w->nanos);
    out->worst = get(&w->worst);
    out->at = get(&w->at);
    out->number = get(&w->number);
    out->stopped = (int)atomic_load(&w->stopped);
    out->delayed = (int)atomic_load(&w->delayed);
    out->snapshot_seq = get(&w->snapshot_seq);
    out->snapshot_at = get(&w->snapshot_at);
    out->snapshot_bytes = get(&w->snapshot_bytes);
    for (unsigned i = 0; i < RCV_FLUSH_CLASSES; i++)
        out->in_class[i] = get(&w->in_class[i]);
    return out->number != 0 || out->stopped != 0 || out->delayed != 0; /* it may have failed before its first batch */
}
