/* tickets.c -- who has lost at a hot spot, and whose turn it is to run again.
 *
 * What we want: two hundred requests for one key take as long as one after another would, not five times that; in all processes
 * together, without holding the arena's lock, and whoever dies or hangs with its turn is in nobody's way for long.
 *
 * What does not work: running again at once (all meet at the same place again, and all but one lose again); a pause that grows
 * (idle while nobody runs, and the unlucky starve); a lock on the place (a handler that waits with it would stop the rest).
 *
 * What does: a table in the segment. Who has lost draws a number and stands at that place; its turn has come when nobody with a
 * lower number stands there. It is courtesy, as a privilege is: nobody is kept from running, so nothing wrong is committed whatever
 * lies here, and what a killed process or a stray store leaves costs at most a storm of conflicts, or a wait of HOLD.
 *
 * The dead are found by their tokens. One that has had its turn for HOLD is not waited for any longer: whoever is next takes its
 * number away. He goes by his own clock, since another's may be set otherwise (time namespaces), and by how long he has seen that
 * number. A process that is stopped, or whose event loop hangs, may have many who stand there, and there may be several such
 * processes, and others who run may stand between them: for each number that has been taken away while he stood there, by himself, or
 * by those before him from one that still hangs, he waits half as long for the next, down to HOLD / RCV_TICKETS:
 *
 *     HOLD * (1 + 1/2 + 1/4 + …)  +  RCV_TICKETS * HOLD / RCV_TICKETS  <=  3 * HOLD
 *
 * is what all of them together cost one who waits, and a look for each. Whoever knows that its own run takes a moment waits for less
 * than HOLD: what is slow loses its number to what is fast, if it is only a read that will lose again, too, and keeps it among its
 * like. But not before it has looked some times, since an event loop that stands still does not let the other one end, either.
 * Where it still fails: one that gets its turn by that, and
 * hangs then, costs another HOLD, up to busy_timeout; and one that takes long without hanging, behind several that hang, may lose its
 * number early, and so lose at the spot once more.
 */
#include "segment.h"

#define HOLD UINT64_C(1000000000) /* ns of others' waiting that a turn may take; busy_timeout if that is shorter */
#define LOOKS 4u                  /* at least, of one that waits for less: lines.py looks every 1 or 16 ms */
#define APART UINT64_C(1000000)   /* ns between two of them: it looks more often where others leave or come, in one round of its loop */

static struct rcv_ticket *own_place(rcv_arena *a, const struct rcv_turn *turn)
{
    if (turn->number == 0 || turn->place >= RCV_TICKETS || a->needs_slot || turn->forks != a->forks)
        return NULL; /* it has none, or it is the parent's */
    struct rcv_ticket *t = &a->board->ticket[turn->place];
    return atomic_load(&t->token) == a->token ? t : NULL;
}

/* free_place -- of a process that is dead, whatever it was about to do here. Another may have freed it, and a third have taken it
 * meanwhile: that one's number stays. */
static void free_place(struct rcv_ticket *t, uint64_t token, uint64_t number)
{
    (void)atomic_compare_exchange_strong(&t->number, &number, 0);
    (void)atomic_compare_exchange_strong(&t->token, &token, 0);
}

static bool take_place(rcv_arena *a, struct rcv_turn *turn)
{
    for (uint32_t i = 0; i < RCV_TICKETS; i++) {
        struct rcv_ticket *t = &a->board->ticket[i];
        uint64_t           nobody = 0;
        if (atomic_load_explicit(&t->token, memory_order_relaxed) == 0 && atomic_compare_exchange_strong(&t->token, &nobody, a->token)) {
            CRASHPOINT("ticket.taken");
            turn->place = i;
            return true;
        }
    }
    return false;
}

/* hanging -- how many have lost their numbers there, and have not left since. One who is just taking a place may be among them. */
static uint32_t hanging(const rcv_arena *a, uint64_t unit)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < RCV_TICKETS; i++) {
        const struct rcv_ticket *t = &a->board->ticket[i];
        n += atomic_load_explicit(&t->token, memory_order_relaxed) != 0 && atomic_load_explicit(&t->number, memory_order_relaxed) == 0 &&
             atomic_load_explicit(&t->unit, memory_order_relaxed) == unit;
    }
    return n;
}

int rcv_turn_draw(rcv_arena *a, uint64_t unit, struct rcv_turn *turn)
{
    *turn = (struct rcv_turn){.unit = unit, .forks = a->forks};
    if (a->needs_slot)
        return 0;
    bool     taken = take_place(a, turn);
    uint64_t alive = 0;
    for (uint32_t i = 0; i < RCV_TICKETS && !taken; i++) { /* the table is full: of the dead, perhaps */
        struct rcv_ticket *t = &a->board->ticket[i];
        uint64_t           number = atomic_load(&t->number), token = atomic_load(&t->token);
        if (token != 0 && token != a->token && token != alive && !process_alive(a, token))
            free_place(t, token, number);
        else if (token != a->token)
            alive = token; /* most likely the next one's, too: the kernel is asked once */
        taken = i == RCV_TICKETS - 1 && take_place(a, turn);
    }
    if (!taken)
        return 0;
    struct rcv_ticket *t = &a->board->ticket[turn->place];
    atomic_store(&t->unit, unit);
    atomic_store(&t->row, 0);
    do /* a later one may be stored before this: both run at once then, and one loses */
        turn->number = atomic_fetch_add(&a->board->tickets, 1) + 1;
    while (turn->number == 0);
    atomic_store(&t->number, turn->number);
    turn->before = hanging(a, unit);
    CRASHPOINT("ticket.drawn");
    return 1;
}

/* ahead -- who has stood there for the longest, if that is longer than `turn`; NULL: nobody. */
static struct rcv_ticket *ahead(rcv_arena *a, const struct rcv_turn *turn, uint64_t *number)
{
    struct rcv_ticket *first = NULL;
    *number = turn->number;
    for (uint32_t i = 0; i < RCV_TICKETS; i++) {
        struct rcv_ticket *t = &a->board->ticket[i];
        uint64_t           n = atomic_load_explicit(&t->number, memory_order_relaxed);
        if (n == 0 || n >= *number || atomic_load(&t->unit) != turn->unit || atomic_load(&t->token) == 0)
            continue;
        first = t;
        *number = n;
    }
    return first;
}

/* patience -- for how long, in ns, who stands before it may have its turn. */
static double patience(const rcv_arena *a, struct rcv_turn *turn)
{
    double   most = a->busy_timeout * 1e9 < (double)HOLD ? a->busy_timeout * 1e9 : (double)HOLD;
    double   least = most / RCV_TICKETS;
    uint32_t there = hanging(a, turn->unit), taken = turn->taken;
    if (turn->most != 0 && (double)turn->most < most)
        most = (double)turn->most;
    turn->before = there < turn->before ? there : turn->before; /* some have gone on, and left */
    taken = there - turn->before > taken ? there - turn->before : taken;
    uint64_t share = taken < 63 ? UINT64_C(1) << taken : RCV_TICKETS;
    most /= (double)(share < RCV_TICKETS ? share : RCV_TICKETS);
    return most > least ? most : least;
}

/* looked_enough -- has it looked LOOKS times, and then once more, each some time after the one before? This is a look. */
static bool looked_enough(struct rcv_turn *turn, uint64_t now)
{
    if (now - turn->looked < APART)
        return false;
    turn->looked = now;
    return turn->looks++ >= LOOKS;
}

int rcv_turn_come(rcv_arena *a, struct rcv_turn *turn)
{
    uint64_t           number, now = os_nanos();
    struct rcv_ticket *t;
    while (own_place(a, turn) != NULL && (t = ahead(a, turn, &number)) != NULL) {
        uint64_t token = atomic_load(&t->token);
        if (token == 0)
            continue; /* it has just left */
        if (token != a->token && !process_alive(a, token)) {
            free_place(t, token, number);
            continue;
        }
        turn->elsewhere = token != a->token;
        if (turn->seen != number) {
            turn->seen = number;
            turn->since = now;
            turn->looks = 0;
            turn->looked = 0;
        }
        if ((double)(now - turn->since) <= patience(a, turn) || (turn->most != 0 && !looked_enough(turn, now)))
            return 0;
        turn->taken++;
        (void)atomic_compare_exchange_strong(&t->number, &number, 0); /* it keeps its place until it leaves */
    }
    return 1;
}

int rcv_turn_stands(rcv_arena *a, const struct rcv_turn *turn)
{
    const struct rcv_ticket *t = own_place(a, turn);
    return t != NULL && atomic_load(&t->number) == turn->number;
}

void rcv_turn_drop(rcv_arena *a, struct rcv_turn *turn)
{
    struct rcv_ticket *t = own_place(a, turn);
    turn->number = 0;
    if (t == NULL)
        return;
    atomic_store(&t->number, 0);
    atomic_store(&t->token, 0);
}

void turn_name(rcv_arena *a, const struct rcv_turn *turn, uint64_t row)
{
    struct rcv_ticket *t = own_place(a, turn);
    if (t != NULL)
        atomic_store(&t->row, row);
}

const struct rcv_ticket *turn_ahead(rcv_arena *a, const struct rcv_turn *turn)
{
    uint64_t number;
    return own_place(a, turn) == NULL ? NULL : ahead(a, turn, &number);
}

/* standing -- does somebody stand in that place who is alive? *alive: a token that is known to be. */
static bool standing(const rcv_arena *a, const struct rcv_ticket *t, uint64_t *alive)
{
    uint64_t token = atomic_load_explicit(&t->token, memory_order_relaxed);
    if (token == 0 || atomic_load_explicit(&t->number, memory_order_relaxed) == 0)
        return false;
    if (token != *alive && !process_alive(a, token))
        return false;
    *alive = token;
    return true;
}

int rcv_turn_queue(const rcv_arena *a, uint64_t unit)
{
    int      n = 0;
    uint64_t alive = 0;
    for (uint32_t i = 0; i < RCV_TICKETS; i++) {
        const struct rcv_ticket *t = &a->board->ticket[i];
        n += atomic_load_explicit(&t->unit, memory_order_relaxed) == unit && standing(a, t, &alive);
    }
    return n;
}

int rcv_turn_queues(const rcv_arena *a, int *longest)
{
    int      n = 0;
    uint64_t alive = 0;
    *longest = 0;
    for (uint32_t i = 0; i < RCV_TICKETS; i++) {
        const struct rcv_ticket *t = &a->board->ticket[i];
        if (!standing(a, t, &alive))
            continue;
        int there = rcv_turn_queue(a, atomic_load_explicit(&t->unit, memory_order_relaxed));
        *longest = there > *longest ? there : *longest;
        n++;
    }
    return n;
}
