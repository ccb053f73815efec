/* views.c -- whose view is whose: an address tells which transaction a store belongs to.
 *
 * What we want: a store through a raw buffer by a thread that we know nothing of, a worker of a native library or of an
 * executor, belongs to the transaction that made the buffer, and to nobody else.
 *
 * What does not work: going by who runs. While one request waits for its worker, others have their steps, and the worker's
 * stores would be theirs wherever a page is writable. Counting buffers by Array tells that something is wrong, but not at a
 * page that is writable already.
 *
 * What does: each transaction that has live raw buffers has a mapping of its own. Nearly always that is the first one: a
 * request's buffers die with its frame, and the next request takes the same view. Only where buffers outlive a step, over an
 * await or in a variable, is the view *parked*, all of it read-only, and the next transaction that wants one takes another.
 *
 *      in its owner's step       any thread's store is the step's own: logged, undone and committed with it
 *      parked                    the page becomes private. An owner that waits is *lost*: it can only roll back, and says why
 *      nobody's, or of one that  the same, and reported. But the thread of a step stores for that step through whatever
 *      has ended                 buffer it has; and from then on so do other threads through that one
 *
 * Between steps a page is writable only in the first view, only if it is hot, and only while no buffer of that view lives and
 * there is no second thread that might store (a raw address may outlive its buffer): none has stored lately, and Python had
 * only one when buffers were made and let go. Else hot pages are closed with the step and opened with the next that has the view:
 * two calls for a run of them.
 *
 * A view costs an entry of the process's map, a byte a page of state, and page tables for what was touched. Those of views
 * beyond the first few are given back when they become free; the mappings stay, because somebody may still hold an address.
 * There are at most VIEWS. Beyond that transactions share views with ended ones, of which something keeps the buffers (a list of
 * exceptions, say); and only where all belong to live transactions, the next one is refused.
 *
 * A buffer may outlive its Array, and another may lie in that memory by then. Ids of containers only grow, so each view notes
 * which was the newest when its last buffer was made: what is younger can't be meant by a store through it, when another
 * transaction's thread uses it, nor can a page that no Array of which this process has made a buffer lies in (views_stale). The
 * step's own view needs no such look: that transaction's reads were valid when the step began, and what it takes back itself is
 * held for it (intent.c).
 *
 * Where it still fails: one buffer that outlives its request and is used by others, with threads: which of two steps a
 * thread stores for, nobody can know. And a raw address kept beyond its buffer: its view may be another's by then; nor is a buffer
 * of a deleted Array known in a view that was shared, because there were no others.
 */
#include "state.h"

#include <errno.h>

/* in_trouble -- what views_mend() would find. */
static bool in_trouble(const struct rcv_tracker *t)
{
    bool yes = t->n_claims != 0;
    for (uint32_t i = 0; i < t->n_views; i++)
        yes |= t->views[i]->unprotected || t->views[i]->private_view || (t->views[i]->strays && !t->views[i]->lost);
    return yes;
}

int views_mend(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    bool                stuck = false;
    view_lock(a);
    bool many = t->n_claims > STRAY_CLAIMS;
    for (uint32_t i = 0; i < t->n_views; i++) {
        struct view *v = t->views[i];
        if (v->unprotected || v->private_view || (many && v->strays))
            view_reset(a, v);
        else if (v->strays)
            view_mend(a, v);
        stuck |= v->unprotected;
    }
    t->trouble = in_trouble(t);
    view_unlock(a);
    if (stuck)
        return rcv_raise(RCV_ERR_OS, ENOMEM,
                         "arena \"%s\": its memory can't be write-protected; nothing was changed; the process has too many "
                         "mappings: raise vm.max_map_count", a->name);
    return 0;
}

/* map_another -- one view more. A failure leaves nothing behind. */
static int map_another(rcv_arena *a, struct view **out)
{
    struct rcv_tracker *t = a->tracker;
    struct view        *v = os_calloc(1, sizeof *v);
    void               *base = NULL;
    if (v == NULL || (v->state = os_calloc((size_t)t->pages + 1, 1)) == NULL) {
        os_free(v);
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for tracking %u pages", a->name, t->pages);
    }
    int rc = 0, err = os_map_shared(object_fd(a), a->data_off, a->data_size, PROT_READ, &base);
    v->base = base;
    v->number = t->n_views;
    if (err != 0)
        rc = rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't map %llu bytes once more for raw buffers; nothing was changed; the "
                       "process has too many mappings, or too little address space", a->name, (unsigned long long)a->data_size);
    else if ((rc = trap_watch(a, v)) != 0)
        os_unmap(base, a->data_size);
    if (rc != 0) {
        os_free(v->state);
        os_free(v);
        return rc;
    }
    t->views[t->n_views++] = *out = v;
    return 0;
}

int views_open(rcv_arena *a)
{
    struct view *v;
    int          rc = map_another(a, &v);
    a->tracked = rc == 0 ? v->base : NULL;
    return rc;
}

void views_close(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    trap_remove(a);
    for (uint32_t i = 0; i < t->n_views; i++) {
        os_unmap(t->views[i]->base, a->data_size);
        os_free(t->views[i]->state);
        os_free(t->views[i]);
    }
    t->n_views = 0;
    a->tracked = NULL;
    a->mem = a->core;
}

/* views_step_lost -- the step's views are mapped again, whatever they are. In a forked child that is all of them, and the buffers that
 * were copied with the process are nobody's. */
void views_step_lost(rcv_arena *a, bool forked)
{
    struct rcv_tracker *t = a->tracker;
    view_lock(a);
    atomic_store(&t->in_step, false);
    for (uint32_t i = 0; i < t->n_views; i++) {
        struct view *v = t->views[i];
        if (!forked && !v->used)
            continue;
        v->lost = v->used = false;
        v->owner = forked ? NULL : v->owner;
        view_reset(a, v);
    }
    t->trouble = in_trouble(t);
    t->view = NULL;
    t->n_used = 0;
    t->shut = t->shared = false;
    undo_share(a, false);
    a->mem = a->core;
    view_unlock(a);
}

/* take -- a view that nobody has buffers in. */
static int take(rcv_arena *a, struct view **out)
{
    struct rcv_tracker *t = a->tracker;
    for (uint32_t i = 0; i < t->n_views; i++) {
        *out = t->views[i];
        if ((*out)->buffers == 0 && (*out)->owner == NULL && !(*out)->unprotected)
            return 0;
    }
    if (t->n_views < VIEWS)
        return map_another(a, out);
    for (uint32_t i = 0; i < VIEWS; i++) {
        *out = t->views[t->share_at++ % VIEWS];
        if ((*out)->owner == NULL && !(*out)->unprotected)
            return 0;
    }
    return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": %u transactions have live views of its Arrays, and there may be no more at "
                     "once; nothing was changed: let a view go before an await (del v), and take it again after it", a->name, VIEWS);
}

/* vacant -- nobody has a buffer in it any more. Page tables of views beyond the first few go back. View lock held. */
static void vacant(rcv_arena *a, struct view *v)
{
    if (v->number >= VIEWS_WARM)
        view_reset(a, v);
}

/* disown -- it is of one that has ended, or nobody's. View lock held. */
static void disown(rcv_arena *a, struct view *v)
{
    v->owner->view = NULL;
    v->owner = NULL;
    if (v->lost) /* its pages have stayed private */
        view_reset(a, v);
    v->lost = false;
    if (v->buffers == 0)
        vacant(a, v);
}

/* step_in -- the step has it as its own; what other threads store through it is not its own yet. */
static void step_in(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    t->view = v;
    if (!v->used)
        t->used[t->n_used++] = v; /* of a step's views it is the first, but for those it has adopted: there is room */
    v->used = true;
    if (a->trap_mode)
        a->mem = (uint8_t *)((uintptr_t)v->base - a->data_off);
}

void views_use(rcv_arena *a, struct view *v, bool shared)
{
    struct rcv_tracker *t = a->tracker;
    step_in(a, v);
    if (t->savepoint && view_any_hot(t, v)) /* which could not protect them: the view was not its own yet */
        view_protect_all(a, v);
    else if (unlikely(v->hot_closed) && !t->savepoint)
        view_open_hot(a, v);
    t->shared |= shared;
    if (t->shared)
        undo_share(a, true);
}

bool views_stale(rcv_arena *a, const struct view *v, uint32_t page)
{
    if (v == a->tracker->view) /* its buffers are of this transaction, whose reads were valid when the step began */
        return false;
    uint64_t id = viewed_id(a, page);
    return id == 0 || id > v->newest;
}

bool views_adopt(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    if (t->n_used == USED_MOST - 1) /* the last one is for views_use() */
        return false;
    t->used[t->n_used++] = v;
    v->used = true;
    if (v->owner == NULL)
        undo_share(a, true);
    return true;
}

int views_begin(rcv_arena *a, struct raw *raw)
{
    struct view *v = raw->view;
    int          rc = 0;
    if (v == NULL && (rc = take(a, &v)) != 0)
        return rc;
    view_lock(a);
    if (v->lost)
        rc = RCV_ERR_STRAY;
    else
        step_in(a, v);
    view_unlock(a);
    return rc;
}

int views_join(rcv_arena *a, const struct raw *raw)
{
    struct view *v = a->tracker->view;
    int          rc = 0;
    view_lock(a);
    if (v != NULL && v->lost)
        rc = RCV_ERR_STRAY;
    else if (v != NULL)
        views_use(a, v, v->owner == raw);
    view_unlock(a);
    return rc;
}

int views_own(rcv_arena *a, struct raw *raw, struct view **out)
{
    struct rcv_tracker *t = a->tracker;
    struct view        *v = raw->view != NULL ? raw->view : t->view; /* in trap mode it has one */
    int                 rc = 0;
    if (v == NULL && (rc = take(a, &v)) != 0)
        return rc;
    view_lock(a);
    v->owner = raw;
    raw->view = v;
    views_use(a, v, true);
    view_unlock(a);
    *out = v;
    return 0;
}

void views_end(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    view_lock(a);
    for (uint32_t i = 0; i < t->n_used; i++) {
        struct view *v = t->used[i];
        v->used = false;
        if (v->buffers == 0 && v->owner != NULL && !v->lost)
            disown(a, v);
    }
    t->n_used = 0;
    t->view = NULL;
    t->shut = t->shared = false;
    undo_share(a, false);
    view_unlock(a);
}

/* views_ended -- a transaction that has one has ended. */
void views_ended(rcv_arena *a, struct raw *raw)
{
    view_lock(a);
    disown(a, raw->view);
    view_unlock(a);
}

bool views_lost(const struct raw *raw) { return raw->view != NULL && raw->view->lost; }

/* -- raw buffers ---------------------------------------------------------------------------------------------- */

/* views_acquire -- a raw buffer of the mounted transaction. */
int views_acquire(rcv_arena *a, struct raw *raw, rcv_off off, struct rcv_raw *out)
{
    struct rcv_tracker *t = a->tracker;
    struct view        *v;
    int                 rc = views_own(a, raw, &v);
    if (rc != 0)
        return rc;
    view_lock(a);
    v->buffers++;
    v->newest = atomic_load_explicit(&a->hdr->container_counter, memory_order_relaxed);
    view_unlock(a);
    t->raw_count++;
    t->raw_since = true;
    rcv_handler_mend(); /* from now on user code may fault */
    *out = (struct rcv_raw){.at = v->base + (off - a->data_off), .view = v};
    return 0;
}

void rcv_raw_release(rcv_arena *a, struct rcv_raw *raw)
{
    struct rcv_tracker *t = a->tracker;
    struct view        *v = raw->view;
    t->raw_count--;
    view_lock(a);
    if (--v->buffers == 0 && !v->lost && !v->used) {
        if (v->owner != NULL)
            disown(a, v);
        else
            vacant(a, v);
    }
    view_unlock(a);
    raw->view = NULL;
}
