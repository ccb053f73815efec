/* test_pool.c -- what a transaction leaves to the next one that gets its buffers: nothing that costs anything. */
#include "dicts.h"

#include <stdlib.h>

#define SMALL 5u

/* slots -- how many slots of its tables a transaction uses, and so clears at its end. */
static uint64_t slots(const rcv_txn *t) { return (uint64_t)t->read_index.mask + t->write_index.mask + t->summary_index.mask; }

/* buffers -- how many bytes it holds. */
static uint64_t buffers(const rcv_txn *t)
{
    return t->cap_reads * sizeof *t->reads + t->cap_writes * sizeof *t->writes + t->cap_values * sizeof *t->values +
           t->cap_intents * sizeof *t->intents + t->cap_summaries * sizeof *t->summaries + t->cap_runs * sizeof *t->runs +
           t->raw.cap_pages * sizeof *t->raw.pages + t->cap_stash +
           (t->read_index.size + t->write_index.size + t->summary_index.size) * sizeof(uint32_t);
}

/* use -- read and write so many units, and count in so many containers; a step is between two thirds. */
static rcv_txn *use(rcv_arena *a, unsigned units)
{
    rcv_txn *t = begin(a);
    for (unsigned i = 0; i < units; i++) {
        OK(stamp_read(t, 0, 1, RCV_UNIT_KEY, i));
        OK(stamp_write(t, 0, 1, RCV_UNIT_KEY, i));
        OK(intent_add(t, RCV_I_ADD, RCV_K_COUNTER, (i + 1) * 16, 1));
        if (i % 3 == 0)
            OK(stamp_read(t, 0, 1, RCV_UNIT_KEY, i / 2)); /* again */
    }
    CHECK(t->n_reads == units && t->n_writes == units && t->n_summaries == units);
    return t;
}

/* A small transaction after a large one clears as little as before it, whether the pool has kept the large one or not. */
static void test_the_size_of_the_one_before_does_not_matter(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 8 * MIB);
    rcv_txn   *t = use(a, SMALL);
    uint64_t   before = slots(t);
    rcv_txn_free(t);
    for (unsigned large = 20; large < 20000; large = large * 3 / 2) {
        t = use(a, large);
        CHECK(slots(t) >= 6 * large);
        rcv_txn_free(t);
        t = use(a, SMALL); /* perhaps with what the large one has grown: cleared to a size that is soon cleared */
        rcv_txn_free(t);
        t = use(a, SMALL);
        CHECK(slots(t) == before);
        rcv_txn_free(t);
    }
    OK(rcv_close(a));
    close(fd);
}

/* Requests of one kind, up to a hundred units each, don't grow their tables again. */
static void test_the_next_of_its_kind_begins_with_as_much(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 8 * MIB);
    rcv_txn   *t = use(a, 100);
    uint64_t   large = slots(t);
    CHECK(rcv_txn_commit(t) != 0); /* its Counters are not there */
    rcv_txn_free(t);
    OK(rcv_txn_new(a, 0, "test", &t));
    CHECK(slots(t) == large);
    rcv_txn_free(t);
    OK(rcv_close(a));
    close(fd);
}

/* The pool keeps few bytes for each transaction, whatever they have done. */
static void test_the_pool_is_small(void)
{
    enum { MANY = 100 };
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 64 * MIB);
    rcv_txn   *all[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        unsigned units = i % 3 ? 250 : 60 * i;
        all[i] = use(a, units);
        for (unsigned k = 0; k < units; k++)
            OK(stamp_read_value(all[i], 0, a->data_off + k * 8, 8));
        OK(rcv_txn_suspend(all[i]));
    }
    for (unsigned i = 0; i < MANY; i++)
        rcv_txn_free(all[i]);
    uint64_t n = 0, bytes = 0;
    for (const rcv_txn *t = a->pool; t != NULL; t = t->next, n++)
        bytes += buffers(t);
    CHECK(n == a->n_pool && n > 0 && n <= 64);
    CHECK(bytes <= n * 80 * 1024);
    OK(rcv_close(a));
    close(fd);
}

/* What has touched nothing knows nothing of the one that had its memory before, and leaves nothing to the one after. */
static void test_an_untouched_one_is_empty(void)
{
    int                   fd = scratch_object();
    rcv_arena            *a = rooted_arena(fd, 8 * MIB);
    struct rcv_txn_report none = {0}, said;
    struct rcv_name       name;
    for (unsigned units = 0; units < 3 * SMALL; units++) {
        rcv_txn *t = use(a, units), *same = t;
        OK(rcv_txn_suspend(t));
        stamp_lost(t, 8, RCV_UNIT_KEY, units, 1);
        rcv_txn_free(t);
        rcv_name_set(&name, "a name of more than thirty-nine bytes: app.views.order");
        OK(rcv_txn_new_named(a, 0, &name, &t));
        CHECK(t == same && t->empty);
        CHECK(strlen(t->handler) == RCV_HANDLER_NAME - 1 && strcmp(t->handler + strlen(t->handler) - 15, "app.views.order") == 0);
        rcv_txn_get_report(t, &said);
        CHECK(memcmp(&said, &none, sizeof said) == 0);
        CHECK(t->n_reads == 0 && t->n_writes == 0 && t->n_intents == 0 && t->n_summaries == 0 && t->n_stash == 0);
        if (units % 2)
            rcv_txn_rollback(t);
        else
            OK(rcv_txn_commit(t));
        CHECK(rcv_txn_state(t) == (units % 2 ? RCV_ROLLED_BACK : RCV_COMMITTED) && rcv_txn_mount(t) != 0);
        rcv_txn_free(t);
        CHECK(t == NULL);
    }
    OK(rcv_close(a));
    close(fd);
}

/* However the tables have grown and shrunk before: what was put in is found, what was not is not. */
static void test_what_was_put_in_is_found(void)
{
    struct rcv_index x = {0};
    static uint64_t  list[3000];
    uint64_t         rng = 11;
    for (unsigned round = 0; round < 300; round++) {
        rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint64_t n = (rng >> 33) % (round % 7 ? 100 : 3000);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t key = round % 2 ? i * 4096 : rcv_mix(rng + i);
            if (index_is_full(&x, i))
                OK(index_grow(&x, list, sizeof *list, i));
            uint32_t *slot = index_slot(&x, list, sizeof *list, key);
            CHECK(*slot == 0);
            list[i] = key;
            *slot = (uint32_t)i + 1;
        }
        for (uint64_t i = 0; i < n; i++)
            CHECK(*index_slot(&x, list, sizeof *list, list[i]) == i + 1);
        CHECK(n == 0 || *index_slot(&x, list, sizeof *list, 7) == 0);
        index_clear(&x, n);
        CHECK(x.mask < 256);
    }
    free(x.slots);
}

int main(void)
{
    test_the_size_of_the_one_before_does_not_matter();
    test_the_next_of_its_kind_begins_with_as_much();
    test_the_pool_is_small();
    test_an_untouched_one_is_empty();
    test_what_was_put_in_is_found();
    return 0;
}
