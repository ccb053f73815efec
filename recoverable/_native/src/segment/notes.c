/* notes.c -- what processes tell of their requests in flight, for whoever asks.
 *
 * What we want: somebody who watches a server sees what each of its requests is at and waits for, of all processes, also of one
 * whose event loop hangs; a server that nobody asks pays nothing; and who may only read the segment can ask as well.
 *
 * What does not work: writing it down as it happens (a request would pay for it); asking by a signal (a program's own).
 *
 * What does: a thread in each server sleeps on a word of the segment. To be woken is to be asked, so that who can't change
 * that word asks by waking alone; who was awake just then is woken again. The thread writes a note for each request, the
 * oldest first, into a table that all processes share, and then the number of its answer into its process's slot: who has
 * asked waits for that to move. What a note says is text, of whoever reads it to make sense of (recoverable/inflight.py).
 *
 * Each note is of its writer's process alone, and has a sequence number, odd while it is written. What the dead have left is
 * not shown, and its place is taken when there is no other.
 */
#include "segment.h"

#define LEAST 4u    /* notes that a process may have, however many there are */
#define TRIES 100u  /* of a reader, at a note that changes */

_Static_assert(sizeof(struct rcv_note) == 512, "part of the format");
_Static_assert(RCV_NOTE_TEXT == sizeof((struct rcv_note *)0)->text, "as in recoverable.h");
_Static_assert(RCV_NOTES == 64 && RCV_PROCESSES == RCV_PEERS, "as in recoverable.h");

static struct rcv_process *slots(const rcv_arena *a)
{
    return (struct rcv_process *)(a->core + a->hdr->region[RCV_R_PROCESS].off);
}

/* stamp -- of the notes of one answer: two processes never have the same. */
static inline uint64_t stamp(uint64_t token, uint64_t answer) { return token << 24 ^ answer; }

/* -- who tells ------------------------------------------------------------------------------------------------------------- */

int rcv_notes_listen(rcv_arena *a, int on)
{
    if (a->needs_slot)
        return 0;
    atomic_store(&slots(a)[a->slot].answers, on != 0);
    return 1;
}

uint32_t rcv_notes_seen(const rcv_arena *a) { return atomic_load(&a->board->asked); }

void rcv_notes_await(rcv_arena *a, uint32_t seen) { os_futex_wait(&a->board->asked, seen, UINT64_C(3600000000000)); }

/* share -- how many notes a process may have. */
static uint32_t share(const rcv_arena *a)
{
    uint32_t n = 0;
    for (uint32_t slot = 0; slot < RCV_PROCESSES; slot++)
        n += atomic_load(&slots(a)[slot].answers) != 0 && process_slot_alive(a, slot);
    uint32_t most = n > 1 ? RCV_NOTES / n : RCV_NOTES;
    return most > LEAST ? most : LEAST;
}

static void write_note(struct rcv_note *note, uint64_t answer_stamp, const char *text, uint32_t size)
{
    uint32_t seq = atomic_load_explicit(&note->seq, memory_order_relaxed) | 1;
    atomic_store_explicit(&note->seq, seq, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    note->size = size < RCV_NOTE_TEXT ? size : RCV_NOTE_TEXT;
    memcpy(note->text, text, note->size);
    atomic_store_explicit(&note->answer, answer_stamp, memory_order_relaxed);
    CRASHPOINT("note.half");
    atomic_store_explicit(&note->seq, seq + 1, memory_order_release);
}

/* next_place -- of those from *at on, one that is ours, free, or, the second time round, a dead one's. NULL: there are no more. */
static struct rcv_note *next_place(rcv_arena *a, uint32_t *at)
{
    for (; *at < 2 * RCV_NOTES; ++*at) {
        struct rcv_note *note = &a->board->note[*at % RCV_NOTES];
        uint64_t         token = atomic_load(&note->token);
        if (token == a->token ? *at >= RCV_NOTES /* it was taken in the first round */
                              : token != 0 && (*at < RCV_NOTES || process_alive(a, token)))
            continue;
        if (token != a->token && !atomic_compare_exchange_strong(&note->token, &token, a->token))
            continue;
        ++*at;
        return note;
    }
    return NULL;
}

int rcv_notes_tell(rcv_arena *a, const char *const *texts, const uint32_t *sizes, uint32_t n, uint64_t in_all)
{
    if (a->needs_slot)
        return 0;
    struct rcv_process *own = &slots(a)[a->slot];
    const uint64_t      answer = atomic_load(&own->answers) + 1;
    uint32_t            at = 0, told = 0;
    const uint32_t      most = share(a);
    for (struct rcv_note *note; told < n && told < most && (note = next_place(a, &at)) != NULL; told++)
        write_note(note, stamp(a->token, answer), texts[told], sizes[told]);
    for (uint32_t i = 0; i < RCV_NOTES; i++) {
        struct rcv_note *note = &a->board->note[i];
        if (atomic_load(&note->token) == a->token && atomic_load(&note->answer) != stamp(a->token, answer))
            atomic_store(&note->token, 0);
    }
    atomic_store(&own->in_flight, in_all);
    atomic_store_explicit(&own->answers, answer, memory_order_release);
    return (int)told;
}

/* -- who asks -------------------------------------------------------------------------------------------------------------- */

void rcv_notes_ask(rcv_arena *a)
{
    atomic_fetch_add(&a->board->asked, 1);
    os_futex_wake_all(&a->board->asked);
}

/* read_note -- false: it is being written, by a process that was killed there perhaps, or it is not what is looked for. */
static bool read_note(const struct rcv_note *note, uint64_t token, uint64_t answer_stamp, struct rcv_note_seen *out)
{
    for (unsigned i = 0; i < TRIES; i++) {
        uint32_t seq = atomic_load_explicit(&note->seq, memory_order_acquire);
        out->size = note->size < RCV_NOTE_TEXT ? note->size : RCV_NOTE_TEXT;
        memcpy(out->text, note->text, sizeof out->text);
        bool wanted = atomic_load_explicit(&note->answer, memory_order_relaxed) == answer_stamp;
        atomic_thread_fence(memory_order_acquire);
        if (!(seq & 1) && atomic_load_explicit(&note->seq, memory_order_relaxed) == seq)
            return wanted && atomic_load(&note->token) == token;
    }
    return false;
}

/* notes_see -- who answers, and what their last answers were. It takes no lock, and stores nothing. */
void notes_see(const rcv_arena *a, struct rcv_notes_seen *out)
{
    const uint64_t here = process_space();
    memset(out, 0, sizeof *out);
    for (uint32_t slot = 0; slot < RCV_PROCESSES; slot++) {
        const struct rcv_process *p = &slots(a)[slot];
        struct rcv_teller        *teller = &out->teller[out->tellers];
        uint64_t answers = atomic_load_explicit(&p->answers, memory_order_acquire), token = atomic_load(&p->token);
        if (answers == 0 || token == 0 || !process_slot_alive(a, slot))
            continue;
        *teller = (struct rcv_teller){.pid = p->pid, .token = token, .answers = answers, .in_flight = atomic_load(&p->in_flight),
                                      .foreign = p->space != 0 && p->space != here, .own = !a->needs_slot && token == a->token};
        for (uint32_t i = 0; i < RCV_NOTES && out->notes < RCV_NOTES; i++) {
            struct rcv_note_seen *to = &out->note[out->notes];
            if (atomic_load(&a->board->note[i].token) == token &&
                read_note(&a->board->note[i], token, stamp(token, answers), to)) {
                to->teller = (uint32_t)out->tellers;
                out->notes++;
            }
        }
        out->tellers++;
    }
}

void rcv_notes_see(const rcv_arena *a, struct rcv_notes_seen *out) { notes_see(a, out); }
