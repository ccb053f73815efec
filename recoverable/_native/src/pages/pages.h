/* pages.h -- the page tracker: which pages raw writes have changed, what that costs, and how it is undone. */
#ifndef RCV_PAGES_H
#define RCV_PAGES_H

#include "segment/segment.h"

struct view;

struct raw { /* what the tracker knows of a transaction, and keeps in it */
    struct view *view;  /* where its live raw buffers lie, or NULL */
    uint32_t    *pages; /* data pages that it has raw-written, sorted */
    uint64_t     n_pages, cap_pages;
};

/* -- tracker.c: raw writes; trap.c: the SIGSEGV handler; estimators/policies.c: which pages to keep hot ------------------ */

int  tracker_open_past(rcv_arena *a); /* of one that is only read, and has no view of its own */
int  tracker_open(rcv_arena *a, const struct rcv_open_options *o); /* map the first view read-only, read the hot table, install the handler */
void tracker_close(rcv_arena *a);  /* demotes nothing: hot pages stay listed for the others */
/* tracker_enter -- a step begins (lock held, phase IDLE): catch up with the hot table's generation; while raw buffers live:
 * compare hot pages with their shadows and put strays back; from here on traps of this thread are logged. RCV_ERR_STRAY: a thread
 * stored into the transaction's view while it waited. */
int  tracker_enter(rcv_arena *a, struct raw *raw);
/* tracker_join -- the step has begun, and the stash is back: only from here on are hot pages writable, and other threads' stores the
 * step's own. Before, they would be taken for commits of others, or lie under the stash. RCV_ERR_STRAY: one has stored meanwhile. */
int  tracker_join(rcv_arena *a, const struct raw *raw);
/* tracker_shut -- first of all at the end of a step: protect what it could write, so that nothing that a thread stores from now
 * on is in the stash, the commit or a shadow. Once a step; no more than a look where there are no raw buffers. */
void tracker_shut(rcv_arena *a);
/* tracker_collect -- the pages that raw writes changed in this step: trapped or hot, different from their base (pre-image
 * or shadow) outside the announced ranges. Fills `pages` with page numbers in the data region; *n of them. Memory belongs
 * to the tracker until the next call. */
int  tracker_collect(rcv_arena *a, const uint32_t **pages, uint32_t *n);
/* Of what tracker_collect has found: tracker_is_raw -- may the page at `off` have raw writes, so that announced ones are not all
 * there is? tracker_raw_hot -- the next changed page from *i on that is hot, with its shadow; false: there are no more. */
bool tracker_is_raw(const rcv_arena *a, rcv_off off);
bool tracker_raw_hot(const rcv_arena *a, uint32_t *i, rcv_off *off, const uint8_t **shadow);
/* tracker_announced_hot -- may this step have announced writes to hot pages? What the log has as the old bytes there may be what a
 * raw write has put there before. tracker_committed -- what is committed from `off` to its page's end; NULL: that is not hot. */
bool           tracker_announced_hot(const rcv_arena *a);
const uint8_t *tracker_committed(const rcv_arena *a, rcv_off off);
/* tracker_savepoint -- protect trapped and hot pages so that later raw writes log again in this step, above `mark`. */
int  tracker_savepoint(rcv_arena *a, uint64_t *mark);
/* tracker_rollback_to -- undo down to `mark`, and cut the log there. tracker_retract -- the same for announced writes only. */
int  tracker_rollback_to(rcv_arena *a, uint64_t mark, struct rcv_recovery *report);
int  tracker_retract(rcv_arena *a, uint64_t mark);
/* tracker_revert -- the step is shut, its undo has been applied: copy shadows back over hot pages that differ. */
void tracker_revert(rcv_arena *a);
/* trap mode. tracker_observe -- before a step's writes are published or undone: which listed pages has it changed?
 * tracker_undoes -- will undoing the step take the page of `off` back? tracker_keep -- the step is undone: store `bytes`, which
 * lie within a page, into unallocated memory, where no later undo takes them back. */
void tracker_observe(rcv_arena *a);
bool tracker_undoes(const rcv_arena *a, rcv_off off);
void tracker_keep(rcv_arena *a, rcv_off off, const void *bytes, uint32_t len);
/* tracker_zero -- trap mode: bytes within a page that nobody's data lies in were cleared: so they are in whatever this step's end may
 * put back. */
void tracker_zero(const rcv_arena *a, rcv_off off, uint32_t len);
void tracker_settle(rcv_arena *a); /* shut, before PUBLISH: what has it changed? */
/* tracker_publish -- between PUBLISH and IDLE: refresh the shadows of listed pages that the undo log says changed, or that
 * tracker_collect found; feed the policy; promote and demote. Only pages of Arrays (heap_page_live), but in trap mode. */
void tracker_publish(rcv_arena *a);
/* tracker_refresh -- with a feed, in hybrid mode: what its record says is what the shadows become, so that a store that a stray has made
 * in between is in neither, and is taken back. `bytes` NULL: zeros. */
void tracker_refresh(rcv_arena *a, rcv_off off, const uint8_t *bytes, uint64_t len);
void tracker_leave(rcv_arena *a); /* the step is over: no trap of this thread is ours any more; mend what strays left */
/* tracker_capture -- raw writes are possible from here on: make ready what this step of the handler's requests will probably
 * write. Lock held, phase STEP, its stash was put back. Cannot fail. */
void tracker_capture(rcv_arena *a, const struct raw *raw, const char *handler, const char *route, uint32_t step);
/* tracker_judge -- the step is going to be undone: last chance to see what it wrote. */
void tracker_judge(rcv_arena *a);
bool tracker_wrote_nothing(const rcv_arena *a); /* the log holds nothing but captured pages */
/* tracker_forget_pages -- array memory is being freed (its commit is next): demote listed pages of that range. */
void tracker_forget_pages(rcv_arena *a, rcv_off off, uint64_t len);
int  tracker_doomed(const rcv_arena *a); /* the handler ran out of log: the step can only roll back */
int  tracker_edit(rcv_arena *a, struct raw *raw, rcv_off off, uint64_t len); /* its pages writable ahead, for system calls */
/* tracker_note_announced -- an announced write into array memory: its page has an announced range in this step. */
void tracker_note_announced(rcv_arena *a, rcv_off off, uint32_t len);
/* tracker_note_fresh -- memory handed out by the heap will be filled in this step: for recordings. */
void tracker_note_fresh(rcv_arena *a, rcv_off off, uint64_t len);
void tracker_after_fork(rcv_arena *a);
void tracker_protect_lost(rcv_arena *a); /* the thread inside a step has ended: no page is writable any more. Without the GIL */
void tracker_step_lost(rcv_arena *a);    /* … and what is known of that step is forgotten. With the GIL */
void tracker_stats(rcv_arena *a, struct rcv_stats *out);
uint64_t tracker_raw_count(const rcv_arena *a);
bool tracker_pending(const rcv_arena *a);   /* are there strays to tell of? */
int  views_acquire(rcv_arena *a, struct raw *raw, rcv_off off, struct rcv_raw *out); /* a raw buffer of the mounted transaction */
void views_ended(rcv_arena *a, struct raw *raw); /* it has a view, and has ended */
bool views_lost(const struct raw *raw);  /* a thread has stored into its view while it waited */

/* -- viewed.c: which Array a page belongs to -------------------------------------------------------------------- */

struct viewed {
    rcv_off  data, array; /* data 0: free slot */
    uint64_t id;          /* of the Array: another may lie there by now */
};
const struct viewed    *viewed_in(rcv_arena *a, uint32_t page); /* what was viewed where the page lies, or NULL */
const struct rcv_array *viewed_array(rcv_arena *a, const struct viewed *v); /* that Array, if it is still there; else NULL */
void                    viewed_free(rcv_arena *a);

/* -- trap.c ------------------------------------------------------------------------------------------------- */

int  trap_handler(rcv_arena *a); /* install the handler */
void trap_images(bool (*fetch)(uintptr_t)); /* who has images asks to be told of faults in them. Signal-safe; false: it is no image's */

#endif
