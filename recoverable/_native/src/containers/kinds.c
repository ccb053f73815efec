/* kinds.c -- the table of kinds: what transactions, verification and reclaiming ask of a container. Each describes itself. */
#include "containers.h"

const struct rcv_kind *const rcv_kinds[RCV_KINDS] = {
#define X(NAME, number, name) [number] = &name##_kind,
    RCV_KIND_LIST(X)
#undef X
};
