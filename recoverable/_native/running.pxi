# running.pxi -- whose code is running in this thread and context. Part of runtime.pyx.

cdef bint is_alive(Transaction t) noexcept:
    """False: its coroutine goes on without it, or it goes on in the process that this one was forked from."""
    return not t.left and (t.t == NULL or not rcv_txn_forked(t.t))


cdef void take_off(rcv_frame *f) noexcept:
    """Take whatever lies above a frame off this thread's stack: blocks that were left elsewhere, or not at all."""
    cdef rcv_frame **top = rcv_current()
    cdef rcv_frame *gone
    while top[0] != f:
        gone = top[0]
        top[0] = gone.below
        if gone.keeper != NULL:
            gone_off(gone)
        elif gone.owner != NULL and gone == &(<Transaction>gone.owner).frame:
            (<Transaction>gone.owner).off_stack()


cdef rcv_frame *settle() noexcept:
    """The top of this thread's stack, once what was left in other threads is off it."""
    cdef rcv_frame *f = rcv_current()[0]
    while f.left:
        f = f.below
    take_off(f)
    return f


cdef Transaction running():
    """The Transaction that runs in this thread and context, or None."""
    cdef rcv_frame *f = not_others(settle())
    if f.owner == NULL or f.context != rcv_context() or not is_alive(<Transaction>f.owner):
        return None if ambients == 0 else enter_ambient(None)
    return <Transaction>f.owner


cdef inline rcv_frame *not_others(rcv_frame *f) noexcept:
    """The nearest frame from there on. A step of an ambient transaction lies on whatever ran when it was begun, and hides nothing:
    it counts where nothing of this context lies below."""
    if f.keeper == NULL:
        return f
    cdef void *context = rcv_context()
    cdef rcv_frame *own = NULL
    while f.left or f.keeper != NULL:
        if own == NULL and not f.left and f.context == context:
            own = f
        f = f.below
    return f if own == NULL or (f.owner != NULL and f.context == context and is_alive(<Transaction>f.owner)) else own


cdef Transaction running_on(NativeArena arena):
    """The Transaction of that arena that runs in this thread and context, perhaps around others; or None."""
    cdef rcv_frame *f = settle()
    cdef void *context = rcv_context()
    cdef Transaction t
    while f.left or f.keeper != NULL or (f.owner != NULL and f.context == context):
        if not f.left and f.context == context:
            t = <Transaction>f.owner
            if t.arena is arena:
                return t if is_alive(t) else None
        f = f.below
    return None if ambients == 0 else enter_ambient(arena)


cdef Transaction nearest_on(NativeArena arena):
    """The Transaction of that arena that what begins here is to be a part of, or None: what runs here, or else the context's."""
    cdef Transaction t = running()
    if t is None or t.arena is arena:
        return t
    return None if ambients == 0 else enter_ambient(arena)


cdef bint has_too_long(object error) noexcept:
    """Is it what stops a step, or a group with that in it?"""
    if is_instance(error, BaseExceptionGroup):
        for each in error.exceptions:
            if has_too_long(each):
                return True
    return is_instance(error, _errors._TooLong)


cpdef bint stops_around(object error, Transaction t) noexcept:
    """Return whether it is what stops another step of this thread, in whose code `t` runs: then it passes `t` as it is.

    As an error of the run that it has hit first, an `except Exception` of the step that is to be stopped could keep it. Tasks of a
    group bring it in a group. `t` may be off the stack, as a part that has ended: all that is there is around it then.
    """
    cdef rcv_frame *f = rcv_current()[0]
    if not has_too_long(error):
        return False
    while f != NULL and f.owner != <void *>t:
        f = f.below
    if f == NULL:
        f = rcv_current()[0]
    while f != NULL:
        if f.owner != NULL and f.owner != <void *>t and (<Transaction>f.owner).is_late():
            return True
        f = f.below
    return False


cdef Transaction request_of(Transaction t, NativeArena arena):
    """The one around it that is its whole request, or None: it is of another arena."""
    if t is None or t.arena is not arena:
        return None
    while t.parent is not None:
        t = t.parent
    return t


def current_transaction(arena: NativeArena | None = None):
    """Return the Transaction that runs in this thread and context (on that arena), or None."""
    return running() if arena is None else nearest_on(arena)
