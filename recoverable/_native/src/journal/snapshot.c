/* snapshot.c -- the first copy of an arena: its memory, as a file, while other processes work in it.
 *
 * The copy has the segment's bytes where they are in the segment, so that it can be mapped as one: sparse, without what nobody needs of
 * a life that is over (the undo log, shadows, the ring). What is behind the claimed part of the data is a hole.
 *
 * What we want: a state of one moment, and nobody who waits for longer than a slice of it takes.
 *
 * What does not work: all of it under the lock (300 ms for 200 MiB, and seconds where the disk is slow).
 *
 * What does: slices, each under the lock of its own, between two steps, so that it has committed bytes alone. They are of different
 * moments; but each commit since the first is in the feed, as bytes. Written over the copy in their order, up to a commit behind the
 * last slice, these make it what the arena was after that one: what a commit has changed since is written again, as that one left it,
 * and what none has changed is as it was.
 *
 *      header, feed's words -> slice, what was committed since -> slice, ... -> disk -> what was committed since
 *
 * Where it fails: the feed has overwritten what was committed since. It is begun again, and at last made under the lock.
 */
#include "internal.h"
#include "segment/segment.h"

#include <errno.h>
#include <unistd.h>

#define PIECE RCV_SNAPSHOT_PIECE

void rcv_snapshot_parts(const rcv_arena *a, struct rcv_snapshot_part parts[RCV_SNAPSHOT_PARTS])
{
    const struct rcv_region *r = a->hdr->region;
    const uint64_t           owners = a->hdr->chunk_count * sizeof(uint64_t); /* the first half of the heap table: who has reserved what */
    parts[0] = (struct rcv_snapshot_part){r[RCV_R_HEADER].off, r[RCV_R_HEADER].size};
    parts[1] = (struct rcv_snapshot_part){r[RCV_R_FEED].off, a->feed != NULL ? a->hdr->page_size : 0}; /* its words; not its records */
    parts[2] = (struct rcv_snapshot_part){r[RCV_R_HEAP].off + owners, r[RCV_R_HEAP].size - owners};
    parts[3] = (struct rcv_snapshot_part){r[RCV_R_DATA].off, rcv_data_claimed(a)};
}

uint64_t rcv_snapshot_size(const rcv_arena *a) { return a->hdr->total_size; }

void rcv_snapshot_read(const rcv_arena *a, uint64_t off, uint64_t size, void *to) { memcpy(to, a->core + off, size); }

static bool all_zeros(const uint8_t *p, uint64_t n) { return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0; }

/* unwritten -- RCV_ERR_OS for each errno: what is full is a disk, and no arena. */
static int unwritten(int err, const char *where) { return rcv_raise(RCV_ERR_OS, err, "journal \"%s\": writing a snapshot failed", where); }

int rcv_snapshot_write(const rcv_arena *a, int fd, const char *where)
{
    struct rcv_snapshot_part part[RCV_SNAPSHOT_PARTS];
    int                      err = 0;
    rcv_snapshot_parts(a, part);
    for (unsigned i = 0; i < RCV_SNAPSHOT_PARTS; i++)
        for (uint64_t off = part[i].off, end = off + part[i].size; err == 0 && off < end; off += PIECE) {
            const uint64_t n = end - off < PIECE ? end - off : PIECE;
            if (!all_zeros(a->core + off, n))
                err = disk_write(fd, off, &(struct iovec){a->core + off, n}, 1);
        }
    return err == 0 ? 0 : unwritten(err, where);
}

/* -- what was committed since, written over it -------------------------------------------------------------------------
 *
 * Commits come back to the same pages. So these are kept while records are applied, each in the one place that its number has, and are
 * written when another page needs that, or at the end. Not by a mapping of the file: a disk that fills up would kill the process.
 */

#define PAGE 4096u
#define PLACES 1024u
#define UNSOUND (-1) /* is no errno */
struct pages {
    int      fd;
    uint8_t *touched;
    uint64_t size;           /* of the file: a multiple of PAGE */
    uint64_t number[PLACES]; /* of the page there, + 1; 0: none */
    uint8_t  bytes[PLACES][PAGE];
};

static int write_page(const struct pages *p, uint64_t place)
{
    p->touched[(p->number[place] - 1) * PAGE / PIECE] = 1;
    return disk_write(p->fd, (p->number[place] - 1) * PAGE, &(struct iovec){(void *)(uintptr_t)p->bytes[place], PAGE}, 1);
}

/* page_at -- where that page is now; `whole`: all of it is about to be written. 0 or errno. */
static int page_at(struct pages *p, uint64_t number, bool whole, uint8_t **out)
{
    const uint64_t place = number % PLACES;
    *out = p->bytes[place];
    if (p->number[place] == number + 1)
        return 0;
    int err = p->number[place] != 0 ? write_page(p, place) : 0;
    p->number[place] = 0;
    if (err == 0 && !whole) {
        const ssize_t n = pread(p->fd, *out, PAGE, (off_t)(number * PAGE));
        err = n == PAGE ? 0 : n < 0 ? errno : EIO;
    }
    p->number[place] = err == 0 ? number + 1 : 0;
    return err;
}

/* put -- bytes, or zeros where it is NULL. 0, errno or UNSOUND: that is not of the file. */
static int put(struct pages *p, uint64_t off, const uint8_t *bytes, uint64_t n)
{
    if (off > p->size || n > p->size - off)
        return UNSOUND;
    for (uint64_t part; n > 0; off += part, n -= part) {
        const uint64_t from = off % PAGE;
        uint8_t       *page;
        part = n < PAGE - from ? n : PAGE - from;
        int err = page_at(p, off / PAGE, part == PAGE, &page);
        if (err != 0)
            return err;
        if (bytes == NULL)
            memset(page + from, 0, part);
        else
            memcpy(page + from, bytes, part);
        bytes += bytes != NULL ? part : 0;
    }
    return 0;
}

/* put_records -- what they have changed, and what the last one's head says of the arena. 0, errno or UNSOUND: one does not add up. */
static int put_records(struct pages *p, const uint8_t *records, uint64_t length, uint64_t *seq, uint64_t *at)
{
    const struct rcv_commit *r = NULL;
    int                      err = 0;
    for (uint64_t done = 0; err == 0 && done < length; done += r->length) {
        r = (const struct rcv_commit *)(const void *)(records + done);
        const uint64_t *ranges = rcv_commit_ranges(r, length - done);
        if (ranges == NULL)
            return UNSOUND;
        const uint8_t *bytes = (const uint8_t *)(ranges + r->ranges);
        for (uint32_t i = 0; err == 0 && i < r->ranges; i++) {
            const bool zeros = RCV_RANGE_ZEROS(ranges[i]);
            err = put(p, RCV_RANGE_OFF(ranges[i]), zeros ? NULL : bytes, RCV_RANGE_LEN(ranges[i]));
            bytes += zeros ? 0 : RCV_RANGE_LEN(ranges[i]);
        }
        *seq = r->seq;
        *at = r->at;
    }
    if (err == 0 && r != NULL)
        err = put(p, offsetof(struct rcv_header, commit_seq), (const uint8_t *)&r->seq, 8);
    if (err == 0 && r != NULL)
        err = put(p, offsetof(struct rcv_header, container_counter), (const uint8_t *)&r->containers, 8);
    if (err == 0 && r != NULL)
        err = put(p, offsetof(struct rcv_header, data_claimed), (const uint8_t *)&r->claimed, 8);
    return err;
}

int rcv_snapshot_apply(int fd, uint64_t size, const char *where, const void *records, uint64_t length, uint8_t *touched, uint64_t *seq,
                       uint64_t *at)
{
    struct pages *p = os_calloc(1, sizeof *p);
    if (p == NULL)
        return unwritten(ENOMEM, where);
    p->fd = fd;
    p->size = size;
    p->touched = touched;
    int err = put_records(p, records, length, seq, at);
    for (unsigned i = 0; err == 0 && i < PLACES; i++)
        err = p->number[i] != 0 ? write_page(p, i) : 0;
    os_free(p);
    if (err == UNSOUND)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "the feed has no sound record behind commit %llu", (unsigned long long)*seq);
    return err == 0 ? 0 : unwritten(err, where);
}
