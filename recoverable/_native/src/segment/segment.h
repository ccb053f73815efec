/* segment.h -- the object in shared memory: its layout, who is attached, the lock, the undo log, recovery.
 *
 * Who guards what: segment state by the arena's lock; process state (struct rcv_arena and all that hangs on it) by the GIL, and
 * what the trap handler touches of it by being written only by the thread that is inside the step.
 */
#ifndef RCV_SEGMENT_H
#define RCV_SEGMENT_H

#include "base/base.h"
#include "layout.h"

#include <sched.h>
#include <stddef.h>
#include <sys/stat.h>

/* -- an open arena: this process's side of a segment ---------------------------------------------------------------------- */

struct rcv_image;   /* image.c */
struct rcv_tracker; /* pages/ */
struct rcv_heap;    /* heap/ */
struct rcv_viewed;  /* pages/viewed.c */
struct rcv_mirror;  /* transaction/mirror.c */
struct rcv_redo;    /* transaction/redo.c */

struct rcv_counters { /* this process's share of struct rcv_stats */
#define X(name, type, metric, help) uint64_t name;
    RCV_COUNTERS(X)
#undef X
};

struct rcv_logged { /* a range that txn_log() has logged in some epoch */
    rcv_off  off;
    uint64_t epoch;
    uint32_t len;
};
#define RCV_LOGGED 256u

struct rcv_sound { /* a container found to hang from the root, by which transaction, and in which of its epochs: lineage.c */
    rcv_off  off;
    uint64_t serial, epoch;
};
#define RCV_SOUND 64u

/* struct rcv_above -- what the floors above do when these ones say so: nothing here calls up. Set when an arena is opened. */
struct rcv_above {
    void (*thread_ended)(rcv_arena *a); /* the thread inside a step has ended: its pages are to be protected. Without the GIL */
    void (*step_lost)(rcv_arena *a);    /* … and what is known of that step is to be forgotten. With the GIL */
    bool (*holds)(const rcv_arena *a, uint32_t page); /* is it an Array's that the mounted transaction has taken back, and a buffer may point to? */
    void (*zeroed)(const rcv_arena *a, rcv_off off, uint32_t len); /* memory that nobody's data lies in was cleared */
    void (*stopped_step_over)(rcv_arena *a); /* a step ends that the watchdog has stopped. With the GIL */
};

/* What the watchdog knows of the step that holds an arena: watch.c. Its thread's, but where something else is said. */
struct rcv_watch {
    _Atomic uint64_t limit;    /* nanoseconds; 0: nobody watches. Set with the GIL */
    _Atomic uint32_t changes;  /* how often it has become another one. Set with the GIL */
    _Atomic uint32_t seen;     /* … when what follows began */
    _Atomic bool     spares;   /* the process is not ended: for tests. Set with the GIL */
    _Atomic uint64_t mounting; /* of that step: rcv_arena.mountings */
    _Atomic uint64_t age;      /* for how long it has been seen, nanoseconds */
    _Atomic uint32_t stage;    /* enum rcv_watch_stage that it has come to */
    _Atomic uint64_t told;     /* mounting << 3 | the last stage that Python has done what is to be done for. Set with the GIL */
    uint32_t         called;   /* the last stage that somebody was called for, who may not have looked yet */
    uint64_t         over;     /* for how long it has been over, while somebody may come to tell of it, nanoseconds */
    bool             dumped;   /* its stack has been asked for by a signal */
    char             handler[RCV_HANDLER_NAME];
    uint64_t         stopped;  /* the thread that an exception was set in, which may not have been raised yet; 0. With the GIL */
};

struct rcv_arena {
    struct rcv_header  *hdr;  /* core view: the whole segment, read-write, private to the library */
    uint8_t            *core; /* the same address */
    uint8_t            *tracked; /* the first view of the data region, read-only outside steps: views.c */
    uint8_t            *mem;     /* where containers read and write: mem + offset. `core`, but in a step in trap mode: in its view */
    uint64_t            data_off, data_size, total_size;
    _Atomic uint64_t   *stamps[2]; /* the two tables, by independent parts of a unit's hash */
    _Atomic uint64_t   *recent;    /* the units written last: a ring */
    uint64_t            stamp_mask, recent_mask;
    struct rcv_board   *board;
    uint8_t            *undo; /* base of the undo log */
    uint64_t            undo_size, undo_off;
    struct rcv_feed    *feed; /* the commit feed's words, NULL: it has none */
    uint8_t            *ring; /* … and its records: mapped twice in a row, so that each lies in one piece */
    uint64_t            ring_size;
    uint64_t            sinks_seen, sinks_need, sinks_have; /* what cursors.c knows of the sinks' cursors */
    struct rcv_mirror  *mirror; /* tests: a copy that the feed alone brings forward, and that is compared with each commit */
    struct rcv_redo    *redo; /* what the commit that goes on tells it: redo.c */
    uint64_t            undo_bias;   /* added to what is appended: not 0 sends every append to append_slow() */
    bool                undo_shared; /* other threads append, too */
    uint64_t            undo_seen;  /* n.undo_bytes when undo_maybe_trim() looked last */
    uint32_t            undo_quiet; /* steps since a large log was needed */
    _Atomic int         fd; /* what has this number may be another file by now: only object.c reads it */
    dev_t               device; /* of the object */
    ino_t               inode;
    char                path[128];
    bool                named;                      /* that path led to it when it was opened */
    bool                orphan_seen, orphan_unreported; /* it does not any more; nobody has been told so yet */
    uint64_t            looked;                     /* os_ticks() of the last look */
    void               *witness[RCV_WITNESSES]; /* pages that keep this process's locks on its slot */
    uint32_t            slot;  /* in the process table */
    uint64_t            token; /* of this process */
    bool                created, closing, needs_slot /* after fork */, trap_mode;
    struct rcv_restore *past; /* a state of the past: this process's own memory, in no process table, and only read. Else NULL */
    double              busy_timeout;
    char                name[104];
    char                policy[24];

    rcv_txn            *mounted;     /* whose writes are in the arena now */
    uint64_t            step_thread; /* os_thread_id() of the thread inside a step, else 0 */
    uint64_t            reader_thread; /* … of the one inside a read outside a transaction, else 0 */
    uint32_t            readers;     /* depth of such reads */
    _Atomic uint64_t    lock_thread; /* os_thread_id() of the thread that holds the lock, 0, or RCV_THREAD_ENDED */
    _Atomic bool        step_lost;   /* a step of ours has ended with its thread, and is not forgotten yet */
    uint32_t            held;        /* depth of operations, of who is inside, that user code runs in the middle of */
    uint32_t            users;       /* threads that use the arena without the GIL, so that it can't be closed */
    uint64_t            forks;       /* how often this process was forked off, being the child */
    uint64_t            mountings;   /* so far */
    _Atomic uint64_t    prelocked;   /* rcv_lock_wait took the lock for this thread */
    bool                prelocked_dead; /* … from a dead owner */
    uint32_t            untimed;     /* so many times more the lock is taken before one is timed: held.c */
    uint32_t            n_timed;     /* so far */
    int64_t             uncounted;   /* holds that are not on the board yet; without those since the last that was timed */
    uint32_t            unseen;      /* how many there will be of those when the next one is timed */
    uint64_t            counted_from; /* what is held for so many ticks is looked at: RCV_LONG_HOLD, or 0, this one is timed */
    _Atomic uint64_t    stuck_until; /* brief.c: os_nanos(); the lock has been held for long, and nobody tries to wait for it briefly */
    _Atomic uint32_t    waiters;     /* threads inside rcv_lock_wait: closing would unmap the lock under them */
    rcv_txn            *in_flight;   /* all live transactions of this process, doubly linked */
    uint64_t            n_in_flight, serial;
    uint32_t            n_ambient;   /* how many of them are found by context: ambient.c */
    _Atomic bool        may_yield;   /* one of those is mounted: who waits for the lock asks it to give way */
    uint64_t            feed_waiting, feed_tickets; /* how many of them wait for room in the feed, in line; tickets that there were */
    uint64_t            log_epoch; /* the last that any transaction has begun */
    struct rcv_logged   logged[RCV_LOGGED]; /* here and not in each transaction: only one is mounted, and its cache lines stay warm */
    struct rcv_sound    sound[RCV_SOUND];
    rcv_txn            *pool; /* ended ones, kept for reuse */
    uint32_t            n_pool;

    rcv_txn            *privileged; /* the run that others give way to, if it is one of ours: privilege.c */
    struct rcv_viewed  *viewed;     /* Arrays that raw buffers have been made of: viewed.c */
    struct rcv_tracker *tracker;
    struct rcv_heap    *heap;
    const struct rcv_above *above;
    atomic_flag         view_lock; /* over mappings, and over the undo log's tail while other threads may append */
    struct rcv_recovery recovered; /* by the attach */
    struct rcv_recovery repaired;  /* by the last recovery since */
    bool                unreported;    /* … of which rcv_repair_take has not told yet */
    struct rcv_counters n;
    struct rcv_hotspot  hotspots[RCV_HOTSPOTS];
    struct rcv_watch    watch;
    rcv_arena          *next; /* registry of open arenas (fork, trap) */
    struct rcv_image   *image; /* this is no attached arena but an image of one: image.c */
};

static inline uint64_t rcv_data_claimed(const rcv_arena *a)
{
    return atomic_load_explicit(&a->hdr->data_claimed, memory_order_relaxed);
}
/* rcv_at -- the memory behind [off, off+len) of the data region, or NULL if that is not all claimed, or not 8-aligned. */
static inline void *rcv_at(const rcv_arena *a, rcv_off off, uint64_t len)
{
    uint64_t rel = off - a->data_off;
    uint64_t claimed = rcv_data_claimed(a);
    if (unlikely(off < a->data_off || (off & 7) || rel > claimed || len > claimed - rel))
        return NULL;
    return a->mem + off;
}
/* rcv_store_at -- where a step stores what it has logged: the header and the heap table are in the core view only. */
static inline uint8_t *rcv_store_at(const rcv_arena *a, rcv_off off) { return (off >= a->data_off ? a->mem : a->core) + off; }

/* The view lock: held for a handful of system calls, by the trap handler too; a thread that holds it neither faults nor waits. */
static inline void view_lock(rcv_arena *a)
{
    while (atomic_flag_test_and_set_explicit(&a->view_lock, memory_order_acquire))
        sched_yield();
}
static inline void view_unlock(rcv_arena *a) { atomic_flag_clear_explicit(&a->view_lock, memory_order_release); }

/* -- mapping.c: the mapping --------------------------------------------------------------------------------- */

/* seg_map -- the core view of a checked (or planned) header, and the addresses that are derived from it. */
int  seg_map(rcv_arena *a, const struct rcv_header *h, int protection);
void seg_unmap(rcv_arena *a);
/* seg_inspect -- look at the header alone: 0 and a copy of a sound one in *fixed, 1 if the object is half-made, or an error. */
int  seg_inspect(rcv_arena *a, uint64_t length, struct rcv_header *fixed);
int  seg_map_readonly(rcv_arena *a, uint64_t length); /* map it read-only: nothing can be stored, nothing else is set up */
void seg_backed(const rcv_arena *a, uint64_t out[4][2]); /* offset and length of what the header says has memory behind it */
/* seg_claim_data -- back the data region up to `upto` bytes (rounded up to a chunk). Lock held. RCV_ERR_FULL leaves it. */
int  seg_claim_data(rcv_arena *a, uint64_t upto);

/* -- seg_error.c ---------------------------------------------------------------------------------------------- */

int  seg_corrupt(rcv_arena *a, const char *format, ...) __attribute__((format(printf, 2, 3))); /* RCV_ERR_CORRUPT */
int  seg_full(rcv_arena *a, int err, const char *what); /* RCV_ERR_FULL: the file system has no more */
int  seg_os(rcv_arena *a, int err, const char *what);   /* RCV_ERR_FULL for want of memory, RCV_ERR_OS for the rest */

/* -- registry.c: what this process has open --------------------------------------------------------------------- */

void       registry_add(rcv_arena *a);
void       registry_remove(rcv_arena *a);
void       registry_each(void (*fn)(rcv_arena *)); /* fn may close it */
void       registry_hold(void (*fn)(rcv_arena *)); /* the same without the GIL: none is closed meanwhile */
rcv_arena *registry_first(void);
void       registry_after_fork(void);

/* -- header.c: the segment's header ------------------------------------------------------------------------- */

uint64_t header_sum(const struct rcv_header *h);
uint64_t header_room(void);
int  header_plan(rcv_arena *a, const struct rcv_open_options *o, uint32_t uid, struct rcv_header *h);
int  header_check(rcv_arena *a, const struct rcv_header *h, uint64_t length); /* of an object so long; `h` is at least mapped */
bool header_half_made(const struct rcv_header *h);

/* -- object.c: the object behind a segment, by descriptor and by name --------------------------------------- */

int  object_borrow(rcv_arena *a, int fd, struct stat *st); /* 0 or errno, as the next */
int  object_adopt(rcv_arena *a, int fd, struct stat *st);
void object_drop(rcv_arena *a);
int  object_fd(const rcv_arena *a);       /* checked just now; -1: lost. For one call, not to be kept. Signal-safe */
int  object_open(rcv_arena *a, int *out); /* a description of one's own: 0, EBADF: object_lost(), or another errno */
int  object_lost(rcv_arena *a);           /* RCV_ERR_OS that says what to do */
int  object_remap_shared(rcv_arena *a, uint64_t off, void *at, uint64_t len, int prot); /* over what is there; signal-safe */
int  object_remap_private(rcv_arena *a, uint64_t off, void *at, uint64_t len);          /* writable; signal-safe */

/* -- process.c: who is alive ------------------------------------------------------------------------------- */

int  process_join(rcv_arena *a);                              /* take a slot: sets slot, token, witness */
void process_leave(rcv_arena *a);                             /* free it */
bool process_alive(const rcv_arena *a, uint64_t token);       /* also true for ourselves */
bool process_gone(const rcv_arena *a, uint64_t token);        /* the same for who seizes its lock */
bool process_slot_alive(const rcv_arena *a, uint32_t slot);
bool process_others(const rcv_arena *a);                      /* is any *other* process attached and alive */
const struct rcv_process *process_of(const rcv_arena *a, uint64_t token); /* its slot's entry, or NULL */
void process_name(const rcv_arena *a, uint64_t token, struct rcv_holder *out); /* … as somebody who is waited for, of no handler yet */
uint64_t process_space(void);                                 /* which PID namespace this is; 0: unknown */
void process_after_fork(rcv_arena *a);                        /* in the child: needs_slot = true */

/* -- owner.c: the lock's word ------------------------------------------------------------------------------------ */

static inline uint64_t lock_owner(const rcv_arena *a) /* token of who holds it, dead or alive, or 0 */
{
    uint64_t word = atomic_load(&a->hdr->lock.owner);
    return word & RCV_OFFERED ? 0 : word & RCV_TOKEN;
}
void lock_init(rcv_arena *a);                      /* make the lock anew: only while nobody else is attached */
void lock_orphan(rcv_arena *a, uint32_t slot);     /* the slot has another owner: if the last one held the lock, it is dead */
void lock_note_lost(rcv_arena *a, uint64_t word);  /* we have taken the lock from a dead owner: keep who it was */

/* -- feed.c: the commit feed's ring. Lock held ------------------------------------------------------------------- */

int  feed_map(rcv_arena *a, const struct rcv_header *h, int protection); /* 0 too where it has none */
void feed_unmap(rcv_arena *a);
int  feed_format(rcv_arena *a); /* of a new segment */
void feed_alone(rcv_arena *a);  /* nobody is attached: nobody waits for it */
/* feed_begin_anew -- a copy is to be brought forward: its feed is empty, in another epoch, and its sinks have lost something. Alone.
 * feed_restored -- … and goes on behind that commit, which was made at that time. */
void feed_begin_anew(rcv_arena *a);
void feed_restored(rcv_arena *a, uint64_t seq, uint64_t at);
void feed_begin_at(rcv_arena *a, uint64_t position, uint64_t epoch); /* it goes on there, without a sink */
/* feed_too_long -- RCV_ERR_FULL: a record of so many bytes never has room. */
int feed_too_long(const rcv_arena *a, uint64_t bytes);
/* feed_reserve -- room for a record behind the head, at *out; old records and slow sinks lose theirs. RCV_ERR_FEED: a sink needs it.
 * RCV_ERR_FULL: there will never be so much. RCV_ERR_CORRUPT: its words do not fit each other. */
int  feed_reserve(rcv_arena *a, uint64_t bytes, uint8_t **out);
uint64_t feed_now(rcv_arena *a); /* the time for a record */
void feed_written(rcv_arena *a, const struct rcv_commit *r); /* the record is there: with PUBLISH it is committed */
void feed_publish(rcv_arena *a);                /* … and is seen, by whoever is about to sleep, too */
void feed_wake(rcv_arena *a);                   /* … and by those who sleep. Without the lock */
int  feed_recover(rcv_arena *a, unsigned phase); /* RCV_ERR_CORRUPT: its words do not fit each other */
const struct rcv_commit *feed_record(const rcv_arena *a, uint64_t at, uint64_t end); /* NULL: none that ends before `end` begins there */

static inline uint64_t feed_load(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_acquire); }
static inline void     feed_store(_Atomic uint64_t *word, uint64_t to) { atomic_store_explicit(word, to, memory_order_release); }

/* -- cursors.c: is a commit in the way of who may not miss anything? ------------------------------------------------- */

/* sinks_need -- would so many bytes more overwrite what a required sink needs? Lock held. sinks_wait -- the same without it: which one,
 * or NULL. sinks_full -- RCV_ERR_FEED that says so, or 0. */
bool                   sinks_need(rcv_arena *a, uint64_t bytes);
const struct rcv_sink *sinks_wait(const rcv_arena *a, uint64_t bytes);
int                    sinks_full(const rcv_arena *a, uint64_t bytes);
void                   sinks_lose(rcv_arena *a, uint64_t tail); /* what is before `tail` is about to be overwritten. Lock held */
int  sink_attach(rcv_arena *a, const char *name, uint64_t cursor, uint64_t seq); /* required, and it goes on there. RCV_ERR_STALE */
void sink_leave(rcv_arena *a, uint32_t sink); /* who served it does no more */
void                   sinks_begin_anew(rcv_arena *a);          /* a restored copy: none has taken anything. Alone */

/* -- restore.c: a copy is brought forward ------------------------------------------------------------------------ */

/* restore_ranges -- the ranges of a record that can be the next commit of `a`, whose core need not be attached; NULL: it can't.
 * restore_put -- its bytes, into memory that is there. */
const uint64_t *restore_ranges(const rcv_arena *a, const struct rcv_commit *head, uint64_t room);
int             restore_share(rcv_restore *r, rcv_arena **out); /* an arena in its memory, which lives as long as either; rcv_restore_close() for each */
void            restore_put(rcv_arena *a, const struct rcv_commit *head, const uint64_t *ranges);

/* -- queue.c: who waits for the lock, and who is next ----------------------------------------------------------- */

/* queue_wait -- 0: held; *dead: from a dead owner. ETIMEDOUT. *longest, if it is not NULL: who has had it for the longest meanwhile. */
int  queue_wait(rcv_arena *a, double seconds, bool before, bool *dead, struct rcv_holder *longest, int (*yield)(rcv_arena *a));
int  queue_pass(rcv_arena *a);             /* drop a lock that is being waited for. RCV_ERR_BUG: it was not ours */
bool lock_seize(rcv_arena *a, uint64_t word);  /* take the lock from an owner that is dead */

/* -- tickets.c: who stands at a hot spot ------------------------------------------------------------------------- */

void turn_name(rcv_arena *a, const struct rcv_turn *turn, uint64_t row); /* whose it is: a row of the board, + 1 */
const struct rcv_ticket *turn_ahead(rcv_arena *a, const struct rcv_turn *turn); /* whose turn comes before it; NULL: nobody's */

/* -- held.c: for how long ------------------------------------------------------------------------------------------ */

#define RCV_LONG_HOLD UINT64_C(10000000) /* ticks: 2 to 10 ms. Whatever takes as long is timed */

void held_begin(rcv_arena *a);                  /* this one is timed, however short */
void held_end(rcv_arena *a);                    /* … or it was long, and is over */
void held_lost(rcv_arena *a);                   /* we have the lock of a dead owner: count what that one held */
void held_seen(const rcv_arena *a);             /* the owner lives */
void held_waited(rcv_arena *a, uint64_t nanos); /* this thread has waited so long for the lock, and has it, or tries again */
void held_after_fork(rcv_arena *a);             /* in the child: it has held nothing yet */
bool held_times(const rcv_arena *a, struct rcv_lock_times *out); /* the mapping may be read-only. true: a long one goes on, its owner lives */
static inline void held_from_here(rcv_arena *a) /* the lock has just been taken */
{
    atomic_store_explicit(&a->hdr->lock.since, os_ticks(), memory_order_relaxed);
    if (unlikely(a->untimed-- == 0))
        held_begin(a);
}
static inline void held_no_more(rcv_arena *a) /* … and is going to be dropped, whoever gets it */
{
    if (unlikely(os_ticks() - atomic_load_explicit(&a->hdr->lock.since, memory_order_relaxed) >= a->counted_from))
        held_end(a);
    atomic_store_explicit(&a->hdr->lock.since, 0, memory_order_relaxed);
}

/* -- notes.c: what processes tell of their requests ------------------------------------------------------------------- */

void notes_see(const rcv_arena *a, struct rcv_notes_seen *out); /* signal- and lock-free; the mapping may be read-only */

/* -- lock.c ------------------------------------------------------------------------------------------------ */

#define RCV_THREAD_ENDED UINT64_MAX

int  lock_once(void);           /* 0 or errno: what this process needs before any thread locks */
/* lock_take -- 0: held, the phase is IDLE, process state in step with the segment. RCV_ERR_AGAIN: held by another thread.
 * A dead owner's step has been undone. RCV_ERR_CORRUPT: not held. */
int  lock_take(rcv_arena *a);
/* lock_drop -- 0; RCV_ERR_MISUSE: this thread does not hold it; RCV_ERR_BUG: it was taken from us. Nothing was changed then. */
int  lock_drop(rcv_arena *a);
/* lock_wait -- rcv_lock_wait(), for at most that many seconds, of a thread that has wanted it since os_nanos() was `begun`.
 * `before`: it has stood in the queue before, in vain. `yield`, if it is not NULL: as rcv_lock_wait_yielding()'s. */
int  lock_wait(rcv_arena *a, double seconds, bool before, uint64_t begun, struct rcv_holder *longest, int (*yield)(rcv_arena *a));
/* lock_is_free_soon -- is it free, or will it be when it has been looked at for some 50 µs? A loop that turns takes longer. brief.c */
bool lock_is_free_soon(rcv_arena *a);
/* lock_give_back -- what rcv_lock_wait has kept for this thread, if the thread does not want it after all. */
void lock_give_back(rcv_arena *a);
/* lock_adopt -- the step, or the read, that another thread of this process is inside of is from now on this thread's to end. With
 * the GIL. 0: this thread holds the lock (too if it did before). RCV_ERR_MISUSE: nobody here is inside one. RCV_ERR_CLOSED: that
 * thread has ended; the step is undone by the next one to lock, and has been forgotten here (txn_step_lost). */
int  lock_adopt(rcv_arena *a);
void lock_after_fork(rcv_arena *a); /* in the child: the parent's lock is not ours */
void lock_forget_thread(void);      /* in the child: its one thread is another one */

/* -- stuck.c: what the step that holds the lock is at --------------------------------------------------------- */

/* stuck_say -- we hold the lock, and this is where. Given up where somebody else is writing. stuck_age -- for how long by now. */
void stuck_say(rcv_arena *a, uint64_t millis, const char *text);
void stuck_age(rcv_arena *a, uint64_t millis);
void stuck_take_back(rcv_arena *a); /* it was of ours, and has moved on */
bool stuck_read(const rcv_arena *a, struct rcv_slow_step *out); /* false: nothing is known of who holds the lock */

/* -- recover.c ---------------------------------------------------------------------------------------------- */

/* recover -- bring the segment from whatever phase it is in to IDLE. Idempotent; may be killed at any point. Lock held or
 * alone. On damage: marks the header, RCV_ERR_CORRUPT. */
int recover(rcv_arena *a, struct rcv_recovery *report);

/* -- undo.c: the undo log ------------------------------------------------------------------------------------ */

/* undo_append -- save [off, off+len) before it is changed. Lock held, phase STEP. RCV_ERR_FULL: nothing appended. */
int undo_append(rcv_arena *a, rcv_off off, uint32_t len, unsigned kind);
/* undo_reserve -- claim room so that the next appends of at most `bytes` (heads included) cannot fail. */
int undo_reserve(rcv_arena *a, uint64_t bytes);
void undo_share(rcv_arena *a, bool shared); /* other threads may append from the trap handler: under the view lock */
/* undo_retract -- undo the announced writes above `mark`; cut the log there, unless pages were logged above it. */
int undo_retract(rcv_arena *a, uint64_t mark);
static inline uint64_t undo_cost(uint64_t len) { return ((len + 7) & ~UINT64_C(7)) + sizeof(struct rcv_undo_head); }
static inline uint64_t undo_tail(const rcv_arena *a) { return atomic_load_explicit(&a->hdr->undo_tail, memory_order_relaxed); }
/* undo_append_trap -- the same for the trap handler: signal-safe, claims memory, keeps no error text. 0 or RCV_ERR_FULL */
int undo_append_trap(rcv_arena *a, rcv_off page_off);
struct undo_record {
    rcv_off        off;
    uint32_t       len;
    unsigned       kind; /* enum rcv_undo_kind */
    const uint8_t *old;
    uint64_t       start; /* where in the log it begins: the tail before it */
};
/* undo_prev -- the record that ends at *at; moves *at to its start. 1, 0 at the log's beginning, RCV_ERR_CORRUPT. Checks everything
 * about the record against the claimed marks. */
int  undo_prev(rcv_arena *a, uint64_t *at, struct undo_record *out);
/* A walk over what this step has written, the newest first: `for (struct undo_walk w = undo_walk(a, kinds); undo_next(&w);)`.
 * Damage ends it, too: then w.error is RCV_ERR_CORRUPT, else 0. */
#define UNDO_KIND(kind) (1u << (kind))
#define UNDO_ANNOUNCED (UNDO_KIND(RCV_U_DATA) | UNDO_KIND(RCV_U_STRUCT))
#define UNDO_ALL (UNDO_ANNOUNCED | UNDO_KIND(RCV_U_PAGE))
struct undo_walk {
    rcv_arena         *a;
    uint64_t           at;    /* where the record begins */
    uint64_t           mark;  /* not below this */
    unsigned           kinds; /* those that are wanted */
    int                error;
    struct undo_record r;
};
static inline struct undo_walk undo_walk_to(rcv_arena *a, uint64_t mark, unsigned kinds)
{
    return (struct undo_walk){.a = a, .at = undo_tail(a), .mark = mark, .kinds = kinds, .error = 0};
}
static inline struct undo_walk undo_walk(rcv_arena *a, unsigned kinds) { return undo_walk_to(a, 0, kinds); }
static inline bool undo_next(struct undo_walk *w)
{
    while (w->at > w->mark) {
        int rc = undo_prev(w->a, &w->at, &w->r);
        if (unlikely(rc < 0)) {
            w->error = rc;
            return false;
        }
        if (w->kinds & UNDO_KIND(w->r.kind))
            return true;
    }
    return false;
}
/* undo_apply -- put the old bytes back, newest first, down to tail `mark`, without moving the tail. Counts into the report. */
int  undo_apply(rcv_arena *a, uint64_t mark, struct rcv_recovery *report);
void undo_cut(rcv_arena *a, uint64_t tail);      /* the log gets shorter: announced to readers without the lock */
void undo_trim(rcv_arena *a);                    /* in IDLE: give back what a huge step had claimed */
void undo_maybe_trim(rcv_arena *a);                    /* a step is over: trim it after a while */
void phase_set(rcv_arena *a, unsigned phase);    /* fence, store, fence */

/* -- hot_table.c: the hot pages' table in the segment ------------------------------------------------------------ */

/* An entry of the hot table: one word, changed by one store. Low half: page + 1, or the whole word is 0. High half: the low
 * bits of the commit sequence when its shadow was last refreshed, a hint for demotion that any process may write. */
#define HOT_PAGE(e) ((uint32_t)(e)-1u)
#define HOT_STAMP(e) ((uint32_t)((e) >> 32))
#define HOT_ENTRY(page, seq) (((uint64_t)(page) + 1u) | (uint64_t)(uint32_t)(seq) << 32)

static inline _Atomic uint64_t *hot_table(const rcv_arena *a)
{
    return (_Atomic uint64_t *)(void *)(a->core + a->hdr->region[RCV_R_HOT].off);
}
static inline uint8_t *hot_shadow(const rcv_arena *a, uint32_t slot)
{
    return a->core + a->hdr->region[RCV_R_SHADOW].off + (uint64_t)slot * a->hdr->page_size;
}
uint64_t hot_slots_usable(const rcv_arena *a); /* as far as the regions have room */
uint64_t hot_slots_backed(const rcv_arena *a); /* those with memory behind their shadows: no entry lies beyond */
int      hot_entry(rcv_arena *a, uint32_t slot, uint64_t claimed, uint32_t *page_plus_1); /* 0: free. RCV_ERR_CORRUPT */
/* hot_recover -- recovery's half: shadows -> data (`from_shadow`) or data -> shadows for listed pages; validates the table. */
int  hot_recover(rcv_arena *a, bool from_shadow, struct rcv_recovery *report);
void hot_forget(rcv_arena *a); /* IDLE, recovered, nobody attached: no page is listed any more */

#endif
