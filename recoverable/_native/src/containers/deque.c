/* deque.c -- Deque: blocks of cells in a chain, open at both ends.
 *
 * Every item has a position that never changes: positions grow to the right and fall to the left of RCV_DEQUE_START. Conflict
 * units: each end (SHAPE 0 and 1) and each position (KEY). A push or pop reads and writes its own end and the position that
 * it fills or empties, and nothing of the other end: a producer and a consumer meet only at one item.
 *
 * That holds for the chain too. Whether there is an item is read from its cell (tag 0: empty), not from the other end's
 * position; and an end moves to the neighbouring block, freeing the one it leaves, only when there is an item to take from it.
 * The other end can be in the block that is left behind only if that item has been taken from its side, and then the two
 * conflict over its position.
 */
#include "containers.h"
#include "deque_check.h"
#include "containers/deque.h"

#define CELLS ((uint64_t)RCV_BLOCK)
#define FIELD(name) offsetof(struct rcv_deque, name)
#define DEQUE_LINKS(name) offsetof(struct rcv_block, name)

static int no_deque(rcv_arena *a, rcv_off d) { return seg_corrupt(a, "the Deque at %llu", (unsigned long long)d); }

static struct rcv_deque *deque_at(rcv_arena *a, rcv_off d)
{
    struct rcv_deque *q = (struct rcv_deque *)container_at(a, d, RCV_K_DEQUE);
    return likely(q != NULL && q->left <= q->right && q->right - q->left <= rcv_data_claimed(a) / sizeof(struct rcv_cell)) ? q : NULL;
}

static struct rcv_block *block_at(rcv_arena *a, rcv_off off) { return rcv_at(a, off, sizeof(struct rcv_block)); }

static rcv_off cell_of(rcv_off block, uint64_t index) { return block + offsetof(struct rcv_block, cells) + index * sizeof(struct rcv_cell); }

static struct rcv_cell *cell_at(rcv_arena *a, rcv_off off) { return (struct rcv_cell *)(void *)(a->mem + off); }

/* new_block -- fresh memory: empty cells from position `base`. */
static int new_block(rcv_txn *t, uint64_t base, rcv_off prev, rcv_off next, rcv_off *out)
{
    int rc = txn_alloc(t, sizeof(struct rcv_block), RCV_SPACE_GENERAL, 0, out);
    if (rc)
        return rc;
    struct rcv_block *b = (struct rcv_block *)(void *)(t->arena->mem + *out);
    memset(b, 0, sizeof *b);
    b->base = base;
    b->prev = prev;
    b->next = next;
    return 0;
}

int rcv_deque_new(rcv_txn *t, uint64_t maxlen, rcv_off *out)
{
    rcv_off block;
    int     rc = txn_alloc(t, sizeof(struct rcv_deque), RCV_SPACE_GENERAL, 0, out);
    if (rc == 0)
        rc = container_init(t, *out, RCV_K_DEQUE);
    if (rc == 0)
        rc = new_block(t, RCV_DEQUE_START, 0, 0, &block);
    if (rc)
        return rc;
    struct rcv_deque *q = (struct rcv_deque *)(void *)(t->arena->mem + *out);
    q->left = q->right = RCV_DEQUE_START;
    q->left_block = q->right_block = block;
    q->maxlen = maxlen;
    return 0;
}

/* note_end -- an end is read, and written. */
static int note_end(rcv_txn *t, rcv_off d, uint64_t id, int side, bool write)
{
    int rc = stamp_read(t, d, id, RCV_UNIT_SHAPE, (uint64_t)side);
    if (rc == 0 && write)
        rc = stamp_write(t, d, id, RCV_UNIT_SHAPE, (uint64_t)side);
    return rc == 0 && write ? stamp_write(t, d, id, RCV_UNIT_CONTENT, 0) : rc;
}

/* note_position -- the item at a position is read, and written. */
static int note_position(rcv_txn *t, rcv_off d, uint64_t id, uint64_t position, bool write)
{
    int rc = stamp_read(t, d, id, RCV_UNIT_KEY, position);
    return rc == 0 && write ? stamp_write(t, d, id, RCV_UNIT_KEY, position) : rc;
}

int rcv_deque_ends(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *left, uint64_t *right)
{
    const struct rcv_deque *q = deque_at(a, d);
    if (q == NULL)
        return no_deque(a, d);
    *left = q->left;
    *right = q->right;
    int rc = t ? note_end(t, d, q->c.id, RCV_LEFT, false) : 0;
    return rc == 0 && t ? note_end(t, d, q->c.id, RCV_RIGHT, false) : rc;
}

int rcv_deque_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
{
    uint64_t left, right;
    int      rc = rcv_deque_ends(a, t, d, &left, &right);
    *out = rc ? 0 : right - left;
    return rc;
}

int rcv_deque_maxlen(rcv_arena *a, rcv_off d, uint64_t *out)
{
    const struct rcv_deque *q = deque_at(a, d);
    if (q == NULL)
        return no_deque(a, d);
    *out = q->maxlen;
    return 0;
}

/* end_cell -- where the item at that end lies: 1 and its cell and block, or 0: empty. Looks into the neighbouring block. */
static int end_cell(rcv_arena *a, rcv_off d, const struct rcv_deque *q, int side, rcv_off *cell, rcv_off *block)
{
    uint64_t          position = side == RCV_LEFT ? q->left : q->right - 1;
    rcv_off           at = side == RCV_LEFT ? q->left_block : q->right_block;
    struct rcv_block *b = block_at(a, at);
    if (b != NULL && position - b->base >= CELLS) { /* it has left this block */
        at = side == RCV_LEFT ? b->next : b->prev;
        if (at == 0)
            return 0;
        b = block_at(a, at);
    }
    if (b == NULL || position - b->base >= CELLS)
        return no_deque(a, d);
    *cell = cell_of(at, position - b->base);
    *block = at;
    return cell_at(a, *cell)->tag != 0;
}

int rcv_deque_peek(rcv_arena *a, rcv_txn *t, rcv_off d, int side, struct rcv_value *out)
{
    const struct rcv_deque *q = deque_at(a, d);
    rcv_off                 cell, block;
    if (q == NULL)
        return no_deque(a, d);
    int rc = t ? note_end(t, d, q->c.id, side, false) : 0;
    if (rc == 0 && t)
        rc = note_position(t, d, q->c.id, side == RCV_LEFT ? q->left : q->right - 1, false);
    if (rc == 0)
        rc = end_cell(a, d, q, side, &cell, &block);
    if (rc != 1)
        return rc;
    rc = cell_give(a, d, cell_at(a, cell), out);
    return rc ? rc : 1;
}

/* enter_block -- an end moves into the neighbouring block, to take an item there; the block it leaves is freed. */
static int enter_block(rcv_txn *t, rcv_off d, const struct rcv_deque *q, int side, rcv_off block)
{
    rcv_off left_behind = side == RCV_LEFT ? q->left_block : q->right_block;
    if (block == left_behind)
        return 0;
    int rc = txn_free(t, left_behind, 0);
    if (rc == 0)
        rc = txn_write64(t, block + (side == RCV_LEFT ? DEQUE_LINKS(prev) : DEQUE_LINKS(next)), 0, RCV_U_DATA);
    return rc ? rc : txn_write64(t, d + (side == RCV_LEFT ? FIELD(left_block) : FIELD(right_block)), block, RCV_U_DATA);
}

/* take -- remove the item at an end without dropping it: 1 and the cell, or 0: empty. `note`: others may be looking. */
static int take(rcv_txn *t, rcv_off d, int side, bool note, struct rcv_cell *out)
{
    rcv_arena              *a = t->arena;
    const struct rcv_deque *q = deque_at(a, d);
    rcv_off                 cell, block;
    if (q == NULL)
        return no_deque(a, d);
    uint64_t position = side == RCV_LEFT ? q->left : q->right - 1;
    int      found = end_cell(a, d, q, side, &cell, &block);
    int      rc = found < 0 ? found : 0;
    if (rc == 0 && note)
        rc = note_end(t, d, q->c.id, side, found == 1);
    if (rc == 0 && note)
        rc = note_position(t, d, q->c.id, position, found == 1);
    if (rc || found == 0)
        return rc;
    rc = enter_block(t, d, q, side, block);
    if (rc == 0)
        rc = txn_log(t, cell, sizeof *out, RCV_U_DATA);
    if (rc == 0)
        rc = side == RCV_LEFT ? txn_write64(t, d + FIELD(left), position + 1, RCV_U_DATA)
                              : txn_write64(t, d + FIELD(right), position, RCV_U_DATA);
    if (rc)
        return rc;
    *out = *cell_at(a, cell);
    *cell_at(a, cell) = (struct rcv_cell){0};
    return 1;
}

/* put -- add a cell at an end. */
static int put(rcv_txn *t, rcv_off d, int side, const struct rcv_cell *cell)
{
    rcv_arena              *a = t->arena;
    const struct rcv_deque *q = deque_at(a, d);
    if (q == NULL)
        return no_deque(a, d);
    uint64_t          position = side == RCV_LEFT ? q->left - 1 : q->right;
    rcv_off           block = side == RCV_LEFT ? q->left_block : q->right_block;
    struct rcv_block *b = block_at(a, block);
    int               rc = b ? note_end(t, d, q->c.id, side, true) : no_deque(a, d);
    if (rc == 0)
        rc = note_position(t, d, q->c.id, position, true);
    if (rc)
        return rc;
    if (position - b->base >= CELLS) {
        rcv_off fresh;
        rc = side == RCV_LEFT ? new_block(t, b->base - CELLS, 0, block, &fresh) : new_block(t, b->base + CELLS, block, 0, &fresh);
        if (rc == 0)
            rc = txn_write64(t, block + (side == RCV_LEFT ? DEQUE_LINKS(prev) : DEQUE_LINKS(next)), fresh, RCV_U_DATA);
        if (rc == 0)
            rc = txn_write64(t, d + (side == RCV_LEFT ? FIELD(left_block) : FIELD(right_block)), fresh, RCV_U_DATA);
        if (rc)
            return rc;
        block = fresh;
        b = block_at(a, block);
    }
    if (b == NULL || position - b->base >= CELLS)
        return no_deque(a, d);
    rcv_off at = cell_of(block, position - b->base);
    rc = txn_log(t, at, sizeof *cell, RCV_U_DATA);
    if (rc == 0)
        rc = side == RCV_LEFT ? txn_write64(t, d + FIELD(left), position, RCV_U_DATA)
                              : txn_write64(t, d + FIELD(right), position + 1, RCV_U_DATA);
    if (rc == 0)
        *cell_at(a, at) = *cell;
    return rc;
}

/* pop -- take and drop. */
static int pop(rcv_txn *t, rcv_off d, int side, bool note)
{
    struct rcv_cell cell;
    int             rc = take(t, d, side, note, &cell);
    if (rc != 1)
        return rc;
    rc = cell_drop(t, &cell);
    return rc ? rc : 1;
}

int rcv_deque_pop(rcv_txn *t, rcv_off d, int side)
{
    struct rcv_mark mark;
    rcv_op_begin(t, &mark);
    int rc = pop(t, d, side, true);
    if (rc < 0)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_deque_push(rcv_txn *t, rcv_off d, int side, const struct rcv_value *value)
{
    const struct rcv_deque *q = deque_at(t->arena, d);
    struct rcv_cell         cell;
    struct rcv_mark         mark;
    uint64_t                length;
    if (q == NULL)
        return no_deque(t->arena, d);
    if (q->maxlen == 0)
        return 0;
    rcv_op_begin(t, &mark);
    int rc = cell_make(t, value, &cell);
    if (rc == 0 && cell.tag == RCV_T_REF)
        rc = container_adopt(t, cell.word, d, 0);
    if (rc == 0)
        rc = put(t, d, side, &cell);
    if (rc == 0 && q->maxlen != UINT64_MAX) { /* only a bounded one looks at its other end */
        rc = rcv_deque_len(t->arena, t, d, &length);
        if (rc == 0 && length > q->maxlen)
            rc = pop(t, d, !side, true);
        rc = rc < 0 ? rc : 0;
    }
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_deque_rotate(rcv_txn *t, rcv_off d, int side, uint64_t n)
{
    struct rcv_mark mark;
    struct rcv_cell cell;
    int             rc = 0;
    rcv_op_begin(t, &mark);
    while (n-- > 0 && rc == 0) {
        rc = take(t, d, !side, true, &cell);
        if (rc == 1)
            rc = put(t, d, side, &cell);
    }
    if (rc < 0)
        rcv_op_fail(t, &mark);
    return rc;
}

/* position_cell -- the cell of the i-th item, walking from the nearer end: 1, or 0: no such position. */
static int position_cell(rcv_arena *a, rcv_off d, const struct rcv_deque *q, uint64_t i, rcv_off *cell)
{
    uint64_t length = q->right - q->left, position = q->left + i;
    if (i >= length)
        return 0;
    bool    from_left = i < length / 2;
    rcv_off at = from_left ? q->left_block : q->right_block;
    for (uint64_t steps = 0; steps <= length / CELLS + 2; steps++) {
        struct rcv_block *b = block_at(a, at);
        if (b == NULL)
            break;
        if (position - b->base < CELLS) {
            *cell = cell_of(at, position - b->base);
            return cell_at(a, *cell)->tag != 0 ? 1 : no_deque(a, d);
        }
        at = from_left ? b->next : b->prev;
    }
    return no_deque(a, d);
}

int rcv_deque_find(rcv_arena *a, rcv_off d, rcv_off child, uint64_t *out)
{
    const struct rcv_deque *q = deque_at(a, d);
    if (q == NULL)
        return no_deque(a, d);
    uint64_t position = q->left;
    for (rcv_off at = q->left_block; position < q->right;) {
        const struct rcv_block *b = block_at(a, at);
        if (b == NULL)
            return no_deque(a, d);
        if (position - b->base >= CELLS) { /* the end has left this block */
            if (position != q->left || b->next == 0 || b->next == at)
                return no_deque(a, d);
        }
        for (; position < q->right && position - b->base < CELLS; position++) {
            const struct rcv_cell *cell = &b->cells[position - b->base];
            if (cell->tag == RCV_T_REF && cell->word == child) {
                *out = position - q->left;
                return 1;
            }
        }
        at = b->next;
    }
    return 0;
}

/* note_index -- a position counted from the left is used. */
static int note_index(rcv_txn *t, rcv_off d, const struct rcv_deque *q, uint64_t i, bool write)
{
    int rc = note_end(t, d, q->c.id, RCV_LEFT, false);
    if (rc == 0 && i >= q->right - q->left)
        rc = note_end(t, d, q->c.id, RCV_RIGHT, false);
    if (rc == 0)
        rc = note_position(t, d, q->c.id, q->left + i, write);
    return rc == 0 && write ? stamp_write(t, d, q->c.id, RCV_UNIT_CONTENT, 0) : rc;
}

int rcv_deque_get(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t i, struct rcv_value *out)
{
    const struct rcv_deque *q = deque_at(a, d);
    rcv_off                 cell;
    if (q == NULL)
        return no_deque(a, d);
    int rc = t ? note_index(t, d, q, i, false) : 0;
    if (rc == 0)
        rc = position_cell(a, d, q, i, &cell);
    if (rc != 1)
        return rc;
    rc = cell_give(a, d, cell_at(a, cell), out);
    return rc ? rc : 1;
}

int rcv_deque_set(rcv_txn *t, rcv_off d, uint64_t i, const struct rcv_value *value)
{
    const struct rcv_deque *q = deque_at(t->arena, d);
    rcv_off                 cell;
    if (q == NULL)
        return no_deque(t->arena, d);
    int rc = note_index(t, d, q, i, false);
    if (rc == 0)
        rc = position_cell(t->arena, d, q, i, &cell);
    if (rc != 1)
        return rc;
    if (cell_holds(cell_at(t->arena, cell), value))
        return 1;
    rc = note_index(t, d, q, i, true);
    if (rc)
        return rc;
    rc = cell_set(t, d, 0, cell, value);
    return rc ? rc : 1;
}

int rcv_deque_clear(rcv_txn *t, rcv_off d)
{
    struct rcv_mark mark;
    uint64_t        length;
    int             rc = rcv_deque_len(t->arena, t, d, &length); /* both ends: nobody adds meanwhile */
    if (rc)
        return rc;
    rcv_op_begin(t, &mark);
    do
        rc = pop(t, d, RCV_RIGHT, true);
    while (rc == 1);
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

/* cursor -- a cell and how to go on from it, block by block. */
struct cursor {
    rcv_off  block;
    uint64_t position;
};

/* cursor_cell -- its cell, after moving into the neighbouring block if it has left its own; 0: damage. */
static rcv_off cursor_cell(rcv_arena *a, struct cursor *c, int side)
{
    struct rcv_block *b = block_at(a, c->block);
    if (b != NULL && c->position - b->base >= CELLS) {
        c->block = side == RCV_LEFT ? b->next : b->prev;
        b = block_at(a, c->block);
    }
    return b != NULL && c->position - b->base < CELLS ? cell_of(c->block, c->position - b->base) : 0;
}

/* rcv_deque_reverse -- the cells change places, so containers stay who they are. */
int rcv_deque_reverse(rcv_txn *t, rcv_off d)
{
    rcv_arena      *a = t->arena;
    struct rcv_mark mark;
    uint64_t        left, right;
    int             rc = rcv_deque_ends(a, t, d, &left, &right);
    if (rc)
        return rc;
    const struct rcv_deque *q = deque_at(a, d);
    struct cursor           from = {q->left_block, left}, to = {q->right_block, right - 1};
    rcv_op_begin(t, &mark);
    for (; rc == 0 && left < right && from.position < to.position; from.position++, to.position--) {
        rcv_off x = cursor_cell(a, &from, RCV_LEFT), y = cursor_cell(a, &to, RCV_RIGHT);
        rc = x && y ? note_position(t, d, q->c.id, from.position, true) : no_deque(a, d);
        if (rc == 0)
            rc = note_position(t, d, q->c.id, to.position, true);
        if (rc == 0)
            rc = txn_log(t, x, sizeof(struct rcv_cell), RCV_U_DATA);
        if (rc == 0)
            rc = txn_log(t, y, sizeof(struct rcv_cell), RCV_U_DATA);
        if (rc)
            break;
        struct rcv_cell kept = *cell_at(a, x);
        *cell_at(a, x) = *cell_at(a, y);
        *cell_at(a, y) = kept;
    }
    if (rc == 0)
        rc = stamp_write(t, d, q->c.id, RCV_UNIT_CONTENT, 0);
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

/* deque_reclaim -- free some of a detached Deque, from the left; at last its one block. */
static int deque_reclaim(rcv_txn *t, rcv_off d, uint32_t *budget, bool *done)
{
    const struct rcv_deque *q = deque_at(t->arena, d);
    int                     rc = 1;
    *done = false;
    if (q == NULL)
        return no_deque(t->arena, d);
    while (rc == 1) {
        if (*budget == 0)
            return 0;
        --*budget;
        rc = pop(t, d, RCV_LEFT, false); /* whoever has a handle of it conflicts over its identity */
    }
    if (rc == 0 && q->left_block != q->right_block) /* the right end's is empty, and was never entered */
        rc = txn_free(t, q->right_block, 0);
    if (rc == 0)
        rc = txn_free(t, q->left_block, 0);
    *done = rc == 0;
    return rc;
}

const struct rcv_kind deque_kind = {.name = "Deque", .size = sizeof(struct rcv_deque), .reclaim = deque_reclaim, .check = deque_check};
