/* hotspot.c -- where transactions have lost conflicts, counted: of this process in its memory, of all on the board.
 *
 * A bounded table that keeps the frequent ones: Space-Saving (Metwally, Agrawal, El Abbadi, "Efficient computation of frequent
 * and top-k elements in data streams", ICDT 2005). A spot that is not in it takes the place, and the count, of the rarest, and
 * keeps that count as its error: it has at least `count - error` conflicts, at most `count`. No spot with more conflicts than the
 * rarest has is missing; that is 1/64 of all at most (1/32 on the board).
 *
 * Where conflicts are spread over more spots than the table has, every count is near that of the rarest and says nothing: it is
 * made of what others have lost. So only spots are shown that certainly have more than any that is not in the table may have, by
 * four standard deviations of a count of that size, since of 64 equal ones some always look frequent.
 */
#include "transaction.h"

static struct rcv_hotspot *rarest(struct rcv_hotspot *table, uint32_t n)
{
    struct rcv_hotspot *least = &table[0];
    for (uint32_t i = 1; i < n; i++)
        if (table[i].count < least->count)
            least = &table[i];
    return least;
}

static void count(struct rcv_hotspot *table, uint32_t n, const struct rcv_txn_report *lost)
{
    for (uint32_t i = 0; i < n; i++) {
        struct rcv_hotspot *s = &table[i];
        if (s->count != 0 && s->container == lost->conflict_container && s->id == lost->conflict_id &&
            s->kind == lost->conflict_kind && s->arg == lost->conflict_arg) {
            s->count++;
            return;
        }
    }
    struct rcv_hotspot *s = rarest(table, n);
    *s = (struct rcv_hotspot){.container = lost->conflict_container, .id = lost->conflict_id, .kind = lost->conflict_kind,
                              .arg = lost->conflict_arg, .count = s->count + 1, .error = s->count};
}

_Static_assert(sizeof(struct rcv_hotspot) == sizeof(struct rcv_board_spot), "the board has the same table, of all processes");

/* hotspot_count -- of this process, and of the arena. Lock held. */
void hotspot_count(rcv_arena *a, const struct rcv_txn_report *lost)
{
    count(a->hotspots, RCV_HOTSPOTS, lost);
    count((struct rcv_hotspot *)a->board->spot, RCV_BOARD_SPOTS, lost);
}

/* hotspot_shown -- copy those that stand out. The table may be of another process, and changing: each is taken once. */
uint32_t hotspot_shown(const struct rcv_hotspot *table, uint32_t n, struct rcv_hotspot *out, uint32_t room)
{
    struct rcv_hotspot seen[RCV_HOTSPOTS];
    memcpy(seen, table, n * sizeof *seen);
    const uint64_t noise = rarest(seen, n)->count; /* 0: there is room left, and all counts are exact */
    uint32_t       shown = 0;
    for (uint32_t i = 0; i < n && shown < room; i++) {
        const struct rcv_hotspot *s = &seen[i];
        if (s->count <= s->error || s->count - s->error <= noise)
            continue;
        uint64_t above = s->count - s->error - noise;
        if (above > UINT32_MAX || above * above > 16 * noise)
            out[shown++] = *s;
    }
    return shown;
}

int rcv_hotspots(const rcv_arena *a, struct rcv_hotspot *out, int room)
{
    return (int)hotspot_shown(a->hotspots, RCV_HOTSPOTS, out, room > 0 ? (uint32_t)room : 0);
}

int rcv_spot_queue(const rcv_arena *a, const struct rcv_hotspot *spot)
{
    int n = rcv_turn_queue(a, rcv_unit(spot->id, (unsigned)spot->kind, spot->arg));
    if (spot->kind != RCV_UNIT_IDENTITY && spot->id != 0) /* pages of raw memory are of no container */
        n += rcv_turn_queue(a, rcv_unit(spot->id, RCV_UNIT_IDENTITY, 0));
    return n;
}
