/* brief.c -- waiting for the lock where an event loop must go on.
 *
 * What we want: a lock that is held for microseconds is waited for on the spot, since anything else takes longer; one that is held
 * by a handler that does not come back stops nobody's event loop, which has others to serve.
 *
 * What does not work: waiting on the spot alone (a loop stands still for as long as the holder likes); looking now and then alone
 * (whoever stands in the queue goes ahead each time).
 *
 * What does: look for SPIN, then stand in the queue for BRIEF, which is fair and long enough wherever steps are short. If even that
 * was in vain the lock counts as stuck for STUCK: who comes meanwhile does not try again, so that hundreds of requests stop their
 * loop once, not each of them. What they do instead is the bindings' affair: look now and then, while the loop goes on.
 *
 * Where each holder's step takes longer than BRIEF, and the next one has the lock at once, neither looking nor BRIEF ever finds it
 * free. So who has looked for long in vain, and sees that it moves from holder to holder, stands in the queue for PATIENT.
 */
#include "segment.h"

#define SPIN UINT64_C(50000)      /* ns */
#define BRIEF 0.005               /* seconds */
#define PATIENT 0.025             /* seconds */
#define STUCK UINT64_C(100000000) /* ns */
#define LOOKS 64u                 /* between two readings of the clock */

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int rcv_lock_is_free(rcv_arena *a)
{
    uint64_t word = atomic_load_explicit(&a->hdr->lock.owner, memory_order_relaxed), me = os_thread_id();
    if (word == 0 || a->needs_slot || word & RCV_ORPHAN)
        return 1;
    if (word & RCV_OFFERED)
        return 0;
    if ((word & RCV_TOKEN) == a->token)
        return atomic_load(&a->lock_thread) == me || atomic_load(&a->lock_thread) == RCV_THREAD_ENDED;
    return process_gone(a, word & RCV_TOKEN);
}

void rcv_lock_waited(rcv_arena *a, uint64_t nanos) { held_waited(a, nanos); }

/* spin -- look until it is free, for SPIN at most; how often. */
static unsigned spin(rcv_arena *a, uint64_t begun)
{
    unsigned looks = 0;
    while (atomic_load_explicit(&a->hdr->lock.owner, memory_order_relaxed) != 0) {
        if (++looks % LOOKS == 0 && os_nanos() - begun >= SPIN)
            break;
        relax();
    }
    return looks;
}

static bool is_stuck(const rcv_arena *a) { return os_nanos() < atomic_load_explicit(&a->stuck_until, memory_order_relaxed); }

int rcv_lock_is_stuck(const rcv_arena *a) { return is_stuck(a); }

uint64_t rcv_lock_moves(const rcv_arena *a)
{
    return atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed) + atomic_load_explicit(&a->hdr->cuts, memory_order_relaxed) +
           (atomic_load_explicit(&a->hdr->lock.owner, memory_order_relaxed) & RCV_TOKEN);
}

bool lock_is_free_soon(rcv_arena *a)
{
    if (rcv_lock_is_free(a) || is_stuck(a))
        return rcv_lock_is_free(a);
    (void)spin(a, os_nanos());
    return rcv_lock_is_free(a);
}

int rcv_lock_wait_briefly(rcv_arena *a, int patient)
{
    const double most = patient ? PATIENT : BRIEF;
    uint64_t begun = os_nanos();
    unsigned looks = spin(a, begun);
    if (looks != 0 && is_stuck(a) && !rcv_lock_is_free(a))
        return RCV_ERR_AGAIN;
    int rc = lock_wait(a, a->busy_timeout < most ? a->busy_timeout : most, patient, begun, NULL, NULL);
    if (rc != RCV_ERR_BUSY)
        return rc;
    atomic_store(&a->stuck_until, os_nanos() + STUCK);
    return RCV_ERR_AGAIN;
}
