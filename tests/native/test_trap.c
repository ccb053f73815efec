/* test_trap.c -- the SIGSEGV handler: what is ours, what is not, and living with other handlers. */
#include "tracked.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/syscall.h>

static bool died_of(int status, int sig) { return WIFSIGNALED(status) && WTERMSIG(status) == sig; }

static struct tracked world;

/* fresh -- a world of its own for each test. */
static void fresh(uint64_t undo_size, const char *policy) { world = tracked_make(256, undo_size, policy); }

/* bad_store -- a segmentation fault that is nobody's. */
static volatile int *volatile nowhere = (volatile int *)16;
static void bad_store(void) { *nowhere = 1; }

/* -- strays --------------------------------------------------------------------------------------------------- */

/* A raw write outside any step lands nowhere, is reported at the next boundary, and the page is as it was. */
static void stray_without_a_step(void)
{
    struct rcv_stray s[8];
    fresh(0, "adaptive");
    poke(&world, 3 * PAGE + 7, 1);
    CHECK(world.core[3 * PAGE + 7] == 0 && world.raw[3 * PAGE + 7] == 1);
    CHECK(rcv_strays_pending(world.a) == 1);
    begin(world.a);
    CHECK(world.raw[3 * PAGE + 7] == 0);
    CHECK(rcv_take_strays(world.a, s, 8) == 1);
    CHECK(s[0].kind == 0 && s[0].page == world.data + 3 * PAGE && s[0].address == (uint64_t)(uintptr_t)(world.raw + 3 * PAGE + 7));
    poke(&world, 3 * PAGE, 2);
    CHECK(commit(world.a) == 1 && world.core[3 * PAGE] == 2);
    CHECK(rcv_take_strays(world.a, s, 8) == 0 && world.a->n.strays == 1);
    /* more of them than are remembered one by one */
    for (uint64_t p = 0; p < 200; p++)
        poke(&world, p * PAGE, 9);
    begin(world.a);
    for (uint64_t p = 0; p < 200; p++)
        CHECK(world.raw[p * PAGE] == (p == 3 ? 2 : 0));
    poke(&world, 150 * PAGE, 4);
    rollback(world.a);
    CHECK(world.core[150 * PAGE] == 0 && world.a->n.strays == 201);
    tracked_drop(&world);
}

static void *store(void *at)
{
    *(volatile uint8_t *)at = 77;
    return NULL;
}

static void in_thread(void *(*fn)(void *), void *arg)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fn, arg) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* Another thread's store into the step's view is the step's; into another view, or when the step is shut, it is a stray. */
static void stores_of_another_thread(void)
{
    struct rcv_stray s[8];
    fresh(0, "adaptive");
    struct raw   one = {.pages = NULL}, other = {.pages = NULL};
    struct view *parked;
    begin(world.a);
    CHECK(views_own(world.a, &one, &parked) == 0 && parked == first(world.a)); /* the step has one already */
    end(world.a);
    first(world.a)->buffers++; /* so the next takes another one */
    CHECK(lock_take(world.a) == 0 && views_own(world.a, &other, &parked) == 0 && parked != first(world.a));
    world.a->tracker->shared = false;
    parked->buffers++;
    views_end(world.a);
    lock_drop(world.a);
    first(world.a)->buffers--;
    uint8_t *elsewhere = parked->base + (world.raw - first(world.a)->base);
    begin(world.a);
    poke(&world, 0, 1);
    in_thread(store, world.raw + 5 * PAGE);
    CHECK(world.core[5 * PAGE] == 77);
    in_thread(store, elsewhere + 6 * PAGE);
    in_thread(store, elsewhere); /* writable in the step's view, but not there */
    CHECK(world.core[6 * PAGE] == 0 && world.core[0] == 1 && parked->lost);
    tracker_shut(world.a);
    in_thread(store, world.raw + 5 * PAGE + 1);
    in_thread(store, world.raw + 8 * PAGE);
    CHECK(commit(world.a) == 2);
    CHECK(world.core[0] == 1 && world.core[5 * PAGE] == 77 && world.core[5 * PAGE + 1] == 0 && world.core[8 * PAGE] == 0);
    CHECK(rcv_take_strays(world.a, s, 8) == 4 && world.raw[8 * PAGE] == 0);
    CHECK(elsewhere[6 * PAGE] == 77); /* it stays private until its owner ends */
    CHECK(tracker_enter(world.a, &other) == RCV_ERR_STRAY);
    parked->buffers--;
    views_ended(world.a, &other);
    CHECK(!parked->lost && elsewhere[6 * PAGE] == 0 && other.view == NULL);
    tracked_drop(&world);
}

static void *store_many(void *at)
{
    for (uint64_t p = 0; p < 64; p++)
        store((uint8_t *)at + (p * 7 % 64) * PAGE);
    return NULL;
}

/* Many threads at once, on the same pages and on those of the step, beside announced writes: all is kept, or all undone. */
static void many_threads(void)
{
    fresh(0, "adaptive");
    for (int round = 0; round < 20; round++) {
        pthread_t thread[4];
        begin(world.a);
        memset(world.core + 130 * PAGE, 0, PAGE);
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&thread[i], NULL, store_many, world.raw + 64 * PAGE) == 0);
        for (uint64_t p = 0; p < 64; p++) {
            poke(&world, p * PAGE, (uint8_t)(round + 1));
            announce(&world, 130 * PAGE + p, (uint8_t)(round + 1));
            announce(&world, (64 + p) * PAGE + 9, (uint8_t)(round + 1)); /* where they store */
        }
        for (int i = 0; i < 4; i++)
            CHECK(pthread_join(thread[i], NULL) == 0);
        if (round % 2)
            CHECK(commit(world.a) == (round == 1 ? 128 : 64)); /* they store what was there */
        else
            rollback(world.a);
        uint8_t now = (uint8_t)(round % 2 ? round + 1 : round);
        for (uint64_t p = 0; p < 64; p++) {
            CHECK(world.core[p * PAGE] == now && world.core[(64 + p) * PAGE] == (now ? 77 : 0));
            CHECK(world.core[(64 + p) * PAGE + 9] == now);
        }
    }
    tracked_drop(&world);
}

/* A failed operation takes its announced writes back and leaves what threads have logged meanwhile. */
static void a_failed_operation_among_threads(void)
{
    fresh(0, "incremental");
    for (int keep = 0; keep < 2; keep++) {
        begin(world.a);
        announce(&world, 0, 5);
        uint64_t mark = undo_tail(world.a);
        announce(&world, 1, 6);
        in_thread(store, world.raw + 2);        /* on the page of the operation, after its first write */
        in_thread(store, world.raw + 3 * PAGE); /* elsewhere */
        announce(&world, 3 * PAGE + 1, 7);
        announce(&world, 1, 8);
        CHECK(tracker_retract(world.a, mark) == 0);
        CHECK(world.core[0] == 5 && world.core[1] == 0 && world.core[2] == 77 && world.core[3 * PAGE] == 77 && world.core[3 * PAGE + 1] == 0);
        in_thread(store, world.raw + 4); /* still writable, still logged */
        uint64_t again = undo_tail(world.a);
        announce(&world, 4 * PAGE, 9);
        CHECK(tracker_retract(world.a, again) == 0 && undo_tail(world.a) == again); /* nobody trapped: it is cut */
        if (keep)
            CHECK(commit(world.a) == 2 && world.core[4] == 77);
        else
            rollback(world.a);
        for (uint64_t i = 0; i < 5; i++)
            CHECK(world.core[i] == (keep ? (i == 0 ? 5 : i == 2 || i == 4 ? 77 : 0) : 0));
        CHECK(world.core[3 * PAGE] == (keep ? 77 : 0));
    }
    tracked_drop(&world);
}

/* -- doomed steps --------------------------------------------------------------------------------------------- */

/* When the log is full the step's later writes go nowhere; the rollback restores everything; the next step is whole. */
static void a_full_log_dooms(void)
{
    fresh(64 * 1024, "adaptive"); /* room for 15 pre-images */
    make_hot(&world, 200, 5);
    begin(world.a);
    announce(&world, 201 * PAGE, 6);
    for (uint64_t p = 0; p < 100; p++)
        poke(&world, p * PAGE, 7);
    poke(&world, 200 * PAGE, 8);
    CHECK(tracker_doomed(world.a) == RCV_ERR_FULL);
    CHECK(world.raw[99 * PAGE] == 7 && world.core[99 * PAGE] == 0);
    const uint32_t *pages;
    uint32_t        n;
    CHECK(tracker_collect(world.a, &pages, &n) == RCV_ERR_FULL && n == 0);
    CHECK(tracker_edit(world.a, &(struct raw){.pages = NULL}, world.data, PAGE) == RCV_ERR_FULL);
    savepoint(world.a);
    rollback(world.a);
    CHECK(tracker_doomed(world.a) == 0 && world.a->n.dooms == 1 && world.a->n.strays == 0);
    for (uint64_t p = 0; p < 100; p++)
        CHECK(world.core[p * PAGE] == 0 && world.raw[p * PAGE] == 0);
    CHECK(world.core[200 * PAGE] == 5 && world.core[201 * PAGE] == 0);
    begin(world.a);
    poke(&world, 200 * PAGE, 9);
    poke(&world, 0, 9);
    CHECK(commit(world.a) == 2 && world.core[0] == 9 && world.core[200 * PAGE] == 9 && shadow(&world, 200)[0] == 9);
    tracked_drop(&world);
}

/* No shared memory left behind the log, or no mapping: doomed as well, never a crash. */
static void no_memory_dooms(void)
{
    if (!rcv_test_build()) {
        printf("not a test build: failures of fallocate and mmap not tried\n");
        return;
    }
    fresh(0, "adaptive");
    for (int mmaps = 0; mmaps < 2; mmaps++) {
        begin(world.a);
        for (uint64_t p = 0; tracker_doomed(world.a) == 0; p++) {
            rcv_fail_at(RCV_FAIL_FALLOCATE, 1);
            rcv_fail_at(RCV_FAIL_MMAP, mmaps ? 1 : 0);
            CHECK(p < 256);
            poke(&world, p * PAGE, 7);
        }
        poke(&world, 255 * PAGE, 7);
        rcv_fail_at(RCV_FAIL_FALLOCATE, 0);
        rcv_fail_at(RCV_FAIL_MMAP, 1); /* and once more on the way back */
        rollback(world.a);
        rcv_fail_at(RCV_FAIL_MMAP, 0);
        for (uint64_t p = 0; p < 256; p++)
            CHECK(world.core[p * PAGE] == 0 && world.raw[p * PAGE] == 0);
    }
    tracked_drop(&world);
}

/* -- other handlers, other faults ----------------------------------------------------------------------------- */

static void does_bad_store(void *nothing) { (void)nothing, bad_store(); }
static void is_killed(void *nothing) { (void)nothing, kill(getpid(), SIGSEGV); }
static void raises(void *nothing) { (void)nothing, raise(SIGSEGV); }
static void bad_store_in_a_step(void *nothing)
{
    (void)nothing;
    begin(world.a);
    poke(&world, 0, 1);
    bad_store();
}
static void executes_data(void *nothing)
{
    (void)nothing;
    void (*fn)(void);
    memcpy(&fn, &(void *){world.raw}, sizeof fn);
    fn();
}
static void other_thread_crashes(void *nothing)
{
    pthread_t thread;
    (void)nothing;
    CHECK(pthread_create(&thread, NULL, (void *(*)(void *))(void (*)(void))does_bad_store, NULL) == 0);
    pthread_join(thread, NULL);
}
static void stores_after_close(void *nothing)
{
    (void)nothing;
    uint8_t *at = world.raw;
    drop(world.a);
    CHECK(rcv_close(world.a) == 0);
    *(volatile uint8_t *)at = 1;
}

/* What is not ours kills as it would have: faults, kill, raise; in a step, in another thread, after the close. */
static void foreign_faults_kill(void)
{
    static void (*const ways[])(void *) = {does_bad_store,      is_killed,     raises, bad_store_in_a_step,
                                           other_thread_crashes, executes_data, stores_after_close};
    fresh(0, "adaptive");
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        CHECK(died_of(child(ways[i], NULL), SIGSEGV));
        CHECK(signal(SIGSEGV, SIG_DFL) != SIG_ERR && rcv_handler_mend() == 1); /* one more layer that does nothing */
    }
    begin(world.a); /* one of them died in its step, the lock in its hands */
    CHECK(world.core[0] == 0);
    rollback(world.a);
    tracked_drop(&world);
}

static volatile int   calls;
static volatile int   call_code;
static void *volatile call_address;
static sigjmp_buf     back;

static void count_info(int sig, siginfo_t *info, void *context)
{
    (void)context;
    CHECK(sig == SIGSEGV);
    calls++;
    call_code = info->si_code;
    call_address = info->si_addr;
    siglongjmp(back, 1);
}

static void count_plain(int sig)
{
    CHECK(sig == SIGSEGV);
    calls++;
}

static void count_masked(int sig)
{
    sigset_t mask;
    CHECK(sig == SIGSEGV && pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    calls += sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGSEGV) ? 1 : 100;
}

static void with_before_us(void *what)
{
    struct sigaction action = {.sa_flags = 0};
    sigemptyset(&action.sa_mask);
    switch (*(int *)what) {
    case 'i':
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        action.sa_sigaction = count_info;
        break;
    case 'p':
        action.sa_handler = count_plain;
        break;
    case 'm':
        action.sa_handler = count_masked;
        sigaddset(&action.sa_mask, SIGUSR1);
        break;
    case 'r':
        action.sa_flags = (int)SA_RESETHAND;
        action.sa_handler = count_plain;
        break;
    default:
        action.sa_handler = SIG_IGN;
    }
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    fresh(0, "adaptive");
    CHECK(rcv_handler_installed());
    begin(world.a);
    poke(&world, 0, 1); /* ours does not reach it */
    CHECK(commit(world.a) == 1 && calls == 0);
    switch (*(int *)what) {
    case 'i':
        while (calls < 3) {
            if (sigsetjmp(back, 1) == 0)
                bad_store();
            CHECK(call_code == SEGV_MAPERR && call_address == (void *)(uintptr_t)16);
            call_code = 0;
        }
        break;
    case 'p':
    case 'm':
        kill(getpid(), SIGSEGV);
        raise(SIGSEGV);
        CHECK(calls == 2);
        break;
    case 'r':
        raise(SIGSEGV);
        CHECK(calls == 1);
        raise(SIGSEGV); /* the default by now */
        break;
    default:
        kill(getpid(), SIGSEGV);
        raise(SIGSEGV); /* ignored, as asked; */
        bad_store();    /* a real one can't be */
    }
    tracked_drop(&world);
}

/* A handler installed before us gets what is not ours, with its own flags and mask. */
static void handlers_before_us(void)
{
    int what[] = {'i', 'p', 'm', 'r', 'n'};
    for (unsigned i = 0; i < 5; i++) {
        int status = child(with_before_us, &what[i]);
        CHECK(what[i] == 'r' || what[i] == 'n' ? died_of(status, SIGSEGV) : went_well(status));
    }
}

/* How far a child that has to die got: it must not die too early. */
static volatile int *reached; /* [1]: tracebacks */

/* What faulthandler does: say so, restore the handler that was there, raise the signal again. */
static struct sigaction found;
#define tracebacks (reached[1])

static void fault_handler(int sig)
{
    tracebacks++;
    sigaction(sig, &found, NULL);
    raise(sig);
}

static void enable(void)
{
    struct sigaction action = {.sa_handler = fault_handler, .sa_flags = SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    CHECK(sigaction(SIGSEGV, &action, &found) == 0);
}

static void *step_in_a_thread(void *nothing)
{
    (void)nothing;
    begin(world.a);
    enable(); /* in mid-step: nobody has looked since */
    uint8_t value = (uint8_t)(world.core[0] + 1);
    poke(&world, 0, value);
    poke(&world, PAGE, value);
    CHECK(tracebacks == 1); /* it got the first, once, and we all of them */
    CHECK(world.a->n.traps == 2);
    CHECK(commit(world.a) == 2 && world.core[0] == value);
    return NULL;
}

static void displaced(void *how)
{
    static uint8_t stack[64 * 1024];
    switch (*(int *)how) {
    case 'b': /* before us; then a foreign fault */
        enable();
        fresh(0, "adaptive");
        begin(world.a);
        poke(&world, 0, 1);
        CHECK(tracebacks == 0);
        CHECK(commit(world.a) == 1);
        *reached = 1;
        bad_store();
        break;
    case 'a': /* after us, mended at the next step */
    case 'A':
    case 'R':
        fresh(0, "adaptive");
        enable();
        CHECK(!rcv_handler_installed());
        begin(world.a);
        CHECK(rcv_handler_installed() && rcv_handler_mend() == 0);
        poke(&world, 0, 1);
        CHECK(commit(world.a) == 1 && tracebacks == 0);
        *reached = 1;
        if (*(int *)how == 'A')
            kill(getpid(), SIGSEGV);
        if (*(int *)how == 'R')
            raise(SIGSEGV);
        bad_store(); /* chained to it; it restores us and raises; then the default */
        break;
    case 's': /* the same, on an alternate stack */
        fresh(0, "adaptive");
        CHECK(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL) == 0);
        step_in_a_thread(NULL);
        CHECK(rcv_handler_installed());
        *reached = 1;
        raise(SIGSEGV); /* its own: not a copy of ours */
        break;
    case 'k':
        fresh(0, "adaptive");
        step_in_a_thread(NULL);
        *reached = 1;
        kill(getpid(), SIGSEGV);
        break;
    default:
        break;
    }
}

static void *second_step(void *how)
{
    tracebacks = 0;
    world.a->n.traps = 0;
    step_in_a_thread(how);
    return NULL;
}

static void displaced_twice(void *nothing)
{
    (void)nothing;
    fresh(0, "incremental");
    in_thread(second_step, NULL);
    in_thread(second_step, NULL);
    second_step(NULL);
    for (int i = 0; i < 20; i++) { /* enabled again and again: the list of those before us stays short */
        enable();
        CHECK(rcv_handler_mend() == 1);
        CHECK(signal(SIGSEGV, i % 2 ? SIG_DFL : SIG_IGN) != SIG_ERR);
        CHECK(rcv_handler_mend() == 1);
    }
    CHECK(rcv_handler_mend() == 0);
}

/* A handler that comes after us, as faulthandler does, is survived in every order, and keeps its own faults. */
static void handlers_after_us(void)
{
    int how[] = {'b', 'a', 'A', 'R', 's', 'k'};
    reached = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(reached != MAP_FAILED);
    for (unsigned i = 0; i < 6; i++) {
        reached[0] = reached[1] = 0;
        CHECK(died_of(child(displaced, &how[i]), SIGSEGV));
        CHECK(reached[0] == 1 && tracebacks == 1);
    }
    tracebacks = 0;
    CHECK(went_well(child(displaced_twice, NULL)));
}

/* The handler leaves errno alone. */
static void errno_is_kept(void)
{
    fresh(0, "adaptive");
    begin(world.a);
    errno = 1234;
    for (uint64_t p = 0; p < 200; p++) /* enough to grow the log in the handler */
        poke(&world, p * PAGE, 1);
    CHECK(errno == 1234);
    rollback(world.a);
    tracked_drop(&world);
}

/* A store that spans two pages traps twice and lands once. */
static void a_store_across_pages(void)
{
    fresh(0, "adaptive");
    begin(world.a);
    uint64_t value = UINT64_C(0x1122334455667788);
    __builtin_memcpy(world.raw + PAGE - 4, &value, 8);
    __asm__ volatile("" ::: "memory");
    CHECK(memcmp(world.core + PAGE - 4, &value, 8) == 0);
    CHECK(world.a->n.traps == 2);
    rollback(world.a);
    CHECK(world.core[PAGE - 1] == 0 && world.core[PAGE] == 0);
    tracked_drop(&world);
}

/* Two arenas: a trap goes to the one whose memory it is. */
static void two_arenas(void)
{
    struct tracked one = tracked_make(64, 0, "adaptive"), two = tracked_make(64, 0, "adaptive");
    begin(one.a);
    poke(&one, 0, 1);
    poke(&two, 0, 2); /* no step there */
    CHECK(commit(one.a) == 1);
    CHECK(one.core[0] == 1 && two.core[0] == 0 && rcv_strays_pending(two.a) == 1 && rcv_strays_pending(one.a) == 0);
    tracked_drop(&one);
    begin(two.a);
    poke(&two, 0, 3);
    CHECK(commit(two.a) == 1 && two.core[0] == 3);
    tracked_drop(&two);
}

/* Until the stash is back, another thread's store into the view is not the step's: it could be taken for a commit of others. */
static void stores_while_a_step_begins(void)
{
    for (int meanwhile = 0; meanwhile < 2; meanwhile++) {
        struct rcv_stray s[8];
        fresh(0, "adaptive");
        struct raw      one = {.pages = NULL};
        struct rcv_raw  buffer;
        begin(world.a);
        CHECK(views_acquire(world.a, &one, world.data, &buffer) == 0);
        end(world.a);
        CHECK(lock_take(world.a) == 0);
        world.a->step_thread = os_thread_id();
        CHECK(tracker_enter(world.a, &one) == 0);
        if (meanwhile)
            in_thread(store, buffer.at + 3 * PAGE);
        CHECK(world.core[3 * PAGE] == 0);
        CHECK(tracker_join(world.a, &one) == (meanwhile ? RCV_ERR_STRAY : 0));
        if (!meanwhile)
            in_thread(store, buffer.at + 3 * PAGE);
        CHECK(world.core[3 * PAGE] == (meanwhile ? 0 : 77));
        rollback(world.a);
        CHECK(world.core[3 * PAGE] == 0);
        rcv_raw_release(world.a, &buffer);
        if (one.view != NULL)
            views_ended(world.a, &one);
        CHECK(rcv_take_strays(world.a, s, 8) == meanwhile);
        tracked_drop(&world);
    }
}

int main(void)
{
    CHECK(signal(SIGSEGV, SIG_DFL) != SIG_ERR); /* not a sanitizer's */
    foreign_faults_kill(); /* first: these want the default action to be what we found */
    handlers_before_us();
    handlers_after_us();
    stray_without_a_step();
    stores_of_another_thread();
    stores_while_a_step_begins();
    many_threads();
    a_failed_operation_among_threads();
    a_full_log_dooms();
    no_memory_dooms();
    errno_is_kept();
    a_store_across_pages();
    two_arenas();
    CHECKS_DONE();
    return 0;
}
