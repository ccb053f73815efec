/* deque_check.h -- what deque.c needs of deque_check.c. */
#ifndef RCV_DEQUE_CHECK_H
#define RCV_DEQUE_CHECK_H

#include "containers.h"

int deque_check(struct walk *w, rcv_off deque);

#endif
