"""`recoverable top --waiting`: the requests in flight of an arena's processes, the oldest first.

Unlike the rest of `top`, this asks: each process that serves requests is woken, and tells what they are at. It is asked through a
descriptor that can only read.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recoverable import inflight
from recoverable._native import _notes
from recoverable.cli import _outside, _watch
from recoverable.cli._render import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from recoverable.reports import Request

__all__ = ["Look", "looks", "screen"]

_WORDS: Final = {
    "turn": "its turn",
    "privilege": "a privileged run",
    "lock": "the lock",
    "feed": "room in the feed",
    "disk": "the disk",
}
_LINES: Final = 40  # requests that a screen has


@dataclass(frozen=True, slots=True)
class Look:
    """What is in flight at one moment.

    Attributes:
        at: When, in seconds since the epoch.
        name: The arena's name.
        in_flight: How many requests there are.
        requests: They, the oldest first; at most 64 are told of.
        silent: Processes that have not answered within 200 ms.
        holder: The process inside a step at this moment, or 0.
        handler: What ran last in a step, as far as known.
    """

    at: float
    name: str
    in_flight: int
    requests: tuple[Request, ...]
    silent: tuple[int, ...]
    holder: int
    handler: str

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def looks(name: str, interval: float, count: int, pause: Callable[[float], bool] | None = None) -> Iterator[Look]:
    """Yield a look now and one after each interval.

    Args:
        name: The arena's name.
        interval: Seconds between two.
        count: How many; 0 for no end.
        pause: Waits that many seconds, and returns whether to go on. The default sleeps.

    Raises:
        ArenaNotFoundError: It does not exist, or is gone.
    """
    for _ in _watch.paced(interval, count, pause):
        yield _look(name)


def _look(name: str) -> Look:
    with _outside.opened(name) as fd:
        peek = _outside.peek_fd(fd, name)
        answer = inflight.answer_of(lambda ask: _notes.peek_notes(fd, name, ask=ask))
    return Look(
        at=time.time(),
        name=name,
        in_flight=answer.in_flight,
        requests=tuple(answer.requests),
        silent=tuple(answer.silent),
        holder=peek.holder,
        handler="".join(letter if letter.isprintable() else "?" for letter in peek.handler),
    )


def screen(look: Look, *, hint: bool = True, width: int | None = None) -> Group:
    """Return a look as a terminal shows it.

    Args:
        look: The look.
        hint: Whether to say how to end.
        width: Columns; the default is what the console has.
    """
    width = width or console().width
    shown = look.requests[:_LINES]
    parts: list[RenderableType] = [
        Text(f"{look.name}   (q or Ctrl-C ends)" if hint else look.name, style="bold"),
        Text(f"{look.in_flight} in flight"),
        *(Text(line, style="bold") for line in _silence(look)),
        Text(),
        _table(shown, width),
    ]
    if look.in_flight > len(shown):
        parts.append(Text(f"{look.in_flight - len(shown)} more", style="dim"))
    return Group(*parts)


def _silence(look: Look) -> Iterator[str]:
    for pid in look.silent:
        inside = (
            f": it is inside a step, of {look.handler or 'a handler that is not known'}" if pid == look.holder else ""
        )
        yield f"process {pid} does not answer{inside}"


def _table(requests: tuple[Request, ...], width: int) -> Table:
    out = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("AGE s", "PID", "RUN", "STEP"):
        out.add_column(title, justify="right")
    for title in ("HANDLER", "AT", "WAITS FOR"):
        out.add_column(title, no_wrap=True, overflow="ellipsis")
    room = max(10, (width - 32) // 3)
    for each in requests:
        out.add_row(
            f"{each.age:.1f}",
            str(each.process),
            str(each.run),
            str(each.step or "-"),
            Text(_end(_who(each), room)),
            Text(_end(_at(each), room)),
            Text(_waits(each)),
        )
    return out


def _end(text: str, room: int) -> str:
    """Return the end of a text, which says more of a path or a name than its beginning."""
    return text if len(text) <= room else f"…{text[1 - room :]}"


def _who(request: Request) -> str:
    return request.handler if request.what == "request" else f"{request.handler} ({request.what})"


def _at(request: Request) -> str:
    if request.line is None:
        return "-"
    return f"{request.line} (running)" if request.running else request.line


def _waits(request: Request) -> str:
    """Say what it waits for, in words."""
    if request.waits_for is None:
        return ""
    what = _WORDS.get(request.waits_for, request.waits_for)
    if request.path is not None:
        what += f" at {request.path}" + (f", {request.key}" if request.key else "")
    if request.holder is not None or request.holder_process:
        what += f", behind {request.holder or '?'} ({request.holder_process or '?'})"
    return f"{what}, {request.waited:.1f} s so far"
