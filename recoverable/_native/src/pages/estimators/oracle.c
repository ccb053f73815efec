/* oracle.c -- the bound: what would somebody have done who knew all writes beforehand?
 *
 * Pages do not interact: what one costs does not depend on how another is treated. So the best treatment of all is the best
 * of each, and that of one page is a shortest path through two states, cold and hot, over the boundaries at which it was
 * written; in between only the rent of a hot page counts. With T a trap, P a change of protection, C the comparisons of one
 * boundary, Y a copy:
 *
 *      written while cold    T + P              cold -> hot between two boundaries    Y + P
 *      written while hot     C + Y              hot -> cold                           P
 *      unwritten while hot   C                  a page is cold before the first boundary
 *
 * `on_demand` leaves out what nobody can do who does not see the future: a page becomes hot only at a boundary at which it was
 * written. (Such a plan is for its price alone: its switches are placed as if it were not on demand.)
 *
 * The path is exact in this model. What the model leaves out is that adjacent pages share a system call: a run over many of
 * those can cost less than this "optimum".
 *
 * `oracle` replays the plan: it puts each boundary's switches on its lists. It fits a run that makes the same boundaries as the recorded
 * one; elsewhere it is as good as any other wrong guess.
 */
#include "estimators.h"

/* How the best path reaches a write: its state there, and where it comes from. */
#define COLD_FROM_HOT 1u  /* the best way to be cold here comes from hot */
#define HOT_FROM_COLD 2u  /* … to be hot here, from cold */
#define HOT_RETURNS 4u    /* … to be hot here, from hot, but cold in between */

struct writes { /* of all pages: by page, then by time */
    uint32_t *first; /* by page: its first in `at`; one more at the end */
    uint32_t *at;    /* boundaries */
    uint8_t  *from;
};

static void writes_free(struct writes *w)
{
    os_free(w->first);
    os_free(w->at);
    os_free(w->from);
}

/* sort_writes -- a counting sort of the stream by page. */
static int sort_writes(struct writes *w, const struct rcv_stream *s, uint32_t pages)
{
    uint32_t total = s->n ? s->ends[s->n - 1] : 0, begin = 0;
    w->first = os_calloc((size_t)pages + 2, sizeof *w->first);
    w->at = os_malloc(((size_t)total + 1) * sizeof *w->at);
    w->from = os_malloc((size_t)total + 1);
    if (!w->first || !w->at || !w->from)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory to plan a run of %u boundaries", s->n);
    for (uint32_t i = 0; i < s->n; begin = s->ends[i++])
        if (s->ends[i] < begin || s->ends[i] > total)
            return rcv_raise(RCV_ERR_MISUSE, 0, "boundary %u of the recording ends before it begins", i);
    for (uint32_t k = 0; k < total; k++) {
        if (s->pages[k] >= pages || (s->pages[k] & PLAN_PROMOTE))
            return rcv_raise(RCV_ERR_MISUSE, 0, "the recording names page %u, of %u", s->pages[k], pages);
        w->first[s->pages[k] + 2]++;
    }
    for (uint32_t p = 2; p <= pages; p++)
        w->first[p + 1] += w->first[p]; /* first[p + 1]: where page p begins; moves to its end below */
    begin = 0;
    for (uint32_t i = 0; i < s->n; begin = s->ends[i++])
        for (uint32_t k = begin; k < s->ends[i]; k++)
            w->at[w->first[s->pages[k] + 1]++] = i;
    return 0;
}

struct prices {
    uint64_t cold, hot, rent, heat, cool;
    bool     on_demand; /* a page becomes hot only at a boundary at which it was written */
};

/* How it ends after the last write: cold, hot and then cold, hot for the rest of the run. */
enum end { END_COLD, END_COOLED, END_HOT };

/* best_path -- of one page over its n writes: what it costs; `from` says how. */
static uint64_t best_path(const struct prices *x, const uint32_t *at, uint8_t *from, uint32_t n, uint32_t steps, enum end *end)
{
    uint64_t cold = x->cold, hot = at[0] > 0 && !x->on_demand ? x->heat + x->hot : UINT64_MAX / 2;
    from[0] = HOT_FROM_COLD;
    for (uint32_t k = 1; k < n; k++) {
        uint64_t wait = (uint64_t)(at[k] - at[k - 1] - 1) * x->rent;
        uint64_t stay = hot + wait, again = x->on_demand ? UINT64_MAX : hot + x->cool + x->heat;
        uint64_t warm = cold + x->heat + (x->on_demand ? wait : 0);
        uint64_t cooled = hot + x->cool, kept = stay <= again ? stay : again;
        from[k] = (uint8_t)((cooled < cold ? COLD_FROM_HOT : 0) | (warm < kept ? HOT_FROM_COLD : again < stay ? HOT_RETURNS : 0));
        hot = (warm < kept ? warm : kept) + x->hot;
        cold = (cooled < cold ? cooled : cold) + x->cold;
    }
    uint64_t kept = hot + (uint64_t)(steps - at[n - 1] - 1) * x->rent, cooled = hot + x->cool;
    *end = cold <= kept && cold <= cooled ? END_COLD : cooled <= kept ? END_COOLED : END_HOT;
    return *end == END_COLD ? cold : *end == END_COOLED ? cooled : kept;
}

/* walk_back -- fn for each switch of the path, from its end. */
static void walk_back(const uint32_t *at, const uint8_t *from, uint32_t n, enum end end, uint32_t page,
                      void (*fn)(struct wse_plan *plan, uint32_t boundary, uint32_t page, bool promote), struct wse_plan *plan)
{
    bool hot = end != END_COLD;
    if (end == END_COOLED)
        fn(plan, at[n - 1], page, false);
    for (uint32_t k = n; k-- > 0;) {
        if (!hot && k > 0 && (from[k] & COLD_FROM_HOT)) {
            fn(plan, at[k - 1], page, false);
            hot = true;
        } else if (hot && (k == 0 || (from[k] & HOT_FROM_COLD))) {
            fn(plan, at[k] - 1, page, true);
            hot = false;
        } else if (hot && (from[k] & HOT_RETURNS)) {
            fn(plan, at[k] - 1, page, true);
            fn(plan, at[k - 1], page, false);
        }
    }
}

static void count(struct wse_plan *plan, uint32_t boundary, uint32_t page, bool promote)
{
    (void)page, (void)promote;
    plan->ends[boundary]++;
}

static void put(struct wse_plan *plan, uint32_t boundary, uint32_t page, bool promote)
{
    plan->page[plan->ends[boundary]++] = page | (promote ? PLAN_PROMOTE : 0);
}

/* place -- count the switches of each boundary, then put them there: ends[i] moves from where i begins to where it ends. */
static int place(struct wse_plan *plan, const struct writes *w, uint32_t pages, const struct prices *x)
{
    uint32_t total = 0;
    enum end end;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t p = 0; p < pages; p++) {
            uint32_t from = w->first[p], n = w->first[p + 1] - from;
            if (n == 0)
                continue;
            uint64_t ns = best_path(x, w->at + from, w->from + from, n, plan->n, &end);
            plan->ns += pass == 0 ? ns : 0;
            walk_back(w->at + from, w->from + from, n, end, p, pass == 0 ? count : put, plan);
        }
        if (pass == 1)
            break;
        for (uint32_t i = 0; i < plan->n; i++) {
            uint32_t here = plan->ends[i];
            plan->ends[i] = total;
            total += here;
        }
        if ((plan->page = os_malloc(((size_t)total + 1) * sizeof *plan->page)) == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no process memory to plan a run of %u boundaries", plan->n);
    }
    return 0;
}

int wse_plan(struct wse_plan *out, const struct rcv_stream *s, uint32_t pages, const struct wse_costs *c, uint32_t comparisons,
             bool on_demand)
{
    const struct prices x = {.cold = c->trap + c->protect,
                             .hot = comparisons * c->compare + c->copy,
                             .rent = comparisons * c->compare,
                             .heat = c->copy + c->protect,
                             .cool = c->protect,
                             .on_demand = on_demand};
    struct writes       w = {0};
    *out = (struct wse_plan){.n = s->n, .ends = os_calloc((size_t)s->n + 1, sizeof *out->ends)};
    int rc = out->ends ? sort_writes(&w, s, pages)
                       : rcv_raise(RCV_ERR_FULL, 0, "no process memory to plan a run of %u boundaries", s->n);
    if (rc == 0)
        rc = place(out, &w, pages, &x);
    writes_free(&w);
    if (rc)
        wse_plan_free(out);
    return rc;
}

void wse_plan_free(struct wse_plan *plan)
{
    os_free(plan->ends);
    os_free(plan->page);
    *plan = (struct wse_plan){0};
}

/* -- oracle ------------------------------------------------------------------------------------------------- */

struct oracle {
    struct wse_plan plan;
    uint32_t        now;
};

static int oracle_open(struct wse *w)
{
    struct oracle *s;
    if (w->recording == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "the policy \"oracle\" replays a recorded run: give it a recording");
    if ((s = os_calloc(1, sizeof *s)) == NULL)
        return wse_no_memory(w);
    int rc = wse_plan(&s->plan, w->recording, w->pages, &w->costs, w->comparisons, false);
    if (rc) {
        os_free(s);
        return rc;
    }
    w->state = s;
    return 0;
}

static void oracle_close(struct wse *w)
{
    struct oracle *s = w->state;
    wse_plan_free(&s->plan);
    os_free(s);
}

static void oracle_compared(struct wse *w, uint32_t page, bool changed) { (void)w, (void)page, (void)changed; }

static void oracle_boundary(struct wse *w)
{
    struct oracle *s = w->state;
    uint32_t       i = s->now++;
    if (i >= s->plan.n)
        return;
    for (uint32_t k = i ? s->plan.ends[i - 1] : 0; k < s->plan.ends[i]; k++) {
        uint32_t page = s->plan.page[k];
        wse_say(page & PLAN_PROMOTE ? &w->promote : &w->demote, page & ~PLAN_PROMOTE);
    }
}

const struct wse_policy wse_oracle = {
    .name = "oracle",
    .open = oracle_open,
    .close = oracle_close,
    .trapped = wse_no_page,
    .compared = oracle_compared,
    .promoted = wse_no_page,
    .boundary = oracle_boundary,
};
