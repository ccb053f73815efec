/* replay.c -- what would a policy have made of a recorded run? Shadow evaluation: page numbers only, no arena, no faults.
 *
 * The policy is driven exactly as the tracker drives it (estimators.h), and what the tracker would have done is counted and priced:
 *
 *      a cold page written      a trap, and its protection at the step's end
 *      a hot page               its comparisons, and a copy where it was written
 *      promoted                 a copy, and a change of protection
 *      demoted                  a change of protection
 *      captured                 a comparison and a copy a page, two changes of protection a run of neighbours
 *
 * Not in the model: that neighbours share a system call, that the log grows, what caches do; and what the policy itself
 * costs, which is measured beside it (`policy_ns`). Profiles are by handler only, not by the step of a request.
 */
#include "estimators.h"

#include <stdlib.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct run { /* a replay */
    struct wse          w;
    struct wse_set      hot;
    uint32_t           *written, *captured; /* by page: the step that wrote, captured it last */
    struct wse_list     cold;               /* pages of this step that trapped or were captured */
    struct wse_profile *profile;            /* of this step's handler, or NULL */
};

static int by_number(const void *x, const void *y)
{
    uint32_t l = *(const uint32_t *)x, r = *(const uint32_t *)y;
    return (l > r) - (l < r);
}

/* capture -- what the profile says, as tracker_capture() does it. */
static void capture(struct run *r, uint32_t number, uint32_t handler, struct rcv_replay *out)
{
    char                      name[RCV_HANDLER_NAME] = {0}, route[RCV_HANDLER_NAME] = {0};
    const struct wse_stretch *run;
    memcpy(name, &handler, sizeof handler);
    r->profile = wse_profile_of(r->w.profiles, name, route, 0);
    uint32_t n = wse_profile_runs(r->profile, &run);
    for (uint32_t i = 0; i < n; i++) {
        bool open = false;
        for (uint32_t p = run[i].first; p < run[i].first + run[i].count; p++) {
            if (wse_set_has(&r->hot, p)) {
                open = false;
                continue;
            }
            out->protects += open ? 0 : 2;
            open = true;
            out->captures++;
            out->copies++;
            out->compares++;
            r->captured[p] = number;
            wse_say(&r->cold, p);
        }
    }
}

/* take_near -- the page has trapped first in its step: those around it come along, as in capture_around(). */
static void take_near(struct run *r, uint32_t page, uint32_t number, struct rcv_replay *out)
{
    uint32_t before, behind;
    wse_profile_around(r->profile, &before, &behind);
    uint32_t from = page > before ? page - before : 0, to = page + behind < r->w.pages - 1 ? page + behind : r->w.pages - 1;
    for (uint32_t p = from; p <= to; p++) {
        if (p == page || wse_set_has(&r->hot, p) || r->captured[p] == number)
            continue;
        out->captures++;
        out->copies++;
        out->compares++;
        r->captured[p] = number;
        wse_say(&r->cold, p);
    }
}

/* learn_near -- of the cold pages, that at `first` has trapped first: which were written around it after that? */
static void learn_near(struct run *r, uint32_t first, uint32_t number)
{
    bool     written[2][WSE_NEAR] = {{false}};
    uint32_t anchor = r->cold.page[first];
    for (uint32_t i = first + 1; i < r->cold.n; i++) {
        uint32_t p = r->cold.page[i], away = p > anchor ? p - anchor : anchor - p;
        if (r->written[p] == number && away <= WSE_NEAR)
            written[p > anchor][away - 1] = true;
    }
    wse_profile_near(r->w.profiles, r->profile, (const bool(*)[WSE_NEAR])written);
}

/* hear -- the profile and the policy hear of what was cold. */
static void hear(struct run *r, uint32_t number, struct rcv_replay *out)
{
    struct wse *w = &r->w;
    if (r->profile != NULL) {
        qsort(r->cold.page, r->cold.n, sizeof *r->cold.page, by_number);
        for (uint32_t i = 0; i < r->cold.n; i++) {
            uint32_t p = r->cold.page[i];
            bool     written = r->written[p] == number;
            out->captures_vain += !written;
            wse_profile_saw(r->profile, p, r->captured[p] == number, written, r->hot.rank);
        }
        wse_profile_end(w->profiles, r->profile, r->hot.rank);
    }
    for (uint32_t i = 0; i < r->cold.n; i++) {
        uint32_t p = r->cold.page[i], cost = r->profile ? wse_profile_cost(r->profile, p) : 0;
        if (r->written[p] != number)
            continue;
        if (cost != 0)
            wse_captured(w, p, cost);
        else
            wse_trapped(w, p);
    }
    r->cold.n = 0;
    r->profile = NULL;
}

/* step -- one of the run, its pages in [page, end). */
static void step(struct run *r, uint32_t number, const uint32_t *page, const uint32_t *end, const uint32_t *handler,
                 struct rcv_replay *out)
{
    struct wse     *w = &r->w;
    struct wse_set *hot = &r->hot;
    uint32_t       *written = r->written;
    if (handler != NULL && w->profiles != NULL)
        capture(r, number, *handler, out);
    for (const uint32_t *p = page; p < end; p++)
        written[*p] = number;
    for (uint32_t i = 0; i < hot->n; i++) {
        bool changed = written[hot->page[i]] == number;
        out->compares += w->comparisons;
        out->copies += changed;
        out->vain += !changed;
        wse_compared(w, hot->page[i], changed);
    }
    uint32_t first = UINT32_MAX; /* in `cold`: what trapped first */
    for (const uint32_t *p = page; p < end; p++)
        if (!wse_set_has(hot, *p) && (r->profile == NULL || r->captured[*p] != number)) {
            out->traps++;
            out->protects++;
            wse_say(&r->cold, *p);
            if (r->profile != NULL && first == UINT32_MAX && r->cold.n != 0) {
                first = r->cold.n - 1;
                take_near(r, *p, number, out);
            }
        }
    if (first != UINT32_MAX)
        learn_near(r, first, number);
    hear(r, number, out);
    wse_boundary(w);
    for (uint32_t i = 0; i < w->demote.n; i++)
        if (wse_set_has(hot, w->demote.page[i])) {
            wse_set_remove(hot, w->demote.page[i]);
            out->demotions++;
            out->protects++;
        }
    for (uint32_t i = 0; i < w->promote.n; i++)
        if ((w->max_hot == 0 || hot->n < w->max_hot) && wse_set_add(hot, w->promote.page[i])) {
            out->promotions++;
            out->protects++;
            out->copies++;
            wse_promoted(w, w->promote.page[i]);
        }
    w->demote.n = w->promote.n = 0;
    if (hot->n > out->most_hot)
        out->most_hot = hot->n;
}

/* price -- so far. */
static uint64_t price(const struct rcv_replay *r, const struct rcv_costs *c)
{
    return r->traps * c->trap + r->protects * c->protect + r->compares * c->compare + r->copies * c->copy;
}

/* check_stream -- RCV_ERR_MISUSE: its ends don't grow, or it names a page that there is not. */
static int check_stream(const struct rcv_stream *s, uint32_t pages)
{
    uint32_t begin = 0;
    for (uint32_t i = 0; i < s->n; begin = s->ends[i++])
        if (s->ends[i] < begin)
            return rcv_raise(RCV_ERR_MISUSE, 0, "boundary %u of the recording ends before it begins", i);
    for (uint32_t k = 0; k < begin; k++)
        if (s->pages[k] >= pages)
            return rcv_raise(RCV_ERR_MISUSE, 0, "the recording names page %u, of %u", s->pages[k], pages);
    return 0;
}

int rcv_replay(const struct rcv_replay_setup *setup, struct rcv_replay *out, uint64_t *by_step)
{
    const struct rcv_stream *s = setup->stream;
    const struct wse_costs   costs = {setup->costs.trap, setup->costs.protect, setup->costs.compare, setup->costs.copy};
    struct run               r = {0};
    memset(out, 0, sizeof *out);
    int rc = check_stream(s, setup->pages);
    if (rc == 0)
        rc = wse_open(&r.w, &(struct wse_setup){.policy = setup->policy,
                                              .options = setup->options,
                                              .n_options = setup->n_options,
                                              .recording = s,
                                              .pages = setup->pages,
                                              .comparisons = setup->comparisons,
                                              .costs = costs});
    if (rc != 0)
        return rc;
    r.written = os_calloc((size_t)setup->pages + 1, sizeof *r.written);
    r.captured = os_calloc((size_t)setup->pages + 1, sizeof *r.captured);
    if (r.written == NULL || r.captured == NULL || wse_set_open(&r.hot, setup->pages) != 0)
        rc = wse_no_memory(&r.w);
    uint64_t before = 0, began = now_ns();
    for (uint32_t i = 0; i < s->n && rc == 0; i++) {
        step(&r, i + 1, s->pages + (i ? s->ends[i - 1] : 0), s->pages + s->ends[i], setup->handlers ? setup->handlers + i : NULL, out);
        if (by_step != NULL) {
            uint64_t ns = price(out, &setup->costs);
            by_step[i] = ns - before;
            before = ns;
        }
    }
    out->policy_ns = now_ns() - began;
    out->ns = price(out, &setup->costs);
    wse_set_close(&r.hot);
    os_free(r.written);
    os_free(r.captured);
    os_free(r.cold.page);
    wse_close(&r.w);
    return rc;
}

int rcv_optimum(const struct rcv_replay_setup *setup, int on_demand, uint64_t *ns)
{
    struct wse_plan        plan;
    const struct wse_costs costs = {setup->costs.trap, setup->costs.protect, setup->costs.compare, setup->costs.copy};
    int                    rc = wse_plan(&plan, setup->stream, setup->pages, &costs, setup->comparisons, on_demand != 0);
    if (rc == 0) {
        *ns = plan.ns;
        wse_plan_free(&plan);
    }
    return rc;
}
