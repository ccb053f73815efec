/* mapping.c -- the mapping of a segment, and the memory behind it.
 *
 * Nothing in the object is believed before it has been checked, and nothing beyond its length is touched: that would be
 * a SIGBUS. (Another program that truncates the object *while* it is mapped still causes one; shared memory has no defence.)
 */
#include "segment.h"

#include <sys/mman.h>

_Static_assert(sizeof(struct rcv_header) <= 16384, "attaching maps it before anything else");

/* -- claiming ------------------------------------------------------------------------------------------------ */

/* seg_claim_data -- back the data region up to `upto` bytes, rounded up to a chunk. Lock held, or alone. On RCV_ERR_FULL what
 * was claimed stays. A kill between memory and mark leaves memory that the next claim takes over. No more than what is wanted: a
 * request waits while pages are cleared, 16 of them for some 15 µs. */
int seg_claim_data(rcv_arena *a, uint64_t upto)
{
    uint64_t claimed = rcv_data_claimed(a);
    if (upto > a->data_size)
        return rcv_raise(RCV_ERR_FULL, 0,
                         "arena \"%s\" is full: its size is %llu bytes; delete something, or make it anew with a larger size",
                         a->name, (unsigned long long)a->data_size);
    while (claimed < upto) {
        uint64_t n = (upto - claimed + RCV_CHUNK - 1) / RCV_CHUNK * RCV_CHUNK;
        if (n > RCV_SLICE)
            n = RCV_SLICE;
        if (n > a->data_size - claimed)
            n = a->data_size - claimed;
        CRASHPOINT("claim.before_memory");
        int err = os_populate(a->core + a->data_off + claimed, n);
        if (err != 0)
            return seg_os(a, err, "claiming memory for data");
        CRASHPOINT("claim.before_mark");
        claimed += n;
        atomic_store_explicit(&a->hdr->data_claimed, claimed, memory_order_release);
        CRASHPOINT("claim.after_mark");
    }
    return 0;
}

/* seg_backed -- offset and length of what the header says has memory behind it. */
void seg_backed(const rcv_arena *a, uint64_t out[4][2])
{
    const struct rcv_header *h = a->hdr;
    const struct rcv_region *r = h->region;
    const uint64_t           tables = r[RCV_R_SHADOW].off + r[RCV_R_SHADOW].size;
    const uint64_t           backed[4][2] = {{0, r[RCV_R_UNDO].off + atomic_load(&h->undo_claimed)},
                                             {r[RCV_R_SHADOW].off, atomic_load(&h->shadow_claimed)},
                                             {tables, r[RCV_R_DATA].off - tables},
                                             {r[RCV_R_DATA].off, rcv_data_claimed(a)}};
    memcpy(out, backed, sizeof backed);
}

/* -- mapping -------------------------------------------------------------------------------------------------- */

/* seg_map -- the core view, and the addresses that are derived from a checked (or planned) header. */
int seg_map(rcv_arena *a, const struct rcv_header *h, int protection)
{
    void    *core;
    uint64_t total = h->total_size;
    int      err = a->past != NULL ? os_map_private(object_fd(a), total, &core) : os_map_shared(object_fd(a), 0, total, protection, &core);
    if (err != 0)
        return seg_os(a, err, "mapping it");
    a->core = a->mem = core;
    a->hdr = core;
    a->total_size = total;
    a->data_off = h->region[RCV_R_DATA].off;
    a->data_size = h->region[RCV_R_DATA].size;
    a->stamps[0] = (_Atomic uint64_t *)(a->core + h->region[RCV_R_STAMP].off);
    a->stamps[1] = a->stamps[0] + h->stamp_count;
    a->stamp_mask = h->stamp_count - 1;
    a->recent = a->stamps[1] + h->stamp_count;
    a->recent_mask = h->recent_count - 1;
    a->board = (struct rcv_board *)(a->core + h->region[RCV_R_BOARD].off);
    a->undo_off = h->region[RCV_R_UNDO].off;
    a->undo_size = h->region[RCV_R_UNDO].size;
    a->undo = a->core + a->undo_off;
    return a->past != NULL ? 0 : feed_map(a, h, protection); /* what its feed had is in the files that it comes from */
}

void seg_unmap(rcv_arena *a)
{
    feed_unmap(a);
    if (a->core != NULL)
        os_unmap(a->core, a->total_size);
    a->core = NULL;
    a->hdr = NULL;
}

/* -- attaching ------------------------------------------------------------------------------------------------ */

/* seg_inspect -- look at the header alone, map nothing else: 0 and a copy of a sound one in *fixed, 1 if the object is
 * half-made, or an error. */
int seg_inspect(rcv_arena *a, uint64_t length, struct rcv_header *fixed)
{
    void    *p;
    uint64_t room = header_room();
    if (length == 0)
        return 1;
    if (length < room)
        return seg_corrupt(a, "it is %llu bytes long, which is less than a header", (unsigned long long)length);
    int err = os_map_shared(object_fd(a), 0, room, PROT_READ, &p);
    if (err != 0)
        return seg_os(a, err, "mapping its header");
    const struct rcv_header *h = p;
    int                      rc = header_half_made(h) ? 1 : header_check(a, h, length);
    if (rc == 0)
        memcpy(fixed, h, offsetof(struct rcv_header, lock));
    os_unmap(p, room);
    return rc;
}

/* seg_map_readonly -- map a sound segment read-only: 0, RCV_ERR_NOTFOUND if it is half-made, or what is wrong with it. */
int seg_map_readonly(rcv_arena *a, uint64_t length)
{
    struct rcv_header fixed;
    int               rc = seg_inspect(a, length, &fixed);
    if (rc == 1)
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "there is no arena \"%s\": its making was not finished; open it with create",
                         a->name);
    return rc != 0 ? rc : seg_map(a, &fixed, PROT_READ);
}

/* -- what others ask of it ------------------------------------------------------------------------------------- */
