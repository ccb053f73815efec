/* record.h -- what a Record can do. All under rcv_access, with a checked handle. */
#ifndef RCV_RECORD_H
#define RCV_RECORD_H

#include "recoverable.h"

RCV_API int rcv_record_new(rcv_txn *t, uint64_t schema, uint32_t fields, rcv_off *out);
RCV_API int rcv_record_fill(rcv_txn *t, rcv_off r, uint32_t i, const struct rcv_value *value); /* as rcv_list_fill */
RCV_API int rcv_record_info(rcv_arena *a, rcv_off r, uint64_t *schema, uint32_t *fields);
RCV_API int rcv_record_get(rcv_arena *a, rcv_txn *t, rcv_off r, uint32_t i, struct rcv_value *out);
RCV_API int rcv_record_set(rcv_txn *t, rcv_off r, uint32_t i, const struct rcv_value *value);
/* rcv_record_seen -- the transaction has seen which fields there are: a migration by another is a conflict. */
RCV_API int rcv_record_seen(rcv_arena *a, rcv_txn *t, rcv_off r);
RCV_API int rcv_record_migrate(rcv_txn *t, rcv_off r, uint64_t schema, uint32_t fields); /* more fields; new ones are None */

#endif
