/* test_lock_killed.c -- whoever is killed at any point of taking or dropping the lock: everybody else goes on. */
#include "children.h"

static const char *point;
static uint64_t    nth;
static bool        briefly; /* as where an event loop must go on */

static void step_until_killed(rcv_arena *a)
{
    a->busy_timeout = 20;
    rcv_crash_only(point);
    rcv_crash_at(nth);
    for (uint64_t begun = os_nanos(); os_nanos() - begun < 5000000000u;) {
        while (briefly && rcv_lock_wait_briefly(a, nth == 1) == RCV_ERR_AGAIN)
            continue;
        full_step(a);
        if (nth % 2 == 0) {
            uint64_t until = os_nanos() + 300000;
            step_begin(a);
            while (os_nanos() < until)
                continue;
            step_commit(a);
        }
    }
}

static void step_beside(rcv_arena *a)
{
    a->busy_timeout = 20;
    for (;;) {
        uint64_t until = os_nanos() + 300000;
        step_begin(a);
        uint64_t n = *nth_word(a, 2) + 1;
        put(a, 2, n);
        while (os_nanos() < until)
            continue;
        put(a, 3, n);
        step_commit(a);
    }
}

/* plant -- a place of somebody who has waited for long, and does not sleep there. */
static void plant(rcv_arena *a)
{
    atomic_store(&a->hdr->queue[7].ticket, 3);
    atomic_store(&a->hdr->queue[7].hungry, 1);
    atomic_store(&a->hdr->queue[7].passed, 2);
}

/* victim_of -- one that is going to die at `point`, in the company that it takes to get there. */
static pid_t victim_of(rcv_arena *a, pid_t *beside)
{
    pid_t victim;
    *beside = 0;
    if (strstr(point, "seize") != NULL || strstr(point, "mended") != NULL) {
        pid_t owner = start(hold_a_step);
        hear(said[0]);
        victim = start(step_until_killed);
        wait_until_hungry(a, 1);
        kill_and_reap(owner);
    } else if (strstr(point, "expired") != NULL) {
        CHECK(lock_take(a) == 0); /* until it waits */
        victim = start(step_until_killed);
        wait_until_hungry(a, 1);
        plant(a);
        atomic_store(&a->lock_thread, 0);
        atomic_store(&a->hdr->lock.owner, RCV_OFFERED | 3 << 8 | 8);
    } else {
        plant(a);
        *beside = start(step_beside);
        victim = start(step_until_killed);
    }
    return victim;
}

static void test_killed_at_every_point(void)
{
    static const char *const points[] = {"lock.taken",        "lock.before_drop", "lock.offered", "lock.offer_taken_back",
                                         "lock.free",         "lock.expired",     "lock.before_seize", "lock.seized",
                                         "lock.mended"};
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: killed at every point of the lock");
        return;
    }
    begin();
    rcv_arena *a = scratch_arena(fd, MIB);
    a->busy_timeout = 20;
    for (unsigned i = 0; i < sizeof points / sizeof *points; i++)
        for (unsigned round = 1; round <= 2; round++) {
            point = points[i];
            nth = i < 5 ? round : 1;
            briefly = round == 2;
            pid_t beside, victim = victim_of(a, &beside);
            int   status = reap(victim);
            if (!was_killed(status))
                fprintf(stderr, "not reached: %s, %llu: status %x\n", point, (unsigned long long)nth, (unsigned)status);
            CHECK(was_killed(status));
            for (int k = 0; k < 20; k++) /* everybody else goes on */
                full_step(a);
            if (beside != 0)
                kill_and_reap(beside);
            CHECK(rcv_lock_wait(a, NULL) == 0 && lock_take(a) == 0);
            CHECK(*nth_word(a, 0) == *nth_word(a, 1) && *nth_word(a, 2) == *nth_word(a, 3) && undo_tail(a) == 0);
            CHECK(lock_drop(a) == 0 && !process_others(a));
            memset(a->hdr->queue, 0, sizeof a->hdr->queue);
        }
    end(a);
}

int main(void)
{
    alarm(55);
    test_killed_at_every_point();
    CHECKS_DONE();
    return 0;
}
