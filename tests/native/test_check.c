/* test_check.c -- rcv_verify: what is sound passes, what is not is named, and no garbage leads it astray. */
#include "dicts.h"

#include <stdio.h>

static const char *numbered(unsigned i)
{
    static char name[24];
    snprintf(name, sizeof name, "key %u", i);
    return name;
}

/* fill -- a state with a bit of everything: root["a"]["b"]["c"], blobs, Arrays, a Dict of `n` keys. */
static void fill(rcv_arena *a, unsigned n)
{
    rcv_txn *t = begin(a);
    rcv_off  x = set_dict(t, rcv_root(a), "a"), y = set_dict(t, x, "b"), big = set_dict(t, rcv_root(a), "big");
    set_int(t, y, "c", 3);
    set_bytes(t, y, "blob", 100000);
    set_bytes(t, y, "inline", 5);
    set_array(t, x, "small", 100);
    set_array(t, x, "large", 30000);
    set_array(t, x, "empty", 0);
    rcv_off zoo = set_dict(t, rcv_root(a), "zoo");
    set_zoo(t, zoo, n % 1000);
    commit(t);
    for (unsigned i = 0; i < n;) {
        t = begin(a);
        for (unsigned k = 0; k < 500 && i < n; k++, i++)
            if (i % 7)
                set_int(t, big, numbered(i), i);
            else
                set_bytes(t, big, numbered(i), i % 400);
        commit(t);
    }
}

static rcv_off child_at(rcv_arena *a, rcv_off d, const char *name, rcv_off *entry)
{
    struct rcv_dict_iter it = {0};
    struct rcv_value     key, value;
    OK(lock_take(a));
    while (rcv_dict_next(a, NULL, d, &it, RCV_ITER_KEYS | RCV_ITER_VALUES, &key, &value) == 1)
        if (key.len == strlen(name) && memcmp(key.ptr, name, key.len) == 0) {
            lock_drop(a);
            if (entry)
                *entry = it.entry;
            return value.tag == RCV_T_REF ? value.word : 0;
        }
    fprintf(stderr, "no %s\n", name);
    exit(1);
}

/* A sound arena is sound, at every size of its tables, and nothing of it is a leak. */
static void test_sound(void)
{
    static const unsigned sizes[] = {0, 1, 8, 9, 100, 512, 513, 3000, 20000};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int        fd = scratch_object();
        rcv_arena *a = rooted_arena(fd, 32 * MIB);
        CHECK(verified(a).containers == 1);
        fill(a, sizes[i]);
        struct rcv_verify_report r = verified(a);
        CHECK(r.containers == 7 + 1 + 6 + 3);
        CHECK(r.entries == sizes[i] + 10 + 6 + 3 * (sizes[i] % 1000) + 1 + 1 + 3 + 1 + 3 + sizes[i] % 1000 % 50);
        OK(rcv_close(a));
        close(fd);
    }
}

/* It looks at committed state only: never inside a transaction of this thread, always beside one that waits. */
static void test_transactions(void)
{
    int                      fd = scratch_object();
    rcv_arena               *a = rooted_arena(fd, 8 * MIB);
    struct rcv_verify_report r;
    rcv_txn                 *t = begin(a);
    rcv_off                  d = set_dict(t, rcv_root(a), "waits");
    for (unsigned i = 0; i < 2000; i++)
        set_bytes(t, d, numbered(i), 50);
    CHECK(rcv_verify(a, &r) == RCV_ERR_MISUSE);
    OK(rcv_txn_suspend(t));
    r = verified(a);
    CHECK(r.containers == 1 && r.entries == 0);
    OK(rcv_txn_mount(t));
    commit(t);
    r = verified(a);
    CHECK(r.containers == 2 && r.entries == 2001);
    t = begin(a);
    for (unsigned i = 0; i < 2000; i += 2)
        CHECK(del(t, d, numbered(i)) == 1);
    rcv_txn_rollback(t);
    rcv_txn_free(t);
    CHECK(verified(a).entries == 2001);
    OK(rcv_close(a));
    close(fd);
}

/* hurt -- change one word, look for the damage and its name, put the word back. */
static void hurt(rcv_arena *a, rcv_off off, uint64_t value, const char *path, const char *what)
{
    struct rcv_verify_report r;
    uint64_t                 was;
    memcpy(&was, a->core + off, 8);
    memcpy(a->core + off, &value, 8);
    int rc = rcv_verify(a, &r);
    if (rc != RCV_ERR_CORRUPT || strstr(rcv_error_text(), path) == NULL || strstr(rcv_error_text(), what) == NULL)
        fprintf(stderr, "%s: %s: got %d: %s\n", path, what, rc, rc ? rcv_error_text() : "");
    CHECK(rc == RCV_ERR_CORRUPT);
    CHECK(strstr(rcv_error_text(), path) != NULL && strstr(rcv_error_text(), what) != NULL);
    CHECK(atomic_load(&a->hdr->corrupt) == 0);
    memcpy(a->core + off, &was, 8);
    verified(a);
}

/* longest_key -- of those that an iteration gives. */
static uint64_t longest_key(rcv_arena *a, rcv_off d)
{
    struct rcv_dict_iter it = {0};
    struct rcv_value     key;
    uint64_t             longest = 0;
    OK(lock_take(a));
    while (rcv_dict_next(a, NULL, d, &it, RCV_ITER_KEYS, &key, NULL) == 1)
        longest = key.len > longest ? key.len : longest;
    OK(lock_drop(a));
    return longest;
}

/* A Dict of rows: what can be wrong with it is found and named. */
static void test_rows(void)
{
    int              fd = scratch_object();
    rcv_arena       *a = rooted_arena(fd, 8 * MIB);
    struct rcv_item  items[3];
    const char      *names[3] = {"from", "to", "amount"};
    struct rcv_value v = {.tag = RCV_T_REF};
    rcv_off          d, rest;
    for (unsigned i = 0; i < 3; i++)
        items[i] = (struct rcv_item){.key = key_of(a, names[i]), .value = {.tag = RCV_T_INT, .word = i}};
    rcv_txn *t = begin(a);
    OK(rcv_dict_pack(t, items, 3, &d));
    v.word = d;
    OK(set(t, rcv_root(a), "p", &v));
    items[2].key = items[0].key;
    CHECK(rcv_dict_pack(t, items, 3, &rest) == 1 && rcv_dict_pack(t, items, 0, &rest) == 1);
    commit(t);
    CHECK(verified(a).entries == 4 && verified(a).blocks == 3);
    t = begin(a);
    set_int(t, d, "new", 1);
    CHECK(del(t, d, "to") == 1);
    commit(t);
    CHECK(verified(a).entries == 4 && verified(a).blocks == 5);

    const rcv_off rows = offsetof(struct rcv_dict, rows), first = d + rows + sizeof(struct rcv_rows);
    struct rcv_dict *dict = (struct rcv_dict *)(void *)(a->core + d);
    rest = dict->rows.rest;
    hurt(a, d + offsetof(struct rcv_container, kind), (RCV_CONTAINER_MARK | RCV_K_DICT) | UINT64_C(4) << 32, "root[\"p\"]", "flags");
    hurt(a, d + offsetof(struct rcv_container, count), 1, "root[\"p\"]", "counted");
    hurt(a, d + offsetof(struct rcv_container, count), 4, "root[\"p\"]", "counted");
    hurt(a, d + rows, 0, "root[\"p\"]", "counted");
    hurt(a, d + rows, rest + 16, "root[\"p\"]", "entries");
    hurt(a, d + rows, d, "root[\"p\"]", "entries");
    hurt(a, d + rows + 8, 1 | UINT64_C(2) << 32 | (uint64_t)dict->rows.size << 48, "root[\"p\"]", "rows in");
    hurt(a, d + rows + 8, 1 | UINT64_C(3) << 32 | UINT64_C(64) << 48, "root[\"p\"]", "rows in");
    hurt(a, d + rows + 8, 1 | UINT64_C(3) << 32 | UINT64_C(60000) << 48, "root[\"p\"]", "in a block of");
    hurt(a, first, 99, "root[\"p\"][\"from\"]", "unknown type");
    hurt(a, first + 16, RCV_T_STR | RCV_T_STR << 8 | 4 << 16 | UINT64_C(8) << 24, "root[\"p\"]", "a row with the flags");
    const uint64_t text = RCV_T_STR | RCV_T_STR << 8; /* and its length, its flags, four bytes of it */
    hurt(a, first + 16, text | 3 << 16 | UINT64_C(0x0077656e) << 32, "root[\"p\"][\"new\"]", "a row and an entry with one key");
    hurt(a, first + 16, text | 200 << 16, "root[\"p\"]", "rows in");

    /* A key that is longer than the rows is not read, though memory follows. */
    struct rcv_row *last = (struct rcv_row *)(void *)(a->core + first + 48);
    CHECK(last->key_len == 6 && longest_key(a, d) == 6);
    last->key_len = 200;
    CHECK(longest_key(a, d) == 4);
    last->key_len = 6;
    OK(rcv_close(a));
    close(fd);
}

/* Two rows that have become one key; rows that end before their size does. */
static void test_twins(void)
{
    int              fd = scratch_object();
    rcv_arena       *a = rooted_arena(fd, 8 * MIB);
    const char      *names[3] = {"one", "two", "six"};
    struct rcv_item  items[3];
    struct rcv_value v = {.tag = RCV_T_REF};
    rcv_txn         *t = begin(a);
    for (unsigned i = 0; i < 3; i++)
        items[i] = (struct rcv_item){.key = key_of(a, names[i]), .value = {.tag = RCV_T_NONE}};
    OK(rcv_dict_pack(t, items, 3, &v.word));
    OK(set(t, rcv_root(a), "q", &v));
    commit(t);
    const rcv_off second = v.word + RCV_ROWS_AT + ((sizeof(struct rcv_row) + 3 + 7) & ~UINT64_C(7));
    uint64_t      key;
    memcpy(&key, a->core + v.word + RCV_ROWS_AT + sizeof(struct rcv_cell), sizeof key);
    hurt(a, second + sizeof(struct rcv_cell), key, "root[\"q\"][\"one\"]", "two rows with one key");
    hurt(a, v.word + offsetof(struct rcv_dict, rows) + 8, UINT64_C(3) << 32 | UINT64_C(76) << 48, "root[\"q\"]", "rows in");
    OK(rcv_close(a));
    close(fd);
}

/* A List of which the first items lie in its own block, grown past them: what can be wrong with it is found and named. */
static void test_first(void)
{
    int              fd = scratch_object();
    rcv_arena       *a = rooted_arena(fd, 8 * MIB);
    struct rcv_value v = {.tag = RCV_T_INT, .word = 7}, ref = {.tag = RCV_T_REF};
    rcv_off          l;
    rcv_txn         *t = begin(a);
    uint64_t         logged = a->n.undo_records;
    OK(rcv_list_make(t, 3, &l));
    for (unsigned i = 0; i < 3; i++)
        OK(rcv_list_fill(t, l, i, &v));
    CHECK(rcv_list_fill(t, l, 3, &v) < 0);
    CHECK(a->n.undo_records == logged);
    ref.word = l;
    OK(set(t, rcv_root(a), "p", &ref));
    commit(t);
    CHECK(verified(a).entries == 4 && verified(a).blocks == 3);
    t = begin(a);
    OK(rcv_list_append(t, l, &v));
    commit(t);
    CHECK(verified(a).entries == 5 && verified(a).blocks == 5);

    const rcv_off          first = offsetof(struct rcv_list, first), cells = l + first + sizeof(struct rcv_first);
    const struct rcv_list *list = (const struct rcv_list *)(const void *)(a->core + l);
    rcv_off                rest = list->first.rest;
    rcv_off                leaf = ((struct rcv_table *)(void *)(a->core + rest))->first[0];
    hurt(a, l + offsetof(struct rcv_container, kind), (RCV_CONTAINER_MARK | RCV_K_LIST) | UINT64_C(4) << 32, "root[\"p\"]", "flags");
    hurt(a, l + offsetof(struct rcv_list, length), 3, "root[\"p\"]", "3 items in 1 chunks");
    hurt(a, l + offsetof(struct rcv_list, length), 33, "root[\"p\"]", "33 items in 1 chunks");
    hurt(a, l + first, 0, "root[\"p\"]", "4 items in 0 chunks");
    hurt(a, l + first, rest + 16, "root[\"p\"]", "table of a List");
    hurt(a, l + first + 8, 0, "root[\"p\"]", "0 items in its own block");
    hurt(a, l + first + 8, 33, "root[\"p\"]", "33 items in its own block");
    hurt(a, l + first + 8, 32, "root[\"p\"]", "in a block of");
    hurt(a, cells + 16, 99, "root[\"p\"]", "unknown type");
    hurt(a, leaf, RCV_T_NONE, "root[\"p\"]", "of no position");
    hurt(a, leaf + 3 * 16, 0, "root[\"p\"]", "unknown type 0");
    hurt(a, leaf + 4 * 16, RCV_T_NONE, "root[\"p\"]", "past the end");
    hurt(a, rest + offsetof(struct rcv_table, first), rest, "root[\"p\"]", "chunk");
    OK(rcv_close(a));
    close(fd);
}

/* Each kind of damage is found and named with its path. */
static void test_damage(void)
{
    int                      fd = scratch_object();
    rcv_arena               *a = rooted_arena(fd, 16 * MIB);
    struct rcv_verify_report r;
    fill(a, 2014);
    rcv_off entry_c, entry_blob, root = rcv_root(a), x = child_at(a, root, "a", NULL), y = child_at(a, x, "b", NULL);
    rcv_off array = child_at(a, x, "large", NULL), big = child_at(a, root, "big", NULL), entry_5;
    child_at(a, y, "c", &entry_c);
    child_at(a, y, "blob", &entry_blob);
    child_at(a, big, "key 5", &entry_5);
    struct rcv_dict  *d = (struct rcv_dict *)(void *)(a->core + y), *b = (struct rcv_dict *)(void *)(a->core + big);
    struct rcv_array *r8 = (struct rcv_array *)(void *)(a->core + array);

    hurt(a, entry_c + offsetof(struct rcv_entry, hash), 1, "root[\"a\"][\"b\"][\"c\"]", "hash");
    hurt(a, entry_c + offsetof(struct rcv_entry, value), 99, "root[\"a\"][\"b\"][\"c\"]", "unknown type");
    hurt(a, entry_c + offsetof(struct rcv_entry, flags), RCV_ENTRY_DEAD | UINT64_C(1) << 32, "root[\"a\"][\"b\"][\"c\"]", "flags");
    hurt(a, entry_c + offsetof(struct rcv_entry, after), entry_c, "root[\"a\"][\"b\"]", "order");
    hurt(a, entry_blob + offsetof(struct rcv_entry, value) + 8, entry_c, "root[\"a\"][\"b\"][\"blob\"]", "block");
    hurt(a, y + offsetof(struct rcv_container, count), 2, "root[\"a\"][\"b\"]", "2 that are counted");
    hurt(a, y + offsetof(struct rcv_container, count), 4, "root[\"a\"][\"b\"]", "4 are counted");
    hurt(a, y + offsetof(struct rcv_container, parent), root, "root[\"a\"][\"b\"]", "another place");
    hurt(a, y, 0, "root[\"a\"][\"b\"]", "id 0");
    hurt(a, y + offsetof(struct rcv_dict, e.head), d->e.tail, "root[\"a\"][\"b\"]", "order");
    hurt(a, y + offsetof(struct rcv_dict, e.tail), d->e.head, "root[\"a\"][\"b\"]", "order");
    hurt(a, y + offsetof(struct rcv_dict, e.table), 9, "root[\"a\"][\"b\"]", "9 words");
    hurt(a, big + offsetof(struct rcv_dict, e.table), 100, "root[\"big\"]", "counted");
    hurt(a, big + offsetof(struct rcv_dict, e.table) + offsetof(struct rcv_table, root), big, "root[\"big\"]", "table");
    hurt(a, big + offsetof(struct rcv_dict, e.table) + offsetof(struct rcv_table, depth), 7, "root[\"big\"]", "depth 7");
    hurt(a, entry_5, entry_5, "root[\"big\"]", "key"); /* a ring in a chain */
    hurt(a, array + offsetof(struct rcv_array, nbytes), r8->nbytes + 8, "root[\"a\"][\"large\"]", "shape");
    hurt(a, array + offsetof(struct rcv_array, data), r8->data + 8, "root[\"a\"][\"large\"]", "items");
    hurt(a, array + offsetof(struct rcv_array, data), b->c.parent, "root[\"a\"][\"large\"]", "items");
    rcv_off zoo = child_at(a, root, "zoo", NULL), list = child_at(a, zoo, "list", NULL), deque = child_at(a, zoo, "deque", NULL);
    rcv_off record = child_at(a, zoo, "record", NULL), cells = ((struct rcv_record *)(void *)(a->core + record))->cells;
    rcv_off block = ((struct rcv_deque *)(void *)(a->core + deque))->left_block;
    rcv_off leaf = ((struct rcv_list *)(void *)(a->core + list))->table.first[0];
    hurt(a, list + offsetof(struct rcv_list, length), 33, "root[\"zoo\"][\"list\"]", "33 items in");
    hurt(a, leaf, 77, "root[\"zoo\"][\"list\"]", "unknown type 77");
    hurt(a, leaf + 15 * 16, RCV_T_NONE, "root[\"zoo\"][\"list\"]", "past the end");
    hurt(a, list + offsetof(struct rcv_list, table) + offsetof(struct rcv_table, first), leaf + 32, "root[\"zoo\"][\"list\"]", "chunk");
    hurt(a, deque + offsetof(struct rcv_deque, left), RCV_DEQUE_START, "root[\"zoo\"][\"deque\"]", "outside both ends");
    hurt(a, deque + offsetof(struct rcv_deque, right_block), leaf, "root[\"zoo\"][\"deque\"]", "block");
    hurt(a, block + offsetof(struct rcv_block, base), 7, "root[\"zoo\"][\"deque\"]", "item");
    hurt(a, block + offsetof(struct rcv_block, next), block, "root[\"zoo\"][\"deque\"]", "block");
    hurt(a, record + offsetof(struct rcv_record, cells), leaf + 16, "root[\"zoo\"][\"record\"]", "fields");
    hurt(a, record + offsetof(struct rcv_record, cells), cells + 16, "root[\"zoo\"][\"record\"]", "fields");
    hurt(a, record + offsetof(struct rcv_record, fields), 40, "root[\"zoo\"][\"record\"]", "in a block of");
    hurt(a, cells + 2 * 16, 99, "root[\"zoo\"][\"record\"][field 2]", "unknown type 99");
    hurt(a, offsetof(struct rcv_header, reclaim), y, "arena", "something else");
    hurt(a, offsetof(struct rcv_header, root), entry_c, "arena", "no Dict");

    /* Memory that nobody leads to is a leak, and no damage. */
    rcv_txn *t = begin(a);
    rcv_off  lost;
    OK(txn_alloc(t, 1000, RCV_SPACE_GENERAL, 0, &lost));
    commit(t);
    OK(rcv_verify(a, &r));
    CHECK(r.leaked_blocks == 1 && r.leaked_bytes == 1024);
    /* Memory that is used, but free, is damage. */
    OK(lock_take(a));
    phase_set(a, RCV_STEP);
    OK(heap_commit_free(a, lost));
    OK(heap_commit_free(a, entry_c));
    undo_cut(a, 0);
    phase_set(a, RCV_IDLE);
    lock_drop(a);
    CHECK(rcv_verify(a, &r) == RCV_ERR_CORRUPT);
    CHECK(strstr(rcv_error_text(), "not allocated") != NULL);
    OK(rcv_close(a));
    close(fd);
}

/* Whatever bits are flipped, it ends, with an error or without. */
static void test_garbage(void)
{
    int        fd = scratch_object();
    rcv_arena *a = rooted_arena(fd, 16 * MIB);
    fill(a, 1500);
    uint64_t claimed = rcv_data_claimed(a), table = a->hdr->chunk_count * UINT64_C(16), found = 0;
    uint8_t *heap = a->core + a->hdr->region[RCV_R_HEAP].off, *data = a->core + a->data_off, *good = malloc(table + claimed);
    CHECK(good != NULL);
    memcpy(good, heap, table);
    memcpy(good + table, data, claimed);
    uint64_t words[4096], n_words = 0; /* where structure lies: words that look like offsets or heads */
    for (uint64_t i = 0; i < claimed / 8 && n_words < 4096; i++)
        if (((uint64_t *)(void *)data)[i] != 0)
            words[n_words++] = i;
    for (unsigned round = 0; round < 3000; round++) {
        struct rcv_verify_report r;
        for (uint64_t wounds = 1 + rnd(4); wounds > 0; wounds--) {
            uint64_t *at = rnd(6) ? (uint64_t *)(void *)data + words[rnd(n_words)] : (uint64_t *)(void *)heap + rnd(table / 8);
            switch (rnd(4)) {
            case 0: *at ^= UINT64_C(1) << rnd(64); break;
            case 1: *at = rnd(UINT64_MAX); break;
            case 2: *at = a->data_off + rnd(claimed) / 16 * 16; break;
            default: *at = ((uint64_t *)(void *)data)[words[rnd(n_words)]]; break;
            }
        }
        int rc = rcv_verify(a, &r);
        CHECK(rc == 0 || rc == RCV_ERR_CORRUPT);
        found += rc != 0;
        memcpy(heap, good, table);
        memcpy(data, good + table, claimed);
    }
    printf("check: damage in %llu of 3000 arenas\n", (unsigned long long)found);
    CHECK(found > 1000);
    verified(a);
    free(good);
    OK(rcv_close(a));
    close(fd);
}

int main(void)
{
    printf("seed %llu\n", (unsigned long long)seed);
    test_sound();
    test_transactions();
    test_damage();
    test_rows();
    test_twins();
    test_first();
    test_garbage();
    CHECKS_DONE();
    return 0;
}
