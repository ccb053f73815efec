/* test_image.c -- does a reader without the lock see committed state, whatever a writer is doing, or has died of? */
#include "tracked.h"

#include <pthread.h>
#include <stdio.h>

#define SECOND UINT64_C(1000000000)

/* read_only -- the same object, for an image. */
static int read_only(int fd)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY);
    CHECK(again >= 0);
    return again;
}

static rcv_arena *image_of(int fd)
{
    rcv_arena *a;
    int        rc = rcv_image_open(fd, "image", &a);
    if (rc != 0)
        fprintf(stderr, "rcv_image_open: %d: %s\n", rc, rcv_error_text());
    CHECK(rc == 0);
    return a;
}

static uint8_t byte_at(rcv_arena *a, rcv_off off)
{
    const uint8_t *p = rcv_at(a, off & ~(rcv_off)7, 8);
    CHECK(p != NULL);
    return *(const volatile uint8_t *)(p + (off & 7));
}

/* see -- n bytes, a page apart, all of one moment: as any reader has to. */
static void see(rcv_arena *a, rcv_off data, uint32_t n, uint8_t *out)
{
    do {
        CHECK(rcv_image_take(a, SECOND) == 0);
        for (uint32_t i = 0; i < n; i++)
            out[i] = byte_at(a, data + i * PAGE);
    } while (rcv_image_grew(a));
}

static void expect(rcv_arena *a, rcv_off data, uint8_t first, uint8_t second, uint8_t third)
{
    uint8_t seen[3];
    see(a, data, 3, seen);
    if (seen[0] != first || seen[1] != second || seen[2] != third)
        fprintf(stderr, "seen %d %d %d, committed were %d %d %d\n", seen[0], seen[1], seen[2], first, second, third);
    CHECK(seen[0] == first && seen[1] == second && seen[2] == third);
}

/* An announced write on page 0, a trapped one on page 1, a raw one on the hot page 2. */
static void write_all(struct tracked *w, uint8_t value)
{
    announce(w, 0, value);
    poke(w, PAGE, value);
    poke(w, 2 * PAGE, value);
}

static void test_in_a_step_it_is_what_was_before(void)
{
    struct tracked w = tracked_make(8, 0, "adaptive");
    make_hot(&w, 2, 1);
    int        fd = read_only(w.fd);
    rcv_arena *image = image_of(fd);
    begin(w.a);
    write_all(&w, 7);
    expect(image, w.data, 0, 0, 1);
    uint64_t mark = undo_tail(w.a);
    announce(&w, 8, 9);
    struct rcv_recovery report = {0};
    CHECK(undo_apply(w.a, mark, &report) == 0); /* a savepoint that is gone back to */
    undo_cut(w.a, mark);
    expect(image, w.data, 0, 0, 1);
    commit(w.a);
    expect(image, w.data, 7, 7, 7);
    begin(w.a);
    write_all(&w, 8);
    rollback(w.a);
    expect(image, w.data, 7, 7, 7);
    rcv_image_close(image);
    close(fd);
    tracked_drop(&w);
}

static void test_between_publish_and_idle_it_is_the_data(void)
{
    struct tracked w = tracked_make(8, 0, "adaptive");
    make_hot(&w, 2, 1);
    int        fd = read_only(w.fd);
    rcv_arena *image = image_of(fd);
    begin(w.a);
    write_all(&w, 7);
    const uint32_t *pages;
    uint32_t        n;
    tracker_shut(w.a);
    CHECK(tracker_collect(w.a, &pages, &n) == 0);
    tracker_settle(w.a);
    expect(image, w.data, 0, 0, 1);
    phase_set(w.a, RCV_PUBLISH);
    CHECK(shadow(&w, 2)[0] == 1 && undo_tail(w.a) != 0); /* both say what was before */
    expect(image, w.data, 7, 7, 7);
    tracker_publish(w.a);
    expect(image, w.data, 7, 7, 7);
    end(w.a);
    expect(image, w.data, 7, 7, 7);
    rcv_image_close(image);
    close(fd);
    tracked_drop(&w);
}

static void die_in_a_step(void *arg)
{
    struct tracked *w = arg;
    rcv_arena      *a = tracked_attach(w->fd, 0, 0, "adaptive");
    tracked_use(w, a, w->data);
    hold(a);
    begin(a);
    write_all(w, 7);
    die();
}

static void die_in_a_cut(void *arg)
{
    struct tracked *w = arg;
    rcv_arena      *a = tracked_attach(w->fd, 0, 0, "adaptive");
    tracked_use(w, a, w->data);
    hold(a);
    begin(a);
    write_all(w, 7);
    atomic_fetch_add(&a->hdr->cuts, 1);
    die();
}

static void test_what_a_killed_process_left_is_read_and_stays(void)
{
    void (*const deaths[])(void *) = {die_in_a_step, die_in_a_cut};
    for (int i = 0; i < 2; i++) {
        struct tracked w = tracked_make(8, 0, "adaptive");
        make_hot(&w, 2, 1);
        CHECK(was_killed(child(deaths[i], &w)));
        int        fd = read_only(w.fd);
        rcv_arena *image = image_of(fd);
        uint64_t   tail = undo_tail(w.a), cuts = atomic_load(&w.a->hdr->cuts);
        CHECK(tail != 0 && atomic_load(&w.a->hdr->phase) == RCV_STEP && (cuts & 1) == (i == 1));
        expect(image, w.data, 0, 0, 1);
        CHECK(undo_tail(w.a) == tail && atomic_load(&w.a->hdr->phase) == RCV_STEP && w.core[0] == 7);
        begin(w.a); /* recovers */
        CHECK(w.core[0] == 0 && w.core[2 * PAGE] == 1 && atomic_load(&w.a->hdr->cuts) > cuts);
        CHECK((atomic_load(&w.a->hdr->cuts) & 1) == 0);
        rollback(w.a);
        expect(image, w.data, 0, 0, 1);
        rcv_image_close(image);
        close(fd);
        tracked_drop(&w);
    }
}

static _Atomic bool stop;

static void *cut_all_the_time(void *arg)
{
    rcv_arena *a = arg;
    while (!atomic_load(&stop))
        undo_cut(a, 0);
    return NULL;
}

static void test_without_a_moment_it_is_busy(void)
{
    struct tracked w = tracked_make(600, 0, "adaptive");
    int            fd = read_only(w.fd);
    rcv_arena     *image = image_of(fd);
    CHECK(rcv_image_take(image, SECOND) == 0);
    for (uint32_t i = 0; i < 600; i++)
        (void)byte_at(image, w.data + i * PAGE);
    CHECK(rcv_image_grew(image) == 600);
    begin(w.a);
    pthread_t thread;
    atomic_store(&stop, false);
    CHECK(pthread_create(&thread, NULL, cut_all_the_time, w.a) == 0);
    bool busy = false;
    for (uint64_t begun = os_nanos(); !busy && os_nanos() - begun < 20 * SECOND;) /* the other has to get to run */
        busy = rcv_image_take(image, SECOND / 2000) == RCV_ERR_BUSY;
    atomic_store(&stop, true);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(busy);
    rollback(w.a);
    CHECK(rcv_image_take(image, SECOND) == 0 && rcv_image_grew(image) == 0);
    rcv_image_close(image);
    close(fd);
    tracked_drop(&w);
}

static void test_it_holds_so_much_and_no_more(void)
{
    struct tracked w = tracked_make(9000, 0, "adaptive");
    begin(w.a);
    announce(&w, 8999 * PAGE, 5);
    commit(w.a);
    int        fd = read_only(w.fd);
    rcv_arena *image = image_of(fd);
    CHECK(rcv_image_take(image, SECOND) == 0);
    for (uint32_t i = 0; i < 9000; i++)
        (void)byte_at(image, w.data + i * PAGE);
    CHECK(rcv_image_full(image));
    rcv_image_forget(image);
    CHECK(!rcv_image_full(image) && rcv_image_grew(image) == 0);
    CHECK(rcv_image_take(image, SECOND) == 0);
    CHECK(byte_at(image, w.data + 8999 * PAGE) == 5 && rcv_image_grew(image) == 1);
    rcv_image_close(image);
    close(fd);
    tracked_drop(&w);
}

static void test_what_it_is_not_for(void)
{
    struct tracked w = tracked_make(8, 0, "adaptive");
    int            fd = read_only(w.fd);
    rcv_arena     *images[5], *image;
    rcv_txn       *t;
    for (int i = 0; i < 4; i++)
        images[i] = image_of(fd);
    CHECK(rcv_image_open(fd, "image", &image) == RCV_ERR_MISUSE);
    for (int i = 1; i < 4; i++)
        rcv_image_close(images[i]);
    CHECK(rcv_txn_new(images[0], 0, "test", &t) == RCV_ERR_MISUSE);
    CHECK(rcv_access(images[0], NULL, 1, &t) == RCV_ERR_NOTXN);
    rcv_image_close(images[0]);
    uint64_t   bad = UINT64_MAX - 7;
    rcv_arena *again = image_of(fd);
    begin(w.a);
    announce(&w, 0, 1);
    struct rcv_undo_head *head = (struct rcv_undo_head *)(void *)(w.a->undo + undo_tail(w.a)) - 1;
    uint64_t              good = head->off;
    head->off = bad; /* damage: an error, and no store to where it says */
    CHECK(rcv_image_take(again, SECOND) == RCV_ERR_CORRUPT);
    head->off = good;
    CHECK(rcv_image_take(again, SECOND) == 0);
    rollback(w.a);
    rcv_image_close(again);
    close(fd);
    tracked_drop(&w);
}

int main(void)
{
    test_in_a_step_it_is_what_was_before();
    test_between_publish_and_idle_it_is_the_data();
    test_what_a_killed_process_left_is_read_and_stays();
    test_without_a_moment_it_is_busy();
    test_it_holds_so_much_and_no_more();
    test_what_it_is_not_for();
    CHECKS_DONE();
    return 0;
}
