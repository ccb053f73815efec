# ambient.pxi -- a transaction that is found by context: by the tasks and threads that a request starts. Part of runtime.pyx.
#
# What we want: whatever a web framework does with a request is in the request's transaction: tasks of its middlewares, functions in a
# pool of threads, `async with` blocks. Nobody there tells us when a step begins or ends.
#
# What does not work: a mount that lasts until somebody says so. Other tasks run in between, and a function in a thread ends unseen.
#
# What does: the context variable holds an Ambient. Who uses the arena, with nothing current in its context, is asked whether there is
# one: then its transaction becomes current for this step, and the event loop is asked to end the step as soon as it comes to that.
# Until then its step gives way to whoever needs the arena, between two operations (src/transaction/ambient.c). So the mount only saves
# the next operation of the step a mount of its own.
#
#   in a thread of the loop     ended by call_soon, before a coroutine that has been suspended since can be resumed
#   in any other thread         the same by call_soon_threadsafe, or by the loop's own next step of that transaction
#
# A driver's step of the same transaction, in the task that handles the request, is waited for by threads that come in between.
from contextvars import Context, ContextVar

cdef extern from "unistd.h" nogil:
    int usleep(unsigned int micros)

#: What the running code is in, an Ambient or None: inherited by tasks, and by threads that are given a copy of the context.
ambient = ContextVar("recoverable.ambient", default=None)
cdef object _ambient = ambient
from cpython.contextvars cimport PyContextVar_Set, get_value

cdef int ambients = 0 # live Ambients in this process; at 0, lookups skip the context variable

cdef enum:
    LOOK = 50 # µs between two looks whether a driver's step in another thread is over


@cython.no_gc_clear # the stack has a reference as long as the frame is on it
cdef class AmbientStep:
    """The frame of one step of an ambient transaction, on the stack of the thread that it runs in."""
    cdef rcv_frame frame
    cdef Transaction t
    cdef object context # kept here, since another one could have its address, and be taken for it
    cdef uint64_t thread
    cdef bint on


cdef class Ambient:
    """A transaction that whoever runs in a context is in.

    Args:
        transaction: a fresh one.
        loop: the event loop that its steps are ended by.
    """
    cdef readonly Transaction transaction
    cdef Ambient around # of another arena: what was there before
    cdef object loop
    cdef object nowhere # the context that the loop ends steps in: one can be entered only once at a time
    cdef object last # its last step: an AmbientStep, which may be over, or None
    cdef uint64_t home # the loop's thread
    cdef bint asked # the loop is going to end it
    cdef bint counted

    cdef int begin(self, Transaction transaction, object loop) except -1:
        global ambients
        transaction.check()
        self.transaction, self.loop, self.home = transaction, loop, rcv_thread()
        rcv_ambient(transaction.t)
        transaction.ambient = self
        self.around = get_value(_ambient)
        cdef Ambient each = self
        while each is not None: # what has ended is not kept by what was started in it, which may go on so for ever
            each = each.next_around()
        self.counted = True
        ambients += 1
        return 0

    def __dealloc__(self):
        self.discount()

    cdef void discount(self) noexcept:
        global ambients
        if self.counted:
            self.counted = False
            ambients -= 1

    cdef void is_over(self) noexcept:
        """Its transaction has ended."""
        self.discount()
        self.leave()

    cdef Ambient next_around(self):
        """The next one around that has not ended."""
        while self.around is not None and not self.around.can_be_entered():
            self.around = self.around.around
        return self.around

    cdef bint can_be_entered(self) noexcept:
        cdef Transaction t = self.transaction
        return t is not None and t.t != NULL and is_alive(t) and not t.arena.closed

    cdef Transaction enter(self):
        """Make its transaction current here, for this step: that; None: it is over."""
        cdef Transaction t = self.transaction
        cdef AmbientStep step
        cdef uint64_t me = rcv_thread()
        if not self.can_be_entered():
            return None
        if t.runs_elsewhere():
            self.wait_for_step()
            if not self.can_be_entered():
                return None
        if self.last is not None: # another context's, in this thread
            drop_step(self.last, True)
        step = AmbientStep.__new__(AmbientStep)
        step.t, step.thread = t, me
        rcv_frame_init(&step.frame, &t.t, rcv_context(), <void *>t)
        step.context = <object>step.frame.context
        step.frame.keeper = <void *>step
        rcv_current()[0] = &step.frame
        step.on = True
        Py_INCREF(<PyObject *>step)
        self.last = step
        if t.thread == 0:
            t.thread = me
        if not self.asked:
            self.ask_loop(me)
            if self.last is not step: # the loop was faster, and has ended it, before it has done anything
                return self.enter()
        return t

    cdef int ask_loop(self, uint64_t me) except -1:
        """Have the loop end the step. From another thread that lets the GIL go, and the loop may do so before this returns: so the step
        has begun, and `asked` says so."""
        self.asked = True
        try:
            if self.nowhere is None:
                self.nowhere = Context()
            if me == self.home:
                self.loop.call_soon(self.end_step, context=self.nowhere)
            else:
                self.loop.call_soon_threadsafe(self.end_step, context=self.nowhere)
        except BaseException as error: # it is closed; or of a signal's handler
            self.asked = False
            self.leave()
            if not isinstance(error, RuntimeError) or not self.loop.is_closed():
                raise
            raise _errors.TransactionError(
                f"the event loop of {self.transaction.handler!r} is closed, so its transaction can't go on. Nothing was done here. Await "
                "what runs in its tasks and threads before the loop ends.") from error
        return 0

    cdef int wait_for_step(self) except -1:
        """Wait, without the GIL, until a step in another thread is over, or gives way. Not with the lock: that step may need it."""
        cdef Transaction t = self.transaction
        wait_over(t.arena)
        cdef double until = rcv_monotonic() + t.arena.busy_timeout
        while self.can_be_entered() and t.runs_elsewhere():
            if rcv_monotonic() > until:
                raise _errors.ArenaBusyError(
                    f"another thread of {t.handler} has held its step for longer than busy_timeout ({t.arena.busy_timeout:g} s). Nothing "
                    "was done here. Make the block in that thread shorter, or await the thread first: tasks and threads of one "
                    "transaction run in it one at a time.")
            with nogil:
                usleep(LOOK)
        return 0

    cdef bint come_back(self) noexcept:
        """Its last step, in another thread, gives way to this one: True. False: not now, or it is a driver's."""
        return (self.transaction.driven_steps == 0 and self.last is not None
                and (<AmbientStep>self.last).thread == self.transaction.thread and self.leave())

    def end_step(self) -> None:
        """End the last step; called by the event loop."""
        self.asked = False
        if not self.leave() and not self.loop.is_closed():
            self.asked = True
            self.loop.call_later(0.001, self.end_step, context=self.nowhere) # a thread is in the middle of something

    def is_busy(self) -> bool:
        """Return whether another thread is in the middle of an operation or a block of it."""
        return self.transaction.t != NULL and self.transaction.runs_elsewhere()

    cdef bint leave(self) noexcept:
        """Suspend the last step, wherever it is, if it is mounted; False: it can't be, now."""
        cdef Transaction t = self.transaction
        cdef AmbientStep step = self.last
        cdef bint here
        if step is None:
            return True
        here = step.thread == rcv_thread()
        if not here and t.halted != 0: # one stands for the lock, in the middle of an operation
            return False
        if t.driven_steps != 0: # it is begun in the middle of a driver's step, which goes on, and whose end is the driver's to say
            if not here:
                return False
        elif t.t != NULL and not t.arena.closed and rcv_txn_mounted(t.t):
            if not here and t.open_blocks != 0:
                return False
            if rcv_held(t.arena.a) or not rcv_ambient_take(t.t):
                if not here or t.open_blocks == 0:
                    return False
            rcv_txn_suspend(t.t) # with a block open, which an await has left so: that dooms it, and its next access says so
            if here and t.arena.has_pending():
                report_pending(t.arena)
        elif not here and t.open_blocks != 0 and t.t != NULL:
            return False
        self.last = None
        drop_step(step, here)
        if t.thread == step.thread and t.driven_steps == 0:
            t.thread = 0
        return True


def share_transaction():
    """Have the tasks and threads that are started here from now on be in the transaction that runs here.

    Returns:
        What unshare_transaction() takes, or None: they are, or there is no transaction, or no event loop.
    """
    cdef Transaction t = running()
    cdef Ambient shared
    loop = _running_loop()
    if t is None or loop is None or t.ambient is not None:
        return None
    shared = Ambient.__new__(Ambient)
    shared.begin(t, loop)
    return PyContextVar_Set(_ambient, shared)


def unshare_transaction(token) -> None:
    """Have those that are started here from now on be where they were before, if this is still the context."""
    if token is not None:
        reset_if_here(_ambient, token)


cdef void *context_of_step(Transaction t) noexcept:
    """The context that its step runs in, where nobody knows whether the step is over; else NULL."""
    if t.entered:
        return t.frame.context
    if t.ambient is None or (<Ambient>t.ambient).last is None:
        return NULL
    return (<AmbientStep>(<Ambient>t.ambient).last).frame.context


cdef void drop_step(AmbientStep step, bint here) noexcept:
    if not step.on:
        return
    if here:
        unlink(&step.frame)
    else: # that thread takes it off its stack when it looks there
        rcv_frame_leave(&step.frame)
        step.frame.owner = NULL
        step.t = step.context = None


cdef void unlink(rcv_frame *frame) noexcept:
    """Take the frame of an AmbientStep off this thread's stack, wherever it is there."""
    cdef rcv_frame **link = rcv_current()
    while link[0] != frame:
        link = &link[0].below
        if link[0] == NULL:
            return
    link[0] = frame.below
    gone_off(frame)


cdef void gone_off(rcv_frame *frame) noexcept:
    """That frame is off the stack, and its AmbientStep with it."""
    cdef PyObject *keeper = <PyObject *>frame.keeper
    (<AmbientStep>keeper).on = False
    Py_DECREF(keeper)


cdef Transaction enter_ambient(NativeArena arena):
    """Make the context's ambient transaction current, if it has one (on that arena, unless that is None): that. Not where it was said
    that nobody's is."""
    cdef rcv_frame *f = settle()
    cdef Ambient each
    if f.owner == NULL and f.context == rcv_context():
        return None
    each = get_value(_ambient)
    while each is not None and not (each.can_be_entered() and (arena is None or each.transaction.arena is arena)):
        each = each.next_around()
    return None if each is None else each.enter()


cdef rcv_frame *below_ambient(rcv_frame *frame) noexcept:
    """Take the steps of ambient transactions off that lie on that frame, which is about to end; the top of the stack."""
    cdef rcv_frame *f = settle()
    while f != frame and f.keeper != NULL:
        unlink(f)
        f = settle()
    return f
