/* raw.c -- raw writes into Arrays, across suspensions.
 *
 * What we want: user code stores through a view, where and how much nobody tells us; requests that change different items
 * never hinder each other, not even within one page; what two have changed is never mixed.
 *
 * What does not work: pages as conflict units (a page of a feature matrix belongs to many requests); merging by byte (half
 * of each of two floats is a third float).
 *
 * What does: a three-way merge by item. At a suspension the pages that raw writes changed are copied as the transaction
 * left them and, once the step is undone, as they are committed: the base. At the resume an item that differs from its base
 * is written over what is committed now, provided that is still the base; else both have changed it, and the transaction has
 * lost a conflict. Which items lie in a page says the Array that the raw buffer was made of, which this process remembers by
 * where its memory begins; were it forgotten, the page counts as one item and its stamp as read.
 *
 * An item may lie across pages, so what is kept is widened to whole items, and neighbours are kept as one run.
 *
 * Where it still fails: an item changed by another and changed back is taken for unchanged; as raw reads are not validated,
 * that is a blind write after both.
 */
#include "tracker.h"

#include <stdlib.h>

/* -- which Array a page belongs to ------------------------------------------------------------------------ */

struct viewed {
    rcv_off  data, array; /* data 0: free slot */
    uint64_t id;          /* of the Array: another may lie there by now */
};
struct rcv_viewed { /* open addressing by where the memory begins */
    struct viewed *slot;
    uint32_t       n, mask;
};

static struct viewed *viewed_slot(const struct rcv_viewed *v, rcv_off data)
{
    uint32_t s = (uint32_t)rcv_mix(data) & v->mask;
    while (v->slot[s].data != 0 && v->slot[s].data != data)
        s = (s + 1) & v->mask;
    return &v->slot[s];
}

/* array_of -- the Array that was viewed, if it is still there; else NULL. */
static const struct rcv_array *array_of(rcv_arena *a, const struct viewed *v)
{
    const struct rcv_array *r = (const struct rcv_array *)container_at(a, v->array, RCV_K_ARRAY);
    bool is = r != NULL && r->c.id == v->id && r->data == v->data && r->nbytes != 0 && r->itemsize != 0 &&
              rcv_at(a, v->data, r->nbytes) != NULL;
    return is ? r : NULL;
}

/* viewed_grow -- room for one more; those that are gone are forgotten. */
static bool viewed_grow(rcv_arena *a)
{
    struct rcv_viewed *v = a->viewed, bigger = {.n = 0};
    uint32_t           live = 0;
    for (uint32_t i = 0; v->slot && i <= v->mask; i++)
        live += v->slot[i].data != 0 && array_of(a, &v->slot[i]) != NULL;
    bigger.mask = 63;
    while (bigger.mask < live * 4)
        bigger.mask = bigger.mask * 2 + 1;
    bigger.slot = os_calloc((size_t)bigger.mask + 1, sizeof *bigger.slot);
    if (bigger.slot == NULL)
        return false;
    for (uint32_t i = 0; v->slot && i <= v->mask; i++)
        if (v->slot[i].data != 0 && array_of(a, &v->slot[i]) != NULL) {
            *viewed_slot(&bigger, v->slot[i].data) = v->slot[i];
            bigger.n++;
        }
    struct viewed *old = v->slot;
    view_lock(a->tracker);
    *v = bigger;
    view_unlock(a->tracker);
    os_free(old);
    return true;
}

/* rcv_raw_viewed -- a buffer of this Array's memory is being made. Cannot fail: what is not remembered is merged by page, and can be
 * written by this transaction only. What changes here is read by the trap handler: under its lock. */
void rcv_raw_viewed(rcv_arena *a, rcv_off array)
{
    const struct rcv_array *r = (const struct rcv_array *)container_at(a, array, RCV_K_ARRAY);
    if (r == NULL || r->data == 0)
        return;
    if (a->viewed == NULL && (a->viewed = os_calloc(1, sizeof *a->viewed)) == NULL)
        return;
    struct rcv_viewed *v = a->viewed;
    if ((v->slot == NULL || (v->n + 1) * 2 > v->mask) && !viewed_grow(a))
        return;
    struct viewed *slot = viewed_slot(v, r->data);
    view_lock(a->tracker);
    v->n += slot->data == 0;
    *slot = (struct viewed){.data = r->data, .array = array, .id = r->c.id};
    view_unlock(a->tracker);
}

void raw_free(rcv_arena *a)
{
    if (a->viewed)
        os_free(a->viewed->slot);
    os_free(a->viewed);
    a->viewed = NULL;
}

/* page_viewed -- what was viewed where the page lies, or NULL. */
static const struct viewed *page_viewed(rcv_arena *a, uint32_t page)
{
    rcv_off data = a->viewed && a->viewed->slot ? heap_page_block(a, page) : 0;
    const struct viewed *v = data ? viewed_slot(a->viewed, data) : NULL;
    return v && v->data ? v : NULL;
}

uint64_t raw_array_in(rcv_arena *a, uint32_t page)
{
    const struct viewed *v = page_viewed(a, page);
    return v != NULL && array_of(a, v) != NULL ? v->id : 0;
}

/* -- the end of a step ------------------------------------------------------------------------------------- */

static int by_number(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* note_page -- a raw write counts as a blind one of its page, for those who have read that by its stamp; and as a use of
 * its Array and of all that hold it, like any other access: whose memory they are may not change while it waits. */
static int note_page(rcv_txn *t, uint32_t page)
{
    const struct viewed *v = page_viewed(t->arena, page);
    int                  rc = stamp_write(t, 0, 0, RCV_UNIT_PAGE, page);
    if (rc)
        return rc;
    if (v == NULL && !intent_holds(t, page))
        return stamp_read(t, 0, 0, RCV_UNIT_PAGE, page);
    rc = v != NULL && array_of(t->arena, v) ? container_used(t, v->array) : RCV_ERR_STALE;
    return rc != RCV_ERR_STALE ? rc : rcv_raise(rc, 0, "%s", rcv_doom_text(rc));
}

int raw_collect(rcv_txn *t)
{
    const uint32_t *pages;
    uint32_t        n;
    uint64_t        before = t->n_raw_pages; /* of earlier steps; within one, each page is found once */
    int             rc = tracker_collect(t->arena, &pages, &n);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (before && bsearch(&pages[i], t->raw_pages, before, sizeof *pages, by_number))
            continue;
        rc = note_page(t, pages[i]);
        if (rc == 0 && t->n_raw_pages == t->cap_raw_pages)
            rc = vec_grow((void **)&t->raw_pages, &t->cap_raw_pages, t->n_raw_pages + 1, sizeof *t->raw_pages);
        if (rc == 0)
            t->raw_pages[t->n_raw_pages++] = pages[i];
    }
    if (t->n_raw_pages > before && t->n_raw_pages > 1)
        qsort(t->raw_pages, t->n_raw_pages, sizeof *t->raw_pages, by_number);
    return rc;
}

/* items_of -- the whole items that touch the page, as a run. */
static struct rcv_run items_of(rcv_arena *a, uint32_t page)
{
    uint64_t                size = a->hdr->page_size;
    struct rcv_run          run = {.off = a->data_off + page * size, .len = size, .itemsize = size, .n_pages = 1};
    const struct viewed    *v = page_viewed(a, page);
    const struct rcv_array *r = v ? array_of(a, v) : NULL;
    if (r == NULL)
        return run;
    run.array = v->array;
    uint64_t item = r->itemsize, lo = run.off - r->data, hi = lo + size;
    lo -= lo % item;
    hi = hi % item ? hi + item - hi % item : hi;
    hi = hi < r->nbytes ? hi : r->nbytes;
    if (lo >= hi) { /* behind the last item */
        run.array = 0;
        return run;
    }
    run.itemsize = item;
    run.off = r->data + lo;
    run.len = hi - lo;
    return run;
}

int raw_stash(rcv_txn *t)
{
    int rc = 0;
    t->n_runs = 0;
    for (uint64_t i = 0; i < t->n_raw_pages; i++) {
        struct rcv_run  run = items_of(t->arena, t->raw_pages[i]);
        struct rcv_run *last = t->n_runs ? &t->runs[t->n_runs - 1] : NULL;
        if (last && run.array && last->array == run.array && run.off <= last->off + last->len) {
            last->len = run.off + run.len - last->off;
            last->n_pages++;
            continue;
        }
        if (t->n_runs == t->cap_runs && (rc = vec_grow((void **)&t->runs, &t->cap_runs, t->n_runs + 1, sizeof *t->runs)) != 0)
            break;
        run.pages = i;
        t->runs[t->n_runs++] = run;
    }
    for (uint64_t i = 0; i < t->n_runs && rc == 0; i++) {
        struct rcv_run *run = &t->runs[i];
        rc = stash_room(t, 2 * run->len, &run->at);
        if (rc == 0)
            memcpy(t->stash + run->at, t->arena->core + run->off, run->len);
    }
    return rc;
}

void raw_base(rcv_txn *t)
{
    for (uint64_t i = 0; i < t->n_runs; i++)
        memcpy(t->stash + t->runs[i].at + t->runs[i].len, t->arena->core + t->runs[i].off, t->runs[i].len);
}

/* -- the resume ------------------------------------------------------------------------------------------------ */

/* merge -- into `mine`, what is committed now where the transaction has changed nothing. */
static int merge(rcv_txn *t, const struct rcv_run *run, uint8_t *mine, const uint8_t *base, const uint8_t *now)
{
    for (uint64_t at = 0; at < run->len; at += run->itemsize) {
        uint64_t size = run->len - at < run->itemsize ? run->len - at : run->itemsize;
        if (memcmp(now + at, base + at, size) == 0)
            continue;
        if (memcmp(mine + at, base + at, size) != 0) {
            rcv_off  off = run->off + at;
            uint64_t page = (off - t->arena->data_off) / t->arena->hdr->page_size;
            stamp_lost(t, run->array, run->array ? RCV_UNIT_BYTES : RCV_UNIT_PAGE, run->array ? off : page,
                       stamp_of_page(t->arena, page));
            return rcv_raise(RCV_ERR_CONFLICT, 0, "another request has changed an item that this one has changed by a raw write");
        }
        memcpy(mine + at, now + at, size);
    }
    return 0;
}

int raw_put_back(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   size = a->hdr->page_size;
    for (uint64_t i = 0; i < t->n_runs; i++) {
        const struct rcv_run *run = &t->runs[i];
        uint8_t              *mine = t->stash + run->at, *base = mine + run->len;
        if (memcmp(base, a->core + run->off, run->len) != 0) {
            int rc = merge(t, run, mine, base, a->core + run->off);
            if (rc)
                return rc;
        }
        for (uint64_t k = run->pages; k < run->pages + run->n_pages; k++) {
            rcv_off page = a->data_off + t->raw_pages[k] * size, end = page + size;
            rcv_off lo = page > run->off ? page : run->off, hi = end < run->off + run->len ? end : run->off + run->len;
            int     rc = txn_log(t, page, (uint32_t)size, RCV_U_PAGE);
            if (rc)
                return rc;
            CRASHPOINT("resume.before_write");
            memcpy(a->core + lo, mine + (lo - run->off), hi - lo);
            tracker_note_announced(a, page, (uint32_t)size);
        }
    }
    return 0;
}
