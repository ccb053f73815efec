"""`recoverable top`: an arena while it runs, handler by handler.

It looks from outside, as `ls` does: a server can't notice it. Numbers of handlers and places of conflicts come from the
board, a table in the segment to which every process adds when a run ends (`board.c`); the rest from the header and the
process table of the machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recoverable._native import _counts
from recoverable._options import human_size
from recoverable.cli import _outside, _watch
from recoverable.cli._live import live
from recoverable.cli._render import ago, console
from recoverable.errors import RecoverableError
from recoverable.lock_times import LockTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import RenderableType

__all__ = ["Handler", "Sample", "Spot", "Worker", "line", "samples", "screen"]

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SPOTS: Final = 5  # places of conflicts that are shown
_LINES: Final = 20  # handlers that a screen has
REST: Final = "(others)"  # those that found no row on the board


@dataclass(frozen=True, slots=True)
class Worker:
    """An attached process.

    Attributes:
        pid: Its id.
        attached_at: When it attached, in seconds since the epoch.
        cpu: Seconds of processor time that it has used.
        cpu_percent: Of one processor, since the last sample.
        memory: Its resident memory in bytes, the arena's pages that it has touched included.
        command: What it runs.
    """

    pid: int
    attached_at: int
    cpu: float
    cpu_percent: float
    memory: int
    command: str


@dataclass(frozen=True, slots=True)
class Handler:
    """What came of a handler's runs, in all processes.

    Attributes:
        handler: Its name, the last 39 bytes of it; of all together "".
        requests: Runs that ended other than by a conflict, since the arena was made. (A retry counts once more.)
        commits: Those that committed.
        rollbacks: Those that were rolled back.
        conflicts: Runs that lost a conflict; mostly they were run again.
        requests_per_second: As above, since the last look.
        commits_per_second: The same.
        rollbacks_per_second: The same.
        conflicts_per_second: The same.
        traps_per_second: First raw writes to a page that faulted, since the last look.
        checkpoint_us: Microseconds of a run's checkpoints, the mean of a sample (one run in 32) since the last look, or since
            the arena was made where there was none; None where there never was.
        held_us: Microseconds that a run held the lock, all its steps together, of the same sample.
        lock_percent: The share of the time since the last look that its runs held the lock, by that.
        hit_rate: Of the pages that raw writes changed, the share that did not fault; over the same time.
    """

    handler: str
    requests: int
    commits: int
    rollbacks: int
    conflicts: int
    requests_per_second: float
    commits_per_second: float
    rollbacks_per_second: float
    conflicts_per_second: float
    traps_per_second: float
    checkpoint_us: float | None
    held_us: float | None
    lock_percent: float
    hit_rate: float | None

    @classmethod
    def between(cls, name: str, old: Mapping[str, int], new: Mapping[str, int], seconds: float) -> Handler:
        """Return it from what the board counted at two moments; 0 seconds: there was no earlier one."""
        since = {key: max(0, new[key] - old[key]) for key in new}

        def rate(*keys: str) -> float:
            return sum(since[key] for key in keys) / seconds if seconds > 0 else 0.0

        timed = since if since["timed"] else new
        written = since if since["pages"] else new
        held = timed["held"] / timed["timed"] / 1000 if timed["timed"] else None
        return cls(
            handler=name,
            requests=new["commits"] + new["rollbacks"],
            commits=new["commits"],
            rollbacks=new["rollbacks"],
            conflicts=new["conflicts"],
            requests_per_second=rate("commits", "rollbacks"),
            commits_per_second=rate("commits"),
            rollbacks_per_second=rate("rollbacks"),
            conflicts_per_second=rate("conflicts"),
            traps_per_second=rate("traps"),
            checkpoint_us=timed["nanos"] / timed["timed"] / 1000 if timed["timed"] else None,
            held_us=held,
            lock_percent=(held or 0.0) * rate("commits", "rollbacks", "conflicts") / 1e4,
            hit_rate=max(0.0, 1 - written["traps"] / written["pages"]) if written["pages"] else None,
        )


@dataclass(frozen=True, slots=True)
class Spot:
    """A place where conflicts were lost more often than elsewhere, since the arena was made.

    Attributes:
        path: The container, or None where it is gone.
        key: The part of it, or None.
        conflicts: How often, at most.
        error: How much too high that may be.
        queue: Requests that stand there now, for it or for all of the container.
    """

    path: str | None
    key: str | None
    conflicts: int
    error: int
    queue: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """An arena at one moment, with rates since the sample before.

    Attributes:
        at: When, in seconds since the epoch.
        peek: What its header tells.
        board: What it counted, by handler: what the next sample needs.
        handlers: Those that ran, the busiest first.
        together: All of them.
        spots: Where conflicts are lost most.
        workers: The attached processes.
        lock: For how long the lock was held and waited for since the sample before; in the first sample, for how long it has
            been held by now.
    """

    at: float
    peek: _outside.Peek
    board: Mapping[str, Mapping[str, int]]
    handlers: tuple[Handler, ...]
    together: Handler
    spots: tuple[Spot, ...]
    workers: tuple[Worker, ...]
    lock: LockTimes

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        peek = asdict(self.peek)
        for name in ("backed", "alive", "attached_at", "foreign", "cuts", "lock"):
            del peek[name]
        together = asdict(self.together)
        for name in ("handler", "commits"):
            del together[name]
        return {
            "at": self.at,
            **peek,
            **together,
            "lock": {
                "busy": self.lock.busy,
                "running_us": self.lock.running * 1e6,
                **{
                    name: {"times": t.count, "mean_us": t.mean * 1e6, "p99_us": t.quantile(0.99) * 1e6}
                    for name, t in (("held", self.lock.held), ("waited", self.lock.waited))
                },
            },
            "handlers": [asdict(handler) for handler in self.handlers],
            "hot_spots": [asdict(spot) for spot in self.spots],
            "processes": [asdict(worker) for worker in self.workers],
        }


def samples(name: str, interval: float, count: int, pause: Callable[[float], bool] | None = None) -> Iterator[Sample]:
    """Yield a sample now and one after each interval.

    Args:
        name: The arena's name.
        interval: Seconds between two.
        count: How many; 0 for no end.
        pause: Waits that many seconds, and returns whether to go on. The default sleeps.

    Raises:
        ArenaNotFoundError: It does not exist, or is gone.
    """
    before: Sample | None = None
    places: dict[tuple[int, ...], tuple[str | None, str | None]] = {}
    for _ in _watch.paced(interval, count, pause):
        before = _sample(name, before, places)
        yield before


def _sample(name: str, before: Sample | None, places: dict[tuple[int, ...], tuple[str | None, str | None]]) -> Sample:
    with _outside.opened(name) as fd:
        peek, now = _outside.peek_fd(fd, name), time.time()
        rows, spots = _counts.peek_board(fd, name)
    passed = now - before.at if before is not None else 0.0
    old = {worker.pid: worker.cpu for worker in before.workers} if before is not None else {}
    workers = []
    for pid, at, foreign in zip(peek.alive, peek.attached_at, peek.foreign, strict=True):
        cpu, memory, command = (0.0, 0, "of another PID namespace") if foreign else _process(pid)
        share = 100 * (cpu - old[pid]) / passed if pid in old and passed > 0 else 0.0
        workers.append(Worker(pid, at, cpu, max(0.0, share), memory, command))
    board = {REST if handler is None else handler: counts for handler, counts in rows.items()}
    for own in [handler for handler in board if handler.startswith("(") and handler != REST]:
        del board[own]  # the library's own
    nothing = dict.fromkeys(_counts.BOARD, 0)
    earlier: Mapping[str, Mapping[str, int]] = before.board if before is not None else {}
    handlers = [Handler.between(handler, earlier.get(handler, nothing), board[handler], passed) for handler in board]
    handlers.sort(key=lambda row: (-row.requests_per_second, -row.requests, row.handler))
    return Sample(
        at=now,
        peek=peek,
        board=board,
        handlers=tuple(handlers),
        together=Handler.between("", _added(earlier), _added(board), passed),
        spots=_spots(name, spots[:_SPOTS], places),
        workers=tuple(workers),
        lock=peek.lock - before.peek.lock if before is not None else peek.lock.first(),
    )


def _added(board: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(counts[key] for counts in board.values()) for key in _counts.BOARD}


def _spots(
    name: str, found: list[dict[str, int]], places: dict[tuple[int, ...], tuple[str | None, str | None]]
) -> tuple[Spot, ...]:
    """Name the places of conflicts; each is looked up in the arena once."""
    keys = [(spot["kind"], spot["container"], spot["id"], spot["arg"]) for spot in found]
    unknown = [key for key in keys if key not in places]
    if unknown:
        with contextlib.suppress(RecoverableError), live(name) as source:
            for key in unknown:
                places[key] = source.place(*key)
    return tuple(
        Spot(*places.get(key, (None, None)), conflicts=spot["count"], error=spot["error"], queue=spot["queue"])
        for key, spot in zip(keys, found, strict=True)
    )


def _process(pid: int) -> tuple[float, int, str]:
    """Return a process's seconds of processor time, its resident bytes and its command; of one that is gone, nothing."""
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (OSError, ValueError, IndexError):  # gone
        return 0.0, 0, "?"
    printable = "".join(letter if letter.isprintable() else "?" for letter in command)
    return (int(fields[11]) + int(fields[12])) / _TICK, resident, printable


def _lock(lock: LockTimes) -> str:
    """Return how full the lock is."""
    if not (lock.held.count or lock.running or lock.waited.count):
        return "not taken"
    text = f"{100 * lock.busy:.0f} % busy"
    if lock.running:
        text += f", held for {_duration(lock.running)} by now"
    if lock.held.count:
        text += f", held {lock.held.count / lock.over:.0f} times/s for {1e6 * lock.held.mean:.1f} µs"
    if not lock.waited.count:
        return text
    mean, most = _duration(lock.waited.mean), _duration(lock.waited.quantile(0.99))
    return f"{text}, {lock.waited.count / lock.over:.0f} waits/s of {mean}, 99 % below {most}"


def _journal(sample: Sample) -> list[tuple[str, str]]:
    """Return how far the feed and its sinks are, and what flushes take; nothing without a feed."""
    feed = sample.peek.feed
    if feed is None:
        return []
    rows = [
        (
            "feed",
            f"{human_size(feed.used)} of {human_size(feed.size)} not taken yet"
            if feed.sinks
            else human_size(feed.size),
        )
    ]
    for sink in feed.sinks:
        by = f"process {sink.process}" if sink.process else "nobody"
        lost = ", has lost something" if sink.lost else ""
        behind = f"{sink.commits} commits, {human_size(sink.bytes)}, {_duration(sink.seconds)} behind"
        rows.append((sink.name, f"{behind}{lost}; served by {by}"))
    flushes = feed.flushes
    if flushes is not None:
        text = f"{flushes.count} of {flushes.batch:.1f} commits in {_duration(flushes.mean)}, at most {_duration(flushes.longest)}"
        wrong = flushes.stopped or flushes.delayed
        rows.append(("flushes", f"{text}; {'stopped' if flushes.stopped else 'waits'}: {wrong}" if wrong else text))
    if feed.snapshot is not None:
        last = feed.snapshot
        rows.append(("snapshot", f"of commit {last.seq}, {ago(last.at)}, {human_size(last.bytes)}"))
    return rows


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def line(sample: Sample) -> str:
    """Return a sample in one line, for a pipe."""
    peek, all_ = sample.peek, sample.together
    running = f"held for {_duration(sample.lock.running)} by now, " if sample.lock.running else ""
    return (
        f"{time.strftime('%H:%M:%S', time.localtime(sample.at))} {all_.requests_per_second:.0f} requests/s, "
        f"{all_.commits_per_second:.0f} commits/s, {all_.rollbacks_per_second:.0f} rollbacks/s, "
        f"{all_.conflicts_per_second:.0f} conflicts/s, {_optional(all_.checkpoint_us, '{:.1f}')} µs/checkpoint, "
        f"lock {100 * sample.lock.busy:.0f} % busy, {running}"
        f"{all_.traps_per_second:.0f} traps/s, {peek.hot_pages} hot pages, {peek.commits} commits in all, "
        f"{human_size(peek.used)} of {human_size(peek.size)}, {peek.recoveries} recoveries, "
        f"processes {' '.join(map(str, peek.alive)) or 'none'}"
    )


def screen(sample: Sample, *, hint: bool = True, width: int | None = None) -> Group:
    """Return a sample as a terminal shows it.

    Args:
        sample: The sample.
        hint: Whether to say how to end.
        width: Columns; the default is what the console has.
    """
    width = width or console().width
    peek = sample.peek
    facts = Table.grid(padding=(0, 2))
    for what, value in (
        ("commits", f"{peek.commits} in all"),
        ("data", f"{human_size(peek.used)} used, {human_size(peek.claimed)} claimed of {human_size(peek.size)}"),
        ("overhead", human_size(peek.overhead)),
        ("hot pages", str(peek.hot_pages)),
        ("recoveries", f"{peek.recoveries}, last {ago(peek.recovered_at)}"),
        ("lock", _lock(sample.lock)),
        *_journal(sample),
        ("in a step", f"process {peek.holder}" if peek.holder else "nobody at this moment"),
        ("last handler", peek.handler or "-"),
    ):
        facts.add_row(Text(what, style="dim"), Text(value))
    parts: list[RenderableType] = [
        Text(f"{peek.name}   (q or Ctrl-C ends)" if hint else peek.name, style="bold"),
        facts,
        Text(),
        _handlers(sample),
    ]
    if sample.spots:
        parts += [Text(), _table_of_spots(sample, width)]
    return Group(*parts, Text(), _processes(sample, width))


def _plain_table(numbers: tuple[str, ...], texts: tuple[str, ...]) -> Table:
    out = Table(box=None, header_style="bold", pad_edge=False)
    for title in numbers:
        out.add_column(title, justify="right")
    for title in texts:
        out.add_column(title, no_wrap=True, overflow="ellipsis")
    return out


def _handlers(sample: Sample) -> Table:
    out = _plain_table(
        ("REQ/S", "COMMIT/S", "ROLLB/S", "CONFL/S", "CHKPT µS", "HELD µS", "LOCK %", "TRAP/S", "HIT %", "REQUESTS"),
        ("HANDLER",),
    )
    shown = sample.handlers[:_LINES]
    for row, name in ((sample.together, "all"), *((row, row.handler) for row in shown)):
        out.add_row(
            f"{row.requests_per_second:.0f}",
            f"{row.commits_per_second:.0f}",
            f"{row.rollbacks_per_second:.0f}",
            f"{row.conflicts_per_second:.0f}",
            _optional(row.checkpoint_us, "{:.1f}"),
            _optional(row.held_us, "{:.1f}"),
            f"{row.lock_percent:.0f}",
            f"{row.traps_per_second:.0f}",
            _optional(None if row.hit_rate is None else 100 * row.hit_rate, "{:.0f}"),
            str(row.requests),
            Text(name),
            style="dim" if row is sample.together else "",
        )
    if len(sample.handlers) > len(shown):
        out.add_row(*[""] * 10, Text(f"{len(sample.handlers) - len(shown)} more", style="dim"))
    return out


def _cut(text: str, room: int) -> Text:
    """Return a text that fits; rich would take the room from the short columns."""
    room = max(10, room)
    return Text(text if len(text) <= room else f"{text[: room - 1]}…")


def _table_of_spots(sample: Sample, width: int) -> Table:
    out = _plain_table(("CONFLICTS", "QUEUE"), ("LOST AT", ""))
    for spot in sample.spots:
        path = spot.path or "what is gone, or has no name"
        least = f"{spot.conflicts - spot.error} to " if spot.error else ""
        out.add_row(
            f"{least}{spot.conflicts}", str(spot.queue or "-"), _cut(path, width // 2), _cut(spot.key or "", width // 3)
        )
    return out


def _processes(sample: Sample, width: int) -> Table:
    out = _plain_table(("PID", "CPU %", "MEMORY"), ("ATTACHED", "COMMAND"))
    for w in sample.workers:
        out.add_row(
            str(w.pid), f"{w.cpu_percent:.0f}", human_size(w.memory), ago(w.attached_at), _cut(w.command, width - 40)
        )
    for pid in sample.peek.dead:
        out.add_row(str(pid), "", "", "dead", "")
    return out
