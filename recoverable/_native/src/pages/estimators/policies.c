/* policies.c -- the policies by name, and what they share: which pages are worth copying before they are written?
 *
 * A cold page costs a fault at its first write in a step and a protection at the step's end. A hot page costs a comparison
 * at the ends of every step, written or not, and a copy where it was written. Which is cheaper depends on how often the
 * page will be written, which nobody knows. Vogt et al. (Speculative Memory Checkpointing, Middleware 2015) call the pages
 * that are worth it the writable working set, and estimate it; active-rnd, active-cks and genetic are their estimators.
 *
 * The two ends of the scale are here:
 *
 *   incremental  no page is ever hot: the baseline of classic incremental checkpointing.
 *   full         a page is hot from its first trap on, for good: what was ever written is copied at each checkpoint.
 *
 * Where it fails: `full` is not the copy of everything that a process has, as the term is used for whole processes. A page
 * that was never written can't differ from its committed copy, so it has none.
 */
#include "estimators.h"

#include <stdio.h>

#define WSE_LIST_MAX 65536u

/* grow -- make room for one more of `n`, doubling up to `most`. */
static bool grow(uint32_t **page, uint32_t n, uint32_t *cap, uint32_t most)
{
    if (n < *cap)
        return true;
    uint32_t  more = *cap ? *cap * 2 : 64;
    uint32_t *p = *cap < most ? os_realloc(*page, more * sizeof *p) : NULL;
    if (p == NULL)
        return false;
    *page = p;
    *cap = more;
    return true;
}

/* wse_say -- append; a list that can't grow, or is long enough, forgets. */
void wse_say(struct wse_list *list, uint32_t page)
{
    if (grow(&list->page, list->n, &list->cap, WSE_LIST_MAX))
        list->page[list->n++] = page;
}

int wse_no_memory(const struct wse *w)
{
    return rcv_raise(RCV_ERR_FULL, 0, "no process memory for the working-set estimation of %u pages", w->pages);
}

void wse_nothing(struct wse *w) { (void)w; }
void wse_no_page(struct wse *w, uint32_t page) { (void)w, (void)page; }

/* -- sets of pages ---------------------------------------------------------------------------------------- */

int wse_set_open(struct wse_set *s, uint32_t pages)
{
    *s = (struct wse_set){.rank = os_calloc((size_t)pages + 1, sizeof *s->rank)}; /* backed only where it is touched */
    return s->rank ? 0 : RCV_ERR_FULL;
}

void wse_set_close(struct wse_set *s)
{
    os_free(s->page);
    os_free(s->rank);
    *s = (struct wse_set){0};
}

bool wse_set_add(struct wse_set *s, uint32_t page)
{
    if (s->rank[page] != 0 || !grow(&s->page, s->n, &s->cap, UINT32_MAX / 2))
        return false;
    s->page[s->n] = page;
    s->rank[page] = ++s->n;
    return true;
}

void wse_set_remove(struct wse_set *s, uint32_t page)
{
    uint32_t at = s->rank[page], last;
    if (at == 0)
        return;
    last = s->page[--s->n];
    s->page[at - 1] = last;
    s->rank[last] = at;
    s->rank[page] = 0;
}

/* -- incremental, full ------------------------------------------------------------------------------------ */

static int stateless_open(struct wse *w) { return (void)w, 0; }

static void incremental_compared(struct wse *w, uint32_t page, bool changed)
{
    (void)changed; /* hot through another process's policy: written or not, this one wants none */
    wse_say(&w->demote, page);
}

static const struct wse_policy incremental = {
    .name = "incremental",
    .open = stateless_open,
    .close = wse_nothing,
    .trapped = wse_no_page,
    .compared = incremental_compared,
    .promoted = wse_no_page,
    .boundary = wse_nothing,
};

static void full_trapped(struct wse *w, uint32_t page) { wse_say(&w->promote, page); }
static void full_compared(struct wse *w, uint32_t page, bool changed) { (void)w, (void)page, (void)changed; }

static const struct wse_policy full = {
    .name = "full",
    .open = stateless_open,
    .close = wse_nothing,
    .trapped = full_trapped,
    .compared = full_compared,
    .promoted = wse_no_page,
    .boundary = wse_nothing,
};

/* -- by name ---------------------------------------------------------------------------------------------- */

static const struct wse_policy *const policies[] = {&wse_adaptive, &incremental, &full,         &wse_active_rnd,
                                                    &wse_active_cks, &wse_genetic, &wse_oracle};
#define POLICIES (sizeof policies / sizeof *policies)

enum { MAX_HOT, PROFILES, COMMON };
/* Options that all policies have. The default of `profiles` is the policy's. */
static const struct wse_option common[COMMON] = {[MAX_HOT] = {.name = "max_hot", .standard = 0, .least = 0, .most = UINT32_MAX},
                                                 [PROFILES] = {.name = "profiles", .standard = 0, .least = 0, .most = 1}};

/* name_to -- append a name to a list of them. */
static void name_to(char *list, size_t room, const char *name)
{
    size_t at = strlen(list);
    snprintf(list + at, room - at, "%s\"%s\"", at ? ", " : "", name);
}

/* unknown -- RCV_ERR_MISUSE that names what there is. */
static int unknown(const char *name)
{
    char known[256] = "";
    for (size_t i = 0; i < POLICIES; i++)
        name_to(known, sizeof known, policies[i]->name);
    return rcv_raise(RCV_ERR_MISUSE, 0, "no working-set policy is called \"%s\"; there are %s", name, known);
}

static int unknown_option(const struct wse_policy *p, const char *name)
{
    char known[256] = "";
    for (size_t i = 0; i < COMMON; i++)
        name_to(known, sizeof known, common[i].name);
    for (size_t i = 0; i < WSE_OPTIONS && p->option[i].name; i++)
        name_to(known, sizeof known, p->option[i].name);
    return rcv_raise(RCV_ERR_MISUSE, 0, "the policy \"%s\" has no option \"%s\"; it has %s", p->name, name, known);
}

/* find_option -- by name, or NULL; `at`: its place, from WSE_OPTIONS for those that all have. */
static const struct wse_option *find_option(const struct wse_policy *p, const char *name, size_t *at)
{
    for (size_t i = 0; i < COMMON; i++)
        if (strcmp(name, common[i].name) == 0) {
            *at = WSE_OPTIONS + i;
            return &common[i];
        }
    for (size_t i = 0; i < WSE_OPTIONS && p->option[i].name; i++)
        if (strcmp(name, p->option[i].name) == 0)
            return &p->option[*at = i];
    return NULL;
}

/* set_option -- one value, checked. */
static int set_option(struct wse *w, const struct rcv_policy_option *given, double *profiles)
{
    size_t                   i;
    const struct wse_option *o = find_option(w->policy, given->name, &i);
    if (o == NULL)
        return unknown_option(w->policy, given->name);
    if (!(given->value >= o->least && given->value <= o->most))
        return rcv_raise(RCV_ERR_MISUSE, 0, "the option \"%s\" of policy \"%s\" can be from %g to %g, not %g", o->name,
                         w->policy->name, o->least, o->most, given->value);
    if (i == WSE_OPTIONS + MAX_HOT)
        w->max_hot = (uint32_t)given->value;
    else if (i == WSE_OPTIONS + PROFILES)
        *profiles = given->value;
    else
        w->option[i] = given->value;
    return 0;
}

/* find -- by name, or NULL. */
static const struct wse_policy *find(const char *name)
{
    for (size_t i = 0; i < POLICIES; i++)
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    return NULL;
}

int rcv_policy_default(const char *policy, const char *option, double *out)
{
    size_t                   i;
    const struct wse_policy *p = find(policy);
    const struct wse_option *o = p ? find_option(p, option, &i) : NULL;
    if (o == NULL)
        return p ? unknown_option(p, option) : unknown(policy);
    *out = o == &common[PROFILES] ? p->profiles : o->standard;
    return 0;
}

int wse_open(struct wse *w, const struct wse_setup *setup)
{
    const struct wse_policy *p = find(setup->policy);
    if (p == NULL)
        return unknown(setup->policy);
    *w = (struct wse){.policy = p,
                      .costs = setup->costs,
                      .pages = setup->pages,
                      .comparisons = setup->comparisons,
                      .recording = setup->recording};
    int    rc = 0;
    double profiles = p->profiles;
    for (size_t i = 0; i < WSE_OPTIONS; i++)
        w->option[i] = p->option[i].standard;
    for (uint32_t i = 0; i < setup->n_options && rc == 0; i++)
        rc = set_option(w, &setup->options[i], &profiles);
    if (rc == 0 && profiles >= 1 && (w->profiles = wse_profiles_new(&w->costs)) == NULL)
        rc = wse_no_memory(w);
    if (rc == 0)
        rc = p->open(w);
    w->recording = NULL; /* the caller's memory */
    if (rc)
        wse_profiles_free(w->profiles);
    if (rc)
        *w = (struct wse){0}; /* nothing that wse_close() would have to free */
    return rc;
}

void wse_close(struct wse *w)
{
    if (w->policy == NULL)
        return;
    w->policy->close(w);
    os_free(w->promote.page);
    os_free(w->demote.page);
    wse_recorder_free(w->recorder);
    wse_profiles_free(w->profiles);
    *w = (struct wse){0};
}
