/* view.c -- a view: which of its pages can be written, and what lies under them.
 *
 * What we want: change the protection of single pages, thousands of them, in any order, also from inside a signal handler,
 * and never be left with a page that is writable and unlogged.
 *
 * What stands in the way: every page whose protection differs from its neighbours' splits the mapping, and a process may
 * have only so many of them (vm.max_map_count, 65530 by default). At the limit mprotect says ENOMEM, both when it unprotects
 * and when it protects.
 *
 * Nor may a step use up all there are: malloc needs some, too, and would fail all over the process.
 *
 * What does it:
 *   unprotecting  beyond a share of them (max_runs), and where the kernel refuses, a block around the page, twice as large each
 *                 time until its edges fall together with existing ones, in the end the whole view, which needs no split. Pages
 *                 that come along and belong to an array are logged like the one that trapped. Others are not, but in trap mode: nothing is ever written there through this
 *                 view, and undoing a container's page would take fresh memory back that its owner counts on.
 *   protecting    the whole view in one call, which merges everything into one mapping; hot pages then trap once more and
 *                 are only unprotected. If the kernel refuses even that, map the object anew over the view.
 *
 * Where it still fails: an array that this very transaction made has no pre-image when it came along in a block, so that
 * going back to a savepoint does not undo raw writes into it. (Rolling back the transaction gives the memory back anyway.)
 *
 * All functions need the view lock. Those that the trap handler calls use mprotect, mmap, madvise (through undo.c) and
 * memory of ours only.
 */
#include "state.h"

#include <errno.h>

/* view_log -- the page's present bytes into the undo log. Signal-safe. RCV_ERR_FULL: nothing was appended. */
int view_log(rcv_arena *a, struct view *v, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            n = t->n_trapped;
    if (n == t->cap_trapped)
        return RCV_ERR_FULL;
    uint64_t at = undo_tail(a);
    int      rc = undo_append_trap(a, page_off(a, page));
    if (rc != 0)
        return rc;
    t->trapped[n] = (struct trap_entry){.at = at, .page = page, .view = (uint16_t)v->number, .flags = t->late ? TRAP_LATE : 0};
    t->n_trapped = n + 1;
    return 0;
}

/* log_block -- make ready whatever in [lo, hi) is not writable yet. */
static int log_block(rcv_arena *a, struct view *v, uint32_t lo, uint32_t hi)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            claimed = pages_claimed(a);
    if (hi > claimed)
        hi = claimed; /* reading beyond would allocate */
    for (uint32_t p = lo; p < hi; p++) {
        if ((v->state[p] & (PG_WRITABLE | PG_STRAY)) || !(a->trap_mode || heap_page_live(a, p)))
            continue;
        if (unlikely(v != t->view) && viewed_id(a, p) > v->newest)
            return RCV_ERR_FULL; /* what is stored through this view must not reach a younger Array: views_stale() */
        if (needs_log(t, p)) {
            int rc = view_log(a, v, p);
            if (rc != 0)
                return rc;
        }
        v->state[p] |= PG_WRITABLE; /* logged once, however many blocks are tried */
    }
    return 0;
}

/* widen -- no map entry to spare for [first, first+count): aligned blocks around it, of `size` pages or more. */
static int widen(rcv_arena *a, struct view *v, uint32_t first, uint32_t count, uint64_t size)
{
    struct rcv_tracker *t = a->tracker;
    for (;; size *= 2) {
        uint64_t lo = first & ~(size - 1), hi = (first + (uint64_t)count + size - 1) & ~(size - 1);
        bool     whole = lo == 0 && hi >= t->pages;
        if (hi > t->pages)
            hi = t->pages;
        int rc = log_block(a, v, (uint32_t)lo, (uint32_t)hi);
        if (rc != 0)
            return rc;
        if (os_protect(page_in(a, v, (uint32_t)lo), (hi - lo) << t->shift, PROT_READ | PROT_WRITE) == 0) {
            v->wide = true;
            a->n.map_fallbacks++;
            return 0;
        }
        if (whole)
            return RCV_ERR_OS;
    }
}

int view_unprotect(rcv_arena *a, struct view *v, uint32_t first, uint32_t count)
{
    struct rcv_tracker *t = a->tracker;
    for (uint32_t p = first; p < first + count; p++)
        v->state[p] |= PG_WRITABLE;
    bool beside = (first > 0 && (v->state[first - 1] & PG_WRITABLE)) || (v->state[first + count] & PG_WRITABLE);
    t->n_runs += !beside;
    uint64_t size = 2, most = 2 * (uint64_t)t->max_runs;
    if (unlikely(t->n_runs > most)) /* few large blocks rather than many small ones: they take entries as well */
        size = t->n_runs <= most + t->max_runs / 8 ? 64 : t->n_runs <= most + t->max_runs / 4 ? 4096 : UINT64_C(1) << 32;
    else if (likely(os_protect(page_in(a, v, first), (uint64_t)count << t->shift, PROT_READ | PROT_WRITE) == 0))
        return 0;
    return widen(a, v, first, count, size); /* on failure the caller dooms the step, and view_reset() puts the flags right */
}

bool view_any_hot(const struct rcv_tracker *t, const struct view *v)
{
    for (uint32_t i = 0; i < t->n_hot; i++)
        if (v->state[t->page_of[t->hot[i]] - 1] & PG_WRITABLE)
            return true;
    return false;
}

/* view_open_hot -- one call for each run of adjacent ones. What can't be opened traps. */
void view_open_hot(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    v->hot_closed = false;
    if (v->strays || v->private_view)
        return;
    for (uint32_t i = 0; i < t->n_hot; i++) {
        uint32_t first = t->page_of[t->hot[i]] - 1, end = first + 1;
        if (first > 0 && t->slot_of[first - 1] != 0)
            continue; /* in the run of that one */
        while (t->slot_of[end] != 0)
            end++;
        if (os_protect(page_in(a, v, first), (uint64_t)(end - first) << t->shift, PROT_READ | PROT_WRITE) != 0)
            return;
        for (uint32_t p = first; p < end; p++)
            v->state[p] |= PG_WRITABLE;
    }
}

/* clear_all -- no page of it is writable any more, as far as the flags go. */
static void clear_all(struct rcv_tracker *t, struct view *v)
{
    for (uint32_t i = 0; i < t->n_trapped; i++)
        v->state[t->trapped[i].page] &= (uint8_t)~PG_WRITABLE;
    for (uint32_t i = 0; i < t->n_hot; i++)
        v->state[t->page_of[t->hot[i]] - 1] &= (uint8_t)~PG_WRITABLE;
    v->wide = false;
    t->n_runs = 0;
    t->all_listed = true; /* of no account outside a step */
}

/* view_protect_all -- the whole view read-only, in one call. */
void view_protect_all(rcv_arena *a, struct view *v)
{
    if (v->private_view || os_protect(v->base, a->data_size, PROT_READ) != 0) {
        view_reset(a, v);
        return;
    }
    clear_all(a->tracker, v);
    if (v->lost)
        view_reset(a, v);
    else if (v->strays) /* they are read-only now as well: away with them */
        view_mend(a, v);
}

void view_protect(rcv_arena *a, struct view *v, uint32_t first, uint32_t count)
{
    if (likely(!v->wide))
        for (uint32_t p = first; p < first + count; p++)
            v->state[p] &= (uint8_t)~PG_WRITABLE;
    view_protect_span(a, v, first, count);
}

/* view_protect_span -- the same where the caller has cleared the flags of those that were writable, and the others are none. */
void view_protect_span(rcv_arena *a, struct view *v, uint32_t first, uint32_t count)
{
    if (unlikely(v->wide)) {
        view_protect_all(a, v);
    } else if (unlikely(os_protect(page_in(a, v, first), (uint64_t)count << a->tracker->shift, PROT_READ) != 0)) {
        a->n.map_fallbacks++;
        view_protect_all(a, v);
    }
}

/* settle_claims -- what the handler has claimed in this view becomes reports. The pages of one whose owner is lost stay private:
 * its thread goes on storing, and each page is reported once. */
static void settle_claims(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            n = t->n_claims < STRAY_CLAIMS ? t->n_claims : STRAY_CLAIMS, kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct claim c = t->claims[i];
        if (c.view != v) {
            t->claims[kept++] = c;
            continue;
        }
        if (!v->lost)
            v->state[c.page] &= (uint8_t)~PG_STRAY;
        view_report(a, c.page, c.address, 0);
    }
    if (t->n_claims > STRAY_CLAIMS) /* which the others were is not known */
        a->n.strays += t->n_claims - STRAY_CLAIMS;
    t->n_claims = kept;
    v->strays = v->lost;
}

void view_reset(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    int                 err = ENOMEM;
    for (int i = 0; i < 3 && err != 0; i++)
        err = object_remap_shared(a, a->data_off, v->base, a->data_size, PROT_READ);
    v->unprotected = err != 0;
    t->trouble = t->trouble || err != 0;
    if (err != 0)
        return; /* the flags still say what is; the next step tries again before it begins */
    clear_all(t, v);
    for (uint32_t p = 0; v->strays && p < t->pages; p++)
        if (v->state[p] & PG_STRAY)
            v->state[p] &= (uint8_t)~PG_STRAY;
    settle_claims(a, v);
    v->private_view = v->strays = false;
}

/* view_make_private -- lay a copy-on-write page, or view, over it. Signal-safe. false: the kernel refuses even the page. */
bool view_make_private(rcv_arena *a, struct view *v, uint32_t page, bool whole)
{
    struct rcv_tracker *t = a->tracker;
    t->trouble = true;
    if (!whole && object_remap_private(a, page_off(a, page), page_in(a, v, page), t->page_size) == 0)
        return true;
    /* One mapping over all the others needs no further entry. */
    if (object_remap_private(a, a->data_off, v->base, a->data_size) == 0) {
        v->private_view = true;
        return true;
    }
    if (!whole || object_remap_private(a, page_off(a, page), page_in(a, v, page), t->page_size) != 0)
        return false;
    v->private_view = true; /* in part only: view_reset() is right for that, too */
    return true;
}

void view_mend(rcv_arena *a, struct view *v)
{
    struct rcv_tracker *t = a->tracker;
    bool                whole = v->private_view || t->n_claims > STRAY_CLAIMS;
    if (v->lost) { /* until its owner has ended */
        settle_claims(a, v);
        return;
    }
    for (uint32_t i = 0; i < t->n_claims && !whole; i++) {
        uint32_t page = t->claims[i].page;
        if (t->claims[i].view == v)
            whole = object_remap_shared(a, page_off(a, page), page_in(a, v, page), t->page_size, PROT_READ) != 0;
    }
    if (whole)
        view_reset(a, v);
    else
        settle_claims(a, v);
}

/* view_report -- one stray more; when nobody has asked for long, only the count grows. */
void view_report(rcv_arena *a, uint32_t page, uint64_t address, int32_t kind)
{
    struct rcv_tracker *t = a->tracker;
    a->n.strays++;
    if (t->n_queue < STRAY_QUEUE)
        t->queue[t->n_queue++] = (struct rcv_stray){.page = page_off(a, page), .address = address, .kind = kind};
}

/* view_keeps_hot -- may hot pages stay writable in this view when the step is over? */
bool view_keeps_hot(const struct rcv_tracker *t, const struct view *v)
{
    return v->number == 0 && v->buffers == 0 && t->second == 0;
}

void rcv_raw_threads(rcv_arena *a) { a->tracker->second = SECOND_KEPT; }

uint64_t rcv_raw_count(const rcv_arena *a) { return tracker_raw_count(a); }

uint64_t tracker_raw_count(const rcv_arena *a) { return a->tracker ? a->tracker->raw_count : 0; }

/* rcv_tracked -- where readers outside a transaction find it: the first view. */
void *rcv_tracked(rcv_arena *a, rcv_off off) { return a->tracked + (off - a->data_off); }
