/* recover.c -- from whatever a killed process left behind to the last committed state.
 *
 * What we want: whoever gets the lock next, or attaches next, finds committed state: all of a finished step or nothing of
 * it. And since the one who repairs can be killed as well, repairing may stop anywhere and start again.
 *
 * What does it: the phase says which of two copies is the committed one.
 *
 *      IDLE      data is; the log is empty. But a raw store may have hit a hot page, which is writable without a trap:
 *                shadows -> data for the listed pages.
 *      STEP      the log and the shadows are: undo backwards, then shadows -> data. A record in the feed is nothing.
 *      PUBLISH   data is, since the store of this phase: the feed has one record more, and wakes who waits for it; data -> shadows
 *                for the listed pages, and drop the log.
 *
 * Then tail = 0, and only then IDLE: a kill between them finds STEP or PUBLISH with an empty log, and nothing to do twice.
 * Each step only writes what a second run would write again, so there is no record of how far it got.
 *
 * In STEP shadows come *after* the log. A hot page may hold announced writes (in the log), raw writes (not in the log) or
 * both; its shadow is the whole committed page and has the last word.
 *
 * Damage is found before it is acted on: the log is walked once without writing. A segment that does not add up is marked,
 * so that nobody builds on it, and left for whoever wants to look at it.
 *
 * Where it still fails: it trusts what a scribbled segment says consistently (see undo.c), and a failure of the machine
 * rather than of the segment (no memory behind a shadow) leaves the phase as it was, for the next one to try again.
 */
#include "segment.h"

#include <time.h>

/* check_log -- is every record of the log sound? Writes nothing. */
static int check_log(rcv_arena *a)
{
    struct undo_walk w = undo_walk(a, UNDO_ALL);
    while (undo_next(&w))
        continue;
    return w.error;
}

/* copy_name -- a name from the segment, cut to its room and made printable: it may be garbage. */
static void copy_name(char *to, const char *from, size_t room)
{
    size_t i = 0;
    for (; i + 1 < room && from[i] != '\0'; i++)
        to[i] = (from[i] >= ' ' && from[i] != 0x7f) || (from[i] & 0x80) ? from[i] : '?';
    to[i] = '\0';
}

/* note_lost -- who left it, as far as the hints in the header tell. */
static void note_lost(rcv_arena *a, struct rcv_recovery *report)
{
    uint64_t token = atomic_load(&a->hdr->lost);
    if (token == 0)
        return;
    const struct rcv_process *p = process_of(a, token);
    report->pid = p != NULL ? p->pid : 0;
    copy_name(report->handler, a->hdr->holder_handler, sizeof report->handler);
}

/* repair -- the table above. */
static int repair(rcv_arena *a, struct rcv_recovery *report)
{
    unsigned phase = atomic_load(&a->hdr->phase);
    uint64_t tail = undo_tail(a);
    int      rc = 0;
    report->phase = phase;
    if (atomic_load(&a->hdr->corrupt) != 0)
        return seg_corrupt(a, "an earlier recovery found damage");
    if (phase > RCV_PUBLISH)
        return seg_corrupt(a, "its phase is %u", phase);
    if (phase == RCV_IDLE && tail != 0)
        return seg_corrupt(a, "its undo log is not empty (%llu bytes) though no step was running", (unsigned long long)tail);
    if ((rc = check_log(a)) < 0 || (rc = feed_recover(a, phase)) < 0)
        return rc;
    PHASE("recover.checked");
    struct undo_record newest;
    uint64_t           mark = MUTATED("recover.half") && undo_prev(a, &tail, &newest) > 0 ? tail : 0;
    if (phase == RCV_STEP && (rc = undo_apply(a, mark, report)) < 0)
        return rc;
    PHASE("recover.undone");
    if ((rc = hot_recover(a, phase != RCV_PUBLISH, report)) < 0)
        return rc;
    PHASE("recover.before_tail");
    undo_cut(a, 0);
    PHASE("recover.before_phase");
    phase_set(a, RCV_IDLE);
    PHASE("recover.after_phase");
    return 0;
}

/* recover -- bring the segment to IDLE. Lock held, or alone. Damage: the header is marked, RCV_ERR_CORRUPT. Any other
 * failure leaves a segment that the next call recovers. */
int recover(rcv_arena *a, struct rcv_recovery *report)
{
    uint64_t start = os_nanos();
    memset(report, 0, sizeof *report);
    note_lost(a, report);
    int rc = repair(a, report);
    report->micros = (os_nanos() - start) / 1000;
    if (rc == RCV_ERR_CORRUPT) {
        atomic_store(&a->hdr->corrupt, 1);
        return rc;
    }
    if (rc < 0)
        return rc;
    if (a->feed != NULL)
        feed_wake(a); /* whoever left it may have been about to */
    report->happened = report->phase != RCV_IDLE || report->pages != 0;
    if (report->happened) {
        atomic_fetch_add(&a->hdr->recoveries, 1);
        atomic_store(&a->hdr->recovered_at, (uint64_t)time(NULL));
    }
    atomic_store(&a->hdr->lost, 0);
    return 0;
}
