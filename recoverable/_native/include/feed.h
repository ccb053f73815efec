/* feed.h -- the commit feed: what each commit has changed, as bytes, in the order of the commits. docs/adr/0017-commit-feed.md
 *
 * A ring in the segment, if it was asked for when the arena was made. Positions count the bytes that were ever put into it, and only
 * grow. All but rcv_feed_wait() with the GIL; none takes the arena's lock, but where it says so.
 */
#ifndef RCV_FEED_H
#define RCV_FEED_H

#include "recoverable.h"

#define RCV_COMMIT_MARK 0x4652u /* "RF" */
enum rcv_commit_flags {
    RCV_COMMIT_SLICE = 1,    /* a slice of reclaiming: no request's, and has no number of its own: `seq` is the last that was given */
    RCV_COMMIT_UNITS_CUT = 2 /* it has written more units than are named */
};

/* One commit: this, then the handler's name and the request's id (each filled up to 8 bytes), `units` struct rcv_commit_unit,
 * `ranges` words, and the bytes of those ranges that are not zeros. */
struct rcv_commit {
    uint16_t mark;
    uint16_t flags;
    uint32_t length;     /* of all of it: a multiple of 8 */
    uint64_t seq;        /* the commit's number: grows, but not always by 1 */
    uint64_t at;         /* nanoseconds since the epoch; never less than that of the record before */
    uint64_t containers; /* the counters of the arena, as they are after it */
    uint64_t claimed;
    uint64_t token;  /* of the process */
    uint64_t serial; /* of the transaction in it */
    uint32_t ranges;
    uint16_t units;
    uint8_t  name; /* bytes of the handler's name, and of the request's id */
    uint8_t  id;
};
struct rcv_commit_unit { /* what was written: as in a conflict */
    uint64_t where; /* its container's offset then (56 bits; 0: not known), enum rcv_unit (8) */
    uint64_t id, arg;
};
#define RCV_UNIT_WHERE(container, kind) ((uint64_t)(container) << 8 | (uint64_t)(kind))
/* A range: offset / 8 (40 bits), zeros (1), length / 8 (23). */
#define RCV_RANGE(off, len, zeros) ((uint64_t)(off) >> 3 << 24 | (uint64_t)(zeros) << 23 | (uint64_t)(len) >> 3)
#define RCV_RANGE_OFF(r) ((r) >> 24 << 3)
#define RCV_RANGE_LEN(r) (((r) & 0x7fffff) << 3)
#define RCV_RANGE_ZEROS(r) ((r) >> 23 & 1)
#define RCV_RANGE_MOST (UINT64_C(0x7fffff) << 3)

/* rcv_commit_ranges -- the range words of the record at `head`, or NULL if these `room` bytes do not begin with a whole record. */
RCV_API const uint64_t *rcv_commit_ranges(const struct rcv_commit *head, uint64_t room);

struct rcv_feed_state {
    uint64_t id[2];      /* of the arena, whatever its name is */
    uint64_t epoch;      /* how often its state was restored */
    uint64_t size;       /* of the ring */
    uint64_t tail, head; /* positions: of the oldest whole record, and behind the newest */
    uint64_t seq, at;    /* of the newest */
};
RCV_API int rcv_has_feed(const rcv_arena *a);
RCV_API int rcv_feed_get(const rcv_arena *a, struct rcv_feed_state *out); /* 0: it has no feed */
/* rcv_feed_read -- copy whole records from position `at` on; returns how many bytes, 0: there is nothing new, or the first does not
 * fit, and *need says how much it takes. RCV_ERR_STALE: it is overwritten by now. RCV_ERR_CORRUPT: no record is there. */
RCV_API int64_t rcv_feed_read(rcv_arena *a, uint64_t at, void *to, uint64_t room, uint64_t *need);
/* rcv_feed_seek -- where the first record behind commit `seq` begins, or will. RCV_ERR_STALE: it was overwritten. */
RCV_API int rcv_feed_seek(rcv_arena *a, uint64_t seq, uint64_t *at);
/* rcv_feed_bell -- moves with each commit, by the time that it can be read, and whenever a sink has taken something. rcv_feed_wait --
 * until it is not `seen` any more, for so long at most: a second or less, since who has moved it may be killed before it wakes
 * anybody. Without the GIL; between rcv_use and rcv_unuse. */
RCV_API uint32_t rcv_feed_bell(const rcv_arena *a);
RCV_API void     rcv_feed_wait(rcv_arena *a, uint32_t seen, uint64_t nanos);
RCV_API void     rcv_feed_wake(rcv_arena *a); /* have all who wait look again */

/* -- sinks: who reads it, and may not miss anything ------------------------------------------------------------------ */

#define RCV_SINKS 8u
#define RCV_SINK_NAME 24u
#define RCV_FLUSH_CLASSES 24u
struct rcv_sink_state {
    char     name[RCV_SINK_NAME];
    uint64_t cursor, seq; /* it has taken all before this position, which is up to this commit */
    uint64_t since;       /* time of the first commit that it has not taken, nanoseconds since the epoch; 0: it has all */
    uint64_t pid;         /* of who serves it, 0: nobody does */
    int      required, lost;
    int      ours;        /* this process serves it */
};
/* rcv_sink_open -- the sink of that name, made if need be: it begins at the feed's end. Takes the lock: RCV_ERR_AGAIN. RCV_ERR_FULL:
 * there are eight. `required`: when the ring is full, commits wait for it; an optional sink is marked lost, and must resynchronise. */
RCV_API int rcv_sink_open(rcv_arena *a, const char *name, int required, uint32_t *sink);
/* rcv_sink_close -- nobody has to wait for it any more. RCV_ERR_BUSY: another process serves it. */
RCV_API int rcv_sink_close(rcv_arena *a, uint32_t sink);
RCV_API int rcv_sink_get(const rcv_arena *a, uint32_t sink, struct rcv_sink_state *out); /* 0: no such sink */
/* rcv_sink_serve -- this process, which has joined, takes it over: 1, or 0 while another that lives does. */
RCV_API int rcv_sink_serve(rcv_arena *a, uint32_t sink);
/* rcv_sink_taken -- it has taken all before this position, which is up to commit `seq`. RCV_ERR_MISUSE: this process does not serve it, or
 * it can't have taken that. RCV_ERR_STALE: it has lost something. rcv_sink_renew -- the same for a sink that had lost something and has
 * started again. Takes the lock: RCV_ERR_AGAIN. RCV_ERR_STALE: it has been overtaken again. */
RCV_API int rcv_sink_taken(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq);
RCV_API int rcv_sink_renew(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq);

/* -- transactions -------------------------------------------------------------------------------------------------- */

#define RCV_REQUEST_ID 136u /* bytes kept of a request's id */
RCV_API void     rcv_txn_name_request(rcv_txn *t, const char *id); /* for its record; cut to what there is room for */
/* rcv_txn_stood_on -- was it mounted since this was last asked, in an arena with a feed? Then also the newest commit when it first was,
 * and the position behind that one. */
RCV_API int rcv_txn_stood_on(rcv_txn *t, uint64_t *seq, uint64_t *position);
RCV_API uint64_t rcv_txn_position(const rcv_txn *t); /* of the feed: behind all that it has seen, and behind its own commit */
/* rcv_feed_room -- is there room for what it would write, as far as can be told before? Asked while its commit says RCV_ERR_FEED. */
RCV_API int      rcv_feed_room(const rcv_txn *t);
/* rcv_feed_ticket -- its place in the line of those who wait so; 0: it has none. rcv_feed_alone -- it does not stand there: nobody could
 * wake it in its turn. rcv_feed_insist -- it has waited in vain: its record itself decides. */
RCV_API uint64_t rcv_feed_ticket(const rcv_txn *t);
RCV_API void     rcv_feed_alone(rcv_txn *t);
RCV_API void     rcv_feed_insist(rcv_txn *t);

/* -- replay: restore.c --------------------------------------------------------------------------------------------- */

/* A segment that nobody is attached to is brought forward, record by record. */
typedef struct rcv_restore rcv_restore;
RCV_API int  rcv_restore_open(int fd, const char *name, rcv_restore **out); /* under flock. A failure leaves it as it is */
/* rcv_restore_back -- put memory behind all of it that is to have some: a copy is sparse, and a store into a hole of a full file system is
 * a SIGBUS. RCV_ERR_FULL: there is not enough. */
RCV_API int  rcv_restore_back(rcv_restore *r);
/* rcv_restore_apply -- whole records. RCV_ERR_CORRUPT: the record at *at cannot be the next one; those before it are applied. */
RCV_API int  rcv_restore_apply(rcv_restore *r, const void *records, uint64_t length, uint64_t *at);
/* rcv_restore_finish -- it is to be served from: its feed goes on at that position, in that epoch, and nobody takes anything from it yet. */
RCV_API void rcv_restore_finish(rcv_restore *r, uint64_t position, uint64_t epoch);
/* rcv_restore_renew -- it is another arena from now on than the one that it is a copy of: with an identity of its own, which no journal
 * has, and a feed that begins with its next commit. */
RCV_API int  rcv_restore_renew(rcv_restore *r);
RCV_API void rcv_restore_close(rcv_restore *r);

/* -- a state of the past --------------------------------------------------------------------------------------------- */

/* rcv_past_begin -- a copy behind `fd`, so many bytes of a file that may be read-only and stays the caller's, to be brought forward in this process's own memory:
 * the file is never written to, and only what is looked at or changed is read. rcv_past_open -- an arena in that memory, for reading alone: a
 * write is RCV_ERR_PAST. Whoever brings it forward meanwhile sees to it that nobody reads. rcv_close() ends it, before `r` or after it. With the GIL. */
RCV_API int rcv_past_begin(int fd, uint64_t length, const char *name, rcv_restore **out);
RCV_API int rcv_past_open(rcv_restore *r, rcv_arena **out);

#endif
