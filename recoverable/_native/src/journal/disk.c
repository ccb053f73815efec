/* disk.c -- what the journal asks of a file system, and no more: tests put another disk under it here.
 *
 * 0 or errno. A write that was cut short is gone on with; one that failed may have reached the disk in part.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int disk_write(int fd, uint64_t off, const struct iovec *what, int n)
{
    struct iovec left[2];
    if (n > 2)
        return EINVAL;
    memcpy(left, what, (size_t)n * sizeof *what);
    for (struct iovec *at = left, *end = left + n; at < end;) {
        ssize_t done = pwritev(fd, at, (int)(end - at), (off_t)off);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        off += (uint64_t)done;
        for (size_t n_done = (size_t)done; at < end; at++) {
            const size_t part = n_done < at->iov_len ? n_done : at->iov_len;
            at->iov_base = (uint8_t *)at->iov_base + part;
            at->iov_len -= part;
            n_done -= part;
            if (at->iov_len > 0)
                break;
        }
    }
    return 0;
}

int disk_sync(int fd)
{
    return fdatasync(fd) == 0 ? 0 : errno;
}

int disk_sync_folder(int folder) { return fsync(folder) == 0 ? 0 : errno; }

/* disk_rename -- it has the other name at once, and nothing is replaced: EEXIST. NFS and others know no such rename: there, whoever is
 * killed in between leaves it with both names. */
int disk_rename(int folder, const char *from, const char *to)
{
    if (renameat2(folder, from, folder, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL)
        return errno;
    if (linkat(folder, from, folder, to, 0) != 0)
        return errno;
    (void)unlinkat(folder, from, 0); /* if that fails, it has two names: spare.c */
    return 0;
}
