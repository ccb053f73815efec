/* watchdog.h -- a step that takes long: watch.c, stuck.c. Part of recoverable.h. */
#ifndef RECOVERABLE_WATCHDOG_H
#define RECOVERABLE_WATCHDOG_H

enum rcv_watch_stage { RCV_W_FINE, RCV_W_SLOW, RCV_W_STOP, RCV_W_AGAIN, RCV_W_ENDING, RCV_W_END };
#define RCV_STUCK_TEXT 2016u

struct rcv_slow_step { /* what the step that holds an arena is at, in whatever process */
    uint64_t pid, millis;
    char     handler[RCV_HANDLER_NAME];
    char     text[RCV_STUCK_TEXT]; /* the line of code, then the stack, the innermost frame first; "": not known */
};
struct rcv_overdue { /* a step of this process that has taken long */
    uint64_t  mounting, millis;
    uint64_t  thread; /* as Python knows it, 0: it can't be found */
    rcv_txn **place;  /* of the transaction's owner, where `current` */
    unsigned  stage, told; /* what it has come to; what has been done of it */
    uint32_t  changes; /* of the arena's limit, until then */
    int       current;     /* 0: it is over */
    char      handler[RCV_HANDLER_NAME];
    char      text[RCV_STUCK_TEXT]; /* as of a slow step, if it had to be found out without the GIL */
};

/* rcv_watch_limit -- how long a step may hold that arena; 0: as long as it likes; at twice that the process `ends`.
 * rcv_watch_begin -- start the thread that watches, or have it look again. tell() is called without the GIL, in a thread of
 * its own, when rcv_watch_due has something for an arena; withdraw(ident) with the GIL, when a step ends that rcv_watch_stop
 * has stopped; forked() in a forked child, before any of its code runs. rcv_watch_end -- stop it; without the GIL.
 * `for_good`: those who tell are waited for, for a second at most. */
RCV_API void   rcv_watch_limit(rcv_arena *a, double seconds, int ends);
RCV_API double rcv_watch_limit_of(const rcv_arena *a);
RCV_API int    rcv_watch_begin(void (*tell)(void), void (*withdraw)(uint64_t ident), void (*forked)(void));
RCV_API void   rcv_watch_end(int for_good);
/* rcv_watch_due -- is there something to do about the step that holds it, or has held it? rcv_watch_told -- all up to that
 * stage is done. rcv_watch_looked -- the thread in which tell() was called has asked of each arena; what it does from now on may
 * take long, in a log say, and keeps no other one from being called. rcv_watch_say -- put what it is at into the segment.
 * rcv_watch_stop -- doom it, if it still goes on, under the limit of then: 1, and set an exception. */
RCV_API int    rcv_watch_due(rcv_arena *a, struct rcv_overdue *out);
RCV_API void   rcv_watch_told(rcv_arena *a, const struct rcv_overdue *what, unsigned stage);
RCV_API void   rcv_watch_looked(void);
RCV_API void   rcv_watch_say(rcv_arena *a, const struct rcv_overdue *what, const char *text);
RCV_API int    rcv_watch_stop(rcv_arena *a, const struct rcv_overdue *what);
/* rcv_watch_signal -- a thread that gets this signal writes its stack to this file, which nobody else has: 1; 0: it can't be used. */
RCV_API int    rcv_watch_signal(int fd, int number);
RCV_API int    rcv_signal_is_free(int number); /* nobody handles or ignores it */
RCV_API int    rcv_slow_step(const rcv_arena *a, struct rcv_slow_step *out); /* 0: nothing is known of who holds the lock */

#endif
