/* vec.c -- growing arrays in process memory. */
#include "base.h"

/* vec_grow -- room for `need` items, by doubling. */
int vec_grow(void **data, uint64_t *capacity, uint64_t need, size_t item)
{
    uint64_t n = *capacity ? *capacity : 16;
    while (n < need)
        n *= 2;
    void *bigger = os_realloc(*data, n * item);
    if (bigger == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a transaction's own records");
    *data = bigger;
    *capacity = n;
    return 0;
}

/* vec_room -- `size` bytes more, at *data + *at: padded, so that what comes next is aligned. */
int vec_room(uint8_t **data, uint64_t *used, uint64_t *capacity, uint64_t size, uint64_t *at)
{
    size = (size + 7) & ~UINT64_C(7);
    if (*used + size > *capacity) {
        int rc = vec_grow((void **)data, capacity, *used + size, 1);
        if (rc)
            return rc;
    }
    *at = *used;
    *used += size;
    return 0;
}
