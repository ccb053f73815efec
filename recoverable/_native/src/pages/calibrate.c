/* calibrate.c -- what a trap, a protection, a comparison and a copy of a page cost on this machine.
 *
 * Measured, not looked up: between machines, virtual ones above all, the ratio of a fault to a comparison spans an order of
 * magnitude, and the adaptive policy lives on that ratio. On shared anonymous memory, which the kernel treats as it treats
 * the segment; every other page of it, because scattered pages are what costs most and what the estimate is for. A few rounds, and
 * of each cost the smallest: whatever else runs can only make it look larger. Takes about a millisecond, once a segment.
 *
 * Where it fails: a machine so busy that all rounds are disturbed; the policy's clamps bound what that can do.
 */
#include "state.h"

#include <signal.h>

#define SAMPLE 32u /* pages, with a gap after each */
#define ROUNDS 3

/* Plausible figures for when nothing can be measured. */
static const struct wse_costs usual = {.trap = 5000, .protect = 2000, .compare = 100, .copy = 100};

static uint64_t least(uint64_t best, uint64_t begun) { return (begun = (os_nanos() - begun) / SAMPLE) < best ? begun : best; }

/* measure -- one round over SAMPLE pages at `at`, 2 * size apart; `other` has as much memory. */
static void measure(uint8_t *at, uint8_t *other, size_t size, struct wse_costs *best)
{
    static volatile int sink;
    size_t              step = 2 * size;
    uint64_t            begun = os_nanos();
    for (unsigned i = 0; i < SAMPLE; i++)
        *(volatile uint8_t *)(at + i * step) = (uint8_t)i;
    best->trap = least(best->trap, begun);
    begun = os_nanos();
    for (unsigned i = 0; i < SAMPLE; i++)
        mprotect(at + i * step, size, PROT_READ);
    best->protect = least(best->protect, begun);
    begun = os_nanos();
    for (unsigned i = 0; i < SAMPLE; i++)
        memcpy(other + i * step, at + i * step, size);
    best->copy = least(best->copy, begun);
    begun = os_nanos();
    for (unsigned i = 0; i < SAMPLE; i++)
        sink += memcmp(other + i * step, at + i * step, size);
    best->compare = least(best->compare, begun);
}

/* run -- map, measure, unmap. false: no memory for it. */
static bool run(struct wse_costs *best)
{
    size_t   size = (size_t)os_page_size(), half = 2 * SAMPLE * size;
    uint8_t *at = mmap(NULL, 2 * half + size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return false;
    memset(at, 1, 2 * half + size);
    if (mprotect(at, half, PROT_READ) == 0) {
        trap_calibrate(at, half, at + 2 * half);
        for (int i = 0; i < ROUNDS; i++)
            measure(at, at + half, size, best);
        trap_calibrate(NULL, 0, NULL);
    }
    munmap(at, 2 * half + size);
    return best->trap != UINT64_MAX;
}

#define MOST UINT64_C(1000000000) /* nothing of it takes a second */

/* can_be -- can these words of the segment be costs? Products of them must not run over. */
static bool can_be(const uint64_t kept[4])
{
    return kept[0] != 0 && kept[2] != 0 && kept[0] <= MOST && kept[1] <= MOST && kept[2] <= MOST && kept[3] <= MOST;
}

/* calibrate -- from the header, or measured and put there. Cannot fail: what can't be measured is guessed. */
int calibrate(rcv_arena *a, struct wse_costs *out)
{
    uint64_t *kept = a->hdr->calibration;
    if (can_be(kept)) {
        *out = (struct wse_costs){.trap = kept[0], .protect = kept[1], .compare = kept[2], .copy = kept[3]};
        return 0;
    }
    struct wse_costs best = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    if (!run(&best))
        best = usual;
    kept[1] = best.protect;
    kept[2] = best.compare ? best.compare : 1;
    kept[3] = best.copy;
    kept[0] = best.trap ? best.trap : 1;
    *out = best;
    return 0;
}
