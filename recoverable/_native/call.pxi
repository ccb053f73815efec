# call.pxi -- what a Handler gives when it is called: a Call, which is awaited. Part of runtime.pyx.
#
# What we want: an unchanged handler costs what its transaction costs. So one native object is the coroutine that the caller awaits,
# drives the handler's, and commits; no Python of ours runs for a request to which nothing special happens.
#
# What does not work: a coroutine function in Python around the driver. Its frame, the driver's own object and the StopIteration
# between the two are most of what a request costs that hardly touches the arena.
#
# What does: a Call drives the first run by itself. As soon as there is more to do than to return what that run has returned, it
# goes on with a coroutine of recoverable.runner's, which it drives in the same way:
#
#   CALLED      nothing has been done: whether there is a transaction around is asked where it is awaited, not where it is called
#   FIRST_RUN   the handler's coroutine, in a transaction of its own
#   JOINED      the handler's coroutine as a part of the transaction around, or what makes an independent one of it
#   RETURNED    the first run has returned, and something is to be awaited before its result is: callbacks, an event
#   FAILED      the first run has raised, or what followed it: runs it again, falls back, raises
#   OVER
#
# To everybody else a Call behaves as the coroutine of an `async def` would: it begins when it is awaited, is awaited once, warns
# where it never was, and is closed by its finaliser. `cr_frame` is that of the handler, once it has begun.

cdef extern from *:
    """
    RCV_SENDS(rcv_call)

    static PyObject *apply(PyObject *fn, PyObject *args, PyObject *kwargs)
    {
        return PyObject_Call(fn, args, kwargs == Py_None ? NULL : kwargs);
    }
    """
    object apply(object fn, object args, object kwargs)
    void rcv_call_sends(PyTypeObject *type, rcv_sender sender)

cdef extern from "Python.h":
    int PyObject_CallFinalizerFromDealloc(PyObject *o)
    object PyObject_CallOneArg(object fn, object argument)


cdef enum:
    OVER # what a new object is
    CALLED
    FIRST_RUN
    JOINED
    RETURNED
    FAILED


@cython.final
cdef inline bint is_gated(Handler handler, NativeArena arena) noexcept:
    """Do its calls wait until what they say is durable?"""
    return handler.special & (UNGATED if arena.gated else GATED) != (UNGATED if arena.gated else 0)


cdef inline bint is_all_of(Transaction t, Handler handler) except -1:
    """Has the first run, which has returned, left nothing to do but its callbacks: no rollback to report, no event?"""
    return ((t.hooks is None or (t.has_touched() and not t.left and not t.settled))
            and (not t.has_touched() or (t._ended is COMMITTED and not t.arena.has_pending()))
            and not (t.has_written() and commit_is_told())
            and not (is_gated(handler, t.arena) and t.has_seen()))


cdef NativeArena arena_of_call(Handler handler, tuple args, dict kwargs):
    """The arena that a call is about, which can be as durable as it is said to be."""
    cdef NativeArena arena = handler.arena
    if arena is None:
        arena = open_arenas.only
        if arena is None:
            arena = _resolve(args, {} if kwargs is None else kwargs, handler.name)
        if handler.special & JOURNALED:
            check_journal(handler, arena)
    return arena


cdef class Call(StepDriver):
    """One call of a Handler. See the top of this file."""
    cdef Handler handler
    cdef tuple args # None: the argument alone
    cdef object argument
    cdef dict kwargs # or None
    cdef object rest # the coroutine that it goes on with
    cdef TimeLimit limit
    cdef Running here # what was set for this call alone, by who called it: told of its beginning and its end
    cdef int stage
    cdef bint busy
    cdef bint closing
    cdef object __weakref__

    # -- what is asked of a coroutine --------------------------------------------------------------------------------------

    def __await__(self):
        if self.stage > CALLED and not self.busy:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def send(self, value):
        cdef PySendResult how = PYGEN_ERROR
        result = self.advance(value, None, &how)
        return stop(result) if how == PYGEN_RETURN else result

    def throw(self, kind, value=None, traceback=None):
        cdef PySendResult how = PYGEN_ERROR
        result = self.advance(None, thrown(kind, value, traceback), &how)
        return stop(result) if how == PYGEN_RETURN else result

    def close(self):
        """Have what it awaits closed, then itself: a run is rolled back before its `finally` blocks run, which find the arena closed."""
        cdef PySendResult how = PYGEN_ERROR
        if self.stage == OVER:
            return
        if self.stage == CALLED:
            self.end(None)
            return
        if self.closing: # by the collector, say, which closes what it finds in any order: whoever awaits this from inside it, too
            return
        self.closing = True
        try:
            self.advance(None, GeneratorExit(), &how)
        except GeneratorExit:
            return
        finally:
            self.closing = False
        if how == PYGEN_NEXT:
            raise RuntimeError("coroutine ignored GeneratorExit")

    def __del__(self):
        if self.stage == CALLED:
            name = self.handler.__qualname__
            self.end(None)
            import warnings
            warnings.warn(f"coroutine '{name}' was never awaited", RuntimeWarning)
        else:
            self.close()

    def __repr__(self):
        return f"<coroutine object {self.__qualname__} at {<size_t><PyObject *>self:#x}>"

    @property
    def __name__(self):
        return None if self.handler is None else self.handler.__name__

    @property
    def __qualname__(self):
        return None if self.handler is None else self.handler.__qualname__

    @property
    def cr_code(self):
        return None if self.handler is None else self.handler.function.__code__

    @property
    def cr_running(self):
        return self.busy

    @property
    def cr_suspended(self):
        return self.stage > CALLED and not self.busy

    @property
    def cr_frame(self):
        return getattr(self.driven(), "cr_frame", None)

    @property
    def cr_await(self):
        return getattr(self.driven(), "cr_await", None)

    @property
    def cr_origin(self):
        return None

    cdef tuple given(self):
        """Its positional arguments."""
        if self.args is None:
            self.args = (self.argument,)
        return self.args

    cdef object driven(self):
        return self.coroutine if self.stage == FIRST_RUN else self.rest

    # -- its steps ---------------------------------------------------------------------------------------------------------

    cdef object advance(self, object value, object error, PySendResult *how):
        """Run to the next suspension or to the end, from a value or an error that is not None: what it yields or returns."""
        if self.busy or self.stage == OVER or (self.stage == FIRST_RUN and self.misplaced() and not isinstance(error, GeneratorExit)):
            self.refuse() # but not to close it: the collector does that anywhere, and asks once
        if self.stage == CALLED and value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        self.busy = True
        try:
            if error is None:
                result = self.go(value, None, how)
            else:
                result = self.go_from(error, how)
        except BaseException as failed:
            self.busy = False
            raise self.end(failed)
        self.busy = False
        if how[0] == PYGEN_RETURN:
            self.end(None)
        elif self.limit is not None and self.limit.waits:
            self.begin_limit()
        return result

    cdef int begin_limit(self) except -1:
        try:
            if not self.limit.begin():
                raise no_task(self.handler.seconds)
        except BaseException: # a signal's handler may raise in the event loop's code: who awaits this takes it for the end
            self.close()
            raise
        return 0

    cdef int refuse(self) except -1:
        if self.busy:
            raise ValueError("coroutine already executing")
        if self.stage == OVER:
            raise RuntimeError("cannot reuse already awaited coroutine")
        return self.refuse_step()

    cdef object go(self, object value, object error, PySendResult *how):
        if self.stage == CALLED:
            self.begin()
        if self.stage == FIRST_RUN:
            try:
                result = self.run_step(value, error)
                if not self.finished:
                    how[0] = PYGEN_NEXT
                    return result
                if not is_all_of(self.t, self.handler):
                    rest = _settle(self.t, self.handler.options, result)
                else:
                    rest = None if self.t.hooks is None else self.begin_hooks()
                if rest is None:
                    how[0] = PYGEN_RETURN
                    return result
                self.rest, self.result = rest, result
                self.stage = RETURNED
            except BaseException as failed: # of the run, or of a signal's handler after its end
                self.fail(failed)
            value = error = None
        while True:
            result = resume(self.rest, value, error, how)
            if how[0] == PYGEN_NEXT:
                return result
            if how[0] == PYGEN_RETURN:
                return self.result if self.stage == RETURNED else result
            if self.stage != RETURNED:
                raise result
            self.fail(result)
            value = error = None

    cdef object go_from(self, object error, PySendResult *how):
        """go(), from an error. A GeneratorExit closes what is awaited, and comes after that."""
        if self.stage == CALLED:
            raise error
        if not isinstance(error, GeneratorExit):
            note_stop(self, error, self.coroutine if self.stage == FIRST_RUN else self.rest)
            return self.go(None, error, how)
        try:
            if self.stage != FIRST_RUN:
                self.rest.close()
            elif not self.finished:
                self.finished = True
                self.abandon()
        except BaseException as failed:
            error = failed
        if self.stage not in (FIRST_RUN, RETURNED):
            raise error
        self.fail(error)
        return self.go(None, None, how)

    cdef object begin_hooks(self):
        """Call its callbacks, up to where there is something to await: the rest of it, or None."""
        if self.limit is not None:
            self.limit.end()
        self.t.settled = True
        return _begin_hooks(self.t)

    cdef int begin(self) except -1:
        """Find out what this is a part of, and begin it."""
        cdef Handler handler = self.handler
        cdef NativeArena arena = handler.arena
        cdef Transaction outer
        if self.here is not None:
            self.here.begin()
        if arena is None:
            arena = open_arenas.only
            if arena is None or handler.special & JOURNALED:
                arena = arena_of_call(handler, self.given(), self.kwargs)
        if handler.joins:
            outer = nearest_on(arena)
            if outer is not None:
                if handler.options.independent:
                    self.rest = _inside(outer, handler, self.given(), self.kwargs or {})
                else:
                    self.rest = apply(handler.fn, self.given(), self.kwargs)
                self.stage = JOINED
                return 0
        if _around_calls is not None:
            self.rest = _around_calls(handler, self.given(), self.kwargs or {})
            if self.rest is not None:
                self.stage = JOINED
                return 0
        coroutine = PyObject_CallOneArg(handler.fn, self.argument) if self.args is None else apply(handler.fn, self.args, self.kwargs)
        try:
            before = self.here if self.here is not None and self.here.says_later() else request_before(self.given(), self.kwargs)
            t = begin_run(self.t if self.has_spare() else Transaction.__new__(Transaction), arena, handler.name, &handler.prepared,
                          before, handler.parent)
            t.reruns = handler.reruns
            if handler.special != 0 and self.begin_special(t, coroutine):
                return 0
            self.drive(coroutine, t, handler.decide)
        except BaseException:
            coroutine.close()
            raise
        self.stage = FIRST_RUN
        return 0

    cdef bint begin_special(self, Transaction t, object coroutine) except -1:
        """Begin its time limit; let Python drive its runs, if it has a say in when the first one begins: True."""
        cdef Handler handler = self.handler
        if handler.special & LIMITED:
            self.limit = t.limit = new_limit(handler.seconds)
        if not handler.special & WATCHED:
            return False
        self.rest = _in_line(t, handler, self.given(), self.kwargs or {}, coroutine)
        self.stage = JOINED
        return True

    cdef bint has_spare(self) noexcept:
        """Is there what its Transaction was in an earlier life? Nobody else may have got at it since, not by the collector's lists."""
        return self.t is not None and self.t.arena is None and self.t.t == NULL and rcv_is_alone(<PyObject *>self.t)

    cdef int fail(self, object error) except -1:
        """Go on with what finds out what an error means."""
        self.result = self.rest = None
        self.stage = FAILED
        self.rest = _again(self.t, self.handler, self.given(), self.kwargs or {}, error)
        return 0

    cdef object end(self, object error):
        """Let go of everything: whoever holds on to it now holds nothing else. What to raise, where it ends by an error.

        Its Transaction is kept for its next life, unless somebody else has that.
        """
        cdef Running here = self.here
        cdef TimeLimit limit = self.limit
        self.stage = OVER # first of all: whatever what follows raises, it is
        self.finished = True
        self.coroutine = self.decide = self.cancelled = self.result = self.answer = self.rest = None
        self.args = self.kwargs = self.argument = None
        self.giving_way = False
        self.limit = None
        self.here = None
        if self.t is not None:
            if self.t.t == NULL and rcv_is_alone(<PyObject *>self.t):
                self.t.renew()
            else:
                self.t = None
        if limit is None:
            return error if here is None else here.end(error)
        try:
            return error if here is None else here.end(error)
        finally:
            limit.end()


cdef object send_call(PyObject *o, PyObject *value, PySendResult *how):
    return (<Call>o).advance(<object>value, None, how)


cdef void dropped(PyObject *call) noexcept:
    """Call's tp_dealloc: one that is over is kept for the next call."""
    if (<Call>call).stage != OVER and PyObject_CallFinalizerFromDealloc(call) < 0: # Cython does it in a type's own tp_dealloc only
        return
    handler = (<Call>call).handler # goes after the Call is out of the way
    (<Call>call).handler = None
    rcv_park(&rcv_calls, call)


rcv_call_sends(<PyTypeObject *>Call, <rcv_sender>send_call)
rcv_parks(<PyTypeObject *>Call, &rcv_calls, <destructor>dropped)
