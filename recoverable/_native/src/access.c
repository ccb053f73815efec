/* access.c -- the gate of every operation on an arena: who is asking, and what must be true before it may go on.
 *
 * Inside a transaction of the arena (this thread's current one, in the same contextvars context): it is mounted. Outside
 * any: a read takes the lock and sees committed state; a write is refused. Whatever else this thread has in the arena gives
 * way first.
 */
#include "internal.h"

static __thread struct rcv_current current __attribute__((tls_model("initial-exec")));

struct rcv_current *rcv_current(void) { return &current; }

/* access_make_room -- what else this thread has in the arena gives way: 0, or why it cannot. */
int access_make_room(rcv_arena *a, uint64_t me)
{
    rcv_txn *other = a->mounted;
    if (a->readers > 0 && a->reader_thread == me)
        return rcv_raise(RCV_ERR_MISUSE, 0, "a transaction cannot begin inside another operation on the arena");
    if (other == NULL || a->step_thread != me)
        return 0;
    if (other->savepoints > 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "another task touched the arena inside a savepoint of %s", other->handler);
    (void)rcv_txn_suspend(other); /* on failure it is doomed and out of the way all the same */
    return 0;
}

/* read_begin -- a read outside any transaction: committed state, under the lock. */
static int read_begin(rcv_arena *a)
{
    uint64_t me = os_thread_id();
    if (a->readers > 0 && a->reader_thread == me) {
        a->readers++; /* a finaliser that runs inside another read */
        return 0;
    }
    int rc = access_make_room(a, me);
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

int rcv_access(rcv_arena *a, void *context, int write, rcv_txn **out)
{
    rcv_txn *t = current.txn;
    if (likely(t != NULL && t->arena == a && current.context == context)) {
        *out = t;
        if (likely(a->mounted == t && t->state == RCV_ACTIVE)) {
            if (likely(!tracker_doomed(a)))
                return 0;
            rcv_txn_doom(t, tracker_doomed(a));
            return txn_doomed_error(t);
        }
        if (likely(t->state == RCV_ACTIVE))
            return rcv_txn_mount(t);
        lock_give_back(a);
        return txn_doomed_error(t);
    }
    *out = NULL;
    if (write)
        return rcv_raise(RCV_ERR_NOTXN, 0,
                         "a write outside a transaction; nothing was changed: write in a @recoverable handler, arena.run() or `with "
                         "arena.transaction():`; a task that a handler spawns is outside, unless by recoverable.gather, wait_for or "
                         "TaskGroup");
    return read_begin(a);
}

void rcv_access_end(rcv_arena *a, rcv_txn *t)
{
    if (t != NULL || a->readers == 0 || --a->readers > 0)
        return;
    a->reader_thread = 0;
    (void)lock_drop(a);
}
