"""`recoverable top`: an arena while it runs, from what its header and the process table of the machine tell.

It looks from outside, as `ls` does: a server can't notice it. So it has what is common to all processes. What each process
counts for itself (rollbacks, conflicts, traps, handlers) lies in that process's own memory; `arena.stats()` in it tells.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recoverable._options import human_size
from recoverable.cli import _outside
from recoverable.cli._render import ago, console

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Sample", "Worker", "line", "samples", "screen", "watch"]

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


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
class Sample:
    """An arena at one moment, with rates since the sample before."""

    at: float
    peek: _outside.Peek
    commits_per_second: float
    workers: tuple[Worker, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        peek = asdict(self.peek)
        for name in ("backed", "alive", "attached_at"):
            del peek[name]
        workers = [asdict(worker) for worker in self.workers]
        return {"at": self.at, **peek, "commits_per_second": self.commits_per_second, "processes": workers}


def samples(name: str, interval: float, count: int) -> Iterator[Sample]:
    """Yield a sample now and one after each interval.

    Args:
        name: The arena's name.
        interval: Seconds between two.
        count: How many; 0 for no end.

    Raises:
        ArenaNotFoundError: There is none, or it is gone.
    """
    before: Sample | None = None
    taken = 0
    while True:
        before = _sample(name, before)
        yield before
        taken += 1
        if taken == count:
            return
        time.sleep(interval)


def _sample(name: str, before: Sample | None) -> Sample:
    peek, now = _outside.peek(name), time.time()
    passed = now - before.at if before is not None else 0.0
    old = {worker.pid: worker.cpu for worker in before.workers} if before is not None else {}
    workers = []
    for pid, at in zip(peek.alive, peek.attached_at, strict=True):
        cpu, memory, command = _process(pid)
        share = 100 * (cpu - old[pid]) / passed if pid in old and passed > 0 else 0.0
        workers.append(Worker(pid, at, cpu, max(0.0, share), memory, command))
    commits = peek.commits - before.peek.commits if before is not None else 0
    return Sample(now, peek, max(0.0, commits / passed) if passed > 0 else 0.0, tuple(workers))


def _process(pid: int) -> tuple[float, int, str]:
    """Return a process's seconds of processor time, its resident bytes and its command; of one that is gone, nothing."""
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (OSError, ValueError, IndexError):  # gone, or of another pid namespace
        return 0.0, 0, "?"
    printable = "".join(letter if letter.isprintable() else "?" for letter in command)
    return (int(fields[11]) + int(fields[12])) / _TICK, resident, printable


def line(sample: Sample) -> str:
    """Return a sample in one line, for a pipe."""
    peek = sample.peek
    return (
        f"{time.strftime('%H:%M:%S', time.localtime(sample.at))} {sample.commits_per_second:.0f} commits/s, "
        f"{peek.commits} in all, {human_size(peek.used)} of {human_size(peek.size)}, {peek.hot_pages} hot pages, "
        f"{peek.recoveries} recoveries, processes {' '.join(map(str, peek.alive)) or 'none'}"
    )


def screen(sample: Sample) -> Group:
    """Return a sample as a terminal shows it."""
    peek = sample.peek
    facts = Table.grid(padding=(0, 2))
    for what, value in (
        ("commits", f"{sample.commits_per_second:.0f}/s, {peek.commits} in all"),
        ("data", f"{human_size(peek.used)} used, {human_size(peek.claimed)} claimed of {human_size(peek.size)}"),
        ("overhead", human_size(peek.overhead)),
        ("hot pages", str(peek.hot_pages)),
        ("recoveries", f"{peek.recoveries}, last {ago(peek.recovered_at)}"),
        ("in a step", f"process {peek.holder}" if peek.holder else "nobody at this moment"),
        ("last handler", peek.handler or "-"),
    ):
        facts.add_row(Text(what, style="dim"), Text(value))
    processes = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("PID", "CPU %", "MEMORY"):
        processes.add_column(title, justify="right")
    processes.add_column("ATTACHED")
    processes.add_column("COMMAND", no_wrap=True, overflow="ellipsis")
    for w in sample.workers:
        processes.add_row(str(w.pid), f"{w.cpu_percent:.0f}", human_size(w.memory), ago(w.attached_at), Text(w.command))
    for pid in peek.dead:
        processes.add_row(str(pid), "", "", "dead", "")
    return Group(Text(f"{peek.name}   (Ctrl-C ends)", style="bold"), facts, Text(), processes)


def watch(name: str, interval: float, count: int) -> None:
    """Show samples on the terminal, one in the place of the other, until Ctrl-C."""
    with Live(console=console(), auto_refresh=False, screen=count == 0 and sys.stdout.isatty()) as live:
        for sample in samples(name, interval, count):
            live.update(screen(sample), refresh=True)
