/* record.c -- Record: a fixed row of cells, one a field. Which field is which is the schema's business, kept in Python.
 *
 * Each field is a conflict unit of its own. The cells lie behind the header. A record whose class has gained fields is given a
 * block of more cells beside it, and stays where it is.
 */
#include "containers.h"
#include "containers/record.h"

#include <stdio.h>

#define CELL sizeof(struct rcv_cell)
#define FIELDS_LIMIT 4096u

static int no_record(rcv_arena *a, rcv_off r) { return seg_corrupt(a, "the Record at %llu", (unsigned long long)r); }

static struct rcv_record *record_at(rcv_arena *a, rcv_off off)
{
    struct rcv_record *r = container_of(a, off, RCV_K_RECORD, sizeof *r);
    return likely(r != NULL && (r->fields == 0 || rcv_at(a, r->cells, r->fields * CELL) != NULL)) ? r : NULL;
}

static struct rcv_cell *cell_at(rcv_arena *a, const struct rcv_record *r, uint32_t i) /* record_at() has checked */
{
    return (struct rcv_cell *)(void *)(a->mem + r->cells) + i;
}

/* cells_alloc -- fresh memory: `head` bytes, and behind them as many cells that all hold None. */
static int cells_alloc(rcv_txn *t, uint64_t head, uint32_t fields, rcv_off *out)
{
    if (fields > FIELDS_LIMIT)
        return rcv_raise(RCV_ERR_MISUSE, 0, "a Record with %u fields: at most %u", fields, FIELDS_LIMIT);
    int rc = txn_alloc(t, head + fields * CELL, RCV_SPACE_GENERAL, 0, out);
    for (uint32_t i = 0; i < fields && rc == 0; i++)
        ((struct rcv_cell *)(void *)(t->arena->mem + *out + head))[i] = (struct rcv_cell){.tag = RCV_T_NONE};
    return rc;
}

static inline bool has_block(const struct rcv_record *r, rcv_off off) { return r->cells != 0 && r->cells != off + sizeof *r; }

int rcv_record_new(rcv_txn *t, uint64_t schema, uint32_t fields, rcv_off *out)
{
    int rc = cells_alloc(t, sizeof(struct rcv_record), fields, out);
    if (rc == 0)
        rc = container_init(t, *out, RCV_K_RECORD);
    if (rc)
        return rc;
    struct rcv_record *r = (struct rcv_record *)(void *)(t->arena->mem + *out);
    r->schema = schema;
    r->cells = fields ? *out + sizeof *r : 0;
    r->fields = fields;
    return 0;
}

int rcv_record_fill(rcv_txn *t, rcv_off off, uint32_t i, const struct rcv_value *value)
{
    const struct rcv_record *r = record_at(t->arena, off);
    if (unlikely(r == NULL || i >= r->fields))
        return r ? rcv_raise(RCV_ERR_BUG, 0, "field %u of a Record of %u", i, r->fields) : no_record(t->arena, off);
    return cell_fill(t, off, i, r->cells + i * CELL, value);
}

int rcv_record_info(rcv_arena *a, rcv_off off, uint64_t *schema, uint32_t *fields)
{
    const struct rcv_record *r = record_at(a, off);
    if (r == NULL)
        return no_record(a, off);
    *schema = r->schema;
    *fields = r->fields;
    return 0;
}

int rcv_record_get(rcv_arena *a, rcv_txn *t, rcv_off off, uint32_t i, struct rcv_value *out)
{
    const struct rcv_record *r = record_at(a, off);
    if (unlikely(r == NULL || i >= r->fields))
        return r ? rcv_raise(RCV_ERR_BUG, 0, "field %u of a Record of %u", i, r->fields) : no_record(a, off);
    int rc = t ? stamp_read(t, off, r->c.id, RCV_UNIT_KEY, i) : 0;
    return rc ? rc : cell_give(a, off, cell_at(a, r, i), out);
}

int rcv_record_set(rcv_txn *t, rcv_off off, uint32_t i, const struct rcv_value *value)
{
    const struct rcv_record *r = record_at(t->arena, off);
    if (unlikely(r == NULL || i >= r->fields))
        return r ? rcv_raise(RCV_ERR_BUG, 0, "field %u of a Record of %u", i, r->fields) : no_record(t->arena, off);
    int rc = stamp_read(t, off, r->c.id, RCV_UNIT_KEY, i); /* what is dropped was seen */
    if (rc || cell_holds(cell_at(t->arena, r, i), value))
        return rc;
    rc = stamp_read(t, off, r->c.id, RCV_UNIT_SHAPE, 0); /* a migration moves the cells */
    if (rc == 0)
        rc = stamp_write(t, off, r->c.id, RCV_UNIT_KEY, i);
    if (rc == 0)
        rc = stamp_write(t, off, r->c.id, RCV_UNIT_CONTENT, 0);
    return rc ? rc : cell_set(t, off, i, r->cells + i * CELL, value);
}

int rcv_record_seen(rcv_arena *a, rcv_txn *t, rcv_off off)
{
    const struct rcv_record *r = record_at(a, off);
    if (r == NULL)
        return no_record(a, off);
    return t ? stamp_read(t, off, r->c.id, RCV_UNIT_SHAPE, 0) : 0;
}

int rcv_record_migrate(rcv_txn *t, rcv_off off, uint64_t schema, uint32_t fields)
{
    rcv_arena         *a = t->arena;
    struct rcv_record *r = record_at(a, off);
    struct rcv_mark    mark;
    rcv_off            cells;
    if (r == NULL || fields <= r->fields)
        return r ? rcv_raise(RCV_ERR_BUG, 0, "a Record can only gain fields") : no_record(a, off);
    int rc = stamp_read(t, off, r->c.id, RCV_UNIT_CONTENT, 0); /* every cell is moved */
    if (rc == 0)
        rc = stamp_read(t, off, r->c.id, RCV_UNIT_SHAPE, 0);
    if (rc == 0)
        rc = stamp_write(t, off, r->c.id, RCV_UNIT_SHAPE, 0);
    if (rc)
        return rc;
    rcv_op_begin(t, &mark);
    rc = cells_alloc(t, 0, fields, &cells);
    if (rc == 0 && r->fields)
        memcpy(a->mem + cells, a->mem + r->cells, r->fields * CELL);
    if (rc == 0 && has_block(r, off))
        rc = txn_free(t, r->cells, 0);
    if (rc == 0)
        rc = txn_log(t, off + offsetof(struct rcv_record, schema), sizeof *r - offsetof(struct rcv_record, schema), RCV_U_DATA);
    if (rc) {
        rcv_op_fail(t, &mark);
        return rc;
    }
    r->schema = schema;
    r->cells = cells;
    r->fields = fields;
    return 0;
}

/* record_reclaim -- free a detached Record's cells, all at once: there are few. */
static int record_reclaim(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done)
{
    const struct rcv_record *r = record_at(t->arena, off);
    int                      rc = 0;
    *done = false;
    if (r == NULL)
        return no_record(t->arena, off);
    for (uint32_t i = 0; i < r->fields && rc == 0; i++)
        rc = cell_drop(t, cell_at(t->arena, r, i));
    if (rc == 0 && has_block(r, off))
        rc = txn_free(t, r->cells, 0);
    *budget -= *budget > 0;
    *done = rc == 0;
    return rc;
}

/* -- for rcv_verify ---------------------------------------------------------------------------------------- */

/* record_check -- see struct rcv_kind. */
static int record_check(struct walk *w, rcv_off off)
{
    const struct rcv_record *r = (const struct rcv_record *)(const void *)(w->a->mem + off);
    if (r->fields > FIELDS_LIMIT || (r->fields == 0) != (r->cells == 0))
        return check_damage(w, off, 0, off, "a Record of %u fields", r->fields);
    int rc = 0;
    if (has_block(r, off))
        rc = check_reach(w, off, 0, r->cells, r->fields * CELL, "the fields of a Record");
    else if (r->fields)
        rc = check_room(w, off, sizeof *r + r->fields * CELL);
    for (uint32_t i = 0; i < r->fields && rc == 0; i++)
        rc = check_cell(w, off, i, cell_at(w->a, r, i));
    w->report->entries += r->fields;
    return rc;
}

static size_t record_slot_text(rcv_arena *a, rcv_off slot, char *out, size_t size)
{
    (void)a;
    return (size_t)snprintf(out, size, "[field %llu]", (unsigned long long)slot);
}

const struct rcv_kind record_kind = {.name = "Record", .size = sizeof(struct rcv_record), .reclaim = record_reclaim, .check = record_check, .slot_text = record_slot_text,
                                      .shape_moves_keys = true};
