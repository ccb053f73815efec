/* roots.c -- the two Dicts that hang from the header: the root, and the hidden one of the library itself. */
#include "containers.h"
#include "containers/dict.h"

/* rcv_root_make -- a new segment's root Dict; two processes that both try conflict on the lock, and the second finds it. */
int rcv_root_make(rcv_txn *t)
{
    if (rcv_root(t->arena) != 0)
        return 0;
    rcv_off root;
    int     rc = rcv_dict_new(t, &root);
    if (rc == 0)
        rc = stamp_write(t, 0, 0, RCV_UNIT_IDENTITY, 0);
    return rc ? rc : txn_write64(t, offsetof(struct rcv_header, root), root, RCV_U_DATA);
}

/* rcv_system_make -- the hidden Dict. Two transactions that both make it conflict over its identity. */
int rcv_system_make(rcv_txn *t)
{
    if (rcv_system(t->arena) != 0)
        return 0;
    rcv_off system;
    int     rc = rcv_dict_new(t, &system);
    if (rc == 0)
        rc = stamp_read(t, 0, 0, RCV_UNIT_IDENTITY, 1);
    if (rc == 0)
        rc = stamp_write(t, 0, 0, RCV_UNIT_IDENTITY, 1);
    return rc ? rc : txn_write64(t, offsetof(struct rcv_header, system), system, RCV_U_DATA);
}
