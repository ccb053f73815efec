/* set.h -- what a Set can do. It is a Dict without values: these, and rcv_dict_* for the rest. */
#ifndef RCV_SET_H
#define RCV_SET_H

#include "containers/dict.h"

RCV_API int rcv_set_new(rcv_txn *t, rcv_off *out);
RCV_API int rcv_set_pack(rcv_txn *t, const struct rcv_item *items, uint32_t n, rcv_off *out); /* values: None. As rcv_dict_pack() */
/* rcv_set_add -- put a key in; a no-op, which counts as reading it, when it is there. A failure leaves the Set as it was. */
RCV_API int rcv_set_add(rcv_txn *t, rcv_off s, const struct rcv_key *key);

#endif
