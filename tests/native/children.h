/* children.h -- processes of one test that share an arena: what they say to each other, and steps that they are in. */
#ifndef RCV_TEST_CHILDREN_H
#define RCV_TEST_CHILDREN_H

#include "scratch.h"

#include <time.h>

static int fd;      /* the object of the running test */
static int said[2]; /* child -> parent */
static int go[2];   /* parent -> child */

static inline bool says(const char *part) { return strstr(rcv_error_text(), part) != NULL; }
static inline void tell(int to) { CHECK(write(to, "x", 1) == 1); }
static inline void hear(int from)
{
    char c;
    CHECK(read(from, &c, 1) == 1);
}

static inline void begin(void)
{
    fd = scratch_object();
    CHECK(pipe(said) == 0 && pipe(go) == 0);
}

static inline void end(rcv_arena *a)
{
    CHECK(rcv_close(a) == 0);
    close(said[0]), close(said[1]), close(go[0]), close(go[1]), close(fd);
}

static inline pid_t start(void (*fn)(rcv_arena *))
{
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        fn(scratch_arena(fd, 0));
        _exit(0);
    }
    return pid;
}

static inline int reap(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static inline void kill_and_reap(pid_t pid)
{
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(was_killed(reap(pid)));
}

static inline void nap(uint64_t micros) { nanosleep(&(struct timespec){0, (long)micros * 1000}, NULL); }

/* full_step -- a step that writes the same number into two words. */
static inline void full_step(rcv_arena *a)
{
    step_begin(a);
    uint64_t n = *nth_word(a, 0) + 1;
    put(a, 0, n);
    put(a, 1, n);
    step_commit(a);
}

static inline void leave_half_a_step(rcv_arena *a)
{
    step_begin(a);
    put(a, 0, 99);
}

static inline void hold_a_step(rcv_arena *a)
{
    leave_half_a_step(a);
    tell(said[1]);
    hear(go[0]);
    put(a, 1, 99);
    step_commit(a);
}

/* wait_until_hungry -- so many wait, and have for long. */
static inline void wait_until_hungry(const rcv_arena *a, unsigned want)
{
    for (unsigned n = 0; n < want; nap(100)) {
        n = 0;
        for (unsigned i = 0; i < RCV_PLACES; i++)
            n += atomic_load(&a->hdr->queue[i].ticket) != 0 && atomic_load(&a->hdr->queue[i].hungry) != 0;
    }
    nap(2000); /* asleep again */
}

#endif
