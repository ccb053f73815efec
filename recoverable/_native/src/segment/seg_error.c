/* seg_error.c -- what goes wrong with a segment, said so that somebody can act on it. */
#include "segment.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/statvfs.h>

/* seg_corrupt -- RCV_ERR_CORRUPT with the arena's name, the damage and the way out. Marks nothing: recover() does. */
int seg_corrupt(rcv_arena *a, const char *format, ...)
{
    char    damage[256];
    va_list args;
    va_start(args, format);
    vsnprintf(damage, sizeof damage, format, args);
    va_end(args);
    return rcv_raise(RCV_ERR_CORRUPT, 0,
                     "arena \"%s\" is damaged: %s; it was left as it is; copy /dev/shm/recoverable.%s if you want to look at "
                     "it, then unlink the arena and create it anew", a->name, damage, a->name);
}

/* seg_full -- RCV_ERR_FULL: the file system behind the object has no more memory. */
int seg_full(rcv_arena *a, int err, const char *what)
{
    struct statvfs fs;
    char           total[48] = "its limit";
    if (fstatvfs(object_fd(a), &fs) == 0)
        snprintf(total, sizeof total, "%llu MiB in all",
                 (unsigned long long)((uint64_t)fs.f_blocks * fs.f_frsize >> 20));
    return rcv_raise(RCV_ERR_FULL, err,
                     "arena \"%s\": %s; /dev/shm holds %s: remove what is not needed there, or make it larger (docker run "
                     "--shm-size=…, or mount -o remount,size=… /dev/shm)", a->name, what, total);
}

/* seg_os -- RCV_ERR_FULL for want of memory, RCV_ERR_OS for the rest. `what` was being done. */
int seg_os(rcv_arena *a, int err, const char *what)
{
    if (err == ENOSPC)
        return seg_full(a, err, "no shared memory left");
    return rcv_raise(err == ENOMEM ? RCV_ERR_FULL : RCV_ERR_OS, err, "arena \"%s\": a system call failed while %s", a->name,
                     what);
}
