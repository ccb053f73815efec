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
#include "check.h"
#include "tracker.h"

#include <stdarg.h>
#include <stdio.h>

#define UNIT 16u         /* bytes that a bit stands for: no two blocks begin in the same 16 */
#define PATH 512u        /* bytes of a path in a message */
#define PATH_DEPTH 64u   /* steps of it; what is above is left out */

/* -- saying where ------------------------------------------------------------------------------------- */

/* key_text -- a key as Python would write it, cut. */
static size_t key_text(rcv_arena *a, rcv_off slot, char *out, size_t size)
{
    struct rcv_value key;
    size_t           n = 0;
    if (rcv_dict_key_at(a, slot, &key) != 0 || key.len > UINT32_MAX)
        return (size_t)snprintf(out, size, "[?]");
    if (key.tag == RCV_T_INT && key.len == 8) {
        int64_t i;
        memcpy(&i, key.ptr, 8);
        return (size_t)snprintf(out, size, "[%lld]", (long long)i);
    }
    if (key.tag != RCV_T_STR && key.tag != RCV_T_BYTES)
        return (size_t)snprintf(out, size, "[key of type %u]", key.tag);
    n += (size_t)snprintf(out, size, key.tag == RCV_T_STR ? "[\"" : "[b\"");
    for (uint64_t i = 0; i < key.len && i < 40; i++) {
        uint8_t c = key.ptr[i];
        bool    plain = c >= ' ' && c != '"' && c != '\\' && (c < 0x7f || (c > 0x7f && key.tag == RCV_T_STR));
        n += (size_t)snprintf(out + n, size - n, plain ? "%c" : "\\x%02x", c);
    }
    n += (size_t)snprintf(out + n, size - n, "%s\"]", key.len > 40 ? "..." : "");
    return n;
}

/* step_text -- one step of a path: what `slot` of `container` is called. */
static size_t step_text(rcv_arena *a, rcv_off container, rcv_off slot, char *out, size_t size)
{
    const struct rcv_container *c = container_at(a, container, 0);
    switch (c ? c->kind & 0xffffu : 0) {
    case RCV_K_DICT:
    case RCV_K_SET: return key_text(a, slot, out, size);
    case RCV_K_RECORD: return (size_t)snprintf(out, size, "[field %llu]", (unsigned long long)slot);
    default: return (size_t)snprintf(out, size, "[?]"); /* items of a List do not know where they are */
    }
}

/* root_name -- what a path begins with. */
static const char *root_name(rcv_arena *a, rcv_off off, bool cut)
{
    if (off == rcv_root(a))
        return "root";
    if (off == atomic_load(&a->hdr->system))
        return "(system)";
    return cut ? "root[...]" : "(detached)";
}

/* path_text -- the way from the root to a container whose links upwards have been checked. */
static void path_text(rcv_arena *a, rcv_off off, char out[PATH])
{
    rcv_off  parents[PATH_DEPTH], slots[PATH_DEPTH];
    unsigned depth = 0;
    rcv_off  at = off;
    for (; at != rcv_root(a) && depth < PATH_DEPTH; depth++) {
        const struct rcv_container *c = container_at(a, at, 0);
        if (c == NULL || c->parent == 0)
            break;
        slots[depth] = c->slot;
        parents[depth] = at = c->parent;
    }
    size_t n = (size_t)snprintf(out, PATH, "%s", root_name(a, at, depth == PATH_DEPTH));
    while (depth-- > 0) {
        char   text[192];
        size_t len = step_text(a, parents[depth], slots[depth], text, sizeof text);
        if (n + len + 6 > PATH) {
            (void)snprintf(out + n, PATH - n, "[...]");
            return;
        }
        memcpy(out + n, text, len + 1);
        n += len;
    }
}

/* check_damage -- RCV_ERR_CORRUPT, with the path of the container, the key in it (`slot`: an entry, or 0) and the offset. */
int check_damage(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, const char *format, ...)
{
    char    path[PATH + 200], what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    path[0] = 0;
    if (container)
        path_text(w->a, container, path);
    else
        snprintf(path, sizeof path, "arena");
    if (slot)
        (void)step_text(w->a, container, slot, path + strlen(path), 192);
    return rcv_raise(RCV_ERR_CORRUPT, 0, "arena \"%s\" is damaged at %s (offset %llu): %s; nothing was changed", w->a->name, path,
                     (unsigned long long)off, what);
}

/* -- blocks ------------------------------------------------------------------------------------------------ */

bool check_was_reached(const struct walk *w, rcv_off off)
{
    uint64_t bit = (off - w->a->data_off) / UNIT;
    return w->reached[bit / 64] >> (bit % 64) & 1;
}

/* check_reach_any -- a block of at least `len` bytes begins at `off`; it belongs to `container`. */
int check_reach_any(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what)
{
    uint64_t size;
    bool     live;
    if (rcv_at(w->a, off, len) == NULL || heap_block(w->a, off, &size, &live) != 0)
        return check_damage(w, container, slot, off, "%s, where no block of memory begins", what);
    if (!live)
        return check_damage(w, container, slot, off, "%s in memory that is not allocated", what);
    if (size < len)
        return check_damage(w, container, slot, off, "%s of %llu bytes in a block of %llu", what, (unsigned long long)len,
                      (unsigned long long)size);
    if (check_was_reached(w, off))
        return check_damage(w, container, slot, off, "%s in a block that belongs to something else as well", what);
    uint64_t bit = (off - w->a->data_off) / UNIT;
    w->reached[bit / 64] |= UINT64_C(1) << (bit % 64);
    w->n_reached++;
    w->bytes += size;
    return 0;
}

/* check_reach -- the same for what must not lie where user code can write. */
int check_reach(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what)
{
    int rc = check_reach_any(w, container, slot, off, len, what);
    if (rc == 0 && heap_page_live(w->a, (uint32_t)((off - w->a->data_off) / w->a->hdr->page_size)))
        rc = check_damage(w, container, slot, off, "%s in memory that belongs to Arrays", what);
    return rc;
}

/* -- containers, and what they hold -------------------------------------------------------------------------------------------- */

static int push(struct walk *w, rcv_off off)
{
    if (w->n_todo == w->cap_todo) {
        int rc = vec_grow((void **)&w->todo, &w->cap_todo, w->n_todo + 1, sizeof *w->todo);
        if (rc)
            return rc;
    }
    w->todo[w->n_todo++] = off;
    return 0;
}

/* meet_container -- a container that `parent` holds in `slot` (both 0: the root, or detached). */
static int meet_container(struct walk *w, rcv_off parent, rcv_off slot, rcv_off off, bool detached)
{
    rcv_arena                  *a = w->a;
    const struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return check_damage(w, parent, slot, off, "no container there");
    int rc = check_reach(w, parent, slot, off, container_size(c->kind & 0xffffu), "a container");
    if (rc)
        return rc;
    if (c->id == 0 || c->id > atomic_load(&a->hdr->container_counter))
        return check_damage(w, parent, slot, off, "a container with the id %llu", (unsigned long long)c->id);
    if (!detached && (c->parent != parent || c->slot != slot))
        return check_damage(w, parent, slot, off, "a container that names another place as its own");
    if ((c->flags & ~RCV_DETACHED) != 0 || ((c->flags & RCV_DETACHED) != 0) != detached)
        return check_damage(w, parent, slot, off, "a container with the flags %#x", c->flags);
    w->report->containers++;
    return push(w, off);
}

/* check_cell -- a value in `container`, at `slot`. */
int check_cell(struct walk *w, rcv_off container, rcv_off slot, const struct rcv_cell *cell)
{
    switch (cell->tag) {
    case RCV_T_NONE:
    case RCV_T_FALSE:
    case RCV_T_TRUE:
    case RCV_T_INT:
    case RCV_T_FLOAT: return 0;
    case RCV_T_STR:
    case RCV_T_BYTES:
    case RCV_T_BIGINT:
    case RCV_T_CUSTOM:
        if (cell->size == RCV_CELL_BLOB)
            return check_reach(w, container, slot, cell->word, cell->len, "a value");
        if (cell->size > RCV_CELL_INLINE)
            return check_damage(w, container, slot, slot, "a value with %u bytes inline", cell->size);
        return 0;
    case RCV_T_REF: return meet_container(w, container, slot, cell->word, false);
    default: return check_damage(w, container, slot, slot, "a value of unknown type %u", cell->tag);
    }
}

/* -- the rest ---------------------------------------------------------------------------------------------- */

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
        rc = meet_container(w, 0, 0, off, true); /* a ring would be reached twice */
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
        rc = meet_container(w, 0, 0, roots[i], false);
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
        w.reached = os_calloc(rcv_data_claimed(a) / UNIT / 64 + 1, 8);
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
    w.reached = os_calloc(rcv_data_claimed(a) / UNIT / 64 + 1, 8);
    int rc = w.reached != NULL ? 0 : rcv_raise(RCV_ERR_FULL, 0, "no process memory to measure a container; nothing was changed");
    if (rc == 0)
        rc = meet_container(&w, c->parent, c->slot, off, (c->flags & RCV_DETACHED) != 0);
    if (rc == 0)
        rc = walk_containers(&w);
    *bytes = w.bytes;
    os_free(w.reached);
    os_free(w.todo);
    return rc;
}
