/* file.c -- a file of the journal, read: batch by batch, nothing of it believed.
 *
 * What we want: who starts a server after a power loss gets all that was durable, and nothing that was not written whole; and damage
 * is told from a torn end.
 *
 * What does: a batch counts if it is this file's, lies where it says, goes on from the one before (number, place, position, chain), and
 * its CRC is right. At the first that does not, the rest of the file is searched for one that is sound: the writer waits for the disk
 * before it begins the next, so if there is one, the broken one was durable once.
 *
 * Where it still fails: the last batch of all, damaged later, looks like a torn one. A clean end has an empty batch behind it.
 */
#include "internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert(sizeof(struct rcv_batch) == 64 && sizeof(struct rcv_journal_head) == 96, "part of the format");

#define AT_ONCE (UINT64_C(1) << 20) /* bytes that are read together */

void journal_name(uint64_t number, char *out) { snprintf(out, JOURNAL_NAME, "journal-%016llx", (unsigned long long)number); }

/* number_of -- of the file of that name; 0: it is none. */
static uint64_t number_of(const char *name)
{
    char     again[JOURNAL_NAME];
    uint64_t number = strncmp(name, "journal-", 8) == 0 ? (uint64_t)strtoull(name + 8, NULL, 16) : 0;
    journal_name(number, again);
    return strcmp(name, again) == 0 ? number : 0;
}

int journal_last(int folder, uint64_t *number)
{
    int  again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a description of its own: the place in it is shared */
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (dir == NULL) {
        int err = errno;
        if (again >= 0)
            close(again);
        return -err;
    }
    *number = 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        const uint64_t n = number_of(e->d_name);
        *number = n > *number ? n : *number;
    }
    closedir(dir);
    return *number != 0;
}

int journal_raise(int err, const char *where, const char *name, const char *doing)
{
    const bool passes = err == ENOSPC || err == EDQUOT || err == EMFILE || err == ENFILE || err == ENOMEM;
    return rcv_raise(passes ? RCV_ERR_FULL : RCV_ERR_OS, err, "journal \"%s\": %s %s failed", where, doing, name);
}

/* unreadable -- err of reading at that offset. The disk has lost that place: EIO is damage, as a wrong checksum there would be. */
static int unreadable(const rcv_journal_file *f, int err, uint64_t at)
{
    if (err != EIO)
        return journal_raise(err, f->where, f->name, "reading");
    return rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": %s is damaged at offset %llu: the disk can't read it", f->where, f->name,
                     (unsigned long long)at);
}

/* read_at -- as os_read(), of our file, whatever the program has made of its number. */
static int read_at(rcv_journal_file *f, uint64_t at, void *to, uint64_t size)
{
    int err = EBADF;
    for (unsigned tries = 0; err == EBADF && tries < CLOSED; tries++) {
        const int fd = handle_fd(&f->file, f->where, f->name);
        err = fd < 0 ? -fd : os_read(fd, at, to, size);
    }
    return err;
}

uint32_t head_crc(const struct rcv_journal_head *head)
{
    struct rcv_journal_head h = *head;
    h.crc = 0;
    return crc32c(0, &h, sizeof h);
}

uint32_t batch_crc(const struct rcv_batch *batch, const void *records)
{
    const size_t from = offsetof(struct rcv_batch, number);
    return crc32c(crc32c(0, (const uint8_t *)batch + from, sizeof *batch - from), records, batch->length);
}

/* -- opening ----------------------------------------------------------------------------------------------------------- */

/* is_of_format -- another format is believed only where this one's would not be right by the checksum: else it is a flipped bit. */
static bool is_of_format(const struct rcv_journal_head *head)
{
    struct rcv_journal_head h = *head;
    h.format = RCV_JOURNAL_FORMAT;
    return head->format == h.format || head->crc == head_crc(&h);
}

static int read_head(rcv_journal_file *f, uint64_t number)
{
    struct rcv_journal_head h;
    int                     err = f->size < RCV_JOURNAL_HEAD ? ENODATA : read_at(f, 0, &h, sizeof h);
    if (err == EIO)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": the head of %s, at its offset 0, is damaged: the disk can't read it", f->where,
                         f->name);
    if (err != 0 && err != ENODATA)
        return unreadable(f, err, 0);
    if (err != 0 || memcmp(h.magic, RCV_JOURNAL_MAGIC, sizeof h.magic) != 0)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": %s is no file of a journal: its first bytes are others", f->where, f->name);
    if (!is_of_format(&h))
        return rcv_raise(RCV_ERR_VERSION, 0, "journal \"%s\": %s has format %u, and this version reads %u", f->where, f->name, h.format,
                         RCV_JOURNAL_FORMAT);
    if (h.crc != head_crc(&h) || h.number != number || h.size < RCV_JOURNAL_HEAD || h.position % 8 != 0)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": the head of %s, at its offset 0, is damaged", f->where, f->name);
    f->start = (struct rcv_journal_start){{h.id[0], h.id[1]}, number, h.size, h.epoch, h.position, h.seq, h.at, h.chain};
    f->offset = RCV_JOURNAL_HEAD;
    f->position = h.position;
    f->chain = h.chain;
    return 0;
}

int rcv_journal_open_file(int folder, const char *where, uint64_t number, rcv_journal_file **out)
{
    struct stat       st;
    rcv_journal_file *f = os_calloc(1, sizeof *f);
    if (f == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for reading a journal");
    f->file.fd = -1;
    snprintf(f->where, sizeof f->where, "%s", where);
    journal_name(number, f->name);
    int err = handle_open(&f->file, folder, f->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK); /* a FIFO would wait for who writes */
    int rc = 0;
    if (err == 0 && fstat(f->file.fd, &st) != 0)
        err = errno;
    if (err != 0)
        rc = err == ENOENT ? rcv_raise(RCV_ERR_NOTFOUND, err, "journal \"%s\" has no %s", f->where, f->name)
                           : journal_raise(err, f->where, f->name, "opening");
    else
        f->size = (uint64_t)st.st_size;
    if (rc == 0)
        rc = read_head(f, number);
    if (rc != 0)
        rcv_journal_close_file(f);
    else
        *out = f;
    return rc;
}

void rcv_journal_close_file(rcv_journal_file *f)
{
    if (f == NULL)
        return;
    handle_close(&f->file);
    os_free(f->buffer);
    os_free(f);
}

void     rcv_journal_get_start(const rcv_journal_file *f, struct rcv_journal_start *out) { *out = f->start; }
uint64_t rcv_journal_offset(const rcv_journal_file *f) { return f->offset; }
uint64_t rcv_journal_torn(const rcv_journal_file *f) { return f->torn; }

/* -- batches ------------------------------------------------------------------------------------------------------------- */

/* bytes -- n bytes of the file from `at` on, in memory: *out. The file has them. */
static int bytes(rcv_journal_file *f, uint64_t at, uint64_t n, const uint8_t **out)
{
    if (at < f->from || at - f->from > f->have || n > f->have - (at - f->from)) {
        uint64_t want = n > AT_ONCE ? n : AT_ONCE;
        want = want > f->size - at ? f->size - at : want;
        if (want > f->room) {
            uint8_t *more = os_realloc(f->buffer, want);
            if (more == NULL)
                return rcv_raise(RCV_ERR_FULL, ENOMEM, "journal \"%s\": no memory for %llu bytes of %s", f->where, (unsigned long long)want, f->name);
            f->buffer = more;
            f->room = want;
        }
        f->have = 0;
        int err = read_at(f, at, f->buffer, want);
        if (err == EIO && want > n) { /* what is asked for may lie in front of the place that is lost */
            want = n;
            err = read_at(f, at, f->buffer, want);
        }
        if (err != 0)
            return unreadable(f, err, at);
        f->from = at;
        f->have = want;
    }
    *out = f->buffer + (at - f->from);
    return 0;
}

/* sound_at -- 1: a whole batch of this file lies there, *batch, *records. It may still not be the next one. */
static int sound_at(rcv_journal_file *f, uint64_t at, struct rcv_batch *batch, const uint8_t **records)
{
    const uint8_t *p;
    if (f->size < sizeof *batch || at > f->size - sizeof *batch)
        return 0;
    int rc = bytes(f, at, sizeof *batch, &p);
    if (rc != 0)
        return rc;
    memcpy(batch, p, sizeof *batch);
    if (batch->mark != RCV_BATCH_MARK || batch->number != f->start.number || batch->offset != at || batch->length % 8 != 0 ||
        batch->length > f->size - at - sizeof *batch)
        return 0;
    if ((rc = bytes(f, at, sizeof *batch + batch->length, &p)) != 0)
        return rc;
    *records = p + sizeof *batch;
    return batch_crc(batch, *records) == batch->crc;
}

/* any_behind -- 1: a sound batch lies behind the place where one should. */
static int any_behind(rcv_journal_file *f, uint64_t *at)
{
    struct rcv_batch batch;
    const uint8_t   *records, *p;
    for (*at = f->offset + 8; *at + sizeof batch <= f->size; *at += 8) {
        uint32_t mark;
        int      rc = bytes(f, *at, sizeof mark, &p);
        if (rc != 0)
            return rc;
        memcpy(&mark, p, sizeof mark);
        if (mark == RCV_BATCH_MARK && (rc = sound_at(f, *at, &batch, &records)) != 0)
            return rc;
    }
    return 0;
}

/* end_here -- no batch goes on from here: is that the end? 1: it was not there when it was looked at, and is by now. */
static int end_here(rcv_journal_file *f, struct rcv_batch *batch, const uint8_t **records)
{
    uint64_t behind;
    int      rc = any_behind(f, &behind);
    if (rc == 0 && batch->mark == RCV_BATCH_MARK && batch->number == f->start.number && batch->offset == f->offset)
        f->torn = sizeof *batch + batch->length;
    if (rc <= 0)
        return rc;
    f->have = 0; /* whoever writes has waited for the disk to have this one before the one behind it was begun */
    rc = sound_at(f, f->offset, batch, records);
    return rc ? rc
              : rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": %s is damaged at offset %llu: no sound batch is there, but one is at %llu",
                          f->where, f->name, (unsigned long long)f->offset, (unsigned long long)behind);
}

/* next -- `tail`: somebody may be writing what is not sound. */
static int next(rcv_journal_file *f, struct rcv_journal_batch *out, bool tail)
{
    struct rcv_batch batch = {0};
    const uint8_t   *records;
    int              rc = sound_at(f, f->offset, &batch, &records);
    if (rc == 0 && !tail)
        rc = end_here(f, &batch, &records);
    if (rc <= 0)
        return rc;
    if (batch.chain != f->chain || batch.position != f->position)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "journal \"%s\": the batch at offset %llu of %s does not go on from the one before it",
                         f->where, (unsigned long long)f->offset, f->name);
    *out = (struct rcv_journal_batch){.offset = f->offset, .position = batch.position, .end = batch.position + batch.length,
                                      .seq = batch.seq, .at = batch.at, .records = batch.records, .chain = batch.crc, .data = records};
    f->offset += sizeof batch + batch.length;
    f->position = out->end;
    f->chain = batch.crc;
    return 1;
}

int rcv_journal_next(rcv_journal_file *f, struct rcv_journal_batch *out) { return next(f, out, false); }
int rcv_journal_next_of_tail(rcv_journal_file *f, struct rcv_journal_batch *out) { return next(f, out, true); }

void rcv_journal_go_on(rcv_journal_file *f, uint64_t offset, uint64_t position, uint32_t chain)
{
    f->offset = offset;
    f->position = position;
    f->chain = chain;
}
