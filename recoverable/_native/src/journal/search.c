/* search.c -- which commits of a file of the journal are of a handler, a request, a time, or touch a container. */
#include "internal.h"

#include <string.h>

static bool is_text(const char *text, const char *bytes, uint8_t n) { return text == NULL || (strlen(text) == n && memcmp(text, bytes, n) == 0); }

static bool has(const uint64_t *sorted, uint64_t n, uint64_t id)
{
    uint64_t low = 0, high = n;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (sorted[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && sorted[low] == id;
}

static bool has_key(const uint64_t *sorted, uint64_t n, uint64_t id, uint64_t hash)
{
    uint64_t low = 0, high = n;
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2, *pair = sorted + 2 * middle;
        if (pair[0] < id || (pair[0] == id && pair[1] < hash))
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && sorted[2 * low] == id && sorted[2 * low + 1] == hash;
}

static bool touches(const struct rcv_search *s, const struct rcv_commit *r, const uint8_t *at)
{
    struct rcv_commit_unit unit;
    if (s->anywhere || (r->flags & RCV_COMMIT_UNITS_CUT))
        return true;
    for (uint32_t i = 0; i < r->units; i++) {
        memcpy(&unit, at + i * sizeof unit, sizeof unit);
        if (has(s->containers, s->n_containers, unit.id) ||
            ((unit.where & 0xff) == RCV_UNIT_KEY && has_key(s->keys, s->n_keys, unit.id, unit.arg)))
            return true;
    }
    return false;
}

static bool fits(const struct rcv_search *s, const struct rcv_commit *r)
{
    const char *name = (const char *)(r + 1), *id = name + ((r->name + 7u) & ~7u);
    return !(r->flags & RCV_COMMIT_SLICE) && r->seq >= s->seq_from && r->seq <= s->seq_to && r->at >= s->at_from && r->at <= s->at_to &&
           is_text(s->handler, name, r->name) && is_text(s->id, id, r->id) &&
           touches(s, r, (const uint8_t *)id + ((r->id + 7u) & ~7u));
}

#define BROKEN 2

struct hits {
    struct rcv_hit *all;
    uint64_t        n, room;
};

static int keep(struct hits *hits, struct rcv_hit one)
{
    if (hits->n == hits->room) {
        const uint64_t  more = hits->room == 0 ? 256 : hits->room * 2;
        struct rcv_hit *larger = os_realloc(hits->all, more * sizeof one);
        if (larger == NULL)
            return rcv_raise(RCV_ERR_FULL, 0, "no memory for what was found in a journal");
        hits->all = larger;
        hits->room = more;
    }
    hits->all[hits->n++] = one;
    return 0;
}

/* search_in -- the records [position, end) of the feed, which lie at `data`, and at `offset` of their file. 1: no more is looked
 * for behind them; BROKEN: what lies at *at is no whole record. */
static int search_in(const struct rcv_search *s, const uint8_t *data, uint64_t position, uint64_t end, uint64_t offset, struct hits *hits,
                     uint64_t *at)
{
    for (*at = position; *at < end && *at < s->end;) {
        const struct rcv_commit *r = (const struct rcv_commit *)(const void *)(data + (*at - position));
        if (rcv_commit_ranges(r, end - *at) == NULL)
            return BROKEN;
        if (r->seq > s->seq_to || r->at > s->at_to) /* both only grow */
            return 1;
        if (*at >= s->position && fits(s, r)) {
            int rc = keep(hits, (struct rcv_hit){offset + (*at - position), r->length, *at});
            if (rc != 0)
                return rc;
            if (hits->n == s->most)
                return 1;
        }
        *at += r->length;
    }
    return 0;
}

int rcv_journal_search(rcv_journal_file *f, const struct rcv_search *s, struct rcv_hit **out, uint64_t *n)
{
    struct rcv_journal_batch b;
    struct hits              hits = {NULL, 0, 0};
    uint64_t                 at;
    int                      rc, found = 0;
    while (found == 0 && (rc = rcv_journal_next(f, &b)) == 1 && b.position < s->end)
        if (b.end > s->position)
            found = search_in(s, b.data, b.position, b.end, b.offset + sizeof(struct rcv_batch), &hits, &at);
    *out = hits.all;
    *n = hits.n;
    if (found == BROKEN)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "the batch at offset %llu of file %llu of the journal holds no whole record at %llu",
                         (unsigned long long)b.offset, (unsigned long long)f->start.number, (unsigned long long)(at - b.position));
    return found < 0 ? found : (found == 1 || rc > 0) ? 0 : rc;
}

int rcv_journal_search_batch(const void *records, uint64_t length, uint64_t position, const struct rcv_search *s, struct rcv_hit **out, uint64_t *n)
{
    struct hits hits = {NULL, 0, 0};
    uint64_t    at;
    uint64_t    skipped = s->position > position ? s->position - position : 0;
    skipped = skipped < length ? skipped : length;
    int found = search_in(s, (const uint8_t *)records + skipped, position + skipped, position + length, skipped, &hits, &at);
    *out = hits.all;
    *n = hits.n;
    if (found == BROKEN)
        return rcv_raise(RCV_ERR_CORRUPT, 0, "a batch of a journal holds no whole record at %llu", (unsigned long long)(at - position));
    return found < 0 ? found : 0;
}

void rcv_journal_hits_free(struct rcv_hit *found) { os_free(found); }
