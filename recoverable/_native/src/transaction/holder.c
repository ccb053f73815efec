/* holder.c -- whom somebody waits for: who has the privilege, the turn at a hot spot; lock.c has the lock's.
 *
 * For people who ask why a request takes so long. It is read word by word while others change it, without the lock, so it may
 * name who has just let go; handlers of other processes are found on the board. Nothing is decided by it.
 */
#include "transaction.h"

#define LOOKS 100u /* at one place in a queue, while those who stand there come and go */

int rcv_privilege_holder(const rcv_arena *a, struct rcv_holder *out)
{
    uint64_t       token = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    const rcv_txn *here = privilege_here(a);
    process_name(a, token, out);
    if (token == 0)
        return 0;
    if (here != NULL)
        memcpy(out->handler, here->handler, sizeof out->handler - 1);
    else
        board_name(a, atomic_load_explicit(&a->board->privileged_row, memory_order_relaxed), out->handler);
    return 1;
}

int rcv_turn_holder(rcv_arena *a, const struct rcv_turn *turn, struct rcv_holder *out)
{
    const struct rcv_ticket *t = turn_ahead(a, turn);
    uint64_t                 token = 0, row = 0;
    for (unsigned i = 0; t != NULL && i < LOOKS; i++) { /* who leaves meanwhile has no token any more: another is ahead then */
        const struct rcv_ticket *first = t;
        token = atomic_load(&t->token);
        row = atomic_load_explicit(&t->row, memory_order_relaxed);
        t = turn_ahead(a, turn);
        if (t == first && token != 0)
            break;
    }
    process_name(a, t != NULL ? token : 0, out);
    if (t == NULL)
        return 0;
    board_name(a, row, out->handler);
    return 1;
}

void rcv_turn_name(rcv_arena *a, const struct rcv_turn *turn, const char *handler)
{
    struct rcv_name name;
    rcv_name_set(&name, handler);
    turn_name(a, turn, board_row(a, name.text));
}
