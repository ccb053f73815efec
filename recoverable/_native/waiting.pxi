# waiting.pxi -- who finds the arena's lock taken: how it waits here, and what is remembered of that. Part of runtime.pyx.
#
# How long a request has waited is two numbers: what is past, and since when it waits. Whoever looks has the GIL, and so has who
# changes them, in one call of native code each: so nobody finds a wait in both, or in neither. What its parts wait for at the same
# time counts once.
#
# A thread waits without the GIL until the lock is its own. Where an event loop runs, that would stop all its other requests:
# so there it waits only briefly, and then the run ends, if it can begin again, and waits at its entry while the loop goes on.

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


cdef int wait_for_lock(NativeArena arena) noexcept:
    """Wait for the lock, without the GIL; whoever closes the arena meanwhile is refused."""
    cdef int rc
    cdef Transaction t = request_of(running(), arena)
    cdef rcv_holder holder
    cdef double begun = rcv_monotonic()
    rcv_lock_holder(arena.a, &holder)
    stand(arena, t, begun)
    rcv_use(arena.a)
    with nogil:
        rc = rcv_lock_wait(arena.a, &holder)
    rcv_unuse(arena.a)
    if t is not None:
        stood(arena, t, &holder)
    else:
        stood_outside(arena, rcv_monotonic() - begun, &holder)
    return rc


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
        from recoverable.frames import caller
        tell_later(arena, caller(), seconds, holder)


cdef void tell_later(NativeArena arena, object who, double seconds, rcv_holder *holder):
    if arena.untold is None:
        arena.untold = []
    arena.untold.append((who, seconds, holder_of(holder)))


cdef int tell_late(NativeArena arena) except -1:
    """Tell of those, unless an operation goes on: then who ends that does."""
    cdef rcv_frame nobody
    if arena.untold is None or arena.closed or rcv_in_access(arena.a):
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
    if t is None:
        return wait_for_lock(arena)
    if t.t != NULL: # _may_rerun() may do anything
        rcv_txn_doom(t.t, RCV_ERR_HELD)
    return 0


cdef int wait_briefly(NativeArena arena) noexcept:
    """Wait for some milliseconds, without the GIL: RCV_ERR_AGAIN if it is still taken then."""
    cdef int rc
    cdef Transaction t = running()
    cdef bint patient = t is not None and t.arena is arena and t.lock_time > UNLUCKY
    t = request_of(t, arena)
    cdef rcv_holder holder
    rcv_lock_holder(arena.a, &holder)
    if t is not None:
        stand(arena, t, 0)
    rcv_use(arena.a)
    with nogil:
        rc = rcv_lock_wait_briefly(arena.a, patient)
    rcv_unuse(arena.a)
    if t is not None:
        stood(arena, t, &holder)
    return rc


cdef bint may_look(NativeArena arena, bint stands=True) noexcept:
    """Can what is only good to know be read now? Not in an event loop that would stand still for it: the lock may be stuck. Nor
    elsewhere, unless one that `stands` for the lock may ask."""
    return (stands and _running_loop() is None) or rcv_lock_is_free(arena.a) or wait_briefly(arena) == 0


cdef Transaction rerunnable(NativeArena arena):
    """The Transaction of that arena that runs in this thread and context, if its run may be ended here and begin again; or None."""
    cdef rcv_frame *f = settle()
    cdef void *context = rcv_context()
    cdef Transaction t
    while f.owner != NULL and f.context == context:
        t = <Transaction>f.owner
        if t.arena is arena:
            return t if t.reruns and t.t != NULL and is_alive(t) and rcv_txn_state(t.t) == RCV_ACTIVE and _may_rerun(t) else None
        f = f.below
    return None
