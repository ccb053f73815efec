/* stuck.c -- what the step that holds the lock is at, as those read it who wait for it in vain.
 *
 * The holder's watchdog writes it when the step has taken long, and takes it back when it sees another step. A hint for
 * messages: it may be a moment old, and it is only believed while the lock is of the process that wrote it. One page of
 * text with a version that is odd while it is written; who is killed in there is overwritten by the next.
 */
#include "segment.h"

#include <unistd.h>

static struct rcv_stuck *stuck_of(const rcv_arena *a) { return &a->board->stuck; }

void stuck_say(rcv_arena *a, uint64_t millis, const char *text)
{
    struct rcv_stuck *s = stuck_of(a);
    uint64_t          seen = atomic_load(&s->version), mine = (seen | 1) + (seen & 1) * 2;
    if (!atomic_compare_exchange_strong(&s->version, &seen, mine))
        return;
    atomic_store(&s->token, a->token);
    s->pid = (uint64_t)getpid();
    atomic_store(&s->millis, millis);
    size_t n = strnlen(text, sizeof s->text - 1);
    memcpy(s->text, text, n);
    memset(s->text + n, 0, sizeof s->text - n);
    atomic_store(&s->version, mine + 1);
}

void stuck_age(rcv_arena *a, uint64_t millis)
{
    if (atomic_load(&stuck_of(a)->token) == a->token)
        atomic_store(&stuck_of(a)->millis, millis);
}

void stuck_take_back(rcv_arena *a)
{
    uint64_t mine = a->token;
    (void)atomic_compare_exchange_strong(&stuck_of(a)->token, &mine, 0);
}

bool stuck_read(const rcv_arena *a, struct rcv_slow_step *out)
{
    const struct rcv_stuck *s = stuck_of(a);
    uint64_t                version = atomic_load(&s->version), token = atomic_load(&s->token);
    _Static_assert(sizeof out->text == sizeof s->text, "one text");
    if (token == 0 || (version & 1) != 0 || token != lock_owner(a))
        return false;
    out->pid = s->pid;
    out->millis = atomic_load(&s->millis);
    memcpy(out->text, s->text, sizeof out->text);
    out->text[sizeof out->text - 1] = '\0';
    memcpy(out->handler, a->hdr->holder_handler, sizeof out->handler);
    out->handler[sizeof out->handler - 1] = '\0';
    atomic_thread_fence(memory_order_acquire);
    return atomic_load(&s->version) == version;
}

int rcv_slow_step(const rcv_arena *a, struct rcv_slow_step *out) { return stuck_read(a, out); }
