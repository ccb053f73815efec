/* transaction.h -- transactions: what they have read and written, their stash, their intentions, their beginning and their end. */
#ifndef RCV_TRANSACTION_H
#define RCV_TRANSACTION_H

#include "heap/heap.h"
#include "pages/pages.h"

/* -- index.c: where in a list something is ------------------------------------------------------------------------ */

struct rcv_index {   /* open addressing, of a list whose items begin with a key of 8 bytes */
    uint32_t *slots; /* position + 1; 0: free */
    uint32_t  mask;  /* 0 to mask are in use, and none or more than twice as many as the list has items; what others hold is nothing */
    uint32_t  size;  /* so many there are */
};

/* index_grow -- twice as many slots for a list of n items. A failure (RCV_ERR_FULL) leaves it as it was.
 * index_clear -- the list of n items is empty again. What is cleared is what this list needed, not what a longer one did before. */
int  index_grow(struct rcv_index *x, const void *list, size_t item, uint64_t n);
void index_clear(struct rcv_index *x, uint64_t n);
static inline bool index_is_full(const struct rcv_index *x, uint64_t n) { return (n + 1) * 2 > x->mask; }

/* index_slot -- the slot of a key, which holds 0 if the key is not in the list. There must be slots. */
static inline uint32_t *index_slot(const struct rcv_index *x, const void *list, size_t item, uint64_t key)
{
    uint32_t at = (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & x->mask;
    for (uint64_t there; x->slots[at] != 0; at = (at + 1) & x->mask) {
        memcpy(&there, (const char *)list + (x->slots[at] - 1) * item, sizeof there);
        if (there == key)
            break;
    }
    return &x->slots[at];
}

/* -- stamp.c: read and write sets ------------------------------------------------------------------------------- */

struct rcv_read { /* 32 bytes */
    uint64_t unit;      /* stamp_unit() */
    uint64_t arg;       /* for naming a conflict */
    rcv_off  container; /* the same */
    uint32_t kind;      /* enum rcv_unit: the same */
};
#define RCV_BY_VALUE 64u /* bytes: longer reads of Arrays use a stamp a page */
struct rcv_value_read {  /* an Array item, validated by value */
    rcv_off  off;
    rcv_off  container;
    uint32_t len;
    uint8_t  bytes[RCV_BY_VALUE];
};

/* stamp_unit -- a unit's hash, which stands for the unit: of 2^64, no two in use are the same but by a miracle, and those
 * would conflict without need. Its halves say where the unit's stamps are. */
static inline uint64_t stamp_unit(uint64_t id, unsigned kind, uint64_t arg)
{
    return rcv_mix(id * UINT64_C(0x9e3779b97f4a7c15) + arg * 8 + kind);
}

/* stamp_read / stamp_write -- the transaction has read / written the unit (kind, arg) of container `id` at `off`. A write is
 * blind unless the unit is read as well. RCV_ERR_FULL: no process memory. */
int stamp_read_slow(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg); /* where reads are recorded */
int stamp_write(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg);
int stamp_read_value(rcv_txn *t, rcv_off container, rcv_off off, uint32_t len);
void stamp_capture(rcv_txn *t); /* the step is undone: keep the committed bytes of what it has read by value */
bool stamp_valid(rcv_txn *t); /* every unit and value as seen? On false the transaction's report names the first that is not */
bool stamp_hopeless(const rcv_txn *t); /* has it lost already, as far as can be told at any moment, without the lock? */
bool stamp_wrote(const rcv_txn *t, uint64_t id, unsigned kind, uint64_t arg); /* is the unit in its write set, or its own alone? */
void stamp_lost(rcv_txn *t, rcv_off container, unsigned kind, uint64_t arg, uint64_t seq);
uint64_t stamp_of_page(const rcv_arena *a, uint64_t page);
/* stamp_meets -- would committing `t` make `other`, as far as it has come, invalid? */
bool stamp_meets(const rcv_txn *t, const rcv_txn *other);
/* stamp_publish -- set the stamps of what was written to a new commit sequence. Returns it. Lock held. */
uint64_t stamp_publish(rcv_txn *t);

/* -- kinds: what differs between containers, and who knows ------------------------------------------------------ */

struct rcv_summary;
struct walk;

struct rcv_kind {
    const char *name; /* as users know it */
    uint32_t    size; /* of its fixed part, at least */
    uint32_t    marks; /* flags that it may have besides RCV_DETACHED */
    bool        counts_are_words; /* what membership and content stand for lies in words of its own, which its stash holds */
    bool        shape_moves_keys; /* whoever writes its shape moves what its keys stand for */
    /* reclaim -- it is cut off: free some of what it holds. `budget` counts what was freed; *done: nothing is left but itself. */
    int (*reclaim)(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done);
    int (*check)(struct walk *w, rcv_off off); /* for rcv_verify: is what lies there sound? */
    /* Its own intentions (RCV_I_INSERT, RCV_I_DELETE; NULL: it has none): apply -- at commit. resume -- again in a later step, whose
     * stash does not hold it. sum -- at commit, what all of them add up to. */
    int (*apply)(rcv_txn *t, rcv_off off, unsigned op, uint64_t b);
    int (*resume)(rcv_txn *t, rcv_off off, unsigned op, uint64_t b);
    int (*sum)(rcv_txn *t, rcv_off off, const struct rcv_summary *s);
    size_t (*slot_text)(rcv_arena *a, rcv_off slot, char *out, size_t size); /* one step of a path, for people; NULL: [?] */
};
extern const struct rcv_kind *const rcv_kinds[RCV_KINDS]; /* by enum rcv_container_kind, NULL: none. containers/kinds.c */

static inline unsigned container_kind(const struct rcv_container *c) { return c->kind & 0xffffu; }

/* -- intent.c: what is applied at commit ------------------------------------------------------------------------ */

enum rcv_intent_op {
    RCV_I_ALLOC = 1, /* a: block, b: its space */
    RCV_I_FREE,      /* a: block */
    RCV_I_INSERT,    /* a: dict, b: entry: appended to the insertion order; re-linked into its bucket at resume */
    RCV_I_DELETE,    /* a: dict, b: entry: unlinked from the order, freed; cut from its bucket again at resume */
    RCV_I_RECLAIM,   /* a: container: put on the arena's reclaim list */
    RCV_I_ADD,       /* a: Counter, b: what is added to it */
    RCV_I_HELD       /* a: block of an Array that was taken back, but a raw buffer may point there: nobody's until the transaction ends */
};
#define RCV_I_TRANSIENT 0x80u /* made by a structural change (growth): dropped when that is undone at a suspension */
struct rcv_intent {
    uint32_t op;
    uint32_t kind; /* of the container that the operation is one of; 0: of none */
    rcv_off  a;
    uint64_t b;
};
__extension__ typedef __int128 rcv_wide;

struct rcv_summary { /* what the intents add up to for one container, so that len() needs no walk */
    rcv_off  container;
    rcv_wide count; /* wide: additions to a Counter may leave 64 bits on their way, where its value stays inside */
    uint64_t changes; /* of membership, by this transaction: only grows */
    uint64_t inserts; /* live RCV_I_INSERT of it */
    uint64_t live;    /* live intents that count here; 0: the container may be gone, and its memory another's */
};

int  intent_add(rcv_txn *t, unsigned op, unsigned kind, rcv_off a, uint64_t b);
void intent_truncate(rcv_txn *t, uint64_t n); /* drop the newest down to n: allocations go back to the heap */
void intent_take_back(rcv_txn *t, uint64_t n); /* the same in the middle of the transaction */
bool intent_holds(const rcv_arena *a, uint32_t page); /* is the page of a block that the mounted one took back, and is held? */
/* intent_drop_transient -- growth was undone by a suspension. intent_resume -- rebuild what is not in the stash. */
void intent_drop_transient(rcv_txn *t);
int  intent_resume(rcv_txn *t);
const struct rcv_summary *intent_summary(const rcv_txn *t, rcv_off container); /* NULL: none */
int  intent_apply(rcv_txn *t);  /* at commit, in STEP: all of them, undo-logged */
void intent_settle(rcv_txn *t); /* after PUBLISH */
/* txn_alloc / txn_free -- heap_reserve / free as intents. Fresh memory may be filled without logging until it is linked. */
int  txn_alloc(rcv_txn *t, uint64_t size, unsigned space, unsigned flags, rcv_off *out); /* flags: 0 or RCV_I_TRANSIENT */
int  txn_free(rcv_txn *t, rcv_off off, unsigned flags);

/* -- txn.c --------------------------------------------------------------------------------------------------- */

struct rcv_stash_item { /* in the stash: this, then `len` bytes padded to 8 */
    rcv_off  off;
    uint32_t len;
    uint32_t pad;
};

struct rcv_run { /* whole items of one Array that raw writes may have changed; their bytes lie in the stash */
    rcv_off  off;
    uint64_t len;
    uint64_t itemsize;
    rcv_off  array; /* 0: not known; then it is one item */
    uint64_t at;    /* in the stash: `len` bytes as the transaction left them, then as many as they were committed */
    uint64_t pages, n_pages; /* in raw.pages */
};

struct rcv_found { /* the Dict entry that was found last: dict.c, find_again() */
    rcv_off  dict, entry, link;
    uint64_t hash;
    uint64_t epoch; /* it is there in this log epoch */
};

enum rcv_end_after { RCV_GO_ON, RCV_SUSPEND, RCV_ROLL_BACK, RCV_FREE }; /* each includes those before it */

#define RCV_INSISTS UINT64_MAX /* of feed_need: it does not wait any longer */

struct rcv_txn {
    rcv_arena *arena;
    rcv_txn   *parent;   /* an independent one: the transaction around it */
    uint32_t   children; /* live ones whose parent this is */
    uint64_t   serial;   /* unique in this process */
    unsigned   flags;
    int        state; /* enum rcv_txn_state */
    int        doom;  /* the error that doomed it */
    uint64_t   mounted_at; /* os_nanos(), if it is timed */
    bool       timed; /* somebody wants to know what its checkpoints cost, or it is in the board's sample */
    bool       mounted, touched, wrote, overflowed /* read set gave up: valid only while nobody commits */;
    bool       record_reads;
    bool       holds;      /* there are RCV_I_HELD */
    bool       ambient;    /* it is found by context, and may go on in another thread: ambient.c */
    bool       forked;     /* it is the parent's: this process was forked inside it */
    bool       empty;      /* there is nothing in it, in its report neither: its end has nothing to undo and nothing to clear */
    uint8_t    end_after;  /* enum rcv_end_after: what is to be done when the operation that goes on has ended */
    rcv_txn  **place;      /* where its owner keeps the pointer to it, or NULL */
    uint64_t   seq;   /* commit sequence at the last validation: all that it has read was so then */
    uint64_t   written; /* the header's count of written units at that moment */
    uint64_t   first_id; /* containers with greater ids are its own, made in this step: nobody else knows them */
    uint64_t   content_of; /* the container whose content is in the write set, as was noted last: its id */
    uint64_t   epoch; /* moves when a handle checked earlier must be checked again */
    uint64_t   log_epoch; /* begun by txn_log_epoch(); 0 while it is not mounted, which nothing was logged in */
    uint64_t   mounting;  /* the last one: its number among the arena's */
    uint32_t   savepoints; /* open */
    uint32_t   steps;      /* suspended so far */
    uint32_t   looks;       /* how often it has looked whether it must still wait … */
    uint64_t   waits_until; /* … for the privileged run whose time ends then */

    struct rcv_read *reads;
    uint64_t         n_reads, cap_reads;
    struct rcv_index read_index; /* by unit */
    uint64_t        *writes; /* units */
    uint64_t         n_writes, cap_writes;
    struct rcv_index write_index;
    struct rcv_commit_unit *units; /* what was written, by name: only where there is a feed */
    uint64_t         n_units, cap_units;
    uint64_t         feed_need;   /* the feed had no room for so much when it was to commit; RCV_INSISTS: it has waited for long enough */
    uint64_t         feed_ticket; /* its place in the line of those who wait for that; 0: it does not stand there */
    uint64_t         feed_could;  /* since then there is room for it, os_nanos(); 0: there is none */
    bool             feed_alone;  /* it waits as if nobody else did */
    uint64_t         fresh_bytes; /* at most so many bytes of new blocks, with a feed */
    uint64_t         stood_on, stood_at; /* the newest commit, and the position behind it, when it was first mounted … */
    uint64_t         stood_in;    /* … since rcv_txn_stood_on was last asked: its serial if it was */
    uint64_t         position;    /* of the feed: behind all that it, and the independent ones inside it, have seen; 0: nothing */
    struct rcv_value_read *values;
    uint64_t         n_values, cap_values, n_captured;

    struct rcv_intent  *intents;
    uint64_t            n_intents, cap_intents;
    struct rcv_summary *summaries; /* in the order of their first intents */
    uint64_t            n_summaries, cap_summaries;
    struct rcv_index    summary_index; /* by container */

    struct raw      raw;
    struct rcv_run *runs; /* the same while it is suspended: raw.c */
    uint64_t        n_runs, cap_runs;
    uint8_t  *stash; /* items, then what the runs hold */
    uint64_t  n_stash, cap_stash, stash_items /* bytes of the items */, fresh /* where stash_fresh's begin */;

    struct rcv_found  found;
    struct rcv_txn_report report;
    uint64_t  traps_before; /* a->n.traps when it was mounted */
    char      handler[RCV_HANDLER_NAME], route[RCV_HANDLER_NAME]; /* filled up with zeros */
    char      request[RCV_REQUEST_ID]; /* its request's id, as far as it is known; filled up with zeros */
    rcv_txn  *prev, *next;
};

static inline int stamp_read(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    return !t->record_reads || t->overflowed || id > t->first_id ? 0 : stamp_read_slow(t, off, id, kind, arg);
}

/* -- privilege.c, hotspot.c ------------------------------------------------------------------------------------------- */

rcv_txn *privilege_here(const rcv_arena *a); /* the privileged run, if it is of this process and others give way to it */
void privilege_drop(rcv_txn *t);
void privilege_wrote(rcv_txn *t);
void hotspot_count(rcv_arena *a, const struct rcv_txn_report *lost);
uint32_t hotspot_shown(const struct rcv_hotspot *table, uint32_t n, struct rcv_hotspot *out, uint32_t room); /* how many */

/* -- board.c: what those see who watch from outside ------------------------------------------------------------------- */

void board_count(const rcv_txn *t, bool committed); /* a run has ended, and has not been reset yet */
/* board_idle -- has its handler written nothing in its last RCV_IDLE_COMMITS? Not known of those that share a row: false.
 * board_rest -- count as if it were so. */
#define RCV_IDLE_COMMITS 100u
bool board_idle(const rcv_txn *t);
/* board_row -- of the handler of that name, which is padded with zeros, + 1; 0: it shares one. board_name -- the name in such
 * a row, "". */
uint64_t board_row(rcv_arena *a, const char *name);
void     board_name(const rcv_arena *a, uint64_t row, char *out);
void board_rest(const rcv_txn *t);

/* -- raw.c: raw writes into Arrays ---------------------------------------------------------------------------------- */

int  raw_collect(rcv_txn *t);  /* the step's raw writes join the write set. A failure dooms */
int  raw_stash(rcv_txn *t);    /* append runs with what the transaction has made of them */
void raw_base(rcv_txn *t);     /* the step is undone: and with what is committed */
int  raw_put_back(rcv_txn *t); /* merge with what others have committed since. RCV_ERR_CONFLICT: one item, both */

/* -- pool.c: the process's half of a transaction ------------------------------------------------------------------------ */

extern unsigned pool_metered;    /* not 0: somebody meters, and all transactions are timed */
void pool_put(rcv_txn *t);       /* it has ended, is not mounted, and nobody has it */
void pool_reset(rcv_txn *t);     /* make it hold nothing, but keep its buffers */
void txn_pool_free(rcv_arena *a);  /* at close */
void txn_forget_all(rcv_arena *a); /* after a fork, in the child */

/* -- stash.c access.c: parts of txn.c's work ------------------------------------------------------------------------ */

/* stash_fill -- copy what the mounted transaction has written, before it is undone. stash_put_back -- write it into the arena
 * again, undo-logged, and rebuild what it does not hold. A failure of either leaves the caller to undo the step. */
int  stash_fill(rcv_txn *t);
int  stash_put_back(rcv_txn *t);
void stash_keep_fresh(rcv_txn *t); /* the step is undone: new memory holds again what the transaction has put there */
void stash_count_lost(const rcv_txn *t, bool stashed, struct rcv_recovery *report);

/* -- txn.c, savepoint.c ----------------------------------------------------------------------------------------------- */

/* txn_log -- the write barrier: the old bytes of [off, off+len) are in the log when it returns 0; then write at
 * a->core + off. Logs a range once an epoch. */
int txn_log(rcv_txn *t, rcv_off off, uint32_t len, unsigned kind);
/* txn_log_epoch -- from here on, what was logged before must be logged again. Epochs are one arena's, and never come again. */
static inline void txn_log_epoch(rcv_txn *t) { t->log_epoch = ++t->arena->log_epoch; }
/* txn_logged -- is exactly this range known to be in the log of this step? (false: perhaps) */
static inline bool txn_logged(const rcv_txn *t, rcv_off off, uint32_t len)
{
    const struct rcv_logged *seen = &t->arena->logged[(off >> 3 ^ off >> 11) & (RCV_LOGGED - 1)];
    return seen->off == off && seen->len == len && seen->epoch == t->log_epoch;
}
static inline int txn_write64(rcv_txn *t, rcv_off off, uint64_t value, unsigned kind)
{
    int rc = txn_log(t, off, 8, kind);
    if (rc == 0)
        memcpy(rcv_store_at(t->arena, off), &value, 8);
    return rc;
}
void txn_step_lost(rcv_arena *a);   /* the thread inside a step has ended: forget the step, doom its transaction. With the GIL */
/* txn_make_room -- what else this thread has in the arena gives way: 0, or why it cannot. */
int  txn_make_room(rcv_arena *a, uint64_t me);
void txn_end_after(rcv_txn *t);     /* the operation is over that its end waited for */
int txn_doomed_error(const rcv_txn *t); /* raises what a doomed or ended transaction raises */
int txn_not_mounted(const rcv_txn *t);  /* raises what a write raises that would go past the lock */
/* txn_is_inside -- may it write? Asked before each store that nothing was logged for yet, and each allocation. */
static inline bool txn_is_inside(const rcv_txn *t)
{
    return likely(t->arena->mounted == t) && likely(t->arena->step_thread == os_thread_id());
}

/* -- identity.c: which container lies where ------------------------------------------------------------------------ */

struct rcv_container *container_at(rcv_arena *a, rcv_off off, unsigned kind); /* NULL: no container of that kind (0: any) there */
/* container_of -- the same for one kind, whose fixed part is `size` bytes. */
static inline void *container_of(rcv_arena *a, rcv_off off, unsigned kind, uint64_t size)
{
    struct rcv_container *c = rcv_at(a, off, size);
    return likely(c != NULL && c->kind == (RCV_CONTAINER_MARK | kind)) ? c : NULL;
}
int      container_init(rcv_txn *t, rcv_off off, unsigned kind);              /* fresh memory */
int      container_gone(void); /* raises RCV_ERR_STALE */

/* -- lineage.c: what it lies in -------------------------------------------------------------------------------------- */

/* What was found sound stays so for the same serial and epoch: a transaction's, or, outside of any, until the next commit. */
static inline uint64_t lineage_serial(const rcv_txn *t) { return t != NULL ? t->serial : UINT64_MAX; }
static inline uint64_t lineage_epoch(const rcv_arena *a, const rcv_txn *t)
{
    return t != NULL ? t->epoch : atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
}
/* handle_known -- has who asks found the handle's container there before? The offset needs no check then: memory that was
 * claimed stays. */
static inline bool handle_known(const rcv_arena *a, const rcv_txn *t, const struct rcv_handle *h)
{
    return h->serial == lineage_serial(t) && h->epoch == lineage_epoch(a, t) &&
           ((const struct rcv_container *)(const void *)(a->mem + h->off))->id == h->id;
}
/* container_used -- raw writes went into it: are it and all it lies in not cut off, but by the transaction itself? It has read the
 * identity of each. RCV_ERR_STALE, RCV_ERR_CORRUPT. */
int  container_used(rcv_txn *t, rcv_off off);
void lineage_cut(rcv_txn *t, rcv_off parent); /* what lay in `parent` has been cut off */

/* -- publish.c: the one way to a new committed state ------------------------------------------------------------ */

int publish(rcv_txn *t, bool request); /* a failure leaves the caller to undo the step */

/* -- redo.c: what a commit tells the feed. a->feed is there ----------------------------------------------------------- */

/* redo_note -- a unit has joined its write set. Kept out of line, and out of the way of those that have no feed. */
void     redo_note(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg) __attribute__((noinline, cold));
/* room_ahead -- bytes of the feed that those wait for who go before it. room_stand -- it waits for so many. room_leave -- no more. */
uint64_t room_ahead(const rcv_txn *t);
void     room_stand(rcv_txn *t, uint64_t bytes);
void     room_leave(rcv_txn *t);
/* redo_is_short -- it is about to commit: 1 if its record may be longer than what the feed has room for; else 0, or an error. */
int redo_is_short(rcv_txn *t);
/* redo_collect -- the intentions are applied: find what it has written, and reserve room for it. A failure leaves the caller to undo
 * the step. redo_write -- the record, once its number is known. */
int  redo_collect(rcv_txn *t);
void redo_write(rcv_txn *t, bool request);
void redo_publish(rcv_arena *a); /* it is committed: the record is seen, and the shadows are what it says */
void redo_free(rcv_arena *a);

/* -- mirror.c: for tests ----------------------------------------------------------------------------------------------- */

void mirror_compare(rcv_arena *a); /* IDLE, lock held: is the copy what the arena is? Ends the process if it isn't */
void mirror_free(rcv_arena *a);

/* -- reclaim.c: freeing detached containers in slices ---------------------------------------------------------- */

void reclaim_slice(rcv_arena *a);                 /* at a boundary (lock held, IDLE): a small commit of its own */

#endif
