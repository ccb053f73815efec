/* tracked.h -- an arena with array memory to write raw into, and steps as the transaction layer makes them. */
#ifndef RCV_TEST_TRACKED_H
#define RCV_TEST_TRACKED_H

#include "scratch.h"
#include "pages/state.h"

#define PAGE ((uint64_t)4096)

/* An arena and its one array of `pages` pages from `data`. */
struct tracked {
    int        fd;
    rcv_arena *a;
    rcv_off    data;
    uint32_t   first; /* its first page in the data region */
    uint8_t   *raw;   /* the array in the tracked view: what user code writes through */
    uint8_t   *core;  /* the same in the core view: what is really there */
};

static inline rcv_arena *tracked_attach(int fd, uint64_t size, uint64_t undo_size, const char *policy)
{
    struct rcv_open_options o = {
        .size = size, .undo_size = undo_size, .create = size != 0, .policy = policy, .busy_timeout = 5.0, .name = "tracked"};
    rcv_arena *a = NULL;
    int        rc = rcv_open(fd, &o, &a);
    if (rc != 0)
        fprintf(stderr, "rcv_open: %d: %s\n", rc, rcv_error_text());
    CHECK(rc == 0);
    CHECK(a->hdr->page_size == PAGE);
    return a;
}

/* first -- the view that `raw` lies in. */
static inline struct view *first(const rcv_arena *a) { return a->tracker->views[0]; }

/* hold -- a raw buffer lives somewhere; drop -- no more. Of the steps here, each is as if it made its own in the first view and let
 * it go before it ends, as a handler's frame does. */
static inline void hold(rcv_arena *a)
{
    a->tracker->raw_count++;
    a->tracker->raw_since = true;
}
static inline void drop(rcv_arena *a) { a->tracker->raw_count--; }

static inline void begin(rcv_arena *a)
{
    CHECK(lock_take(a) == 0);
    a->step_thread = os_thread_id();
    CHECK(tracker_enter(a, NULL) == 0);
    views_use(a, first(a), true);
    phase_set(a, RCV_STEP);
}

static inline void end(rcv_arena *a)
{
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    tracker_leave(a);
    a->step_thread = 0;
    lock_drop(a);
}

/* commit -- returns how many pages were raw-changed. */
static inline uint32_t commit(rcv_arena *a)
{
    const uint32_t *pages;
    uint32_t        n;
    tracker_shut(a);
    CHECK(tracker_doomed(a) == 0);
    CHECK(tracker_collect(a, &pages, &n) == 0);
    atomic_fetch_add(&a->hdr->commit_seq, 1);
    tracker_settle(a);
    phase_set(a, RCV_PUBLISH);
    tracker_publish(a);
    end(a);
    return n;
}

static inline void rollback(rcv_arena *a)
{
    struct rcv_recovery report = {0};
    tracker_shut(a);
    tracker_judge(a);
    CHECK(undo_apply(a, 0, &report) == 0);
    tracker_revert(a);
    end(a);
}

/* savepoint -- where back_to() goes back to. */
static inline uint64_t savepoint(rcv_arena *a)
{
    uint64_t mark;
    CHECK(tracker_savepoint(a, &mark) == 0);
    return mark;
}

static inline void back_to(rcv_arena *a, uint64_t mark)
{
    struct rcv_recovery report = {0};
    CHECK(tracker_rollback_to(a, mark, &report) == 0 && undo_tail(a) == mark);
}

static inline void tracked_use(struct tracked *w, rcv_arena *a, rcv_off data)
{
    w->a = a;
    w->data = data;
    w->raw = rcv_tracked(a, data);
    w->core = a->core + data;
    w->first = (uint32_t)((data - a->data_off) / PAGE);
}

/* tracked_array -- make the one array. */
static inline void tracked_array(struct tracked *w, rcv_arena *a, uint64_t pages)
{
    rcv_off data;
    CHECK(lock_take(a) == 0);
    phase_set(a, RCV_STEP);
    CHECK(heap_reserve(a, pages * PAGE, RCV_SPACE_ARRAY, &data) == 0);
    CHECK(heap_commit_alloc(a, data) == 0);
    memset(a->core + data, 0, pages * PAGE);
    phase_set(a, RCV_PUBLISH);
    heap_settle(a, data);
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    lock_drop(a);
    tracked_use(w, a, data);
    CHECK(heap_page_live(a, w->first) && heap_page_live(a, w->first + (uint32_t)pages - 1));
    hold(a);
}

static inline struct tracked tracked_make(uint64_t pages, uint64_t undo_size, const char *policy)
{
    struct tracked w = {.fd = scratch_object()};
    tracked_array(&w, tracked_attach(w.fd, pages * PAGE + 8 * MIB, undo_size, policy), pages);
    return w;
}

/* tracked_fill -- the same with options of the caller's. */
static inline void tracked_fill(struct tracked *w, const struct rcv_open_options *o, uint64_t pages)
{
    rcv_arena *a = NULL;
    int        rc = rcv_open(w->fd, o, &a);
    if (rc != 0)
        fprintf(stderr, "rcv_open: %d: %s\n", rc, rcv_error_text());
    CHECK(rc == 0);
    tracked_array(w, a, pages);
}

static inline void tracked_drop(struct tracked *w)
{
    while (rcv_raw_count(w->a) != 0)
        drop(w->a);
    CHECK(rcv_close(w->a) == 0);
    close(w->fd);
}

/* announce -- an announced write of one byte into array memory. */
static inline void announce(struct tracked *w, uint64_t at, uint8_t value)
{
    CHECK(undo_append(w->a, w->data + at, 1, RCV_U_DATA) == 0);
    tracker_note_announced(w->a, w->data + at, 1);
    w->core[at] = value;
}

/* poke -- a raw store that the compiler can't move or drop. */
static inline void poke(struct tracked *w, uint64_t at, uint8_t value) { *(volatile uint8_t *)(w->raw + at) = value; }

static inline bool hot(struct tracked *w, uint32_t page) { return w->a->tracker->slot_of[w->first + page] != 0; }
static inline bool writable(struct tracked *w, uint32_t page) { return first(w->a)->state[w->first + page] & PG_WRITABLE; }
static inline const uint8_t *shadow(struct tracked *w, uint32_t page)
{
    return hot_shadow(w->a, w->a->tracker->slot_of[w->first + page] - 1);
}

/* make_hot -- two steps that write the page: the second trap promotes it. Leaves `value` in its byte 0. */
static inline void make_hot(struct tracked *w, uint32_t page, uint8_t value)
{
    for (int i = 0; i < 2; i++) {
        begin(w->a);
        poke(w, page * PAGE, (uint8_t)(value + 1 - i));
        commit(w->a);
    }
    CHECK(hot(w, page) && writable(w, page));
}

#endif
