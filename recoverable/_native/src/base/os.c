/* os.c -- the operating system, reduced to what the core needs of it.
 *
 * Functions return 0 or an errno value, keep no error text and no state but two caches (page size, thread number). Those that
 * the trap handler may call (os_remap_private, os_copy_private, os_protect, os_populate, os_thread_id) are system calls alone or
 * less, and async-signal-safe.
 */
#include "base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* os_page_size -- of this machine, asked once. */
uint64_t os_page_size(void)
{
    static uint64_t size;
    if (unlikely(size == 0))
        size = (uint64_t)sysconf(_SC_PAGESIZE);
    return size;
}

/* os_map_shared -- map [off, off+len) of the object somewhere; *out is set only on success. */
int os_map_shared(int fd, uint64_t off, uint64_t len, int prot, void **out)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(NULL, len, prot, MAP_SHARED | MAP_NORESERVE, fd, (off_t)off);
    if (p == MAP_FAILED)
        return errno;
    *out = p;
    return 0;
}

/* os_map_private -- all of a file, writable: what is stored there is this process's alone, and takes memory then. */
int os_map_private(int fd, uint64_t len, void **out)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED)
        return errno;
    *out = p;
    return 0;
}

/* os_remap_shared -- put the object over whatever is mapped at `at`. A failure leaves what was there. */
int os_remap_shared(int fd, uint64_t off, void *at, uint64_t len, int prot)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(at, len, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, (off_t)off);
    return p == MAP_FAILED ? errno : 0;
}

/* os_remap_private -- the same, copy-on-write: stores to it never reach the object. Signal-safe. */
int os_remap_private(int fd, uint64_t off, void *at, uint64_t len)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, (off_t)off);
    return p == MAP_FAILED ? errno : 0;
}

/* os_map_twice -- [off, off+len) of the object, twice in a row: what runs over the end goes on at the beginning. */
int os_map_twice(int fd, uint64_t off, uint64_t len, int prot, void **out)
{
    void *p;
    int   err = os_map_nothing(2 * len, &p);
    if (err != 0)
        return err;
    for (uint64_t i = 0; err == 0 && i < 2; i++)
        err = os_remap_shared(fd, off, (uint8_t *)p + i * len, len, prot);
    if (err != 0)
        os_unmap(p, 2 * len);
    else
        *out = p;
    return err;
}

/* os_map_nothing -- addresses that fault until os_protect gives them memory, which is private and reads as zero. */
int os_map_nothing(uint64_t len, void **out)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return errno;
    *out = p;
    return 0;
}

/* os_forget -- give private memory back: it reads as zero afterwards. */
int os_forget(void *at, uint64_t len) { return madvise(at, len, MADV_DONTNEED) == 0 ? 0 : errno; }

/* os_read -- all of [off, off+len) of the object. Unlike a mapping, it allocates nothing where there is a hole. */
int os_read(int fd, uint64_t off, void *to, uint64_t len)
{
    for (uint8_t *at = to; len > 0;) {
        ssize_t n = pread(fd, at, len, (off_t)off);
        if (n == 0)
            return ENODATA;
        if (n < 0 && errno != EINTR)
            return errno;
        if (n > 0) {
            at += n;
            off += (uint64_t)n;
            len -= (uint64_t)n;
        }
    }
    return 0;
}

/* os_unmap -- take a mapping away. */
int os_unmap(void *at, uint64_t len) { return munmap(at, len) == 0 ? 0 : errno; }

/* os_protect -- change what may be done to pages. ENOMEM: the process has as many mappings as it may. Signal-safe. */
int os_protect(void *at, uint64_t len, int prot)
{
    if (FAIL_NOW(RCV_FAIL_MPROTECT))
        return ENOMEM;
    return mprotect(at, len, prot) == 0 ? 0 : errno;
}

/* os_claim -- put memory behind [off, off+len), at most a slice a call: tmpfs gives up with EINTR on any signal and starts
 * over, so a long call under a fast interval timer would never end. ENOSPC: what was claimed so far stays. Signal-safe. */
int os_claim(int fd, uint64_t off, uint64_t len)
{
    while (len > 0) {
        uint64_t n = len < RCV_SLICE ? len : RCV_SLICE;
        if (FAIL_NOW(RCV_FAIL_FALLOCATE))
            return ENOSPC;
        while (fallocate(fd, 0, (off_t)off, (off_t)n) != 0)
            if (errno != EINTR)
                return errno;
        off += n;
        len -= n;
    }
    return 0;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* touch -- what MADV_POPULATE_WRITE does, before Linux 5.14: have the kernel read a word of each page. On tmpfs that allocates
 * it like any fault; where there is no memory, the call says EFAULT, and no SIGBUS comes. (It always fails: there is no such
 * `how`, which it looks at after it has read.) */
static int touch(uint8_t *at, uint64_t len)
{
    for (uint64_t done = 0; done < len; done += os_page_size())
        if (syscall(SYS_rt_sigprocmask, ~0, at + done, NULL, 8) != 0 && errno == EFAULT)
            return ENOSPC;
    return 0;
}

static int populate(uint8_t *at, uint64_t len)
{
    while (madvise(at, len, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINVAL)
            return touch(at, len);
        if (errno != EINTR)
            return errno == EFAULT ? ENOSPC : errno; /* what would be a SIGBUS for a store */
    }
    return 0;
}

/* os_populate -- put memory behind pages of a writable shared mapping; those that have some keep it. Costs what fallocate and
 * the first touch of the pages cost together. ENOSPC: what was claimed so far stays. Signal-safe. */
int os_populate(void *at, uint64_t len)
{
    for (uint8_t *next = at; len > 0;) {
        uint64_t n = len < RCV_SLICE ? len : RCV_SLICE;
        if (FAIL_NOW(RCV_FAIL_FALLOCATE))
            return ENOSPC;
        int err = populate(next, n);
        if (err != 0)
            return err;
        next += n;
        len -= n;
    }
    return 0;
}

/* os_punch -- give the memory behind a writable shared mapping back: it reads as zero afterwards. EINVAL: it is locked into
 * memory (mlockall), and stays. */
int os_punch(void *at, uint64_t len)
{
    while (madvise(at, len, MADV_REMOVE) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* os_clone_shared -- map once more, at `at`, what is mapped shared at `from`. Put together elsewhere, so that what is at `at`
 * is never writable in between. Takes more map entries than os_remap_shared. A failure leaves what was there. */
int os_clone_shared(void *from, void *at, uint64_t len, int prot)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mremap(from, 0, len, MREMAP_MAYMOVE); /* of a shared mapping: another of the same pages */
    if (p == MAP_FAILED)
        return errno;
    if (mprotect(p, len, prot) == 0 && mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED)
        return 0;
    int err = errno;
    munmap(p, len);
    return err;
}

/* os_copy_private -- put a private, writable copy of `from` over whatever is mapped at `at`. A failure leaves what was there. */
int os_copy_private(const void *from, void *at, uint64_t len)
{
    if (FAIL_NOW(RCV_FAIL_MMAP))
        return ENOMEM;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return errno;
    memcpy(p, from, len);
    if (mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED)
        return 0;
    int err = errno;
    munmap(p, len);
    return err;
}

/* os_reopen -- a second open file description of the object behind fd: dup() would share the first one's locks. */
int os_reopen(int fd, int *out)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    if (again < 0)
        return errno;
    *out = again;
    return 0;
}

/* os_witness -- an exclusive lock on one byte of the object behind fd, which is closed: the description, and the lock with it,
 * lives as long as the page that is mapped at *out, which no forked child inherits. EAGAIN: another one has it. */
int os_witness(int fd, uint64_t off, void **out)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)off, .l_len = 1};
    void        *p = FAIL_NOW(RCV_FAIL_MMAP) ? MAP_FAILED : mmap(NULL, os_page_size(), PROT_NONE, MAP_SHARED, fd, 0);
    int          err = p == MAP_FAILED ? ENOMEM : 0;
    if (err == 0 && madvise(p, os_page_size(), MADV_DONTFORK) != 0)
        err = errno;
    while (err == 0 && fcntl(fd, F_OFD_SETLK, &lock) != 0)
        if (errno != EINTR)
            err = errno == EACCES ? EAGAIN : errno;
    close(fd);
    if (err == 0)
        *out = p;
    else if (p != MAP_FAILED)
        munmap(p, os_page_size());
    return err;
}

/* os_bytes_locked -- does another open file description than fd's hold one of them? *locked is set only on success. */
int os_bytes_locked(int fd, uint64_t off, uint64_t len, bool *locked)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)off, .l_len = (off_t)len};
    if (fcntl(fd, F_OFD_GETLK, &lock) != 0)
        return errno;
    *locked = lock.l_type != F_UNLCK;
    return 0;
}

/* os_futex_wait -- sleep until the word is rung, or is not `seen`, or that many nanoseconds are over. Shared: by the object, not
 * by the address. */
void os_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t nanos)
{
    struct timespec most = {(time_t)(nanos / 1000000000u), (long)(nanos % 1000000000u)};
    (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &most, NULL, 0);
}

/* os_futex_wake -- wake one who sleeps there; was there one? */
bool os_futex_wake(_Atomic uint32_t *word) { return syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) == 1; }

/* os_futex_wake_all -- wake all who sleep there. The word may lie in a mapping that can only be read. */
void os_futex_wake_all(const _Atomic uint32_t *word) { (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }

/* os_nanos -- monotonic nanoseconds. */
uint64_t os_nanos(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* os_clock -- nanoseconds since the epoch. */
uint64_t os_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* os_random -- unpredictable bytes from the kernel. */
int os_random(void *out, size_t len)
{
    uint8_t *p = out;
    while (len > 0) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* os_malloc, os_calloc, os_realloc, os_free -- process memory; NULL when there is none, or when a test says so. */
void *os_malloc(size_t len) { return FAIL_NOW(RCV_FAIL_MALLOC) ? NULL : malloc(len); }
void *os_calloc(size_t count, size_t len) { return FAIL_NOW(RCV_FAIL_MALLOC) ? NULL : calloc(count, len); }
void *os_realloc(void *p, size_t len) { return FAIL_NOW(RCV_FAIL_MALLOC) ? NULL : realloc(p, len); }
void  os_free(void *p) { free(p); }
