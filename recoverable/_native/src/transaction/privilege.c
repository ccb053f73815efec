/* privilege.c -- the last run of a request that has lost too often: others give way to it.
 *
 * First committer wins, so a long request may lose to short ones for ever. The last run that it is allowed is privileged:
 * other transactions go on running, but one whose commit would make the privileged one invalid waits with it, until that
 * has ended. Of a privileged run in another process nobody here knows what it has read: before that, every commit with
 * writes waits.
 *
 * One an arena: the word in the header holds the process's token. Who waits is a coroutine of the event loop
 * (recoverable/privilege.py); a `with` block is one step and cannot, so it goes ahead.
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
#include "transaction.h"


/* privilege_here -- the privileged run, if it is of this process and others still give way to it; else NULL. */
rcv_txn *privilege_here(const rcv_arena *a)
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

/* privilege_wrote -- the privileged run has written, and its step is over: the clock begins again. */
void privilege_wrote(rcv_txn *t)
{
    struct rcv_header *h = t->arena->hdr;
    if (privilege_here(t->arena) == NULL || atomic_exchange(&h->privileged_wrote, 1) != 0)
        return;
    atomic_store_explicit(&h->privileged_until, 0, memory_order_relaxed);
}

int    rcv_privileged_here(const rcv_arena *a) { return privilege_here(a) != NULL; }
