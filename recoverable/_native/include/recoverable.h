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
    RCV_ERR_ASK = -20,       /* outside of any transaction of this thread's stack, but the caller's context may have one */
    RCV_ERR_PAST = -19,      /* a write to a state of the past */
    RCV_ERR_FEED = -18,      /* the feed is full of what a sink has not taken yet */
    RCV_ERR_TOO_LONG = -17   /* the watchdog has stopped its step; it is doomed */
};

RCV_API const char *rcv_error_text(void);
RCV_API int         rcv_error_errno(void);

#include "policies.h"

/* -- arenas: arena.c, process.c, recover.c -------------------------------------------------------------- */

struct rcv_open_options {
    uint64_t    size;      /* ceiling of the data region in bytes; 0 when attaching: take what is there */
    uint64_t    undo_size; /* ceiling of the undo log; 0: chosen from size */
    uint64_t    feed_size; /* of the commit feed's ring, at least; 0: a new segment has none */
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
RCV_API int rcv_leave(rcv_arena *a); /* the same, but it stays mapped, for a thread of the core's that does not end: one of its users */
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

#include "reports.h"

/* -- the lock: lock.c --------------------------------------------------------------------------------------- */

/* rcv_lock_wait -- wait for the lock at most busy_timeout, WITHOUT the GIL; the lock is kept for this thread's next
 * call that wants it. Touches no process state. *longest, if it is not NULL: whom it has waited for the longest, if for anybody. */
struct rcv_holder;
RCV_API int rcv_lock_wait(rcv_arena *a, struct rcv_holder *longest);
/* rcv_lock_wait_yielding -- the same. Where a step of this process holds it that may give way (ambient.c), `yield` is called every few
 * milliseconds: it takes the GIL, calls rcv_ambient_yield(), and returns that. */
RCV_API int rcv_lock_wait_yielding(rcv_arena *a, struct rcv_holder *longest, int (*yield)(rcv_arena *a));
/* rcv_get_lock_times -- for how long it is held and waited for; without the lock, so what is being added may be there by half. */
RCV_API void rcv_get_lock_times(rcv_arena *a, struct rcv_lock_times *out);
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
/* rcv_txn_commit -- the end of the last step. Mounts if it must (so RCV_ERR_AGAIN is possible). RCV_ERR_FEED where it can be suspended:
 * it is, until rcv_feed_room() says that it may try again. On any other failure it has been rolled back. */
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
/* Ambient transactions: found by the context of whoever runs, in whatever thread, one of them at a time. Between two operations one
 * that is mounted gives way to all of its process, in whatever thread its step is.
 * rcv_ambient -- from now on `t` is one: until it ends, rcv_access() asks who is outside.
 * rcv_ambient_take -- its step, mounted in another thread, goes on in this one. 0: not now, in the middle of an operation or of a
 *   block; or that thread has ended.
 * rcv_ambient_yield -- one that is mounted in another thread is suspended, if it can be: 1. */
RCV_API void rcv_ambient(rcv_txn *t);
RCV_API int  rcv_ambient_take(rcv_txn *t);
RCV_API int  rcv_ambient_yield(rcv_arena *a);

RCV_API const char *rcv_doom_text(int code); /* of RCV_ERR_STRAY and RCV_ERR_STALE: what the trap handler could not raise. Else NULL */
/* rcv_txn_doom -- mark it so that it can only roll back (the caller has found it unfit). */
RCV_API void rcv_txn_doom(rcv_txn *t, int error);

/* rcv_txn_inside -- it is an independent one inside `parent`: what it commits does not make its parent's reads invalid; what
 * its parent has written it may not write (RCV_ERR_MISUSE at the store). Right after rcv_txn_new. */
RCV_API void rcv_txn_inside(rcv_txn *t, rcv_txn *parent);

/* rcv_txn_route -- by which route (its last 39 bytes, the method among them) the request came: its handler has a working set for
 * each. Right after rcv_txn_new. */
RCV_API void rcv_txn_route(rcv_txn *t, const char *route);
RCV_API void rcv_txn_rename(rcv_txn *t, const char *handler); /* whose it is has turned out now */

/* rcv_privilege_take -- one of these: from now on, commits that would make it invalid are to wait (rcv_must_wait); another has
 * the privilege, ask again; its handler is not one that would need it. rcv_must_wait -- 1: do not commit yet, ask again; it has
 * been suspended. */
enum rcv_privilege { RCV_AWAIT_PRIVILEGE = 0, RCV_PRIVILEGED = 1, RCV_NO_PRIVILEGE = 2 };
RCV_API int rcv_privilege_take(rcv_txn *t);
RCV_API int rcv_must_wait(rcv_txn *t);
RCV_API int rcv_privileged_here(const rcv_arena *a); /* is it one of this process? */
RCV_API double rcv_busy_timeout(const rcv_arena *a);

/* A place in the queue of those who have lost at a spot, in all processes: whoever has it asks now and then whether its turn
 * has come. rcv_turn_draw -- 1: it has one, to be dropped; 0: the table is full, and nothing is to be waited for. `most` may be set then.
 * rcv_turn_come -- 0: ask again. rcv_turn_stands -- is it still there, and nobody has taken its number away? rcv_turn_drop --
 * without effect after the first time, and in a forked child. rcv_turn_queue -- how many of the living stand there.
 * rcv_turn_queues -- … anywhere, and in the longest queue. */
struct rcv_turn { /* process memory of who waits */
    uint64_t unit, number;
    uint64_t seen, since; /* whom it waits for, and since when */
    uint64_t forks;
    uint64_t most;   /* ns that it waits for one that has its turn, if that is less than HOLD; 0: HOLD */
    uint64_t looked; /* when the last of them was */
    uint32_t looks;  /* at that one after that, so far */
    uint32_t taken;  /* numbers that it has taken away from those who hang */
    uint32_t before; /* of those who stand there without one, who did so before it came */
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
RCV_API void rcv_lapse(rcv_txn *t);                                 /* instead of either, where it can only roll back */
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
    void             *keeper; /* the caller's own object that the frame is in, if it goes off the stack with that; else NULL */
    struct rcv_frame *below;
    int               left;
};
RCV_API struct rcv_frame **rcv_current(void); /* the top of this thread's stack, for the caller to change */
RCV_API void rcv_frame_init(struct rcv_frame *f, rcv_txn *const *txn, void *context, void *owner); /* txn: NULL for nobody's */
RCV_API void rcv_frame_leave(struct rcv_frame *f);
RCV_API uint64_t rcv_thread(void);
RCV_API uint64_t rcv_thread_ident(uint64_t number); /* of a thread by what rcv_thread() says there: Python's; 0: not known */

/* rcv_access -- the gate of every operation on an arena.
 *   inside a transaction of this arena: mounts it, *out = it
 *   outside, reading: takes the lock (suspending a mounted transaction of this thread), *out = NULL; pair it with
 *   rcv_access_end()
 *   outside, writing: RCV_ERR_NOTXN                        RCV_ERR_AGAIN: rcv_lock_wait() without the GIL, then again
 * Where the arena has ambient ones, outside is RCV_ERR_ASK: put the context's on the stack and call it again, or
 * rcv_access_outside(). */
RCV_API int  rcv_access(rcv_arena *a, void *context, int write, rcv_txn **out);
RCV_API int  rcv_access_outside(rcv_arena *a, int write, rcv_txn **out);
RCV_API int  rcv_access_end(rcv_arena *a, rcv_txn *t); /* t: what rcv_access gave. RCV_ERR_BUG, RCV_ERR_MISUSE: the lock was not ours any more */

/* rcv_hold / rcv_unhold -- around code of users that runs in the middle of an operation, between two calls of the core for it.
 * Meanwhile the operation's transaction stays mounted: whoever would have it give way gets RCV_ERR_MISUSE, and who ends it
 * ends it with the operation. Then, or where the process was forked meanwhile, rcv_unhold says RCV_ERR_CLOSED, and the
 * operation must touch neither the transaction nor the arena any more. rcv_unhold takes what rcv_hold gave. */
RCV_API uint64_t rcv_hold(rcv_arena *a);
RCV_API int      rcv_unhold(rcv_arena *a, uint64_t held);
RCV_API int      rcv_held(const rcv_arena *a); /* is an operation of this thread going on? */
RCV_API int      rcv_in_access(const rcv_arena *a); /* … or a read outside of any transaction? */
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
RCV_API int   rcv_raw_page(const rcv_arena *a, uint64_t page, rcv_off *out); /* where the page of a unit begins: 1; 0: no Array has it */
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

#include "faults.h"
#include "watchdog.h"

#endif
