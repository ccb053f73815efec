/* capture.c -- at a step's first touch of raw memory: what its handler will write is logged and made writable at once.
 *
 * A captured page is a trapped one whose trap has not happened: its pre-image lies in the undo log, it is in `trapped`, it is
 * compared with its pre-image where the step's raw writes are looked for, undone with the rest and protected with the rest.
 * Only the fault is missing, and neighbours share the system call. So everything that holds for trapped pages holds here; a
 * wrong guess costs a copy and a comparison.
 *
 * When: as soon as the step could write raw. That is its first touch of the arena where a raw buffer of its transaction lives, after
 * the stash was put back; else the first buffer that is made in it. In trap mode every touch can. Once a step, into the view of
 * its transaction.
 *
 * It is a guess, and so it never fails: where a share of the log's room does not do, or the kernel refuses, nothing (more) is
 * captured, and what is written traps. What was logged by then stays logged.
 *
 * Pages that the request itself had written before it waited are captured too, where its handler tends to go on with them.
 * The policy does not hear of those: a page that one request writes in two steps is not a page that is often written.
 *
 * Where other threads store as well, each trap keeps all of them waiting: for the lock, and for the kernel's own on the map. So
 * once a step has trapped a few times in a block of pages, the next trap there takes the rest of the block along. These pages
 * are captured ones like the others.
 *
 * The first trap of a step takes along the pages around it that its handler tends to write then, whichever page that was: a request on one
 * row of a matrix goes on with the next. In the handler that is one call for all of them, in place of a trap for each.
 *
 * After a savepoint every page traps once more. That trap can't be avoided by a capture, so it is not counted as one that
 * could have been; and a captured page was of use only if it had changed by then.
 */
#include "state.h"

#define AROUND 16u     /* pages that lie together: of which so many … */
#define AROUND_FROM 2u /* … have trapped in this step when the next one takes the rest along */
#define OWN_MOST 256u  /* pages of its own that a step captures */
#define ROOM_SHARE 16u /* of the log's free room, what captures may take: the rest is for what the step will do */

/* fits -- can this page be captured: an array's (but in trap mode), cold, protected, shared? */
static bool fits(rcv_arena *a, const struct view *v, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    return t->slot_of[page] == 0 && !(v->state[page] & (PG_WRITABLE | PG_STRAY)) && page < pages_claimed(a) &&
           (a->trap_mode || heap_page_live(a, page));
}

/* log_ahead -- into the log, as one that has not trapped. false: no room. */
static bool log_ahead(rcv_arena *a, struct view *v, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    if (view_log(a, v, page) != 0)
        return false;
    t->trapped[t->n_trapped - 1].flags |= (uint16_t)TRAP_CAPTURED;
    CRASHPOINT("capture.logged");
    return true;
}

/* take -- log and unprotect [first, end). false: no more. */
static bool take(rcv_arena *a, uint32_t first, uint32_t end)
{
    struct rcv_tracker *t = a->tracker;
    if (t->n_runs >= t->max_runs)
        return false;
    for (uint32_t p = first; p < end; p++)
        if (!log_ahead(a, t->view, p))
            return false;
    if (os_protect(page_in(a, t->view, first), (uint64_t)(end - first) << t->shift, PROT_READ | PROT_WRITE) != 0)
        return false;
    CRASHPOINT("capture.unprotected");
    for (uint32_t p = first; p < end; p++)
        t->view->state[p] |= PG_WRITABLE;
    t->n_runs++;
    a->n.pages_captured += end - first;
    return true;
}

/* own_pages -- mark the cold pages that the transaction had written raw before this step. They were written back: their marks go
 * with those of announced pages. */
static uint32_t own_pages(rcv_arena *a, const struct raw *raw)
{
    struct rcv_tracker *t = a->tracker;
    t->n_own = 0;
    for (uint64_t i = 0; i < raw->n_pages; i++) {
        uint32_t page = raw->pages[i];
        if (t->slot_of[page] != 0 || !(t->state[page] & PG_ANNOUNCED))
            continue;
        t->state[page] |= PG_OWN;
        t->n_own++;
    }
    return t->n_own;
}

/* take_planned -- what the handler's profile says. false: no more. */
static bool take_planned(rcv_arena *a, const struct wse_stretch *run, uint32_t n)
{
    bool more = true;
    for (uint32_t i = 0; i < n && more; i++) {
        uint32_t end = run[i].first + run[i].count;
        for (uint32_t p = run[i].first; p < end && more; p++) {
            uint32_t first = p;
            while (p < end && fits(a, a->tracker->view, p))
                p++;
            if (p > first)
                more = take(a, first, p);
        }
    }
    return more;
}

/* all_fit -- can all of [first, end) be captured? */
static bool all_fit(rcv_arena *a, uint32_t first, uint32_t end)
{
    while (first < end && fits(a, a->tracker->view, first))
        first++;
    return first == end;
}

/* take_own -- what the request has written in an earlier step; with what lies between where that is cheaper than another call. */
static void take_own(rcv_arena *a, const struct raw *raw, uint32_t gap)
{
    bool more = true;
    for (uint64_t i = 0; more && i < raw->n_pages;) {
        uint32_t first = raw->pages[i++], end = first + 1;
        if (!all_fit(a, first, end))
            continue;
        for (; i < raw->n_pages && raw->pages[i] - end <= gap && all_fit(a, end, raw->pages[i] + 1); i++)
            end = raw->pages[i] + 1;
        more = take(a, first, end);
    }
}

void tracker_capture(rcv_arena *a, const struct raw *raw, const char *handler, const char *route, uint32_t step)
{
    struct rcv_tracker *t = a->tracker;
    if (t->wse.profiles == NULL || t->profile != NULL || handler[0] == 0 || t->doomed || t->view == NULL)
        return;
    struct wse_profile       *profile = wse_profile_of(t->wse.profiles, handler, route, step);
    const struct wse_stretch *run;
    uint32_t                  n = wse_profile_runs(profile, &run), before, behind;
    uint64_t                  pages = 0;
    for (uint32_t i = 0; i < n; i++)
        pages += run[i].count;
    wse_profile_around(profile, &before, &behind);
    view_lock(a); /* other threads may trap by now, and look at these */
    t->anchored = false;
    t->before = before;
    t->behind = behind;
    t->profile = profile;
    view_unlock(a);
    bool again = own_pages(a, raw) != 0 && raw->n_pages <= OWN_MOST && wse_profile_again(t->wse.profiles, profile);
    t->own_captured = again;
    pages += again ? raw->n_pages : 0;
    const uint64_t room = (a->undo_size - undo_tail(a)) / ROOM_SHARE / undo_cost(t->page_size);
    if (pages == 0 || pages > room)
        return;
    uint32_t gap = wse_profile_gap(t->wse.profiles);
    if (pages + raw->n_pages * gap > room)
        gap = 0;
    view_lock(a);
    if (take_planned(a, run, n) && again)
        take_own(a, raw, gap);
    view_unlock(a);
}

/* log_to_open -- is this neighbour of a page that traps writable, or logged and thus ready to be? */
static bool log_to_open(rcv_arena *a, struct view *v, uint32_t page)
{
    if (v->state[page] & PG_WRITABLE)
        return true;
    if (!fits(a, v, page) || views_stale(a, v, page) || !log_ahead(a, v, page))
        return false;
    a->n.pages_captured++;
    return true;
}

/* busy_block -- other threads store as well, and some of these pages have trapped: the rest of the block comes along. */
static bool busy_block(const struct rcv_tracker *t, const struct view *v, uint32_t lo, uint32_t hi)
{
    uint32_t written = 0;
    if (likely(t->second == 0))
        return false;
    for (uint32_t p = lo; p < hi; p++)
        written += (v->state[p] & PG_WRITABLE) && t->slot_of[p] == 0;
    return written >= AROUND_FROM;
}

/* anchor -- the first trap of a step whose handler is known. */
static void anchor(rcv_arena *a, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    t->anchored = true;
    t->anchor = page;
    t->anchor_at = t->n_trapped ? t->trapped[t->n_trapped - 1].at : 0;
}

void capture_around(rcv_arena *a, struct view *v, uint32_t page, uint32_t *first, uint32_t *end)
{
    struct rcv_tracker *t = a->tracker;
    *first = page;
    *end = page + 1;
    if (t->savepoint || a->trap_mode)
        return;
    uint32_t lo = page & ~(AROUND - 1), hi = lo + AROUND < t->pages ? lo + AROUND : t->pages;
    if (likely(!busy_block(t, v, lo, hi)))
        lo = hi = page;
    if (t->profile != NULL && !t->anchored && v == t->view && t->slot_of[page] == 0) {
        anchor(a, page);
        uint32_t from = page > t->before ? page - t->before : 0, to = page + 1 + t->behind;
        lo = from < lo ? from : lo;
        hi = to > hi ? to : hi;
        hi = hi < t->pages ? hi : t->pages;
    }
    if (hi <= page + 1 && lo == page)
        return;
    if ((hi - lo) * undo_cost(t->page_size) > (a->undo_size - undo_tail(a)) / ROOM_SHARE)
        return;
    while (*first > lo && log_to_open(a, v, *first - 1))
        --*first;
    while (*end < hi && log_to_open(a, v, *end))
        ++*end;
}

/* capture_judge -- before the step is undone: which captured pages had it written? */
void capture_judge(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (t->profile == NULL || t->collected || t->doomed)
        return;
    for (uint32_t i = 0; i < t->n_trapped; i++)
        if ((t->trapped[i].flags & TRAP_CAPTURED) &&
            memcmp(page_core(a, t->trapped[i].page), a->undo + t->trapped[i].at, t->page_size) != 0)
            t->trapped[i].flags |= TRAP_CHANGED;
}

/* learn_near -- what it has written around the page that trapped first, after that. */
static void learn_near(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    bool                written[2][WSE_NEAR] = {{false}};
    for (uint32_t i = 0; i < t->n_trapped; i++) {
        const struct trap_entry *e = &t->trapped[i];
        bool     seen = e->flags & TRAP_CAPTURED ? e->flags & TRAP_CHANGED : !(e->flags & (TRAP_LATE | TRAP_EDITED));
        uint32_t away = e->page > t->anchor ? e->page - t->anchor : t->anchor - e->page;
        if (seen && e->at > t->anchor_at && away != 0 && away <= WSE_NEAR)
            written[e->page > t->anchor][away - 1] = true;
    }
    wse_profile_near(t->wse.profiles, t->profile, (const bool(*)[WSE_NEAR])written);
}

/* capture_learn -- the step is over, `trapped` is sorted and its pre-images are still there. */
void capture_learn(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    struct wse_profile *p = t->profile;
    uint32_t            own = 0;
    if (t->doomed) /* what it would have written is not known */
        return;
    for (uint32_t i = 0; i < t->n_trapped; i++) {
        struct trap_entry *e = &t->trapped[i];
        if (i > 0 && e->page == t->trapped[i - 1].page)
            continue;
        if (t->slot_of[e->page] != 0)
            continue;
        if (e->flags & TRAP_EDITED) /* there was no trap to be saved */
            continue;
        bool captured = e->flags & TRAP_CAPTURED, written = true;
        if (captured) {
            if (i + 1 < t->n_trapped && t->trapped[i + 1].page == e->page) { /* trapped again, after a savepoint */
                e->flags &= (uint16_t)~TRAP_CHANGED;
                if (memcmp(a->undo + e->at, a->undo + t->trapped[i + 1].at, t->page_size) != 0)
                    e->flags |= TRAP_CHANGED;
            }
            written = e->flags & TRAP_CHANGED;
            a->n.captured_in_vain += !written;
        }
        own += written && (captured || !(e->flags & TRAP_LATE)) && (t->state[e->page] & PG_OWN);
        if (captured || !(e->flags & TRAP_LATE))
            wse_profile_saw(p, e->page, captured, written, t->slot_of);
    }
    if (t->anchored)
        learn_near(a);
    if (t->n_own != 0)
        wse_profile_owned(p, t->n_own, own);
    wse_profile_end(t->wse.profiles, p, t->slot_of);
}

/* -- switching, reports --------------------------------------------------------------------------------------- */

int rcv_profiles(rcv_arena *a, int on)
{
    struct wse *w = &a->tracker->wse;
    if (on < 0)
        return w->profiles != NULL;
    if (on != 0 && w->profiles == NULL && (w->profiles = wse_profiles_new(&w->costs)) == NULL)
        return wse_no_memory(w);
    if (on == 0) {
        wse_profiles_free(w->profiles);
        w->profiles = NULL;
        a->tracker->profile = NULL;
    }
    return on != 0;
}

int rcv_profiles_ask(const rcv_arena *a)
{
    const struct wse_profiles *profiles = a->tracker->wse.profiles;
    return profiles != NULL && (a->trap_mode || rcv_raw_count(a) != 0 || wse_profiles_count(profiles) != 0);
}

int rcv_profiles_read(rcv_arena *a, struct rcv_profile *out, int max)
{
    return wse_profiles_read(a->tracker->wse.profiles, out, max);
}
