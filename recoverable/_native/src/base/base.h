/* base.h -- what knows nothing of arenas: errors, the kernel, memory of this process, hashes, faults on demand. */
#ifndef RCV_BASE_H
#define RCV_BASE_H

#include "recoverable.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* The compiler must not move stores across this. No CPU fence is needed: a killed process's stores are all visible to
 * the next reader of the same memory, in program order as the CPU retired them. */
#define store_fence() atomic_signal_fence(memory_order_seq_cst)
/* A reader on another processor, without the lock, sees the stores before it no later than those after it. No instruction
 * on x86-64. */
#define reader_fence() atomic_thread_fence(memory_order_release)

/* -- error.c -------------------------------------------------------------------------------------------- */

int rcv_raise(int code, int err, const char *format, ...) __attribute__((format(printf, 3, 4))); /* keeps text; returns code */

#define RCV_SLICE ((uint64_t)256 * 1024) /* memory is claimed in slices of at most this */

/* -- os.c: every system call on memory and files; 0 or errno -------------------------------------------- */

uint64_t os_page_size(void);
int      os_map_private(int fd, uint64_t len, void **out);
int      os_map_shared(int fd, uint64_t off, uint64_t len, int prot, void **out);
int      os_remap_shared(int fd, uint64_t off, void *at, uint64_t len, int prot); /* over what is there */
int      os_remap_private(int fd, uint64_t off, void *at, uint64_t len);          /* writable; signal-safe */
int      os_map_twice(int fd, uint64_t off, uint64_t len, int prot, void **out); /* two times in a row */
int      os_map_nothing(uint64_t len, void **out); /* addresses: private memory once they may be touched */
int      os_unmap(void *at, uint64_t len);
int      os_forget(void *at, uint64_t len);                  /* private memory: its content goes, it reads as zero */
int      os_read(int fd, uint64_t off, void *to, uint64_t len); /* ENODATA: the object is shorter */
int      os_protect(void *at, uint64_t len, int prot);       /* signal-safe */
int      os_claim(int fd, uint64_t off, uint64_t len);       /* memory behind [off, off+len), in slices; signal-safe */
int      os_populate(void *at, uint64_t len);                /* the same through a shared mapping; signal-safe */
int      os_punch(void *at, uint64_t len);                   /* give it back: pages of a shared mapping */
int      os_clone_shared(void *from, void *at, uint64_t len, int prot); /* os_remap_shared without a descriptor */
int      os_copy_private(const void *from, void *at, uint64_t len);     /* os_remap_private without one */
int      os_reopen(int fd, int *out);                        /* a second open file description of the same object */
int      os_witness(int fd, uint64_t off, void **out);       /* a lock that goes with the address space; closes fd */
int      os_bytes_locked(int fd, uint64_t off, uint64_t len, bool *locked); /* by any *other* description */
void     os_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t nanos);
bool     os_futex_wake(_Atomic uint32_t *word);
void     os_futex_wake_all(const _Atomic uint32_t *word);
uint64_t os_nanos(void);                                     /* monotonic */
uint64_t os_clock(void);                                     /* since the epoch */
/* os_ticks -- a counter for "has it been a while?": no system call, no memory, and no promise of its rate, which differs
 * between machines; OS_TICKS_HALF_SECOND takes 0.1 to 0.5 s. All processes of a machine read the same one; where it is os_nanos(),
 * those of one time namespace do. */
static inline uint64_t os_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc(); /* 1 to 5 GHz */
#else
    return os_nanos();
#endif
}
#define OS_TICKS_HALF_SECOND UINT64_C(500000000)
uint64_t os_ticks_nanos(uint64_t ticks); /* how long so many are: ticks.c */
void     os_ticks_after_fork(void);      /* in the child */
int      os_random(void *out, size_t len);
void    *os_malloc(size_t len); /* NULL when it fails (or is made to) */
void    *os_calloc(size_t count, size_t len);
void    *os_realloc(void *p, size_t len);
void     os_free(void *p);

/* -- thread.c ------------------------------------------------------------------------------------------------ */

extern _Thread_local uint64_t os_thread __attribute__((tls_model("initial-exec")));
uint64_t os_thread_number(void);
static inline uint64_t os_thread_id(void) /* of this process, never 0, never given again */
{
    return likely(os_thread != 0) ? os_thread : os_thread_number();
}
bool os_thread_find(uint64_t number, uint64_t *ident, int32_t *tid);

/* -- vec.c ------------------------------------------------------------------------------------------------- */

int vec_grow(void **data, uint64_t *capacity, uint64_t need, size_t item); /* os_realloc by doubling; RCV_ERR_FULL */
int vec_room(uint8_t **data, uint64_t *used, uint64_t *capacity, uint64_t size, uint64_t *at); /* `size` bytes more, at *data + *at */

/* -- hash.c ------------------------------------------------------------------------------------------------ */

uint64_t rcv_siphash(const uint64_t secret[2], uint8_t kind, const void *bytes, size_t len); /* SipHash-1-3 */
static inline uint64_t rcv_mix(uint64_t x) /* finaliser of splitmix64 (Steele, Lea, Flood 2014) */
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* -- fault.c ------------------------------------------------------------------------------------------------------ */

extern uint64_t rcv_fault_bias;   /* added to each size that is asked for: 0, or more than there ever is while room is watched */
extern unsigned rcv_fault_phases; /* not 0: phases are watched */
bool fault_room(const char *name); /* the slow path of who found no room for size + rcv_fault_bias: is there to be none? */
void fault_phase(int kind, const char *name);
void fault_ended(void); /* a transaction has ended */
void fault_on_change(void (*fn)(void)); /* call it whenever rcv_fault_bias has changed */

/* How often each of these asks. benchmarks/faults.py builds the core with 0, which is as if there were none, and with many:
 * the difference is what they cost, which is too little to be seen otherwise. */
#ifndef RCV_FAULT_HOOKS
#define RCV_FAULT_HOOKS 1
#endif
#if RCV_FAULT_HOOKS == 1
static inline uint64_t fault_bias(void) { return rcv_fault_bias; }
static inline bool     fault_watched(void) { return unlikely(rcv_fault_phases); }
#else
static inline uint64_t fault_bias(void)
{
    uint64_t bias = 0;
    for (unsigned n = RCV_FAULT_HOOKS; n-- > 0;)
        bias |= *(volatile uint64_t *)&rcv_fault_bias;
    return bias;
}
static inline bool fault_watched(void)
{
    bool on = false;
    for (unsigned n = RCV_FAULT_HOOKS; n-- > 0;)
        if (unlikely(*(volatile unsigned *)&rcv_fault_phases))
            on = true;
    return on;
}
#endif

/* -- crashpoint.c -------------------------------------------------------------------------------------------------- */

#if defined(RCV_CRASHPOINTS) && RCV_CRASHPOINTS
void rcv_crashpoint(const char *name);
int  rcv_fail_now(int kind); /* 1: this call is to fail */
bool rcv_mutated(const char *name);
bool rcv_undo_mutated(void); /* any but those of the feed */
#define CRASHPOINT(name) rcv_crashpoint(name)
#define FAIL_NOW(kind) rcv_fail_now(kind)
#define MUTATED(name) unlikely(rcv_mutated(name)) /* a defect that a test has asked for: does exploration find it? */
#else
#define CRASHPOINT(name) ((void)0)
#define FAIL_NOW(kind) 0
#define MUTATED(name) 0
#endif

/* PHASE -- a crash point that every build has: where a step, a commit or a recovery goes from one phase to the next. */
#define PHASE(name)                                    \
    do {                                               \
        CRASHPOINT(name);                              \
        if (fault_watched())                           \
            fault_phase(RCV_FAULT_PHASE, name);        \
    } while (0)

#endif
