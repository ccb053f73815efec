/* image.c -- reading committed state beside a running server: no lock, no slot, not a single store.
 *
 * What we want: a tool that shows what is in an arena must not be able to harm or to delay the servers that work in it; and
 * what it shows is a state that was committed, not half of a step.
 *
 * What does not work: taking the lock (the server waits for the tool, and recovers it if it dies); a copy of everything (the
 * server commits many times while hundreds of megabytes are copied, and no moment is left); reading in place and looking
 * afterwards whether something has changed (by then the reader has followed offsets that changed between its check and its use
 * of them, and a walk in Python takes longer than there is between two commits).
 *
 * What does: the reader's own working set. An *image* is private memory, laid out as the segment, that faults until it has
 * been fetched. The reader runs on it as on any arena. Each page that it meets for the first time is copied there and then,
 * so it reads bytes that stand still, checked like those of a damaged segment. Such an attempt counts for nothing: its pages
 * are of different moments. But then the pages are known, a handful mostly, and are fetched again *together*, which takes a
 * microsecond or two. An attempt that meets no further page has read the state of that moment. Structure changes seldom, so it is the
 * second or the third.
 *
 * A moment is long, because the undo log is at hand: in the middle of a step, data with the log applied backwards *is* the
 * committed state. Fetch data first and the log after it, and no store can be in the one without its record in the other
 * (undo.c: record, tail, data). Wrong is only a log that has become shorter in between: that of a commit, a rollback, a
 * savepoint. `cuts` moves with each of them. So a fetch is good if, from its beginning to its end,
 *
 *      the log was not cut                    cuts is the same and even
 *      and the data did not become the truth  the phase is not PUBLISH at one end only
 *      or somebody died, or sleeps, in a cut  cuts is odd, and the phase is the same at both ends as well
 *
 * In PUBLISH the data is the committed state, and the log and the shadows say nothing. Otherwise a listed page's committed
 * content is its shadow (hot.c), which only changes in PUBLISH. A killed process leaves one of these states standing still, which
 * is read like any other: the image is recovered, the segment stays as it is.
 *
 * Where it still fails: what is read has to fit between two commits. A page of fifty entries does, beside a process that does
 * nothing but commit; all of a large container need not. Then it is RCV_ERR_BUSY, and a copy under the lock is the way. Raw
 * writes of a thread that is in no step are as unsynchronised for it as for everybody.
 *
 * image_fault() runs in the SIGSEGV handler: mprotect and memcpy into memory that is there.
 */
#include "containers/containers.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define IMAGES 4u                          /* that a process can have at a time */
#define MOST_PAGES 8192u                   /* of an image: each may take two map entries */
#define MOST_LOG ((uint64_t)256 * 1024 * 1024)
#define PATIENT 64u                        /* tries before it lets others run in between */

struct met { /* a page that was read */
    uint32_t page; /* of the segment */
    uint32_t slot; /* of the hot-page table + 1; 0: not listed */
};

struct rcv_image {
    rcv_arena        of;   /* the segment, mapped read-only */
    unsigned         shift;
    struct met      *met;
    volatile uint32_t n, taken; /* pages met; how many of them the last take fetched */
    volatile bool     full;
    uint32_t        *index;      /* by page: its place in `met` + 1, as of the last look-up */
    uint32_t         looked_up;  /* how many of `met` are in it */
    uint64_t         generation; /* of the hot-page table that the slots are from */
    uint8_t         *log;
    uint64_t         log_room;
};

static rcv_arena *_Atomic images[IMAGES];

/* -- pages ---------------------------------------------------------------------------------------------------- */

/* may_fetch -- is there memory behind a page that readers have business in: heap table and data? A hole must not be touched. */
static bool may_fetch(const rcv_arena *a, uint64_t off)
{
    const rcv_arena         *of = &a->image->of;
    const struct rcv_region *heap = &of->hdr->region[RCV_R_HEAP];
    return off - heap->off < heap->size || off - a->data_off < rcv_data_claimed(of);
}

/* image_fault -- from the SIGSEGV handler: fetch the page there. false: it is no image's. */
static bool image_fault(uintptr_t at)
{
    for (unsigned i = 0; i < IMAGES; i++) {
        rcv_arena *a = atomic_load_explicit(&images[i], memory_order_acquire);
        if (a == NULL || at - (uintptr_t)a->core >= a->total_size)
            continue;
        struct rcv_image *m = a->image;
        uint64_t          off = (at - (uintptr_t)a->core) >> m->shift << m->shift, size = UINT64_C(1) << m->shift;
        uint64_t          heap = a->hdr->region[RCV_R_HEAP].off;
        if (!may_fetch(a, off))
            return false;
        if (m->n < MOST_PAGES && os_protect(a->core + off, size, PROT_READ | PROT_WRITE) == 0) {
            memcpy(a->core + off, m->of.core + off, size);
            m->met[m->n] = (struct met){.page = (uint32_t)(off >> m->shift)};
            m->n++;
            return true;
        }
        m->full = true; /* let the reader come to an end on zeros: one call, which merges the map entries */
        return os_protect(a->core + heap, a->total_size - heap, PROT_READ | PROT_WRITE) == 0;
    }
    return false;
}

/* look_up -- which of the pages that were met are listed. Between two looks at the generation by the caller. */
static void look_up(rcv_arena *a)
{
    struct rcv_image       *m = a->image;
    const struct rcv_header *live = m->of.hdr;
    const _Atomic uint64_t *table = (const _Atomic uint64_t *)(const void *)(m->of.core + live->region[RCV_R_HOT].off);
    uint64_t                first = a->data_off >> m->shift, pages = a->total_size >> m->shift;
    uint64_t                backed = atomic_load_explicit(&live->shadow_claimed, memory_order_acquire) >> m->shift;
    for (uint32_t i = 0; i < m->n; i++) {
        m->met[i].slot = 0;
        m->index[m->met[i].page] = i + 1;
    }
    m->looked_up = m->n;
    for (uint32_t slot = 0; slot < live->hot_slots && slot < backed; slot++) {
        uint64_t entry = atomic_load_explicit(&table[slot], memory_order_acquire);
        uint64_t page = first + (uint32_t)entry - 1;
        if (entry != 0 && page < pages && m->index[page] != 0)
            m->met[m->index[page] - 1].slot = slot + 1;
    }
}

/* -- a moment -------------------------------------------------------------------------------------------------- */

struct moment {
    uint64_t cuts, generation;
    unsigned phase;
};

static struct moment moment_of(const struct rcv_header *live)
{
    atomic_thread_fence(memory_order_acquire); /* what was read before was read before */
    struct moment now = {.cuts = atomic_load_explicit(&live->cuts, memory_order_acquire)};
    now.phase = atomic_load_explicit(&live->phase, memory_order_acquire);
    now.generation = atomic_load_explicit(&live->hot_generation, memory_order_acquire);
    return now;
}

/* is_one -- was it the same committed state all the time? The table is at the top. */
static bool is_one(const struct moment *from, const struct moment *to)
{
    if (from->cuts != to->cuts || from->generation != to->generation)
        return false;
    return from->phase == to->phase || (!(from->cuts & 1) && from->phase != RCV_PUBLISH && to->phase != RCV_PUBLISH);
}

/* fetch_header -- what changes of it, but for the lock, which is the image's own. */
static void fetch_header(rcv_arena *a)
{
    const size_t from = offsetof(struct rcv_header, phase);
    memcpy((uint8_t *)a->hdr + from, a->image->of.core + from, offsetof(struct rcv_header, ring) - from);
}

/* fetch_log -- a copy of the log as it is now. Read, not mapped: it may be cut and given back while we look. */
static int fetch_log(rcv_arena *a, uint64_t *tail)
{
    struct rcv_image *m = a->image;
    *tail = atomic_load_explicit(&m->of.hdr->undo_tail, memory_order_acquire);
    if (*tail == 0)
        return 0;
    if (*tail > a->undo_size)
        return seg_corrupt(a, "the undo log's tail (%llu) is outside the log", (unsigned long long)*tail);
    if (*tail > MOST_LOG)
        return rcv_raise(RCV_ERR_BUSY, 0, "arena \"%s\": a step that has changed more than %u MiB is under way; nothing was "
                         "changed; try again, or look at a copy", a->name, (unsigned)(MOST_LOG >> 20));
    if (*tail > m->log_room) {
        uint8_t *more = os_realloc(m->log, *tail + RCV_SLICE);
        if (more == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no process memory for a copy of the undo log");
        m->log = more;
        m->log_room = *tail + RCV_SLICE;
    }
    int err = os_read(object_fd(&m->of), a->undo_off, m->log, *tail);
    a->undo = m->log;
    return err == 0 ? 0 : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't read its undo log", a->name);
}

/* put_back -- one record, as far as its pages are here and have no shadow. */
static void put_back(rcv_arena *a, const struct undo_record *r)
{
    struct rcv_image *m = a->image;
    uint64_t          size = UINT64_C(1) << m->shift;
    for (uint64_t at = r->off, end = r->off + r->len, next; at < end; at = next) {
        uint64_t page = at >> m->shift;
        uint32_t i = m->index[page];
        next = (page << m->shift) + size < end ? (page << m->shift) + size : end;
        bool header = at < a->hdr->region[RCV_R_PROCESS].off;
        if (header || (i != 0 && i <= m->n && m->met[i - 1].page == page && m->met[i - 1].slot == 0))
            memcpy(a->core + at, r->old + (at - r->off), next - at);
    }
}

/* fetch -- everything, in the order that the top of this file asks for. A failure may come of a log that is being cut. */
static int fetch(rcv_arena *a, bool published)
{
    struct rcv_image *m = a->image;
    uint64_t          size = UINT64_C(1) << m->shift, shadows = m->of.hdr->region[RCV_R_SHADOW].off, tail = 0;
    int                rc = 0, err = 0;
    fetch_header(a);
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t off = (uint64_t)m->met[i].page << m->shift, slot = published ? 0 : m->met[i].slot;
        if (slot == 0)
            memcpy(a->core + off, m->of.core + off, size);
        else if (err == 0) /* read, not mapped, as the log */
            err = os_read(object_fd(&m->of), shadows + ((slot - 1) << m->shift), a->core + off, size);
    }
    atomic_thread_fence(memory_order_acquire);
    if (err != 0)
        rc = rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't read its shadows", a->name);
    else if (!published)
        rc = fetch_log(a, &tail);
    atomic_store_explicit(&a->hdr->undo_claimed, (tail + size - 1) >> m->shift << m->shift, memory_order_relaxed);
    atomic_store_explicit(&a->hdr->data_claimed, rcv_data_claimed(&m->of), memory_order_relaxed); /* by this step, too */
    if (rc != 0)
        return rc;
    struct undo_walk w = undo_walk(a, UNDO_ALL);
    for (w.at = tail; undo_next(&w);)
        put_back(a, &w.r);
    return w.error;
}

/* rcv_image_take -- see recoverable.h. */
int rcv_image_take(rcv_arena *a, uint64_t nanos)
{
    struct rcv_image *m = a->image;
    uint64_t          begun = os_nanos();
    for (uint32_t tries = 0;; tries++) {
        struct moment from = moment_of(m->of.hdr), to;
        if (m->looked_up != m->n || m->generation != from.generation) {
            look_up(a);
            m->generation = from.generation;
        }
        int rc = fetch(a, from.phase == RCV_PUBLISH);
        to = moment_of(m->of.hdr);
        if (is_one(&from, &to)) {
            if (rc == 0 && atomic_load_explicit(&a->hdr->corrupt, memory_order_relaxed) != 0)
                rc = seg_corrupt(a, "an earlier recovery found damage");
            atomic_store_explicit(&a->hdr->phase, RCV_IDLE, memory_order_relaxed);
            atomic_store_explicit(&a->hdr->undo_tail, 0, memory_order_relaxed);
            m->taken = m->n;
            m->full = false;
            return rc;
        }
        if (os_nanos() - begun > nanos)
            return rcv_raise(RCV_ERR_BUSY, 0,
                             "arena \"%s\": no moment between two commits was long enough to read %u pages; nothing was changed; "
                             "ask for less of it at a time, or for a copy", a->name, m->n);
        if (tries > PATIENT)
            sched_yield();
    }
}

uint64_t rcv_image_grew(const rcv_arena *a) { return a->image->n - a->image->taken; }

int rcv_image_full(const rcv_arena *a) { return a->image->full; }

void rcv_image_forget(rcv_arena *a)
{
    struct rcv_image *m = a->image;
    uint64_t          from = a->hdr->region[RCV_R_HEAP].off;
    for (uint32_t i = 0; i < m->n; i++)
        m->index[m->met[i].page] = 0;
    m->n = m->taken = m->looked_up = 0;
    m->full = false;
    os_protect(a->core + from, a->total_size - from, PROT_NONE); /* if not: zeros, which any reader finds to be damage */
    os_forget(a->core + from, a->total_size - from);
}

/* -- life ----------------------------------------------------------------------------------------------------- */

/* set_up -- the addresses, and a header of its own, in the order of need. */
static int set_up(rcv_arena *a)
{
    struct rcv_image        *m = a->image;
    const struct rcv_header *live = m->of.hdr;
    void                    *p;
    uint64_t                 head = live->region[RCV_R_PROCESS].off;
    m->shift = (unsigned)__builtin_ctz(live->page_size);
    int err = os_map_nothing(live->total_size, &p);
    if (err != 0)
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": no addresses for an image of it", a->name);
    a->core = a->mem = p;
    a->hdr = p;
    a->total_size = live->total_size;
    a->data_off = m->of.data_off;
    a->data_size = m->of.data_size;
    a->undo_off = m->of.undo_off;
    a->undo_size = m->of.undo_size;
    m->met = os_calloc(MOST_PAGES, sizeof *m->met);
    m->index = os_calloc(a->total_size >> m->shift, sizeof *m->index);
    if (m->met == NULL || m->index == NULL || os_protect(a->core, head, PROT_READ | PROT_WRITE) != 0)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for an image of it", a->name);
    memcpy(a->hdr, live, offsetof(struct rcv_header, lock));
    lock_init(a);
    a->token = 1; /* any: its lock is its own */
    return 0;
}

/* enlist -- let the handler know it. */
static int enlist(rcv_arena *a)
{
    for (unsigned i = 0; i < IMAGES; i++) {
        rcv_arena *none = NULL;
        if (atomic_compare_exchange_strong(&images[i], &none, a)) {
            trap_images(image_fault);
            return trap_handler(a);
        }
    }
    return rcv_raise(RCV_ERR_MISUSE, 0, "this process has %u images of arenas already; close one of them first", IMAGES);
}

/* rcv_image_open -- see recoverable.h. */
int rcv_image_open(int fd, const char *name, rcv_arena **out)
{
    struct stat       st;
    rcv_arena        *a = os_calloc(1, sizeof *a);
    struct rcv_image *m = os_calloc(1, sizeof *m);
    if (a == NULL || m == NULL) {
        os_free(a);
        os_free(m);
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for an arena's handle");
    }
    a->image = m;
    a->fd = m->of.fd = -1; /* nothing that works through a->fd is to find the object */
    a->busy_timeout = 0;
    snprintf(a->name, sizeof a->name, "%s", name);
    snprintf(m->of.name, sizeof m->of.name, "%s", name);
    int err = object_borrow(&m->of, fd, &st);
    int rc = err == 0 ? seg_map_readonly(&m->of, (uint64_t)st.st_size)
                      : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't ask for its length", a->name);
    if (rc == 0)
        rc = set_up(a);
    if (rc == 0)
        rc = enlist(a);
    if (rc == 0)
        *out = a;
    else
        rcv_image_close(a);
    return rc;
}

/* rcv_image_close -- what rcv_image_open made, as far as it came. */
void rcv_image_close(rcv_arena *a)
{
    struct rcv_image *m = a->image;
    for (unsigned i = 0; i < IMAGES; i++) {
        rcv_arena *own = a;
        atomic_compare_exchange_strong(&images[i], &own, NULL);
    }
    if (a->core != NULL)
        os_unmap(a->core, a->total_size);
    seg_unmap(&m->of);
    os_free(m->met);
    os_free(m->index);
    os_free(m->log);
    os_free(m);
    os_free(a);
}
