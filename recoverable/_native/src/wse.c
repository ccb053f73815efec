/* wse.c -- the policies: which pages are worth copying before they are written.
 *
 * A cold page costs a fault at its first write in a step and a protection at the step's end. A hot page costs a comparison
 * at both ends of every step, written or not, and a copy where it was written. Which is cheaper depends on how often the
 * page will be written, which nobody knows.
 *
 *   incremental  never promotes: the baseline of classic incremental checkpointing.
 *   adaptive     the ski-rental rule. Not buying skis until the rent paid equals their price costs at most twice what
 *                somebody who knew the future would pay. Here the price is one fault with its protection, the rent two
 *                comparisons a boundary, so their ratio K is how many boundaries a hot page may go unwritten before it is
 *                demoted. The same K is the window of promotion: two faults further apart than that would have cost less
 *                than the comparisons between them. One fault alone says nothing (a scan touches each page once), so it
 *                takes two.
 *
 * Where it fails: a page written exactly every K + 1 boundaries pays for both, the factor of two above. K comes from
 * measured costs; on a loaded machine they may be off by some tens of per cent, which moves the break-even, not the bound.
 */
#include "internal.h"
#include "wse.h"

#include <stdio.h>

#define ADAPTIVE_MIN 8u
#define ADAPTIVE_MAX 512u
#define WSE_LIST_MAX 65536u

/* wse_say -- append; a list that can't grow, or is long enough, forgets. */
void wse_say(struct wse_list *list, uint32_t page)
{
    if (list->n == list->cap) {
        uint32_t  cap = list->cap ? list->cap * 2 : 64;
        uint32_t *p = list->cap < WSE_LIST_MAX ? os_realloc(list->page, cap * sizeof *p) : NULL;
        if (p == NULL)
            return;
        list->page = p;
        list->cap = cap;
    }
    list->page[list->n++] = page;
}

/* -- incremental ------------------------------------------------------------------------------------------ */

static int  incremental_open(struct wse *w) { return (void)w, 0; }
static void incremental_nothing(struct wse *w) { (void)w; }
static void incremental_page(struct wse *w, uint32_t page) { (void)w, (void)page; }
static void incremental_compared(struct wse *w, uint32_t page, bool changed)
{
    (void)changed; /* hot through another process's policy: written or not, this one wants none */
    wse_say(&w->demote, page);
}

static const struct wse_policy incremental = {
    .name = "incremental",
    .open = incremental_open,
    .close = incremental_nothing,
    .trapped = incremental_page,
    .compared = incremental_compared,
    .promoted = incremental_page,
    .boundary = incremental_nothing,
};

/* -- adaptive --------------------------------------------------------------------------------------------- */

struct adaptive {
    uint32_t  now;  /* boundaries so far, from 1; a wrap after 2^32 of them costs some wrong verdicts */
    uint32_t *last; /* by page: when it last trapped (cold) or was last written (hot); 0 = never */
};

static int adaptive_open(struct wse *w)
{
    struct adaptive *s = os_calloc(1, sizeof *s);
    uint32_t        *last = os_calloc(w->pages ? w->pages : 1, sizeof *last); /* backed only where it is touched */
    if (s == NULL || last == NULL) {
        os_free(s);
        os_free(last);
        return rcv_raise(RCV_ERR_FULL, 0, "no memory for the working-set estimation of %u pages", w->pages);
    }
    s->now = 1;
    s->last = last;
    w->state = s;
    uint64_t half = w->costs.compare ? w->costs.compare : 1; /* doubled it might be 0: the costs may come from the segment */
    uint64_t k = (w->costs.trap + w->costs.protect) / 2 / half;
    w->patience = k < ADAPTIVE_MIN ? ADAPTIVE_MIN : k > ADAPTIVE_MAX ? ADAPTIVE_MAX : (uint32_t)k;
    return 0;
}

static void adaptive_close(struct wse *w)
{
    struct adaptive *s = w->state;
    os_free(s->last);
    os_free(s);
}

static void adaptive_trapped(struct wse *w, uint32_t page)
{
    struct adaptive *s = w->state;
    uint32_t         before = s->last[page];
    if (before != 0 && before != s->now && s->now - before <= w->patience)
        wse_say(&w->promote, page);
    s->last[page] = s->now;
}

static void adaptive_compared(struct wse *w, uint32_t page, bool changed)
{
    struct adaptive *s = w->state;
    if (changed || s->last[page] == 0)
        s->last[page] = s->now;
    else if (s->now - s->last[page] > w->patience)
        wse_say(&w->demote, page);
}

static void adaptive_promoted(struct wse *w, uint32_t page)
{
    struct adaptive *s = w->state;
    s->last[page] = s->now;
}

static void adaptive_boundary(struct wse *w) { ((struct adaptive *)w->state)->now++; }

static const struct wse_policy adaptive = {
    .name = "adaptive",
    .open = adaptive_open,
    .close = adaptive_close,
    .trapped = adaptive_trapped,
    .compared = adaptive_compared,
    .promoted = adaptive_promoted,
    .boundary = adaptive_boundary,
};

/* -- by name ---------------------------------------------------------------------------------------------- */

static const struct wse_policy *const policies[] = {&adaptive, &incremental};
#define POLICIES (sizeof policies / sizeof *policies)

/* unknown -- RCV_ERR_MISUSE that names what there is. */
static int unknown(const char *name)
{
    char   known[256] = "";
    size_t at = 0;
    for (size_t i = 0; i < POLICIES && at < sizeof known; i++) {
        int n = snprintf(known + at, sizeof known - at, "%s\"%s\"", i ? ", " : "", policies[i]->name);
        at += n > 0 ? (size_t)n : 0;
    }
    return rcv_raise(RCV_ERR_MISUSE, 0, "no working-set policy is called \"%s\"; there are %s", name, known);
}

int wse_open(struct wse *w, const char *name, uint32_t pages, const struct wse_costs *costs)
{
    for (size_t i = 0; i < POLICIES; i++) {
        if (strcmp(policies[i]->name, name) != 0)
            continue;
        *w = (struct wse){.policy = policies[i], .costs = *costs, .pages = pages};
        int rc = w->policy->open(w);
        if (rc)
            *w = (struct wse){0}; /* nothing that wse_close() would have to free */
        return rc;
    }
    return unknown(name);
}

void wse_close(struct wse *w)
{
    if (w->policy == NULL)
        return;
    w->policy->close(w);
    os_free(w->promote.page);
    os_free(w->demote.page);
    *w = (struct wse){0};
}
