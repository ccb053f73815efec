"""What all benchmarks share: timing, statistics, aims, tables, plots, and the line that says which machine it was.

Machines that run benchmarks are seldom quiet. So what is compared is run in turn, A B C A B C …, within one process;
each figure is the median of its rounds with the quartiles beside it; a ratio is taken round by round, so that a
machine which slows down for a while slows both halves of it. Times are CPU time of the thread unless a table says
otherwise: the time that others had the core for is not ours. What the kernel does for us is in it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"


@dataclass(frozen=True)
class Settings:
    """How long a run may take, where its results go, and where it writes what is to be durable."""

    quick: bool = False
    out: Path | None = OUT
    disk: Path = Path("/var/tmp")

    def pick(self, full: Any, quick: Any) -> Any:
        """Return one of two, by `--quick`."""
        return quick if self.quick else full


# -- statistics -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        data = sorted(values)
        if len(data) == 1:
            return cls(data[0], data[0], data[0], 1)
        low, median, high = statistics.quantiles(data, n=4, method="inclusive")
        return cls(median, low, high, len(data))

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.rounds)

    def __str__(self) -> str:
        if self.rounds == 1:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.low)} – {digits(self.high)})"


def digits(x: float) -> str:
    """Write a number with three significant digits and no exponent."""
    if x == 0:
        return "0"
    if abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:#.3g}".rstrip(".") if abs(x) >= 0.001 else f"{x:.2g}"


def percentile(values: Sequence[float], p: float) -> float:
    """Return the smallest value that `p` percent of all do not exceed."""
    data = sorted(values)
    return data[min(len(data) - 1, int(len(data) * p / 100))]


# -- timing -----------------------------------------------------------------------------------------------------

Run = Callable[[int], object]  # does its work n times


class Back(Exception):
    """What ends a transaction that is to roll back."""


def exceptions(n: int) -> None:
    """Raise and catch one in a `with` block that does nothing: what is Python's part of such a rollback."""
    nothing, back = _Nothing(), Back()
    for _ in range(n):
        try:
            with nothing:
                raise back
        except Back:
            back.__traceback__ = None


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *what: object) -> None: ...


class Timed:
    """Nanoseconds an operation, by case and round."""

    def __init__(self, samples: dict[str, list[float]]) -> None:
        self.samples = samples

    def __getitem__(self, name: str) -> Spread:
        return Spread.of(self.samples[name])

    def ratio(self, name: str, to: str, less: str | None = None) -> Spread:
        """Return one case's time over another's, round by round; `less`: a case whose time is taken off the first."""
        off = self.samples[less] if less else [0.0] * len(self.samples[name])
        return Spread.of((a - c) / b for a, b, c in zip(self.samples[name], self.samples[to], off, strict=True))

    def difference(self, name: str, less: str) -> Spread:
        return Spread.of(a - b for a, b in zip(self.samples[name], self.samples[less], strict=True))


def compare(
    cases: dict[str, Run],
    settings: Settings,
    *,
    rounds: int | None = None,
    target: float | None = None,
    clock: Callable[[], int] = time.thread_time_ns,
    title: str = "",
) -> Timed:
    """Time the cases in turn.

    Args:
        cases: What to time; each is called with how often to do its work.
        settings: Whether to be quick.
        rounds: How often to go round.
        target: Seconds that one case should take in one round; how often it must run for that is tried out first.
        clock: Nanoseconds.
        title: For the progress line.
    """
    rounds = rounds or settings.pick(21, 5)
    target = target or settings.pick(0.04, 0.008)
    counts: dict[str, int] = {}
    for name, run in cases.items():
        run(1)  # memory that is touched for the first time would make the work look long
        n = 1
        while True:
            begun = clock()
            run(n)
            took = max(clock() - begun, 1)
            if took >= target * 2e8 or n >= 1 << 22:
                counts[name] = max(1, int(n * target * 1e9 / took))
                break
            n = max(n * 2, min(n * 16, int(n * target * 3e8 / took)))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for i in range(rounds):
        progress(f"{title}: round {i + 1} of {rounds}")
        for name in order[i % len(order) :] + order[: i % len(order)]:
            n = counts[name]
            begun = clock()
            cases[name](n)
            samples[name].append((clock() - begun) / n)
    progress("")
    return Timed(samples)


_last = 0.0


def progress(text: str) -> None:
    """Show what is going on, on a line that the next one overwrites; without a terminal, a line now and then."""
    global _last
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)
    elif text and time.monotonic() - _last > 10:
        _last = time.monotonic()
        print(f"  {text}", file=sys.stderr, flush=True)


# -- reports ------------------------------------------------------------------------------------------------------


@dataclass
class Aim:
    """What the project wants of itself: a figure that must stay below its limit."""

    what: str
    limit: float
    figure: Spread
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.figure.median <= self.limit

    @property
    def verdict(self) -> str:
        return "met" if self.met else "missed"

    def cells(self) -> list[str]:
        """Return what it is, its limit and its figure, for a table."""
        return [self.what, f"{digits(self.limit)} {self.unit}".strip(), f"{self.figure} {self.unit}".strip()]


@dataclass
class Report:
    """The result of one benchmark: tables, aims and plots."""

    name: str
    question: str
    aims: list[Aim] = field(default_factory=list)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    plots: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def aim(self, what: str, limit: float, figure: Spread, unit: str = "") -> None:
        self.aims.append(Aim(what, limit, figure, unit))

    def table(self, caption: str, head: list[str], rows: list[list[str]]) -> None:
        self.tables.append((caption, head, rows))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def figure(self, name: str, spread: Spread) -> None:
        """Keep a figure for the JSON file."""
        self.figures[name] = asdict(spread)

    def markdown(self) -> str:
        parts = [f"**{self.question}**", ""]
        if self.aims:
            rows = [[*aim.cells(), aim.verdict] for aim in self.aims]
            parts += markdown_table(["aim", "at most", "median (quartiles)", ""], rows)
        for caption, head, rows in self.tables:
            parts += [caption + ":", "", *markdown_table(head, rows)]
        for text in self.notes:
            parts += [text, ""]
        for alt, file in self.plots:
            parts += [f"![{alt}](benchmarks/{file})", ""]
        parts += [f"Machine: {machine_line()}", ""]
        return "\n".join(parts)

    def save(self, settings: Settings) -> None:
        if settings.out is None:
            return
        settings.out.mkdir(parents=True, exist_ok=True)
        aims = [asdict(a) | {"met": a.met} for a in self.aims]
        data = {
            "name": self.name,
            "question": self.question,
            "machine": machine(),
            "quick": settings.quick,
            "aims": aims,
            "tables": [{"caption": c, "head": h, "rows": r} for c, h, r in self.tables],
            "figures": self.figures,
        }
        (settings.out / f"{self.name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        (settings.out / f"{self.name}.md").write_text(self.markdown())

    def show(self) -> None:
        print(f"\n== {self.name}: {self.question}")
        for caption, head, rows in self.tables:
            print(f"\n{caption}")
            widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
            for row in [head, *rows]:
                print(
                    "  "
                    + "  ".join(
                        c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
                    )
                )
        for text in self.notes:
            print(f"  {text}")
        for a in self.aims:
            print(f"  {a.verdict.upper():6}  {a.what}: {a.figure} {a.unit}, aim {digits(a.limit)} {a.unit}")

    def plot(self, settings: Settings, file: str, alt: str, draw: Callable[[Any], None]) -> None:
        """Draw a plot as SVG, if matplotlib is installed."""
        if settings.out is None:
            return
        try:
            import matplotlib
        except ImportError:
            self.note(f"(No plot “{alt}”: matplotlib is not installed.)")
            return
        matplotlib.use("Agg")
        matplotlib.rcParams["svg.hashsalt"] = "recoverable"  # the same picture is the same file
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        draw(axes)
        settings.out.mkdir(parents=True, exist_ok=True)
        figure.savefig(settings.out / file, metadata={"Date": None})
        pyplot.close(figure)
        self.plots.append((alt, file))


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    line = "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|"
    return ["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows), ""]


# -- the machine ----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Say on what this runs."""
    versions = {}
    for package in ("recoverable", "lmdb", "ZODB", "redis", "asyncpg", "aiohttp", "uvloop", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        model = next(
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
    except StopIteration:
        model = platform.machine()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": [round(x, 1) for x in os.getloadavg()],
        "packages": versions,
    }


def machine_line() -> str:
    m = machine()
    versions = ", ".join(f"{k} {v}" for k, v in m["packages"].items())
    return (
        f"{m['cpu']}, {m['cores']} cores, Linux {m['kernel']}, Python {m['python']}; commit {m['commit']}; {versions}; "
        f"{m['date']}, load average {m['load'][0]}."
    )


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return git.stdout.strip()
