/* edit.c -- Array.edit(): a range that user code and system calls may write, until the block ends. */
#include "tracker.h"

#include <errno.h>

/* edit_protect -- of [lo, hi): what is writable for an open edit() only. View lock held. */
void edit_protect(rcv_arena *a, uint32_t lo, uint32_t hi)
{
    struct rcv_tracker *t = a->tracker;
    for (uint32_t p = lo; p < hi;) {
        if (!(t->state[p] & PG_EDIT)) {
            p++;
            continue;
        }
        uint32_t first = p;
        for (; p < hi && (t->state[p] & PG_EDIT); p++)
            t->state[p] &= (uint8_t)~PG_EDIT;
        view_protect(a, first, p - first);
    }
}

/* edit_begin -- make [off, off+len), whose bytes are in the log, writable for user code and system calls. A page that the range
 * covers only in part keeps a pre-image of its own, like a trapped one. */
static int edit_begin(rcv_arena *a, rcv_off off, uint64_t len)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            first = page_of_off(a, off), end = page_of_off(a, off + len - 1) + 1;
    uint64_t            inside = t->page_size - 1;
    uint32_t            whole_lo = first + ((off & inside) != 0), whole_hi = end - (((off + len) & inside) != 0);
    int                 rc = 0;
    if (t->doomed)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": the undo log is full; the step can only be rolled back", a->name);
    view_lock(t);
    if (t->n_claims != 0)
        view_mend(a); /* what another thread has put over our pages */
    for (uint32_t p = first; p < end && rc == 0; p++) {
        if ((t->state[p] & PG_WRITABLE) || (t->slot_of[p] != 0 && !t->savepoint))
            continue;
        if (p >= whole_lo && p < whole_hi)
            t->state[p] |= t->slot_of[p] == 0 ? PG_EDIT : 0;
        else
            rc = view_log(a, p);
    }
    t->edit_lo = t->edit_hi == 0 || first < t->edit_lo ? first : t->edit_lo;
    t->edit_hi = end > t->edit_hi ? end : t->edit_hi;
    if (rc == 0)
        rc = view_unprotect(a, first, end - first);
    if (rc == 0)
        t->edits++;
    else
        view_reset(a); /* everything protected, everything logged stays logged */
    view_unlock(t);
    if (rc == RCV_ERR_FULL)
        return rcv_raise(rc, 0, "arena \"%s\": no room in the undo log for the edges of an edited range; the range is as it was; "
                         "make the arena with a larger undo_size", a->name);
    if (rc != 0)
        return rcv_raise(rc, ENOMEM, "arena \"%s\": the kernel does not let %llu bytes be written", a->name, (unsigned long long)len);
    for (uint64_t at = 0; at < len; at += UINT64_C(1) << 30)
        tracker_note_announced(a, off + at, (uint32_t)(len - at < UINT64_C(1) << 30 ? len - at : UINT64_C(1) << 30));
    return 0;
}

/* tracker_edit -- begin, or end (same arguments). Ending cannot fail. */
int tracker_edit(rcv_arena *a, rcv_off off, uint64_t len, bool begin)
{
    struct rcv_tracker *t = a->tracker;
    if (len == 0)
        return 0;
    if (off < a->data_off || off - a->data_off > rcv_data_claimed(a) || len > rcv_data_claimed(a) - (off - a->data_off))
        return rcv_raise(RCV_ERR_BUG, 0, "an edited range of %llu bytes lies outside the arena", (unsigned long long)len);
    if (begin)
        return edit_begin(a, off, len);
    if (t->edits > 0)
        t->edits--;
    view_lock(t);
    if (!t->private_view)
        edit_protect(a, page_of_off(a, off), page_of_off(a, off + len - 1) + 1);
    view_unlock(t);
    return 0;
}
