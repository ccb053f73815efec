/* ticks.c -- how long so many of os_ticks() are.
 *
 * What we want: the nanoseconds of a span that two readings of the counter bound, at any time, in any process, without having
 * waited for them first.
 *
 * What does: the rate is measured against the clock, over the time since it was measured last, half a second or more; the
 * first time since this library was loaded. A machine that was suspended makes one of these spans wrong, and only that one.
 * A forked child begins with its parent's rate, and compares no clock with its parent's, whose time namespace may be another.
 */
#include "base.h"

#if defined(__x86_64__)

#define SHORTEST UINT64_C(1000000) /* nanoseconds: a rate over this is right to a hundredth, and mostly to a ten-thousandth */
#define TIGHT 20000u               /* ticks: a reading of the clock that takes longer was interrupted, and is tried again */

static struct {
    uint64_t        ticks, nanos; /* where the span begins that the next rate is of */
    _Atomic double  rate;         /* nanoseconds a tick; 0: not measured yet */
    _Atomic uint64_t measured;    /* … when, in ticks */
    atomic_flag     busy;
} clocks = {.busy = ATOMIC_FLAG_INIT};

/* now -- both clocks, as of one moment, as far as this thread is let run. */
static void now(uint64_t *ticks, uint64_t *nanos)
{
    for (unsigned i = 0; i < 8; i++) {
        *ticks = os_ticks();
        *nanos = os_nanos();
        if (os_ticks() - *ticks < TIGHT)
            return;
    }
}

static void __attribute__((constructor)) begin(void) { now(&clocks.ticks, &clocks.nanos); }

static void measure(void)
{
    uint64_t ticks, nanos;
    if (atomic_flag_test_and_set(&clocks.busy))
        return;
    do
        now(&ticks, &nanos);
    while (nanos - clocks.nanos < SHORTEST);
    if (ticks > clocks.ticks)
        atomic_store(&clocks.rate, (double)(nanos - clocks.nanos) / (double)(ticks - clocks.ticks));
    clocks.ticks = ticks;
    clocks.nanos = nanos;
    atomic_store(&clocks.measured, ticks);
    atomic_flag_clear(&clocks.busy);
}

uint64_t os_ticks_nanos(uint64_t ticks)
{
    while (unlikely(atomic_load_explicit(&clocks.rate, memory_order_relaxed) <= 0 ||
                    os_ticks() - atomic_load_explicit(&clocks.measured, memory_order_relaxed) > OS_TICKS_HALF_SECOND)) {
        measure();
        if (atomic_load(&clocks.rate) > 0)
            break; /* else another thread is at it, for the first time */
    }
    return (uint64_t)((double)ticks * atomic_load_explicit(&clocks.rate, memory_order_relaxed));
}

void os_ticks_after_fork(void)
{
    begin();
    atomic_store(&clocks.measured, clocks.ticks);
    atomic_flag_clear(&clocks.busy);
}

#else

uint64_t os_ticks_nanos(uint64_t ticks) { return ticks; }
void     os_ticks_after_fork(void) {}

#endif
