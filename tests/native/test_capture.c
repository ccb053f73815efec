/* test_capture.c -- what a handler is going to write is made writable ahead; a wrong guess costs time only. */
#include "tracked.h"

static const char ONE[RCV_HANDLER_NAME] = "one", TWO[RCV_HANDLER_NAME] = "two";

static void capture(rcv_arena *a, const char *handler)
{
    static const char route[RCV_HANDLER_NAME];
    tracker_capture(a, &(struct raw){.pages = NULL}, handler, route, 0);
}

static struct tracked make(uint64_t undo_size)
{
    struct rcv_policy_option on = {.name = "profiles", .value = 1};
    struct tracked           w = {.fd = scratch_object()};
    tracked_fill(&w,
                 &(struct rcv_open_options){.size = 16 * MIB,
                                            .undo_size = undo_size,
                                            .create = 1,
                                            .policy = "incremental",
                                            .busy_timeout = 5.0,
                                            .name = "captures",
                                            .policy_options = &on,
                                            .n_policy_options = 1},
                 256);
    CHECK(rcv_profiles(w.a, -1) == 1);
    CHECK(rcv_profiles(w.a, 0) == 0); /* anew, with costs that are the same everywhere */
    w.a->tracker->wse.costs = (struct wse_costs){.trap = 7000, .protect = 3000, .compare = 100, .copy = 150};
    CHECK(rcv_profiles(w.a, 1) == 1);
    return w;
}

/* step -- of a handler, that writes some pages; how often it trapped. */
static uint64_t step(struct tracked *w, const char *handler, const uint32_t *page, int n, bool keep)
{
    static uint32_t value;
    uint64_t        traps = w->a->n.traps;
    begin(w->a);
    capture(w->a, handler);
    value++;
    for (int i = 0; i < n; i++)
        *(volatile uint32_t *)(void *)(w->raw + page[i] * PAGE + 8) = value;
    if (keep) {
        CHECK(commit(w->a) == (uint32_t)n);
    } else {
        rollback(w->a);
    }
    return w->a->n.traps - traps;
}

static const uint32_t SET[] = {3, 4, 5, 6, 40, 41, 90};
#define SET_N 7

/* From the third step on a handler's pages don't trap, another's still do; a run of neighbours takes one call. */
static void a_set_is_captured(void)
{
    struct tracked w = make(0);
    CHECK(step(&w, ONE, SET, SET_N, true) == SET_N);
    CHECK(step(&w, ONE, SET, SET_N, true) == SET_N);
    if (rcv_test_build()) {
        rcv_fail_at(RCV_FAIL_MPROTECT, 0);
        CHECK(step(&w, ONE, SET, SET_N, true) == 0);
        CHECK(rcv_fail_count(RCV_FAIL_MPROTECT) == 3 + 1); /* protected by one call, over what is read-only between them */
    } else {
        CHECK(step(&w, ONE, SET, SET_N, true) == 0);
    }
    CHECK(w.a->n.pages_captured == SET_N && w.a->n.captured_in_vain == 0);
    CHECK(step(&w, TWO, SET, SET_N, true) == SET_N);
    CHECK(step(&w, ONE, SET, SET_N, false) == 0);
    for (uint32_t p = 0; p < 256; p++)
        CHECK(!writable(&w, p));
    tracked_drop(&w);
}

/* What is captured is taken back by a rollback, and a page that was not written is not reported as changed. */
static void captured_pages_are_trapped_ones(void)
{
    struct tracked w = make(0);
    for (int i = 0; i < 3; i++)
        step(&w, ONE, SET, SET_N, true);
    uint8_t before[PAGE];
    memcpy(before, w.core + 4 * PAGE, PAGE);
    CHECK(step(&w, ONE, SET, SET_N, false) == 0);
    CHECK(memcmp(w.core + 4 * PAGE, before, PAGE) == 0);
    uint64_t vain = w.a->n.captured_in_vain;
    CHECK(step(&w, ONE, SET + 1, 2, true) == 0); /* commit() counts the changed ones: 2 */
    CHECK(w.a->n.captured_in_vain == vain + SET_N - 2);
    begin(w.a);
    capture(w.a, ONE);
    commit(w.a);
    begin(w.a);
    capture(w.a, ONE);
    const uint32_t *pages;
    uint32_t        n;
    tracker_shut(w.a);
    CHECK(w.a->tracker->n_trapped != 0 && tracker_collect(w.a, &pages, &n) == 0 && n == 0);
    CHECK(tracker_wrote_nothing(w.a));
    rollback(w.a);
    begin(w.a);
    capture(w.a, ONE);
    poke(&w, 4 * PAGE, 99);
    tracker_shut(w.a);
    CHECK(tracker_collect(w.a, &pages, &n) == 0 && n == 1 && !tracker_wrote_nothing(w.a));
    rollback(w.a);
    tracked_drop(&w);
}

/* A set that moves is forgotten, whether its steps commit or roll back; the new one is captured. */
static void a_set_that_moves(void)
{
    static const uint32_t other[] = {10, 11, 12, 60, 61, 130};
    for (int keep = 0; keep < 2; keep++) {
        struct tracked w = make(0);
        for (int i = 0; i < 20; i++)
            step(&w, ONE, SET, SET_N, true);
        CHECK(step(&w, ONE, other, 6, keep) == 6);
        CHECK(step(&w, ONE, other, 6, keep) == 4); /* what lies beside the first one comes along */
        CHECK(step(&w, ONE, other, 6, keep) == 0);
        for (int i = 0; i < 30; i++)
            CHECK(step(&w, ONE, other, 6, keep) == 0);
        uint64_t vain = w.a->n.captured_in_vain, captured = w.a->n.pages_captured;
        CHECK(step(&w, ONE, other, 6, keep) == 0);
        CHECK(w.a->n.captured_in_vain == vain && w.a->n.pages_captured == captured + 6);
        struct rcv_profile p;
        CHECK(rcv_profiles_read(w.a, &p, 1) == 1 && p.known == 6 && p.predicted == 6 && strcmp(p.handler, "one") == 0);
        tracked_drop(&w);
    }
}

/* After a savepoint captured pages log once more; going back to it undoes what came after, and only that. */
static void savepoints(void)
{
    struct tracked w = make(0);
    for (int i = 0; i < 3; i++)
        step(&w, ONE, SET, SET_N, true);
    begin(w.a);
    capture(w.a, ONE);
    poke(&w, 3 * PAGE, 1);
    uint64_t traps = w.a->n.traps, mark = savepoint(w.a);
    capture(w.a, ONE); /* once a step */
    CHECK(undo_tail(w.a) == mark);
    poke(&w, 3 * PAGE, 2);
    poke(&w, 4 * PAGE, 2);
    CHECK(w.a->n.traps == traps + 2);
    back_to(w.a, mark);
    CHECK(w.core[3 * PAGE] == 1 && w.core[4 * PAGE] == 0);
    uint64_t vain = w.a->n.captured_in_vain;
    CHECK(commit(w.a) == 1);
    CHECK(w.core[3 * PAGE] == 1 && w.core[4 * PAGE] == 0);
    CHECK(w.a->n.captured_in_vain == vain + SET_N - 1);
    /* A handler that only writes after a savepoint learns that capturing is no use. */
    for (int i = 0; i < 40; i++) {
        begin(w.a);
        capture(w.a, ONE);
        savepoint(w.a);
        poke(&w, 3 * PAGE, (uint8_t)(10 + i));
        CHECK(commit(w.a) == 1);
    }
    uint64_t captured = w.a->n.pages_captured;
    begin(w.a);
    capture(w.a, ONE);
    rollback(w.a);
    CHECK(w.a->n.pages_captured == captured);
    tracked_drop(&w);
}

/* A log with little room is left to what the step does; nothing is doomed. */
static void a_small_log(void)
{
    uint32_t       pages[60];
    struct tracked w = make(512 * 1024);
    for (uint32_t i = 0; i < 60; i++)
        pages[i] = i;
    for (int i = 0; i < 5; i++)
        CHECK(step(&w, ONE, pages, 60, true) == 60);
    CHECK(w.a->n.pages_captured == 0 && w.a->n.dooms == 0);
    for (int i = 0; i < 2; i++)
        CHECK(step(&w, TWO, pages, 4, true) == 4);
    CHECK(step(&w, TWO, pages, 4, true) == 0);
    tracked_drop(&w);
}

/* Where the kernel refuses to unprotect, what is written traps. */
static void no_map_entries(void)
{
    struct tracked w = make(0);
    if (rcv_test_build()) {
        for (int i = 0; i < 3; i++)
            step(&w, ONE, SET, SET_N, true);
        for (int nth = 1; nth <= 3; nth++) {
            begin(w.a);
            rcv_fail_at(RCV_FAIL_MPROTECT, nth);
            capture(w.a, ONE);
            rcv_fail_at(RCV_FAIL_MPROTECT, 0);
            uint64_t traps = w.a->n.traps;
            for (int i = 0; i < SET_N; i++)
                poke(&w, SET[i] * PAGE, (uint8_t)nth);
            CHECK(w.a->n.traps - traps == (nth == 1 ? 7 : nth == 2 ? 2 : 1) && w.a->n.dooms == 0);
            if (nth == 2) {
                rollback(w.a);
                CHECK(w.core[3 * PAGE] == 1 && w.core[90 * PAGE] == 1);
            } else {
                CHECK(commit(w.a) == SET_N);
            }
        }
    }
    tracked_drop(&w);
}

/* Pages that have become another's since are left alone. */
static void only_array_memory(void)
{
    struct tracked w = make(0);
    for (int i = 0; i < 3; i++)
        step(&w, ONE, SET, SET_N, true);
    CHECK(lock_take(w.a) == 0);
    phase_set(w.a, RCV_STEP);
    CHECK(heap_commit_free(w.a, w.data) == 0);
    undo_cut(w.a, 0);
    phase_set(w.a, RCV_IDLE);
    lock_drop(w.a);
    CHECK(!heap_page_live(w.a, w.first + 3));
    begin(w.a);
    uint64_t captured = w.a->n.pages_captured;
    capture(w.a, ONE);
    CHECK(w.a->n.pages_captured == captured && undo_tail(w.a) == 0);
    rollback(w.a);
    tracked_drop(&w);
}

/* The tables are bounded: the handler used longest ago and the least probable page give way. */
static void bounds(void)
{
    struct tracked w = make(0);
    static char name[RCV_HANDLER_NAME];
    for (int i = 0; i < 2; i++)
        step(&w, ONE, SET, SET_N, true);
    for (uint32_t i = 0; i < 3 * RCV_PROFILES; i++) {
        uint32_t page = i % 256;
        snprintf(name, sizeof name, "%u", i);
        step(&w, name, &page, 1, true);
        if (i % 100 == 50)
            CHECK(step(&w, ONE, SET, SET_N, true) == 0); /* in use: it stays */
    }
    static struct rcv_profile all[RCV_PROFILES + 1];
    CHECK(rcv_profiles_read(w.a, all, RCV_PROFILES + 1) == RCV_PROFILES);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t page = i * 37 % 256;
        step(&w, TWO, &page, 1, true);
    }
    for (int i = 0; i < 3; i++)
        step(&w, TWO, SET, SET_N, true);
    CHECK(step(&w, TWO, SET, SET_N, true) == 0);
    uint32_t pages[65]; /* as many as there are places, and one that is another each time: those that are known stay */
    for (uint32_t i = 0; i < 64; i++)
        pages[i] = i;
    for (uint32_t i = 0; i < 50; i++) {
        pages[64] = 70 + 3 * i;
        uint64_t traps = step(&w, ONE, pages, 65, true);
        CHECK(i < 20 || traps == 1);
    }
    CHECK(rcv_profiles(w.a, -1) == 1 && rcv_profiles(w.a, 0) == 0);
    CHECK(step(&w, TWO, SET, SET_N, true) == SET_N);
    CHECK(rcv_profiles_read(w.a, all, RCV_PROFILES) == 0 && rcv_profiles(w.a, -1) == 0);
    tracked_drop(&w);
}

int main(void)
{
    a_set_is_captured();
    captured_pages_are_trapped_ones();
    a_set_that_moves();
    savepoints();
    a_small_log();
    no_map_entries();
    only_array_memory();
    bounds();
    CHECKS_DONE();
    return 0;
}
