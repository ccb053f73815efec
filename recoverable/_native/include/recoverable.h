/* recoverable.h -- the C interface of the core: what ctypes and the Cython modules call.
 *
 * Conventions
 *   - Functions return 0 (or a count) on success, a negative `enum rcv_error` on failure. After a failure
 *     rcv_error_text() says what happened, in this thread, in one line.
 *   - Segment state is guarded by the arena's lock (a word in the segment). Process state -- everything
 *     behind the opaque structs -- is guarded by the GIL: every function here is called with it, except
 *     rcv_lock_wait() and rcv_watch_end(), which are the only ones that wait and the only ones to be called without it.
 *   - A *transaction* is mounted while its writes are in the arena: from the first touch of a step to its end.
 *     Mounted = this thread holds the lock. At any other moment the arena holds committed state only.
 */
#ifndef RECOVERABLE_H
#define RECOVERABLE_H

#include "counters.h"

#include <stddef.h>
#include <stdint.h>

#define RCV_API __attribute__((visibility("default")))
#define RCV_HANDLER_NAME 40u /* bytes kept of a handler's name, its NUL included */

typedef uint64_t         rcv_off;
typedef struct rcv_arena rcv_arena;
typedef struct rcv_txn   rcv_txn;

/* -- errors --------------------------------------------------------------------------------------------- */

enum rcv_error {
    RCV_OK = 0,
    RCV_ERR_NOTFOUND = -1,   /* no such arena */
    RCV_ERR_FULL = -2,       /* no memory in the arena, or behind it */
    RCV_ERR_CORRUPT = -3,    /* the segment is damaged */
    RCV_ERR_VERSION = -4,    /* a segment of another format */
    RCV_ERR_PERMISSION = -5, /* a segment of another user */
    RCV_ERR_BUSY = -6,       /* the lock could not be acquired in time */
    RCV_ERR_CONFLICT = -7,   /* the transaction read what another has changed since; it is doomed */
    RCV_ERR_STALE = -8,      /* the handle's container is gone */
    RCV_ERR_CLOSED = -9,     /* the transaction or the arena has ended */
    RCV_ERR_NOTXN = -10,     /* a write outside a transaction */
    RCV_ERR_MISUSE = -11,    /* the call does not fit the state; the text says how */
    RCV_ERR_OS = -12,        /* a system call failed; rcv_error_errno() */
    RCV_ERR_AGAIN = -13,     /* the lock is held by another: call rcv_lock_wait() without the GIL, then again */
    RCV_ERR_BUG = -14,       /* an invariant of ours is broken: please report */
    RCV_ERR_STRAY = -15,     /* a thread stored through a raw view of the transaction while it waited; it is doomed */
    RCV_ERR_HELD = -16,      /* others hold the lock for long; the transaction is doomed, and its run is to begin again later */
    RCV_ERR_TOO_LONG = -17   /* the watchdog has stopped its step; it is doomed */
};

RCV_API const char *rcv_error_text(void);
RCV_API int         rcv_error_errno(void);

/* -- arenas: arena.c, process.c, recover.c -------------------------------------------------------------- */

struct rcv_policy_option { /* of a working-set policy: which there are says wse_*.c, and the error for a wrong name */
    const char *name;
    double      value;
};

struct rcv_stream { /* a recorded run: which pages of the data region were written, step by step */
    uint32_t        n;     /* steps */
    const uint32_t *ends;  /* by step: where its pages end; those of the first begin at 0 */
    const uint32_t *pages; /* each page once a step */
};

struct rcv_open_options {
    uint64_t    size;      /* ceiling of the data region in bytes; 0 when attaching: take what is there */
    uint64_t    undo_size; /* ceiling of the undo log; 0: chosen from size */
    int         create;    /* may format an object that has no magic */
    int         trap_mode; /* containers write through the tracked view (tracking="trap") */
    const char *policy;    /* "adaptive", "incremental", "full", "active-rnd", "active-cks", "genetic", "oracle" */
    double      busy_timeout; /* seconds to wait for the lock */
    const char *name;      /* for messages */
    const struct rcv_policy_option *policy_options;
    const struct rcv_stream        *recording; /* what "oracle" replays, else NULL; read while opening only */
    uint32_t                        n_policy_options;
};

struct rcv_recovery { /* what an attach (or the death of a lock holder) undid; all 0 = nothing to undo */
    uint32_t happened;
    uint32_t phase;    /* the phase that the dead process left */
    uint64_t records;  /* undo records applied */
    uint64_t bytes;    /* bytes put back */
    uint64_t pages;    /* pages put back from pre-images and shadows */
    uint64_t chunks;   /* heap chunks returned that dead processes had reserved */
    uint64_t micros;
    char     handler[RCV_HANDLER_NAME]; /* what the dead process was running, as far as known */
    uint64_t pid;         /* of the process that left it, or 0 */
};

/* rcv_open -- make or attach the segment behind `fd`, which the caller holds an flock on; recovers if need be.
 * Opens the object behind fd for itself. On failure nothing is mapped and the segment is as it was, or half-made (no magic). */
RCV_API int rcv_open(int fd, const struct rcv_open_options *options, rcv_arena **out);
/* rcv_close -- roll back what is in flight, give back the slot, unmap. RCV_ERR_MISUSE while raw buffers live. */
RCV_API int rcv_close(rcv_arena *a);
RCV_API const struct rcv_recovery *rcv_recovered(const rcv_arena *a);
RCV_API void rcv_get_recovered(const rcv_arena *a, struct rcv_recovery *out); /* a copy, which the arena's end leaves */
/* rcv_repair_take -- 1: since the attach, and since this was last asked, this process found a lock whose owner had died and
 * repaired what it left; rcv_recovered() has the (last) report. With the GIL, as all that locks. */
RCV_API int rcv_repair_take(rcv_arena *a);
/* rcv_orphaned -- 1: the segment's name does not lead to it any more: it was removed, or replaced. What this process has open
 * works as before, but whoever opens the name now gets another arena. 0 also where that can't be told. */
RCV_API int rcv_orphaned(rcv_arena *a);
/* rcv_orphan_take -- 1: that was found, by this process, and has not been asked for since. */
RCV_API int rcv_orphan_take(rcv_arena *a);
/* rcv_pending -- is there anything that rcv_repair_take, rcv_orphan_take or rcv_take_strays would tell? Looks at the name from
 * time to time. */
RCV_API int rcv_pending(rcv_arena *a);
RCV_API int rcv_created(const rcv_arena *a); /* 1: this open made the segment */
/* rcv_processes -- processes attached to the segment: writes up to `max` pids, returns how many are alive. */
RCV_API int rcv_processes(rcv_arena *a, uint64_t *pids, int max);

struct rcv_peer { /* a slot of the process table that is or was in use */
    uint64_t pid, attached_at; /* seconds since the epoch */
    uint64_t alive;            /* 0: it died without closing, and nobody has taken the slot since */
    uint64_t foreign;          /* 1: `pid` is of another PID namespace than ours */
};
#define RCV_PEERS 128u

#define RCV_TIME_CLASSES 24u
struct rcv_times {
    uint64_t count, nanos;               /* how many, and all of them together */
    uint64_t in_class[RCV_TIME_CLASSES]; /* how many took less than 256 ns << class, and not less than that of the class before */
};
struct rcv_lock_times { /* by all processes, since the segment was made */
    struct rcv_times held;   /* how long the lock was: an estimate from a sample, which count is the whole of */
    struct rcv_times waited; /* how long it was waited for, where it could not be had at once */
};

struct rcv_peek { /* what can be told of a segment from outside */
    uint64_t size, claimed, used, reserved, overhead; /* as in struct rcv_stats */
    uint64_t commit_seq, recoveries, recovered_at /* seconds since the epoch, 0: never */;
    uint64_t hot_pages, uid, phase, cuts;
    uint64_t backed[4][2]; /* offset and length of what has to have memory behind it */
    uint64_t holder; /* pid of the process inside a step at this moment, or 0 */
    uint64_t peers;  /* how many of peer[] */
    struct rcv_peer peer[RCV_PEERS];
    char     handler[RCV_HANDLER_NAME]; /* what the last holder of the lock ran, if it said so */
    struct rcv_lock_times lock;
};
/* rcv_peek -- read header and tables of the segment behind `fd` (open for reading) without attaching: it stores nothing, takes
 * no lock, and nobody notices it. So numbers that belong together may be from different moments. Not-found: half-made. */
RCV_API int rcv_peek(int fd, const char *name, struct rcv_peek *out);

/* An image: the committed state of a segment that others may be working in, for reading only. It takes no lock and no slot
 * and stores nothing, so nobody notices it. `fd` is open for reading and stays the caller's, open until rcv_image_close. What
 * comes out serves as an arena to whatever reads outside a transaction, and to rcv_image_* alone otherwise.
 *
 * A read is an attempt: take; read; if the image grew meanwhile, what was read may be of two moments and counts for nothing
 * (an error of it neither): take and read again. If it did not, all that was read is of the moment of the take. */
RCV_API int      rcv_image_open(int fd, const char *name, rcv_arena **out); /* not-found: half-made */
RCV_API void     rcv_image_close(rcv_arena *a);
/* rcv_image_take -- fetch every page that has been met, all of one moment. RCV_ERR_BUSY: there was none within `nanos`. */
RCV_API int      rcv_image_take(rcv_arena *a, uint64_t nanos);
RCV_API uint64_t rcv_image_grew(const rcv_arena *a); /* pages met since the take */
RCV_API int      rcv_image_full(const rcv_arena *a); /* 1: there were more than it can hold; the rest reads as zero */
RCV_API void     rcv_image_forget(rcv_arena *a);     /* forget which pages were met: the next read is of something else */

struct rcv_stats {
#define X(name, type, metric, help) uint64_t name;
    RCV_STATS(X)
#undef X
};
enum rcv_stat_type { RCV_STAT_HIDDEN, RCV_STAT_GAUGE, RCV_STAT_TOTAL };
struct rcv_stat_info { /* of a member of struct rcv_stats */
    const char *name, *metric, *help; /* metric "": it is none */
    int         type;                 /* enum rcv_stat_type */
};
RCV_API const struct rcv_stat_info *rcv_stat_info(unsigned i); /* of the i-th; NULL: there are no more */

/* -- recordings, and policies in shadow: recording.c, replay.c -- */

struct rcv_recording {
    struct rcv_stream stream;    /* steps that had to do with raw writes, and the pages that each wrote */
    const uint32_t   *handlers;  /* by step: the number of its handler's name */
    const char       *names;     /* RCV_HANDLER_NAME bytes each, ended by 0 */
    uint32_t          n_names;
    uint32_t          truncated; /* 1: no memory, or too long: the steps after it are missing */
};
/* Recording costs some nanoseconds a written page. Like the other calls on an arena: not while another thread of this process
 * is inside a step. RCV_ERR_MISUSE: it is being recorded already. */
RCV_API int rcv_recording_begin(rcv_arena *a, int announced); /* `announced`: also the pages that announced writes change, and fresh memory */
RCV_API const struct rcv_recording *rcv_recording_get(rcv_arena *a); /* so far, until the next step; NULL: not recording */
RCV_API void rcv_recording_end(rcv_arena *a);

struct rcv_costs { /* nanoseconds, of one page */
    uint64_t trap, protect, compare, copy;
};

struct rcv_replay_setup {
    const char                     *policy;
    const struct rcv_policy_option *options;
    const struct rcv_stream        *stream;
    struct rcv_costs                costs;
    uint32_t                        n_options;
    uint32_t                        pages;       /* those of the stream are below it */
    uint32_t                        comparisons; /* of a hot page in a step: 2 while raw buffers live on between steps, else 1 */
    const uint32_t                 *handlers;    /* by step: a number; NULL: no profiles */
};

struct rcv_replay {
    uint64_t traps, protects, compares, copies;
    uint64_t vain;                  /* hot pages that a step did not write, over all steps */
    uint64_t promotions, demotions, most_hot;
    uint64_t ns;                    /* what that costs */
    uint64_t policy_ns;             /* measured: the policy itself and the counting */
    uint64_t captures, captures_vain; /* pages captured by profiles, and those that were not written */
};
/* rcv_replay -- let a policy decide on a recorded run. `by_step`: NULL, or room for each step's ns. */
RCV_API int rcv_replay(const struct rcv_replay_setup *setup, struct rcv_replay *out, uint64_t *by_step);
/* rcv_optimum -- what the run costs at best, in the same model; the policy and its options are not looked at. `on_demand`: where a
 * page becomes hot only at the end of a step that wrote it. */
RCV_API int rcv_optimum(const struct rcv_replay_setup *setup, int on_demand, uint64_t *ns);

struct rcv_profile { /* of a handler: capture.c, profile.c */
    char     handler[RCV_HANDLER_NAME], route[RCV_HANDLER_NAME];
    uint64_t step;                         /* which of its requests' steps, from 0; 3: all from there */
    uint64_t steps, known, predicted;      /* learned from; pages known, and those that the next one will capture */
    uint64_t captured, vain;               /* so far: pages made writable ahead, and those of them that were not written */
};
/* rcv_profiles -- keep profiles of handlers, or (0) forget them and capture nothing; negative: only tell. 1: they are kept. Not
 * while another thread is inside a step. RCV_ERR_FULL: no memory, and none are kept. */
RCV_API int rcv_profiles(rcv_arena *a, int on);
/* rcv_profiles_ask -- does it matter which route a transaction came by (rcv_txn_route)? Not where nothing can trap: containers
 * announce what they write. */
RCV_API int rcv_profiles_ask(const rcv_arena *a);
#define RCV_PROFILES 128u
RCV_API int rcv_profiles_read(rcv_arena *a, struct rcv_profile *out, int max); /* writes up to `max`, returns how many there are */

/* rcv_policy_default -- of a policy's option; RCV_ERR_MISUSE: there is no such policy or option, the text lists those there are. */
RCV_API int rcv_policy_default(const char *policy, const char *option, double *out);
RCV_API int rcv_get_stats(rcv_arena *a, struct rcv_stats *out);

struct rcv_verify_report {
    uint64_t containers, entries, blocks, bytes, leaked_blocks, leaked_bytes, hot_pages;
};
/* rcv_verify -- walk everything under the lock; RCV_ERR_CORRUPT with the path of the first damage in the text. */
RCV_API int rcv_verify(rcv_arena *a, struct rcv_verify_report *out);
/* rcv_measure -- bytes of the blocks that a container and all that it holds take. Under rcv_access, outside transactions; as
 * long as the container is large, so rather on a copy. */
RCV_API int rcv_measure(rcv_arena *a, rcv_off off, uint64_t *bytes);

/* -- the lock: lock.c --------------------------------------------------------------------------------------- */

/* rcv_lock_wait -- wait for the lock at most busy_timeout, WITHOUT the GIL; the lock is kept for this thread's next
 * call that wants it. Touches no process state. */
RCV_API int rcv_lock_wait(rcv_arena *a);
/* rcv_get_lock_times -- for how long it is held and waited for; without the lock, so what is being added may be there by half. */
RCV_API void rcv_get_lock_times(const rcv_arena *a, struct rcv_lock_times *out);
RCV_API int rcv_lock_busy(rcv_arena *a); /* the RCV_ERR_BUSY of one that has waited for that long otherwise */

/* Where an event loop must go on: brief.c. rcv_lock_wait_briefly -- rcv_lock_wait(), but RCV_ERR_AGAIN after some
 * milliseconds, or at once where the lock is known to be stuck; `patient`: some more of them. rcv_lock_is_free -- a hint.
 * rcv_lock_moves -- changes when a step that has written ends. rcv_lock_is_stuck -- somebody here has waited in vain just now.
 * rcv_lock_waited -- somebody has waited for it otherwise. */
RCV_API int rcv_lock_wait_briefly(rcv_arena *a, int patient);
RCV_API uint64_t rcv_lock_moves(const rcv_arena *a);
RCV_API int rcv_lock_is_stuck(const rcv_arena *a);
RCV_API int rcv_lock_is_free(rcv_arena *a);
RCV_API void rcv_lock_waited(rcv_arena *a, uint64_t nanos);

/* -- transactions: txn.c ------------------------------------------------------------------------------------ */

enum rcv_txn_flags {
    RCV_TXN_ONE_STEP = 1 /* never suspended: arena.transaction(); its reads need not be recorded */
};
enum rcv_txn_state { RCV_ACTIVE, RCV_DOOMED, RCV_COMMITTED, RCV_ROLLED_BACK };

/* rcv_txn_new -- a transaction that has touched nothing; `handler` is kept for messages (copied, cut). */
RCV_API int  rcv_txn_new(rcv_arena *a, unsigned flags, const char *handler, rcv_txn **out);
/* rcv_txn_new_named -- the same for a handler whose name was cut before, by rcv_name_set, and `out` is where its owner keeps it
 * (rcv_txn_owned): what a request begins with. */
struct rcv_name {
    char text[RCV_HANDLER_NAME]; /* filled up with zeros */
};
RCV_API void rcv_name_set(struct rcv_name *to, const char *name);
RCV_API int  rcv_txn_new_named(rcv_arena *a, unsigned flags, const struct rcv_name *handler, rcv_txn **out);
RCV_API void rcv_txn_free(rcv_txn *t); /* rolls back first if need be; in the middle of an operation: at the end of that */
/* rcv_txn_owned -- where its owner keeps the pointer: NULL is stored there when it is freed, by whomever. */
RCV_API void rcv_txn_owned(rcv_txn *t, rcv_txn **place);
/* rcv_txn_each -- the transactions in flight, the youngest first: the first after `t`, or of all (NULL). rcv_txn_place -- what
 * rcv_txn_owned has said. rcv_txn_step -- which of its steps that use the arena, from 1. */
RCV_API rcv_txn  *rcv_txn_each(const rcv_arena *a, const rcv_txn *t);
RCV_API rcv_txn **rcv_txn_place(const rcv_txn *t);
RCV_API uint32_t  rcv_txn_step(const rcv_txn *t);
RCV_API int  rcv_txn_forked(const rcv_txn *t); /* the process was forked from the one that it goes on in */
RCV_API int  rcv_txn_state(const rcv_txn *t);
RCV_API int  rcv_txn_touched(const rcv_txn *t); /* has it ever been mounted */
RCV_API int  rcv_txn_wrote(const rcv_txn *t);
RCV_API int  rcv_txn_mounted(const rcv_txn *t);
/* rcv_txn_lock_held -- has it been here before, so that it will want the lock again, which another one has now? */
RCV_API int  rcv_txn_lock_held(const rcv_txn *t);

/* rcv_txn_mount -- make its writes visible to this thread: lock, validate, put the stash back. No-op if mounted.
 * RCV_ERR_AGAIN: wait. RCV_ERR_CONFLICT: it is doomed now. A transaction of this thread that is mounted is suspended. */
RCV_API int rcv_txn_mount(rcv_txn *t);
/* rcv_txn_suspend -- the end of a step: stash its writes, undo them, unlock. No-op if not mounted. A failure dooms it. */
RCV_API int rcv_txn_suspend(rcv_txn *t);
/* rcv_txn_commit -- the end of the last step. Mounts if it must (so RCV_ERR_AGAIN is possible). On any other failure it
 * has been rolled back. */
RCV_API int rcv_txn_commit(rcv_txn *t);
/* rcv_txn_rollback -- cannot fail; legal in every state, and in any thread. May need the lock: RCV_ERR_AGAIN never, it holds it
 * already whenever it has anything in the arena. In the middle of one of its operations it can only roll back from now on,
 * and does at the operation's end. */
RCV_API void rcv_txn_rollback(rcv_txn *t);

struct rcv_txn_report { /* of an ended or doomed transaction */
    uint64_t pages, bytes, records; /* undone or committed */
    uint64_t micros;                /* the rollback itself; the commit itself where rcv_meter() is on */
    uint64_t nanos;                 /* all its checkpoints: entering its steps, leaving them, its end; where rcv_meter() is on */
    uint64_t held;                  /* nanoseconds that its steps held the lock; of those that are timed */
    uint64_t traps;                 /* first raw writes of its steps that faulted */
    /* a conflict: where */
    uint64_t conflict_container; /* offset, 0 = unknown */
    uint64_t conflict_id;        /* that container's id */
    uint32_t conflict_kind;      /* enum rcv_unit */
    uint64_t conflict_arg;       /* key hash, page, … */
    char     winner[RCV_HANDLER_NAME];         /* handler that committed first, or "" */
};
RCV_API void rcv_txn_get_report(const rcv_txn *t, struct rcv_txn_report *out);
/* rcv_meter -- whether transactions take the time of what they do: four clock readings for a step. Of the process. */
RCV_API void rcv_meter(int on);
RCV_API int rcv_txn_doom_code(const rcv_txn *t); /* the error that doomed it, or 0 */
RCV_API const char *rcv_doom_text(int code); /* of RCV_ERR_STRAY and RCV_ERR_STALE: what the trap handler could not raise. Else NULL */
/* rcv_txn_doom -- mark it so that it can only roll back (the caller has found it unfit). */
RCV_API void rcv_txn_doom(rcv_txn *t, int error);

/* rcv_txn_inside -- it is an independent one inside `parent`: what it commits does not make its parent's reads invalid; what
 * its parent has written it may not write (RCV_ERR_MISUSE at the store). Right after rcv_txn_new. */
RCV_API void rcv_txn_inside(rcv_txn *t, rcv_txn *parent);

/* rcv_txn_route -- by which route (its last 39 bytes, the method among them) the request came: its handler has a working set for
 * each. Right after rcv_txn_new. */
RCV_API void rcv_txn_route(rcv_txn *t, const char *route);

/* rcv_privilege_take -- one of these: from now on, commits that would make it invalid are to wait (rcv_must_wait); another has
 * the privilege, ask again; its handler is not one that would need it. rcv_must_wait -- 1: do not commit yet, ask again; it has
 * been suspended. */
enum rcv_privilege { RCV_AWAIT_PRIVILEGE = 0, RCV_PRIVILEGED = 1, RCV_NO_PRIVILEGE = 2 };
RCV_API int rcv_privilege_take(rcv_txn *t);
RCV_API int rcv_must_wait(rcv_txn *t);
RCV_API int rcv_privileged_here(const rcv_arena *a); /* is it one of this process? */
RCV_API double rcv_busy_timeout(const rcv_arena *a);

/* A place in the queue of those who have lost at a spot, in all processes: whoever has it asks now and then whether its turn
 * has come. rcv_turn_draw -- 1: it has one, to be dropped; 0: the table is full, and nothing is to be waited for.
 * rcv_turn_come -- 0: ask again. rcv_turn_stands -- is it still there, and nobody has taken its number away? rcv_turn_drop --
 * without effect after the first time, and in a forked child. rcv_turn_queue -- how many of the living stand there.
 * rcv_turn_queues -- … anywhere, and in the longest queue. */
struct rcv_turn { /* process memory of who waits */
    uint64_t unit, number;
    uint64_t seen, since; /* whom it waits for, and since when */
    uint64_t hangs;       /* the process whose number it has taken away last … */
    uint32_t times;       /* … and how often, one after the other */
    uint64_t forks;
    uint32_t place;
    uint32_t elsewhere; /* the one that it waits for is of another process */
};
RCV_API int  rcv_turn_draw(rcv_arena *a, uint64_t unit, struct rcv_turn *turn);
RCV_API int  rcv_turn_come(rcv_arena *a, struct rcv_turn *turn);
RCV_API int  rcv_turn_stands(rcv_arena *a, const struct rcv_turn *turn);
RCV_API void rcv_turn_drop(rcv_arena *a, struct rcv_turn *turn);
RCV_API int  rcv_turn_queue(const rcv_arena *a, uint64_t unit);
RCV_API int  rcv_turn_queues(const rcv_arena *a, int *longest);

/* Whom somebody waits for, as far as it can be told without waiting: a hint. 0: nobody. rcv_turn_name -- whose turn it is. */
struct rcv_holder {
    uint64_t pid; /* as its own PID namespace has it; 0: not known */
    char     handler[RCV_HANDLER_NAME]; /* "": not known */
};
RCV_API int  rcv_lock_holder(const rcv_arena *a, struct rcv_holder *out);
RCV_API int  rcv_privilege_holder(const rcv_arena *a, struct rcv_holder *out);
RCV_API int  rcv_turn_holder(rcv_arena *a, const struct rcv_turn *turn, struct rcv_holder *out); /* who is next there, before it */
RCV_API void rcv_turn_name(rcv_arena *a, const struct rcv_turn *turn, const char *handler);

RCV_API uint64_t rcv_commits(const rcv_arena *a); /* since it was made, in all processes */

/* rcv_unit -- what stands for the place of a conflict, as a report has it. */
RCV_API uint64_t rcv_unit(uint64_t id, unsigned kind, uint64_t arg);

struct rcv_hotspot { /* where transactions of this process have lost conflicts */
    uint64_t container, id; /* as in struct rcv_txn_report */
    uint64_t kind, arg;
    uint64_t count, error; /* at most count conflicts, at least count - error */
};
#define RCV_HOTSPOTS 64u
/* rcv_spot_queue -- how many stand there, for that place or for all of its container. */
RCV_API int rcv_spot_queue(const rcv_arena *a, const struct rcv_hotspot *spot);
RCV_API int rcv_hotspots(const rcv_arena *a, struct rcv_hotspot *out, int room); /* how many stand out; unsorted */

RCV_API const char *rcv_board_name(unsigned i); /* of the i-th count of a handler; NULL: there are no more */
struct rcv_handler_counts { /* of all processes, since the segment was made; what they are says enum rcv_board_count */
    uint64_t count[9];
    uint64_t rest;        /* 1: of all those handlers that found no row of their own */
    char     handler[RCV_HANDLER_NAME]; /* as the segment has it: may be anything */
};
struct rcv_board_seen {
    uint64_t                  rows, spots;
    struct rcv_handler_counts row[64];
    struct rcv_hotspot        spot[32];
    uint64_t                  queue[32]; /* rcv_spot_queue() of each */
};
#define RCV_NOTE_TEXT 488u
struct rcv_note_seen { /* of a request in flight: text of its process, which may be anything */
    uint32_t teller, size;
    char     text[RCV_NOTE_TEXT];
};
struct rcv_teller {
    uint64_t pid, token, answers, in_flight; /* the token tells apart those that have one id, each in its own PID namespace */
    uint64_t foreign, own; /* 1: that id is of another PID namespace; 1: it is this process */
};
struct rcv_notes_seen {
    uint64_t             tellers, notes;
    struct rcv_teller    teller[RCV_PEERS];
    struct rcv_note_seen note[64];
};
/* rcv_peek_notes -- the last answers of the processes that tell of their requests; with `ask`, after having asked them to. As
 * rcv_peek. rcv_notes_ask, rcv_notes_see -- the same for who is attached. */
RCV_API int  rcv_peek_notes(int fd, const char *name, int ask, struct rcv_notes_seen *out);
RCV_API void rcv_notes_ask(rcv_arena *a);
RCV_API void rcv_notes_see(const rcv_arena *a, struct rcv_notes_seen *out);
/* A thread that answers: rcv_notes_listen(1); then again and again rcv_notes_seen(); rcv_notes_await() without the GIL,
 * between rcv_use and rcv_unuse: returns when somebody has asked, at some time after rcv_notes_seen(); rcv_notes_tell(): how
 * many of them had room. */
/* rcv_own_threads -- how many threads of the library's Python has, after a change: they store nothing through raw buffers. */
RCV_API int      rcv_own_threads(int change);
RCV_API void     rcv_own_threads_forked(void); /* in the child: none */
RCV_API int      rcv_notes_listen(rcv_arena *a, int on); /* 0: a forked child that has not used the arena yet */
RCV_API uint32_t rcv_notes_seen(const rcv_arena *a);
RCV_API void     rcv_notes_await(rcv_arena *a, uint32_t seen);
RCV_API int      rcv_notes_tell(rcv_arena *a, const char *const *texts, const uint32_t *sizes, uint32_t n, uint64_t in_all);

/* rcv_peek_board -- what came of each handler's runs and where conflicts were lost, read as rcv_peek does. */
RCV_API int rcv_peek_board(int fd, const char *name, struct rcv_board_seen *out);

struct rcv_mark { /* a savepoint */
    uint64_t undo_tail, intents;
    uint64_t mounting; /* good for this one only */
    uint64_t depth, held; /* of savepoints, of operations that were going on */
};
RCV_API int  rcv_savepoint(rcv_txn *t, struct rcv_mark *out);
/* They end in reverse order, in the thread and the step that they began in. RCV_ERR_MISUSE: this is another moment; the
 * transaction can only roll back, and has nothing in the arena any more. */
RCV_API int  rcv_rollback_to(rcv_txn *t, const struct rcv_mark *mark);
RCV_API int  rcv_release(rcv_txn *t, const struct rcv_mark *mark); /* keep what was done since */
/* rcv_txn_strand -- the same for a transaction that was left where it can't go on. */
RCV_API void rcv_txn_strand(rcv_txn *t);

/* rcv_op_begin / rcv_op_fail -- an operation of several stores: its own start, and the way back to it. */
RCV_API void rcv_op_begin(rcv_txn *t, struct rcv_mark *out);
RCV_API void rcv_op_fail(rcv_txn *t, const struct rcv_mark *mark);

/* Who is running in this thread: a stack of frames, one for each step or block that is under way, whose last is always the
 * same: nobody. `context` is the identity of the task's contextvars.Context: an eager task or a callback in the same thread
 * has another one and is outside. A frame names its transaction by where its owner keeps the pointer (rcv_txn_owned), so it
 * never points at one that has ended. Who leaves a frame that is not on top of his own thread's stack can't take it off:
 * he marks it, and it counts no more. */
struct rcv_frame {
    rcv_txn *const   *txn;
    void             *context;
    void             *owner; /* the caller's own object for it */
    struct rcv_frame *below;
    int               left;
};
RCV_API struct rcv_frame **rcv_current(void); /* the top of this thread's stack, for the caller to change */
RCV_API void rcv_frame_init(struct rcv_frame *f, rcv_txn *const *txn, void *context, void *owner); /* txn: NULL for nobody's */
RCV_API void rcv_frame_leave(struct rcv_frame *f);
RCV_API uint64_t rcv_thread(void);

/* rcv_access -- the gate of every operation on an arena.
 *   inside a transaction of this arena: mounts it, *out = it
 *   outside, reading: takes the lock (suspending a mounted transaction of this thread), *out = NULL; pair it with
 *   rcv_access_end()
 *   outside, writing: RCV_ERR_NOTXN                        RCV_ERR_AGAIN: rcv_lock_wait() without the GIL, then again */
RCV_API int  rcv_access(rcv_arena *a, void *context, int write, rcv_txn **out);
RCV_API int  rcv_access_end(rcv_arena *a, rcv_txn *t); /* t: what rcv_access gave. RCV_ERR_BUG, RCV_ERR_MISUSE: the lock was not ours any more */

/* rcv_hold / rcv_unhold -- around code of users that runs in the middle of an operation, between two calls of the core for it.
 * Meanwhile the operation's transaction stays mounted: whoever would have it give way gets RCV_ERR_MISUSE, and who ends it
 * ends it with the operation. Then, or where the process was forked meanwhile, rcv_unhold says RCV_ERR_CLOSED, and the
 * operation must touch neither the transaction nor the arena any more. rcv_unhold takes what rcv_hold gave. */
RCV_API uint64_t rcv_hold(rcv_arena *a);
RCV_API int      rcv_unhold(rcv_arena *a, uint64_t held);
RCV_API int      rcv_held(const rcv_arena *a); /* is an operation of this thread going on? */
/* rcv_use / rcv_unuse -- around rcv_lock_wait, with the GIL: the arena can't be closed meanwhile. rcv_wait_over -- the lock that
 * rcv_lock_wait keeps is not wanted after all. */
RCV_API void rcv_use(rcv_arena *a);
RCV_API void rcv_unuse(rcv_arena *a);
RCV_API void rcv_wait_over(rcv_arena *a);

/* -- containers: handles ------------------------------------------------------------------------------------- */

enum rcv_unit { RCV_UNIT_KEY = 1, RCV_UNIT_IDENTITY, RCV_UNIT_MEMBERSHIP, RCV_UNIT_CONTENT, RCV_UNIT_SHAPE, RCV_UNIT_PAGE, RCV_UNIT_BYTES };

struct rcv_handle {
    rcv_off  off;
    uint64_t id;
    uint64_t serial; /* the transaction that last checked it, and its epoch then: process state */
    uint64_t epoch;
};

struct rcv_value { /* a value on its way in or out */
    uint8_t        tag;  /* enum rcv_tag */
    uint64_t       word; /* INT, FLOAT bits, REF offset */
    const uint8_t *ptr;  /* STR, BYTES, BIGINT, CUSTOM; on the way out it points into the arena: copy before unlocking */
    uint64_t       len;
};

struct rcv_key {
    uint8_t        tag;  /* as given */
    uint8_t        kind; /* canonical */
    const uint8_t *ptr;  /* canonical bytes */
    uint32_t       len;
    uint64_t       hash; /* rcv_key_hash() */
};

RCV_API void    rcv_key_hash(const rcv_arena *a, struct rcv_key *key);
RCV_API rcv_off rcv_root(rcv_arena *a); /* 0: not made yet */
RCV_API int     rcv_root_make(rcv_txn *t);
/* rcv_handle_open -- fill a handle for the container at `off`; returns its enum rcv_container_kind. Under rcv_access. */
RCV_API int rcv_handle_open(rcv_arena *a, rcv_off off, struct rcv_handle *out);
/* rcv_handle_check -- is the container still there, for this transaction (NULL: committed state)? Records the read of its
 * identity and its ancestors' the first time. Under rcv_access. */
RCV_API int rcv_handle_check(rcv_arena *a, rcv_txn *t, struct rcv_handle *h);
/* rcv_begin -- rcv_access() and rcv_handle_check() in one call. On anything but 0 the access has ended. */
RCV_API int rcv_begin(rcv_arena *a, void *context, int write, struct rcv_handle *h, rcv_txn **out);
/* rcv_container_slot -- parent and slot of a container, for naming its path. */
RCV_API int rcv_container_slot(rcv_arena *a, rcv_off off, rcv_off *parent, rcv_off *slot, uint64_t *id);

/* What each container can do is in a header of its own: containers/. */

/* The system Dict: a hidden one beside the root, made at the first need. 0: not made yet. */
RCV_API rcv_off rcv_system(rcv_arena *a);
RCV_API int     rcv_system_make(rcv_txn *t);

/* -- raw access: memory that user code, and any thread of it, writes at its own pace. */
struct rcv_raw {
    void *at;
    void *view; /* whose memory it is: the core's */
};
RCV_API void *rcv_tracked(rcv_arena *a, rcv_off off); /* where readers outside a transaction find it */
RCV_API void  rcv_raw_viewed(rcv_arena *a, rcv_off array); /* a buffer of this Array is being made */
/* rcv_raw_acquire -- a buffer that the mounted transaction's user code can write through now lives, until rcv_raw_release.
 * RCV_ERR_FULL: too many transactions have live ones. */
RCV_API int  rcv_raw_acquire(rcv_txn *t, rcv_off off, struct rcv_raw *out);
RCV_API void rcv_raw_release(rcv_arena *a, struct rcv_raw *raw);
RCV_API void rcv_raw_threads(rcv_arena *a); /* there are other threads, which may hold raw addresses longer than buffers live */
RCV_API uint64_t rcv_raw_count(const rcv_arena *a);
/* rcv_edit -- let a range of the items be written through the transaction's view by system calls, too, until its step ends.
 * rcv_release() ends it: like a savepoint, in the same step and thread, and in order. */
RCV_API int rcv_edit(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, struct rcv_mark *out);

/* -- the tracker: what Python asks of it ------------------------------------------------------------------- */

struct rcv_stray { /* a raw write outside any step, taken back */
    uint64_t page;   /* offset in the segment */
    uint64_t address;
    int32_t  kind;   /* 0: trapped before it reached the arena; 1: found on a hot page and put back */
};
/* rcv_take_strays -- the strays noticed since the last call; returns how many were written to `out`. */
RCV_API int rcv_take_strays(rcv_arena *a, struct rcv_stray *out, int max);
RCV_API int rcv_strays_pending(const rcv_arena *a);
/* rcv_handler_mend -- is the SIGSEGV handler still ours? If another has displaced it, chain to that one and put ours
 * back: 1 if it had to. */
RCV_API int rcv_handler_mend(void);
RCV_API int rcv_handler_installed(void);

/* -- faults on demand: fault.c ------------------------------------------------------------------------------- */
/* -- the watchdog: watch.c, stuck.c ---------------------------------------------------------------------------------- */

enum rcv_watch_stage { RCV_W_FINE, RCV_W_SLOW, RCV_W_STOP, RCV_W_AGAIN, RCV_W_ENDING, RCV_W_END };
#define RCV_STUCK_TEXT 2016u

struct rcv_slow_step { /* what the step that holds an arena is at, in whatever process */
    uint64_t pid, millis;
    char     handler[RCV_HANDLER_NAME];
    char     text[RCV_STUCK_TEXT]; /* the line of code, then the stack, the innermost frame first; "": not known */
};
struct rcv_overdue { /* a step of this process that has taken long */
    uint64_t  mounting, millis;
    uint64_t  thread; /* as Python knows it, 0: it can't be found */
    rcv_txn **place;  /* of the transaction's owner, where `current` */
    unsigned  stage, told; /* what it has come to; what has been done of it */
    int       current;     /* 0: it is over */
    char      handler[RCV_HANDLER_NAME];
    char      text[RCV_STUCK_TEXT]; /* as of a slow step, if it had to be found out without the GIL */
};

/* rcv_watch_limit -- how long a step may hold that arena; 0: as long as it likes; at twice that the process `ends`.
 * rcv_watch_begin -- start the thread that watches, or have it look again. tell() is called without the GIL, in a thread of
 * its own, when rcv_watch_due has something for an arena; withdraw(ident) with the GIL, when a step ends that rcv_watch_stop
 * has stopped. rcv_watch_end -- stop it; without the GIL. */
RCV_API void   rcv_watch_limit(rcv_arena *a, double seconds, int ends);
RCV_API double rcv_watch_limit_of(const rcv_arena *a);
RCV_API int    rcv_watch_begin(void (*tell)(void), void (*withdraw)(uint64_t ident));
RCV_API void   rcv_watch_end(void);
/* rcv_watch_due -- is there something to do about the step that holds it, or has held it? rcv_watch_told -- all up to that
 * stage is done. rcv_watch_say -- put what it is at into the segment. rcv_watch_stop -- doom it, if it still goes on: 1, and
 * set an exception. */
RCV_API int    rcv_watch_due(rcv_arena *a, struct rcv_overdue *out);
RCV_API void   rcv_watch_told(rcv_arena *a, const struct rcv_overdue *what, unsigned stage);
RCV_API void   rcv_watch_say(rcv_arena *a, const struct rcv_overdue *what, const char *text);
RCV_API int    rcv_watch_stop(rcv_arena *a, const struct rcv_overdue *what);
/* rcv_watch_signal -- a thread that gets this signal writes its stack to this file, which nobody else has: 1; 0: it can't be used. */
RCV_API int    rcv_watch_signal(int fd, int number);
RCV_API int    rcv_signal_is_free(int number); /* nobody handles or ignores it */
RCV_API int    rcv_slow_step(const rcv_arena *a, struct rcv_slow_step *out); /* 0: nothing is known of who holds the lock */

/* What recoverable.faults is made of. Process state; off, it costs nothing. Points of a kind are counted from 1 while the
 * kind is watched. */

enum rcv_fault_kind {
    RCV_FAULT_PHASE = 1, /* a step, a commit or a recovery goes from one phase to the next */
    RCV_FAULT_ROOM,      /* room is asked for: a block of the heap, a record of the undo log */
    RCV_FAULT_STORE      /* any crash point; only test builds have them */
};
enum rcv_fault_action {
    RCV_FAULT_NONE = 0,
    RCV_FAULT_KILL, /* SIGKILL: the OOM killer's, too */
    RCV_FAULT_SEGV, /* a store to where nothing is mapped */
    RCV_FAULT_FULL  /* RCV_FAULT_ROOM only: there is none */
};
RCV_API void        rcv_fault_stop(void);           /* nothing is armed or watched any more; what was counted stays */
RCV_API void        rcv_fault_clear(void);          /* that goes, too */
RCV_API void        rcv_fault_watch(int kind);      /* count the points of that kind, from now */
RCV_API int         rcv_fault_at(int kind, uint64_t nth, int action); /* and do this at the nth; RCV_ERR_MISUSE: too many */
RCV_API int         rcv_fault_in_commit(uint64_t nth, int action);   /* die at the nth phase, or where a transaction ends before */
RCV_API uint64_t    rcv_fault_passed(int kind);
RCV_API const char *rcv_fault_name(int kind, uint64_t nth); /* of the nth that was passed; "": not kept */
RCV_API uint64_t    rcv_fault_struck(void);         /* faults that have happened in this process */
RCV_API void        rcv_fault_count(void);          /* … one more, made elsewhere */
RCV_API void        rcv_fault_die(int action);      /* now */

/* -- test builds only (-Dcrashpoints=true): crashpoint.c ----------------------------------------------------- */

RCV_API int         rcv_test_build(void);
RCV_API void        rcv_crash_at(uint64_t nth);   /* SIGKILL ourselves at the nth point from now; 0 = never */
RCV_API uint64_t    rcv_crash_count(void);        /* points passed since rcv_crash_at */
RCV_API void        rcv_crash_only(const char *name); /* count only the points of that name; NULL: all */
RCV_API const char *rcv_crash_last(void);         /* name of the last point passed */
RCV_API void        rcv_crash_note(char *buffer, size_t size); /* where the point that kills writes its name: shared memory */
enum rcv_fail_kind { RCV_FAIL_MALLOC = 1, RCV_FAIL_MPROTECT, RCV_FAIL_FALLOCATE, RCV_FAIL_MMAP, RCV_FAIL_HEAP };
RCV_API void     rcv_fail_at(int kind, uint64_t nth); /* the nth call of that kind from now fails once; 0 = never */
RCV_API uint64_t rcv_fail_count(int kind);
RCV_API const char *rcv_mutation(unsigned i);      /* name of the i-th defect that can be asked for; NULL: no more */
RCV_API int         rcv_mutate(const char *name);  /* have that defect from now, NULL: none. 1, or 0: there is no such */

#endif
