/* stash.c -- a suspended transaction's own new bytes, in process memory.
 *
 * What is stashed: the ranges that its announced writes cover (RCV_U_DATA records), and the items that raw writes may have
 * changed (raw.c). What is not: structure (RCV_U_STRUCT), which is rebuilt from the transaction's own operations at the
 * next step; and fresh memory as it was first filled, which stays where it is, because nobody else can reach it.
 */
#include "transaction.h"

/* undo_ranges -- undo the announced writes alone; undo_apply(), which does all, follows. */
static int undo_ranges(rcv_arena *a)
{
    struct undo_walk w = undo_walk(a, UNDO_ANNOUNCED);
    while (undo_next(&w))
        memcpy(a->core + w.r.off, w.r.old, w.r.len);
    return w.error;
}

/* stash_fresh -- trap mode undoes whole pages, and with them what the transaction has first put into memory that it has
 * allocated: keep that until the undo is done. It needs no protection while it lies there: nobody else can reach it. */
static int stash_fresh(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    uint64_t   page = a->hdr->page_size, size, to;
    bool       live;
    int        undone = undo_ranges(a);
    if (undone < 0)
        return undone;
    for (uint64_t i = 0; i < t->n_intents; i++) {
        if (t->intents[i].op != RCV_I_ALLOC)
            continue; /* growth is undone, and its memory given back */
        rcv_off off = t->intents[i].a;
        int     rc = heap_block(a, off, &size, &live);
        for (rcv_off end = off + size; rc == 0 && off < end; off = (off / page + 1) * page) {
            struct rcv_stash_item item = {.off = off, .len = (uint32_t)(end - off < page - off % page ? end - off : page - off % page)};
            if (!tracker_undoes(a, off))
                continue;
            if ((rc = vec_room(&t->stash, &t->n_stash, &t->cap_stash, sizeof item + item.len, &to)) != 0)
                break;
            memcpy(t->stash + to, &item, sizeof item);
            memcpy(t->stash + to + sizeof item, a->core + off, item.len);
        }
        if (rc)
            return rc;
    }
    return 0;
}

/* stash_fill -- copy what the transaction has written. Ranges may overlap: all hold the newest bytes, so order is free. */
int stash_fill(rcv_txn *t)
{
    rcv_arena       *a = t->arena;
    struct undo_walk w = undo_walk(a, UNDO_KIND(RCV_U_DATA));
    uint64_t         to;
    int              rc = 0;
    t->n_stash = 0;
    while (rc == 0 && undo_next(&w)) {
        struct rcv_stash_item item = {.off = w.r.off, .len = w.r.len};
        if (MUTATED("stash.miss_range") && w.at == 0)
            continue;
        rc = vec_room(&t->stash, &t->n_stash, &t->cap_stash, sizeof item + item.len, &to);
        if (rc)
            break;
        memcpy(t->stash + to, &item, sizeof item);
        memcpy(t->stash + to + sizeof item, a->core + item.off, item.len);
    }
    t->stash_items = t->n_stash;
    if (rc == 0)
        rc = w.error;
    if (rc == 0)
        rc = raw_stash(t);
    t->fresh = t->n_stash;
    return rc || !a->trap_mode ? rc : stash_fresh(t);
}

/* stash_keep_fresh -- the step is undone: what was put into new memory is there again. */
void stash_keep_fresh(rcv_txn *t)
{
    struct rcv_stash_item item;
    for (uint64_t at = t->fresh; at < t->n_stash; at += sizeof item + ((item.len + 7u) & ~7u)) {
        memcpy(&item, t->stash + at, sizeof item);
        tracker_keep(t->arena, item.off, t->stash + at + sizeof item, item.len);
    }
    t->n_stash = t->fresh;
}

/* stash_put_back -- write the stash into the arena again, undo-logged. Raw writes first: they are compared with what is
 * committed. */
int stash_put_back(rcv_txn *t)
{
    rcv_arena *a = t->arena;
    int        rc = raw_put_back(t);
    for (uint64_t at = 0; at < t->stash_items && rc == 0;) {
        struct rcv_stash_item item;
        memcpy(&item, t->stash + at, sizeof item);
        rc = txn_log(t, item.off, item.len, RCV_U_DATA);
        if (rc)
            break;
        CRASHPOINT("resume.before_write");
        memcpy(rcv_store_at(a, item.off), t->stash + at + sizeof item, item.len);
        tracker_note_announced(a, item.off, item.len);
        at += sizeof item + ((item.len + 7u) & ~7u);
    }
    return rc ? rc : intent_resume(t);
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
    for (uint64_t at = 0; at < t->stash_items; at += sizeof item + ((item.len + 7u) & ~7u)) {
        memcpy(&item, t->stash + at, sizeof item);
        report->records++;
        report->bytes += item.len;
    }
    report->records += t->raw.n_pages;
    report->bytes += t->raw.n_pages * t->arena->hdr->page_size;
    report->pages += t->raw.n_pages;
}
