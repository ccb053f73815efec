# tally.pxi -- what metrics count, a handler a Tally. Part of runtime.pyx: a run is counted in the native call that ends it, and
# while nobody meters, that costs one comparison.

cdef enum: # why a run was rolled back; the order of CAUSES
    BY_CLOSE
    BY_ERROR
    BY_RESPONSE
    BY_ANSWER
    BY_CANCEL
    BY_TIMEOUT
    BY_CONFLICT
    BY_FULL
    BY_AWAIT
    BY_LOCK
    N_CAUSES

CAUSES = ("closed", "error", "response", "answer", "cancelled", "timeout", "conflict", "full", "await", "lock")

cdef enum:
    N_BOUNDS = 12

#: Upper bounds of the classes that checkpoints are counted in, in nanoseconds.
BOUNDS = (500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000, 100_000_000)

cdef uint64_t[N_BOUNDS] bounds = BOUNDS
cdef bint metered = False
cdef Py_ssize_t most_handlers = 0
cdef object CancelledError
from asyncio import CancelledError


def meter(on: bool, handlers: int = 100) -> None:
    """Count the runs that end, by handler, or no more.

    Args:
        on: Whether to count.
        handlers: How many handlers of an arena to tell apart; the rest are counted together.
    """
    global metered, most_handlers
    most_handlers, metered = handlers, on
    rcv_meter(on)


cdef class Tally:
    """What came of the runs of one handler."""
    cdef uint64_t commits, conflict_reruns, retries, bytes, pages, traps, nanos
    cdef uint64_t[N_CAUSES] rollbacks
    cdef uint64_t[N_BOUNDS + 1] took

    def read(self) -> dict:
        """Return the counts by name; `rollbacks` by cause, `took` by class of BOUNDS, and those above the last."""
        return {
            "commits": self.commits, "conflict_reruns": self.conflict_reruns, "retries": self.retries, "bytes": self.bytes,
            "pages": self.pages, "traps": self.traps, "nanos": self.nanos,
            "rollbacks": {CAUSES[i]: self.rollbacks[i] for i in range(N_CAUSES)}, "took": list(self.took),
        }


cdef void count(Transaction t, bint committed) noexcept:
    """Count a run that has ended. One that did not touch the arena had no transaction: only that it was run again."""
    if not t._touched and t.rerun is None:
        return
    cdef dict tallies = t.arena.tallies
    cdef Tally tally = tallies.get(t.handler)
    if tally is None:
        name = t.handler if len(tallies) < most_handlers else None
        tally = tallies.setdefault(name, Tally())
    if t.rerun is not None:
        if t.rerun == "retry":
            tally.retries += 1
        elif t.rerun == "rerun":
            tally.conflict_reruns += 1
    if not t._touched:
        return
    cdef int i = 0
    while i < N_BOUNDS and t.kept.nanos > bounds[i]:
        i += 1
    tally.took[i] += 1
    tally.nanos += t.kept.nanos
    tally.traps += t.kept.traps
    if committed:
        tally.commits += 1
    else:
        tally.rollbacks[t.cause] += 1
        tally.bytes += t.kept.bytes
        tally.pages += t.kept.pages


cdef int cause_of(Transaction t, object error) except -1:
    """Why it is being rolled back, where `error` ended it."""
    if t.t != NULL and rcv_txn_state(t.t) == RCV_DOOMED:
        return cause_of_code(rcv_txn_doom_code(t.t))
    if isinstance(error, _errors.ArenaFullError):
        return BY_FULL
    if isinstance(error, CancelledError):
        return BY_TIMEOUT if t.limit is not None and t.limit.expired else BY_CANCEL
    if error is None or isinstance(error, GeneratorExit):
        return BY_CLOSE
    return BY_ANSWER if _is_answer(error) else BY_ERROR


cdef int cause_of_code(int rc) noexcept:
    if rc == RCV_ERR_HELD:
        return BY_LOCK
    return BY_CONFLICT if rc == RCV_ERR_CONFLICT else BY_FULL if rc == RCV_ERR_FULL else BY_CLOSE if rc == RCV_ERR_CLOSED else BY_ERROR
