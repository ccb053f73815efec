/* array.c -- Array: fixed-size items in pages of their own, in the space that user code may map.
 *
 * Two ways in. Item access is announced: exact ranges through the core view; reads of up to 64 bytes are validated by
 * value, so that neighbours never conflict; longer ones by the stamps of their pages, which every write therefore moves,
 * blindly. Raw access (.view) is found by page protection: raw.c.
 */
#include "containers.h"
#include "containers/array.h"

static struct rcv_array *array_at(rcv_arena *a, rcv_off off) { return container_of(a, off, RCV_K_ARRAY, sizeof(struct rcv_array)); }

static int no_array(rcv_arena *a, rcv_off off) { return seg_corrupt(a, "no Array at %llu, where one is used", (unsigned long long)off); }

/* items_at -- the offset of [at, at+len) of an Array's items. */
static int items_at(rcv_arena *a, rcv_off off, uint64_t at, uint64_t len, rcv_off *out)
{
    const struct rcv_array *r = array_at(a, off);
    if (unlikely(r == NULL))
        return no_array(a, off);
    if (unlikely(at > r->nbytes || len > r->nbytes - at))
        return rcv_raise(RCV_ERR_BUG, 0, "bytes %llu+%llu of an Array of %llu", (unsigned long long)at, (unsigned long long)len,
                         (unsigned long long)r->nbytes);
    if (unlikely(r->nbytes != 0 && ((r->data & (a->hdr->page_size - 1)) || rcv_at(a, r->data, r->nbytes) == NULL)))
        return seg_corrupt(a, "the items of the Array at %llu lie outside the claimed memory", (unsigned long long)off);
    *out = r->data + at;
    return 0;
}

static uint64_t page_of(const rcv_arena *a, rcv_off off) { return (off - a->data_off) / a->hdr->page_size; }

/* -- the operations -------------------------------------------------------------------------------------- */

int rcv_array_new(rcv_txn *t, const struct rcv_array_info *info, const void *items, rcv_off *out)
{
    rcv_arena *a = t->arena;
    rcv_off    data = 0;
    int        rc = txn_alloc(t, sizeof(struct rcv_array), RCV_SPACE_GENERAL, 0, out);
    if (rc == 0 && info->nbytes != 0)
        rc = txn_alloc(t, info->nbytes, RCV_SPACE_ARRAY, 0, &data);
    if (rc == 0)
        rc = container_init(t, *out, RCV_K_ARRAY);
    if (rc)
        return rc;
    struct rcv_array *r = (struct rcv_array *)(void *)(a->mem + *out);
    /* Fresh memory: nobody can reach it before it is linked, so it needs no undo. */
    if (data && items)
        memcpy(a->core + data, items, info->nbytes);
    else if (data)
        memset(a->core + data, 0, info->nbytes);
    r->data = data;
    r->nbytes = info->nbytes;
    r->itemsize = info->itemsize;
    r->ndim = info->ndim;
    memcpy(r->shape, info->shape, sizeof r->shape);
    memcpy(r->dtype, info->dtype, sizeof r->dtype);
    r->dtype[sizeof r->dtype - 1] = 0;
    return 0;
}

int rcv_array_get_info(rcv_arena *a, rcv_off array, struct rcv_array_info *out)
{
    const struct rcv_array *r = array_at(a, array);
    if (r == NULL)
        return no_array(a, array);
    uint64_t items = 1;
    bool     sound = r->ndim >= 1 && r->ndim <= RCV_NDIM && r->itemsize != 0 && memchr(r->dtype, 0, sizeof r->dtype) != NULL;
    for (uint32_t i = 0; sound && i < r->ndim; i++)
        sound = !__builtin_mul_overflow(items, r->shape[i], &items);
    if (!sound || __builtin_mul_overflow(items, (uint64_t)r->itemsize, &items) || items != r->nbytes)
        return seg_corrupt(a, "the shape of the Array at %llu", (unsigned long long)array);
    rcv_off data;
    int     rc = items_at(a, array, 0, r->nbytes, &data);
    if (rc)
        return rc;
    out->data = data;
    out->nbytes = r->nbytes;
    out->itemsize = r->itemsize;
    out->ndim = r->ndim;
    memcpy(out->shape, r->shape, sizeof out->shape);
    memcpy(out->dtype, r->dtype, sizeof out->dtype);
    return 0;
}

/* note_pages -- a long range counts by its pages. */
static int note_pages(rcv_txn *t, rcv_off off, uint64_t len, bool write)
{
    int rc = 0;
    for (uint64_t p = page_of(t->arena, off), last = page_of(t->arena, off + len - 1); p <= last && rc == 0; p++)
        rc = write ? stamp_write(t, 0, 0, RCV_UNIT_PAGE, p) : stamp_read(t, 0, 0, RCV_UNIT_PAGE, p);
    return rc;
}

int rcv_array_read(rcv_arena *a, rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, void *out)
{
    rcv_off off;
    int     rc = items_at(a, array, at, len, &off);
    if (rc || len == 0)
        return rc;
    if (t != NULL && t->record_reads) {
        if (len > RCV_BY_VALUE)
            rc = note_pages(t, off, len, false);
        else if (!txn_logged(t, off, (uint32_t)len)) /* wholly our own by one write: nothing of others' was seen */
            rc = stamp_read_value(t, array, off, (uint32_t)len);
        if (rc)
            return rc;
    }
    memcpy(out, a->core + off, len);
    return 0;
}

/* announce -- the barrier for a range of items. */
static int announce(rcv_txn *t, rcv_off off, uint64_t len)
{
    int rc = note_pages(t, off, len, true);
    for (uint64_t done = 0; done < len && rc == 0;) {
        uint64_t piece = len - done < (UINT64_C(1) << 30) ? len - done : UINT64_C(1) << 30;
        rc = txn_log(t, off + done, (uint32_t)piece, RCV_U_DATA);
        if (rc == 0)
            tracker_note_announced(t->arena, off + done, (uint32_t)piece);
        done += piece;
    }
    return rc;
}

int rcv_array_write(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, const void *bytes)
{
    rcv_off off;
    int     rc = items_at(t->arena, array, at, len, &off);
    if (rc == 0 && len != 0)
        rc = announce(t, off, len);
    if (rc == 0 && len != 0)
        memcpy(t->arena->mem + off, bytes, len);
    return rc;
}

int rcv_array_fill(rcv_txn *t, rcv_off array, const void *item)
{
    struct rcv_array_info info;
    int                   rc = rcv_array_get_info(t->arena, array, &info);
    if (rc == 0 && info.nbytes != 0)
        rc = announce(t, info.data, info.nbytes);
    for (uint64_t at = 0; rc == 0 && at < info.nbytes; at += info.itemsize)
        memcpy(t->arena->mem + info.data + at, item, info.itemsize);
    return rc;
}

int rcv_edit(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, struct rcv_mark *out)
{
    rcv_off off;
    int     rc = items_at(t->arena, array, at, len, &off);
    if (rc == 0)
        rc = tracker_edit(t->arena, &t->raw, off, len);
    if (rc)
        return rc;
    t->savepoints++;
    rcv_op_begin(t, out);
    return 0;
}

/* array_reclaim -- see struct rcv_kind. Its pages are hot no more before the commit: killed after that, recovery would leave pages
 * listed that are free. Nothing reads what a commit that does not come has demoted. */
static int array_reclaim(rcv_txn *t, rcv_off array, uint32_t *budget, bool *done)
{
    const struct rcv_array *r = array_at(t->arena, array);
    uint64_t                size;
    bool                    live;
    (void)budget;
    *done = true;
    if (r == NULL)
        return no_array(t->arena, array);
    if (r->data == 0)
        return 0;
    int rc = heap_block(t->arena, r->data, &size, &live); /* may be damage */
    if (rc)
        return rc;
    tracker_forget_pages(t->arena, r->data, size);
    return txn_free(t, r->data, 0);
}

/* -- for rcv_verify ---------------------------------------------------------------------------------------- */

/* array_check -- see struct rcv_kind. */
static int array_check(struct walk *w, rcv_off off)
{
    const struct rcv_array *r = (const struct rcv_array *)(const void *)(w->a->mem + off);
    uint64_t bytes = r->itemsize;
    bool     sound = r->ndim >= 1 && r->ndim <= RCV_NDIM && r->itemsize != 0 && memchr(r->dtype, 0, sizeof r->dtype) != NULL;
    for (uint32_t i = 0; sound && i < r->ndim; i++)
        sound = !__builtin_mul_overflow(bytes, r->shape[i], &bytes);
    if (!sound || bytes != r->nbytes)
        return check_damage(w, off, 0, off, "an Array whose shape, type and %llu bytes do not fit", (unsigned long long)r->nbytes);
    if (r->nbytes == 0)
        return r->data == 0 ? 0 : check_damage(w, off, 0, r->data, "an empty Array with memory");
    uint32_t page_size = w->a->hdr->page_size;
    int      rc = check_reach_any(w, off, 0, r->data, r->nbytes, "an Array's items");
    if (rc)
        return rc;
    if (r->data % page_size != 0 || !heap_page_live(w->a, (uint32_t)((r->data - w->a->data_off) / page_size)))
        return check_damage(w, off, 0, r->data, "an Array's items outside the memory for Arrays");
    return 0;
}

const struct rcv_kind array_kind = {.name = "Array", .size = sizeof(struct rcv_array), .reclaim = array_reclaim, .check = array_check};
