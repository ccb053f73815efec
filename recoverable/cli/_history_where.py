"""Where history is: the folder of a journal, by its path or by the name of an arena that is being served."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recoverable._native import journal as native_journal
from recoverable._options import parse_name
from recoverable.cli import _inspect, _outside
from recoverable.cli._live import Copy
from recoverable.errors import ArenaNotFoundError, JournalError, RecoverableError
from recoverable.history import History
from recoverable.journal.folder import Folder

if TYPE_CHECKING:
    from recoverable.cli._outside import Peek

__all__ = ["is_folder", "opened", "place"]

_FILE: Final = re.compile(r"(.*)/journal-[0-9a-f]{16}")
_TRIES: Final = 3  # who serves it may end meanwhile, and another process takes over


def is_folder(where: str) -> bool:
    """Return whether that is to be taken for a path: it has a slash, or no arena has that name and a folder has."""
    return "/" in where or where in {".", ".."} or (where not in _outside.names() and os.path.isdir(where))  # noqa: PTH112


def opened(where: str) -> History:
    """Open the history of an arena, by its name, or in a folder.

    Raises:
        ArenaNotFoundError: There is no such arena, no such folder, or nothing in it.
        JournalError: The arena has no journal, or nobody serves it, who could be asked for its folder.
    """
    if not is_folder(where):
        return History.open(_folder_of(parse_name(where)))
    if not os.path.exists(where):  # noqa: PTH110
        raise ArenaNotFoundError(f"there is no folder {where!r}")
    if Folder(where, write=False).empty:
        raise ArenaNotFoundError(f"there is no journal in {where!r}")
    return History.open(where)


def _folder_of(name: str) -> str:
    """Return the folder that the journal of an arena is in: of those that the process which serves it has open."""
    for _ in range(_TRIES):
        with _outside.opened(name) as fd:
            peek, arena = _outside.peek_fd(fd, name), native_journal.identity(fd, name)
        if peek.feed is None or peek.feed.journal is None:
            raise ArenaNotFoundError(f"arena {name!r} has no journal, so it has no history")
        for folder in _held_by(peek.feed.journal.process, peek):
            with suppress(RecoverableError):
                if any(start.arena == arena for start in Folder(folder, write=False).starts()):
                    return folder
    raise JournalError(
        f"which folder the journal of arena {name!r} is in can't be told: it is asked of the process that serves it, and none does "
        "here. Nothing was changed. Name the folder instead of the arena, as a path: /var/lib/shop, ./shop."
    )


def _held_by(pid: int, peek: Peek) -> set[str]:
    """Return the folders of journals that a process has a file of open; of another PID namespace's, it can't be told."""
    if pid not in [each for each, foreign in zip(peek.alive, peek.foreign, strict=True) if not foreign]:
        return set()
    links = []
    with suppress(OSError):  # it has ended, or is another user's
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                links.append(str(entry.readlink()))
    return {match[1] for link in links if (match := _FILE.fullmatch(link))}


def place(history: History, path: str) -> str:
    """Return a path as the history reads it; words between slashes are looked for in the newest state.

    Raises:
        PathError: It is none, or those words lead nowhere.
    """
    steps = _inspect.parse(path)
    if not steps:
        return "root"
    if all(step.kind != "word" for step in steps):
        return path if path.startswith("root") else f"root{path}"
    try:
        return _inspect.look(Copy(history.at(history.newest)), steps, depth=0).path
    except _inspect.PathError as error:
        raise _inspect.PathError(
            f"{error}; of what is not there any more, the path has to be written as root['a']['b']"
        ) from None
