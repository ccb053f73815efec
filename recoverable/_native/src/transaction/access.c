/* access.c -- the gate of every operation on an arena: who is asking, and what must be true before it may go on.
 *
 * Inside a transaction of the arena (this thread's current one, in the same contextvars context): it is mounted. Outside
 * any: a read takes the lock and sees committed state; a write is refused. Whatever else this thread has in the arena gives
 * way first.
 *
 * Code of users may run in the middle of an operation: a codec, an iterator, a finaliser that the collector calls, a signal
 * handler. What it does to the arena in the same transaction is part of the operation. Anything that would have the transaction
 * give way is refused, since the operation goes on with what it knows (rcv_hold); whoever ends the transaction there has it
 * end with the operation. Another thread that gets the GIL meanwhile finds the lock taken, and waits.
 */
#include "transaction.h"

static rcv_txn *const   nobody;
static struct rcv_frame outside = {.txn = &nobody};

static __thread struct rcv_frame *current __attribute__((tls_model("initial-exec"))) = &outside;

struct rcv_frame **rcv_current(void) { return &current; }

uint64_t rcv_thread(void) { return os_thread_id(); }

uint64_t rcv_thread_ident(uint64_t number)
{
    uint64_t ident;
    int32_t  tid;
    return os_thread_find(number, &ident, &tid) ? ident : 0;
}

void rcv_frame_init(struct rcv_frame *f, rcv_txn *const *txn, void *context, void *owner)
{
    *f = (struct rcv_frame){.txn = txn != NULL ? txn : &nobody, .context = context, .owner = owner, .keeper = NULL, .below = current, .left = 0};
}

void rcv_frame_leave(struct rcv_frame *f)
{
    f->txn = &nobody;
    f->left = 1;
}

/* read_begin -- a read outside any transaction: committed state, under the lock. */
static int read_begin(rcv_arena *a)
{
    uint64_t me = os_thread_id();
    if (a->readers > 0 && a->reader_thread == me) {
        a->readers++; /* a finaliser that runs inside another read */
        return 0;
    }
    int rc = txn_make_room(a, me);
    if (rc == 0)
        rc = lock_take(a);
    if (rc)
        return rc;
    if (unlikely(tracker_raw_count(a) != 0)) { /* a stray raw write may lie on a hot page */
        rc = tracker_enter(a, NULL);
        tracker_leave(a);
        if (rc) {
            (void)lock_drop(a);
            return rc;
        }
    }
    a->reader_thread = me;
    a->readers = 1;
    return 0;
}

/* go_on -- the current transaction is `t`: it is in the arena, or is put there, or can't go on. */
static int __attribute__((noinline)) go_on(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    if (t->state == RCV_ACTIVE && a->mounted == t) {
        if (!tracker_doomed(a))
            return 0;
        rcv_txn_doom(t, tracker_doomed(a));
        return txn_doomed_error(t);
    }
    if (likely(t->state == RCV_ACTIVE))
        return rcv_txn_mount(t);
    lock_give_back(a);
    return txn_doomed_error(t);
}

/* access_slow -- anything but an operation of the transaction that is mounted. */
static int __attribute__((noinline)) access_slow(rcv_arena *a, void *context, int write, rcv_txn **out)
{
    for (const struct rcv_frame *f = current;; f = f->below) {
        rcv_txn *t = *f->txn;
        if (t != NULL && t->arena == a && f->context == context) {
            *out = t;
            if (t->forked && !write)
                break; /* its step goes on in the parent; whoever reads here reads from outside */
            return go_on(t);
        }
        if (!f->left && f->keeper == NULL) /* a step of an ambient one, begun in the middle of what lies below, hides nothing */
            break;
    }
    return unlikely(a->n_ambient != 0) ? RCV_ERR_ASK : rcv_access_outside(a, write, out);
}

int rcv_access_outside(rcv_arena *a, int write, rcv_txn **out)
{
    *out = NULL;
    if (write && a->past != NULL)
        return rcv_raise(RCV_ERR_PAST, 0, "%s is a state of the past, which can only be read; nothing was changed", a->name);
    if (write)
        return rcv_raise(RCV_ERR_NOTXN, 0,
                         "a write outside a transaction; nothing was changed: write in a @recoverable handler, arena.run() or `with "
                         "arena.transaction():`; a task that a handler spawns is outside, unless by recoverable.gather, wait_for or "
                         "TaskGroup, and so is a WebSocket's handler after prepare()");
    return read_begin(a);
}

int rcv_access(rcv_arena *a, void *context, int write, rcv_txn **out)
{
    rcv_txn *t = *current->txn;
    if (unlikely(t == NULL || a->mounted != t || current->context != context || t->state != RCV_ACTIVE))
        return access_slow(a, context, write, out);
    *out = t;
    return likely(!tracker_doomed(a)) ? 0 : go_on(a->mounted);
}

int rcv_access_end(rcv_arena *a, rcv_txn *t)
{
    if (t != NULL || a->readers == 0 || --a->readers > 0)
        return 0;
    a->reader_thread = 0;
    return lock_drop(a);
}

int rcv_begin(rcv_arena *a, void *context, int write, struct rcv_handle *h, rcv_txn **out)
{
    int rc = rcv_access(a, context, write, out);
    if (unlikely(rc) || likely(handle_known(a, *out, h)))
        return rc;
    rc = rcv_handle_check(a, *out, h);
    if (unlikely(rc))
        (void)rcv_access_end(a, *out);
    return rc;
}

/* -- operations that user code runs in the middle of ------------------------------------------------------ */

uint64_t rcv_hold(rcv_arena *a)
{
    a->held++;
    return a->forks;
}

int rcv_unhold(rcv_arena *a, uint64_t held)
{
    if (unlikely(held != a->forks))
        return rcv_raise(RCV_ERR_CLOSED, 0,
                         "the process was forked in the middle of an operation, which goes on in the parent; nothing was changed here");
    if (a->held == 0 || --a->held > 0 || a->mounted == NULL || likely(a->mounted->end_after == RCV_GO_ON))
        return 0;
    txn_end_after(a->mounted);
    return rcv_raise(RCV_ERR_CLOSED, 0,
                     "code that this operation called has ended its transaction; it has been rolled back: end it when the operation has "
                     "returned");
}

int rcv_held(const rcv_arena *a)
{
    return a->held > 0 && (a->mounted != NULL ? a->step_thread : a->reader_thread) == os_thread_id();
}

int rcv_in_access(const rcv_arena *a) { return rcv_held(a) || (a->readers > 0 && a->reader_thread == os_thread_id()); }

/* -- waiting for the lock --------------------------------------------------------------------------------- */

void rcv_use(rcv_arena *a) { a->users++; }

void rcv_unuse(rcv_arena *a) { a->users--; }

void rcv_wait_over(rcv_arena *a) { lock_give_back(a); }
