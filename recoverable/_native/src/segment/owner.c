/* owner.c -- the word that says whose the lock is, where it is changed by others than its owner. lock.c says what is in it. */
#include "segment.h"

/* lock_note_lost -- we have taken the lock from a dead owner: keep who it was for the report, through failures and further deaths. */
void lock_note_lost(rcv_arena *a, uint64_t word)
{
    uint64_t nobody = 0;
    (void)atomic_compare_exchange_strong(&a->hdr->lost, &nobody, word & RCV_TOKEN);
}

/* lock_init -- make the lock anew, whatever its bytes were: only while nobody else is attached. */
void lock_init(rcv_arena *a)
{
    if (lock_owner(a) != 0) {
        held_lost(a);
        lock_note_lost(a, lock_owner(a));
    }
    memset(&a->hdr->lock, 0, sizeof a->hdr->lock);
    memset(a->hdr->queue, 0, sizeof a->hdr->queue);
}

/* lock_orphan -- that slot of the process table has just got another owner: the one before is dead. */
void lock_orphan(rcv_arena *a, uint32_t slot)
{
    uint64_t word = atomic_load(&a->hdr->lock.owner);
    if (lock_owner(a) == (word & RCV_TOKEN) && word != 0 && (word & 0xff) == slot + 1 && (word & RCV_TOKEN) != a->token)
        (void)atomic_compare_exchange_strong(&a->hdr->lock.owner, &word, word | RCV_ORPHAN);
}
