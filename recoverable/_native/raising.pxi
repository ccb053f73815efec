# How what stops a step gets into its thread, and out of it again. Included by watchdog.pyx; all of it with the GIL.
#
# What we want: an exception that is raised in the step's own code, as if that had raised it, and never once the step is over.
#
# PyThreadState_SetAsyncExc() has it raised where Python looks for such exceptions: as a function begins, after a call, and at
# jumps back. What does not work: in 3.12 and 3.13 the jump back of a `while condition:` lies outside of the `with` that the loop
# is in (recoverable/_jumps.py). What is raised there ends no `with` on its way.
#
# What does: code that has such jumps, of all the functions that the thread is in, is instrumented by sys.monitoring. What waits there
# is raised before the condition of such a loop decides, which is inside of the `with`. Where that is outside, too, and where the thread
# stands at the jump already, it is raised at what is jumped to. Functions that are called later need nothing: it is raised as they begin. Nothing
# is instrumented before a step is stopped, and what is, only until the exception was raised or withdrawn.
#
# Where it still fails: others have both tools that sys.monitoring has for everybody; the loop is in a debugger's own code, or a debugger
# whose code runs then has other loops traced, where Python loses the place of what is raised at a jump; the step's thread runs the
# handler of a signal that came at the jump, which is not stopped before it comes back.
cdef extern from *:
    """
    static PyThreadState *rcv_state_of(uint64_t ident)
    {
        PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        while (state != NULL && state->thread_id != (unsigned long)ident)
            state = PyThreadState_Next(state);
        return state;
    }

    /* What a context begins with in CPython 3.11 to 3.14: the one that was left for it. That is private, so rcv_know_contexts() first
     * looks whether one that was just entered has it there, and the field is read only if so. */
    struct rcv_context_head { PyObject_HEAD PyObject *previous; };
    static int rcv_knows_contexts;

    static int rcv_know_contexts(void)
    {
        PyObject *entered = PyContext_CopyCurrent();
        PyThreadState *state = PyThreadState_Get();
        PyObject *left = state->context;
        if (entered == NULL || PyContext_Enter(entered) < 0) {
            Py_XDECREF(entered);
            return -1;
        }
        rcv_knows_contexts = ((struct rcv_context_head *)entered)->previous == left;
        int rc = PyContext_Exit(entered);
        Py_DECREF(entered);
        return rc;
    }

    /* Has that thread entered the context, and not left it? Also where it has entered others since, as Context.run() does. */
    static int rcv_runs_in(const PyThreadState *state, const void *context)
    {
        PyObject *at = state->context;
        while (at != NULL && (void *)at != context)
            at = rcv_knows_contexts ? ((struct rcv_context_head *)at)->previous : NULL;
        return at != NULL;
    }

    /* May an exception be set in that thread? Not beside somebody else's, and where a context is given, only while the thread's code
     * runs in that: `async_exc` and `context` are public in cpython/pystate.h. */
    static int rcv_may_raise(uint64_t ident, void *context)
    {
        PyThreadState *state = rcv_state_of(ident);
        return state != NULL && state->async_exc == NULL && (context == NULL || rcv_runs_in(state, context));
    }

    static void rcv_raise_in(uint64_t ident, PyObject *error) { (void)PyThreadState_SetAsyncExc((unsigned long)ident, error); }

    static PyObject *rcv_too_long;

    /* In a forked child: an exception of ours that was set in its thread is for a step of the parent. The first Python function
     * that is called would have it, which is one of those that are called after a fork. Not by PyThreadState_SetAsyncExc(): another
     * thread of the parent may have had the mutex that this takes. The class is never freed, so a reference more is no matter. */
    static void rcv_forget_here(void)
    {
        PyThreadState *state = PyGILState_GetThisThreadState();
        if (state != NULL && state->async_exc != NULL && state->async_exc == rcv_too_long)
            state->async_exc = NULL;
    }

    /* Was it there, and not raised yet? */
    static int rcv_withdraw_from(uint64_t ident, PyObject *error)
    {
        PyThreadState *state = rcv_state_of(ident);
        return state != NULL && state->async_exc == error && PyThreadState_SetAsyncExc((unsigned long)ident, NULL) == 1;
    }

    /* Is it in what a debugger, or another tool, has called? `tracing` is public in cpython/pystate.h. */
    static int rcv_is_traced(uint64_t ident)
    {
        PyThreadState *state = rcv_state_of(ident);
        return state != NULL && state->tracing != 0;
    }

    static int rcv_lives(uint64_t ident) { return rcv_state_of(ident) != NULL; }

    static int rcv_waits_in_any(PyObject *error)
    {
        PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        while (state != NULL && state->async_exc != error)
            state = PyThreadState_Next(state);
        return state != NULL;
    }
    """
    int rcv_know_contexts() except -1
    void rcv_forget_here() noexcept nogil
    PyObject *rcv_too_long
    bint rcv_may_raise(uint64_t ident, void *context) noexcept
    void rcv_raise_in(uint64_t ident, object error) noexcept
    bint rcv_withdraw_from(uint64_t ident, object error) noexcept
    bint rcv_is_traced(uint64_t ident) noexcept
    bint rcv_waits_in_any(object error) noexcept
    bint rcv_lives(uint64_t ident) noexcept
    unsigned long PyThread_get_thread_ident() noexcept

rcv_too_long = <PyObject *>_TooLong

cdef object monitoring = getattr(sys, "monitoring", None)
cdef object tool = None # what sys.monitoring knows us as
cdef dict known = {} # id of a code object: itself, and its jumps back that are outside of what they are in
cdef list instrumented = [] # code objects
cdef dict raised_after_jump = {} # threads that stand at such a jump, and the context of theirs that it is for: it is raised after that

cdef tuple NOTHING_KNOWN = (None, NOTHING)

cdef enum:
    TRIES = 50 # to know the code that a thread is in, which goes on meanwhile
    MOST_KNOWN = 1000


cdef void withdraw(uint64_t ident) noexcept:
    rcv_withdraw_from(ident, _TooLong)
    if raised_after_jump:
        raised_after_jump.pop(ident, None)


cdef list frames_of(uint64_t ident):
    """Return the frames of that thread, of code that is known. From then on nothing of ours runs Python code."""
    cdef list frames = []
    if monitoring is None:
        return frames
    for _ in range(TRIES):
        frames = of_thread(ident)
        new = {id(frame.f_code): frame.f_code for frame in frames if id(frame.f_code) not in known}
        if not new:
            return frames
        if len(known) > MOST_KNOWN and not instrumented:
            known.clear()
        for key, code in new.items():
            try:
                known[key] = code, outside(code)
            except Exception: # code that a tool has made: better stopped somewhere than not at all
                known[key] = code, NOTHING
    return frames


cdef outside_of(code):
    _, found = known.get(id(code), NOTHING_KNOWN)
    return found


cdef void raise_in(uint64_t ident, void *context, list frames, bint first):
    """Have it raised in that thread, which is in these frames and in that context; for the first time?"""
    cdef bint later = False, traced = first and rcv_is_traced(ident)
    for frame in frames:
        found = outside_of(frame.f_code)
        if found.jumps and instrument(frame.f_code):
            # What the callback of a debugger, or of another tool, raises is raised where Python goes next, which it may not say.
            later = later or traced or frame.f_lasti in found.jumps
    if later:
        raised_after_jump[ident] = <uint64_t>context
    else:
        raised_after_jump.pop(ident, None) # the loop ended there
        rcv_raise_in(ident, _TooLong)


cdef void take_tool() noexcept:
    """Have sys.monitoring know us, if it can: before it is clear what is to be stopped, since the program may hear of that."""
    global tool
    if monitoring is None or tool is not None:
        return
    try:
        free = [each for each in (3, 4) if monitoring.get_tool(each) is None] # the others are a debugger's, a profiler's
        if free:
            monitoring.use_tool_id(free[0], "recoverable.watchdog")
            tool = free[0]
            monitoring.register_callback(tool, monitoring.events.INSTRUCTION, on_instruction)
    except Exception: # an audit hook's
        tool = None


cdef bint instrument(code):
    """Have on_instruction() called before each instruction of that code; return whether it will be."""
    global tool
    if any(each is code for each in instrumented):
        return True
    if tool is None:
        return False
    try:
        monitoring.set_local_events(tool, code, monitoring.events.INSTRUCTION)
    except Exception: # somebody has freed what is ours
        tool = None
        return False
    instrumented.append(code)
    return True


def settle() -> None:
    """Leave all code as it was, and give the tool back, if no exception waits to be raised."""
    global tool
    for ident in [each for each in raised_after_jump if not rcv_lives(each)]:
        raised_after_jump.pop(ident, None)
    if tool is None or raised_after_jump or (instrumented and rcv_waits_in_any(_TooLong)):
        return
    try:
        for code in instrumented:
            monitoring.set_local_events(tool, code, 0)
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(tool)
    except Exception: # as above
        pass
    instrumented.clear()
    tool = None


def on_instruction(code, int offset):
    """Hear of an instruction of code that has such jumps."""
    cdef uint64_t ident = PyThread_get_thread_ident()
    found = outside_of(code)
    if offset not in found.jumps and offset not in found.before and offset not in found.targets:
        return monitoring.DISABLE
    if rcv_withdraw_from(ident, _TooLong):
        raised_after_jump[ident] = 0
    context = raised_after_jump.get(ident)
    cdef bint here = context is not None and rcv_may_raise(ident, <void *><uint64_t>context)
    if here and offset in found.jumps:
        return None
    if here:
        del raised_after_jump[ident]
    settle()
    if here:
        raise _TooLong
    return None
