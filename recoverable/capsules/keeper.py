"""Which requests that crashed are kept: `Capsules`."""

from __future__ import annotations

import asyncio
import os
import time
import traceback
import weakref
from typing import TYPE_CHECKING, Any, Final

from recoverable import _options, _registry, between, events, middleware
from recoverable.capsules import steps
from recoverable.capsules.contents import Facts, arena_of, call_of, frame_of, is_plain, message_of
from recoverable.capsules.writer import Writer
from recoverable.errors import ArenaOptionError, _Doomed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from recoverable._native.runtime import NativeArena, Transaction
    from recoverable.transaction import Lost

__all__ = ["Capsules"]

_RUNS: Final = 20  # earlier runs of a request that are told of


class Capsules:
    """Which requests that crashed are kept, and where.

    One can serve several applications, and several processes one folder.

    Attributes:
        folder: The folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 100,
        body_limit: int | str = "64 KiB",
        hide: Iterable[str] = (),
    ) -> None:
        """Say where requests that crashed are kept; `setup(capsules=...)` has them kept.

        Args:
            folder: The folder, made with the mode 0700 if only the last part of its path is missing. Files have 0600.
            keep: How many there are at most, of all processes: the oldest are dropped.
            body_limit: Bytes of a request's body that are kept, as a number or as "64 KiB".
            hide: Names of headers, and of fields of query, path, form and JSON, whose values must not be kept, wherever they turn
                up. Case does not count. Authorization, Proxy-Authorization, Cookie and Set-Cookie never are.

        Raises:
            ArenaOptionError: One of them can't be. Also a `ValueError`.
        """
        path, most, names = os.fsdecode(folder), _any(keep), _any(hide)
        if not path or "\0" in path:
            raise ArenaOptionError(f"folder={path!r} is no path. Nothing was changed. Name a folder.")
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ArenaOptionError(f"keep={keep!r} must be a whole number, 1 or more. Nothing was changed.")
        names = names if isinstance(names, str) else tuple(names)
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise ArenaOptionError(f"hide={hide!r} must be a list of names. Nothing was changed.")
        self.folder = os.path.abspath(path)  # noqa: PTH100 -- a path that may hold any bytes
        self._keep = keep
        self._limit = 0 if body_limit == 0 else _options.parse_size(body_limit, "body_limit")
        self._writer = Writer(self.folder, keep, names, self._limit)
        self._held: Facts | None = None
        self._holding = False
        self._begun: weakref.WeakKeyDictionary[NativeArena, int] = weakref.WeakKeyDictionary()
        self._instead: weakref.WeakKeyDictionary[NativeArena, Capsules] = weakref.WeakKeyDictionary()

    @property
    def written(self) -> int:
        """How many this process has written."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """How many it has not: they came too fast, or the folder can't be written to."""
        return self._writer.dropped

    def flush(self, seconds: float = 2.0) -> bool:
        """Wait until what was taken so far is written, for so long at most; return whether it is."""
        return self._writer.flush(seconds)

    # -- requests ----------------------------------------------------------------------------------------------------------

    def begin(self, native: NativeArena, *, instead: bool = False) -> None:
        """Keep the requests on an arena that crash, from now on, until `end` was called as often as this.

        Args:
            native: The arena.
            instead: In the place of others, which go on at the end: an exploration.

        Raises:
            ArenaOptionError: Others keep them, with another folder and other secrets.
        """
        if _registry.stand_in is not None:  # a replay
            return
        now = native.capsules
        if not instead:
            self.check(native)
        if now is not None and now is not self:
            if not instead:  # an exploration's
                return
            self._instead[native] = now
        self._begun[native] = self._begun.get(native, 0) + 1
        native.capsules = self
        steps.follow(native, self._on_run)

    def check(self, native: NativeArena) -> None:
        """Raise ArenaOptionError if others keep them."""
        now = native.capsules
        if _registry.stand_in is None and now not in (None, self) and not now._holding:
            raise ArenaOptionError(
                f"requests that crash on arena {native.owner.name!r} are kept by {now!r} already. Nothing was changed. Give "
                "setup() of all applications on one arena the same Capsules."
            )

    def end(self, native: NativeArena) -> None:
        """Keep them no more, if nobody else has begun."""
        left = self._begun.pop(native, 1) - 1
        if left:
            self._begun[native] = left
        elif native.capsules is self:
            native.capsules = before = self._instead.pop(native, None)
            if before is None:
                steps.unfollow(native)
            else:
                steps.follow(native, before._on_run)

    def _on_run(self, transaction: Transaction, noted: steps.Steps) -> None:
        answers = transaction.answers
        if answers is not None:
            noted.body = answers[0].keep_body(answers[1], self._limit)

    def earlier(
        self, runs: list[dict[str, Any]], transaction: Transaction, failure: BaseException, lost: Lost | None
    ) -> None:
        """Note what has become of a run that another one follows."""
        if len(runs) < _RUNS:
            conflict = _conflict(lost)
            error = None if lost is not None else f"{type(failure).__qualname__}: {message_of(failure)}"
            runs.append({"run": transaction.attempt, "conflict": conflict, "error": error})

    def crashed(
        self,
        transaction: Transaction,
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        failure: BaseException,
        request_id: str | None,
        runs: list[dict[str, Any]],
        lost: Lost | None,
        *,
        late: bool,
    ) -> str | None:
        """Keep a request that has crashed, if it is one; return the name of its file, or None.

        Args:
            transaction: Of its last run.
            call: The handler, its positional and its keyword arguments.
            failure: What it has raised.
            request_id: As in its events.
            runs: What `earlier` has noted.
            lost: Where it has lost a conflict, if it has.
            late: Whether its time limit has ended it.
        """
        if transaction.parent is not None:  # what leaves it crashes the transaction around, or is caught
            return None
        if isinstance(failure, (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, _Doomed)) and not late:
            return None
        try:
            return self._take(
                transaction.handler, lambda: self._facts(transaction, call, failure, request_id, runs, lost, late=late)
            )
        except Exception:  # whatever it is, the request goes on
            self._writer.drop(f"it could not be taken: {traceback.format_exc(limit=-2)}")
            return None

    def _facts(
        self,
        transaction: Transaction,
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        failure: BaseException,
        request_id: str | None,
        runs: list[dict[str, Any]],
        lost: Lost | None,
        *,
        late: bool,
    ) -> Facts:
        noted = steps.of(transaction)
        arena, end = arena_of(transaction)
        before = transaction.request
        request, here = None, None
        own: Any = None
        if before is not None:
            here = before.request
            request = before.adapter.kept_of(before, noted.body, self._limit, is_plain)
            own = before.adapter.routed_to(here, call[0])
        whole = call[0] is middleware.call_handler
        kind = TimeoutError if late else type(failure)
        trace = events.from_handler(failure.__traceback__)
        return Facts(
            time.time(),
            transaction.handler,
            request_id,
            arena,
            (kind.__module__, kind.__qualname__, "" if late else message_of(failure)),
            traceback.TracebackException(type(failure), failure, trace, lookup_lines=False, compact=True),
            frame_of(trace),
            runs,
            noted,
            end,
            request,
            whole,
            None
            if own is not None or whole
            else call_of(*call, lambda value: value is not None and value is here, transaction.arena),
            {"module": own.__module__, "function": own.__qualname__} if hasattr(own, "__qualname__") else None,
            between.faults_stand(),
            conflict=_conflict(lost),
        )

    def _take(self, handler: str, make: Callable[[], Facts]) -> str | None:
        if self._holding:
            self._held = make()
            return None
        return self._writer.take(handler, make)

    # -- explorations of faults ----------------------------------------------------------------------------------------------

    def hold(self, on: bool) -> None:
        """Keep requests that crash in mind alone, the last one: most of those of an exploration are what it is for."""
        self._holding, self._held = on, None

    def take_held(self) -> Facts | None:
        """Return, once, the last one that was kept in mind."""
        held, self._held = self._held, None
        return held

    def keep_exploration(self, held: Facts | None, target: str, arena: str, found: dict[str, Any]) -> str | None:
        """Keep a run of an exploration that left something that does not hold; return the name of its file.

        Args:
            held: The request that has crashed in it, if one has.
            target: What is explored.
            arena: The arena's name.
            found: What does not hold, as data.
        """
        where = {"name": arena, "identity": None, "epoch": None, "journal": None}
        facts = held or Facts(time.time(), target, None, where)
        facts.exploration = found
        return self._writer.take(facts.handler, lambda: facts)

    def __repr__(self) -> str:
        return f"Capsules({self.folder!r}, keep={self._keep})"


def _conflict(lost: Lost | None) -> dict[str, Any] | None:
    return None if lost is None else {"path": lost.path, "key": lost.key, "winner": lost.winner}


def _any(value: Any) -> Any:
    return value  # a caller may give anything
