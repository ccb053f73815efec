"""What a run has seen, step by step: on which commit each of its steps stood."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from recoverable import between

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["Steps", "follow", "of", "unfollow"]

_MOST: Final = 4096


class Steps:
    """The steps of one run that have used the arena.

    Attributes:
        stood: The newest commit when each of them began, and its position in the feed.
        more: Steps behind those, which are not kept.
        body: What the framework's adapter remembers the body by.
        on_error: Is called with what leaves the handler, while its transaction is still there.
        around: Gives a coroutine that is run in the place of the handler's, and awaits that.
    """

    __slots__ = ("around", "body", "more", "on_error", "stood")

    def __init__(self) -> None:
        self.stood: list[tuple[int, int]] = []
        self.more = 0
        self.body: Any = None
        self.on_error: Callable[[BaseException], None] | None = None
        self.around: Callable[[Any], Any] | None = None

    def note(self, transaction: Transaction) -> None:
        """Take note of a step that is about to end."""
        found = transaction.take_stood_on()
        if found is None:
            return
        if len(self.stood) < _MOST:
            self.stood.append(found)
        else:
            self.more += 1


class _Noted:
    """A coroutine whose steps are noted."""

    __slots__ = ("_coroutine", "_steps", "_transaction")

    def __init__(self, coroutine: Any, transaction: Transaction, steps: Steps) -> None:
        self._coroutine, self._transaction, self._steps = coroutine, transaction, steps

    def __await__(self) -> _Noted:
        return self

    def __iter__(self) -> _Noted:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Run to the next suspension."""
        return self._step(self._coroutine.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Run to the next suspension, from an exception."""
        return self._step(self._coroutine.throw, *((kind,) if value is traceback is None else (kind, value, traceback)))

    def _step(self, take: Callable[..., Any], *args: Any) -> Any:
        try:
            return take(*args)
        except StopIteration:
            raise
        except BaseException as error:
            if self._steps.on_error is not None:
                self._steps.on_error(error)
            raise
        finally:
            self._steps.note(self._transaction)

    def close(self) -> None:
        """Finalise the coroutine."""
        self._coroutine.close()


_runs: weakref.WeakKeyDictionary[Transaction, Steps] = weakref.WeakKeyDictionary()
#: What is told of each run's beginning, by arena.
_followed: weakref.WeakKeyDictionary[NativeArena, Callable[[Transaction, Steps], None]] = weakref.WeakKeyDictionary()


def follow(native: NativeArena, on_run: Callable[[Transaction, Steps], None]) -> None:
    """Note the steps of an arena's runs from now on; `on_run` is called when one begins, and may add to its steps."""
    _followed[native] = on_run
    between.put_notes(_note)


def unfollow(native: NativeArena) -> None:
    """Note them no more."""
    _followed.pop(native, None)
    if not _followed:
        between.put_notes(None)


def of(transaction: Transaction) -> Steps:
    """Return the steps of a run, which may have ended."""
    return _runs.get(transaction) or Steps()


def _note(coroutine: Any, transaction: Transaction) -> Any:
    on_run = _followed.get(transaction.arena)
    if on_run is None:
        return coroutine
    steps = _runs.get(transaction) if transaction.driven is not None else None  # a part of it, in a task of its own
    if steps is None:
        steps = _runs[transaction] = Steps()
        on_run(transaction, steps)
        if steps.around is not None:
            coroutine = steps.around(coroutine)
    return _Noted(coroutine, transaction, steps)
