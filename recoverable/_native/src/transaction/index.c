/* index.c -- where in a list of a transaction's something is: its reads and writes by unit, its summaries by container.
 *
 * What we want: a batch of thousands of units is found as fast as five are, and the transactions after it, which get its
 * buffers from the pool, do not pay for it.
 *
 * What does not work: to clear the whole table at the end of each (a batch of 250 dicts made each later insertion clear 70 KB);
 * to clear slot by slot (more instructions where the table is small, and a handful of slots all over a large one).
 *
 * What does: a transaction uses as much of the table as its list needs, from a few slots on by doubling, and clears that. The
 * next one begins with as much as this one needed, up to a few hundred slots, so that requests of one kind don't grow theirs
 * again each time.
 */
#include "transaction.h"

#define FEWEST 64u  /* slots */
#define AHEAD  256u /* with so many at most does a list begin */

int index_grow(struct rcv_index *x, const void *list, size_t item, uint64_t n)
{
    uint32_t use = x->mask ? (x->mask + 1) * 2 : FEWEST;
    if (use == 0)
        return rcv_raise(RCV_ERR_FULL, 0, "a transaction's read and write sets have no room left");
    if (use > x->size) {
        uint32_t *bigger = os_malloc(use * sizeof *bigger);
        if (bigger == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a transaction's read and write sets");
        os_free(x->slots);
        x->slots = bigger;
        x->size = use;
    }
    memset(x->slots, 0, use * sizeof *x->slots);
    x->mask = use - 1;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t key;
        memcpy(&key, (const char *)list + i * item, sizeof key);
        *index_slot(x, list, item, key) = (uint32_t)i + 1;
    }
    return 0;
}

void index_clear(struct rcv_index *x, uint64_t n)
{
    if (n == 0)
        return;
    while (x->mask >= FEWEST && (x->mask >= AHEAD || n * 2 <= x->mask / 2)) /* or half would do */
        x->mask /= 2;
    memset(x->slots, 0, ((size_t)x->mask + 1) * sizeof *x->slots);
}
