"""How much of the past a journal keeps: what a compaction leaves, beyond what a start needs.

It is said in the folder, in a file called `keep`, so that a compaction by hand drops no more than one by the server.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recoverable import _options
from recoverable.errors import ArenaOptionError, JournalError
from recoverable.journal.folder import flush_folder

if TYPE_CHECKING:
    from recoverable.journal.folder import Folder

__all__ = ["Keep", "duration", "parse", "read", "write"]

_NAME: Final = "keep"
_BARE: Final = re.compile(r"\s*[0-9.]*\s*")  # bytes, or hours?
_TIME: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d|w)\s*")
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST: Final = 1e10  # seconds: three centuries


class Keep(NamedTuple):
    """What is kept.

    Attributes:
        seconds: States of so long ago; None: no time was named.
        bytes: As much more history as takes so many; None: no size was named. Both None: what a start needs.
    """

    seconds: float | None = None
    bytes: int | None = None

    def oldest(self) -> int | None:
        """Return the moment that a state is kept of, in nanoseconds since the epoch."""
        return None if self.seconds is None else int((time.time() - self.seconds) * 1e9)


def duration(text: str) -> float | None:
    """Return the seconds that text as "24h" means; None: it is no time."""
    match = _TIME.fullmatch(text)
    return None if match is None else float(match[1]) * _SECONDS[match[2]]


def parse(keep: Any) -> Keep:
    """Return what the user gave: "24h", "10 GiB", a timedelta, 0 for none.

    Raises:
        ArenaOptionError: It is neither a time nor a size.
    """
    if isinstance(keep, datetime.timedelta):
        seconds = keep.total_seconds()
    elif isinstance(keep, str) and (found := duration(keep)) is not None:
        seconds = found
    elif keep in (0, "0") and not isinstance(keep, bool):
        return Keep()
    else:
        try:
            if isinstance(keep, int) or (isinstance(keep, str) and _BARE.fullmatch(keep)):
                raise ArenaOptionError
            return Keep(bytes=_options.parse_size(keep, "keep"))
        except ArenaOptionError:
            raise ArenaOptionError(
                f"keep={keep!r} is neither a time nor a size. Nothing was opened. Give text such as '24h' (s, min, h, d, w) "
                "or '10 GiB', or a datetime.timedelta; 0 to keep what a start needs, and no more."
            ) from None
    if not 0 < seconds <= _LONGEST:
        raise ArenaOptionError(
            f"keep={keep!r} is no time that could be kept. Nothing was opened. Give '24h', or '30 d'."
        )
    return Keep(seconds=seconds)


def read(folder: Folder) -> Keep:
    """Return what a folder keeps.

    Raises:
        JournalError: That can't be read: nothing must be dropped then.
    """
    path = f"{folder.path}/{_NAME}"
    try:
        with open(path) as file:  # noqa: PTH123
            told = json.load(file)
        seconds, size = told["seconds"], told["bytes"]
        return Keep(None if seconds is None else float(seconds), None if size is None else int(size))
    except FileNotFoundError:
        return Keep()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JournalError(
            f"{path} can't be read: {error}. Nothing is dropped as long as it is so. Say again what is kept, by keep= of "
            "Arena.open, or remove that file."
        ) from error


def write(folder: Folder, keep: Keep) -> None:
    """Have a folder keep that from now on.

    Raises:
        JournalError: It can't be written.
    """
    with contextlib.suppress(JournalError):
        if read(folder) == keep:
            return
    path = f"{folder.path}/{_NAME}"
    new = f"{path}.{os.getpid()}-{secrets.token_hex(4)}.new"  # workers that start together write their own
    try:
        try:
            with open(new, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                json.dump(keep._asdict(), file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(new, path)  # noqa: PTH104
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)  # noqa: PTH108
            raise
        flush_folder(folder.path)
    except OSError as error:
        raise JournalError(
            f"journal {folder.path!r} can't be told what to keep: {error.strerror or error}. It keeps what it did."
        ) from error
