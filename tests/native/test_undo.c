/* test_undo.c -- does undoing give back the old bytes, whatever was written, wherever it was killed, whatever the log holds? */
#include "scratch.h"

#include <errno.h>
#include <stddef.h>

#define AREA 4096u /* words that the random scenarios write to */

static void test_records_come_back_newest_first(void)
{
    rcv_arena         *a = scratch_arena(scratch_object(), MIB);
    struct undo_record r;
    step_begin(a);
    uint64_t at = undo_tail(a);
    CHECK(at == 0 && undo_prev(a, &at, &r) == 0);
    memcpy(nth_word(a, 0), "abcdefghijklmnopqrstuvwxyz", 26);
    for (uint32_t len = 1; len <= 26; len++)
        CHECK(undo_append(a, a->data_off, len, len % 2 ? RCV_U_DATA : RCV_U_STRUCT) == 0);
    at = undo_tail(a);
    for (uint32_t len = 26; len >= 1; len--) {
        uint64_t end = at;
        CHECK(undo_prev(a, &at, &r) == 1);
        CHECK(r.off == a->data_off && r.len == len && r.kind == (len % 2 ? RCV_U_DATA : RCV_U_STRUCT));
        CHECK(r.start == at && end - at == undo_cost(len));
        CHECK(memcmp(r.old, "abcdefghijklmnopqrstuvwxyz", len) == 0);
    }
    CHECK(at == 0 && undo_prev(a, &at, &r) == 0);
    CHECK(a->n.undo_records == 26);
    step_rollback(a);
    CHECK(rcv_close(a) == 0);
}

static void test_random_writes_are_undone_to_any_mark(void)
{
    static uint64_t seen[8][AREA];
    uint64_t        marks[8];
    rcv_arena      *a = scratch_arena(scratch_object(), MIB);
    for (int round = 0; round < 50; round++) {
        step_begin(a);
        for (int m = 0; m < 8; m++) {
            memcpy(seen[m], nth_word(a, 0), sizeof seen[m]);
            marks[m] = undo_tail(a);
            for (int i = 0; i < 40; i++) {
                uint32_t len = 1 + (uint32_t)rnd(rnd(4) ? 24 : 4096);
                uint64_t off = rnd(sizeof seen[m] - len);
                CHECK(undo_append(a, a->data_off + off, len, RCV_U_DATA) == 0);
                memset(a->core + a->data_off + off, (int)rnd(256), len);
            }
            if (rnd(2)) {
                uint64_t page = rnd(sizeof seen[m] / 4096) * 4096;
                CHECK(undo_append_trap(a, a->data_off + page) == 0);
                memset(a->core + a->data_off + page, 0x55, 4096);
            }
        }
        for (int m = 7; m >= 0; m--) {
            struct rcv_recovery report = {0};
            if (rnd(3) == 0)
                continue; /* skip a savepoint */
            CHECK(undo_apply(a, marks[m], &report) == 0);
            CHECK(report.records >= 40);
            CHECK(memcmp(seen[m], nth_word(a, 0), sizeof seen[m]) == 0);
            undo_cut(a, marks[m]);
        }
        if (rnd(2))
            step_rollback(a);
        else
            step_commit(a);
        CHECK(undo_tail(a) == 0);
    }
    CHECK(rcv_close(a) == 0);
}

static void test_growing_and_trimming(void)
{
    rcv_arena *a = scratch_arena(scratch_object(), 16 * MIB);
    CHECK(a->undo_size == 8 * MIB);
    CHECK(atomic_load(&a->hdr->undo_claimed) == RCV_SLICE);
    step_begin(a);
    uint64_t before = undo_tail(a);
    CHECK(undo_reserve(a, 3 * MIB) == 0);
    CHECK(undo_tail(a) == before && atomic_load(&a->hdr->undo_claimed) == 3 * MIB);
    CHECK(undo_reserve(a, a->undo_size + 1) == RCV_ERR_FULL);
    CHECK(strstr(rcv_error_text(), "undo_size") != NULL);
    uint64_t n = 0;
    int      rc;
    while ((rc = undo_append(a, a->data_off, 4096, RCV_U_PAGE)) == 0)
        n++;
    CHECK(rc == RCV_ERR_FULL && n == 8 * MIB / 4112);
    uint64_t tail = undo_tail(a);
    CHECK(undo_append_trap(a, a->data_off) == RCV_ERR_FULL);
    CHECK(undo_tail(a) == tail);
    CHECK(undo_append(a, a->data_off, 8, RCV_U_DATA) == 0); /* a small one still fits: nothing was half-appended */
    undo_trim(a);
    CHECK(atomic_load(&a->hdr->undo_claimed) == 8 * MIB); /* not while the log is in use */
    step_rollback(a);
    struct stat full, cut;
    CHECK(fstat(a->fd, &full) == 0);
    undo_trim(a);
    CHECK(fstat(a->fd, &cut) == 0);
    CHECK(atomic_load(&a->hdr->undo_claimed) == RCV_SLICE);
    CHECK((uint64_t)(full.st_blocks - cut.st_blocks) * 512 == 8 * MIB - RCV_SLICE);
    CHECK(rcv_close(a) == 0);
}

static void test_full_memory_appends_nothing(void)
{
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: full memory");
        return;
    }
    rcv_arena *a = scratch_arena(scratch_object(), 16 * MIB);
    step_begin(a);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        rcv_fail_at(RCV_FAIL_FALLOCATE, nth);
        int rc;
        while ((rc = undo_append(a, a->data_off, 4096, RCV_U_DATA)) == 0)
            continue;
        CHECK(rc == RCV_ERR_FULL && rcv_error_errno() == ENOSPC);
        CHECK(undo_tail(a) <= atomic_load(&a->hdr->undo_claimed));
        rcv_fail_at(RCV_FAIL_FALLOCATE, 1);
        CHECK(undo_append_trap(a, a->data_off) == RCV_ERR_FULL);
    }
    rcv_fail_at(RCV_FAIL_FALLOCATE, 0);
    step_rollback(a);
    CHECK(rcv_close(a) == 0);
}

/* forge -- a log of one record with that head, `room` bytes before it. */
static int forge(rcv_arena *a, uint64_t room, rcv_off off, uint32_t len, uint32_t kind)
{
    struct rcv_undo_head head = {off, len, kind};
    struct undo_record   r;
    memcpy(a->undo + room, &head, sizeof head);
    uint64_t at = room + sizeof head;
    return undo_prev(a, &at, &r);
}

static void test_only_what_can_be_undone_is(void)
{
    rcv_arena      *a = scratch_arena(scratch_object(), MIB);
    const uint64_t  data = a->data_off, heap = a->hdr->region[RCV_R_HEAP].off, heap_end = heap + a->hdr->region[RCV_R_HEAP].size;
    const uint64_t  claimed = rcv_data_claimed(a);
    const uint32_t  ok = RCV_U_DATA | RCV_UNDO_MARK, page = RCV_U_PAGE | RCV_UNDO_MARK;
    const struct {
        rcv_off  off;
        uint32_t len, kind;
        int      rc;
    } cases[] = {
        {data, 8, ok, 1},
        {data, 8, RCV_U_STRUCT | RCV_UNDO_MARK, 1},
        {data, 4096, ok, 1},
        {data + claimed - 8, 8, ok, 1},
        {data + claimed - 7, 8, ok, RCV_ERR_CORRUPT},
        {data + claimed, 1, ok, RCV_ERR_CORRUPT},
        {data - 1, 8, ok, RCV_ERR_CORRUPT},
        {data, 4096, page, 1},
        {data, 4088, page, RCV_ERR_CORRUPT},
        {data + 8, 4096, page, RCV_ERR_CORRUPT},
        {heap, 4096, page, RCV_ERR_CORRUPT},
        {heap, 8, ok, 1},
        {heap_end - 8, 8, ok, 1},
        {heap - 1, 8, ok, RCV_ERR_CORRUPT},
        {offsetof(struct rcv_header, system), 8, ok, 1},
        {offsetof(struct rcv_header, root), 8, ok, 1},
        {offsetof(struct rcv_header, reclaim), 8, ok, 1},
        {offsetof(struct rcv_header, system) - 1, 8, ok, RCV_ERR_CORRUPT},
        {offsetof(struct rcv_header, reclaim) + 1, 8, ok, RCV_ERR_CORRUPT},
        {offsetof(struct rcv_header, phase), 4, ok, RCV_ERR_CORRUPT},
        {offsetof(struct rcv_header, lock), 8, ok, RCV_ERR_CORRUPT},
        {a->undo_off, 8, ok, RCV_ERR_CORRUPT},
        {0, 8, ok, RCV_ERR_CORRUPT},
        {UINT64_MAX, 8, ok, RCV_ERR_CORRUPT},
        {UINT64_MAX - 7, 8, ok, RCV_ERR_CORRUPT},
        {data, 0, ok, RCV_ERR_CORRUPT},
        {data, UINT32_MAX, ok, RCV_ERR_CORRUPT},
        {data, 4097, ok, RCV_ERR_CORRUPT}, /* more than lies before the head */
        {data, 8, RCV_U_DATA, RCV_ERR_CORRUPT},
        {data, 8, RCV_UNDO_MARK, RCV_ERR_CORRUPT},
        {data, 8, 4 | RCV_UNDO_MARK, RCV_ERR_CORRUPT},
        {data, 8, 0, RCV_ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = forge(a, 4096, cases[i].off, cases[i].len, cases[i].kind);
        if (rc != cases[i].rc)
            fprintf(stderr, "case %zu: %d\n", i, rc);
        CHECK(rc == cases[i].rc);
    }
    const uint64_t tails[] = {1, 7, 8, 12, RCV_SLICE + 8, a->undo_size + 16, UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 63};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        uint64_t           at = tails[i];
        struct undo_record r;
        CHECK(undo_prev(a, &at, &r) == RCV_ERR_CORRUPT);
        CHECK(at == tails[i]);
    }
    CHECK(rcv_close(a) == 0);
}

static void test_a_scribbled_log_is_an_error_or_undone(void)
{
    rcv_arena *a = scratch_arena(scratch_object(), MIB);
    int        damaged = 0;
    for (int round = 0; round < 3000; round++) {
        step_begin(a);
        for (int i = 0; i < 20; i++)
            put(a, rnd(AREA), rnd(UINT64_MAX));
        for (uint64_t i = rnd(4) + 1; i > 0; i--)
            a->undo[rnd(undo_tail(a))] ^= (uint8_t)(1u << rnd(8));
        struct rcv_recovery report = {0};
        int                 rc = undo_apply(a, 0, &report);
        CHECK(rc == 0 || rc == RCV_ERR_CORRUPT);
        damaged += rc != 0;
        undo_cut(a, 0);
        phase_set(a, RCV_IDLE);
        lock_drop(a);
    }
    CHECK(damaged > 500); /* most flips hit old bytes, which nothing can tell; those in heads are found */
    CHECK(rcv_close(a) == 0);
}

/* -- killed at every point ------------------------------------------------------------------------------------- */

struct scenario {
    int      fd;
    uint64_t nth;
    bool     commit;
};

/* scenario -- a step of announced writes that grows the log, then commit or rollback. */
static void scenario(void *arg)
{
    const struct scenario *s = arg;
    rcv_arena             *a = scratch_arena(s->fd, 0);
    rcv_crash_at(s->nth);
    step_begin(a);
    for (uint64_t i = 0; i < 8; i++)
        put(a, i, 100 + i);
    CHECK(undo_append_trap(a, a->data_off + 4096) == 0);
    *nth_word(a, 512) = 100;
    CHECK(undo_reserve(a, 2 * MIB) == 0);
    put(a, 0, 1000);
    if (s->commit)
        step_commit(a);
    else
        step_rollback(a);
    undo_trim(a);
    if (rcv_crash_count() < s->nth)
        _exit(42); /* survived */
    _exit(1);
}

static void test_killed_at_every_point(bool commit)
{
    if (!rcv_test_build()) {
        puts("skip: needs -Dcrashpoints=true: killed at every point");
        return;
    }
    struct scenario s = {.fd = scratch_object(), .nth = 0, .commit = commit};
    CHECK(rcv_close(scratch_arena(s.fd, 8 * MIB)) == 0);
    for (;;) {
        s.nth++;
        rcv_arena *a = scratch_arena(s.fd, 0); /* before: a known state, committed */
        step_begin(a);
        for (uint64_t i = 0; i < 8; i++)
            put(a, i, i);
        put(a, 512, 512);
        step_commit(a);
        CHECK(rcv_close(a) == 0);
        int status = child(scenario, &s);
        a = scratch_arena(s.fd, 0);
        bool after = *nth_word(a, 0) == 1000;
        for (uint64_t i = 0; i < 8; i++)
            CHECK(*nth_word(a, i) == (after ? i == 0 ? 1000 : 100 + i : i));
        CHECK(*nth_word(a, 512) == (after ? 100 : 512));
        CHECK(atomic_load(&a->hdr->phase) == RCV_IDLE && undo_tail(a) == 0);
        CHECK(commit || !after);
        CHECK(rcv_close(a) == 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 42) {
            CHECK(after == commit);
            break;
        }
        CHECK(was_killed(status));
    }
    CHECK(s.nth > 20);
    close(s.fd);
}

int main(void)
{
    test_records_come_back_newest_first();
    test_random_writes_are_undone_to_any_mark();
    test_growing_and_trimming();
    test_full_memory_appends_nothing();
    test_only_what_can_be_undone_is();
    test_a_scribbled_log_is_an_error_or_undone();
    test_killed_at_every_point(true);
    test_killed_at_every_point(false);
    CHECKS_DONE();
    return 0;
}
