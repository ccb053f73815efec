# waiting.pxi -- who finds the arena's lock taken: how it waits here, and what is remembered of that. Part of runtime.pyx.
#
# How long a request has waited is two numbers: what is past, and since when it waits. Whoever looks has the GIL, and so has who
# changes them, in one call of native code each: so nobody finds a wait in both, or in neither. What its parts wait for at the same
# time counts once.
#
# A thread waits without the GIL until the lock is its own. Where an event loop runs, that would stop all its other requests:
# so there it waits only briefly, and then the run ends, if it can begin again, and waits at its entry while the loop goes on.

# What waits for the lock calls no Python function before it has returned: that would meet what a signal's handler raises, or what
# stops a step, where it would be lost. The collector may run, and what that calls may use the arena. It can't close it before the wait is
# over: from then on it, or another thread, may have done so. So whoever has waited looks at `closed` before he uses arena.a.

cdef extern from *:
    """
    /* The code of the functions that run in this thread, the innermost first. */
    static PyObject *rcv_functions(void)
    {
        PyObject      *found = PyList_New(0);
        PyFrameObject *frame = PyEval_GetFrame();
        Py_XINCREF(frame);
        while (found != NULL && frame != NULL) {
            PyObject      *code = (PyObject *)PyFrame_GetCode(frame);
            PyFrameObject *back = PyFrame_GetBack(frame);
            if (PyList_Append(found, code) != 0)
                Py_CLEAR(found);
            Py_DECREF(code);
            Py_DECREF(frame);
            frame = back;
        }
        Py_XDECREF(frame);
        return found;
    }
    """
    list rcv_functions()

cdef enum:
    HELDS = 5 # runs of a request that end because others hold the lock; the next one waits on the spot, lest it never ends

cdef double UNLUCKY = 0.02 # seconds of looking at the lock alone, after which one stands in its queue for longer
unlucky = UNLUCKY

cdef double LATE = 0.1 # seconds that a request waits for others before that is told
late = LATE


cdef tuple holder_of(const rcv_holder *holder):
    text = holder.handler.decode("utf-8", "replace") # of the segment: may be anything
    return holder.pid, "".join([letter if letter.isprintable() else "?" for letter in text])


cdef void begin_wait(Transaction t) noexcept:
    if t.waits == 0:
        t.wait_since = rcv_monotonic()
    t.waits += 1


cdef void end_wait(Transaction t) noexcept:
    t.waits -= 1
    if t.waits == 0:
        t.wait_time += rcv_monotonic() - t.wait_since
        t.wait_since = 0


cdef double waited(Transaction t) noexcept:
    """For how long its request has waited so far."""
    return t.wait_time if t.waits == 0 else t.wait_time + rcv_monotonic() - t.wait_since


cdef class Wait:
    """What recoverable.waits.waiting is made of: from __enter__ to __exit__ a request waits for others, and is on the list of its loop.

    Native, because a signal's handler may raise before any function of Python's begins: this is begun, and ended, or it is not.
    """
    cdef public Transaction transaction # None: nobody asks for it
    cdef public object loop

    def __enter__(self):
        cdef set waits
        if self.transaction is not None:
            waits = self._begin() # nothing has begun if this raises
            waits.add(self)
            begin_wait(self.transaction)
        return self

    def __exit__(self, kind, error, trace):
        cdef Transaction t = self.transaction
        cdef set waits
        if t is None:
            return
        waits = t.arena.waits.get(self.loop)
        if waits is not None:
            waits.discard(self)
            if not waits and self.loop is None:
                t.arena.waits.pop(None, None) # another thread may have done so
        end_wait(t)
        if waited(t) >= LATE:
            self._tell_if(waited(t))


cdef int wait_for_lock(NativeArena arena) noexcept:
    """Wait for the lock, without the GIL; whoever closes the arena meanwhile is refused, but it may be closed on return."""
    cdef int rc
    cdef rcv_holder holder
    cdef double begun = rcv_monotonic()
    rcv_use(arena.a)
    cdef Transaction t = request_of(running(), arena)
    rcv_lock_holder(arena.a, &holder)
    stand(arena, t, begun)
    if rcv_has_ambient(arena.a):
        rc = wait_for_threads(arena, begun)
    else:
        with nogil:
            rc = rcv_lock_wait(arena.a, &holder)
    if t is not None:
        stood(arena, t, &holder)
    else:
        stood_outside(arena, rcv_monotonic() - begun, &holder)
    rcv_unuse(arena.a)
    return rc


cdef int wait_for_threads(NativeArena arena, double begun) noexcept:
    """rcv_lock_wait(), in slices: between two of them, a step of an ambient transaction gives way that a thread has left mounted, and
    that this one's event loop was to end."""
    cdef int rc = RCV_ERR_AGAIN
    cdef double until = begun + rcv_busy_timeout(arena.a)
    while rc == RCV_ERR_AGAIN:
        with nogil:
            rc = rcv_lock_wait_briefly(arena.a, True)
        if rc == RCV_ERR_AGAIN and not rcv_ambient_yield(arena.a) and rcv_monotonic() > until:
            return rcv_lock_busy(arena.a)
    return rc


cdef void wait_over(NativeArena arena) noexcept:
    """Let go of what a wait has kept, if that was not wanted."""
    if not arena.closed:
        rcv_wait_over(arena.a)


cdef void stand(NativeArena arena, Transaction t, double begun):
    """Let it be seen from other threads that this one stands for the lock, for a request or outside of any transaction."""
    if t is None:
        arena.standing[PyThread_get_thread_ident()] = begun
    else:
        begin_wait(t)
        t.blocked = True


cdef void stood(NativeArena arena, Transaction t, rcv_holder *holder):
    """A request has stood for the lock in the middle of an operation: it is reported, if that was long, when the step is over."""
    t.blocked = False
    end_wait(t)
    if not t.wait_told and waited(t) >= LATE:
        t.wait_told = True
        tell_later(arena, t, waited(t), holder)


cdef void stood_outside(NativeArena arena, double seconds, rcv_holder *holder):
    """A read outside of any transaction has, or what looks at all of the arena: it is reported when that is over."""
    arena.standing.pop(PyThread_get_thread_ident(), None)
    if seconds >= LATE:
        tell_later(arena, rcv_functions(), seconds, holder)


cdef void tell_later(NativeArena arena, object who, double seconds, rcv_holder *holder):
    cdef list told = [(who, seconds, holder_of(holder))] # the collector may run here, and what it calls may tell of the others
    if arena.untold is None:
        arena.untold = told
    else:
        arena.untold.append(told[0])


cdef int tell_late(NativeArena arena) except -1:
    """Tell of those, unless an operation goes on, or it is being opened: then who ends the operation does, or the next one."""
    cdef rcv_frame nobody
    if arena.untold is None or arena.closed or arena.owner is None or rcv_in_access(arena.a):
        return 0
    rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
    rcv_current()[0] = &nobody
    try:
        _tell_late(arena)
    finally:
        leave_frame(&nobody)
    return 0


cdef int wait_here(NativeArena arena) except? -100:
    """wait_for_lock(), but only briefly where an event loop runs and what runs here can begin again: its transaction is then
    doomed, and its next access says so."""
    cdef int rc
    if _running_loop() is None:
        return wait_for_lock(arena)
    rc = wait_briefly(arena)
    if rc != RCV_ERR_AGAIN:
        return rc
    t = rerunnable(arena)
    if arena.closed: # while _may_rerun() found that out
        closed_error(arena)
    if t is None:
        return wait_for_lock(arena)
    if t.t != NULL: # it may do anything
        rcv_txn_doom(t.t, RCV_ERR_HELD)
    return 0


cdef int wait_briefly(NativeArena arena) noexcept:
    """wait_for_lock() for some milliseconds: RCV_ERR_AGAIN if it is still taken then."""
    cdef int rc
    rcv_use(arena.a)
    cdef Transaction t = running()
    cdef bint patient = t is not None and t.arena is arena and t.lock_time > UNLUCKY
    t = request_of(t, arena)
    cdef rcv_holder holder
    rcv_lock_holder(arena.a, &holder)
    if t is not None:
        stand(arena, t, 0)
    with nogil:
        rc = rcv_lock_wait_briefly(arena.a, patient)
    if t is not None:
        stood(arena, t, &holder)
    rcv_unuse(arena.a)
    return rc


cdef bint may_look(NativeArena arena, bint stands=True) noexcept:
    """Can what is only good to know be read now? Not in an event loop that would stand still for it: the lock may be stuck. Nor
    elsewhere, unless one that `stands` for the lock may ask."""
    if arena.closed:
        return False
    return (stands and _running_loop() is None) or rcv_lock_is_free(arena.a) or wait_briefly(arena) == 0


cdef Transaction rerunnable(NativeArena arena):
    """running_on(), if its run may be ended here and begin again; or None."""
    cdef Transaction t = running_on(arena)
    if t is None or not t.reruns or t.t == NULL or rcv_txn_state(t.t) != RCV_ACTIVE or not _may_rerun(t):
        return None
    return t
