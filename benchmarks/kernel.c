/* kernel.c -- what the kernel's ways to notice a write cost, without Python and without this library.
 *
 *   kernel faults PAGES WRITTEN CHECKPOINTS   pre-images of scattered pages by mprotect and SIGSEGV, by userfaultfd and a
 *                                             thread, by userfaultfd and SIGBUS. A line each: name, ns a checkpoint; or name,
 *                                             -errno, the call that failed
 *   kernel scatter                            protecting n pages with a gap after each. A line each: n, map entries, ns a page
 *                                             to unprotect one by one, to protect one by one, to protect by one call over
 *                                             all; then to unprotect and to protect with gaps of one page filled
 *
 * Compiled and run by preimages.py and scattered.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* two views of the same memory, as an arena has them */
static size_t   pages;
static uint8_t *core, *view;

static int map_views(size_t n)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    pages = n;
    if (fd < 0 || ftruncate(fd, (off_t)(n * PAGE)) != 0)
        return -1;
    core = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    view = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (core == MAP_FAILED || view == MAP_FAILED)
        return -1;
    memset(core, 1, n * PAGE);
    for (size_t i = 0; i < n; i++)
        view[i * PAGE] = 1; /* in the page table */
    return 0;
}

/* -- pre-images ------------------------------------------------------------------------------------------------- */

static uint8_t        *log_;
static volatile size_t logged;
static int             uffd = -1;

static int keep(uintptr_t at)
{
    memcpy(log_ + logged * PAGE, core + ((at & ~(PAGE - 1)) - (uintptr_t)view), PAGE);
    logged++;
    return 0;
}

static int write_protect(uintptr_t at, size_t len, int on)
{
    struct uffdio_writeprotect w = {.range = {at & ~(PAGE - 1), len}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return ioctl(uffd, UFFDIO_WRITEPROTECT, &w);
}

static void on_segv(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    (void)sig, (void)context;
    if (at - (uintptr_t)view >= pages * PAGE)
        _exit(3);
    keep(at);
    if (mprotect((void *)(at & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE) != 0)
        _exit(4);
}

static void on_bus(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    (void)sig, (void)context;
    if (at - (uintptr_t)view >= pages * PAGE)
        _exit(3);
    keep(at);
    if (write_protect(at, PAGE, 0) != 0)
        _exit(4);
}

static void *server(void *unused)
{
    struct uffd_msg m;
    struct pollfd   p = {.fd = uffd, .events = POLLIN};
    (void)unused;
    while (poll(&p, 1, -1) > 0) {
        if (read(uffd, &m, sizeof m) != (ssize_t)sizeof m)
            continue;
        keep((uintptr_t)m.arg.pagefault.address);
        write_protect((uintptr_t)m.arg.pagefault.address, PAGE, 0);
    }
    return NULL;
}

static size_t *places(size_t n)
{
    size_t *at = malloc(n * sizeof *at), *all = malloc(pages * sizeof *all);
    srand(5);
    for (size_t i = 0; i < pages; i++)
        all[i] = i;
    for (size_t i = 0; i < n; i++) {
        size_t k = i + (size_t)rand() % (pages - i), t = all[i];
        at[i] = all[i] = all[k];
        all[k] = t;
    }
    free(all);
    return at;
}

static int failed(const char *name, const char *call)
{
    printf("%s\t-%d\t%s\n", name, errno, call);
    return 1;
}

static void report(const char *name, const size_t *at, size_t n, size_t rounds, int by_uffd)
{
    uint64_t begun = 0;
    for (size_t r = 0; r < rounds + rounds / 4; r++) {
        if (r == rounds / 4)
            begun = now();
        logged = 0;
        for (size_t i = 0; i < n; i++)
            ((volatile uint8_t *)view)[at[i] * PAGE] = (uint8_t)r;
        if (logged != n) {
            printf("%s\t-1\tonly %zu of %zu writes were noticed\n", name, (size_t)logged, n);
            return;
        }
        for (size_t i = 0; i < n; i++)
            if (by_uffd)
                write_protect((uintptr_t)view + at[i] * PAGE, PAGE, 1);
            else
                mprotect(view + at[i] * PAGE, PAGE, PROT_READ);
    }
    printf("%s\t%llu\n", name, (unsigned long long)((now() - begun) / rounds));
}

static int open_uffd(const char *name, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0 && errno == EPERM)
        uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (uffd < 0)
        return failed(name, "userfaultfd");
    if (ioctl(uffd, UFFDIO_API, &api) != 0)
        return failed(name, "UFFDIO_API: write protection of shared memory");
    struct uffdio_register reg = {.range = {(uintptr_t)view, pages * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
    if (ioctl(uffd, UFFDIO_REGISTER, &reg) != 0)
        return failed(name, "UFFDIO_REGISTER");
    if (write_protect((uintptr_t)view, pages * PAGE, 1) != 0)
        return failed(name, "UFFDIO_WRITEPROTECT");
    return 0;
}

static int faults(size_t n, size_t written, size_t rounds)
{
    const uint64_t   wp = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    struct sigaction segv = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO}, bus = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    if (map_views(n) != 0)
        return 2;
    log_ = calloc(written + 1, PAGE);
    size_t *at = places(written);
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    mprotect(view, n * PAGE, PROT_READ);
    report("mprotect", at, written, rounds, 0);
    mprotect(view, n * PAGE, PROT_READ | PROT_WRITE);
    if (open_uffd("uffd-sigbus", wp | UFFD_FEATURE_SIGBUS) == 0)
        report("uffd-sigbus", at, written, rounds, 1);
    if (uffd >= 0)
        close(uffd);
    if (open_uffd("uffd-thread", wp) == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, server, NULL);
        report("uffd-thread", at, written, rounds, 1);
    }
    fflush(stdout);
    _exit(0); /* the thread waits for ever */
}

/* -- scattered protection ------------------------------------------------------------------------------------------ */

static int entries(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    int   n = 0, c;
    while (f != NULL && (c = getc(f)) != EOF)
        n += c == '\n';
    if (f != NULL)
        fclose(f);
    return n;
}

static void smaller(uint64_t *best, uint64_t begun)
{
    uint64_t took = now() - begun;
    *best = took < *best ? took : *best;
}

static int scatter(void)
{
    static const size_t counts[] = {1, 4, 16, 64, 256, 1024, 4096};
    if (map_views(16384) != 0)
        return 2;
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        size_t   n = counts[k];
        uint64_t un = UINT64_MAX, each = UINT64_MAX, once = UINT64_MAX, fill = UINT64_MAX, filled = UINT64_MAX;
        int      before, now_;
        mprotect(view, pages * PAGE, PROT_READ);
        before = entries();
        now_ = before;
        for (int r = 0; r < 9; r++) {
            for (int how = 0; how < 2; how++) {
                uint64_t begun = now();
                for (size_t i = 0; i < n; i++)
                    mprotect(view + (2 * i + 2) * PAGE, PAGE, PROT_READ | PROT_WRITE);
                smaller(&un, begun);
                if (r == 0)
                    now_ = entries();
                begun = now();
                if (how == 0) {
                    for (size_t i = 0; i < n; i++)
                        mprotect(view + (2 * i + 2) * PAGE, PAGE, PROT_READ);
                    smaller(&each, begun);
                } else {
                    mprotect(view + 2 * PAGE, 2 * n * PAGE, PROT_READ);
                    smaller(&once, begun);
                }
            }
            uint64_t begun = now();
            for (size_t i = 0; i < n; i++) /* the gap before it, and that gap's bytes */
                if (mprotect(view + (2 * i + 1) * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE) == 0)
                    memcpy(core + (16383 - i) * PAGE, core + (2 * i + 1) * PAGE, PAGE);
            smaller(&fill, begun);
            begun = now();
            mprotect(view + PAGE, (2 * n + 1) * PAGE, PROT_READ);
            smaller(&filled, begun);
        }
        printf("%zu\t%d\t%llu\t%llu\t%llu\t%llu\t%llu\n", n, now_ - before, (unsigned long long)(un / n), (unsigned long long)(each / n),
               (unsigned long long)(once / n), (unsigned long long)(fill / n), (unsigned long long)(filled / n));
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "faults") == 0)
        return faults(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
    if (argc == 2 && strcmp(argv[1], "scatter") == 0)
        return scatter();
    return 2;
}
