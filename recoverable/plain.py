"""`@recoverable` on a plain function: what follows a run of it that did not simply return.

A call is one step, in the thread that makes it: `_native/plain.pxi` runs it, and has at its top what that means. Here is what
`recoverable.runner` does for coroutine functions, without awaiting anything: the rules, the events and the words are the same, and
are its own. What is left out is what only an event loop can do for others meanwhile. A plain function does not stand in line at a
hot spot, since its steps can't lose there; and callbacks that would have to be awaited are refused.

Its last run is privileged, as that of a coroutine function, for the moments in which it has given the arena back. In the thread of
an event loop it asks for that once, and does not wait: who has the privilege may be a request of the same loop.
"""

from __future__ import annotations

import functools
import inspect
import time
import types
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING, Any, TypeVar

from recoverable import completion, outcome, privilege, runner, web
from recoverable._native.runtime import PlainHandler, set_plain_upcalls
from recoverable.callbacks import name_of
from recoverable.errors import ArenaOptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["is_plain_function", "transactional"]

T = TypeVar("T")

_LOOK = 0.005  # seconds between two looks whether another privileged run has ended


def is_plain_function(fn: object) -> bool:
    """Return whether a call of it runs it and returns: no class, no generator, no coroutine function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type) or not callable(fn) or runner.is_coroutine_function(fn):
        return False
    called = inspect.getattr_static(type(fn), "__call__", None)
    return not any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in (fn, called))


def transactional(
    fn: Callable[..., T], handler: str, options: outcome.Options, native: NativeArena | None = None
) -> PlainHandler[T]:
    """Make a plain function run as a transaction of its own, again where its options say so.

    Args:
        fn: A plain function.
        handler: Its name in messages and events.
        options: Checked options.
        native: The arena. None: that of the request's application, or the only one that is open.

    Returns:
        The function: it returns what the last run returned, or the fallback's value.

    Raises:
        ArenaOptionError: An option is for coroutine functions.
    """
    if options.timeout is not None:
        raise ArenaOptionError(
            f"timeout={options.timeout:g} can't end {handler}, which is a plain function: it is not cancelled half-way. Nothing "
            "was run. Give its steps a limit, Arena.open(step_limit=...), or write it with `async def`."
        )
    if options.fallback is not None and runner.is_coroutine_function(options.fallback):
        raise ArenaOptionError(
            f"fallback={name_of(options.fallback)} is a coroutine function, which nobody would await for {handler}, a plain "
            "function. Nothing was run. Give a plain function."
        )
    function = fn if type(fn) is types.FunctionType else _like_any
    return PlainHandler(fn, handler, options, function, native)


def _like_any(*args: Any, **kwargs: Any) -> Any:
    """Be what tools see of a plain handler that is no function itself: a partial, an object that is called."""


def _again(
    transaction: Transaction,
    handler: PlainHandler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    failure: BaseException | None,
) -> T:
    """Go on after a first run that raised, until a run returns or the runs are used up."""
    call: runner.Call[T] = runner.Call(handler.name, handler.fn, args, kwargs, handler.options)
    options, before, course = handler.options, transaction.request, runner.Course()
    conflicts = crashes = 0
    request_id: str | None = None
    try:
        while True:
            if failure is not None:
                conflicts += transaction.conflicted
                crashes += not transaction.conflicted
                facts = runner.facts_of(transaction, failure, options, conflicts, crashes, cancelled=False)
                then, why = runner.what_follows(facts, options, call, before)
                if then == "end":
                    if transaction.touched or transaction.hooks is not None:
                        completion.settle_here(transaction, options, None, failure, request_id)
                    raise failure
                if facts.stopped:
                    failure = runner.stopped_by(failure) or failure
                failure, request_id = runner.tell(call, transaction, course, facts, then, why, failure, request_id)
                if then == "raise":
                    completion.seen_here(transaction, options, failure)
                    raise failure
                if then == "fallback":
                    return _fall_back(call, transaction, failure)  # type: ignore[no-any-return]

                transaction = transaction.another("rerun" if facts.conflicted else "retry")
                if 0 < conflicts == options.max_conflicts:
                    _take_privilege(transaction)
            try:
                result = handler.run(transaction, args, kwargs)
                failure = None
                completion.settle_here(transaction, options, result, None, request_id)
                return result
            except BaseException as error:
                failure = error
    finally:
        del failure  # it refers to this frame


def _take_privilege(transaction: Transaction) -> None:
    if running_loop() is None:
        _by_hand(privilege.take(transaction))
    else:
        transaction.take_privilege()


def _by_hand(waits: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that yields as long as it has to wait, where no event loop runs."""
    try:
        while True:
            waits.send(None)
            time.sleep(_LOOK)
    except StopIteration:
        pass
    finally:
        waits.close()


def _fall_back(call: runner.Call[Any], transaction: Transaction, failure: BaseException) -> Any:
    options, before = call.options, transaction.request
    assert options.fallback is not None
    web.why_no_rerun(before, call.args, call.kwargs)
    try:
        value = options.fallback(failure, *call.args, **call.kwargs)
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(
                f"the fallback of {call.handler}, a plain function, returned a coroutine, which nobody would await. Nothing of it "
                "was run, and the transaction was rolled back. Give a plain function."
            ) from failure
        if web.comes_too_late(value, before):
            raise failure
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException:
        completion.told_here(transaction, options)
        raise
    completion.told_here(transaction, options)
    return value


def _after(transaction: Transaction, options: outcome.Options, result: Any) -> None:
    completion.settle_here(transaction, options, result)


set_plain_upcalls(again=_again, after=_after)
