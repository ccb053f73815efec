/* hot.c -- the hot set: pages that are writable without a trap, and the shadows that make that safe.
 *
 * What we want: a page that is written in most steps should cost a copy, not a fault; a crash at any point must still lead
 * back to committed state; and several processes must agree, since each of them can crash.
 *
 * What does not work: a hot set for each process, kept in its memory. A dead process's shadows would be gone with it, and a
 * commit by one process would leave another's shadow old: its next rollback would take the commit back.
 *
 * What does: one table in the segment, an entry a slot, each slot with a page of shadow behind it.
 *
 *      entry = 0          the slot is free; its shadow is garbage
 *      entry = page + 1   in IDLE and STEP: shadow = committed content of the page
 *
 * Every commit refreshes the shadows of listed pages that it changed: whole pages where raw writes did, the announced ranges
 * else. Between PUBLISH and IDLE the data is right and a shadow may lag; recovery then copies the other way.
 *
 *      promote: fill shadow -> entry -> mprotect          demote: mprotect -> entry = 0
 *
 * Killed between any two of them, a page is writable only while it is listed. The generation moves after the entries; a
 * process compares it under the lock and first protects what is no longer listed. Recovery always moves it, because a
 * process killed between entry and generation has left a change that nobody was told of.
 *
 * A listed page is not writable in every process, nor in every view: it becomes so at its first trap there, without a log entry,
 * and stays so between steps only in a view that nobody has buffers in (views.c). A process
 * demotes only what its own policy gives up, and only if no other has refreshed the shadow lately (the stamp in the entry is
 * not its own); else it protects the page for itself. A page that nobody has writable any more (its process died) is
 * demoted by whoever notices the old stamp.
 *
 * Where it still fails: between a demotion by one process and the next step of another, a stray store of that other one to
 * the page is neither trapped nor compared. And a stray store of a process that then never enters again stays visible
 * until another process with raw buffers enters, or the next recovery.
 */
#include "state.h"

#include <stdio.h>

#define SHADOW_CLAIM 16u  /* pages of shadow claimed at a time */
#define SHADOW_TRIM 1024u /* commits after which a process looks whether shadows can be given back */
#define HOT_LEAST 256u    /* pages may always be hot: a MiB of shadows */
#define HOT_SHARE 16u     /* beyond that: of so many claimed pages one */
#define ABANDONED(w) (4 * (w)->patience + 64u) /* commits without a refresh after which anybody may demote */

/* -- this process's copy of the table --------------------------------------------------------------------- */

static inline bool listed(const struct rcv_tracker *t, uint32_t page) { return t->slot_of[page] != 0; }

/* runs_around -- how many neighbours of `page` are listed: adjacent hot pages share their map entries. */
static uint32_t runs_around(const struct rcv_tracker *t, uint32_t page)
{
    return (uint32_t)(page > 0 && listed(t, page - 1)) + (uint32_t)(page + 1 < t->pages && listed(t, page + 1));
}

static void list(struct rcv_tracker *t, uint32_t slot, uint32_t page)
{
    t->runs += 1u - runs_around(t, page);
    t->slot_of[page] = slot + 1;
    t->page_of[slot] = page + 1;
    t->rank_of[slot] = t->n_hot;
    t->hot[t->n_hot++] = slot;
}

static void unlist(struct rcv_tracker *t, uint32_t slot)
{
    uint32_t page = t->page_of[slot] - 1, last = t->hot[--t->n_hot];
    t->slot_of[page] = 0;
    t->page_of[slot] = 0;
    t->hot[t->rank_of[slot]] = last;
    t->rank_of[last] = t->rank_of[slot];
    t->runs -= 1u - runs_around(t, page);
    if (slot < t->free_hint)
        t->free_hint = slot;
}

/* hot_sync -- make our copy of the table what the table is; pages no longer listed are protected first. Lock held.
 * RCV_ERR_CORRUPT: the table is damaged, our copy is of an earlier generation. */
int hot_sync(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    uint64_t            generation = atomic_load_explicit(&a->hdr->hot_generation, memory_order_acquire);
    if (likely(generation == t->generation))
        return 0;
    uint64_t backed = hot_slots_backed(a), claimed = pages_claimed(a);
    if (backed > t->slots)
        backed = t->slots;
    uint32_t now;
    for (uint32_t slot = 0; slot < (backed > t->reach ? backed : t->reach); slot++) { /* others may have given shadows back */
        int rc = hot_entry(a, slot, claimed, &now);
        if (rc != 0)
            return rc;
        if (t->page_of[slot] == 0 || t->page_of[slot] == now)
            continue;
        uint32_t page = t->page_of[slot] - 1;
        if (t->views[0]->state[page] & PG_WRITABLE) { /* between steps no other view has one */
            view_lock(a);
            view_protect(a, t->views[0], page, 1);
            view_unlock(a);
        }
        unlist(t, slot);
    }
    for (uint32_t slot = 0; slot < backed; slot++) {
        int rc = hot_entry(a, slot, claimed, &now);
        if (rc != 0)
            return rc;
        if (now == 0 || t->page_of[slot] == now)
            continue;
        if (listed(t, now - 1))
            return seg_corrupt(a, "two slots of the hot-page table name page %u", now - 1);
        list(t, slot, now - 1);
    }
    t->reach = (uint32_t)backed;
    t->generation = generation;
    return 0;
}

/* -- data and shadows --------------------------------------------------------------------------------------- */

/* hot_take_back -- copy shadows over pages that differ. At a step's start (`strays`): of every listed page, since another
 * process's stray may lie there; and look for pages that nobody uses any more. At its end: of those we could have written. */
void hot_take_back(rcv_arena *a, bool strays)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            seq = (uint32_t)atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    for (uint32_t i = 0; i < t->n_hot; i++) {
        uint32_t slot = t->hot[i], page = t->page_of[slot] - 1;
        bool     ours = strays ? t->views[0]->state[page] & PG_WRITABLE : writable_in_step(t, page);
        if (!ours && !strays && !t->all_listed)
            continue;
        a->n.pages_compared++;
        uint8_t *data = page_core(a, page), *shadow = hot_shadow(a, slot);
        if (memcmp(data, shadow, t->page_size) != 0) {
            memcpy(data, shadow, t->page_size);
            a->n.pages_copied++;
            CRASHPOINT("hot.taken_back");
            if (strays)
                view_report(a, page, (uint64_t)(uintptr_t)page_in(a, t->views[0], page), 1);
            else if (t->wse.recorder)
                wse_record_write(t->wse.recorder, page);
        }
        if (strays && !ours && seq - HOT_STAMP(atomic_load_explicit(&hot_table(a)[slot], memory_order_relaxed)) > ABANDONED(&t->wse))
            wse_say(&t->wse.demote, page);
    }
}

/* refresh -- bytes [lo, hi) of a listed page are committed now. */
static void refresh(rcv_arena *a, uint32_t page, uint32_t lo, uint32_t hi, uint32_t seq)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            slot = t->slot_of[page] - 1;
    if (MUTATED("shadow.forget"))
        return;
    memcpy(hot_shadow(a, slot) + lo, page_core(a, page) + lo, hi - lo);
    a->n.pages_copied += lo == 0 && hi == t->page_size;
    t->stamp_of[slot] = seq;
    atomic_store_explicit(&hot_table(a)[slot], HOT_ENTRY(page, seq), memory_order_release);
    CRASHPOINT("hot.refreshed");
}

/* refresh_piece -- of what the log says was announced, or logged as a whole page by a resume or edit(). */
static int refresh_piece(rcv_arena *a, uint32_t page, uint32_t lo, uint32_t hi)
{
    if (listed(a->tracker, page))
        refresh(a, page, lo, hi, (uint32_t)atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed));
    return 0;
}

/* -- promotion and demotion: between PUBLISH and IDLE ------------------------------------------------------- */

/* free_slot -- one that has memory behind it, or t->slots. */
static uint32_t free_slot(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            slot = t->free_hint;
    while (slot < t->slots && t->page_of[slot] != 0)
        slot++;
    t->free_hint = slot;
    uint64_t backed = hot_slots_backed(a);
    if (slot < backed || slot >= t->slots)
        return slot;
    uint64_t more = t->slots - backed < SHADOW_CLAIM ? t->slots - backed : SHADOW_CLAIM, bytes = backed << t->shift;
    if (os_populate(a->core + a->hdr->region[RCV_R_SHADOW].off + bytes, more << t->shift) != 0)
        return t->slots; /* no memory: no promotion */
    CRASHPOINT("hot.claim.before_mark");
    atomic_store_explicit(&a->hdr->shadow_claimed, bytes + (more << t->shift), memory_order_release);
    CRASHPOINT("hot.claim.after_mark");
    t->reach = (uint32_t)(backed + more);
    return slot;
}

/* most_hot -- what was asked for; else shadows are a sixteenth of the claimed memory, so that little state has few of them
 * however large its ceiling is. */
static uint32_t most_hot(const rcv_arena *a)
{
    uint32_t asked = a->tracker->wse.max_hot, share = pages_claimed(a) / HOT_SHARE;
    return asked != 0 ? asked : share > HOT_LEAST ? share : HOT_LEAST;
}

/* promote -- true: the table has changed. What is missing for it (a slot, memory, a map entry) only means: no promotion. */
static bool promote(rcv_arena *a, uint32_t page, uint32_t seq)
{
    struct rcv_tracker *t = a->tracker;
    if (listed(t, page) || page >= pages_claimed(a) || !(a->trap_mode || heap_page_live(a, page)))
        return false;
    if (runs_around(t, page) == 0 && t->runs >= t->max_runs)
        return false;
    if (t->n_hot >= most_hot(a))
        return false;
    uint32_t slot = free_slot(a);
    if (slot >= t->slots)
        return false;
    memcpy(hot_shadow(a, slot), page_core(a, page), t->page_size);
    a->n.pages_copied++;
    t->stamp_of[slot] = seq;
    CRASHPOINT("hot.promote.before_entry");
    store_fence();
    atomic_store_explicit(&hot_table(a)[slot], HOT_ENTRY(page, seq), memory_order_release);
    store_fence();
    CRASHPOINT("hot.promote.before_unprotect");
    struct view *v = t->view;
    bool         done = true;
    if (v != NULL && view_keeps_hot(t, v)) { /* else it becomes so at its next trap, without a record */
        view_lock(a);
        done = os_protect(page_in(a, v, page), t->page_size, PROT_READ | PROT_WRITE) == 0;
        if (done)
            v->state[page] |= PG_WRITABLE;
        view_unlock(a);
    }
    if (!done) {
        atomic_store_explicit(&hot_table(a)[slot], 0, memory_order_release);
        return true; /* nobody has seen the entry, but the generation is cheap */
    }
    list(t, slot, page);
    wse_promoted(&t->wse, page);
    a->n.promotions++;
    return true;
}

/* demote -- true: the table has changed. */
static bool demote(rcv_arena *a, uint32_t page, uint32_t seq, bool forced)
{
    struct rcv_tracker *t = a->tracker;
    if (!listed(t, page))
        return false;
    uint32_t slot = t->slot_of[page] - 1;
    struct view *v = t->views[0];
    if (v->state[page] & PG_WRITABLE) {
        view_lock(a);
        view_protect(a, v, page, 1);
        view_unlock(a);
        if (v->unprotected)
            return false; /* still writable, perhaps: it needs its shadow */
    }
    uint32_t stamp = HOT_STAMP(atomic_load_explicit(&hot_table(a)[slot], memory_order_relaxed));
    if (!forced && stamp != t->stamp_of[slot] && seq - stamp <= t->wse.patience)
        return false; /* another process writes it: only we don't want it any more */
    CRASHPOINT("hot.demote.before_entry");
    store_fence();
    atomic_store_explicit(&hot_table(a)[slot], 0, memory_order_release);
    CRASHPOINT("hot.demote.after_entry");
    unlist(t, slot);
    a->n.demotions++;
    return true;
}

/* announce -- the table has changed: the others must look. */
static void announce(rcv_arena *a)
{
    CRASHPOINT("hot.before_generation");
    store_fence();
    a->tracker->generation = atomic_fetch_add_explicit(&a->hdr->hot_generation, 1, memory_order_release) + 1;
    CRASHPOINT("hot.after_generation");
}

/* maybe_trim -- after a burst of hot pages: give back what no slot needs. Slots in use are at the lower end, but for pages that became hot
 * in the burst and stayed; those are demoted, and come back to a lower slot at their next trap. Like the log (undo_trim): the
 * mark first, then the memory, so that the mark never promises what is not there. */
static void maybe_trim(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    if (likely(++t->published < SHADOW_TRIM))
        return;
    t->published = 0;
    uint32_t backed = (uint32_t)hot_slots_backed(a), used = backed < t->slots ? backed : t->slots;
    while (used > 0 && t->page_of[used - 1] == 0)
        used--;
    uint32_t keep = (used + SHADOW_CLAIM - 1) / SHADOW_CLAIM * SHADOW_CLAIM;
    for (uint32_t slot = used; slot-- > 2 * t->n_hot + SHADOW_CLAIM;)
        if (t->page_of[slot] != 0)
            wse_say(&t->wse.demote, t->page_of[slot] - 1); /* with the next commit */
    if (backed < keep + 2 * SHADOW_CLAIM)
        return;
    store_fence();
    atomic_store_explicit(&a->hdr->shadow_claimed, (uint64_t)keep << t->shift, memory_order_release);
    store_fence();
    CRASHPOINT("hot.trim.before_release");
    t->reach = keep;
    os_punch(a->core + a->hdr->region[RCV_R_SHADOW].off + ((uint64_t)keep << t->shift), (uint64_t)(backed - keep) << t->shift);
}

void tracker_refresh(rcv_arena *a, rcv_off off, const uint8_t *bytes, uint64_t len)
{
    struct rcv_tracker *t = a->tracker;
    const uint32_t      seq = (uint32_t)atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    uint64_t            next;
    for (rcv_off end = off + len; t->n_hot != 0 && off < end; off = next) {
        const uint32_t page = page_of_off(a, off), slot = t->slot_of[page];
        next = page_off(a, page) + t->page_size;
        const uint64_t here = (next < end ? next : end) - off;
        if (slot != 0) {
            uint8_t *to = hot_shadow(a, slot - 1) + (off - page_off(a, page));
            if (bytes != NULL)
                memcpy(to, bytes, here);
            else
                memset(to, 0, here);
            a->n.pages_copied += here == t->page_size;
            t->stamp_of[slot - 1] = seq;
            atomic_store_explicit(&hot_table(a)[slot - 1], HOT_ENTRY(page, seq), memory_order_release);
            CRASHPOINT("hot.refreshed");
        }
        bytes = bytes != NULL ? bytes + here : NULL;
    }
}

/* hot_publish -- shadows first: what is demoted or promoted after that is right already. */
void hot_publish(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            seq = (uint32_t)atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    bool                changed = false;
    if (t->n_hot != 0 && (a->feed == NULL || a->trap_mode)) {
        for (uint32_t i = 0; i < t->n_raw; i++)
            if (listed(t, t->raw[i]))
                refresh(a, t->raw[i], 0, t->page_size, seq);
        if (unlikely((t->raw_since || a->trap_mode) && !t->collected)) /* no memory for finding out which: all of them */
            for (uint32_t i = 0; i < t->n_hot; i++)
                refresh(a, t->page_of[t->hot[i]] - 1, 0, t->page_size, seq);
        if (t->announced_hot && !a->trap_mode) /* there they are among the changed ones */
            (void)changes_pieces(a, UNDO_ALL, refresh_piece);
    }
    for (uint32_t i = 0; i < t->wse.demote.n; i++)
        changed |= demote(a, t->wse.demote.page[i], seq, false);
    for (uint32_t i = 0; i < t->wse.promote.n; i++)
        changed |= promote(a, t->wse.promote.page[i], seq);
    t->wse.demote.n = t->wse.promote.n = 0;
    if (changed)
        announce(a);
    maybe_trim(a);
}

/* hot_demote_range -- pages [first, last) are no longer an array's. */
void hot_demote_range(rcv_arena *a, uint32_t first, uint32_t last)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            seq = (uint32_t)atomic_load_explicit(&a->hdr->commit_seq, memory_order_relaxed);
    bool                changed = false;
    if (last - first <= t->n_hot) {
        for (uint32_t p = first; p < last; p++)
            changed |= demote(a, p, seq, true);
    } else {
        for (uint32_t i = t->n_hot; i-- > 0;) { /* downwards: unlisting moves the last one into the gap */
            uint32_t p = t->page_of[t->hot[i]] - 1;
            if (p >= first && p < last)
                changed |= demote(a, p, seq, true);
        }
    }
    if (changed)
        announce(a);
}

/* -- life ----------------------------------------------------------------------------------------------------- */

/* max_map_count -- how many mappings this process may have. */
static uint64_t max_map_count(void)
{
    static uint64_t count;
    if (count != 0)
        return count;
    unsigned long long n = 65530;
    FILE              *f = fopen("/proc/sys/vm/max_map_count", "re");
    if (f != NULL) {
        if (fscanf(f, "%llu", &n) != 1 || n == 0)
            n = 65530;
        fclose(f);
    }
    return count = n;
}

/* hot_open -- the process's copy of the table, empty until the first step. RCV_ERR_FULL: hot_close() takes care of the rest. */
int hot_open(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    t->slots = (uint32_t)hot_slots_usable(a);
    uint64_t runs = max_map_count() / 4 / 2; /* a quarter of them, two a run */
    t->max_runs = runs < UINT32_MAX ? (uint32_t)runs : UINT32_MAX;
    t->generation = UINT64_MAX;
    t->slot_of = os_calloc(t->pages + 1, sizeof *t->slot_of);
    t->page_of = os_calloc(t->slots + 1, sizeof *t->page_of);
    t->rank_of = os_calloc(t->slots + 1, sizeof *t->rank_of);
    t->stamp_of = os_calloc(t->slots + 1, sizeof *t->stamp_of);
    t->hot = os_calloc(t->slots + 1, sizeof *t->hot);
    return t->slot_of && t->page_of && t->rank_of && t->stamp_of && t->hot ? 0 : RCV_ERR_FULL;
}

void hot_close(rcv_arena *a)
{
    struct rcv_tracker *t = a->tracker;
    os_free(t->slot_of);
    os_free(t->page_of);
    os_free(t->rank_of);
    os_free(t->stamp_of);
    os_free(t->hot);
}
