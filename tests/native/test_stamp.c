/* test_stamp.c -- a transaction has lost if a unit that it read was written since, and, as far as the ring reaches, only then. */
#include "dicts.h"

#include <stdlib.h>

#define UNITS 40u /* so many, and so few stamps, that they nearly all share theirs with others */

static uint64_t rng = 7;

static unsigned below(unsigned n)
{
    rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(rng >> 33) % n;
}

/* small -- an arena whose tables have `stamps` entries, and whose ring has `recent`. */
static rcv_arena *small(int fd, uint64_t stamps, uint64_t recent)
{
    rcv_arena *a = rooted_arena(fd, 8 * MIB);
    a->stamp_mask = stamps - 1;
    a->recent_mask = recent - 1;
    return a;
}

static void write_unit(rcv_arena *a, unsigned unit)
{
    rcv_txn *t = begin(a);
    OK(stamp_write(t, 0, 1, RCV_UNIT_KEY, unit));
    commit(t);
}

struct seen {
    uint64_t read, lost; /* bits by unit: read by the transaction; written by others since */
    unsigned commits;    /* units written since it was last found valid */
};

/* play -- one reader of random units among many writers, over several steps: is it valid exactly when it should be? Returns
 * how often it was told that it had lost although it had not. */
static unsigned play(rcv_arena *a, unsigned recent)
{
    struct seen now = {0};
    rcv_txn    *t;
    OK(rcv_txn_new(a, 0, "test", &t));
    for (unsigned step = 0; step < 12; step++) {
        int rc = rcv_txn_mount(t);
        if (rc != 0) {
            unsigned needless = (now.read & now.lost) == 0;
            CHECK(rc == RCV_ERR_CONFLICT);
            CHECK(!needless || now.commits > recent);
            rcv_txn_free(t);
            return needless;
        }
        CHECK((now.read & now.lost) == 0); /* never missed */
        now.lost = now.commits = 0;
        for (unsigned n = below(4); n > 0; n--) {
            unsigned unit = below(UNITS);
            OK(stamp_read(t, 0, 1, RCV_UNIT_KEY, unit));
            now.read |= UINT64_C(1) << unit;
        }
        OK(rcv_txn_suspend(t));
        for (unsigned n = below(step % 4 ? 3 : 30); n > 0; n--) {
            unsigned unit = below(UNITS);
            if ((now.read >> unit & 1) && below(8))
                continue;
            write_unit(a, unit);
            now.lost |= UINT64_C(1) << unit;
            now.commits++;
        }
    }
    rcv_txn_free(t);
    return 0;
}

static void test_who_has_lost(void)
{
    const unsigned rings[] = {4, 16, 64};
    for (unsigned i = 0; i < 3; i++) {
        int        fd = scratch_object();
        rcv_arena *a = small(fd, 8, rings[i]);
        unsigned   needless = 0;
        for (unsigned n = 0; n < 3000; n++)
            needless += play(a, rings[i]);
        CHECK(rings[i] < 64 ? needless > 0 : needless == 0); /* 64: it never waits for so long that the ring is overrun */
        OK(rcv_close(a));
        close(fd);
    }
}

/* A unit of which one stamp has stood still has not changed, however long ago the ring was overrun. */
static void test_both_must_move(void)
{
    int        fd = scratch_object();
    rcv_arena *a = small(fd, 1024, 4);
    unsigned   shares[2] = {0}, n = 0;
    uint64_t   mine = stamp_unit(1, RCV_UNIT_KEY, 0);
    for (unsigned unit = 1; n < 2; unit++) {
        uint64_t other = stamp_unit(1, RCV_UNIT_KEY, unit);
        bool     first = ((other ^ mine) & 1023) == 0, second = ((other ^ mine) >> 32 & 1023) == 0;
        CHECK(!(first && second));
        if ((n == 0 && first) || (n == 1 && second))
            shares[n++] = unit;
    }
    for (unsigned both = 0; both < 2; both++) {
        rcv_txn *t = begin(a);
        OK(stamp_read(t, 0, 1, RCV_UNIT_KEY, 0));
        OK(rcv_txn_suspend(t));
        for (unsigned i = 0; i < 8; i++)
            write_unit(a, shares[0]);
        if (both)
            write_unit(a, shares[1]);
        CHECK(rcv_txn_mount(t) == (both ? RCV_ERR_CONFLICT : 0));
        rcv_txn_free(t);
    }
    OK(rcv_close(a));
    close(fd);
}

/* What a transaction does to a container that it has made in the same step needs no stamp: nobody else has seen it. */
static void test_new_containers(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 8 * MIB);
    rcv_txn   *t = begin(a);
    rcv_off    child = set_dict(t, rcv_root(a), "child");
    uint64_t   writes = t->n_writes, reads = t->n_reads;
    set_int(t, child, "x", 1);
    CHECK(t->n_writes == writes && t->n_reads == reads);
    OK(rcv_txn_suspend(t));
    OK(rcv_txn_mount(t));
    set_int(t, child, "y", 1);
    CHECK(t->n_writes > writes && t->n_reads > reads);
    commit(t);
    t = begin(a);
    struct rcv_key   key = key_of(a, "x");
    struct rcv_value value;
    CHECK(rcv_dict_get(a, t, child, &key, &value) == 1);
    OK(rcv_txn_suspend(t));
    rcv_txn *other = begin(a);
    set_int(other, child, "x", 2);
    commit(other);
    CHECK(rcv_txn_mount(t) == RCV_ERR_CONFLICT);
    rcv_txn_free(t);
    OK(rcv_close(a));
    close(fd);
}

/* The tables grow with the arena: what they take. */
static void test_sizes(void)
{
    const struct {
        uint64_t size, most; /* bytes; of them, for stamps */
    } arena[] = {{1 * MIB, 256 * 1024}, {8 * MIB, 256 * 1024}, {256 * MIB, 256 * MIB / 50}, {2048 * MIB, 2048 * MIB / 55}};
    for (unsigned i = 0; i < sizeof arena / sizeof *arena; i++) {
        rcv_arena               a = {.name = "?"};
        struct rcv_header       h = {0};
        struct rcv_open_options o = {.size = arena[i].size};
        OK(header_plan(&a, &o, 0, &h));
        CHECK(h.region[RCV_R_STAMP].size <= arena[i].most);
        CHECK(h.stamp_count >= arena[i].size / 1024 && h.recent_count >= 16384);
    }
}

int main(void)
{
    test_who_has_lost();
    test_both_must_move();
    test_new_containers();
    test_sizes();
    CHECKS_DONE();
    return 0;
}
