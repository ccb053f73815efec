# waiting.pxi -- who finds the arena's lock taken: how it waits here, and what is remembered of that. Part of runtime.pyx.
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


cdef int wait_for_lock(NativeArena arena) noexcept:
    """Wait for the lock, without the GIL; whoever closes the arena meanwhile is refused."""
    cdef int rc
    cdef Transaction t = request_of(running(), arena)
    cdef rcv_holder holder
    cdef double begun = rcv_monotonic()
    rcv_lock_holder(arena.a, &holder)
    if t is not None:
        t.blocked = begun
    rcv_use(arena.a)
    with nogil:
        rc = rcv_lock_wait(arena.a)
    rcv_unuse(arena.a)
    if t is not None:
        t.blocked = 0
        note_wait(arena, t, rcv_monotonic() - begun, &holder)
    return rc


cdef void note_wait(NativeArena arena, Transaction t, double seconds, rcv_holder *holder):
    """A request has waited for the lock in the middle of an operation: it is reported, if that was long, when the step is over."""
    t.wait_time += seconds
    if t.wait_told or t.wait_time < LATE:
        return
    t.wait_told = True
    if arena.untold is None:
        arena.untold = []
    arena.untold.append((t, t.wait_time, holder_of(holder)))


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
    cdef double begun = rcv_monotonic()
    rcv_lock_holder(arena.a, &holder)
    rcv_use(arena.a)
    with nogil:
        rc = rcv_lock_wait_briefly(arena.a, patient)
    rcv_unuse(arena.a)
    if t is not None:
        note_wait(arena, t, rcv_monotonic() - begun, &holder)
    return rc


cdef bint may_look(NativeArena arena) noexcept:
    """Can what is only good to know be read now? Not in an event loop that would stand still for it: the lock may be stuck."""
    return _running_loop() is None or rcv_lock_is_free(arena.a) or wait_briefly(arena) == 0


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
