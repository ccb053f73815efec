/* test_barrier.c -- nothing is written past the lock: by a transaction that is not mounted, or in another thread than its step. */
#include "dicts.h"

#include <pthread.h>

/* refused -- every way to write is RCV_ERR_BUG, and changes nothing. */
static void refused(rcv_txn *t, rcv_off d, int code)
{
    rcv_arena       *a = t->arena;
    uint64_t         seq = atomic_load(&a->hdr->commit_seq), tail = undo_tail(a);
    struct rcv_value i = {.tag = RCV_T_INT, .word = 9};
    rcv_off          off;
    CHECK(set(t, d, "x", &i) == code);
    CHECK(set(t, d, "new", &i) == code);
    CHECK(txn_log(t, d + 64, 8, RCV_U_DATA) == code);
    CHECK(txn_alloc(t, 100, RCV_SPACE_GENERAL, 0, &off) == code);
    CHECK(rcv_list_new(t, &off) == code);
    CHECK(atomic_load(&a->hdr->commit_seq) == seq && undo_tail(a) == tail);
}

struct call {
    rcv_txn *t;
    rcv_off  d;
    int      code;
};

static void *elsewhere(void *argument)
{
    struct call *call = argument;
    refused(call->t, call->d, call->code);
    return NULL;
}

static void in_thread(rcv_txn *t, rcv_off d, int code)
{
    struct call call = {t, d, code};
    pthread_t   thread;
    CHECK(pthread_create(&thread, NULL, elsewhere, &call) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

int main(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 1 << 20);
    rcv_txn   *t = begin(a), *other;
    rcv_off    root = rcv_root(a);
    set_int(t, root, "x", 1);
    in_thread(t, root, RCV_ERR_BUG); /* mounted, but the step is another thread's */
    OK(rcv_txn_suspend(t));
    refused(t, root, RCV_ERR_BUG); /* what it has logged before counts no more */
    other = begin(a);
    refused(t, root, RCV_ERR_BUG); /* somebody is mounted, and it is not this one */
    set_int(other, root, "y", 2);
    rcv_txn_free(other);
    rcv_txn_free(t);
    verified(a);

    /* A mark is good for the step that it was made in. */
    struct rcv_mark mark;
    t = begin(a);
    rcv_op_begin(t, &mark);
    set_int(t, root, "z", 3);
    OK(rcv_txn_suspend(t));
    OK(rcv_txn_mount(t));
    rcv_op_fail(t, &mark);
    CHECK(rcv_txn_state(t) == RCV_DOOMED);
    rcv_txn_rollback(t);
    refused(t, root, RCV_ERR_CLOSED);
    rcv_txn_free(t);
    verified(a);

    /* In the middle of an operation a transaction neither gives way nor ends. */
    rcv_txn *place;
    OK(rcv_txn_new(a, 0, "held", &place));
    rcv_txn_owned(place, &place);
    t = place;
    OK(rcv_txn_mount(t));
    uint64_t held = rcv_hold(a);
    CHECK(rcv_held(a) && rcv_txn_suspend(t) == RCV_ERR_MISUSE && rcv_txn_commit(t) == RCV_ERR_MISUSE);
    OK(rcv_txn_new(a, 0, "other", &other));
    CHECK(rcv_txn_mount(other) == RCV_ERR_MISUSE && rcv_txn_state(other) == RCV_ACTIVE && rcv_txn_mounted(t));
    rcv_txn_free(other);
    CHECK(rcv_close(a) == RCV_ERR_MISUSE);
    set_int(t, root, "x", 4);
    rcv_txn_free(t);
    CHECK(place == NULL && rcv_txn_mounted(t)); /* it goes with the operation */
    set_int(t, root, "x", 5);
    CHECK(rcv_unhold(a, held) == RCV_ERR_CLOSED);
    CHECK(a->mounted == NULL && a->n_in_flight == 0);
    verified(a);
    OK(rcv_close(a));
    close(fd);
    CHECKS_DONE();
    return 0;
}
