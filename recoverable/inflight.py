"""Requests in flight, of all processes: what each is at, and what it waits for.

What we want: whoever runs a server sees which request hangs, where in its code, and who is in its way; at any moment, without
having prepared for it, and although the event loop that it runs on may hang itself. A server that nobody asks pays nothing.

What does: of this process's requests the core has a list, their coroutines say where they await, their threads' frames where
they run, and `waits` what they wait for. Other processes are asked: a thread in each (`Listener`) sleeps in the kernel until
somebody does, has the interpreter for the moment that it takes to look, and writes what it has found into a table in the segment
(`notes.c`). Where that thread does not get the interpreter, because code that holds the GIL does not come back, there is no
answer: that process is told apart as silent.

What is read there may be anything, since the segment may be damaged: it is checked, and what is not as expected is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recoverable import _registry, frames
from recoverable._native import _notes
from recoverable._native.frames import of_threads
from recoverable._native.runtime import own_threads_forked
from recoverable._threads import OwnThread
from recoverable.errors import RecoverableError
from recoverable.reports import Request
from recoverable.waits import SpotName, waiting, whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from recoverable._native._notes import Teller
    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["Answer", "answer_of", "everywhere", "here", "listen", "stop"]

_PATIENCE: Final = 0.2  # seconds that an answer is waited for
_LOOK: Final = 0.002  # seconds between two looks for it
_AGAIN: Final = 10  # looks, after which who has not answered is asked again: it was awake just then
_MOST: Final = 64  # notes
_SIZE: Final = 488  # bytes of one
_LOOKS: Final = 5  # at those who wait and those who run, until nobody has moved from one to the other in between


# -- of this process --------------------------------------------------------------------------------------------------------


def _where(transaction: Transaction, threads: dict[int, list[FrameType]]) -> tuple[str | None, bool]:
    """Return the line at which a transaction's code is, and whether it runs just now."""
    coroutine, name = transaction.driven, transaction.handler
    if (
        coroutine is None
    ):  # a block, or a plain function, whose frame has its name; else a helper has opened it: its thread is what runs in it
        stack = threads.get(transaction.ident, []) if transaction.one_step or transaction.plain else []
        found = frames.calls(stack, lambda frame: frame.f_code.co_qualname == name) or stack[::-1]
    elif getattr(coroutine, "cr_running", False):
        own = coroutine.cr_frame
        each = (frames.calls(stack, lambda frame: frame is own) for stack in threads.values())
        found = next(filter(None, each), [])
    else:
        return frames.line_of(frames.innermost(frames.awaited(coroutine))), False
    return frames.line_of(frames.innermost(found)), coroutine is not None or bool(found)


def _name(transaction: Transaction) -> str | None:
    """Return the id of its request, the one that its events will have; a block has none."""
    if transaction.one_step:
        return None
    if transaction.request_id is None:
        found = transaction.answers
        given = (None if found is None else found[0].request_id(found[1])) or uuid.uuid4().hex
        if transaction.request_id is None:  # still: its own thread may have named it meanwhile
            transaction.request_id = given
    return transaction.request_id


def _request(
    transaction: Transaction, waits: waiting | None, threads: dict[int, list[FrameType]], now: float
) -> Request:
    line, running = _where(transaction, threads)
    kind: str | None
    kind, holder, place = None, None, SpotName(None, None)
    if waits is not None:
        kind, holder, place = waits.kind, waits.holder(), waits.place()
    elif transaction.blocked:
        kind, holder = "lock", transaction.arena.lock_holder()
    pid, by = holder or (0, "")
    return Request(
        handler=transaction.handler,
        process=os.getpid(),
        age=max(0.0, now - transaction.begun),
        request_id=_name(transaction),
        run=transaction.attempt,
        step=transaction.step,
        line=line,
        running=running,
        waits_for=kind,
        waited=transaction.waited,
        holder=by or None,
        holder_process=pid,
        path=place.path,
        key=place.key,
        what="block" if transaction.one_step else "request",
    )


def _access(native: NativeArena, since: float, stack: list[FrameType], now: float) -> Request | None:
    """Return what a thread does that waits for the lock outside of any transaction; None: it has ended."""
    found = frames.innermost(stack[::-1])
    if found is None:
        return None
    waited = max(0.0, now - since)
    pid, by = native.lock_holder() or (0, "")
    return Request(
        *(found.f_code.co_qualname, os.getpid(), waited, None, 1, 0, frames.line_of(found), True, "lock", waited),
        *(by or None, pid, None, None, "access"),
    )


def _waits(native: NativeArena) -> list[waiting]:
    return [wait for each in list(native.waits.values()) for wait in list(each) if wait.transaction is not None]


def _all(native: NativeArena) -> dict[Transaction, waiting | None]:
    """Return the requests and blocks in flight, and what each waits for. Between two runs a request is found only by its wait."""
    for _ in range(_LOOKS):
        before, running = _waits(native), native.transactions()
        if before == _waits(native):
            break
    found: dict[Transaction, waiting | None] = {}
    found |= dict.fromkeys(map(whole, reversed(running)))  # of one age they stay in this order
    for wait in before:
        assert wait.transaction is not None
        found[wait.transaction] = wait
    # One without a handler has just ended; a name in parentheses is the library's own.
    return {each: wait for each, wait in found.items() if not (each.handler or "(").startswith("(")}


def here(native: NativeArena) -> list[Request]:
    """Return this process's requests in flight, the oldest first. From any thread."""
    found, standing = _all(native), list(native.standing.items())
    threads = of_threads()
    requests, now = [], time.monotonic()  # one moment for all: they are sorted by their ages
    try:
        for transaction, wait in found.items():
            with contextlib.suppress(Exception):  # it may have ended meanwhile, in its own thread
                requests.append(_request(transaction, wait, threads, now))
        for ident, since in standing:
            requests += filter(None, [_access(native, since, threads.get(ident, []), now)])
    finally:
        threads.clear()  # this frame is one of them: a circle that would keep what all of them have
    requests.sort(key=lambda request: -request.age)
    return requests


def ages(native: NativeArena) -> list[float]:
    """Return the ages of this process's requests in flight: less than `here` does, for metrics."""
    return [each.age for each in _all(native)]


# -- what is told to others -------------------------------------------------------------------------------------------------------


def _cut(text: str | None, room: int) -> str | None:
    """Return the end of a text: of a path or a name it says more than the beginning."""
    return text if text is None or len(text) <= room else f"…{text[1 - room :]}"


def _written(request: Request) -> bytes:
    """Return a request as a note has it, its texts cut until it fits."""
    note = b""
    for room in (160, 80, 40, 16):
        fields = (_cut(value, room) if isinstance(value, str) else value for value in _fields(request))
        note = json.dumps(list(fields), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(note) <= _SIZE:
            break
    return note


def _fields(request: Request) -> tuple[Any, ...]:
    return (
        *(
            request.handler,
            round(request.age, 3),
            request.request_id,
            request.run,
            request.step,
            request.line,
            request.running,
        ),
        *(
            request.waits_for,
            round(request.waited, 3),
            request.holder,
            request.holder_process,
            request.path,
            request.key,
            request.what,
        ),
    )


def _read(note: bytes, process: int) -> Request | None:
    """Return what a note says, or None: it is not one."""
    try:
        handler, age, request_id, run, step, line, running, kind, waited, holder, pid, path, key, what = json.loads(
            note
        )
    except (ValueError, TypeError, RecursionError):
        return None
    texts = [_text(value) for value in (request_id, line, kind, holder, path, key)]
    numbers = [_number(value) for value in (age, waited)]
    counts = [value if type(value) is int and 0 <= value < 1 << 63 else 0 for value in (run, step, pid)]
    return Request(
        handler=_text(handler) or "?",
        process=process,
        age=numbers[0],
        request_id=texts[0],
        run=counts[0],
        step=counts[1],
        line=texts[1],
        running=running is True,
        waits_for=texts[2],
        waited=numbers[1],
        holder=texts[3],
        holder_process=counts[2],
        path=texts[4],
        key=texts[5],
        what=_text(what) or "?",
    )


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _number(value: object) -> float:
    return float(value) if type(value) in (int, float) and 0 <= value < 1e12 else 0.0  # type: ignore[operator,arg-type]


class Listener:
    """The thread that tells others of this process's requests when they ask."""

    def __init__(self, native: NativeArena) -> None:
        self._native = native
        self._on = True
        self._thread = OwnThread(target=self._run, name="recoverable-requests", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        native = self._native
        with contextlib.suppress(RecoverableError):
            native.listen(True)
        try:
            while native.await_question(self._goes_on):
                requests: list[Request] = []
                with contextlib.suppress(Exception):  # a look at what changes meanwhile
                    requests = here(native)
                native.tell([_written(each) for each in requests[:_MOST]], len(requests))
        finally:
            native.listen(False)

    def _goes_on(self) -> bool:
        return self._on

    def end(self) -> None:
        """End it, and wait until it has ended; in a finaliser that runs in it, it ends by itself."""
        self._on = False
        self._native.ask()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)


_beginning = threading.Lock()


def listen(native: NativeArena) -> None:
    """Tell others of this process's requests from now on, when they ask. Twice is fine."""
    with _beginning:
        if native.listener is None and not native.closed:
            native.listener = Listener(native)


def stop(native: NativeArena) -> bool:
    """Tell nobody any more, since the arena is about to be closed; return whether somebody was told before."""
    listener, native.listener = native.listener, None
    if listener is not None:
        listener.end()
    return listener is not None


def _forked() -> None:
    """Who waits, and the thread, are the parent's. To wake its loops would write to descriptors that may be another's by then."""
    global _beginning
    _beginning = threading.Lock()
    own_threads_forked()
    for segment in _registry.all_open():
        native = segment.native
        native.listener = None
        for theirs in (native.waits, native.standing, native.lines, native.fronts, native.give_way):
            theirs.clear()


os.register_at_fork(after_in_child=_forked)


# -- asking ----------------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What other processes have told.

    Attributes:
        requests: Their requests in flight, the oldest first.
        in_flight: How many there are, if more than there was room to tell of.
        silent: Ids of processes that should have answered and have not: code in them holds the GIL, or they are stopped.
    """

    requests: list[Request]
    in_flight: int
    silent: list[int]


def answer_of(look: Callable[[bool], list[Teller]]) -> Answer:
    """Ask the processes that tell of their requests, and wait for their answers, 200 ms at most.

    Args:
        look: look(ask) returns what they have told last, having asked them before that if it is told so.
    """
    before = {teller.token: teller.answers for teller in look(False) if not teller.own}
    end = time.monotonic() + _PATIENCE
    looks = 0
    while True:
        now = [teller for teller in look(looks % _AGAIN == 0) if not teller.own]
        late = [teller for teller in now if teller.answers <= before.get(teller.token, 0)]
        if (looks and not late) or time.monotonic() > end:
            break
        looks += 1
        time.sleep(_LOOK)
    told = [teller for teller in now if teller not in late]
    requests = [read for teller in told for note in teller.notes if (read := _read(note, teller.pid)) is not None]
    requests.sort(key=lambda request: -request.age)
    return Answer(requests, sum(teller.in_flight for teller in told), sorted(teller.pid for teller in late))


def everywhere(native: NativeArena) -> list[Request]:
    """Return the requests in flight on an open arena, of all processes, the oldest first."""
    found = here(native)

    def look(ask: bool) -> list[Teller]:
        if ask:
            native.ask()
        return _notes.notes(native)

    found += answer_of(look).requests
    return sorted(found, key=lambda request: -request.age)
