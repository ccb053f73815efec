/* check.c -- rcv_verify: is everything that can be reached sound, and is everything allocated reached?
 *
 * The walk starts at the root Dict and at the list of containers that wait to be freed. Whatever it reaches it checks
 * against what must be true of it, and marks the block it lies in, in a bitmap of this process. Then the two views of the
 * memory are compared:
 *
 *   reached, but not allocated   damage: somebody else will get that memory
 *   reached twice                damage: two owners
 *   allocated, but not reached   a leak: counted, not damage
 *
 * A block may be reached once only, so the walk ends on any garbage, rings included; and it keeps its own stack on the
 * process's heap, so no nesting is too deep. It changes nothing, not even the header's mark: who asks decides.
 */
#include "containers/containers.h"

static int check_container(struct walk *w, rcv_off off)
{
    return rcv_kinds[container_kind(container_at(w->a, off, 0))]->check(w, off);
}

static int walk_containers(struct walk *w)
{
    int rc = 0;
    while (rc == 0 && w->n_todo > 0)
        rc = check_container(w, w->todo[--w->n_todo]);
    return rc;
}

static int walk_detached(struct walk *w)
{
    int rc = 0;
    for (rcv_off off = atomic_load(&w->a->hdr->reclaim); rc == 0 && off != 0;) {
        rc = walk_meet(w, 0, 0, off, true); /* a ring would be reached twice */
        if (rc == 0)
            off = container_at(w->a, off, 0)->next_reclaim;
    }
    return rc ? rc : walk_containers(w);
}

/* compare_block -- for heap_walk: an allocated block. */
static int compare_block(void *ctx, rcv_off off, uint64_t size)
{
    struct walk *w = ctx;
    w->report->blocks++;
    w->report->bytes += size;
    if (check_was_reached(w, off)) {
        w->n_reached--;
    } else {
        w->report->leaked_blocks++;
        w->report->leaked_bytes += size;
    }
    return 0;
}

/* check_hot -- listed pages are Arrays' pages (but in trap mode), each listed once; and their shadows hold what they hold, where nobody can be
 * writing to them at this moment. */
static int check_hot(struct walk *w, bool quiet)
{
    rcv_arena *a = w->a;
    uint32_t   page_size = a->hdr->page_size;
    uint64_t   slots = atomic_load(&a->hdr->shadow_claimed) / page_size, pages = rcv_data_claimed(a) / page_size;
    uint64_t  *listed;
    bool       trap_mode = atomic_load(&a->hdr->tracking) == RCV_TRACKING_TRAP;
    int        rc = 0;
    if (slots > a->hdr->hot_slots)
        return check_damage(w, 0, 0, a->hdr->region[RCV_R_SHADOW].off, "shadows for %llu pages of %u", (unsigned long long)slots, a->hdr->hot_slots);
    listed = os_calloc(pages / 64 + 1, 8);
    if (listed == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory to check the arena; nothing was changed");
    for (uint32_t slot = 0; slot < a->hdr->hot_slots && rc == 0; slot++) {
        uint64_t e = atomic_load_explicit(&hot_table(a)[slot], memory_order_relaxed);
        uint32_t page = HOT_PAGE(e);
        rcv_off  at = a->hdr->region[RCV_R_HOT].off + slot * UINT64_C(8);
        if (e == 0)
            continue;
        if (slot >= slots || page >= pages || !(trap_mode || heap_page_live(a, page)) || (listed[page / 64] >> (page % 64) & 1)) {
            rc = check_damage(w, 0, 0, at, "a hot page that is no Array's, listed twice, or without a shadow: page %u", page);
        } else {
            listed[page / 64] |= UINT64_C(1) << (page % 64);
            w->report->hot_pages++;
            rcv_off data = a->data_off + (uint64_t)page * page_size;
            if (quiet && memcmp(a->core + data, hot_shadow(a, slot), page_size) != 0)
                rc = check_damage(w, 0, 0, data, "a hot page that differs from its shadow: page %u", page);
        }
    }
    os_free(listed);
    return rc;
}

static int check_everything(struct walk *w)
{
    rcv_arena    *a = w->a;
    const rcv_off roots[2] = {rcv_root(a), atomic_load(&a->hdr->system)};
    int           rc = 0;
    for (unsigned i = 0; i < 2 && rc == 0; i++) {
        if (roots[i] == 0)
            continue;
        if (container_at(a, roots[i], RCV_K_DICT) == NULL)
            return check_damage(w, 0, 0, roots[i], "the %s is no Dict", i ? "system's root" : "root");
        rc = walk_meet(w, 0, 0, roots[i], false);
    }
    if (rc == 0)
        rc = walk_containers(w);
    if (rc == 0)
        rc = walk_detached(w);
    if (rc == 0)
        rc = heap_walk(a, compare_block, w);
    if (rc == 0 && w->n_reached != 0)
        rc = check_damage(w, 0, 0, a->data_off, "%llu blocks that belong to committed state are not allocated", (unsigned long long)w->n_reached);
    /* Another process, or a buffer of ours, may be writing raw at this moment: then a difference is no damage. */
    return rc ? rc : check_hot(w, rcv_raw_count(a) == 0 && !process_others(a));
}

/* rcv_verify -- 0 and the report; RCV_ERR_CORRUPT names the first damage. RCV_ERR_AGAIN: rcv_lock_wait() first. Changes nothing. */
int rcv_verify(rcv_arena *a, struct rcv_verify_report *out)
{
    uint64_t me = os_thread_id();
    if ((a->mounted != NULL && a->step_thread == me) || (a->readers > 0 && a->reader_thread == me))
        return rcv_raise(RCV_ERR_MISUSE, 0, "arena \"%s\": verify() looks at committed state: call it outside a transaction", a->name);
    int rc = lock_take(a);
    if (rc)
        return rc;
    struct walk w = {.a = a, .report = out};
    memset(out, 0, sizeof *out);
    rc = tracker_enter(a, NULL); /* takes strays off the hot pages */
    tracker_leave(a);
    if (rc == 0) {
        w.reached = os_calloc(rcv_data_claimed(a) / WALK_UNIT / 64 + 1, 8);
        rc = w.reached ? check_everything(&w) : rcv_raise(RCV_ERR_FULL, 0, "no process memory to check the arena; nothing was changed");
    }
    os_free(w.reached);
    os_free(w.todo);
    (void)lock_drop(a);
    return rc;
}

/* rcv_measure -- see recoverable.h. What is reached from a container by the same walk, checks included. */
int rcv_measure(rcv_arena *a, rcv_off off, uint64_t *bytes)
{
    struct rcv_verify_report    report;
    struct walk                 w = {.a = a, .report = &report};
    const struct rcv_container *c = container_at(a, off, 0);
    memset(&report, 0, sizeof report);
    if (c == NULL)
        return check_damage(&w, 0, 0, off, "no container there");
    w.reached = os_calloc(rcv_data_claimed(a) / WALK_UNIT / 64 + 1, 8);
    int rc = w.reached != NULL ? 0 : rcv_raise(RCV_ERR_FULL, 0, "no process memory to measure a container; nothing was changed");
    if (rc == 0)
        rc = walk_meet(&w, c->parent, c->slot, off, (c->flags & RCV_DETACHED) != 0);
    if (rc == 0)
        rc = walk_containers(&w);
    *bytes = w.bytes;
    os_free(w.reached);
    os_free(w.todo);
    return rc;
}
