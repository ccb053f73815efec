/* chunk_table.c -- what the shared table says: what is allocated, and what block starts where.
 *
 * Nothing in it is believed. Whatever is read here may be garbage, and then ends in RCV_ERR_CORRUPT: no index is used, no
 * run followed, no bit trusted before it has been held against the claimed mark and against its neighbours.
 */
#include "state.h"

const uint16_t heap_class_size[CLASSES] = {
    32,  48,  64,  80,  96,   112,  128,  144,  160,  176,  192,  224,  256,  320,  384,  448,  512,
    640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
};

/* heap_longest_run -- the longest row of zero bits among 16. */
unsigned heap_longest_run(uint32_t used)
{
    uint32_t room = ~used & 0xffffu;
    unsigned n = 0;
    for (; room; room &= room >> 1) /* each turn shortens every row by one */
        n++;
    return n;
}

/* heap_find_run -- the first of `n` zero bits in a row among 16, or -1. */
int heap_find_run(uint32_t used, unsigned n)
{
    uint32_t room = ~used & 0xffffu;
    for (unsigned i = 1; i < n; i++)
        room &= room >> 1;
    return room ? __builtin_ctz(room) : -1;
}

/* heap_block_pages -- how many pages the block has that starts at page `first`. */
unsigned heap_block_pages(uint32_t used, uint32_t firsts, unsigned first)
{
    unsigned n = 1;
    while (first + n < CHUNK_PAGES && (used >> (first + n) & 1) && !(firsts >> (first + n) & 1))
        n++;
    return n;
}

/* heap_pages_sane -- do the two bitmaps of a PAGES chunk fit each other and the count? */
bool heap_pages_sane(uint64_t info)
{
    uint32_t used = RCV_INFO_RUN(info) & 0xffffu, firsts = RCV_INFO_RUN(info) >> 16;
    uint32_t starts = used & ~(used << 1); /* a row of used pages begins with the first page of a block */
    return (firsts & ~used) == 0 && (starts & ~firsts) == 0 && (unsigned)__builtin_popcount(used) == RCV_INFO_USED(info) &&
           RCV_INFO_CLASS(info) <= RCV_SPACE_ARRAY;
}

/* heap_small_count -- marked blocks of a SMALL chunk, or UINT32_MAX if it marks blocks that it does not have. */
uint32_t heap_small_count(const uint64_t *bitmap, uint32_t blocks)
{
    uint32_t n = 0, words = (blocks + 63) / 64;
    for (uint32_t w = 0; w < words; w++)
        n += (uint32_t)__builtin_popcountll(bitmap[w]);
    if (blocks % 64 && bitmap[words - 1] >> (blocks % 64))
        return UINT32_MAX;
    return n;
}

/* -- blocks: from an offset to what the table says ------------------------------------------------------- */

static int locate_small(rcv_arena *a, rcv_off off, uint32_t in, struct place *p)
{
    unsigned cls = p->own ? p->own->cls : RCV_INFO_CLASS(p->info);
    if (unlikely(cls >= CLASSES || RCV_INFO_CLASS(p->info) != cls || RCV_INFO_KIND(p->info) != RCV_CHUNK_SMALL))
        return seg_corrupt(a, "heap chunk %u: not a size class: info %#llx", p->chunk, (unsigned long long)p->info);
    uint32_t size = heap_class_size[cls];
    p->size = size;
    p->index = (in - FIRST_BLOCK) / size;
    if (unlikely(in < FIRST_BLOCK || p->index * size != in - FIRST_BLOCK || p->index >= class_blocks(cls)))
        return seg_corrupt(a, "offset %llu is not the start of a block of %u bytes", (unsigned long long)off, size);
    p->marked = bitmap_of(a, p->chunk)[p->index / 64] >> (p->index % 64) & 1;
    p->pending = p->own && (p->own->bits[p->index / 64] >> (p->index % 64) & 1);
    if (unlikely(p->marked && RCV_INFO_USED(p->info) == 0))
        return seg_corrupt(a, "heap chunk %u: blocks are marked, but its count is 0", p->chunk);
    return 0;
}

static int locate_pages(rcv_arena *a, rcv_off off, uint32_t in, struct place *p)
{
    if (!heap_pages_sane(p->info) || RCV_INFO_KIND(p->info) != RCV_CHUNK_PAGES)
        return seg_corrupt(a, "heap chunk %u: its bitmaps of pages do not fit: info %#llx", p->chunk, (unsigned long long)p->info);
    uint32_t used = RCV_INFO_RUN(p->info) & 0xffffu, firsts = RCV_INFO_RUN(p->info) >> 16;
    p->index = in / (uint32_t)PAGE;
    p->marked = firsts >> p->index & 1;
    p->pending = p->own && (p->own->bits[1] >> p->index & 1);
    if (in % PAGE || (!p->marked && !p->pending))
        return seg_corrupt(a, "offset %llu is not the first page of a block", (unsigned long long)off);
    p->n = p->marked ? heap_block_pages(used, firsts, p->index)
                     : heap_block_pages((uint32_t)p->own->bits[0], (uint32_t)p->own->bits[1], p->index);
    p->size = p->n * PAGE;
    return 0;
}

static int locate_large(rcv_arena *a, rcv_off off, uint32_t in, struct place *p)
{
    p->index = 0;
    p->pending = p->own && p->own->bits[0];
    p->marked = RCV_INFO_KIND(p->info) == RCV_CHUNK_LARGE && RCV_INFO_USED(p->info) == 1;
    p->n = p->own ? p->own->n : RCV_INFO_RUN(p->info);
    if (in || (!p->marked && !p->pending))
        return seg_corrupt(a, "offset %llu is not the start of a large block", (unsigned long long)off);
    if (p->n == 0 || p->n > chunks_claimed(a) - p->chunk || (p->marked && RCV_INFO_RUN(p->info) != p->n) ||
        RCV_INFO_CLASS(p->marked ? p->info : 0) > RCV_SPACE_ARRAY)
        return seg_corrupt(a, "heap chunk %u: a large block of %u chunks does not fit", p->chunk, p->n);
    p->size = (uint64_t)p->n * RCV_CHUNK;
    return 0;
}

/* heap_locate -- where the block that starts at `off` lies, and what is known about it. RCV_ERR_CORRUPT: none can start there. */
int heap_locate(rcv_arena *a, rcv_off off, struct place *p)
{
    uint64_t rel = off - a->data_off;
    if (unlikely(off < a->data_off || (off & 15) || rel / RCV_CHUNK >= chunks_claimed(a)))
        return seg_corrupt(a, "offset %llu is not in the heap", (unsigned long long)off);
    uint32_t chunk = (uint32_t)(rel / RCV_CHUNK), in = (uint32_t)(rel % RCV_CHUNK);
    p->chunk = chunk;
    p->info = info_of(a, chunk);
    p->own = a->heap ? a->heap->local[chunk].own : NULL;
    p->kind = p->own ? p->own->kind : RCV_INFO_KIND(p->info);
    p->n = 1;
    if (likely(p->kind == RCV_CHUNK_SMALL))
        return locate_small(a, off, in, p);
    if (p->kind == RCV_CHUNK_PAGES)
        return locate_pages(a, off, in, p);
    if (p->kind == RCV_CHUNK_LARGE)
        return locate_large(a, off, in, p);
    return seg_corrupt(a, "offset %llu lies in a heap chunk of kind %u, where no block starts", (unsigned long long)off, p->kind);
}

int heap_block(rcv_arena *a, rcv_off off, uint64_t *size, bool *live)
{
    struct place p;
    int          rc = heap_locate(a, off, &p);
    if (rc)
        return rc;
    *size = p.size;
    *live = p.marked || p.pending;
    return 0;
}

bool heap_page_live(const rcv_arena *a, uint32_t page)
{
    uint32_t chunk = page / CHUNK_PAGES;
    if (chunk >= chunks_claimed(a))
        return false;
    uint64_t info = info_of(a, chunk);
    if (RCV_INFO_CLASS(info) != RCV_SPACE_ARRAY || RCV_INFO_USED(info) == 0)
        return false;
    switch (RCV_INFO_KIND(info)) {
    case RCV_CHUNK_PAGES: return RCV_INFO_RUN(info) >> (page % CHUNK_PAGES) & 1;
    case RCV_CHUNK_LARGE:
    case RCV_CHUNK_CONT: return true;
    default: return false;
    }
}

rcv_off heap_page_block(const rcv_arena *a, uint32_t page)
{
    if (!heap_page_live(a, page))
        return 0;
    uint32_t chunk = page / CHUNK_PAGES, in = page % CHUNK_PAGES;
    uint64_t info = info_of(a, chunk);
    if (RCV_INFO_KIND(info) == RCV_CHUNK_PAGES) {
        uint32_t firsts = (RCV_INFO_RUN(info) >> 16) & ((UINT32_C(2) << in) - 1);
        return firsts ? chunk_off(a, chunk) + (31u - (unsigned)__builtin_clz(firsts)) * PAGE : 0;
    }
    uint32_t back = RCV_INFO_KIND(info) == RCV_CHUNK_CONT ? RCV_INFO_RUN(info) : 0;
    return back <= chunk ? chunk_off(a, chunk - back) : 0;
}

/* -- looking at all of it ------------------------------------------------------------------------------------ */

void heap_stats(rcv_arena *a, struct rcv_stats *out)
{
    uint32_t n = chunks_claimed(a);
    out->size = (uint64_t)chunk_count(a) * RCV_CHUNK;
    out->claimed = rcv_data_claimed(a);
    out->used = out->reserved = 0;
    for (uint32_t chunk = 0; chunk < n; chunk++) {
        uint64_t info = info_of(a, chunk);
        unsigned cls = RCV_INFO_CLASS(info), used = RCV_INFO_USED(info);
        if (owner_of(a, chunk))
            out->reserved += RCV_CHUNK;
        switch (RCV_INFO_KIND(info)) {
        case RCV_CHUNK_SMALL: out->used += cls < CLASSES ? (uint64_t)used * heap_class_size[cls] : 0; break;
        case RCV_CHUNK_PAGES: out->used += used * PAGE; break;
        case RCV_CHUNK_LARGE:
        case RCV_CHUNK_CONT: out->used += used ? RCV_CHUNK : 0; break;
        default: break;
        }
    }
}

static int walk_small(rcv_arena *a, uint32_t chunk, uint64_t info, int (*fn)(void *, rcv_off, uint64_t), void *ctx)
{
    unsigned cls = RCV_INFO_CLASS(info);
    if (cls >= CLASSES)
        return seg_corrupt(a, "heap chunk %u: there is no size class %u", chunk, cls);
    uint32_t        n = class_blocks(cls), count = heap_small_count(bitmap_of(a, chunk), n);
    const uint64_t *bitmap = bitmap_of(a, chunk);
    if (count != RCV_INFO_USED(info))
        return seg_corrupt(a, "heap chunk %u: %u blocks counted, its bitmap marks another number", chunk, RCV_INFO_USED(info));
    for (uint32_t w = 0; w < (n + 63) / 64; w++)
        for (uint64_t bits = bitmap[w]; bits; bits &= bits - 1) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(bits);
            int      rc = fn(ctx, chunk_off(a, chunk) + FIRST_BLOCK + (uint64_t)i * heap_class_size[cls], heap_class_size[cls]);
            if (rc)
                return rc;
        }
    return 0;
}

int heap_walk(rcv_arena *a, int (*fn)(void *ctx, rcv_off off, uint64_t size), void *ctx)
{
    uint32_t n = chunks_claimed(a);
    for (uint32_t chunk = 0; chunk < n; chunk++) {
        uint64_t info = info_of(a, chunk);
        uint32_t run = RCV_INFO_RUN(info);
        unsigned cls = RCV_INFO_CLASS(info);
        int      rc = 0;
        if (RCV_INFO_USED(info) == 0)
            continue;
        switch (RCV_INFO_KIND(info)) {
        case RCV_CHUNK_SMALL: rc = walk_small(a, chunk, info, fn, ctx); break;
        case RCV_CHUNK_PAGES:
            if (!heap_pages_sane(info))
                return seg_corrupt(a, "heap chunk %u: its bitmaps of pages do not fit: info %#llx", chunk, (unsigned long long)info);
            for (unsigned page = 0; page < CHUNK_PAGES && !rc; page++)
                if (run >> (page + 16) & 1)
                    rc = fn(ctx, chunk_off(a, chunk) + page * PAGE, heap_block_pages(run & 0xffffu, run >> 16, page) * PAGE);
            break;
        case RCV_CHUNK_LARGE:
            if (run == 0 || run > n - chunk || cls > RCV_SPACE_ARRAY || RCV_INFO_USED(info) != 1)
                return seg_corrupt(a, "heap chunk %u: a large block of %u chunks does not fit", chunk, run);
            for (uint32_t i = 1; i < run; i++)
                if (info_of(a, chunk + i) != RCV_INFO(RCV_CHUNK_CONT, cls, 1, i))
                    return seg_corrupt(a, "heap chunk %u: not part %u of the large block before it", chunk + i, i);
            rc = fn(ctx, chunk_off(a, chunk), (uint64_t)run * RCV_CHUNK);
            chunk += run - 1;
            break;
        default:
            return seg_corrupt(a, "heap chunk %u: of kind %u, but %u blocks are counted", chunk, RCV_INFO_KIND(info), RCV_INFO_USED(info));
        }
        if (rc)
            return rc;
    }
    return 0;
}

bool heap_chunk_taken(const rcv_arena *a, rcv_off off, const uint8_t *was, rcv_off *chunk)
{
    const uint64_t words = a->hdr->region[RCV_R_HEAP].off + (uint64_t)chunk_count(a) * 8, i = (off - words) / 8;
    uint64_t       before;
    memcpy(&before, was, sizeof before);
    if (off < words || i >= chunks_claimed(a))
        return false;
    const uint64_t now = info_of(a, (uint32_t)i);
    *chunk = chunk_off(a, (uint32_t)i);
    return RCV_INFO_USED(before) == 0 && RCV_INFO_USED(now) != 0 && RCV_INFO_KIND(now) == RCV_CHUNK_SMALL;
}
