"""Replaying a capsule: the same handler, with the same request, on the states that its steps saw.

Its first run is all that is run: what that raises is what the capsule's last run has raised, or is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import traceback
from typing import TYPE_CHECKING, Any

from recoverable import _registry, between, event_log, frameworks
from recoverable._native.runtime import Handler
from recoverable.capsules import steps
from recoverable.capsules.contents import frame_of, where
from recoverable.capsules.forward import Forward
from recoverable.capsules.private import Past, private, standing_in
from recoverable.capsules.rerun import Enough, Run, forget_run, own_tasks
from recoverable.capsules.verdict import CANCELLED, Replay, named, told
from recoverable.errors import CapsuleError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from recoverable.arena import Arena
    from recoverable.capsules.capsule import Capsule

__all__ = ["replayed"]


async def replayed(
    capsule: Capsule,
    target: Any,
    *,
    journal: str | None,
    headers: dict[str, str],
    timeout: float | None,
    debug: Callable[[BaseException], None] | None,
) -> Replay:
    """Replay a capsule. See `Capsule.replay`."""
    past, seq = _past(capsule, journal)
    with contextlib.ExitStack() as stack:
        arena = stack.enter_context(private(past, seq, capsule.arena.get("step_limit")))
        stand_for = stack.enter_context(standing_in(arena))
        stack.enter_context(event_log.quietly())
        program = None
        if isinstance(target, str):
            program, target = target.partition(":")[0], found(target)
        run = Run(capsule, Forward(arena, past.history, past.line, seq), arena, debug)
        arena.native.capsules = run
        steps.follow(arena.native, run.on_run)
        stack.callback(steps.unfollow, arena.native)
        between.put_around_parts(run.around_part)
        stack.callback(between.put_around_parts, None)
        between.put_around_calls(run.around_call)
        stack.callback(between.put_around_calls, None)
        arena.native.watch_writes(True)
        between.put_writes(run.on_write)
        stack.callback(between.put_writes, None)
        stack.callback(forget_run)
        stack.push(_clear)
        result: Any = None
        error: BaseException | None = None
        try:
            async with own_tasks(), asyncio.timeout(timeout) as limit:
                result = await _called(capsule, target, arena, stand_for, run, headers, program)
        except Enough:
            pass
        except RecoverableError as failure:
            if run.trouble is not None or isinstance(failure, CapsuleError):
                raise
            error = failure
        except KeyboardInterrupt:
            raise
        except BaseException as failure:
            task = asyncio.current_task()
            if isinstance(failure, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by Ctrl-C, or by who waits for the replay
            error = failure
        if run.failure is not None:
            error = run.failure
        if error is not None and not run.begun:
            raise CapsuleError(f"the handler could not be called: {named(error)}. Nothing was run.") from error
        if error is not None and arena.native.raw_count():
            _clear(type(error), error, error.__traceback__)
        if limit.expired():
            at = "" if error is None else where(frame_of(error.__traceback__))
            raise CapsuleError(
                f"{capsule.handler} was stopped after {timeout:g} seconds{at and f', at {at}'}: the replay's own limit, not the "
                "handler's. What it had written went with the private arena. Give a longer timeout=, or None."
                + (f" Does it wait for one of them: {CANCELLED}?" if run.cancelled else "")
            )
        return told(capsule, error, run, result)


def _clear(kind: Any, error: BaseException | None, trace: Any) -> None:
    """Drop what frames have that have ended: views in them would keep the arena open."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)
        gc.collect()  # a debugger's


def _past(capsule: Capsule, journal: str | None) -> tuple[Past, int]:
    folder = journal or capsule.arena.get("journal")
    if capsule.exploration is not None and not capsule.steps:
        raise CapsuleError(
            f"{capsule.file} was left by an exploration of faults. Nothing was run. It runs that case again by itself: "
            f"{capsule.exploration['again']}"
        )
    if folder is None or capsule.arena.get("identity") is None:
        raise CapsuleError(
            f"{capsule.file} has no state to be replayed on: arena {capsule.arena['name']!r} had no journal. Nothing was run. "
            "Open arenas with journal= to have later capsules replayed."
        )
    numbers = [
        *capsule.steps,
        *([(capsule.end, capsule.steps[-1][1] if capsule.steps else 0)] if capsule.end is not None else []),
    ]
    if not numbers:
        raise CapsuleError(f"{capsule.file} does not say which state its request saw. Nothing was run.")
    last = capsule.steps[-1] if capsule.steps else numbers[-1]
    return Past(folder, capsule.arena, last), numbers[0][0]


def found(text: str) -> Any:
    """Return what MODULE:NAME stands for.

    Raises:
        CapsuleError: It can't be imported.
    """
    module, _, name = text.partition(":")
    try:
        return functools.reduce(getattr, (name or "app").split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise CapsuleError(
            f"{text!r} can't be imported: {error}. Nothing was run. Name an application, or a function that makes one, as "
            "MODULE:NAME."
        ) from error


def _function(capsule: Capsule, program: str | None = None) -> Any:
    """Import the function that a capsule is of; `program`: the module that was run as `__main__`."""
    call = capsule.call or capsule.handler_of_route
    if call is None or not call["module"] or "<locals>" in call["function"]:
        raise CapsuleError(
            f"{capsule.handler} can't be imported by its name. Nothing was run. Give the application that it belongs to, "
            "or the handler."
        )
    module = program if call["module"] == "__main__" and program is not None else call["module"]
    function = found(f"{module}:{call['function']}")
    if type(function) is not Handler and not inspect.iscoroutinefunction(function):  # a file may name anything
        raise CapsuleError(
            f"{module}:{call['function']} is no handler. Nothing was run. Run only capsules of your own programs."
        )
    return function


async def _called(
    capsule: Capsule,
    target: Any,
    arena: Arena,
    stand_for: Callable[[Arena], None],
    run: Run,
    headers: dict[str, str],
    program: str | None,
) -> Any:
    """Run the handler once; return what it returns."""
    handler = target if type(target) is Handler else None
    if target is None:
        handler = _function(capsule)
    app: Any = None
    how: Any = None  # the module that answers requests to it again
    if handler is None:
        app, how = await _made(target, arena)
    elif capsule.request is not None:
        how = frameworks.replay_of(capsule.request.get("interface", "aiohttp"))
        app = how.alone(arena)
    _stand_for_others(handler, arena, stand_for)

    if capsule.call is None or (capsule.call["missing"] and app is not None and how.FINDS_CALLS):
        return await how.answer(capsule.request or {}, app, headers, run, handler, whole=capsule.whole_request)
    function = handler if handler is not None else _function(capsule, program)
    if capsule.call["missing"]:
        raise CapsuleError(
            f"{capsule.handler} was called with what a capsule can't keep: {', '.join(capsule.call['missing'])}. Nothing was run. "
            "Call it from a handler of a route, or with numbers, texts, lists and dicts."
        )

    def call(request: Any) -> Awaitable[Any]:
        def given(arg: dict[str, Any]) -> Any:
            return request if "request" in arg else arena if "arena" in arg else arg["value"]

        assert capsule.call is not None
        args = [given(arg) for arg in capsule.call["args"]]
        kwargs = {name: given(arg) for name, arg in capsule.call["kwargs"].items()}
        if type(function) is Handler:
            return function(*args, **kwargs)
        return arena.run(functools.partial(function, **kwargs), *args)

    if app is None or capsule.request is None:
        return await run.stepped(call(None))
    return await how.answer(capsule.request, app, headers, run, call, whole=False)


async def _made(target: Any, arena: Arena) -> tuple[Any, Any]:
    """Return the application that a target is, or makes, of the arena if it takes an argument; and what answers its requests."""
    found, how = target, frameworks.replayed_by(target)
    if how is None:
        takes = [p for p in inspect.signature(target).parameters.values() if p.default is p.empty and p.kind in (0, 1)]
        found = target(arena) if takes else target()
        if inspect.isawaitable(found):
            found = await found
        how = frameworks.replayed_by(found)
    if how is None:
        raise CapsuleError(
            f"{target!r} gave {found!r}, which is no application of aiohttp or ASGI. Nothing was run. Give an application, a "
            "function that makes one, or the handler itself."
        )
    return found, how


def _stand_for_others(handler: Any, arena: Arena, stand_for: Callable[[Arena], None]) -> None:
    """Have the private arena stand for the one that a handler was decorated with, for applications', and for all that are open."""
    native = getattr(handler, "arena", None)
    if native is not None and native.owner is not None:
        stand_for(native.owner)
    for bound in _registry.all_bound():
        stand_for(bound)
    for segment in _registry.all_open():
        if segment.native is not arena.native and segment.arenas:
            stand_for(segment.arenas[0])
