/* scratch.h -- a shared-memory object that no test can leave behind, arenas in it, and children to kill. */
#ifndef RCV_TEST_SCRATCH_H
#define RCV_TEST_SCRATCH_H

#include "check.h"
#include "containers/containers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((uint64_t)1024 * 1024)

/* scratch_object -- empty, in /dev/shm, unlinked at once: it lives as long as a descriptor does, even after kill -9. */
static inline int scratch_object(void)
{
    static int n;
    char       name[64];
    snprintf(name, sizeof name, "/recoverable-test.%d.%d", (int)getpid(), n++);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK(shm_unlink(name) == 0);
    return fd;
}

/* scratch_open -- rcv_open with a size to make, or 0 to attach only. */
static inline int scratch_open(int fd, uint64_t size, rcv_arena **out)
{
    struct rcv_open_options o = {
        .size = size, .create = size != 0, .policy = "incremental", .busy_timeout = 0.05, .name = "scratch"};
    *out = NULL;
    return rcv_open(fd, &o, out);
}

static inline rcv_arena *scratch_arena(int fd, uint64_t size)
{
    rcv_arena *a;
    int        rc = scratch_open(fd, size, &a);
    if (rc != 0)
        fprintf(stderr, "rcv_open: %d: %s\n", rc, rcv_error_text());
    CHECK(rc == 0);
    return a;
}

/* child -- run fn in a process of its own; its wait status. */
static inline int child(void (*fn)(void *), void *arg)
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fn(arg);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static inline bool was_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }
static inline bool went_well(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }

static inline _Noreturn void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* nth_word -- the nth word of the data region, in the core view. */
static inline uint64_t *nth_word(rcv_arena *a, uint64_t n) { return (uint64_t *)(a->core + a->data_off) + n; }

static inline void step_begin(rcv_arena *a)
{
    int rc;
    while ((rc = lock_take(a)) == RCV_ERR_AGAIN) /* another process of the test is in a step: however long */
        (void)rcv_lock_wait(a, NULL);
    CHECK(rc == 0);
    phase_set(a, RCV_STEP);
}

/* step_commit -- what is written stays. */
static inline void step_commit(rcv_arena *a)
{
    phase_set(a, RCV_PUBLISH);
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    lock_drop(a);
}

static inline void step_rollback(rcv_arena *a)
{
    struct rcv_recovery report = {0};
    CHECK(undo_apply(a, 0, &report) == 0);
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    lock_drop(a);
}

/* put -- an announced write of the nth word. */
static inline void put(rcv_arena *a, uint64_t n, uint64_t value)
{
    CHECK(undo_append(a, a->data_off + n * 8, 8, RCV_U_DATA) == 0);
    *nth_word(a, n) = value;
}

/* random numbers: the same in every run */
static uint64_t seed __attribute__((unused)) = 20151207;
static inline uint64_t rnd(uint64_t below)
{
    seed += UINT64_C(0x9e3779b97f4a7c15);
    return rcv_mix(seed) % below;
}

#endif
