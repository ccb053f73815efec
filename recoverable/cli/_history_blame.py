"""Who has changed each entry of a container last: `recoverable blame`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from recoverable._keys import that_equals_itself
from recoverable._native.runtime import Container
from recoverable.cli._inspect import PathError
from recoverable.history import MISSING
from recoverable.history.places import Path

if TYPE_CHECKING:
    from recoverable.feed import Commit
    from recoverable.history import History

__all__ = ["Blamed", "of", "whole"]


class Blamed(NamedTuple):
    """A value, and the commit that has made it what it is; None: that is older than what is kept."""

    path: str
    value: Any
    commit: Commit | None

    @property
    def gone(self) -> bool:
        """Whether there is nothing there any more."""
        return self.value is MISSING


def whole(value: Any) -> Any:
    """Return a value as plain Python."""
    return value.to_python() if isinstance(value, Container) else value


def of(history: History, path: str, offset: int, limit: int) -> tuple[list[Blamed], int, int]:
    """Return the entries at a path with their last writers, how many entries were left out, and the oldest state's number.

    Raises:
        PathError: Nothing lies there, and nothing did.
    """
    place, newest = Path.parse(path), history.newest
    _, value, there = place.chain(history.at(newest))
    if not there or not isinstance(value, Container) or value._in_pieces or value._about()[1] is None:
        last = history.last_writer(path)
        if not there and last is None:
            raise PathError(f"there is nothing at {path}, and nothing was in the history that is kept")
        return [Blamed(path, value if there else MISSING, last)], 0, history.oldest
    parts = value._parts()
    page = {that_equals_itself(key): part for key, part in islice(parts.items(), offset, offset + limit)}
    writers = _writers(history, place, set(page), newest)
    rows = [Blamed(str(place.to(value, key)), part, writers.get(key)) for key, part in page.items()]
    return rows, len(parts) - len(page), history.oldest


def _writers(history: History, place: Path, wanted: set[Any], newest: int) -> dict[Any, Commit]:
    found: dict[Any, Commit] = {}
    if not wanted:
        return found
    for change in history.changes(place, until=newest):
        for difference in change.differences:
            below = difference.path.keys[len(place.keys) :]
            for key in (wanted & {below[0]}) if below else set(wanted):  # without one it has come as a whole
                found[key] = change.commit
                wanted.discard(key)
        if not wanted:
            break
    return found
