/* privilege.c -- the last run of a request that has lost too often: others give way to it.
 *
 * First committer wins, so a long request may lose to short ones for ever. The last run that it is allowed is privileged:
 * other transactions go on running, but one whose commit would make the privileged one invalid waits with it, until that
 * has ended. Of a privileged run in another process nobody here knows what it has read: before that, every commit with
 * writes waits.
 *
 * One an arena: the word in the header holds the process's token. Who waits is a coroutine of the event loop
 * (recoverable/boundary.py); a `with` block is one step and cannot, so it goes ahead.
 *
 * What a privilege costs others has an end. The first who has to wait starts the clock, for all: a run that has written
 * nothing yet, and may be a long poll that never will, has 50 ms; from its first write on, busy_timeout. When that is over,
 * whoever waits takes the word away and goes ahead. (Not before he has looked ten times: an event loop with so much to do
 * that a turn of it takes 50 ms keeps the privileged run waiting, too.) From then on nobody waits for that run, which goes
 * on without, and loses. The same where it is lost already, or its process is dead. A handler that has not written in its last 100 commits,
 * or that has kept others waiting in vain without writing, gets no privilege until it has written.
 *
 * All of this is courtesy: nothing wrong is committed whoever waits or does not. So the words in the header are changed one by
 * one, and a race between two of them may shorten or lengthen a wait, no more.
 */
#include "internal.h"

#define UNWRITTEN UINT64_C(50000000) /* ns that others wait for a run which has written nothing */
#define LOOKS 10u                    /* at least: boundary.py looks every 5 ms */

/* holder_here -- the privileged run, if it is of this process and others still give way to it; else NULL. */
static rcv_txn *holder_here(const rcv_arena *a)
{
    return a->privileged && atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed) == a->token ? a->privileged : NULL;
}

/* privilege_drop -- a transaction has ended, or is lost. */
void privilege_drop(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (a->privileged != t)
        return;
    a->privileged = NULL;
    uint64_t own = a->token; /* in a forked child it is the parent's, which goes on */
    if (!atomic_compare_exchange_strong(&a->hdr->privileged, &own, 0) && !t->wrote)
        board_rest(t); /* it was taken away: they have waited in vain */
}

/* take_away -- its time is over, or it is lost: nobody waits for it any more. */
static void take_away(rcv_arena *a, uint64_t holder)
{
    (void)atomic_compare_exchange_strong(&a->hdr->privileged, &holder, 0);
    if (holder == a->token && a->privileged != NULL)
        privilege_drop(a->privileged);
}

/* is_over -- `t` would have to wait for the run of that process: need it no longer? Else the clock runs. */
static bool is_over(rcv_txn *t, uint64_t holder)
{
    rcv_arena     *a = t->arena;
    const rcv_txn *here = holder_here(a);
    if (holder == a->token ? here == NULL || stamp_hopeless(here) : !process_alive(a, holder))
        return true;
    uint64_t now = os_nanos(), until = atomic_load_explicit(&a->hdr->privileged_until, memory_order_relaxed);
    if (until == 0) {
        bool wrote = here ? here->wrote : atomic_load_explicit(&a->hdr->privileged_wrote, memory_order_relaxed) != 0;
        uint64_t end = now + (wrote ? (uint64_t)(a->busy_timeout * 1e9) : UNWRITTEN);
        until = atomic_compare_exchange_strong(&a->hdr->privileged_until, &until, end) ? end : until;
    }
    t->looks = t->waits_until == until ? t->looks + 1 : 0;
    t->waits_until = until;
    return now >= until && t->looks >= LOOKS;
}

/* privilege_wrote -- the privileged run has written, and its step is over: the clock begins again. */
void privilege_wrote(rcv_txn *t)
{
    struct rcv_header *h = t->arena->hdr;
    if (holder_here(t->arena) == NULL || atomic_exchange(&h->privileged_wrote, 1) != 0)
        return;
    atomic_store_explicit(&h->privileged_until, 0, memory_order_relaxed);
}

int rcv_privilege_take(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (holder_here(a) == t)
        return RCV_PRIVILEGED;
    if (a->needs_slot || board_idle(t)) /* after a fork the token is still the parent's */
        return RCV_NO_PRIVILEGE;
    uint64_t holder = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    if (holder != 0 && !is_over(t, holder))
        return RCV_AWAIT_PRIVILEGE;
    take_away(a, holder);
    if (a->privileged != NULL) /* another process has taken its word away */
        privilege_drop(a->privileged);
    holder = 0;
    if (!atomic_compare_exchange_strong(&a->hdr->privileged, &holder, a->token))
        return RCV_AWAIT_PRIVILEGE;
    atomic_store_explicit(&a->hdr->privileged_wrote, 0, memory_order_relaxed);
    atomic_store_explicit(&a->hdr->privileged_until, 0, memory_order_relaxed);
    a->privileged = t;
    return RCV_PRIVILEGED;
}

int rcv_must_wait(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   holder = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    if (likely(holder == 0) || holder_here(a) == t)
        return 0;
    for (const rcv_txn *p = t->parent; p != NULL; p = p->parent)
        if (p == a->privileged)
            return 0; /* it would wait for itself */
    (void)rcv_txn_suspend(t); /* only then are its raw writes known; a failure dooms it */
    if (t->state != RCV_ACTIVE || !t->wrote)
        return 0;
    const rcv_txn *here = holder_here(a);
    if (here != NULL && !stamp_meets(t, here))
        return 0;
    if (!is_over(t, holder))
        return 1;
    take_away(a, holder);
    return 0;
}

int    rcv_privileged_here(const rcv_arena *a) { return holder_here(a) != NULL; }
double rcv_busy_timeout(const rcv_arena *a) { return a->busy_timeout; }
