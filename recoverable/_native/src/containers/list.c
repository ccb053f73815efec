/* list.c -- List: cells in chunks of RCV_LEAF, found by position through a table.
 *
 * Reading and writing by position, and both ends of `append` and `pop`, take a few reads whatever the length. Inserting and
 * deleting in the middle shift what follows, as in Python's list.
 *
 * A List that is made of at most a chunk's items has their cells in its own block (RCV_PACKED). They never move, since transactions in
 * flight hold their new values by offset; so what is appended gets chunks, as if those items were in the first one.
 *
 * Conflict units: each chunk (KEY, by its number); SHAPE, read by whoever uses a position and written by what shifts
 * positions; MEMBERSHIP is the length. So an append conflicts with other appends and with len(), not with reading items.
 */
#include "containers.h"
#include "containers/list.h"

_Static_assert(RCV_LEAF == RCV_LIST_UNIT, "a conflict unit is a chunk");

#define CELL sizeof(struct rcv_cell)
#define TABLE offsetof(struct rcv_list, table)
#define FIRST (TABLE + sizeof(struct rcv_first)) /* where the cells in its own block begin */

static int no_list(rcv_arena *a, rcv_off l) { return seg_corrupt(a, "the List at %llu", (unsigned long long)l); }

static inline bool is_packed(const struct rcv_list *list) { return list->c.flags & RCV_PACKED; }

/* table_off -- where its table is; 0: it has had no position that needs one. table_of -- the table, NULL: none, or outside. */
static inline rcv_off table_off(const struct rcv_list *list, rcv_off l) { return is_packed(list) ? list->first.rest : l + TABLE; }

static const struct rcv_table *table_of(rcv_arena *a, const struct rcv_list *list)
{
    if (likely(!is_packed(list)))
        return &list->table;
    return list->first.rest ? rcv_at(a, list->first.rest, sizeof(struct rcv_table)) : NULL;
}

/* chunks_for -- how many chunks that many positions take. */
static inline uint64_t chunks_for(const struct rcv_list *list, uint64_t length)
{
    return is_packed(list) && length <= list->first.n ? 0 : length / RCV_LEAF + (length % RCV_LEAF != 0);
}

/* fits -- does its table hold what its length says? */
static inline bool fits(const rcv_arena *a, const struct rcv_list *list, const struct rcv_table *table)
{
    return list->length <= rcv_data_claimed(a) / CELL && (table ? table->used : 0) == chunks_for(list, list->length);
}

static struct rcv_list *__attribute__((noinline)) packed_at(rcv_arena *a, rcv_off l)
{
    struct rcv_list *list = container_of(a, l, RCV_K_LIST, FIRST);
    if (list == NULL || !is_packed(list) || list->first.n > RCV_LEAF || rcv_at(a, l, FIRST + list->first.n * CELL) == NULL)
        return NULL;
    return fits(a, list, table_of(a, list)) ? list : NULL;
}

/* list_at -- the List at `l`, its length within its table, or NULL. */
static inline struct rcv_list *list_at(rcv_arena *a, rcv_off l)
{
    struct rcv_list *list = container_of(a, l, RCV_K_LIST, sizeof *list);
    if (unlikely(list == NULL || is_packed(list))) /* one that is packed may be shorter than that */
        return packed_at(a, l);
    return likely(fits(a, list, &list->table)) ? list : NULL;
}

/* cell_in -- where position `i` lies in the chunks of a table; 0: damage. */
static inline rcv_off cell_in(rcv_arena *a, const struct rcv_table *table, uint64_t i)
{
    rcv_off word = table_word(a, table, i / RCV_LEAF);
    rcv_off leaf = word ? *word_at(a, word) : 0;
    return leaf && rcv_at(a, leaf, RCV_LEAF * CELL) ? leaf + i % RCV_LEAF * CELL : 0;
}

static rcv_off __attribute__((noinline)) packed_cell(rcv_arena *a, rcv_off l, const struct rcv_list *list, uint64_t i)
{
    if (i < list->first.n)
        return rcv_at(a, l + FIRST + i * CELL, CELL) ? l + FIRST + i * CELL : 0;
    const struct rcv_table *table = table_of(a, list);
    return table ? cell_in(a, table, i) : 0;
}

/* cell_off -- where position `i` lies; 0: damage. */
static inline rcv_off cell_off(rcv_arena *a, rcv_off l, const struct rcv_list *list, uint64_t i)
{
    return unlikely(is_packed(list)) ? packed_cell(a, l, list, i) : cell_in(a, &list->table, i);
}

static struct rcv_cell *cell_at(rcv_arena *a, rcv_off off) { return (struct rcv_cell *)(void *)(a->mem + off); }

/* new_list -- one without positions, the head of `size` bytes. */
static int new_list(rcv_txn *t, uint64_t size, struct rcv_list **list, rcv_off *out)
{
    int rc = txn_alloc(t, size, RCV_SPACE_GENERAL, 0, out);
    if (rc == 0)
        rc = container_init(t, *out, RCV_K_LIST);
    *list = (struct rcv_list *)(void *)(t->arena->mem + *out);
    return rc;
}

int rcv_list_new(rcv_txn *t, rcv_off *out)
{
    struct rcv_list *list;
    int              rc = new_list(t, sizeof *list, &list, out);
    if (rc == 0)
        table_init(&list->table, *out + TABLE);
    return rc;
}

int rcv_list_len(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t *out)
{
    const struct rcv_list *list = list_at(a, l);
    if (list == NULL)
        return no_list(a, l);
    *out = list->length;
    return t ? stamp_read(t, l, list->c.id, RCV_UNIT_MEMBERSHIP, 0) : 0;
}

int rcv_list_scan(rcv_arena *a, rcv_txn *t, rcv_off l)
{
    const struct rcv_list *list = list_at(a, l);
    if (list == NULL)
        return no_list(a, l);
    int rc = t ? stamp_read(t, l, list->c.id, RCV_UNIT_MEMBERSHIP, 0) : 0;
    if (rc == 0 && t)
        rc = stamp_read(t, l, list->c.id, RCV_UNIT_CONTENT, 0);
    return rc;
}

/* note_position -- position i is used: what was seen there, and that it is that position. */
static int note_position(rcv_txn *t, rcv_off l, const struct rcv_list *list, uint64_t i)
{
    int rc = stamp_read(t, l, list->c.id, RCV_UNIT_SHAPE, 0);
    return rc ? rc : stamp_read(t, l, list->c.id, RCV_UNIT_KEY, i / RCV_LEAF);
}

int rcv_list_get(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t i, struct rcv_value *out)
{
    const struct rcv_list *list = list_at(a, l);
    if (unlikely(list == NULL))
        return no_list(a, l);
    if (i >= list->length)
        return t ? stamp_read(t, l, list->c.id, RCV_UNIT_MEMBERSHIP, 0) : 0;
    rcv_off off = cell_off(a, l, list, i);
    int     rc = t ? note_position(t, l, list, i) : 0;
    if (rc || off == 0)
        return rc ? rc : no_list(a, l);
    rc = cell_give(a, l, cell_at(a, off), out);
    return rc ? rc : 1;
}

int rcv_list_find(rcv_arena *a, rcv_off l, rcv_off child, uint64_t *out)
{
    const struct rcv_list *list = list_at(a, l);
    if (list == NULL)
        return no_list(a, l);
    for (uint64_t i = 0, end; i < list->length; i = end) {
        const rcv_off off = cell_off(a, l, list, i);
        if (off == 0)
            return no_list(a, l);
        end = is_packed(list) && i < list->first.n ? list->first.n : (i / RCV_LEAF + 1) * RCV_LEAF; /* these lie side by side */
        end = end < list->length ? end : list->length;
        const struct rcv_cell *cell = cell_at(a, off);
        for (*out = i; *out < end; ++*out, ++cell)
            if (cell->tag == RCV_T_REF && cell->word == child)
                return 1;
    }
    return 0;
}

int rcv_list_set(rcv_txn *t, rcv_off l, uint64_t i, const struct rcv_value *value)
{
    rcv_arena             *a = t->arena;
    const struct rcv_list *list = list_at(a, l);
    if (list == NULL)
        return no_list(a, l);
    if (i >= list->length)
        return stamp_read(t, l, list->c.id, RCV_UNIT_MEMBERSHIP, 0);
    rcv_off off = cell_off(a, l, list, i);
    int     rc = off ? note_position(t, l, list, i) : no_list(a, l);
    if (rc == 0 && cell_holds(cell_at(a, off), value))
        return 1;
    if (rc == 0)
        rc = stamp_write(t, l, list->c.id, RCV_UNIT_KEY, i / RCV_LEAF);
    if (rc == 0)
        rc = stamp_write(t, l, list->c.id, RCV_UNIT_CONTENT, 0);
    if (rc == 0)
        rc = cell_set(t, l, 0, off, value);
    return rc ? rc : 1;
}

/* note_length -- the length is read and written; `shift`: positions as well. */
static int note_length(rcv_txn *t, rcv_off l, uint64_t id, bool shift)
{
    int rc = stamp_read(t, l, id, RCV_UNIT_MEMBERSHIP, 0);
    if (rc == 0)
        rc = stamp_write(t, l, id, RCV_UNIT_MEMBERSHIP, 0);
    if (rc == 0)
        rc = stamp_write(t, l, id, RCV_UNIT_CONTENT, 0);
    if (rc == 0 && shift)
        rc = stamp_read(t, l, id, RCV_UNIT_CONTENT, 0);
    if (rc == 0 && shift)
        rc = stamp_write(t, l, id, RCV_UNIT_SHAPE, 0);
    return rc;
}

/* table_ready -- the table, made if there is none. */
static int table_ready(rcv_txn *t, rcv_off l, const struct rcv_list *list, rcv_off *out)
{
    *out = table_off(list, l);
    if (likely(*out != 0))
        return 0;
    int rc = txn_alloc(t, sizeof(struct rcv_table), RCV_SPACE_GENERAL, 0, out);
    if (rc)
        return rc;
    table_init((struct rcv_table *)(void *)(t->arena->mem + *out), *out);
    return txn_write64(t, l + TABLE + offsetof(struct rcv_first, rest), *out, RCV_U_DATA);
}

/* add_chunk -- chunk number `leaf`, the next one. */
static int add_chunk(rcv_txn *t, rcv_off l, const struct rcv_list *list, uint64_t leaf)
{
    rcv_arena *a = t->arena;
    rcv_off    at, chunk;
    int        rc = txn_alloc(t, RCV_LEAF * CELL, RCV_SPACE_GENERAL, 0, &chunk);
    if (rc)
        return rc;
    memset(a->mem + chunk, 0, RCV_LEAF * CELL);
    rc = table_ready(t, l, list, &at);
    if (rc == 0)
        rc = table_widen(t, at, RCV_U_DATA, 0);
    const struct rcv_table *table = rc ? NULL : table_of(a, list);
    rcv_off                 word = table ? table_word(a, table, leaf) : 0;
    if (rc == 0)
        rc = word ? txn_write64(t, word, chunk, RCV_U_DATA) : no_list(a, l);
    return rc ? rc : txn_write64(t, at + offsetof(struct rcv_table, used), leaf + 1, RCV_U_DATA);
}

/* lengthen -- n more positions with empty cells at the end. */
static int lengthen(rcv_txn *t, rcv_off l, uint64_t n)
{
    const struct rcv_list *list = list_at(t->arena, l);
    if (list == NULL)
        return no_list(t->arena, l);
    uint64_t length = list->length + n, to = chunks_for(list, length);
    for (uint64_t leaf = chunks_for(list, list->length); leaf < to; leaf++) {
        int rc = add_chunk(t, l, list, leaf);
        if (rc)
            return rc;
    }
    return txn_write64(t, l + offsetof(struct rcv_list, length), length, RCV_U_DATA);
}

int rcv_list_make(rcv_txn *t, uint64_t n, rcv_off *out)
{
    struct rcv_list *list;
    if (n == 0 || n > RCV_LEAF) {
        int rc = rcv_list_new(t, out);
        return rc || n == 0 ? rc : lengthen(t, *out, n);
    }
    int rc = new_list(t, FIRST + n * CELL, &list, out);
    if (rc)
        return rc;
    memset((uint8_t *)list + FIRST, 0, n * CELL);
    list->c.flags = RCV_PACKED;
    list->length = list->first.n = n;
    return 0;
}

int rcv_list_fill(rcv_txn *t, rcv_off l, uint64_t i, const struct rcv_value *value)
{
    rcv_arena             *a = t->arena;
    const struct rcv_list *list = list_at(a, l);
    rcv_off                off = list != NULL && i < list->length ? cell_off(a, l, list, i) : 0;
    return likely(off != 0) ? cell_fill(t, l, 0, off, value) : no_list(a, l);
}

/* run_end -- where the cells end that lie one behind the other from position `i` on. */
static inline uint64_t run_end(const struct rcv_list *list, uint64_t i)
{
    return is_packed(list) && i < list->first.n ? list->first.n : (i / RCV_LEAF + 1) * RCV_LEAF;
}

/* log_cells -- the barrier for positions [i, to), a record a run. */
static int log_cells(rcv_txn *t, rcv_off l, const struct rcv_list *list, uint64_t i, uint64_t to)
{
    int rc = 0;
    while (i < to && rc == 0) {
        uint64_t end = run_end(list, i);
        rcv_off  off = cell_off(t->arena, l, list, i);
        if (end > to)
            end = to;
        rc = off ? txn_log(t, off, (uint32_t)((end - i) * CELL), RCV_U_DATA) : no_list(t->arena, l);
        i = end;
    }
    return rc;
}

/* room_for -- how many positions the cells that are there are enough for. */
static uint64_t room_for(rcv_arena *a, const struct rcv_list *list)
{
    const struct rcv_table *table = table_of(a, list);
    uint64_t                chunks = table ? table->used : 0;
    return chunks || !is_packed(list) ? chunks * RCV_LEAF : list->first.n;
}

int rcv_list_extend(rcv_txn *t, rcv_off l, const struct rcv_value *values, uint64_t n)
{
    rcv_arena       *a = t->arena;
    struct rcv_list *list = list_at(a, l);
    struct rcv_mark  mark;
    if (list == NULL)
        return no_list(a, l);
    int rc = note_length(t, l, list->c.id, false);
    if (rc)
        return rc;
    uint64_t from = list->length, room = room_for(a, list);
    bool     easy = n <= room - from; /* once all is logged nothing can fail: there is no operation to go back from */
    for (uint64_t k = 0; k < n && easy; k++)
        easy = cell_suffices(&values[k]);
    if (!easy)
        rcv_op_begin(t, &mark);
    rc = log_cells(t, l, list, from, from + n < room ? from + n : room); /* what lies in new chunks nobody can see */
    if (rc == 0)
        rc = lengthen(t, l, n);
    for (uint64_t k = 0; k < n && rc == 0; k++) {
        rcv_off off = cell_off(a, l, list, from + k);
        rc = off ? cell_fill(t, l, 0, off, &values[k]) : no_list(a, l);
    }
    if (rc && !easy)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_list_append(rcv_txn *t, rcv_off l, const struct rcv_value *value) { return rcv_list_extend(t, l, value, 1); }

/* store -- fill position `i`, which is logged. Where it lies is looked up each time, and checked: in a damaged List a chunk may
 * lie over the table that leads to it, so that the store before has changed the way. */
static int store(rcv_arena *a, rcv_off l, const struct rcv_list *list, uint64_t i, struct rcv_cell cell)
{
    rcv_off off = cell_off(a, l, list, i);
    if (unlikely(off == 0))
        return no_list(a, l);
    *cell_at(a, off) = cell;
    return 0;
}

/* move -- copy the cell at `from` over the one at `to`; both logged. */
static int move(rcv_arena *a, rcv_off l, const struct rcv_list *list, uint64_t from, uint64_t to)
{
    rcv_off off = cell_off(a, l, list, from);
    return likely(off != 0) ? store(a, l, list, to, *cell_at(a, off)) : no_list(a, l);
}

int rcv_list_insert(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n)
{
    rcv_arena       *a = t->arena;
    struct rcv_list *list = list_at(a, l);
    struct rcv_mark  mark;
    if (list == NULL || i > list->length)
        return list ? rcv_raise(RCV_ERR_BUG, 0, "an insertion past a List's end") : no_list(a, l);
    uint64_t length = list->length;
    int      rc = note_length(t, l, list->c.id, i < length);
    if (rc || n == 0)
        return rc;
    rcv_op_begin(t, &mark);
    rc = lengthen(t, l, n);
    if (rc == 0)
        rc = log_cells(t, l, list, i, length + n);
    for (uint64_t k = length; rc == 0 && k > i; k--)
        rc = move(a, l, list, k - 1, k - 1 + n);
    for (uint64_t k = i; rc == 0 && k < i + n; k++)
        rc = store(a, l, list, k, (struct rcv_cell){.tag = RCV_T_NONE});
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

/* shorten -- drop the last n positions, whose cells have been moved away or dropped. */
static int shorten(rcv_txn *t, rcv_off l, const struct rcv_list *list, uint64_t n)
{
    rcv_arena *a = t->arena;
    uint64_t   length = list->length - n, keep = chunks_for(list, length);
    int        rc = 0;
    for (uint64_t leaf = chunks_for(list, list->length); rc == 0 && leaf > keep; leaf--) {
        const struct rcv_table *table = table_of(a, list);
        rcv_off                 word = table ? table_word(a, table, leaf - 1) : 0;
        rc = word ? txn_free(t, *word_at(a, word), 0) : no_list(a, l);
        if (rc == 0)
            rc = table_pop(t, table_off(list, l), RCV_U_DATA);
    }
    return rc ? rc : txn_write64(t, l + offsetof(struct rcv_list, length), length, RCV_U_DATA);
}

int rcv_list_delete(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n)
{
    rcv_arena       *a = t->arena;
    struct rcv_list *list = list_at(a, l);
    struct rcv_mark  mark;
    if (list == NULL || i > list->length || n > list->length - i)
        return list ? rcv_raise(RCV_ERR_BUG, 0, "a deletion past a List's end") : no_list(a, l);
    uint64_t length = list->length;
    int      rc = note_length(t, l, list->c.id, i + n < length);
    for (uint64_t leaf = i / RCV_LEAF; rc == 0 && n != 0 && leaf <= (i + n - 1) / RCV_LEAF; leaf++) {
        rc = stamp_read(t, l, list->c.id, RCV_UNIT_KEY, leaf);
        if (rc == 0)
            rc = stamp_write(t, l, list->c.id, RCV_UNIT_KEY, leaf);
    }
    if (rc || n == 0)
        return rc;
    rcv_op_begin(t, &mark);
    for (uint64_t k = i; k < i + n && rc == 0; k++) {
        rcv_off off = cell_off(a, l, list, k);
        rc = off ? cell_drop(t, cell_at(a, off)) : no_list(a, l);
    }
    if (rc == 0)
        rc = log_cells(t, l, list, i, length);
    for (uint64_t k = i; rc == 0 && k + n < length; k++)
        rc = move(a, l, list, k + n, k);
    for (uint64_t k = length - n; rc == 0 && k < length; k++)
        rc = store(a, l, list, k, (struct rcv_cell){0});
    if (rc == 0)
        rc = shorten(t, l, list, n);
    if (rc)
        rcv_op_fail(t, &mark);
    return rc;
}

int rcv_list_permute(rcv_txn *t, rcv_off l, const uint64_t *order, uint64_t n)
{
    rcv_arena       *a = t->arena;
    struct rcv_list *list = list_at(a, l);
    if (list == NULL || list->length != n)
        return list ? rcv_raise(RCV_ERR_MISUSE, 0, "the List was changed while it was being sorted") : no_list(a, l);
    struct rcv_cell *old = os_malloc((n ? n : 1) * CELL);
    struct rcv_mark  mark;
    if (old == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a List's order");
    rcv_op_begin(t, &mark);
    int rc = note_length(t, l, list->c.id, true);
    for (uint64_t i = 0; i < n && rc == 0; i++) {
        rcv_off off = cell_off(a, l, list, i);
        if (off == 0 || order[i] >= n)
            rc = off ? rcv_raise(RCV_ERR_BUG, 0, "a position past a List's end") : no_list(a, l);
        else
            old[i] = *cell_at(a, off);
    }
    if (rc == 0)
        rc = log_cells(t, l, list, 0, n);
    for (uint64_t i = 0; i < n && rc == 0; i++)
        rc = store(a, l, list, i, old[order[i]]);
    if (rc)
        rcv_op_fail(t, &mark);
    os_free(old);
    return rc;
}

/* list_reclaim -- free some of a detached List: cells and chunks from the end, at last the table. */
static int list_reclaim(rcv_txn *t, rcv_off l, uint32_t *budget, bool *done)
{
    rcv_arena       *a = t->arena;
    struct rcv_list *list = list_at(a, l);
    *done = false;
    if (list == NULL)
        return no_list(a, l);
    while (list->length > 0) {
        if (*budget == 0)
            return 0;
        --*budget;
        rcv_off off = cell_off(a, l, list, list->length - 1);
        int     rc = off ? cell_drop(t, cell_at(a, off)) : no_list(a, l);
        if (rc == 0)
            rc = shorten(t, l, list, 1);
        if (rc)
            return rc;
    }
    rcv_off at = table_off(list, l);
    int     rc = at ? table_reclaim(t, at, budget, done) : 0;
    if (at == 0)
        *done = true;
    if (rc == 0 && *done && is_packed(list) && at != 0)
        rc = txn_free(t, at, 0);
    return rc;
}

/* -- for rcv_verify ---------------------------------------------------------------------------------------- */

/* check_row -- of the cells [0, n) those in [from, to) have a value, the others are empty. */
static int check_row(struct walk *w, rcv_off off, rcv_off row, uint64_t from, uint64_t to, uint64_t n)
{
    const struct rcv_cell *cells = (const struct rcv_cell *)(const void *)(w->a->mem + row);
    int                    rc = 0;
    for (uint64_t i = 0; i < n && rc == 0; i++) {
        if (i >= from && i < to)
            rc = check_cell(w, off, 0, &cells[i]);
        else if (cells[i].tag != 0)
            rc = check_damage(w, off, 0, row + i * sizeof *cells, i < from ? "a value in a cell of no position" : "a value past the end");
    }
    return rc;
}

static inline uint64_t least(uint64_t x, uint64_t y) { return x < y ? x : y; }

/* list_check -- see struct rcv_kind. Of one that is being taken apart, not what lies past its end. */
static int list_check(struct walk *w, rcv_off off)
{
    const struct rcv_list *l = (const struct rcv_list *)(const void *)(w->a->mem + off);
    bool                   detached = l->c.flags & RCV_DETACHED;
    uint64_t               own = is_packed(l) ? l->first.n : 0;
    if (is_packed(l) && (own == 0 || own > RCV_LEAF))
        return check_damage(w, off, 0, off, "%llu items in its own block", (unsigned long long)own);
    int rc = check_room(w, off, is_packed(l) ? FIRST + own * CELL : sizeof *l);
    if (rc == 0)
        rc = check_row(w, off, off + FIRST, 0, least(own, l->length), detached ? least(own, l->length) : own);
    rcv_off table = table_off(l, off);
    if (rc == 0 && is_packed(l) && table != 0)
        rc = check_reach(w, off, 0, table, sizeof(struct rcv_table), "the table of a List");
    if (rc)
        return rc;
    const struct rcv_table *chunks = table_of(w->a, l);
    uint64_t                leaves = chunks_for(l, l->length), used = chunks ? chunks->used : 0;
    if (used != leaves)
        return check_damage(w, off, 0, off, "%llu items in %llu chunks", (unsigned long long)l->length, (unsigned long long)used);
    if (chunks != NULL)
        rc = table_check(w, off, table, chunks, detached);
    for (uint64_t i = 0; i < leaves && rc == 0; i++) {
        rcv_off  leaf = *word_at(w->a, table_word(w->a, chunks, i));
        uint64_t here = least(l->length - i * RCV_LEAF, RCV_LEAF);
        rc = check_reach(w, off, 0, leaf, RCV_LEAF * CELL, "a chunk of a List");
        if (rc == 0)
            rc = check_row(w, off, leaf, i == 0 ? own : 0, here, detached ? here : RCV_LEAF);
    }
    w->report->entries += l->length;
    return rc;
}

const struct rcv_kind list_kind = {.name = "List", .size = FIRST, .marks = RCV_PACKED, .reclaim = list_reclaim, .check = list_check, .counts_are_words = true};
