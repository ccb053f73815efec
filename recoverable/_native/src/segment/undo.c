/* undo.c -- the undo log: format, append, validate, replay.
 *
 * What we want: at every instruction, a process that finds this memory after a SIGKILL can put back the state of the last
 * commit; and a rollback inside a living process is the same code.
 *
 * What does it: before bytes change, their old value is in the log. The log is a stack of records
 *
 *      [old bytes, padded to 8] [head: where, how many, which kind]      -> grows upwards; the tail is its length
 *
 * and is read from its top, which is why the head comes after the bytes. Three stores make an append, in this order:
 *
 *      record -> tail -> data
 *
 * Killed before the tail moved: the record does not exist, and the data is untouched. Killed after it: applying the record
 * writes the bytes that are there anyway. So replay may run twice, or be killed and start again: it is idempotent as long
 * as the tail stays where it is until all records have been applied. Newest first, because only the oldest record of a
 * byte holds its committed value.
 *
 * Against SIGKILL compiler fences keep that order. It stops a thread between two instructions; whoever maps the memory
 * afterwards sees every store that had retired, in program order. No CPU fence adds anything to that.
 *
 * A reader on another processor that takes no lock (image.c) needs the order as well, while it happens. On x86-64 stores are
 * seen in program order and the release fences below are no instruction; elsewhere they are a barrier each. What order
 * can't give that reader is a log that gets shorter under it, so every cut is announced: `cuts` is odd while one is made, and
 * another even number afterwards.
 *
 * The log is memory like the rest: `undo_claimed` says how far it is backed. It grows by slices, and after a huge step it is
 * cut back: mark first, then the memory, so that a mark never promises what is not there.
 *
 * Where it still fails: power loss (it is RAM), and stray stores of a broken extension module into the core view. The log
 * of such a process may be garbage, so undo_prev() believes nothing: a record that does not add up, or that points
 * anywhere but into what can be undone, is RCV_ERR_CORRUPT and never a crash. A scribble that still adds up is not found.
 */
#include "segment.h"

#include <errno.h>
#include <stddef.h>

#define UNDO_KEEP (RCV_SLICE)             /* what a trimmed log keeps */
#define UNDO_TRIM ((uint64_t)1024 * 1024) /* what it may hold without being trimmed */
#define SHARED_BIAS (UINT64_C(1) << 60)
#define UNDO_QUIET 256u /* steps in a row that needed no more than it would keep: claiming again takes milliseconds */

_Static_assert(sizeof(struct rcv_undo_head) == 16, "part of the format");

static inline uint64_t undo_claimed(const rcv_arena *a)
{
    return atomic_load_explicit(&a->hdr->undo_claimed, memory_order_relaxed);
}

/* undo_grow -- back `bytes` more above the tail: 0, EFBIG (its ceiling), ENOSPC or another errno. Signal-safe. */
static int undo_grow(rcv_arena *a, uint64_t bytes)
{
    uint64_t tail = undo_tail(a), claimed = undo_claimed(a);
    if (bytes > a->undo_size - tail)
        return EFBIG;
    while (claimed - tail < bytes) {
        uint64_t n = a->undo_size - claimed;
        if (n > RCV_SLICE)
            n = RCV_SLICE;
        int err = os_populate(a->undo + claimed, n);
        if (err != 0)
            return err;
        CRASHPOINT("undo.grow.before_mark");
        claimed += n;
        atomic_store_explicit(&a->hdr->undo_claimed, claimed, memory_order_release);
        CRASHPOINT("undo.grow.after_mark");
    }
    return 0;
}

/* no_room -- raise what undo_grow() could not do. */
static int no_room(const rcv_arena *a, int err)
{
    if (err == EFBIG)
        return rcv_raise(RCV_ERR_FULL, 0,
                         "arena \"%s\": one step changes more than the undo log can hold (%llu bytes); the step has to be "
                         "rolled back; split it by an await, or make the arena with a larger undo_size",
                         a->name, (unsigned long long)a->undo_size);
    return rcv_raise(RCV_ERR_FULL, err,
                     "arena \"%s\": no shared memory left for the undo log; the step has to be rolled back; make room in "
                     "/dev/shm", a->name);
}

/* undo_reserve -- room for `bytes` of records (heads included). RCV_ERR_FULL leaves the log as it is. */
int undo_reserve(rcv_arena *a, uint64_t bytes)
{
    if (likely(bytes <= undo_claimed(a) - undo_tail(a)))
        return 0;
    int err = undo_grow(a, bytes);
    return err == 0 ? 0 : no_room(a, err);
}

/* set_tail -- what was stored before stays before, what comes after stays after. */
static inline void set_tail(rcv_arena *a, uint64_t tail)
{
    store_fence();
    atomic_store_explicit(&a->hdr->undo_tail, tail, memory_order_release);
    reader_fence();
}

/* push -- the record, then the tail; room is there. */
static inline void push(rcv_arena *a, uint64_t tail, rcv_off off, uint32_t len, unsigned kind)
{
    uint8_t       *to = a->undo + tail;
    const uint8_t *from = a->core + off;
    uint64_t       padded = ((uint64_t)len + 7) & ~UINT64_C(7);
    if (len == 8)
        memcpy(to, from, 8); /* one move each: most records are a word or a cell */
    else if (len == 16)
        memcpy(to, from, 16);
    else
        memcpy(to, from, len);
    struct rcv_undo_head head = {off, len, kind | RCV_UNDO_MARK};
    memcpy(to + padded, &head, sizeof head);
    CRASHPOINT("undo.append.before_tail");
    set_tail(a, tail + padded + sizeof head);
    CRASHPOINT("undo.append.after_tail");
    a->n.undo_bytes += len;
    a->n.undo_records++;
}

/* undo_share -- may other threads append as well, from the trap handler? Then every append takes the view lock: the bias, which
 * makes the common comparison fail, sends it to append_slow(). */
void undo_share(rcv_arena *a, bool shared)
{
    a->undo_shared = shared;
    a->undo_bias = shared ? SHARED_BIAS : rcv_fault_bias;
}

/* append_slow -- the log may be full, is to be full, or is shared. What is copied lies in the core view: whoever holds the lock
 * does not fault. */
static int append_slow(rcv_arena *a, rcv_off off, uint32_t len, unsigned kind)
{
    if (unlikely(rcv_fault_bias != 0) && fault_room("undo"))
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": the undo log was made to be full", a->name);
    if (!a->undo_shared) {
        int rc = undo_reserve(a, undo_cost(len));
        if (rc == 0)
            push(a, undo_tail(a), off, len, kind);
        return rc;
    }
    view_lock(a);
    int err = undo_grow(a, undo_cost(len));
    if (err == 0)
        push(a, undo_tail(a), off, len, kind);
    view_unlock(a);
    return err == 0 ? 0 : no_room(a, err);
}

/* undo_append -- save [off, off+len), which must be claimed memory, before it changes. Lock held, phase STEP.
 * RCV_ERR_FULL: nothing appended. */
int undo_append(rcv_arena *a, rcv_off off, uint32_t len, unsigned kind)
{
    uint64_t tail = undo_tail(a);
    if (unlikely(undo_cost(len) + a->undo_bias > undo_claimed(a) - tail))
        return append_slow(a, off, len, kind);
    push(a, tail, off, len, kind);
    return 0;
}

/* undo_append_trap -- a page's pre-image, from the trap handler: signal-safe, no error text. 0 or RCV_ERR_FULL. */
int undo_append_trap(rcv_arena *a, rcv_off page_off)
{
    uint64_t tail = undo_tail(a);
    uint32_t len = a->hdr->page_size;
    if (unlikely(undo_cost(len) > undo_claimed(a) - tail) && undo_grow(a, undo_cost(len)) != 0)
        return RCV_ERR_FULL;
    push(a, tail, page_off, len, RCV_U_PAGE);
    return 0;
}

/* range_in -- does [off, off+len) lie in [start, start+size)? */
static inline bool range_in(uint64_t off, uint64_t len, uint64_t start, uint64_t size)
{
    return off >= start && off - start <= size && len <= size - (off - start);
}

/* can_undo -- is this a range that records may name: claimed data, the heap table, the header's three undone words. */
static bool can_undo(const rcv_arena *a, const struct undo_record *r)
{
    const struct rcv_region *heap = &a->hdr->region[RCV_R_HEAP];
    const uint64_t           words = offsetof(struct rcv_header, system);
    if (range_in(r->off, r->len, a->data_off, rcv_data_claimed(a)))
        return r->kind != RCV_U_PAGE || (r->len == a->hdr->page_size && r->off % r->len == 0);
    if (r->kind == RCV_U_PAGE)
        return false;
    return range_in(r->off, r->len, heap->off, heap->size) ||
           range_in(r->off, r->len, words, offsetof(struct rcv_header, reclaim) + 8 - words);
}

_Static_assert(offsetof(struct rcv_header, reclaim) == offsetof(struct rcv_header, system) + 16, "one range in can_undo()");

/* undo_prev -- the record that ends at *at, checked; moves *at to its start. 1, 0 at the log's beginning, RCV_ERR_CORRUPT. */
int undo_prev(rcv_arena *a, uint64_t *at, struct undo_record *out)
{
    uint64_t end = *at;
    if (end == 0)
        return 0;
    if ((end & 7) != 0 || end < sizeof(struct rcv_undo_head) || end > undo_claimed(a) || end > a->undo_size)
        return seg_corrupt(a, "the undo log's tail (%llu) is outside the log", (unsigned long long)end);
    struct rcv_undo_head head;
    memcpy(&head, a->undo + end - sizeof head, sizeof head);
    unsigned kind = head.kind & 0xff;
    if ((head.kind & ~0xffu) != RCV_UNDO_MARK || kind < RCV_U_DATA || kind > RCV_U_PAGE)
        return seg_corrupt(a, "no undo record ends at %llu of the log", (unsigned long long)end);
    if (head.len == 0 || undo_cost(head.len) > end)
        return seg_corrupt(a, "the undo record that ends at %llu is longer than the log", (unsigned long long)end);
    out->start = end - undo_cost(head.len);
    out->old = a->undo + out->start;
    out->off = head.off;
    out->len = head.len;
    out->kind = kind;
    if (!can_undo(a, out))
        return seg_corrupt(a, "the undo record that ends at %llu names %u bytes at %llu, which can't be undone",
                           (unsigned long long)end, head.len, (unsigned long long)head.off);
    *at = out->start;
    return 1;
}

/* undo_apply -- put the old bytes back, newest first, down to `mark`; the tail stays, so that a kill in the middle only
 * means doing it again. RCV_ERR_CORRUPT: what lies above the bad record has been put back. */
int undo_apply(rcv_arena *a, uint64_t mark, struct rcv_recovery *report)
{
    struct undo_walk w = undo_walk_to(a, mark, MUTATED("undo.skip_pages") ? UNDO_ANNOUNCED : UNDO_ALL);
    while (undo_next(&w)) {
        uint8_t *to = a->core + w.r.off;
        if (w.r.kind != RCV_U_PAGE || memcmp(to, w.r.old, w.r.len) != 0) /* a page that was logged in vain need not leave the cache as a dirty one */
            memcpy(to, w.r.old, w.r.len);
        CRASHPOINT("undo.apply");
        report->records++;
        report->bytes += w.r.len;
        report->pages += w.r.kind == RCV_U_PAGE;
    }
    return w.error;
}

/* undo_retract -- an operation has failed: undo the announced writes above `mark`, and them alone. Pages that threads have
 * trapped meanwhile stay logged, so the log can't be cut under them: their records stay where they are, and the announced ones
 * among them become such that are undone once more, which does no harm, and never stashed. A kill at any point finds a log that
 * leads back to the step's beginning. RCV_ERR_CORRUPT: as undo_apply(). */
int undo_retract(rcv_arena *a, uint64_t mark)
{
    bool shared = a->undo_shared, pages = false;
    if (shared)
        view_lock(a);
    struct undo_walk w = undo_walk_to(a, mark, UNDO_ALL), again = undo_walk_to(a, mark, UNDO_KIND(RCV_U_DATA));
    while (undo_next(&w)) {
        if (w.r.kind == RCV_U_PAGE)
            pages = true;
        else
            memcpy(a->core + w.r.off, w.r.old, w.r.len);
        CRASHPOINT("undo.retract");
    }
    while (pages && undo_next(&again)) {
        uint32_t kind = RCV_U_STRUCT | RCV_UNDO_MARK;
        memcpy(a->undo + again.at + undo_cost(again.r.len) - sizeof(struct rcv_undo_head) + offsetof(struct rcv_undo_head, kind), &kind, sizeof kind);
    }
    if (!pages)
        undo_cut(a, mark);
    if (shared)
        view_unlock(a);
    return w.error;
}

/* undo_cut -- the log ends at `tail` now; what was above it is undone, or committed. Announced: see the top. Whoever died in
 * the middle left an odd number, and the next cut makes another one of it. */
void undo_cut(rcv_arena *a, uint64_t tail)
{
    _Atomic uint64_t *cuts = &a->hdr->cuts;
    uint64_t          odd = (atomic_load_explicit(cuts, memory_order_relaxed) + 1) | 1;
    store_fence();
    atomic_store_explicit(cuts, odd, memory_order_release);
    reader_fence();
    set_tail(a, tail);
    atomic_store_explicit(cuts, odd + 1, memory_order_release);
    reader_fence();
}

/* phase_set -- the same for the phase; storing RCV_PUBLISH is the commit. */
void phase_set(rcv_arena *a, unsigned phase)
{
    store_fence();
    atomic_store_explicit(&a->hdr->phase, phase, memory_order_release);
    reader_fence();
}

/* undo_trim -- in IDLE, with an empty log: give back what a huge step had claimed. A kill after the mark leaves memory
 * behind the log that nobody counts; the next attach that is alone gives it back. */
void undo_trim(rcv_arena *a)
{
    uint64_t claimed = undo_claimed(a);
    if (likely(claimed <= UNDO_TRIM) || undo_tail(a) != 0)
        return;
    atomic_store_explicit(&a->hdr->undo_claimed, UNDO_KEEP, memory_order_release);
    store_fence();
    CRASHPOINT("undo.trim.before_release");
    os_punch(a->undo + UNDO_KEEP, claimed - UNDO_KEEP); /* a failure costs memory, nothing else */
}

/* undo_maybe_trim -- a step of this process is over: has a large log been idle for long? Lock held, IDLE, the log is empty. */
void undo_maybe_trim(rcv_arena *a)
{
    if (likely(undo_claimed(a) <= UNDO_TRIM))
        return;
    uint64_t used = a->n.undo_bytes - a->undo_seen;
    a->undo_seen = a->n.undo_bytes;
    a->undo_quiet = used > UNDO_KEEP ? 0 : a->undo_quiet + 1;
    if (a->undo_quiet < UNDO_QUIET)
        return;
    a->undo_quiet = 0;
    undo_trim(a);
}
