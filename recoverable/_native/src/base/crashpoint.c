/* crashpoint.c -- faults on demand, for tests: die at the nth marked store order, fail the nth call of a kind.
 *
 * A test forks a child, says rcv_crash_at(1) and runs a scenario; then 2, 3, … until the child survives. Only builds with
 * -Dcrashpoints=true count; in others the functions are there, so that the bindings need no second version, and do nothing.
 * Everything is signal-safe: the trap handler passes points too.
 */
#include "base.h"

#include <signal.h>
#include <unistd.h>

#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS

static _Atomic uint64_t      crash_at, passed;
static const char *_Atomic   last_point;
static char                  only[64]; /* count only points of this name; "": all */
static char                  held[64]; /* who comes to that point waits there; "": nobody */
static char *_Atomic         note; /* where the point that kills writes its name */
static size_t                note_size;
static _Atomic uint64_t      fail_at[RCV_FAIL_SYNC + 1], calls[RCV_FAIL_SYNC + 1];

/* rcv_crashpoint -- count it, and die here if it is this one's turn: as by kill -9, no handler, no clean-up. */
void rcv_crashpoint(const char *name)
{
    atomic_store(&last_point, name);
    if (unlikely(rcv_fault_phases))
        fault_phase(RCV_FAULT_STORE, name);
    while (unlikely(held[0] != 0) && strcmp(held, name) == 0)
        usleep(1000);
    if (only[0] && strcmp(only, name) != 0)
        return;
    uint64_t n = atomic_fetch_add(&passed, 1) + 1;
    if (n == atomic_load(&crash_at)) {
        char *to = atomic_load(&note);
        for (size_t i = 0; to != NULL && i + 1 < note_size; i++) {
            to[i] = name[i];
            if (name[i] == 0)
                break;
        }
        kill(getpid(), SIGKILL);
    }
}

/* rcv_fail_now -- is this call of that kind to fail? */
int rcv_fail_now(int kind)
{
    uint64_t n = atomic_fetch_add(&calls[kind], 1) + 1;
    return n == atomic_load(&fail_at[kind]);
}

/* -- mutations: defects on demand, which the exploration of faults has to find --------------------------------------- */

static const char *const mutations[] = {
    "undo.skip_record",    "commit.publish_first", "undo.skip_pages",   "commit.keep_tail",    "rollback.others",
    "rollback.skip_pages", "stamp.drop",           "validate.skip",     "stash.miss_range",    "intent.twice",
    "resume.no_relink",    "heap.leak",            "heap.no_mark",      "recover.half",        "savepoint.keep",
    "operation.keep_half", "shadow.forget",        "feed.split",        "feed.bitmap",         "feed.page",
    "feed.hot",            "feed.announced",       "feed.fresh",        "feed.counters",      "feed.hot_table",
};
static const char *mutation;

const char *rcv_mutation(unsigned i) { return i < sizeof mutations / sizeof *mutations ? mutations[i] : NULL; }

int rcv_mutate(const char *name)
{
    mutation = NULL;
    for (unsigned i = 0; name != NULL && rcv_mutation(i) != NULL; i++)
        if (strcmp(name, rcv_mutation(i)) == 0)
            mutation = rcv_mutation(i);
    return name == NULL || mutation != NULL;
}

bool rcv_undo_mutated(void) { return unlikely(mutation != NULL) && strncmp(mutation, "feed.", 5) != 0; }

bool rcv_mutated(const char *name) { return unlikely(mutation != NULL) && strcmp(mutation, name) == 0; }

int         rcv_test_build(void) { return 1; }
uint64_t    rcv_crash_count(void) { return atomic_load(&passed); }
const char *rcv_crash_last(void) { return atomic_load(&last_point) ? atomic_load(&last_point) : ""; }

void rcv_crash_only(const char *name)
{
    size_t n = name ? strnlen(name, sizeof only - 1) : 0;
    memcpy(only, name ? name : "", n);
    only[n] = 0;
}

void rcv_crash_hold(const char *name)
{
    size_t n = name ? strnlen(name, sizeof held - 1) : 0;
    held[0] = 0; /* not while it is being changed */
    for (size_t i = n + 1; i-- > 0;)
        held[i] = i < n ? name[i] : 0;
}

void rcv_crash_note(char *buffer, size_t size)
{
    note_size = size;
    atomic_store(&note, buffer);
}

void rcv_crash_at(uint64_t nth)
{
    atomic_store(&crash_at, 0); /* not while the count is being reset */
    atomic_store(&passed, 0);
    atomic_store(&crash_at, nth);
}

static bool kind_known(int kind) { return kind >= RCV_FAIL_MALLOC && kind <= RCV_FAIL_SYNC; }

void rcv_fail_at(int kind, uint64_t nth)
{
    if (!kind_known(kind))
        return;
    atomic_store(&fail_at[kind], 0);
    atomic_store(&calls[kind], 0);
    atomic_store(&fail_at[kind], nth);
}

uint64_t rcv_fail_count(int kind) { return kind_known(kind) ? atomic_load(&calls[kind]) : 0; }

#else

int         rcv_test_build(void) { return 0; }
const char *rcv_mutation(unsigned i) { return (void)i, NULL; }
int         rcv_mutate(const char *name) { return name == NULL; }
void        rcv_crash_at(uint64_t nth) { (void)nth; }
void        rcv_crash_only(const char *name) { (void)name; }
void        rcv_crash_note(char *buffer, size_t size) { (void)buffer, (void)size; }
void        rcv_crash_hold(const char *name) { (void)name; }
uint64_t    rcv_crash_count(void) { return 0; }
const char *rcv_crash_last(void) { return ""; }
void        rcv_fail_at(int kind, uint64_t nth) { (void)kind, (void)nth; }
uint64_t    rcv_fail_count(int kind) { return (void)kind, (uint64_t)0; }

#endif
