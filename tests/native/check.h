/* check.h -- one assertion: says where, and fails. CHECKS_DONE at the end says how many held. */
#ifndef RCV_TEST_CHECK_H
#define RCV_TEST_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static unsigned long checks __attribute__((unused));

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);        \
            exit(1);                                                                \
        }                                                                           \
        checks++;                                                                   \
    } while (0)

#define CHECKS_DONE() printf("ok %lu checks\n", checks)

#endif
