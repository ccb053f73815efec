/* recording.c -- which pages did each step of a live run write, and whose step was it?
 *
 * Recorded is what the policy is told: a cold page that trapped, a hot one that had changed. So one thing depends on the
 * policy of the recorded run: a page that was written with what it held already traps where it is cold, and is not noticed
 * where it is hot. "incremental" records every write.
 *
 * With `announced`, also every page of the data region whose old bytes are in the step's log, and fresh memory: what would have
 * trapped if containers wrote through the tracked view. The library's own commits (growth, reclaiming) are not in it.
 *
 * A recording that finds no memory, or has grown to its limit, ends there and says so: a whole number of steps is kept.
 */
#include "estimators.h"

#define PAGES_MAX (64u << 20)
#define NAMES_MAX 4096u

struct wse_recorder {
    struct rcv_recording out;
    uint32_t            *ends, *pages, *handlers;
    char               (*names)[RCV_HANDLER_NAME];
    uint32_t             n_pages, cap_steps, cap_pages, cap_names; /* n_pages: of whole steps and of this one */
    bool                 announced; /* the tracker tells of announced writes as well */
    uint32_t            *seen; /* by page: the step that wrote it last, from 1 */
};

void wse_recorder_free(struct wse_recorder *r)
{
    if (r == NULL)
        return;
    os_free(r->ends);
    os_free(r->pages);
    os_free(r->handlers);
    os_free(r->names);
    os_free(r->seen);
    os_free(r);
}

int wse_recorder_new(struct wse_recorder **out, uint32_t pages, bool announced)
{
    struct wse_recorder *r = os_calloc(1, sizeof *r);
    if (r == NULL || (r->seen = os_calloc((size_t)pages + 1, sizeof *r->seen)) == NULL) {
        wse_recorder_free(r);
        return rcv_raise(RCV_ERR_FULL, 0, "no process memory for recording the writes to %u pages", pages);
    }
    r->announced = announced;
    *out = r;
    return 0;
}

bool wse_records_announced(const struct wse_recorder *r) { return r != NULL && r->announced; }

/* room -- for one more of n. */
static bool room(void *data, uint32_t n, uint32_t *cap, size_t item)
{
    void   **p = data;
    uint32_t more = *cap ? *cap * 2 : 256;
    if (n < *cap)
        return true;
    void *grown = os_realloc(*p, more * item);
    if (grown == NULL)
        return false;
    *p = grown;
    *cap = more;
    return true;
}

void wse_record_write(struct wse_recorder *r, uint32_t page)
{
    if (r->out.truncated || r->seen[page] == r->out.stream.n + 1)
        return;
    if (r->n_pages >= PAGES_MAX || !room(&r->pages, r->n_pages, &r->cap_pages, sizeof *r->pages)) {
        r->out.truncated = 1;
        return;
    }
    r->seen[page] = r->out.stream.n + 1;
    r->pages[r->n_pages++] = page;
}

/* name_of -- the number of a handler's name; the newest first, since the same one often follows itself. UINT32_MAX: no room. */
static uint32_t name_of(struct wse_recorder *r, const char *name)
{
    for (uint32_t i = r->out.n_names; i-- > 0;)
        if (strncmp(r->names[i], name, RCV_HANDLER_NAME) == 0)
            return i;
    if (r->out.n_names >= NAMES_MAX || !room(&r->names, r->out.n_names, &r->cap_names, sizeof *r->names))
        return UINT32_MAX;
    memcpy(r->names[r->out.n_names], name, RCV_HANDLER_NAME);
    r->names[r->out.n_names][RCV_HANDLER_NAME - 1] = 0;
    return r->out.n_names++;
}

void wse_record_step(struct wse_recorder *r, const char *handler)
{
    uint32_t n = r->out.stream.n, cap = r->cap_steps, name;
    if (r->out.truncated)
        return;
    if (!room(&r->ends, n, &cap, sizeof *r->ends) || !room(&r->handlers, n, &r->cap_steps, sizeof *r->handlers) ||
        (name = name_of(r, handler)) == UINT32_MAX) {
        r->out.truncated = 1;
        return;
    }
    r->ends[n] = r->n_pages;
    r->handlers[n] = name;
    r->out.stream.n = n + 1;
}

/* -- of an arena -------------------------------------------------------------------------------------------- */

const struct rcv_recording *wse_recorder_view(struct wse_recorder *r)
{
    r->out.stream.ends = r->ends;
    r->out.stream.pages = r->pages;
    r->out.handlers = r->handlers;
    r->out.names = r->names ? r->names[0] : NULL;
    return &r->out;
}
