/* replay.c -- a copy of an arena, brought forward by what the journal has; and the first copy of all.
 *
 * The copy is a file with the segment's bytes where they are in the segment, so that it can be mapped as one: sparse, without what
 * nobody needs of a life that is over (the undo log, shadows, the ring). What is behind the claimed part of the data is a hole.
 */
#include "internal.h"
#include "segment/segment.h"

#include <errno.h>
#include <unistd.h>

#define PIECE (UINT64_C(256) << 10)

static bool all_zeros(const uint8_t *p, uint64_t n) { return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0; }

/* write_region -- all but zeros. 0 or errno. */
static int write_region(const rcv_arena *a, int fd, uint64_t off, uint64_t size)
{
    int err = 0;
    for (uint64_t end = off + size; err == 0 && off < end;) {
        const uint64_t n = end - off < PIECE ? end - off : PIECE;
        if (!all_zeros(a->core + off, n))
            err = disk_write(fd, off, &(struct iovec){a->core + off, n}, 1);
        off += n;
    }
    return err;
}

int rcv_snapshot_write(rcv_arena *a, int fd)
{
    const struct rcv_region *r = a->hdr->region;
    const uint64_t           owners = a->hdr->chunk_count * sizeof(uint64_t); /* the first half of the heap table: who has reserved what */
    int                      err = ftruncate(fd, (off_t)a->hdr->total_size) == 0 ? 0 : errno;
    if (err == 0)
        err = write_region(a, fd, r[RCV_R_HEADER].off, r[RCV_R_HEADER].size);
    if (err == 0)
        err = write_region(a, fd, r[RCV_R_HEAP].off + owners, r[RCV_R_HEAP].size - owners);
    if (err == 0)
        err = write_region(a, fd, r[RCV_R_DATA].off, rcv_data_claimed(a));
    if (err == 0 && a->feed != NULL) /* its words; not its records */
        err = write_region(a, fd, r[RCV_R_FEED].off, a->hdr->page_size);
    return err == 0 ? 0 : journal_raise(err, a->name, "a snapshot", "writing");
}

int rcv_journal_replay(rcv_journal_file *f, rcv_restore *to, uint64_t from, const struct rcv_until *until, uint64_t most,
                       struct rcv_replayed *out)
{
    struct rcv_journal_batch b;
    int                      rc = 0;
    for (uint64_t bytes = 0; bytes < most && (rc = rcv_journal_next(f, &b)) == 1; bytes += b.end - b.position) {
        const uint8_t *data = b.data;
        for (uint64_t at = b.position; at < b.end;) {
            const struct rcv_commit *r = (const struct rcv_commit *)(const void *)(data + (at - b.position));
            uint64_t                 done;
            if (b.end - at < sizeof *r || r->length < sizeof *r || r->length > b.end - at)
                return rcv_raise(RCV_ERR_CORRUPT, 0, "the batch at offset %llu of file %llu of the journal holds no whole record at %llu",
                                 (unsigned long long)b.offset, (unsigned long long)f->start.number, (unsigned long long)(at - b.position));
            if (at >= until->position || r->seq > until->seq || r->at > until->at) {
                out->reached = 1;
                return 0;
            }
            if (at >= from) {
                if (to != NULL && (rc = rcv_restore_apply(to, r, r->length, &done)) != 0)
                    return rc;
                out->records++;
                out->bytes += r->length;
            }
            at += r->length;
            out->position = at;
            out->seq = r->seq;
            out->at = r->at;
        }
        out->chain = b.chain;
    }
    return rc;
}

uint32_t rcv_crc32c(uint32_t before, const void *bytes, uint64_t n) { return crc32c(before, bytes, n); }
