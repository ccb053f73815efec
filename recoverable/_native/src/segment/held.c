/* held.c -- for how long the lock is held, and waited for.
 *
 * What we want: to know how full the lock is, which is what says how many cores one arena carries, from any process and from
 * outside; and that a step pays a few instructions for it.
 *
 * What does: a histogram on the board, over all processes. Of the times that a process takes the lock, one in 17 to 32 is
 * timed, and counted as often as there were since the last one: so the count is that of all, the sum is an estimate of all,
 * and its growth over a second is how full the lock was in that second. The distance to the next one changes, lest it fall
 * into step with requests that take the lock in a rhythm. Waits are timed all: whoever waits has the time.
 *
 * Holds are added under the lock, waits atomically, since an event loop waits without ever having the lock: nothing is lost between
 * processes. Who is killed meanwhile leaves one sample half-counted.
 * What is no hold: the time that a lock is free, on offer to who sleeps.
 */
#include "segment.h"

#define CLASS_ONE 8u /* 256 ns: below that is the first class */

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

void __attribute__((noinline)) held_begin(rcv_arena *a)
{
    if (a->image != NULL) /* its lock is its own, and nobody waits for it */
        return;
    a->timed_for = a->stands_for;
    a->stands_for = 17 + (a->n_timed++ * UINT32_C(0x9e3779b9) >> 28); /* 17 to 32 */
    a->untimed = a->stands_for - 1;
    a->timed_since = os_nanos();
}

void __attribute__((noinline)) held_end(rcv_arena *a)
{
    struct rcv_board_times *held = &a->board->held;
    const uint64_t          nanos = os_nanos() - a->timed_since, times = a->timed_for + (a->timed_for == 0); /* 0: the first of all */
    grow(&held->count, times);
    grow(&held->nanos, nanos * times);
    grow(&held->in_class[class_of(nanos)], times);
    a->timed_since = 0;
}

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

void held_times(const struct rcv_board *board, struct rcv_lock_times *out)
{
    copy(&out->held, &board->held);
    copy(&out->waited, &board->waited);
}

void rcv_get_lock_times(const rcv_arena *a, struct rcv_lock_times *out) { held_times(a->board, out); }
