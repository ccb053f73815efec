/* lock.c -- who writes in a folder: one at a time, wherever he is.
 *
 * A lock on the file `lock`, by the open file description (fcntl, F_OFD_SETLK), which network file systems take to their servers. It is
 * kept by a page of memory, as the segment's own locks are (os_witness): no forked child inherits it, and closing descriptors does not
 * drop it.
 *
 * Where it still fails: file systems that say yes to everybody. So who has it also writes there which machine he is on, by the
 * boot id, and touches the file once a second; whoever finds another machine's mark that is fresh leaves the folder alone
 * (recoverable/journal/folder.py). Containers of one machine have one kernel, whose locks hold between them.
 */
#include "flusher.h"
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static int path_of(const char *where, char *path) { return snprintf(path, PATH_MAX, "%s/lock", where) < PATH_MAX ? 0 : ENAMETOOLONG; }

static int open_it(const char *where, int flags, int *fd)
{
    char path[PATH_MAX];
    int  err = path_of(where, path);
    if (err == 0 && (*fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600)) < 0)
        err = errno;
    return err;
}

int rcv_journal_host(char *out, size_t size)
{
    char name[HOST_NAME_MAX + 1] = "", boot[40] = "";
    int  fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    (void)gethostname(name, sizeof name - 1);
    if (fd >= 0) {
        ssize_t n = read(fd, boot, sizeof boot - 1);
        boot[n > 0 ? n : 0] = '\0';
        close(fd);
    }
    boot[strcspn(boot, "\n")] = '\0';
    return snprintf(out, size, "%s/%s", name, boot);
}

#define MARK (HOST_NAME_MAX + 80)

/* own_mark -- which machine, which process; its length. */
static int own_mark(char text[MARK])
{
    char host[HOST_NAME_MAX + 50];
    rcv_journal_host(host, sizeof host);
    return snprintf(text, MARK, "%s\n%ld\n", host, (long)getpid());
}

/* leave_mark -- A failure leaves none: it is only for file systems without locks. */
static void leave_mark(const char *where)
{
    char      text[MARK];
    int       fd;
    const int n = own_mark(text);
    if (open_it(where, O_TRUNC, &fd) == 0) {
        (void)!write(fd, text, (size_t)n);
        close(fd);
    }
}

int rcv_journal_lock(const char *where, void **lock)
{
    int fd, err = open_it(where, O_CREAT, &fd);
    if (err == 0)
        err = os_witness(fd, 0, lock); /* which closes it */
    if (err == EAGAIN)
        return rcv_raise(RCV_ERR_BUSY, err, "journal \"%s\": another process writes there", where);
    if (err != 0)
        return journal_raise(err, where, "its lock", "taking");
    leave_mark(where);
    return 0;
}

void journal_touch(const char *where)
{
    char path[PATH_MAX];
    if (path_of(where, path) == 0)
        (void)utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
}

void rcv_journal_unlock(const char *where, void *lock)
{
    char text[MARK], found[MARK];
    int  fd;
    if (lock == NULL)
        return;
    if (open_it(where, 0, &fd) == 0) { /* the mark goes: whoever comes next need not wait until it is old. Another's stays. */
        const int n = own_mark(text);
        if (pread(fd, found, sizeof found, 0) == n && memcmp(found, text, (size_t)n) == 0)
            (void)!ftruncate(fd, 0);
        close(fd);
    }
    os_unmap(lock, os_page_size());
}
