/* fault.c -- faults on demand, in every build: what recoverable.faults arms. crashpoint.c has what only tests may do.
 *
 * What we want: die in each phase of a step or a commit, and run out of room at each allocation, in the build that users
 * run; and pay nothing for it while nothing is armed.
 *
 * What does not work: a counter at each place (a store on the path of each write), or a test of its own there (a branch).
 *
 * What does: the places where room is asked for compare sizes anyway. rcv_fault_bias is added to what is asked for; it is 0,
 * or so large that the comparison fails and the slow path finds us. A phase is passed a few times a transaction, and tests
 * one word that stays in the cache.
 *
 * Process state, guarded by the GIL; stores (test builds) are also passed by the trap handler, in the thread that holds it.
 */
#include "base.h"

#include <signal.h>
#include <unistd.h>

#define KINDS (RCV_FAULT_STORE + 1)
#define ARMED 4u     /* faults of one plan */
#define NAMES 8192u /* of points, kept for the report */

uint64_t rcv_fault_bias;
unsigned rcv_fault_phases;

static bool        watched[KINDS];
static uint64_t    passed[KINDS];
static uint64_t    struck;
static const char *names[KINDS][NAMES];
static struct {
    uint64_t nth;
    int      kind, action;
} armed[ARMED];
static unsigned n_armed;
static int      at_the_end; /* of what to die where a transaction ends */

static bool kind_known(int kind) { return kind > 0 && kind < KINDS; }

static void (*changed)(void); /* who has copied the bias */

void fault_on_change(void (*fn)(void)) { changed = fn; }

static void refresh(void)
{
    rcv_fault_bias = watched[RCV_FAULT_ROOM] ? UINT64_C(1) << 60 : 0;
    if (changed != NULL)
        changed();
    rcv_fault_phases = watched[RCV_FAULT_PHASE] || watched[RCV_FAULT_STORE];
}

void rcv_fault_stop(void)
{
    memset(watched, 0, sizeof watched);
    n_armed = 0;
    at_the_end = RCV_FAULT_NONE;
    refresh();
}

void rcv_fault_clear(void)
{
    rcv_fault_stop();
    memset(passed, 0, sizeof passed);
}

void rcv_fault_watch(int kind)
{
    if (!kind_known(kind))
        return;
    watched[kind] = true;
    passed[kind] = 0;
    refresh();
}

int rcv_fault_at(int kind, uint64_t nth, int action)
{
    if (!kind_known(kind) || n_armed == ARMED)
        return rcv_raise(RCV_ERR_MISUSE, 0, "no more than %u faults can be armed at once", ARMED);
    armed[n_armed].nth = nth;
    armed[n_armed].kind = kind;
    armed[n_armed++].action = action;
    if (!watched[kind])
        rcv_fault_watch(kind);
    return 0;
}

/* rcv_fault_in_commit -- how many phases a commit has depends on what it has to do: one of reads has none. */
int rcv_fault_in_commit(uint64_t nth, int action)
{
    int rc = rcv_fault_at(RCV_FAULT_PHASE, nth, action);
    if (rc == 0)
        at_the_end = action;
    return rc;
}

uint64_t    rcv_fault_passed(int kind) { return kind_known(kind) ? passed[kind] : 0; }
uint64_t    rcv_fault_struck(void) { return struck; }
void        rcv_fault_count(void) { struck++; }
const char *rcv_fault_name(int kind, uint64_t nth)
{
    return kind_known(kind) && nth > 0 && nth <= passed[kind] && nth <= NAMES ? names[kind][nth - 1] : "";
}

/* rcv_fault_die -- as by the kernel, or by a bug in C. */
void rcv_fault_die(int action)
{
    if (action == RCV_FAULT_SEGV) {
        int *volatile nowhere = (int *)(uintptr_t)64;
        *nowhere = 1;
    }
    kill(getpid(), SIGKILL);
}

/* pass -- count a point of that kind; what is armed there, or RCV_FAULT_NONE. Signal-safe. */
static int pass(int kind, const char *name)
{
    uint64_t n = ++passed[kind];
    if (n <= NAMES)
        names[kind][n - 1] = name;
    for (unsigned i = 0; i < n_armed; i++)
        if (armed[i].kind == kind && armed[i].nth == n) {
            struck++;
            return armed[i].action;
        }
    return RCV_FAULT_NONE;
}

/* fault_phase -- a phase of a step or a commit is passed while they are watched. */
void fault_phase(int kind, const char *name)
{
    int action = watched[kind] ? pass(kind, name) : RCV_FAULT_NONE;
    if (action == RCV_FAULT_KILL || action == RCV_FAULT_SEGV)
        rcv_fault_die(action);
}

void fault_ended(void)
{
    if (at_the_end != RCV_FAULT_NONE)
        rcv_fault_die(at_the_end);
}

/* fault_room -- somebody asks for room: true if there is to be none. */
bool fault_room(const char *name)
{
    if (!watched[RCV_FAULT_ROOM])
        return false;
    int action = pass(RCV_FAULT_ROOM, name);
    if (action == RCV_FAULT_KILL || action == RCV_FAULT_SEGV)
        rcv_fault_die(action);
    return action == RCV_FAULT_FULL;
}
