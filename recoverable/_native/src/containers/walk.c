/* walk.c -- what is reached from the root, block by block: for rcv_verify (check.c), and for the kinds of containers, who check
 * themselves.
 */
#include "containers.h"

#include <stdarg.h>
#include <stdio.h>

#define PATH 512u      /* bytes of a path in a message */
#define PATH_DEPTH 64u /* steps of it; what is above is left out */

/* -- saying where ------------------------------------------------------------------------------------- */

/* step_text -- one step of a path: what `slot` of `container` is called. */
static size_t step_text(rcv_arena *a, rcv_off container, rcv_off slot, char *out, size_t size)
{
    const struct rcv_container *c = container_at(a, container, 0);
    size_t (*text)(rcv_arena *, rcv_off, char *, size_t) = c ? rcv_kinds[container_kind(c)]->slot_text : NULL;
    return text ? text(a, slot, out, size) : (size_t)snprintf(out, size, "[?]"); /* items of a List do not know where they are */
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

/* -- blocks, containers, values ---------------------------------------------------------------------------- */

bool check_was_reached(const struct walk *w, rcv_off off)
{
    uint64_t bit = (off - w->a->data_off) / WALK_UNIT;
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
    uint64_t bit = (off - w->a->data_off) / WALK_UNIT;
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

int check_room(struct walk *w, rcv_off container, uint64_t len)
{
    uint64_t size = 0;
    bool     live;
    if (rcv_at(w->a, container, len) == NULL || heap_block(w->a, container, &size, &live) != 0 || size < len)
        return check_damage(w, container, 0, container, "a container of %llu bytes in a block of %llu", (unsigned long long)len,
                            (unsigned long long)size);
    return 0;
}

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

/* walk_meet -- a container that `parent` holds in `slot` (both 0: the root, or detached). */
int walk_meet(struct walk *w, rcv_off parent, rcv_off slot, rcv_off off, bool detached)
{
    rcv_arena                  *a = w->a;
    const struct rcv_container *c = container_at(a, off, 0);
    if (c == NULL)
        return check_damage(w, parent, slot, off, "no container there");
    int rc = check_reach(w, parent, slot, off, rcv_kinds[container_kind(c)]->size, "a container");
    if (rc)
        return rc;
    if (c->id == 0 || c->id > atomic_load(&a->hdr->container_counter))
        return check_damage(w, parent, slot, off, "a container with the id %llu", (unsigned long long)c->id);
    if (!detached && (c->parent != parent || c->slot != slot))
        return check_damage(w, parent, slot, off, "a container that names another place as its own");
    if ((c->flags & ~(RCV_DETACHED | rcv_kinds[container_kind(c)]->marks)) != 0 || ((c->flags & RCV_DETACHED) != 0) != detached)
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
    case RCV_T_REF: return walk_meet(w, container, slot, cell->word, false);
    default: return check_damage(w, container, slot, slot, "a value of unknown type %u", cell->tag);
    }
}
