/* state.h -- what the files of the allocator share, and nobody else.
 *
 *   heap.c        blocks handed out, committed, freed
 *   chunks.c      which chunks this process holds, and where it finds more
 *   chunk_table.c what the shared table says
 *
 * Invariant: a chunk with pending blocks has an `own` record, and its owner word is our token.
 */
#ifndef RCV_HEAP_STATE_H
#define RCV_HEAP_STATE_H

#include "heap/heap.h"

#define PAGE UINT64_C(4096)
#define CHUNK_PAGES 16u /* 64 KiB of 4 KiB pages */
#define SMALL_MAX UINT64_C(8192)
#define CLASSES 33u      /* 32, 48 … 192, then four a doubling up to 8 KiB */
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

extern const uint16_t heap_class_size[CLASSES];

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

static inline uint32_t class_blocks(unsigned cls) { return ((uint32_t)RCV_CHUNK - FIRST_BLOCK) / heap_class_size[cls]; }

struct place {
    uint64_t    size;
    uint64_t    info; /* the chunk's word */
    struct own *own;  /* or NULL */
    uint32_t    chunk, index /* of the block, or of its first page */, n /* pages or chunks */;
    unsigned    kind;
    bool        marked, pending;
};


/* -- chunk_table.c -- */

unsigned heap_longest_run(uint32_t used); /* of zero bits among 16 */
int      heap_find_run(uint32_t used, unsigned n); /* the first of n zero bits in a row, or -1 */
unsigned heap_block_pages(uint32_t used, uint32_t firsts, unsigned first); /* of the block that starts at page `first` */
bool     heap_pages_sane(uint64_t info); /* do the bitmaps of a PAGES chunk fit each other and the count? */
uint32_t heap_small_count(const uint64_t *bitmap, uint32_t blocks); /* marked; UINT32_MAX: marks what it has not */
int      heap_locate(rcv_arena *a, rcv_off off, struct place *p); /* RCV_ERR_CORRUPT: no block can start there */

/* -- chunks.c: hints -- */

void heap_hint(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk, bool all); /* look at a chunk, remember what is there */
void heap_learn(const rcv_arena *a, struct rcv_heap *h);                          /* take up what has been claimed since */
void local_unlink(struct rcv_heap *h, uint32_t chunk);
void free_bit_clear(struct rcv_heap *h, uint32_t chunk);

/* -- own chunks -- */

struct own *own_new(struct rcv_heap *h); /* a record; NULL: no process memory */
void own_add(struct rcv_heap *h, struct own *o, uint32_t chunk, unsigned kind, unsigned cls, uint32_t n); /* now it is ours */
void own_forget(struct rcv_heap *h, struct own *o);
void own_drop(const rcv_arena *a, struct rcv_heap *h, struct own *o);            /* give the reservation back */
void own_drop_queued(const rcv_arena *a, struct rcv_heap *h, uint32_t max);
void own_place(const rcv_arena *a, struct rcv_heap *h, struct own *o);           /* it has room: let it be found */

/* -- held chunks: this step has freed something in them -- */

void heap_hold(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk);
void heap_release_held(const rcv_arena *a, struct rcv_heap *h);
bool heap_step_is_over(const rcv_arena *a, const struct rcv_heap *h);

/* -- finding room -- */

int heap_acquire(rcv_arena *a, struct rcv_heap *h, unsigned kind, unsigned cls, unsigned pages, uint64_t wanted, struct own **out);
int heap_claim(rcv_arena *a, struct rcv_heap *h, uint32_t n);
int heap_last_resort(rcv_arena *a, struct rcv_heap *h);
int heap_full(rcv_arena *a, struct rcv_heap *h, uint64_t wanted, uint32_t chunks); /* says what is full; 0: it is not any more */
int heap_no_memory(void);

/* -- small ones -- */

static inline bool is_free_bit(const struct rcv_heap *h, uint32_t chunk) { return h->free[chunk / 64] >> (chunk % 64) & 1; }

static inline struct own **current_of(struct rcv_heap *h, const struct own *o)
{
    return &h->current[o->kind == RCV_CHUNK_PAGES ? CLASSES + o->cls : o->cls];
}

static inline bool is_current(struct rcv_heap *h, const struct own *o)
{
    return o->kind != RCV_CHUNK_LARGE && *current_of(h, o) == o;
}

static inline uint32_t own_pages_used(const rcv_arena *a, const struct own *o)
{
    return (RCV_INFO_RUN(info_of(a, o->chunk)) | (uint32_t)o->bits[0]) & 0xffffu;
}

static inline void own_queue(struct rcv_heap *h, struct own *o)
{
    if (o->queued || o->pending)
        return;
    o->queued = true;
    o->drop = h->drops;
    h->drops = o;
}

/* chunk_is_free -- nobody's and empty, whatever the hints say? */
static inline bool chunk_is_free(const rcv_arena *a, const struct rcv_heap *h, uint32_t chunk)
{
    return owner_of(a, chunk) == 0 && RCV_INFO_USED(info_of(a, chunk)) == 0 && h->local[chunk].list != LIST_HELD &&
           h->local[chunk].own == NULL;
}

#endif
