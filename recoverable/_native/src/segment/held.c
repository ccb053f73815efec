/* held.c -- for how long the lock is held, and waited for.
 *
 * What we want: to know how full the lock is, which is what says how many cores one arena carries, from any process and from
 * outside, also in the moment of trouble: a step that has the lock for seconds is to be seen while it does, and is to be
 * counted however it ends. A healthy step pays a few instructions for it.
 *
 * What does not work: to time a sample alone (the one long hold is never in it); to let the watchdog or those who wait look for
 * long ones (nobody need be watching or waiting, and who was not there does not know since when); the clock at both ends, which is
 * a hundred instructions, or sums of all holds on the board, which is a cache line that comes from another core for each.
 *
 * What does: whoever takes the lock leaves the processor's counter beside its owner, in the line that it has just written to,
 * and looks at the counter again before it drops it. So
 *   - what has lasted for RCV_LONG_HOLD is counted for certain, once, with its own time; the shorter that is the better are the
 *     estimates below, but a step that valgrind runs, fifty times slower, is to be none: its instructions are a gate;
 *   - anybody can say for how long the lock has been held by now, and whoever takes it from a dead owner counts what that one held;
 *   - of the others some are timed, each counted as often as there were since the last one: the count is that of all, the sum is
 *     an estimate. All of the first EXACT of a process are timed, then fewer and fewer, from GROWN on one in 17 to 32. The distance
 *     to the next one is random, lest it fall into step with requests that take the lock in a rhythm. What a process has held
 *     since the last one that was timed is not on the board yet: less than a tenth of all, and 31 at most.
 * Waits are timed all: whoever waits has the time.
 *
 * When a process was killed nobody can say. Its hold counts until it was seen alive last (by those who waited, every 10 ms; by
 * its watchdog; by who asked for these figures), and for GRACE more, if it was found dead as late as that: an arena that nobody
 * wanted for a night has not been full all night.
 *
 * Holds are added under the lock, waits atomically, since an event loop waits without ever having the lock: nothing is lost
 * between processes. Who is killed while it adds leaves one sample half-counted.
 * What is no hold: the time that a lock is free, on offer to who sleeps.
 */
#include "segment.h"

#define CLASS_ONE 8u /* 256 ns: below that is the first class */
#define EXACT 16u
#define GROWN 80u
#define GRACE UINT64_C(1000000000) /* ns */

_Static_assert(sizeof(struct rcv_board_times) == sizeof(struct rcv_times), "the same but for who reads it");

/* class_of -- which of the classes of times a time is in. */
static unsigned class_of(uint64_t nanos)
{
    unsigned bits = nanos >> CLASS_ONE == 0 ? 0 : 64 - (unsigned)__builtin_clzll(nanos >> CLASS_ONE);
    return bits < RCV_TIME_CLASSES ? bits : RCV_TIME_CLASSES - 1;
}

/* grow -- plain addition: the lock is held. */
static inline void grow(_Atomic uint64_t *n, uint64_t by)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + by, memory_order_relaxed);
}

static void add(const rcv_arena *a, uint64_t times, uint64_t nanos)
{
    struct rcv_board_times *held = &a->board->held;
    grow(&held->count, times);
    grow(&held->nanos, nanos * times);
    grow(&held->in_class[class_of(nanos)], times);
}

/* ticks_since -- 0 too where another processor's counter is a little behind. */
static uint64_t ticks_since(uint64_t then)
{
    uint64_t now = os_ticks();
    return now > then ? now - then : 0;
}

/* -- a hold of this process ---------------------------------------------------------------------------------------- */

/* time_next -- … after so many that are not. */
static void time_next(rcv_arena *a, uint32_t after) { a->untimed = a->unseen = after; }

/* distance -- how many are not timed between the n-th that is and the next: at random, but the same each time. */
static uint32_t distance(uint32_t n)
{
    uint32_t least = n < GROWN ? (n - EXACT) / 8 : 16, range = n < GROWN ? (n - EXACT) / 4 + 1 : 16;
    uint32_t random = n * UINT32_C(0x9e3779b9);
    random = (random ^ random >> 15) * UINT32_C(0x85ebca6b);
    return n < EXACT ? 0 : least + (uint32_t)((uint64_t)(random ^ random >> 13) * range >> 32);
}

void __attribute__((noinline)) held_begin(rcv_arena *a)
{
    a->uncounted += (int64_t)a->unseen + 1;
    a->counted_from = 0;
    time_next(a, distance(a->n_timed++));
}

void __attribute__((noinline)) held_end(rcv_arena *a)
{
    const bool     timed = a->counted_from == 0;
    const uint64_t ticks = ticks_since(atomic_load_explicit(&a->hdr->lock.since, memory_order_relaxed));
    a->counted_from = RCV_LONG_HOLD;
    if (a->image != NULL) { /* its lock is its own, and it has no board */
        a->counted_from = UINT64_MAX;
    } else if (ticks >= RCV_LONG_HOLD) { /* it stands for itself */
        add(a, 1, os_ticks_nanos(ticks));
        a->uncounted--;
        if (timed && a->uncounted > 0)
            time_next(a, 0); /* for those before this one */
    } else if (timed && a->uncounted > 0) {
        add(a, (uint64_t)a->uncounted, os_ticks_nanos(ticks));
        a->uncounted = 0;
    }
}

void held_after_fork(rcv_arena *a)
{
    a->n_timed = 0;
    a->uncounted = 0;
    time_next(a, 0);
}

/* -- a hold of anybody --------------------------------------------------------------------------------------------- */

/* lasted -- nanoseconds of a hold by now, or until its owner died. */
static uint64_t lasted(const rcv_arena *a, uint64_t since, bool dead)
{
    uint64_t all = os_ticks_nanos(ticks_since(since)), seen = atomic_load_explicit(&a->hdr->lock.seen, memory_order_relaxed);
    uint64_t alive = seen > since ? os_ticks_nanos(seen - since) : 0;
    return dead && alive + GRACE < all ? alive + GRACE : all;
}

/* held_lost -- see segment.h. Where its thread has ended, that has counted it. */
void held_lost(rcv_arena *a)
{
    uint64_t since = atomic_load(&a->hdr->lock.since);
    if (since != 0 && ticks_since(since) >= RCV_LONG_HOLD)
        add(a, 1, lasted(a, since, true));
    atomic_store(&a->hdr->lock.since, 0);
}

void held_seen(const rcv_arena *a) { atomic_store_explicit(&a->hdr->lock.seen, os_ticks(), memory_order_relaxed); }

/* running -- how long the one has had it that has it now, if that is long; *alive: and it lives. */
static uint64_t running(const rcv_arena *a, bool *alive)
{
    uint64_t since = atomic_load(&a->hdr->lock.since), word = atomic_load(&a->hdr->lock.owner);
    *alive = false;
    if (word == 0 || word & RCV_OFFERED || since == 0 || ticks_since(since) < RCV_LONG_HOLD)
        return 0;
    *alive = !(word & RCV_ORPHAN || process_gone(a, word & RCV_TOKEN));
    return atomic_load(&a->hdr->lock.since) == since ? lasted(a, since, !*alive) : 0; /* else it is over */
}

/* -- telling of it -------------------------------------------------------------------------------------------------- */

void held_waited(rcv_arena *a, uint64_t nanos)
{
    struct rcv_board_times *to = &a->board->waited;
    atomic_fetch_add(&to->count, 1);
    atomic_fetch_add(&to->nanos, nanos);
    atomic_fetch_add(&to->in_class[class_of(nanos)], 1);
}

static void copy(struct rcv_times *to, const struct rcv_board_times *from)
{
    to->count = atomic_load_explicit(&from->count, memory_order_relaxed);
    to->nanos = atomic_load_explicit(&from->nanos, memory_order_relaxed);
    for (unsigned i = 0; i < RCV_TIME_CLASSES; i++)
        to->in_class[i] = atomic_load_explicit(&from->in_class[i], memory_order_relaxed);
}

bool held_times(const rcv_arena *a, struct rcv_lock_times *out)
{
    bool alive;
    out->running = running(a, &alive); /* first: what ends meanwhile is in both for this once, and not in neither */
    copy(&out->held, &a->board->held);
    copy(&out->waited, &a->board->waited);
    return alive;
}

void rcv_get_lock_times(rcv_arena *a, struct rcv_lock_times *out)
{
    if (held_times(a, out))
        held_seen(a);
}
