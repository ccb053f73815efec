/* changes.c -- which pages has this step changed? (tracker.c says what counts as changed, and why.)
 *
 * Asked at the end of every step that raw writes were possible in, when it is shut and before it is committed or undone. Pages that
 * trapped are held against their pre-images, hot ones against their shadows; what was announced on the same page is left out. In trap
 * mode pages of containers are asked for as well, but only by the policy and the shadows: who changed what in a container is known from
 * its announced writes.
 */
#include "state.h"

#include <stdlib.h>

static int by_page(const void *x, const void *y)
{
    const struct trap_entry *l = x, *r = y;
    if (l->page != r->page)
        return l->page < r->page ? -1 : 1;
    return l->at < r->at ? -1 : l->at > r->at;
}

/* sort_trapped -- by page, the oldest pre-image of each first. */
void sort_trapped(struct rcv_tracker *t)
{
    for (uint32_t i = 1; i < t->n_trapped; i++)
        if (by_page(&t->trapped[i - 1], &t->trapped[i]) > 0) {
            qsort(t->trapped, t->n_trapped, sizeof *t->trapped, by_page);
            return;
        }
}

/* -- what has changed ------------------------------------------------------------------------------------------ */

/* tracker_note_announced -- [off, off+len) of array memory is, or is about to be, written through the core view. */
void tracker_note_announced(rcv_arena *a, rcv_off off, uint32_t len)
{
    struct rcv_tracker *t = a->tracker;
    if (unlikely(len == 0 || off < a->data_off))
        return;
    uint32_t last = page_of_off(a, off + len - 1);
    for (uint32_t p = page_of_off(a, off); p <= last; p++) {
        if (!(t->state[p] & PG_ANNOUNCED)) {
            t->state[p] |= PG_ANNOUNCED;
            t->announced[t->n_announced++] = p;
        }
        if (unlikely(t->slot_of[p] != 0))
            t->announced_hot = true;
    }
    t->ranges_built = false;
}

static int by_range(const void *x, const void *y)
{
    const struct announced *l = x, *r = y;
    return l->page < r->page ? -1 : l->page > r->page;
}

static int grow(void **data, uint32_t *cap, uint32_t need, size_t item)
{
    uint32_t n = *cap ? *cap : 64;
    while (n < need)
        n *= 2;
    void *p = n > *cap ? os_realloc(*data, n * item) : *data;
    if (p == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for what raw writes have changed");
    *data = p;
    *cap = n;
    return 0;
}

int changes_pieces(rcv_arena *a, unsigned kinds, int (*fn)(rcv_arena *a, uint32_t page, uint32_t lo, uint32_t hi))
{
    const struct rcv_tracker *t = a->tracker;
    struct undo_walk          w = undo_walk(a, kinds);
    int                       rc = 0;
    while (rc == 0 && undo_next(&w)) {
        if (w.r.off < a->data_off)
            continue; /* the header or the heap table */
        uint64_t from = w.r.off - a->data_off, to = from + w.r.len;
        for (uint64_t p = from >> t->shift; rc == 0 && p << t->shift < to; p++) {
            uint64_t start = p << t->shift, end = start + t->page_size;
            rc = fn(a, (uint32_t)p, (uint32_t)(from > start ? from - start : 0), (uint32_t)((to < end ? to : end) - start));
        }
    }
    return rc ? rc : w.error;
}

static int keep_range(rcv_arena *a, uint32_t page, uint32_t lo, uint32_t hi)
{
    struct rcv_tracker *t = a->tracker;
    int                 rc = 0;
    if (!(t->state[page] & PG_ANNOUNCED))
        return 0;
    if (t->n_ranges == t->cap_ranges && (rc = grow((void **)&t->ranges, &t->cap_ranges, t->n_ranges + 1, sizeof *t->ranges)) != 0)
        return rc;
    t->ranges[t->n_ranges++] = (struct announced){.page = page, .lo = lo, .hi = hi};
    return 0;
}

/* build_ranges -- the announced ranges of this step, sorted. */
static int build_ranges(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    t->n_ranges = 0;
    int rc = changes_pieces(a, UNDO_KIND(RCV_U_DATA), keep_range);
    if (rc != 0)
        return rc;
    if (t->n_ranges > 1) /* there may be no array yet */
        qsort(t->ranges, t->n_ranges, sizeof *t->ranges, by_range);
    t->ranges_built = true;
    return 0;
}

/* differs -- is the page raw-changed against `base`? 1, 0 or an error. */
static int differs(rcv_arena *a, uint32_t page, const uint8_t *base)
{
    struct rcv_tracker *t = a->tracker;
    const uint8_t      *now = page_core(a, page);
    a->n.pages_compared++;
    if (memcmp(now, base, t->page_size) == 0)
        return 0;
    if (likely(!(t->state[page] & PG_ANNOUNCED)))
        return 1;
    if (!t->ranges_built) {
        int rc = build_ranges(a);
        if (rc != 0)
            return rc;
    }
    memcpy(t->scratch, base, t->page_size);
    uint32_t lo = 0, hi = t->n_ranges; /* the first range of this page */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->ranges[mid].page < page)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < t->n_ranges && t->ranges[lo].page == page; lo++)
        memcpy(t->scratch + t->ranges[lo].lo, now + t->ranges[lo].lo, t->ranges[lo].hi - t->ranges[lo].lo);
    return memcmp(now, t->scratch, t->page_size) != 0;
}

/* of_containers -- a page whose writes are all ours: containers', which only trap mode tracks by pages, and new Arrays'. */
static inline bool of_containers(const rcv_arena *a, uint32_t page)
{
    return a->trap_mode && !heap_page_live(a, page) && !a->above->holds(a, page);
}

bool tracker_is_raw(const rcv_arena *a, rcv_off off) { return !of_containers(a, page_of_off(a, off)); }

bool tracker_raw_hot(const rcv_arena *a, uint32_t *i, rcv_off *off, const uint8_t **shadow)
{
    const struct rcv_tracker *t = a->tracker;
    for (; *i < t->n_raw; ++*i) {
        const uint32_t page = t->raw[*i], slot = t->slot_of[page];
        if (slot == 0)
            continue;
        *off = page_off(a, page);
        *shadow = hot_shadow(a, slot - 1);
        ++*i;
        return true;
    }
    return false;
}

bool tracker_announced_hot(const rcv_arena *a) { return a->tracker->announced_hot; }

const uint8_t *tracker_committed(const rcv_arena *a, rcv_off off)
{
    const struct rcv_tracker *t = a->tracker;
    const uint32_t            page = page_of_off(a, off), slot = t->slot_of[page];
    return slot == 0 ? NULL : hot_shadow(a, slot - 1) + (off - page_off(a, page));
}

/* collect_hot -- listed pages that could have been written here. */
static int collect_hot(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    for (uint32_t i = 0; i < t->n_hot; i++) {
        uint32_t slot = t->hot[i], page = t->page_of[slot] - 1;
        if ((!t->all_listed && !writable_in_step(t, page)) || of_containers(a, page))
            continue;
        int changed = differs(a, page, hot_shadow(a, slot));
        if (changed < 0)
            return changed;
        if (changed)
            t->raw[t->n_raw++] = page;
        if (!a->trap_mode)
            wse_compared(&t->wse, page, changed != 0);
    }
    return 0;
}

/* collect_trapped -- the others, against their first pre-image. Pages that came along in a block (view.c) are arrays', too. */
static int collect_trapped(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    sort_trapped(t);
    for (uint32_t i = 0; i < t->n_trapped; i++) {
        uint32_t page = t->trapped[i].page;
        if (t->slot_of[page] != 0 || (i > 0 && t->trapped[i - 1].page == page) || of_containers(a, page))
            continue;
        int changed = differs(a, page, a->undo + t->trapped[i].at);
        if (changed < 0)
            return changed;
        if (changed) {
            t->raw[t->n_raw++] = page;
            t->trapped[i].flags |= TRAP_CHANGED;
        }
    }
    return 0;
}

/* tracker_collect -- see the essay. RCV_ERR_FULL: no process memory, or the step is doomed; RCV_ERR_CORRUPT: the log is. */
int tracker_collect(rcv_arena *a, const uint32_t **pages, uint32_t *n)
{
    struct rcv_tracker *t = a->tracker;
    *pages = t->raw;
    *n = t->n_raw = 0;
    if (likely(t->n_trapped == 0 && !t->raw_since))
        return 0;
    t->collected = false;
    if (t->doomed)
        return rcv_raise(t->doomed, 0, "arena \"%s\": some of its raw writes were refused", a->name);
    if (unlikely(t->n_used != 0 && !t->shut))
        return rcv_raise(RCV_ERR_BUG, 0, "arena \"%s\": a step's raw writes are looked for while threads may still make them", a->name);
    int rc = 0;
    if (t->n_trapped + t->n_hot > t->cap_raw)
        rc = grow((void **)&t->raw, &t->cap_raw, t->n_trapped + t->n_hot, sizeof *t->raw);
    if (rc == 0 && t->raw_since)
        rc = collect_hot(a);
    if (rc == 0)
        rc = collect_trapped(a);
    if (rc != 0) {
        t->n_raw = 0;
        return rc;
    }
    t->collected = t->active = true;
    *pages = t->raw;
    *n = t->n_raw;
    return 0;
}

/* tracker_observe -- trap mode, before a step's writes are published or undone: the listed pages that differ from their
 * shadows, for the policy and for hot_publish(). All of them: what the heap logs goes through the core view. */
void tracker_observe(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    sort_trapped(t);
    t->collected = false;
    capture_judge(a);
    t->n_raw = 0;
    t->collected = t->n_hot <= t->cap_raw || grow((void **)&t->raw, &t->cap_raw, t->n_hot, sizeof *t->raw) == 0;
    if (t->n_hot == 0 || !t->collected)
        return;
    t->active = true;
    for (uint32_t i = 0; i < t->n_hot; i++) {
        uint32_t slot = t->hot[i], page = t->page_of[slot] - 1;
        bool     changed = memcmp(page_core(a, page), hot_shadow(a, slot), t->page_size) != 0;
        a->n.pages_compared++;
        if (changed)
            t->raw[t->n_raw++] = page;
        wse_compared(&t->wse, page, changed);
    }
}

/* -- memory that nobody else can reach --------------------------------------------------------------------------- */

bool tracker_undoes(const rcv_arena *a, rcv_off off)
{
    const struct rcv_tracker *t = a->tracker;
    uint32_t                  page = page_of_off(a, off), lo = 0, hi = t->n_trapped; /* sorted by tracker_observe() */
    while (lo < hi) { /* PG_WRITABLE does not say it: a savepoint protects what stays logged */
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->trapped[mid].page < page)
            lo = mid + 1;
        else
            hi = mid;
    }
    return t->slot_of[page] != 0 || (lo < t->n_trapped && t->trapped[lo].page == page);
}

void tracker_keep(rcv_arena *a, rcv_off off, const void *bytes, uint32_t len)
{
    const struct rcv_tracker *t = a->tracker;
    uint32_t                  page = page_of_off(a, off);
    memcpy(a->core + off, bytes, len);
    if (t->slot_of[page] != 0)
        memcpy(hot_shadow(a, t->slot_of[page] - 1) + (off - page_off(a, page)), bytes, len);
}

void tracker_zero(const rcv_arena *a, rcv_off off, uint32_t len)
{
    const struct rcv_tracker *t = a->tracker;
    uint32_t page = page_of_off(a, off);
    uint64_t in = off - page_off(a, page);
    if (t->slot_of[page] != 0)
        memset(hot_shadow(a, t->slot_of[page] - 1) + in, 0, len);
    for (uint32_t i = 0; i < t->n_trapped; i++)
        if (t->trapped[i].page == page)
            memset(a->undo + t->trapped[i].at + in, 0, len);
}
