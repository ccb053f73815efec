/* handle.c -- descriptors of the journal's own, in programs that close numbers which are not theirs.
 *
 * A number is believed only after fstat() has named our file: a batch that went into another file would be two losses. If it is not,
 * the file is opened again by its name. As with the segment's object (segment/object.c), numbers are high ones. What our file is says its
 * name in the folder, and not the number that open() has given: that one is low, and another thread that closes it twice may have it
 * for a file of its own before it is looked at.
 *
 * Where it still fails: between fstat() and the call that it was for, another thread may close the number and have it again. Only a
 * table of descriptors of its own would keep a thread from that.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#define HIGH 600 /* below the usual limit of 1024 */

static bool is_ours(const struct handle *h, int fd)
{
    struct stat st;
    return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == h->device && st.st_ino == h->inode;
}

/* handle_keep -- a descriptor of our file, whose device and inode *h has, is ours from now on, by a higher number if there is one. EBADF: it
 * is one of another file by now, or of none, and is left to whoever has it. */
int handle_keep(struct handle *h, int fd)
{
    const int high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH), kept = high >= 0 ? high : fd;
    h->fd = -1;
    if (!is_ours(h, kept)) {
        if (high >= 0)
            close(high);
        return EBADF;
    }
    if (high >= 0 && is_ours(h, fd))
        close(fd);
    h->fd = kept;
    return 0;
}

/* handle_open -- the file of that name in a folder is ours from now on. 0 or errno. */
int handle_open(struct handle *h, int folder, const char *name, int flags)
{
    struct stat st;
    int         err = EBADF;
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) {
        const int fd = openat(folder, name, flags | O_CLOEXEC, 0600);
        if (fd < 0)
            return errno;
        if (fstatat(folder, name, &st, flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) != 0) {
            err = errno;
            close(fd);
            return err;
        }
        *h = (struct handle){.fd = -1, .device = st.st_dev, .inode = st.st_ino};
        err = handle_keep(h, fd);
    }
    return err;
}

static bool path_of(char *path, const char *folder, const char *name)
{
    return snprintf(path, PATH_MAX, "%s%s%s", folder, name != NULL ? "/" : "", name != NULL ? name : "") < PATH_MAX;
}

/* handle_fd -- its descriptor; -errno: the program has closed it, and it can't be opened again; -ENOENT also where that name leads to
 * another. `name`: in the folder, NULL: itself. */
int handle_fd(struct handle *h, const char *folder, const char *name)
{
    char path[PATH_MAX];
    if (likely(is_ours(h, h->fd)))
        return h->fd;
    h->fd = -1; /* another's, or nobody's */
    if (!path_of(path, folder, name))
        return -ENAMETOOLONG;
    const int fd = open(path, (name != NULL ? O_RDWR | O_NOFOLLOW : O_RDONLY | O_DIRECTORY) | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    if (!is_ours(h, fd)) {
        close(fd);
        return -ENOENT;
    }
    const int err = handle_keep(h, fd);
    return err == 0 ? h->fd : -err;
}

/* handle_gone -- the file, or a folder that it is in, was moved, removed or replaced: a start would not find it. A path that can't be
 * looked up, after rights were dropped say, tells nothing. */
bool handle_gone(const struct handle *h, const char *folder, const char *name)
{
    char        path[PATH_MAX];
    struct stat st;
    if (!path_of(path, folder, name))
        return false;
    if (stat(path, &st) != 0)
        return errno == ENOENT || errno == ENOTDIR;
    return st.st_dev != h->device || st.st_ino != h->inode;
}

void handle_close(struct handle *h)
{
    if (is_ours(h, h->fd))
        close(h->fd);
    h->fd = -1;
}
