/* lock.c -- the arena's lock: a word in the segment that says whose it is.
 *
 * What we want: one lock over threads and processes, in any PID namespace; a few instructions where nobody else wants it; and
 * whoever dies with it, at whatever instruction, holds nobody up for longer than a glance, and never loses it alive.
 *
 * What does not work: a robust mutex of the C library. It knows its owner by a thread id, which another namespace has as well:
 * there, a living owner is "us", or dead. And it is not fair (queue.c).
 *
 * What does: the word holds the owner's *token*, which is never given again. Free to owned, owned to free, dead owner to new
 * owner: each is one compare-and-swap from exactly the word that was judged, so there is nothing half-done to clean up, and
 * nobody can take what has moved on meanwhile. An owner is dead if
 *   - its process is: process.c says so, for certain or not at all. Nobody is woken by that; who waits looks (queue.c);
 *   - or its thread has ended, in a living process: thread_ends() says so in the word itself (RCV_ORPHAN).
 * Which thread of the process it is, is the process's own affair: `lock_thread`, in its memory, 0 whenever the word is not ours.
 * It is set after the word is taken and cleared before it is dropped. To find it set after taking the word therefore means that a
 * step of this process was lost, and what process memory still says of that step is forgotten (txn_step_lost).
 *
 * Never waited for while holding the GIL: the holder may be a thread of this process that needs the GIL to go on. So
 * lock_take() only tries, RCV_ERR_AGAIN goes up to the bindings, and they call rcv_lock_wait() without the GIL. That one
 * waits and *keeps* the lock for its thread (`prelocked`), so that the second try can't lose against a third party.
 *
 * A forked child has another token, and joins the table before it touches the word: it never holds its parent's lock.
 */
#include "segment.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define FLOCK_STEP_NS 1000000L /* between two tries for the flock, which has no timed version */

/* -- threads -------------------------------------------------------------------------------------------------- */

/* This thread's number, once thread_ends() is going to be called for it; else 0. */
static _Thread_local uint64_t watched __attribute__((tls_model("initial-exec")));
static pthread_key_t          watch_key;
static int                    watch_error;

/* abandon -- this thread ends: what it holds of that arena is for anybody to take, and to repair. */
static void abandon(rcv_arena *a)
{
    uint64_t me = os_thread_id(), own = me;
    if (!atomic_compare_exchange_strong(&a->lock_thread, &own, RCV_THREAD_ENDED))
        return;
    (void)atomic_compare_exchange_strong(&a->prelocked, &me, 0);
    a->above->thread_ended(a);
    held_no_more(a);
    CRASHPOINT("lock.abandon");
    uint64_t word = atomic_load(&a->hdr->lock.owner);
    while ((word & ~RCV_WAITED) == a->token)
        if (atomic_compare_exchange_weak(&a->hdr->lock.owner, &word, word | RCV_ORPHAN))
            break;
}

/* thread_ends -- the key's destructor. Without the GIL, so it touches only what is made for that. Whoever waits looks soon. */
static void thread_ends(void *unused)
{
    (void)unused;
    watched = 0; /* a destructor after ours may lock again, and we are called again */
    registry_hold(abandon);
}

static void make_key(void) { watch_error = pthread_key_create(&watch_key, thread_ends); }

int lock_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    return watch_error;
}

/* watch_this_thread -- its number, and its end is watched from now on. 0: no memory for that. */
static uint64_t __attribute__((noinline)) watch_this_thread(void)
{
    if (pthread_setspecific(watch_key, &watch_key) != 0)
        return 0;
    return watched = os_thread_id();
}
static inline uint64_t this_thread(void) { return likely(watched != 0) ? watched : watch_this_thread(); }

static int no_watch(void) { return rcv_raise(RCV_ERR_FULL, ENOMEM, "no process memory to notice the end of this thread"); }

void lock_forget_thread(void) { watched = os_thread = 0; }

void lock_after_fork(rcv_arena *a)
{
    atomic_store(&a->lock_thread, 0);
    atomic_store(&a->step_lost, false);
    atomic_store(&a->prelocked, 0);
    atomic_store(&a->waiters, 0);
    atomic_store(&a->may_yield, false);
    held_after_fork(a);
}

/* hold -- the word is ours: so is the lock, of this thread. Set before: a step of this process was lost. */
static void hold(rcv_arena *a, uint64_t me)
{
    uint64_t was = atomic_load(&a->lock_thread);
    if (was != 0 && was != me)
        atomic_store(&a->step_lost, true); /* first: who sees the new thread sees this, too */
    atomic_store(&a->lock_thread, me);
}

/* -- dead owners ----------------------------------------------------------------------------------------------------- */

/* unlock_unmended -- what is there could not be repaired: the next one tries again. */
static void unlock_unmended(rcv_arena *a)
{
    held_no_more(a);
    atomic_store(&a->lock_thread, 0);
    atomic_store(&a->hdr->lock.owner, a->token | RCV_WAITED | RCV_ORPHAN);
}

/* lock_mend -- the lock is held, but its last owner had died, or the segment is not at rest: recover. Killed in here, the next one
 * finds a dead owner again. On failure it is not held. */
static int lock_mend(rcv_arena *a)
{
    int rc = recover(a, &a->repaired);
    if (rc != 0) {
        unlock_unmended(a);
        return rc;
    }
    if (a->repaired.happened) {
        a->recovered = a->repaired; /* arena.recovered tells of it, too */
        a->unreported = true;
    }
    CRASHPOINT("lock.mended");
    return 0;
}

/* lock_slow -- the word is ours, and not all is well; or perhaps. */
static int __attribute__((noinline)) lock_slow(rcv_arena *a, uint64_t me, bool dead)
{
    const struct rcv_header *h = a->hdr;
    if (unlikely(me == 0)) {
        held_no_more(a);
        (void)queue_pass(a);
        return no_watch();
    }
    hold(a, me);
    if (atomic_exchange(&a->step_lost, false))
        a->above->step_lost(a);
    if (dead || atomic_load(&h->phase) != RCV_IDLE || undo_tail(a) != 0 || atomic_load(&h->corrupt) != 0)
        return lock_mend(a);
    return 0;
}

/* -- taking it --------------------------------------------------------------------------------------------------- */

/* join_after_fork -- a forked child's first use: a slot of its own, under the flock, before it touches the lock; a
 * process that is not in the table may find the lock being made anew. RCV_ERR_AGAIN: somebody is attaching. */
static int __attribute__((noinline)) join_after_fork(rcv_arena *a)
{
    int own = -1; /* the arena's description is shared with the parent, and so would be its flock */
    int err = object_open(a, &own);
    if (err == EACCES || err == EPERM) /* it has changed its user since */
        return rcv_raise(RCV_ERR_PERMISSION, err,
                         "arena \"%s\" was opened before a fork, and this process, of user %u, may not open it again; "
                         "nothing was changed; open it after the fork, as its user", a->name, (unsigned)geteuid());
    if (err != 0)
        return err == EBADF ? object_lost(a) : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't open it again after a fork", a->name);
    int rc = flock(own, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    if (rc != 0)
        rc = rc == EWOULDBLOCK || rc == EINTR ? RCV_ERR_AGAIN
                                              : rcv_raise(RCV_ERR_OS, rc, "arena \"%s\": can't lock its object", a->name);
    else
        rc = process_join(a);
    close(own); /* and the flock with it */
    return rc;
}

/* held_here -- does this thread hold it already, through whatever object? With the GIL. */
static bool held_here(uint64_t owner, uint64_t me)
{
    for (rcv_arena *a = registry_first(); a != NULL; a = a->next)
        if (a->token == owner && atomic_load(&a->lock_thread) == me)
            return true;
    return false;
}

/* lock_contended -- the word was not 0: kept for us, a dead owner's, or another's. */
static int __attribute__((noinline)) lock_contended(rcv_arena *a, uint64_t me, uint64_t word)
{
    uint64_t owner = word & RCV_OFFERED ? 0 : word & RCV_TOKEN;
    if (owner == a->token && !(word & RCV_ORPHAN)) {
        if (me != 0 && atomic_load(&a->prelocked) == me) {
            atomic_store(&a->prelocked, 0);
            return lock_slow(a, me, a->prelocked_dead);
        }
        if (atomic_load(&a->lock_thread) != me)
            return RCV_ERR_AGAIN;
    }
    if (lock_seize(a, word)) {
        held_from_here(a);
        return lock_slow(a, me, true);
    }
    if (owner != 0 && (owner == a->token || (me != 0 && held_here(owner, me))) && !(word & RCV_ORPHAN))
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "arena \"%s\": this thread is inside a step of it already, through another Arena object", a->name);
    return RCV_ERR_AGAIN;
}

/* lock_take -- 0: held, IDLE. RCV_ERR_AGAIN: held by another. RCV_ERR_CORRUPT and the rest: not held. */
int lock_take(rcv_arena *a)
{
    struct rcv_header *h = a->hdr;
    if (unlikely(a->needs_slot)) {
        int rc = join_after_fork(a);
        if (rc != 0)
            return rc;
    }
    uint64_t word = 0, me = this_thread();
    if (unlikely(!atomic_compare_exchange_strong_explicit(&h->lock.owner, &word, a->token, memory_order_acquire,
                                                          memory_order_relaxed)))
        return lock_contended(a, me, word);
    CRASHPOINT("lock.taken");
    held_from_here(a);
    if (unlikely(me == 0 || atomic_load_explicit(&a->lock_thread, memory_order_relaxed) != 0 ||
                 atomic_load_explicit(&h->phase, memory_order_relaxed) != RCV_IDLE || undo_tail(a) != 0 ||
                 atomic_load_explicit(&h->corrupt, memory_order_relaxed) != 0))
        return lock_slow(a, me, false);
    atomic_store_explicit(&a->lock_thread, me, memory_order_relaxed);
    return 0;
}

/* -- dropping it --------------------------------------------------------------------------------------------------- */

static int __attribute__((noinline)) not_held(rcv_arena *a)
{
    return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": this thread does not hold its lock; nothing was changed", a->name);
}

/* lock_drop -- let go; the phase must be IDLE (else the next one recovers). */
int lock_drop(rcv_arena *a)
{
    uint64_t word = a->token;
    if (unlikely(watched == 0 || atomic_load_explicit(&a->lock_thread, memory_order_relaxed) != watched))
        return not_held(a);
    CRASHPOINT("lock.before_drop");
    held_no_more(a);
    atomic_store_explicit(&a->lock_thread, 0, memory_order_relaxed);
    if (likely(atomic_compare_exchange_strong_explicit(&a->hdr->lock.owner, &word, 0, memory_order_release,
                                                       memory_order_relaxed)))
        return 0;
    return queue_pass(a);
}

/* lock_adopt -- see segment.h. */
int lock_adopt(rcv_arena *a)
{
    uint64_t me = this_thread(), holder = atomic_load(&a->lock_thread);
    if (holder == me && me != 0)
        return 0;
    if (a->mounted == NULL && a->readers == 0)
        return not_held(a);
    if (me == 0)
        return no_watch();
    if (holder != 0 && holder != RCV_THREAD_ENDED && !atomic_load(&a->step_lost) &&
        atomic_compare_exchange_strong(&a->lock_thread, &holder, me)) {
        if (a->mounted != NULL)
            a->step_thread = me;
        if (a->readers != 0)
            a->reader_thread = me;
        return 0;
    }
    atomic_store(&a->step_lost, false);
    a->above->step_lost(a);
    holder = RCV_THREAD_ENDED;
    (void)atomic_compare_exchange_strong(&a->lock_thread, &holder, 0);
    return rcv_raise(RCV_ERR_CLOSED, 0, "arena \"%s\": the thread that was inside its step has ended; the step is undone", a->name);
}

/* lock_give_back -- see segment.h. */
void lock_give_back(rcv_arena *a)
{
    if (likely(atomic_load_explicit(&a->prelocked, memory_order_relaxed) == 0))
        return;
    if (atomic_load(&a->prelocked) == os_thread_id() && lock_take(a) == 0)
        (void)lock_drop(a);
}

/* -- waiting for it --------------------------------------------------------------------------------------------------- */

/* flock_wait -- until nobody is attaching (a forked child's join): 0 or ETIMEDOUT, or another errno. Keeps nothing. */
static int flock_wait(rcv_arena *a, double seconds)
{
    uint64_t begun = os_nanos();
    int      own = -1, err = object_open(a, &own);
    if (err != 0)
        return err;
    while (flock(own, LOCK_EX | LOCK_NB) != 0) {
        err = errno;
        if (err != EWOULDBLOCK && err != EINTR)
            break;
        err = 0;
        if ((double)(os_nanos() - begun) > seconds * 1e9) {
            err = ETIMEDOUT;
            break;
        }
        nanosleep(&(struct timespec){0, FLOCK_STEP_NS}, NULL);
    }
    close(own);
    return err;
}

int rcv_lock_holder(const rcv_arena *a, struct rcv_holder *out)
{
    uint64_t token = lock_owner(a);
    process_name(a, token, out);
    if (token == 0)
        return 0;
    memcpy(out->handler, a->hdr->holder_handler, sizeof out->handler - 1);
    return 1;
}

/* rcv_lock_busy -- RCV_ERR_BUSY that says who holds it, as far as that can be told. */
int rcv_lock_busy(rcv_arena *a)
{
    uint64_t                  token = lock_owner(a);
    const struct rcv_process *p = process_of(a, token);
    char                      who[80] = "it changed hands all the time", handler[RCV_HANDLER_NAME], where[200] = "";
    struct rcv_slow_step      at;
    memcpy(handler, a->hdr->holder_handler, sizeof handler); /* it may change under us: a hint, cut to its room */
    handler[sizeof handler - 1] = '\0';
    if (token != 0 && token == a->token)
        snprintf(who, sizeof who, "another thread of this process (%llu) holds it", (unsigned long long)getpid());
    else if (p != NULL)
        snprintf(who, sizeof who, "process %llu%s holds it", (unsigned long long)p->pid,
                 p->space == process_space() || p->space == 0 ? "" : " of another PID namespace");
    else if (token != 0)
        snprintf(who, sizeof who, "a process that is not in its table holds it");
    if (stuck_read(a, &at))
        snprintf(where, sizeof where, ", for %.3g s now, at %.*s", (double)at.millis / 1000,
                 at.text[0] != '\0' ? (int)strcspn(at.text, "\n") : 14, at.text[0] != '\0' ? at.text : "an unknown line");
    return rcv_raise(RCV_ERR_BUSY, 0,
                     "arena \"%s\" could not be acquired within %.3g s: %s%s%s%s; nothing was changed; a step must not block: move "
                     "slow work behind an await, or raise busy_timeout", a->name, a->busy_timeout, who,
                     handler[0] != '\0' ? "; its last step was of " : "", handler, where);
}

int lock_wait(rcv_arena *a, double seconds, bool before, uint64_t begun, struct rcv_holder *longest, int (*yield)(rcv_arena *a))
{
    uint64_t me = this_thread();
    int      rc = 0, err;
    bool     dead = false;
    if (me == 0)
        return no_watch();
    if (atomic_load(&a->prelocked) == me)
        return 0;
    atomic_fetch_add(&a->waiters, 1);
    if (a->needs_slot) { /* not in the table yet: hands off the lock; lock_take will join and try it */
        err = flock_wait(a, seconds);
        if (err == ETIMEDOUT)
            rc = rcv_raise(RCV_ERR_BUSY, 0, "arena \"%s\": another process has been attaching to it for %.3g s; nothing was "
                           "changed", a->name, seconds);
        else if (err != 0)
            rc = rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't lock its object", a->name);
    } else if (queue_wait(a, seconds, before, &dead, longest, yield) != 0) {
        rc = rcv_lock_busy(a);
    } else {
        a->prelocked_dead = dead; /* whoever writes this holds the lock */
        held_waited(a, os_nanos() - begun);
        held_from_here(a); /* others wait from here on */
        hold(a, me);
        atomic_store(&a->prelocked, me);
    }
    atomic_fetch_sub(&a->waiters, 1);
    return rc;
}

/* rcv_lock_wait -- wait for the lock and keep it for this thread's next lock_take. Without the GIL; may be called again.
 * RCV_ERR_BUSY: not held. */
int rcv_lock_wait(rcv_arena *a, struct rcv_holder *longest) { return rcv_lock_wait_yielding(a, longest, NULL); }

int rcv_lock_wait_yielding(rcv_arena *a, struct rcv_holder *longest, int (*yield)(rcv_arena *a))
{
    uint64_t begun = os_nanos();
    int      rc = lock_wait(a, a->busy_timeout, false, begun, longest, yield);
    if (rc == RCV_ERR_BUSY)
        held_waited(a, os_nanos() - begun); /* in vain, but it has waited */
    return rc;
}
