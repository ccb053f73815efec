/* format.h -- what lies in the journal's files. docs/format.md says the same in words; little-endian, as the segment.
 *
 *   a file:   head (4096 bytes), batch, batch, ..., and then whatever was there before
 *   a batch:  struct rcv_batch, and whole records of the feed (feed.h), back to back
 *
 * Each batch has a CRC32C over its head and its records, and in it that of the batch before: a chain, from file to file. It also has
 * its file's number and its own place in it: what a recycled file has left of another life is none of this one's.
 *
 * Where it ends: at the first place that holds no batch of this file. Only the last one that was written can be torn, since the
 * next is begun after fdatasync: if a whole one lies behind a broken one, that is damage, and not an end.
 */
#ifndef RCV_JOURNAL_FORMAT_H
#define RCV_JOURNAL_FORMAT_H

#include "recoverable.h"

#define RCV_JOURNAL_MAGIC "recoverable-log\n" /* 16 bytes, no 0 */
#define RCV_JOURNAL_FORMAT 1u
#define RCV_JOURNAL_HEAD 4096u
#define RCV_BATCH_MARK UINT32_C(0x48435442) /* "BTCH" */

struct rcv_journal_head {
    char     magic[16];
    uint32_t format;
    uint32_t crc;      /* of this struct, with 0 here */
    uint64_t id[2];    /* of the arena */
    uint64_t number;   /* of the file: they are numbered from 1 */
    uint64_t size;     /* of the file */
    uint64_t epoch;    /* how often the arena's state was restored before */
    uint64_t position; /* of the feed: the first record here begins there. What earlier files have beyond it does not count */
    uint64_t seq, at;  /* number and time of the last commit before it */
    uint32_t chain;    /* the CRC of the batch that has that commit */
    uint32_t reserved;
};

struct rcv_batch {
    uint32_t mark;
    uint32_t crc;      /* of the rest of this struct, and of the records */
    uint64_t number;   /* of its file */
    uint64_t offset;   /* in it */
    uint64_t length;   /* bytes of records behind this */
    uint64_t position; /* of the feed: of the first of them */
    uint64_t seq;      /* of the last of them */
    uint64_t at;       /* its time */
    uint32_t records;
    uint32_t chain;    /* the CRC of the batch before */
};

#endif
