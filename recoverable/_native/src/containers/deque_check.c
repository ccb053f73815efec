/* deque_check.c -- what must be true of a Deque, for rcv_verify. */
#include "deque_check.h"

/* check_block -- one block of the chain; adds up the items found in it. */
static int check_block(struct walk *w, rcv_off off, const struct rcv_deque *q, rcv_off at, rcv_off prev, uint64_t *items)
{
    int rc = check_reach(w, off, 0, at, sizeof(struct rcv_block), "a block of a Deque");
    if (rc)
        return rc;
    const struct rcv_block *b = (const struct rcv_block *)(const void *)(w->a->mem + at);
    if (b->prev != prev)
        return check_damage(w, off, 0, at, "a block whose neighbour is another");
    for (uint64_t i = 0; i < RCV_BLOCK && rc == 0; i++) {
        bool within = b->base + i >= q->left && b->base + i < q->right;
        if (within != (b->cells[i].tag != 0))
            return check_damage(w, off, 0, at, within ? "an item is missing" : "an item outside both ends");
        if (within) {
            ++*items;
            rc = check_cell(w, off, 0, &b->cells[i]);
        }
    }
    return rc;
}

/* deque_check -- see struct rcv_kind. */
int deque_check(struct walk *w, rcv_off off)
{
    const struct rcv_deque *q = (const struct rcv_deque *)(const void *)(w->a->mem + off);
    rcv_off  prev = 0, at = q->left_block;
    uint64_t items = 0, base = 0;
    for (;;) {
        int rc = check_block(w, off, q, at, prev, &items);
        if (rc)
            return rc;
        const struct rcv_block *b = (const struct rcv_block *)(const void *)(w->a->mem + at);
        if (prev != 0 && b->base != base + RCV_BLOCK)
            return check_damage(w, off, 0, at, "a block of a Deque out of its order");
        if (at == q->right_block) {
            if (b->next != 0)
                return check_damage(w, off, 0, at, "the last block of a Deque leads on");
            break;
        }
        base = b->base;
        prev = at;
        at = b->next;
    }
    w->report->entries += items;
    return q->left <= q->right && items == q->right - q->left
               ? 0
               : check_damage(w, off, 0, off, "%llu items between positions %llu and %llu", (unsigned long long)items,
                              (unsigned long long)q->left, (unsigned long long)q->right);
}
