/* watch.h -- what watch.c does when arena.c says so. */
#ifndef RCV_WATCH_H
#define RCV_WATCH_H

#include "recoverable.h"

void watch_after_fork(rcv_arena *a);        /* in the child: it has no watchdog, and its steps are the parent's */
void watch_forked(void);                    /* … for all of its arenas together, afterwards */
void watch_stopped_step_over(rcv_arena *a); /* struct rcv_above */

#endif
