/* array.h -- what an Array can do; its raw memory is recoverable.h's. All under rcv_access, with a checked handle. */
#ifndef RCV_ARRAY_H
#define RCV_ARRAY_H

#include "recoverable.h"

struct rcv_array_info {
    uint64_t data, nbytes; /* offset of the items; their bytes */
    uint32_t itemsize, ndim;
    uint64_t shape[8];
    char     dtype[232];
};
/* rcv_array_new -- with a copy of `items` (nbytes of them), or zeros where that is NULL. It hangs nowhere yet. */
RCV_API int rcv_array_new(rcv_txn *t, const struct rcv_array_info *info, const void *items, rcv_off *out);
RCV_API int rcv_array_get_info(rcv_arena *a, rcv_off array, struct rcv_array_info *out);
/* rcv_array_read -- copy bytes out; up to 64 are validated by value, more by page. */
RCV_API int rcv_array_read(rcv_arena *a, rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, void *out);
RCV_API int rcv_array_write(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, const void *bytes);
RCV_API int rcv_array_fill(rcv_txn *t, rcv_off array, const void *item); /* every item */

#endif
