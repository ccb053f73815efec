/* ambient.c -- transactions that are found by the context of whoever runs, and whose steps no driver takes.
 *
 * Nobody tells when a step of theirs ends: the bindings have it suspended a little later. So between two operations a step is at
 * rest, and gives way to whoever needs the arena, in whatever thread it was: both have had the GIL in between. It is not at rest
 * while code of users runs in the middle of an operation (`held`), nor inside a block, whose end is its own thread's.
 */
#include "transaction.h"

void rcv_ambient(rcv_txn *t)
{
    if (t->ambient)
        return;
    t->ambient = true;
    t->arena->n_ambient++;
    if (t->mounted)
        atomic_store(&t->arena->may_yield, true);
}

int rcv_ambient_take(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (!t->ambient || !t->mounted || a->held > 0 || t->savepoints > 0)
        return 0;
    return a->step_thread == os_thread_id() || (lock_adopt(a) == 0 && t->mounted);
}

int rcv_ambient_yield(rcv_arena *a)
{
    rcv_txn *t = a->mounted;
    if (t == NULL || a->step_thread == os_thread_id() || !rcv_ambient_take(t))
        return 0;
    (void)rcv_txn_suspend(t); /* on failure it is doomed and out of the way all the same */
    return 1;
}
