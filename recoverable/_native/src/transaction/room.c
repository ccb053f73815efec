/* room.c -- who waits for room in the commit feed, and who goes first.
 *
 * What we want: whoever found the ring full commits in its turn, as soon as the sinks have taken enough, however many come after it.
 *
 * What does not work: leaving it to chance. Who has just committed asks again at once, before those who wait are even woken, and takes
 * the room that was made for them: a handler of large writes waited for all of its `busy_timeout`, while others committed.
 *
 * What does: who has to wait takes a ticket, and the room that it needs counts as taken for all that come later. So what is left over
 * goes to them, no more; and where there is room for several, they are woken together.
 *
 * Two kinds do not queue. A block: its thread stands still, and with it the event loop of those ahead of it. And the privileged run: those
 * ahead of it may have to give way to it. Each process has a queue of its own; between processes, whoever looks first goes first.
 *
 * Nothing is kept for long for one that does not come although there is room: its event loop stands still, or is over.
 */
#include "transaction.h"

#define PATIENCE UINT64_C(100000000) /* ns */

/* comes -- is what a transaction needs to be kept for it? Not if there has been room for it for a while, and it has not come. */
static bool comes(rcv_txn *t)
{
    if (sinks_wait(t->arena, t->feed_need) != NULL) {
        t->feed_could = 0;
        return true;
    }
    const uint64_t now = os_nanos();
    if (t->feed_could == 0)
        t->feed_could = now;
    return now - t->feed_could < PATIENCE;
}

uint64_t room_ahead(const rcv_txn *t)
{
    const rcv_arena *a = t->arena;
    uint64_t         bytes = 0;
    if (likely(a->feed_waiting == 0) || t->feed_alone || t->flags & RCV_TXN_ONE_STEP || a->privileged == t)
        return 0;
    for (rcv_txn *other = a->in_flight; other != NULL; other = other->next)
        if (other != t && other->feed_ticket != 0 && other->state == RCV_ACTIVE && other->feed_need != RCV_INSISTS &&
            (t->feed_ticket == 0 || other->feed_ticket < t->feed_ticket) && comes(other))
            bytes += other->feed_need;
    return bytes;
}

void room_stand(rcv_txn *t, uint64_t bytes)
{
    t->feed_need = bytes;
    if (t->feed_ticket != 0 || t->feed_alone || t->flags & RCV_TXN_ONE_STEP || t->arena->privileged == t)
        return; /* a privileged one would stand behind those that give way to it */
    t->feed_ticket = ++t->arena->feed_tickets;
    t->arena->feed_waiting++;
}

void room_leave(rcv_txn *t)
{
    if (t->feed_ticket != 0)
        t->arena->feed_waiting--;
    t->feed_ticket = t->feed_need = t->feed_could = 0;
    t->feed_alone = false;
}

int rcv_feed_room(const rcv_txn *t)
{
    return t->arena->feed == NULL || t->feed_need == 0 || t->feed_need == RCV_INSISTS ||
           sinks_wait(t->arena, t->feed_need + room_ahead(t)) == NULL;
}

uint64_t rcv_feed_ticket(const rcv_txn *t) { return t->feed_ticket; }

void rcv_feed_alone(rcv_txn *t)
{
    const uint64_t need = t->feed_need;
    room_leave(t);
    t->feed_need = need;
    t->feed_alone = true;
}

void rcv_feed_insist(rcv_txn *t) { t->feed_need = RCV_INSISTS; }
