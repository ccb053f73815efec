/* pool.c -- the process's half of transactions: where one comes from, what it is called, whose it is, and where it goes.
 *
 * A server makes one for each request, so what has ended is kept with its buffers and used again. Nothing here touches the segment.
 */
#include "transaction.h"

#define POOL 64u  /* ended transactions kept for reuse */
#define KEPT 512u /* each of their buffers has room for fewer items; a power of two */

unsigned pool_metered;

void rcv_meter(int on) { pool_metered = on != 0; }

/* is_timed -- all where somebody meters, else one in 32: multiples of the golden ratio fall evenly on any regular pattern. */
static inline bool is_timed(uint64_t serial) { return pool_metered || (uint32_t)serial * UINT32_C(0x9e3779b9) >> 27 == 0; }

/* pool_reset -- make a transaction's process state empty, keeping its buffers. It takes as long as this transaction was large. */
void pool_reset(rcv_txn *t)
{
    index_clear(&t->read_index, t->n_reads);
    index_clear(&t->write_index, t->n_writes);
    index_clear(&t->summary_index, t->n_summaries);
    t->n_reads = t->n_writes = t->n_values = t->n_captured = 0;
    t->n_intents = t->n_summaries = 0;
    t->content_of = 0;
    t->holds = false;
    t->raw.n_pages = t->n_runs = t->stash_items = t->n_stash = 0;
    if (unlikely(t->arena->feed != NULL)) {
        t->n_units = t->fresh_bytes = 0;
        room_leave(t);
        t->request[0] = '\0';
    }
}

/* is_small -- are its buffers what any transaction may need? Else they are given back: a pool of them would hold memory for good.
 * All that may be kept is 70 KB. */
static bool is_small(const rcv_txn *t)
{
    return (t->cap_reads | t->cap_writes | t->cap_units | t->cap_values | t->cap_intents | t->cap_summaries | t->cap_runs | t->raw.cap_pages) < KEPT &&
           t->cap_stash <= 32 * KEPT;
}

static void destroy(rcv_txn *t)
{
    os_free(t->reads);
    os_free(t->read_index.slots);
    os_free(t->writes);
    os_free(t->write_index.slots);
    os_free(t->units);
    os_free(t->values);
    os_free(t->intents);
    os_free(t->summaries);
    os_free(t->summary_index.slots);
    os_free(t->raw.pages);
    os_free(t->runs);
    os_free(t->stash);
    os_free(t);
}

/* set_name -- keep the end of a long name, which says more than its beginning; fill up with zeros. */
static void set_name(char *to, const char *name)
{
    size_t n = name ? strlen(name) : 0;
    if (n > RCV_HANDLER_NAME - 1) {
        name += n - (RCV_HANDLER_NAME - 1);
        n = RCV_HANDLER_NAME - 1;
        for (; n > 0 && ((unsigned char)*name & 0xc0u) == 0x80u; n--)
            name++;
    }
    memcpy(to, name ? name : "", n);
    memset(to + n, 0, RCV_HANDLER_NAME - n);
}

/* take -- a transaction that has no name yet. */
static inline int take(rcv_arena *a, unsigned flags, rcv_txn **out)
{
    rcv_txn *t = a->pool;
    if (t != NULL) {
        a->pool = t->next;
        a->n_pool--;
    } else {
        if (a->image != NULL)
            return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" is being read without being attached: it has no transactions", a->name);
        t = os_calloc(1, sizeof *t);
        if (t == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a transaction");
        t->arena = a;
    }
    t->serial = ++a->serial;
    t->timed = is_timed(t->serial);
    t->flags = flags;
    t->state = RCV_ACTIVE;
    t->doom = 0;
    t->mounted = t->touched = t->wrote = t->overflowed = false;
    t->empty = true;
    t->record_reads = !(flags & RCV_TXN_ONE_STEP);
    t->epoch = 1;
    txn_log_epoch(t);
    t->mounting = 0;
    t->forked = false;
    t->end_after = RCV_GO_ON;
    t->place = NULL;
    t->savepoints = t->steps = 0;
    t->waits_until = 0;
    t->parent = NULL;
    t->children = 0;
    t->stood_in = t->position = 0;
    if (t->route[0] != 0)
        memset(t->route, 0, sizeof t->route);
    t->prev = NULL;
    t->next = a->in_flight;
    if (t->next)
        t->next->prev = t;
    a->in_flight = t;
    a->n_in_flight++;
    a->n.transactions++;
    *out = t;
    return 0;
}

int rcv_txn_new(rcv_arena *a, unsigned flags, const char *handler, rcv_txn **out)
{
    int rc = take(a, flags, out);
    if (rc == 0)
        set_name((*out)->handler, handler);
    return rc;
}

void rcv_name_set(struct rcv_name *to, const char *name) { set_name(to->text, name); }

int rcv_txn_new_named(rcv_arena *a, unsigned flags, const struct rcv_name *handler, rcv_txn **out)
{
    int rc = take(a, flags, out);
    if (rc == 0) {
        memcpy((*out)->handler, handler->text, sizeof handler->text);
        (*out)->place = out;
    }
    return rc;
}

void rcv_txn_owned(rcv_txn *t, rcv_txn **place) { t->place = place; }

rcv_txn *rcv_txn_each(const rcv_arena *a, const rcv_txn *t) { return t == NULL ? a->in_flight : t->next; }

rcv_txn **rcv_txn_place(const rcv_txn *t) { return t->place; }

uint32_t rcv_txn_step(const rcv_txn *t) { return t->steps + 1; }

void rcv_txn_route(rcv_txn *t, const char *route) { set_name(t->route, route); }

void rcv_txn_rename(rcv_txn *t, const char *handler) { set_name(t->handler, handler); }

void rcv_txn_inside(rcv_txn *t, rcv_txn *parent)
{
    t->parent = parent;
    parent->children++;
}

/* pool_put -- a transaction that has ended is nobody's any more. */
void pool_put(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (t->parent) {
        t->parent->children--;
        if (t->position > t->parent->position) /* its result is known there */
            t->parent->position = t->position;
    }
    for (rcv_txn *other = a->in_flight; other && t->children; other = other->next)
        if (other->parent == t) {
            other->parent = NULL;
            t->children--;
        }
    if (t->prev)
        t->prev->next = t->next;
    else
        a->in_flight = t->next;
    if (t->next)
        t->next->prev = t->prev;
    a->n_in_flight--;
    if (unlikely(t->ambient)) {
        t->ambient = false;
        a->n_ambient--;
    }
    if (!t->empty) {
        pool_reset(t); /* again: a slice of reclaim.c ends in its own way */
        memset(&t->report, 0, sizeof t->report);
    }
    if (a->n_pool < POOL && !a->closing && is_small(t)) {
        t->next = a->pool;
        a->pool = t;
        a->n_pool++;
    } else {
        destroy(t);
    }
}

void txn_pool_free(rcv_arena *a)
{
    while (a->pool) {
        rcv_txn *t = a->pool;
        a->pool = t->next;
        destroy(t);
    }
    a->n_pool = 0;
}

/* txn_forget_all -- after a fork, in the child: every transaction was the parent's. Nothing of it is undone here. */
void txn_forget_all(rcv_arena *a)
{
    a->privileged = NULL; /* the parent's, which goes on */
    for (rcv_txn *t = a->in_flight; t; t = t->next) {
        pool_reset(t);
        t->mounted = false;
        t->raw.view = NULL; /* which tracker_after_fork() makes nobody's */
        t->log_epoch = 0;
        t->end_after = RCV_GO_ON;
        t->forked |= t->state == RCV_ACTIVE || t->state == RCV_DOOMED; /* or it was a grandparent's */
        t->state = RCV_ROLLED_BACK;
    }
    a->mounted = NULL;
    a->step_thread = a->reader_thread = 0;
    a->readers = a->held = a->users = 0;
    a->forks++;
    /* The frames of this thread stay. A child that goes on in the handler that it was forked in, and writes, is told where the
     * transaction has gone; everything else in it is outside, and may begin one of its own. */
}
