"""`recoverable journal`: what is in a journal's folder, whether it is sound, and what can be done with it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import time
from typing import Any, Final

import click

from recoverable import _compaction, _shm, _times
from recoverable._options import human_size, parse_name
from recoverable.cli import _journal_files
from recoverable.cli._codes import FOUND, Refused
from recoverable.cli._history_text import when
from recoverable.cli._render import Progress, say, table, write_json
from recoverable.errors import ArenaCorruptError, ArenaNotFoundError, HistoryError, JournalError
from recoverable.journal import attach, order
from recoverable.journal.compact import compact as compacted
from recoverable.journal.folder import Folder

__all__ = ["journal"]

_LOOK: Final = 0.5  # seconds between two looks for new commits

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_folder = click.argument("path", metavar="FOLDER", type=click.Path(file_okay=False))


@click.group()
def journal() -> None:
    """See what is in a journal, verify, compact and restore it."""


def _opened(path: str, *, write: bool = False) -> Folder:
    if not os.path.exists(path):  # noqa: PTH110
        raise ArenaNotFoundError(f"there is no folder {path!r}")
    folder = Folder(path, write=write)
    if folder.empty:
        raise ArenaNotFoundError(f"there is no journal in {folder.path!r}")
    return folder


def _rows(found: list[_journal_files.Found]) -> None:
    table(
        ("FILE", "EPOCH", "AFTER COMMIT", "OF", "TO COMMIT", "OF", "SIZE", ""),
        [
            (
                each.name,
                str(each.epoch),
                "" if each.after is None else str(each.after),
                each.begins or "",
                "" if each.last is None else str(each.last),
                each.ends or "",
                human_size(each.size),
                each.note,
            )
            for each in found
        ],
        numbers=(1, 2, 4, 6),
    )


@journal.command()
@_folder
@_json
def ls(path: str, as_json: bool) -> None:
    """List the snapshots and files of a journal."""
    found = _journal_files.listed(_opened(path))
    if as_json:
        write_json([dataclasses.asdict(each) for each in found])
    else:
        _rows(found)


@journal.command()
@_folder
@_json
def verify(path: str, as_json: bool) -> int:
    """Read all of a journal: checksums, the chain, and that each file goes on from the one before it.

    Ends with 1 if something is damaged. It can be done beside a server that writes there.
    """
    folder = _opened(path, write=True)
    progress = Progress(quiet=as_json)
    with folder.kept():
        found = list(_journal_files.verified(folder, progress))
    progress.end()
    bad = [each for each in found if not each.sound]
    if as_json:
        write_json({"sound": not bad, "files": [dataclasses.asdict(each) for each in found]})
    else:
        _rows([each for each in found if each.sound])
        for each in bad:
            say(f"{each.name}: {each.note}")
    return FOUND if bad else 0


@journal.command()
@_folder
@click.option("--rate", default=0.0, type=click.FloatRange(0), help="MB a second at most; 0: as fast as it goes.")
@click.option("--quiet", is_flag=True, help="Write nothing but errors.")
@_json
def compact(path: str, rate: float, quiet: bool, as_json: bool) -> None:
    """Make a new snapshot of a journal, and drop what is older than the last two.

    It can be done beside a server that writes there, and takes up all but the file that is being written.
    """
    progress = Progress(quiet=quiet or as_json)
    done = compacted(_opened(path, write=True), _compaction.verify, rate=rate * 1e6, progress=progress)
    progress.end()
    if as_json:
        fields = done._asdict()
        fields["snapshot"] = (
            None if done.snapshot is None else {"seq": done.snapshot.seq, "time": _time(done.snapshot.at)}
        )
        write_json(fields)
    elif not quiet:
        if done.snapshot is None:
            say("nothing to do: all but the file that is being written is in the last snapshot")
        else:
            say(
                f"made a snapshot up to commit {done.snapshot.seq} of {_time(done.snapshot.at)}, from the one before it and "
                f"{done.records} commits ({human_size(done.bytes)}), in {done.seconds:.1f} s"
            )
        if done.snapshots or done.files:
            say(f"dropped {done.snapshots} snapshots and {done.files} files, {human_size(done.freed)}")


# -- restoring ---------------------------------------------------------------------------------------------------------------


def _moment(context: Any, option: Any, text: str | None) -> tuple[int, int]:
    """Return what --to says: a number, and nanoseconds since the epoch."""
    found = when(context, option, text)
    if not isinstance(found, datetime.datetime):
        return (order.END if found is None else found), order.END
    since = found - _times.of(0)
    nanos = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000 + 999
    return order.END, min(max(0, nanos), order.END)


@journal.command()
@_folder
@click.option(
    "--to",
    "moment",
    callback=_moment,
    help="The last commit: its number, a time (local, if it does not say), or 2h for two hours ago.",
)
@click.option("--name", required=True, help="What the arena is to be called.")
@_json
def restore(path: str, moment: tuple[int, int], name: str, as_json: bool) -> None:
    """Make an arena in shared memory from a journal, which goes on from there.

    Refused while a process writes to the journal, or if there is an arena of that name. With --to, later commits no longer
    count; they stay in their files until a compaction drops these.
    """
    folder, seq, at = _opened(path, write=True), *moment
    parse_name(name)
    try:
        folder.take().release()
    except JournalError as error:
        raise Refused(str(error)) from None
    progress = Progress(quiet=as_json)
    end = _end(folder)
    if end is not None and end < seq < order.END:
        raise HistoryError(
            f"commit {seq} is not in journal {folder.path!r}, which goes up to commit {end}. Nothing was changed."
        )
    with folder.kept(), _shm.locked(name, create=True, timeout=5.0) as fd:
        if os.fstat(fd).st_size:
            raise Refused(
                f"there is an arena {name!r} already, and nothing was changed; recoverable rm {name}, or another name"
            )
        restored = attach.restore(name, folder, seq=seq, at=at, progress=progress)
    progress.end()
    cut = end is None or end > restored.seq
    if as_json:
        fields = restored._asdict()
        fields |= {
            "snapshot": restored.snapshot.seq,
            "at": _time(restored.at),
            "name": name,
            "before": end,
            "epoch": order.lives(restored.epoch),
        }
        del fields["chain"], fields["position"]
        write_json(fields)
        return
    table(
        ("ARENA", "UP TO COMMIT", "OF", "FROM SNAPSHOT", "COMMITS REPLAYED", "BYTES", "EPOCH", "TOOK"),
        [
            (
                name,
                str(restored.seq),
                _time(restored.at),
                str(restored.snapshot.seq),
                str(restored.records),
                human_size(restored.bytes),
                str(order.lives(restored.epoch)),
                f"{restored.seconds:.1f} s",
            )
        ],
        numbers=(1, 3, 4, 5, 6, 7),
    )
    for damaged in restored.damaged:
        say(f"passed over: {damaged}")
    if restored.torn:
        say(f"{restored.torn} bytes at the end were not finished, and are left out")
    if cut:
        behind = "what follows the damage" if end is None else f"commits {restored.seq + 1} to {end}"
        say(f"{behind} no longer count; they stay in their files until a compaction drops these")


def _end(folder: Folder) -> int | None:
    """Return the number of the last commit; None: the last file is damaged."""
    with contextlib.suppress(ArenaCorruptError):
        tip = folder.tip()
        return None if tip is None else tip.seq
    return None


def _time(at: int) -> str:
    return _times.of(at).isoformat(timespec="milliseconds")


# -- commits -----------------------------------------------------------------------------------------------------------------


@journal.command()
@_folder
@click.option("-n", "number", default=10, show_default=True, type=click.IntRange(0), help="How many.")
@click.option("--follow", is_flag=True, help="Go on with new ones, until Ctrl-C.")
@_json
def tail(path: str, number: int, follow: bool, as_json: bool) -> None:
    """Show the last commits that are on the disk, by whom they were made and when."""
    folder = _opened(path)
    for each in _journal_files.damaged_heads(folder):
        click.echo(f"passed over: {each.note}", err=True)
    to, _ = _journal_files.settled(folder, 2.0)
    found = _journal_files.last_commits(folder, number, to) if number else []
    if as_json and not follow:
        write_json([each.as_json() for each in found])
        return
    if not follow:
        table(
            ("COMMIT", "TIME", "HANDLER", "REQUEST", "BYTES"),
            [(str(each.seq), each.time, each.handler, each.request_id or "", str(each.bytes)) for each in found],
            numbers=(0, 4),
        )
        return
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        _lines(found, as_json)
        _follow(folder, found[-1].end if found else None, as_json)


def _lines(found: list[_journal_files.Commit], as_json: bool) -> None:
    for each in found:
        if as_json:
            say(json.dumps(each.as_json(), ensure_ascii=False))
        else:
            say(f"{each.seq}  {each.time}  {each.handler}  {each.request_id or '-'}  {each.bytes}")


def _follow(folder: Folder, position: int | None, as_json: bool) -> None:
    seen: tuple[int, int] | None = None
    while True:
        starts = folder.starts()
        last = folder.files()[-1]
        now = (last, os.stat(f"{folder.path}/journal-{last:016x}").st_mtime_ns)  # noqa: PTH116
        if position is None:  # nothing was shown: from here on
            tip = folder.tip()
            position = tip.position if tip is not None else 0
        if now != seen:
            to, is_all = _journal_files.settled(folder)
            seen = now if is_all else None
            for i in range(len(starts)):
                if order.until(starts, i) > position:
                    found = _journal_files.commits(folder, starts, i, position, 1 << 62, to)
                    _lines(found, as_json)
                    position = found[-1].end if found else position
        time.sleep(_LOOK)
