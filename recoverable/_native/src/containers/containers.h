/* containers.h -- the containers, and what they are made of: cells, tables. */
#ifndef RCV_CONTAINERS_H
#define RCV_CONTAINERS_H

#include "transaction/transaction.h"

/* -- value.c: cells ------------------------------------------------------------------------------------------ */

int  cell_make(rcv_txn *t, const struct rcv_value *value, struct rcv_cell *out); /* allocates a blob if it must */
int  cell_give_more(rcv_arena *a, rcv_off owner, const struct rcv_cell *cell, struct rcv_value *out);
/* cell_give -- what a cell of `owner` holds, for a reader who follows it. A number is no more than it says. */
static inline int cell_give(rcv_arena *a, rcv_off owner, const struct rcv_cell *cell, struct rcv_value *out)
{
    if (cell->tag == 0 || cell->tag >= RCV_T_STR)
        return cell_give_more(a, owner, cell, out);
    *out = (struct rcv_value){.tag = cell->tag, .word = cell->word};
    return 0;
}
bool cell_holds(const struct rcv_cell *cell, const struct rcv_value *value); /* this container, already */
int  cell_drop(rcv_txn *t, const struct rcv_cell *cell); /* it is being overwritten: free its blob, detach its container */
/* cell_set -- replace the cell at `at`, in container `owner` at its `slot`, with a value: all of it or nothing. */
int  cell_set(rcv_txn *t, rcv_off owner, rcv_off slot, rcv_off at, const struct rcv_value *value);
/* cell_fill -- the same where there is nothing to go back to: in memory that this operation has allocated and nothing leads to yet, or
 * in an empty cell that it has logged. cell_suffices -- is there nothing in the value that could make it fail? */
int  cell_fill(rcv_txn *t, rcv_off owner, rcv_off slot, rcv_off at, const struct rcv_value *value);
bool cell_suffices(const struct rcv_value *value);
int  container_adopt(rcv_txn *t, rcv_off child, rcv_off parent, rcv_off slot); /* RCV_ERR_MISUSE if it has a parent */

/* -- table.c: a growing table of words --------------------------------------------------------------------------- */

/* table_word -- offset of word `i`, or 0: there is none (damage, where one must be). */
rcv_off table_word(rcv_arena *a, const struct rcv_table *table, uint64_t i);
/* table_init -- fresh memory: an empty table whose words lie in itself (`off`: where the table is). */
void table_init(struct rcv_table *table, rcv_off off);
/* table_widen -- make room for word number `used`, whose value is undefined, without counting it as used. `kind` and `flags`
 * say how the change is logged and its memory allocated: RCV_U_STRUCT with RCV_I_TRANSIENT, or RCV_U_DATA with 0. */
int table_widen(rcv_txn *t, rcv_off off, unsigned kind, unsigned flags);
/* table_pop -- one word less in use; a node that becomes empty is freed. */
int table_pop(rcv_txn *t, rcv_off off, unsigned kind);
/* table_reclaim -- free the nodes, from the last one down; `budget` counts them. */
int table_reclaim(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done);
int table_check(struct walk *w, rcv_off container, rcv_off off, const struct rcv_table *table, bool detached);
static inline rcv_off *word_at(rcv_arena *a, rcv_off off) { return (rcv_off *)(void *)(a->mem + off); } /* checked before */

/* -- what kinds.c gathers -------------------------------------------------------------------------------------- */

#define X(NAME, number, name) extern const struct rcv_kind name##_kind;
RCV_KIND_LIST(X)
#undef X

struct walk;

/* -- what the files of Dict share --------------------------------------------------------------------------------- */

/* Where its rows begin, if it has some. */
#define RCV_ROWS_AT (offsetof(struct rcv_dict, rows) + sizeof(struct rcv_rows))

static inline bool dict_packed(const struct rcv_dict *dict) { return dict->c.flags & RCV_PACKED; }

/* dict_at -- the Dict or Set at `d`, with its rows if it has some, or NULL. */
static inline struct rcv_dict *dict_at(rcv_arena *a, rcv_off d)
{
    struct rcv_dict *dict = rcv_at(a, d, RCV_ROWS_AT);
    if (unlikely(dict == NULL))
        return NULL;
    unsigned kind = dict->c.kind;
    if (unlikely(kind != (RCV_CONTAINER_MARK | RCV_K_DICT) && kind != (RCV_CONTAINER_MARK | RCV_K_SET)))
        return NULL;
    return likely(rcv_at(a, d, dict_packed(dict) ? RCV_ROWS_AT + dict->rows.size : sizeof *dict) != NULL) ? dict : NULL;
}

/* dict_entries -- where its entries' order and buckets lie; 0: nothing has been inserted into one of rows. Not checked: rcv_at(). */
static inline rcv_off dict_entries(const struct rcv_dict *dict, rcv_off d)
{
    return unlikely(dict_packed(dict)) ? dict->rows.rest : d + offsetof(struct rcv_dict, e);
}

static inline struct rcv_entries *entries_at(rcv_arena *a, rcv_off at) { return rcv_at(a, at, sizeof(struct rcv_entries)); }

/* dict_entry_at -- the entry there with all its key inside claimed memory, or NULL. */
static inline struct rcv_entry *dict_entry_at(rcv_arena *a, rcv_off off)
{
    struct rcv_entry *e = rcv_at(a, off, sizeof *e);
    return likely(e != NULL && e->key_len <= rcv_data_claimed(a) - (off - a->data_off) - sizeof *e) ? e : NULL;
}

/* dict_cell -- where the value of an entry, or of a row, lies that was found. */
static inline rcv_off dict_cell(rcv_off entry)
{
    return unlikely(entry & RCV_ROW_NAMED) ? entry - RCV_ROW_NAMED : entry + offsetof(struct rcv_entry, value);
}

/* -- dict_rows.c: the rows of a Dict that was made at once. A row is named by its offset, with RCV_ROW_NAMED -- */

struct rcv_row *row_at(rcv_arena *a, rcv_off row); /* with all its key inside claimed memory, or NULL */
rcv_off row_next(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, rcv_off row);   /* the next live one (0: the first), or 0 */
rcv_off row_before(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, rcv_off row); /* the one before (0: the last), or 0 */
rcv_off row_find(rcv_arena *a, rcv_off d, const struct rcv_dict *dict, const struct rcv_key *key); /* or 0 */
void    row_key(const rcv_arena *a, const struct rcv_row *row, struct rcv_key *out); /* its key, hashed */
int     row_cut(rcv_txn *t, rcv_off row); /* it is deleted: structure */
int     rows_reclaim(rcv_txn *t, rcv_off d, const struct rcv_dict *dict, uint32_t *budget);
int     rows_count(struct walk *w, rcv_off d, uint64_t *live); /* for rcv_verify: are they where they are said to be? */

static inline uint64_t floor_pow2(uint64_t n) { return UINT64_C(1) << (63 - __builtin_clzll(n)); }

/* dict_bucket_of -- linear hashing: which of `buckets` a hash falls into. */
static inline uint64_t dict_bucket_of(uint64_t hash, uint64_t buckets)
{
    uint64_t low = floor_pow2(buckets), b = hash & (2 * low - 1);
    return b >= buckets ? hash & (low - 1) : b;
}

/* dict_chain_bound -- no chain is longer than what the whole arena could hold: a longer one is a cycle. */
static inline uint64_t dict_chain_bound(const rcv_arena *a) { return rcv_data_claimed(a) / sizeof(struct rcv_entry) + 1; }
int    dict_apply(rcv_txn *t, rcv_off d, unsigned op, uint64_t entry); /* these are in struct rcv_kind */
int    dict_sum(rcv_txn *t, rcv_off d, const struct rcv_summary *s);
int    dict_reclaim(rcv_txn *t, rcv_off d, uint32_t *budget, bool *done);
int    dict_check(struct walk *w, rcv_off d);
size_t dict_slot_text(rcv_arena *a, rcv_off slot, char *out, size_t size);
int    dict_damaged(rcv_arena *a, rcv_off d);
/* dict_find_entry -- the entry, no row, with that key: 1 and its offset, and that of the word that leads to it; or 0. */
int    dict_find_entry(rcv_arena *a, rcv_off d, const struct rcv_key *key, rcv_off *entry, rcv_off *link);
int    dict_no_entry(rcv_arena *a, rcv_off d, rcv_off e);
static inline int dict_set_word(rcv_txn *t, rcv_off off, uint64_t value) { return txn_write64(t, off, value, RCV_U_STRUCT); }

/* -- walk.c: rcv_verify's walk over all that is reached --------------------------------------------------------------- */

#define WALK_UNIT 16u /* bytes that a bit stands for: no two blocks begin in the same 16 */

struct walk {
    rcv_arena                *a;
    struct rcv_verify_report *report;
    uint64_t                 *reached; /* a bit for each 16 bytes of claimed data */
    uint64_t                  n_reached, bytes; /* blocks reached, and their sizes */
    rcv_off                  *todo; /* containers found, not walked */
    uint64_t                  n_todo, cap_todo;
};

/* check_damage -- RCV_ERR_CORRUPT, naming the container's path, `slot` in it (0: none) and the offset. */
int check_damage(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* check_reach -- a block of at least `len` bytes begins at `off`, nobody else's, and not where user code can write. */
int  check_reach(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what);
int  check_reach_any(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what); /* … or there */
bool check_was_reached(const struct walk *w, rcv_off off);
int  check_cell(struct walk *w, rcv_off container, rcv_off slot, const struct rcv_cell *cell); /* a value, in use */
int  check_room(struct walk *w, rcv_off container, uint64_t len); /* its block, which is reached, holds that many bytes */
/* walk_meet -- a container that `parent` holds in `slot` (both 0: the root, or detached). */
int  walk_meet(struct walk *w, rcv_off parent, rcv_off slot, rcv_off off, bool detached);

#endif
