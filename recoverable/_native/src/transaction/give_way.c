/* give_way.c -- who must wait for the privileged run, and for how long: privilege.c says why. */
#include "transaction.h"

#define UNWRITTEN UINT64_C(50000000) /* ns that others wait for a run which has written nothing */
#define LOOKS 10u                    /* at least: privilege.py looks every 5 ms */

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
    const rcv_txn *here = privilege_here(a);
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

int rcv_privilege_take(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (privilege_here(a) == t)
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
    atomic_store_explicit(&a->board->privileged_row, board_row(a, t->handler), memory_order_relaxed);
    a->privileged = t;
    t->empty = false;
    return RCV_PRIVILEGED;
}

int rcv_must_wait(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   holder = atomic_load_explicit(&a->hdr->privileged, memory_order_relaxed);
    if (likely(holder == 0) || privilege_here(a) == t)
        return 0;
    for (const rcv_txn *p = t->parent; p != NULL; p = p->parent)
        if (p == a->privileged)
            return 0; /* it would wait for itself */
    (void)rcv_txn_suspend(t); /* only then are its raw writes known; a failure dooms it */
    if (t->state != RCV_ACTIVE || !t->wrote)
        return 0;
    const rcv_txn *here = privilege_here(a);
    if (here != NULL && !stamp_meets(t, here))
        return 0;
    if (!is_over(t, holder))
        return 1;
    take_away(a, holder);
    return 0;
}

double rcv_busy_timeout(const rcv_arena *a) { return a->busy_timeout; }
