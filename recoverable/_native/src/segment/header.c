/* header.c -- the segment's header: what a new one says, and whether one that lies there can be believed. */
#include "segment.h"

#include <stddef.h>

#define MIN_DATA RCV_SLICE
#define MAX_DATA ((uint64_t)8 << 40) /* page numbers of the data region fit 32 bits with room to spare */
#define MIN_UNDO RCV_SLICE
#define MAX_UNDO ((uint64_t)1 << 30) /* unless asked for */
#define MIN_STAMPS 8192u
#define MAX_STAMPS (UINT64_C(1) << 31)
#define BYTES_A_STAMP 1024u /* of data, to each entry of the one table and of the other */
#define MIN_RECENT 16384u
#define MAX_RECENT 262144u /* a request that may have lost walks them all, under the lock: half a millisecond */
#define MIN_RING RCV_SLICE
#define MAX_RING ((uint64_t)1 << 31) /* a record's length has 32 bits */
#define MIN_HOT 16u
#define MAX_HOT 65536u
#define PAGES_A_HOT_SLOT 16u /* so shadows take at most a sixteenth of the ceiling */

_Static_assert(offsetof(struct rcv_header, format) == 8, "the checksum begins behind the magic");

static const char *const region_name[RCV_REGIONS] = {"header", "process table", "stamps", "hot-page table", "board",
                                                     "undo log", "shadows", "feed", "heap table", "data"};

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }
static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high) { return n < low ? low : n > high ? high : n; }

/* header_room -- bytes of the pages that it lies in. */
uint64_t header_room(void) { return round_up(sizeof(struct rcv_header), os_page_size()); }

/* header_sum -- of the part that never changes. Keyed with constants: it finds accidents, not attacks. */
uint64_t header_sum(const struct rcv_header *h)
{
    const uint64_t key[2] = {RCV_MAGIC, RCV_FORMAT};
    const size_t   from = offsetof(struct rcv_header, format);
    return rcv_siphash(key, 0, (const uint8_t *)h + from, offsetof(struct rcv_header, checksum) - from);
}

static uint64_t stamps_size(const struct rcv_header *h)
{
    return (2 * (uint64_t)h->stamp_count + h->recent_count) * sizeof(uint64_t);
}

static bool power_of_two(uint32_t n) { return n != 0 && (n & (n - 1)) == 0; }

/* ring_size -- of a feed that is to have at least that much: a power of two. 0: none was asked for. */
static uint64_t ring_size(uint64_t asked)
{
    uint64_t size = MIN_RING;
    while (size < asked && size < MAX_RING)
        size *= 2;
    return asked == 0 ? 0 : size;
}

/* header_plan -- the fixed part of a new header. RCV_ERR_MISUSE for a size that can't be. */
int header_plan(rcv_arena *a, const struct rcv_open_options *o, uint32_t uid, struct rcv_header *h)
{
    uint64_t page = os_page_size();
    if (o->size > MAX_DATA || o->undo_size > MAX_DATA)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": a size of %llu bytes is more than the format allows (%llu)", a->name,
                         (unsigned long long)(o->size > MAX_DATA ? o->size : o->undo_size), (unsigned long long)MAX_DATA);
    uint64_t data = round_up(o->size < MIN_DATA ? MIN_DATA : o->size, RCV_CHUNK);
    uint64_t undo = o->undo_size != 0 ? clamp(o->undo_size, 4 * page, MAX_DATA) : clamp(data / 2, MIN_UNDO, MAX_UNDO);
    uint64_t stamps = MIN_STAMPS, ring = ring_size(o->feed_size);
    while (stamps < MAX_STAMPS && stamps * BYTES_A_STAMP < data)
        stamps *= 2;
    h->format = RCV_FORMAT;
    h->page_size = (uint32_t)page;
    h->endian = RCV_ENDIAN_MARK;
    h->owner_uid = uid;
    h->stamp_count = (uint32_t)stamps;
    h->recent_count = (uint32_t)clamp(stamps / 4, MIN_RECENT, MAX_RECENT);
    h->hot_slots = (uint32_t)clamp(data / page / PAGES_A_HOT_SLOT, MIN_HOT, MAX_HOT);
    h->chunk_count = (uint32_t)(data / RCV_CHUNK);
    const uint64_t size[RCV_REGIONS] = {
        [RCV_R_HEADER] = sizeof(struct rcv_header),
        [RCV_R_PROCESS] = RCV_PROCESSES * sizeof(struct rcv_process),
        [RCV_R_STAMP] = stamps_size(h),
        [RCV_R_HOT] = h->hot_slots * sizeof(uint64_t),
        [RCV_R_BOARD] = sizeof(struct rcv_board),
        [RCV_R_UNDO] = undo,
        [RCV_R_SHADOW] = h->hot_slots * page,
        [RCV_R_FEED] = ring != 0 ? page + ring : 0,
        [RCV_R_HEAP] = h->chunk_count * 2 * sizeof(uint64_t),
        [RCV_R_DATA] = data,
    };
    uint64_t at = 0;
    for (int i = 0; i < RCV_REGIONS; i++) {
        h->region[i].off = at;
        h->region[i].size = round_up(size[i], page);
        at += h->region[i].size;
    }
    h->total_size = at;
    return 0;
}

/* check_format -- is it a segment of this format and machine? `h` is at least mapped. */
static int check_format(rcv_arena *a, const struct rcv_header *h)
{
    uint64_t magic = atomic_load(&h->magic);
    if (magic != RCV_MAGIC && magic != __builtin_bswap64(RCV_MAGIC))
        return seg_corrupt(a, "it does not begin as an arena does");
    if (magic != RCV_MAGIC)
        return rcv_raise(RCV_ERR_VERSION, 0, "arena \"%s\" was made by a machine of the other byte order; it is unchanged; use it "
                                             "there, or bring it here by recoverable export --portable", a->name);
    if (h->format != RCV_FORMAT)
        return rcv_raise(RCV_ERR_VERSION, 0,
                         "arena \"%s\" has format %u, this version of recoverable reads format %u; it is unchanged; use the version that "
                         "made it; to move what is in it, run recoverable/portable.py of this version with that one's Python, and "
                         "recoverable import what it writes", a->name, h->format, RCV_FORMAT);
    if (h->checksum != header_sum(h))
        return seg_corrupt(a, "its header's checksum does not fit");
    if (h->endian != RCV_ENDIAN_MARK || h->page_size != os_page_size())
        return rcv_raise(RCV_ERR_VERSION, 0,
                         "arena \"%s\" was made by a machine that differs from this one (pages of %u bytes); it is unchanged; use it "
                         "there, or bring it here by recoverable export --portable", a->name, h->page_size);
    return 0;
}

/* check_regions -- in order, apart, inside the object, and large enough for what the counts say. */
static int check_regions(rcv_arena *a, const struct rcv_header *h, uint64_t length)
{
    const uint64_t page = h->page_size;
    const uint64_t least[RCV_REGIONS] = {
        [RCV_R_HEADER] = sizeof(struct rcv_header),
        [RCV_R_PROCESS] = RCV_PROCESSES * sizeof(struct rcv_process),
        [RCV_R_STAMP] = stamps_size(h),
        [RCV_R_HOT] = (uint64_t)h->hot_slots * sizeof(uint64_t),
        [RCV_R_BOARD] = sizeof(struct rcv_board),
        [RCV_R_UNDO] = page,
        [RCV_R_SHADOW] = (uint64_t)h->hot_slots * page,
        [RCV_R_FEED] = 0,
        [RCV_R_HEAP] = (uint64_t)h->chunk_count * 2 * sizeof(uint64_t),
        [RCV_R_DATA] = RCV_CHUNK,
    };
    if (h->total_size != length)
        return seg_corrupt(a, "it is %llu bytes long, but was made with %llu", (unsigned long long)length,
                           (unsigned long long)h->total_size);
    uint64_t end = 0;
    for (int i = 0; i < RCV_REGIONS; i++) {
        const struct rcv_region *r = &h->region[i];
        if (r->off % page != 0 || r->size % page != 0 || r->off < end || r->off > length || r->size > length - r->off ||
            r->size < least[i] || (i == RCV_R_HEADER && r->off != 0))
            return seg_corrupt(a, "its %s (%llu bytes at %llu) can't be there", region_name[i], (unsigned long long)r->size,
                               (unsigned long long)r->off);
        end = r->off + r->size;
    }
    const uint64_t feed = h->region[RCV_R_FEED].size, ring = feed > page ? feed - page : 0;
    if (feed != 0 && (ring < MIN_RING || ring > MAX_RING || (ring & (ring - 1)) != 0))
        return seg_corrupt(a, "its feed takes %llu bytes, which can't be", (unsigned long long)feed);
    if (!power_of_two(h->stamp_count) || !power_of_two(h->recent_count))
        return seg_corrupt(a, "its stamps have %u entries, and room for %u units", h->stamp_count, h->recent_count);
    if ((uint64_t)h->chunk_count * RCV_CHUNK != h->region[RCV_R_DATA].size)
        return seg_corrupt(a, "its heap has %u chunks, which does not fit its data", h->chunk_count);
    return 0;
}

/* check_live -- what changes while it lives, as far as it must hold at every moment. */
static int check_live(rcv_arena *a, const struct rcv_header *h)
{
    const uint64_t page = h->page_size;
    const struct {
        const char *what;
        uint64_t    mark, size, least;
    } claimed[] = {
        {"data", atomic_load(&h->data_claimed), h->region[RCV_R_DATA].size, page},
        {"undo log", atomic_load(&h->undo_claimed), h->region[RCV_R_UNDO].size, page},
        {"shadows", atomic_load(&h->shadow_claimed), h->region[RCV_R_SHADOW].size, 0},
    };
    for (size_t i = 0; i < sizeof claimed / sizeof *claimed; i++)
        if (claimed[i].mark > claimed[i].size || claimed[i].mark % page != 0 || claimed[i].mark < claimed[i].least)
            return seg_corrupt(a, "%llu bytes of its %s are said to be backed, of %llu", (unsigned long long)claimed[i].mark,
                               claimed[i].what, (unsigned long long)claimed[i].size);
    if (atomic_load(&h->corrupt) != 0)
        return seg_corrupt(a, "an earlier recovery found damage");
    if (atomic_load(&h->phase) > RCV_PUBLISH)
        return seg_corrupt(a, "its phase is %u", atomic_load(&h->phase));
    const struct rcv_region *data = &h->region[RCV_R_DATA];
    const uint64_t           links[3] = {atomic_load(&h->root), atomic_load(&h->reclaim), atomic_load(&h->system)};
    for (int i = 0; i < 3; i++) /* the links themselves are walked by those who follow them */
        if (links[i] != 0 && ((links[i] & 7) != 0 || links[i] < data->off || links[i] - data->off >= claimed[0].mark))
            return seg_corrupt(a, "its %s (%llu) lies outside the data", i == 0 ? "root" : i == 1 ? "list of what is to be freed" : "system Dict",
                               (unsigned long long)links[i]);
    return 0;
}

/* header_check -- nothing in it is believed before this has been 0. */
int header_check(rcv_arena *a, const struct rcv_header *h, uint64_t length)
{
    int rc = check_format(a, h);
    if (rc == 0)
        rc = check_regions(a, h, length);
    return rc == 0 ? check_live(a, h) : rc;
}

/* header_half_made -- no magic, and nothing that only a finished segment has: then it was never committed to. */
bool header_half_made(const struct rcv_header *h)
{
    return atomic_load(&h->magic) == 0 && atomic_load(&h->root) == 0 && atomic_load(&h->commit_seq) == 0 &&
           atomic_load(&h->txn_counter) == 0 && atomic_load(&h->container_counter) == 0 &&
           atomic_load(&h->process_counter) == 0;
}
