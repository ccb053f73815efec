/* intent.c -- intentions: changes that a transaction keeps to itself and applies at its commit.
 *
 * What several transactions may change at once is never in a stash: which blocks are allocated, how many items a container
 * has, the links of the insertion order. Were the old bytes of a shared tail pointer put back by one transaction's
 * suspension, the other's append would be lost. So each keeps a list of what it means to do; its own reads show committed
 * state plus its own list; and at commit, under the lock, the list is applied, undo-logged like any other write.
 */
#include "transaction.h"

/* -- summaries: what the list adds up to, by container ------------------------------------------------ */

/* summary_at -- the container's, or NULL. */
static struct rcv_summary *summary_at(const rcv_txn *t, rcv_off container)
{
    uint32_t at = t->n_summaries ? *index_slot(&t->summary_index, t->summaries, sizeof *t->summaries, container) : 0;
    return at ? &t->summaries[at - 1] : NULL;
}

/* intent_summary -- NULL: the transaction means nothing for this container. */
const struct rcv_summary *intent_summary(const rcv_txn *t, rcv_off container) { return summary_at(t, container); }

/* summary_for -- the container's summary, made if need be; NULL: no process memory. */
static struct rcv_summary *summary_for(rcv_txn *t, rcv_off container)
{
    struct rcv_summary *s = summary_at(t, container);
    if (s != NULL)
        return s;
    uint64_t n = t->n_summaries;
    if ((index_is_full(&t->summary_index, n) && index_grow(&t->summary_index, t->summaries, sizeof *s, n) != 0) ||
        (n == t->cap_summaries && vec_grow((void **)&t->summaries, &t->cap_summaries, n + 1, sizeof *s) != 0))
        return NULL;
    s = &t->summaries[n];
    *s = (struct rcv_summary){.container = container};
    *index_slot(&t->summary_index, t->summaries, sizeof *s, container) = (uint32_t)++t->n_summaries;
    return s;
}

/* -- the list -------------------------------------------------------------------------------------------- */

/* intent_add -- append one. A failure leaves the list as it was. */
int intent_add(rcv_txn *t, unsigned op, unsigned kind, rcv_off a, uint64_t b)
{
    if (unlikely(t->n_intents == t->cap_intents)) {
        int rc = vec_grow((void **)&t->intents, &t->cap_intents, t->n_intents + 1, sizeof *t->intents);
        if (rc)
            return rc;
    }
    if (op == RCV_I_INSERT || op == RCV_I_DELETE || op == RCV_I_ADD) {
        struct rcv_summary *s = summary_for(t, a);
        if (s == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a transaction's list of changes");
        s->changes++;
        s->live++;
        if (op == RCV_I_ADD) {
            s->count += (int64_t)b;
        } else if (op == RCV_I_INSERT) {
            s->count++;
            s->inserts++;
        } else {
            s->count--;
        }
    }
    t->intents[t->n_intents++] = (struct rcv_intent){.op = op, .kind = kind, .a = a, .b = b};
    return 0;
}

/* forget -- take one intent back out of process state. */
static void forget(rcv_txn *t, const struct rcv_intent *i)
{
    switch (i->op & ~RCV_I_TRANSIENT) {
    case RCV_I_ALLOC:
    case RCV_I_HELD:
        heap_unreserve(t->arena, i->a);
        break;
    case RCV_I_ADD:
    case RCV_I_INSERT:
    case RCV_I_DELETE: {
        struct rcv_summary *s = summary_at(t, i->a);
        s->changes++; /* an iterator that saw it must notice */
        s->live--;
        if (i->op == RCV_I_ADD) {
            s->count -= (int64_t)i->b;
        } else if (i->op == RCV_I_INSERT) {
            s->count--;
            s->inserts--;
        } else {
            s->count++;
        }
        break;
    }
    default:
        break;
    }
}

void intent_truncate(rcv_txn *t, uint64_t n)
{
    while (t->n_intents > n)
        forget(t, &t->intents[--t->n_intents]);
}

/* intent_take_back -- a savepoint or an operation is undone. Were the memory of its Arrays free at once, the transaction's next Array
 * might lie there, and what is stored through a view of the old one is not told apart: both are in the transaction's own mapping. */
void intent_take_back(rcv_txn *t, uint64_t n)
{
    uint64_t kept = n;
    for (uint64_t i = n; i < t->n_intents; i++) {
        struct rcv_intent it = t->intents[i];
        if (unlikely(t->raw.view != NULL) && it.op == RCV_I_ALLOC && it.b == RCV_SPACE_ARRAY) {
            it.op = RCV_I_HELD;
            t->holds = true;
        }
        if (it.op == RCV_I_HELD)
            t->intents[kept++] = it;
        else
            forget(t, &it);
    }
    t->n_intents = kept;
}

bool intent_holds(const rcv_arena *a, uint32_t page)
{
    const rcv_txn *t = a->mounted;
    rcv_off        off = a->data_off + page * (uint64_t)a->hdr->page_size;
    uint64_t       size;
    bool           live;
    for (uint64_t i = 0; t != NULL && t->holds && i < t->n_intents; i++) {
        const struct rcv_intent *it = &t->intents[i];
        if (it->op == RCV_I_HELD && off >= it->a && heap_block(t->arena, it->a, &size, &live) == 0 && off - it->a < size)
            return true;
    }
    return false;
}

void intent_drop_transient(rcv_txn *t)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < t->n_intents; i++) {
        if (t->intents[i].op & RCV_I_TRANSIENT)
            forget(t, &t->intents[i]);
        else
            t->intents[kept++] = t->intents[i];
    }
    t->n_intents = kept;
}

/* intent_resume -- the stash is back: rebuild the structure that it does not hold. New intents (growth) may be appended
 * meanwhile. A failure leaves the caller to roll back. */
int intent_resume(rcv_txn *t)
{
    int rc = 0;
    for (uint64_t i = 0, n = t->n_intents; i < n && rc == 0; i++) {
        struct rcv_intent it = t->intents[i];
        if (it.op == RCV_I_INSERT && MUTATED("resume.no_relink"))
            continue;
        if (it.op == RCV_I_INSERT || it.op == RCV_I_DELETE)
            rc = rcv_kinds[it.kind]->resume(t, it.a, it.op, it.b);
    }
    return rc;
}

/* apply_summary -- what the list adds up to, in the container's own words. */
static int apply_summary(rcv_txn *t, const struct rcv_summary *s)
{
    const struct rcv_container *c = container_at(t->arena, s->container, 0);
    struct rcv_summary          sum = *s;
    if (c == NULL || rcv_kinds[container_kind(c)]->sum == NULL)
        return seg_corrupt(t->arena, "no container at %llu, where changes were counted", (unsigned long long)s->container);
    if (MUTATED("intent.twice"))
        sum.count *= 2;
    return rcv_kinds[container_kind(c)]->sum(t, s->container, &sum);
}

/* reclaim_push -- at commit, in STEP: put a detached container on the list. A failure leaves the caller to undo the step. */
static int reclaim_push(rcv_txn *t, rcv_off container)
{
    rcv_arena            *a = t->arena;
    struct rcv_container *c = container_at(a, container, 0);
    if (c == NULL || !(c->flags & RCV_DETACHED) || c->id == 0)
        return seg_corrupt(a, "no detached container at %llu, where one is to be freed", (unsigned long long)container);
    uint64_t first = atomic_load_explicit(&a->hdr->reclaim, memory_order_relaxed);
    int      rc = txn_write64(t, container + offsetof(struct rcv_container, next_reclaim), first, RCV_U_STRUCT);
    return rc ? rc : txn_write64(t, offsetof(struct rcv_header, reclaim), container, RCV_U_STRUCT);
}

/* intent_apply -- at commit, in STEP. A failure leaves a part applied: the caller undoes the step. */
int intent_apply(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    int        rc = 0;
    for (uint64_t i = 0; i < t->n_intents && rc == 0; i++) {
        const struct rcv_intent *it = &t->intents[i];
        switch (it->op & ~RCV_I_TRANSIENT) {
        case RCV_I_ALLOC:
            rc = heap_commit_alloc(a, it->a);
            break;
        case RCV_I_FREE:
            rc = heap_commit_free(a, it->a);
            break;
        case RCV_I_INSERT:
        case RCV_I_DELETE:
            rc = rcv_kinds[it->kind]->apply(t, it->a, it->op, it->b);
            break;
        case RCV_I_RECLAIM:
            rc = reclaim_push(t, it->a);
            break;
        case RCV_I_ADD: /* added up in the summary */
        case RCV_I_HELD:
            break;
        default:
            return rcv_raise(RCV_ERR_BUG, 0, "an intention of kind %u", it->op);
        }
    }
    for (uint64_t i = 0; i < t->n_summaries && rc == 0; i++)
        if (t->summaries[i].live != 0)
            rc = apply_summary(t, &t->summaries[i]);
    return rc;
}

void intent_settle(rcv_txn *t)
{
    for (uint64_t i = 0; i < t->n_intents; i++)
        if ((t->intents[i].op & ~RCV_I_TRANSIENT) == RCV_I_ALLOC)
            heap_settle(t->arena, t->intents[i].a);
        else if (unlikely(t->intents[i].op == RCV_I_HELD))
            heap_unreserve(t->arena, t->intents[i].a);
}

/* -- memory ---------------------------------------------------------------------------------------------- */

int txn_alloc(rcv_txn *t, uint64_t size, unsigned space, unsigned flags, rcv_off *out)
{
    if (unlikely(!txn_is_inside(t)))
        return txn_not_mounted(t);
    int rc = heap_reserve(t->arena, size, space, out);
    if (rc)
        return rc;
    rc = intent_add(t, RCV_I_ALLOC | flags, 0, *out, space);
    if (rc)
        heap_unreserve(t->arena, *out);
    else
        tracker_note_fresh(t->arena, *out, size);
    if (unlikely(t->arena->feed != NULL))
        t->fresh_bytes += size + size / 4 + (size > RCV_SLICE / 64 ? RCV_CHUNK : 64); /* as the heap rounds it */
    t->wrote = true;
    return rc;
}

int txn_free(rcv_txn *t, rcv_off off, unsigned flags) { return intent_add(t, RCV_I_FREE | flags, 0, off, 0); }
