/* test_reclaim.c -- a deleted tree is freed in slices at later boundaries, all of it, whatever happens in between. */
#include "dicts.h"

#include <stdio.h>

static const char *numbered(unsigned i)
{
    static char name[24];
    snprintf(name, sizeof name, "key %u", i);
    return name;
}

static uint64_t used(rcv_arena *a)
{
    struct rcv_stats s = {0};
    heap_stats(a, &s);
    return s.used;
}

static bool waiting(rcv_arena *a) { return atomic_load(&a->hdr->reclaim) != 0; }

/* plant -- root["tree"]: `n` entries, every tenth a container with some of its own. */
static void plant(rcv_arena *a, unsigned n)
{
    rcv_txn *t = begin(a);
    rcv_off  tree = set_dict(t, rcv_root(a), "tree");
    set_zoo(t, tree, n);
    commit(t);
    for (unsigned i = 0; i < n;) {
        t = begin(a);
        for (unsigned k = 0; k < 300 && i < n; k++, i++) {
            if (i % 10 == 3) {
                rcv_off child = set_dict(t, tree, numbered(i));
                for (unsigned m = 0; m < i % 40; m++)
                    set_bytes(t, child, numbered(m), 30);
            } else if (i % 10 == 7 && i % 3 == 0) {
                set_array(t, tree, numbered(i), 10 + i);
            } else {
                set_bytes(t, tree, numbered(i), i % 100);
            }
        }
        commit(t);
    }
}

static void touch(rcv_arena *a, int64_t i)
{
    rcv_txn *t = begin(a);
    set_int(t, rcv_root(a), "now", i);
    commit(t);
}

/* fell -- delete the tree; its memory is not freed at once. */
static void fell(rcv_arena *a)
{
    rcv_txn *t = begin(a);
    CHECK(del(t, rcv_root(a), "tree") == 1);
    commit(t);
}

/* The delete itself is quick; each later boundary frees a little; in the end all is back, and at no moment is it damage. */
static void test_slices(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 64 * MIB);
    touch(a, 0);
    uint64_t before = used(a);
    for (int round = 0; round < 2; round++) {
        plant(a, 5000);
        uint64_t full = used(a), last = full;
        fell(a);
        CHECK(waiting(a) && used(a) > full - full / 10);
        unsigned slices = 0;
        for (; waiting(a); slices++) {
            touch(a, slices);
            CHECK(used(a) <= last);
            last = used(a);
            if (slices < 20 || slices % 16 == 0)
                verified(a);
        }
        CHECK(slices > 50);
        CHECK(used(a) == before);
        CHECK(verified(a).containers == 1);
    }
    OK(rcv_close(a));
    close(fd);
}

/* A deep tree needs no stack. */
static void test_deep(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 32 * MIB);
    touch(a, 0);
    uint64_t before = used(a);
    rcv_txn *t = begin(a);
    rcv_off  d = set_dict(t, rcv_root(a), "tree");
    for (unsigned i = 0; i < 20000; i++)
        d = set_dict(t, d, "x");
    commit(t);
    CHECK(verified(a).containers == 20002);
    fell(a);
    for (unsigned i = 0; waiting(a); i++) {
        CHECK(i < 30000);
        touch(a, i);
    }
    CHECK(used(a) == before && verified(a).containers == 1);
    OK(rcv_close(a));
    close(fd);
}

static int child_fd;

static void fell_and_die(void *arg)
{
    unsigned   slices = *(unsigned *)arg;
    rcv_arena *a = scratch_arena(child_fd, 0);
    if (rcv_root(a) != 0 && !waiting(a))
        fell(a);
    while (slices-- > 0)
        touch(a, slices);
    die();
}

/* The list outlives its process. */
static void test_killed(void)
{
    child_fd = scratch_object();
    rcv_arena *a = rooted_arena(child_fd, 64 * MIB);
    touch(a, 0);
    uint64_t before = used(a);
    plant(a, 2000);
    for (unsigned slices = 0; slices < 6; slices++) {
        CHECK(was_killed(child(fell_and_die, &slices)));
        CHECK(waiting(a));
        verified(a);
    }
    OK(rcv_close(a));
    a = scratch_arena(child_fd, 0);
    for (unsigned i = 0; waiting(a); i++) {
        CHECK(i < 1000);
        touch(a, i);
    }
    CHECK(used(a) == before);
    verified(a);
    OK(rcv_close(a));
    close(child_fd);
}

#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS
static void reclaim_and_die(void *arg)
{
    rcv_arena *a = scratch_arena(child_fd, 0);
    rcv_crash_at(*(unsigned *)arg);
    touch(a, 0);
    rcv_crash_at(0);
    _exit(0); /* survived: no such point */
}

/* Killed at every point (later, at every seventh) of a commit with a slice behind it: sound after each, and nothing is lost or freed twice. */
static void test_crash_points(void)
{
    unsigned points = 1;
    child_fd = scratch_object();
    rcv_arena *a = rooted_arena(child_fd, 32 * MIB);
    touch(a, 0);
    uint64_t before = used(a);
    plant(a, 1500);
    fell(a);
    OK(rcv_close(a));
    for (;; points += points < 60 ? 1 : 7) {
        int status = child(reclaim_and_die, &points);
        a = scratch_arena(child_fd, 0);
        verified(a);
        OK(rcv_close(a));
        if (went_well(status))
            break;
        CHECK(was_killed(status));
    }
    printf("reclaim: about %u points\n", points);
    CHECK(points > 15);
    a = scratch_arena(child_fd, 0);
    CHECK(waiting(a));
    for (unsigned i = 0; waiting(a); i++)
        touch(a, i);
    CHECK(used(a) == before);
    verified(a);
    OK(rcv_close(a));
    close(child_fd);
}
#endif

/* A list that leads to what is not detached frees nothing and stops nobody. */
static void test_damaged_list(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 16 * MIB);
    plant(a, 100);
    touch(a, 0);
    uint64_t before = used(a), root = rcv_root(a);
    uint64_t wrong[] = {root, a->data_off + 256, a->data_off + rcv_data_claimed(a), UINT64_MAX - 7};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        atomic_store(&a->hdr->reclaim, wrong[i]);
        touch(a, i);
        CHECK(used(a) == before);
        CHECK(atomic_load(&a->hdr->reclaim) == wrong[i]);
    }
    atomic_store(&a->hdr->reclaim, 0);
    CHECK(verified(a).entries > 100);
    OK(rcv_close(a));
    close(fd);
}

/* write_raw -- the Array's first byte, through a buffer, in a transaction of its own. */
static void write_raw(rcv_arena *a, rcv_off array, uint8_t value)
{
    struct rcv_raw buffer;
    rcv_txn       *t = begin(a);
    rcv_raw_viewed(a, array);
    OK(rcv_raw_acquire(t, ((struct rcv_array *)(void *)(a->core + array))->data, &buffer));
    *(volatile uint8_t *)buffer.at = value;
    rcv_raw_release(a, &buffer);
    commit(t);
}

/* An Array whose memory is said to lie elsewhere is not freed, and a process with hot pages does not look there. */
static void test_damaged_array(void)
{
    struct rcv_open_options o = {.policy = "adaptive", .busy_timeout = 0.05, .name = "scratch"};
    int                     fd = scratch_object();
    rcv_arena              *a = rooted_arena(fd, 16 * MIB);
    OK(rcv_close(a));
    OK(rcv_open(fd, &o, &a));
    rcv_txn *t = begin(a);
    rcv_off  tree = set_array(t, rcv_root(a), "tree", 100), hot = set_array(t, rcv_root(a), "hot", 100);
    commit(t);
    for (uint8_t i = 1; a->n.promotions == 0; i++) {
        CHECK(i < 10);
        write_raw(a, hot, i);
    }
    struct rcv_array *array = (struct rcv_array *)(void *)(a->core + tree);
    rcv_off           data = array->data;
    array->data = a->data_off + (UINT64_C(1) << 40);
    t = begin(a);
    CHECK(del(t, rcv_root(a), "tree") == 1);
    commit(t);
    for (int i = 0; i < 2; i++)
        touch(a, i);
    CHECK(atomic_load(&a->hdr->reclaim) == tree);
    array->data = data;
    touch(a, 2);
    CHECK(!waiting(a));
    verified(a);
    OK(rcv_close(a));
    close(fd);
}

/* Whoever had looked at a container inside the tree conflicts: it was stamped before its memory could be reused. */
static void test_readers(void)
{
    int               fd = scratch_object();
    rcv_arena        *a = rooted_arena(fd, 16 * MIB);
    struct rcv_handle h;
    rcv_txn          *t = begin(a);
    rcv_off           tree = set_dict(t, rcv_root(a), "tree"), inner = set_dict(t, tree, "inner");
    set_int(t, inner, "x", 1);
    commit(t);
    t = begin(a);
    OK(rcv_handle_open(a, inner, &h));
    OK(rcv_handle_check(a, t, &h));
    OK(rcv_txn_suspend(t));
    fell(a);
    while (waiting(a))
        touch(a, 0);
    CHECK(((struct rcv_container *)(void *)(a->core + inner))->id == 0); /* no handle finds it, whatever lies there next */
    CHECK(rcv_txn_mount(t) == RCV_ERR_CONFLICT);
    rcv_txn_free(t);
    t = begin(a);
    CHECK(rcv_handle_check(a, t, &h) == RCV_ERR_STALE);
    rcv_txn_free(t);
    OK(rcv_close(a));
    close(fd);
}

int main(void)
{
    test_slices();
    test_deep();
    test_killed();
#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS
    test_crash_points();
#endif
    test_damaged_list();
    test_damaged_array();
    test_readers();
    CHECKS_DONE();
    return 0;
}
