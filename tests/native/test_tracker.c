/* test_tracker.c -- raw writes: found, kept at commit, taken back at rollback, whichever way their page is treated. */
#include "tracked.h"

#include <errno.h>

/* -- traps ---------------------------------------------------------------------------------------------------- */

/* A trapped page goes back to its pre-image, traps once a step, and again in the next. */
static void trap_and_rollback(void)
{
    struct tracked w = tracked_make(64, 0, "incremental");
    memcpy(w.core + 100, "before", 6);
    begin(w.a);
    memcpy(w.raw + 100, "during", 6);
    poke(&w, 5000, 1);
    poke(&w, 101, 'x');
    CHECK(w.a->n.traps == 2);
    CHECK(memcmp(w.core + 100, "dxring", 6) == 0); /* one memory, two views */
    rollback(w.a);
    CHECK(memcmp(w.core + 100, "before", 6) == 0 && w.core[5000] == 0);
    CHECK(!writable(&w, 0) && !writable(&w, 1));
    begin(w.a);
    poke(&w, 100, 'B');
    CHECK(w.a->n.traps == 3);
    CHECK(commit(w.a) == 1);
    CHECK(memcmp(w.raw + 100, "Before", 6) == 0);
    CHECK(!hot(&w, 0)); /* incremental never promotes */
    tracked_drop(&w);
}

/* A page that ends as it began is not reported as changed. */
static void same_bytes_are_no_change(void)
{
    struct tracked  w = tracked_make(64, 0, "incremental");
    const uint32_t *pages;
    uint32_t        n;
    begin(w.a);
    poke(&w, 7 * PAGE, 1);
    poke(&w, 3 * PAGE, 1);
    poke(&w, 5 * PAGE, 1);
    poke(&w, 5 * PAGE, 0);
    tracker_shut(w.a);
    CHECK(tracker_collect(w.a, &pages, &n) == 0);
    CHECK(n == 2 && pages[0] == w.first + 3 && pages[1] == w.first + 7);
    rollback(w.a);
    tracked_drop(&w);
}

/* Adjacent pages are protected again by one call, whatever the order they were written in. */
static void adjacent_pages_are_one_call(void)
{
    static const int order[] = {3, 1, 2, 0, 7, 6, 5, 4};
    struct tracked   w = tracked_make(64, 0, "incremental");
    begin(w.a);
    for (int i = 0; i < 8; i++)
        poke(&w, (uint64_t)order[i] * PAGE, 1);
    poke(&w, 20 * PAGE, 1);
    if (rcv_test_build()) {
        rcv_fail_at(RCV_FAIL_MPROTECT, 0);
        CHECK(commit(w.a) == 9);
        CHECK(rcv_fail_count(RCV_FAIL_MPROTECT) == 1);
    } else {
        CHECK(commit(w.a) == 9);
    }
    begin(w.a);
    for (int i = 0; i < 8; i++)
        poke(&w, (uint64_t)order[i] * PAGE, 2);
    CHECK(w.a->n.traps == 17);
    rollback(w.a);
    for (int i = 0; i < 8; i++)
        CHECK(w.core[(uint64_t)i * PAGE] == 1);
    tracked_drop(&w);
}

/* One call protects trapped pages and what lies between them, except over pages that must stay writable. */
static void a_call_spans_what_is_protected(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    make_hot(&w, 10, 1);
    begin(w.a);
    poke(&w, 0, 1);
    poke(&w, 9 * PAGE, 1);
    poke(&w, 11 * PAGE, 1);
    poke(&w, 63 * PAGE, 1);
    if (rcv_test_build())
        rcv_fail_at(RCV_FAIL_MPROTECT, 0);
    commit(w.a);
    if (rcv_test_build())
        CHECK(rcv_fail_count(RCV_FAIL_MPROTECT) == 2);
    uint64_t before = w.a->n.traps;
    begin(w.a);
    poke(&w, 10 * PAGE, 2);
    CHECK(w.a->n.traps == before);
    for (uint64_t page = 0; page < 64; page += page == 9 ? 2 : 1)
        poke(&w, page * PAGE + 8, 3);
    CHECK(w.a->n.traps == before + 63);
    rollback(w.a);
    CHECK(w.core[8] == 0 && w.core[40 * PAGE + 8] == 0 && w.core[10 * PAGE] == 1);
    tracked_drop(&w);
}

/* A page written by announced writes only is not raw-changed; one that has both is. */
static void announced_ranges_are_left_out(void)
{
    for (int promoted = 0; promoted < 2; promoted++) {
        struct tracked w = tracked_make(64, 0, promoted ? "adaptive" : "incremental");
        if (promoted) {
            make_hot(&w, 0, 0);
            make_hot(&w, 1, 0);
        }
        begin(w.a);
        announce(&w, 10, 7);
        poke(&w, 20, 0); /* traps, changes nothing */
        announce(&w, 11, 8);
        poke(&w, PAGE + 20, 9);
        announce(&w, PAGE + 10, 7);
        const uint32_t *pages;
        uint32_t        n;
        tracker_shut(w.a);
        CHECK(tracker_collect(w.a, &pages, &n) == 0);
        CHECK(n == 1 && pages[0] == w.first + 1);
        CHECK(commit(w.a) == 1);
        CHECK(w.core[10] == 7 && w.core[11] == 8 && w.core[PAGE + 10] == 7 && w.core[PAGE + 20] == 9);
        if (promoted)
            CHECK(memcmp(shadow(&w, 0), w.core, PAGE) == 0 && memcmp(shadow(&w, 1), w.core + PAGE, PAGE) == 0);
        begin(w.a);
        announce(&w, 10, 1);
        poke(&w, 20, 1);
        announce(&w, 20, 2); /* over a raw write */
        rollback(w.a);
        CHECK(w.core[10] == 7 && w.core[20] == 0);
        tracked_drop(&w);
    }
}

/* -- the hot set ------------------------------------------------------------------------------------------------ */

/* The second trap within the window promotes; from then on no trap, and rollback and commit come from the shadow. */
static void hot_pages_do_not_trap(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    begin(w.a);
    poke(&w, 0, 1);
    commit(w.a);
    CHECK(!hot(&w, 0));
    make_hot(&w, 0, 5);
    CHECK(memcmp(shadow(&w, 0), w.core, PAGE) == 0);
    uint64_t traps = w.a->n.traps;
    begin(w.a);
    poke(&w, 0, 9);
    poke(&w, 4000, 9);
    rollback(w.a);
    CHECK(w.core[0] == 5 && w.core[4000] == 0);
    begin(w.a);
    poke(&w, 0, 6);
    CHECK(commit(w.a) == 1);
    CHECK(w.core[0] == 6 && shadow(&w, 0)[0] == 6);
    begin(w.a);
    CHECK(commit(w.a) == 0);
    CHECK(w.a->n.traps == traps);
    /* One process's page, listed: an announced commit without any raw buffer refreshes it as well. */
    drop(w.a);
    begin(w.a);
    commit(w.a);
    begin(w.a);
    announce(&w, 1, 77);
    CHECK(commit(w.a) == 0);
    CHECK(shadow(&w, 0)[1] == 77);
    tracked_drop(&w);
}

/* A hot page that nobody writes is demoted, and traps again. */
static void unwritten_pages_cool_down(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    make_hot(&w, 3, 1);
    make_hot(&w, 9, 1);
    uint32_t k = w.a->tracker->wse.patience;
    for (uint32_t i = 0; i < k + 4; i++) {
        begin(w.a);
        poke(&w, 9 * PAGE, (uint8_t)i);
        CHECK(commit(w.a) <= 1);
        if (i < 8 + 16 - 3) /* its gaps were of one step: 16 of them, and 8 */
            CHECK(hot(&w, 3));
    }
    CHECK(!hot(&w, 3) && !writable(&w, 3) && hot(&w, 9));
    CHECK(w.a->n.demotions == 1);
    uint64_t traps = w.a->n.traps;
    begin(w.a);
    poke(&w, 3 * PAGE, 50);
    rollback(w.a);
    CHECK(w.a->n.traps == traps + 1 && w.core[3 * PAGE] == 1);
    tracked_drop(&w);
}

/* Freed array memory leaves the hot set at once; only pages of live arrays get in. */
static void only_live_pages_are_hot(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    make_hot(&w, 3, 1);
    make_hot(&w, 4, 1);
    begin(w.a);
    tracker_shut(w.a);
    tracker_settle(w.a);
    phase_set(w.a, RCV_PUBLISH);
    tracker_forget_pages(w.a, w.data + 3 * PAGE, PAGE);
    end(w.a);
    CHECK(!hot(&w, 3) && hot(&w, 4) && !writable(&w, 3));
    CHECK(lock_take(w.a) == 0);
    CHECK(seg_claim_data(w.a, rcv_data_claimed(w.a) + RCV_SLICE) == 0); /* memory that no array owns */
    lock_drop(w.a);
    uint32_t dead = pages_claimed(w.a) - 1;
    CHECK(!heap_page_live(w.a, dead));
    for (int i = 0; i < 4; i++) {
        begin(w.a);
        *(volatile uint8_t *)page_in(w.a, first(w.a), dead) = (uint8_t)(i + 1);
        commit(w.a);
    }
    CHECK(w.a->tracker->slot_of[dead] == 0);
    tracked_drop(&w);
}

/* A stray store to a hot page is put back at the next step's start, and reported. */
static void strays_on_hot_pages(void)
{
    struct tracked   w = tracked_make(64, 0, "adaptive");
    struct rcv_stray s[4];
    make_hot(&w, 2, 1);
    poke(&w, 2 * PAGE + 5, 66);
    CHECK(w.core[2 * PAGE + 5] == 66);
    begin(w.a);
    CHECK(w.core[2 * PAGE + 5] == 0);
    rollback(w.a);
    CHECK(rcv_take_strays(w.a, s, 4) == 1 && s[0].kind == 1 && s[0].page == w.data + 2 * PAGE);
    CHECK(rcv_take_strays(w.a, s, 4) == 0);
    /* … also when the buffer it came through is gone by then, */
    poke(&w, 2 * PAGE + 5, 67);
    drop(w.a);
    begin(w.a);
    CHECK(w.core[2 * PAGE + 5] == 0);
    /* … and a write of a buffer that lives within one step only is found at that step's end. */
    hold(w.a);
    poke(&w, 2 * PAGE + 5, 68);
    drop(w.a);
    CHECK(commit(w.a) == 1);
    CHECK(shadow(&w, 2)[5] == 68);
    uint64_t compared = w.a->n.pages_compared;
    begin(w.a);
    commit(w.a);
    CHECK(w.a->n.pages_compared == compared); /* nobody can write raw: nothing is compared */
    tracked_drop(&w);
}

/* -- savepoints and edit() ------------------------------------------------------------------------------------ */

/* Going back to a savepoint undoes raw writes since, on pages of every kind, twice in a row, and only those. */
static void savepoints(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    make_hot(&w, 0, 1);
    make_hot(&w, 4, 1);
    begin(w.a);
    poke(&w, 1, 10);            /* hot */
    poke(&w, PAGE, 20);         /* trapped */
    poke(&w, 2 * PAGE, 21);     /* trapped, not written again */
    poke(&w, 4 * PAGE + 1, 11); /* hot, not written again */
    uint64_t mark = savepoint(w.a);
    for (int i = 0; i < 2; i++) {
        poke(&w, 1, 12);
        poke(&w, PAGE, 22);
        poke(&w, 3 * PAGE, 30); /* trapped only now */
        back_to(w.a, mark);
        CHECK(w.core[1] == 10 && w.core[PAGE] == 20 && w.core[2 * PAGE] == 21 && w.core[3 * PAGE] == 0 &&
              w.core[4 * PAGE + 1] == 11);
    }
    poke(&w, PAGE + 1, 23);
    CHECK(commit(w.a) == 4);
    CHECK(w.core[1] == 10 && w.core[PAGE] == 20 && w.core[PAGE + 1] == 23 && w.core[2 * PAGE] == 21);
    CHECK(memcmp(shadow(&w, 0), w.core, PAGE) == 0 && memcmp(shadow(&w, 4), w.core + 4 * PAGE, PAGE) == 0);
    /* the whole step undone, a savepoint inside */
    begin(w.a);
    poke(&w, 1, 99);
    poke(&w, PAGE, 99);
    savepoint(w.a);
    poke(&w, 2, 98);
    poke(&w, PAGE + 1, 98);
    poke(&w, 4 * PAGE + 1, 98);
    rollback(w.a);
    CHECK(w.core[1] == 10 && w.core[2] == 0 && w.core[PAGE] == 20 && w.core[PAGE + 1] == 23 && w.core[4 * PAGE + 1] == 11);
    tracked_drop(&w);
}

static void edit(struct tracked *w, uint64_t at, uint64_t len)
{
    static struct raw editor;
    editor = (struct raw){.pages = NULL};
    CHECK(tracker_edit(w->a, &editor, w->data + at, len) == 0);
}

/* An edited range takes system calls without a trap until the step ends; what has changed is found and undone like raw writes. */
static void edited_ranges(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    int            ends[2];
    static uint8_t bytes[3 * PAGE];
    uint64_t       at = PAGE / 2, len = 3 * PAGE; /* half of page 0, all of 1 and 2, half of 3 */
    memset(bytes, 0xab, sizeof bytes);
    CHECK(pipe(ends) == 0);
    for (int keep = 0; keep < 2; keep++) {
        CHECK(write(ends[1], bytes, len) == (ssize_t)len);
        uint64_t traps = w.a->n.traps;
        begin(w.a);
        edit(&w, at, len + 4 * PAGE); /* pages 4 to 7 stay as they are */
        for (uint64_t got = 0; got < len;) {
            ssize_t n = read(ends[0], w.raw + at + got, len - got);
            CHECK(n > 0);
            got += (uint64_t)n;
        }
        poke(&w, 0, 1); /* raw, on a page that the range covers in part */
        CHECK(w.a->n.traps == traps);
        if (keep) {
            CHECK(commit(w.a) == 4);
            CHECK(memcmp(w.core + at, bytes, PAGE) == 0 && w.core[0] == 1);
        } else {
            rollback(w.a);
            for (uint64_t i = 0; i < 4 * PAGE; i++)
                CHECK(w.core[i] == 0);
        }
        for (uint32_t p = 0; p < 8; p++)
            CHECK(!writable(&w, p) || hot(&w, p));
    }
    /* hot pages are not logged, but after a savepoint they are */
    make_hot(&w, 11, 1);
    begin(w.a);
    uint64_t before = undo_tail(w.a);
    edit(&w, 11 * PAGE + 1, 10);
    CHECK(undo_tail(w.a) == before);
    memset(w.raw + 11 * PAGE + 1, 0x77, 10);
    uint64_t mark = savepoint(w.a);
    edit(&w, 11 * PAGE, 2 * PAGE);
    memset(w.raw + 11 * PAGE, 0x78, 2 * PAGE);
    back_to(w.a, mark);
    CHECK(commit(w.a) == 1 && w.core[11 * PAGE + 1] == 0x77 && w.core[11 * PAGE] == 1 && w.core[12 * PAGE] == 0);
    CHECK(memcmp(shadow(&w, 11), w.core + 11 * PAGE, PAGE) == 0);
    close(ends[0]);
    close(ends[1]);
    tracked_drop(&w);
}

/* -- several processes -------------------------------------------------------------------------------------- */

static struct tracked *parent;

static void other_commits(void *what)
{
    struct tracked w = {.fd = parent->fd};
    tracked_use(&w, tracked_attach(parent->fd, 0, 0, "adaptive"), parent->data);
    begin(w.a);
    CHECK(hot(&w, 0) && !writable(&w, 0));
    if (*(int *)what == 'a') {
        announce(&w, 1, 41);
        CHECK(commit(w.a) == 0);
    } else if (*(int *)what == 'r') {
        hold(w.a);
        poke(&w, 2, 42);
        CHECK(w.a->n.traps == 1 && undo_tail(w.a) == 0); /* listed: unprotected, not logged */
        CHECK(commit(w.a) == 1);
    } else if (*(int *)what == 'k') {
        hold(w.a);
        poke(&w, 2, 99);
        die();
    } else {
        tracker_shut(w.a);
    tracker_settle(w.a);
        phase_set(w.a, RCV_PUBLISH);
        tracker_forget_pages(w.a, w.data, PAGE);
        end(w.a);
    }
}

/* Commits of another process keep the shadows right; its demotions reach us; its death is undone. */
static void the_hot_set_is_shared(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    int            what = 'a';
    parent = &w;
    make_hot(&w, 0, 1);
    CHECK(went_well(child(other_commits, &what)));
    what = 'r';
    CHECK(went_well(child(other_commits, &what)));
    CHECK(w.core[1] == 41 && w.core[2] == 42 && memcmp(w.core, shadow(&w, 0), PAGE) == 0);
    begin(w.a);
    CHECK(!rcv_strays_pending(w.a));
    poke(&w, 1, 5);
    rollback(w.a);
    CHECK(w.core[1] == 41 && w.core[2] == 42);
    what = 'k';
    CHECK(was_killed(child(other_commits, &what)));
    begin(w.a);
    CHECK(w.core[2] == 42);
    rollback(w.a);
    what = 'd';
    CHECK(went_well(child(other_commits, &what)));
    begin(w.a);
    CHECK(!hot(&w, 0) && !writable(&w, 0));
    uint64_t traps = w.a->n.traps;
    poke(&w, 2, 43);
    CHECK(w.a->n.traps == traps + 1);
    rollback(w.a);
    CHECK(w.core[2] == 42);
    tracked_drop(&w);
}

static void in_child(void *nothing)
{
    (void)nothing;
    struct tracked *w = parent;
    CHECK(!writable(w, 0) && !writable(w, 1) && !atomic_load(&w->a->tracker->in_step));
    poke(w, 0, 99); /* hot in the parent, … */
    poke(w, PAGE, 99); /* … trapped in its running step: both are strays here */
    CHECK(w->raw[0] == 99 && w->core[0] == 2 && w->core[PAGE] == 3);
    struct rcv_stray s[4];
    CHECK(rcv_take_strays(w->a, s, 4) == 2 && s[0].kind == 0 && s[0].address == (uint64_t)(uintptr_t)w->raw);
    CHECK(w->raw[0] == 2);
}

/* A forked child can't write where its parent could. */
static void a_forked_child_starts_clean(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    parent = &w;
    make_hot(&w, 0, 1);
    begin(w.a);
    poke(&w, 0, 2);
    poke(&w, PAGE, 3);
    CHECK(went_well(child(in_child, NULL)));
    poke(&w, 1, 2); /* and the parent goes on */
    CHECK(commit(w.a) == 2);
    CHECK(w.core[0] == 2 && w.core[1] == 2 && w.core[PAGE] == 3);
    tracked_drop(&w);
}

/* -- failures ------------------------------------------------------------------------------------------------- */

/* scenario -- everything at once; the state afterwards is known. Returns with pages 0 (hot), 2, 4, 6 written. */
static void scenario(struct tracked *w)
{
    begin(w->a);
    for (uint64_t p = 0; p < 8; p += 2)
        poke(w, p * PAGE, 9);
    announce(w, 1, 9);
    rollback(w->a);
    for (uint64_t p = 0; p < 8; p += 2)
        CHECK(w->core[p * PAGE] == (p == 0 ? 1 : 0));
    begin(w->a);
    for (uint64_t p = 0; p < 8; p += 2)
        poke(w, p * PAGE, 3);
    uint64_t mark = savepoint(w->a);
    poke(w, 2 * PAGE, 4);
    back_to(w->a, mark);
    CHECK(commit(w->a) == 4);
    begin(w->a);
    poke(w, 2 * PAGE, 5);
    rollback(w->a);
    for (uint64_t p = 0; p < 8; p += 2)
        CHECK(w->core[p * PAGE] == 3);
}

/* Whichever mprotect fails for want of map entries, every step ends as it should. */
static void every_mprotect_fails_once(void)
{
    if (!rcv_test_build()) {
        printf("not a test build: nth failure of mprotect not tried\n");
        return;
    }
    uint64_t fallbacks = 0;
    for (uint64_t nth = 1;; nth++) {
        struct tracked w = tracked_make(64, 0, "adaptive");
        make_hot(&w, 0, 1);
        rcv_fail_at(RCV_FAIL_MPROTECT, nth);
        scenario(&w);
        uint64_t calls = rcv_fail_count(RCV_FAIL_MPROTECT);
        rcv_fail_at(RCV_FAIL_MPROTECT, 0);
        fallbacks += w.a->n.map_fallbacks;
        /* pages of nobody are never logged, and no page of ours is left open */
        for (uint32_t p = 0; p < 64; p++)
            CHECK(!writable(&w, p) || hot(&w, p));
        tracked_drop(&w);
        if (calls < nth)
            break;
    }
    CHECK(fallbacks >= 8);
}

/* A hot page that comes along in a block is compared like any other. */
static void hot_pages_in_a_block(void)
{
    if (!rcv_test_build())
        return;
    struct tracked w = tracked_make(64, 0, "adaptive");
    make_hot(&w, 0, 1);
    for (int keep = 0; keep < 2; keep++) {
        view_lock(w.a);
        view_protect_all(w.a, first(w.a)); /* as after any fallback */
        view_unlock(w.a);
        begin(w.a);
        rcv_fail_at(RCV_FAIL_MPROTECT, 1);
        poke(&w, PAGE, (uint8_t)(keep + 7));
        rcv_fail_at(RCV_FAIL_MPROTECT, 0);
        uint64_t traps = w.a->n.traps;
        poke(&w, 0, 9);
        CHECK(w.a->n.traps == traps);
        if (keep) {
            CHECK(commit(w.a) == 2 && w.core[0] == 9 && shadow(&w, 0)[0] == 9);
        } else {
            rollback(w.a);
            CHECK(w.core[0] == 1 && w.core[PAGE] == 0);
        }
    }
    tracked_drop(&w);
}

/* Every other page of more than vm.max_map_count / 2: blocks are unprotected, and hot pages stay within their share. */
static void more_hot_pages_than_the_map_allows(void)
{
    FILE              *f = fopen("/proc/sys/vm/max_map_count", "r");
    unsigned long long limit = 0;
    CHECK(f != NULL && fscanf(f, "%llu", &limit) == 1);
    fclose(f);
    if (limit > 100000) {
        printf("vm.max_map_count is %llu: too many pages for a test; not tried\n", limit);
        return;
    }
    uint64_t       n = limit / 2 + 500;
    struct tracked w = tracked_make(2 * n, 1024 * MIB, "adaptive");
    for (int keep = 0; keep < 3; keep++) {
        begin(w.a);
        errno = 1234;
        for (uint64_t i = 0; i < n; i++)
            poke(&w, 2 * i * PAGE, (uint8_t)(7 + keep));
        CHECK(errno == 1234); /* though system calls of the handler failed */
        if (keep)
            CHECK(commit(w.a) == n);
        else
            rollback(w.a);
        for (uint64_t i = 0; i < n; i++)
            CHECK(w.core[2 * i * PAGE] == (keep ? 7 + keep : 0));
    }
    CHECK(w.a->n.map_fallbacks > 0);
    CHECK(w.a->tracker->n_hot > 0 && w.a->tracker->runs <= limit / 8);
    CHECK(w.a->n.dooms == 0 && w.a->n.strays == 0);
    tracked_drop(&w);
}

/* No memory for shadows means no promotion, and no error. */
static void promotion_may_fail(void)
{
    if (!rcv_test_build())
        return;
    struct tracked w = tracked_make(64, 0, "adaptive");
    for (int i = 0; i < 2; i++) {
        begin(w.a);
        poke(&w, 0, (uint8_t)(i + 1));
        if (i == 1)
            rcv_fail_at(RCV_FAIL_FALLOCATE, 1);
        CHECK(commit(w.a) == 1);
    }
    CHECK(rcv_fail_count(RCV_FAIL_FALLOCATE) == 1 && !hot(&w, 0));
    rcv_fail_at(RCV_FAIL_FALLOCATE, 0);
    make_hot(&w, 1, 1);
    tracked_drop(&w);
}

/* -- crash points ------------------------------------------------------------------------------------------- */

static void killed_while_hot(void *nth)
{
    struct tracked w = {.fd = parent->fd};
    tracked_use(&w, tracked_attach(parent->fd, 0, 0, "adaptive"), parent->data);
    hold(w.a);
    make_hot(&w, 1, 1);
    rcv_crash_at(*(uint64_t *)nth);
    begin(w.a); /* 1 is hot, 2 has trapped once, 3 and 4 have not */
    for (uint64_t p = 1; p < 5; p++)
        poke(&w, p * PAGE, 2);
    announce(&w, PAGE + 1, 2);
    commit(w.a);
    begin(w.a);
    for (uint64_t p = 1; p < 5; p++)
        poke(&w, p * PAGE, 3);
    announce(&w, PAGE + 1, 3);
    commit(w.a); /* promotes 2, 3, 4 */
    begin(w.a);
    for (uint64_t p = 1; p < 5; p++)
        poke(&w, p * PAGE, 4);
    announce(&w, PAGE + 1, 4);
    rollback(w.a);
    begin(w.a);
    tracker_shut(w.a);
    tracker_settle(w.a);
    phase_set(w.a, RCV_PUBLISH);
    tracker_forget_pages(w.a, w.data, 5 * PAGE);
    end(w.a);
    rcv_crash_at(0);
    drop(w.a);
}

/* Killed at any store of a commit, a rollback, a promotion or a demotion: the next attach finds one committed state, and
 * shadows that agree with it. */
static void killed_at_every_point(void)
{
    if (!rcv_test_build()) {
        printf("not a test build: crash points not tried\n");
        return;
    }
    uint64_t nth = 1;
    for (;; nth++) {
        struct tracked w = tracked_make(64, 0, "adaptive");
        parent = &w;
        drop(w.a);
        CHECK(rcv_close(w.a) == 0); /* the child is alone: the next attach recovers */
        int status = child(killed_while_hot, &nth);
        w.a = tracked_attach(w.fd, 0, 0, "adaptive");
        tracked_use(&w, w.a, w.data);
        uint8_t v = w.core[2 * PAGE];
        CHECK(v <= 3 && v != 1);
        CHECK(w.core[PAGE] == (v ? v : 1) && w.core[PAGE + 1] == v && w.core[3 * PAGE] == v && w.core[4 * PAGE] == v);
        hold(w.a);
        begin(w.a);
        for (uint32_t i = 0; i < w.a->tracker->n_hot; i++) {
            uint32_t slot = w.a->tracker->hot[i];
            CHECK(memcmp(hot_shadow(w.a, slot), page_core(w.a, w.a->tracker->page_of[slot] - 1), PAGE) == 0);
        }
        CHECK(!rcv_strays_pending(w.a));
        rollback(w.a);
        tracked_drop(&w);
        if (!was_killed(status)) {
            CHECK(went_well(status));
            break;
        }
    }
    CHECK(nth > 30);
    printf("killed at %llu points\n", (unsigned long long)nth - 1);
}

/* A hot table that does not add up is damage, found before anything is written. */
static void damaged_tables(void)
{
    static const uint64_t bad[][2] = {{0xffff, 0}, {3, 3}, {UINT64_C(1) << 32, 0}};
    for (unsigned i = 0; i < 3; i++) {
        struct tracked      w = tracked_make(64, 0, "adaptive");
        struct rcv_recovery report = {0};
        make_hot(&w, 0, 1);
        CHECK(hot_recover(w.a, true, &report) == 0);
        atomic_store(&hot_table(w.a)[4], bad[i][0]);
        atomic_store(&hot_table(w.a)[5], bad[i][1]);
        CHECK(hot_recover(w.a, true, &report) == RCV_ERR_CORRUPT);
        atomic_fetch_add(&w.a->hdr->hot_generation, 1);
        CHECK(lock_take(w.a) == 0);
        CHECK(tracker_enter(w.a, NULL) == RCV_ERR_CORRUPT);
        lock_drop(w.a);
        atomic_store(&hot_table(w.a)[4], 0);
        atomic_store(&hot_table(w.a)[5], 0);
        atomic_store(&w.a->hdr->corrupt, 0);
        tracked_drop(&w);
    }
}

/* -- policies ----------------------------------------------------------------------------------------------- */

/* A wrong name is refused with the right ones, and leaves nothing behind. */
static void policies_by_name(void)
{
    struct rcv_open_options o = {.size = 16 * MIB, .create = 1, .policy = "psychic", .name = "tracked"};
    rcv_arena              *a = NULL;
    int                     fd = scratch_object();
    CHECK(rcv_open(fd, &o, &a) == RCV_ERR_MISUSE && a == NULL);
    CHECK(strstr(rcv_error_text(), "adaptive") && strstr(rcv_error_text(), "psychic"));
    close(fd);
}

/* What a policy gives up is protected and traps again, although this process has just written it; and `max_hot` bounds the set. */
static void policies_are_obeyed(void)
{
    const struct rcv_policy_option two = {.name = "max_hot", .value = 2};
    struct tracked                 w = {.fd = scratch_object()};
    struct rcv_open_options        o = {.size = 16 * MIB, .create = 1, .policy = "full", .name = "tracked",
                                        .busy_timeout = 5, .policy_options = &two, .n_policy_options = 1};
    tracked_fill(&w, &o, 64);
    for (uint32_t round = 0; round < 3; round++) {
        begin(w.a);
        for (uint32_t p = 0; p < 4; p++)
            poke(&w, p * 2 * PAGE, (uint8_t)(round + 1));
        commit(w.a);
    }
    CHECK(hot(&w, 0) && hot(&w, 2) && !hot(&w, 4) && w.a->tracker->n_hot == 2);
    CHECK(w.a->n.traps == 4 + 2 + 2);
    w.a->tracker->wse.max_hot = 4;
    wse_say(&w.a->tracker->wse.demote, w.first);
    begin(w.a);
    poke(&w, 0, 9);
    commit(w.a);
    CHECK(!hot(&w, 0) && !writable(&w, 0) && w.a->n.demotions == 1);
    begin(w.a);
    poke(&w, 0, 10);
    rollback(w.a);
    CHECK(w.core[0] == 9 && w.a->n.traps == 9);
    tracked_drop(&w);
}

/* Entering and leaving without raw buffers takes next to nothing: printed, not checked. */
static void costs(void)
{
    struct tracked w = tracked_make(64, 0, "adaptive");
    drop(w.a);
    begin(w.a);
    commit(w.a);
    CHECK(lock_take(w.a) == 0);
    uint64_t begun = os_nanos();
    for (int i = 0; i < 100000; i++) {
        CHECK(tracker_enter(w.a, NULL) == 0);
        tracker_leave(w.a);
    }
    uint64_t pair = (os_nanos() - begun) * 10 / 100000;
    lock_drop(w.a);
    const struct wse_costs *c = &w.a->tracker->wse.costs;
    printf("enter + leave %llu.%llu ns; trap %llu, protect %llu, compare %llu, copy %llu ns; patience %u\n",
           (unsigned long long)pair / 10, (unsigned long long)pair % 10, (unsigned long long)c->trap, (unsigned long long)c->protect,
           (unsigned long long)c->compare, (unsigned long long)c->copy, w.a->tracker->wse.patience);
    CHECK(c->trap > 0 && c->compare > 0);
    struct wse_costs again;
    const uint64_t   kept[4] = {11, 22, 33, 44};
    memcpy(w.a->hdr->calibration, kept, sizeof kept);
    CHECK(calibrate(w.a, &again) == 0 && again.trap == 11 && again.protect == 22 && again.compare == 33 && again.copy == 44);
    w.a->hdr->calibration[0] = 0;
    begun = os_nanos();
    CHECK(calibrate(w.a, &again) == 0);
    printf("calibration took %llu us\n", (unsigned long long)(os_nanos() - begun) / 1000);
    tracked_drop(&w);
}

int main(void)
{
    trap_and_rollback();
    same_bytes_are_no_change();
    adjacent_pages_are_one_call();
    a_call_spans_what_is_protected();
    announced_ranges_are_left_out();
    hot_pages_do_not_trap();
    unwritten_pages_cool_down();
    only_live_pages_are_hot();
    strays_on_hot_pages();
    savepoints();
    edited_ranges();
    the_hot_set_is_shared();
    a_forked_child_starts_clean();
    every_mprotect_fails_once();
    hot_pages_in_a_block();
    more_hot_pages_than_the_map_allows();
    promotion_may_fail();
    killed_at_every_point();
    damaged_tables();
    policies_by_name();
    policies_are_obeyed();
    costs();
    CHECKS_DONE();
    return 0;
}
