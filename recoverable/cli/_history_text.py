"""How history is written: commits, differences and moments, for people and as JSON; and how a commit or a moment is read."""

from __future__ import annotations

import datetime
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from recoverable._keys import spelled
from recoverable.history import MISSING
from recoverable.journal import keep

if TYPE_CHECKING:
    from recoverable.feed import Commit
    from recoverable.history import Difference

__all__ = [
    "as_json",
    "change_json",
    "clipped",
    "coloured",
    "commit_json",
    "line",
    "local",
    "span",
    "value_json",
]

_SHOWN: Final = 80  # characters of a value
_DIGITS: Final = 20  # of a number of 64 bits
_LONGEST_PATH: Final = 200


def when(_: Any, __: Any, text: str | None) -> Any:
    """Return a commit's number, or the moment that text says: local time unless it says otherwise; or how long ago.

    Raises:
        click.BadParameter: It is neither.
    """
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS:
        return int(text)
    if (seconds := keep.duration(text)) is not None and seconds < time.time():
        return datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    try:
        return datetime.datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is neither a commit's number nor a time: 4711, 2026-05-31T12:00:00 (local time), "
            "2026-05-31T12:00:00Z, or 2h for two hours ago"
        ) from None


def span(text: str) -> tuple[Any, Any]:
    """Return the ends of A..B, each None where it is left out; A alone is A..

    Raises:
        click.BadParameter: It is none.
    """
    first, dots, last = text.partition("..")
    if not dots and not first:
        raise click.BadParameter(f"{text!r} is no range: write A..B, A.. or ..B")
    return when(None, None, first), when(None, None, last)


def local(at: datetime.datetime) -> str:
    """Return a moment in local time, whole, so that it can be given to --at and --since as it stands."""
    return at.astimezone().isoformat(timespec="microseconds")


# -- for people --------------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return what stands for an item of an Array in plain Python."""
    item = getattr(value, "item", None)
    return item() if type(value).__module__ == "numpy" and callable(item) and not getattr(value, "ndim", 1) else value


def clipped(value: Any) -> str:
    """Return a value as Python writes it, or the beginning of that."""
    text = spelled(_plain(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def line(difference: Difference, *, plain: bool = False) -> str:
    """Return a difference as a line: what has come (+), what has gone (-), what has changed (~); `plain`: without colours."""
    colour = (lambda text, _: text) if plain else coloured
    path = str(difference.path)
    path = path if len(path) <= _LONGEST_PATH else f"{path[: _LONGEST_PATH - 1]}…"
    if difference.before is MISSING:
        return colour(f"+ {path}: {clipped(difference.after)}", "green")
    if difference.after is MISSING:
        return colour(f"- {path}: {clipped(difference.before)}", "red")
    return f"~ {path}: {clipped(difference.before)} -> {clipped(difference.after)}"


def coloured(text: str, colour: str) -> str:
    """Return text in a colour where a terminal wants it."""
    return click.style(text, fg=colour) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


# -- for programs ------------------------------------------------------------------------------------------------------------


def value_json(value: Any) -> Any:
    """Return a value as JSON has it, whole; what JSON has no word for as Python writes it, or hex() an int of too many digits."""
    value = _plain(value)
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        text = spelled(value)
        return text if text.lstrip("-").startswith("0x") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if type(value) is list:
        return [value_json(each) for each in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: value_json(each) for key, each in value.items()}
    return spelled(value)


def commit_json(commit: Commit) -> dict[str, Any]:
    """Return a commit as JSON has it."""
    return {
        "seq": commit.seq,
        "time": commit.at.isoformat(timespec="microseconds"),
        "handler": commit.handler,
        "request_id": commit.request_id,
    }


def as_json(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON has it; without `before`, or `after`, where there was nothing."""
    out: dict[str, Any] = {"path": str(difference.path)}
    for name in "before", "after":
        if (value := getattr(difference, name)) is not MISSING:
            out[name] = value_json(value)
    return out


def change_json(commit: Commit, differences: Any) -> dict[str, Any]:
    """Return a commit and what it has changed."""
    return commit_json(commit) | {"differences": [as_json(each) for each in differences]}
