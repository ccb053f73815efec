/* mirror.c -- builds for tests: is what the feed tells of each commit all that it has changed?
 *
 * Asked by having it: a private copy of the segment that nothing but the feed's records brings forward, those of other processes
 * too. After each commit of this process every allocated block, the heap table and the header's words of both are compared, and
 * each hot page with its shadow. So whatever changes committed memory without a record is found at that commit, by any test that
 * makes it.
 */
#include "transaction.h"

#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

struct rcv_mirror {
    rcv_arena of; /* the copy: private memory, laid out as the segment */
    uint64_t  at; /* in the feed: so far it is brought forward */
};

static _Noreturn void differ(const rcv_arena *a, const char *what, uint64_t at)
{
    const rcv_arena *of = &a->mirror->of;
    fprintf(stderr, "arena \"%s\": its feed does not tell all: %s at %llu after commit %llu of %s\n", a->name, what, (unsigned long long)at,
            (unsigned long long)atomic_load(&of->hdr->commit_seq), a->hdr->holder_handler);
    abort();
}

/* copy -- all that a copy has: the committed state as it is. */
static void copy(rcv_arena *a)
{
    rcv_arena               *of = &a->mirror->of;
    const struct rcv_region *heap = &a->hdr->region[RCV_R_HEAP];
    memcpy(of->core, a->core, sizeof(struct rcv_header));
    memcpy(of->core + heap->off, a->core + heap->off, heap->size);
    memcpy(of->core + a->data_off, a->core + a->data_off, rcv_data_claimed(a));
    a->mirror->at = atomic_load(&a->feed->head);
}

int rcv_mirror_begin(rcv_arena *a)
{
    void *core;
    if (a->feed == NULL)
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\" has no feed", a->name);
    struct rcv_mirror *m = os_calloc(1, sizeof *m);
    if (m == NULL || os_map_nothing(a->total_size, &core) != 0 || os_protect(core, a->total_size, PROT_READ | PROT_WRITE) != 0) {
        os_free(m);
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a copy of an arena");
    }
    m->of.core = m->of.mem = core;
    m->of.hdr = core;
    m->of.total_size = a->total_size;
    m->of.data_off = a->data_off;
    m->of.data_size = a->data_size;
    a->mirror = m;
    copy(a);
    return 0;
}

void mirror_free(rcv_arena *a)
{
    if (a->mirror == NULL)
        return;
    os_unmap(a->mirror->of.core, a->total_size);
    os_free(a->mirror);
    a->mirror = NULL;
}

static int same_block(void *ctx, rcv_off off, uint64_t size)
{
    rcv_arena *a = ctx;
    if (memcmp(a->core + off, a->mirror->of.core + off, size) != 0) {
        uint64_t i = 0;
        while (a->core[off + i] == a->mirror->of.core[off + i])
            i++;
        fprintf(stderr, "in the block of %llu bytes at %llu, byte %llu:\n", (unsigned long long)size, (unsigned long long)off, (unsigned long long)i);
        differ(a, "memory", off + i);
    }
    return 0;
}

/* compare_shadows -- a rollback and recovery take what they have for what is committed. */
static void compare_shadows(const rcv_arena *a)
{
    for (uint64_t slot = 0, n = hot_slots_backed(a); slot < n; slot++) {
        const uint64_t e = atomic_load(&hot_table(a)[slot]), at = a->data_off + HOT_PAGE(e) * (uint64_t)a->hdr->page_size;
        if (e != 0 && memcmp(a->core + at, hot_shadow(a, (uint32_t)slot), a->hdr->page_size) != 0)
            differ(a, "the shadow of the page", at);
    }
}

void mirror_compare(rcv_arena *a)
{
    struct rcv_mirror *m = a->mirror;
    rcv_arena         *of = &m->of;
    const uint64_t     head = atomic_load(&a->feed->head);
    if (m->at < atomic_load(&a->feed->tail) || rcv_undo_mutated()) { /* others have committed more than the ring holds; or the log lies */
        copy(a);
        return;
    }
    while (m->at < head) {
        const struct rcv_commit *r = feed_record(a, m->at, head);
        const uint64_t          *ranges = r != NULL ? restore_ranges(of, r, head - m->at) : NULL;
        if (ranges == NULL && r != NULL)
            fprintf(stderr, "its record: commit %llu, flags %u, %u bytes, %u ranges, claimed %llu; the copy: commit %llu, claimed %llu\n",
                    (unsigned long long)r->seq, r->flags, r->length, r->ranges, (unsigned long long)r->claimed,
                    (unsigned long long)atomic_load(&of->hdr->commit_seq), (unsigned long long)rcv_data_claimed(of));
        if (ranges == NULL)
            differ(a, "no record", m->at);
        atomic_store(&of->hdr->data_claimed, r->claimed);
        restore_put(of, r, ranges);
        m->at += r->length;
    }
    compare_shadows(a);
    const size_t words = offsetof(struct rcv_header, system);
    if (memcmp(a->core + words, of->core + words, offsetof(struct rcv_header, reclaim) + 8 - words) != 0)
        differ(a, "the header", words);
    if (atomic_load(&a->hdr->container_counter) != atomic_load(&of->hdr->container_counter))
        differ(a, "the count of containers", offsetof(struct rcv_header, container_counter));
    const uint64_t *info = (const uint64_t *)(const void *)(a->core + a->hdr->region[RCV_R_HEAP].off) + a->hdr->chunk_count;
    for (uint32_t i = 0; i < a->hdr->chunk_count; i++) {
        const uint64_t now = info[i], copied = *(const uint64_t *)(const void *)(of->core + ((const uint8_t *)&info[i] - a->core));
        if (now != copied && (RCV_INFO_USED(now) != 0 || RCV_INFO_USED(copied) != 0))
            differ(a, "the heap's table", i);
    }
    (void)heap_walk(a, same_block, a); /* which finds damage as well, but that is others' to tell */
}

#else

int rcv_mirror_begin(rcv_arena *a)
{
    return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": this build keeps no copies", a->name);
}

void mirror_compare(rcv_arena *a) { (void)a; }
void mirror_free(rcv_arena *a) { (void)a; }

#endif
