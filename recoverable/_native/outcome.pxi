# outcome.pxi -- what becomes of a run whose coroutine has ended: committed, rolled back, lost to another one, or waiting until its
# commit may be made. Part of runtime.pyx, so that the native call that ends the coroutine ends its transaction too.

cdef int give_way(StepDriver d, object result, object answer) except -1:
    """Go on with a coroutine that ends when the commit may be made."""
    d.coroutine = _give_way(d.t)
    d.result, d.answer = result, answer
    d.finished = False
    d.giving_way = True
    return 0


cdef object gave_way(StepDriver d, object failed):
    """That coroutine has ended, or `failed`: cancelled, say."""
    if failed is not None:
        d.t.rollback(failed)
        raise failed
    result, answer = d.result, d.answer
    d.result = d.answer = None
    if not finish_commit(d):
        give_way(d, result, answer)
        return None
    if answer is not None:
        raise answer
    return result


cdef int lost(StepDriver d, object cause) except -1:
    """The transaction was doomed, whatever the handler made of it: roll back and say why."""
    cdef int doom = d.t.early or rcv_txn_doom_code(d.t.t)
    if doom != RCV_ERR_TOO_LONG and stops_around(cause, d.t):
        d.t.rollback(cause)
        raise cause
    d.t.conflicted = doom == RCV_ERR_CONFLICT
    d.t.locked_out = doom == RCV_ERR_HELD
    if isinstance(cause, BaseExceptionGroup): # of a TaskGroup whose tasks were stopped
        cause = cause.split(_errors._Doomed)[1]
    if interrupts(cause):
        d.cancelled = cause
    d.t.cause = cause_of_code(doom)
    d.t.rollback()
    stay_cancelled(d)
    if doom == RCV_ERR_TOO_LONG:
        raise _too_long(d.t, cause)
    if isinstance(cause, _errors._Doomed):
        cause = cause.__cause__
    elif isinstance(cause, _cancelled_error): # of a part, say: nobody has cancelled this task, so it is no end
        cause = None
    if d.t.conflicted:
        raise _errors.ConflictError() from cause
    if d.t.locked_out:
        raise _errors.ArenaBusyError(
            f"{d.t.handler} needed the arena while others held its lock for long, and could not begin again; it was rolled back, "
            "and nothing of it was committed; send the request again") from cause
    if doom == RCV_ERR_FULL:
        raise _errors.error_from(doom, "the arena ran out of room while the handler ran", 0) from cause
    if rcv_doom_text(doom) != NULL:
        raise _errors.error_from(doom, rcv_doom_text(doom).decode(), 0) from cause
    raise _errors.error_from(doom, "the transaction was stopped while the handler ran", 0) from cause


cdef int stay_cancelled(StepDriver d) except -1:
    """A cancellation (or KeyboardInterrupt) must not turn into a conflict, which would run the handler again."""
    if d.cancelled is not None and (isinstance(d.cancelled, (KeyboardInterrupt, SystemExit)) or is_cancelled()):
        d.t.conflicted = d.t.locked_out = False
        raise d.cancelled
    return 0


cdef bint ended_with_result(StepDriver d, object result) except -1:
    """Is this to be committed? If not, it has ended otherwise."""
    if d.t.t == NULL:
        if d.t.arena.closed:
            closed_error(d.t.arena)
        raise _errors.TransactionClosedError("the transaction was ended inside its handler; the arena holds committed state")
    if d.t.early or rcv_txn_state(d.t.t) == RCV_DOOMED:
        lost(d, None)
    if not rcv_txn_touched(d.t.t):
        d.t.end(COMMITTED) # nothing to decide about
        return False
    try:
        commit = d.decide is None or decides(d, result)
    except BaseException as failed:
        decided(d, failed)
        raise
    if not commit:
        decided(d, None)
    return commit


cdef bint decides(StepDriver d, object result) except -1:
    """decide(result, None); of the common results the default rule says natively what `recoverable.web.commits` says."""
    if d.decide is _commits:
        if is_plain(result) and not (_tuples and type(result) is tuple):
            return True
        status = status_of(result)
        if type(status) is int:
            return status < 500
    return bool(d.decide(result, None))


cdef int decided(StepDriver d, object failed) except -1:
    """Not to commit, or by an exception: roll back, unless a read of decide() has found the transaction lost."""
    if d.t.t != NULL and rcv_txn_state(d.t.t) == RCV_DOOMED:
        lost(d, failed)
    if failed is None:
        d.t.cause = BY_RESPONSE
    d.t.rollback(failed)
    return 0


cdef bint finish_commit(StepDriver d) except -1:
    """Commit. False: another one holds the lock for long, or the feed has no room, so that it is to be tried again."""
    d.t.check()
    cdef int rc = d.t.try_commit(True)
    if rc == 0:
        return True
    if rc == RCV_ERR_AGAIN or d.t.lacks_room(rc):
        return False
    try:
        d.t.commit_failed(rc)
    except _errors._Doomed as doomed:
        raise_doomed(d, doomed)
    return 0


cdef int raise_doomed(StepDriver d, object doomed) except -1:
    """Its commit has failed by that: raise what it means."""
    stay_cancelled(d)
    if d.t.conflicted:
        raise _errors.ConflictError() from doomed.__cause__
    if isinstance(doomed, _errors._TooLong):
        raise _too_long(d.t, doomed)
    raise doomed


cdef bint ended_with_error(StepDriver d, object error) except -1:
    """True where this is to be committed all the same; else it has been rolled back, and the error is raised."""
    cdef bint ended = d.t.t == NULL
    if not ended and (d.t.early or rcv_txn_state(d.t.t) == RCV_DOOMED):
        lost(d, error)
    if isinstance(error, (_errors._Doomed, BaseExceptionGroup)):
        d.t.rollback(error)
        if stops_around(error, d.t):
            raise error
        raise _errors.without_doomed(error) # what stopped another run was kept, and raised again
    if ended:
        raise error
    commit = False
    if rcv_txn_touched(d.t.t) and d.decide is not None:
        try:
            commit = d.decide(None, error)
        except BaseException as failed:
            decided(d, failed)
            raise
    if not commit:
        d.t.rollback(error)
        raise error
    return True


cdef object _cancelled_error
from asyncio import CancelledError as _cancelled_error


cdef bint interrupts(object error) except -1:
    """Does it stop the handler from outside: a cancellation, a KeyboardInterrupt, the end of the coroutine?"""
    return error is not None and not isinstance(error, (Exception, _errors._Doomed, BaseExceptionGroup))


cdef int note_stop(StepDriver d, object error, object awaited) except -1:
    """An error is about to be thrown into what it awaits: does it stop the handler from outside?"""
    if interrupts(error) and not (isinstance(error, _cancelled_error) and _taken_back(awaited)):
        d.cancelled = error
    return 0


cdef bint is_cancelled() except -1:
    """Is the running task still being cancelled? asyncio.timeout() takes its own cancellation back."""
    import asyncio
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True # driven by hand
    return task is None or task.cancelling() > 0
