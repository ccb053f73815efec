/* viewed.c -- which Array a page belongs to: this process remembers of which it has made raw buffers, by where their memory begins. */
#include "state.h"

struct rcv_viewed { /* open addressing by where the memory begins */
    struct viewed *slot;
    uint32_t       n, mask;
};

/* array_at -- the Array at `off`, or NULL. */
static const struct rcv_array *array_at(const rcv_arena *a, rcv_off off)
{
    const struct rcv_array *r = rcv_at(a, off, sizeof *r);
    return r != NULL && r->c.kind == (RCV_CONTAINER_MARK | RCV_K_ARRAY) ? r : NULL;
}

static struct viewed *viewed_slot(const struct rcv_viewed *v, rcv_off data)
{
    uint32_t s = (uint32_t)rcv_mix(data) & v->mask;
    while (v->slot[s].data != 0 && v->slot[s].data != data)
        s = (s + 1) & v->mask;
    return &v->slot[s];
}

/* viewed_array -- the Array that was viewed, if it is still there; else NULL. */
const struct rcv_array *viewed_array(rcv_arena *a, const struct viewed *v)
{
    const struct rcv_array *r = array_at(a, v->array);
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
        live += v->slot[i].data != 0 && viewed_array(a, &v->slot[i]) != NULL;
    bigger.mask = 63;
    while (bigger.mask < live * 4)
        bigger.mask = bigger.mask * 2 + 1;
    bigger.slot = os_calloc((size_t)bigger.mask + 1, sizeof *bigger.slot);
    if (bigger.slot == NULL)
        return false;
    for (uint32_t i = 0; v->slot && i <= v->mask; i++)
        if (v->slot[i].data != 0 && viewed_array(a, &v->slot[i]) != NULL) {
            *viewed_slot(&bigger, v->slot[i].data) = v->slot[i];
            bigger.n++;
        }
    struct viewed *old = v->slot;
    view_lock(a);
    *v = bigger;
    view_unlock(a);
    os_free(old);
    return true;
}

/* rcv_raw_viewed -- a buffer of this Array's memory is being made. Cannot fail: what is not remembered is merged by page, and can be
 * written by this transaction only. What changes here is read by the trap handler: under its lock. */
void rcv_raw_viewed(rcv_arena *a, rcv_off array)
{
    const struct rcv_array *r = array_at(a, array);
    if (r == NULL || r->data == 0)
        return;
    if (a->viewed == NULL && (a->viewed = os_calloc(1, sizeof *a->viewed)) == NULL)
        return;
    struct rcv_viewed *v = a->viewed;
    if ((v->slot == NULL || (v->n + 1) * 2 > v->mask) && !viewed_grow(a))
        return;
    struct viewed *slot = viewed_slot(v, r->data);
    view_lock(a);
    v->n += slot->data == 0;
    *slot = (struct viewed){.data = r->data, .array = array, .id = r->c.id};
    view_unlock(a);
}

void viewed_free(rcv_arena *a)
{
    if (a->viewed)
        os_free(a->viewed->slot);
    os_free(a->viewed);
    a->viewed = NULL;
}

/* viewed_in -- what was viewed where the page lies, or NULL. */
const struct viewed *viewed_in(rcv_arena *a, uint32_t page)
{
    rcv_off data = a->viewed && a->viewed->slot ? heap_page_block(a, page) : 0;
    const struct viewed *v = data ? viewed_slot(a->viewed, data) : NULL;
    return v && v->data ? v : NULL;
}

uint64_t viewed_id(rcv_arena *a, uint32_t page)
{
    const struct viewed *v = viewed_in(a, page);
    return v != NULL && viewed_array(a, v) != NULL ? v->id : 0;
}
