/* trap.c -- the SIGSEGV handler: a store to a protected page of an arena becomes a log entry.
 *
 * What we want: the first raw write to a page in a step is noticed before it happens, the page's bytes are kept, and the store
 * then goes on as if nothing had been. A store by anybody else, or at any other time, must not reach shared memory. And a
 * program that crashes for its own reasons crashes as it would have without us.
 *
 * What does not work:
 *   - raising an error from the handler: there is no frame that could catch it;
 *   - taking the arena's lock, or waiting for anything: the faulting thread may hold the GIL, and whoever we wait for wants it;
 *   - owning SIGSEGV: faulthandler, profilers, sanitizers and other runtimes install handlers too, before us and after us.
 *
 * What does: a fault is ours if it is a *write* (the processor says so), denied by protection (SEGV_ACCERR), inside the tracked
 * view of an open arena. Then
 *
 *      this thread is inside this arena's step,    pre-image into the log, unprotect            (us: a trap)
 *      or the view is that of the step's
 *      transaction (views.c): a worker's store
 *      the same, but the buffer's Array is gone    *doom*: see the next, and views_stale()
 *      the log is full, or the kernel refuses      *doom*: the whole view becomes private memory, this and all later raw
 *                                                  stores of the step go nowhere; the boundary rolls back and maps it again
 *      else: of another thread into a parked       *stray*: that page becomes private memory; the boundary maps it back. If
 *      view, or when no step runs (any more)       the view's transaction waits, it can only roll back
 *
 * A fault in an image, which is no arena (image.c), fetches the page there. Everything else goes to the handlers before us
 * (handlers.c).
 *
 * A handler installed after ours gets our traps first, until rcv_handler_mend() puts ours back. In between, faulthandler's answer
 * to one of our traps is to print a traceback, restore the handler that it found (ours) and raise SIGSEGV in this thread. Such a
 * copy must be swallowed: then faulthandler returns, the store runs again and traps as it should. It is told from a signal
 * that a program raises for itself by the frame of the first signal, which is still on the stack above the second: the saved
 * registers of a write fault in a tracked view. (Its siginfo is only there for handlers that asked for it, and faulthandler
 * does not.) The kernel saves the *last* fault's address with every signal, also with one that was sent; so the page must
 * still be protected, and an address that we have dealt with counts only from the same instruction. Swallowed once; again
 * only after a trap of ours.
 *
 * Where it still fails: a newcomer that neither restores nor raises (signal.signal with a Python function) and arrives in the
 * middle of a step makes our trap repeat for ever, as it would any fault. And a C signal handler that stores through a raw
 * buffer while its thread is in here, or in undo_append(), waits for itself.
 *
 * What runs here, of other files (tests/meta compares): view_log, view_unprotect and view_make_private (view.c), views_stale and
 * views_adopt (views.c), capture_around, handlers_chain and handlers_depth; below these viewed_id, viewed_in, viewed_array,
 * undo_append_trap, undo_share, phase_set, heap_page_live, heap_page_block, object_remap_private, object_fd, os_protect, os_populate,
 * os_remap_private, os_copy_private, os_page_size and os_thread_number (static TLS); and image_fault. Of the system: mprotect, mmap,
 * mremap, munmap, madvise; fstat, lstat, open, fcntl, close (object.c finds the object again); gettid, getpid, sigaction,
 * pthread_sigmask, tgkill, sched_yield, process_vm_readv. No allocation, no error text, no lock but the view lock, whose holders
 * never fault.
 */
#include "state.h"

#include <errno.h>
#include <signal.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_SCAN 16384u

/* -- whose address is it -------------------------------------------------------------------------------------- */

/* Nodes are never freed, only used again, so that the handler may walk the list at any time. */
struct span {
    _Atomic uintptr_t    base, size;
    struct view *_Atomic view;
    rcv_arena *_Atomic   arena; /* NULL: free. Stored last, cleared first */
    struct span         *next;
};
static struct span *_Atomic spans;
static bool (*_Atomic fetch_image)(uintptr_t); /* image.c's, once there has been one */

static rcv_arena *arena_of(uintptr_t at, struct view **view)
{
    for (struct span *s = atomic_load_explicit(&spans, memory_order_acquire); s != NULL; s = s->next) {
        rcv_arena *a = atomic_load_explicit(&s->arena, memory_order_acquire);
        if (a != NULL && at - atomic_load_explicit(&s->base, memory_order_relaxed) <
                             atomic_load_explicit(&s->size, memory_order_relaxed)) {
            *view = atomic_load_explicit(&s->view, memory_order_relaxed);
            return a;
        }
    }
    return NULL;
}

int trap_watch(rcv_arena *a, struct view *v)
{
    struct span *s = atomic_load(&spans);
    while (s != NULL && atomic_load(&s->arena) != NULL)
        s = s->next;
    bool fresh = s == NULL;
    if (fresh && (s = os_calloc(1, sizeof *s)) == NULL)
        return rcv_raise(RCV_ERR_FULL, 0, "arena \"%s\": no process memory for its entry in the trap table", a->name);
    atomic_store(&s->base, (uintptr_t)v->base);
    atomic_store(&s->size, (uintptr_t)a->data_size);
    atomic_store(&s->view, v);
    if (fresh) {
        s->next = atomic_load(&spans);
        atomic_store_explicit(&spans, s, memory_order_release);
    }
    atomic_store_explicit(&s->arena, a, memory_order_release);
    return 0;
}

/* -- a trap ------------------------------------------------------------------------------------------------- */

static _Atomic uintptr_t scratch_base, scratch_size; /* calibration: see trap_calibrate() */
static void *_Atomic     scratch_log;

static _Atomic uint64_t traps_seen;            /* of the process: is the last swallowed copy a trap ago? */
static _Atomic uint64_t swallowed_at = UINT64_MAX;
/* The last fault of this thread that was ours. Static TLS: the lazily allocated kind is not signal-safe. */
static _Thread_local uintptr_t last_at __attribute__((tls_model("initial-exec")));
static _Thread_local uintptr_t last_pc __attribute__((tls_model("initial-exec")));

/* Whose a store through that view is. */
enum whose {
    NOBODYS,
    OWN,     /* the step's, by its thread */
    WORKERS, /* the step's, by another thread */
};

static enum whose whose(const rcv_arena *a, const struct view *v)
{
    const struct rcv_tracker *t = a->tracker;
    if (!atomic_load_explicit(&t->in_step, memory_order_relaxed))
        return NOBODYS;
    if (a->step_thread == os_thread_id())
        return OWN;
    if (v == t->view)
        return t->shared ? WORKERS : NOBODYS;
    return v->used && v->owner == NULL ? WORKERS : NOBODYS;
}

/* doom -- the step can't be kept: from here its raw stores go nowhere. */
static bool doom(rcv_arena *a, struct view *v, uint32_t page, int why)
{
    struct rcv_tracker *t = a->tracker;
    if (!t->doomed)
        a->n.dooms++;
    t->doomed = t->doomed ? t->doomed : why;
    return view_make_private(a, v, page, true);
}

/* adopt -- the step's thread stores through a buffer that another transaction has made. Where another thread was first, since the
 * last boundary, that may have been a worker of this very step, and its store is lost. */
static bool adopt(rcv_arena *a, struct view *v)
{
    return !(v->strays && v->owner == NULL) && views_adopt(a, v);
}

static bool trap_own(rcv_arena *a, struct view *v, uint32_t page)
{
    struct rcv_tracker *t = a->tracker;
    if (t->doomed)
        return doom(a, v, page, t->doomed);
    if (unlikely(views_stale(a, v, page)))
        return doom(a, v, page, RCV_ERR_STALE);
    if (unlikely(!v->used) && !adopt(a, v))
        return doom(a, v, page, RCV_ERR_STRAY);
    a->n.traps++;
    if (unlikely(atomic_load_explicit(&a->hdr->phase, memory_order_relaxed) == RCV_IDLE))
        phase_set(a, RCV_STEP);
    if (needs_log(t, page) && view_log(a, v, page) != 0)
        return doom(a, v, page, RCV_ERR_FULL);
    CRASHPOINT("trap.before_unprotect");
    uint32_t first, end;
    capture_around(a, v, page, &first, &end);
    if (view_unprotect(a, v, first, end - first) != 0)
        return doom(a, v, page, RCV_ERR_FULL);
    return true;
}

static bool trap_stray(rcv_arena *a, struct view *v, uint32_t page, uintptr_t at)
{
    struct rcv_tracker *t = a->tracker;
    if (!view_make_private(a, v, page, false))
        return false;
    if (v->owner != NULL)
        v->lost = true;
    v->state[page] |= PG_STRAY;
    v->strays = true;
    if (t->n_claims < STRAY_CLAIMS)
        t->claims[t->n_claims] = (struct claim){.view = v, .page = page, .address = at};
    t->n_claims++;
    return true;
}

/* trap -- false: there is nothing we can do about it. */
static bool trap(rcv_arena *a, struct view *v, uintptr_t at)
{
    struct rcv_tracker *t = a->tracker;
    uint32_t            page = (uint32_t)((at - (uintptr_t)v->base) >> t->shift);
    bool                done;
    view_lock(a);
    enum whose who = whose(a, v);
    if (who != OWN)
        t->second = SECOND_KEPT; /* also after the end of a step: it was there before */
    if (v->state[page] & PG_STRAY)
        done = true; /* another thread was here while we waited */
    else if (v->state[page] & PG_WRITABLE)
        done = os_protect(page_in(a, v, page), t->page_size, PROT_READ | PROT_WRITE) == 0 || who == NOBODYS ||
               doom(a, v, page, RCV_ERR_FULL);
    else
        done = who != NOBODYS ? trap_own(a, v, page) : trap_stray(a, v, page, at);
    view_unlock(a);
    return done;
}

/* trap_scratch -- what a trap costs, without an arena: copy and unprotect. */
static bool trap_scratch(uintptr_t at)
{
    uintptr_t base = atomic_load_explicit(&scratch_base, memory_order_relaxed), page = (uintptr_t)os_page_size();
    if (at - base >= atomic_load_explicit(&scratch_size, memory_order_relaxed))
        return false;
    at &= ~(page - 1);
    memcpy(atomic_load_explicit(&scratch_log, memory_order_relaxed), (void *)at, page);
    return mprotect((void *)at, page, PROT_READ | PROT_WRITE) == 0;
}

/* is_write -- what the processor says the fault was. */
static bool is_write(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (context->uc_mcontext.gregs[REG_ERR] & 2) != 0;
#elif defined(__aarch64__)
    struct esr { /* a record of the signal frame: magic, size, ESR_EL1 */
        uint32_t magic, size;
        uint64_t esr;
    };
    const uint8_t *p = (const uint8_t *)context->uc_mcontext.__reserved, *end = p + sizeof context->uc_mcontext.__reserved;
    while (p + sizeof(struct esr) <= end) {
        struct esr record;
        memcpy(&record, p, sizeof record);
        if (record.magic == 0 || record.size < 8)
            break;
        if (record.magic == 0x45535201u)
            return (record.esr >> 26 & 0x3f) == 0x24 && (record.esr >> 6 & 1) != 0; /* data abort, a write */
        p += record.size;
    }
    return true; /* reads don't fault in a view that is readable everywhere */
#else
#error "this processor's fault code is not known here"
#endif
}

/* -- the copy that a displacer raises ------------------------------------------------------------------------- */

static uintptr_t program_counter(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
#else
    return (uintptr_t)context->uc_mcontext.pc;
#endif
}

static uintptr_t stack_pointer(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (uintptr_t)context->uc_mcontext.gregs[REG_RSP];
#else
    return (uintptr_t)context->uc_mcontext.sp;
#endif
}

/* still_denied -- would a store at `at` by the instruction at `pc` be news to us? */
static bool still_denied(uintptr_t at, uintptr_t pc)
{
    struct view *v;
    rcv_arena   *a = arena_of(at, &v);
    if (a == NULL || (at == last_at && pc != last_pc))
        return false;
    return (v->state[(at - (uintptr_t)v->base) >> a->tracker->shift] & (PG_WRITABLE | PG_STRAY)) == 0;
}

#define PATTERN 7 /* words that names_our_fault() looks at */

/* names_our_fault -- do these words belong to the registers that the kernel saved at a write fault of ours? `seen` is kept from
 * word to word, upwards. */
static bool names_our_fault(const uint64_t *words, uintptr_t *seen)
{
#if defined(__x86_64__) /* rip, flags, segments, error code (a write, by user code), trap (a page fault), old mask, address */
    (void)seen;
    return (words[3] & ~UINT64_C(0x3f)) == 0 && (words[3] & 6) == 6 && words[4] == 14 &&
           still_denied((uintptr_t)words[6], (uintptr_t)words[0]);
#else /* the fault address; further up the record with the syndrome: magic and size, then a data abort that is a write */
    struct view *v;
    if (*seen == 0 && arena_of((uintptr_t)words[0], &v) != NULL)
        *seen = (uintptr_t)words[0];
    return *seen != 0 && words[0] == (UINT64_C(16) << 32 | 0x45535201u) && (words[1] >> 26 & 0x3f) == 0x24 &&
           (words[1] >> 6 & 1) != 0 && still_denied(*seen, last_pc);
#endif
}

/* frame_of_ours -- is the frame of one of our faults on the stack above the interrupted code? Read by a system call, which
 * stops where the stack ends; where that is forbidden, assume it: once between two traps does no harm. */
static bool frame_of_ours(const ucontext_t *context)
{
    uintptr_t at = (stack_pointer(context) + 7) & ~(uintptr_t)7, end = at + STACK_SCAN, seen = 0;
    uint64_t  words[64 + PATTERN - 1]; /* more than a stride, so that no pattern falls between two */
    for (; at < end; at += 64 * sizeof *words) {
        struct iovec to = {words, sizeof words}, from = {(void *)at, sizeof words};
        ssize_t      n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
        if (n < 0)
            return errno == EPERM || errno == ENOSYS;
        for (ssize_t i = 0; (i + PATTERN) * (ssize_t)sizeof *words <= n; i++)
            if (names_our_fault(words + i, &seen))
                return true;
        if ((size_t)n < sizeof words)
            return false;
    }
    return false;
}

static bool is_reraised(const siginfo_t *info, const ucontext_t *context)
{
    if (info->si_code != SI_TKILL || info->si_pid != getpid() || atomic_load(&spans) == NULL)
        return false;
    uint64_t now = atomic_load(&traps_seen);
    if (atomic_load(&swallowed_at) == now || !frame_of_ours(context))
        return false;
    atomic_store(&swallowed_at, now);
    return true;
}

/* -- the handler ------------------------------------------------------------------------------------------------ */

static void handler(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    if (info->si_code == SEGV_ACCERR && is_write(context)) {
        uintptr_t    at = (uintptr_t)info->si_addr;
        struct view *v;
        rcv_arena   *a = arena_of(at, &v);
        if (a != NULL ? trap(a, v, at) : trap_scratch(at)) {
            atomic_fetch_add_explicit(&traps_seen, 1, memory_order_relaxed);
            last_at = at;
            last_pc = program_counter(context);
            errno = saved;
            return;
        }
    }
    bool (*fetch)(uintptr_t) = atomic_load(&fetch_image);
    if (info->si_code == SEGV_ACCERR && fetch != NULL && fetch((uintptr_t)info->si_addr)) {
        errno = saved;
        return;
    }
    uintptr_t sp = stack_pointer(context);
    if (handlers_depth(sp) != 0 || !is_reraised(info, context)) /* inside handlers_chain() it is an answer to what we have passed on */
        handlers_chain(sig, info, context, sp);
    errno = saved;
}

void trap_images(bool (*fetch)(uintptr_t)) { atomic_store(&fetch_image, fetch); }

/* trap_handler -- the handler, once a process. */
int trap_handler(rcv_arena *a)
{
    int err = handlers_install(handler);
    if (err != 0)
        return rcv_raise(RCV_ERR_OS, err, "arena \"%s\": can't install a handler for SIGSEGV", a->name);
    (void)os_thread_id(); /* asked of the kernel here rather than in the first trap */
    return 0;
}

/* trap_remove -- forget its views. The handler stays: whoever was installed after us may chain to it. */
void trap_remove(rcv_arena *a)
{
    for (struct span *s = atomic_load(&spans); s != NULL; s = s->next)
        if (atomic_load(&s->arena) == a)
            atomic_store(&s->arena, NULL);
}

/* trap_calibrate -- see pages.h; installs the handler if it must. */
void trap_calibrate(void *base, uint64_t len, void *log)
{
    if (len != 0)
        (void)handlers_install(handler);
    atomic_store(&scratch_log, log);
    atomic_store(&scratch_base, (uintptr_t)base);
    atomic_store(&scratch_size, (uintptr_t)len);
}
