/* hotspot.c -- where transactions have lost conflicts, counted: of this process in its memory, of all on the board.
 *
 * A bounded table that keeps the frequent ones: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005). A spot that is not
 * in it takes the place, and the count, of the rarest; so a count may be too high by at most that of the rarest, and no spot
 * with more than 1/64 of all conflicts (1/32 on the board) is missing.
 */
#include "transaction.h"

static void count(struct rcv_hotspot *table, uint32_t n, const struct rcv_txn_report *lost)
{
    struct rcv_hotspot *rarest = &table[0];
    for (uint32_t i = 0; i < n; i++) {
        struct rcv_hotspot *s = &table[i];
        if (s->count != 0 && s->container == lost->conflict_container && s->id == lost->conflict_id &&
            s->kind == lost->conflict_kind && s->arg == lost->conflict_arg) {
            s->count++;
            return;
        }
        if (s->count < rarest->count)
            rarest = s;
    }
    *rarest = (struct rcv_hotspot){.container = lost->conflict_container, .id = lost->conflict_id, .kind = lost->conflict_kind,
                                   .arg = lost->conflict_arg, .count = rarest->count + 1};
}

_Static_assert(sizeof(struct rcv_hotspot) == sizeof(struct rcv_board_spot), "the board has the same table, of all processes");

/* hotspot_count -- of this process, and of the arena. Lock held. */
void hotspot_count(rcv_arena *a, const struct rcv_txn_report *lost)
{
    count(a->hotspots, RCV_HOTSPOTS, lost);
    count((struct rcv_hotspot *)a->board->spot, RCV_BOARD_SPOTS, lost);
}

int rcv_hotspots(const rcv_arena *a, struct rcv_hotspot *out, int room)
{
    int n = 0;
    for (uint32_t i = 0; i < RCV_HOTSPOTS && n < room; i++)
        if (a->hotspots[i].count != 0)
            out[n++] = a->hotspots[i];
    return n;
}
