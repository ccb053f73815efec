/* dict.h -- what a Dict can do. All under rcv_access, with a checked handle. */
#ifndef RCV_DICT_H
#define RCV_DICT_H

#include "recoverable.h"

RCV_API int rcv_dict_new(rcv_txn *t, rcv_off *out); /* a container that hangs nowhere yet */

struct rcv_item { /* of one that is made at once */
    struct rcv_key   key; /* need not be hashed */
    struct rcv_value value; /* no container */
};
/* rcv_dict_pack -- the same, filled, in one block; 1: these can't be: make it empty and set them. A failure leaves at most allocations,
 * which go back with the operation. */
RCV_API int rcv_dict_pack(rcv_txn *t, const struct rcv_item *items, uint32_t n, rcv_off *out);
/* rcv_dict_set_packed -- rcv_dict_set() of such a Dict; 1: these can't be, and nothing was changed. */
RCV_API int rcv_dict_set_packed(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_item *items, uint32_t n);
/* rcv_dict_get -- 1 and *out, or 0: no such key. */
RCV_API int rcv_dict_get(rcv_arena *a, rcv_txn *t, rcv_off d, const struct rcv_key *key, struct rcv_value *out);
/* rcv_dict_set -- insert or replace; a container that was there is detached; a RCV_T_REF value is adopted.
 * A failure leaves the Dict as it was. */
RCV_API int rcv_dict_set(rcv_txn *t, rcv_off d, const struct rcv_key *key, const struct rcv_value *value);
RCV_API int rcv_dict_del(rcv_txn *t, rcv_off d, const struct rcv_key *key); /* 1 deleted, 0 no such key */
RCV_API int rcv_dict_clear(rcv_txn *t, rcv_off d);
RCV_API int rcv_dict_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out);
/* rcv_dict_version -- moves whenever the set of keys, as this transaction sees it, changes. */
RCV_API int rcv_dict_version(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out);

struct rcv_dict_iter {
    rcv_off  entry;   /* the last one given; 0: at the start */
    rcv_off  own_entry; /* the last one given of the transaction's own insertions, which follow the committed entries */
    uint64_t intent;  /* where it was among the intents: moves at a suspension, so only a hint */
    uint64_t serial;  /* the transaction that has noted the read */
    uint32_t own;     /* walking its own insertions now */
    uint32_t reverse;
    uint64_t version; /* the caller's: what rcv_dict_version said at the start */
    uint64_t steps;   /* along the committed order, so that a damaged one ends */
};
enum { RCV_ITER_KEYS = 1, RCV_ITER_VALUES = 2, RCV_ITER_CHANGED = 2, RCV_ITER_REFUSED = 3 /* what else a step may answer */ };
/* rcv_dict_next -- the next entry in insertion order: 1, or 0 at the end. `what` decides which units count as read. */
RCV_API int rcv_dict_next(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, unsigned what,
                          struct rcv_value *key, struct rcv_value *value);
/* rcv_dict_some -- the next entries, keys and values, at most so many: how many, fewer only at the end. */
RCV_API int rcv_dict_some(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, struct rcv_value *keys, struct rcv_value *values,
                          int most);
/* rcv_dict_go_on -- as rcv_dict_next(), but RCV_ITER_CHANGED if the keys are not those of it->version any more. */
RCV_API int rcv_dict_go_on(rcv_arena *a, rcv_txn *t, rcv_off d, struct rcv_dict_iter *it, unsigned what,
                           struct rcv_value *key, struct rcv_value *value);
/* rcv_dict_step -- rcv_begin() and rcv_dict_go_on() in one call; RCV_ITER_REFUSED: the first has failed, and will say so again. */
RCV_API int rcv_dict_step(rcv_arena *a, void *context, struct rcv_handle *h, rcv_txn **t, struct rcv_dict_iter *it, unsigned what,
                          struct rcv_value *key, struct rcv_value *value);
/* rcv_dict_key_at -- the key of the entry at `slot` (a container's slot), for naming a path. */
RCV_API int rcv_dict_key_at(rcv_arena *a, rcv_off slot, struct rcv_value *key);
/* rcv_dict_key_of_hash -- a key with that hash, for naming a conflict: 1 or 0. */
RCV_API int rcv_dict_key_of_hash(rcv_arena *a, rcv_off d, uint64_t hash, struct rcv_value *key);

#endif
