/* journal.h -- the journal: the feed's records in files, which outlive the machine. docs/adr/0018-journal.md
 *
 * A folder has files `journal-<number in 16 hex digits>`, and at most one `spare`, which is to become the next one. None of these
 * functions touches an arena or needs the GIL; an object is used by one thread at a time.
 */
#ifndef RCV_JOURNAL_H
#define RCV_JOURNAL_H

#include "feed.h"

/* -- reading: file.c ----------------------------------------------------------------------------------------------- */

struct rcv_journal_start { /* what the head of a file says, and where the chain stands in front of its first batch */
    uint64_t id[2], number, size, epoch, position, seq, at;
    uint32_t chain;
};
struct rcv_journal_batch {
    uint64_t offset;        /* in the file */
    uint64_t position, end; /* of the feed: where its records begin, and behind them */
    uint64_t seq, at;       /* of its last record */
    uint32_t records, chain;
    const void *data;       /* until the next call */
};
typedef struct rcv_journal_file rcv_journal_file;
/* rcv_journal_open_file -- `where` names the folder in messages. RCV_ERR_NOTFOUND, RCV_ERR_VERSION, RCV_ERR_CORRUPT: its head. */
RCV_API int  rcv_journal_open_file(int folder, const char *where, uint64_t number, rcv_journal_file **out);
RCV_API void rcv_journal_close_file(rcv_journal_file *f);
RCV_API void rcv_journal_get_start(const rcv_journal_file *f, struct rcv_journal_start *out);
/* rcv_journal_next -- 1: *out is the next batch, sound; 0: it ends here. RCV_ERR_CORRUPT: this is broken, and sound ones lie behind it. */
RCV_API int  rcv_journal_next(rcv_journal_file *f, struct rcv_journal_batch *out);
/* rcv_journal_next_of_tail -- of a file that is being written: what is not sound may be whole the next time, and is the end so far. */
RCV_API int  rcv_journal_next_of_tail(rcv_journal_file *f, struct rcv_journal_batch *out);
/* rcv_journal_go_on -- behind a batch that was read before, by another handle on the file: where it ended, in the file and in the feed,
 * and its checksum. */
RCV_API void rcv_journal_go_on(rcv_journal_file *f, uint64_t offset, uint64_t position, uint32_t chain);
struct rcv_search { /* which records are looked for: all of it must be so */
    uint64_t        position, end;  /* of the feed: from the one, before the other */
    uint64_t        seq_from, seq_to, at_from, at_to; /* with both */
    const char     *handler, *id;   /* whose, NULL: whoever's */
    int             anywhere;       /* wherever it has written; else in one of these. One that names not all that it wrote is found */
    const uint64_t *containers;     /* by number, sorted: any unit of them */
    uint64_t        n_containers;
    const uint64_t *keys;           /* number of the container, hash of the key, sorted by both */
    uint64_t        n_keys;
    uint64_t        most; /* that are wanted; 0: all */
};
struct rcv_hit {
    uint64_t offset, length; /* in the file */
    uint64_t position;       /* of the feed */
};
/* rcv_journal_search -- what is left of a file: the records that are looked for, in the order of the commits, without slices of reclaiming.
 * *out is to be freed with rcv_journal_hits_free(). RCV_ERR_CORRUPT: those before the damage are there. */
RCV_API int  rcv_journal_search(rcv_journal_file *f, const struct rcv_search *s, struct rcv_hit **out, uint64_t *n);
/* rcv_journal_search_batch -- the same of the records of a batch, which begins at `position` of the feed; offsets are in these. Where the
 * search begins, a record does. */
RCV_API int  rcv_journal_search_batch(const void *records, uint64_t length, uint64_t position, const struct rcv_search *s,
                                      struct rcv_hit **out, uint64_t *n);
RCV_API void rcv_journal_hits_free(struct rcv_hit *found);
RCV_API uint64_t rcv_journal_offset(const rcv_journal_file *f); /* of what rcv_journal_next() looks at next */
RCV_API uint64_t rcv_journal_torn(const rcv_journal_file *f);   /* bytes of a last batch that was not finished, 0: none */

/* -- writing: writer.c ----------------------------------------------------------------------------------------------- */

typedef struct rcv_writer rcv_writer; /* `where`: the folder's path, which is absolute */
/* rcv_journal_spare -- what the next file is made of, made beforehand: a failure is that file's. Nobody writes there meanwhile. */
RCV_API int rcv_journal_spare(const char *where);
/* rcv_journal_settle -- what the folder's last file has is on the disk, wherever it was, up to *out. Who has read it there has read it
 * in the page cache. RCV_ERR_NOTFOUND: there is none. RCV_ERR_FULL, RCV_ERR_OS: the disk does not take it. */
RCV_API int rcv_journal_settle(const char *where, struct rcv_journal_start *out);
/* rcv_writer_create -- a file that goes on from there: the first of a folder, or of a new epoch. Durable when it returns, and so is what
 * the one before it has up to there. */
RCV_API int rcv_writer_create(const char *where, const struct rcv_journal_start *from, rcv_writer **out);
/* rcv_writer_resume -- behind the last sound batch of the folder's last file, which is durable when it returns. Else as settle. */
RCV_API int rcv_writer_resume(const char *where, rcv_writer **out);
/* rcv_writer_append -- a batch of whole records, durable when it returns. RCV_ERR_FULL: the disk is, and it may be tried again.
 * RCV_ERR_OS, RCV_ERR_NOTFOUND (it was moved or removed): never again. */
RCV_API int rcv_writer_append(rcv_writer *w, const void *records, uint64_t length, uint64_t seq, uint64_t at, uint32_t count);
RCV_API int rcv_writer_look(rcv_writer *w);   /* RCV_ERR_NOTFOUND: its file, or a folder that it is in, was moved, removed or replaced */
RCV_API int rcv_writer_end(rcv_writer *w);    /* an empty batch: what is broken from now on is no torn end */
RCV_API int rcv_writer_prepare(rcv_writer *w); /* a slice of the next file: 1 while there is more to do */
RCV_API void rcv_writer_keep_up(rcv_writer *w); /* as much of the next file as is to be there by now, where there is never time for it */
RCV_API void rcv_writer_get(const rcv_writer *w, struct rcv_journal_start *out); /* .size: bytes of the file in use */
RCV_API void rcv_journal_file_size(uint64_t bytes); /* of files that are made from now on, in this process; 64 MiB */
RCV_API void rcv_writer_close(rcv_writer *w);

/* -- the first copy of all: snapshot.c, which says how they belong together -- */

#define RCV_SNAPSHOT_PIECE (UINT64_C(256) << 10)
#define RCV_SNAPSHOT_PARTS 4u /* the first two are small, and to be read in one hold */
struct rcv_snapshot_part {
    uint64_t off, size;
};
RCV_API void     rcv_snapshot_parts(const rcv_arena *a, struct rcv_snapshot_part parts[RCV_SNAPSHOT_PARTS]); /* its lock is held */
RCV_API uint64_t rcv_snapshot_size(const rcv_arena *a); /* of the file */
RCV_API void     rcv_snapshot_read(const rcv_arena *a, uint64_t off, uint64_t size, void *to); /* its lock is held, between two steps */
/* rcv_snapshot_write -- all of it at once, into a file of that size with nothing in it. Its lock is held, between two steps. `where`: as
 * above, in messages. */
RCV_API int rcv_snapshot_write(const rcv_arena *a, int fd, const char *where);
/* rcv_snapshot_apply -- write whole records over what was copied; *seq and *at become those of the last, and touched[i] 1 where piece i
 * of the file, of RCV_SNAPSHOT_PIECE bytes, was written to. A failure leaves the file unusable. */
RCV_API int rcv_snapshot_apply(int fd, uint64_t size, const char *where, const void *records, uint64_t length, uint8_t *touched,
                               uint64_t *seq, uint64_t *at);

/* -- copies: replay.c --------------------------------------------------------------------------------------------------- */

struct rcv_until { /* the first record at or behind one of them is not applied: position of the feed; number and time of a commit */
    uint64_t position, seq, at;
};
struct rcv_replayed {
    uint64_t records, bytes; /* in all, of those from `from` on */
    uint64_t position, seq, at; /* where the last one ended, and what it was */
    uint32_t chain;
    int      reached; /* 1: what `until` says */
};
/* rcv_journal_replay -- what is left of a file, `most` bytes of it and a batch, brings a copy (NULL: none) forward by its records from
 * position `from` on; *out goes on from call to call. 1: there is more; 0: its end, or out->reached. RCV_ERR_CORRUPT: what was before it
 * is applied. */
RCV_API int rcv_journal_replay(rcv_journal_file *f, rcv_restore *to, uint64_t from, const struct rcv_until *until, uint64_t most,
                               struct rcv_replayed *out);
RCV_API uint32_t rcv_crc32c(uint32_t before, const void *bytes, uint64_t n);

#endif
