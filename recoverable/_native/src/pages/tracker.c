/* tracker.c -- raw writes: which pages did user code change through the tracked view in this step?
 *
 * What we want: numpy, memoryview and ctypes write into shared state at memory speed, without calling us; and still we know
 * at the end of a step which pages changed, what was there before, and can put it back; a write outside any step must not
 * change anything; and steps that have nothing to do with raw writes pay nothing.
 *
 * What does not work:
 *   - soft-dirty bits and userfaultfd write protection: the first needs a write to /proc for each step and a walk over all
 *     of the page table, both are missing or forbidden in many containers, and neither gives the old bytes in time;
 *   - comparing everything with a copy: costs what the state is big, not what the step wrote;
 *   - a private mapping for each step: a page-table entry and a kernel copy a page, and the diff still to be found;
 *   - protecting everything and trapping each first write (classic incremental checkpointing): right, but some microseconds
 *     a page and step for pages that are written in every step.
 *
 * What does: the last one, for pages rarely written (*trapped*: pre-image in the undo log, trap.c), and for those written
 * again and again (*hot*, hot.c) a shadow with their committed content and a comparison at both ends of a step. Which page
 * is treated how is a policy's guess (estimators/policies.c); a wrong guess costs time, never state.
 *
 * A page is *raw-changed* if it differs from its base: the shadow if it is listed, else the pre-image of its first trap in
 * this step. Announced writes (a[3] = 1.0, edit()) go through the core view and may lie on the same page; their ranges are in
 * the undo log as RCV_U_DATA and are left out of the comparison: base, overlaid by the announced ranges' present bytes, against
 * the page. The log is read for that only if a page differs and has announced writes at all (PG_ANNOUNCED).
 *
 * After a suspension the transaction's stash is written back through the core view, with RCV_U_DATA and RCV_U_PAGE records.
 * A page that came back whole is not trapped by that. If it is listed, it differs from its shadow and is reported as
 * raw-changed; else it is reported only if it is trapped again, and then if it changed since that trap. The transaction keeps
 * its own list of raw pages, so either is right. tracker_note_announced() must be told of everything that is written into
 * array memory through the core view, the stash included: that is how the shadows of listed pages follow at the commit.
 *
 * In *trap mode* containers write through the view, too, as the paper has it: then every listed page is compared at each
 * step's end (tracker_observe), and what a step has put into new memory, which no transaction undoes, is kept from its undo
 * (tracker_keep, tracker_zero). Announced writes are logged as ever: for going back to an operation's start, and for the stash.
 *
 * Costs: no raw buffer alive, none alive since the last comparison, no trap: entering and leaving are some loads. Otherwise
 * O(pages trapped + hot pages).
 *
 * Stores of other threads: views.c says whose they are. A step is *shut* first of all at its end (tracker_shut): all that it could
 * write is protected, under the lock that the handler takes, and what traps after that is not its own. Only then is it compared,
 * stashed, undone or published.
 *
 * Where it still fails: a raw buffer that was alive and is released leaves hot pages of the first view writable, if there is no
 * second thread; they are compared once more and then not until the next buffer.
 */
#include "state.h"

#include <errno.h>

#define GAP_MAX 8192u /* pages between two trapped ones: looking through more of them takes as long as the call that it saves */

/* -- life ----------------------------------------------------------------------------------------------------- */

static void free_tracker(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    hot_close(a);
    wse_close(&t->wse);
    os_free(t->state);
    os_free(t->trapped);
    os_free(t->announced);
    os_free(t->ranges);
    os_free(t->raw);
    os_free(t->scratch);
    os_free(t);
    a->tracker = NULL;
}

/* allocate -- everything that the trap handler may touch, once. Large tables are backed by memory only where touched. */
static int allocate(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    t->page_size = a->hdr->page_size;
    t->shift = (unsigned)__builtin_ctz(t->page_size);
    uint64_t pages = a->data_size >> t->shift;
    if (pages >= UINT32_MAX)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": %llu pages are more than can be tracked; make it smaller", a->name,
                         (unsigned long long)pages);
    t->pages = (uint32_t)pages;
    t->cap_trapped = (uint32_t)(a->undo_size / undo_cost(t->page_size)) + 1;
    atomic_flag_clear(&a->view_lock);
    t->state = os_calloc(pages + 1, 1);
    t->trapped = os_calloc(t->cap_trapped, sizeof *t->trapped);
    t->announced = os_calloc(pages + 1, sizeof *t->announced);
    t->scratch = os_malloc(t->page_size);
    int rc = hot_open(a);
    if (rc != 0 || !t->state || !t->trapped || !t->announced || !t->scratch)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for tracking %u pages", a->name, t->pages);
    return 0;
}

/* tracker_open -- the first view, the policy, the handler. A failure leaves nothing behind. */
int tracker_open(rcv_arena *a, const struct rcv_open_options *o)
{
    struct rcv_tracker *t = os_calloc(1, sizeof *t);
    if (t == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for its tracker", a->name);
    a->tracker = t;
    struct wse_costs costs;
    int              rc = allocate(a);
    if (rc == 0)
        rc = calibrate(a, &costs);
    if (rc == 0)
        rc = wse_open(&t->wse, &(struct wse_setup){.policy = a->policy,
                                                   .options = o->policy_options,
                                                   .n_options = o->n_policy_options,
                                                   .recording = o->recording,
                                                   .pages = t->pages,
                                                   .comparisons = a->trap_mode ? 1 : 2,
                                                   .costs = costs});
    if (rc == 0)
        rc = trap_handler(a);
    if (rc == 0)
        rc = views_open(a);
    if (rc != 0)
        free_tracker(a);
    return rc;
}

/* tracker_open_past -- of an arena that has no steps: readers find it where it is. */
int tracker_open_past(rcv_arena *a)
{
    if ((a->tracker = os_calloc(1, sizeof *a->tracker)) == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for its tracker", a->name);
    a->tracked = a->core + a->data_off;
    return 0;
}

/* tracker_close -- no step of this arena runs. Hot pages stay listed for the others. */
void tracker_close(rcv_arena *a)
{
    if (a->tracker == NULL)
        return;
    views_close(a);
    free_tracker(a);
}

/* tracker_protect_lost -- see pages.h. What else is known of the step is left to those who have the GIL. */
void tracker_protect_lost(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t == NULL)
        return;
    view_lock(a);
    atomic_store(&t->in_step, false);
    for (uint32_t i = 0; i < t->n_views; i++)
        view_protect_all(a, t->views[i]);
    view_unlock(a);
}

/* step_lost -- nothing of the step is ours to undo, and no page may be writable. */
static void step_lost(rcv_arena *a, bool forked)
{
    struct rcv_tracker *t = a->tracker;
    if (t == NULL)
        return;
    views_step_lost(a, forked);
    for (uint32_t i = 0; i < t->n_announced; i++)
        t->state[t->announced[i]] &= (uint8_t) ~(PG_ANNOUNCED | PG_OWN);
    t->n_trapped = t->n_announced = t->n_raw = 0;
    t->profile = NULL;
    t->late = t->own_captured = t->anchored = false;
    t->n_own = t->before = t->behind = 0;
    t->savepoint = t->all_listed = t->collected = t->announced_hot = t->active = t->counted = t->ranges_built = false;
    t->doomed = 0;
    t->raw_since = t->raw_count > 0;
}

void tracker_step_lost(rcv_arena *a) { step_lost(a, false); }

/* tracker_after_fork -- in the child: the parent's step goes on. */
void tracker_after_fork(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t == NULL)
        return;
    atomic_flag_clear(&a->view_lock); /* another thread of the parent may have held it */
    step_lost(a, true);
    t->n_queue = 0;
}

/* -- entering and leaving ------------------------------------------------------------------------------------- */

/* tracker_enter -- a step of `txn` begins, or of nobody. Lock held, IDLE. A failure leaves it not begun. */
int tracker_enter(rcv_arena *a, struct raw *raw)
{
    struct rcv_tracker *t = a->tracker;
    int                 rc;
    if (unlikely(t->trouble) && (rc = views_mend(a)) != 0)
        return rc;
    if (unlikely(atomic_load_explicit(&a->hdr->hot_generation, memory_order_acquire) != t->generation) && (rc = hot_sync(a)) != 0)
        return rc;
    if (unlikely(t->raw_since)) {
        rcv_handler_mend();
        hot_take_back(a, true);
        t->active = true;
        t->all_listed = false;
    } else if (unlikely(a->trap_mode)) {
        rcv_handler_mend();
    }
    if (raw != NULL && unlikely(raw->view != NULL || a->trap_mode) && (rc = views_begin(a, raw)) != 0)
        return rc;
    atomic_store_explicit(&t->in_step, true, memory_order_relaxed);
    store_fence();
    return 0;
}

/* all_read_only -- is no page of [lo, hi), which is not too wide, writable or private? View lock held. */
static bool all_read_only(const struct view *v, uint32_t lo, uint32_t hi)
{
    const uint64_t any = UINT64_C(0x0101010101010101) * (PG_WRITABLE | PG_STRAY);
    uint64_t       eight;
    if (hi - lo > GAP_MAX)
        return false;
    for (; hi - lo >= sizeof eight; lo += (uint32_t)sizeof eight) {
        memcpy(&eight, v->state + lo, sizeof eight);
        if (eight & any)
            return false;
    }
    for (; lo < hi; lo++)
        if (v->state[lo] & (uint8_t)any)
            return false;
    return true;
}

/* next_in -- the next entry from `i` on of a cold page that was trapped through the view, or n_trapped. */
static uint32_t next_in(const struct rcv_tracker *t, const struct view *v, uint32_t i)
{
    while (i < t->n_trapped && (t->trapped[i].view != v->number || t->slot_of[t->trapped[i].page] != 0))
        i++;
    return i;
}

/* protect_trapped -- sorted ones; listed pages stay writable. One call goes on over pages that are read-only anyway: the kernel
 * passes them by, and merging two mappings costs less than a call of its own. View lock held. */
static void protect_trapped(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            n = t->n_trapped;
    for (uint32_t i = next_in(t, v, 0); i < n;) {
        uint32_t first = t->trapped[i].page, end = first + 1;
        v->state[first] &= (uint8_t)~PG_WRITABLE;
        for (i = next_in(t, v, i + 1); i < n; i = next_in(t, v, i + 1)) {
            uint32_t page = t->trapped[i].page;
            if (page > end && !all_read_only(v, end, page))
                break;
            v->state[page] &= (uint8_t)~PG_WRITABLE;
            end = page + 1;
        }
        view_protect_span(a, v, first, end - first);
    }
}

/* shut -- some page may be writable: see tracker_shut(). */
static void shut(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    view_lock(a); /* whoever has trapped by now is the step's; whoever waits for the lock is not */
    atomic_store_explicit(&t->in_step, false, memory_order_relaxed);
    t->shut = true;
    t->active |= t->n_trapped != 0;
    sort_trapped(t);
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct view *v = t->used[i];
        if (v->private_view)
            view_reset(a, v);
        else if (!view_keeps_hot(t, v) && view_any_hot(t, v)) {
            view_protect_all(a, v);
            v->hot_closed = true;
        } else if (v->wide)
            view_protect_all(a, v);
        else
            protect_trapped(a, v);
    }
    t->trouble |= t->n_claims != 0; /* view_reset() may have failed */
    a->mem = a->core;
    view_unlock(a);
    CRASHPOINT("tracker.shut");
}

int tracker_join(rcv_arena *a, const struct raw *raw) { return views_join(a, raw); }

/* tracker_shut -- the step's raw writes end here: nothing that is stored after this is compared, stashed, committed or undone. */
void tracker_shut(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(t->n_used != 0) && !t->shut)
        shut(a);
    atomic_store_explicit(&t->in_step, false, memory_order_relaxed);
    store_fence();
}

/* hear -- the handler's profile and the policy hear of the step's traps, and of captured pages that it wrote. */
static void hear(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t->profile)
        capture_learn(a);
    for (uint32_t i = 0; i < t->n_trapped; i++) {
        const struct trap_entry *e = &t->trapped[i];
        if (t->slot_of[e->page] != 0 || (i > 0 && e->page == t->trapped[i - 1].page))
            continue;
        uint32_t cost = t->profile ? wse_profile_cost(t->profile, e->page) : 0;
        if ((e->flags & (TRAP_CAPTURED | TRAP_CHANGED)) == TRAP_CAPTURED)
            continue; /* in vain */
        if ((t->state[e->page] & PG_OWN) && t->profile && t->own_captured) { /* the request had written it before */
            if (t->wse.recorder)
                wse_record_write(t->wse.recorder, e->page);
            continue;
        }
        if (e->flags & TRAP_EDITED)
            cost = (uint32_t)t->wse.costs.protect; /* which it shares with the others of its range; no trap */
        if (cost != 0)
            wse_captured(&t->wse, e->page, cost);
        else
            wse_trapped(&t->wse, e->page);
    }
    t->profile = NULL;
    t->anchored = false;
    t->before = t->behind = 0;
}

/* forget -- the step is shut, and committed or undone: what trapped is known to the policy. */
static void forget(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(t->n_trapped != 0 || t->profile != NULL)) {
        sort_trapped(t);
        hear(a);
    }
    t->n_trapped = t->n_runs = 0;
}

/* hear_end -- the policy and a recording hear that the step is over: once, if it had anything to do with raw writes, or is recorded. */
static void hear_end(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (!(t->active || t->recorded) || t->counted)
        return;
    t->counted = true;
    if (t->wse.recorder)
        wse_record_step(t->wse.recorder, a->hdr->holder_handler);
    if (t->active)
        wse_boundary(&t->wse);
}

/* tracker_leave -- the step is over, committed or undone. */
void tracker_leave(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    tracker_shut(a); /* if it was not */
    t->raw_since = t->raw_count > 0;
    if (likely(!t->active && t->n_used == 0 && t->n_announced == 0 && !t->trouble && !t->savepoint && !t->recorded))
        return;
    forget(a);
    if (t->n_used != 0) {
        t->second -= t->second != 0;
        views_end(a);
    }
    if (t->trouble)
        (void)views_mend(a); /* what fails here stops the next step */
    for (uint32_t i = 0; i < t->n_announced; i++)
        t->state[t->announced[i]] &= (uint8_t) ~(PG_ANNOUNCED | PG_OWN);
    t->n_announced = t->n_raw = t->n_ranges = 0;
    t->savepoint = t->all_listed = t->collected = t->announced_hot = t->ranges_built = t->late = false;
    t->doomed = 0;
    hear_end(a);
    t->active = t->counted = t->recorded = false;
}

/* -- recording -------------------------------------------------------------------------------------------------- */

int rcv_recording_begin(rcv_arena *a, int announced)
{
    if (a->tracker->wse.recorder)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" is being recorded already", a->name);
    return wse_recorder_new(&a->tracker->wse.recorder, a->tracker->pages, announced != 0);
}

/* tracker_note_fresh -- [off, off+len) has been handed out and is about to be filled, unlogged. */
void tracker_note_fresh(rcv_arena *a, rcv_off off, uint64_t len)
{
    struct rcv_tracker *t = a->tracker;
    if (likely(t == NULL || !wse_records_announced(t->wse.recorder)) || len == 0 || off < a->data_off)
        return;
    uint64_t last = (off - a->data_off + len - 1) >> t->shift;
    for (uint64_t p = page_of_off(a, off); p <= last && p < t->pages; p++)
        wse_record_write(t->wse.recorder, (uint32_t)p);
    t->recorded = true;
}

/* record_announced -- what the step's log names, but for captured pages, perhaps in vain: hear() knows. */
static void record_announced(rcv_arena *a)
{
    struct undo_walk w = undo_walk(a, a->tracker->profile == NULL ? UNDO_ALL : UNDO_ANNOUNCED);
    while (undo_next(&w))
        tracker_note_fresh(a, w.r.off, w.r.len);
}

const struct rcv_recording *rcv_recording_get(rcv_arena *a)
{
    return a->tracker->wse.recorder ? wse_recorder_view(a->tracker->wse.recorder) : NULL;
}

void rcv_recording_end(rcv_arena *a)
{
    wse_recorder_free(a->tracker->wse.recorder);
    a->tracker->wse.recorder = NULL;
}

/* -- the ways a step ends --------------------------------------------------------------------------------------- */

/* tracker_revert -- it is shut, and its undo log has been applied. */
void tracker_revert(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t->raw_since || a->trap_mode)
        hot_take_back(a, false);
    CRASHPOINT("tracker.reverted");
    if (unlikely(wse_records_announced(t->wse.recorder)))
        record_announced(a); /* the tail has not moved yet */
    forget(a);
}

/* tracker_settle -- it is shut, and will be published: which pages has it changed? */
void tracker_settle(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(a->trap_mode)) {
        tracker_observe(a);
    } else if (t->raw_since && !t->collected) {
        const uint32_t *pages;
        uint32_t        n;
        (void)tracker_collect(a, &pages, &n); /* the caller did not ask; hot_publish() must know all the same */
    }
    if (unlikely(wse_records_announced(t->wse.recorder)))
        record_announced(a);
    forget(a);
    CRASHPOINT("tracker.settled");
}

/* tracker_publish -- between PUBLISH and IDLE. Cannot fail. */
void tracker_publish(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    hear_end(a); /* its verdicts take effect with this commit */
    if (t->n_hot != 0 || t->wse.promote.n != 0)
        hot_publish(a);
}

/* tracker_forget_pages -- in a slice of reclaiming, whose pages nobody reads whether it is undone or not. */
void tracker_forget_pages(rcv_arena *a, rcv_off off, uint64_t len)
{
    if (a->tracker->n_hot == 0 || len == 0)
        return;
    hot_demote_range(a, page_of_off(a, off), page_of_off(a, off + len - 1) + 1);
}

/* tracker_judge -- see pages.h. */
void tracker_judge(rcv_arena *a) { capture_judge(a); }

/* tracker_wrote_nothing -- every record of the log is the pre-image of a captured page, none of which has changed. */
bool tracker_wrote_nothing(const rcv_arena *a)
{
    const struct rcv_tracker *t = a->tracker;
    if (!t->collected || t->n_raw != 0 || undo_tail(a) != t->n_trapped * undo_cost(t->page_size))
        return false;
    for (uint32_t i = 0; i < t->n_trapped; i++)
        if (!(t->trapped[i].flags & TRAP_CAPTURED) ||
            (a->trap_mode && memcmp(page_core(a, t->trapped[i].page), a->undo + t->trapped[i].at, t->page_size) != 0))
            return false;
    return true;
}

/* tracker_doomed -- 0, or the error that the step ends with. */
int tracker_doomed(const rcv_arena *a) { return a->tracker->doomed; }

/* -- savepoints ---------------------------------------------------------------------------------------------- */

/* tracker_savepoint -- from here on every page logs once more, listed ones too. Fills `mark`: where the log is when that begins.
 * RCV_ERR_OS: pages could not be protected. */
int tracker_savepoint(rcv_arena *a, uint64_t *mark)
{
    struct rcv_tracker *t = a->tracker;
    bool                stuck = false;
    t->savepoint = t->all_listed = true;
    t->late = t->late || t->profile != NULL;
    *mark = undo_tail(a);
    if (likely(t->n_used == 0))
        return 0;
    view_lock(a); /* no thread may trap between the protection and the mark */
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct view *v = t->used[i];
        if (v->private_view) /* doomed: nothing reaches the arena any more */
            continue;
        if (t->n_trapped == 1 && !v->wide && !view_any_hot(t, v))
            view_protect(a, v, t->trapped[0].page, 1);
        else if (t->n_trapped != 0 || v->wide || view_any_hot(t, v))
            view_protect_all(a, v); /* one call over everything is cheaper than one a page */
        stuck |= v->unprotected;
    }
    *mark = undo_tail(a);
    view_unlock(a);
    return stuck ? rcv_raise(RCV_ERR_OS, ENOMEM, "arena \"%s\": its memory can't be write-protected", a->name) : 0;
}

/* tracker_rollback_to -- undo what came after the mark, raw writes of all threads included, and cut the log there. A thread that
 * stores meanwhile waits for the lock, and its store counts as one after it. */
int tracker_rollback_to(rcv_arena *a, uint64_t mark, struct rcv_recovery *report)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            kept = 0;
    t->collected = t->ranges_built = false;
    view_lock(a);
    for (uint32_t i = 0; i < t->n_trapped; i++) {
        struct trap_entry e = t->trapped[i];
        struct view      *v = t->views[e.view];
        if (e.at >= mark && (v->state[e.page] & PG_WRITABLE) && !v->private_view)
            view_protect(a, v, e.page, 1);
    }
    int rc = MUTATED("savepoint.keep") ? 0 : undo_apply(a, mark, report);
    for (uint32_t i = 0; i < t->n_trapped; i++)
        if (t->trapped[i].at < mark)
            t->trapped[kept++] = t->trapped[i];
    t->n_trapped = kept;
    undo_cut(a, mark);
    view_unlock(a);
    return rc;
}

/* tracker_retract -- an operation has failed: undo its announced writes. */
int tracker_retract(rcv_arena *a, uint64_t mark)
{
    struct rcv_tracker *t = a->tracker;
    t->collected = t->ranges_built = false;
    return MUTATED("operation.keep_half") ? 0 : undo_retract(a, mark);
}

/* -- reports -------------------------------------------------------------------------------------------------- */

/* rcv_take_strays -- takes back those that still lie in the view first, unless a step runs. */
int rcv_take_strays(rcv_arena *a, struct rcv_stray *out, int max)
{
    struct rcv_tracker *t = a->tracker;
    if (t->trouble && !atomic_load(&t->in_step))
        (void)views_mend(a);
    uint32_t n = max < 0 ? 0 : (uint32_t)max < t->n_queue ? (uint32_t)max : t->n_queue;
    memcpy(out, t->queue, n * sizeof *out);
    t->n_queue -= n;
    memmove(t->queue, t->queue + n, t->n_queue * sizeof *out);
    return (int)n;
}

int rcv_strays_pending(const rcv_arena *a)
{
    const struct rcv_tracker *t = a->tracker;
    return (int)(t->n_queue + (t->n_claims < STRAY_CLAIMS ? t->n_claims : STRAY_CLAIMS));
}

bool tracker_pending(const rcv_arena *a) { return a->tracker->n_queue != 0 || a->tracker->n_claims != 0; }

/* tracker_stats -- its share. */
void tracker_stats(rcv_arena *a, struct rcv_stats *out)
{
    const struct rcv_tracker *t = a->tracker;
    if (t == NULL)
        return;
    out->hot_pages = t->n_hot;
    out->raw_buffers = t->raw_count;
    out->raw_views = t->n_views;
    out->profiles = wse_profiles_count(t->wse.profiles);
    out->cost_trap_ns = t->wse.costs.trap;
    out->cost_protect_ns = t->wse.costs.protect;
    out->cost_compare_ns = t->wse.costs.compare;
    out->cost_copy_ns = t->wse.costs.copy;
}
