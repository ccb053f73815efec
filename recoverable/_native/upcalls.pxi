# upcalls.pxi -- what native code calls in Python: the Python half imports the native one, so it says here who does what.
# Part of runtime.pyx.

cdef object _watch_block, _end_block, _run_hooks, _give_way, _await_lock, _may_rerun, _wake, _is_answer
cdef object _commits, _resolve, _inside, _settle, _begin_hooks, _in_line, _again, _committed_wanted, _too_long, _tell_late, _room_here
cdef object _commit_waiting, _settle_block, _taken_back
cdef list _untold


def set_upcalls(*, watch_block, end_block, run_hooks, give_way, await_lock, may_rerun, wake, is_answer, commits, resolve,
                inside, settle, begin_hooks, in_line, again, committed_wanted, untold, too_long, tell_late, room_here,
                commit_waiting, settle_block, taken_back) -> None:
    """Say who does what few requests need. recoverable.runner does, when it is imported.

    Args:
        watch_block: watch_block(block, loop) has a block looked at when its event loop goes on; the list that it is in.
        end_block: end_block(block, error, failed) ends a block in any way but by a commit that succeeds.
        run_hooks: run_hooks(transaction) calls the callbacks of a committed block, which can't await.
        give_way: give_way(transaction) is a coroutine that waits until a privileged run has ended, and the lock is free.
        await_lock: await_lock(transaction) is a coroutine that waits until the lock is free.
        may_rerun: may_rerun(transaction) returns whether its request can still be made what it was before its run.
        wake: wake(futures) wakes those who wait for one.
        is_answer: is_answer(error) returns whether an exception is an answer, not a crash.
        commits: commits(result, error) is the default rule, of which native code answers the common cases itself.
        resolve: resolve(args, kwargs, handler) finds the arena of a call where it is not plain which.
        inside: inside(transaction, handler, args, kwargs) is a coroutine that runs a call independent of the transaction around it.
        settle: settle(transaction, options, result) is a coroutine that does what follows a run that has returned.
        begin_hooks: begin_hooks(transaction) calls its callbacks, where there is nothing else to do: a coroutine of the rest, or None.
        in_line: in_line(transaction, handler, args, kwargs, coroutine) is a coroutine that does all runs of a handler that is watched;
            `coroutine` is what the handler has returned.
        again: again(transaction, handler, args, kwargs, error) is a coroutine that goes on after a first run that has raised.
        committed_wanted: committed_wanted() returns whether the event of a commit is written anywhere.
        untold: two facts, a dict, a key and what is there or None, each: as long as they are unchanged, it is not. Or nothing; a
            list that changes.
        too_long: too_long(transaction, stopped) is the error of a run whose step was stopped; `stopped`: by what, or None.
        tell_late: tell_late(arena) tells of those whose threads have stood still for the lock for long.
        commit_waiting: commit_waiting(transaction) is a coroutine that commits after what that has to wait for: what it fails with.
        settle_block: settle_block(transaction) is a coroutine of what follows the commit of an `async with` block.
        taken_back: taken_back(coroutine) takes a cancellation back that is about to be thrown into it, if it is to be none: was it?
        room_here: room_here(transaction) has this thread wait until the feed has room for a commit that can't await that.
    """
    global _watch_block, _end_block, _run_hooks, _give_way, _await_lock, _may_rerun, _wake, _is_answer
    global _commits, _resolve, _inside, _settle, _begin_hooks, _in_line, _again, _committed_wanted, _untold, _too_long, _tell_late
    global _room_here, _commit_waiting, _settle_block, _taken_back
    _watch_block, _end_block, _run_hooks = watch_block, end_block, run_hooks
    _give_way, _await_lock, _may_rerun, _wake, _is_answer = give_way, await_lock, may_rerun, wake, is_answer
    _commits, _resolve, _inside, _settle, _begin_hooks, _in_line = commits, resolve, inside, settle, begin_hooks, in_line
    _again, _committed_wanted = again, committed_wanted
    _untold, _too_long, _tell_late, _room_here = untold, too_long, tell_late, room_here
    _commit_waiting, _settle_block, _taken_back = commit_waiting, settle_block, taken_back


cdef bint commit_is_told() except -1:
    """committed_wanted(), natively where the answer is a plain no: each request that has written asks."""
    if len(_untold) == 6 and is_still(0) and is_still(3):
        return False
    return _committed_wanted()


cdef inline bint is_still(Py_ssize_t fact) except -1:
    return (<dict>_untold[fact]).get(_untold[fact + 1]) is _untold[fact + 2]
