/* hotspot.c -- where transactions of this process have lost conflicts, counted.
 *
 * A bounded table that keeps the frequent ones: Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005). A spot that is not
 * in it takes the place, and the count, of the rarest; so a count may be too high by at most that of the rarest, and no spot
 * with more than 1/64 of all conflicts is missing.
 */
#include "internal.h"

void hotspot_count(rcv_arena *a, const struct rcv_txn_report *lost)
{
    struct rcv_hotspot *rarest = &a->hotspots[0];
    for (uint32_t i = 0; i < RCV_HOTSPOTS; i++) {
        struct rcv_hotspot *s = &a->hotspots[i];
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

int rcv_hotspots(const rcv_arena *a, struct rcv_hotspot *out, int room)
{
    int n = 0;
    for (uint32_t i = 0; i < RCV_HOTSPOTS && n < room; i++)
        if (a->hotspots[i].count != 0)
            out[n++] = a->hotspots[i];
    return n;
}
