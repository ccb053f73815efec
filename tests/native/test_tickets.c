/* test_tickets.c -- whose turn it is at a hot spot: whatever the others do there, die of, or leave behind. */
#include "scratch.h"

static int fd;

enum { UNIT = 7, OTHER = 8 };

static rcv_arena *begin(void)
{
    fd = scratch_object();
    rcv_arena *a = scratch_arena(fd, MIB);
    a->busy_timeout = 0.05; /* which bounds a turn as well */
    return a;
}

static void end(rcv_arena *a)
{
    CHECK(rcv_close(a) == 0);
    close(fd);
}

static bool comes_within(rcv_arena *a, struct rcv_turn *turn, double seconds)
{
    for (uint64_t begun = os_nanos(); (double)(os_nanos() - begun) < seconds * 1e9;)
        if (rcv_turn_come(a, turn))
            return true;
    return false;
}

static void test_first_come_first_served(void)
{
    rcv_arena      *a = begin();
    struct rcv_turn one, two, elsewhere;
    CHECK(rcv_turn_draw(a, UNIT, &one) && rcv_turn_draw(a, UNIT, &two) && rcv_turn_draw(a, OTHER, &elsewhere));
    CHECK(rcv_turn_come(a, &one) && !rcv_turn_come(a, &two) && rcv_turn_come(a, &elsewhere));
    CHECK(rcv_turn_queue(a, UNIT) == 2 && rcv_turn_queue(a, OTHER) == 1);
    rcv_turn_drop(a, &one);
    rcv_turn_drop(a, &one); /* nobody else's place */
    CHECK(rcv_turn_come(a, &two) && rcv_turn_stands(a, &two) && !rcv_turn_stands(a, &one));
    rcv_turn_drop(a, &two);
    rcv_turn_drop(a, &elsewhere);
    CHECK(rcv_turn_queue(a, UNIT) == 0 && rcv_turn_queue(a, OTHER) == 0);
    end(a);
}

static void test_who_stays_too_long_loses_its_turn(void)
{
    rcv_arena      *a = begin();
    struct rcv_turn one, two;
    CHECK(rcv_turn_draw(a, UNIT, &one) && rcv_turn_draw(a, UNIT, &two));
    uint64_t begun = os_nanos();
    CHECK(comes_within(a, &two, 5) && os_nanos() - begun >= 50000000u);
    CHECK(!rcv_turn_stands(a, &one) && rcv_turn_stands(a, &two));
    rcv_turn_drop(a, &one);
    rcv_turn_drop(a, &two);
    end(a);
}

static void test_whose_own_run_takes_a_moment_waits_for_some_looks_only(void)
{
    enum { LOOKS = 4, APART = 1000000 };
    rcv_arena      *a = begin();
    struct rcv_turn slow, quick;
    a->busy_timeout = 20;
    CHECK(rcv_turn_draw(a, UNIT, &slow) && rcv_turn_draw(a, UNIT, &quick));
    quick.most = 1;
    uint64_t begun = os_nanos();
    CHECK(comes_within(a, &quick, 5) && os_nanos() - begun >= LOOKS * APART); /* however often it looks meanwhile */
    CHECK(!rcv_turn_stands(a, &slow));
    rcv_turn_drop(a, &slow);
    rcv_turn_drop(a, &quick);
    end(a);
}

static void test_all_of_one_that_hangs_lose_their_turns_soon(void)
{
    rcv_arena      *a = begin();
    struct rcv_turn theirs[8], mine;
    for (unsigned i = 0; i < 8; i++)
        CHECK(rcv_turn_draw(a, UNIT, &theirs[i]));
    CHECK(rcv_turn_draw(a, UNIT, &mine));
    uint64_t begun = os_nanos();
    CHECK(comes_within(a, &mine, 5) && os_nanos() - begun >= 90000000u && os_nanos() - begun < 300000000u);
    for (unsigned i = 0; i < 8; i++) {
        CHECK(!rcv_turn_stands(a, &theirs[i]));
        rcv_turn_drop(a, &theirs[i]);
    }
    rcv_turn_drop(a, &mine);
    end(a);
}

/* Three processes that hang, as three arenas of this one, each with sixteen places that take turns with the others'. */
static void test_several_that_hang_are_in_the_way_for_no_longer_than_one(void)
{
    enum { PROCESSES = 3, PLACES = 48 };
    rcv_arena      *a = begin(), *theirs[PROCESSES];
    struct rcv_turn turns[PLACES], mine;
    for (unsigned i = 0; i < PROCESSES; i++)
        theirs[i] = scratch_arena(fd, 0);
    CHECK(theirs[0]->token != theirs[1]->token && theirs[0]->token != a->token);
    for (unsigned i = 0; i < PLACES; i++)
        CHECK(rcv_turn_draw(theirs[i % PROCESSES], UNIT, &turns[i]));
    CHECK(rcv_turn_draw(a, UNIT, &mine));
    uint64_t begun = os_nanos();
    CHECK(comes_within(a, &mine, 5) && os_nanos() - begun >= 90000000u && os_nanos() - begun < 1000000000u);
    CHECK(rcv_turn_stands(a, &mine) && rcv_turn_queue(a, UNIT) == 1);
    for (unsigned i = 0; i < PLACES; i++)
        rcv_turn_drop(theirs[i % PROCESSES], &turns[i]);
    rcv_turn_drop(a, &mine);
    for (unsigned i = 0; i < PROCESSES; i++)
        CHECK(rcv_close(theirs[i]) == 0);
    end(a);
}

static void test_a_whole_table_that_hangs_is_in_the_way_for_three_turns(void)
{
    static struct rcv_turn turns[RCV_TICKETS - 1];
    rcv_arena             *a = begin();
    struct rcv_turn        mine;
    for (unsigned i = 0; i < RCV_TICKETS - 1; i++)
        CHECK(rcv_turn_draw(a, UNIT, &turns[i]));
    CHECK(rcv_turn_draw(a, UNIT, &mine));
    a->busy_timeout = 0.2;
    uint64_t begun = os_nanos();
    CHECK(comes_within(a, &mine, 5) && os_nanos() - begun < 1500000000u);
    for (unsigned i = 0; i < RCV_TICKETS - 1; i++)
        rcv_turn_drop(a, &turns[i]);
    rcv_turn_drop(a, &mine);
    end(a);
}

/* … which is 2 ms of a second: tried some times, as a look may come late. */
static void test_however_many_have_hung_the_next_one_gets_its_share(void)
{
    rcv_arena *a = begin();
    bool       waited = false;
    a->busy_timeout = 5;
    for (int i = 0; i < 50 && !waited; i++) {
        struct rcv_turn well, mine;
        CHECK(rcv_turn_draw(a, UNIT, &well) && rcv_turn_draw(a, UNIT, &mine));
        mine.taken = RCV_TICKETS + (uint32_t)i;
        CHECK(!rcv_turn_come(a, &mine));
        waited = !rcv_turn_come(a, &mine) && rcv_turn_stands(a, &well);
        rcv_turn_drop(a, &well);
        CHECK(rcv_turn_come(a, &mine));
        rcv_turn_drop(a, &mine);
    }
    CHECK(waited);
    end(a);
}

static void test_where_numbers_begin_again_none_is_0(void)
{
    rcv_arena      *a = begin();
    struct rcv_turn mine;
    atomic_store(&a->board->tickets, UINT64_MAX);
    CHECK(rcv_turn_draw(a, UNIT, &mine) && rcv_turn_stands(a, &mine) && rcv_turn_queue(a, UNIT) == 1);
    uint32_t place = mine.place;
    rcv_turn_drop(a, &mine);
    CHECK(atomic_load(&a->board->ticket[place].token) == 0);
    end(a);
}

static void test_a_full_table_lets_everybody_through(void)
{
    static struct rcv_turn turns[RCV_TICKETS];
    rcv_arena             *a = begin();
    struct rcv_turn        late;
    for (unsigned i = 0; i < RCV_TICKETS; i++)
        CHECK(rcv_turn_draw(a, i, &turns[i]));
    CHECK(!rcv_turn_draw(a, 0, &late) && rcv_turn_come(a, &late) && !rcv_turn_stands(a, &late));
    rcv_turn_drop(a, &late);
    CHECK(rcv_turn_queue(a, 0) == 1);
    for (unsigned i = 0; i < RCV_TICKETS; i++)
        rcv_turn_drop(a, &turns[i]);
    end(a);
}

static const char *point;
static unsigned    before; /* places that it takes before it dies */

static void draw_and_die(void *unused)
{
    (void)unused;
    rcv_arena      *a = scratch_arena(fd, 0);
    struct rcv_turn turn;
    for (unsigned i = 0; i < before; i++)
        CHECK(rcv_turn_draw(a, UNIT, &turn));
    if (point == NULL)
        die();
    rcv_crash_only(point);
    rcv_crash_at(1);
    (void)rcv_turn_draw(a, UNIT, &turn);
}

static void test_the_dead_are_in_nobodys_way(void)
{
    static const char *const points[] = {NULL, "ticket.taken", "ticket.drawn"};
    static struct rcv_turn   turns[RCV_TICKETS];
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: killed with a place");
        return;
    }
    for (unsigned p = 0; p < sizeof points / sizeof *points; p++)
        for (before = p == 0; before < RCV_TICKETS; before = before * 16 + 1) {
            rcv_arena      *a = begin();
            struct rcv_turn mine;
            a->busy_timeout = 20; /* it is not by waiting that it gets on */
            point = points[p];
            CHECK(was_killed(child(draw_and_die, NULL)));
            CHECK(rcv_turn_draw(a, UNIT, &mine) && comes_within(a, &mine, 5));
            rcv_turn_drop(a, &mine);
            for (unsigned i = 0; i < RCV_TICKETS; i++) /* and their places are there for others */
                CHECK(rcv_turn_draw(a, i, &turns[i]));
            for (unsigned i = 0; i < RCV_TICKETS; i++)
                rcv_turn_drop(a, &turns[i]);
            end(a);
        }
}

static void use_the_parents_turn(void *arg)
{
    rcv_turn_drop((rcv_arena *)((void **)arg)[0], ((void **)arg)[1]);
}

static void have_a_place_that_was_the_parents(void *arg)
{
    rcv_arena      *a = ((void **)arg)[0];
    struct rcv_turn theirs = *(struct rcv_turn *)((void **)arg)[1], own;
    step_begin(a); /* a process of its own from here on */
    step_commit(a);
    atomic_store(&a->board->ticket[theirs.place].number, 0); /* the parent leaves it */
    atomic_store(&a->board->ticket[theirs.place].token, 0);
    CHECK(rcv_turn_draw(a, UNIT, &own) && own.place == theirs.place);
    rcv_turn_drop(a, &theirs);
    CHECK(rcv_turn_stands(a, &own));
    rcv_turn_drop(a, &own);
}

static void test_a_forked_child_has_none_of_its_parents(void)
{
    rcv_arena      *a = begin();
    struct rcv_turn one;
    CHECK(rcv_turn_draw(a, UNIT, &one));
    CHECK(went_well(child(use_the_parents_turn, (void *[]){a, &one})));
    CHECK(rcv_turn_stands(a, &one) && rcv_turn_queue(a, UNIT) == 1);
    CHECK(went_well(child(have_a_place_that_was_the_parents, (void *[]){a, &one})));
    CHECK(!rcv_turn_stands(a, &one));
    rcv_turn_drop(a, &one);
    end(a);
}

static void test_stray_stores_there_cost_a_wait_at_most(void)
{
    for (int i = 0; i < 100; i++) {
        rcv_arena      *a = begin();
        struct rcv_turn mine, next;
        a->busy_timeout = 0.002;
        CHECK(rcv_turn_draw(a, UNIT, &mine) && rcv_turn_draw(a, UNIT, &next));
        uint64_t *words = (uint64_t *)a->board->ticket;
        for (int k = 0; k < 64; k++)
            words[rnd(sizeof a->board->ticket / 8)] = rnd(4) == 0 ? rnd(UINT64_MAX) : rnd(4) == 0 ? UNIT : rnd(40);
        if (i % 3 == 0)
            atomic_store(&a->board->tickets, rnd(2) ? UINT64_MAX : rnd(UINT64_MAX));
        CHECK(comes_within(a, &next, 5));
        CHECK(rcv_turn_queue(a, UNIT) <= (int)RCV_TICKETS);
        rcv_turn_drop(a, &mine);
        rcv_turn_drop(a, &next);
        (void)rcv_turn_draw(a, UNIT, &next);
        CHECK(comes_within(a, &next, 5));
        end(a);
    }
}

int main(void)
{
    test_first_come_first_served();
    test_who_stays_too_long_loses_its_turn();
    test_whose_own_run_takes_a_moment_waits_for_some_looks_only();
    test_all_of_one_that_hangs_lose_their_turns_soon();
    test_several_that_hang_are_in_the_way_for_no_longer_than_one();
    test_a_whole_table_that_hangs_is_in_the_way_for_three_turns();
    test_however_many_have_hung_the_next_one_gets_its_share();
    test_where_numbers_begin_again_none_is_0();
    test_a_full_table_lets_everybody_through();
    test_the_dead_are_in_nobodys_way();
    test_a_forked_child_has_none_of_its_parents();
    test_stray_stores_there_cost_a_wait_at_most();
    CHECKS_DONE();
    return 0;
}
