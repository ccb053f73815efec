/* handle.c -- descriptors of the journal's own, in programs that close numbers which are not theirs.
 *
 * A number is believed only after fstat() has named our file: a batch that went into another file would be two losses. If it is not,
 * the file is opened again by its name. As with the segment's object (segment/object.c), numbers are high ones.
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

/* handle_keep -- it is ours from now on, by a higher number if there is one. 0 or errno, and it is closed. */
int handle_keep(struct handle *h, int fd)
{
    struct stat st;
    const int   high = fcntl(fd, F_DUPFD_CLOEXEC, HIGH);
    if (high >= 0)
        close(fd);
    h->fd = high >= 0 ? high : fd;
    if (fstat(h->fd, &st) == 0) {
        h->device = st.st_dev;
        h->inode = st.st_ino;
        return 0;
    }
    const int err = errno;
    close(h->fd);
    h->fd = -1;
    return err;
}

/* handle_fd -- its descriptor; -1: the program has closed it, and that name does not lead to it. `name`: in the folder, NULL: itself. */
int handle_fd(struct handle *h, const char *folder, const char *name)
{
    char path[PATH_MAX];
    if (likely(is_ours(h, h->fd)))
        return h->fd;
    h->fd = -1; /* another's, or nobody's */
    if (snprintf(path, sizeof path, "%s%s%s", folder, name != NULL ? "/" : "", name != NULL ? name : "") >= (int)sizeof path)
        return -1;
    const int fd = open(path, (name != NULL ? O_RDWR : O_RDONLY | O_DIRECTORY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (!is_ours(h, fd)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return handle_keep(h, fd) == 0 ? h->fd : -1;
}

void handle_close(struct handle *h)
{
    if (is_ours(h, h->fd))
        close(h->fd);
    h->fd = -1;
}
