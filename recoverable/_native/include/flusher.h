/* flusher.h -- the thread that takes an arena's commits to its journal, and who waits for them to be durable. Part of journal.h. */
#ifndef RCV_FLUSHER_H
#define RCV_FLUSHER_H

#include "journal.h"

#define RCV_JOURNAL_SINK "journal" /* the name of its sink */

/* rcv_journal_lock -- who writes in that folder has it, on whatever host: RCV_ERR_BUSY, another has. It ends with the process, and no
 * forked child inherits it. */
RCV_API int  rcv_journal_lock(const char *where, void **lock);
RCV_API void rcv_journal_unlock(const char *where, void *lock);
RCV_API int  rcv_journal_host(char *out, size_t size); /* what tells this machine, since it was started, from others */

typedef struct rcv_flusher rcv_flusher;
/* rcv_flusher_begin -- of this process, with the GIL. Of all processes that have one, one writes; when it dies, another goes on. `delay`:
 * ns between two looks for commits that nobody waits for. `lock`: of the folder, if the caller has it, who has it no more then; or
 * NULL. The arena is not closed before
 * rcv_flusher_free(); but see rcv_leave(). */
RCV_API int rcv_flusher_begin(rcv_arena *a, const char *where, uint64_t delay, void *lock, rcv_flusher **out);
RCV_API int rcv_flusher_again(rcv_flusher *f); /* in a forked child, which has not inherited the thread; else nothing */
/* rcv_flusher_end -- have the thread end. Once it has, what was committed before is durable, if this one writes and the disk works. */
RCV_API void rcv_flusher_end(rcv_flusher *f);
RCV_API int  rcv_flusher_over(rcv_flusher *f, uint64_t nanos); /* 1: it has ended, within so many ns. Without the GIL */
RCV_API void rcv_flusher_free(rcv_flusher *f); /* when it has; with the GIL */
RCV_API int  rcv_flusher_serves(const rcv_flusher *f); /* is it the thread of this process that writes? */

/* -- who waits ------------------------------------------------------------------------------------------------------- */

/* rcv_journal_goes_on -- the journal's files end at that position, durable or not. 1: its sink is of this life, and not beyond it, and
 * stays where it is; whoever takes over moves it when that is durable. 0: it is not, or there is none. */
RCV_API int      rcv_journal_goes_on(rcv_arena *a, uint64_t position);
/* rcv_journal_attach -- the journal goes on from that position, whatever became of it before, and all before it is durable. Its lock is
 * held. RCV_ERR_STALE: the feed no longer has what comes next. */
RCV_API int      rcv_journal_attach(rcv_arena *a, uint64_t position, uint64_t seq);
RCV_API void     rcv_journal_note_snapshot(rcv_arena *a, uint64_t seq, uint64_t at, uint64_t bytes); /* the last one that there is */
RCV_API uint64_t rcv_durable(const rcv_arena *a); /* all before this position of the feed is */
/* rcv_durable_ask -- somebody waits for this position: it is written at once, and `pipe` gets a byte whenever more is durable, until
 * rcv_durable_enough(). With the GIL. 0: it is durable. 1: not yet. RCV_ERR_FULL: there are too many pipes. RCV_ERR_OS: see journal.stopped. */
RCV_API int  rcv_durable_ask(rcv_flusher *f, uint64_t position, int pipe);
RCV_API void rcv_durable_enough(rcv_flusher *f, int pipe, uint64_t device, uint64_t inode); /* as fstat() says of it */
/* rcv_durable_wait -- the same for a thread: for so many ns at most. Without the GIL. 1: it is durable. */
RCV_API int  rcv_durable_wait(rcv_flusher *f, uint64_t position, uint64_t nanos);

struct rcv_journal_state {
    uint64_t batches, records, bytes; /* so far, by whatever process */
    uint64_t nanos, worst;            /* what writing them and waiting for the disk has taken in all; the longest */
    uint64_t in_class[RCV_FLUSH_CLASSES]; /* batches by what they took: below 2^(i+8) ns and not in an earlier one; the last: the rest */
    uint64_t at;                      /* when the last was durable: nanoseconds since the epoch */
    uint64_t number;                  /* of the file in use */
    int      stopped, delayed;        /* errno: it has failed for good; the disk is full, and it goes on when there is room */
    uint64_t snapshot_seq, snapshot_at, snapshot_bytes; /* of the last snapshot: its last commit, when that was, bytes on the disk; 0: not known */
};
RCV_API int rcv_journal_get(const rcv_arena *a, struct rcv_journal_state *out); /* 0: there is no feed, or nobody has written yet, nor failed to */
RCV_API const char *rcv_flusher_error(rcv_flusher *f, char *out, size_t size); /* what keeps it from writing, if this process has met that; else "" */

struct rcv_feed_seen { /* what can be told of a segment's feed and journal from outside */
    struct rcv_feed_state    feed; /* size 0: it has none */
    uint64_t                 sinks;
    struct rcv_sink_state    sink[RCV_SINKS];
    uint64_t                 written; /* 0: nobody has written a journal yet, and the rest is 0 */
    struct rcv_journal_state journal;
};
/* rcv_peek_feed -- as rcv_peek(). */
RCV_API int rcv_peek_feed(int fd, const char *name, struct rcv_feed_seen *out);

#endif
