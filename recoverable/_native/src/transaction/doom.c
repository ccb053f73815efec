/* doom.c -- a transaction that can only roll back any more: why, and how it is told. */
#include "transaction.h"

#define STRAY_TEXT                                                                                                           \
    "a thread stored through a raw view of this request while it waited, or through one that has outlived its request; nothing " \
    "of it was committed: take .view inside the request and call what stores into it without an await, or compute into a plain " \
    "array and assign that (root['m'][:] = result)"
#define STALE_TEXT                                                                                                           \
    "a raw write went through a view of an Array that was deleted, or rolled back; nothing of the transaction was kept; take the " \
    "view again, from the Array that is there now"

void rcv_txn_doom(rcv_txn *t, int error)
{
    if (t->state == RCV_ACTIVE) {
        t->state = RCV_DOOMED;
        t->doom = error;
        if (error == RCV_ERR_CONFLICT)
            t->arena->n.conflicts++;
        privilege_drop(t);
    }
}

int rcv_txn_doom_code(const rcv_txn *t) { return t->doom; }

const char *rcv_doom_text(int code) { return code == RCV_ERR_STRAY ? STRAY_TEXT : code == RCV_ERR_STALE ? STALE_TEXT : NULL; }

/* txn_doomed_error -- raise what every call on an unfit transaction raises. */
int txn_doomed_error(const rcv_txn *t)
{
    if (t->state == RCV_DOOMED)
        return rcv_raise(t->doom, 0,
                         t->doom == RCV_ERR_CONFLICT ? "another request has changed what this one had read; it can only roll back"
                         : t->doom == RCV_ERR_STALE  ? STALE_TEXT
                         : t->doom == RCV_ERR_FULL   ? "the arena has no room for this transaction's undo log; it can only roll back"
                         : t->doom == RCV_ERR_STRAY  ? STRAY_TEXT
                         : t->doom == RCV_ERR_HELD   ? "others hold the arena's lock for long; this run is rolled back, and begins again"
                         : t->doom == RCV_ERR_TOO_LONG ? "a step of it took longer than step_limit; it can only roll back"
                                                     : "the transaction was stopped; it can only roll back");
    if (t->forked)
        return rcv_raise(RCV_ERR_CLOSED, 0,
                         "this process was forked inside %s, whose transaction goes on in the parent; nothing was changed: begin one here, "
                         "with arena.run() or `with arena.transaction():`", t->handler);
    return rcv_raise(RCV_ERR_CLOSED, 0, "the transaction is already %s",
                     t->state == RCV_COMMITTED ? "committed" : "rolled back");
}

/* txn_not_mounted -- a store would have gone past the lock, and nothing was stored. */
int __attribute__((cold)) txn_not_mounted(const rcv_txn *t)
{
    if (t->state != RCV_ACTIVE)
        return txn_doomed_error(t);
    return rcv_raise(RCV_ERR_BUG, 0, "arena \"%s\": a write of %s, which is not inside a step of this thread; nothing was written",
                     t->arena->name, t->handler);
}
