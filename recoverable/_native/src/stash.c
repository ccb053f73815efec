/* stash.c -- a suspended transaction's own new bytes, in process memory.
 *
 * What is stashed: the ranges that its announced writes cover (RCV_U_DATA records), and whole pages that raw writes have
 * changed. What is not: structure (RCV_U_STRUCT), which is rebuilt from the transaction's own operations at the next step;
 * and fresh memory as it was first filled, which stays where it is, because nobody else can reach it.
 */
#include "internal.h"

static int stash_one(rcv_txn *t, rcv_off off, uint32_t len, unsigned kind)
{
    uint64_t size = sizeof(struct rcv_stash_item) + ((len + 7u) & ~7u);
    if (t->n_stash + size > t->cap_stash) {
        int rc = vec_grow((void **)&t->stash, &t->cap_stash, t->n_stash + size, 1);
        if (rc)
            return rc;
    }
    struct rcv_stash_item item = {.off = off, .len = len, .kind = kind};
    memcpy(t->stash + t->n_stash, &item, sizeof item);
    memcpy(t->stash + t->n_stash + sizeof item, t->arena->core + off, len);
    t->n_stash += size;
    return 0;
}

/* stash_fill -- copy what the transaction has written. Ranges may overlap: all hold the newest bytes, so order is free. */
int stash_fill(rcv_txn *t)
{
    rcv_arena         *a = t->arena;
    struct undo_record r;
    uint64_t           at = undo_tail(a);
    int                rc = 0, more;
    t->n_stash = 0;
    while (rc == 0 && (more = undo_prev(a, &at, &r)) != 0) {
        if (more < 0)
            return more;
        if (r.kind == RCV_U_DATA)
            rc = stash_one(t, r.off, r.len, RCV_U_DATA);
    }
    uint32_t page = a->hdr->page_size;
    for (uint64_t i = 0; i < t->n_raw_pages && rc == 0; i++)
        rc = stash_one(t, a->data_off + (uint64_t)t->raw_pages[i] * page, page, RCV_U_PAGE);
    return rc;
}

/* stash_put_back -- write the stash into the arena again, undo-logged. */
int stash_put_back(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    for (uint64_t at = 0; at < t->n_stash;) {
        struct rcv_stash_item item;
        memcpy(&item, t->stash + at, sizeof item);
        int rc = txn_log(t, item.off, item.len, item.kind);
        if (rc)
            return rc;
        CRASHPOINT("resume.before_write");
        memcpy(a->core + item.off, t->stash + at + sizeof item, item.len);
        tracker_note_announced(a, item.off, item.len);
        at += sizeof item + ((item.len + 7u) & ~7u);
    }
    return intent_resume(t);
}

/* stash_count_lost -- what a transaction loses by its rollback besides what was undone in place: stashed bytes and new memory. */
void stash_count_lost(const rcv_txn *t, bool stashed, struct rcv_recovery *report)
{
    struct rcv_stash_item item;
    uint64_t              size;
    bool                  live;
    for (uint64_t i = 0; i < t->n_intents; i++)
        if (t->intents[i].op == RCV_I_ALLOC && heap_block(t->arena, t->intents[i].a, &size, &live) == 0) {
            report->records++;
            report->bytes += size;
        }
    if (!stashed)
        return;
    for (uint64_t at = 0; at < t->n_stash; at += sizeof item + ((item.len + 7u) & ~7u)) {
        memcpy(&item, t->stash + at, sizeof item);
        report->records++;
        report->bytes += item.len;
        report->pages += item.kind == RCV_U_PAGE;
    }
}
