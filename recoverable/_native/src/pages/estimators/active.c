/* active.c -- the two active-list estimators of Speculative Memory Checkpointing (Vogt et al., Middleware 2015).
 *
 * Both take a page on at its first trap; they differ in how a page leaves.
 *
 *   active-rnd  the list is bounded; while it is full, a new page throws a random one out. The bound is the size of the
 *               working set, which is sampled: every `period` checkpoints there is one epoch with everything protected, and
 *               the pages that trap in it are counted. The bound is the median of the last `samples` counts, times `slack`.
 *   active-cks  the list is unbounded; a page leaves after `epochs` checkpoints in a row without a change. The paper finds
 *               out by a checksum; here the comparison with the shadow, which is made anyway, says so exactly.
 *
 * The constants are those of the authors' later DeLorean code: 50 checkpoints, 10 samples, 1.125; 5 epochs.
 *
 * Where they fail: neither looks at what a fault costs beside a copy. Where a fault costs sixty copies, five epochs are far
 * too few, and an epoch of faults every fifty is dear.
 */
#include "estimators.h"

#include <stdlib.h>

/* -- active-rnd ------------------------------------------------------------------------------------------- */

#define SAMPLES 64u

enum { PERIOD, SAMPLED, SLACK, SEED };

struct rnd {
    struct wse_set list;
    uint32_t       bound;
    uint32_t       count;    /* pages that trapped in this epoch */
    uint32_t       epoch;    /* since the last sample */
    bool           sampling; /* this is the epoch with everything protected */
    uint32_t       sample[SAMPLES], n_samples, next_sample;
    uint64_t       random;
};

static int rnd_open(struct wse *w)
{
    struct rnd *s = os_calloc(1, sizeof *s);
    if (s == NULL || wse_set_open(&s->list, w->pages) != 0) {
        os_free(s);
        return wse_no_memory(w);
    }
    s->sampling = true; /* nothing is hot yet: the first epoch is a sample for free */
    s->random = (uint64_t)w->option[SEED];
    w->state = s;
    w->patience = (uint32_t)w->option[PERIOD];
    return 0;
}

static void rnd_close(struct wse *w)
{
    struct rnd *s = w->state;
    wse_set_close(&s->list);
    os_free(s);
}

/* evict -- a random page leaves the list. */
static void evict(struct wse *w, struct rnd *s)
{
    uint32_t page = s->list.page[wse_random(&s->random, s->list.n)];
    wse_set_remove(&s->list, page);
    wse_say(&w->demote, page);
}

static void take_on(struct wse *w, struct rnd *s, uint32_t page)
{
    if (!wse_set_has(&s->list, page)) {
        if (s->bound == 0)
            return;
        while (s->list.n >= s->bound)
            evict(w, s);
        if (!wse_set_add(&s->list, page))
            return;
    }
    wse_say(&w->promote, page);
}

static void rnd_trapped(struct wse *w, uint32_t page)
{
    struct rnd *s = w->state;
    s->count++;
    if (!s->sampling)
        take_on(w, s, page);
    else if (s->n_samples == 0)
        (void)wse_set_add(&s->list, page); /* nothing is known yet: begin with what the first epoch wrote */
}

static void rnd_compared(struct wse *w, uint32_t page, bool changed)
{
    struct rnd *s = w->state;
    (void)changed;
    if (!wse_set_has(&s->list, page))
        wse_say(&w->demote, page); /* hot through another process, or its demotion was refused */
}

static int by_value(const void *x, const void *y)
{
    uint32_t l = *(const uint32_t *)x, r = *(const uint32_t *)y;
    return l < r ? -1 : l > r;
}

/* estimate -- the bound, from the newest samples. */
static uint32_t estimate(const struct wse *w, struct rnd *s)
{
    uint32_t keep = (uint32_t)w->option[SAMPLED], sorted[SAMPLES];
    s->sample[s->next_sample] = s->count;
    s->next_sample = (s->next_sample + 1) % keep;
    s->n_samples += s->n_samples < keep;
    memcpy(sorted, s->sample, s->n_samples * sizeof *sorted);
    qsort(sorted, s->n_samples, sizeof *sorted, by_value);
    return (uint32_t)(sorted[s->n_samples / 2] * w->option[SLACK] + 0.5);
}

static void rnd_boundary(struct wse *w)
{
    struct rnd *s = w->state;
    if (s->sampling) {
        s->bound = estimate(w, s);
        while (s->list.n > s->bound)
            evict(w, s);
        for (uint32_t i = 0; i < s->list.n; i++)
            wse_say(&w->promote, s->list.page[i]);
        s->sampling = false;
        s->epoch = 0;
    } else if (++s->epoch >= (uint32_t)w->option[PERIOD]) {
        for (uint32_t i = 0; i < s->list.n; i++)
            wse_say(&w->demote, s->list.page[i]);
        w->promote.n = 0; /* what this epoch has trapped on waits, like the rest */
        s->sampling = true;
    }
    s->count = 0;
}

const struct wse_policy wse_active_rnd = {
    .name = "active-rnd",
    .option = {[PERIOD] = {.name = "period", .standard = 50, .least = 2, .most = 1e6},
               [SAMPLED] = {.name = "samples", .standard = 10, .least = 1, .most = SAMPLES},
               [SLACK] = {.name = "slack", .standard = 1.125, .least = 1, .most = 100},
               [SEED] = {.name = "seed", .standard = 1, .least = 0, .most = 1e15}},
    .open = rnd_open,
    .close = rnd_close,
    .trapped = rnd_trapped,
    .compared = rnd_compared,
    .promoted = wse_no_page,
    .boundary = rnd_boundary,
};

/* -- active-cks ------------------------------------------------------------------------------------------- */

enum { EPOCHS };

struct cks {
    uint16_t *misses; /* by page: checkpoints in a row without a change */
};

static int cks_open(struct wse *w)
{
    struct cks *s = os_calloc(1, sizeof *s);
    if (s == NULL || (s->misses = os_calloc((size_t)w->pages + 1, sizeof *s->misses)) == NULL) {
        os_free(s);
        return wse_no_memory(w);
    }
    w->state = s;
    w->patience = (uint32_t)w->option[EPOCHS];
    return 0;
}

static void cks_close(struct wse *w)
{
    struct cks *s = w->state;
    os_free(s->misses);
    os_free(s);
}

static void cks_trapped(struct wse *w, uint32_t page) { wse_say(&w->promote, page); }
static void cks_promoted(struct wse *w, uint32_t page) { ((struct cks *)w->state)->misses[page] = 0; }

static void cks_compared(struct wse *w, uint32_t page, bool changed)
{
    struct cks *s = w->state;
    if (changed)
        s->misses[page] = 0;
    else if (s->misses[page] < UINT16_MAX && ++s->misses[page] >= (uint32_t)w->option[EPOCHS])
        wse_say(&w->demote, page);
}

const struct wse_policy wse_active_cks = {
    .name = "active-cks",
    .option = {[EPOCHS] = {.name = "epochs", .standard = 5, .least = 1, .most = UINT16_MAX}},
    .open = cks_open,
    .close = cks_close,
    .trapped = cks_trapped,
    .compared = cks_compared,
    .promoted = cks_promoted,
    .boundary = wse_nothing,
};
