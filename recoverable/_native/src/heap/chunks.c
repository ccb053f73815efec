/* chunks.c -- which chunks this process holds, where it finds more, and what it remembers about the others.
 *
 * All of it is process memory but for three stores: the owner word, the kind of a chunk that was free, and its cleared
 * bitmap. heap.c says why none of them needs undo.
 */
#include "state.h"

/* -- hints: where there may be room ------------------------------------------------------------------- */

static void free_bit_set(struct rcv_heap *h, uint32_t chunk)
{
    if (is_free_bit(h, chunk))
        return;
    h->free[chunk / 64] |= UINT64_C(1) << (chunk % 64);
    h->n_free++;
    if (chunk / 64 < h->free_low)
        h->free_low = chunk / 64;
}

void free_bit_clear(struct rcv_heap *h, uint32_t chunk)
{
    if (!is_free_bit(h, chunk))
        return;
    h->free[chunk / 64] &= ~(UINT64_C(1) << (chunk % 64));
    h->n_free--;
}

static uint32_t *list_head(struct rcv_heap *h, unsigned list) { return list == LIST_HELD ? &h->held : &h->hint[list]; }

void local_unlink(struct rcv_heap *h, uint32_t chunk)
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
    if (RCV_INFO_KIND(info) == RCV_CHUNK_PAGES && heap_pages_sane(info)) {
        unsigned run = heap_longest_run(RCV_INFO_RUN(info));
        return run ? LIST_PAGES + cls * CHUNK_PAGES + run - 1 : LIST_NONE;
    }
    return LIST_NONE;
}

/* heap_hint -- look at the table's words of a chunk that is not ours and remember what can be had there. */
void heap_hint(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk, bool all)
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

/* heap_learn -- take up chunks that have been claimed since the last look, by us or by another process. */
void heap_learn(const rcv_arena *a, struct rcv_heap *h)
{
    uint32_t claimed = chunks_claimed(a);
    while (h->known < claimed)
        heap_hint(a, h, h->known++, false);
}

static void scan_some(const rcv_arena *a, struct rcv_heap *h)
{
    uint32_t n = h->known < SCAN_SOME ? h->known : SCAN_SOME;
    while (n--) {
        if (h->scan_at >= h->known)
            h->scan_at = 0;
        heap_hint(a, h, h->scan_at++, false);
    }
}

static void scan_all(const rcv_arena *a, struct rcv_heap *h)
{
    heap_learn(a, h);
    for (uint32_t chunk = 0; chunk < h->known; chunk++)
        heap_hint(a, h, chunk, true);
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

/* own_place -- put a chunk that has room where heap_reserve finds it; without pending blocks and not in use, it is to be
 * given back. */
void own_place(const rcv_arena *a, struct rcv_heap *h, struct own *o)
{
    if (o->kind == RCV_CHUNK_SMALL) {
        if (*current_of(h, o) == NULL)
            *current_of(h, o) = o;
        else if (*current_of(h, o) != o)
            own_link(h, o, LIST_SMALL + o->cls);
    } else if (o->kind == RCV_CHUNK_PAGES) {
        unsigned run = heap_longest_run(own_pages_used(a, o));
        own_link(h, o, run ? LIST_PAGES + o->cls * CHUNK_PAGES + run - 1 : LIST_NONE);
    }
    if (o->pending == 0 && !is_current(h, o))
        own_queue(h, o);
}

/* own_new -- a record for a chunk about to be reserved; NULL: no process memory. */
struct own *own_new(struct rcv_heap *h)
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
void own_add(struct rcv_heap *h, struct own *o, uint32_t chunk, unsigned kind, unsigned cls, uint32_t n)
{
    o->chunk = chunk;
    o->kind = (uint8_t)kind;
    o->cls = (uint8_t)cls;
    o->n = n;
    if (kind == RCV_CHUNK_SMALL) {
        o->size = heap_class_size[cls];
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

void own_forget(struct rcv_heap *h, struct own *o)
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
void own_drop(const rcv_arena *a, struct rcv_heap *h, struct own *o)
{
    uint32_t chunk = o->chunk, n = o->kind == RCV_CHUNK_LARGE ? o->n : 1;
    own_forget(h, o);
    for (uint32_t i = 0; i < n; i++) {
        owner_set(a, chunk + i, 0);
        heap_hint(a, h, chunk + i, false);
    }
}

/* own_drop_queued -- give back up to `max` of the queued reservations. */
void own_drop_queued(const rcv_arena *a, struct rcv_heap *h, uint32_t max)
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

/* heap_hold -- a block of this chunk was freed in a step that has not committed yet. */
void heap_hold(const rcv_arena *a, struct rcv_heap *h, uint32_t chunk)
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

void heap_release_held(const rcv_arena *a, struct rcv_heap *h)
{
    while (h->held) {
        uint32_t chunk = h->held - 1;
        local_unlink(h, chunk);
        if (h->local[chunk].own)
            own_place(a, h, h->local[chunk].own);
        else
            heap_hint(a, h, chunk, false);
    }
}

/* heap_step_is_over -- has the step that holds chunks ended? Its tail only grows, and the next one's begins at 0. */
bool heap_step_is_over(const rcv_arena *a, const struct rcv_heap *h)
{
    return atomic_load_explicit(&a->hdr->phase, memory_order_relaxed) != RCV_STEP || undo_tail(a) < h->held_tail;
}

/* -- finding room ---------------------------------------------------------------------------------------- */

int heap_no_memory(void) { return rcv_raise(RCV_ERR_FULL, 0, "out of process memory in the arena's allocator; nothing was changed"); }

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
                heap_hint(a, h, chunk, false); /* in another list, if at all */
                continue;
            }
            bool     small = RCV_INFO_KIND(info) == RCV_CHUNK_SMALL;
            uint32_t n = small ? class_blocks(cls) : CHUNK_PAGES;
            if (small && heap_small_count(bitmap_of(a, chunk), n) != RCV_INFO_USED(info))
                continue; /* damaged: rcv_verify says so; we stay away */
            owner_set(a, chunk, a->token);
            own_add(h, o, chunk, RCV_INFO_KIND(info), cls, n);
            return o;
        }
    return NULL;
}

/* clear -- memory that nobody's data lies in. */
static void clear(const rcv_arena *a, rcv_off off, uint32_t len)
{
    memset(a->core + off, 0, len);
    if (unlikely(a->trap_mode && a->tracker != NULL))
        a->above->zeroed(a, off, len); /* also in whatever the step's end may put back */
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
                heap_hint(a, h, chunk, false);
                continue;
            }
            owner_set(a, chunk, a->token);
            CRASHPOINT("heap.reserve.after_owner");
            if (kind == RCV_CHUNK_SMALL)
                clear(a, chunk_off(a, chunk), sizeof(struct rcv_small_chunk));
            info_set(a, chunk, RCV_INFO(kind, cls, 0, 0)); /* not logged: it says "nothing here" before and after */
            CRASHPOINT("heap.reserve.after_kind");
            own_add(h, o, chunk, kind, cls, kind == RCV_CHUNK_SMALL ? class_blocks(cls) : CHUNK_PAGES);
            return o;
        }
    return NULL;
}

/* heap_claim -- memory for `n` more chunks. RCV_ERR_FULL: at the ceiling (no text), or none behind it (with text). */
int heap_claim(rcv_arena *a, struct rcv_heap *h, uint32_t n)
{
    uint32_t claimed = chunks_claimed(a);
    if (n > h->chunks - claimed)
        return RCV_ERR_FULL;
    int rc = seg_claim_data(a, ((uint64_t)claimed + n) * RCV_CHUNK);
    heap_learn(a, h); /* part of it may have been claimed before it failed */
    h->claim_failed = rc != 0;
    return rc;
}

/* heap_full -- say what is full. 0: it is not, memory has come back in the meantime. */
int heap_full(rcv_arena *a, struct rcv_heap *h, uint64_t wanted, uint32_t chunks)
{
    struct rcv_stats s;
    if (chunks <= h->chunks - chunks_claimed(a))
        return heap_claim(a, h, chunks); /* what is full is the memory behind the arena, and that error says so */
    memset(&s, 0, sizeof s);
    heap_stats(a, &s);
    return rcv_raise(RCV_ERR_FULL, 0,
                     "the arena is full: %llu bytes wanted, %llu of %llu bytes are allocated and chunks of %llu bytes reserved; "
                     "nothing was changed; delete something, or move the state to a new arena that is larger: one keeps its size",
                     (unsigned long long)wanted, (unsigned long long)s.used, (unsigned long long)s.size,
                     (unsigned long long)s.reserved);
}

/* heap_last_resort -- before saying "full": what dead processes had reserved, what we hold without need, the whole table. */
int heap_last_resort(rcv_arena *a, struct rcv_heap *h)
{
    uint64_t returned;
    int      rc = heap_return_dead(a, &returned);
    if (rc)
        return rc;
    own_drop_queued(a, h, UINT32_MAX);
    for (struct own *o = h->newest, *older; o; o = older) {
        older = o->older;
        if (o->pending == 0 && !o->queued && h->local[o->chunk].list != LIST_HELD)
            own_drop(a, h, o);
    }
    scan_all(a, h);
    return 0;
}

/* heap_acquire -- an own chunk with room: of class `cls`, or with `pages` free pages in a row in space `cls`. It is in no list, and
 * current if SMALL. RCV_ERR_FULL leaves everything as it was. */
int heap_acquire(rcv_arena *a, struct rcv_heap *h, unsigned kind, unsigned cls, unsigned pages, uint64_t wanted, struct own **out)
{
    unsigned lo = LIST_SMALL + cls, hi = lo;
    if (kind == RCV_CHUNK_PAGES) {
        lo = LIST_PAGES + cls * CHUNK_PAGES + pages - 1;
        hi = LIST_PAGES + cls * CHUNK_PAGES + CHUNK_PAGES - 1;
    }
    if (h->held && heap_step_is_over(a, h)) {
        heap_release_held(a, h);
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
        return heap_no_memory();
    heap_learn(a, h);
    for (int stage = 0; !o; stage++) {
        int rc = 0;
        if ((o = take_hinted(a, h, fresh, lo, hi)) != NULL || (o = take_free(a, h, fresh, kind, cls)) != NULL)
            break;
        switch (stage) {
        case 0: scan_some(a, h); break;
        case 1: (void)heap_claim(a, h, 1); break;
        case 2: rc = heap_last_resort(a, h); break;
        default: rc = heap_full(a, h, wanted, 1); break;
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
                heap_hint(a, a->heap, chunk, false);
        }
    }
    return 0;
}
