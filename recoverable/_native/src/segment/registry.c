/* registry.c -- the arenas that this process has open: for who is called with none in hand, at a fork, the end of a thread, a fault.
 *
 * Changed under the GIL; read by the trap handler at any moment, so links are stored when what they point to is whole.
 */
#include "segment.h"

#include <pthread.h>

static rcv_arena *_Atomic registry;

/* Held by who changes it, and by a thread that looks at it without the GIL, at its end. */
static pthread_mutex_t registry_guard = PTHREAD_MUTEX_INITIALIZER;

rcv_arena *registry_first(void) { return atomic_load_explicit(&registry, memory_order_acquire); }

/* registry_each -- call fn for every open arena; fn may close it. */
void registry_each(void (*fn)(rcv_arena *))
{
    for (rcv_arena *a = registry_first(), *next; a != NULL; a = next) {
        next = a->next;
        fn(a);
    }
}

/* registry_hold -- call fn for every open arena, none of which is closed meanwhile. Without the GIL. */
void registry_hold(void (*fn)(rcv_arena *))
{
    pthread_mutex_lock(&registry_guard);
    registry_each(fn);
    pthread_mutex_unlock(&registry_guard);
}

void registry_add(rcv_arena *a)
{
    pthread_mutex_lock(&registry_guard);
    a->next = registry_first();
    atomic_store_explicit(&registry, a, memory_order_release);
    pthread_mutex_unlock(&registry_guard);
}

void registry_remove(rcv_arena *a)
{
    pthread_mutex_lock(&registry_guard);
    rcv_arena *p = registry_first();
    if (p == a)
        atomic_store_explicit(&registry, a->next, memory_order_release);
    for (; p != NULL; p = p->next)
        if (p->next == a) {
            p->next = a->next;
            break;
        }
    pthread_mutex_unlock(&registry_guard);
}

/* registry_after_fork -- in the child: another thread of the parent may have held it. */
void registry_after_fork(void) { registry_guard = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER; }
