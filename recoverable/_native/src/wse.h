/* wse.h -- working-set estimation: which pages to keep hot, behind one interface.
 *
 * A policy sees three things and says two. It sees which cold pages trapped, which hot pages were compared and whether that
 * was in vain, and when a boundary has passed; it says which pages to promote and which to demote, by putting them on the
 * two lists. It knows page numbers only: no segment, no protection. So the evaluation can run several on one recorded stream
 * of writes. Never called from the trap handler: it may allocate.
 */
#ifndef RCV_WSE_H
#define RCV_WSE_H

#include <stdbool.h>
#include <stdint.h>

struct wse_costs { /* nanoseconds, of one page */
    uint64_t trap, protect, compare, copy;
};

struct wse_list {
    uint32_t *page;
    uint32_t  n, cap;
};

struct wse;

struct wse_policy {
    const char *name;
    int (*open)(struct wse *w);                                    /* 0 or RCV_ERR_FULL; state in w->state */
    void (*close)(struct wse *w);
    void (*trapped)(struct wse *w, uint32_t page);                 /* a cold page trapped in this step */
    void (*compared)(struct wse *w, uint32_t page, bool changed);  /* a hot page at its step's end; false: in vain */
    void (*promoted)(struct wse *w, uint32_t page);                /* the tracker has made it hot */
    void (*boundary)(struct wse *w);                               /* a step with raw buffers or traps is over */
};

struct wse {
    const struct wse_policy *policy;
    struct wse_costs         costs;
    uint32_t                 pages;    /* page numbers are below this */
    uint32_t                 patience; /* boundaries that a hot page may go unwritten */
    struct wse_list          promote;  /* verdicts; the tracker takes them at the next commit and empties the lists */
    struct wse_list          demote;
    void                    *state;
};

/* wse_open -- RCV_ERR_MISUSE: no such policy, the text lists those there are. RCV_ERR_FULL: no memory. A failure leaves
 * nothing to close. */
int  wse_open(struct wse *w, const char *name, uint32_t pages, const struct wse_costs *costs);
void wse_close(struct wse *w);
/* wse_say -- put a page on a list; where there is no memory for it, the verdict is lost and comes again another time. */
void wse_say(struct wse_list *list, uint32_t page);

static inline void wse_trapped(struct wse *w, uint32_t page) { w->policy->trapped(w, page); }
static inline void wse_compared(struct wse *w, uint32_t page, bool changed) { w->policy->compared(w, page, changed); }
static inline void wse_promoted(struct wse *w, uint32_t page) { w->policy->promoted(w, page); }
static inline void wse_boundary(struct wse *w) { w->policy->boundary(w); }

#endif
