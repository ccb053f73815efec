/* profile.c -- the request-handler working set: which cold pages will this handler write in its next step?
 *
 * What we want: a page that one handler always writes, but whose handler runs only now and then, should neither trap each time
 * nor be compared at every boundary of everybody else. Its handler is the better predictor: where it runs, the page is written.
 *
 * What does it: for each handler, by the route that led to it, and for each of the first steps of its requests, the pages that trapped in it, each with an
 * estimate of how probably the next such step writes it. When such a step first touches raw memory, the pages whose capture is
 * the cheaper bet are logged and made writable together, neighbours in one call (capture.c). What to capture is a sum over a run
 * of neighbours:
 *
 *      it costs   two changes of protection, and for each page a sixteenth of one, and COLD times a copy and a comparison
 *      it saves   for each page the trap, and once the protection after it; each times its probability
 *
 * COLD, because a hot page is compared while it lies in the cache, where the costs were measured; a captured one comes from memory, and
 * what its copies push out of the cache the handler misses afterwards. Measured in a server: 2 to 3 microseconds a page where a trap
 * costs 20, against 0.2 and 7 in a loop.
 *
 * With the costs measured here, a page by itself is worth it from a probability of about 0.6, a neighbour of others from 0.1;
 * and a gap between two runs is captured along where its copies cost less than a change of protection.
 *
 * No hysteresis: a capture ends with its step, so switching between the two treatments costs nothing, and near the break-even
 * both cost the same. A page is captured only once it was written twice, since a scan writes each page once. Its estimate
 * starts at one half and counts the first observations in full, so that a set is captured from the third request on, and
 * after a change of the set as soon; later each observation weighs an eighth.
 *
 * After an await a request often goes on where it was: it writes the same rows again, whichever these are. So a profile also
 * knows how many of *its own* pages, those that were written back when it went on, such a step writes once more. They, too, are
 * captured along with what lies between two of them where that costs less than a change of protection.
 *
 * Which rows a request writes may be anybody's guess, and how they lie to each other is not: the first trap of a step tells where
 * it works. So a profile knows for the pages around that one how probably each is written in the same step, and where that pays
 * they are captured in the trap itself: one run, one call, from NEAR pages before it to NEAR behind. An edge is where what the
 * pages inside it save, less what they cost, is greatest.
 *
 * Hot pages are not in a profile: they don't trap. A page that is captured still counts for the policy as one that is written
 * (wse_captured), at the price that it has now: it becomes hot where being compared at each boundary is cheaper than that.
 *
 * Bounds: WSE_PROFILES profiles, the least recently used gives way; PROFILE_PAGES pages each, the least probable gives way.
 *
 * Where it fails: a handler that writes other pages each time learns them in vain, some tens of nanoseconds a page; one that
 * stores what a page holds already is taken not to have written it where it was captured, and to have written it where it traps.
 * Handlers and routes are told apart by the end of their names.
 */
#include "estimators.h"

#define PROFILE_PAGES 64u
#define CAPTURED_MOST 256u /* pages of one capture, gaps included */
#define GAP_MOST 16u       /* between two pages of a request's own that are captured in one call */
#define NEAR WSE_NEAR
#define COLD 2u /* times what copying a page costs that lies in the cache, as compared with what a trap then costs */
#define NEAR_MEMORY 32u    /* … about the pages around a trap, each of which is written now and then */
#define NEAR_FROM 3u       /* steps of which more may be said than of one */
#define STEPS_MOST 3u      /* steps of a request that are told apart: this one and all later ones are one */

#define ONE 32768u         /* a probability of 1 */
#define FORGET (ONE / 32u)     /* less than this is not worth a place */
#define FORGET_ONCE (ONE / 8u) /* … where it was written once */
#define MEMORY 8u          /* an observation weighs one part in so many */

struct known {
    uint32_t page;
    uint16_t chance; /* of ONE; 0: to be dropped */
    uint8_t  seen;   /* observations, at most MEMORY */
    bool     again;  /* written more than once: one write says nothing, a scan writes each page once */
    uint32_t cost;   /* if it is to be captured: its share, without the copy, in nanoseconds; else 0 */
};

struct wse_profile {
    char               name[RCV_HANDLER_NAME], route[RCV_HANDLER_NAME]; /* filled up with zeros */
    uint32_t           step;
    uint32_t           n, at; /* pages known, by number; while learning: those before `at` are done */
    uint32_t           n_runs;
    uint64_t           used; /* when: the least gives way */
    struct known       own;  /* stands for the pages that the request had written before */
    uint16_t           near[2][NEAR]; /* of ONE: before and behind the first page that traps, how probably one is written, too */
    uint8_t            near_seen, near_plan[2]; /* observations, below NEAR_MEMORY; so many pages of each side are captured */
    uint64_t           steps, captured, vain;
    struct known       known[PROFILE_PAGES];
    struct wse_stretch run[PROFILE_PAGES]; /* what to capture next time */
};

struct wse_profiles {
    struct wse_costs   costs;
    uint64_t           now;
    uint32_t           n;
    uint64_t           hash[WSE_PROFILES];
    struct wse_profile profile[WSE_PROFILES];
};

struct wse_profiles *wse_profiles_new(const struct wse_costs *costs)
{
    struct wse_profiles *all = os_calloc(1, sizeof *all); /* backed only where it is touched */
    if (all != NULL)
        all->costs = *costs;
    return all;
}

void wse_profiles_free(struct wse_profiles *all) { os_free(all); }

uint32_t wse_profiles_count(const struct wse_profiles *all) { return all ? all->n : 0; }

static uint64_t hash_name(uint64_t hash, const char *name)
{
    uint64_t word;
    _Static_assert(RCV_HANDLER_NAME % sizeof word == 0, "whole words");
    for (size_t i = 0; i < RCV_HANDLER_NAME; i += sizeof word) {
        memcpy(&word, name + i, sizeof word);
        hash = rcv_mix(hash ^ word);
    }
    return hash;
}

struct wse_profile *wse_profile_of(struct wse_profiles *all, const char *name, const char *route, uint32_t step)
{
    step = step < STEPS_MOST ? step : STEPS_MOST;
    uint64_t hash = hash_name(hash_name(step + 1, name), route);
    uint32_t i = 0, oldest = 0;
    for (; i < all->n; i++) {
        const struct wse_profile *p = &all->profile[i];
        if (all->hash[i] == hash && p->step == step && memcmp(p->name, name, sizeof p->name) == 0 &&
            memcmp(p->route, route, sizeof p->route) == 0)
            break;
        if (p->used < all->profile[oldest].used)
            oldest = i;
    }
    struct wse_profile *p = &all->profile[i < WSE_PROFILES ? i : oldest];
    if (i == all->n) { /* not known */
        if (i < WSE_PROFILES)
            all->n++;
        all->hash[p - all->profile] = hash;
        memcpy(p->name, name, sizeof p->name);
        memcpy(p->route, route, sizeof p->route);
        p->step = step;
        p->n = p->n_runs = 0;
        p->steps = p->captured = p->vain = 0;
        p->own = (struct known){.chance = 0};
        p->near_seen = p->near_plan[0] = p->near_plan[1] = 0;
        memset(p->near, 0, sizeof p->near);
    }
    p->used = ++all->now;
    p->at = 0;
    return p;
}

uint32_t wse_profile_runs(const struct wse_profile *p, const struct wse_stretch **runs)
{
    *runs = p->run;
    return p->n_runs;
}

/* -- learning ----------------------------------------------------------------------------------------------- */

/* observe -- move the estimate; the first observations count in full. */
static void observe(struct known *k, bool written)
{
    uint32_t weight = k->seen + 2u < MEMORY ? k->seen + 2u : MEMORY, chance = k->chance;
    if (k->seen < MEMORY)
        k->seen++;
    k->again = k->again || written;
    chance = written ? chance + (ONE - chance) / weight : chance - chance / weight;
    k->chance = (uint16_t)(chance < (k->again ? FORGET : FORGET_ONCE) ? 0 : chance);
}

/* admit -- a page not known so far, at `at`. Where all places are taken, the least probable page gives way. */
static void admit(struct wse_profile *p, uint32_t page)
{
    if (p->n == PROFILE_PAGES) {
        uint32_t least = 0;
        for (uint32_t i = 1; i < p->n; i++)
            if (p->known[i].chance < p->known[least].chance)
                least = i;
        if (p->known[least].chance >= ONE / 2) /* as good as the new one */
            return;
        p->n--;
        memmove(&p->known[least], &p->known[least + 1], (p->n - least) * sizeof *p->known);
        p->at -= least < p->at;
    }
    memmove(&p->known[p->at + 1], &p->known[p->at], (p->n - p->at) * sizeof *p->known);
    p->known[p->at++] = (struct known){.page = page, .chance = ONE / 2, .seen = 1};
    p->n++;
}

/* pass -- the known pages below `page` that nobody has named were not written; a hot one can't be seen, and is dropped. */
static void pass(struct wse_profile *p, uint32_t page, const uint32_t *hot)
{
    for (; p->at < p->n && p->known[p->at].page < page; p->at++) {
        if (hot[p->known[p->at].page] != 0)
            p->known[p->at].chance = 0;
        else
            observe(&p->known[p->at], false);
    }
}

void wse_profile_saw(struct wse_profile *p, uint32_t page, bool captured, bool written, const uint32_t *hot)
{
    p->captured += captured;
    p->vain += captured && !written;
    pass(p, page, hot);
    if (p->at < p->n && p->known[p->at].page == page)
        observe(&p->known[p->at++], written);
    else if (written)
        admit(p, page);
}

void wse_profile_owned(struct wse_profile *p, uint32_t pages, uint32_t written)
{
    uint32_t part = (uint32_t)((uint64_t)written * ONE / pages), weight = p->own.seen + 2u;
    if (p->own.seen + 2u < MEMORY)
        p->own.seen++;
    p->own.chance = (uint16_t)(p->own.chance + ((int32_t)part - p->own.chance) / (int32_t)weight);
}

/* beside -- what one page more in a run costs. */
static uint64_t beside(const struct wse_costs *c) { return COLD * (c->copy + c->compare) + c->protect / 16; }

/* edge -- so many pages of a side are worth it. */
static uint8_t edge(const struct wse_costs *c, const uint16_t near[NEAR])
{
    int64_t gain = 0, best = 0;
    uint8_t pages = 0;
    for (unsigned i = 0; i < NEAR; i++) {
        gain += (int64_t)(near[i] * (c->trap + c->compare) / ONE) - (int64_t)beside(c);
        if (gain > best) {
            best = gain;
            pages = (uint8_t)(i + 1);
        }
    }
    return pages;
}

void wse_profile_near(const struct wse_profiles *all, struct wse_profile *p, const bool written[2][WSE_NEAR])
{
    uint32_t weight = p->near_seen + 1u;
    if (weight < NEAR_MEMORY)
        p->near_seen++;
    for (unsigned side = 0; side < 2; side++) {
        for (unsigned i = 0; i < NEAR; i++) {
            uint32_t chance = p->near[side][i];
            p->near[side][i] = (uint16_t)(written[side][i] ? chance + (ONE - chance) / weight : chance - chance / weight);
        }
        p->near_plan[side] = p->near_seen < NEAR_FROM ? 0 : edge(&all->costs, p->near[side]);
    }
}

void wse_profile_around(const struct wse_profile *p, uint32_t *before, uint32_t *behind)
{
    *before = p->near_plan[0];
    *behind = p->near_plan[1];
}

bool wse_profile_again(const struct wse_profiles *all, const struct wse_profile *p)
{
    const struct wse_costs *c = &all->costs;
    /* Once may be chance. Protecting them afterwards is one call for all that the step has written. */
    return p->own.seen > 1 && p->own.chance * (c->trap + c->compare) / ONE > c->protect + c->copy + c->compare;
}

uint32_t wse_profile_gap(const struct wse_profiles *all)
{
    uint64_t gap = beside(&all->costs) ? all->costs.protect / beside(&all->costs) : 0;
    return gap < GAP_MOST ? (uint32_t)gap : GAP_MOST;
}

/* plan -- group neighbours into runs, keep those that pay. */
static void plan(struct wse_profile *p, const struct wse_costs *c)
{
    const uint64_t more = beside(c);
    uint64_t       total = 0, side = c->trap > 0 ? more * ONE / c->trap : ONE;
    p->n_runs = 0;
    for (uint32_t i = 0; i < p->n;) {
        uint64_t saves = 0, most = 0, pages = 0;
        uint32_t first = i, last = i;
        for (; i < p->n; i++) {
            struct known *k = &p->known[i];
            uint64_t      chance = k->chance;
            k->cost = 0;
            if (chance < side || !k->again)
                continue;
            uint64_t gap = pages ? k->page - p->known[last].page - 1u : 0;
            if (pages && gap * more > c->protect)
                break;
            if (pages == 0)
                first = i;
            last = i;
            pages += gap + 1;
            saves += chance * (c->trap + c->compare) / ONE;
            most = chance > most ? chance : most;
        }
        uint64_t costs = 2 * c->protect + pages * more;
        if (pages == 0 || saves + most * c->protect / ONE <= costs || total + pages > CAPTURED_MOST)
            continue;
        total += pages;
        p->run[p->n_runs++] = (struct wse_stretch){.first = p->known[first].page, .count = (uint32_t)pages};
        uint64_t share = costs / pages > c->copy ? costs / pages - c->copy : 1;
        for (uint32_t k = first; k <= last; k++)
            p->known[k].cost = (uint32_t)(share < UINT32_MAX ? share : UINT32_MAX);
    }
}

void wse_profile_end(struct wse_profiles *all, struct wse_profile *p, const uint32_t *hot)
{
    uint32_t kept = 0;
    pass(p, UINT32_MAX, hot);
    for (uint32_t i = 0; i < p->n; i++)
        if (p->known[i].chance != 0)
            p->known[kept++] = p->known[i];
    p->n = kept;
    p->at = 0;
    p->steps++;
    plan(p, &all->costs);
}

uint32_t wse_profile_cost(const struct wse_profile *p, uint32_t page)
{
    uint32_t lo = 0, hi = p->n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (p->known[mid].page < page)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < p->n && p->known[lo].page == page ? p->known[lo].cost : 0;
}

/* -- reports ------------------------------------------------------------------------------------------------ */

int wse_profiles_read(const struct wse_profiles *all, struct rcv_profile *out, int max)
{
    uint32_t n = wse_profiles_count(all);
    for (uint32_t i = 0; i < n && max >= 0 && i < (uint32_t)max; i++) {
        const struct wse_profile *p = &all->profile[i];
        out[i] = (struct rcv_profile){.step = p->step, .known = p->n, .steps = p->steps, .captured = p->captured, .vain = p->vain};
        for (uint32_t k = 0; k < p->n_runs; k++)
            out[i].predicted += p->run[k].count;
        memcpy(out[i].handler, p->name, sizeof p->name);
        memcpy(out[i].route, p->route, sizeof p->route);
    }
    return (int)n;
}
