/* lock.c -- who writes in a folder: one at a time, wherever he is.
 *
 * A lock on the file `lock`, by the open file description (fcntl, F_OFD_SETLK), which network file systems take to their servers. It is
 * kept by a page of memory, as the segment's own locks are (os_witness): no forked child inherits it, and closing descriptors does not
 * drop it.
 *
 * Where it still fails: file systems that say yes to everybody. So who has it also writes there who he is, and since when the file is
 * touched; whoever finds another host's mark that is fresh leaves the folder alone (recoverable/journal/folder.py).
 */
#include "flusher.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

int rcv_journal_lock(const char *where, void **lock)
{
    char path[PATH_MAX];
    int  err = snprintf(path, sizeof path, "%s/lock", where) < (int)sizeof path ? 0 : ENAMETOOLONG, fd = -1;
    if (err == 0 && (fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)) < 0)
        err = errno;
    if (err == 0)
        err = os_witness(fd, 0, lock); /* which closes it */
    if (err == EAGAIN)
        return rcv_raise(RCV_ERR_BUSY, err, "journal \"%s\": another process writes there", where);
    return err == 0 ? 0 : journal_raise(err, where, "its lock", "taking");
}

void rcv_journal_unlock(void *lock)
{
    if (lock != NULL)
        os_unmap(lock, os_page_size());
}
