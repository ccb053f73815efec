"""`@recoverable`: makes a function run as one transaction.

The wrapper is a native object that is a function to whoever asks, a coroutine function if that is one, since that is what web
frameworks accept as a handler: `runner.transactional` makes it of a coroutine function, `plain.transactional` of a plain one. Its
`__recoverable__` are its options, by which a framework sees that it is decorated.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from recoverable import _registry, frameworks, outcome, plain, runner
from recoverable.arena import Arena
from recoverable.callbacks import name_of

__all__ = ["recoverable"]

P = ParamSpec("P")
T = TypeVar("T")
Function = Callable[P, T]  # a coroutine function if T is a coroutine


@overload
def recoverable(fn: Function[P, T], /) -> Function[P, T]: ...


@overload
def recoverable(
    *,
    arena: Arena | None = None,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    timeout: float | None = None,
    fallback: Callable[..., Any] | None = None,
    commit_if: Callable[[Any], object] | None = None,
    max_conflicts: int = 5,
    nested: Literal["join", "independent"] = "join",
    durable: outcome.Durability | None = None,
) -> Callable[[Function[P, T]], Function[P, T]]: ...


def recoverable(
    fn: Any = None,
    /,
    *,
    arena: Arena | None = None,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    timeout: float | None = None,
    fallback: Callable[..., Any] | None = None,
    commit_if: Callable[[Any], object] | None = None,
    max_conflicts: int = 5,
    nested: Literal["join", "independent"] = "join",
    durable: outcome.Durability | None = None,
) -> Any:
    """Run a function as one transaction: all of its writes commit when it returns, or none if it fails.

    Works on coroutine functions, on aiohttp handlers and on `web.View` methods, with and without options; also on a
    `functools.partial` of one, and on an object whose `__call__` is one. And on plain functions, for threads and scripts: such a
    call is one step, which holds the arena from its first access to its end.

    Args:
        fn: The function; left out in `@recoverable(...)`.
        arena: The arena. By default the one of the request's application (`recoverable.aiohttp.setup`), else the only
            one that is open.
        retries: How many times to run it again after it has raised something in `retry_on`. Conflicts don't count.
        retry_on: What to retry. Cancellation and answers (web exceptions below 500) never are.
        timeout: Seconds for the whole call, all runs together; then it is cancelled, rolled back and `TimeoutError` is
            raised. `after_commit` callbacks and the fallback are outside of it. Of coroutine functions only: a step of a plain
            one is limited by `Arena.step_limit`.
        fallback: `fallback(exception, *args, **kwargs)` gives the value to return when every run has failed; it may be a
            coroutine function, if `fn` is one. It runs after the rollback, in no transaction.
        commit_if: `commit_if(result)` decides instead of the response's status whether a returned result commits.
        max_conflicts: How many times to run it again after a conflict. The last run is privileged: commits that would
            make it lose once more wait until it has ended. 0 never runs again: `ConflictError`.
        nested: What a call inside a transaction of the same arena is: a part of that one ("join"; its options decide),
            or a transaction of its own that commits whatever becomes of the outer one ("independent").
        durable: What its caller knows when it returns: "disk": that what it did and saw is on the disk; "journal" or "memory": that
            it is committed. Default: as its arena has it, `Arena.durability`. A part of a transaction has what that one has.

    Returns:
        A function of the same kind with the same signature.

    Raises:
        TypeError: It is a class, a generator function, or no function.
        ArenaOptionError: An option is invalid.
        JournalError: `durable` needs a journal, and `arena` was opened without one. Where the arena is only known at the call,
            that raises it, and runs nothing.
    """
    if arena is not None and not isinstance(arena, Arena):
        raise TypeError(f"arena={arena!r} is no Arena: give what Arena.open() returned, or leave it out")
    chosen = outcome.options(
        retries=retries,
        retry_on=retry_on,
        timeout=timeout,
        fallback=fallback,
        commit_if=commit_if,
        max_conflicts=max_conflicts,
        nested=nested,
        durable=durable,
    )
    if fn is not None:
        return _wrap(fn, arena, chosen)
    return functools.partial(_wrap, arena=arena, options=chosen)


def _wrap(fn: Any, arena: Arena | None, options: outcome.Options) -> Any:
    if isinstance(fn, (staticmethod, classmethod)):
        return type(fn)(_wrap(fn.__func__, arena, options))
    if isinstance(fn, functools.partialmethod):
        return functools.partialmethod(_wrap(fn.func, arena, options), *fn.args, **fn.keywords)
    handler = name_of(fn)
    make: Any
    if runner.is_coroutine_function(fn):
        make = runner.transactional
    elif plain.is_plain_function(fn):
        make = plain.transactional
    else:
        raise TypeError(f"@recoverable needs a function, and {handler} is not one that it can run: {_hint(fn)}")
    frameworks.discover()
    # A callable object has attributes of its own, which are not the wrapper's.
    wraps = functools.wraps(fn, updated=("__dict__",) if inspect.isroutine(fn) else ())
    wrapper = wraps(make(fn, handler, options, None if arena is None else arena.native))
    wrapper.__qualname__ = handler  # a partial or a callable object has none
    if arena is not None:
        _registry.handlers.add(cast("Any", wrapper))
    with contextlib.suppress(TypeError):  # no such thing can be referred to weakly
        _registry.decorated.add(fn)
    return wrapper


def _hint(fn: Any) -> str:
    if isinstance(fn, type):
        return "decorate its methods (`async def get(self)`), not the class"
    if not callable(fn):
        return "give a function, or an object that can be called"
    return "a generator has no end to commit at; decorate the function that uses it"
