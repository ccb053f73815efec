/* thread.c -- the threads of this process: a number for each, and which of the kernel's threads has it.
 *
 * The number is what the lock knows a thread by: it is never given again, the kernel's ids are. The watchdog needs those too,
 * to send a signal to the thread that holds an arena, and Python's, which is the C library's. So whoever gets a number leaves
 * its ids in a table of RCV_THREADS places, at the number's own: who comes later skips the numbers whose places are living
 * threads'. Where all are, the last one tried is forgotten: a thread that is not found is one that nothing can be sent to.
 */
#include "base.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RCV_THREADS 4096u
#define WRITTEN     UINT64_MAX

/* The number lies in static TLS: the trap handler reads it, and lazily allocated TLS is not async-signal-safe. */
_Thread_local uint64_t os_thread __attribute__((tls_model("initial-exec")));
static _Atomic uint64_t threads;

static struct {
    _Atomic uint64_t number; /* 0: none yet; WRITTEN: it is being written, by one thread */
    _Atomic uint64_t ident;
    _Atomic int32_t  tid;
} known[RCV_THREADS];

/* claim -- a place, to write there. `anybodys`: a living thread's, too. The kernel's id of one that has ended may be another's
 * by now: then it counts as living. */
static bool claim(uint64_t at, bool anybodys)
{
    uint64_t was = atomic_load(&known[at].number);
    if (was == WRITTEN || (was != 0 && !anybodys && syscall(SYS_tgkill, getpid(), atomic_load(&known[at].tid), 0) == 0))
        return false;
    return atomic_compare_exchange_strong(&known[at].number, &was, WRITTEN);
}

/* os_thread_number -- for os_thread_id(): the next number. The trap handler may be the first to ask. */
uint64_t os_thread_number(void)
{
    uint64_t number, at;
    int      before = errno;
    unsigned tries = 0;
    bool     ours;
    do {
        number = atomic_fetch_add(&threads, 1) + 1;
        at = number % RCV_THREADS;
        ours = claim(at, ++tries > RCV_THREADS);
    } while (!ours && tries <= RCV_THREADS);
    if (ours) {
        atomic_store(&known[at].ident, (uint64_t)pthread_self());
        atomic_store(&known[at].tid, (int32_t)gettid());
        atomic_store(&known[at].number, number);
    }
    errno = before;
    return os_thread = number;
}

/* os_thread_find -- the ids of a thread. It may have ended, and another have its kernel id. false: not known any more. */
bool os_thread_find(uint64_t number, uint64_t *ident, int32_t *tid)
{
    uint64_t at = number % RCV_THREADS;
    if (number == 0 || atomic_load(&known[at].number) != number)
        return false;
    *ident = atomic_load(&known[at].ident);
    *tid = atomic_load(&known[at].tid);
    return atomic_load(&known[at].number) == number;
}

static _Atomic int own_threads;

int rcv_own_threads(int change) { return atomic_fetch_add(&own_threads, change) + change; }

void rcv_own_threads_forked(void) { atomic_store(&own_threads, 0); }
