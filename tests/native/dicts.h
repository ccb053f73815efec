/* dicts.h -- Dicts, Arrays and transactions over them, as short as a test wants them. */
#ifndef RCV_TEST_DICTS_H
#define RCV_TEST_DICTS_H

#include "scratch.h"
#include "containers/array.h"
#include "containers/counter.h"
#include "containers/deque.h"
#include "containers/dict.h"
#include "containers/list.h"
#include "containers/record.h"
#include "containers/set.h"

#define OK(call)                                                                                     \
    do {                                                                                             \
        int ok_rc = (call);                                                                          \
        if (ok_rc < 0)                                                                               \
            fprintf(stderr, "%s:%d: %s: %d: %s\n", __FILE__, __LINE__, #call, ok_rc, rcv_error_text()); \
        CHECK(ok_rc >= 0);                                                                           \
    } while (0)

static inline rcv_txn *begin(rcv_arena *a)
{
    rcv_txn *t;
    OK(rcv_txn_new(a, 0, "test", &t));
    OK(rcv_txn_mount(t));
    return t;
}

static inline void commit(rcv_txn *t)
{
    OK(rcv_txn_commit(t));
    rcv_txn_free(t);
}

/* rooted_arena -- with its root Dict. */
static inline rcv_arena *rooted_arena(int fd, uint64_t size)
{
    rcv_arena *a = scratch_arena(fd, size);
    rcv_txn   *t = begin(a);
    OK(rcv_root_make(t));
    commit(t);
    return a;
}

static inline struct rcv_key key_of(rcv_arena *a, const char *name)
{
    struct rcv_key k = {.tag = RCV_T_STR, .kind = RCV_T_STR, .ptr = (const uint8_t *)name, .len = (uint32_t)strlen(name)};
    rcv_key_hash(a, &k);
    return k;
}

static inline int set(rcv_txn *t, rcv_off d, const char *name, const struct rcv_value *v)
{
    struct rcv_key k = key_of(t->arena, name);
    return rcv_dict_set(t, d, &k, v);
}

static inline void set_int(rcv_txn *t, rcv_off d, const char *name, int64_t i)
{
    struct rcv_value v = {.tag = RCV_T_INT, .word = (uint64_t)i};
    OK(set(t, d, name, &v));
}

/* set_bytes -- a value of `len` bytes, all alike. */
static inline void set_bytes(rcv_txn *t, rcv_off d, const char *name, uint64_t len)
{
    uint8_t         *bytes = calloc(1, len + 1);
    struct rcv_value v = {.tag = RCV_T_BYTES, .ptr = bytes, .len = len};
    CHECK(bytes != NULL);
    OK(set(t, d, name, &v));
    free(bytes);
}

static inline rcv_off set_dict(rcv_txn *t, rcv_off d, const char *name)
{
    rcv_off          child;
    struct rcv_value v = {.tag = RCV_T_REF};
    OK(rcv_dict_new(t, &child));
    v.word = child;
    OK(set(t, d, name, &v));
    return child;
}

static inline rcv_off set_array(rcv_txn *t, rcv_off d, const char *name, uint64_t items)
{
    rcv_off               child;
    struct rcv_value      v = {.tag = RCV_T_REF};
    struct rcv_array_info info = {.nbytes = items * 8, .itemsize = 8, .ndim = 1, .shape = {items}, .dtype = "<f8"};
    OK(rcv_array_new(t, &info, NULL, &child));
    v.word = child;
    OK(set(t, d, name, &v));
    return child;
}

static inline void set_ref(rcv_txn *t, rcv_off d, const char *name, rcv_off child)
{
    struct rcv_value v = {.tag = RCV_T_REF, .word = child};
    OK(set(t, d, name, &v));
}

/* set_zoo -- one container of each other kind, with items, blobs and containers in them. Returns the List. */
static inline rcv_off set_zoo(rcv_txn *t, rcv_off d, unsigned n)
{
    static const uint8_t bytes[100];
    struct rcv_value     i = {.tag = RCV_T_INT, .word = 7}, b = {.tag = RCV_T_BYTES, .ptr = bytes, .len = sizeof bytes}, ref = {.tag = RCV_T_REF};
    rcv_off              list, deque, record, counter, keys, inner;
    OK(rcv_list_new(t, &list));
    OK(rcv_deque_new(t, UINT64_MAX, &deque));
    OK(rcv_record_new(t, 1, 3, &record));
    OK(rcv_counter_new(t, 5, &counter));
    OK(rcv_set_new(t, &keys));
    set_ref(t, d, "list", list);
    set_ref(t, d, "deque", deque);
    set_ref(t, d, "record", record);
    set_ref(t, d, "counter", counter);
    set_ref(t, d, "set", keys);
    for (unsigned k = 0; k < n; k++) {
        struct rcv_value none = {.tag = RCV_T_NONE};
        char             name[24];
        snprintf(name, sizeof name, "%u", k);
        OK(rcv_list_append(t, list, k % 3 ? &i : &b));
        OK(rcv_deque_push(t, deque, k % 2, k % 5 ? &i : &b));
        OK(set(t, keys, name, &none));
    }
    OK(rcv_dict_new(t, &inner));
    ref.word = inner;
    OK(rcv_list_append(t, list, &ref));
    OK(rcv_dict_new(t, &inner));
    ref.word = inner;
    OK(rcv_deque_push(t, deque, 0, &ref));
    OK(rcv_dict_new(t, &inner));
    ref.word = inner;
    OK(rcv_record_set(t, record, 1, &ref));
    OK(rcv_record_set(t, record, 2, &b));
    set_bytes(t, inner, "deep", 20);
    OK(rcv_list_make(t, 3, &inner)); /* in its own block, and grown past that */
    for (unsigned k = 0; k < 3; k++)
        OK(rcv_list_fill(t, inner, k, k == 1 ? &b : &i));
    set_ref(t, d, "made", inner);
    for (unsigned k = 0; k < n % 50; k++)
        OK(rcv_list_append(t, inner, k % 3 ? &i : &b));
    return list;
}

static inline int del(rcv_txn *t, rcv_off d, const char *name)
{
    struct rcv_key k = key_of(t->arena, name);
    return rcv_dict_del(t, d, &k);
}

/* verified -- the report of an arena that must be sound and without leaks. */
static inline struct rcv_verify_report verified(rcv_arena *a)
{
    struct rcv_verify_report r;
    OK(rcv_verify(a, &r));
    CHECK(r.leaked_blocks == 0 && r.leaked_bytes == 0);
    return r;
}

#endif
