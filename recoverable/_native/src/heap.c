/* heap.c -- the allocator: which bytes of the data region belong to somebody.
 *
 * What we want
 *   - An allocation costs tens of nanoseconds and needs no undo: most transactions that allocate commit, and those that
 *     do not should leave nothing to take back.
 *   - A killed process never leaks what it had not committed, and never holds anybody up.
 *   - Several processes allocate from one arena without meeting.
 *   - What one transaction allocates lies close together, and the metadata it dirties is a few cache lines.
 *
 * What does not work, and why
 *   A free list threaded through the blocks puts metadata where a stray write finds it, makes every allocation a change of
 *   shared state that must be logged, and lets two processes fight for its head. Marking a block when it is handed out, and
 *   unmarking it at rollback, leaks it when the process is killed in between.
 *
 * What does
 *   The data region is cut into chunks of 64 KiB. A shared table (layout.h) has two words a chunk: `info` says what is
 *   allocated in it -- committed state, changed only inside a step, through the undo log -- and `owner` says which process
 *   hands out its free blocks. To *reserve* a chunk is one atomic store of `owner`, outside the undo log: a reservation says
 *   nothing about the state, so there is nothing to undo, and that of a dead process is void (heap_return_dead).
 *
 *   A block is free for its owner if it is neither marked in the shared bitmap nor *pending*: handed out to a transaction
 *   of this process that has not committed. Pending bits live in process memory only. So heap_reserve sets a bit in process
 *   memory, heap_unreserve clears it, and only the commit (heap_commit_alloc) touches shared state. Whoever dies in between
 *   takes its pending bits along.
 *
 *       free for us = ~(marked | pending)     marked: shared, logged     pending: ours, forgotten with us
 *
 *   Any process may free a block (heap_commit_free) in any chunk; only a chunk's owner marks blocks in it, under the lock.
 *
 *   Three kinds of chunk: SMALL has blocks of one size class behind a bitmap; PAGES has blocks of 1 to 15 pages and keeps
 *   its bitmaps in `info`, so that a page in the array space shares itself with nobody; LARGE is a row of whole chunks.
 *   A chunk in which nothing is allocated and that nobody owns is free, whatever its kind says: to give it a new kind at
 *   reservation needs no undo either.
 *
 * The held chunks
 *   A block freed in a step is free only if that step commits: handing it out before that would let its new user
 *   overwrite what the undo log does not cover. A chunk in which this step freed something is therefore *held*: nothing is
 *   handed out from it until the step is over. Normally frees are the last thing before PUBLISH and nobody notices.
 *
 * Where a chunk with room is found
 *   Process-local hints: a bitmap of free chunks and lists of partly used ones, a list a class. They are filled by one scan at
 *   heap_open, by what this process frees, and by a scan of a few hundred chunks each time they run dry. A hint is never
 *   believed: the table's words are checked before a chunk is taken. The whole table is scanned only before saying "full".
 *
 * Where it still fails
 *   - A partly used chunk that another process freed into is found late; until then more memory is claimed than need be.
 *   - Memory once claimed is never given back to the system.
 *   - A chunk is of one class: a state that shrinks leaves sparse chunks, and only blocks of the same class fill them.
 */
#include "internal.h"

#include <stdlib.h>

#define PAGE UINT64_C(4096)
#define CHUNK_PAGES 16u /* 64 KiB of 4 KiB pages */
#define SMALL_MAX UINT64_C(8192)
#define CLASSES 31u      /* 32, 48 … 128, then four a doubling up to 8 KiB */
#define FIRST_BLOCK ((uint32_t)sizeof(struct rcv_small_chunk))
#define LOW_WATER 4u     /* free chunks below which a boundary claims a slice */
#define SCAN_SOME 512u   /* chunks looked at when the hints have run dry */
#define DROPS 64u        /* reservations that one boundary gives back */

/* Lists of chunks, and of own chunks, with room: one for each size class, one for each length of the longest free run of
 * pages in each space. */
enum { LIST_NONE = 0, LIST_SMALL = 1, LIST_PAGES = LIST_SMALL + CLASSES, LISTS = LIST_PAGES + 2 * CHUNK_PAGES, LIST_HELD = 255 };

struct own { /* a chunk, or a LARGE row of them, that this process has reserved */
    uint32_t    chunk;
    uint32_t    n;        /* SMALL: blocks. LARGE: chunks */
    uint32_t    pending;  /* blocks handed out and not settled */
    uint32_t    size;     /* SMALL: of a block */
    uint32_t    cursor;   /* SMALL: no bitmap word before this one has room */
    uint32_t    words;    /* SMALL: bitmap words in use */
    uint64_t    last;     /* SMALL: which bits of the last word are blocks */
    uint8_t     kind, cls;
    uint8_t     list;     /* in which of heap.own, or LIST_NONE */
    bool        queued;   /* in heap.drops */
    struct own *prev, *next; /* in that list */
    struct own *drop;        /* in heap.drops; in heap.spare */
    struct own *older, *newer; /* all of them */
    uint64_t    bits[RCV_BITMAP_WORDS]; /* pending blocks. PAGES: bits[0] pages, bits[1] first pages. LARGE: bits[0] */
};

struct local { /* what this process knows about a chunk */
    struct own *own;
    uint32_t    prev, next; /* chunk + 1, in the hint list or among the held */
    uint8_t     list;       /* LIST_… */
};

struct rcv_heap {
    uint32_t      chunks;  /* in the arena */
    uint32_t      known;   /* of those, claimed as far as we have looked */
    struct local *local;
    uint64_t     *free;    /* hint: chunks with nothing in them */
    uint32_t      n_free, free_low /* word below which no bit is set */;
    uint32_t      hint[LISTS]; /* chunk + 1 */
    uint32_t      held;        /* chunk + 1 */
    uint64_t      held_tail;   /* the undo tail after the last free of the step that holds them */
    uint32_t      scan_at;     /* where scanning for hints goes on */
    uint32_t      idle_at;     /* which current chunk to give back next when memory is short */
    bool          claim_failed; /* the last claim ahead of need did: leave it to who needs it */
    struct own   *current[CLASSES + 2]; /* where the next block of a class comes from; the last two: pages in each space */
    struct own   *own[LISTS];
    struct own   *drops; /* without pending blocks: to be given back under the lock */
    struct own   *spare; /* records for reuse */
    struct own   *newest;
    uint8_t       class_of[SMALL_MAX / 16 + 1]; /* by size in 16-byte units */
};

static const uint16_t class_size[CLASSES] = {
    32,  48,  64,  80,   96,   112,  128,  160,  192,  224,  256,  320,  384,  448,  512, 640,
    768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
};

/* -- the shared table --------------------------------------------------------------------------------- */

static inline uint32_t chunk_count(const rcv_arena *a) { return a->hdr->chunk_count; }

static inline _Atomic uint64_t *owner_word(const rcv_arena *a, uint32_t chunk)
{
    return (_Atomic uint64_t *)(void *)(a->core + a->hdr->region[RCV_R_HEAP].off) + chunk;
}

static inline _Atomic uint64_t *info_word(const rcv_arena *a, uint32_t chunk)
{
    return owner_word(a, chunk_count(a)) + chunk;
}

static inline uint64_t owner_of(const rcv_arena *a, uint32_t chunk)
{
    return atomic_load_explicit(owner_word(a, chunk), memory_order_relaxed);
}

static inline uint64_t info_of(const rcv_arena *a, uint32_t chunk)
{
    return atomic_load_explicit(info_word(a, chunk), memory_order_relaxed);
}

static inline void owner_set(const rcv_arena *a, uint32_t chunk, uint64_t token)
{
    atomic_store_explicit(owner_word(a, chunk), token, memory_order_relaxed);
    store_fence();
}

static inline void info_set(const rcv_arena *a, uint32_t chunk, uint64_t info)
{
    store_fence();
    atomic_store_explicit(info_word(a, chunk), info, memory_order_relaxed);
    store_fence();
}

static inline rcv_off chunk_off(const rcv_arena *a, uint32_t chunk) { return a->data_off + (uint64_t)chunk * RCV_CHUNK; }
static inline rcv_off word_off(const rcv_arena *a, const void *word) { return (rcv_off)((const uint8_t *)word - a->core); }

/* chunks_claimed -- how many chunks have memory behind them. */
static inline uint32_t chunks_claimed(const rcv_arena *a)
{
    uint64_t n = rcv_data_claimed(a) / RCV_CHUNK;
    return n < chunk_count(a) ? (uint32_t)n : chunk_count(a);
}

static inline uint64_t *bitmap_of(const rcv_arena *a, uint32_t chunk)
{
    return ((struct rcv_small_chunk *)(void *)(a->core + chunk_off(a, chunk)))->bitmap;
}

static inline uint32_t class_blocks(unsigned cls) { return ((uint32_t)RCV_CHUNK - FIRST_BLOCK) / class_size[cls]; }

/* longest_run -- the longest row of zero bits among 16. */
static unsigned longest_run(uint32_t used)
{
    uint32_t room = ~used & 0xffffu;
    unsigned n = 0;
    for (; room; room &= room >> 1) /* each turn shortens every row by one */
        n++;
    return n;
}

/* find_run -- the first of `n` zero bits in a row among 16, or -1. */
static int find_run(uint32_t used, unsigned n)
{
    uint32_t room = ~used & 0xffffu;
    for (unsigned i = 1; i < n; i++)
        room &= room >> 1;
    return room ? __builtin_ctz(room) : -1;
}

/* block_pages -- how many pages the block has that starts at page `first`. */
static unsigned block_pages(uint32_t used, uint32_t firsts, unsigned first)
{
    unsigned n = 1;
    while (first + n < CHUNK_PAGES && (used >> (first + n) & 1) && !(firsts >> (first + n) & 1))
        n++;
    return n;
}

/* pages_sane -- do the two bitmaps of a PAGES chunk fit each other and the count? */
static bool pages_sane(uint64_t info)
{
    uint32_t used = RCV_INFO_RUN(info) & 0xffffu, firsts = RCV_INFO_RUN(info) >> 16;
    uint32_t starts = used & ~(used << 1); /* a row of used pages begins with the first page of a block */
    return (firsts & ~used) == 0 && (starts & ~firsts) == 0 && (unsigned)__builtin_popcount(used) == RCV_INFO_USED(info) &&
           RCV_INFO_CLASS(info) <= RCV_SPACE_ARRAY;
}

/* small_count -- marked blocks of a SMALL chunk, or UINT32_MAX if it marks blocks that it does not have. */
static uint32_t small_count(const uint64_t *bitmap, uint32_t blocks)
{
    uint32_t n = 0, words = (blocks + 63) / 64;
    for (uint32_t w = 0; w < words; w++)
        n += (uint32_t)__builtin_popcountll(bitmap[w]);
    if (blocks % 64 && bitmap[words - 1] >> (blocks % 64))
        return UINT32_MAX;
    return n;
}

/* -- hints: where there may be room ------------------------------------------------------------------- */

static inline bool is_free_bit(const struct rcv_heap *h, uint32_t chunk) { return h->free[chunk / 64] >> (chunk % 64) & 1; }

static void free_bit_set(struct rcv_heap *h, uint32_t chunk)
{
    if (is_free_bit(h, chunk))
        return;
    h->free[chunk / 64] |= UINT64_C(1) << (chunk % 64);
    h->n_free++;
    if (chunk / 64 < h->free_low)
        h->free_low = chunk / 64;
}

static void free_bit_clear(struct rcv_heap *h, uint32_t chunk)
{
    if (!is_free_bit(h, chunk))
        return;
    h->free[chunk / 64] &= ~(UINT64_C(1) << (chunk % 64));
    h->n_free--;
}

static uint32_t *list_head(struct rcv_heap *h, unsigned list) { return list == LIST_HELD ? &h->held : &h->hint[list]; }

static void local_unlink(struct rcv_heap *h, uint32_t chunk)
{
    struct local *l = &h->local[chunk];
    if (l->list == LIST_NONE)
        return;
    if (l->prev)
        h->local[l->prev - 1].next = l->next;
    else
        *list_head(h, l->list) = l->next;
    if (l->next)
        h->local[l->next - 1].prev = l->prev;
    l->list = LIST_NONE;
    l->prev = l->next = 0;
}

static void local_link(struct rcv_heap *h, uint32_t chunk, unsigned list)
{
    struct local *l = &h->local[chunk];
    uint32_t     *head = list_head(h, list);
    if (l->list == list)
        return;
    local_unlink(h, chunk);
    l->list = (uint8_t)list;
    l->next = *head;
    if (*head)
        h->local[*head - 1].prev = chunk + 1;
    *head = chunk + 1;
}

/* hint_list -- in which list a partly used chunk belongs: LIST_NONE if it has not enough room to be worth a reservation
 * (`all`: any room will do), or makes no sense. */
static unsigned hint_list(uint64_t info, bool all)
{
    unsigned cls = RCV_INFO_CLASS(info), used = RCV_INFO_USED(info);
    if (RCV_INFO_KIND(info) == RCV_CHUNK_SMALL && cls < CLASSES) {
        uint32_t n = class_blocks(cls), enough = all || n < 16 ? 1 : n / 8;
        return used < n && n - used >= enough ? LIST_SMALL + cls : LIST_NONE;
    }
    if (RCV_INFO_KIND(info) == RCV_CHUNK_PAGES && pages_sane(info)) {
        unsigned run = longest_run(RCV_INFO_RUN(info));
        return run ? LIST_PAGES + cls * CHUNK_PAGES + run - 1 : LIST_NONE;
    }
    return LIST_NONE;
}

/* hint -- look at the table's words of a chunk that is not ours and remember what can be had there. */
static void hint(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk, bool all)
{
    if (h->local[chunk].own || h->local[chunk].list == LIST_HELD)
        return;
    uint64_t info = info_of(a, chunk);
    unsigned list = LIST_NONE;
    bool     empty = false;
    if (owner_of(a, chunk) == 0) {
        empty = RCV_INFO_USED(info) == 0;
        list = empty ? LIST_NONE : hint_list(info, all);
    }
    if (empty)
        free_bit_set(h, chunk);
    else
        free_bit_clear(h, chunk);
    if (list == LIST_NONE)
        local_unlink(h, chunk);
    else
        local_link(h, chunk, list);
}

/* learn -- take up chunks that have been claimed since the last look, by us or by another process. */
static void learn(const rcv_arena *a, struct rcv_heap *h)
{
    uint32_t claimed = chunks_claimed(a);
    while (h->known < claimed)
        hint(a, h, h->known++, false);
}

static void scan_some(const rcv_arena *a, struct rcv_heap *h)
{
    uint32_t n = h->known < SCAN_SOME ? h->known : SCAN_SOME;
    while (n--) {
        if (h->scan_at >= h->known)
            h->scan_at = 0;
        hint(a, h, h->scan_at++, false);
    }
}

static void scan_all(const rcv_arena *a, struct rcv_heap *h)
{
    learn(a, h);
    for (uint32_t chunk = 0; chunk < h->known; chunk++)
        hint(a, h, chunk, true);
}

/* -- own chunks ------------------------------------------------------------------------------------------ */

static void own_unlink(struct rcv_heap *h, struct own *o)
{
    if (o->list == LIST_NONE)
        return;
    if (o->prev)
        o->prev->next = o->next;
    else
        h->own[o->list] = o->next;
    if (o->next)
        o->next->prev = o->prev;
    o->prev = o->next = NULL;
    o->list = LIST_NONE;
}

static void own_link(struct rcv_heap *h, struct own *o, unsigned list)
{
    if (o->list == list)
        return;
    own_unlink(h, o);
    if (list == LIST_NONE)
        return;
    o->list = (uint8_t)list;
    o->next = h->own[list];
    if (o->next)
        o->next->prev = o;
    h->own[list] = o;
}

static inline struct own **current_of(struct rcv_heap *h, const struct own *o)
{
    return &h->current[o->kind == RCV_CHUNK_PAGES ? CLASSES + o->cls : o->cls];
}

static inline bool is_current(struct rcv_heap *h, const struct own *o)
{
    return o->kind != RCV_CHUNK_LARGE && *current_of(h, o) == o;
}

static inline void own_queue(struct rcv_heap *h, struct own *o)
{
    if (o->queued || o->pending)
        return;
    o->queued = true;
    o->drop = h->drops;
    h->drops = o;
}

static inline uint32_t own_pages_used(const rcv_arena *a, const struct own *o)
{
    return (RCV_INFO_RUN(info_of(a, o->chunk)) | (uint32_t)o->bits[0]) & 0xffffu;
}

/* own_place -- put a chunk that has room where heap_reserve finds it; without pending blocks and not in use, it is to be
 * given back. */
static void own_place(const rcv_arena *a, struct rcv_heap *h, struct own *o)
{
    if (o->kind == RCV_CHUNK_SMALL) {
        if (*current_of(h, o) == NULL)
            *current_of(h, o) = o;
        else if (*current_of(h, o) != o)
            own_link(h, o, LIST_SMALL + o->cls);
    } else if (o->kind == RCV_CHUNK_PAGES) {
        unsigned run = longest_run(own_pages_used(a, o));
        own_link(h, o, run ? LIST_PAGES + o->cls * CHUNK_PAGES + run - 1 : LIST_NONE);
    }
    if (o->pending == 0 && !is_current(h, o))
        own_queue(h, o);
}

/* own_new -- a record for a chunk about to be reserved; NULL: no process memory. */
static struct own *own_new(struct rcv_heap *h)
{
    struct own *o = h->spare;
    if (o)
        h->spare = o->drop;
    else if ((o = os_malloc(sizeof *o)) == NULL)
        return NULL;
    memset(o, 0, sizeof *o);
    return o;
}

/* own_add -- fill it in: from now on the chunk is ours. */
static void own_add(struct rcv_heap *h, struct own *o, uint32_t chunk, unsigned kind, unsigned cls, uint32_t n)
{
    o->chunk = chunk;
    o->kind = (uint8_t)kind;
    o->cls = (uint8_t)cls;
    o->n = n;
    if (kind == RCV_CHUNK_SMALL) {
        o->size = class_size[cls];
        o->words = (n + 63) / 64;
        o->last = n % 64 ? (UINT64_C(1) << (n % 64)) - 1 : ~UINT64_C(0);
    }
    o->older = h->newest;
    if (o->older)
        o->older->newer = o;
    h->newest = o;
    h->local[chunk].own = o;
    local_unlink(h, chunk);
    free_bit_clear(h, chunk);
}

static void own_forget(struct rcv_heap *h, struct own *o)
{
    own_unlink(h, o);
    if (is_current(h, o))
        *current_of(h, o) = NULL;
    if (o->newer)
        o->newer->older = o->older;
    else
        h->newest = o->older;
    if (o->older)
        o->older->newer = o->newer;
    h->local[o->chunk].own = NULL;
    o->drop = h->spare;
    h->spare = o;
}

/* own_drop -- give the reservation back. Lock held; must not be queued or have pending blocks. */
static void own_drop(const rcv_arena *a, struct rcv_heap *h, struct own *o)
{
    uint32_t chunk = o->chunk, n = o->kind == RCV_CHUNK_LARGE ? o->n : 1;
    own_forget(h, o);
    for (uint32_t i = 0; i < n; i++) {
        owner_set(a, chunk + i, 0);
        hint(a, h, chunk + i, false);
    }
}

/* drops_run -- give back up to `max` of the queued reservations. */
static void drops_run(const rcv_arena *a, struct rcv_heap *h, uint32_t max)
{
    while (h->drops && max--) {
        struct own *o = h->drops;
        h->drops = o->drop;
        o->queued = false;
        if (o->pending == 0 && !is_current(h, o) && h->local[o->chunk].list != LIST_HELD)
            own_drop(a, h, o);
    }
}

/* -- held chunks ----------------------------------------------------------------------------------------- */

/* hold -- a block of this chunk was freed in a step that has not committed yet. */
static void hold(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk)
{
    struct own *o = h->local[chunk].own;
    h->held_tail = undo_tail(a);
    if (h->local[chunk].list == LIST_HELD)
        return;
    local_link(h, chunk, LIST_HELD);
    if (o) {
        own_unlink(h, o);
        if (is_current(h, o))
            *current_of(h, o) = NULL;
    }
}

static void held_release(const rcv_arena *a, struct rcv_heap *h)
{
    while (h->held) {
        uint32_t chunk = h->held - 1;
        local_unlink(h, chunk);
        if (h->local[chunk].own)
            own_place(a, h, h->local[chunk].own);
        else
            hint(a, h, chunk, false);
    }
}

/* step_is_over -- has the step that holds chunks ended? Its tail only grows, and the next one's begins at 0. */
static bool step_is_over(const rcv_arena *a, const struct rcv_heap *h)
{
    return atomic_load_explicit(&a->hdr->phase, memory_order_relaxed) != RCV_STEP || undo_tail(a) < h->held_tail;
}

/* -- finding room ---------------------------------------------------------------------------------------- */

static int no_memory(void) { return rcv_raise(RCV_ERR_FULL, 0, "out of process memory in the arena's allocator; nothing was changed"); }

/* chunk_is_free -- nobody's and empty, whatever the hints say? */
static inline bool chunk_is_free(const rcv_arena *a, const struct rcv_heap *h, uint32_t chunk)
{
    return owner_of(a, chunk) == 0 && RCV_INFO_USED(info_of(a, chunk)) == 0 && h->local[chunk].list != LIST_HELD &&
           h->local[chunk].own == NULL;
}

/* take_hinted -- reserve a partly used chunk of one of the lists lo..hi, or NULL. Every hint that does not hold is dropped. */
static struct own *take_hinted(const rcv_arena *a, struct rcv_heap *h, struct own *o, unsigned lo, unsigned hi)
{
    for (unsigned list = lo; list <= hi; list++)
        while (h->hint[list]) {
            uint32_t chunk = h->hint[list] - 1;
            uint64_t info = info_of(a, chunk);
            unsigned cls = RCV_INFO_CLASS(info);
            local_unlink(h, chunk);
            unsigned is = hint_list(info, true);
            if (owner_of(a, chunk) != 0 || RCV_INFO_USED(info) == 0 || is < lo || is > hi) {
                hint(a, h, chunk, false); /* in another list, if at all */
                continue;
            }
            bool     small = RCV_INFO_KIND(info) == RCV_CHUNK_SMALL;
            uint32_t n = small ? class_blocks(cls) : CHUNK_PAGES;
            if (small && small_count(bitmap_of(a, chunk), n) != RCV_INFO_USED(info))
                continue; /* damaged: rcv_verify says so; we stay away */
            owner_set(a, chunk, a->token);
            own_add(h, o, chunk, RCV_INFO_KIND(info), cls, n);
            return o;
        }
    return NULL;
}

/* take_free -- reserve a free chunk and give it a kind, or NULL. */
static struct own *take_free(const rcv_arena *a, struct rcv_heap *h, struct own *o, unsigned kind, unsigned cls)
{
    uint32_t words = (h->known + 63) / 64;
    for (; h->n_free && h->free_low < words; h->free_low++)
        while (h->free[h->free_low]) {
            uint32_t chunk = h->free_low * 64 + (uint32_t)__builtin_ctzll(h->free[h->free_low]);
            free_bit_clear(h, chunk);
            if (!chunk_is_free(a, h, chunk)) {
                hint(a, h, chunk, false);
                continue;
            }
            owner_set(a, chunk, a->token);
            CRASHPOINT("heap.reserve.after_owner");
            if (kind == RCV_CHUNK_SMALL)
                memset(bitmap_of(a, chunk), 0, sizeof(struct rcv_small_chunk));
            info_set(a, chunk, RCV_INFO(kind, cls, 0, 0)); /* not logged: it says "nothing here" before and after */
            CRASHPOINT("heap.reserve.after_kind");
            own_add(h, o, chunk, kind, cls, kind == RCV_CHUNK_SMALL ? class_blocks(cls) : CHUNK_PAGES);
            return o;
        }
    return NULL;
}

/* claim -- memory for `n` more chunks. RCV_ERR_FULL: at the ceiling (no text), or none behind it (with text). */
static int claim(rcv_arena *a, struct rcv_heap *h, uint32_t n)
{
    uint32_t claimed = chunks_claimed(a);
    if (n > h->chunks - claimed)
        return RCV_ERR_FULL;
    int rc = seg_claim_data(a, ((uint64_t)claimed + n) * RCV_CHUNK);
    learn(a, h); /* part of it may have been claimed before it failed */
    h->claim_failed = rc != 0;
    return rc;
}

/* full -- say what is full. 0: it is not, memory has come back in the meantime. */
static int full(rcv_arena *a, struct rcv_heap *h, uint64_t wanted, uint32_t chunks)
{
    struct rcv_stats s;
    if (chunks <= h->chunks - chunks_claimed(a))
        return claim(a, h, chunks); /* what is full is the memory behind the arena, and that error says so */
    memset(&s, 0, sizeof s);
    heap_stats(a, &s);
    return rcv_raise(RCV_ERR_FULL, 0,
                     "the arena is full: %llu bytes wanted, %llu of %llu bytes are allocated and chunks of %llu bytes reserved; "
                     "nothing was changed; delete something or make the arena larger",
                     (unsigned long long)wanted, (unsigned long long)s.used, (unsigned long long)s.size,
                     (unsigned long long)s.reserved);
}

/* last_resort -- before saying "full": what dead processes had reserved, what we hold without need, the whole table. */
static int last_resort(rcv_arena *a, struct rcv_heap *h)
{
    uint64_t returned;
    int      rc = heap_return_dead(a, &returned);
    if (rc)
        return rc;
    drops_run(a, h, UINT32_MAX);
    for (struct own *o = h->newest, *older; o; o = older) {
        older = o->older;
        if (o->pending == 0 && !o->queued && h->local[o->chunk].list != LIST_HELD)
            own_drop(a, h, o);
    }
    scan_all(a, h);
    return 0;
}

/* acquire -- an own chunk with room: of class `cls`, or with `pages` free pages in a row in space `cls`. It is in no list, and
 * current if SMALL. RCV_ERR_FULL leaves everything as it was. */
static int acquire(rcv_arena *a, struct rcv_heap *h, unsigned kind, unsigned cls, unsigned pages, uint64_t wanted, struct own **out)
{
    unsigned lo = LIST_SMALL + cls, hi = lo;
    if (kind == RCV_CHUNK_PAGES) {
        lo = LIST_PAGES + cls * CHUNK_PAGES + pages - 1;
        hi = LIST_PAGES + cls * CHUNK_PAGES + CHUNK_PAGES - 1;
    }
    if (h->held && step_is_over(a, h)) {
        held_release(a, h);
        if (kind == RCV_CHUNK_SMALL && (*out = h->current[cls]) != NULL)
            return 0;
    }
    for (unsigned list = lo; list <= hi; list++)
        if ((*out = h->own[list]) != NULL) {
            own_unlink(h, *out);
            if (kind == RCV_CHUNK_SMALL)
                h->current[cls] = *out;
            return 0;
        }
    struct own *fresh = own_new(h), *o = NULL;
    if (!fresh)
        return no_memory();
    learn(a, h);
    for (int stage = 0; !o; stage++) {
        int rc = 0;
        if ((o = take_hinted(a, h, fresh, lo, hi)) != NULL || (o = take_free(a, h, fresh, kind, cls)) != NULL)
            break;
        switch (stage) {
        case 0: scan_some(a, h); break;
        case 1: (void)claim(a, h, 1); break;
        case 2: rc = last_resort(a, h); break;
        default: rc = full(a, h, wanted, 1); break;
        }
        if (rc) {
            fresh->drop = h->spare;
            h->spare = fresh;
            return rc;
        }
        if (stage >= 3)
            stage = 0;
    }
    if (kind == RCV_CHUNK_SMALL)
        h->current[cls] = o;
    *out = o;
    return 0;
}

/* -- handing out ------------------------------------------------------------------------------------------- */

static int small_reserve(rcv_arena *a, struct rcv_heap *h, uint64_t size, rcv_off *out)
{
    unsigned cls = h->class_of[(size + 15) / 16];
    for (;;) {
        struct own *o = h->current[cls];
        if (likely(o != NULL)) {
            const uint64_t *marked = bitmap_of(a, o->chunk);
            for (uint32_t w = o->cursor; w < o->words; w++) {
                uint64_t room = ~(marked[w] | o->bits[w]);
                if (unlikely(w + 1 == o->words))
                    room &= o->last;
                if (room) {
                    uint32_t i = (uint32_t)__builtin_ctzll(room);
                    o->bits[w] |= room & -room;
                    o->cursor = w;
                    o->pending++;
                    *out = chunk_off(a, o->chunk) + FIRST_BLOCK + (uint64_t)(w * 64 + i) * o->size;
                    return 0;
                }
            }
            o->cursor = o->words; /* exhausted: given back once nothing in it is pending */
            h->current[cls] = NULL;
            own_queue(h, o);
        }
        int rc = acquire(a, h, RCV_CHUNK_SMALL, cls, 0, size, &o);
        if (rc)
            return rc;
    }
}

static int pages_reserve(rcv_arena *a, struct rcv_heap *h, unsigned pages, unsigned space, rcv_off *out)
{
    struct own *o;
    int         rc = acquire(a, h, RCV_CHUNK_PAGES, space, pages, pages * PAGE, &o);
    if (rc)
        return rc;
    int first = find_run(own_pages_used(a, o), pages);
    if (first < 0) { /* the word has changed under the lock that we hold */
        own_place(a, h, o);
        return seg_corrupt(a, "heap chunk %u: its bitmap of pages does not fit its list", o->chunk);
    }
    struct own *before = h->current[CLASSES + space];
    o->bits[0] |= ((UINT64_C(1) << pages) - 1) << first;
    o->bits[1] |= UINT64_C(1) << first;
    o->pending++;
    h->current[CLASSES + space] = o;
    own_place(a, h, o);
    if (before && before != o)
        own_queue(h, before);
    *out = chunk_off(a, o->chunk) + (uint64_t)first * PAGE;
    return 0;
}

/* free_run -- the first of `n` hinted free chunks in a row, each checked against the table; UINT32_MAX: there are none. */
static uint32_t free_run(const rcv_arena *a, struct rcv_heap *h, uint32_t n)
{
    uint32_t run = 0;
    for (uint32_t chunk = h->free_low * 64; chunk < h->known; chunk++) {
        if (chunk % 64 == 0 && h->free[chunk / 64] == 0) {
            run = 0;
            chunk += 63;
        } else if (!is_free_bit(h, chunk)) {
            run = 0;
        } else if (!chunk_is_free(a, h, chunk)) {
            free_bit_clear(h, chunk);
            hint(a, h, chunk, false);
            run = 0;
        } else if (++run == n) {
            return chunk + 1 - n;
        }
    }
    return UINT32_MAX;
}

/* free_at_end -- how many free chunks the claimed part ends with. */
static uint32_t free_at_end(const struct rcv_heap *h)
{
    uint32_t n = 0;
    while (n < h->known && is_free_bit(h, h->known - 1 - n))
        n++;
    return n;
}

static int large_reserve(rcv_arena *a, struct rcv_heap *h, uint64_t size, unsigned space, rcv_off *out)
{
    uint32_t n = (uint32_t)((size + RCV_CHUNK - 1) / RCV_CHUNK), head;
    if (n > h->chunks)
        return full(a, h, size, UINT32_MAX);
    struct own *o = own_new(h);
    if (!o)
        return no_memory();
    if (h->held && step_is_over(a, h))
        held_release(a, h);
    learn(a, h);
    for (int stage = 0; (head = free_run(a, h, n)) == UINT32_MAX; stage++) {
        uint32_t end = free_at_end(h), more = end < n ? n - end : 1;
        int      rc = 0;
        switch (stage) {
        case 0: (void)claim(a, h, more); break;
        case 1:
            drops_run(a, h, UINT32_MAX);
            rc = last_resort(a, h);
            break;
        default: rc = full(a, h, size, more); break;
        }
        if (rc) {
            o->drop = h->spare;
            h->spare = o;
            return rc;
        }
        if (stage >= 2)
            stage = 0;
    }
    for (uint32_t i = n; i-- > 0;) {
        owner_set(a, head + i, a->token);
        local_unlink(h, head + i);
        free_bit_clear(h, head + i);
    }
    CRASHPOINT("heap.reserve.after_large");
    own_add(h, o, head, RCV_CHUNK_LARGE, space, n);
    o->pending = 1;
    o->bits[0] = 1;
    *out = chunk_off(a, head);
    return 0;
}

int heap_reserve(rcv_arena *a, uint64_t size, unsigned space, rcv_off *out)
{
    struct rcv_heap *h = a->heap;
    if (FAIL_NOW(RCV_FAIL_HEAP))
        return rcv_raise(RCV_ERR_FULL, 0, "an allocation was made to fail");
    if (likely(space == RCV_SPACE_GENERAL && size <= SMALL_MAX))
        return small_reserve(a, h, size, out);
    if (size > a->data_size)
        return full(a, h, size, UINT32_MAX);
    uint64_t pages = size ? (size + PAGE - 1) / PAGE : 1;
    if (pages < CHUNK_PAGES)
        return pages_reserve(a, h, (unsigned)pages, space, out);
    return large_reserve(a, h, size, space, out);
}

/* -- blocks: from an offset to what the table says ------------------------------------------------------- */

struct place {
    uint64_t    size;
    uint64_t    info; /* the chunk's word */
    struct own *own;  /* or NULL */
    uint32_t    chunk, index /* of the block, or of its first page */, n /* pages or chunks */;
    unsigned    kind;
    bool        marked, pending;
};

/* locate -- where the block that starts at `off` lies, and what is known about it. RCV_ERR_CORRUPT: none can start there. */
static int locate(rcv_arena *a, rcv_off off, struct place *p)
{
    uint64_t rel = off - a->data_off;
    if (unlikely(off < a->data_off || (off & 15) || rel / RCV_CHUNK >= chunks_claimed(a)))
        return seg_corrupt(a, "offset %llu is not in the heap", (unsigned long long)off);
    uint32_t chunk = (uint32_t)(rel / RCV_CHUNK), in = (uint32_t)(rel % RCV_CHUNK);
    p->chunk = chunk;
    p->info = info_of(a, chunk);
    p->own = a->heap ? a->heap->local[chunk].own : NULL;
    p->kind = p->own ? p->own->kind : RCV_INFO_KIND(p->info);
    unsigned cls = p->own ? p->own->cls : RCV_INFO_CLASS(p->info);
    p->n = 1;
    if (likely(p->kind == RCV_CHUNK_SMALL)) {
        if (unlikely(cls >= CLASSES || RCV_INFO_CLASS(p->info) != cls || RCV_INFO_KIND(p->info) != RCV_CHUNK_SMALL))
            return seg_corrupt(a, "heap chunk %u: not a size class: info %#llx", chunk, (unsigned long long)p->info);
        uint32_t size = class_size[cls];
        p->size = size;
        p->index = (in - FIRST_BLOCK) / size;
        if (unlikely(in < FIRST_BLOCK || p->index * size != in - FIRST_BLOCK || p->index >= class_blocks(cls)))
            return seg_corrupt(a, "offset %llu is not the start of a block of %u bytes", (unsigned long long)off, size);
        p->marked = bitmap_of(a, chunk)[p->index / 64] >> (p->index % 64) & 1;
        p->pending = p->own && (p->own->bits[p->index / 64] >> (p->index % 64) & 1);
        if (unlikely(p->marked && RCV_INFO_USED(p->info) == 0))
            return seg_corrupt(a, "heap chunk %u: blocks are marked, but its count is 0", chunk);
        return 0;
    }
    if (p->kind == RCV_CHUNK_PAGES) {
        if (!pages_sane(p->info) || RCV_INFO_KIND(p->info) != RCV_CHUNK_PAGES)
            return seg_corrupt(a, "heap chunk %u: its bitmaps of pages do not fit: info %#llx", chunk, (unsigned long long)p->info);
        p->index = in / (uint32_t)PAGE;
        uint32_t used = RCV_INFO_RUN(p->info) & 0xffffu, firsts = RCV_INFO_RUN(p->info) >> 16;
        p->marked = firsts >> p->index & 1;
        p->pending = p->own && (p->own->bits[1] >> p->index & 1);
        if (in % PAGE || (!p->marked && !p->pending))
            return seg_corrupt(a, "offset %llu is not the first page of a block", (unsigned long long)off);
        p->n = p->marked ? block_pages(used, firsts, p->index)
                         : block_pages((uint32_t)p->own->bits[0], (uint32_t)p->own->bits[1], p->index);
        p->size = p->n * PAGE;
        return 0;
    }
    if (p->kind == RCV_CHUNK_LARGE) {
        p->index = 0;
        p->pending = p->own && p->own->bits[0];
        p->marked = RCV_INFO_KIND(p->info) == RCV_CHUNK_LARGE && RCV_INFO_USED(p->info) == 1;
        p->n = p->own ? p->own->n : RCV_INFO_RUN(p->info);
        if (in || (!p->marked && !p->pending))
            return seg_corrupt(a, "offset %llu is not the start of a large block", (unsigned long long)off);
        if (p->n == 0 || p->n > chunks_claimed(a) - chunk || (p->marked && RCV_INFO_RUN(p->info) != p->n) ||
            RCV_INFO_CLASS(p->marked ? p->info : 0) > RCV_SPACE_ARRAY)
            return seg_corrupt(a, "heap chunk %u: a large block of %u chunks does not fit", chunk, p->n);
        p->size = (uint64_t)p->n * RCV_CHUNK;
        return 0;
    }
    return seg_corrupt(a, "offset %llu lies in a heap chunk of kind %u, where no block starts", (unsigned long long)off, p->kind);
}

int heap_block(rcv_arena *a, rcv_off off, uint64_t *size, bool *live)
{
    struct place p;
    int          rc = locate(a, off, &p);
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

/* -- pending blocks end: committed, or not ------------------------------------------------------------------- */

/* unpend -- forget that a block is pending. */
static void unpend(struct own *o, const struct place *p)
{
    o->pending--;
    if (o->kind == RCV_CHUNK_SMALL) {
        o->bits[p->index / 64] &= ~(UINT64_C(1) << (p->index % 64));
    } else if (o->kind == RCV_CHUNK_PAGES) {
        unsigned n = block_pages((uint32_t)o->bits[0], (uint32_t)o->bits[1], p->index);
        o->bits[0] &= ~(((UINT64_C(1) << n) - 1) << p->index);
        o->bits[1] &= ~(UINT64_C(1) << p->index);
    } else {
        o->bits[0] = 0;
    }
}

/* own_locate -- the pending block at `off`, from process memory alone; false: none of ours. */
static bool own_locate(const rcv_arena *a, rcv_off off, struct place *p)
{
    const struct rcv_heap *h = a->heap;
    uint64_t rel = off - a->data_off;
    if (!h || off < a->data_off || rel / RCV_CHUNK >= h->known)
        return false;
    struct own *o = h->local[rel / RCV_CHUNK].own;
    uint32_t    in = (uint32_t)(rel % RCV_CHUNK);
    if (!o)
        return false;
    p->own = o;
    switch (o->kind) {
    case RCV_CHUNK_SMALL:
        p->index = (in - FIRST_BLOCK) / o->size;
        return in >= FIRST_BLOCK && p->index < o->n && p->index * o->size == in - FIRST_BLOCK &&
               (o->bits[p->index / 64] >> (p->index % 64) & 1);
    case RCV_CHUNK_PAGES: p->index = in / (uint32_t)PAGE; return in % PAGE == 0 && (o->bits[1] >> p->index & 1);
    default: p->index = 0; return in == 0 && o->bits[0];
    }
}

void heap_unreserve(rcv_arena *a, rcv_off off)
{
    struct rcv_heap *h = a->heap;
    struct place     p;
    if (!own_locate(a, off, &p))
        return; /* inherited by a fork: the parent's */
    struct own *o = p.own;
    unpend(o, &p);
    if (o->kind == RCV_CHUNK_SMALL && p.index / 64 < o->cursor)
        o->cursor = p.index / 64;
    if (h->local[o->chunk].list != LIST_HELD)
        own_place(a, h, o);
}

void heap_settle(rcv_arena *a, rcv_off off)
{
    struct place p;
    if (!own_locate(a, off, &p))
        return;
    unpend(p.own, &p);
    if (unlikely(p.own->pending == 0) && !is_current(a->heap, p.own))
        own_queue(a->heap, p.own);
}

/* log_word -- save a word of shared state before it is changed. */
static inline int log_word(rcv_arena *a, const void *word) { return undo_append(a, word_off(a, word), 8, RCV_U_STRUCT); }

int heap_commit_alloc(rcv_arena *a, rcv_off off)
{
    struct place p;
    int          rc = locate(a, off, &p);
    if (rc)
        return rc;
    if (!p.pending)
        return rcv_raise(RCV_ERR_BUG, 0, "the block at %llu was not reserved here; please report", (unsigned long long)off);
    unsigned cls = p.own->cls, used = RCV_INFO_USED(p.info);
    if (p.kind == RCV_CHUNK_LARGE) {
        if (used)
            return seg_corrupt(a, "heap chunk %u: reserved, but in use", p.chunk);
        if ((rc = undo_append(a, word_off(a, info_word(a, p.chunk)), p.n * 8, RCV_U_STRUCT)) != 0)
            return rc;
        for (uint32_t i = p.n; i-- > 1;)
            info_set(a, p.chunk + i, RCV_INFO(RCV_CHUNK_CONT, cls, 1, i));
        info_set(a, p.chunk, RCV_INFO(RCV_CHUNK_LARGE, cls, 1, p.n));
        return 0;
    }
    if (p.marked)
        return seg_corrupt(a, "heap chunk %u: the block at %llu is in use twice", p.chunk, (unsigned long long)off);
    if (p.kind == RCV_CHUNK_PAGES) {
        uint32_t pages = ((1u << p.n) - 1) << p.index;
        if (RCV_INFO_RUN(p.info) & pages)
            return seg_corrupt(a, "heap chunk %u: a page at %llu is in use twice", p.chunk, (unsigned long long)off);
        if ((rc = log_word(a, info_word(a, p.chunk))) != 0)
            return rc;
        info_set(a, p.chunk,
                 RCV_INFO(RCV_CHUNK_PAGES, cls, used + p.n, RCV_INFO_RUN(p.info) | pages | UINT32_C(1) << (p.index + 16)));
        return 0;
    }
    uint64_t *word = &bitmap_of(a, p.chunk)[p.index / 64];
    if (used >= p.own->n)
        return seg_corrupt(a, "heap chunk %u: %u blocks counted of %u", p.chunk, used, p.own->n);
    if ((rc = log_word(a, word)) != 0 || (rc = log_word(a, info_word(a, p.chunk))) != 0)
        return rc;
    *word |= UINT64_C(1) << (p.index % 64);
    info_set(a, p.chunk, RCV_INFO(RCV_CHUNK_SMALL, cls, used + 1, 0));
    return 0;
}

int heap_commit_free(rcv_arena *a, rcv_off off)
{
    struct rcv_heap *h = a->heap;
    struct place     p;
    int              rc = locate(a, off, &p);
    if (rc)
        return rc;
    if (!p.marked)
        return seg_corrupt(a, "the block at %llu is to be freed, but not allocated", (unsigned long long)off);
    unsigned cls = RCV_INFO_CLASS(p.info), used = RCV_INFO_USED(p.info);
    if (p.kind == RCV_CHUNK_LARGE) {
        for (uint32_t i = 1; i < p.n; i++)
            if (info_of(a, p.chunk + i) != RCV_INFO(RCV_CHUNK_CONT, cls, 1, i))
                return seg_corrupt(a, "heap chunk %u: not part %u of the large block at %llu", p.chunk + i, i, (unsigned long long)off);
        if ((rc = undo_append(a, word_off(a, info_word(a, p.chunk)), p.n * 8, RCV_U_STRUCT)) != 0)
            return rc;
        for (uint32_t i = 0; i < p.n; i++) {
            info_set(a, p.chunk + i, 0);
            hold(a, h, p.chunk + i);
        }
        return 0;
    }
    if (p.kind == RCV_CHUNK_PAGES) {
        uint32_t pages = ((1u << p.n) - 1) << p.index;
        if ((rc = log_word(a, info_word(a, p.chunk))) != 0)
            return rc;
        info_set(a, p.chunk,
                 RCV_INFO(RCV_CHUNK_PAGES, cls, used - p.n, RCV_INFO_RUN(p.info) & ~pages & ~(UINT32_C(1) << (p.index + 16))));
        hold(a, h, p.chunk);
        return 0;
    }
    uint64_t *word = &bitmap_of(a, p.chunk)[p.index / 64];
    if ((rc = log_word(a, word)) != 0 || (rc = log_word(a, info_word(a, p.chunk))) != 0)
        return rc;
    *word &= ~(UINT64_C(1) << (p.index % 64));
    info_set(a, p.chunk, RCV_INFO(RCV_CHUNK_SMALL, cls, used - 1, 0));
    if (p.own && p.index / 64 < p.own->cursor)
        p.own->cursor = p.index / 64;
    hold(a, h, p.chunk);
    return 0;
}

/* -- life ---------------------------------------------------------------------------------------------------- */

int heap_format(rcv_arena *a) { return seg_claim_data(a, RCV_SLICE); }

int heap_open(rcv_arena *a)
{
    uint64_t n = chunk_count(a);
    if (n == 0 || n * 16 > a->hdr->region[RCV_R_HEAP].size || n * RCV_CHUNK > a->data_size)
        return seg_corrupt(a, "the heap table does not fit its region: %llu chunks", (unsigned long long)n);
    struct rcv_heap *h = os_calloc(1, sizeof *h);
    if (!h)
        return no_memory();
    h->chunks = (uint32_t)n;
    h->local = os_calloc(n, sizeof *h->local);
    h->free = os_calloc((n + 63) / 64, 8);
    if (!h->local || !h->free) {
        os_free(h->local);
        os_free(h->free);
        os_free(h);
        return no_memory();
    }
    for (unsigned i = 0, cls = 0; i <= SMALL_MAX / 16; i++) {
        while (class_size[cls] < i * 16)
            cls++;
        h->class_of[i] = (uint8_t)cls;
    }
    a->heap = h;
    learn(a, h);
    return 0;
}

static void own_free_all(struct rcv_heap *h)
{
    while (h->newest)
        own_forget(h, h->newest);
    while (h->spare) {
        struct own *o = h->spare;
        h->spare = o->drop;
        os_free(o);
    }
    h->drops = NULL;
}

void heap_close(rcv_arena *a)
{
    struct rcv_heap *h = a->heap;
    if (!h)
        return;
    for (struct own *o = h->newest; o; o = o->older)
        for (uint32_t i = 0; i < (o->kind == RCV_CHUNK_LARGE ? o->n : 1); i++)
            owner_set(a, o->chunk + i, 0);
    own_free_all(h);
    os_free(h->local);
    os_free(h->free);
    os_free(h);
    a->heap = NULL;
}

void heap_after_fork(rcv_arena *a)
{
    struct rcv_heap *h = a->heap;
    if (!h)
        return;
    while (h->held) /* the parent was inside a step; what became of it is in the table */
        local_unlink(h, h->held - 1);
    own_free_all(h);
}

bool heap_short(const rcv_arena *a)
{
    const struct rcv_heap *h = a->heap;
    uint32_t               unclaimed = h->chunks - chunks_claimed(a), enough = h->chunks / 16 + LOW_WATER;
    return h->n_free < enough && unclaimed < enough - h->n_free;
}

int heap_return_dead(rcv_arena *a, uint64_t *chunks)
{
    uint32_t n = chunks_claimed(a);
    uint64_t last = 0; /* rows of chunks have one owner: ask once */
    bool     alive = false;
    *chunks = 0;
    for (uint32_t chunk = 0; chunk < n; chunk++) {
        uint64_t token = owner_of(a, chunk);
        if (token == 0 || token == a->token)
            continue;
        if (token != last) {
            alive = process_alive(a, token);
            last = token;
        }
        if (!alive) {
            owner_set(a, chunk, 0);
            CRASHPOINT("heap.return_dead.after_owner");
            ++*chunks;
            if (a->heap && chunk < a->heap->known)
                hint(a, a->heap, chunk, false);
        }
    }
    return 0;
}

void heap_boundary(rcv_arena *a)
{
    struct rcv_heap *h = a->heap;
    if (likely(!h->held && !h->drops && h->n_free >= LOW_WATER))
        return;
    held_release(a, h);
    drops_run(a, h, DROPS);
    if (h->n_free >= LOW_WATER)
        return;
    learn(a, h);
    if (h->n_free >= LOW_WATER)
        return;
    if (chunks_claimed(a) < h->chunks) {
        if (!h->claim_failed)
            (void)claim(a, h, 1);
        return;
    }
    /* Everything is claimed and little is free: do not sit on chunks that another process may need. */
    h->idle_at = h->idle_at + 1 < CLASSES + 2 ? h->idle_at + 1 : 0;
    struct own *o = h->current[h->idle_at];
    if (o && o->pending == 0 && !o->queued)
        own_drop(a, h, o);
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
        case RCV_CHUNK_SMALL: out->used += cls < CLASSES ? (uint64_t)used * class_size[cls] : 0; break;
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
    uint32_t        n = class_blocks(cls), count = small_count(bitmap_of(a, chunk), n);
    const uint64_t *bitmap = bitmap_of(a, chunk);
    if (count != RCV_INFO_USED(info))
        return seg_corrupt(a, "heap chunk %u: %u blocks counted, its bitmap marks another number", chunk, RCV_INFO_USED(info));
    for (uint32_t w = 0; w < (n + 63) / 64; w++)
        for (uint64_t bits = bitmap[w]; bits; bits &= bits - 1) {
            uint32_t i = w * 64 + (uint32_t)__builtin_ctzll(bits);
            int      rc = fn(ctx, chunk_off(a, chunk) + FIRST_BLOCK + (uint64_t)i * class_size[cls], class_size[cls]);
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
            if (!pages_sane(info))
                return seg_corrupt(a, "heap chunk %u: its bitmaps of pages do not fit: info %#llx", chunk, (unsigned long long)info);
            for (unsigned page = 0; page < CHUNK_PAGES && !rc; page++)
                if (run >> (page + 16) & 1)
                    rc = fn(ctx, chunk_off(a, chunk) + page * PAGE, block_pages(run & 0xffffu, run >> 16, page) * PAGE);
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
