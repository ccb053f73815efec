/* flusher.c -- the thread that takes an arena's commits to its journal.
 *
 * What we want: who asks for it learns that his commit is on the disk as soon as it is, in whatever process he is; who does not ask
 * loses at most `delay` by a power loss; nobody's commit waits for a disk under the lock; and a process that dies in the middle of it
 * leaves nothing to mend.
 *
 * What does not work: writing in the request (a disk under its lock, and no two requests share an fdatasync); a thread of Python's (it
 * would wait for the GIL, which a busy server gives away each 5 ms).
 *
 * What does: a thread without Python. Each process that has the arena and its journal open has one. One of them writes: that of the
 * process that has the sink. It takes all that is there, in one batch, waits for the disk, moves the sink's cursor, and whoever waits
 * looks. While it waits for the disk the next batch comes together by itself. The others sleep; they look whether the one who writes
 * lives, and wake the loops of their own process.
 *
 *      records of the ring -> pwritev -> fdatasync -> cursor -> `taken`, and a byte into each pipe
 *
 * Killed before the cursor moves, the next one finds the batch in the file, whole or torn, and goes on from what it finds.
 *
 * A failed fdatasync ends it for all processes, and is in the segment: what the kernel has dropped can't be written again from there,
 * and a second fdatasync would say that all is well. A full disk is tried again.
 */
#include "flusher.h"
#include "internal.h"
#include "segment/segment.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define BATCH_MOST (UINT64_C(4) << 20)     /* bytes, but for a single record */
#define ALIVE UINT64_C(20000000)    /* ns: how often who waits looks whether the writer lives */
#define IDLE UINT64_C(1000000000)   /* without a commit, after which it sleeps until there is one */
#define AGAIN UINT64_C(100000000)   /* between two tries, on a full disk */
#define LAST_TRIES 10u
#define GLANCE UINT64_C(200000000)  /* between two looks of those that don't write, and that nobody waits in */

struct rcv_flusher {
    rcv_arena       *a;
    uint32_t         sink;
    uint64_t         delay, forks;
    rcv_writer      *writer; /* the thread's; NULL: it does not write */
    void            *lock;   /* of the folder; NULL: it has not got it */
    pthread_t        thread;
    bool             running;
    unsigned         tries; /* since it is to end */
    uint64_t         last;  /* up to which it writes, since then; 0: it is not to end, or there is nothing */
    _Atomic bool     ending;
    _Atomic uint32_t over;   /* futex: the thread has ended */
    _Atomic uint32_t local;  /* futex: something has changed for the thread of this process */
    struct pipes     pipes;
    pthread_mutex_t  error_lock;
    uint64_t         error_of; /* the trouble() that it tells of */
    char             error[400];
    char             where[];
};

static inline struct rcv_flushed *words(const rcv_flusher *f) { return &f->a->feed->flushed; }
static inline uint64_t            get(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_acquire); }
static inline uint64_t            durable(const rcv_flusher *f) { return get(&f->a->feed->sink[f->sink].cursor); }
static inline uint64_t            committed(const rcv_flusher *f) { return get(&f->a->feed->head); }

static bool stopped(const rcv_flusher *f) { return atomic_load(&words(f)->stopped) != 0; }

/* -- telling ------------------------------------------------------------------------------------------------------------ */

static void ring_all(rcv_flusher *f)
{
    atomic_fetch_add(&words(f)->taken, 1);
    if (atomic_load(&words(f)->following) != 0)
        os_futex_wake_all(&words(f)->taken);
    pipes_ring(&f->pipes);
}

static void ring_local(rcv_flusher *f)
{
    atomic_fetch_add(&f->local, 1);
    os_futex_wake_all(&f->local);
}

/* trouble -- what keeps it from writing, 0: nothing. */
static uint64_t trouble(const rcv_flusher *f)
{
    const uint64_t stops = atomic_load(&words(f)->stopped);
    return stops != 0 ? stops << 32 : atomic_load(&words(f)->delayed);
}

/* keep_error -- what rcv_raise() has said, for other threads, as long as that trouble lasts. */
static void keep_error(rcv_flusher *f, uint64_t of)
{
    pthread_mutex_lock(&f->error_lock);
    f->error_of = of;
    snprintf(f->error, sizeof f->error, "%s", rcv_error_text());
    pthread_mutex_unlock(&f->error_lock);
}

const char *rcv_flusher_error(rcv_flusher *f, char *out, size_t size)
{
    pthread_mutex_lock(&f->error_lock);
    const uint64_t now = trouble(f); /* another process may have met another one, or got over it */
    snprintf(out, size, "%s", now != 0 && now == f->error_of ? f->error : "");
    pthread_mutex_unlock(&f->error_lock);
    return out;
}

/* last_errno -- why, also where no system call has failed: EUCLEAN, the journal is damaged; ESTALE, it is not this arena's any more. */
static uint32_t last_errno(int rc)
{
    const int err = rcv_error_errno();
    return (uint32_t)(err != 0 ? err : rc == RCV_ERR_CORRUPT || rc == RCV_ERR_VERSION ? EUCLEAN : rc == RCV_ERR_NOTFOUND ? ESTALE : EIO);
}

/* delayed -- it could not be written now, and will be tried again. */
static void delayed(rcv_flusher *f, int rc)
{
    keep_error(f, last_errno(rc));
    atomic_store(&words(f)->delayed, last_errno(rc));
    ring_all(f);
}

/* failed -- for good: nobody's commit waits for its sink any longer. */
static void failed(rcv_flusher *f, int rc)
{
    keep_error(f, (uint64_t)last_errno(rc) << 32);
    atomic_store(&words(f)->stopped, last_errno(rc));
    atomic_store(&f->a->feed->sink[f->sink].lost, 1);
    rcv_feed_wake(f->a); /* who waits for room looks again */
    ring_all(f);
}

/* -- writing --------------------------------------------------------------------------------------------------------------- */

static void told(rcv_flusher *f, uint64_t nanos, uint64_t bytes, uint64_t records)
{
    struct rcv_flushed *w = words(f);
    unsigned            class = nanos >> 8 == 0 ? 0 : 64 - (unsigned)__builtin_clzll(nanos >> 8);
    atomic_fetch_add(&w->in_class[class < RCV_FLUSH_CLASSES ? class : RCV_FLUSH_CLASSES - 1], 1);
    atomic_fetch_add(&w->nanos, nanos);
    atomic_fetch_add(&w->bytes, bytes);
    atomic_fetch_add(&w->records, records);
    atomic_fetch_add(&w->batches, 1);
    if (nanos > get(&w->worst))
        atomic_store(&w->worst, nanos);
    atomic_store(&w->at, os_clock());
}

/* moved -- all before `position` is durable. */
static void moved(rcv_flusher *f, uint64_t position, uint64_t seq)
{
    CRASHPOINT("flusher.durable");
    (void)rcv_sink_taken(f->a, f->sink, position, seq); /* it serves it, and has taken that */
    ring_all(f);
}

/* write_some -- a batch of what there is. 0, or it has failed. */
static int write_some(rcv_flusher *f)
{
    rcv_arena     *a = f->a;
    const uint64_t from = durable(f), head = committed(f), begun = os_nanos();
    uint64_t       at = from, seq = 0, time = 0, n = 0;
    while (at < head && n < UINT32_MAX) {
        const struct rcv_commit *r = feed_record(a, at, head);
        if (r == NULL)
            return rcv_raise(RCV_ERR_CORRUPT, 0, "arena \"%s\": no record lies at %llu of its feed, where one was committed", a->name,
                             (unsigned long long)at);
        if (n > 0 && at + r->length - from > BATCH_MOST)
            break;
        at += r->length;
        seq = r->seq;
        time = r->at;
        n++;
    }
    struct rcv_journal_start now;
    rcv_writer_get(f->writer, &now);
    if (now.position != from) /* else records would be written under the name of others */
        return rcv_raise(RCV_ERR_BUG, 0, "arena \"%s\": its journal is at position %llu of the feed, and its sink at %llu", a->name,
                         (unsigned long long)now.position, (unsigned long long)from);
    int rc = rcv_writer_append(f->writer, a->ring + (from & (a->ring_size - 1)), at - from, seq, time, (uint32_t)n);
    if (rc != 0)
        return rc;
    rcv_writer_get(f->writer, &now);
    atomic_store(&words(f)->number, now.number);
    atomic_store(&words(f)->delayed, 0);
    told(f, os_nanos() - begun, at - from, n);
    moved(f, at, seq);
    return 0;
}

/* take_over -- this process has the sink: find where the one before it has stopped. 0, or it has failed. */
static int take_over(rcv_flusher *f)
{
    struct rcv_journal_start at;
    int                      rc = f->lock == NULL ? rcv_journal_lock(f->where, &f->lock) : 0;
    if (rc == 0)
        rc = rcv_writer_resume(f->where, &f->writer);
    if (rc != 0)
        return rc;
    rcv_writer_get(f->writer, &at);
    const struct rcv_feed *feed = f->a->feed;
    if (memcmp(at.id, feed->id, sizeof at.id) != 0)
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "journal \"%s\" is another arena's by now", f->where);
    if (at.epoch != get(&feed->epoch) || at.position < durable(f) || at.position > committed(f))
        return rcv_raise(RCV_ERR_NOTFOUND, 0, "journal \"%s\" does not go on from where it was: something else writes there, or has "
                         "removed files", f->where);
    atomic_store(&words(f)->number, at.number);
    if (at.position > durable(f))
        moved(f, at.position, at.seq); /* what was written and not told */
    return 0;
}

/* -- the thread ---------------------------------------------------------------------------------------------------------------- */

/* demanded -- is somebody waiting for what is to be written, or are commits soon to wait for room? */
static bool demanded(const rcv_flusher *f)
{
    const uint64_t demand = get(&words(f)->demand), from = durable(f), head = committed(f);
    return head > from && (demand > from || head - from > f->a->ring_size / 4);
}

/* rest -- until there is something to write that has waited for long enough, or is asked for. */
static void rest(rcv_flusher *f, uint64_t *busy)
{
    struct rcv_flushed *w = words(f);
    const uint32_t      asked = atomic_load(&w->asked), bell = rcv_feed_bell(f->a);
    const bool          some = committed(f) > durable(f);
    if (some)
        *busy = os_nanos();
    if (!some && rcv_writer_prepare(f->writer) == 1)
        return;
    if (!some && os_nanos() - *busy > IDLE && !atomic_load(&f->ending)) {
        rcv_feed_wait(f->a, bell, IDLE);
        *busy = os_nanos();
        return;
    }
    atomic_store(&w->asleep, 1);
    if (!demanded(f) && !atomic_load(&f->ending))
        os_futex_wait(&w->asked, asked, f->delay);
    atomic_store(&w->asleep, 0);
}

/* try_again -- after a failure that may pass, and a pause; false: it is none, or the arena is to be closed, and that has waited enough. */
static bool try_again(rcv_flusher *f, int rc)
{
    if ((rc != RCV_ERR_FULL && rc != RCV_ERR_BUSY) || (atomic_load(&f->ending) && f->tries++ >= LAST_TRIES))
        return false;
    delayed(f, rc);
    os_futex_wait(&f->local, atomic_load(&f->local), AGAIN);
    return true;
}

/* is_done -- it is to end: is all written that was committed when it learned that? What other processes commit meanwhile, one of them
 * writes; alone, this one writes all there is. */
static bool is_done(rcv_flusher *f)
{
    const uint64_t done = durable(f), head = committed(f);
    if (f->last == 0)
        f->last = head;
    return done == head || (done >= f->last && rcv_processes(f->a, NULL, 0) > 1);
}

/* serve -- it writes. Until it ends, or has failed. */
static void serve(rcv_flusher *f)
{
    uint64_t busy = os_nanos();
    int      rc = 0;
    for (uint64_t marked = 0; rc == 0 && !stopped(f);) {
        if (os_nanos() - marked > IDLE) {
            journal_touch(f->where);
            marked = os_nanos();
            if (f->writer != NULL && (rc = rcv_writer_look(f->writer)) != 0) /* nothing may be written for long */
                break;
        }
        if (unlikely(f->writer == NULL) && (rc = take_over(f)) != 0) {
            if (!try_again(f, rc))
                break;
            rc = 0;
            continue;
        }
        const bool waited = committed(f) > durable(f) && !demanded(f);
        rest(f, &busy);
        if (atomic_load(&f->ending) && is_done(f))
            return;
        if ((waited || demanded(f) || atomic_load(&f->ending)) && committed(f) > durable(f))
            rc = write_some(f);
        if (rc == 0 && f->writer != NULL)
            rcv_writer_keep_up(f->writer);
        else if (try_again(f, rc))
            rc = 0;
    }
    if (rc != 0 && rc != RCV_ERR_FULL && rc != RCV_ERR_BUSY) /* else it ends meanwhile: another one may have better luck */
        failed(f, rc);
}

/* follow -- another writes: until that is over, or something is durable that is waited for here. */
static void follow(rcv_flusher *f)
{
    struct rcv_flushed *w = words(f);
    const uint32_t      taken = atomic_load(&w->taken), local = atomic_load(&f->local);
    if (atomic_load(&f->ending))
        return;
    if (!pipes_wanted(&f->pipes)) {
        os_futex_wait(&f->local, local, GLANCE);
        return;
    }
    pipes_ring(&f->pipes);
    atomic_fetch_add(&w->following, 1);
    os_futex_wait(&w->taken, taken, ALIVE);
    atomic_fetch_sub(&w->following, 1);
    pipes_ring(&f->pipes);
}

static void let_go(rcv_flusher *f)
{
    rcv_writer_close(f->writer);
    f->writer = NULL;
    rcv_journal_unlock(f->where, f->lock);
    f->lock = NULL;
}

static void *run(void *arg)
{
    rcv_flusher *f = arg;
    for (bool last = false; !last;) {
        last = atomic_load(&f->ending); /* first: what was committed before is written */
        const int mine = stopped(f) || f->a->needs_slot ? -1 : rcv_sink_serve(f->a, f->sink);
        if (mine == 1)
            serve(f);
        else if (mine == 0 && f->lock != NULL)
            let_go(f); /* another one has the sink, and needs the folder, too */
        else if (!last)
            follow(f);
    }
    if (f->writer != NULL && !stopped(f))
        (void)rcv_writer_end(f->writer);
    let_go(f);
    sink_leave(f->a, f->sink); /* where the arena stays mapped for this thread */
    atomic_store(&f->over, 1);
    os_futex_wake_all(&f->over);
    return NULL;
}

/* -- beginning and end ---------------------------------------------------------------------------------------------------------- */

static int start(rcv_flusher *f)
{
    sigset_t all, before;
    atomic_store(&f->over, 0);
    sigfillset(&all); /* the program's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&f->thread, NULL, run, f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    f->running = err == 0;
    return err == 0 ? 0 : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": its journal's thread can't be started", f->a->name);
}

int rcv_flusher_begin(rcv_arena *a, const char *where, uint64_t delay, void *lock, rcv_flusher **out)
{
    uint32_t sink;
    int      rc = rcv_sink_open(a, RCV_JOURNAL_SINK, 1, &sink);
    if (rc != 0)
        return rc;
    rcv_flusher *f = os_calloc(1, sizeof *f + strlen(where) + 1);
    if (f == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for a journal");
    strcpy(f->where, where);
    f->a = a;
    f->sink = sink;
    f->delay = delay;
    f->lock = lock;
    f->forks = a->forks;
    pthread_mutex_init(&f->error_lock, NULL);
    pipes_begin(&f->pipes);
    if ((rc = start(f)) != 0) {
        os_free(f);
        return rc;
    }
    a->users++; /* as rcv_use(): it is not closed meanwhile */
    *out = f;
    return 0;
}

int rcv_flusher_again(rcv_flusher *f)
{
    if (likely(f->forks == f->a->forks && (f->running || atomic_load(&f->ending))))
        return 0;
    if (f->forks != f->a->forks) {
        f->forks = f->a->forks;
        f->a->users++; /* of which a child has none, whatever its parent had */
        f->lock = NULL; /* the parent's, and not mapped here */
        rcv_writer_close(f->writer);
        f->writer = NULL;
        pthread_mutex_init(&f->error_lock, NULL);
        pipes_begin(&f->pipes); /* the parent's loops */
    }
    return start(f);
}

int rcv_flusher_serves(const rcv_flusher *f)
{
    struct rcv_sink_state s;
    return rcv_sink_get(f->a, f->sink, &s) && s.ours && !stopped(f);
}

void rcv_flusher_end(rcv_flusher *f)
{
    atomic_store(&f->ending, true);
    if (f->running && f->forks == f->a->forks) {
        ring_local(f);
        atomic_fetch_add(&words(f)->asked, 1);
        os_futex_wake_all(&words(f)->asked);
        rcv_feed_wake(f->a);
    }
}

int rcv_flusher_over(rcv_flusher *f, uint64_t nanos)
{
    if (!f->running || f->forks != f->a->forks)
        return 1;
    if (atomic_load(&f->over) == 0)
        os_futex_wait(&f->over, 0, nanos);
    if (atomic_load(&f->over) == 0)
        return 0;
    pthread_join(f->thread, NULL);
    f->running = false;
    return 1;
}

void rcv_flusher_free(rcv_flusher *f)
{
    if (f->forks == f->a->forks)
        f->a->users--;
    pipes_end(&f->pipes);
    pthread_mutex_destroy(&f->error_lock);
    os_free(f);
}

/* -- who waits ---------------------------------------------------------------------------------------------------------------------- */

static const struct rcv_sink *journal_sink(const rcv_arena *a)
{
    for (unsigned i = 0; a->feed != NULL && i < RCV_SINKS; i++)
        if (atomic_load(&a->feed->sink[i].state) != RCV_SINK_FREE && strncmp(a->feed->sink[i].name, RCV_JOURNAL_SINK, RCV_SINK_NAME) == 0)
            return &a->feed->sink[i];
    return NULL;
}

int rcv_journal_goes_on(rcv_arena *a, uint64_t position)
{
    const struct rcv_sink *s = journal_sink(a);
    if (s == NULL || atomic_load(&s->state) != RCV_SINK_REQUIRED || atomic_load(&s->lost) || atomic_load(&a->feed->flushed.stopped))
        return 0;
    if (get(&s->cursor) > position || get(&s->cursor) < get(&a->feed->tail))
        return 0;
    atomic_store(&a->feed->flushed.delayed, 0); /* it is tried again */
    return 1;
}

int rcv_journal_attach(rcv_arena *a, uint64_t position, uint64_t seq)
{
    int rc = sink_attach(a, RCV_JOURNAL_SINK, position, seq);
    if (rc != 0)
        return rc;
    atomic_store(&a->feed->flushed.stopped, 0);
    atomic_store(&a->feed->flushed.delayed, 0);
    return 0;
}

uint64_t rcv_durable(const rcv_arena *a)
{
    const struct rcv_sink *s = journal_sink(a);
    return s != NULL ? get(&s->cursor) : 0;
}

/* demand -- have it written at once. */
static void demand(rcv_flusher *f, uint64_t position)
{
    struct rcv_flushed *w = words(f);
    uint64_t            most = get(&w->demand);
    while (most < position && !atomic_compare_exchange_weak(&w->demand, &most, position))
        ;
    atomic_fetch_add(&w->asked, 1);
    if (atomic_load(&w->asleep) != 0)
        os_futex_wake_all(&w->asked);
}

static int not_any_more(const rcv_flusher *f)
{
    return rcv_raise(RCV_ERR_OS, (int)atomic_load(&words(f)->stopped), "arena \"%s\": its journal \"%s\" has stopped; what is committed is in "
                     "memory, and no longer becomes durable", f->a->name, f->where);
}

int rcv_durable_ask(rcv_flusher *f, uint64_t position, int pipe)
{
    if (durable(f) >= position)
        return 0;
    int rc = stopped(f) ? not_any_more(f) : pipes_enter(&f->pipes, pipe);
    if (rc < 0)
        return rc;
    if (rc == 1)
        ring_local(f);
    demand(f, position);
    return durable(f) >= position ? 0 : 1;
}

void rcv_durable_enough(rcv_flusher *f, int pipe, uint64_t device, uint64_t inode)
{
    if (f->forks != f->a->forks)
        return; /* none of them is this process's */
    pipes_leave(&f->pipes, pipe, device, inode);
}

int rcv_durable_wait(rcv_flusher *f, uint64_t position, uint64_t nanos)
{
    struct rcv_flushed *w = words(f);
    const uint64_t      begun = os_nanos();
    for (uint64_t passed = 0; durable(f) < position && passed < nanos; passed = os_nanos() - begun) {
        const uint32_t taken = atomic_load(&w->taken);
        if (stopped(f))
            return not_any_more(f);
        demand(f, position);
        atomic_fetch_add(&w->following, 1);
        if (durable(f) < position)
            os_futex_wait(&w->taken, taken, nanos - passed < ALIVE ? nanos - passed : ALIVE);
        atomic_fetch_sub(&w->following, 1);
    }
    return durable(f) >= position;
}
