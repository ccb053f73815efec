/* peek.c -- what can be told of a segment from outside, by a process that does not attach.
 *
 * For tools that list and watch. The mapping is read-only, no lock is taken and no slot, so a server can't notice it, and a
 * segment that a killed process has left in the middle of a step stays as it is. The price: the numbers are read one by
 * one while others write them. Only what is right as a single word is told.
 */
#include "containers/containers.h"
#include "flusher.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

_Static_assert(RCV_BOARD_COUNTS == 9 && RCV_BOARD_ROWS == 64 && RCV_BOARD_SPOTS == 32, "as in recoverable.h");

/* peek_peers -- the slots that are in use, or were until their process died. */
static void peek_peers(const rcv_arena *a, struct rcv_peek *out)
{
    const struct rcv_process *table = (const struct rcv_process *)(a->core + a->hdr->region[RCV_R_PROCESS].off);
    const uint64_t            here = process_space();
    for (uint32_t slot = 0; slot < RCV_PROCESSES; slot++) {
        bool alive = process_slot_alive(a, slot);
        if (!alive && atomic_load(&table[slot].token) == 0)
            continue;
        out->peer[out->peers++] = (struct rcv_peer){table[slot].pid, table[slot].attached_at, alive,
                                                       table[slot].space != 0 && table[slot].space != here};
    }
}

/* peek_hot -- listed pages of the hot-page table. */
static uint64_t peek_hot(const rcv_arena *a)
{
    const _Atomic uint64_t *table = (const _Atomic uint64_t *)(a->core + a->hdr->region[RCV_R_HOT].off);
    uint64_t                n = 0;
    for (uint32_t i = 0; i < a->hdr->hot_slots; i++)
        n += atomic_load_explicit(&table[i], memory_order_relaxed) != 0;
    return n;
}

static void peek_header(rcv_arena *a, struct rcv_peek *out)
{
    const struct rcv_header  *h = a->hdr;
    const struct rcv_process *holder = process_of(a, lock_owner(a));
    struct rcv_stats          heap;
    memset(&heap, 0, sizeof heap);
    heap_stats(a, &heap);
    out->size = heap.size;
    out->claimed = heap.claimed;
    out->used = heap.used;
    out->reserved = heap.reserved;
    out->overhead = atomic_load(&h->undo_claimed) + atomic_load(&h->shadow_claimed);
    for (int i = 0; i < RCV_REGIONS; i++)
        if (i != RCV_R_UNDO && i != RCV_R_SHADOW && i != RCV_R_DATA)
            out->overhead += h->region[i].size;
    seg_backed(a, out->backed);
    out->commit_seq = atomic_load(&h->commit_seq);
    out->recoveries = atomic_load(&h->recoveries);
    out->recovered_at = atomic_load(&h->recovered_at);
    out->phase = atomic_load(&h->phase);
    out->cuts = atomic_load(&h->cuts);
    out->holder = holder != NULL ? holder->pid : 0;
    memcpy(out->handler, h->holder_handler, sizeof out->handler); /* a hint: it may change under us */
    out->handler[sizeof out->handler - 1] = '\0';
    (void)held_times(a, &out->lock);
}

/* peek_board -- rows that have a name, and spots that stand out. */
static void peek_board(const rcv_arena *a, struct rcv_board_seen *out)
{
    for (uint32_t i = 0; i < RCV_BOARD_ROWS; i++) {
        const struct rcv_board_row *row = &a->board->row[i];
        struct rcv_handler_counts  *to = &out->row[out->rows];
        bool                        rest = i == RCV_BOARD_ROWS - 1;
        uint64_t                    any = 0;
        memcpy(to->count, row->count, sizeof to->count);
        for (unsigned k = 0; k < RCV_BOARD_COUNTS; k++)
            any |= to->count[k];
        if (any == 0 || !(rest || atomic_load_explicit(&row->named, memory_order_acquire)))
            continue;
        to->rest = rest;
        memcpy(to->handler, row->name, sizeof to->handler - 1);
        out->rows++;
    }
    out->spots = hotspot_shown((const struct rcv_hotspot *)a->board->spot, RCV_BOARD_SPOTS, out->spot, RCV_BOARD_SPOTS);
    for (uint64_t i = 0; i < out->spots; i++)
        out->queue[i] = (uint64_t)rcv_spot_queue(a, &out->spot[i]);
}

typedef void reader(rcv_arena *a, const struct stat *st, void *out);

/* look -- have the segment behind fd read by a handle that can do nothing else. */
static int look(int fd, const char *name, reader *read, void *out)
{
    struct stat st;
    rcv_arena  *a = os_calloc(1, sizeof *a);
    if (a == NULL)
        return rcv_raise(RCV_ERR_FULL, ENOMEM, "no memory for an arena's handle");
    a->fd = -1;
    snprintf(a->name, sizeof a->name, "%s", name);
    int err = object_borrow(a, fd, &st);
    int rc = err == 0 ? seg_map_readonly(a, (uint64_t)st.st_size)
                      : rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't ask for its length", a->name);
    if (rc == 0) {
        read(a, &st, out);
        seg_unmap(a);
    }
    os_free(a);
    return rc;
}

static void read_all(rcv_arena *a, const struct stat *st, void *to)
{
    struct rcv_peek *out = to;
    out->uid = st->st_uid;
    peek_header(a, out);
    out->hot_pages = peek_hot(a);
    peek_peers(a, out);
}

static void read_board(rcv_arena *a, const struct stat *st, void *out)
{
    (void)st;
    peek_board(a, out);
}

static void read_notes(rcv_arena *a, const struct stat *st, void *out)
{
    (void)st;
    notes_see(a, out);
}

static void read_feed(rcv_arena *a, const struct stat *st, void *to)
{
    struct rcv_feed_seen *out = to;
    (void)st;
    (void)rcv_feed_get(a, &out->feed);
    for (uint32_t i = 0; i < RCV_SINKS; i++)
        out->sinks += (uint64_t)rcv_sink_get(a, i, &out->sink[out->sinks]);
    out->written = (uint64_t)rcv_journal_get(a, &out->journal);
}

/* ask_for_notes -- to wake who sleeps on a word it need not be writable. */
static void ask_for_notes(rcv_arena *a, const struct stat *st, void *out)
{
    os_futex_wake_all(&a->board->asked);
    read_notes(a, st, out);
}

/* rcv_peek, rcv_peek_board, rcv_peek_notes -- see reports.h; rcv_peek_feed: flusher.h. */
int rcv_peek(int fd, const char *name, struct rcv_peek *out)
{
    memset(out, 0, sizeof *out);
    return look(fd, name, read_all, out);
}

int rcv_peek_board(int fd, const char *name, struct rcv_board_seen *out)
{
    memset(out, 0, sizeof *out);
    return look(fd, name, read_board, out);
}

int rcv_peek_feed(int fd, const char *name, struct rcv_feed_seen *out)
{
    memset(out, 0, sizeof *out);
    return look(fd, name, read_feed, out);
}

int rcv_peek_notes(int fd, const char *name, int ask, struct rcv_notes_seen *out)
{
    memset(out, 0, sizeof *out);
    return look(fd, name, ask ? ask_for_notes : read_notes, out);
}

const char *rcv_board_name(unsigned i)
{
    static const char *const names[] = {
#define X(id, name) #name,
        RCV_BOARD_LIST(X)
#undef X
    };
    return i < sizeof names / sizeof *names ? names[i] : NULL;
}
