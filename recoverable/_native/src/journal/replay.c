/* replay.c -- a copy of an arena, brought forward by what the journal has. */
#include "internal.h"
#include "segment/segment.h"

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
                const int failed = to != NULL ? rcv_restore_apply(to, r, r->length, &done) : 0;
                if (failed != 0)
                    return failed;
                out->records += (r->flags & RCV_COMMIT_SLICE) == 0;
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
