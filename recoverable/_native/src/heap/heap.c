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
 * The files: heap.c hands out, commits and frees blocks; chunks.c holds chunks and finds more; chunk_table.c reads the
 * shared table.
 *
 * Where it still fails
 *   - A partly used chunk that another process freed into is found late; until then more memory is claimed than need be.
 *   - Memory once claimed is never given back to the system.
 *   - A chunk is of one class: a state that shrinks leaves sparse chunks, and only blocks of the same class fill them.
 */
#include "state.h"

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
        int rc = heap_acquire(a, h, RCV_CHUNK_SMALL, cls, 0, size, &o);
        if (rc)
            return rc;
    }
}

static int pages_reserve(rcv_arena *a, struct rcv_heap *h, unsigned pages, unsigned space, rcv_off *out)
{
    struct own *o;
    int         rc = heap_acquire(a, h, RCV_CHUNK_PAGES, space, pages, pages * PAGE, &o);
    if (rc)
        return rc;
    int first = heap_find_run(own_pages_used(a, o), pages);
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
            heap_hint(a, h, chunk, false);
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
        return heap_full(a, h, size, UINT32_MAX);
    struct own *o = own_new(h);
    if (!o)
        return heap_no_memory();
    if (h->held && heap_step_is_over(a, h))
        heap_release_held(a, h);
    heap_learn(a, h);
    for (int stage = 0; (head = free_run(a, h, n)) == UINT32_MAX; stage++) {
        uint32_t end = free_at_end(h), more = end < n ? n - end : 1;
        int      rc = 0;
        switch (stage) {
        case 0: (void)heap_claim(a, h, more); break;
        case 1:
            own_drop_queued(a, h, UINT32_MAX);
            rc = heap_last_resort(a, h);
            break;
        default: rc = heap_full(a, h, size, more); break;
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
    if (likely(space == RCV_SPACE_GENERAL && size + fault_bias() <= SMALL_MAX))
        return small_reserve(a, h, size, out);
    if (unlikely(rcv_fault_bias != 0)) {
        if (fault_room("heap"))
            return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": an allocation was made to fail", a->name);
        if (space == RCV_SPACE_GENERAL && size <= SMALL_MAX)
            return small_reserve(a, h, size, out);
    }
    if (size > a->data_size)
        return heap_full(a, h, size, UINT32_MAX);
    uint64_t pages = size ? (size + PAGE - 1) / PAGE : 1;
    if (pages < CHUNK_PAGES)
        return pages_reserve(a, h, (unsigned)pages, space, out);
    return large_reserve(a, h, size, space, out);
}

/* -- pending blocks end: committed, or not ------------------------------------------------------------------- */

/* unpend -- forget that a block is pending. */
static void unpend(struct own *o, const struct place *p)
{
    o->pending--;
    if (o->kind == RCV_CHUNK_SMALL) {
        o->bits[p->index / 64] &= ~(UINT64_C(1) << (p->index % 64));
    } else if (o->kind == RCV_CHUNK_PAGES) {
        unsigned n = heap_block_pages((uint32_t)o->bits[0], (uint32_t)o->bits[1], p->index);
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

/* set_marked -- the block is allocated in the shared table, or is not any more. A failure may leave its words logged, no more. */
static int set_marked(rcv_arena *a, const struct place *p, unsigned cls, bool mark)
{
    uint32_t used = RCV_INFO_USED(p->info);
    int      rc;
    if (p->kind == RCV_CHUNK_LARGE) {
        rc = undo_append(a, word_off(a, info_word(a, p->chunk)), p->n * 8, RCV_U_STRUCT);
        for (uint32_t i = p->n; rc == 0 && i-- > 0;)
            info_set(a, p->chunk + i, !mark ? 0 : i ? RCV_INFO(RCV_CHUNK_CONT, cls, 1, i) : RCV_INFO(RCV_CHUNK_LARGE, cls, 1, p->n));
        return rc;
    }
    if (p->kind == RCV_CHUNK_PAGES) {
        uint32_t bits = ((1u << p->n) - 1) << p->index | UINT32_C(1) << (p->index + 16), run = RCV_INFO_RUN(p->info);
        rc = log_word(a, info_word(a, p->chunk));
        if (rc == 0)
            info_set(a, p->chunk, RCV_INFO(RCV_CHUNK_PAGES, cls, mark ? used + p->n : used - p->n, mark ? run | bits : run & ~bits));
        return rc;
    }
    uint64_t *word = &bitmap_of(a, p->chunk)[p->index / 64], bit = UINT64_C(1) << (p->index % 64);
    if ((rc = log_word(a, word)) != 0 || (rc = log_word(a, info_word(a, p->chunk))) != 0)
        return rc;
    *word = mark ? *word | bit : *word & ~bit;
    info_set(a, p->chunk, RCV_INFO(RCV_CHUNK_SMALL, cls, mark ? used + 1 : used - 1, 0));
    return 0;
}

/* may_mark -- is what is to be allocated free? RCV_ERR_CORRUPT, RCV_ERR_BUG. */
static int may_mark(rcv_arena *a, rcv_off off, const struct place *p)
{
    uint32_t used = RCV_INFO_USED(p->info);
    if (!p->pending)
        return rcv_raise(RCV_ERR_BUG, 0, "the block at %llu was not reserved here; please report", (unsigned long long)off);
    if (p->kind == RCV_CHUNK_LARGE)
        return used ? seg_corrupt(a, "heap chunk %u: reserved, but in use", p->chunk) : 0;
    if (p->marked)
        return seg_corrupt(a, "heap chunk %u: the block at %llu is in use twice", p->chunk, (unsigned long long)off);
    if (p->kind == RCV_CHUNK_PAGES && (RCV_INFO_RUN(p->info) & ((1u << p->n) - 1) << p->index))
        return seg_corrupt(a, "heap chunk %u: a page at %llu is in use twice", p->chunk, (unsigned long long)off);
    if (p->kind == RCV_CHUNK_SMALL && used >= p->own->n)
        return seg_corrupt(a, "heap chunk %u: %u blocks counted of %u", p->chunk, used, p->own->n);
    return 0;
}

int heap_commit_alloc(rcv_arena *a, rcv_off off)
{
    struct place p;
    int          rc = heap_locate(a, off, &p);
    if (rc || MUTATED("heap.no_mark"))
        return rc;
    rc = may_mark(a, off, &p);
    return rc ? rc : set_marked(a, &p, p.own->cls, true);
}

int heap_commit_free(rcv_arena *a, rcv_off off)
{
    struct place p;
    int          rc = heap_locate(a, off, &p);
    if (rc || MUTATED("heap.leak"))
        return rc;
    if (!p.marked)
        return seg_corrupt(a, "the block at %llu is to be freed, but not allocated", (unsigned long long)off);
    unsigned       cls = RCV_INFO_CLASS(p.info);
    const uint32_t chunks = p.kind == RCV_CHUNK_LARGE ? p.n : 1;
    for (uint32_t i = 1; i < chunks; i++)
        if (info_of(a, p.chunk + i) != RCV_INFO(RCV_CHUNK_CONT, cls, 1, i))
            return seg_corrupt(a, "heap chunk %u: not part %u of the large block at %llu", p.chunk + i, i, (unsigned long long)off);
    if ((rc = set_marked(a, &p, cls, false)) != 0)
        return rc;
    if (p.kind == RCV_CHUNK_SMALL && p.own && p.index / 64 < p.own->cursor)
        p.own->cursor = p.index / 64;
    for (uint32_t i = 0; i < chunks; i++)
        heap_hold(a, a->heap, p.chunk + i);
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
        return heap_no_memory();
    h->chunks = (uint32_t)n;
    h->local = os_calloc(n, sizeof *h->local);
    h->free = os_calloc((n + 63) / 64, 8);
    if (!h->local || !h->free) {
        os_free(h->local);
        os_free(h->free);
        os_free(h);
        return heap_no_memory();
    }
    for (unsigned i = 0, cls = 0; i <= SMALL_MAX / 16; i++) {
        while (heap_class_size[cls] < i * 16)
            cls++;
        h->class_of[i] = (uint8_t)cls;
    }
    a->heap = h;
    heap_learn(a, h);
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

void heap_boundary(rcv_arena *a)
{
    struct rcv_heap *h = a->heap;
    if (likely(!h->held && !h->drops && h->n_free >= LOW_WATER))
        return;
    heap_release_held(a, h);
    own_drop_queued(a, h, DROPS);
    if (h->n_free >= LOW_WATER)
        return;
    heap_learn(a, h);
    if (h->n_free >= LOW_WATER)
        return;
    if (chunks_claimed(a) < h->chunks) {
        if (!h->claim_failed)
            (void)heap_claim(a, h, 1);
        return;
    }
    /* Everything is claimed and little is free: do not sit on chunks that another process may need. */
    h->idle_at = h->idle_at + 1 < CLASSES + 2 ? h->idle_at + 1 : 0;
    struct own *o = h->current[h->idle_at];
    if (o && o->pending == 0 && !o->queued)
        own_drop(a, h, o);
}
