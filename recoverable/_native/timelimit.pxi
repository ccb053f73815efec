# timelimit.pxi -- the time limit of a request, which costs a look at the clock. Part of runtime.pyx.
#
# `asyncio.timeout()` starts and cancels one timer of the event loop for each request, although nearly all of them are
# cancelled. Here a limit is nothing but a time until its request first suspends: before that nobody could cancel it. Then it
# enters the line of all limits of its length on its loop, which share a timer: they end in the order in which they began,
# so it is enough to wait for the oldest. The timer fires about once per length of the limit, however many requests there are.
#
# Its time runs from when the call is first awaited, however long the request goes without suspending; one that is over by then is
# cancelled as soon as the loop runs. What counts is the loop's clock, but uvloop's stands still while a callback runs, so time
# that passes in there is taken from the monotonic clock, which is the same one for asyncio's loops and uvloop. A loop with a
# clock of its own (a test's) has it counted from the suspension, by that clock.
#
# What a limit does when it is over is what `asyncio.timeout()` does: it cancels the task, and takes the cancellation back
# at its end, so that a caller's own cancellation is never mistaken for it.
from asyncio import current_task as _current_task

cdef extern from *:
    """
    #include <time.h>
    /* Seconds, by the clock of time.monotonic(). */
    static inline double rcv_monotonic(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    double rcv_monotonic() noexcept

cdef extern from "Python.h":
    object PyContext_CopyCurrent()

# Event loops round the time of a timer to their clock's resolution, uvloop to a millisecond: one that fires may be early.
cdef double EARLY = 0.001 # seconds
# A loop's clock that is behind the monotonic one by less than this is the same, read when the loop last looked.
cdef double STALE = 10.0 # seconds

cdef dict _lines = {} # loop -> seconds -> TimeLine


cdef class TimeLine:
    """The limits of one length on one event loop, the oldest first. It does not keep them: one that goes leaves it."""
    cdef object loop, timer
    cdef double seconds, fires # when, by the loop's clock
    cdef PyObject *first
    cdef PyObject *last

    cdef int enter(self, TimeLimit limit) except -1:
        """Put it where it belongs: at the end, unless one has suspended before another that was called before it."""
        if self.first == NULL or limit.when < (<TimeLimit>self.first).when:
            self.wait_for(limit)
        elif self.timer is None: # a signal's handler has raised while it was being set
            self.wait_for(<TimeLimit>self.first)
        cdef PyObject *after = self.last # only now: others may have gone, or entered, while the timer was set
        while after != NULL and (<TimeLimit>after).when > limit.when:
            after = (<TimeLimit>after).before
        limit.before = after
        limit.next = self.first if after == NULL else (<TimeLimit>after).next
        if limit.next == NULL:
            self.last = <PyObject *>limit
        else:
            (<TimeLimit>limit.next).before = <PyObject *>limit
        if after == NULL:
            self.first = <PyObject *>limit
        else:
            (<TimeLimit>after).next = <PyObject *>limit
        limit.line = self
        return 0

    cdef void leave(self, TimeLimit limit) noexcept:
        if limit.before == NULL:
            self.first = limit.next
        else:
            (<TimeLimit>limit.before).next = limit.next
        if limit.next == NULL:
            self.last = limit.before
        else:
            (<TimeLimit>limit.next).before = limit.before
        limit.before = limit.next = NULL
        limit.line = None

    cdef int wait_for(self, TimeLimit limit) except -1:
        """Have the timer fire when that one, which is to be the first, is over."""
        if self.timer is not None and self.fires <= limit.when:
            return 0
        cdef double left = limit.since + self.seconds - rcv_monotonic() if limit.same_clock else limit.when - <double>self.loop.time()
        timer = self.loop.call_later(max(left, 0.0), self.fire)
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.fires = timer, limit.when
        return 0

    def fire(self):
        """Expire what is due and wait for the next one; without any, be forgotten."""
        cdef TimeLimit limit
        cdef double now
        self.timer = None
        try:
            now = <double>self.loop.time() + EARLY
            while self.first != NULL and (<TimeLimit>self.first).when <= now:
                limit = <TimeLimit>self.first
                self.leave(limit)
                limit.expired = True
                limit.context.run(limit.task.cancel)
        finally:
            if self.first != NULL:
                self.wait_for(<TimeLimit>self.first)
            else:
                self.forget()

    cdef int forget(self) except -1:
        lines = _lines.get(self.loop)
        if lines is not None and lines.get(self.seconds) is self:
            del lines[self.seconds]
            if not lines:
                del _lines[self.loop]
        return 0


cdef TimeLine line_of(object loop, double seconds):
    lines = _lines.get(loop)
    if lines is None:
        for other in [each for each in list(_lines) if each.is_closed()]:
            _lines.pop(other, None)
        lines = _lines.setdefault(loop, {})
    cdef TimeLine line = lines.get(seconds)
    if line is None:
        line = TimeLine.__new__(TimeLine)
        line.loop, line.seconds = loop, seconds
        lines[seconds] = line
    return line


def limits_waiting() -> dict:
    """Return how many limits wait now, by their lengths in seconds, on the running loop: for tests."""
    cdef dict found = {}
    cdef TimeLine line
    cdef PyObject *each
    for seconds, line in _lines.get(_running_loop(), {}).items():
        found[seconds] = 0
        each = line.first
        while each != NULL:
            found[seconds] += 1
            each = (<TimeLimit>each).next
    return found


@cython.freelist(64)
@cython.no_gc_clear # __dealloc__ needs what it holds
cdef class TimeLimit:
    """So many seconds from now on, for the task that runs when it begins.

    Attributes:
        when: when the time is over, by the event loop's clock, once it has begun.
        expired: whether that was before the end.
        ended: whether end() was called.
        waits: whether it has neither begun nor ended.
    """
    cdef PyObject *before
    cdef PyObject *next
    cdef TimeLine line
    cdef object task, context
    cdef double since, seconds
    cdef readonly double when
    cdef readonly bint expired, ended, waits
    cdef bint same_clock
    cdef Py_ssize_t cancels # of the task, when it began

    def __init__(self, double seconds):
        start_limit(self, seconds)

    def __dealloc__(self):
        if self.line is not None:
            self.line.leave(self)

    cpdef bint begin(self) except -1:
        """Begin: its request suspends, and can be cancelled. False: there is no task."""
        if not self.waits:
            return True
        self.waits = False
        loop = _running_loop()
        task = None if loop is None else _current_task(loop)
        if task is None:
            self.ended = True
            return False
        cdef double now = loop.time()
        self.same_clock = now <= rcv_monotonic() and now >= self.since - STALE
        self.when = (self.since if self.same_clock else now) + self.seconds
        self.task, self.cancels = task, task.cancelling()
        self.context = PyContext_CopyCurrent()
        line_of(loop, self.seconds).enter(self)
        return True

    cpdef bint end(self) except -1:
        """End it; without effect after the first time. Is it this limit, and nobody else, on whose behalf the task was cancelled?"""
        if self.ended:
            return False
        self.ended = True
        self.waits = False
        if self.line is not None:
            self.line.leave(self)
        task, self.task = self.task, None
        self.context = None
        return self.expired and task.uncancel() <= self.cancels


cdef int start_limit(TimeLimit limit, double seconds) except -1:
    limit.seconds, limit.since = seconds, rcv_monotonic()
    limit.waits = True
    return 0


cdef TimeLimit new_limit(double seconds):
    cdef TimeLimit limit = TimeLimit.__new__(TimeLimit)
    start_limit(limit, seconds)
    return limit


cdef object no_task(double seconds):
    return RuntimeError(f"a timeout of {seconds:g} s needs a task to cancel, and there is none here")
