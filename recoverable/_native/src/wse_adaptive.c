/* wse_adaptive.c -- the ski-rental rule.
 *
 * Not buying skis until the rent paid equals their price costs at most twice what somebody who knew the future would pay.
 * Here the price is one fault with its protection, the rent the comparisons of a boundary, so their ratio K is how many
 * boundaries a hot page may go unwritten before it is demoted. The same K is the window of promotion: two faults further
 * apart than that would have cost less than the comparisons between them. One fault alone says nothing (a scan touches each
 * page once), so it takes two.
 *
 * Where it fails: a page written exactly every K + 1 boundaries pays for both, the factor of two above. K comes from
 * measured costs; on a loaded machine they may be off by some tens of per cent, which moves the break-even, not the bound.
 */
#include "internal.h"
#include "wse.h"

#define ADAPTIVE_MIN 8u
#define ADAPTIVE_MAX 512u

enum { PATIENCE, WINDOW };

struct adaptive {
    uint32_t  now;    /* boundaries so far, from 1; a wrap after 2^32 of them costs some wrong verdicts */
    uint32_t  window; /* of promotion */
    uint32_t *last;   /* by page: when it last trapped (cold) or was last written (hot); 0 = never */
};

static int adaptive_open(struct wse *w)
{
    struct adaptive *s = os_calloc(1, sizeof *s);
    uint32_t        *last = os_calloc(w->pages ? w->pages : 1, sizeof *last); /* backed only where it is touched */
    if (s == NULL || last == NULL) {
        os_free(s);
        os_free(last);
        return wse_no_memory(w);
    }
    s->now = 1;
    s->last = last;
    w->state = s;
    uint64_t rent = w->costs.compare ? w->costs.compare : 1; /* times comparisons it might be 0: the costs may come from the segment */
    uint64_t k = (w->costs.trap + w->costs.protect) / (w->comparisons ? w->comparisons : 1) / rent;
    w->patience = k < ADAPTIVE_MIN ? ADAPTIVE_MIN : k > ADAPTIVE_MAX ? ADAPTIVE_MAX : (uint32_t)k;
    if (w->option[PATIENCE] > 0)
        w->patience = (uint32_t)w->option[PATIENCE];
    s->window = w->option[WINDOW] > 0 ? (uint32_t)w->option[WINDOW] : w->patience;
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
    if (before != 0 && before != s->now && s->now - before <= s->window)
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
    s->last[page] = s->now - 1; /* the boundary has passed already */
}

static void adaptive_boundary(struct wse *w) { ((struct adaptive *)w->state)->now++; }

const struct wse_policy wse_adaptive = {
    .name = "adaptive",
    .option = {[PATIENCE] = {.name = "patience", .standard = 0, .least = 0, .most = 1e6}, /* 0: K, from measured costs */
               [WINDOW] = {.name = "window", .standard = 0, .least = 0, .most = 1e6}},   /* 0: as patience */
    .open = adaptive_open,
    .close = adaptive_close,
    .trapped = adaptive_trapped,
    .compared = adaptive_compared,
    .promoted = adaptive_promoted,
    .boundary = adaptive_boundary,
};
