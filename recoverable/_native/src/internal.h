/* internal.h -- names that cross files inside the core, grouped by the file that defines them.
 *
 * Calls go down only:
 *   dict array | check  ->  txn intent stamp reclaim  ->  heap value  ->  undo tracker trap wse  ->  segment process lock queue recover  ->  os
 * (recover.c and lock.c call undo.c and the tracker's recovery half: a dead owner's step is undone while locking.)
 *
 * Who guards what: segment state by the arena's lock; process state (struct rcv_arena and all below it) by the GIL, and
 * what the trap handler touches of it by being written only by the thread that is inside the step.
 */
#ifndef RCV_INTERNAL_H
#define RCV_INTERNAL_H

#include "../include/recoverable.h"
#include "layout.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* The compiler must not move stores across this. No CPU fence is needed: a killed process's stores are all visible to
 * the next reader of the same memory, in program order as the CPU retired them. */
#define store_fence() atomic_signal_fence(memory_order_seq_cst)
/* A reader on another processor, without the lock, sees the stores before it no later than those after it. No instruction
 * on x86-64. */
#define reader_fence() atomic_thread_fence(memory_order_release)

/* -- error.c -------------------------------------------------------------------------------------------- */

int rcv_raise(int code, int err, const char *format, ...) __attribute__((format(printf, 3, 4))); /* keeps text; returns code */

/* -- os.c: every system call on memory and files; 0 or errno -------------------------------------------- */

uint64_t os_page_size(void);
int      os_map_shared(int fd, uint64_t off, uint64_t len, int prot, void **out);
int      os_remap_shared(int fd, uint64_t off, void *at, uint64_t len, int prot); /* over what is there */
int      os_remap_private(int fd, uint64_t off, void *at, uint64_t len);          /* writable; signal-safe */
int      os_map_nothing(uint64_t len, void **out); /* addresses: private memory once they may be touched */
int      os_unmap(void *at, uint64_t len);
int      os_forget(void *at, uint64_t len);                  /* private memory: its content goes, it reads as zero */
int      os_read(int fd, uint64_t off, void *to, uint64_t len); /* ENODATA: the object is shorter */
int      os_protect(void *at, uint64_t len, int prot);       /* signal-safe */
int      os_claim(int fd, uint64_t off, uint64_t len);       /* memory behind [off, off+len), in slices; signal-safe */
int      os_populate(void *at, uint64_t len);                /* the same through a shared mapping; signal-safe */
int      os_punch(void *at, uint64_t len);                   /* give it back: pages of a shared mapping */
int      os_clone_shared(void *from, void *at, uint64_t len, int prot); /* os_remap_shared without a descriptor */
int      os_copy_private(const void *from, void *at, uint64_t len);     /* os_remap_private without one */
int      os_reopen(int fd, int *out);                        /* a second open file description of the same object */
int      os_witness(int fd, uint64_t off, void **out);       /* a lock that goes with the address space; closes fd */
int      os_bytes_locked(int fd, uint64_t off, uint64_t len, bool *locked); /* by any *other* description */
void     os_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t nanos);
bool     os_futex_wake(_Atomic uint32_t *word);
uint64_t os_nanos(void);                                     /* monotonic */
/* os_ticks -- a counter for "has it been a while?": no system call, no memory, and no promise of its rate, which differs
 * between machines; OS_TICKS_HALF_SECOND takes 0.1 to 0.5 s. */
static inline uint64_t os_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc(); /* 1 to 5 GHz */
#else
    return os_nanos();
#endif
}
#define OS_TICKS_HALF_SECOND UINT64_C(500000000)
extern _Thread_local uint64_t os_thread __attribute__((tls_model("initial-exec")));
uint64_t os_thread_number(void);
static inline uint64_t os_thread_id(void) /* of this process, never 0, never given again */
{
    return likely(os_thread != 0) ? os_thread : os_thread_number();
}
int      os_random(void *out, size_t len);
void    *os_malloc(size_t len); /* NULL when it fails (or is made to) */
void    *os_calloc(size_t count, size_t len);
void    *os_realloc(void *p, size_t len);
void     os_free(void *p);

/* -- hash.c ------------------------------------------------------------------------------------------------ */

uint64_t rcv_siphash(const uint64_t secret[2], uint8_t kind, const void *bytes, size_t len); /* SipHash-1-3 */
static inline uint64_t rcv_mix(uint64_t x) /* finaliser of splitmix64 (Steele, Lea, Flood 2014) */
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* -- header.c: the segment's header ------------------------------------------------------------------------- */

uint64_t header_sum(const struct rcv_header *h);
uint64_t header_room(void);
int  header_plan(rcv_arena *a, const struct rcv_open_options *o, uint32_t uid, struct rcv_header *h);
int  header_check(rcv_arena *a, const struct rcv_header *h, uint64_t length); /* of an object so long; `h` is at least mapped */
bool header_half_made(const struct rcv_header *h);

/* -- segment.c: the mapped segment ---------------------------------------------------------------------- */

struct rcv_image;   /* image.c */
struct rcv_tracker; /* tracker.c */
struct rcv_heap;    /* heap.c */
struct view;        /* tracker.h */

struct rcv_counters { /* this process's share of struct rcv_stats */
    uint64_t transactions, commits, rollbacks, conflicts, suspends;
    uint64_t traps, pages_compared, pages_copied, promotions, demotions, strays, dooms, map_fallbacks;
    uint64_t undo_bytes, undo_records;
    uint64_t pages_captured, captured_in_vain;
};

struct rcv_logged { /* a range that txn_log() has logged in some epoch */
    rcv_off  off;
    uint64_t epoch;
    uint32_t len;
};
#define RCV_LOGGED 256u

struct rcv_sound { /* a container found to hang from the root, by which transaction, and in which of its epochs: container.c */
    rcv_off  off;
    uint64_t serial, epoch;
};
#define RCV_SOUND 64u

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
    uint64_t            undo_bias;   /* added to what is appended: not 0 sends every append to append_slow() */
    bool                undo_shared; /* other threads append, too */
    uint64_t            undo_seen;  /* n.undo_bytes when undo_rest() looked last */
    uint32_t            undo_quiet; /* steps since a large log was needed */
    _Atomic int         fd; /* what has this number may be another file by now: only object.c reads it */
    dev_t               device; /* of the object */
    ino_t               inode;
    char                path[128];
    bool                named;                      /* that path led to it when it was opened */
    bool                orphan_seen, orphan_untold; /* it does not any more; nobody has been told so yet */
    uint64_t            looked;                     /* os_ticks() of the last look */
    void               *witness[RCV_WITNESSES]; /* pages that keep this process's locks on its slot */
    uint32_t            slot;  /* in the process table */
    uint64_t            token; /* of this process */
    bool                created, closing, needs_slot /* after fork */, trap_mode;
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
    _Atomic uint32_t    waiters;     /* threads inside rcv_lock_wait: closing would unmap the lock under them */
    rcv_txn            *in_flight;   /* all live transactions of this process, doubly linked */
    uint64_t            n_in_flight, serial;
    uint64_t            log_epoch; /* the last that any transaction has begun */
    struct rcv_logged   logged[RCV_LOGGED]; /* here and not in each transaction: only one is mounted, and its cache lines stay warm */
    struct rcv_sound    sound[RCV_SOUND];
    rcv_txn            *pool; /* ended ones, kept for reuse */
    uint32_t            n_pool;

    rcv_txn            *privileged; /* the run that others give way to, if it is one of ours: privilege.c */
    struct rcv_viewed  *viewed;     /* Arrays that raw buffers have been made of: raw.c */
    struct rcv_tracker *tracker;
    struct rcv_heap    *heap;
    struct rcv_recovery recovered; /* by the attach */
    struct rcv_recovery repaired;  /* by the last recovery since */
    bool                untold;    /* … of which rcv_repair_take has not told yet */
    struct rcv_counters n;
    struct rcv_hotspot  hotspots[RCV_HOTSPOTS];
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
/* seg_claim_data -- back the data region up to `upto` bytes (rounded up to a slice). Lock held. RCV_ERR_FULL leaves it. */
int  seg_claim_data(rcv_arena *a, uint64_t upto);
int  seg_corrupt(rcv_arena *a, const char *format, ...) __attribute__((format(printf, 2, 3))); /* RCV_ERR_CORRUPT */
void seg_registry_each(void (*fn)(rcv_arena *)); /* all open arenas of this process */
void seg_registry_hold(void (*fn)(rcv_arena *)); /* the same without the GIL: none is closed meanwhile */
rcv_arena *seg_registry_first(void);
int        seg_look(rcv_arena *a, uint64_t length); /* map it read-only: nothing can be stored, nothing else is set up */
void       seg_unlook(rcv_arena *a);

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
uint64_t process_space(void);                                 /* which PID namespace this is; 0: unknown */
void process_after_fork(rcv_arena *a);                        /* in the child: needs_slot = true */

/* -- lock.c ------------------------------------------------------------------------------------------------ */

#define RCV_THREAD_ENDED UINT64_MAX

int  lock_once(void);           /* 0 or errno: what this process needs before any thread locks */
void lock_init(rcv_arena *a);   /* make the lock anew: only while nobody else is attached */
/* lock_take -- 0: held, the phase is IDLE, process state in step with the segment. RCV_ERR_AGAIN: held by another thread.
 * A dead owner's step has been undone. RCV_ERR_CORRUPT: not held. */
int  lock_take(rcv_arena *a);
/* lock_drop -- 0; RCV_ERR_MISUSE: this thread does not hold it; RCV_ERR_BUG: it was taken from us. Nothing was changed then. */
int  lock_drop(rcv_arena *a);
/* lock_give_back -- what rcv_lock_wait has kept for this thread, if the thread does not want it after all. */
void lock_give_back(rcv_arena *a);
/* lock_adopt -- the step, or the read, that another thread of this process is inside of is from now on this thread's to end. With
 * the GIL. 0: this thread holds the lock (too if it did before). RCV_ERR_MISUSE: nobody here is inside one. RCV_ERR_CLOSED: that
 * thread has ended; the step is undone by the next one to lock, and has been forgotten here (txn_step_lost). */
int  lock_adopt(rcv_arena *a);
void lock_after_fork(rcv_arena *a); /* in the child: the parent's lock is not ours */
void lock_forget_thread(void);      /* in the child: its one thread is another one */
void lock_orphan(rcv_arena *a, uint32_t slot); /* the slot has another owner: if the last one held the lock, it is dead */
bool lock_seize(rcv_arena *a, uint64_t word);  /* take it from an owner that is dead */
static inline uint64_t lock_owner(const rcv_arena *a) /* token of who holds it, dead or alive, or 0 */
{
    uint64_t word = atomic_load(&a->hdr->lock.owner);
    return word & RCV_OFFERED ? 0 : word & RCV_TOKEN;
}

/* -- queue.c: who waits for the lock, and who is next ----------------------------------------------------------- */

int  queue_wait(rcv_arena *a, bool *dead); /* 0: held; *dead: from a dead owner. ETIMEDOUT */
int  queue_pass(rcv_arena *a);             /* drop a lock that is being waited for. RCV_ERR_BUG: it was not ours */

/* -- recover.c ---------------------------------------------------------------------------------------------- */

/* recover -- bring the segment from whatever phase it is in to IDLE. Idempotent; may be killed at any point. Lock held or
 * alone. On damage: marks the header, RCV_ERR_CORRUPT. */
int recover(rcv_arena *a, struct rcv_recovery *report);

/* -- image.c: a reader without the lock --------------------------------------------------------------------- */

bool image_fault(uintptr_t at); /* from the SIGSEGV handler: fetch the page there. false: it is no image's */

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
/* undo_prev -- the record that ends at *at; moves *at to its start. 1, 0 at the log's beginning, RCV_ERR_CORRUPT. Walk from
 * undo_tail(a). Checks everything about the record against the claimed marks. */
int  undo_prev(rcv_arena *a, uint64_t *at, struct undo_record *out);
/* undo_apply -- put the old bytes back, newest first, down to tail `mark`, without moving the tail. Counts into the report. */
int  undo_apply(rcv_arena *a, uint64_t mark, struct rcv_recovery *report);
void undo_cut(rcv_arena *a, uint64_t tail);      /* the log gets shorter: announced to readers without the lock */
void undo_trim(rcv_arena *a);                    /* in IDLE: give back what a huge step had claimed */
void undo_rest(rcv_arena *a);                    /* a step is over: trim it after a while */
void phase_set(rcv_arena *a, unsigned phase);    /* fence, store, fence */

/* -- tracker.c: raw writes; trap.c: the SIGSEGV handler; wse.c: which pages to keep hot ------------------ */

int  tracker_open(rcv_arena *a, const struct rcv_open_options *o); /* map the first view read-only, read the hot table, install the handler */
void tracker_close(rcv_arena *a);  /* demotes nothing: hot pages stay listed for the others */
/* tracker_enter -- a step begins (lock held, phase IDLE): catch up with the hot table's generation; while raw buffers live:
 * compare hot pages with their shadows and put strays back; from here on traps of this thread are logged, and those of others in
 * the transaction's view. RCV_ERR_STRAY: a thread stored into that while it waited. */
int  tracker_enter(rcv_arena *a, rcv_txn *txn);
/* tracker_shut -- first of all at the end of a step: protect what it could write, so that nothing that a thread stores from now
 * on is in the stash, the commit or a shadow. Once a step; no more than a look where there are no raw buffers. */
void tracker_shut(rcv_arena *a);
/* tracker_collect -- the pages that raw writes changed in this step: trapped or hot, different from their base (pre-image
 * or shadow) outside the announced ranges. Fills `pages` with page numbers in the data region; *n of them. Memory belongs
 * to the tracker until the next call. */
int  tracker_collect(rcv_arena *a, const uint32_t **pages, uint32_t *n);
/* tracker_savepoint -- protect trapped and hot pages so that later raw writes log again in this step, above `mark`. */
int  tracker_savepoint(rcv_arena *a, uint64_t *mark);
/* tracker_rollback_to -- undo down to `mark`, and cut the log there. tracker_retract -- the same for announced writes only. */
int  tracker_rollback_to(rcv_arena *a, uint64_t mark, struct rcv_recovery *report);
int  tracker_retract(rcv_arena *a, uint64_t mark);
/* tracker_revert -- the step is shut, its undo has been applied: copy shadows back over hot pages that differ. */
void tracker_revert(rcv_arena *a);
/* trap mode. tracker_observe -- before a step's writes are published or undone: which listed pages has it changed?
 * tracker_undoes -- will undoing the step take the page of `off` back? tracker_keep -- the step is undone: store `bytes`, which
 * lie within a page, into unallocated memory, where no later undo takes them back. */
void tracker_observe(rcv_arena *a);
bool tracker_undoes(const rcv_arena *a, rcv_off off);
void tracker_keep(rcv_arena *a, rcv_off off, const void *bytes, uint32_t len);
/* tracker_zero -- clear bytes within a page that nobody's data lies in, also in whatever this step's end may put back. */
void tracker_zero(const rcv_arena *a, rcv_off off, uint32_t len);
void tracker_settle(rcv_arena *a); /* shut, before PUBLISH: what has it changed? */
/* tracker_publish -- between PUBLISH and IDLE: refresh the shadows of listed pages that the undo log says changed, or that
 * tracker_collect found; feed the policy; promote and demote. Only pages of Arrays (heap_page_live), but in trap mode. */
void tracker_publish(rcv_arena *a);
void tracker_leave(rcv_arena *a); /* the step is over: no trap of this thread is ours any more; mend what strays left */
/* tracker_capture -- raw writes are possible from here on: make ready what this step of the handler's requests will probably
 * write. Lock held, phase STEP, its stash was put back. Cannot fail. */
void tracker_capture(rcv_arena *a, const rcv_txn *txn);
/* tracker_judge -- the step is going to be undone: last chance to see what it wrote. */
void tracker_judge(rcv_arena *a);
bool tracker_wrote_nothing(const rcv_arena *a); /* the log holds nothing but captured pages */
/* tracker_forget_pages -- array memory is being freed (its commit is next): demote listed pages of that range. */
void tracker_forget_pages(rcv_arena *a, rcv_off off, uint64_t len);
int  tracker_doomed(const rcv_arena *a); /* the handler ran out of log: the step can only roll back */
int  tracker_edit(rcv_txn *t, rcv_off off, uint64_t len); /* its pages writable ahead, for system calls */
/* tracker_note_announced -- an announced write into array memory: its page has an announced range in this step. */
void tracker_note_announced(rcv_arena *a, rcv_off off, uint32_t len);
/* tracker_note_fresh -- memory handed out by the heap will be filled in this step: for recordings. */
void tracker_note_fresh(rcv_arena *a, rcv_off off, uint64_t len);
void tracker_after_fork(rcv_arena *a);
void tracker_protect_lost(rcv_arena *a); /* the thread inside a step has ended: no page is writable any more. Without the GIL */
void tracker_step_lost(rcv_arena *a);    /* … and what is known of that step is forgotten. With the GIL */
/* tracker_recover -- recovery's half: shadows -> data (`from_shadow`) or data -> shadows for listed pages; validates the hot
 * table. Works before tracker_open. */
int  tracker_recover(rcv_arena *a, bool from_shadow, struct rcv_recovery *report);
void hot_forget(rcv_arena *a); /* IDLE, recovered, nobody attached: no page is listed any more */
void tracker_stats(rcv_arena *a, struct rcv_stats *out);
uint64_t tracker_raw_count(const rcv_arena *a);
bool tracker_news(const rcv_arena *a);   /* are there strays to tell of? */
void views_ended(rcv_txn *t);            /* it has a view, and has ended */
bool views_lost(const rcv_txn *t);       /* a thread has stored into its view while it waited */

/* -- heap.c: the allocator ------------------------------------------------------------------------------------ */
/* Blocks are handed out from chunks that this process has reserved, by process memory alone; the shared bitmaps change
 * only at commit. So an allocation needs no undo, and a dead process's are simply never marked. */

int  heap_open(rcv_arena *a);
void heap_close(rcv_arena *a);   /* returns reservations */
int  heap_format(rcv_arena *a);  /* a new segment: the table is zero; claims the first slice */
/* heap_reserve -- a block of at least `size` bytes, 16-aligned (page aligned in the array space), contents unspecified.
 * Pending until heap_commit_alloc + heap_settle, or heap_unreserve. Lock held. RCV_ERR_FULL. */
int  heap_reserve(rcv_arena *a, uint64_t size, unsigned space, rcv_off *out);
void heap_unreserve(rcv_arena *a, rcv_off off);    /* process memory only: no lock needed */
int  heap_commit_alloc(rcv_arena *a, rcv_off off); /* mark it in the shared table (undo-logged) */
int  heap_commit_free(rcv_arena *a, rcv_off off);  /* unmark it (undo-logged). RCV_ERR_CORRUPT if it was not allocated */
void heap_settle(rcv_arena *a, rcv_off off);       /* after PUBLISH: what heap_commit_alloc marked is no longer pending */
/* heap_block -- size of the block that starts at `off`, and whether it is marked or pending here. RCV_ERR_CORRUPT if no
 * block starts there. */
int  heap_block(rcv_arena *a, rcv_off off, uint64_t *size, bool *live);
bool heap_page_live(const rcv_arena *a, uint32_t page); /* a page of the data region that a committed array owns */
rcv_off heap_page_block(const rcv_arena *a, uint32_t page); /* where the array memory that the page lies in begins, or 0 */
void heap_boundary(rcv_arena *a);                       /* a step has ended (lock held, IDLE): claim ahead of need */
int  heap_return_dead(rcv_arena *a, uint64_t *chunks);  /* clear the owner words of dead processes */
bool heap_short(const rcv_arena *a);                    /* is nearly all of the ceiling claimed and in use? */
void heap_after_fork(rcv_arena *a);                     /* forget the parent's reservations (they are its own) */
void heap_stats(rcv_arena *a, struct rcv_stats *out);
/* heap_walk -- every marked block: fn(ctx, off, size); stops at non-zero. For check.c. */
int  heap_walk(rcv_arena *a, int (*fn)(void *ctx, rcv_off off, uint64_t size), void *ctx);

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
    uint32_t pad;
    rcv_off  a;
    uint64_t b;
};
__extension__ typedef __int128 rcv_wide;

struct rcv_summary { /* what the intents add up to for one container, so that len() needs no walk */
    rcv_off  container; /* 0: free slot of the hash table */
    rcv_wide count; /* wide: additions to a Counter may leave 64 bits on their way, where its value stays inside */
    uint64_t changes; /* of membership, by this transaction: only grows */
    uint64_t inserts; /* live RCV_I_INSERT of it */
    uint64_t live;    /* live intents that count here; 0: the container may be gone, and its memory another's */
};

int  intent_add(rcv_txn *t, unsigned op, rcv_off a, uint64_t b);
void intent_truncate(rcv_txn *t, uint64_t n); /* drop the newest down to n: allocations go back to the heap */
void intent_take_back(rcv_txn *t, uint64_t n); /* the same in the middle of the transaction */
bool intent_holds(const rcv_txn *t, uint32_t page); /* is the page of a block that was taken back and is held? */
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
    uint64_t pages, n_pages; /* in raw_pages */
};

struct rcv_found { /* the Dict entry that was found last: dict.c, find_again() */
    rcv_off  dict, entry, link;
    uint64_t hash;
    uint64_t epoch; /* it is there in this log epoch */
};

enum rcv_end_after { RCV_GO_ON, RCV_SUSPEND, RCV_ROLL_BACK, RCV_FREE }; /* each includes those before it */

struct rcv_txn {
    rcv_arena *arena;
    rcv_txn   *parent;   /* an independent one: the transaction around it */
    uint32_t   children; /* live ones whose parent this is */
    uint64_t   serial;   /* unique in this process */
    unsigned   flags;
    int        state; /* enum rcv_txn_state */
    int        doom;  /* the error that doomed it */
    bool       timed; /* somebody wants to know what its checkpoints cost, or it is in the board's sample */
    bool       mounted, touched, wrote, overflowed /* read set gave up: valid only while nobody commits */;
    bool       record_reads;
    bool       holds;      /* there are RCV_I_HELD */
    bool       forked;     /* it is the parent's: this process was forked inside it */
    uint8_t    end_after;  /* enum rcv_end_after: what is to be done when the operation that goes on has ended */
    rcv_txn  **place;      /* where its owner keeps the pointer to it, or NULL */
    uint64_t   seq;   /* commit sequence at the last validation: all that it has read was so then */
    uint64_t   written; /* the header's count of written units at that moment */
    uint64_t   first_id; /* containers with greater ids are its own, made in this step: nobody else knows them */
    uint64_t   epoch; /* moves when a handle checked earlier must be checked again */
    uint64_t   log_epoch; /* begun by txn_log_epoch(); 0 while it is not mounted, which nothing was logged in */
    uint64_t   mounting;  /* the last one: its number among the arena's */
    uint32_t   savepoints; /* open */
    uint32_t   steps;      /* suspended so far */
    uint32_t   looks;       /* how often it has looked whether it must still wait … */
    uint64_t   waits_until; /* … for the privileged run whose time ends then */

    struct rcv_read *reads;
    uint64_t         n_reads, cap_reads;
    uint32_t        *read_table; /* open addressing: index into reads + 1, by unit */
    uint32_t         read_mask;
    uint64_t        *writes; /* units */
    uint64_t         n_writes, cap_writes;
    uint32_t        *write_table;
    uint32_t         write_mask;
    struct rcv_value_read *values;
    uint64_t         n_values, cap_values, n_captured;

    struct rcv_intent  *intents;
    uint64_t            n_intents, cap_intents;
    struct rcv_summary *summaries; /* open addressing by container */
    uint32_t            n_summaries, summary_mask;

    struct view    *view;      /* where its live raw buffers lie, or NULL: views.c */
    uint32_t       *raw_pages; /* data pages that it has raw-written, sorted */
    uint64_t        n_raw_pages, cap_raw_pages;
    struct rcv_run *runs; /* the same while it is suspended: raw.c */
    uint64_t        n_runs, cap_runs;
    uint8_t  *stash; /* items, then what the runs hold */
    uint64_t  n_stash, cap_stash, stash_items /* bytes of the items */, fresh /* where stash_fresh's begin */;

    struct rcv_found  found;
    struct rcv_txn_report report;
    uint64_t  traps_before; /* a->n.traps when it was mounted */
    char      handler[RCV_HANDLER_NAME], route[RCV_HANDLER_NAME]; /* filled up with zeros */
    rcv_txn  *prev, *next;
};

static inline int stamp_read(rcv_txn *t, rcv_off off, uint64_t id, unsigned kind, uint64_t arg)
{
    return !t->record_reads || t->overflowed || id > t->first_id ? 0 : stamp_read_slow(t, off, id, kind, arg);
}

/* -- privilege.c, hotspot.c ------------------------------------------------------------------------------------------- */

void privilege_drop(rcv_txn *t);
void privilege_wrote(rcv_txn *t);
void hotspot_count(rcv_arena *a, const struct rcv_txn_report *lost);

/* -- board.c: what those see who watch from outside ------------------------------------------------------------------- */

void board_count(const rcv_txn *t, bool committed); /* a run has ended, and has not been reset yet */
/* board_idle -- has its handler written nothing in its last RCV_IDLE_COMMITS? Not known of those that share a row: false.
 * board_rest -- count as if it were so. */
#define RCV_IDLE_COMMITS 100u
bool board_idle(const rcv_txn *t);
void board_rest(const rcv_txn *t);

/* -- raw.c: raw writes into Arrays ---------------------------------------------------------------------------------- */

struct rcv_viewed;
int  raw_collect(rcv_txn *t);  /* the step's raw writes join the write set. A failure dooms */
/* raw_array_in -- the id of the Array that the page is of, if a raw buffer was made of it in this process; else 0. Signal-safe. */
uint64_t raw_array_in(rcv_arena *a, uint32_t page);
int  raw_stash(rcv_txn *t);    /* append runs with what the transaction has made of them */
void raw_base(rcv_txn *t);     /* the step is undone: and with what is committed */
int  raw_put_back(rcv_txn *t); /* merge with what others have committed since. RCV_ERR_CONFLICT: one item, both */
void raw_free(rcv_arena *a);

/* -- stash.c access.c: parts of txn.c's work ------------------------------------------------------------------------ */

/* stash_fill -- copy what the mounted transaction has written, before it is undone. stash_put_back -- write it into the arena
 * again, undo-logged, and rebuild what it does not hold. A failure of either leaves the caller to undo the step. */
int  stash_fill(rcv_txn *t);
int  stash_room(rcv_txn *t, uint64_t size, uint64_t *at); /* `size` bytes more, at t->stash + *at */
int  stash_put_back(rcv_txn *t);
void stash_keep_fresh(rcv_txn *t); /* the step is undone: new memory holds again what the transaction has put there */
void stash_count_lost(const rcv_txn *t, bool stashed, struct rcv_recovery *report);
/* access_make_room -- what else this thread has in the arena gives way: 0, or why it cannot. */
int  access_make_room(rcv_arena *a, uint64_t me);

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
void txn_pool_free(rcv_arena *a);   /* at close */
void txn_forget_all(rcv_arena *a);  /* after a fork, in the child */
void txn_step_lost(rcv_arena *a);   /* the thread inside a step has ended: forget the step, doom its transaction. With the GIL */
void txn_end_after(rcv_txn *t);     /* the operation is over that its end waited for */
int txn_doomed_error(const rcv_txn *t); /* raises what a doomed or ended transaction raises */
int txn_not_mounted(const rcv_txn *t);  /* raises what a write raises that would go past the lock */
/* txn_is_inside -- may it write? Asked before each store that nothing was logged for yet, and each allocation. */
static inline bool txn_is_inside(const rcv_txn *t)
{
    return likely(t->arena->mounted == t) && likely(t->arena->step_thread == os_thread_id());
}
int  vec_grow(void **data, uint64_t *capacity, uint64_t need, size_t item); /* os_realloc by doubling; RCV_ERR_FULL */

/* -- value.c: cells ------------------------------------------------------------------------------------------ */

int  cell_make(rcv_txn *t, const struct rcv_value *value, struct rcv_cell *out); /* allocates a blob if it must */
int  cell_read(rcv_arena *a, const struct rcv_cell *cell, struct rcv_value *out);
int  cell_give(rcv_arena *a, rcv_off owner, const struct rcv_cell *cell, struct rcv_value *out); /* for a reader: checks more */
bool cell_holds(const struct rcv_cell *cell, const struct rcv_value *value); /* this container, already */
int  cell_drop(rcv_txn *t, const struct rcv_cell *cell); /* it is being overwritten: free its blob, detach its container */
/* cell_set -- replace the cell at `at`, in container `owner` at its `slot`, with a value: all of it or nothing. */
int  cell_set(rcv_txn *t, rcv_off owner, rcv_off slot, rcv_off at, const struct rcv_value *value);

/* -- container.c: what all containers share -------------------------------------------------------------------- */

struct rcv_container *container_at(rcv_arena *a, rcv_off off, unsigned kind); /* NULL: no container of that kind (0: any) there */
int container_init(rcv_txn *t, rcv_off off, unsigned kind);                   /* fresh memory */
int container_adopt(rcv_txn *t, rcv_off child, rcv_off parent, rcv_off slot); /* RCV_ERR_MISUSE if it has a parent */
int container_detach(rcv_txn *t, rcv_off child);
/* container_lineage -- is it there: are it and all it lies in not cut off? `t`: it has read the identity of each, once an epoch.
 * RCV_ERR_STALE, RCV_ERR_CORRUPT; NULL: a read outside transactions, lock held. */
int container_lineage(rcv_arena *a, rcv_txn *t, rcv_off off);
/* container_used -- the same of one that raw writes went into, although the transaction itself may have deleted it since. */
int container_used(rcv_txn *t, rcv_off off);
uint64_t container_size(unsigned kind);

/* -- table.c: a growing table of words --------------------------------------------------------------------------- */

/* table_word -- offset of word `i`, or 0: there is none (damage, where one must be). */
rcv_off table_word(rcv_arena *a, const struct rcv_table *table, uint64_t i);
/* table_init -- fresh memory: an empty table whose words lie in itself (`off`: where the table is). */
void table_init(struct rcv_table *table, rcv_off off);
/* table_widen -- make room for word number `used`, whose value is undefined, without counting it as used. `kind` and `flags`
 * say how the change is logged and its memory allocated: RCV_U_STRUCT with RCV_I_TRANSIENT, or RCV_U_DATA with 0. */
int table_widen(rcv_txn *t, rcv_off off, unsigned kind, unsigned flags);
/* table_reclaim -- free the nodes, from the last one down; `budget` counts them. */
/* table_pop -- one word less in use; a node that becomes empty is freed. */
int table_pop(rcv_txn *t, rcv_off off, unsigned kind);
int table_reclaim(rcv_txn *t, rcv_off off, uint32_t *budget, bool *done);
static inline rcv_off *word_at(rcv_arena *a, rcv_off off) { return (rcv_off *)(void *)(a->mem + off); } /* checked before */

/* -- dict.c ------------------------------------------------------------------------------------------------------ */

int dict_relink(rcv_txn *t, rcv_off d, rcv_off entry); /* resume: put an inserted entry into its bucket again */
int dict_cut(rcv_txn *t, rcv_off d, rcv_off entry);    /* resume: take a deleted one out again */
int dict_apply_insert(rcv_txn *t, rcv_off d, rcv_off entry); /* commit: order list */
int dict_apply_delete(rcv_txn *t, rcv_off d, rcv_off entry); /* commit: order list, free */
int dict_reclaim(rcv_txn *t, rcv_off d, uint32_t *budget, bool *done); /* free some of a detached Dict's entries */

/* -- list.c deque.c record.c ------------------------------------------------------------------------------------------- */

int list_reclaim(rcv_txn *t, rcv_off list, uint32_t *budget, bool *done);
int deque_reclaim(rcv_txn *t, rcv_off deque, uint32_t *budget, bool *done);
int record_reclaim(rcv_txn *t, rcv_off record, uint32_t *budget, bool *done);

/* -- array.c ----------------------------------------------------------------------------------------------------- */

int  array_reclaim(rcv_txn *t, rcv_off array);

/* -- reclaim.c: freeing detached containers in slices ---------------------------------------------------------- */

int  reclaim_push(rcv_txn *t, rcv_off container); /* at commit */
void reclaim_slice(rcv_arena *a);                 /* at a boundary (lock held, IDLE): a small commit of its own */

/* -- fault.c ------------------------------------------------------------------------------------------------------ */

extern uint64_t rcv_fault_bias;   /* added to each size that is asked for: 0, or more than there ever is while room is watched */
extern unsigned rcv_fault_phases; /* not 0: phases are watched */
bool fault_room(const char *name); /* the slow path of who found no room for size + rcv_fault_bias: is there to be none? */
void fault_phase(int kind, const char *name);
void fault_ended(void); /* a transaction has ended */

/* How often each of these asks. benchmarks/faults.py builds the core with 0, which is as if there were none, and with many:
 * the difference is what they cost, which is too little to be seen otherwise. */
#ifndef RCV_FAULT_HOOKS
#define RCV_FAULT_HOOKS 1
#endif
#if RCV_FAULT_HOOKS == 1
static inline uint64_t fault_bias(void) { return rcv_fault_bias; }
static inline bool     fault_watched(void) { return unlikely(rcv_fault_phases); }
#else
static inline uint64_t fault_bias(void)
{
    uint64_t bias = 0;
    for (unsigned n = RCV_FAULT_HOOKS; n-- > 0;)
        bias |= *(volatile uint64_t *)&rcv_fault_bias;
    return bias;
}
static inline bool fault_watched(void)
{
    bool on = false;
    for (unsigned n = RCV_FAULT_HOOKS; n-- > 0;)
        if (unlikely(*(volatile unsigned *)&rcv_fault_phases))
            on = true;
    return on;
}
#endif

/* -- crashpoint.c -------------------------------------------------------------------------------------------------- */

#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS
void rcv_crashpoint(const char *name);
int  rcv_fail_now(int kind); /* 1: this call is to fail */
bool rcv_mutated(const char *name);
#define CRASHPOINT(name) rcv_crashpoint(name)
#define FAIL_NOW(kind) rcv_fail_now(kind)
#define MUTATED(name) unlikely(rcv_mutated(name)) /* a defect that a test has asked for: does exploration find it? */
#else
#define CRASHPOINT(name) ((void)0)
#define FAIL_NOW(kind) 0
#define MUTATED(name) 0
#endif

/* PHASE -- a crash point that every build has: where a step, a commit or a recovery goes from one phase to the next. */
#define PHASE(name)                                    \
    do {                                               \
        CRASHPOINT(name);                              \
        if (fault_watched())                           \
            fault_phase(RCV_FAULT_PHASE, name);        \
    } while (0)

#endif
