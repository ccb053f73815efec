/* counter.c -- Counter: a number that many requests may change at once.
 *
 * An addition is an intention: added up in the transaction, applied at its commit. It writes the Counter's unit without
 * reading it, so additions never conflict with each other; whoever reads the value conflicts with all of them.
 */
#include "containers.h"
#include "containers/counter.h"

struct rcv_counter { /* what lies in the segment */
    struct rcv_container c;
    int64_t              value; /* changed only at commit */
};

static struct rcv_counter *counter_at(rcv_arena *a, rcv_off c) { return (struct rcv_counter *)container_at(a, c, RCV_K_COUNTER); }

static int no_counter(rcv_arena *a, rcv_off c) { return seg_corrupt(a, "no Counter at %llu, where one is used", (unsigned long long)c); }

int rcv_counter_new(rcv_txn *t, int64_t value, rcv_off *out)
{
    int rc = txn_alloc(t, sizeof(struct rcv_counter), RCV_SPACE_GENERAL, 0, out);
    if (rc == 0)
        rc = container_init(t, *out, RCV_K_COUNTER);
    if (rc == 0)
        ((struct rcv_counter *)(void *)(t->arena->mem + *out))->value = value;
    return rc;
}

int rcv_counter_add(rcv_txn *t, rcv_off c, int64_t n)
{
    const struct rcv_counter *counter = counter_at(t->arena, c);
    const struct rcv_summary *s = intent_summary(t, c);
    int64_t                   sum;
    if (counter == NULL)
        return no_counter(t->arena, c);
    if (__builtin_add_overflow(counter->value, (s ? s->count : 0) + n, &sum))
        return rcv_raise(RCV_ERR_MISUSE, 0, "a Counter would leave the range of 64 bits");
    int rc = stamp_write(t, c, counter->c.id, RCV_UNIT_CONTENT, 0);
    return rc ? rc : intent_add(t, RCV_I_ADD, RCV_K_COUNTER, c, (uint64_t)n);
}

int rcv_counter_get(rcv_arena *a, rcv_txn *t, rcv_off c, int64_t *out)
{
    const struct rcv_counter *counter = counter_at(a, c);
    if (counter == NULL)
        return no_counter(a, c);
    const struct rcv_summary *s = t ? intent_summary(t, c) : NULL;
    /* Another's commit may have moved it so far that both together no longer fit: then this one cannot commit anyway. */
    if (__builtin_add_overflow(counter->value, s ? s->count : 0, out))
        return rcv_raise(RCV_ERR_MISUSE, 0, "a Counter left the range of 64 bits");
    return t ? stamp_read(t, c, counter->c.id, RCV_UNIT_CONTENT, 0) : 0;
}

/* counter_sum -- at commit: all additions at once. */
static int counter_sum(rcv_txn *t, rcv_off c, const struct rcv_summary *s)
{
    const struct rcv_counter *counter = (const struct rcv_counter *)(const void *)(t->arena->mem + c); /* checked by the caller */
    int64_t                   sum;
    if (__builtin_add_overflow(counter->value, s->count, &sum))
        return rcv_raise(RCV_ERR_MISUSE, 0, "a Counter left the range of 64 bits");
    return txn_write64(t, c + offsetof(struct rcv_counter, value), (uint64_t)sum, RCV_U_STRUCT);
}

static int counter_reclaim(rcv_txn *t, rcv_off c, uint32_t *budget, bool *done)
{
    (void)t, (void)c, (void)budget;
    *done = true;
    return 0;
}

static int counter_check(struct walk *w, rcv_off c)
{
    (void)w, (void)c;
    return 0; /* any number will do */
}

const struct rcv_kind counter_kind = {.name = "Counter", .size = sizeof(struct rcv_counter), .reclaim = counter_reclaim, .check = counter_check, .sum = counter_sum};
