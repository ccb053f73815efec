/* watch.c -- the watchdog: a thread that looks whether a step holds an arena for longer than it may.
 *
 * What we want: a handler that does not come back is told, with its stack, is stopped, and if it can't be stopped, its process ends,
 * so that no other one waits for it for ever. A healthy step pays nothing, not an instruction.
 *
 * What does not work: a timer for each step, which costs as much as the step; a signal, whose handler in Python only the main thread
 * runs, when it comes back; anything in Python, which a C extension that keeps the GIL keeps from running.
 *
 * What does: this thread has no Python. Each eighth of the limit it looks at what is there anyway, the number of the last
 * mounting and whether that goes on. How long it has seen the same one is how long that step has taken; time in which this
 * thread itself did not run (SIGSTOP, a suspended machine, no processor) does not count: of what has passed until a look that comes
 * late, no more counts than the process has computed. From a quarter of the limit on it looks four times as often, so that short
 * stops make late looks, too. Under a new limit it begins at nothing, so that no step comes to its end without having been stopped
 * before. What needs the GIL, an event and the exception, `tell` does in a thread that is made for it, and that may wait for the GIL
 * for ever. If that one has not come to it after an eighth, or a quarter of a second if that is longer, the stack is read without the
 * GIL: a signal goes to the step's thread, whose handler is faulthandler's. It is sent to nobody who lets others have the GIL, so it
 * interrupts no call that waits.
 *
 *   of the limit   RCV_W_
 *   1/2            SLOW     told, with the stack, which is put into the segment as well
 *   1              STOP     the transaction is doomed, and an exception is set in the thread
 *   3/2            AGAIN    … once more: the first may have hit a finaliser, which drops it
 *   15/8           ENDING   told
 *   2              END      the process ends by SIGABRT: the next one to take the lock undoes the step
 *
 * The exception is withdrawn in the native code that ends the step (stopped_step_over), so nobody else ever finds it.
 *
 * Where it still fails: a step that does not hold the arena, which holds up its own event loop only, is not watched: one that has not
 * touched it yet, or not again since an independent transaction inside it has ended. Nor are reads outside of transactions. What was
 * set for a block that awaits right after a call that took too long, with no bytecode in between that looks for exceptions, is found by
 * the event loop: the await ends the block, but nothing of ours runs then.
 */
#include "watch.h"
#include "transaction/transaction.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LONGEST_PAUSE UINT64_C(250000000)
#define SHORTEST_PAUSE UINT64_C(1000000)
#define LATE UINT64_C(10000000) /* what a look may be late by for want of a processor, where a quarter of the pause is less */
#define DUMP_TRIES 50 /* of 2 ms: how long a signal may take to arrive */

static const unsigned eighths[] = {[RCV_W_FINE] = 0, [RCV_W_SLOW] = 4, [RCV_W_STOP] = 8, [RCV_W_AGAIN] = 12,
                                   [RCV_W_ENDING] = 15, [RCV_W_END] = 16}; /* of the limit */

static pthread_t        thread;
static bool             running; /* with the GIL */
static _Atomic uint32_t bell;
static _Atomic bool     ending;
static _Atomic uint32_t tellers; /* threads that are telling, or wait for the GIL to do so */
static _Atomic uint32_t calls;    /* how many have been called */
static _Atomic uint32_t answered; /* the last call of those that have looked what there is to tell: it was told for those before, too */
static _Thread_local uint32_t call; /* by which this thread was called; 0: none, or it has looked */
static void (*tell)(void);
static void (*withdraw)(uint64_t ident);
static void (*forked)(void);

/* -- the stack, without the GIL --------------------------------------------------------------------------------- */

static struct {
    _Atomic int fd; /* of this process alone; -1: none */
    int         signal;
    dev_t       device;
    ino_t       inode;
    void (*handler)(int);
} dumps = {.fd = -1};

/* What the last signal has brought. Written by this thread, read with the GIL: for a log, and always ended by a 0. */
static struct {
    _Atomic uint64_t mounting;
    const rcv_arena *arena;
    char             text[RCV_STUCK_TEXT];
} dump;

int rcv_watch_signal(int fd, int number)
{
    struct sigaction now;
    struct stat      st;
    atomic_store(&dumps.fd, -1);
    if (fd < 0 || fstat(fd, &st) != 0 || sigaction(number, NULL, &now) != 0 || now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)
        return 0;
    dumps.signal = number;
    dumps.device = st.st_dev;
    dumps.inode = st.st_ino;
    dumps.handler = now.sa_handler;
    atomic_store(&dumps.fd, fd);
    return 1;
}

int rcv_signal_is_free(int number)
{
    struct sigaction now;
    return sigaction(number, NULL, &now) == 0 && now.sa_handler == SIG_DFL;
}

/* dump_size -- how much has been written; -1: the descriptor is not ours any more, as the program has closed it. */
static off_t dump_size(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_dev == dumps.device && st.st_ino == dumps.inode ? st.st_size : -1;
}

/* own_frame -- of lines of faulthandler's the innermost frame of the program's own, as far as a path tells; else the innermost. */
static const char *own_frame(const char *frames)
{
    for (const char *line = frames; strncmp(line, "  File ", 7) == 0;) {
        size_t n = strcspn(line, "\n");
        if (memmem(line, n, "/lib/python3", 12) == NULL && memmem(line, n, "\"<frozen", 8) == NULL)
            return line + 2;
        line += n + (line[n] != '\0');
    }
    return frames + 2;
}

/* keep_dump -- what faulthandler has written: a heading, then a line a frame. Before them one of them: where it is. */
static void keep_dump(int fd, const rcv_arena *a)
{
    char    raw[RCV_STUCK_TEXT];
    ssize_t n = pread(fd, raw, sizeof raw - 1, 0);
    raw[n > 0 ? n : 0] = '\0';
    const char *frames = strstr(raw, "  File ");
    atomic_store(&dump.mounting, 0);
    if (frames == NULL) {
        snprintf(dump.text, sizeof dump.text, "where it is could not be found out");
    } else {
        const char *where = own_frame(frames);
        snprintf(dump.text, sizeof dump.text, "%.*s\n%.1700s", (int)strcspn(where, "\n"), where, frames);
    }
    dump.arena = a;
    atomic_store(&dump.mounting, atomic_load(&a->watch.mounting));
}

/* take_dump -- have the thread inside the step say where it is. Nothing is sent unless its handler is there to take it. */
static void take_dump(rcv_arena *a)
{
    int              fd = atomic_load(&dumps.fd);
    struct sigaction now;
    uint64_t         ident;
    int32_t          tid;
    off_t            size = 0, before = -1;
    if (fd < 0 || dump_size(fd) < 0 || sigaction(dumps.signal, NULL, &now) != 0 || now.sa_handler != dumps.handler ||
        !os_thread_find(__atomic_load_n(&a->step_thread, __ATOMIC_RELAXED), &ident, &tid))
        return;
    if (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0 || syscall(SYS_tgkill, getpid(), tid, dumps.signal) != 0)
        return;
    for (int i = 0; i < DUMP_TRIES && (size <= 0 || size != before); i++) {
        before = size;
        nanosleep(&(struct timespec){0, 2000000}, NULL);
        size = dump_size(fd);
    }
    if (size > 0)
        keep_dump(fd, a);
}

/* -- the end of the process ------------------------------------------------------------------------------------ */

static bool limit_changed(const rcv_arena *a) { return atomic_load(&a->watch.seen) != atomic_load(&a->watch.changes); }

static bool goes_on(const rcv_arena *a)
{
    uint64_t holder = atomic_load(&a->lock_thread);
    return __atomic_load_n(&a->mounted, __ATOMIC_RELAXED) != NULL && holder != 0 && holder != RCV_THREAD_ENDED &&
           __atomic_load_n(&a->mountings, __ATOMIC_RELAXED) == atomic_load(&a->watch.mounting);
}

static void say(const char *text, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, text, n);
        if (done < 0 && errno != EINTR)
            return;
        if (done > 0)
            text += done, n -= (size_t)done;
    }
}

/* end_process -- as by a crash. Whatever handler the program has for SIGABRT, it could not be run to its end here. */
static void end_process(const rcv_arena *a)
{
    struct rcv_slow_step at = {0};
    char                 text[1024];
    sigset_t             all;
    bool                 known = stuck_read(a, &at);
    if (!goes_on(a) || limit_changed(a))
        return;
    held_seen(a);
    int n = snprintf(text, sizeof text,
                     "recoverable: arena \"%s\": a step of %s has held it for %.3g s, twice its step_limit, and could not be stopped; "
                     "process %ld ends by SIGABRT, as by a crash: what the step has written is undone by the next process, and what "
                     "was committed is kept\n", a->name, a->watch.handler, (double)atomic_load(&a->watch.age) / 1e9, (long)getpid());
    say(text, n > 0 && (size_t)n < sizeof text ? (size_t)n : strlen(text));
    if (known && at.text[0] != '\0') {
        say(at.text, strlen(at.text));
        say("\n", 1);
    }
    sigaction(SIGABRT, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    sigemptyset(&all);
    sigaddset(&all, SIGABRT);
    pthread_sigmask(SIG_UNBLOCK, &all, NULL);
    abort();
}

/* -- looking ------------------------------------------------------------------------------------------------------- */

static struct {
    uint64_t passed; /* since the last look */
    bool     due;    /* there is something to tell of */
    uint64_t pause;  /* until the next one */
} look;

static unsigned stage_of(uint64_t age, uint64_t limit)
{
    unsigned stage = RCV_W_FINE;
    while (stage < RCV_W_END && age >= limit / 8 * eighths[stage + 1])
        stage++;
    return stage;
}

#define TOLD(mounting, stage) ((mounting) << 3 | (stage))
static unsigned told_of(const struct rcv_watch *w)
{
    uint64_t told = atomic_load(&w->told);
    return told >> 3 == (atomic_load(&w->mounting) & UINT64_MAX >> 3) ? (unsigned)(told & 7) : RCV_W_FINE;
}

/* begin_again -- what was seen of a step is over. */
static void begin_again(rcv_arena *a)
{
    struct rcv_watch *w = &a->watch;
    if (atomic_load(&w->stage) != RCV_W_FINE)
        stuck_take_back(a);
    atomic_store(&w->stage, RCV_W_FINE);
    atomic_store(&w->age, 0);
    atomic_store(&w->mounting, __atomic_load_n(&a->mountings, __ATOMIC_RELAXED));
    atomic_store(&w->seen, atomic_load(&w->changes));
    w->called = RCV_W_FINE;
    w->over = 0;
    w->dumped = false;
}

static bool all_have_looked(void) { return atomic_load(&answered) == atomic_load(&calls); }

/* keeps_the_gil -- nobody has come to tell of that step: is it certain by now that its thread lets nobody else have the GIL? Where it
 * runs Python code, and others merely took long to get the GIL, its frames may be half-made, and faulthandler would fall over them. A
 * process that ends next has nothing to lose. */
static bool keeps_the_gil(const struct rcv_watch *w, uint64_t limit, uint64_t age)
{
    uint64_t wait = limit / 8 < LONGEST_PAUSE ? LONGEST_PAUSE : limit / 8;
    return age >= limit / 2 + wait || (age >= limit / 8 * eighths[RCV_W_ENDING] && !atomic_load(&w->spares));
}

static void look_at(rcv_arena *a)
{
    struct rcv_watch *w = &a->watch;
    uint64_t          limit = atomic_load(&w->limit);
    unsigned          before = atomic_load(&w->stage), told = told_of(w);
    uint64_t          pause = atomic_load(&w->age) >= limit / 4 ? limit / 32 : limit / 8;
    if (limit != 0 && pause < look.pause)
        look.pause = pause;
    if (limit == 0 || limit_changed(a)) {
        begin_again(a);
        return;
    }
    if (!goes_on(a)) {
        /* Who waits for the GIL gets it now, and tells of this step first; if nobody does soon, it hangs in the program's code, which the
         * collector runs anywhere, and the next step is not left alone for that. */
        w->over += look.passed;
        if (before <= told || all_have_looked() || w->over >= limit / 2)
            begin_again(a);
        return;
    }
    held_seen(a);
    uint64_t age = atomic_load(&w->age) + look.passed;
    unsigned stage = stage_of(age, limit);
    atomic_store(&w->age, age);
    if (stage != RCV_W_FINE && before == RCV_W_FINE)
        memcpy(w->handler, a->hdr->holder_handler, sizeof w->handler - 1);
    if (before != RCV_W_FINE && told == RCV_W_FINE && !w->dumped && keeps_the_gil(w, limit, age)) {
        w->dumped = true;
        take_dump(a);
        if (goes_on(a))
            stuck_say(a, age / 1000000, dump.arena == a && atomic_load(&dump.mounting) == atomic_load(&w->mounting) ? dump.text : "");
    }
    stuck_age(a, age / 1000000);
    if (stage == RCV_W_END && !atomic_load(&w->spares))
        end_process(a);
    atomic_store(&w->stage, stage);
    if (all_have_looked())
        w->called = RCV_W_FINE; /* they all have looked, and what they could not do is asked for again */
    if (stage > told && stage > w->called) {
        w->called = stage;
        look.due = true;
    }
}

void rcv_watch_looked(void)
{
    uint32_t before = atomic_load(&answered);
    while ((int32_t)(call - before) > 0 && !atomic_compare_exchange_weak(&answered, &before, call))
        ;
}

static void *tell_of_it(void *number)
{
    call = (uint32_t)(uintptr_t)number;
    tell();
    rcv_watch_looked();
    atomic_fetch_sub(&tellers, 1);
    return NULL;
}

/* call_teller -- one for each stage of a step: that of the stage before may still wait for the GIL. Those that have looked may stand in
 * the program's log pipeline, which may wait for this very arena. Where a thread can't be made, the next look tries again. */
static void call_teller(void)
{
    pthread_t      teller;
    pthread_attr_t detached;
    if (pthread_attr_init(&detached) != 0)
        return;
    uint32_t number = atomic_fetch_add(&calls, 1) + 1;
    atomic_fetch_add(&tellers, 1);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&teller, &detached, tell_of_it, (void *)(uintptr_t)number) != 0) {
        atomic_fetch_sub(&calls, 1);
        atomic_fetch_sub(&tellers, 1);
    }
    pthread_attr_destroy(&detached);
}

static uint64_t computed(void) /* by this process, nanoseconds */
{
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* counted -- how much of the time since the last look counts. A look that is late may be so since the process was stopped: then it has
 * not computed, either. A step that waits outside of Python does not compute, but it keeps no look from being on time. */
static uint64_t counted(uint64_t passed, uint64_t pause, uint64_t cpu)
{
    uint64_t late = pause / 4 < LATE ? LATE : pause / 4;
    uint64_t most = passed <= pause + late ? passed : cpu;
    most = most < 2 * pause ? most : 2 * pause;
    return most < passed ? most : passed;
}

static void *watch(void *unused)
{
    uint64_t last = os_nanos(), cpu = computed();
    look.pause = SHORTEST_PAUSE;
    for (;;) {
        uint32_t seen = atomic_load(&bell);
        uint64_t pause = look.pause < SHORTEST_PAUSE ? SHORTEST_PAUSE : look.pause;
        if (atomic_load(&ending))
            return unused;
        os_futex_wait(&bell, seen, pause);
        uint64_t now = os_nanos();
        uint64_t now_cpu = computed();
        look.passed = counted(now - last, pause, now_cpu - cpu);
        look.pause = LONGEST_PAUSE;
        look.due = false;
        last = now;
        cpu = now_cpu;
        registry_hold(look_at);
        if (look.due)
            call_teller();
    }
}

/* -- beginning and end --------------------------------------------------------------------------------------------- */

static void ring(void)
{
    atomic_fetch_add(&bell, 1);
    (void)os_futex_wake(&bell);
}

int rcv_watch_begin(void (*how_to_tell)(void), void (*how_to_withdraw)(uint64_t ident), void (*what_a_child_does)(void))
{
    sigset_t all, before;
    tell = how_to_tell;
    withdraw = how_to_withdraw;
    forked = what_a_child_does;
    if (running) {
        ring();
        return 0;
    }
    atomic_store(&ending, false);
    sigfillset(&all); /* the program's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    running = err == 0;
    return err == 0 ? 0 : rcv_raise(RCV_ERR_OS, err, "the watchdog's thread can't be started; nothing is watched");
}

void rcv_watch_end(int for_good)
{
    const bool ends = running;
    running = false;
    if (ends) {
        atomic_store(&ending, true);
        ring();
        pthread_join(thread, NULL);
    }
    for (int i = 0; for_good && i < 500 && atomic_load(&tellers) != 0; i++) /* they are in Python, which ends next, or on their way there */
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    if (ends)
        registry_hold(begin_again);
}

void watch_after_fork(rcv_arena *a)
{
    running = false;
    atomic_store(&tellers, 0);
    atomic_store(&answered, atomic_load(&calls));
    atomic_store(&dumps.fd, -1); /* the parent writes there */
    atomic_store(&a->watch.stage, RCV_W_FINE);
    atomic_store(&a->watch.mounting, 0);
    a->watch.called = RCV_W_FINE;
    a->watch.stopped = 0;
}

void watch_forked(void)
{
    if (forked != NULL)
        forked();
}

void rcv_watch_limit(rcv_arena *a, double seconds, int ends)
{
    uint64_t limit = seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
    atomic_store(&a->watch.spares, !ends);
    if (atomic_load(&a->watch.limit) == limit)
        return;
    atomic_fetch_add(&a->watch.changes, 1); /* twice: who sees the new limit knows that it is one, and so does who looks in between */
    atomic_store(&a->watch.limit, limit);
    atomic_fetch_add(&a->watch.changes, 1);
    atomic_store(&a->watch.told, 0);
}

double rcv_watch_limit_of(const rcv_arena *a) { return (double)atomic_load(&a->watch.limit) / 1e9; }

/* -- what is to be done with the GIL --------------------------------------------------------------------------------- */

int rcv_watch_due(rcv_arena *a, struct rcv_overdue *out)
{
    struct rcv_watch *w = &a->watch;
    int32_t           tid;
    memset(out, 0, sizeof *out);
    out->mounting = atomic_load(&w->mounting);
    out->stage = atomic_load(&w->stage);
    out->told = told_of(w);
    out->changes = atomic_load(&w->changes);
    if (out->stage <= out->told || limit_changed(a))
        return 0;
    out->millis = atomic_load(&w->age) / 1000000;
    out->current = goes_on(a);
    if (out->current) {
        out->place = a->mounted->place;
        (void)os_thread_find(a->step_thread, &out->thread, &tid);
    }
    memcpy(out->handler, w->handler, sizeof out->handler);
    out->handler[sizeof out->handler - 1] = '\0';
    if (dump.arena == a && atomic_load(&dump.mounting) == out->mounting)
        memcpy(out->text, dump.text, sizeof out->text);
    return 1;
}

/* is_still -- does that step go on, under the limit of then? */
static bool is_still(const rcv_arena *a, const struct rcv_overdue *what)
{
    return goes_on(a) && a->mountings == what->mounting && atomic_load(&a->watch.changes) == what->changes;
}

void rcv_watch_told(rcv_arena *a, const struct rcv_overdue *what, unsigned stage)
{
    if (atomic_load(&a->watch.changes) == what->changes)
        atomic_store(&a->watch.told, TOLD(what->mounting, stage));
}

void rcv_watch_say(rcv_arena *a, const struct rcv_overdue *what, const char *text)
{
    if (is_still(a, what))
        stuck_say(a, what->millis, text);
}

int rcv_watch_stop(rcv_arena *a, const struct rcv_overdue *what)
{
    if (!is_still(a, what))
        return 0;
    rcv_txn_doom(a->mounted, RCV_ERR_TOO_LONG);
    a->watch.stopped = what->thread;
    return 1;
}

/* watch_stopped_step_over -- its thread runs something else from now on. */
void watch_stopped_step_over(rcv_arena *a)
{
    uint64_t ident = a->watch.stopped;
    a->watch.stopped = 0;
    if (withdraw != NULL)
        withdraw(ident);
}
