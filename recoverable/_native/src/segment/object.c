/* object.c -- the object in /dev/shm behind a segment: our descriptor of it, and whether its name still leads to it.
 *
 * What we want: no other file is ever touched, whatever the program does with descriptors. Programs close numbers that are
 * not theirs: a daemon closes all of them, a library closes one twice. Then ours is gone, or, worse, names another file.
 *
 * What does it: what could harm a file needs no descriptor. Memory is claimed and given back through the mapping, which
 * nobody closes by mistake (os_populate, os_punch). For the rest (mapping the view again, file locks, a forked child's
 * joining) object_fd() believes the number only after fstat() has named our device and inode. If it does not, the object is
 * opened again by its name, if that still leads to it. Otherwise the view is made of the mapping that is there.
 *
 * Where it still fails: between the check and the call another thread may close the number and open another file. The
 * number is therefore a high one: a loop over the first few hundred misses it, and no library is handed it by open().
 *
 * The name is looked at on its own account, too. Once it is gone, whoever opens the arena next makes a new one, and two
 * groups of processes work in two states. Nothing here can mend that, but it must not stay unnoticed: rcv_pending() looks.
 *
 * object_fd, object_remap_shared and object_remap_private are system calls only, and async-signal-safe.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "/dev/shm"
#define HIGH 600 /* below the usual limit of 1024 */

/* is_ours -- is that descriptor, whatever its number, one of our object? */
static bool is_ours(const rcv_arena *a, int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == a->device && st.st_ino == a->inode;
}

/* leads_here -- does the name lead to our object? A failure leaves errno. */
static bool leads_here(const rcv_arena *a)
{
    struct stat st;
    errno = 0;
    return lstat(a->path, &st) == 0 && st.st_dev == a->device && st.st_ino == a->inode;
}

/* object_borrow -- work through the caller's descriptor, which stays the caller's; *st tells about it. 0 or errno. */
int object_borrow(rcv_arena *a, int fd, struct stat *st)
{
    if (fstat(fd, st) != 0)
        return errno;
    a->fd = fd;
    a->device = st->st_dev;
    a->inode = st->st_ino;
    return 0;
}

/* object_adopt -- a descriptor of our own for the object behind `fd`. 0 or errno; what was opened, object_drop closes. */
int object_adopt(rcv_arena *a, int fd, struct stat *st)
{
    int own; /* another description than the caller's: a dup() would keep its flock alive */
    int err = os_reopen(fd, &own);
    if (err != 0)
        return err;
    int high = fcntl(own, F_DUPFD_CLOEXEC, HIGH);
    if (high >= 0) { /* else the limit is a low one */
        close(own);
        own = high;
    }
    if ((err = object_borrow(a, own, st)) != 0) {
        close(own);
        return err;
    }
    snprintf(a->path, sizeof a->path, FOLDER "/recoverable.%s", a->name);
    a->named = leads_here(a);
    return 0;
}

/* object_drop -- close our descriptor, if it still is ours. */
void object_drop(rcv_arena *a)
{
    int fd = atomic_exchange(&a->fd, -1);
    if (is_ours(a, fd))
        close(fd);
}

/* regain -- open the object again by its name: its descriptor, or -1. */
static int regain(rcv_arena *a, int lost)
{
    if (!a->named || !leads_here(a)) /* first: opening a stranger's FIFO or device would be an act of its own */
        return -1;
    int fd = open(a->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -1;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH);
    if (high >= 0) {
        close(fd);
        fd = high;
    }
    if (is_ours(a, fd) && atomic_compare_exchange_strong(&a->fd, &lost, fd))
        return fd;
    close(fd); /* another thread was faster, or the name has moved */
    return is_ours(a, lost) ? lost : -1;
}

/* object_fd -- a descriptor of our object, of which fstat() has just said so; -1: there is none any more. Renewing it changes
 * nothing that a caller could see, so const callers may ask. */
int object_fd(const rcv_arena *a)
{
    int fd = atomic_load_explicit(&a->fd, memory_order_relaxed);
    return likely(is_ours(a, fd)) ? fd : regain((rcv_arena *)a, fd);
}

/* object_open -- an open file description of our own, for file locks. 0, EBADF (see object_lost) or another errno. */
int object_open(rcv_arena *a, int *out)
{
    int fd = object_fd(a), own;
    if (fd < 0)
        return EBADF;
    int err = os_reopen(fd, &own);
    if (err != 0)
        return err;
    if (!is_ours(a, own)) {
        close(own);
        return EBADF;
    }
    *out = own;
    return 0;
}

/* object_lost -- the error where a descriptor is needed and there is none. */
int object_lost(rcv_arena *a)
{
    return rcv_raise(RCV_ERR_OS, EBADF,
                     "arena \"%s\": this program has closed its file descriptor, and %s no longer leads to it; nothing was "
                     "changed, and what is committed is kept; open arenas after daemonizing and after closing descriptors",
                     a->name, a->path);
}

/* object_remap_shared -- put our object over what is mapped at `at`. A failure leaves what was there. */
int object_remap_shared(rcv_arena *a, uint64_t off, void *at, uint64_t len, int prot)
{
    int fd = object_fd(a);
    return fd >= 0 ? os_remap_shared(fd, off, at, len, prot) : os_clone_shared(a->core + off, at, len, prot);
}

/* object_remap_private -- the same, copy-on-write. Without a descriptor it is a copy, which only a page is small enough for. */
int object_remap_private(rcv_arena *a, uint64_t off, void *at, uint64_t len)
{
    int fd = object_fd(a);
    if (fd >= 0)
        return os_remap_private(fd, off, at, len);
    return len == os_page_size() ? os_copy_private(a->core + off, at, len) : EBADF;
}

/* -- its name -------------------------------------------------------------------------------------------------- */

/* rcv_orphaned -- see recoverable.h. */
int rcv_orphaned(rcv_arena *a)
{
    if (!a->named || leads_here(a))
        return 0;
    /* After a chroot, say, nothing is known about the folder that others look into. */
    bool orphaned = errno == 0 || (errno == ENOENT && access(FOLDER, F_OK) == 0);
    a->looked = os_ticks();
    if (orphaned && !a->orphan_seen)
        a->orphan_seen = a->orphan_unreported = true;
    return orphaned;
}

/* rcv_orphan_take -- see recoverable.h. */
int rcv_orphan_take(rcv_arena *a)
{
    bool unreported = a->orphan_unreported;
    a->orphan_unreported = false;
    return unreported;
}
