"""Requests whose await points the test chooses: each is one transaction, and stands still at `await pause()`.

They are driven by hand, without an event loop, so that every interleaving can be written down and happens the same way
each time. The path is the real one: `arena.run`, the boundary driver, the native core.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from recoverable import Arena


@types.coroutine
def pause(value: Any = None) -> Generator[Any, Any, Any]:
    """Suspend the request here; gives what its next step() sends."""
    return (yield value)


def finish(call: Any) -> Any:
    """Drive a coroutine to its end, whatever it waits for; gives its result."""
    try:
        while True:
            call.send(None)
    except StopIteration as stopped:
        return stopped.value


class Request:
    """One run of `async_fn(*args)` as a transaction of `arena`.

    Attributes:
        done: Whether it has ended.
        result: What it returned.
    """

    def __init__(self, arena: Arena, async_fn: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> None:
        options.setdefault("max_conflicts", 0)
        self._run = arena.run(async_fn, *args, **options)
        self.done = False
        self.result: Any = None

    def step(self, value: Any = None) -> Any:
        """Run to the next pause or to the end; gives what it paused with. Its exceptions come out here."""
        try:
            return self._run.send(value)
        except StopIteration as end:
            self.done = True
            self.result = end.value
            return None
        except BaseException:
            self.done = True
            raise

    def throw(self, error: BaseException) -> Any:
        """Raise an exception at its pause: a cancellation, a time-out."""
        try:
            return self._run.throw(error)
        except StopIteration as end:
            self.done = True
            self.result = end.value
            return None
        except BaseException:
            self.done = True
            raise

    def finish(self) -> Any:
        """Run to the end, whatever pauses are left; gives the result."""
        while not self.done:
            self.step()
        return self.result

    def close(self) -> None:
        """Finalise it where it stands."""
        self._run.close()
        self.done = True
