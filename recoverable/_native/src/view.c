/* view.c -- the tracked view: which of its pages can be written, and what lies under them.
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
 *   unprotecting  beyond a share of them (max_runs), and where the kernel refuses, a block around the page, twice as large each time until its edges fall together with existing ones, in
 *                 the end the whole view, which needs no split. Pages that come along and belong to an array are logged
 *                 like the one that trapped. Others are not, but in trap mode: nothing is ever written there through this
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
#include "tracker.h"

#include <errno.h>

/* view_log -- the page's present bytes into the undo log. Signal-safe. RCV_ERR_FULL: nothing was appended. */
int view_log(rcv_arena *a, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            n = t->n_trapped;
    if (n == t->cap_trapped)
        return RCV_ERR_FULL;
    uint64_t at = undo_tail(a);
    int      rc = undo_append_trap(a, page_off(a, page));
    if (rc != 0)
        return rc;
    t->trapped[n] = (struct trap_entry){.at = at, .page = page, .flags = t->late ? TRAP_LATE : 0};
    t->n_trapped = n + 1;
    return 0;
}

/* needs_log -- must this page's bytes be kept before it becomes writable? A listed page's shadow has its committed ones. */
static inline bool needs_log(const struct rcv_tracker *t, uint32_t page) { return t->slot_of[page] == 0 || t->savepoint; }

/* log_block -- make ready whatever in [lo, hi) is not writable yet. */
static int log_block(rcv_arena *a, uint32_t lo, uint32_t hi)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            claimed = pages_claimed(a);
    if (hi > claimed)
        hi = claimed; /* reading beyond would allocate */
    for (uint32_t p = lo; p < hi; p++) {
        if ((t->state[p] & (PG_WRITABLE | PG_STRAY)) || !(a->trap_mode || heap_page_live(a, p)))
            continue;
        if (needs_log(t, p)) {
            int rc = view_log(a, p);
            if (rc != 0)
                return rc;
        }
        t->state[p] |= PG_WRITABLE; /* logged once, however many blocks are tried */
    }
    return 0;
}

/* widen -- no map entry to spare for [first, first+count): aligned blocks around it, of `size` pages or more. */
static int widen(rcv_arena *a, uint32_t first, uint32_t count, uint64_t size)
{
    struct rcv_tracker *t = a->tracker;
    for (;; size *= 2) {
        uint64_t lo = first & ~(size - 1), hi = (first + (uint64_t)count + size - 1) & ~(size - 1);
        bool     whole = lo == 0 && hi >= t->pages;
        if (hi > t->pages)
            hi = t->pages;
        int rc = log_block(a, (uint32_t)lo, (uint32_t)hi);
        if (rc != 0)
            return rc;
        if (os_protect(page_view(a, (uint32_t)lo), (hi - lo) << t->shift, PROT_READ | PROT_WRITE) == 0) {
            t->wide = true;
            a->n.map_fallbacks++;
            return 0;
        }
        if (whole)
            return RCV_ERR_OS;
    }
}

int view_unprotect(rcv_arena *a, uint32_t first, uint32_t count)
{
    struct rcv_tracker *t = a->tracker;
    for (uint32_t p = first; p < first + count; p++)
        t->state[p] |= PG_WRITABLE;
    bool beside = (first > 0 && (t->state[first - 1] & PG_WRITABLE)) || (t->state[first + count] & PG_WRITABLE);
    t->n_runs += !beside;
    uint64_t size = 2, most = 2 * (uint64_t)t->max_runs;
    if (unlikely(t->n_runs > most)) /* few large blocks rather than many small ones: they take entries as well */
        size = t->n_runs <= most + t->max_runs / 8 ? 64 : t->n_runs <= most + t->max_runs / 4 ? 4096 : UINT64_C(1) << 32;
    else if (likely(os_protect(page_view(a, first), (uint64_t)count << t->shift, PROT_READ | PROT_WRITE) == 0))
        return 0;
    return widen(a, first, count, size); /* on failure the caller dooms the step, and view_reset() puts the flags right */
}

/* clear_all -- no page is writable or private any more, as far as the flags go. */
static void clear_all(struct rcv_tracker *t)
{
    for (uint32_t i = 0; i < t->n_trapped; i++)
        t->state[t->trapped[i].page] &= (uint8_t)~PG_WRITABLE;
    for (uint32_t i = 0; i < t->n_hot; i++)
        t->state[t->page_of[t->hot[i]] - 1] &= (uint8_t)~PG_WRITABLE;
    for (uint32_t p = t->edit_lo; p < t->edit_hi; p++)
        t->state[p] &= (uint8_t) ~(PG_WRITABLE | PG_EDIT);
    t->wide = false;
    t->n_runs = 0;
    t->all_listed = true; /* of no account outside a step */
}

/* view_protect_all -- the whole view read-only, in one call. */
void view_protect_all(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t->private_view || os_protect(a->tracked, a->data_size, PROT_READ) != 0) {
        view_reset(a);
        return;
    }
    clear_all(t);
    if (t->n_claims != 0) /* they are read-only now as well: away with them */
        view_mend(a);
}

void view_protect(rcv_arena *a, uint32_t first, uint32_t count)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(t->wide)) {
        view_protect_all(a);
        return;
    }
    for (uint32_t p = first; p < first + count; p++)
        t->state[p] &= (uint8_t)~PG_WRITABLE;
    if (unlikely(os_protect(page_view(a, first), (uint64_t)count << t->shift, PROT_READ) != 0)) {
        a->n.map_fallbacks++;
        view_protect_all(a);
    }
}

/* view_protect_span -- the same where the caller has cleared the flags of those that were writable, and the others are none. */
void view_protect_span(rcv_arena *a, uint32_t first, uint32_t count)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(t->wide)) {
        view_protect_all(a);
    } else if (unlikely(os_protect(page_view(a, first), (uint64_t)count << t->shift, PROT_READ) != 0)) {
        a->n.map_fallbacks++;
        view_protect_all(a);
    }
}

/* queue_claims -- what the handler has claimed becomes reports. */
static void queue_claims(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            n = t->n_claims < STRAY_CLAIMS ? t->n_claims : STRAY_CLAIMS;
    for (uint32_t i = 0; i < n; i++) {
        t->state[page_of_off(a, t->claims[i].page)] &= (uint8_t)~PG_STRAY;
        view_report(a, page_of_off(a, t->claims[i].page), t->claims[i].address, 0);
    }
    a->n.strays += t->n_claims - n;
    t->n_claims = 0;
}

void view_reset(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    int                 err = ENOMEM;
    for (int i = 0; i < 3 && err != 0; i++)
        err = object_remap_shared(a, a->data_off, a->tracked, a->data_size, PROT_READ);
    t->unprotected = err != 0;
    if (err != 0)
        return; /* the flags still say what is; the next step tries again before it begins */
    clear_all(t);
    if (t->n_claims > STRAY_CLAIMS) /* which they were is not known */
        for (uint32_t p = 0; p < t->pages; p++)
            if (t->state[p] & PG_STRAY)
                t->state[p] &= (uint8_t)~PG_STRAY;
    queue_claims(a);
    t->private_view = false;
}

/* view_make_private -- lay a copy-on-write page, or view, over it. Signal-safe. false: the kernel refuses even the page. */
bool view_make_private(rcv_arena *a, uint32_t page, bool whole)
{
    struct rcv_tracker *t = a->tracker;
    if (!whole && object_remap_private(a, page_off(a, page), page_view(a, page), t->page_size) == 0)
        return true;
    /* One mapping over all the others needs no further entry. */
    if (object_remap_private(a, a->data_off, a->tracked, a->data_size) == 0) {
        t->private_view = true;
        return true;
    }
    if (!whole || object_remap_private(a, page_off(a, page), page_view(a, page), t->page_size) != 0)
        return false;
    t->private_view = true; /* in part only: view_reset() is right for that, too */
    return true;
}

void view_mend(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    bool                whole = t->private_view || t->n_claims > STRAY_CLAIMS;
    for (uint32_t i = 0; i < t->n_claims && !whole; i++) {
        uint32_t page = page_of_off(a, t->claims[i].page);
        whole = object_remap_shared(a, page_off(a, page), page_view(a, page), t->page_size, PROT_READ) != 0;
    }
    if (whole)
        view_reset(a);
    else
        queue_claims(a);
}

/* view_report -- one stray more; when nobody has asked for long, only the count grows. */
void view_report(rcv_arena *a, uint32_t page, uint64_t address, int32_t kind)
{
    struct rcv_tracker *t = a->tracker;
    a->n.strays++;
    if (t->n_queue < STRAY_QUEUE)
        t->queue[t->n_queue++] = (struct rcv_stray){.page = page_off(a, page), .address = address, .kind = kind};
}

/* rcv_tracked -- the address of an offset in the tracked view. */
void *rcv_tracked(rcv_arena *a, rcv_off off) { return a->tracked + (off - a->data_off); }
