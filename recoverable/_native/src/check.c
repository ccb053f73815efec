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
 *
 * Containers on the list are half taken apart (reclaim.c): of a Dict there, only what its order list still leads to is looked
 * at; its bucket chains lead to entries that are free already.
 */
#include "tracker.h"

#include <stdarg.h>
#include <stdio.h>

#define UNIT 16u         /* bytes that a bit stands for: no two blocks begin in the same 16 */
#define PATH 512u        /* bytes of a path in a message */
#define PATH_DEPTH 64u   /* steps of it; what is above is left out */
#define CHAIN_PAIRS 16u  /* neighbours in a chain that are looked at for equal keys */

struct walk {
    rcv_arena                *a;
    struct rcv_verify_report *report;
    uint64_t                 *reached; /* a bit for each 16 bytes of claimed data */
    uint64_t                  n_reached;
    rcv_off                  *todo; /* containers found, not walked */
    uint64_t                  n_todo, cap_todo;
};

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

/* path_text -- the way from the root to a container whose links upwards have been checked. */
static void path_text(rcv_arena *a, rcv_off off, char out[PATH])
{
    rcv_off  slots[PATH_DEPTH];
    unsigned depth = 0;
    size_t   n;
    rcv_off  at = off;
    for (; at != 0 && at != rcv_root(a) && depth < PATH_DEPTH; depth++) {
        const struct rcv_container *c = container_at(a, at, 0);
        if (c == NULL || c->parent == 0)
            break;
        slots[depth] = c->slot;
        at = c->parent;
    }
    n = (size_t)snprintf(out, PATH, "%s",
                         at == rcv_root(a) ? "root" : at == atomic_load(&a->hdr->system) ? "(system)" : depth == PATH_DEPTH ? "root[...]" : "(detached)");
    while (depth > 0) {
        char   text[192];
        size_t len = key_text(a, slots[--depth], text, sizeof text);
        if (n + len + 6 > PATH) {
            (void)snprintf(out + n, PATH - n, "[...]");
            return;
        }
        memcpy(out + n, text, len + 1);
        n += len;
    }
}

/* damage -- RCV_ERR_CORRUPT, with the path of the container, the key in it (`slot`: an entry, or 0) and the offset. */
static int __attribute__((format(printf, 5, 6))) damage(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, const char *format, ...)
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
        (void)key_text(w->a, slot, path + strlen(path), 192);
    return rcv_raise(RCV_ERR_CORRUPT, 0, "arena \"%s\" is damaged at %s (offset %llu): %s; nothing was changed", w->a->name, path,
                     (unsigned long long)off, what);
}

/* -- blocks ------------------------------------------------------------------------------------------------ */

static bool was_reached(const struct walk *w, rcv_off off)
{
    uint64_t bit = (off - w->a->data_off) / UNIT;
    return w->reached[bit / 64] >> (bit % 64) & 1;
}

/* reach -- a block of at least `len` bytes begins at `off`; it belongs to `container`. */
static int reach(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what)
{
    uint64_t size;
    bool     live;
    if (rcv_at(w->a, off, len) == NULL || heap_block(w->a, off, &size, &live) != 0)
        return damage(w, container, slot, off, "%s, where no block of memory begins", what);
    if (!live)
        return damage(w, container, slot, off, "%s in memory that is not allocated", what);
    if (size < len)
        return damage(w, container, slot, off, "%s of %llu bytes in a block of %llu", what, (unsigned long long)len,
                      (unsigned long long)size);
    if (was_reached(w, off))
        return damage(w, container, slot, off, "%s in a block that belongs to something else as well", what);
    uint64_t bit = (off - w->a->data_off) / UNIT;
    w->reached[bit / 64] |= UINT64_C(1) << (bit % 64);
    w->n_reached++;
    return 0;
}

/* reach_general -- the same for what must not lie where user code can write. */
static int reach_general(struct walk *w, rcv_off container, rcv_off slot, rcv_off off, uint64_t len, const char *what)
{
    int rc = reach(w, container, slot, off, len, what);
    if (rc == 0 && heap_page_live(w->a, (uint32_t)((off - w->a->data_off) / w->a->hdr->page_size)))
        rc = damage(w, container, slot, off, "%s in memory that belongs to Arrays", what);
    return rc;
}

/* -- containers -------------------------------------------------------------------------------------------- */

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
        return damage(w, parent, slot, off, "no container there");
    int rc = reach_general(w, parent, slot, off, container_size(c->kind & 0xffffu), "a container");
    if (rc)
        return rc;
    if (c->id == 0 || c->id > atomic_load(&a->hdr->container_counter))
        return damage(w, parent, slot, off, "a container with the id %llu", (unsigned long long)c->id);
    if (!detached && (c->parent != parent || c->slot != slot))
        return damage(w, parent, slot, off, "a container that names another place as its own");
    if ((c->flags & ~RCV_DETACHED) != 0 || ((c->flags & RCV_DETACHED) != 0) != detached)
        return damage(w, parent, slot, off, "a container with the flags %#x", c->flags);
    w->report->containers++;
    return push(w, off);
}

/* check_cell -- a value in `container`, at `slot`. */
static int check_cell(struct walk *w, rcv_off container, rcv_off slot, const struct rcv_cell *cell)
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
            return reach_general(w, container, slot, cell->word, cell->len, "a value");
        if (cell->size > RCV_CELL_INLINE)
            return damage(w, container, slot, slot, "a value with %u bytes inline", cell->size);
        return 0;
    case RCV_T_REF: return meet_container(w, container, slot, cell->word, false);
    default: return damage(w, container, slot, slot, "a value of unknown type %u", cell->tag);
    }
}

/* -- Dict -------------------------------------------------------------------------------------------------- */

static const struct rcv_entry *entry_at(rcv_arena *a, rcv_off off)
{
    const struct rcv_entry *e = rcv_at(a, off, sizeof *e);
    return e != NULL && rcv_at(a, off, sizeof *e + e->key_len) != NULL ? e : NULL;
}

/* check_node -- a node of a table, and below it `levels` more: those that lead to the first `used` words must be there; more
 * may be, in a table that is not being taken apart. */
static int check_node(struct walk *w, rcv_off container, rcv_off node, unsigned levels, uint64_t used, bool detached)
{
    uint64_t each = levels == 2 ? (uint64_t)RCV_NODE * RCV_NODE : RCV_NODE; /* words below one slot */
    int      rc = reach_general(w, container, 0, node, RCV_NODE * 8, "a part of a table");
    for (uint64_t i = 0; rc == 0 && levels > 0 && i < RCV_NODE; i++) {
        rcv_off  below = *word_at(w->a, node + i * 8);
        uint64_t first = i * each, here = used > first ? used - first : 0;
        if (here > 0 || (below != 0 && !detached))
            rc = check_node(w, container, below, levels - 1, here, detached);
    }
    return rc;
}

/* check_table -- the blocks that hold a container's words. */
static int check_table(struct walk *w, rcv_off container, rcv_off off, const struct rcv_table *table, bool detached)
{
    static const uint64_t room[3] = {RCV_NODE, (uint64_t)RCV_NODE * RCV_NODE, (uint64_t)RCV_NODE * RCV_NODE * RCV_NODE};
    uint32_t              capacity = table->capacity;
    bool                  inlined = table->root == off + offsetof(struct rcv_table, first);
    if (table->depth > 2 || table->used > room[table->depth])
        return damage(w, container, 0, off, "%llu words in a table of depth %u", (unsigned long long)table->used, table->depth);
    if (table->depth > 0)
        return check_node(w, container, table->root, table->depth, table->used, detached);
    if (capacity < RCV_TABLE_INLINE || capacity > RCV_NODE || (capacity & (capacity - 1)) || table->used > capacity ||
        (inlined && capacity != RCV_TABLE_INLINE))
        return damage(w, container, 0, off, "%llu words in a table for %u", (unsigned long long)table->used, capacity);
    return inlined ? 0 : reach_general(w, container, 0, table->root, (uint64_t)capacity * 8, "a table");
}

/* bucket_of -- linear hashing (dict.c). */
static uint64_t bucket_of(uint64_t hash, uint64_t buckets)
{
    uint64_t low = UINT64_C(1) << (63 - __builtin_clzll(buckets)), b = hash & (2 * low - 1);
    return b >= buckets ? hash & (low - 1) : b;
}

/* twin_after -- has one of the next few in the chain the same key? */
static bool twin_after(rcv_arena *a, const struct rcv_entry *e)
{
    rcv_off at = e->next;
    for (unsigned i = 0; i < CHAIN_PAIRS && at != 0; i++) {
        const struct rcv_entry *o = entry_at(a, at);
        if (o == NULL)
            return false; /* found when the chain gets there */
        if (o->hash == e->hash && o->key_kind == e->key_kind && o->key_len == e->key_len && memcmp(o->key, e->key, e->key_len) == 0)
            return true;
        at = o->next;
    }
    return false;
}

static int check_entry(struct walk *w, rcv_off off, rcv_off at, const struct rcv_dict *d, uint64_t bucket)
{
    const struct rcv_entry *e = entry_at(w->a, at);
    if (e == NULL)
        return damage(w, off, 0, at, "an entry outside the claimed memory");
    int rc = reach_general(w, off, 0, at, sizeof *e + e->key_len, "an entry");
    if (rc)
        return rc;
    struct rcv_key key = {.kind = e->key_kind, .ptr = e->key, .len = e->key_len};
    rcv_key_hash(w->a, &key);
    if (key.hash != e->hash)
        return damage(w, off, at, at, "an entry whose hash is not that of its key");
    if (bucket_of(e->hash, d->table.used) != bucket)
        return damage(w, off, at, at, "an entry in bucket %llu, where it is not looked for", (unsigned long long)bucket);
    if (e->flags != RCV_ENTRY_LINKED)
        return damage(w, off, at, at, "an entry with the flags %#x", e->flags);
    if (twin_after(w->a, e))
        return damage(w, off, at, at, "two entries with one key");
    w->report->entries++;
    return check_cell(w, off, at, &e->value);
}

/* check_order -- the insertion order: forwards as long as the count, and each link back is right. */
static int check_order(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    rcv_off  before = 0;
    uint64_t n = 0;
    for (rcv_off at = d->head; at != 0; n++) {
        const struct rcv_entry *e = entry_at(w->a, at);
        if (e == NULL || !was_reached(w, at) || n == d->c.count)
            return damage(w, off, 0, at, "the insertion order leads to what is no entry of the Dict");
        if (e->before != before)
            return damage(w, off, at, at, "the insertion order differs forwards and backwards");
        before = at;
        at = e->after;
    }
    if (n != d->c.count || d->tail != before)
        return damage(w, off, 0, off, "%llu of %llu entries in the insertion order", (unsigned long long)n, (unsigned long long)d->c.count);
    return 0;
}

/* check_rest -- a Dict that is being taken apart: what its order list still leads to. */
static int check_rest(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    for (rcv_off at = d->head; at != 0;) {
        const struct rcv_entry *e = entry_at(w->a, at);
        if (e == NULL)
            return damage(w, off, 0, at, "an entry outside the claimed memory");
        int rc = reach_general(w, off, 0, at, sizeof *e + e->key_len, "an entry");
        if (rc == 0)
            rc = check_cell(w, off, at, &e->value);
        if (rc)
            return rc;
        w->report->entries++;
        at = e->after;
    }
    return 0;
}

static int check_dict(struct walk *w, rcv_off off, const struct rcv_dict *d)
{
    bool detached = d->c.flags & RCV_DETACHED;
    int  rc = check_table(w, off, off + offsetof(struct rcv_dict, table), &d->table, detached);
    if (rc || detached)
        return rc ? rc : check_rest(w, off, d);
    if (d->table.used < RCV_TABLE_INLINE)
        return damage(w, off, 0, off, "a Dict with %llu buckets", (unsigned long long)d->table.used);
    uint64_t n = 0;
    for (uint64_t b = 0; b < d->table.used; b++)
        for (rcv_off at = *word_at(w->a, table_word(w->a, &d->table, b)); at != 0;) {
            if (n++ == d->c.count)
                return damage(w, off, 0, at, "more entries than the %llu that are counted", (unsigned long long)d->c.count);
            if ((rc = check_entry(w, off, at, d, b)) != 0)
                return rc;
            at = entry_at(w->a, at)->next;
        }
    if (n != d->c.count)
        return damage(w, off, 0, off, "%llu entries, but %llu are counted", (unsigned long long)n, (unsigned long long)d->c.count);
    return check_order(w, off, d);
}

/* -- Array ------------------------------------------------------------------------------------------------- */

static int check_array(struct walk *w, rcv_off off, const struct rcv_array *r)
{
    uint64_t bytes = r->itemsize;
    bool     sound = r->ndim >= 1 && r->ndim <= RCV_NDIM && r->itemsize != 0 && memchr(r->dtype, 0, sizeof r->dtype) != NULL;
    for (uint32_t i = 0; sound && i < r->ndim; i++)
        sound = !__builtin_mul_overflow(bytes, r->shape[i], &bytes);
    if (!sound || bytes != r->nbytes)
        return damage(w, off, 0, off, "an Array whose shape, type and %llu bytes do not fit", (unsigned long long)r->nbytes);
    if (r->nbytes == 0)
        return r->data == 0 ? 0 : damage(w, off, 0, r->data, "an empty Array with memory");
    uint32_t page_size = w->a->hdr->page_size;
    int      rc = reach(w, off, 0, r->data, r->nbytes, "an Array's items");
    if (rc)
        return rc;
    if (r->data % page_size != 0 || !heap_page_live(w->a, (uint32_t)((r->data - w->a->data_off) / page_size)))
        return damage(w, off, 0, r->data, "an Array's items outside the memory for Arrays");
    return 0;
}

/* -- the rest ---------------------------------------------------------------------------------------------- */

static int walk_containers(struct walk *w)
{
    int rc = 0;
    while (rc == 0 && w->n_todo > 0) {
        rcv_off                     off = w->todo[--w->n_todo];
        const struct rcv_container *c = container_at(w->a, off, 0);
        switch (c->kind & 0xffffu) {
        case RCV_K_DICT: rc = check_dict(w, off, (const struct rcv_dict *)(const void *)c); break;
        case RCV_K_ARRAY: rc = check_array(w, off, (const struct rcv_array *)(const void *)c); break;
        default: rc = damage(w, off, 0, off, "a container of kind %u", c->kind & 0xffffu); break;
        }
    }
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
    if (was_reached(w, off)) {
        w->n_reached--;
    } else {
        w->report->leaked_blocks++;
        w->report->leaked_bytes += size;
    }
    return 0;
}

/* check_hot -- listed pages are Arrays' pages, each listed once; and their shadows hold what they hold, where nobody can be
 * writing to them at this moment. */
static int check_hot(struct walk *w, bool quiet)
{
    rcv_arena *a = w->a;
    uint32_t   page_size = a->hdr->page_size;
    uint64_t   slots = atomic_load(&a->hdr->shadow_claimed) / page_size, pages = rcv_data_claimed(a) / page_size;
    uint64_t  *listed;
    int        rc = 0;
    if (slots > a->hdr->hot_slots)
        return damage(w, 0, 0, a->hdr->region[RCV_R_SHADOW].off, "shadows for %llu pages of %u", (unsigned long long)slots, a->hdr->hot_slots);
    listed = os_calloc(pages / 64 + 1, 8);
    if (listed == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory to check the arena; nothing was changed");
    for (uint32_t slot = 0; slot < a->hdr->hot_slots && rc == 0; slot++) {
        uint64_t e = atomic_load_explicit(&hot_table(a)[slot], memory_order_relaxed);
        uint32_t page = HOT_PAGE(e);
        rcv_off  at = a->hdr->region[RCV_R_HOT].off + slot * UINT64_C(8);
        if (e == 0)
            continue;
        if (slot >= slots || page >= pages || !heap_page_live(a, page) || (listed[page / 64] >> (page % 64) & 1)) {
            rc = damage(w, 0, 0, at, "a hot page that is no Array's, listed twice, or without a shadow: page %u", page);
        } else {
            listed[page / 64] |= UINT64_C(1) << (page % 64);
            w->report->hot_pages++;
            rcv_off data = a->data_off + (uint64_t)page * page_size;
            if (quiet && memcmp(a->core + data, hot_shadow(a, slot), page_size) != 0)
                rc = damage(w, 0, 0, data, "a hot page that differs from its shadow: page %u", page);
        }
    }
    os_free(listed);
    return rc;
}

static int check_all(struct walk *w)
{
    rcv_arena    *a = w->a;
    const rcv_off roots[2] = {rcv_root(a), atomic_load(&a->hdr->system)};
    int           rc = 0;
    for (unsigned i = 0; i < 2 && rc == 0; i++) {
        if (roots[i] == 0)
            continue;
        if (container_at(a, roots[i], RCV_K_DICT) == NULL)
            return damage(w, 0, 0, roots[i], "the %s is no Dict", i ? "system's root" : "root");
        rc = meet_container(w, 0, 0, roots[i], false);
    }
    if (rc == 0)
        rc = walk_containers(w);
    if (rc == 0)
        rc = walk_detached(w);
    if (rc == 0)
        rc = heap_walk(a, compare_block, w);
    if (rc == 0 && w->n_reached != 0)
        rc = damage(w, 0, 0, a->data_off, "%llu blocks that belong to committed state are not allocated", (unsigned long long)w->n_reached);
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
    rc = tracker_enter(a); /* takes strays off the hot pages */
    tracker_leave(a);
    if (rc == 0) {
        w.reached = os_calloc(rcv_data_claimed(a) / UNIT / 64 + 1, 8);
        rc = w.reached ? check_all(&w) : rcv_raise(RCV_ERR_FULL, 0, "no process memory to check the arena; nothing was changed");
    }
    os_free(w.reached);
    os_free(w.todo);
    lock_drop(a);
    return rc;
}
