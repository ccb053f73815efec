/* reports.h -- what an arena tells of itself, of its lock, its processes and their requests; also to those outside. Part of recoverable.h. */
#ifndef RECOVERABLE_REPORTS_H
#define RECOVERABLE_REPORTS_H

struct rcv_peer { /* a slot of the process table that is or was in use */
    uint64_t pid, attached_at; /* seconds since the epoch */
    uint64_t alive;            /* 0: it died without closing, and nobody has taken the slot since */
    uint64_t foreign;          /* 1: `pid` is of another PID namespace than ours */
};
#define RCV_PEERS 128u

#define RCV_TIME_CLASSES 24u
struct rcv_times {
    uint64_t count, nanos;               /* how many, and all of them together */
    uint64_t in_class[RCV_TIME_CLASSES]; /* how many took less than 256 ns << class, and not less than that of the class before */
};
struct rcv_lock_times { /* by all processes, since the segment was made */
    struct rcv_times held;   /* how long the lock was, of those holds that are over: held.c says which of them are timed */
    struct rcv_times waited; /* how long it was waited for, where it could not be taken at once */
    uint64_t running;        /* nanoseconds that the one who has it now has had it; 0: nobody, or not for long yet */
};

struct rcv_peek { /* what can be told of a segment from outside */
    uint64_t size, claimed, used, reserved, overhead; /* as in struct rcv_stats */
    uint64_t commit_seq, recoveries, recovered_at /* seconds since the epoch, 0: never */;
    uint64_t hot_pages, uid, phase, cuts;
    uint64_t backed[4][2]; /* offset and length of what has to have memory behind it */
    uint64_t holder; /* pid of the process inside a step at this moment, or 0 */
    uint64_t peers;  /* how many of peer[] */
    struct rcv_peer peer[RCV_PEERS];
    char     handler[RCV_HANDLER_NAME]; /* what the last holder of the lock ran, if it said so */
    struct rcv_lock_times lock;
};
/* rcv_peek -- read header and tables of the segment behind `fd` (open for reading) without attaching: it stores nothing, takes
 * no lock, and nobody notices it. So numbers that belong together may be from different moments. Not-found: half-made. */
RCV_API int rcv_peek(int fd, const char *name, struct rcv_peek *out);

/* An image: the committed state of a segment that others may be working in, for reading only. It takes no lock and no slot
 * and stores nothing, so nobody notices it. `fd` is open for reading and stays the caller's, open until rcv_image_close. What
 * comes out serves as an arena to whatever reads outside a transaction, and to rcv_image_* alone otherwise.
 *
 * A read is an attempt: take; read; if the image grew meanwhile, what was read may be of two moments and counts for nothing
 * (an error of it neither): take and read again. If it did not, all that was read is of the moment of the take. */
RCV_API int      rcv_image_open(int fd, const char *name, rcv_arena **out); /* not-found: half-made */
RCV_API void     rcv_image_close(rcv_arena *a);
/* rcv_image_take -- fetch every page that has been met, all of one moment. RCV_ERR_BUSY: there was none within `nanos`. */
RCV_API int      rcv_image_take(rcv_arena *a, uint64_t nanos);
RCV_API uint64_t rcv_image_grew(const rcv_arena *a); /* pages met since the take */
RCV_API int      rcv_image_full(const rcv_arena *a); /* 1: there were more than it can hold; the rest reads as zero */
RCV_API void     rcv_image_forget(rcv_arena *a);     /* forget which pages were met: the next read is of something else */

struct rcv_stats {
#define X(name, type, metric, help) uint64_t name;
    RCV_STATS(X)
#undef X
};
enum rcv_stat_type { RCV_STAT_HIDDEN, RCV_STAT_GAUGE, RCV_STAT_TOTAL };
struct rcv_stat_info { /* of a member of struct rcv_stats */
    const char *name, *metric, *help; /* metric "": it is not one */
    int         type;                 /* enum rcv_stat_type */
};
RCV_API const struct rcv_stat_info *rcv_stat_info(unsigned i); /* of the i-th; NULL: there are no more */
RCV_API int rcv_get_stats(rcv_arena *a, struct rcv_stats *out);

struct rcv_verify_report {
    uint64_t containers, entries, blocks, bytes, leaked_blocks, leaked_bytes, hot_pages;
};
/* rcv_verify -- walk everything under the lock; RCV_ERR_CORRUPT with the path of the first damage in the text. */
RCV_API int rcv_verify(rcv_arena *a, struct rcv_verify_report *out);
/* rcv_measure -- bytes of the blocks that a container and all that it holds take. Under rcv_access, outside transactions; as
 * long as the container is large, so rather on a copy. */
RCV_API int rcv_measure(rcv_arena *a, rcv_off off, uint64_t *bytes);

struct rcv_hotspot { /* where transactions of this process have lost conflicts */
    uint64_t container, id; /* as in struct rcv_txn_report */
    uint64_t kind, arg;
    uint64_t count, error; /* at most count conflicts, at least count - error */
};
#define RCV_HOTSPOTS 64u
/* rcv_spot_queue -- how many stand there, for that place or for all of its container. */
RCV_API int rcv_spot_queue(const rcv_arena *a, const struct rcv_hotspot *spot);
RCV_API int rcv_hotspots(const rcv_arena *a, struct rcv_hotspot *out, int room); /* how many stand out; unsorted */

RCV_API const char *rcv_board_name(unsigned i); /* of the i-th count of a handler; NULL: there are no more */
struct rcv_handler_counts { /* of all processes, since the segment was made; what they are says enum rcv_board_count */
    uint64_t count[9];
    uint64_t rest;        /* 1: of all those handlers that found no row of their own */
    char     handler[RCV_HANDLER_NAME]; /* as the segment has it: may be anything */
};
struct rcv_board_seen {
    uint64_t                  rows, spots;
    struct rcv_handler_counts row[64];
    struct rcv_hotspot        spot[32];
    uint64_t                  queue[32]; /* rcv_spot_queue() of each */
};
#define RCV_NOTE_TEXT 488u
struct rcv_note_seen { /* of a request in flight: text of its process, which may be anything */
    uint32_t teller, size;
    char     text[RCV_NOTE_TEXT];
};
struct rcv_teller {
    uint64_t pid, token, answers, in_flight; /* the token tells apart those that have one id, each in its own PID namespace */
    uint64_t foreign, own; /* 1: that id is of another PID namespace; 1: it is this process */
};
struct rcv_notes_seen {
    uint64_t             tellers, notes;
    struct rcv_teller    teller[RCV_PEERS];
    struct rcv_note_seen note[64];
};
/* rcv_peek_notes -- the last answers of the processes that tell of their requests; with `ask`, after having asked them to. As
 * rcv_peek. rcv_notes_ask, rcv_notes_see -- the same for who is attached. */
RCV_API int  rcv_peek_notes(int fd, const char *name, int ask, struct rcv_notes_seen *out);
RCV_API void rcv_notes_ask(rcv_arena *a);
RCV_API void rcv_notes_see(const rcv_arena *a, struct rcv_notes_seen *out);
/* A thread that answers: rcv_notes_listen(1); then again and again rcv_notes_seen(); rcv_notes_await() without the GIL,
 * between rcv_use and rcv_unuse: returns when somebody has asked, at some time after rcv_notes_seen(); rcv_notes_tell(): how
 * many of them had room. */
/* rcv_own_threads -- how many threads of the library's Python has, after a change: they store nothing through raw buffers. */
RCV_API int      rcv_own_threads(int change);
RCV_API void     rcv_own_threads_forked(void); /* in the child: none */
RCV_API int      rcv_notes_listen(rcv_arena *a, int on); /* 0: a forked child that has not used the arena yet */
RCV_API uint32_t rcv_notes_seen(const rcv_arena *a);
RCV_API void     rcv_notes_await(rcv_arena *a, uint32_t seen);
RCV_API int      rcv_notes_tell(rcv_arena *a, const char *const *texts, const uint32_t *sizes, uint32_t n, uint64_t in_all);

/* rcv_peek_board -- what came of each handler's runs and where conflicts were lost, read as rcv_peek does. */
RCV_API int rcv_peek_board(int fd, const char *name, struct rcv_board_seen *out);

#endif
