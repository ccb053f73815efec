/* writer.c -- the journal's files, written: one batch after the other, each durable before the next is begun.
 *
 * Whoever goes on where another was does not know whether the last batch is on the disk: it sees it in the page cache. To flush the
 * file is not enough: the other may have been killed while it waited for a disk that failed, and then pages are clean, the error is
 * told, and nothing is on the disk. So the last batch's bytes are written once more, to where they are, and flushed: what the disk
 * does not take is told to this one. All before it was flushed before it was begun. The folder is flushed, too: the file may have its
 * name in memory only.
 *
 * A file gets its whole size before it is used, written with zeros: fdatasync() of a file that neither grows nor has holes writes the
 * data alone (measured: 0.06 ms where it takes 1.67 ms otherwise). The next file is made while there is time (spare.c); it counts
 * from when it has its name, which it gets with its head durable.
 *
 *   zeros -> head -> fdatasync -> rename to journal-<n> -> fsync of the folder -> batches
 *
 * After a failure of fdatasync the kernel may have dropped what was written, and say so once only: nothing is tried again then. A
 * full disk is another matter: the same batch is written once more, at the same place.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

struct rcv_writer {
    struct handle folder, file;
    char          where[PATH_MAX], name[JOURNAL_NAME];
    struct rcv_journal_start at; /* where the next batch goes on from; .number, .size: of the file in use */
    uint64_t      offset;
    bool          stopped; /* a failure that is not tried again */
    bool          unnamed; /* the file in use has its name, and that is not on the disk yet */
    struct spare  spare;
};

static int make(const char *where, rcv_writer **out)
{
    rcv_writer *w = os_calloc(1, sizeof *w);
    if (w == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for writing a journal");
    w->folder.fd = w->file.fd = -1;
    spare_begin(&w->spare);
    int err = snprintf(w->where, sizeof w->where, "%s", where) >= (int)sizeof w->where ? ENAMETOOLONG : 0;
    if (err == 0)
        err = handle_open(&w->folder, AT_FDCWD, where, O_RDONLY | O_DIRECTORY);
    if (err != 0) {
        rcv_writer_close(w);
        return journal_raise(err, where, "its folder", "opening");
    }
    *out = w;
    return 0;
}

void rcv_writer_close(rcv_writer *w)
{
    if (w == NULL)
        return;
    spare_end(&w->spare);
    handle_close(&w->file);
    handle_close(&w->folder);
    os_free(w);
}

void rcv_writer_get(const rcv_writer *w, struct rcv_journal_start *out) { *out = w->at; }

/* failed -- err of doing something to a file. */
static int failed(rcv_writer *w, int err, const char *doing, const char *name)
{
    int rc = journal_raise(err, w->where, name, doing);
    w->stopped = w->stopped || rc != RCV_ERR_FULL;
    return rc;
}

/* removed -- somebody has moved it or taken it away, or put another in its place: no start would find what is written to it. */
static int removed(rcv_writer *w, const char *name)
{
    w->stopped = true;
    return rcv_raise(RCV_ERR_NOTFOUND, ENOENT, "journal \"%s\": %s was moved or removed while it was in use", w->where, name);
}

/* look_at_file -- the file in use, if there is one, is where a start would look for it. */
static int look_at_file(rcv_writer *w)
{
    if (w->file.inode == 0 || !handle_gone(&w->file, w->where, w->name))
        return 0;
    return removed(w, handle_gone(&w->folder, w->where, NULL) ? "its folder" : w->name);
}

/* unreachable -- it was closed by others, and opening it again has failed: for want of descriptors, say, which passes. */
static int unreachable(rcv_writer *w, int err, const char *name)
{
    return err == ENOENT || err == ENOTDIR ? removed(w, name) : failed(w, err, "opening", name);
}

static int sync_folder(rcv_writer *w)
{
    int err = EBADF;
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) {
        const int folder = handle_fd(&w->folder, w->where, NULL);
        err = folder < 0 ? -folder : disk_sync_folder(folder);
    }
    return err;
}

/* name_file -- the file in use has its name on the disk. */
static int name_file(rcv_writer *w)
{
    const int err = w->unnamed ? sync_folder(w) : 0;
    w->unnamed = err != 0;
    return err == 0 ? 0 : failed(w, err, "naming", w->name);
}

/* taken -- somebody else has made the next file, or has put one there. */
static int taken(rcv_writer *w, const char *name)
{
    w->stopped = true;
    return rcv_raise(RCV_ERR_OS, EEXIST, "journal \"%s\": %s is there already: something else writes in this folder", w->where, name);
}

/* begin_file -- the next one, with room for a batch of so many bytes. A failure leaves the one in use as it is. From the rename on the
 * new one is in use, whatever comes of name_file(), which is to be called before anything is written to it. */
static int begin_file(rcv_writer *w, uint64_t room)
{
    const struct rcv_journal_start *s = &w->at;
    struct rcv_journal_head         h = {.format = RCV_JOURNAL_FORMAT, .id = {s->id[0], s->id[1]}, .number = s->number + 1,
                                         .epoch = s->epoch, .position = s->position, .seq = s->seq, .at = s->at, .chain = s->chain};
    char name[JOURNAL_NAME];
    int  err = EBADF;
    journal_name(h.number, name);
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) {
        const int folder = handle_fd(&w->folder, w->where, NULL);
        if (folder == -EBADF)
            continue;
        if (folder < 0)
            return unreachable(w, -folder, "its folder");
        if ((err = spare_take(&w->spare, folder, w->where, RCV_JOURNAL_HEAD + room, &h.size)) != 0)
            continue;
        memcpy(h.magic, RCV_JOURNAL_MAGIC, sizeof h.magic);
        h.crc = head_crc(&h);
        const int fd = w->spare.file.fd;
        err = disk_write(fd, 0, &(struct iovec){&h, sizeof h}, 1);
        if (err == 0)
            err = disk_sync(fd);
        CRASHPOINT("journal.head");
        if (err == 0 && look_at_file(w) != 0) /* nobody looks at it later, and without it what follows is worth nothing */
            return RCV_ERR_NOTFOUND;
        if (err == 0)
            err = disk_rename(folder, SPARE_NAME, name);
        CRASHPOINT("journal.named");
    }
    if (err != 0) {
        spare_end(&w->spare);
        return err == EEXIST ? taken(w, name) : failed(w, err, "making", name);
    }
    handle_close(&w->file);
    w->file = w->spare.file;
    spare_begin(&w->spare);
    memcpy(w->name, name, sizeof name);
    w->at.number = h.number;
    w->at.size = h.size;
    w->offset = RCV_JOURNAL_HEAD;
    w->unnamed = true;
    return 0;
}

int rcv_journal_spare(const char *where)
{
    rcv_writer *w;
    int         rc = make(where, &w);
    if (rc != 0)
        return rc;
    while (spare_make(&w->spare, w->folder.fd, w->where) == 1)
        ;
    rcv_writer_close(w);
    return 0;
}

/* -- going on where another was ---------------------------------------------------------------------------------------- */

/* last_batch -- over all batches of a file: *any: *last is the last one, without its data; else it has none. 0, or what has ended it.
 * `whole`: RCV_ERR_CORRUPT, there are sound ones behind a broken one; else that is the end. */
static int last_batch(rcv_journal_file *f, bool whole, struct rcv_journal_start *at, struct rcv_journal_batch *last, bool *any)
{
    struct rcv_journal_batch b;
    int                      rc;
    *any = false;
    rcv_journal_get_start(f, at);
    while ((rc = whole ? rcv_journal_next(f, &b) : rcv_journal_next_of_tail(f, &b)) == 1) {
        *last = b;
        last->chain = at->chain; /* that it goes on from */
        at->position = b.end;
        at->chain = b.chain;
        if (b.records > 0) {
            at->seq = b.seq;
            at->at = b.at;
        }
        *any = true;
    }
    return rc;
}

/* write_again -- a batch as it was read, to where it was, and flush the file. 0 or errno. EAGAIN: it is not there any more. */
static int write_again(rcv_writer *w, rcv_journal_file *f, const struct rcv_journal_batch *last)
{
    struct rcv_journal_batch b;
    const uint64_t           size = sizeof(struct rcv_batch) + (last->end - last->position);
    int                      err = EBADF;
    rcv_journal_go_on(f, last->offset, last->position, last->chain);
    if (rcv_journal_next_of_tail(f, &b) != 1 || b.end != last->end)
        return EAGAIN; /* it was in memory only, and memory was wanted */
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) {
        const int fd = handle_fd(&w->file, w->where, w->name);
        err = fd < 0 ? -fd : 0;
        if (err == 0) /* its head lies in front of its data, as in the file */
            err = disk_write(fd, b.offset, &(struct iovec){(uint8_t *)(uintptr_t)b.data - sizeof(struct rcv_batch), size}, 1);
        if (err == 0)
            err = FAIL_NOW(RCV_FAIL_SYNC) ? EIO : disk_sync(fd);
    }
    return err;
}

/* is_needed -- does what goes on at that position of the feed (UINT64_MAX: behind it) stand on this last batch? Not if it is cut off there,
 * after a flush that has failed, say; nor if a snapshot lies between. An empty one has a link of the chain. */
static bool is_needed(const struct rcv_journal_batch *last, uint64_t position)
{
    return position == UINT64_MAX || (position <= last->end && (position > last->position || last->position == last->end));
}

/* settle -- what the folder's last file has is on the disk, up to its end, and so is its name: *at, *offset. It is w->file then. `position`:
 * where it is gone on from; if that is known, damage behind it is the end. `whole`: as above. RCV_ERR_NOTFOUND: there is none. */
static int settle(rcv_writer *w, uint64_t position, bool whole, struct rcv_journal_start *at, uint64_t *offset)
{
    uint64_t number = 0;
    int      folder = -EBADF, rc = 0, err = EAGAIN;
    for (unsigned tries = 0; folder == -EBADF && tries < CLOSED; tries++)
        folder = handle_fd(&w->folder, w->where, NULL);
    const int any = folder >= 0 ? journal_last(folder, &number) : folder;
    if (any < 0)
        return journal_raise(-any, w->where, "its folder", "reading");
    if (any == 0)
        return rcv_raise(RCV_ERR_NOTFOUND, ENOENT, "folder \"%s\" has no journal", w->where);
    for (unsigned tries = 0; rc >= 0 && err == EAGAIN && tries < CLOSED; tries++) {
        struct rcv_journal_batch last;
        rcv_journal_file        *f;
        bool                     has = false;
        if ((rc = rcv_journal_open_file(folder, w->where, number, &f)) != 0)
            return rc;
        rc = last_batch(f, whole, at, &last, &has);
        if (rc == RCV_ERR_CORRUPT && position != UINT64_MAX) /* what is before it is to be on the disk all the same */
            rc = 0;
        *offset = rcv_journal_offset(f);
        journal_name(number, w->name);
        if (rc >= 0 && w->file.fd < 0)
            err = handle_open(&w->file, folder, w->name, O_RDWR | O_NOFOLLOW);
        if (err == EBADF && w->file.fd < 0) { /* the program has closed the folder's */
            folder = handle_fd(&w->folder, w->where, NULL);
            err = folder >= 0 || folder == -EBADF ? EAGAIN : -folder;
        }
        if (rc >= 0 && w->file.fd < 0 && err != EAGAIN)
            rc = failed(w, err, "opening", w->name);
        else if (w->file.fd >= 0)
            err = rc >= 0 && has && is_needed(&last, position) ? write_again(w, f, &last) : 0;
        rcv_journal_close_file(f);
    }
    if (rc < 0)
        return rc;
    if (err != 0)
        return failed(w, err, "flushing", w->name);
    w->unnamed = true;
    return name_file(w);
}

int rcv_writer_create(const char *where, const struct rcv_journal_start *from, rcv_writer **out)
{
    rcv_writer *w;
    int         rc = make(where, &w);
    if (rc != 0)
        return rc;
    struct rcv_journal_start before;
    uint64_t                 offset;
    rc = settle(w, from->position, false, &before, &offset);
    if (rc == RCV_ERR_NOTFOUND || rc == RCV_ERR_CORRUPT) /* a damaged one: what is before it was durable before that was begun */
        rc = 0;
    w->at = *from;
    while (rc == 0 && spare_make(&w->spare, w->folder.fd, w->where) == 1) /* nobody waits yet */
        ;
    if (rc == 0)
        rc = begin_file(w, 0);
    if (rc == 0 && (rc = name_file(w)) != 0) {
        const int folder = handle_fd(&w->folder, w->where, NULL);
        if (folder >= 0)
            (void)unlinkat(folder, w->name, 0); /* this one has made it, with nothing in it */
    }
    if (rc != 0)
        rcv_writer_close(w);
    else
        *out = w;
    return rc;
}

int rcv_journal_settle(const char *where, struct rcv_journal_start *out)
{
    rcv_writer *w;
    uint64_t    offset;
    int         rc = make(where, &w);
    if (rc != 0)
        return rc;
    rc = settle(w, UINT64_MAX, false, out, &offset);
    rcv_writer_close(w);
    return rc;
}

int rcv_writer_resume(const char *where, rcv_writer **out)
{
    rcv_writer *w;
    int         rc = make(where, &w);
    if (rc == 0 && (rc = settle(w, UINT64_MAX, true, &w->at, &w->offset)) != 0)
        rcv_writer_close(w);
    else if (rc == 0)
        *out = w;
    return rc;
}

/* look_behind -- no file may be behind the one in use that this writer has not made: another host would have restored from what there
 * was. That one looks, too, once its file has its name, whether more was written here: so one of the two sees the other. */
static int look_behind(rcv_writer *w)
{
    char        path[PATH_MAX], next[JOURNAL_NAME];
    struct stat st;
    journal_name(w->at.number + 1, next);
    if (snprintf(path, sizeof path, "%s/%s", w->where, next) >= (int)sizeof path || lstat(path, &st) != 0)
        return 0;
    return taken(w, next);
}

int rcv_writer_look(rcv_writer *w)
{
    const int rc = look_at_file(w);
    return rc != 0 ? rc : look_behind(w);
}

int rcv_writer_append(rcv_writer *w, const void *records, uint64_t length, uint64_t seq, uint64_t at, uint32_t count)
{
    struct rcv_batch b = {.mark = RCV_BATCH_MARK, .length = length, .position = w->at.position, .seq = seq, .at = at, .records = count,
                          .chain = w->at.chain};
    if (w->stopped)
        return rcv_raise(RCV_ERR_OS, EIO, "journal \"%s\" has stopped: an earlier write failed, and what followed it is not kept", w->where);
    if (w->at.size < w->offset + sizeof b || length > w->at.size - w->offset - sizeof b) {
        int rc = begin_file(w, sizeof b + length);
        if (rc != 0)
            return rc;
    }
    if (unlikely(w->unnamed)) {
        int rc = name_file(w);
        if (rc != 0)
            return rc;
    }
    b.number = w->at.number;
    b.offset = w->offset;
    b.crc = batch_crc(&b, records);
    const struct iovec what[2] = {{&b, sizeof b}, {(void *)(uintptr_t)records, length}};
    const char        *doing = "writing";
    int                err = EBADF;
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) { /* the same once more is the same */
        const int fd = handle_fd(&w->file, w->where, w->name);
        if (fd == -EBADF)
            continue;
        if (fd < 0)
            return unreachable(w, -fd, w->name);
        doing = "writing";
        err = FAIL_NOW(RCV_FAIL_WRITE) ? ENOSPC : disk_write(fd, w->offset, what, length > 0 ? 2 : 1);
        if (err != 0)
            continue;
        CRASHPOINT("journal.written");
        doing = "flushing";
        err = FAIL_NOW(RCV_FAIL_SYNC) ? EIO : disk_sync(fd);
    }
    if (err != 0)
        return failed(w, err, doing, w->name);
    CRASHPOINT("journal.synced");
    int rc = rcv_writer_look(w);
    if (rc != 0)
        return rc;
    w->offset += sizeof b + length;
    w->at.position += length;
    w->at.chain = b.crc;
    if (count > 0) {
        w->at.seq = seq;
        w->at.at = at;
    }
    return 0;
}

int rcv_writer_end(rcv_writer *w) { return rcv_writer_append(w, "", 0, w->at.seq, w->at.at, 0); }

int rcv_writer_prepare(rcv_writer *w)
{
    const int folder = handle_fd(&w->folder, w->where, NULL);
    return folder < 0 ? 0 : spare_make(&w->spare, folder, w->where);
}

void rcv_writer_keep_up(rcv_writer *w)
{
    const uint64_t half = w->at.size / 2; /* at 7/8 it is ready: the batch that does not fit may be a large one */
    while (w->offset > half && (w->offset - half) * 8 / 3 > w->spare.made && rcv_writer_prepare(w) == 1)
        ;
}
