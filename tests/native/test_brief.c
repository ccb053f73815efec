/* test_brief.c -- waiting for the lock where an event loop must go on: what is looked at, for how long, and what is left. */
#include "children.h"

enum { TRIES = 50, LOOK = 50000 /* ns, as brief.c has it */ };

/* least_look -- the shortest time of several that a look at the held lock has taken: others may have had the processor meanwhile. */
static uint64_t least_look(rcv_arena *a)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t begun = os_nanos();
        CHECK(!lock_is_free_soon(a));
        uint64_t took = os_nanos() - begun;
        least = took < least ? took : least;
    }
    return least;
}

/* It is looked at for a while before a loop turns, which takes longer; not where it is known to be stuck, nor where it is free. */
static void test_a_held_lock_is_looked_at_for_a_while(void)
{
    begin();
    rcv_arena *a = scratch_arena(fd, MIB);
    CHECK(lock_is_free_soon(a));
    pid_t pid = start(hold_a_step);
    hear(said[0]);
    CHECK(least_look(a) >= LOOK);
    CHECK(rcv_lock_wait_briefly(a, 0) == RCV_ERR_AGAIN && rcv_lock_is_stuck(a));
    CHECK(least_look(a) < LOOK);
    kill_and_reap(pid);
    CHECK(lock_is_free_soon(a)); /* the dead hold nothing */
    end(a);
}

/* Who comes while it is stuck does not stand in the queue; who is patient does so longer; both have it when it is let go of. */
static void test_a_stuck_lock_is_waited_for_once(void)
{
    begin();
    rcv_arena *a = scratch_arena(fd, MIB);
    a->busy_timeout = 20;
    pid_t pid = start(hold_a_step);
    hear(said[0]);
    uint64_t begun = os_nanos(), tickets = atomic_load(&a->hdr->lock.tickets);
    CHECK(rcv_lock_wait_briefly(a, 1) == RCV_ERR_AGAIN && os_nanos() - begun >= 25000000u);
    CHECK(atomic_load(&a->hdr->lock.tickets) == tickets + 1);
    CHECK(rcv_lock_wait_briefly(a, 0) == RCV_ERR_AGAIN && atomic_load(&a->hdr->lock.tickets) == tickets + 1);
    tell(go[1]);
    CHECK(went_well(reap(pid)));
    CHECK(rcv_lock_wait_briefly(a, 0) == 0); /* although it was stuck a moment ago */
    full_step(a);                           /* of this thread, which it was kept for */
    CHECK(rcv_lock_is_free(a));
    end(a);
}

/* A wait in vain leaves nothing that others would have to wait for. */
static void test_who_has_waited_in_vain_stands_nowhere(void)
{
    begin();
    rcv_arena *a = scratch_arena(fd, MIB);
    a->busy_timeout = 0.002; /* which bounds it as well */
    pid_t pid = start(hold_a_step);
    hear(said[0]);
    CHECK(rcv_lock_wait_briefly(a, 1) == RCV_ERR_AGAIN);
    for (unsigned i = 0; i < RCV_PLACES; i++)
        CHECK(atomic_load(&a->hdr->queue[i].ticket) == 0);
    CHECK(atomic_load(&a->waiters) == 0 && atomic_load(&a->prelocked) == 0);
    tell(go[1]);
    CHECK(went_well(reap(pid)));
    end(a);
}

int main(void)
{
    alarm(55);
    test_a_held_lock_is_looked_at_for_a_while();
    test_a_stuck_lock_is_waited_for_once();
    test_who_has_waited_in_vain_stands_nowhere();
    CHECKS_DONE();
    return 0;
}
