/* board.c -- what came of each handler's runs, in shared memory: for `recoverable top`, which only looks.
 *
 * What we want: somebody who watches a server at night sees which handler commits, loses conflicts, traps, and what its
 * checkpoints cost, without asking the server; numbers of workers that have died are not lost; a request pays nanoseconds.
 *
 * What does: a table of rows in the segment, a handler a row, found by the hash of its name. A count is one atomic addition
 * when a run ends, at any time, in any process, with or without the lock. So the rows are sums of all processes since the
 * segment was made, and a killed process takes nothing along but the run that it was in. A row, once taken, is that name's
 * for good: when all are taken, the rest is counted together, in the last.
 *
 * Time is taken of one run in 32, four clock readings a step being more than all of the rest; which ones is spread so that
 * no regular pattern of requests falls beside it. Whoever wants all times says so with rcv_meter().
 *
 * Where it still fails: two names of one 64-bit hash would share a row. Nothing is undone, so that a row also counts what a crash
 * of the machine's user code made of the name: readers print it with care.
 */
#include "transaction.h"

#define NAMED (RCV_BOARD_ROWS - 1) /* rows that are taken by name */

_Static_assert(sizeof(struct rcv_board_row) == 128, "two cache lines");
_Static_assert(RCV_HANDLER_NAME % 8 == 0, "hashed by words");

/* hash_of -- of a name that is padded with zeros; never 0. */
static uint64_t hash_of(const char *name)
{
    static const uint64_t odd[] = {UINT64_C(0x9e3779b97f4a7c15), UINT64_C(0xbf58476d1ce4e5b9), UINT64_C(0x94d049bb133111eb),
                                   UINT64_C(0xd6e8feb86659fd93), UINT64_C(0xa0761d6478bd642f)};
    uint64_t              words[RCV_HANDLER_NAME / 8], h = 0;
    _Static_assert(sizeof odd == sizeof words, "a factor a word");
    memcpy(words, name, sizeof words);
    for (unsigned i = 0; i < RCV_HANDLER_NAME / 8; i++)
        h += (words[i] ^ words[i] >> 32) * odd[i];
    h = (h ^ h >> 29) * odd[0];
    return (h ^ h >> 32) | 1;
}

/* call_it -- the row's name. Whoever was killed before the last store left it to the next with that name. */
static void __attribute__((noinline)) call_it(struct rcv_board_row *row, const char *name)
{
    memcpy(row->name, name, RCV_HANDLER_NAME);
    CRASHPOINT("board.before_named");
    atomic_store_explicit(&row->named, 1, memory_order_release);
}

static struct rcv_board_row *row_of(struct rcv_board *board, const char *name)
{
    uint64_t hash = hash_of(name);
    for (unsigned i = 0; i < NAMED; i++) {
        struct rcv_board_row *row = &board->row[(hash + i) % NAMED];
        uint64_t              seen = atomic_load_explicit(&row->hash, memory_order_relaxed);
        if (unlikely(seen == 0) && atomic_compare_exchange_strong(&row->hash, &seen, hash)) {
            CRASHPOINT("board.taken");
            seen = hash;
        }
        if (likely(seen == hash)) {
            if (unlikely(atomic_load_explicit(&row->named, memory_order_relaxed) == 0))
                call_it(row, name);
            return row;
        }
    }
    return &board->row[NAMED];
}

uint64_t board_row(rcv_arena *a, const char *name)
{
    uint64_t row = (uint64_t)(row_of(a->board, name) - a->board->row);
    return row < NAMED ? row + 1 : 0;
}

void board_name(const rcv_arena *a, uint64_t row, char *out)
{
    memset(out, 0, RCV_HANDLER_NAME);
    if (row == 0 || row > NAMED || !atomic_load_explicit(&a->board->row[row - 1].named, memory_order_acquire))
        return;
    memcpy(out, a->board->row[row - 1].name, RCV_HANDLER_NAME - 1);
}

static inline void add(struct rcv_board_row *row, enum rcv_board_count which, uint64_t n)
{
    if (n != 0)
        atomic_fetch_add_explicit(&row->count[which], n, memory_order_relaxed);
}

/* rest -- n commits more that wrote nothing, as far as that is of interest; 0: one that wrote. */
static inline void rest(struct rcv_board_row *row, uint32_t n)
{
    uint32_t idle = atomic_load_explicit(&row->idle, memory_order_relaxed);
    if (n == 0 ? idle != 0 : idle < RCV_IDLE_COMMITS)
        atomic_store_explicit(&row->idle, n ? idle + n : 0, memory_order_relaxed); /* a count lost to another process is no harm */
}

void board_rest(const rcv_txn *t) { rest(row_of(t->arena->board, t->handler), RCV_IDLE_COMMITS); }

bool board_idle(const rcv_txn *t)
{
    struct rcv_board           *board = t->arena->board;
    const struct rcv_board_row *row = row_of(board, t->handler);
    return row != &board->row[NAMED] && atomic_load_explicit(&row->idle, memory_order_relaxed) >= RCV_IDLE_COMMITS;
}

/* board_count -- a run has ended. One that never touched the arena is none. */
void board_count(const rcv_txn *t, bool committed)
{
    if (!t->touched)
        return;
    struct rcv_board_row *row = row_of(t->arena->board, t->handler);
    if (committed)
        rest(row, t->wrote ? 0 : 1);
    add(row, committed ? RCV_B_COMMITS : t->doom == RCV_ERR_CONFLICT ? RCV_B_CONFLICTS : RCV_B_ROLLBACKS, 1);
    if (unlikely(t->timed)) {
        add(row, RCV_B_TIMED, 1);
        add(row, RCV_B_NANOS, t->report.nanos);
        add(row, RCV_B_HELD, t->report.held);
    }
    add(row, RCV_B_TRAPS, t->report.traps);
    add(row, RCV_B_PAGES, t->raw.n_pages);
    if (!committed)
        add(row, RCV_B_UNDONE, t->report.bytes);
}
