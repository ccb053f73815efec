/* test_heap.c -- the allocator: nothing is handed out twice, nothing is lost, nothing is trusted. */
#include "scratch.h"

#include "heap/state.h"

static uint64_t any(void) { return rnd(UINT64_MAX); }

/* -- an arena of our own, and steps in it -------------------------------------------------------------- */

static int fd = -1;

static rcv_arena *make(uint64_t size)
{
    fd = scratch_object();
    return scratch_arena(fd, size);
}

static void drop(rcv_arena *a)
{
    CHECK(rcv_close(a) == 0);
    close(fd);
}

static void step(rcv_arena *a) { step_begin(a); }

static void step_end(rcv_arena *a)
{
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    heap_boundary(a);
    lock_drop(a);
}

static void step_undo(rcv_arena *a)
{
    struct rcv_recovery r = {0};
    CHECK(undo_apply(a, 0, &r) == 0);
    step_end(a);
}

static rcv_off alloc(rcv_arena *a, uint64_t size, unsigned space) /* and commit */
{
    rcv_off off = 0;
    int     rc = heap_reserve(a, size, space, &off);
    if (rc)
        fprintf(stderr, "heap_reserve(%llu): %s\n", (unsigned long long)size, rcv_error_text());
    CHECK(rc == 0);
    CHECK(heap_commit_alloc(a, off) == 0);
    heap_settle(a, off);
    memset(a->core + off, 0xff, size); /* what lies in a block is no concern of the heap's */
    return off;
}

static uint64_t used(rcv_arena *a)
{
    struct rcv_stats s = {0};
    heap_stats(a, &s);
    return s.used;
}

static uint64_t reserved(rcv_arena *a)
{
    struct rcv_stats s = {0};
    heap_stats(a, &s);
    return s.reserved;
}

static uint64_t block_size(rcv_arena *a, rcv_off off, bool live)
{
    uint64_t size = 0;
    bool     is = !live;
    CHECK(heap_block(a, off, &size, &is) == 0);
    CHECK(is == live);
    return size;
}

/* -- the tests ------------------------------------------------------------------------------------------ */

/* Every size gets an aligned block that holds it, with little waste, in both spaces; and all of it can go back. */
static void test_classes(void)
{
    rcv_arena *a = make(64 * MIB);
    for (unsigned space = 0; space < 2; space++)
        for (uint64_t size = 0; size < 300000; size += size < 9000 ? 1 + size / 200 : 1021) {
            rcv_off off;
            step(a);
            CHECK(heap_reserve(a, size, space, &off) == 0);
            uint64_t got = block_size(a, off, true);
            CHECK(got >= size && rcv_at(a, off, got) != NULL);
            CHECK(off % (space == RCV_SPACE_ARRAY ? 4096 : 16) == 0);
            if (space == RCV_SPACE_GENERAL && size <= 8192 && size > 128)
                CHECK(got <= size + size / 4 + 16);
            else if (size > 8192 && size <= 61440)
                CHECK(got < size + 4096);
            CHECK(heap_commit_alloc(a, off) == 0);
            uint64_t page = (off - a->data_off) / 4096;
            CHECK(heap_page_live(a, (uint32_t)page) == (space == RCV_SPACE_ARRAY));
            CHECK(heap_page_live(a, (uint32_t)(page + (got - 1) / 4096)) == (space == RCV_SPACE_ARRAY));
            heap_settle(a, off);
            CHECK(heap_commit_free(a, off) == 0);
            CHECK(!heap_page_live(a, (uint32_t)page));
            step_end(a);
        }
    CHECK(used(a) == 0);
    drop(a);
}

/* A freed block is handed out again, but not by the step that freed it. */
static void test_reuse(void)
{
    static const uint64_t sizes[] = {32, 100, 8192, 9000, 61440, 65536, 200000};
    rcv_arena            *a = make(16 * MIB);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (unsigned space = 0; space < 2; space++) {
            step(a);
            rcv_off first = alloc(a, sizes[i], space);
            step_end(a);
            step(a);
            CHECK(heap_commit_free(a, first) == 0);
            CHECK(heap_commit_free(a, first) == RCV_ERR_CORRUPT);
            rcv_off other;
            CHECK(heap_reserve(a, sizes[i], space, &other) == 0);
            CHECK(other / RCV_CHUNK != first / RCV_CHUNK || other / 4096 != first / 4096);
            heap_unreserve(a, other);
            step_undo(a); /* so it is still allocated */
            CHECK(block_size(a, first, true) >= sizes[i]);
            step(a);
            CHECK(heap_commit_free(a, first) == 0);
            step_end(a);
            bool again = false;
            step(a);
            for (int n = 0; n < 3000 && !again; n++) {
                if (heap_reserve(a, sizes[i], space, &other) != 0)
                    break;
                again = other == first;
            }
            CHECK(again);
            step_end(a);
            heap_close(a); /* forget what is pending */
            CHECK(heap_open(a) == 0);
            CHECK(used(a) == 0 && reserved(a) == 0);
        }
    drop(a);
}

/* What is pending is invisible to the table; a rollback after the commit's marks leaves the table as it was. */
static void test_pending(void)
{
    rcv_arena *a = make(32 * MIB);
    rcv_off    off[400];
    step(a);
    alloc(a, 64, RCV_SPACE_GENERAL);
    step_end(a);
    uint64_t before = used(a);
    for (int round = 0; round < 3; round++) {
        step(a);
        for (unsigned i = 0; i < 400; i++)
            CHECK(heap_reserve(a, 16 + i * 171, i & 1, &off[i]) == 0);
        CHECK(used(a) == before);
        for (unsigned i = 0; i < 400; i++) {
            CHECK(block_size(a, off[i], true) >= 16 + i * 171);
            CHECK(heap_commit_alloc(a, off[i]) == 0);
        }
        CHECK(used(a) > before);
        step_undo(a);
        CHECK(used(a) == before);
        for (unsigned i = 0; i < 400; i++) {
            block_size(a, off[i], true);
            heap_unreserve(a, off[i]);
            heap_unreserve(a, off[i]); /* harmless */
        }
        for (int i = 0; i < 20; i++) {
            step(a);
            step_end(a);
        }
        CHECK(reserved(a) <= 33 * RCV_CHUNK); /* one a class */
    }
    drop(a);
}

/* Fill it, see the error, empty it, and have all of it back in one piece. */
static void test_full(void)
{
    static const uint64_t sizes[] = {8000, 40, 20000, 300000};
    uint64_t              size = 4 * MIB;
    rcv_arena            *a = make(size);
    rcv_off              *off = malloc(200000 * sizeof *off);
    CHECK(off != NULL);
    for (unsigned kind = 0; kind < 8; kind++) {
        unsigned n = 0;
        rcv_off  o;
        int      rc;
        for (;;) {
            step(a);
            rc = heap_reserve(a, sizes[kind / 2], kind & 1, &o);
            if (rc == 0) {
                CHECK(heap_commit_alloc(a, o) == 0);
                heap_settle(a, o);
                off[n++] = o;
            }
            step_end(a);
            if (rc)
                break;
        }
        CHECK(rc == RCV_ERR_FULL);
        CHECK(strstr(rcv_error_text(), "full") != NULL);
        CHECK(used(a) >= size * 3 / 4);
        for (unsigned i = 0; i < n; i++) {
            step(a);
            CHECK(heap_commit_free(a, off[i]) == 0);
            step_end(a);
        }
        CHECK(used(a) == 0);
        step(a);
        CHECK(heap_reserve(a, size + 1, RCV_SPACE_ARRAY, &o) == RCV_ERR_FULL);
        CHECK(heap_reserve(a, UINT64_MAX, RCV_SPACE_GENERAL, &o) == RCV_ERR_FULL);
        CHECK(heap_reserve(a, size, RCV_SPACE_ARRAY, &o) == 0); /* every chunk of it */
        heap_unreserve(a, o);
        step_end(a);
    }
    free(off);
    drop(a);
}

/* Rows of pages and of chunks are found between what is allocated. */
static void test_runs(void)
{
    rcv_arena *a = make(16 * MIB);
    rcv_off    off[64], hole;
    step(a);
    for (unsigned i = 0; i < 16; i++) /* one chunk, page by page */
        off[i] = alloc(a, 4096, RCV_SPACE_ARRAY);
    for (unsigned i = 0; i < 16; i++)
        CHECK(off[i] / RCV_CHUNK == off[0] / RCV_CHUNK || (off[i] - a->data_off) / RCV_CHUNK == (off[0] - a->data_off) / RCV_CHUNK);
    step_end(a);
    for (unsigned n = 1; n < 16; n++) {
        step(a);
        for (unsigned i = 0; i < n; i++)
            CHECK(heap_commit_free(a, off[i + 1]) == 0);
        step_end(a);
        step(a);
        CHECK(heap_reserve(a, n * 4096, RCV_SPACE_ARRAY, &hole) == 0);
        CHECK(hole == off[1]); /* the tightest fit */
        CHECK(block_size(a, hole, true) == n * 4096);
        if (n > 1) {
            uint64_t size;
            bool     live;
            CHECK(heap_block(a, hole + 4096, &size, &live) == RCV_ERR_CORRUPT);
        }
        CHECK(heap_commit_alloc(a, hole) == 0);
        CHECK(block_size(a, hole, true) == n * 4096);
        heap_settle(a, hole);
        step_end(a);
        step(a);
        CHECK(heap_commit_free(a, hole) == 0);
        step_end(a);
        step(a);
        for (unsigned i = 0; i < n; i++)
            CHECK(alloc(a, 4096, RCV_SPACE_ARRAY) == off[i + 1]);
        step_end(a);
    }
    for (unsigned i = 0; i < 64; i++) {
        step(a);
        off[i] = alloc(a, 2 * RCV_CHUNK, RCV_SPACE_GENERAL);
        step_end(a);
    }
    step(a);
    for (unsigned i = 20; i < 30; i++)
        CHECK(heap_commit_free(a, off[i]) == 0);
    step_end(a);
    step(a);
    CHECK(alloc(a, 20 * RCV_CHUNK, RCV_SPACE_ARRAY) == off[20]);
    step_end(a);
    drop(a);
}

static void reserve_and_wait(int up, int down)
{
    rcv_off    off[1000];
    rcv_arena *mine = scratch_arena(fd, 0);
    step(mine);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(heap_reserve(mine, 32 + i % 50 * 200, i & 1, &off[i]) == 0);
    for (unsigned i = 0; i < 1000; i += 2)
        CHECK(heap_commit_alloc(mine, off[i]) == 0);
    step_undo(mine);
    CHECK(write(up, off, sizeof off) == (ssize_t)sizeof off);
    char c;
    (void)!read(down, &c, 1); /* until we are killed */
    _exit(1);
}

static void allocate_and_close(void *unused)
{
    (void)unused;
    rcv_arena *mine = scratch_arena(fd, 0);
    step(mine);
    for (unsigned i = 0; i < 100; i++)
        alloc(mine, RCV_CHUNK, RCV_SPACE_GENERAL);
    for (unsigned i = 0; i < 1000; i++)
        alloc(mine, 200, RCV_SPACE_GENERAL);
    step_end(mine);
    CHECK(rcv_close(mine) == 0);
}

/* Two processes never get the same block, though each remembers as free what the other has taken since; what a killed one
 * held comes back, what it had committed stays. */
static void test_processes(void)
{
    rcv_arena *a = make(64 * MIB);
    int        up[2], down[2];
    rcv_off    off[2000];
    step(a);
    for (unsigned i = 0; i < 100; i++)
        alloc(a, 32 + i * 100, i & 1);
    CHECK(heap_reserve(a, 600 * RCV_CHUNK, RCV_SPACE_ARRAY, &off[0]) == 0);
    heap_unreserve(a, off[0]); /* so it knows many free chunks */
    step_end(a);
    uint64_t before = used(a);
    CHECK(pipe(up) == 0 && pipe(down) == 0);
    fflush(stdout);
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        close(down[1]);
        reserve_and_wait(up[1], down[0]);
    }
    close(up[1]);
    for (size_t got = 0; got < sizeof off / 2;) {
        ssize_t n = read(up[0], (char *)off + got, sizeof off / 2 - got);
        CHECK(n > 0);
        got += (size_t)n;
    }
    for (unsigned i = 0; i < 1000; i++) {
        step(a);
        CHECK(heap_reserve(a, 32 + i % 50 * 200, i & 1, &off[1000 + i]) == 0);
        step_end(a);
    }
    for (unsigned i = 0; i < 1000; i++)
        for (unsigned k = 1000; k < 2000; k++)
            CHECK((off[i] - a->data_off) / RCV_CHUNK != (off[k] - a->data_off) / RCV_CHUNK);
    uint64_t chunks;
    CHECK(heap_return_dead(a, &chunks) == 0 && chunks == 0);
    CHECK(kill(other, SIGKILL) == 0 && waitpid(other, NULL, 0) == other);
    uint64_t held = reserved(a);
    step(a);
    CHECK(heap_return_dead(a, &chunks) == 0 && chunks > 0);
    step_end(a);
    CHECK(reserved(a) == held - chunks * RCV_CHUNK);
    CHECK(used(a) == before);
    for (unsigned i = 1000; i < 2000; i++)
        heap_unreserve(a, off[i]);
    CHECK(went_well(child(allocate_and_close, NULL)));
    CHECK(used(a) == before + 100 * RCV_CHUNK + 1000 * 224);
    step(a);
    for (unsigned i = 0; i < 2000; i++) { /* into what it remembers as free */
        uint64_t size;
        bool     live = true;
        CHECK(heap_reserve(a, i % 100 ? 20000 : RCV_CHUNK, RCV_SPACE_GENERAL, &off[i]) == 0);
        CHECK(heap_commit_alloc(a, off[i]) == 0);
        CHECK(heap_block(a, off[i], &size, &live) == 0 && live);
        heap_settle(a, off[i]);
    }
    step_end(a);
    CHECK(used(a) == before + 100 * RCV_CHUNK + 1000 * 224 + 20 * RCV_CHUNK + 1980 * 20480);
    drop(a);
    close(up[0]), close(down[0]), close(down[1]);
}

static rcv_arena *inherited;
static rcv_off    parents[400];

static void allocate_in_fork(void *unused)
{
    (void)unused;
    rcv_arena *a = inherited;
    uint64_t   size;
    bool       live;
    for (unsigned i = 0; i < 200; i++)
        heap_unreserve(a, parents[i]); /* the parent's: nothing happens */
    step(a);
    CHECK(heap_block(a, parents[0], &size, &live) == 0 && !live);
    for (unsigned i = 0; i < 400; i++) {
        rcv_off off = alloc(a, 32 + i * 40, i & 1);
        for (unsigned k = 0; k < 400; k++)
            CHECK((off - a->data_off) / RCV_CHUNK != (parents[k] - a->data_off) / RCV_CHUNK);
    }
    step_end(a);
}

/* A forked child has none of its parent's reservations, and the parent keeps them. */
static void test_fork(void)
{
    rcv_arena *a = inherited = make(32 * MIB);
    step(a);
    for (unsigned i = 0; i < 400; i++)
        CHECK(heap_reserve(a, 32 + i * 40, i & 1, &parents[i]) == 0);
    step_end(a);
    CHECK(went_well(child(allocate_in_fork, NULL)));
    uint64_t theirs = used(a);
    CHECK(theirs > 0);
    step(a);
    for (unsigned i = 0; i < 400; i++) {
        block_size(a, parents[i], true);
        CHECK(heap_commit_alloc(a, parents[i]) == 0);
        heap_settle(a, parents[i]);
    }
    step_end(a);
    CHECK(used(a) == 2 * theirs);
    drop(a);
}

/* -- a million operations against a model -------------------------------------------------------------- */

struct block {
    rcv_off  off;
    uint64_t size;
};
static uint32_t *unit; /* who has the 16 bytes: 0 nobody */
static uint64_t  walked_blocks, walked_bytes;

static void mark(rcv_arena *a, struct block b, uint32_t from, uint32_t to)
{
    uint64_t at = (b.off - a->data_off) / 16;
    for (uint64_t i = 0; i < b.size / 16; i++) {
        CHECK(unit[at + i] == from);
        unit[at + i] = to;
    }
}

static int count_block(void *ctx, rcv_off off, uint64_t size)
{
    rcv_arena *a = ctx;
    CHECK(unit[(off - a->data_off) / 16] == 1 && unit[(off - a->data_off + size - 1) / 16] == 1);
    walked_blocks++;
    walked_bytes += size;
    return 0;
}

static void audit(rcv_arena *a, uint64_t blocks, uint64_t bytes)
{
    walked_blocks = walked_bytes = 0;
    CHECK(heap_walk(a, count_block, a) == 0);
    CHECK(walked_blocks == blocks && walked_bytes == bytes && used(a) == bytes);
}

static uint64_t random_size(void)
{
    switch (any() % 100) {
    case 0: return any() % 400000;
    case 1:
    case 2:
    case 3: return any() % 61440;
    default: return any() % (any() % 8 ? 300 : 8192);
    }
}

enum { MAX = 6000, BATCH = 200 };

/* The blocks that are live, and what a step does to them. */
static struct {
    struct block live[MAX + BATCH], fresh[BATCH];
    bool         gone[MAX + BATCH]; /* of the live ones */
    unsigned     n, n_fresh;
    uint64_t     bytes;
} model;

/* Free a live block in this step, or reserve another. */
static void free_or_reserve(rcv_arena *a, bool shrink)
{
    if (shrink || any() % 5 < 2) {
        unsigned k = model.n ? (unsigned)(any() % model.n) : 0;
        if (model.n)
            model.gone[k] = true;
    } else if (model.n + model.n_fresh < MAX) {
        struct block *b = &model.fresh[model.n_fresh];
        uint64_t      want = random_size();
        int           rc = heap_reserve(a, want, any() % 8 == 0, &b->off);
        CHECK(rc == 0 || rc == RCV_ERR_FULL);
        if (rc)
            return;
        b->size = block_size(a, b->off, true);
        CHECK(b->size >= want);
        mark(a, *b, 0, 2);
        memset(a->core + b->off, 0xa5, b->size);
        model.n_fresh++;
    }
}

static void commit_marks(rcv_arena *a)
{
    for (unsigned i = 0; i < model.n_fresh; i++)
        CHECK(heap_commit_alloc(a, model.fresh[i].off) == 0);
    for (unsigned i = 0; i < model.n; i++)
        if (model.gone[i])
            CHECK(heap_commit_free(a, model.live[i].off) == 0);
}

static void commit_step(rcv_arena *a)
{
    phase_set(a, RCV_PUBLISH);
    for (unsigned i = 0; i < model.n_fresh; i++) {
        heap_settle(a, model.fresh[i].off);
        mark(a, model.fresh[i], 2, 1);
        model.bytes += model.fresh[i].size;
    }
    for (unsigned i = model.n; i-- > 0;)
        if (model.gone[i]) {
            mark(a, model.live[i], 1, 0);
            model.bytes -= model.live[i].size;
            model.live[i] = model.live[--model.n];
            model.gone[i] = model.gone[model.n];
        }
    memcpy(model.live + model.n, model.fresh, model.n_fresh * sizeof *model.fresh);
    model.n += model.n_fresh;
    step_end(a);
}

static void undo_step(rcv_arena *a)
{
    step_undo(a);
    for (unsigned i = model.n_fresh; i-- > 0;) {
        heap_unreserve(a, model.fresh[i].off);
        mark(a, model.fresh[i], 2, 0);
    }
}

static void test_random(uint64_t operations)
{
    uint64_t   size = 48 * MIB;
    rcv_arena *a = make(size);
    unit = calloc(size / 16, sizeof *unit);
    CHECK(unit != NULL);
    for (uint64_t op = 0, batch = 0; op < operations; batch++) {
        unsigned todo = 1 + (unsigned)(any() % BATCH);
        bool     commit = any() % 4 != 0, shrink = model.n > (batch / 300 % 2 ? 500 : MAX - BATCH);
        op += todo;
        model.n_fresh = 0;
        memset(model.gone, 0, sizeof model.gone);
        step(a);
        for (unsigned i = 0; i < todo; i++)
            free_or_reserve(a, shrink);
        if (any() % 3 == 0) { /* a suspension: other steps come in between */
            step_end(a);
            step(a);
        }
        if (commit || any() % 2)
            commit_marks(a);
        if (commit)
            commit_step(a);
        else
            undo_step(a);
        if (batch % 256 == 0)
            audit(a, model.n, model.bytes);
        if (batch % 1024 == 700) { /* a new life */
            heap_close(a);
            CHECK(reserved(a) == 0);
            CHECK(heap_open(a) == 0);
        }
    }
    audit(a, model.n, model.bytes);
    for (unsigned i = 0; i < model.n; i++) {
        step(a);
        CHECK(heap_commit_free(a, model.live[i].off) == 0);
        step_end(a);
    }
    audit(a, 0, 0);
    free(unit);
    drop(a);
}

/* -- damage -------------------------------------------------------------------------------------------------- */

static int ignore_block(void *ctx, rcv_off off, uint64_t size)
{
    rcv_arena *a = ctx;
    CHECK(rcv_at(a, off, size) != NULL);
    return 0;
}

/* The table of chunks, its notes, and the data that they speak of. */
struct tables {
    uint64_t *chunk, *info;
    uint8_t  *data;
    uint64_t  claimed;
};

static void wound(const struct tables *t)
{
    uint64_t  at = any() % (t->claimed / RCV_CHUNK), word = any();
    uint64_t *info = t->info + at;
    switch (any() % 6) {
    case 0: *info ^= UINT64_C(1) << (word % 64); break;
    case 1: *info = word; break;
    case 2: *info = RCV_INFO(word % 6, word >> 8 & 1, word >> 16 & 1, word >> 32 & 0x1ff); break;
    case 3: *info = RCV_INFO(RCV_CHUNK_SMALL, word % 40, word >> 16 & 0x7f, 0); break;
    case 4: t->chunk[at] = any() % 2 ? word : 0; break;
    default: ((uint64_t *)(void *)(t->data + at * RCV_CHUNK))[word % 32] ^= word >> 5; break;
    }
}

/* Every call on a block that is there, or was, or never was. */
static void use_wounded(rcv_arena *a, rcv_off o)
{
    uint64_t size;
    bool     live;
    int      rc = heap_block(a, o, &size, &live);
    CHECK(rc == RCV_ERR_CORRUPT || (rc == 0 && rcv_at(a, o, size) != NULL));
    (void)heap_page_live(a, (uint32_t)(o / 4096));
    if (rc == 0 && live && any() % 2) {
        rc = heap_commit_free(a, o);
        CHECK(rc == 0 || rc == RCV_ERR_CORRUPT);
    }
    rc = heap_reserve(a, random_size(), any() & 1, &o);
    CHECK(rc == 0 || rc == RCV_ERR_FULL || rc == RCV_ERR_CORRUPT);
    if (rc == 0) {
        CHECK(rcv_at(a, o, 32) != NULL);
        if (any() % 2) {
            rc = heap_commit_alloc(a, o);
            CHECK(rc == 0 || rc == RCV_ERR_CORRUPT);
            if (rc == 0)
                heap_settle(a, o);
        }
    }
}

/* On a scribbled table every call ends, with a block inside the claimed memory or an error. */
static void test_scribbled(void)
{
    rcv_arena *a = make(8 * MIB);
    rcv_off    off[200];
    step(a);
    for (unsigned i = 0; i < 200; i++)
        off[i] = alloc(a, 32 + i * 61, i % 3 == 0);
    alloc(a, 300000, RCV_SPACE_ARRAY);
    step_end(a);
    uint64_t     *words = (uint64_t *)(void *)(a->core + a->hdr->region[RCV_R_HEAP].off), n = a->hdr->chunk_count;
    struct tables t = {words, words + n, a->core + a->data_off, rcv_data_claimed(a)};
    uint8_t      *good = malloc(n * 16 + t.claimed);
    CHECK(good != NULL);
    memcpy(good, words, n * 16);
    memcpy(good + n * 16, t.data, t.claimed);
    for (unsigned round = 0; round < 4000; round++) {
        for (unsigned wounds = 1 + (unsigned)(any() % 8); wounds > 0; wounds--)
            wound(&t);
        if (round % 4 == 0) {
            heap_close(a);
            CHECK(heap_open(a) == 0);
        }
        step(a);
        for (unsigned i = 0; i < 40; i++)
            use_wounded(a, i % 2 ? off[any() % 200] : a->data_off + any() % (t.claimed + RCV_CHUNK) / 16 * 16);
        int rc = heap_walk(a, ignore_block, a);
        CHECK(rc == 0 || rc == RCV_ERR_CORRUPT);
        if (round % 3)
            step_end(a);
        else
            step_undo(a);
        (void)used(a);
        if (round % 16 == 15) {
            heap_close(a);
            memcpy(words, good, n * 16);
            memcpy(t.data, good + n * 16, t.claimed);
            CHECK(heap_open(a) == 0);
        }
    }
    heap_close(a);
    memset(words, 0, n * 16);
    CHECK(heap_open(a) == 0);
    free(good);
    drop(a);
}

/* What it costs, for the record. */
static void measure(void)
{
    enum { N = 64, ROUNDS = 20000 };
    rcv_arena *a = make(64 * MIB);
    rcv_off    off[N];
    uint64_t   t_reserve = 0, t_commit = 0, t_free = 0, t_unreserve = 0, t_block = 0, t0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        step(a);
        t0 = os_nanos();
        for (unsigned i = 0; i < N; i++)
            CHECK(heap_reserve(a, 100, 0, &off[i]) == 0);
        t_reserve += os_nanos() - t0;
        if (round % 2) {
            t0 = os_nanos();
            for (unsigned i = N; i-- > 0;)
                heap_unreserve(a, off[i]);
            t_unreserve += os_nanos() - t0;
        } else {
            t0 = os_nanos();
            for (unsigned i = 0; i < N; i++)
                CHECK(heap_commit_alloc(a, off[i]) == 0);
            for (unsigned i = 0; i < N; i++)
                heap_settle(a, off[i]);
            t_commit += os_nanos() - t0;
            t0 = os_nanos();
            for (unsigned i = 0; i < N; i++)
                block_size(a, off[i], true);
            t_block += os_nanos() - t0;
            step_end(a);
            step(a);
            if (round % 4) {
                t0 = os_nanos();
                for (unsigned i = 0; i < N; i++)
                    CHECK(heap_commit_free(a, off[i]) == 0);
                t_free += os_nanos() - t0;
            }
        }
        step_end(a);
    }
    double all = (double)N * ROUNDS;
    printf("heap: reserve %.1f ns, unreserve %.1f, commit_alloc + settle %.1f, commit_free %.1f, block %.1f\n", (double)t_reserve / all,
           (double)t_unreserve / all * 2, (double)t_commit / all * 2, (double)t_free / all * 4, (double)t_block / all * 2);
    drop(a);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0);
    printf("seed %llu\n", (unsigned long long)seed);
    test_classes();
    test_reuse();
    test_pending();
    test_full();
    test_runs();
    test_processes();
    test_fork();
    test_random(1000000);
    test_scribbled();
    measure();
    CHECKS_DONE();
    return 0;
}
