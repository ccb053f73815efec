/* deque.h -- what a Deque can do. All under rcv_access, with a checked handle. */
#ifndef RCV_DEQUE_H
#define RCV_DEQUE_H

#include "recoverable.h"

enum { RCV_LEFT = 0, RCV_RIGHT = 1 };
RCV_API int rcv_deque_new(rcv_txn *t, uint64_t maxlen, rcv_off *out);
RCV_API int rcv_deque_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out);
RCV_API int rcv_deque_maxlen(rcv_arena *a, rcv_off d, uint64_t *out);
RCV_API int rcv_deque_push(rcv_txn *t, rcv_off d, int side, const struct rcv_value *value);
/* rcv_deque_peek / pop -- the item at that end: 1, or 0: empty. */
RCV_API int rcv_deque_peek(rcv_arena *a, rcv_txn *t, rcv_off d, int side, struct rcv_value *out);
RCV_API int rcv_deque_pop(rcv_txn *t, rcv_off d, int side);
RCV_API int rcv_deque_clear(rcv_txn *t, rcv_off d);
RCV_API int rcv_deque_reverse(rcv_txn *t, rcv_off d);
RCV_API int rcv_deque_rotate(rcv_txn *t, rcv_off d, int side, uint64_t n); /* move n items from the other end to `side` */
/* rcv_deque_get / set -- the i-th from the left: 1, or 0: no such position. */
RCV_API int rcv_deque_get(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t i, struct rcv_value *out);
RCV_API int rcv_deque_set(rcv_txn *t, rcv_off d, uint64_t i, const struct rcv_value *value);
RCV_API int rcv_deque_find(rcv_arena *a, rcv_off d, rcv_off child, uint64_t *out); /* 1, and the position of that container, or 0 */
/* rcv_deque_ends -- positions of the first item and after the last: they move with every change of length. */
RCV_API int rcv_deque_ends(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *left, uint64_t *right);

#endif
