/* lock.c -- the arena's lock: a robust, error-checking, process-shared mutex in the segment.
 *
 * Robust: the kernel marks it when its owner's *thread* dies, and the next one to lock it is told so and recovers.
 * Never waited for while holding the GIL: the holder may be a thread of this process that needs the GIL to go on. So
 * lock_take() only tries, RCV_ERR_AGAIN goes up to the bindings, and they call rcv_lock_wait() without the GIL. That one
 * waits and *keeps* the lock for its thread (`prelocked`), so that the second try can't lose against a third party.
 */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(pthread_mutex_t) <= 64, "has its room in the header");

#ifdef __GLIBC__
#define HAVE_CLOCKLOCK __GLIBC_PREREQ(2, 30)
#else
#define HAVE_CLOCKLOCK 0
#endif

#define WAIT_STEP_NS 1000000L /* between two tries for the flock, which has no timed version */
#define WAIT_MAX 1e9          /* seconds: longer is for ever */

/* lock_init -- make the mutex anew, whatever its bytes were: only while nobody else is attached. */
int lock_init(rcv_arena *a)
{
    pthread_mutexattr_t attr;
    int                 err = pthread_mutexattr_init(&attr);
    if (err != 0)
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't prepare its mutex", a->name);
    err = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    err = err != 0 ? err : pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    err = err != 0 ? err : pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    if (err == 0) {
        memset(a->hdr->lock.room, 0, sizeof a->hdr->lock.room);
        err = pthread_mutex_init(&a->hdr->lock.mutex, &attr);
    }
    pthread_mutexattr_destroy(&attr);
    return err == 0 ? 0 : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't make its mutex", a->name);
}

/* join_after_fork -- a forked child's first use: a slot of its own, under the flock, before it touches the mutex; a
 * process that is not in the table may find the mutex being made anew. RCV_ERR_AGAIN: somebody is attaching. */
static int join_after_fork(rcv_arena *a)
{
    int own = -1; /* a->fd's description is shared with the parent, and so would be its flock */
    int err = os_reopen(a->fd, &own);
    if (err != 0)
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't open it again after a fork", a->name);
    int rc = flock(own, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    if (rc != 0)
        rc = rc == EWOULDBLOCK || rc == EINTR ? RCV_ERR_AGAIN
                                              : rcv_raise(RCV_ERR_OS, rc, "arena \"%s\": can't lock its object", a->name);
    else
        rc = process_join(a);
    close(own); /* and the flock with it */
    return rc;
}

/* lock_failed -- trylock or a wait said `err`, not held: the code for it. */
static int lock_failed(rcv_arena *a, int err)
{
    switch (err) {
    case EBUSY:
        return RCV_ERR_AGAIN;
    case EDEADLK:
        return rcv_raise(RCV_ERR_MISUSE, 0,
                         "arena \"%s\": this thread is inside a step of it already, through another Arena object", a->name);
    case ENOTRECOVERABLE: /* a recoverer of another version gave up on it */
        atomic_store(&a->hdr->corrupt, 1);
        return seg_corrupt(a, "its mutex was given up");
    default:
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't lock it", a->name);
    }
}

/* lock_mend -- the mutex is held, but its owner had died, or the segment is not at rest: recover. 0: held and at rest;
 * else not held, and the next one to lock it tries again or finds the mark. */
static int lock_mend(rcv_arena *a, int err)
{
    int rc = recover(a, &a->repaired);
    if (rc == 0 && a->repaired.happened) {
        a->recovered = a->repaired; /* arena.recovered tells of it, too */
        a->untold = true;
    }
    CRASHPOINT("lock.before_consistent");
    /* Only now: killed before it, the next locker is told of a dead owner again. After it, the phase tells. */
    if (err == EOWNERDEAD)
        pthread_mutex_consistent(&a->hdr->lock.mutex);
    CRASHPOINT("lock.after_consistent");
    if (rc != 0)
        pthread_mutex_unlock(&a->hdr->lock.mutex);
    return rc;
}

/* lock_slow -- everything but a free lock on a segment at rest. */
static int __attribute__((noinline)) lock_slow(rcv_arena *a, int err)
{
    if (err != 0 && err != EOWNERDEAD)
        return lock_failed(a, err);
    int rc = lock_mend(a, err);
    if (rc == 0)
        atomic_store_explicit(&a->hdr->holder, a->token, memory_order_relaxed);
    return rc;
}

/* lock_take -- 0: held, IDLE. RCV_ERR_AGAIN: held by another. RCV_ERR_CORRUPT and the rest: not held. */
int lock_take(rcv_arena *a)
{
    struct rcv_header *h = a->hdr;
    int                err;
    if (unlikely(a->needs_slot)) {
        int rc = join_after_fork(a);
        if (rc != 0)
            return rc;
    }
    uint64_t prelocked = atomic_load_explicit(&a->prelocked, memory_order_relaxed);
    if (unlikely(prelocked != 0) && prelocked == os_thread_id()) {
        atomic_store_explicit(&a->prelocked, 0, memory_order_relaxed);
        err = a->prelock_rc;
    } else {
        err = pthread_mutex_trylock(&h->lock.mutex);
    }
    if (unlikely(err != 0))
        return lock_slow(a, err);
    if (unlikely(atomic_load_explicit(&h->phase, memory_order_relaxed) != RCV_IDLE || undo_tail(a) != 0 ||
                 atomic_load_explicit(&h->corrupt, memory_order_relaxed) != 0))
        return lock_slow(a, 0);
    atomic_store_explicit(&h->holder, a->token, memory_order_relaxed);
    return 0;
}

/* lock_drop -- let go; the phase must be IDLE (else the next one recovers). */
void lock_drop(rcv_arena *a)
{
    atomic_store_explicit(&a->hdr->holder, 0, memory_order_relaxed);
    pthread_mutex_unlock(&a->hdr->lock.mutex);
}

/* deadline_after -- that many seconds from now on the monotonic clock. */
static struct timespec deadline_after(double seconds)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    if (!(seconds > 0)) /* NaN, too */
        seconds = 0;
    if (seconds > WAIT_MAX)
        seconds = WAIT_MAX;
    time_t whole = (time_t)seconds;
    at.tv_sec += whole;
    at.tv_nsec += (long)((seconds - (double)whole) * 1e9);
    if (at.tv_nsec >= 1000000000L) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000L;
    }
    return at;
}

static bool is_past(const struct timespec *at)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > at->tv_sec || (now.tv_sec == at->tv_sec && now.tv_nsec >= at->tv_nsec);
}

/* mutex_wait -- lock until then: 0, EOWNERDEAD, ETIMEDOUT, … A wait that a signal interrupts goes on by itself. */
static int mutex_wait(pthread_mutex_t *mutex, const struct timespec *deadline)
{
#if HAVE_CLOCKLOCK
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, deadline);
#else /* no monotonic wait in this libc: try, and sleep a little */
    int err;
    while ((err = pthread_mutex_trylock(mutex)) == EBUSY) {
        if (is_past(deadline))
            return ETIMEDOUT;
        nanosleep(&(struct timespec){0, WAIT_STEP_NS}, NULL);
    }
    return err;
#endif
}

/* flock_wait -- until nobody is attaching (a forked child's join): 0 or ETIMEDOUT, or another errno. Keeps nothing. */
static int flock_wait(rcv_arena *a, const struct timespec *deadline)
{
    int own = -1;
    int err = os_reopen(a->fd, &own);
    if (err != 0)
        return err;
    while (flock(own, LOCK_EX | LOCK_NB) != 0) {
        err = errno;
        if (err != EWOULDBLOCK && err != EINTR)
            break;
        if (is_past(deadline)) {
            err = ETIMEDOUT;
            break;
        }
        err = 0;
        nanosleep(&(struct timespec){0, WAIT_STEP_NS}, NULL);
    }
    close(own);
    return err;
}

/* raise_busy -- RCV_ERR_BUSY that names who holds it, as far as the hints in the header tell. */
static int raise_busy(rcv_arena *a)
{
    uint64_t                  token = atomic_load(&a->hdr->holder);
    const struct rcv_process *p = process_of(a, token);
    char                      who[32] = "an unknown process", handler[RCV_HANDLER_NAME];
    if (p != NULL)
        snprintf(who, sizeof who, "process %llu", (unsigned long long)p->pid);
    memcpy(handler, a->hdr->holder_handler, sizeof handler); /* it may change under us: a hint, cut to its room */
    handler[sizeof handler - 1] = '\0';
    return rcv_raise(RCV_ERR_BUSY, 0,
                     "arena \"%s\" could not be had within %.3g s: %s%s holds it%s%s; nothing was changed; a step must not "
                     "block: move slow work behind an await, or raise busy_timeout",
                     a->name, a->busy_timeout, who, token != 0 && token == a->token ? " (this one, another thread)" : "",
                     handler[0] != '\0' ? ", last running " : "", handler);
}

/* rcv_lock_wait -- wait for the lock and keep it for this thread's next lock_take. Without the GIL; may be called again.
 * RCV_ERR_BUSY: not held. */
int rcv_lock_wait(rcv_arena *a)
{
    uint64_t me = os_thread_id();
    if (atomic_load(&a->prelocked) == me)
        return 0;
    struct timespec deadline = deadline_after(a->busy_timeout);
    atomic_fetch_add(&a->waiters, 1);
    int rc = 0, err;
    if (a->needs_slot) { /* not in the table yet: hands off the mutex; lock_take will join and try it */
        err = flock_wait(a, &deadline);
        if (err != 0)
            rc = err == ETIMEDOUT ? rcv_raise(RCV_ERR_BUSY, 0, "arena \"%s\": another process has been attaching to it for "
                                              "%.3g s; nothing was changed", a->name, a->busy_timeout)
                                  : lock_failed(a, err);
    } else {
        err = mutex_wait(&a->hdr->lock.mutex, &deadline);
        if (err == 0 || err == EOWNERDEAD) {
            a->prelock_rc = err; /* ours to write: whoever writes it holds the lock */
            atomic_store(&a->prelocked, me);
        } else {
            rc = err == ETIMEDOUT ? raise_busy(a) : lock_failed(a, err);
        }
    }
    atomic_fetch_sub(&a->waiters, 1);
    return rc;
}
