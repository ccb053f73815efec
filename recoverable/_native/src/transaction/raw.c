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
 * that is a blind write after both. And a store of the bytes that are committed there is none: what another commits to that
 * item meanwhile stays.
 */
#include "transaction.h"

#include <stdlib.h>

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
    const struct viewed *v = viewed_in(t->arena, page);
    int                  rc = stamp_write(t, 0, 0, RCV_UNIT_PAGE, page);
    if (rc)
        return rc;
    if (v == NULL && !intent_holds(t->arena, page))
        return stamp_read(t, 0, 0, RCV_UNIT_PAGE, page);
    rc = v != NULL && viewed_array(t->arena, v) ? container_used(t, v->array) : RCV_ERR_STALE;
    return rc != RCV_ERR_STALE ? rc : rcv_raise(rc, 0, "%s", rcv_doom_text(rc));
}

int raw_collect(rcv_txn *t)
{
    const uint32_t *pages;
    uint32_t        n;
    uint64_t        before = t->raw.n_pages; /* of earlier steps; within one, each page is found once */
    int             rc = tracker_collect(t->arena, &pages, &n);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (before && bsearch(&pages[i], t->raw.pages, before, sizeof *pages, by_number))
            continue;
        rc = note_page(t, pages[i]);
        if (rc == 0 && t->raw.n_pages == t->raw.cap_pages)
            rc = vec_grow((void **)&t->raw.pages, &t->raw.cap_pages, t->raw.n_pages + 1, sizeof *t->raw.pages);
        if (rc == 0)
            t->raw.pages[t->raw.n_pages++] = pages[i];
    }
    if (t->raw.n_pages > before && t->raw.n_pages > 1)
        qsort(t->raw.pages, t->raw.n_pages, sizeof *t->raw.pages, by_number);
    return rc;
}

/* items_of -- the whole items that touch the page, as a run. */
static struct rcv_run items_of(rcv_arena *a, uint32_t page)
{
    uint64_t                size = a->hdr->page_size;
    struct rcv_run          run = {.off = a->data_off + page * size, .len = size, .itemsize = size, .n_pages = 1};
    const struct viewed    *v = viewed_in(a, page);
    const struct rcv_array *r = v ? viewed_array(a, v) : NULL;
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
    for (uint64_t i = 0; i < t->raw.n_pages; i++) {
        struct rcv_run  run = items_of(t->arena, t->raw.pages[i]);
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
        rc = vec_room(&t->stash, &t->n_stash, &t->cap_stash, 2 * run->len, &run->at);
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
            rcv_off page = a->data_off + t->raw.pages[k] * size, end = page + size;
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

/* -- raw buffers ------------------------------------------------------------------------------------------ */

int rcv_raw_page(const rcv_arena *a, uint64_t page, rcv_off *out)
{
    *out = a->data_off + page * a->hdr->page_size;
    return page <= UINT32_MAX && heap_page_live(a, (uint32_t)page);
}

int rcv_raw_acquire(rcv_txn *t, rcv_off off, struct rcv_raw *out)
{
    if (!t->mounted)
        return rcv_raise(RCV_ERR_BUG, 0, "a raw buffer for a transaction that is not mounted");
    int rc = views_acquire(t->arena, &t->raw, off, out);
    if (rc == 0 && t->state == RCV_ACTIVE)
        tracker_capture(t->arena, &t->raw, t->handler, t->route, t->steps);
    return rc;
}
