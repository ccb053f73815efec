/* privilege.c -- the last run of a request that has lost too often: others give way to it.
 *
 * First committer wins, so a long request may lose to short ones for ever. The last run that it is allowed is privileged:
 * other transactions go on running, but one whose commit would make the privileged one invalid waits with it, until that
 * has ended or busy_timeout is over. Of a privileged run in another process nobody here knows what it has read: before
 * that, every commit with writes waits.
 *
 * One an arena: the word in the header holds the process's token, and is void once that process is dead. Who waits is a
 * coroutine of the event loop (recoverable/boundary.py); a `with` block is one step and cannot, so it goes ahead.
 */
#include "internal.h"

int rcv_privilege_take(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (a->privileged == t)
        return 1;
    if (a->privileged != NULL || a->needs_slot) /* after a fork the token is still the parent's */
        return 0;
    uint64_t holder = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    if (holder != 0 && holder != a->token && process_alive(a, holder))
        return 0;
    if (!atomic_compare_exchange_strong(&a->hdr->privileged, &holder, a->token))
        return 0;
    a->privileged = t;
    return 1;
}

/* privilege_drop -- a transaction has ended. */
void privilege_drop(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (a->privileged != t)
        return;
    a->privileged = NULL;
    uint64_t own = a->token; /* in a forked child it is the parent's, which goes on */
    (void)atomic_compare_exchange_strong(&a->hdr->privileged, &own, 0);
}

int rcv_must_wait(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   holder = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    if (likely(holder == 0) || a->privileged == t)
        return 0;
    for (const rcv_txn *p = t->parent; p != NULL; p = p->parent)
        if (p == a->privileged)
            return 0; /* it would wait for itself */
    (void)rcv_txn_suspend(t); /* only then are its raw writes known; a failure dooms it */
    if (t->state != RCV_ACTIVE || !t->wrote)
        return 0;
    if (a->privileged == NULL) {
        if (holder != a->token && process_alive(a, holder))
            return 1;
        (void)atomic_compare_exchange_strong(&a->hdr->privileged, &holder, 0); /* void: nobody need ask again */
        return 0;
    }
    return stamp_meets(t, a->privileged);
}

int    rcv_privileged_here(const rcv_arena *a) { return a->privileged != NULL; }
double rcv_busy_timeout(const rcv_arena *a) { return a->busy_timeout; }
