/* list.h -- what a List can do. All under rcv_access, with a checked handle. */
#ifndef RCV_LIST_H
#define RCV_LIST_H

#include "recoverable.h"

#define RCV_LIST_UNIT 32u /* items that are one conflict unit */

RCV_API int rcv_list_new(rcv_txn *t, rcv_off *out);
/* rcv_list_make -- one of n positions; rcv_list_fill each, before anything else is done with it and before it is stored: nothing of that
 * is logged, since nobody else can see it. */
RCV_API int rcv_list_make(rcv_txn *t, uint64_t n, rcv_off *out);
RCV_API int rcv_list_fill(rcv_txn *t, rcv_off l, uint64_t i, const struct rcv_value *value);
RCV_API int rcv_list_len(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t *out);
/* rcv_list_get / set -- 1, or 0: no such position. */
RCV_API int rcv_list_get(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t i, struct rcv_value *out);
RCV_API int rcv_list_set(rcv_txn *t, rcv_off l, uint64_t i, const struct rcv_value *value);
RCV_API int rcv_list_find(rcv_arena *a, rcv_off l, rcv_off child, uint64_t *out); /* 1, and the position of that container, or 0 */
RCV_API int rcv_list_extend(rcv_txn *t, rcv_off l, const struct rcv_value *values, uint64_t n); /* all or none */
RCV_API int rcv_list_append(rcv_txn *t, rcv_off l, const struct rcv_value *value);
RCV_API int rcv_list_insert(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n); /* n times None before position i <= length */
RCV_API int rcv_list_delete(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n); /* positions [i, i+n) */
RCV_API int rcv_list_permute(rcv_txn *t, rcv_off l, const uint64_t *order, uint64_t n); /* new[j] = old[order[j]] */
RCV_API int rcv_list_scan(rcv_arena *a, rcv_txn *t, rcv_off l); /* all of it is about to be read: positions and values */

#endif
