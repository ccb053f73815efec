/* spare.c -- the journal's next file, made before it is needed.
 *
 * In slices, between two batches: whoever waits for a batch does not wait for 64 MiB of zeros. Each waits for the one before it to be on
 * the disk, so that the flush at the end has little to do. Where there is always a batch to be written, a slice is made behind some of
 * them, once the file in use is half full: as much of the spare is there then as of its second half is used. It is called `spare` until
 * it is used, and counts for nothing: it may be half-made, or a file that has been in use before. Where it is not ready in time, the
 * next file is made at once, without zeros, and is slower: each of its flushes allocates.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define FILE_SIZE (UINT64_C(64) << 20)
#define SLICE (UINT64_C(256) << 10)

static uint64_t file_size = FILE_SIZE;

void rcv_journal_file_size(uint64_t bytes) { file_size = bytes; }

void spare_begin(struct spare *s) { *s = (struct spare){.file = {.fd = -1}}; }

void spare_end(struct spare *s) { handle_close(&s->file); }

/* look_at -- what one that is there has is kept if there are no holes in it, as in a file that was in use before. */
static int look_at(struct spare *s)
{
    struct stat st;
    if (fstat(s->file.fd, &st) != 0)
        return errno;
    s->made = (uint64_t)st.st_size;
    if (s->made > file_size || (uint64_t)st.st_blocks * 512 < s->made) {
        if (ftruncate(s->file.fd, 0) != 0)
            return errno;
        s->made = 0;
    }
    return 0;
}

static bool has_another_name(const struct spare *s)
{
    struct stat st;
    return fstat(s->file.fd, &st) == 0 && st.st_nlink > 1;
}

/* adopt -- one that is there already, or a new one. That which is there may have been a file of commits a moment ago, and be one
 * still on the disk: before a byte of it is written, it is `spare` there, too. Else a power loss would leave it with the old name and
 * the next one's head. One with another name is a file in use (disk_rename), or somebody's copy: it loses this one. */
static int adopt(struct spare *s, int folder)
{
    int err = EEXIST;
    for (unsigned tries = 0; (err == EEXIST || err == ENOENT) && tries < CLOSED; tries++) {
        err = handle_open(&s->file, folder, SPARE_NAME, O_RDWR | O_NOFOLLOW);
        if (err == 0 && has_another_name(s)) {
            handle_close(&s->file);
            err = unlinkat(folder, SPARE_NAME, 0) == 0 || errno == ENOENT ? EEXIST : errno; /* once more */
        }
        else if (err == 0 && (err = disk_sync_folder(folder)) == 0)
            err = look_at(s);
        else if (err == ENOENT)
            err = handle_open(&s->file, folder, SPARE_NAME, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
    }
    if (err != 0)
        handle_close(&s->file); /* it is begun again, then */
    return err;
}

/* spare_fd -- its descriptor, or -1: then it is begun again. */
static int spare_fd(struct spare *s, int folder, const char *where, int *err)
{
    int fd = s->file.fd >= 0 ? handle_fd(&s->file, where, SPARE_NAME) : -1;
    *err = 0;
    if (fd < 0) {
        spare_begin(s);
        *err = adopt(s, folder);
        fd = *err == 0 ? s->file.fd : -1;
    }
    return fd;
}

/* spare_make -- one slice more of it: 1 while there is more to do; else 0, also where it fails: it is only for speed. */
int spare_make(struct spare *s, int folder, const char *where)
{
    static const uint8_t zeros[SLICE];
    int                  err;
    if (s->ready || s->given_up)
        return 0;
    int fd = spare_fd(s, folder, where, &err);
    if (err == 0 && s->made < file_size) {
        const uint64_t n = file_size - s->made < SLICE ? file_size - s->made : SLICE;
        err = disk_write(fd, s->made, &(struct iovec){(void *)(uintptr_t)zeros, n}, 1);
        if (err == 0) /* lest all of it waits for the end: this one is on its way, and the one before is waited for */
            (void)sync_file_range(fd, (off_t)s->made, (off_t)n, SYNC_FILE_RANGE_WRITE);
        if (err == 0 && s->made >= SLICE)
            (void)sync_file_range(fd, (off_t)(s->made - SLICE), SLICE,
                                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
        s->made += err == 0 ? n : 0;
        if (err == 0 && s->made < file_size)
            return 1;
    }
    if (err == 0)
        err = disk_sync(fd);
    s->ready = err == 0;
    s->given_up = err != 0;
    return 0;
}

/* spare_take -- the file named `spare` has `least` bytes or more, *size: its `file` is the caller's once he has forgotten it here. */
int spare_take(struct spare *s, int folder, const char *where, uint64_t least, uint64_t *size)
{
    int err, fd = spare_fd(s, folder, where, &err);
    *size = s->ready ? s->made : file_size;
    *size = *size > least ? *size : least;
    if (err == 0 && (!s->ready || *size != s->made) && ftruncate(fd, (off_t)*size) != 0)
        err = errno;
    return err;
}
