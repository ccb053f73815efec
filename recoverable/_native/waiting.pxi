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


cdef Transaction here_on(NativeArena arena):
    """The Transaction of that arena that is current already for what runs here: the one whose operation waits. Whoever waits begins
    nothing, since that may wait as well, or fail."""
    cdef rcv_frame *f = settle()
    cdef void *context = rcv_context()
    cdef Transaction t
    while True:
        if not f.left and f.owner != NULL and f.txn[0] != NULL and f.context == context:
            t = <Transaction>f.owner
            if t.arena is arena and is_alive(t):
                return t
        if not f.left and f.keeper == NULL:
            return None
        f = f.below


cdef int wait_for_lock(NativeArena arena, Transaction t) noexcept:
    """Wait for the lock, for that transaction if it is not None, without the GIL; whoever closes the arena meanwhile is refused, but
    it may be closed on return."""
    cdef int rc
    cdef rcv_holder holder
    cdef double begun = rcv_monotonic()
    rcv_use(arena.a)
    rcv_lock_holder(arena.a, &holder)
    stand(arena, t, begun)
    with nogil:
        rc = rcv_lock_wait_yielding(arena.a, &holder, ask_for_it)
    if t is not None:
        stood(arena, t, &holder)
    else:
        stood_outside(arena, rcv_monotonic() - begun, &holder)
    rcv_unuse(arena.a)
    return rc


cdef int ask_for_it(rcv_arena *a) noexcept with gil:
    """Have a step of an ambient transaction give way that a thread has left mounted, and that its event loop was to end."""
    return rcv_ambient_yield(a)


cdef void wait_over(NativeArena arena) noexcept:
    """Let go of what a wait has kept, if that was not wanted."""
    if not arena.closed:
        rcv_wait_over(arena.a)


# What is remembered of a wait is for people. Where there is no memory for that, the wait goes on, or is over, all the same.

cdef void stand(NativeArena arena, Transaction t, double begun) noexcept:
    """Let it be seen from other threads that this one stands for the lock, for a transaction or outside of any."""
    cdef Transaction root
    if t is None:
        try:
            arena.standing[PyThread_get_thread_ident()] = begun
        except BaseException:
            pass
    else:
        root = request_of(t, arena)
        begin_wait(root)
        root.standing += 1
        t.halted += 1


cdef void stood(NativeArena arena, Transaction t, rcv_holder *holder) noexcept:
    """It has stood for the lock in the middle of an operation: its request is reported, if that was long, when the step is over."""
    cdef Transaction root = request_of(t, arena)
    t.halted -= 1
    root.standing -= 1
    end_wait(root)
    if not root.wait_told and waited(root) >= LATE:
        root.wait_told = True
        tell_later(arena, root, waited(root), holder)


cdef void stood_outside(NativeArena arena, double seconds, rcv_holder *holder) noexcept:
    """A read outside of any transaction has, or what looks at all of the arena: it is reported when that is over."""
    try:
        arena.standing.pop(PyThread_get_thread_ident(), None)
        if seconds >= LATE:
            tell_later(arena, rcv_functions(), seconds, holder)
    except BaseException:
        pass


cdef void tell_later(NativeArena arena, object who, double seconds, rcv_holder *holder) noexcept:
    cdef list told
    try:
        told = [(who, seconds, holder_of(holder))] # the collector may run here, and what it calls may tell of the others
        if arena.untold is None:
            arena.untold = told
        else:
            arena.untold.append(told[0])
    except BaseException:
        pass


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


cdef int wait_here(NativeArena arena, Transaction waits) except? -100:
    """wait_for_lock(), but only briefly where an event loop runs and what runs here can begin again: its transaction is then
    doomed, and its next access says so."""
    cdef int rc
    if _running_loop() is None:
        return wait_for_lock(arena, waits)
    rc = wait_briefly(arena, waits)
    if rc != RCV_ERR_AGAIN:
        return rc
    t = rerunnable(arena)
    if arena.closed: # while _may_rerun() found that out
        closed_error(arena)
    if t is None:
        return wait_for_lock(arena, waits)
    if t.t != NULL: # it may do anything
        rcv_txn_doom(t.t, RCV_ERR_HELD)
    return 0


cdef int wait_briefly(NativeArena arena, Transaction t) noexcept:
    """wait_for_lock() for some milliseconds: RCV_ERR_AGAIN if it is still taken then."""
    cdef int rc
    cdef rcv_holder holder
    cdef bint patient = t is not None and t.lock_time > UNLUCKY
    rcv_use(arena.a)
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
    return (stands and _running_loop() is None) or rcv_lock_is_free(arena.a) or wait_briefly(arena, here_on(arena)) == 0


cdef Transaction rerunnable(NativeArena arena):
    """running_on(), if its run may be ended here and begin again; or None."""
    cdef Transaction t = running_on(arena)
    if t is None or not t.reruns or t.t == NULL or rcv_txn_state(t.t) != RCV_ACTIVE or not _may_rerun(t):
        return None
    return t
