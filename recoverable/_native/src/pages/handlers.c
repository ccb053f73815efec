/* handlers.c -- SIGSEGV handlers of others: those before ours get what is not ours, and ours stays the first.
 *
 * A signal that is not ours is *chained* to the handlers before us, newest first, each with the mask and flags that it asked for. A
 * handler that raises the signal again from inside finds us again, and we go on with the one before it, until the default action is
 * left, which is restored: a real fault then repeats, a signal that was sent is sent once more.
 *
 * A handler installed after ours gets our traps first (trap.c says what becomes of them). rcv_handler_mend() notices: it runs at every
 * step's start while raw buffers live, makes the newcomer the newest of those before us and puts ours back.
 *
 * handlers_chain and handlers_depth run in the handler: trap.c says what may.
 */
#include "state.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BEFORE_MAX 8u /* handlers that we can have before us; more push the oldest but one out */

static void            (*handler)(int, siginfo_t *, void *); /* ours */
static struct sigaction before[BEFORE_MAX];                  /* [0]: what we found when we were installed */
static _Atomic unsigned n_before;
static _Atomic bool     installed;

/* The handlers that have a signal of this thread right now: a link in the frame of each handlers_chain(). A handler may leave by
 * longjmp and never come back to take its link away, so a link counts only if it lies above the code that was interrupted,
 * not far, and still holds its cookie. */
struct link {
    uintptr_t cookie;
    unsigned  depth;
};
static _Thread_local struct link *innermost __attribute__((tls_model("initial-exec")));

#define COOKIE(link) ((uintptr_t)(link) ^ (uintptr_t)0x5245434f56455241)
#define FRAMES_MAX ((uintptr_t)1024 * 1024) /* of a handler that raises the signal again */

unsigned handlers_depth(uintptr_t sp)
{
    uintptr_t link = (uintptr_t)innermost;
    if (link <= sp || link - sp > FRAMES_MAX || innermost->cookie != COOKIE(innermost))
        return 0;
    return innermost->depth;
}

/* by_default -- the default action, which is death. */
static void by_default(int sig, const siginfo_t *info)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(sig, &action, NULL);
    if (info->si_code <= 0) /* sent, by kill or raise: it won't come again by itself */
        syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), sig);
}

/* handlers_chain -- give the signal to the newest handler before us that does not have it yet. */
void handlers_chain(int sig, siginfo_t *info, void *context, uintptr_t sp)
{
    unsigned n = atomic_load(&n_before), depth = handlers_depth(sp);
    if (depth >= n) {
        by_default(sig, info);
        return;
    }
    struct sigaction *slot = &before[n - 1 - depth], action = *slot;
    bool              with_info = action.sa_flags & SA_SIGINFO;
    if (!with_info && action.sa_handler == SIG_IGN && info->si_code <= 0)
        return;
    if (!with_info && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)) {
        by_default(sig, info); /* the kernel does not let a real fault be ignored either */
        return;
    }
    if ((unsigned)action.sa_flags & SA_RESETHAND)
        *slot = (struct sigaction){.sa_handler = SIG_DFL};
    sigset_t mask = action.sa_mask, old;
    if (!(action.sa_flags & SA_NODEFER))
        sigaddset(&mask, sig);
    pthread_sigmask(SIG_BLOCK, &mask, &old);
    if (action.sa_flags & SA_NODEFER) {
        sigset_t only;
        sigemptyset(&only);
        sigaddset(&only, sig);
        pthread_sigmask(SIG_UNBLOCK, &only, NULL);
    }
    struct link *outer = innermost, own = {.depth = depth + 1};
    own.cookie = COOKIE(&own);
    innermost = &own;
    store_fence();
    if (with_info)
        action.sa_sigaction(sig, info, context);
    else
        action.sa_handler(sig);
    innermost = outer;
    *(volatile uintptr_t *)&own.cookie = 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* -- installing ---------------------------------------------------------------------------------------------- */

static bool ours(const struct sigaction *action) { return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handler; }

static bool same(const struct sigaction *x, const struct sigaction *y)
{
    return (x->sa_flags & SA_SIGINFO) == (y->sa_flags & SA_SIGINFO) &&
           (x->sa_flags & SA_SIGINFO ? x->sa_sigaction == y->sa_sigaction : x->sa_handler == y->sa_handler);
}

/* push_before -- the newest of those before us; each only once. All signals are blocked: our own handler reads the list. */
static void push_before(const struct sigaction *action)
{
    unsigned n = atomic_load(&n_before), drop = n;
    for (unsigned i = 0; i < n; i++)
        if (same(&before[i], action))
            drop = i;
    if (drop == n && n == BEFORE_MAX)
        drop = 1;
    for (unsigned i = drop; i + 1 < n; i++)
        before[i] = before[i + 1];
    if (drop == n)
        n++;
    before[n - 1] = *action;
    atomic_store(&n_before, n);
}

/* put_ours -- make ours the handler, if it is not. 1: it was not; 0: it was; -errno. */
static int put_ours(void)
{
    struct sigaction now;
    if (sigaction(SIGSEGV, NULL, &now) != 0)
        return -errno;
    if (ours(&now))
        return 0;
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigset_t         all, old;
    sigemptyset(&action.sa_mask);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    push_before(&now);
    int rc = sigaction(SIGSEGV, &action, NULL) == 0 ? 1 : -errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int handlers_install(void (*ours_is)(int, siginfo_t *, void *))
{
    handler = ours_is;
    int rc = put_ours();
    if (rc < 0)
        return -rc;
    atomic_store(&installed, true);
    return 0;
}

int rcv_handler_mend(void) { return atomic_load(&installed) && put_ours() == 1; }

int rcv_handler_installed(void)
{
    struct sigaction now;
    return atomic_load(&installed) && sigaction(SIGSEGV, NULL, &now) == 0 && ours(&now);
}
