/* layout.h -- what lies in the segment: every struct that another process, or a later version, can see. The struct of a container
 * that one C file alone looks into is there.
 *
 * One POSIX shared-memory object, regions at page-aligned offsets kept in the header:
 *
 *   header | process table | stamps | hot-page table | board | undo log | shadows | feed | heap table | data
 *
 * Rules
 *   - Only offsets from the start of the segment are stored, never pointers: the mapping address is free.
 *   - An offset that comes from the segment is checked against the *claimed* mark before it is followed.
 *   - "never undone": changed by one atomic store, outside the undo log, and still right after any crash.
 */
#ifndef RCV_LAYOUT_H
#define RCV_LAYOUT_H

#include "feed.h"
#include "recoverable.h"

#include <stdatomic.h>
#include <stdint.h>

#define RCV_MAGIC UINT64_C(0x314e455241564352) /* "RCVAREN1", little endian in memory */
#define RCV_FORMAT 8u
#define RCV_ENDIAN_MARK 0x01020304u

#define RCV_CHUNK ((uint64_t)64 * 1024)      /* what a process reserves from the heap at a time */
#define RCV_PROCESSES 128u                   /* slots of the process table */
#define RCV_COMMIT_RING 256u                 /* how many commits back a conflict's winner can be named */

/* The one store that commits is IDLE/STEP -> PUBLISH; see undo.c for what recovery does in each. */
enum rcv_phase { RCV_IDLE = 0, RCV_STEP = 1, RCV_PUBLISH = 2 };

/* Who writes containers without a record of the hot pages that these lie on may not meet who does: all are of one kind. */
enum rcv_tracking { RCV_TRACKING_UNKNOWN = 0, RCV_TRACKING_HYBRID = 1, RCV_TRACKING_TRAP = 2 };

enum rcv_region_id {
    RCV_R_HEADER,
    RCV_R_PROCESS,
    RCV_R_STAMP, /* two tables of stamps, then the ring of the units written last: stamp.c */
    RCV_R_HOT,
    RCV_R_BOARD,
    RCV_R_UNDO,
    RCV_R_SHADOW,
    RCV_R_FEED, /* of size 0 unless it was asked for: a page of words, then the ring */
    RCV_R_HEAP,
    RCV_R_DATA,
    RCV_REGIONS
};

struct rcv_region {
    uint64_t off;  /* page aligned */
    uint64_t size; /* ceiling, page aligned */
};

/* Who committed: lets a ConflictError name the winner. Slot = seq % RCV_COMMIT_RING; written before PUBLISH. */
struct rcv_commit_note {
    _Atomic uint64_t seq;
    char             handler[RCV_HANDLER_NAME];
};

/* The lock: lock.c, queue.c. Its word is one of
 *   0                     free
 *   token                 held by a thread of that process
 *   token | RCV_ORPHAN    its owner is known to be dead: whoever takes it repairs what that one left
 *   RCV_OFFERED | …       free, but for one who waits (ticket << 8 | place + 1)
 * and RCV_WAITED beside a token says that somebody may be asleep in the queue. */
#define RCV_ORPHAN (UINT64_C(1) << 63)
#define RCV_OFFERED (UINT64_C(1) << 62)
#define RCV_WAITED (UINT64_C(1) << 61)
#define RCV_TOKEN (RCV_WAITED - 1) /* the bits of a token: incarnation << 8 | slot + 1 */
#define RCV_PLACES 64u
struct rcv_lock {
    _Atomic uint64_t owner;
    _Atomic uint64_t tickets;    /* the last that anybody who waits has drawn */
    _Atomic uint64_t offered_at; /* when it was last offered: nanoseconds of the one who did */
    _Atomic uint64_t since;      /* os_ticks() when its owner took it; 0: free, or not known. held.c */
    _Atomic uint64_t seen;       /* os_ticks() when somebody saw that its owner lives; a hint */
};
struct rcv_place { /* in the queue; a hint all of it: a lost one costs time, never more */
    _Atomic uint64_t ticket; /* of who waits here: the lower, the longer; 0: free */
    _Atomic uint32_t bell;   /* the futex: moves when it is to look again */
    _Atomic uint16_t hungry; /* it has waited for long */
    _Atomic uint16_t passed; /* how often the lock was dropped and not offered to it */
};

struct rcv_header {
    /* -- fixed when the segment is made; covered by `checksum` -- */
    _Atomic uint64_t  magic;     /* stored last: an object without it is half-made */
    uint32_t          format;    /* RCV_FORMAT */
    uint32_t          page_size; /* of the machine that made it */
    uint32_t          endian;    /* RCV_ENDIAN_MARK */
    uint32_t          owner_uid;
    uint64_t          total_size; /* of the object */
    struct rcv_region region[RCV_REGIONS];
    uint32_t          stamp_count;  /* of each of the two tables: a power of two */
    uint32_t          recent_count; /* of units in the ring: a power of two */
    uint32_t          hot_slots;
    uint32_t          chunk_count;
    uint32_t          reserved;
    uint64_t          hash_secret[2];
    uint64_t          checksum; /* of everything above but the magic */

    /* -- changed while it lives -- */
    _Alignas(64) struct rcv_lock lock;
    _Alignas(64) _Atomic uint32_t phase; /* enum rcv_phase */
    _Atomic uint32_t corrupt;            /* 1: a recovery found damage; nobody may attach */
    _Atomic uint64_t undo_tail;          /* bytes used in the undo log; 0 in IDLE */
    _Atomic uint64_t commit_seq;         /* never undone; bumped before the stamps that carry it */
    _Atomic uint64_t system;             /* undone: a hidden Dict, for the schemas of Records; 0 until one is needed */
    _Atomic uint64_t root;               /* undone: the root Dict's header */
    _Atomic uint64_t reclaim;            /* undone: first of the detached containers that wait to be freed */
    _Atomic uint64_t hot_generation;     /* moves with every change of the hot-page table */
    _Atomic uint64_t txn_counter;        /* never undone */
    _Atomic uint64_t container_counter;  /* never undone: container ids, from 1 */
    _Atomic uint64_t process_counter;    /* never undone: incarnations, from 1 */
    _Atomic uint64_t data_claimed;       /* never undone: bytes of the data region that are backed by memory */
    _Atomic uint64_t undo_claimed;       /* never undone: the same of the undo log */
    _Atomic uint64_t shadow_claimed;     /* never undone: the same of the shadows */
    _Atomic uint64_t units_written;      /* never undone: units that commits have written; the last of them are in the ring */
    _Atomic uint64_t privileged;         /* token of the process with the privileged last run, or 0: privilege.c */
    _Atomic uint64_t privileged_wrote;   /* 1: that run has written */
    _Atomic uint64_t privileged_until;   /* nobody waits for it any longer than that, os_nanos(); 0: nobody has waited yet */
    _Atomic uint64_t recoveries;         /* how many recoveries undid something */
    _Atomic uint64_t lost;               /* token of the lock's dead owner until what it left is repaired, else 0 (for messages) */
    char             holder_handler[RCV_HANDLER_NAME]; /* what its last owner ran (a hint for messages) */
    uint64_t         calibration[4];     /* nanoseconds: trap, protect, compare, copy; 0 = not measured */
    _Atomic uint64_t recovered_at;       /* never undone: when `recoveries` last moved, seconds since the epoch */
    _Atomic uint64_t cuts;               /* never undone: moves whenever the undo log gets shorter, odd meanwhile: image.c */
    _Atomic uint64_t tracking;           /* never undone: enum rcv_tracking of those who are attached; of the last, if none is */

    _Alignas(64) struct rcv_place queue[RCV_PLACES];
    _Alignas(64) struct rcv_commit_note ring[RCV_COMMIT_RING];
};

/* A process holds write locks on the first RCV_WITNESSES bytes of its slot for as long as its address space lives: process.c. */
#define RCV_WITNESSES 2u
struct rcv_process {
    _Atomic uint64_t token; /* incarnation << 8 | slot + 1; 0 = never used. Never used again */
    uint64_t         pid;   /* as its own PID namespace has it: for messages */
    uint64_t         attached_at; /* seconds since the epoch */
    uint64_t         space;       /* inode of that namespace, 0: unknown: for messages */
    _Atomic uint64_t answers; /* how often it has told of its requests, + 1; 0: nobody there does: notes.c */
    _Atomic uint64_t in_flight; /* how many it had then */
    char             reserved[16];
};

/* The board: what came of the runs of each handler, and where conflicts were lost, since the segment was made. For those who
 * watch; nothing else depends on it. Never undone. */
#define RCV_BOARD_ROWS 64u  /* the last is for the handlers that found no row */
#define RCV_BOARD_SPOTS 32u
enum rcv_board_count {
#define X(id, name) RCV_B_##id,
    RCV_BOARD_LIST(X)
#undef X
    RCV_BOARD_COUNTS
};
struct rcv_board_row {
    _Atomic uint64_t hash;  /* of the name; 0: free. Stored first, by whoever takes the row */
    _Atomic uint32_t named; /* 1: the name is whole; until then whoever has that name writes it, again if need be */
    _Atomic uint32_t idle;  /* commits since the last that wrote; see privilege.c */
    char             name[RCV_HANDLER_NAME];
    _Atomic uint64_t count[RCV_BOARD_COUNTS];
};
struct rcv_board_spot { /* as struct rcv_hotspot; changed under the arena's lock */
    uint64_t container, id;
    uint64_t kind, arg;
    uint64_t count; /* 0: free */
    uint64_t error; /* how much of it others may have counted */
};
/* Who stands at a hot spot: tickets.c. A hint all of it. */
#define RCV_TICKETS 512u
struct rcv_ticket {
    _Atomic uint64_t token;  /* of its process; 0: free */
    _Atomic uint64_t number; /* the lower, the longer it has stood there; 0: nobody is to wait for it */
    _Atomic uint64_t unit;   /* the spot */
    _Atomic uint64_t row;    /* of its handler on the board, + 1; 0: not known */
};
/* For how long the lock was held, and waited for: held.c. Changed under the lock; struct rcv_lock_times in memory that others read. */
struct rcv_board_times {
    _Atomic uint64_t count, nanos, in_class[RCV_TIME_CLASSES];
};
/* What the step that holds the lock is at, where that takes long: stuck.c. For messages. */
struct rcv_stuck {
    _Atomic uint64_t version; /* odd while it is being written */
    _Atomic uint64_t token;   /* of the holder's process; 0: nothing is said */
    uint64_t         pid;     /* … and its id */
    _Atomic uint64_t millis;  /* for how long it has held it */
    char             text[RCV_STUCK_TEXT]; /* the line of code, then its stack, the innermost frame first */
};
/* What a request in flight is at, as its process has told last: notes.c. */
#define RCV_NOTES 64u
struct rcv_note {
    _Atomic uint64_t token;  /* of that process; 0: free */
    _Atomic uint64_t answer; /* its token and the number of its answer, mixed */
    _Atomic uint32_t seq;    /* odd: it is being written */
    uint32_t         size;
    char             text[RCV_NOTE_TEXT];
};
struct rcv_board {
    struct rcv_board_row  row[RCV_BOARD_ROWS];
    struct rcv_board_spot spot[RCV_BOARD_SPOTS];
    _Alignas(64) _Atomic uint64_t tickets; /* the last number that was drawn */
    _Atomic uint64_t              privileged_row; /* of the privileged run's handler, + 1; 0: not known */
    _Atomic uint32_t              asked; /* the futex: moves when processes are to tell of their requests, or else is only rung */
    _Alignas(64) struct rcv_ticket ticket[RCV_TICKETS];
    _Alignas(64) struct rcv_board_times held, waited;
    _Alignas(64) struct rcv_stuck  stuck;
    struct rcv_note                note[RCV_NOTES];
};

/* The commit feed: feed.c. Positions are bytes since it was made; a record lies at its position modulo the ring's size, a power of two. */
struct rcv_sink {
    _Atomic uint32_t state;  /* enum rcv_sink_kind */
    _Atomic uint32_t lost;   /* 1: it has missed something */
    _Atomic uint64_t token;  /* of the process that serves it, 0: nobody does */
    _Atomic uint64_t cursor; /* it has taken all before this */
    _Atomic uint64_t seq;    /* … which is up to this commit */
    char             name[RCV_SINK_NAME];
    char             reserved[8];
};
enum rcv_sink_kind { RCV_SINK_FREE = 0, RCV_SINK_OPTIONAL = 1, RCV_SINK_REQUIRED = 2 };
/* What the journal's thread tells, and is told: journal/flusher.c. Its cursor is its sink's. */
struct rcv_flushed {
    _Atomic uint64_t demand; /* somebody waits for this position */
    _Atomic uint32_t asked;  /* futex: moves with each demand */
    _Atomic uint32_t asleep; /* 1: who writes may sleep there */
    _Atomic uint32_t taken;  /* futex: moves with each batch that is durable */
    _Atomic uint32_t following; /* how many sleep there; more if some were killed */
    _Atomic uint32_t stopped, delayed; /* errno */
    _Atomic uint64_t batches, records, bytes, nanos, worst, at, number;
    _Atomic uint64_t in_class[RCV_FLUSH_CLASSES];
    _Atomic uint64_t snapshot_seq, snapshot_at, snapshot_bytes; /* of the last one; 0, 0, 0: not known */
};
struct rcv_feed {
    uint64_t         id[2];
    _Atomic uint64_t epoch; /* how often its state was restored */
    _Atomic uint64_t sinks; /* moves before a sink begins anywhere: processes keep their cursors. cursors.c */
    char             reserved[32];
    _Alignas(64) _Atomic uint64_t head; /* behind the last record that is committed */
    _Atomic uint64_t next;              /* behind the one that is being committed: what head becomes with PUBLISH */
    _Atomic uint64_t tail;              /* of the oldest that is whole. Never undone: it moves before anything is overwritten */
    _Atomic uint64_t tail_seq;          /* of the one before that */
    _Atomic uint64_t seq, at;           /* of the last record that was written, committed or not */
    _Atomic uint64_t head_seq;          /* of the last that is committed */
    _Atomic uint32_t bell, waiters;     /* the futex: moves with each commit, and is rung where somebody waits */
    _Alignas(64) struct rcv_sink    sink[RCV_SINKS];
    _Alignas(64) struct rcv_flushed flushed;
};

/* Heap table: `uint64_t owner[chunk_count]`, then `uint64_t info[chunk_count]`.
 *   owner: 0, or the token of the process that reserved the chunk (never undone)
 *   info:  kind (8 bits) | class (8) | used blocks (16) | run (32)
 *          SMALL  class: size class; used: blocks; run: 0
 *          PAGES  class: enum rcv_space; used: pages; run: bitmap of used pages (lower 16 bits) and of the first page of
 *                 each block (upper 16): a block reaches to the next first page, free page or the chunk's end
 *          LARGE  class: enum rcv_space; used: 1; run: chunks of the block, this one included
 *          CONT   class: enum rcv_space; used: 1; run: chunks back to the block's LARGE chunk
 * A chunk with used == 0 and owner == 0 is free, whatever its kind says. */
enum rcv_chunk_kind { RCV_CHUNK_FREE = 0, RCV_CHUNK_SMALL = 1, RCV_CHUNK_PAGES = 2, RCV_CHUNK_LARGE = 3, RCV_CHUNK_CONT = 4 };
enum rcv_space { RCV_SPACE_GENERAL = 0, RCV_SPACE_ARRAY = 1 }; /* the class of PAGES, LARGE and CONT chunks */

#define RCV_INFO(kind, cls, used, run) \
    ((uint64_t)(kind) | (uint64_t)(cls) << 8 | (uint64_t)(used) << 16 | (uint64_t)(run) << 32)
#define RCV_INFO_KIND(i) ((unsigned)((i)&0xff))
#define RCV_INFO_CLASS(i) ((unsigned)((i) >> 8 & 0xff))
#define RCV_INFO_USED(i) ((unsigned)((i) >> 16 & 0xffff))
#define RCV_INFO_RUN(i) ((uint32_t)((i) >> 32))

/* A SMALL chunk begins with its bitmap of used blocks; the blocks follow. */
#define RCV_BITMAP_WORDS 32u /* 2048 bits: blocks of 32 bytes and more */
struct rcv_small_chunk {
    uint64_t bitmap[RCV_BITMAP_WORDS];
};

/* Undo log: records back to back; the head comes after the bytes, so that the log is read backwards.
 *   [old bytes, padded to 8] [head]                                                              */
enum rcv_undo_kind {
    RCV_U_DATA = 1,   /* an announced write: goes into the stash when the transaction is suspended */
    RCV_U_STRUCT = 2, /* announced, but rebuilt by the transaction's own operations instead of stashed */
    RCV_U_PAGE = 3    /* a whole page's pre-image, taken by the trap handler or by edit() */
};
struct rcv_undo_head {
    rcv_off  off;
    uint32_t len;
    uint32_t kind; /* enum rcv_undo_kind | RCV_UNDO_MARK: a head that lacks the mark is damage */
};
#define RCV_UNDO_MARK 0x52435600u

/* -- values and containers ------------------------------------------------------------------------------ */

enum rcv_tag {
    RCV_T_NONE = 1,
    RCV_T_FALSE,
    RCV_T_TRUE,
    RCV_T_INT,     /* fits 64 bits: `word` */
    RCV_T_FLOAT,   /* `word` holds the bits */
    RCV_T_STR,     /* UTF-8 (surrogatepass); inline up to RCV_CELL_INLINE bytes, else a blob */
    RCV_T_BYTES,
    RCV_T_BIGINT,  /* two's complement, little endian */
    RCV_T_CUSTOM,  /* encoded by a codec in Python: tuples, datetimes, …; bytes of its own format */
    RCV_T_REF = 32 /* a container: `word` is its header's offset */
};

#define RCV_CELL_INLINE 14u
#define RCV_CELL_BLOB 0xffu /* in `size`: the bytes are in a blob at `word`, their count in `len` */

struct rcv_cell { /* 16 bytes */
    uint8_t tag;  /* enum rcv_tag; 0 = empty */
    uint8_t size; /* bytes inline, or RCV_CELL_BLOB */
    union {
        uint8_t bytes[14];
        struct __attribute__((packed)) {
            uint16_t pad;
            uint32_t len; /* of a blob; blobs are below 4 GiB */
            uint64_t word;
        };
    };
};

/* The kinds of containers: X(NAME, number, name). `name`_kind is what the core knows about it (struct rcv_kind); a number is never
 * given again. */
#define RCV_KIND_LIST(X) \
    X(DICT, 1, dict)       \
    X(ARRAY, 2, array)     \
    X(LIST, 3, list)       \
    X(SET, 4, set)         \
    X(DEQUE, 5, deque)     \
    X(COUNTER, 6, counter) \
    X(RECORD, 7, record)
enum rcv_container_kind {
#define X(NAME, number, name) RCV_K_##NAME = number,
    RCV_KIND_LIST(X)
#undef X
    RCV_KINDS /* above all of them */
};
#define RCV_CONTAINER_MARK 0x52430000u /* in the upper half of `kind` */
#define RCV_DETACHED 1u                /* flags: cut off from its parent, waits to be freed */
#define RCV_PACKED 2u                  /* of a Dict, Set or List: what it was made of lies in its own block */

/* Every container begins with this. */
struct rcv_container {
    uint64_t id;     /* unique in the segment, never used again; 0 once reclaimed */
    uint32_t kind;   /* RCV_CONTAINER_MARK | enum rcv_container_kind */
    uint32_t flags;  /* RCV_DETACHED, RCV_PACKED */
    rcv_off  parent; /* the container that holds it; 0 for the root */
    rcv_off  slot;   /* where in its parent: a Dict's entry, …; for naming its path */
    rcv_off  next_reclaim;
    uint64_t count; /* items; changed only at commit */
};

#define RCV_TABLE_INLINE 8u
#define RCV_NODE 512u /* offsets in a node: one page */

/* A growing table of words (bucket heads, chunk offsets): a radix tree of pages, so that growth never copies more than one.
 * `depth` 0: `root` is an array of `capacity` words; 1: a node of RCV_NODE segments; 2: a node of nodes. */
struct rcv_table {
    uint64_t used; /* words in use */
    rcv_off  root;
    uint32_t depth;
    uint32_t capacity;                /* of a depth-0 array */
    rcv_off  first[RCV_TABLE_INLINE]; /* the first array, so that a small container is one block */
};

/* Entries in blocks of their own. */
struct rcv_entries {
    rcv_off          head;    /* first entry in insertion order */
    rcv_off          tail;    /* last */
    uint64_t         version; /* moves with every committed change of membership */
    struct rcv_table table;   /* buckets, linear hashing; never fewer than RCV_TABLE_INLINE */
};

/* What a Dict is made of at once lies in its own block: rows, each 8-aligned, in insertion order, before all that is inserted
 * later. They never move, and none is ever added. Where a Dict's code names an entry, a row's offset has the lowest bit set. */
struct rcv_rows {
    rcv_off  rest;    /* struct rcv_entries, in a block of its own, for all that is inserted later; 0: nothing has been */
    uint32_t version; /* instead of the other one */
    uint16_t n;       /* rows, deleted ones included */
    uint16_t size;    /* bytes of the rows, which follow here */
};
#define RCV_ROWS_MOST 16u  /* a longer row is not searched but hashed */
#define RCV_ROW_KEY 64u    /* bytes of the longest key in a row */
#define RCV_ROW_NAMED 1u   /* in an offset that names an entry: it is a row */
struct rcv_row {
    struct rcv_cell value;
    uint8_t         key_tag, key_kind; /* as an entry's */
    uint8_t         key_len;
    uint8_t         flags; /* RCV_ENTRY_DEAD: deleted, by a commit or by the running transaction; its value is nothing */
    uint8_t         key[]; /* canonical bytes */
};

/* Also a Set: its entries have None for a value. */
struct rcv_dict {
    struct rcv_container c;
    union {
        struct rcv_entries e;
        struct rcv_rows    rows; /* RCV_PACKED */
    };
};

#define RCV_ENTRY_DEAD 1u   /* entry flags: deleted by the running transaction */
#define RCV_ENTRY_LINKED 2u /* in the order list: set at commit */

struct rcv_entry {
    rcv_off         next; /* in its bucket */
    uint64_t        hash; /* keyed, of the canonical key */
    rcv_off         before, after; /* insertion order */
    struct rcv_cell value;
    uint32_t        flags;
    uint32_t        key_len;
    uint8_t         key_tag;  /* as given: 1, 1.0 and True are one key, but which came first is kept */
    uint8_t         key_kind; /* canonical: what is compared with the bytes */
    uint8_t         pad[6];
    uint8_t         key[]; /* canonical bytes */
};

#define RCV_DTYPE 232u
#define RCV_NDIM 8u

struct rcv_array {
    struct rcv_container c;
    rcv_off              data;   /* page aligned, in the array space */
    uint64_t             nbytes; /* of items */
    uint32_t             itemsize;
    uint32_t             ndim;
    uint64_t             shape[RCV_NDIM];
    char                 dtype[RCV_DTYPE]; /* NUL-terminated: PEP 3118 format or numpy descr */
};

#define RCV_LEAF 32u /* cells in a List's chunk */

/* What a List is made of at once lies in its own block: the cells of the first positions, which stay there. What they would
 * take of the first chunk is not used. */
struct rcv_first {
    rcv_off  rest; /* struct rcv_table, in a block of its own, for all positions from `n` on; 0: there have been none */
    uint64_t n;    /* cells, which follow here; at most RCV_LEAF */
};

struct rcv_list {
    struct rcv_container c;
    uint64_t             length;
    union {
        struct rcv_table table; /* chunks of RCV_LEAF cells, by position */
        struct rcv_first first; /* RCV_PACKED */
    };
};

#define RCV_BLOCK 62u                      /* cells in a Deque's block: one KiB with its head */
#define RCV_DEQUE_START (UINT64_C(1) << 63) /* the position of the first item ever */

struct rcv_block {
    uint64_t        base; /* position of its first cell: a multiple of RCV_BLOCK after RCV_DEQUE_START */
    rcv_off         prev, next;
    uint64_t        reserved;
    struct rcv_cell cells[RCV_BLOCK];
};

/* Positions only grow to the right and fall to the left; a cell outside [left, right) is empty (tag 0). */
struct rcv_deque {
    struct rcv_container c;
    uint64_t             left;  /* position of the first item; guarded by the left end's unit */
    uint64_t             right; /* position after the last one; by the right end's */
    rcv_off              left_block, right_block; /* there is always at least one */
    uint64_t             maxlen;                  /* UINT64_MAX: none */
};

struct rcv_record {
    struct rcv_container c;
    uint64_t             schema; /* key in the system Dict's "schemas" */
    rcv_off              cells;  /* `fields` of them: behind this, or, since it was given more, in a block of their own */
    uint32_t             fields;
    uint32_t             reserved;
};

#endif
