/* genetic.c -- the genetic estimator of Speculative Memory Checkpointing (Vogt et al., Middleware 2015).
 *
 * An individual is a set of pages: one gene, a bit, for each page that is known. The individuals of a population take turns,
 * a checkpoint each: the one whose turn it is decides what is hot. Its score is what that cost: `miss` for a page that
 * trapped, `vain` for a hot page that was not written. When each has had its turn, the next generation is made: two parents
 * for each child, each the better one of two drawn at random; the child has the genes of the one up to a random place and of
 * the other from there on. Each gene flips with probability `mutation` before its turn. A page that trapped and was unknown
 * gets each gene with probability 1/8; a page in no individual is forgotten.
 *
 * A page that its individual wants but that is protected waits for its next trap, as it does in the authors' code. Constants as there:
 * 8, 1, population 5, mutation 0.01.
 *
 * Where it fails: the individuals' turns see different writes, so with few pages a step the scores are mostly noise; and
 * every turn may change the protection of many pages.
 */
#include "estimators.h"

#define MOST 20u /* individuals: bits of a gene */

enum { POPULATION, MISS, VAIN, MUTATION, SEED };

#define HOT 1u  /* as far as we know */
#define OPEN 2u /* trapped in this epoch */
#define NEW 4u  /* became known in this generation: no genes yet */

struct genetic {
    struct wse_set known;
    uint32_t      *genes; /* by page: a bit an individual */
    uint8_t       *state; /* by page */
    uint32_t       turn;  /* whose it is */
    double         score[MOST];
    uint64_t       random;
};

static void genetic_close(struct wse *w)
{
    struct genetic *s = w->state;
    wse_set_close(&s->known);
    os_free(s->genes);
    os_free(s->state);
    os_free(s);
}

static int genetic_open(struct wse *w)
{
    struct genetic *s = os_calloc(1, sizeof *s);
    if (s == NULL)
        return wse_no_memory(w);
    w->state = s;
    int rc = wse_set_open(&s->known, w->pages);
    s->genes = os_calloc((size_t)w->pages + 1, sizeof *s->genes);
    s->state = os_calloc((size_t)w->pages + 1, sizeof *s->state);
    if (rc != 0 || s->genes == NULL || s->state == NULL) {
        genetic_close(w);
        return wse_no_memory(w);
    }
    s->random = (uint64_t)w->option[SEED];
    w->patience = (uint32_t)w->option[POPULATION];
    return 0;
}

static void genetic_trapped(struct wse *w, uint32_t page)
{
    struct genetic *s = w->state;
    s->state[page] = (uint8_t)((s->state[page] & ~HOT) | OPEN);
    if (!wse_set_has(&s->known, page)) {
        if (!wse_set_add(&s->known, page)) {
            s->state[page] = 0;
            return;
        }
        s->genes[page] = 0;
        s->state[page] |= NEW;
    }
    if (!(s->state[page] & NEW) && !(s->genes[page] >> s->turn & 1))
        s->score[s->turn] += w->option[MISS];
}

static void genetic_compared(struct wse *w, uint32_t page, bool changed)
{
    struct genetic *s = w->state;
    if (!wse_set_has(&s->known, page)) {
        wse_say(&w->demote, page); /* hot through another process */
        return;
    }
    s->state[page] |= HOT;
    if (!changed)
        s->score[s->turn] += w->option[VAIN];
}

/* better -- of two drawn at random. */
static uint32_t better(struct genetic *s, uint32_t population)
{
    uint32_t x = wse_random(&s->random, population), y = wse_random(&s->random, population);
    return s->score[x] <= s->score[y] ? x : y;
}

/* procreate -- the next generation takes the place of this one. */
static void procreate(struct genetic *s, uint32_t population)
{
    uint32_t first[MOST], second[MOST], cut[MOST];
    for (uint32_t i = 0; i < population; i++) {
        first[i] = better(s, population);
        second[i] = better(s, population);
        cut[i] = s->known.n ? wse_random(&s->random, s->known.n) : 0;
    }
    for (uint32_t k = 0; k < s->known.n; k++) {
        uint32_t page = s->known.page[k], old = s->genes[page], genes = 0;
        for (uint32_t i = 0; i < population; i++) {
            bool has = s->state[page] & NEW ? wse_random(&s->random, 8) == 0 : old >> (k < cut[i] ? first[i] : second[i]) & 1;
            genes |= (uint32_t)has << i;
        }
        s->genes[page] = genes;
        s->state[page] &= (uint8_t)~NEW;
    }
}

/* decide -- the verdicts of the individual whose turn begins. Walked downwards: forgetting moves the last page. */
static void decide(struct wse *w, struct genetic *s)
{
    uint32_t mutation = (uint32_t)(w->option[MUTATION] * 1e6);
    for (uint32_t k = s->known.n; k-- > 0;) {
        uint32_t page = s->known.page[k];
        if (wse_random(&s->random, 1000000) < mutation && !(s->state[page] & NEW))
            s->genes[page] ^= UINT32_C(1) << s->turn;
        bool wanted = s->genes[page] >> s->turn & 1;
        if (wanted && (s->state[page] & (HOT | OPEN)) == OPEN)
            wse_say(&w->promote, page);
        else if (!wanted && (s->state[page] & HOT))
            wse_say(&w->demote, page);
        s->state[page] &= (uint8_t) ~(OPEN | (wanted ? 0 : HOT));
        if (s->genes[page] == 0 && !(s->state[page] & (HOT | NEW)))
            wse_set_remove(&s->known, page);
    }
}

static void genetic_promoted(struct wse *w, uint32_t page) { ((struct genetic *)w->state)->state[page] |= HOT; }

static void genetic_boundary(struct wse *w)
{
    struct genetic *s = w->state;
    uint32_t        population = (uint32_t)w->option[POPULATION];
    if (++s->turn == population) {
        procreate(s, population);
        s->turn = 0;
    }
    if (s->turn == 0)
        memset(s->score, 0, sizeof s->score);
    decide(w, s);
}

const struct wse_policy wse_genetic = {
    .name = "genetic",
    .option = {[POPULATION] = {.name = "population", .standard = 5, .least = 2, .most = MOST},
               [MISS] = {.name = "miss", .standard = 8, .least = 0, .most = 1e6},
               [VAIN] = {.name = "vain", .standard = 1, .least = 0, .most = 1e6},
               [MUTATION] = {.name = "mutation", .standard = 0.01, .least = 0, .most = 1},
               [SEED] = {.name = "seed", .standard = 1, .least = 0, .most = 1e15}},
    .open = genetic_open,
    .close = genetic_close,
    .trapped = genetic_trapped,
    .compared = genetic_compared,
    .promoted = genetic_promoted,
    .boundary = genetic_boundary,
};
