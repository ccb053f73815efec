/* counter.h -- what a Counter can do. All under rcv_access, with a checked handle. */
#ifndef RCV_COUNTER_H
#define RCV_COUNTER_H

#include "recoverable.h"

RCV_API int rcv_counter_new(rcv_txn *t, int64_t value, rcv_off *out);
RCV_API int rcv_counter_add(rcv_txn *t, rcv_off c, int64_t n); /* never conflicts with another add */
RCV_API int rcv_counter_get(rcv_arena *a, rcv_txn *t, rcv_off c, int64_t *out);

#endif
