"""After a kill: a new process on the arena, which recovers what the dead one has left.

Or dies of it, and is followed by one that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import selectors
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recoverable import _state
from recoverable._native import _faults
from recoverable.arena import Arena
from recoverable.errors import RecoverableError, TransactionError
from recoverable.faults import _children
from recoverable.faults._judge import Judge, Outcome

if TYPE_CHECKING:
    from recoverable.faults._points import Plan

__all__ = ["fresh_selector", "fresh_threads", "restart"]


def restart(judge: Judge, plan: Plan, outcome: Outcome, timeout: float) -> tuple[str, ...]:
    """Let a new process attach and recover; where the plan says so, ones that are killed at it come before.

    Args:
        judge: Knows the arena, and what must hold.
        plan: What has struck, and strikes the recovery.
        outcome: What does not hold is added to it.
        timeout: Seconds for each process.

    Returns:
        The phases of the recovery that came to its end.
    """
    for point, _ in plan.recovery:
        nth = point.nth
        died = _children.in_child(lambda nth=nth: _start(judge, nth), timeout)  # type: ignore[misc]
        if died.hung or died.error:
            outcome.problems.append(f"the process that was to be killed in its recovery: {died}")
        outcome.missed |= not died.signal
    ending = _children.in_child(lambda: _start(judge, 0), timeout)
    if ending.hung or ending.signal or ending.error:
        outcome.problems.append(f"the process that was started again on the arena: {ending}")
        return ()
    names, problems, digest = ending.value
    outcome.problems += [f"in the process that was started again: {problem}" for problem in problems]
    try:
        here = _state.digest(_state.image_of(judge.arena))
    except RecoverableError as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
    else:
        if digest and here != digest:
            outcome.problems.append("the process that was started again sees another state than this one")
    return tuple(names)


def _start(judge: Judge, nth: int) -> tuple[list[str], list[str], str]:
    """In a child: attach, recover, look; die at the nth phase of that, unless it is 0.

    Returns:
        The phases of the recovery, what does not hold, the state's fingerprint.
    """
    _faults.fault_clear()
    _faults.fault_watch(_faults.FAULT_PHASE)
    if nth:
        _faults.fault_at(_faults.FAULT_PHASE, nth, _faults.FAULT_KILL)
    arena = _reattach(judge.arena)
    with contextlib.suppress(RecoverableError):
        arena.root.get(None)  # the lock of one who died is taken over by whoever comes first
    names = [name for name in _faults.fault_names(_faults.FAULT_PHASE) if name.startswith("recover.")]
    _faults.fault_clear()
    seen = Outcome()
    now = judge.elsewhere(arena).look(seen)
    return names, seen.problems, "" if now is None else _state.digest(now)


def _reattach(arena: Arena) -> Arena:
    """In a forked child: attach as a new process does."""
    name, segment = arena.name, arena._segment
    try:
        for one in list(segment.arenas):
            one.close()
    except TransactionError:  # a view is alive: go on with what the fork gave
        return arena
    return Arena.open(name, create=False)


def fresh_selector(loop: asyncio.AbstractEventLoop) -> None:
    """In a forked child: give a loop its own epoll instance, since the one that it has is the parent's as well.

    What the child no longer listened to, a connection that it has closed, say, the parent would not hear of either.
    """
    old = getattr(loop, "_selector", None)
    if not isinstance(old, selectors.BaseSelector):
        backend = getattr(loop, "_get_backend_id", None)  # uvloop's
        if backend is not None:
            _fresh_epoll(backend())
        return
    new = type(old)()
    for key in list(old.get_map().values()):
        new.register(key.fileobj, key.events, key.data)
    loop._selector = new  # type: ignore[attr-defined]


def fresh_threads(loop: asyncio.AbstractEventLoop) -> None:
    """In a forked child: forget the threads that wait for work, asyncio's and anyio's: they are the parent's, and none is here."""
    with contextlib.suppress(AttributeError):  # of uvloop's there is no way to it
        loop._default_executor = None  # type: ignore[attr-defined]
    backend = sys.modules.get("anyio._backends._asyncio")
    for name in ("_threadpool_idle_workers", "_threadpool_workers"):
        with contextlib.suppress(
            AttributeError, LookupError, RuntimeError
        ):  # none; the loop does not run, so they have ended
            getattr(backend, name).get().clear()


def _fresh_epoll(descriptor: int) -> None:
    """Put a new epoll instance that listens to the same in the place of one; whoever uses it does not notice."""
    with select.epoll() as new:
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
            if line.startswith("tfd:"):
                _, file, _, events, *_ = line.split()
                new.register(int(file), int(events, 16))
        os.dup2(new.fileno(), descriptor, inheritable=False)
