# driver.pxi -- the boundary driver: a coroutine that drives the handler's, one step at a time. Part of runtime.pyx, so that
# a step is one native call: enter, send, leave, with no bytecode between them that a KeyboardInterrupt could hit.
#
# Who awaits a driver comes in by am_send, a type slot, which returns a result and raises no StopIteration; Python's own `await`
# comes by tp_iternext from 3.12 on. Both are put into the types below, each type having a table of its own: a subclass would
# otherwise have its function called for its base.

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object iterator, object value, PyObject **result)
    void Py_DECREF(PyObject *o)
    void Py_INCREF(PyObject *o)

cdef extern from *:
    """
    /* What runs a driver to its next suspension or its end: a new reference, or NULL with an exception; *how says which. */
    typedef PyObject *(*rcv_sender)(PyObject *driver, PyObject *value, PySendResult *how);

    #define RCV_SENDS(name)                                                                                            \
        static rcv_sender       name##_sender;                                                                         \
        static PyAsyncMethods   name##_async;                                                                          \
        static PySendResult name##_send(PyObject *driver, PyObject *value, PyObject **out)                             \
        {                                                                                                              \
            PySendResult how = PYGEN_ERROR;                                                                            \
            *out = name##_sender(driver, value, &how);                                                                 \
            return *out == NULL ? PYGEN_ERROR : how;                                                                   \
        }                                                                                                              \
        static void name##_sends(PyTypeObject *type, rcv_sender sender)                                                \
        {                                                                                                              \
            name##_sender = sender;                                                                                    \
            name##_async = *type->tp_as_async;                                                                         \
            name##_async.am_send = name##_send;                                                                        \
            type->tp_as_async = &name##_async;                                                                         \
            type->tp_iternext = rcv_next;                                                                              \
        }

    /* Raising StopIteration in a Cython method builds a traceback, which takes longer than all the rest of a step. */
    static PyObject *rcv_next(PyObject *driver)
    {
        PyObject *out, *stop;
        if (Py_TYPE(driver)->tp_as_async->am_send(driver, Py_None, &out) != PYGEN_RETURN)
            return out;
        if (PyTuple_Check(out) || PyExceptionInstance_Check(out)) { /* not to be taken for the exception's arguments */
            stop = PyObject_CallOneArg(PyExc_StopIteration, out);
            Py_DECREF(out);
            out = stop;
        }
        if (out != NULL)
            PyErr_SetObject(PyExc_StopIteration, out);
        Py_XDECREF(out);
        return NULL;
    }

    RCV_SENDS(rcv_step)
    RCV_SENDS(rcv_part)
    """
    ctypedef PyObject *(*rcv_sender)(PyObject *driver, PyObject *value, PySendResult *how)
    void rcv_step_sends(PyTypeObject *type, rcv_sender sender)
    void rcv_part_sends(PyTypeObject *type, rcv_sender sender)
    ctypedef struct PyTypeObject:
        pass


cdef object stop(object result):
    """Raise StopIteration with that value."""
    raise StopIteration(result)


cdef class StepDriver:
    """Drive a handler's coroutine: `result = await StepDriver(coroutine, transaction, decide)`.

    Around each step the transaction is the current one; where the coroutine suspends, it is suspended; where the coroutine
    ends, decide(result, None) or decide(None, exception) says whether to commit, and it is committed or rolled back in the
    same native call. A commit that would make a privileged run invalid gives way to it first: the driver goes on, with a
    coroutine that waits.

    Args:
        coroutine: the handler's.
        transaction: a fresh one.
        decide: called only if the transaction was touched.

    Raises:
        ConflictError: the transaction lost; it is rolled back and its `conflicted` is True. Where it lost is for who reports it
            to find out.
    """
    cdef object coroutine, decide, cancelled
    cdef object result, answer # how the handler ended, while its commit gives way
    cdef tuple held # while a step waits for the lock: the handler's coroutine, and what is to be sent into it
    cdef Transaction t
    cdef bint finished, running, part, giving_way

    def __cinit__(self, object coroutine=None, Transaction transaction=None, object decide=None):
        if transaction is None:
            self.finished = True # nothing to drive, so far: a Call has its own beginning
        else:
            self.drive(coroutine, transaction, decide)

    cdef int drive(self, object coroutine, Transaction transaction, object decide) except -1:
        self.coroutine = _fault_run(coroutine, transaction) if fault_hooked(_fault_run) else coroutine
        self.t = transaction
        if transaction.coroutine is None: # else this one is a part
            transaction.coroutine = coroutine
        self.decide = decide
        self.finished = False
        return 0

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self): # replaced below
        return self.send(None)

    def send(self, value):
        result = self.step(value, None)
        return stop(result) if self.finished else result

    def throw(self, kind, value=None, traceback=None):
        error = thrown(kind, value, traceback)
        note_stop(self, error, self.coroutine)
        result = self.step(None, error)
        return stop(result) if self.finished else result

    def close(self):
        """Roll back, then close the coroutine: its `finally` blocks find the arena closed to them."""
        if self.finished:
            return
        if self.running:
            raise ValueError("coroutine already executing")
        self.finished = True
        self.abandon()

    def __del__(self):
        self.close()

    cdef int abandon(self) except -1:
        """close(), of one that has not ended."""
        cdef rcv_frame frame
        self.t.closed = True
        if self.t.limit is not None:
            (<TimeLimit>self.t.limit).end() # its fallback is not asked for either
        if self.t.t != NULL:
            rcv_txn_rollback(self.t.t)
        rcv_frame_init(&frame, &self.t.t, rcv_context(), <void *>self.t)
        try:
            close_inside(self.let_go(), &frame)
        finally:
            self.t.rollback()
        return 0

    cdef bint can_wait(self) except -1:
        """Can the step wait for the lock first? Not if that is what it does, nor where nobody drives others meanwhile."""
        return self.held is None and not self.giving_way and _running_loop() is not None

    cdef object let_go(self):
        """The coroutine to close; what waits for the lock in its place is closed."""
        if self.held is not None:
            self.coroutine.close()
            self.coroutine, self.held = self.held[0], None
        return self.coroutine

    # -- one step --------------------------------------------------------------------------------------------------------

    cdef object step(self, object value, object error):
        """Run the coroutine to its next suspension, or to its end (`finished`): what it yielded or returned."""
        if self.finished or self.running or self.misplaced():
            self.refuse_step()
        return self.run_step(value, error)

    cdef bint misplaced(self) noexcept:
        """Can't a step be taken here, or now?"""
        return (self.t.thread != 0 and not self.t.comes_here()) or (self.t.t != NULL and rcv_held(self.t.arena.a))

    cdef object run_step(self, object value, object error):
        """step(), where one can be taken."""
        cdef rcv_frame frame
        cdef uint64_t thread = self.t.thread
        cdef PySendResult how
        if thread != 0 and self.t.ambient is not None: # a step of a task of its own, which nobody has ended yet
            (<Ambient>self.t.ambient).leave()
            thread = self.t.thread
        rcv_frame_init(&frame, &self.t.t, rcv_context(), <void *>self.t)
        rcv_current()[0] = &frame
        self.t.thread = rcv_thread()
        self.running = True
        if frame.below.owner != NULL and frame.below.context == frame.context and not self.part:
            self.t.around = <Transaction>frame.below.owner
        self.t.parts += self.part
        self.t.driven_steps += 1
        try:
            # A cancellation does not wait.
            if error is None and self.t.t != NULL and rcv_txn_lock_held(self.t.t) and self.can_wait():
                self.held = (self.coroutine, value)
                self.coroutine, value = _await_lock(self.t), None
            elif self.held is None:
                error = self.prepare(error)
            while True:
                outcome = resume(self.coroutine, value, error, &how)
                if how == PYGEN_NEXT:
                    if self.t.open_blocks == 0:
                        self.suspend() # a failure dooms it: its next access says so
                        if self.t.arena.has_pending():
                            report_pending(self.t.arena)
                        return outcome
                    error = _errors.TransactionError(
                        "await inside a savepoint, an edit or a transaction block: these are part of one step; "
                        "the block is rolled back: await before or after it")
                    continue
                if self.held is not None:
                    self.coroutine, value = self.held
                    self.held = None
                    error = self.prepare(None if how == PYGEN_RETURN else outcome)
                    continue
                self.finished = True
                outcome = self.ended(outcome, None) if how == PYGEN_RETURN else self.ended(None, outcome)
                if self.finished:
                    return outcome
                value = error = None
        finally:
            self.running = False
            self.t.parts -= self.part
            self.t.driven_steps -= 1
            leave_frame(&frame)
            self.t.thread = thread

    cdef int refuse_step(self) except -1:
        """Say why a step can't be taken."""
        if self.finished:
            raise RuntimeError("cannot reuse an already awaited coroutine")
        if self.running:
            raise RuntimeError("coroutine is being awaited already")
        if self.t.runs_elsewhere():
            raise _errors.TransactionError(
                f"{self.t.handler} runs in another thread; nothing was done: what is a part of one request runs in one thread")
        raise _errors.TransactionError(
            f"a step of {self.t.handler} can't be taken in the middle of an operation on its arena; nothing was done: take it when "
            "the operation has returned")

    cdef object prepare(self, object error):
        """Make ready for a step into which `error` is to be thrown, if it is not None. What to throw in its place."""
        if self.t.t == NULL:
            return error
        if rcv_txn_forked(self.t.t) and error is None:
            return _errors.TransactionClosedError(
                f"this process was forked while {self.t.handler} waited, and its transaction goes on in the parent; nothing was "
                "changed here: begin one of this process, with arena.run() or `with arena.transaction():`")
        if not self.giving_way and rcv_raw_count(self.t.arena.a) != 0:
            # Raw writes are possible: they must find the transaction mounted, touched or not.
            try:
                self.t.mount()
            except BaseException as doomed:
                return doomed if error is None else error
        return error

    cdef void suspend(self) noexcept:
        if self.t.t != NULL and rcv_txn_mounted(self.t.t):
            rcv_txn_suspend(self.t.t)

    # -- the end -----------------------------------------------------------------------------------------------------------

    cdef object ended(self, object result, object failed):
        """Commit or roll back, since the coroutine has returned a result, or raised: what to return. Where the commit is to give
        way first, it has not `finished`."""
        if self.t.left:
            self.suspend()
            if failed is not None:
                raise failed if stops_around(failed, self.t) else _errors.without_doomed(failed)
            return result
        if self.giving_way:
            return gave_way(self, failed)
        if not (ended_with_result(self, result) if failed is None else ended_with_error(self, failed)):
            return result
        if self.t.has_to_wait() or not finish_commit(self):
            give_way(self, result, failed)
            return None
        if failed is not None:
            raise failed
        return result


cdef class PartDriver(StepDriver):
    """Drive a coroutine in a task of its own as a part of a transaction that goes on around it and outlives it."""

    def __cinit__(self, object coroutine, Transaction transaction not None, object decide):
        self.part = True

    cdef int abandon(self) except -1:
        cdef rcv_frame nobody
        if self.t.t != NULL: # the rest of the transaction goes on, and may not keep half of what this part was to do
            rcv_txn_doom(self.t.t, RCV_ERR_CLOSED)
        rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
        return close_inside(self.let_go(), &nobody)

    cdef object prepare(self, object error):
        if self.t.t == NULL and error is None:
            return _errors.TransactionClosedError(
                "the transaction that this task was a part of has ended; nothing of what follows was done: await what "
                "recoverable.gather() or TaskGroup started before the handler returns")
        return StepDriver.prepare(self, error)

    cdef object ended(self, object result, object failed):
        self.suspend()
        if failed is not None:
            raise failed
        return result


cdef inline void leave_frame(rcv_frame *frame) noexcept:
    """Make current again what was before that frame."""
    take_off(frame)
    rcv_current()[0] = frame.below


cdef int close_inside(object coroutine, rcv_frame *frame) except -1:
    """Close a coroutine whose code finds that frame as what is current."""
    rcv_current()[0] = frame
    try:
        coroutine.close()
    finally:
        leave_frame(frame)
    return 0


cdef inline object resume(object coroutine, object value, object error, PySendResult *how):
    """Send a value into a coroutine, or throw an error that is not None: what it yields, returns or raises."""
    cdef PyObject *raw = NULL
    if error is None:
        how[0] = PyIter_Send(coroutine, value, &raw)
        if how[0] == PYGEN_ERROR:
            return take_error()
        return owned(raw)
    try:
        result = coroutine.throw(error)
        how[0] = PYGEN_NEXT
        return result
    except StopIteration as stopped:
        how[0] = PYGEN_RETURN
        return stopped.value
    except BaseException as raised:
        how[0] = PYGEN_ERROR
        return raised


cdef inline object owned(PyObject *new):
    """Take over a new reference."""
    out = <object>new
    Py_DECREF(new)
    return out


cdef void report_pending(NativeArena arena) noexcept:
    """Have what a step has met written to the log where it ends by an await; an error there is not the handler's."""
    cdef rcv_frame nobody
    rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
    rcv_current()[0] = &nobody
    try:
        arena.owner._report_found()
    finally:
        leave_frame(&nobody)


def part(coroutine, Transaction transaction not None):
    """Return an awaitable that runs a coroutine, in a task of its own, as a part of a transaction that goes on around it."""
    return PartDriver(coroutine, transaction, None)


cdef Transaction begin_run(Transaction t, NativeArena arena, str handler, const rcv_name *name, object before, Transaction parent):
    """Begin a new Transaction for one run, of a handler whose name may have been prepared. It answers a request, if that is not None:
    as it was before, or the Running that says so later."""
    begin_transaction(t, arena, handler, name, False)
    t.before = before
    if before is not None and rcv_profiles_ask(arena.a):
        request = t.request
        route = request.adapter.route(request.request)
        if route is not None:
            t.set_route(route)
    if parent is not None:
        t.set_parent(parent)
    return t


def transactions_here():
    """Return the transactions that the running code is in, the innermost first, for commit_early().

    Raises:
        TransactionError: one of them can't be committed while its coroutine goes on.
    """
    cdef list found = []
    cdef Transaction t = running()
    while t is not None and not t.left:
        where = ("a savepoint, an edit or a transaction block" if t.one_step or t.open_blocks else
                 "a task that is a part of it" if t.parts else "an independent transaction" if t.parent is not None else None)
        if where is not None:
            raise _errors.TransactionError(
                f"the transaction of {t.handler!r} can't be committed inside {where}; nothing was committed, and it goes on: "
                "do this in the handler's own task and transaction")
        found.append(t)
        t = t.around
    return found


cdef object take_error():
    """The exception that is set, and clear it."""
    try:
        raise_current()
    except BaseException as error:
        return error


cdef int raise_current() except -1:
    return -1


cdef object thrown(object kind, object value, object traceback):
    """The exception that the arguments of throw() mean."""
    if value is None:
        value = kind() if isinstance(kind, type) else kind
    elif isinstance(kind, type) and not isinstance(value, BaseException):
        value = kind(value)
    if not isinstance(value, BaseException):
        raise TypeError(f"exceptions must be classes or instances deriving from BaseException, not {type(value).__name__}")
    return value if traceback is None else value.with_traceback(traceback)


cdef object send_step(PyObject *o, PyObject *value, PySendResult *how):
    result = (<StepDriver>o).step(<object>value, None)
    how[0] = PYGEN_RETURN if (<StepDriver>o).finished else PYGEN_NEXT
    return result


rcv_step_sends(<PyTypeObject *>StepDriver, <rcv_sender>send_step)
rcv_part_sends(<PyTypeObject *>PartDriver, <rcv_sender>send_step)
