/* estimators.h -- working-set estimation: which pages to keep hot, behind one interface.
 *
 * A policy sees three things and says two. It sees which cold pages trapped, which hot pages were compared and whether that
 * was in vain, and when a boundary has passed; it says which pages to promote and which to demote, by putting them on the
 * two lists. It knows page numbers only: no segment, no protection. So the evaluation can run several on one recorded stream
 * of writes (replay.c). Never called from the trap handler: it may allocate.
 *
 * The order within one step is fixed: compared() for each hot page, trapped() for each cold page, boundary(), then the lists
 * are taken, promoted() for each page that has become hot. A step that rolls back leaves the lists to the next commit.
 *
 *   policies.c        the policies by name, their options; incremental, full
 *   adaptive.c      adaptive
 *   active.c        active-rnd, active-cks
 *   genetic.c       genetic
 *   oracle.c        the offline optimum, and oracle, which follows it
 *   profile.c       profiles: what a handler will write
 *   recording.c     recordings of live runs
 *   replay.c        a policy on a recorded run
 */
#ifndef RCV_ESTIMATORS_H
#define RCV_ESTIMATORS_H

#include "base/base.h"

struct rcv_policy_option; /* recoverable.h */
struct rcv_stream;
struct rcv_recording;
struct rcv_profile;
struct wse_recorder;
struct wse_profiles;
struct wse_profile;

struct wse_costs { /* nanoseconds, of one page */
    uint64_t trap, protect, compare, copy;
};

struct wse_list {
    uint32_t *page;
    uint32_t  n, cap;
};

struct wse_set { /* pages in no order, each once */
    uint32_t *page;
    uint32_t *rank; /* by page: its place + 1, or 0 */
    uint32_t  n, cap;
};

struct wse;

#define WSE_OPTIONS 6u
#define WSE_NEAR 16u /* pages on each side of the first one that traps in a step, of which a profile knows something */
#define WSE_PROFILES 128u /* handlers and steps of them that are told apart */

struct wse_option { /* of a policy, by place: w->option[i] */
    const char *name;
    double      standard, least, most;
};

struct wse_policy {
    const char       *name;
    struct wse_option option[WSE_OPTIONS];
    int (*open)(struct wse *w);                                    /* 0 or RCV_ERR_FULL; state in w->state */
    void (*close)(struct wse *w);
    void (*trapped)(struct wse *w, uint32_t page);                 /* a cold page trapped in this step */
    void (*compared)(struct wse *w, uint32_t page, bool changed);  /* a hot page at its step's end; false: in vain */
    void (*promoted)(struct wse *w, uint32_t page);                /* the tracker has made it hot */
    void (*boundary)(struct wse *w);                               /* a step with raw buffers or traps is over */
    /* … a cold page was written that is captured for `cost` ns whenever its handler runs. NULL: as one that trapped */
    void (*captured)(struct wse *w, uint32_t page, uint32_t cost);
    double profiles; /* by default: 1 or 0 */
};

struct wse {
    const struct wse_policy *policy;
    struct wse_costs         costs;
    double                   option[WSE_OPTIONS];
    const struct rcv_stream *recording; /* while opening: what oracle replays */
    uint32_t                 pages;     /* page numbers are below this */
    uint32_t                 patience;  /* boundaries that a hot page may go unwritten */
    uint32_t                 comparisons; /* of a hot page in a step: at both its ends, or at one */
    uint32_t                 max_hot;   /* pages that may be hot at a time; 0: by the state's size (hot.c) */
    struct wse_list          promote;   /* verdicts; the tracker takes them at the next commit and empties the lists */
    struct wse_list          demote;
    struct wse_recorder     *recorder;  /* or NULL */
    struct wse_profiles     *profiles;  /* NULL: none are kept */
    void                    *state;
};

struct wse_setup {
    const char                     *policy;
    const struct rcv_policy_option *options;
    uint32_t                        n_options;
    const struct rcv_stream        *recording;
    uint32_t                        pages;
    uint32_t                        comparisons;
    struct wse_costs                costs;
};

/* wse_open -- RCV_ERR_MISUSE: no such policy or option, or a value out of its range; the text lists those there are.
 * RCV_ERR_FULL: no memory. A failure leaves nothing to close. */
int  wse_open(struct wse *w, const struct wse_setup *setup);
void wse_close(struct wse *w);
/* wse_say -- put a page on a list; where there is no memory for it, the verdict is lost and comes again another time. */
void wse_say(struct wse_list *list, uint32_t page);

int  wse_recorder_new(struct wse_recorder **out, uint32_t pages, bool announced); /* 0 or RCV_ERR_FULL */
bool wse_records_announced(const struct wse_recorder *r);         /* false for NULL */
void wse_recorder_free(struct wse_recorder *r);                   /* NULL is fine */
void wse_record_write(struct wse_recorder *r, uint32_t page);     /* in this step, told once or more often */
void wse_record_step(struct wse_recorder *r, const char *handler); /* RCV_HANDLER_NAME bytes: this step is over */
const struct rcv_recording *wse_recorder_view(struct wse_recorder *r); /* until the next step */

static inline void wse_trapped(struct wse *w, uint32_t page)
{
    if (w->recorder)
        wse_record_write(w->recorder, page);
    w->policy->trapped(w, page);
}

static inline void wse_compared(struct wse *w, uint32_t page, bool changed)
{
    if (w->recorder && changed)
        wse_record_write(w->recorder, page);
    w->policy->compared(w, page, changed);
}

static inline void wse_promoted(struct wse *w, uint32_t page) { w->policy->promoted(w, page); }
static inline void wse_boundary(struct wse *w) { w->policy->boundary(w); }

static inline void wse_captured(struct wse *w, uint32_t page, uint32_t cost)
{
    if (w->policy->captured == NULL) {
        wse_trapped(w, page);
        return;
    }
    if (w->recorder)
        wse_record_write(w->recorder, page);
    w->policy->captured(w, page, cost);
}

/* -- profiles -- */

struct wse_stretch { /* of neighbours */
    uint32_t first, count;
};

struct wse_profiles *wse_profiles_new(const struct wse_costs *costs); /* NULL: no memory */
void                 wse_profiles_free(struct wse_profiles *all);     /* NULL is fine */
uint32_t             wse_profiles_count(const struct wse_profiles *all); /* … */
/* wse_profile_of -- that of a handler and a route (RCV_HANDLER_NAME bytes each) and a step of its requests, from 0; learning begins.
 * It stays until the next call. */
struct wse_profile *wse_profile_of(struct wse_profiles *all, const char *name, const char *route, uint32_t step);
uint32_t            wse_profile_runs(const struct wse_profile *p, const struct wse_stretch **runs); /* to capture: ascending, apart */
/* wse_profile_saw -- in a step that is over, by page in ascending order: it trapped (`written`), or was captured. `hot`: by page,
 * not 0 where it is hot. */
void wse_profile_saw(struct wse_profile *p, uint32_t page, bool captured, bool written, const uint32_t *hot);
void wse_profile_end(struct wse_profiles *all, struct wse_profile *p, const uint32_t *hot); /* all of the step was told */
/* wse_profile_owned -- the same for pages that the request itself had written before it waited: so many cold ones, and of those so
 * many were written again. wse_profile_again -- is it worth to capture them when such a step begins? */
void     wse_profile_owned(struct wse_profile *p, uint32_t pages, uint32_t written);
bool     wse_profile_again(const struct wse_profiles *all, const struct wse_profile *p);
/* wse_profile_near -- the step has trapped: which pages around the first one has it written later? [0]: before it, [1]: behind it, the
 * nearest first. wse_profile_around -- how many of each side to capture with it next time. */
void     wse_profile_near(const struct wse_profiles *all, struct wse_profile *p, const bool written[2][WSE_NEAR]);
void     wse_profile_around(const struct wse_profile *p, uint32_t *before, uint32_t *behind);
uint32_t wse_profile_gap(const struct wse_profiles *all); /* so many pages between two of them come along rather than a call more */
uint32_t wse_profile_cost(const struct wse_profile *p, uint32_t page); /* of its capture next time; 0: none is planned */
int      wse_profiles_read(const struct wse_profiles *all, struct rcv_profile *out, int max); /* how many there are */

/* -- for the policies -- */

extern const struct wse_policy wse_adaptive, wse_active_rnd, wse_active_cks, wse_genetic, wse_oracle;

int  wse_no_memory(const struct wse *w); /* raises RCV_ERR_FULL */
void wse_nothing(struct wse *w);
void wse_no_page(struct wse *w, uint32_t page);
int  wse_set_open(struct wse_set *s, uint32_t pages); /* 0, or RCV_ERR_FULL without text and nothing to close */
void wse_set_close(struct wse_set *s);
bool wse_set_add(struct wse_set *s, uint32_t page); /* false: it is there, or there is no memory */
void wse_set_remove(struct wse_set *s, uint32_t page); /* the last one takes its place */
static inline bool wse_set_has(const struct wse_set *s, uint32_t page) { return s->rank[page] != 0; }
static inline uint32_t wse_random(uint64_t *state, uint32_t below) /* splitmix64; `below` > 0 */
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((x >> 32) * below >> 32);
}

/* -- oracle.c: the cheapest way through a recorded run, known afterwards -- */

struct wse_plan {
    uint64_t  ns;    /* what the run costs at best */
    uint32_t  n;     /* boundaries */
    uint32_t *ends;  /* by boundary: where its switches end in `page`; those of the first begin at 0 */
    uint32_t *page;  /* PLAN_PROMOTE is set where it becomes hot at that boundary's end, else it becomes cold */
};
#define PLAN_PROMOTE 0x80000000u

/* wse_plan -- RCV_ERR_FULL: no memory; RCV_ERR_MISUSE: a page of the recording is not below `pages`, or its ends don't grow. */
int  wse_plan(struct wse_plan *out, const struct rcv_stream *s, uint32_t pages, const struct wse_costs *c, uint32_t comparisons,
              bool on_demand);
void wse_plan_free(struct wse_plan *plan);

#endif
