/* queue.c -- who waits for the lock, and who is next.
 *
 * What we want: nobody starves behind those who come back at once; no convoy either, where each step waits for the next one to
 * wake up (a step takes 3 µs, a wake 50); and whoever dies while it waits is in nobody's way.
 *
 * What does not work: whoever comes gets it (a process that does step after step has it again before the one that it woke has
 * opened its eyes: a reader waited for seconds); first come, first served (a convoy).
 *
 * What does: a lock that is dropped is free for whoever comes, and one who waits is woken to try as well. But who has waited for
 * long -- PATIENCE, and through the ends of two steps -- is *offered* it: the word says for whom it is free, and that one alone
 * may take it, until OFFER is over. Then whoever notices takes it away from that place and asks the next. Only one who
 * sleeps is asked: the kernel says whether there was somebody to wake, which the dead are not, nor those who look just now. Offers
 * are PAUSE apart, so that many who wait cost little more than one.
 *
 * Places are drawn from a small table in the segment, and tickets say who came first; a place that its owner was late for is
 * taken away, and it stands again in another with its old ticket. All of it is a hint: what a killed process or a stray store
 * leaves here costs at most a wake that does not come, and who sleeps looks every LOOK by itself. That is also when it notices
 * that the owner has died, of which nobody tells.
 *
 * No clock is compared with another process's, which may be set back against ours (time namespaces), but for PAUSE, where
 * it does not matter.
 */
#include "segment.h"

#include <errno.h>

#define PATIENCE 1000000u   /* nanoseconds */
#define OFFER 200000u
#define PAUSE 250000u
#define LOOK 10000000u      /* and so recovery starts within that, of a kill */
#define PASSED_MOST 1000u   /* a place where nobody was asleep that often is not somebody's */
#define WAIT_MAX 1e9        /* seconds: longer is for ever */
#define ASK 1000000u        /* between two times that a step of this process is asked to give way, by all of its threads together */

struct waiting {
    uint64_t          ticket;
    struct rcv_place *place; /* NULL: the table is full */
    uint64_t          begun, now, looked, asked;
    uint64_t          offer, offer_seen; /* an offer to another, as the word has it, and since when */
    uint64_t          hold, hold_seen, longest; /* the hold that goes on, as `since` has it, and since when; how long one has lasted */
    bool              dead;
    bool              before; /* it has stood here before, for as long as it may, in vain */
};

/* -- places ------------------------------------------------------------------------------------------------------ */

static uint64_t offer_word(const rcv_arena *a, const struct rcv_place *p, uint64_t ticket)
{
    return RCV_OFFERED | (ticket << 8 & RCV_TOKEN) | (uint64_t)(p - a->hdr->queue + 1);
}

static void leave_place(struct rcv_place *p, uint64_t ticket)
{
    (void)atomic_compare_exchange_strong(&p->ticket, &ticket, 0);
}

/* stand -- have a place, if there is one. */
static void stand(rcv_arena *a, struct waiting *w)
{
    if (w->place != NULL && atomic_load(&w->place->ticket) == w->ticket)
        return;
    w->place = NULL;
    for (unsigned i = 0; i < RCV_PLACES; i++) {
        struct rcv_place *p = &a->hdr->queue[(w->ticket + i) % RCV_PLACES];
        uint64_t          nobody = 0;
        if (atomic_load_explicit(&p->ticket, memory_order_relaxed) != 0 ||
            !atomic_compare_exchange_strong(&p->ticket, &nobody, w->ticket))
            continue;
        atomic_store(&p->hungry, w->before);
        atomic_store(&p->passed, w->before);
        w->place = p;
        return;
    }
}

/* next_place -- of those with a higher ticket than *ticket, the one who came first; *ticket becomes its. NULL: no more. */
static struct rcv_place *next_place(rcv_arena *a, uint64_t *ticket, bool hungry)
{
    struct rcv_place *first = NULL;
    uint64_t          least = UINT64_MAX;
    for (unsigned i = 0; i < RCV_PLACES; i++) {
        struct rcv_place *p = &a->hdr->queue[i];
        uint64_t          t = atomic_load_explicit(&p->ticket, memory_order_relaxed);
        if (t <= *ticket || t >= least || (hungry && !(atomic_load(&p->hungry) && atomic_load(&p->passed) >= 2)))
            continue;
        first = p;
        least = t;
    }
    *ticket = least;
    return first;
}

/* ring -- wake who sleeps there; was there anybody? */
static bool ring(struct rcv_place *p, uint64_t ticket)
{
    atomic_fetch_add(&p->bell, 1);
    if (os_futex_wake(&p->bell))
        return true;
    if (atomic_load(&p->passed) >= PASSED_MOST)
        leave_place(p, ticket); /* dead; or else it finds another */
    return false;
}

/* -- dropping a lock that is waited for ------------------------------------------------------------------------------ */

/* offer -- to the first of those who have waited for long. false: `own` is still ours. */
static bool offer(rcv_arena *a, uint64_t own)
{
    _Atomic uint64_t *word = &a->hdr->lock.owner;
    uint64_t          ticket = 0, now = 0;
    for (struct rcv_place *p; (p = next_place(a, &ticket, true)) != NULL;) {
        if (now == 0) {
            now = os_nanos();
            if (now - atomic_load(&a->hdr->lock.offered_at) < PAUSE)
                return false;
            atomic_store(&a->hdr->lock.offered_at, now);
        }
        uint64_t offered = offer_word(a, p, ticket), expected = own;
        if (!atomic_compare_exchange_strong(word, &expected, offered))
            return false;
        CRASHPOINT("lock.offered");
        if (ring(p, ticket) || !atomic_compare_exchange_strong(word, &offered, own))
            return true; /* woken; or awake, and has it */
        CRASHPOINT("lock.offer_taken_back");
    }
    return false;
}

/* queue_pass -- drop the lock, which this process holds, though no thread of it any more. */
int queue_pass(rcv_arena *a)
{
    uint64_t own = atomic_load(&a->hdr->lock.owner), ticket = 0;
    if ((own & ~RCV_WAITED) != a->token)
        return rcv_raise(RCV_ERR_BUG, 0, "arena \"%s\": its lock was taken from a living process; please report it", a->name);
    for (struct rcv_place *p = a->hdr->queue; p < a->hdr->queue + RCV_PLACES; p++)
        if (atomic_load_explicit(&p->ticket, memory_order_relaxed) != 0 && atomic_load(&p->passed) < UINT16_MAX)
            atomic_fetch_add(&p->passed, 1); /* held by us alone: no other one counts */
    if (offer(a, own))
        return 0;
    own = atomic_load(&a->hdr->lock.owner); /* WAITED may have come */
    while (!atomic_compare_exchange_strong(&a->hdr->lock.owner, &own, 0))
        if ((own & ~RCV_WAITED) != a->token)
            return rcv_raise(RCV_ERR_BUG, 0, "arena \"%s\": its lock was taken from a living process; please report it", a->name);
    CRASHPOINT("lock.free");
    for (struct rcv_place *p; (p = next_place(a, &ticket, false)) != NULL;)
        if (ring(p, ticket))
            break;
    return 0;
}

/* -- waiting -------------------------------------------------------------------------------------------------------- */

/* expired -- that offer has not been taken in time, and the lock is ours now: who is next? true: we. */
static bool expired(rcv_arena *a, const struct waiting *w, uint64_t word)
{
    uint64_t place = (word & 0xff) - 1, first = 0;
    CRASHPOINT("lock.expired");
    if (place < RCV_PLACES) {
        struct rcv_place *p = &a->hdr->queue[place];
        uint64_t          ticket = atomic_load(&p->ticket);
        if (ticket != 0 && offer_word(a, p, ticket) == word)
            leave_place(p, ticket);
    }
    if (next_place(a, &first, true) == NULL || first >= w->ticket)
        return true;
    atomic_store(&a->hdr->lock.offered_at, 0);
    (void)queue_pass(a);
    return false;
}

/* lock_seize -- take it, if its owner, as `word` has it, is dead. Somebody may be asleep in the queue. */
bool lock_seize(rcv_arena *a, uint64_t word)
{
    uint64_t was = word;
    if (word == 0 || word & RCV_OFFERED)
        return false;
    if (!(word & RCV_ORPHAN || process_gone(a, word & RCV_TOKEN))) {
        held_seen(a);
        return false;
    }
    CRASHPOINT("lock.before_seize");
    if (!atomic_compare_exchange_strong(&a->hdr->lock.owner, &word, a->token | RCV_WAITED))
        return false;
    CRASHPOINT("lock.seized");
    held_lost(a);
    lock_note_lost(a, was);
    return true;
}

/* try_word -- true: the lock is ours. Else either somebody will ring, or `w` says until when not to sleep. */
static bool try_word(rcv_arena *a, struct waiting *w)
{
    _Atomic uint64_t *at = &a->hdr->lock.owner;
    const uint64_t    ours = a->token | RCV_WAITED; /* others may wait as well */
    for (uint64_t word = atomic_load(at);;) {
        if (word == 0 || (word & RCV_OFFERED && w->place != NULL && word == offer_word(a, w->place, w->ticket))) {
            if (atomic_compare_exchange_strong(at, &word, ours))
                return true;
        } else if (word & RCV_OFFERED) {
            if (word != w->offer) {
                w->offer = word;
                w->offer_seen = w->now;
                return false;
            }
            if (w->now - w->offer_seen < OFFER)
                return false;
            uint64_t late = word;
            if (atomic_compare_exchange_strong(at, &word, ours) && expired(a, w, late))
                return true;
            word = atomic_load(at);
        } else if (word & RCV_ORPHAN || w->now - w->looked >= LOOK) {
            w->looked = w->now;
            if (lock_seize(a, word))
                return w->dead = true;
            word = atomic_load(at);
        } else if (word & RCV_WAITED || atomic_compare_exchange_weak(at, &word, word | RCV_WAITED)) {
            return false;
        }
    }
}

/* note_holder -- of those who have had the lock while it waits, keep the one who has had it for the longest. */
static void note_holder(const rcv_arena *a, struct waiting *w, struct rcv_holder *longest)
{
    uint64_t hold = atomic_load_explicit(&a->hdr->lock.since, memory_order_relaxed);
    if (hold != w->hold) {
        w->hold = hold;
        w->hold_seen = w->now;
    }
    if (hold == 0 || w->now - w->hold_seen < w->longest)
        return;
    struct rcv_holder now;
    w->longest = w->now - w->hold_seen;
    if (rcv_lock_holder(a, &now)) /* each time: at first the name may still be the last one's */
        *longest = now;
}

/* pause_for -- how long to sleep at most, `left` at the longest. */
static uint64_t pause_for(const rcv_arena *a, const struct waiting *w, uint64_t left)
{
    uint64_t waited = w->now - w->begun, most = w->looked + LOOK - w->now;
    if (w->place == NULL || waited < PATIENCE)
        most = waited < PATIENCE ? PATIENCE - waited : PATIENCE;
    if (atomic_load(&a->hdr->lock.owner) & RCV_OFFERED && most > OFFER)
        most = OFFER;
    return most < left ? most : left;
}

/* ask_after -- in how long that thread asks the step that holds the lock to give way: 0, now; else one that can is looked for again
 * after a LOOK. Who does takes the GIL, which many would keep busy. */
static uint64_t ask_after(rcv_arena *a, const struct waiting *w)
{
    uint64_t turn = (uint64_t)ASK * atomic_load_explicit(&a->waiters, memory_order_relaxed);
    if (!atomic_load_explicit(&a->may_yield, memory_order_relaxed))
        return LOOK;
    turn = turn < LOOK ? turn : LOOK;
    return w->now - w->asked < turn ? turn - (w->now - w->asked) : 0;
}

/* queue_wait -- at most that long. `before`: it has waited in vain already, and is offered the lock at the end of one step. A
 * signal does not cut it short. */
int queue_wait(rcv_arena *a, double seconds, bool before, bool *dead, struct rcv_holder *longest, int (*yield)(rcv_arena *a))
{
    seconds = seconds > 0 ? seconds : 0; /* NaN, too */
    uint64_t       most = (uint64_t)((seconds < WAIT_MAX ? seconds : WAIT_MAX) * 1e9);
    struct waiting w = {.ticket = atomic_fetch_add(&a->hdr->lock.tickets, 1) + 1, .begun = os_nanos(), .before = before};
    static _Atomic uint32_t no_bell;
    bool                    held;
    w.now = w.looked = w.asked = w.begun;
    for (;;) {
        stand(a, &w);
        _Atomic uint32_t *bell = w.place != NULL ? &w.place->bell : &no_bell;
        uint32_t          seen = atomic_load(bell); /* first: what rings after we have looked keeps us awake */
        if (w.place != NULL && w.now - w.begun >= PATIENCE)
            atomic_store(&w.place->hungry, 1);
        held = try_word(a, &w);
        if (held || w.now - w.begun >= most)
            break;
        if (longest != NULL)
            note_holder(a, &w, longest);
        uint64_t left = most - (w.now - w.begun), ask = yield != NULL ? ask_after(a, &w) : left;
        if (ask == 0)
            (void)yield(a); /* in its place: whoever is offered the lock is asleep */
        else
            os_futex_wait(bell, seen, pause_for(a, &w, ask < left ? ask : left));
        w.now = os_nanos();
        if (ask == 0)
            w.asked = w.now;
    }
    if (w.place != NULL)
        leave_place(w.place, w.ticket);
    if (!held) /* nobody can offer it to us any more; but somebody may have */
        held = try_word(a, &w);
    *dead = w.dead;
    return held ? 0 : ETIMEDOUT;
}
