"""What is in a journal's files, for people: which there are, whether they are sound, and their last commits.

Nothing here takes a lock of a server or writes anything. The last file may be written meanwhile. Its last batch may then be there
in part, and be taken for damage if another one is there by the time the rest of the file is searched. So what looks like damage at
the end of the last file counts if it is still at the same place a while later.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recoverable import _times
from recoverable._native import feed as native_feed
from recoverable.errors import ArenaCorruptError, ArenaNotFoundError
from recoverable.journal import order, snapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from recoverable._native.journal import Batch, Start
    from recoverable.journal.folder import Damaged, Folder

__all__ = ["Commit", "Found", "commits", "damaged_heads", "last_commits", "listed", "settled", "verified"]

_TRIES: Final = 3
_PAUSE: Final = 0.05  # seconds
_SETTLED: Final = 1.0  # seconds: a last batch that is older is taken for being on the disk
_CUT_OFF: Final = "cut off by a restore"


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a snapshot.

    Attributes:
        name: In the folder.
        epoch: How often the state had been restored before.
        after: The number of the commit that it begins behind; of a snapshot None.
        begins: When that was, ISO 8601 in UTC; None as well.
        last: The number of its last commit that counts; None: it can't be read.
        ends: When that was.
        size: Bytes on the disk.
        note: Where it is cut off, what is torn or damaged; "": nothing.
        sound: Whether it is, as far as it was looked at.
    """

    name: str
    epoch: int
    after: int | None
    begins: str | None
    last: int | None
    ends: str | None
    size: int
    note: str = ""
    sound: bool = True


class _Walked(NamedTuple):
    """What lies in a file: its end in the feed, the chain there, its last commit, torn bytes, and the end's offset.

    `chain_to` is the chain up to where it counts, which may be before its end.
    """

    end: int
    chain: int
    seq: int
    at: int
    torn: int
    offset: int
    chain_to: int


def _time(at: int) -> str:
    return _times.of(at).isoformat(timespec="milliseconds")


def _walk(
    folder: Folder, starts: list[Start], index: int, each: Callable[[Batch, bytes], None] | None = None
) -> _Walked:
    """Walk a file of a journal, and look again where it is the last one and seems to be damaged.

    Raises:
        ArenaCorruptError: It is.
    """
    left, place = _TRIES if index == len(starts) - 1 else 1, -1
    end = order.until(starts, index)
    while True:
        head = starts[index]
        walked = _Walked(head.position, head.chain, head.seq, head.at, 0, 0, head.chain)
        seen = 0
        with folder.open_file(head.number) as file:
            try:
                while True:
                    if each is None:
                        batch = file.next()
                    else:
                        batch, data = file.next(data=True) or (None, b"")
                    if batch is None:
                        return walked._replace(torn=file.torn)
                    if each is not None:
                        each(batch, data)
                    last = (batch.seq, batch.at) if batch.records else walked[2:4]
                    chain_to = batch.chain if batch.end <= end else walked.chain_to
                    walked = _Walked(batch.end, batch.chain, *last, 0, file.offset, chain_to)
                    seen = file.offset
            except ArenaCorruptError:
                left -= seen == place
                place = seen
                if left <= (0 if index == len(starts) - 1 else 1):
                    raise
        time.sleep(_PAUSE)


def _size(path: str) -> int:
    return os.stat(path).st_blocks * 512  # noqa: PTH116


def _file_name(number: int) -> str:
    return f"journal-{number:016x}"


def _has_commits(folder: Folder, number: int) -> bool:
    with contextlib.suppress(ArenaCorruptError, ArenaNotFoundError), folder.open_file(number) as file:
        while (batch := file.next(tail=True)) is not None:
            if batch.records:
                return True
    return False


def _row(folder: Folder, starts: list[Start], index: int, walked: _Walked | None, note: str = "") -> Found:
    """Return what there is to say of a file; `walked`: None where that was not done, and its successor's head says enough."""
    head, end = starts[index], order.until(starts, index)
    after = next((each for each in starts[index + 1 :] if each.position == end), None)
    last: tuple[int, int] | None = None if walked is None else (walked.seq, walked.at)
    if after is not None:
        last = (after.seq, after.at)
    if end < head.position or (end == head.position and _has_commits(folder, head.number)):
        note = note or _CUT_OFF
        last = None
    elif end <= head.position or (walked is not None and walked.end <= head.position):
        note = note or "no commits"
    elif after is not None and after.epoch > head.epoch:
        note = note or f"counts up to commit {after.seq}"
    elif walked is not None and walked.torn:
        note = note or f"{walked.torn} bytes at its end were not finished"
    seq, at = last or (None, None)
    return Found(
        _file_name(head.number),
        order.lives(head.epoch),
        head.seq,
        _time(head.at),
        seq,
        None if at is None else _time(at),
        _size(f"{folder.path}/{_file_name(head.number)}"),
        note,
    )


def _damaged(name: str, path: str, why: object) -> Found:
    return Found(name, 0, None, None, None, None, _size(path), str(why), sound=False)


def _snapshot_rows(folder: Folder, starts: list[Start], damaged: list[Damaged], *, check: bool) -> Iterator[Found]:
    for position in folder.snapshots():
        path = folder.snapshot_path(position)
        name = os.path.basename(path)  # noqa: PTH119
        try:
            with snapshots.opened(path) as fd:
                found = snapshots.read(path, fd)
                if check and snapshots.checksum(fd, found.size) != found.crc:
                    raise snapshots.damaged(found)
        except FileNotFoundError:  # a compaction has dropped it
            continue
        except ArenaCorruptError as error:
            yield _damaged(name, path, error)
            continue
        note, sound = "", True
        if position > order.cut_of(found, starts, damaged):
            note = _CUT_OFF
        elif starts and position < starts[0].position:
            note, sound = "the commits behind it are missing", False
        yield Found(name, order.lives(found.epoch), None, None, found.seq, _time(found.at), _size(path), note, sound)


def damaged_heads(folder: Folder) -> list[Found]:
    """Return the files of commits that can't be told of, since their heads are damaged."""
    return _of_damaged(folder, folder.heads()[1])


def _of_damaged(folder: Folder, found: list[Damaged]) -> list[Found]:
    rows = []
    for each in found:
        name = _file_name(each.number)
        with contextlib.suppress(FileNotFoundError):  # it was moved away meanwhile
            rows.append(_damaged(name, f"{folder.path}/{name}", each.why))
    return rows


def listed(folder: Folder) -> list[Found]:
    """Return what there is, by the heads of files and the ends of snapshots; only the last file is read to its end."""
    starts, damaged = folder.heads()
    found = _of_damaged(folder, damaged)
    for i in range(len(starts)):
        try:
            found.append(_row(folder, starts, i, _walk(folder, starts, i) if i == len(starts) - 1 else None))
        except FileNotFoundError:
            continue
        except ArenaCorruptError as error:
            name = _file_name(starts[i].number)
            found.append(_damaged(name, f"{folder.path}/{name}", error))
    return [*_snapshot_rows(folder, starts, damaged, check=False), *sorted(found, key=lambda each: each.name)]


# -- verifying ---------------------------------------------------------------------------------------------------------------


def verified(folder: Folder, progress: Callable[[int, int, str], None]) -> Iterator[Found]:
    """Read everything, and yield what was found of each snapshot and file: checksums, the chain, what is missing."""
    starts, damaged = folder.heads()
    yield from _of_damaged(folder, damaged)  # the others are looked at all the same
    bridges = set(folder.snapshots())
    rows = list(_snapshot_rows(folder, starts, damaged, check=True))
    yield from rows
    if missing := _missing(folder, starts, rows):
        yield Found("(missing)", 0, None, None, None, None, 0, missing, sound=False)
    before: tuple[Start, _Walked, int] | None = None
    done = 0
    for i, head in enumerate(starts):
        name = _file_name(head.number)
        path = f"{folder.path}/{name}"
        try:
            walked = _walk(folder, starts, i)
        except ArenaCorruptError as error:
            yield _damaged(name, path, error)
            before = None
            continue
        gap = before and _gap(*before, head, bridges)
        yield _damaged(name, path, gap) if gap else _row(folder, starts, i, walked)
        before = head, walked, order.until(starts, i)
        done += walked.end - head.position
        progress(done, 0, "verified")


def _missing(folder: Folder, starts: list[Start], rows: list[Found]) -> str:
    """Say what a start would lack, whatever else is sound; "": nothing."""
    usable = [row for row in rows if row.sound and row.note != _CUT_OFF]
    if not usable:
        return f"{folder.path} has no snapshot that a start could begin with"
    epoch = max(row.epoch for row in usable)
    if not starts or epoch > order.lives(starts[-1].epoch):
        return f"the last file of commits is gone: a snapshot of epoch {epoch} has none"
    return ""


def _gap(before: Start, walked: _Walked, end: int, head: Start, bridges: set[int]) -> str:
    """Say why a file does not go on from the one before it, which counts up to `end`; "": it does."""
    if head.arena != before.arena:
        return "it is another arena's than the file before it"
    if head.number != before.number + 1:
        return f"the file before it is missing: {_file_name(head.number - 1)}"
    if head.epoch != before.epoch and order.lives(head.epoch) <= order.lives(before.epoch):
        return (
            f"it is of epoch {order.lives(head.epoch)}, and the file before it of {order.lives(before.epoch)}: of another line of "
            "states"
        )
    if head.position > walked.end and head.position not in bridges:
        return (
            f"commits are missing: {_file_name(before.number)} has nothing sound behind commit {walked.seq}, at offset "
            f"{walked.offset}, and this one goes on behind {head.seq}"
        )
    if before.position < head.position == end <= walked.end and head.chain != walked.chain_to:
        return "it does not go on from the last batch before it in the file before it"
    return ""


# -- commits -----------------------------------------------------------------------------------------------------------------


class Commit(NamedTuple):
    """A commit; `end`: where its record ends in the feed; `bytes`: of it."""

    seq: int
    time: str
    handler: str
    request_id: str | None
    bytes: int
    end: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        fields = self._asdict()
        del fields["end"]
        return fields


def commits(
    folder: Folder,
    starts: list[Start],
    index: int,
    position: int,
    most: int,
    to: int = order.END,
    damaged: Sequence[Damaged] = (),
) -> list[Commit]:
    """Return the last commits of a file, from a position on, and up to another; what is cut off does not count."""
    end = min(order.until(starts, index, damaged), to)
    kept: list[tuple[Batch, bytes]] = []

    def keep(batch: Batch, data: bytes) -> None:
        if kept and batch.offset <= kept[-1][0].offset:  # it is walked again
            kept.clear()
        if batch.end > position and batch.position < end and batch.records:
            kept.append((batch, data))
            while sum(each.records for each, _ in kept[1:]) >= most:
                del kept[0]

    _walk(folder, starts, index, keep)
    found: list[Commit] = []
    for batch, data in kept:
        at = batch.position

        def make(
            seq: int,
            when: int,
            handler: str,
            request: str | None,
            units: Any,
            ranges: Any,
            of_reclaiming: bool,
            *rest: Any,
        ) -> None:
            nonlocal at
            at += rest[1]
            if not of_reclaiming and position < at <= end:
                found.append(Commit(seq, _time(when), handler, request, rest[1], at))

        native_feed.parse(data, make, batch.position)
    return found[-most:]


def settled(folder: Folder, seconds: float = 0.0) -> tuple[int, bool]:
    """Return up to which position commits are taken for being on the disk, and whether that is all there is.

    The last batch may still be flushed, if it was written within the last second and none is behind it. It is waited for.
    """
    until = time.monotonic() + seconds
    first = None
    while True:
        last, sure, age = None, True, 0.0
        for number in folder.files()[-1:]:
            with (
                contextlib.suppress(FileNotFoundError, ArenaNotFoundError, ArenaCorruptError),
                folder.open_file(number) as file,
            ):
                while (batch := file.next(tail=True)) is not None:
                    last = batch
                age = time.time() - os.stat(folder.file_path(number)).st_mtime  # noqa: PTH116
                sure = last is None or not 0 <= age <= _SETTLED
        if sure or last is None:
            return order.END, True
        first = last.position if first is None else first
        if time.monotonic() >= until or last.position > first:
            return last.position, False
        time.sleep(_PAUSE)


def last_commits(folder: Folder, most: int, to: int = order.END) -> list[Commit]:
    """Return the last commits of a journal, up to a position."""
    starts, damaged = folder.heads()
    found: list[Commit] = []
    for i in reversed(range(len(starts))):
        if len(found) >= most:
            break
        found[:0] = commits(folder, starts, i, 0, most - len(found), to, damaged)
    return found
