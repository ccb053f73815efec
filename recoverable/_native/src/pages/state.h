/* state.h -- what the files of the page tracker share, and nobody else: struct rcv_tracker and the calls between them.
 *
 *   tracker.c   a step from its beginning to its end
 *   changes.c   which pages it has changed
 *   edit.c      Array.edit()
 *   hot.c       the hot set: shadows, promotion and demotion (its table in the segment: segment/hot_table.c)
 *   view.c      a view: protection, unprotection, private pages
 *   views.c     whose view is whose
 *   viewed.c    which Array a page belongs to
 *   capture.c   what a handler will write, made writable ahead
 *   trap.c      the SIGSEGV handler
 *   handlers.c  those of others
 *   calibrate.c what a trap, a protection, a comparison and a copy cost here
 *   estimators/ the policies: which pages to keep hot
 *
 * A *view* is a mapping of the data region that raw buffers point into. There is one for each transaction that has live
 * raw buffers, so that an address tells whose it is (view.c). Most processes never have more than the first.
 *
 * Invariant, for every page of the data region and each view, outside the functions of view.c:
 *
 *      mapped writable and shared  =  PG_WRITABLE  (or `wide`)
 *      PG_WRITABLE in a step       =>  listed (the shadow is its base) or in `trapped` (a pre-image is)
 *      PG_WRITABLE between steps   =>  listed, and the view is the first and has no live buffers
 *      mapped private              =  PG_STRAY, or the whole view is (`private_view`)
 */
#ifndef RCV_PAGES_STATE_H
#define RCV_PAGES_STATE_H

#include "heap/heap.h"
#include "pages/estimators/estimators.h"
#include "pages/pages.h"

#include <signal.h>
#include <sys/mman.h>

/* Of a page in a view. */
#define PG_WRITABLE 1u
#define PG_STRAY 2u
/* Of a page. */
#define PG_ANNOUNCED 4u /* an announced write, or the stash, went into it in this step */
#define PG_OWN 16u      /* PG_ANNOUNCED by the stash: raw-written in an earlier step of this transaction */

#define VIEWS 256u       /* mappings of a process: beyond that, those of ended transactions are shared */
#define USED_MOST 16u    /* views that one step may write through */
#define VIEWS_WARM 8u    /* of these, those that keep their page tables while they are free */
#define STRAY_CLAIMS 64u /* private pages that a boundary maps back one by one; more: the whole view at once */
#define STRAY_QUEUE 64u  /* reports that wait for rcv_take_strays; more are only counted */
#define SECOND_KEPT 256u /* steps with raw buffers for which a second thread's store is remembered */

struct trap_entry {
    uint64_t at;   /* where in the undo log its pre-image begins */
    uint32_t page;  /* of the data region */
    uint16_t view;  /* through which it became writable: its number */
    uint16_t flags; /* TRAP_… */
};

#define TRAP_CAPTURED 1u /* it was logged ahead: capture.c */
#define TRAP_CHANGED 2u  /* … and written */
#define TRAP_EDITED 8u /* edit() has logged it: it did not trap */
#define TRAP_LATE 4u     /* after a savepoint: no capture could have been in time */

struct announced { /* bytes of one page */
    uint32_t page, lo, hi;
};

struct view {
    uint8_t *base;
    uint8_t *state; /* by page: PG_WRITABLE, PG_STRAY */
    uint32_t number;
    bool     wide;         /* mprotect failed somewhere: more is writable than PG_WRITABLE says */
    bool     private_view; /* the whole view is private */
    bool     unprotected;  /* pages could not be protected again: no step may begin */
    bool     strays;       /* some pages are private */
    bool     hot_closed;   /* hot pages were writable in its last step, and will be again when it is next used */
    bool     used;         /* this step may have written through it: it is in `used` */
    bool     lost;         /* a thread stored into it while its owner waited: the owner can only roll back */
    uint64_t buffers;      /* live ones that user code can write through */
    struct raw *owner;     /* whose they are; NULL: nobody's, or that of one that has ended */
    uint64_t newest;       /* id of the newest container when the last of them was made: none is of a younger Array */
};

struct claim { /* a page that the handler has made private */
    struct view *view;
    uint32_t     page;
    uint64_t     address;
};

struct rcv_tracker {
    /* geometry: fixed */
    uint32_t page_size, shift;
    uint32_t pages; /* of the data region's ceiling */
    uint32_t slots; /* of the hot table that have room for a shadow */
    uint32_t max_runs; /* of adjacent hot pages: two map entries each. Twice as many may be trapped in a step */

    /* Mappings: under the arena's view lock (segment.h), which the trap handler takes, too. */
    struct view *views[VIEWS]; /* the first is always there */
    uint32_t     n_views;      /* mapped so far */
    bool         trouble;      /* there are claims, or a view is private or not protected */
    uint32_t     n_claims;     /* may exceed STRAY_CLAIMS */
    struct claim claims[STRAY_CLAIMS];

    /* whose stores are this step's: under that lock, too */
    _Atomic bool in_step; /* from its beginning until it is shut */
    bool         shut;    /* its raw writes have ended; what comes now is a stray */
    bool         shared;  /* other threads' stores into `view` are its own */
    struct view *view;    /* of the mounted transaction, or NULL */
    struct view *used[USED_MOST]; /* that it may have written through */
    uint32_t     n_used;
    uint32_t     share_at; /* where to look for a view of an ended transaction, when there are no others */
    uint32_t     second;  /* not 0: a second thread has stored, or is there to store, so long ago */

    /* this step */
    uint8_t           *state;         /* by page: PG_ANNOUNCED, PG_OWN */
    bool               savepoint;     /* listed pages log, too */
    bool               all_listed;    /* pages were protected in mid-step: PG_WRITABLE does not say what was written */
    bool               collected;     /* tracker_collect has run, `raw` is right */
    bool               announced_hot; /* an announced write went into a listed page */
    bool               active;        /* it trapped, or hot pages were compared */
    bool               counted;       /* the policy has heard of its end */
    bool               recorded;      /* announced writes of it are in the recording */
    volatile int       doomed;        /* RCV_ERR_FULL, RCV_ERR_STRAY or RCV_ERR_STALE, or 0 */
    struct trap_entry *trapped;       /* in the order of the log until sorted */
    volatile uint32_t  n_trapped;
    uint32_t           n_runs;      /* unprotected apart from others in this step: about two map entries each */
    uint32_t           cap_trapped; /* as many as the undo log has room for */
    uint32_t          *announced;   /* pages with PG_ANNOUNCED */
    uint32_t           n_announced;
    struct announced  *ranges; /* of them, sorted by page: built when first wanted */
    uint32_t           n_ranges, cap_ranges;
    bool               ranges_built;
    uint32_t          *raw; /* what tracker_collect found */
    uint32_t           n_raw, cap_raw;
    uint32_t           edits, edit_lo, edit_hi; /* open ones; the pages that all of this step's spanned */
    uint8_t           *scratch;                 /* a page */
    struct wse_profile *profile; /* that was asked, or NULL */
    bool               late;     /* a savepoint was made since */
    bool     anchored;        /* a page has trapped, the first was … */
    uint32_t anchor;
    uint64_t anchor_at;       /* … and its pre-image lies there */
    uint32_t before, behind;  /* so many pages around it come along */
    bool               own_captured; /* cold pages with PG_OWN were captured … */
    uint32_t           n_own;        /* … and so many there are */

    /* the hot set as of `generation` */
    uint64_t  generation;
    uint32_t *slot_of; /* by page: slot + 1, 0 = not listed */
    uint32_t *page_of; /* by slot: page + 1, 0 = free */
    uint32_t *rank_of; /* by slot: its place in `hot` */
    uint32_t *stamp_of; /* by slot: the stamp that this process gave it last */
    uint32_t *hot;     /* listed slots, dense */
    uint32_t  n_hot, runs, free_hint;
    uint32_t  reach;     /* slots that may be in `page_of`: how many had shadows when we looked last */
    uint32_t  published; /* commits since maybe_trim() looked */

    /* raw buffers */
    uint64_t raw_count;
    bool     raw_since; /* one has been alive since hot pages were last compared */

    /* reports */
    struct rcv_stray queue[STRAY_QUEUE];
    uint32_t         n_queue;

    struct wse wse;
};

static inline uint32_t page_of_off(const rcv_arena *a, rcv_off off) { return (uint32_t)((off - a->data_off) >> a->tracker->shift); }
static inline rcv_off  page_off(const rcv_arena *a, uint32_t page) { return a->data_off + ((uint64_t)page << a->tracker->shift); }
static inline uint8_t *page_core(const rcv_arena *a, uint32_t page) { return a->core + page_off(a, page); }
static inline uint8_t *page_in(const rcv_arena *a, const struct view *v, uint32_t page)
{
    return v->base + ((uint64_t)page << a->tracker->shift);
}
static inline uint32_t pages_claimed(const rcv_arena *a) { return (uint32_t)(rcv_data_claimed(a) >> a->tracker->shift); }

/* writable_in_step -- could this step have written the page without a trap? */
static inline bool writable_in_step(const struct rcv_tracker *t, uint32_t page)
{
    for (uint32_t i = 0; i < t->n_used; i++)
        if (t->used[i]->state[page] & PG_WRITABLE)
            return true;
    return false;
}

/* -- view.c: all with the view lock held. view_unprotect, view_log and view_make_private are called by the trap handler -- */

int  view_log(rcv_arena *a, struct view *v, uint32_t page); /* pre-image into the log, entry into `trapped`: 0 or RCV_ERR_FULL */
static inline bool needs_log(const struct rcv_tracker *t, uint32_t page) /* … before it becomes writable? */
{
    return t->slot_of[page] == 0 || t->savepoint; /* a listed page's shadow has its committed bytes */
}
/* view_unprotect -- make pages writable whose bases are kept already. Where there are no map entries left: a larger block.
 * RCV_ERR_FULL: no log left for that block. RCV_ERR_OS: not even the whole view. */
int  view_unprotect(rcv_arena *a, struct view *v, uint32_t first, uint32_t count);
/* view_protect -- read-only again. Never fails: in the end the whole view is mapped again, and if even that is refused,
 * `unprotected` keeps the next step from beginning. */
void view_protect(rcv_arena *a, struct view *v, uint32_t first, uint32_t count);
void view_protect_span(rcv_arena *a, struct view *v, uint32_t first, uint32_t count); /* flags are the caller's: see there */
void view_protect_all(rcv_arena *a, struct view *v);
void view_reset(rcv_arena *a, struct view *v); /* the whole view read-only and shared, all strays gone */
bool view_make_private(rcv_arena *a, struct view *v, uint32_t page, bool whole); /* stores to it go nowhere from now on */
void view_mend(rcv_arena *a, struct view *v);  /* map strays back, queue their reports */
void view_open_hot(rcv_arena *a, struct view *v); /* hot pages writable, which takes no log */
bool view_any_hot(const struct rcv_tracker *t, const struct view *v); /* is a hot page writable in it? */
void view_report(rcv_arena *a, uint32_t page, uint64_t address, int32_t kind);
bool view_keeps_hot(const struct rcv_tracker *t, const struct view *v); /* may hot pages stay writable in it between steps? */

/* -- views.c: whose view is whose -- */

int  views_open(rcv_arena *a); /* map the first */
void views_close(rcv_arena *a);
void views_step_lost(rcv_arena *a, bool forked);
int  views_mend(rcv_arena *a); /* all of them as they should be between steps. RCV_ERR_OS: one can't be protected */
/* views_begin -- the step of a transaction begins: which view is its own? RCV_ERR_STRAY: that was stored into while it
 * waited. RCV_ERR_FULL, RCV_ERR_OS: trap mode needs one and there is none. */
int  views_begin(rcv_arena *a, struct raw *raw);
int  views_join(rcv_arena *a, const struct raw *raw); /* tracker_join() */
void views_use(rcv_arena *a, struct view *v, bool shared); /* the step has it as its own from now on */
/* views_stale -- is the page, in a view that is not the step's own, none of an Array that a buffer there was made of? Signal-safe. */
bool views_stale(rcv_arena *a, const struct view *v, uint32_t page);
bool views_adopt(rcv_arena *a, struct view *v); /* its thread writes through another, too. Signal-safe. false: not that, too */
void views_end(rcv_arena *a);                              /* the step is over, and its views are protected */
int  views_own(rcv_arena *a, struct raw *raw, struct view **out); /* the mounted transaction's, made if need be */

/* -- viewed.c -- */

/* viewed_id -- the id of the Array that the page is of, if a raw buffer was made of it in this process; else 0. Signal-safe. */
uint64_t viewed_id(rcv_arena *a, uint32_t page);

/* -- hot.c -- */

int  hot_sync(rcv_arena *a); /* catch up with the table's generation */
void hot_take_back(rcv_arena *a, bool strays); /* shadows -> data where they differ; `strays`: and report it */
void hot_publish(rcv_arena *a);  /* shadows of what this commit changed; verdicts of the policy */
void hot_demote_range(rcv_arena *a, uint32_t first, uint32_t last);
int  hot_open(rcv_arena *a);
void hot_close(rcv_arena *a);

/* -- changes.c -- */

/* changes_pieces -- fn for each piece of a page that the step's log names; not 0 ends it. 0, what fn returned, or RCV_ERR_CORRUPT. */
int  changes_pieces(rcv_arena *a, unsigned kinds, int (*fn)(rcv_arena *a, uint32_t page, uint32_t lo, uint32_t hi));
void sort_trapped(struct rcv_tracker *t); /* by page, the oldest pre-image of each first */

/* -- capture.c -- */

/* capture_around -- [first, end) is to be unprotected with the page, which has trapped and is logged; so are the others. Signal-safe. */
void capture_around(rcv_arena *a, struct view *v, uint32_t page, uint32_t *first, uint32_t *end);
void capture_judge(rcv_arena *a); /* before an undo */
void capture_learn(rcv_arena *a); /* `trapped` is sorted, what is hot is known */

/* -- trap.c -- */

int  trap_watch(rcv_arena *a, struct view *v); /* faults in the view are ours */
void trap_remove(rcv_arena *a);  /* the arena's views only: others may have chained to the handler */
/* trap_calibrate -- a store into [base, base+len) is copied to `log` and unprotected, as a trap would be. len 0: off. */
void trap_calibrate(void *base, uint64_t len, void *log);

/* -- handlers.c -- */

int handlers_install(void (*handler)(int, siginfo_t *, void *)); /* make it the first to get SIGSEGV, if it is not. 0 or errno */
/* handlers_chain -- a signal that is not ours goes to the next handler before ours. `sp`: the stack pointer of the code that it interrupted.
 * handlers_depth -- how many of them have a signal of this thread right now, above that. */
void     handlers_chain(int sig, siginfo_t *info, void *context, uintptr_t sp);
unsigned handlers_depth(uintptr_t sp);

/* -- calibrate.c -- */

int calibrate(rcv_arena *a, struct wse_costs *out); /* measured once a segment: cached in its header */

#endif
