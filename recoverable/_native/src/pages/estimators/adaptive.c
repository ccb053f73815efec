/* adaptive.c -- the ski-rental rule, with a memory of how often a page is written.
 *
 * A cold page costs a fault and a protection at each write, a hot one its comparisons at each boundary. K, the ratio of the
 * two, is the break-even: a page that is written more often than every K boundaries is cheaper hot.
 *
 *   promotion  One fault says nothing (a scan touches each page once). At the second, the gap between the two is the first
 *              estimate of how far apart this page's writes are; each later gap, hot or cold, moves the estimate a quarter of
 *              the way. A page that traps becomes hot where its estimate is at most three quarters of K: close to K both
 *              treatments cost the same, and switching between them is extra.
 *   profiles   A page that is captured when its handler runs (profile.c) costs less than a trap; it becomes hot where the
 *              comparisons between two writes cost at most three quarters of its share of the capture.
 *   demotion   Not buying skis until the rent paid equals their price costs at most twice what somebody who knew the future
 *              would pay. The rent here is the comparisons of a page that goes unwritten; the price is what it takes to give
 *              it up and have it back: a protection, a fault with its protection, and a promotion. That bound is for somebody who
 *              knows nothing; the estimate knows more. A page written every two boundaries that has not been for 32 is done with:
 *              were its writes independent, that would happen once in some millions. So silence for 16 gaps ends it as well.
 *
 * Without the memory, a page that is written every now and then, sometimes twice in short order, would pay for being hot
 * after each such pair, for ever.
 *
 * Where it fails: writes without any pattern at a rate close to the break-even, where both treatments cost about the same and
 * all the switching is in vain. K comes from measured costs; on a loaded machine they may be off by some tens of per cent,
 * which moves the break-even, not the bound.
 */
#include "estimators.h"

#define ADAPTIVE_MIN 8u
#define ADAPTIVE_MAX 512u

enum { PATIENCE, WINDOW, MEMORY, SILENCE };

#define GAP_ONE 4u /* estimates are kept in quarters of a boundary */
#define GAPS_MOST 4u /* a gap counts as at most so many windows: a page that comes back after a long time is soon believed */

struct adaptive {
    uint32_t  now;    /* boundaries so far, from 1; a wrap after 2^32 of them costs some wrong verdicts */
    uint32_t  window; /* of promotion */
    uint32_t *last;   /* by page: when it last trapped (cold) or was last written (hot); 0 = never */
    uint16_t *gap;    /* by page: how far apart its writes are, in units of 1 / GAP_ONE; 0 = not known */
    uint32_t  memory; /* a new gap weighs 1 / memory */
    uint32_t  silence; /* a hot page that goes unwritten for so many of its gaps is done with; 0: never */
    uint64_t  rents;  /* what a hot page costs at each boundary, in nanoseconds */
};

static uint32_t clamped(uint64_t k) { return k < ADAPTIVE_MIN ? ADAPTIVE_MIN : k > ADAPTIVE_MAX ? ADAPTIVE_MAX : (uint32_t)k; }

static int adaptive_open(struct wse *w)
{
    struct adaptive *s = os_calloc(1, sizeof *s);
    uint32_t        *last = os_calloc(w->pages ? w->pages : 1, sizeof *last); /* backed only where it is touched */
    uint16_t        *gap = os_calloc(w->pages ? w->pages : 1, sizeof *gap);
    if (s == NULL || last == NULL || gap == NULL) {
        os_free(s);
        os_free(last);
        os_free(gap);
        return wse_no_memory(w);
    }
    s->now = 1;
    s->last = last;
    s->gap = gap;
    s->memory = (uint32_t)w->option[MEMORY];
    s->silence = (uint32_t)w->option[SILENCE];
    w->state = s;
    uint64_t rent = w->costs.compare ? w->costs.compare : 1; /* times comparisons it might be 0: the costs may come from the segment */
    uint64_t rents = rent * (w->comparisons ? w->comparisons : 1), fault = w->costs.trap + w->costs.protect;
    uint64_t return_ticket = fault + 2 * w->costs.protect + w->costs.copy;
    s->rents = rents;
    s->window = w->option[WINDOW] > 0 ? (uint32_t)w->option[WINDOW] : clamped(fault * 3 / 4 / rents);
    w->patience = w->option[PATIENCE] > 0 ? (uint32_t)w->option[PATIENCE] : clamped(return_ticket / rents);
    return 0;
}

static void adaptive_close(struct wse *w)
{
    struct adaptive *s = w->state;
    os_free(s->last);
    os_free(s->gap);
    os_free(s);
}

/* written -- in this step: note the gap since the last write. */
static void written(struct adaptive *s, uint32_t page)
{
    uint32_t before = s->last[page], gap = s->now - before, old = s->gap[page];
    s->last[page] = s->now;
    if (before == 0 || gap == 0)
        return;
    gap = gap < GAPS_MOST * s->window ? gap * GAP_ONE : GAPS_MOST * s->window * GAP_ONE;
    s->gap[page] = (uint16_t)(old == 0 ? gap : (old * (s->memory - 1) + gap + s->memory / 2) / s->memory);
}

static void adaptive_trapped(struct wse *w, uint32_t page)
{
    struct adaptive *s = w->state;
    if (s->last[page] == s->now)
        return; /* twice in one step is once */
    written(s, page);
    if (s->gap[page] != 0 && s->gap[page] <= s->window * GAP_ONE)
        wse_say(&w->promote, page);
}

/* adaptive_captured -- the alternative to a hot page is not a trap, but its share of a capture. */
static void adaptive_captured(struct wse *w, uint32_t page, uint32_t cost)
{
    struct adaptive *s = w->state;
    if (s->last[page] == s->now)
        return;
    written(s, page);
    if (s->gap[page] != 0 && s->gap[page] <= s->window * GAP_ONE && s->gap[page] * s->rents * 4 <= (uint64_t)cost * 3 * GAP_ONE)
        wse_say(&w->promote, page);
}

/* patience_with -- boundaries that this page may go unwritten. */
static uint32_t patience_with(const struct wse *w, uint32_t page)
{
    const struct adaptive *s = w->state;
    uint32_t               limit = ADAPTIVE_MIN + s->silence * s->gap[page] / GAP_ONE; /* below 8 + 64 * 2^14 */
    return s->silence != 0 && s->gap[page] != 0 && limit < w->patience ? limit : w->patience;
}

static void adaptive_compared(struct wse *w, uint32_t page, bool changed)
{
    struct adaptive *s = w->state;
    if (changed)
        written(s, page);
    else if (s->last[page] == 0)
        s->last[page] = s->now;
    else if (s->now - s->last[page] > patience_with(w, page))
        wse_say(&w->demote, page);
}

static void adaptive_promoted(struct wse *w, uint32_t page)
{
    struct adaptive *s = w->state;
    if (s->last[page] == 0 && s->now > 1)
        s->last[page] = s->now - 1; /* hot through another process: the boundary has passed already */
}

static void adaptive_boundary(struct wse *w) { ((struct adaptive *)w->state)->now++; }

const struct wse_policy wse_adaptive = {
    .name = "adaptive",
    .option = {[PATIENCE] = {.name = "patience", .standard = 0, .least = 0, .most = 1e6}, /* 0: from measured costs */
               [WINDOW] = {.name = "window", .standard = 0, .least = 0, .most = 4095},    /* 0: three quarters of K */
               [MEMORY] = {.name = "memory", .standard = 4, .least = 1, .most = 64},
               [SILENCE] = {.name = "silence", .standard = 16, .least = 0, .most = 64}},
    .open = adaptive_open,
    .close = adaptive_close,
    .trapped = adaptive_trapped,
    .compared = adaptive_compared,
    .promoted = adaptive_promoted,
    .boundary = adaptive_boundary,
    .captured = adaptive_captured,
    .profiles = 1,
};
