/* test_wse.c -- the working-set policies, each against its rule; the offline optimum against trying everything. */
#include "scratch.h"
#include "pages/estimators/estimators.h"

static const struct wse_costs costs = {.trap = 6000, .protect = 2000, .compare = 100, .copy = 100};

static struct wse make(const char *policy, const struct rcv_policy_option *options, uint32_t n)
{
    struct wse w;
    int        rc = wse_open(&w, &(struct wse_setup){
                              .policy = policy, .options = options, .n_options = n, .pages = 64, .comparisons = 2, .costs = costs});
    if (rc != 0)
        fprintf(stderr, "%s\n", rcv_error_text());
    CHECK(rc == 0);
    return w;
}

static bool on(const struct wse_list *list, uint32_t page)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->page[i] == page)
            return true;
    return false;
}

/* What the tracker does with the verdicts, for up to 64 pages: a bit each. */
static uint64_t hot;
static unsigned traps, vain;

static void step(struct wse *w, uint64_t written)
{
    for (uint32_t p = 0; p < 64; p++)
        if (hot >> p & 1) {
            wse_compared(w, p, written >> p & 1);
            vain += !(written >> p & 1);
        }
    for (uint32_t p = 0; p < 64; p++)
        if ((written & ~hot) >> p & 1) {
            wse_trapped(w, p);
            traps++;
        }
    wse_boundary(w);
    for (uint32_t i = 0; i < w->demote.n; i++)
        hot &= ~(UINT64_C(1) << w->demote.page[i]);
    for (uint32_t i = 0; i < w->promote.n; i++)
        if (!(hot >> w->promote.page[i] & 1)) {
            hot |= UINT64_C(1) << w->promote.page[i];
            wse_promoted(w, w->promote.page[i]);
        }
    w->demote.n = w->promote.n = 0;
}

static void fresh(void) { hot = 0, traps = vain = 0; }

/* A wrong name, option or value is refused, and the text says what there is. */
static void what_is_refused(void)
{
    struct wse               w;
    struct wse_setup         s = {.policy = "psychic", .pages = 64, .comparisons = 2, .costs = costs};
    struct rcv_policy_option o = {.name = "period", .value = 10};
    CHECK(wse_open(&w, &s) == RCV_ERR_MISUSE);
    static const char *const all[] = {"psychic", "adaptive", "incremental", "full", "active-rnd", "active-cks", "genetic", "oracle"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CHECK(strstr(rcv_error_text(), all[i]));
    s.options = &o;
    s.n_options = 1;
    s.policy = "adaptive";
    CHECK(wse_open(&w, &s) == RCV_ERR_MISUSE);
    CHECK(strstr(rcv_error_text(), "\"period\"") && strstr(rcv_error_text(), "\"patience\"") && strstr(rcv_error_text(), "\"max_hot\""));
    s.policy = "active-rnd";
    o.value = 1;
    CHECK(wse_open(&w, &s) == RCV_ERR_MISUSE && strstr(rcv_error_text(), "from 2 to"));
    o.value = 0.0 / 0.0;
    CHECK(wse_open(&w, &s) == RCV_ERR_MISUSE);
    o.value = 10;
    CHECK(wse_open(&w, &s) == 0 && w.option[0] == 10 && w.option[1] == 10 && w.max_hot == 0);
    wse_close(&w);
    o = (struct rcv_policy_option){.name = "max_hot", .value = 7};
    CHECK(wse_open(&w, &s) == 0 && w.max_hot == 7);
    wse_close(&w);
    s.policy = "oracle";
    CHECK(wse_open(&w, &s) == RCV_ERR_MISUSE && strstr(rcv_error_text(), "recording"));
}

/* The window is three quarters of (6000 + 2000) / (2 x 100) = 40 boundaries; a demotion and its return cost 12100 / 200 = 60. */
static void adaptive(void)
{
    struct wse w = make("adaptive", NULL, 0);
    CHECK(w.patience == 60);
    wse_trapped(&w, 1);
    wse_trapped(&w, 1); /* twice in one step is once */
    CHECK(w.promote.n == 0);
    wse_close(&w);
    w = make("adaptive", NULL, 0);
    fresh();
    step(&w, 3);
    for (int i = 0; i < 29; i++)
        step(&w, 0);
    step(&w, 1); /* 30 after the last */
    CHECK(hot == 1 && traps == 3);
    step(&w, 2); /* 31 after the last */
    CHECK(hot == 1 && traps == 4);
    for (int i = 0; i < 59; i++)
        step(&w, 0);
    CHECK(hot == 1);
    step(&w, 0);
    CHECK(hot == 0);
    wse_close(&w);
    const struct rcv_policy_option own[] = {{"patience", 3}, {"window", 5}};
    w = make("adaptive", own, 2);
    fresh();
    CHECK(w.patience == 3);
    step(&w, 1);
    for (int i = 0; i < 4; i++)
        step(&w, 0);
    step(&w, 1);
    CHECK(hot == 1 && traps == 2);
    for (int i = 0; i < 3; i++) {
        step(&w, 0);
        CHECK(hot == 1);
    }
    step(&w, 0);
    CHECK(hot == 0);
    wse_close(&w);
}

/* A page that is written in pairs, a long time apart, is believed once or twice, then no more; one that comes back to stay is. */
static void adaptive_remembers(void)
{
    struct wse w = make("adaptive", NULL, 0);
    unsigned   promotions = 0;
    fresh();
    for (int pair = 0; pair < 20; pair++) {
        step(&w, 1);
        step(&w, 0);
        step(&w, 1);
        promotions += hot == 1;
        for (int i = 0; i < 300; i++)
            step(&w, 0);
    }
    CHECK(promotions >= 1 && promotions <= 3 && traps == 40);
    traps = 0;
    for (int i = 0; i < 20; i++)
        step(&w, 1);
    CHECK(hot == 1 && traps <= 6);
    for (int i = 0; i < 1000; i++) /* so much for a page that was hot for long */
        step(&w, 1);
    for (int i = 0; i < 1000; i++)
        step(&w, 0);
    traps = 0;
    for (int i = 0; i < 20; i++)
        step(&w, 1);
    CHECK(hot == 1 && traps <= 3);
    wse_close(&w);
}

/* incremental keeps nothing hot, full keeps all that was ever written. */
static void the_ends_of_the_scale(void)
{
    struct wse w = make("incremental", NULL, 0);
    fresh();
    for (int i = 0; i < 10; i++)
        step(&w, 0x0f);
    CHECK(hot == 0 && traps == 40);
    wse_compared(&w, 5, true);
    CHECK(on(&w.demote, 5));
    wse_close(&w);
    w = make("full", NULL, 0);
    fresh();
    step(&w, 0x0f);
    step(&w, 0xf0);
    for (int i = 0; i < 1000; i++)
        step(&w, 0);
    CHECK(hot == 0xff && traps == 8);
    wse_close(&w);
}

/* A page leaves after five epochs without a change, however long it was written before. */
static void active_cks(void)
{
    struct wse w = make("active-cks", NULL, 0);
    fresh();
    step(&w, 3);
    CHECK(hot == 3 && traps == 2);
    for (int i = 0; i < 4; i++)
        step(&w, 1);
    CHECK(hot == 3);
    step(&w, 1);
    CHECK(hot == 1 && vain == 5);
    for (int i = 0; i < 20; i++)
        step(&w, i % 5 == 4);
    CHECK(hot == 1);
    wse_close(&w);
    const struct rcv_policy_option one = {"epochs", 1};
    w = make("active-cks", &one, 1);
    fresh();
    step(&w, 1);
    step(&w, 2);
    CHECK(hot == 2);
    wse_close(&w);
}

/* Every fiftieth epoch is spent protected, and its traps, times 1.125, bound the list. */
static void active_rnd(void)
{
    struct wse w = make("active-rnd", NULL, 0);
    fresh();
    step(&w, 0xff); /* nothing is hot yet: the first epoch is a sample */
    CHECK(traps == 8 && hot == 0xff);
    for (int i = 0; i < 49; i++)
        step(&w, 0xff);
    CHECK(traps == 8 && hot == 0xff);
    step(&w, 0xff); /* the fiftieth since */
    CHECK(hot == 0);
    step(&w, 0xff);
    CHECK(traps == 16 && hot == 0xff);
    /* 8 x 1.125 = 9 places: two new pages throw one of the ten out. */
    step(&w, 0x3ff);
    CHECK(traps == 18 && __builtin_popcountll(hot) == 9);
    wse_close(&w);
    const struct rcv_policy_option own[] = {{"period", 2}, {"samples", 3}, {"slack", 1}};
    w = make("active-rnd", own, 3);
    fresh();
    step(&w, 0xf);
    for (int i = 0; i < 12; i++)
        step(&w, 0x3); /* two of three samples say two pages: the median */
    for (int i = 0; i < 3 && hot == 0; i++)
        step(&w, 0x3);
    CHECK(__builtin_popcountll(hot) == 2);
    wse_close(&w);
}

/* On a fixed set it learns to trap less than incremental does; pages that are not written any more die out. */
static void genetic(void)
{
    struct wse w = make("genetic", NULL, 0);
    fresh();
    for (int i = 0; i < 500; i++)
        step(&w, 0xff);
    traps = vain = 0;
    for (int i = 0; i < 100; i++)
        step(&w, 0xff);
    CHECK(traps < 8 * 100 / 4);
    for (int i = 0; i < 2000; i++)
        step(&w, 0);
    vain = 0;
    for (int i = 0; i < 100; i++)
        step(&w, 0);
    CHECK(vain < 8 * 100 / 4);
    wse_close(&w);
    unsigned before[2];
    for (int run = 0; run < 2; run++) { /* the same seed, the same run */
        w = make("genetic", NULL, 0);
        fresh();
        for (int i = 0; i < 200; i++)
            step(&w, UINT64_C(0x11) << i % 7);
        before[run] = traps * 1000 + vain;
        wse_close(&w);
    }
    CHECK(before[0] == before[1]);
}

/* -- the optimum -------------------------------------------------------------------------------------------- */

#define STEPS 10u

/* cost_of -- of one page with this schedule: bit i, hot in step i. */
static uint64_t cost_of(uint32_t schedule, uint32_t written)
{
    uint64_t ns = 0;
    bool     was = false;
    for (uint32_t i = 0; i < STEPS; i++) {
        bool is = schedule >> i & 1, wrote = written >> i & 1;
        ns += is && !was ? costs.copy + costs.protect : !is && was ? costs.protect : 0;
        ns += is ? 2 * costs.compare + (wrote ? costs.copy : 0) : wrote ? costs.trap + costs.protect : 0;
        was = is;
    }
    return ns;
}

static uint64_t replay(const struct rcv_stream *s, const struct wse_costs *c)
{
    struct wse w;
    uint64_t   ns = 0;
    CHECK(wse_open(&w, &(struct wse_setup){.policy = "oracle", .pages = 64, .comparisons = 2, .costs = *c, .recording = s}) == 0);
    fresh();
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t written = 0, was = hot;
        for (uint32_t k = i ? s->ends[i - 1] : 0; k < s->ends[i]; k++)
            written |= UINT64_C(1) << s->pages[k];
        ns += (uint64_t)__builtin_popcountll(written & ~hot) * (c->trap + c->protect) +
              (uint64_t)__builtin_popcountll(hot) * 2 * c->compare + (uint64_t)__builtin_popcountll(hot & written) * c->copy;
        step(&w, written);
        ns += (uint64_t)__builtin_popcountll(hot & ~was) * (c->copy + c->protect) + (uint64_t)__builtin_popcountll(was & ~hot) * c->protect;
    }
    wse_close(&w);
    return ns;
}

/* For every way in which a page can be written in ten steps, the plan costs what the best of all schedules costs; and the
 * oracle, which follows it, pays exactly that. */
static void the_optimum_is_one(void)
{
    const struct wse_costs dear = {.trap = 6000, .protect = 100, .compare = 900, .copy = 100}; /* leaving and coming back pays */
    for (uint32_t written = 1; written < 1u << STEPS; written++) {
        uint32_t pages[STEPS], ends[STEPS], n = 0;
        uint64_t best = UINT64_MAX;
        for (uint32_t i = 0; i < STEPS; i++) {
            if (written >> i & 1)
                pages[n++] = 5;
            ends[i] = n;
        }
        uint64_t on_demand = UINT64_MAX;
        for (uint32_t schedule = 0; schedule < 1u << STEPS; schedule += 2) { /* cold at first */
            uint64_t ns = cost_of(schedule, written);
            best = ns < best ? ns : best;
            if ((schedule & ~(schedule << 1) & ~(written << 1)) == 0) /* it becomes hot after a write only */
                on_demand = ns < on_demand ? ns : on_demand;
        }
        struct rcv_stream s = {.n = STEPS, .ends = ends, .pages = pages};
        struct wse_plan   plan;
        CHECK(wse_plan(&plan, &s, 64, &costs, 2, false) == 0);
        CHECK(plan.ns == best);
        wse_plan_free(&plan);
        CHECK(wse_plan(&plan, &s, 64, &costs, 2, true) == 0 && plan.ns == on_demand);
        wse_plan_free(&plan);
        CHECK(replay(&s, &costs) == best);
        CHECK(wse_plan(&plan, &s, 64, &dear, 2, false) == 0);
        CHECK(replay(&s, &dear) == plan.ns);
        wse_plan_free(&plan);
    }
}

/* Many pages at once: the sum of each alone; no policy is cheaper; and a recording that lies is refused. */
static void many_pages(void)
{
    enum { N = 400 };
    static uint32_t pages[N * 8], ends[N];
    uint32_t        n = 0;
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t p = 0; p < 64; p++)
            if (rnd(p + 2) == 0)
                if (n < N * 8)
                    pages[n++] = p;
        ends[i] = n;
    }
    struct rcv_stream s = {.n = N, .ends = ends, .pages = pages};
    struct wse_plan   plan;
    CHECK(wse_plan(&plan, &s, 64, &costs, 2, false) == 0);
    CHECK(replay(&s, &costs) == plan.ns);
    CHECK(plan.ns < n * (costs.trap + costs.protect) / 2);
    wse_plan_free(&plan);
    pages[17] = 64;
    CHECK(wse_plan(&plan, &s, 64, &costs, 2, false) == RCV_ERR_MISUSE && plan.ends == NULL);
    pages[17] = 3;
    ends[5] = ends[4] - 1;
    CHECK(wse_plan(&plan, &s, 64, &costs, 2, false) == RCV_ERR_MISUSE);
    s = (struct rcv_stream){0};
    CHECK(wse_plan(&plan, &s, 64, &costs, 2, false) == 0 && plan.ns == 0);
    wse_plan_free(&plan);
}

/* In shadow: what is counted is what the rules say, the oracle pays the optimum, and nobody pays less. */
static void in_shadow(void)
{
    enum { N = 600 };
    static uint32_t pages[N * 10], ends[N];
    static uint64_t by_step[N];
    uint32_t        n = 0;
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t p = 0; p < 4; p++)
            pages[n++] = p; /* always */
        for (uint32_t p = 4; p < 10; p++)
            if (rnd(5 * p) == 0)
                pages[n++] = p;
        ends[i] = n;
    }
    struct rcv_stream       s = {.n = N, .ends = ends, .pages = pages};
    struct rcv_replay_setup setup = {.policy = "incremental", .stream = &s, .pages = 64, .comparisons = 2,
                                     .costs = {costs.trap, costs.protect, costs.compare, costs.copy}};
    struct rcv_replay       r;
    uint64_t                best, sum = 0;
    CHECK(rcv_optimum(&setup, 0, &best) == 0 && rcv_replay(&setup, &r, by_step) == 0);
    CHECK(r.traps == n && r.protects == n && r.compares == 0 && r.copies == 0 && r.most_hot == 0 && r.ns == n * UINT64_C(8000));
    for (uint32_t i = 0; i < N; i++)
        sum += by_step[i];
    CHECK(sum == r.ns && by_step[0] == ends[0] * UINT64_C(8000));
    setup.policy = "full";
    CHECK(rcv_replay(&setup, &r, NULL) == 0);
    CHECK(r.traps == 10 && r.promotions == 10 && r.demotions == 0 && r.most_hot == 10 && r.copies == n - r.traps + 10);
    CHECK(r.compares == 2 * (r.vain + n - r.traps) && r.ns == 10 * 6000 + 20 * 2000 + r.compares * 100 + r.copies * 100);
    const struct rcv_policy_option three = {"max_hot", 3};
    setup.options = &three;
    setup.n_options = 1;
    CHECK(rcv_replay(&setup, &r, NULL) == 0 && r.most_hot == 3);
    setup.n_options = 0;
    static const char *const names[] = {"incremental", "full", "adaptive", "active-rnd", "active-cks", "genetic", "oracle"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        setup.policy = names[i];
        CHECK(rcv_replay(&setup, &r, NULL) == 0 && r.ns >= best);
    }
    CHECK(r.ns == best); /* the last one's */
    for (int fail = 1; rcv_test_build(); fail++) {
        rcv_fail_at(RCV_FAIL_MALLOC, (uint64_t)fail);
        int rc = rcv_replay(&setup, &r, NULL);
        rcv_fail_at(RCV_FAIL_MALLOC, 0);
        CHECK(rc == 0 || rc == RCV_ERR_FULL);
        if (rc == 0 && r.ns == best)
            break;
        CHECK(fail < 1000);
    }
    pages[3] = 64;
    CHECK(rcv_replay(&setup, &r, NULL) == RCV_ERR_MISUSE && rcv_optimum(&setup, 0, &best) == RCV_ERR_MISUSE);
    setup.policy = "psychic";
    pages[3] = 3;
    CHECK(rcv_replay(&setup, &r, NULL) == RCV_ERR_MISUSE && strstr(rcv_error_text(), "psychic"));
}

/* A recorder keeps whole steps: each page once, whose they were; without memory it stops between two steps. */
static void recorder(void)
{
    char handler[2][RCV_HANDLER_NAME] = {"GET /", "POST /"};
    for (int fail = 0;; fail++) {
        struct wse_recorder *r = NULL;
        if (rcv_test_build())
            rcv_fail_at(RCV_FAIL_MALLOC, (uint64_t)fail);
        int rc = wse_recorder_new(&r, 64, false);
        if (rc != 0) {
            CHECK(rc == RCV_ERR_FULL && r == NULL && fail > 0);
            continue;
        }
        for (uint32_t i = 0; i < 1000; i++) {
            for (uint32_t p = 0; p < 3; p++)
                wse_record_write(r, p + i % 60);
            wse_record_write(r, i % 60);
            wse_record_step(r, handler[i % 3 == 0]);
        }
        rcv_fail_at(RCV_FAIL_MALLOC, 0);
        const struct rcv_recording *out = wse_recorder_view(r);
        CHECK(out->truncated == (out->stream.n < 1000) && out->n_names <= 2);
        for (uint32_t i = 0; i < out->stream.n; i++) {
            CHECK(out->stream.ends[i] == 3 * (i + 1) && out->stream.pages[3 * i] == i % 60);
            CHECK(strcmp(out->names + out->handlers[i] * RCV_HANDLER_NAME, handler[i % 3 == 0]) == 0);
        }
        bool whole = !out->truncated;
        wse_recorder_free(r);
        if (whole && fail > 0)
            break;
        CHECK(whole || fail > 0);
        if (!rcv_test_build())
            break;
    }
}

/* No memory: an error, and nothing to close. */
static void no_memory(void)
{
    static const char *const names[] = {"adaptive", "active-rnd", "active-cks", "genetic", "oracle"};
    uint32_t                 page = 1, end = 1;
    const struct rcv_stream  s = {.n = 1, .ends = &end, .pages = &page};
    for (size_t i = 0; rcv_test_build() && i < sizeof names / sizeof *names; i++) {
        struct wse       w;
        struct wse_setup setup = {.policy = names[i], .pages = 64, .comparisons = 2, .costs = costs, .recording = &s};
        int              rc, n = 0;
        do {
            rcv_fail_at(RCV_FAIL_MALLOC, (uint64_t)++n);
            rc = wse_open(&w, &setup);
            CHECK(rc == 0 || (rc == RCV_ERR_FULL && w.policy == NULL));
        } while (rc != 0);
        rcv_fail_at(RCV_FAIL_MALLOC, 0);
        CHECK(n > 1);
        wse_close(&w);
    }
}

int main(void)
{
    what_is_refused();
    adaptive();
    adaptive_remembers();
    the_ends_of_the_scale();
    active_cks();
    active_rnd();
    genetic();
    the_optimum_is_one();
    many_pages();
    in_shadow();
    recorder();
    no_memory();
    CHECKS_DONE();
    return 0;
}
