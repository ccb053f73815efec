/* restore.c -- bringing a copy of a segment forward, commit by commit, by the records of its feed.
 *
 * The copy is a file or an object that nobody is attached to, of a moment when it was in IDLE. What it has of the life before is
 * forgotten first: pages that were hot, or stale shadows would be put back over new data; and what its feed had, whose records would
 * tell of a state that is not there, at numbers that come again. Its feed goes on behind the last commit that was applied, in another
 * epoch; a sink has lost everything, and begins anew.
 *
 * Nothing of a record is believed: each range is checked before a byte of it is written, so that a record is applied whole or not at all.
 */
#include "segment.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

struct rcv_restore {
    rcv_arena a; /* mapped, not attached */
    uint32_t  users; /* itself, and the arenas that are read in its memory */
};

/* prepare -- it is sound, at rest, and nobody's. */
static int prepare(rcv_arena *a)
{
    const struct rcv_region *hot = &a->hdr->region[RCV_R_HOT];
    if (a->past == NULL && process_others(a))
        return rcv_raise(RCV_ERR_BUSY, 0, "arena \"%s\" is in use; nothing was changed; bring a copy of it forward", a->name);
    if (atomic_load(&a->hdr->phase) != RCV_IDLE || undo_tail(a) != 0)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" was left in the middle of a step; open it first, which undoes that", a->name);
    if (!MUTATED("feed.hot_table"))
        memset(a->core + hot->off, 0, hot->size);
    atomic_fetch_add(&a->hdr->hot_generation, 1);
    if (a->feed != NULL)
        feed_begin_anew(a);
    return 0;
}

static rcv_restore *new_restore(const char *name)
{
    rcv_restore *r = os_calloc(1, sizeof *r);
    if (r == NULL) {
        rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for replaying");
        return NULL;
    }
    r->a.fd = -1;
    snprintf(r->a.name, sizeof r->a.name, "%s", name);
    return r;
}

/* opened -- with its memory mapped and prepared, unless something has failed before, or now. */
static int opened(rcv_restore *r, int rc, const struct rcv_header *fixed, rcv_restore **out)
{
    if (rc == 0)
        rc = seg_map(&r->a, fixed, PROT_READ | PROT_WRITE);
    if (r->a.past != NULL)
        r->a.fd = -1; /* the caller's */
    if (rc == 0)
        rc = prepare(&r->a);
    if (rc != 0)
        rcv_restore_close(r);
    else
        *out = r;
    return rc;
}

int rcv_restore_open(int fd, const char *name, rcv_restore **out)
{
    struct stat       st;
    struct rcv_header fixed;
    rcv_restore       *r = new_restore(name);
    if (r == NULL)
        return RCV_ERR_FULL;
    rcv_arena *a = &r->a;
    int err = object_adopt(a, fd, &st), rc = err == 0 ? 0 : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't open its object", name);
    if (rc == 0 && (rc = seg_inspect(a, (uint64_t)st.st_size, &fixed)) == 1)
        rc = rcv_raise(RCV_ERR_NOTFOUND, 0, "there is no arena \"%s\": its making was not finished", name);
    return opened(r, rc, &fixed, out);
}

int rcv_past_begin(int fd, uint64_t length, const char *name, rcv_restore **out)
{
    struct stat       st;
    struct rcv_header fixed;
    rcv_restore       *r = new_restore(name);
    if (r == NULL)
        return RCV_ERR_FULL;
    rcv_arena *a = &r->a;
    a->past = r;
    int err = object_borrow(a, fd, &st), rc = err == 0 ? 0 : seg_os(a, err, "asking for its length");
    if (rc == 0 && (uint64_t)st.st_size < length)
        rc = seg_corrupt(a, "its copy is %llu bytes long, and was %llu", (unsigned long long)st.st_size, (unsigned long long)length);
    if (rc == 0 && (rc = seg_inspect(a, length, &fixed)) == 1)
        rc = seg_corrupt(a, "it is a copy that was not finished");
    return opened(r, rc, &fixed, out);
}

int restore_share(rcv_restore *r, rcv_arena **out)
{
    rcv_arena *a = os_calloc(1, sizeof *a);
    if (a == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for an arena's handle");
    *a = r->a;
    a->past = r;
    r->users++;
    *out = a;
    return 0;
}

void rcv_restore_close(rcv_restore *r)
{
    if (r == NULL || r->users-- > 0)
        return;
    seg_unmap(&r->a);
    object_drop(&r->a);
    os_free(r);
}

int rcv_restore_back(rcv_restore *r)
{
    uint64_t backed[4][2];
    int      err = 0;
    seg_backed(&r->a, backed);
    for (int i = 0; err == 0 && i < 4; i++)
        err = os_populate(r->a.core + backed[i][0], backed[i][1]);
    return err == 0 ? 0 : seg_os(&r->a, err, "claiming memory for what is restored");
}

/* may_write -- can a record name that range? */
static bool may_write(const rcv_arena *a, const struct rcv_commit *head, uint64_t off, uint64_t len)
{
    const struct rcv_region *heap = &a->hdr->region[RCV_R_HEAP];
    const uint64_t           words = offsetof(struct rcv_header, system);
    return (off >= a->data_off && off - a->data_off <= head->claimed && len <= head->claimed - (off - a->data_off)) ||
           (off >= heap->off && off - heap->off <= heap->size && len <= heap->size - (off - heap->off)) ||
           (off >= words && off + len <= offsetof(struct rcv_header, reclaim) + 8);
}

const uint64_t *rcv_commit_ranges(const struct rcv_commit *head, uint64_t room)
{
    if (room < sizeof *head || head->mark != RCV_COMMIT_MARK || head->length < sizeof *head || head->length % 8 != 0 || head->length > room)
        return NULL;
    uint64_t at = sizeof *head + ((head->name + 7u) & ~7u) + ((head->id + 7u) & ~7u) + head->units * sizeof(struct rcv_commit_unit);
    uint64_t bytes = 0, words = (uint64_t)head->ranges * 8;
    if (at > head->length || words > head->length - at)
        return NULL;
    const uint64_t *ranges = (const uint64_t *)(const void *)((const uint8_t *)head + at);
    for (uint32_t i = 0; i < head->ranges; i++)
        bytes += RCV_RANGE_ZEROS(ranges[i]) ? 0 : RCV_RANGE_LEN(ranges[i]);
    return at + words + bytes == head->length ? ranges : NULL;
}

const uint64_t *restore_ranges(const rcv_arena *a, const struct rcv_commit *head, uint64_t room)
{
    const uint64_t *ranges = rcv_commit_ranges(head, room), seq = atomic_load(&a->hdr->commit_seq);
    if (ranges == NULL || head->claimed > a->data_size || head->claimed % a->hdr->page_size != 0 || head->claimed < rcv_data_claimed(a))
        return NULL;
    if (head->seq < seq || (head->seq == seq && !(head->flags & RCV_COMMIT_SLICE))) /* numbers of commits that were killed are left out */
        return NULL;
    for (uint32_t i = 0; i < head->ranges; i++)
        if (RCV_RANGE_LEN(ranges[i]) == 0 || !may_write(a, head, RCV_RANGE_OFF(ranges[i]), RCV_RANGE_LEN(ranges[i])))
            return NULL;
    return ranges;
}

void restore_put(rcv_arena *a, const struct rcv_commit *head, const uint64_t *ranges)
{
    const uint8_t *bytes = (const uint8_t *)(ranges + head->ranges);
    for (uint32_t i = 0; i < head->ranges; i++) {
        const uint64_t off = RCV_RANGE_OFF(ranges[i]), len = RCV_RANGE_LEN(ranges[i]);
        if (RCV_RANGE_ZEROS(ranges[i])) {
            memset(a->core + off, 0, len);
            continue;
        }
        memcpy(a->core + off, bytes, len);
        bytes += len;
    }
    if (!MUTATED("feed.counters"))
        atomic_store(&a->hdr->container_counter, head->containers);
    atomic_store(&a->hdr->commit_seq, head->seq);
}

void rcv_restore_finish(rcv_restore *r, uint64_t position, uint64_t epoch)
{
    if (r->a.feed != NULL)
        feed_begin_at(&r->a, position, epoch);
}

int rcv_restore_renew(rcv_restore *r)
{
    int rc = feed_format(&r->a);
    if (rc == 0 && r->a.feed != NULL)
        feed_begin_at(&r->a, 0, 0);
    return rc;
}

int rcv_restore_apply(rcv_restore *r, const void *records, uint64_t length, uint64_t *at)
{
    rcv_arena *a = &r->a;
    for (*at = 0; *at < length;) {
        const struct rcv_commit *head = (const struct rcv_commit *)(const void *)((const uint8_t *)records + *at);
        const uint64_t          *ranges = restore_ranges(a, head, length - *at);
        if (ranges == NULL)
            return rcv_raise(RCV_ERR_CORRUPT, 0, "arena \"%s\": what follows commit %llu is no commit of it", a->name,
                             (unsigned long long)atomic_load(&a->hdr->commit_seq));
        int rc = seg_claim_data(a, head->claimed);
        if (rc != 0)
            return rc;
        restore_put(a, head, ranges);
        if (a->feed != NULL)
            feed_restored(a, head->seq, head->at);
        *at += head->length;
    }
    return 0;
}
