/* check.h -- what the files of rcv_verify share.
 *
 *   check.c        the walk: blocks, paths, leaks, hot pages
 *   check_kinds.c  what must be true of each kind of container
 */
#ifndef RCV_CHECK_H
#define RCV_CHECK_H

#include "internal.h"

struct walk {
    rcv_arena                *a;
    struct rcv_verify_report *report;
    uint64_t                 *reached; /* a bit for each 16 bytes of claimed data */
    uint64_t                  n_reached, bytes; /* blocks reached, and their sizes */
    rcv_off                  *todo; /* containers found, not walked */
    uint64_t                  n_todo, cap_todo;
};

/* check_damage -- RCV_ERR_CORRUPT, naming the container's path, `slot` in it (0: none) and the offset. */
int check_damage(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* check_reach -- a block of at least `len` bytes begins at `off`, nobody else's, and not where user code can write. */
int  check_reach(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what);
int  check_reach_any(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what); /* … or there */
bool check_was_reached(const struct walk *w, rcv_off off);
int  check_cell(struct walk *w, rcv_off container, rcv_off slot, const struct rcv_cell *cell); /* a value, in use */
int  check_container(struct walk *w, rcv_off off); /* its block has been reached */

#endif
