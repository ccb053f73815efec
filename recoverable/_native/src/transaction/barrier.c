/* barrier.c -- the write barrier: what every store into the arena asks first. */
#include "transaction.h"

int txn_log(rcv_txn *t, rcv_off off, uint32_t len, unsigned kind)
{
    if (txn_logged(t, off, len))
        return 0;
    if (unlikely(!txn_is_inside(t)))
        return txn_not_mounted(t);
    if (MUTATED("undo.skip_record") && kind == RCV_U_DATA)
        return 0;
    int rc = undo_append(t->arena, off, len, kind);
    if (unlikely(rc))
        return rc;
    t->arena->logged[(off >> 3 ^ off >> 11) & (RCV_LOGGED - 1)] = (struct rcv_logged){.off = off, .len = len, .epoch = t->log_epoch};
    t->wrote = true;
    return 0;
}
