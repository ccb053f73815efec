/* spare.c -- the journal's next file, made before it is needed.
 *
 * In slices, between two batches: whoever waits for a batch does not wait for 64 MiB of zeros. It is called `spare` until it is used,
 * and counts for nothing: it may be half-made, or a file that has been in use before. Where it is not ready in time, the next file is
 * made at once, without zeros, and is slower.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define FILE_SIZE (UINT64_C(64) << 20)
#define SLICE (UINT64_C(256) << 10)

static uint64_t file_size = FILE_SIZE;

void rcv_journal_file_size(uint64_t bytes) { file_size = bytes; }

void spare_begin(struct spare *s, int folder) { *s = (struct spare){.folder = folder, .fd = -1}; }

void spare_end(struct spare *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

/* adopt -- one that is there already: its size is kept if it has no holes, as of a file that was in use before. */
static int adopt(struct spare *s)
{
    struct stat st;
    s->fd = openat(s->folder, SPARE_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->fd < 0 || fstat(s->fd, &st) != 0) {
        int err = errno;
        spare_end(s);
        return err;
    }
    s->made = (uint64_t)st.st_size;
    if (s->made > file_size || (uint64_t)st.st_blocks * 512 < s->made) {
        if (ftruncate(s->fd, 0) != 0)
            return errno;
        s->made = 0;
    }
    return 0;
}

/* spare_make -- one slice more of it: 1 while there is more to do; else 0, also where it fails: it is only for speed. */
int spare_make(struct spare *s)
{
    static const uint8_t zeros[SLICE];
    if (s->ready || s->given_up)
        return 0;
    int err = s->fd < 0 ? adopt(s) : 0;
    if (err == 0 && s->made < file_size) {
        const uint64_t n = file_size - s->made < SLICE ? file_size - s->made : SLICE;
        err = disk_write(s->fd, s->made, &(struct iovec){(void *)(uintptr_t)zeros, n}, 1);
        if (err == 0)
            (void)sync_file_range(s->fd, (off_t)s->made, (off_t)n, SYNC_FILE_RANGE_WRITE); /* lest all of it waits for the end */
        s->made += err == 0 ? n : 0;
        if (err == 0 && s->made < file_size)
            return 1;
    }
    if (err == 0)
        err = disk_sync(s->fd);
    s->ready = err == 0;
    s->given_up = err != 0;
    return 0;
}

/* spare_take -- the file named `spare`, and its size, which is `least` or more; it is the caller's. */
int spare_take(struct spare *s, uint64_t least, int *fd, uint64_t *size)
{
    int err = s->fd < 0 ? adopt(s) : 0;
    *size = s->ready ? s->made : file_size;
    *size = *size > least ? *size : least;
    if (err == 0 && (!s->ready || *size != s->made) && ftruncate(s->fd, (off_t)*size) != 0)
        err = errno;
    if (err != 0) {
        spare_end(s);
        return err;
    }
    *fd = s->fd;
    spare_begin(s, s->folder);
    return 0;
}
