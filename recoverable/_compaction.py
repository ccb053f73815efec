"""Compaction as a process of its own: `python -m recoverable._compaction FOLDER`. Servers begin it (journal/keeper.py).

It is no command for people, which is `recoverable journal compact`: that one needs an extra.
"""

from __future__ import annotations

import json
import os
import sys

from recoverable.arena import open_copy
from recoverable.errors import ArenaBusyError, RecoverableError
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder

__all__ = ["main", "verify"]

_NICE = 10


def verify(fd: int) -> None:
    """Walk all that is in a copy of a segment.

    Raises:
        ArenaCorruptError: It is damaged.
    """
    with open_copy("snapshot", fd) as arena:
        arena.verify()


def main(folder: str, rate: str) -> None:
    """Compact a folder, out of others' way, and write what came of it as a line of JSON."""
    os.nice(_NICE)
    try:
        done = compact(Folder(folder), verify, rate=float(rate))
    except ArenaBusyError:
        told: dict[str, object] = {"busy": True}
    except RecoverableError as error:
        told = {"error": str(error)}
    else:
        told = {**done._asdict(), "snapshot": None if done.snapshot is None else done.snapshot.seq}
    print(json.dumps(told))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
