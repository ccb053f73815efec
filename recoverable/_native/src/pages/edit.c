/* edit.c -- Array.edit(): a range that system calls may write as well, which can't trap.
 *
 * Its pages are made writable ahead, as if they had trapped: what is in them is logged, and what has changed is found at the
 * step's end. So an edit is a view like any other, and merges with what others commit while the request waits.
 */
#include "state.h"

#include <errno.h>

/* tracker_edit -- make [off, off+len) writable in the mounted transaction's view until the step ends. */
int tracker_edit(rcv_arena *a, struct raw *raw, rcv_off off, uint64_t len)
{
    struct rcv_tracker *t = a->tracker;
    struct view        *v;
    if (len == 0)
        return 0;
    if (off < a->data_off || off - a->data_off > rcv_data_claimed(a) || len > rcv_data_claimed(a) - (off - a->data_off))
        return rcv_raise(RCV_ERR_BUG, 0, "an edited range of %llu bytes lies outside the arena", (unsigned long long)len);
    if (t->doomed)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": the undo log is full; the step can only be rolled back", a->name);
    int rc = views_own(a, raw, &v);
    if (rc != 0)
        return rc;
    uint32_t first = page_of_off(a, off), end = page_of_off(a, off + len - 1) + 1;
    view_lock(a);
    if (v->strays)
        view_mend(a, v);
    bool closed = false;
    for (uint32_t p = first; p < end && rc == 0; p++) {
        if (v->state[p] & PG_WRITABLE)
            continue;
        closed = true;
        if (needs_log(t, p) && (rc = view_log(a, v, p)) == 0)
            t->trapped[t->n_trapped - 1].flags |= (uint16_t)TRAP_EDITED;
    }
    if (rc == 0 && closed && (rc = view_unprotect(a, v, first, end - first)) != 0)
        view_reset(a, v); /* everything is protected, what is logged stays logged */
    view_unlock(a);
    if (rc == RCV_ERR_FULL)
        return rcv_raise(rc, 0, "arena \"%s\": no room in the undo log for an edited range; the range is as it was; make the arena "
                         "with a larger undo_size", a->name);
    if (rc != 0)
        return rcv_raise(rc, ENOMEM, "arena \"%s\": the kernel does not let %llu bytes be written", a->name, (unsigned long long)len);
    return 0;
}
