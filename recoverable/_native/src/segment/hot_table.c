/* hot_table.c -- the table of hot pages in the segment, as recovery and its readers need it; pages/hot.c says what it is for.
 *
 * Nothing here needs a tracker: a segment is recovered before there is one.
 */
#include "segment.h"

/* hot_slots_backed -- how many slots have memory behind their shadows: no entry lies beyond. */
uint64_t hot_slots_backed(const rcv_arena *a)
{
    return atomic_load_explicit(&a->hdr->shadow_claimed, memory_order_acquire) / a->hdr->page_size;
}

/* hot_entry -- a slot's page + 1, or 0; RCV_ERR_CORRUPT if it names a page that is not there. */
int hot_entry(rcv_arena *a, uint32_t slot, uint64_t claimed, uint32_t *page_plus_1)
{
    uint64_t e = atomic_load_explicit(&hot_table(a)[slot], memory_order_acquire);
    if (e != 0 && ((uint32_t)e == 0 || HOT_PAGE(e) >= claimed))
        return seg_corrupt(a, "slot %u of the hot-page table names page %u, of %llu", slot, HOT_PAGE(e),
                           (unsigned long long)claimed);
    *page_plus_1 = (uint32_t)e;
    return 0;
}

/* check_table -- every entry names a claimed page, no page twice, none beyond the memory of the shadows. */
static int check_table(rcv_arena *a, uint64_t slots, uint64_t backed, uint64_t claimed)
{
    uint8_t *seen = os_calloc(claimed / 8 + 1, 1);
    int      rc = seen ? 0 : rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for checking its hot-page table", a->name);
    for (uint32_t slot = 0; slot < slots && rc == 0; slot++) {
        uint32_t p;
        if ((rc = hot_entry(a, slot, claimed, &p)) != 0 || p-- == 0)
            continue;
        if (slot >= backed)
            rc = seg_corrupt(a, "slot %u of the hot-page table has no memory behind its shadow", slot);
        else if (seen[p / 8] & 1u << p % 8)
            rc = seg_corrupt(a, "two slots of the hot-page table name page %u", p);
        seen[p / 8] = (uint8_t)(seen[p / 8] | 1u << p % 8);
    }
    os_free(seen);
    return rc;
}

/* hot_slots_usable -- of the table, as far as the regions have room. */
uint64_t hot_slots_usable(const rcv_arena *a)
{
    const struct rcv_header *h = a->hdr;
    uint64_t                 n = h->hot_slots;
    if (n > h->region[RCV_R_HOT].size / sizeof(uint64_t))
        n = h->region[RCV_R_HOT].size / sizeof(uint64_t);
    if (n > h->region[RCV_R_SHADOW].size / h->page_size)
        n = h->region[RCV_R_SHADOW].size / h->page_size;
    return n;
}

/* hot_recover -- shadows -> data, or data -> shadows, of all listed pages. Works on the bare segment: `a->tracker` may be
 * missing. Idempotent. RCV_ERR_CORRUPT before anything is written. */
int hot_recover(rcv_arena *a, bool from_shadow, struct rcv_recovery *report)
{
    uint64_t page_size = a->hdr->page_size, slots = hot_slots_usable(a), backed = hot_slots_backed(a);
    uint64_t claimed = rcv_data_claimed(a) / page_size;
    if (backed > slots)
        return seg_corrupt(a, "its shadows claim %llu pages, there is room for %llu", (unsigned long long)backed,
                           (unsigned long long)slots);
    int rc = check_table(a, slots, backed, claimed);
    if (rc != 0)
        return rc;
    for (uint32_t slot = 0; slot < backed; slot++) {
        uint64_t e = atomic_load_explicit(&hot_table(a)[slot], memory_order_relaxed);
        if (e == 0)
            continue;
        uint8_t *data = a->core + a->data_off + HOT_PAGE(e) * page_size, *shadow = hot_shadow(a, slot);
        if (memcmp(data, shadow, page_size) == 0)
            continue;
        memcpy(from_shadow ? data : shadow, from_shadow ? shadow : data, page_size);
        CRASHPOINT("hot.recovered");
        report->pages += from_shadow;
    }
    atomic_fetch_add_explicit(&a->hdr->hot_generation, 1, memory_order_release);
    return 0;
}

/* hot_forget -- each entry by itself may go at any time, as shadows and data are equal. */
void hot_forget(rcv_arena *a)
{
    for (uint64_t slot = 0, n = hot_slots_usable(a); slot < n; slot++)
        atomic_store_explicit(&hot_table(a)[slot], 0, memory_order_release);
    atomic_fetch_add_explicit(&a->hdr->hot_generation, 1, memory_order_release);
}
