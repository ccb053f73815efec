# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The watchdog's gate: what src/watch.c finds and what needs the GIL, for recoverable.watchdog."""
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from recoverable._native.core cimport rcv_ambient_yield, rcv_arena, rcv_txn
from recoverable._native.runtime cimport NativeArena, Transaction, context_of_step, fail, owner_of

import sys
from typing import NamedTuple

from recoverable._jumps import NOTHING, outside
from recoverable._native.frames import of_thread
from recoverable.errors import _TooLong

cdef extern from "recoverable.h":
    enum:
        RCV_W_SLOW
        RCV_W_STOP
        RCV_W_AGAIN
        RCV_W_ENDING
    struct rcv_overdue:
        uint64_t mounting, millis, thread
        rcv_txn **place
        unsigned stage, told
        int current
        const char *handler
        const char *text
    struct rcv_slow_step:
        uint64_t pid, millis
        const char *handler
        const char *text
    void rcv_watch_limit(rcv_arena *a, double seconds, int ends)
    double rcv_watch_limit_of(const rcv_arena *a)
    int rcv_watch_begin(void (*tell)() noexcept nogil, void (*withdraw)(uint64_t ident) noexcept,
                        void (*forked)() noexcept nogil)
    void rcv_watch_looked()
    void rcv_watch_end(int for_good) nogil
    int rcv_watch_due(rcv_arena *a, rcv_overdue *out)
    void rcv_watch_told(rcv_arena *a, const rcv_overdue *what, unsigned stage)
    void rcv_watch_say(rcv_arena *a, const rcv_overdue *what, const char *text)
    int rcv_watch_stop(rcv_arena *a, const rcv_overdue *what)
    int rcv_watch_signal(int fd, int number)
    int rcv_signal_is_free(int number)
    int rcv_slow_step_read "rcv_slow_step"(const rcv_arena *a, rcv_slow_step *out)

include "raising.pxi"

#: What a step comes to that takes long: see src/watch.c.
SLOW, STOP, AGAIN, ENDING = RCV_W_SLOW, RCV_W_STOP, RCV_W_AGAIN, RCV_W_ENDING

cdef object _look


cdef void tell() noexcept nogil:
    with gil:
        _look()


cdef class Overdue:
    """A step that has held its arena for long, as it was when due() was called.

    Attributes:
        arena: the arena.
        thread: the identifier of its thread, 0 if that can't be found.
        stage: what it has come to.
        told: the last stage that everything has been done for.
        current: does it go on?
        transaction: its, if it goes on, or None.
        seconds: for how long it has, or had.
        handler: its name; of a long one the end.
        text: what it is at, where that had to be found out without the GIL, or "".
    """
    cdef rcv_overdue o
    cdef readonly NativeArena arena
    cdef readonly Transaction transaction

    @property
    def thread(self) -> int:
        return self.o.thread

    @property
    def stage(self) -> int:
        return self.o.stage

    @property
    def told(self) -> int:
        return self.o.told

    @property
    def current(self) -> bool:
        return self.o.current != 0

    @property
    def seconds(self) -> float:
        return self.o.millis / 1000

    @property
    def handler(self) -> str:
        return self.o.handler.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        return self.o.text.decode("utf-8", "replace")

    def say(self, str text not None) -> None:
        """Put what it is at where other processes find it, unless it is over."""
        if not self.arena.closed:
            rcv_watch_say(self.arena.a, &self.o, text.encode("utf-8", "replace"))

    def done(self, unsigned stage) -> None:
        """All is done up to that stage."""
        if not self.arena.closed:
            rcv_watch_told(self.arena.a, &self.o, stage)

    def stop(self) -> bool:
        """Doom its transaction and have an exception raised in its thread, if it goes on.

        For a block, which an event loop may have left by an `await`, and for one that is found by context, only while the thread is in
        its code, or in what that runs in another context.
        """
        cdef Transaction t = self.transaction
        if t is None:
            return False
        take_tool()
        cdef list frames = frames_of(self.o.thread) # the last that may run Python code, in which others go on
        cdef void *context = context_of_step(t)
        cdef bint goes = (not self.arena.closed and rcv_may_raise(self.o.thread, context)
                          and raised_after_jump.get(self.o.thread, <uint64_t>context) == <uint64_t>context
                          and rcv_watch_stop(self.arena.a, &self.o))
        if not goes and context != NULL and not self.arena.closed:
            rcv_ambient_yield(self.arena.a) # its thread has gone on to something else, and its event loop does not come to ending it
        if goes:
            raise_in(self.o.thread, context, frames, self.o.told < RCV_W_STOP)
        settle()
        return goes


def forget_raised() -> None:
    """In a forked child: what was to be raised in threads of the parent."""
    raised_after_jump.clear()


def due(NativeArena arena not None):
    """Return what is to be done about the step that holds it, or has held it, as an Overdue, or None."""
    cdef Overdue found = Overdue.__new__(Overdue)
    if arena.closed or not rcv_watch_due(arena.a, &found.o):
        return None
    found.arena = arena
    if found.o.current and found.o.place != NULL: # now: it lives as long as nothing else runs
        found.transaction = <Transaction>owner_of(found.o.place)
    return found


def looked() -> None:
    """Say that whoever was called has asked due() of each arena, and does not keep others from being called any longer."""
    rcv_watch_looked()


class SlowStep(NamedTuple):
    """A step that holds an arena for long, in whatever process.

    Attributes:
        pid: the process, by its own PID namespace.
        seconds: for how long so far.
        handler: its name; of a long one the end.
        text: the line of code that it is at, then the stack, the innermost frame first; "" where that is not known.
    """
    pid: int
    seconds: float
    handler: str
    text: str


def slow_step(NativeArena arena not None):
    """Return the step that holds it for long, in whatever process, as its own watchdog has told: a SlowStep, or None."""
    cdef rcv_slow_step found
    if arena.closed or not rcv_slow_step_read(arena.a, &found):
        return None
    return SlowStep(found.pid, found.millis / 1000, found.handler.decode("utf-8", "replace"), found.text.decode("utf-8", "replace"))


def limit(NativeArena arena not None) -> float:
    """Return how many seconds a step may hold it, or 0."""
    arena.check_open()
    return rcv_watch_limit_of(arena.a)


def set_limit(NativeArena arena not None, double seconds, bint ends=True) -> None:
    """Say how many seconds a step may hold it; 0: as many as it likes. `ends`: whether the process is ended at twice that."""
    arena.check_open()
    rcv_watch_limit(arena.a, seconds, ends)


def begin(look) -> None:
    """Watch, or look again which arenas there are. look() is called where there is something to do, in a thread of its own."""
    global _look
    rcv_know_contexts()
    _look = look
    cdef int rc = rcv_watch_begin(tell, withdraw, rcv_forget_here)
    if rc:
        fail(rc)


def end(bint for_good=False) -> None:
    """Stop watching; `for_good`: as the interpreter ends, so who tells of something is waited for, for a second at most."""
    with nogil:
        rcv_watch_end(for_good)


def use_signal(int fd, int number) -> bool:
    """Have stacks found out by that signal, on which a thread writes its own to that file."""
    return rcv_watch_signal(fd, number) != 0


def signal_is_free(int number) -> bool:
    """Return whether nothing handles or ignores it."""
    return rcv_signal_is_free(number) != 0
