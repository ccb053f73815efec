"""What came of a replay: whether it has failed in the same way, and what is not replayed."""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from recoverable import web
from recoverable.capsules.contents import COMPARED, frame_of, message_of, where
from recoverable.capsules.hiding import UNSEARCHED
from recoverable.errors import ConflictError, StepTooLongError

if TYPE_CHECKING:
    from recoverable.capsules.capsule import Capsule
    from recoverable.capsules.rerun import Run
    from recoverable.transaction import Lost

__all__ = ["CANCELLED", "NOT_REPLAYED", "Replay", "named", "told"]

NOT_REPLAYED: Final = (
    "the time, random numbers, what it reads from or writes to the outside (networks, files, databases, memory of the "
    "program), and when its own tasks ran"
)
CANCELLED: Final = "tasks of the application that would have committed meanwhile were cancelled"
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay.

    Attributes:
        same: Whether it failed in the same way: the same exception, with the same message, at the same line of the program.
        error: What it has raised now; None: nothing.
        result: What it has returned, if it has.
        steps: The commits that its steps were brought to, as far as it came.
        text: All of it in words, with what is not replayed.
    """

    same: bool
    error: BaseException | None
    result: Any
    steps: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def crashed(self) -> bool:
        """Whether it has raised something that is no answer below 500."""
        return self.error is not None and not web.is_answer(self.error)

    @property
    def status(self) -> int | None:
        """The status of what it has returned or raised, or None: that is no response."""
        return web.status_of(self.result if self.error is None else self.error)


def told(capsule: Capsule, error: BaseException | None, run: Run, result: Any) -> Replay:
    """Return what came of a run."""
    kept, stood = capsule.error, run.stood
    differs = _difference(capsule, error, run.lost)
    on = ", ".join(map(str, dict.fromkeys(stood)))
    lines = [
        f"replayed {capsule.handler} of {capsule.at:%Y-%m-%d %H:%M:%S} UTC, request {capsule.request_id or '-'}: "
        + (
            f"{len(stood)} step{'s' * (len(stood) != 1)}, on what was committed up to {on}"
            if stood
            else "it did not use its arena"
        )
    ]
    now = "it did not fail" if error is None else f"it raised {named(error)}"
    at = "" if error is None else where(frame_of(error.__traceback__))
    if error is None and result is not None:
        now += f", and returned {result!r:.200}"
    if not differs:
        lines.append(f"it failed in the same way: {named(error)}" + (f", at {at}" if at else ""))
    else:
        lines.append(now + (f", at {at}" if at else ""))
        if kept is not None:
            lines.append(
                f"it was {kept['type']}: {kept['message']}" + (f", at {_kept_at(kept)}" if kept["frame"] else "")
            )
        lines.append(f"not the same: {differs}")
    if run.put_back:
        lines.append("what the application had written to the arena as it started up was put back before the request")
    if run.cancelled:
        lines.append(CANCELLED)
    lines.append(f"not replayed: {NOT_REPLAYED}")
    lines += [f"not replayed: {each}" for each in capsule.lacks]
    return Replay(not differs, error, result, stood, "\n".join(lines))


def named(error: BaseException | None) -> str:
    """Return an exception's type and message."""
    return "nothing" if error is None else f"{type(error).__qualname__}: {message_of(error)}".removesuffix(": ")


def _kept_at(kept: dict[str, Any]) -> str:
    frame = kept["frame"]
    return where((frame["file"], frame["line"], frame["function"]))


def _difference(capsule: Capsule, error: BaseException | None, lost: Lost | None) -> str:
    """Say in what it has ended otherwise; "": in nothing."""
    kept = capsule.error
    if kept is None:
        return "the capsule has no exception"
    if error is None:
        return "it did not fail"
    kind = type(error)
    if (
        isinstance(error, ConflictError) and kept["type"] == "ConflictError"
    ):  # its message has who has won, and how often
        lost_at = kept.get("conflict")
        if (
            lost_at is None
            or lost is None
            or UNSEARCHED in lost_at.values()
            or (lost.path, lost.key) == (lost_at["path"], lost_at["key"])
        ):
            return ""
        return f"it was lost at {lost.path}, {lost.key}"
    if (kind.__module__, kind.__qualname__) != (kept["module"], kept["type"]):
        return "another exception"
    left_out = kept["message"] == UNSEARCHED
    if not left_out and not isinstance(error, (TimeoutError, StepTooLongError)):  # theirs has how long it took
        now, then = (_ADDRESS.sub("0x", text)[:COMPARED] for text in (message_of(error), kept["message"]))
        if now != then:
            return "another message"
    frame, was = frame_of(error.__traceback__), kept["frame"]
    if frame is not None and was is not None:
        code = linecache.getline(frame[0], frame[1]).strip()
        same_file = frame[0].rpartition("/")[2] == was["file"].rpartition("/")[2]
        if not same_file or frame[2] != was["function"] or (code and was["code"] and code != was["code"]):
            return "another place"
    return ""
