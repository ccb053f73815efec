/* test_object.c -- is no other file touched, and nothing lost, when the program closes our descriptor or removes the name? */
#include "scratch.h"

#include <errno.h>
#include <sys/resource.h>
#include <time.h>

#define PAGE os_page_size()

/* foreign -- a file of the program's own, 6 bytes long. */
static int foreign(void)
{
    int fd = scratch_object();
    CHECK(write(fd, "hello\n", 6) == 6);
    return fd;
}

/* untouched -- is it what it was? */
static bool untouched(int fd)
{
    struct stat st;
    char        text[8];
    CHECK(fstat(fd, &st) == 0);
    return st.st_size == 6 && st.st_blocks * 512 <= (blkcnt_t)PAGE && pread(fd, text, 8, 0) == 6 && memcmp(text, "hello\n", 6) == 0;
}

static uint64_t backed(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return (uint64_t)st.st_blocks * 512;
}

static void claiming_through_the_mapping(void)
{
    int      fd = scratch_object();
    uint64_t len = 2 * MIB;
    void    *p;
    CHECK(ftruncate(fd, (off_t)len) == 0 && os_map_shared(fd, 0, len, PROT_READ | PROT_WRITE, &p) == 0);
    uint8_t *at = p;
    memset(at, 7, PAGE);
    CHECK(os_populate(at, MIB) == 0 && backed(fd) == MIB && at[0] == 7 && at[PAGE] == 0); /* what is there stays */
    CHECK(os_populate(at, MIB) == 0 && backed(fd) == MIB);
    CHECK(os_punch(at, MIB) == 0 && backed(fd) == 0 && at[0] == 0);
    CHECK(os_punch(at, MIB) == 0);
    CHECK(os_punch(at, PAGE) == 0 && backed(fd) == 0);
    /* An unaligned address is EINVAL, which is what a kernel says that does not know the call: page by page, then. */
    CHECK(os_populate(at + 8, MIB) == 0 && backed(fd) == MIB);
    CHECK(ftruncate(fd, (off_t)MIB) == 0);
    CHECK(os_populate(at, len) == ENOSPC && backed(fd) == MIB); /* no SIGBUS */
    CHECK(os_populate(at + 8, len) == ENOSPC);
    CHECK(os_unmap(p, len) == 0);
    close(fd);
}

static void mapping_without_a_descriptor(void)
{
    int      fd = scratch_object();
    uint64_t len = 16 * PAGE;
    void    *p, *q;
    CHECK(ftruncate(fd, (off_t)len) == 0 && os_map_shared(fd, 0, len, PROT_READ | PROT_WRITE, &p) == 0);
    CHECK(os_map_nothing(len, &q) == 0);
    close(fd);
    uint8_t *at = p, *view = q;
    CHECK(os_clone_shared(at, view, len, PROT_READ) == 0);
    at[3 * PAGE] = 42;
    CHECK(view[3 * PAGE] == 42);
    CHECK(os_copy_private(at + 3 * PAGE, view + 3 * PAGE, PAGE) == 0 && view[3 * PAGE] == 42);
    view[3 * PAGE] = 1; /* writable, and private */
    CHECK(at[3 * PAGE] == 42);
    CHECK(os_clone_shared(at + 3 * PAGE, view + 3 * PAGE, PAGE, PROT_READ) == 0 && view[3 * PAGE] == 42);
    CHECK(os_protect(view, len, PROT_READ | PROT_WRITE) == 0);
    view[0] = 9;
    CHECK(at[0] == 9);
    CHECK(os_unmap(p, len) == 0 && os_unmap(q, len) == 0);
}

/* lose -- another file has the arena's number from now on. */
static int lose(rcv_arena *a, int other)
{
    int number = a->fd;
    CHECK(dup2(other, number) == number);
    return number;
}

static void a_descriptor_out_of_reach(void)
{
    rcv_arena *a = scratch_arena(scratch_object(), MIB);
    CHECK(a->fd >= 600 && object_fd(a) == a->fd);
    CHECK(rcv_close(a) == 0);
    struct rlimit old, low;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    low = old;
    low.rlim_cur = 128; /* there is none as high */
    CHECK(setrlimit(RLIMIT_NOFILE, &low) == 0);
    a = scratch_arena(scratch_object(), MIB);
    CHECK(a->fd < 128 && object_fd(a) == a->fd && rcv_close(a) == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
}

/* An object without a name whose descriptor is gone: all goes on that does not need one, and the rest says so. */
static void lost_for_good(void)
{
    rcv_arena *a = scratch_arena(scratch_object(), 8 * MIB);
    int        other = foreign(), number = lose(a, other), own;
    step_begin(a);
    CHECK(seg_claim_data(a, 4 * MIB) == 0);
    memset(a->core + a->data_off, 1, 4 * MIB);
    for (uint64_t i = 0; i < 600; i++) /* the log grows, too */
        CHECK(undo_append(a, a->data_off + i * PAGE, 4096, RCV_U_PAGE) == 0);
    CHECK(atomic_load(&a->hdr->undo_claimed) > 2 * MIB);
    step_rollback(a);
    undo_trim(a);
    CHECK(atomic_load(&a->hdr->undo_claimed) == RCV_SLICE);
    CHECK(object_fd(a) == -1 && object_open(a, &own) == EBADF);
    CHECK(object_lost(a) == RCV_ERR_OS && strstr(rcv_error_text(), "daemonizing") != NULL);
    uint8_t *view = a->tracked;
    *nth_word(a, 0) = 5;
    CHECK(object_remap_private(a, a->data_off, view, PAGE) == 0 && *(uint64_t *)(void *)view == 5);
    memset(view, 9, PAGE);
    CHECK(*nth_word(a, 0) == 5);
    CHECK(object_remap_private(a, a->data_off, view, a->data_size) == EBADF); /* too much to copy */
    CHECK(object_remap_shared(a, a->data_off, view, a->data_size, PROT_READ) == 0 && *(uint64_t *)(void *)view == 5);
    CHECK(untouched(other));
    CHECK(rcv_close(a) == 0);
    CHECK(untouched(number)); /* nor was the number closed */
    close(number);
    close(other);
}

/* named -- an arena with its name in /dev/shm. */
static rcv_arena *named(char name[64], uint64_t size)
{
    static int n;
    char       path[96];
    snprintf(name, 64, "test-object-%d-%d", (int)getpid(), n++);
    snprintf(path, sizeof path, "/recoverable.%s", name);
    int fd = shm_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    struct rcv_open_options o = {.size = size, .create = 1, .policy = "incremental", .busy_timeout = 0.05, .name = name};
    rcv_arena              *a;
    CHECK(rcv_open(fd, &o, &a) == 0);
    close(fd);
    return a;
}

static void got_back_by_its_name(void)
{
    char       name[64];
    rcv_arena *a = named(name, MIB);
    int        other = foreign(), number = lose(a, other), own;
    CHECK(object_open(a, &own) == 0 && a->fd != number && object_fd(a) == a->fd);
    struct stat st;
    CHECK(fstat(own, &st) == 0 && st.st_ino == a->inode);
    close(own);
    CHECK(rcv_orphaned(a) == 0);
    CHECK(unlink(a->path) == 0 && rcv_orphaned(a) == 1);
    CHECK(object_fd(a) >= 0); /* the descriptor still is good */
    lose(a, other);
    CHECK(object_fd(a) == -1);
    CHECK(symlink("/dev/null", a->path) == 0);
    CHECK(object_fd(a) == -1 && rcv_orphaned(a) == 1);
    CHECK(unlink(a->path) == 0 && mkfifo(a->path, 0600) == 0); /* opening it would block */
    CHECK(object_fd(a) == -1 && rcv_orphaned(a) == 1);
    CHECK(unlink(a->path) == 0);
    CHECK(untouched(other) && rcv_close(a) == 0);
    close(number);
    close(other);
}

static void told_once(void)
{
    char       name[64];
    rcv_arena *a = named(name, MIB);
    CHECK(rcv_pending(a) == 0);
    CHECK(unlink(a->path) == 0);
    struct timespec nap = {0, 10000000};
    int             naps = 0;
    while (rcv_pending(a) == 0 && naps++ < 90)
        nanosleep(&nap, NULL);
    CHECK(naps < 90); /* within a second */
    CHECK(rcv_orphan_take(a) == 1 && rcv_orphan_take(a) == 0 && rcv_pending(a) == 0);
    CHECK(rcv_orphaned(a) == 1 && rcv_pending(a) == 0);
    CHECK(rcv_close(a) == 0);
    a = scratch_arena(scratch_object(), MIB); /* never had a name */
    CHECK(rcv_orphaned(a) == 0 && rcv_pending(a) == 0 && rcv_close(a) == 0);
}

int main(void)
{
    claiming_through_the_mapping();
    mapping_without_a_descriptor();
    a_descriptor_out_of_reach();
    lost_for_good();
    got_back_by_its_name();
    told_once();
    CHECKS_DONE();
    return 0;
}
