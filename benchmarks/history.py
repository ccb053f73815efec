"""What does it take to go back in time?

A bank with 10,000 accounts, beside sessions of a kilobyte each that nobody touches, and a million transfers behind the last
snapshot, one of which is wrong by a coin. What is timed is a history that was just opened: of each question, the first one. The
files are in the page cache, as those that a server wrote lately are.

Beside it, what could grow without bound is measured: many containers, many files of commits, places that every commit changes.

What it costs a server that history is kept is timed as well: the same transfers with `keep=` and without, in turn, which shows no
more than noise, if all is well, since keep= is read by compactions alone; and those with capsules, none of which is written.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import disk, journal_state, transfers
from benchmarks.harness import Report, Settings, Spread, digits, progress
from recoverable import Arena, ArenaNotFoundError, Array, Counter, Deque, Record, Set
from recoverable._native import journal as native_journal
from recoverable.capsules import Capsules
from recoverable.history import History
from recoverable.journal import start
from recoverable.journal.folder import Folder

ACCOUNTS, OPENING = 10_000, 1_000_000
AT, BISECT, BEYOND = 200.0, 20.0, 1.02  # ms, s, and what transfers may take beside those without keep=
_FAR = 1, 100, 10_000, 100_000, 1_000_000  # commits since the keyframe


def run(settings: Settings) -> Report:
    report = Report("history", "What does it take to go back in time?")
    try:
        with disk.folder(settings) as path:
            _past(report, settings, path / "past")
            _shapes(report, settings, path)
            _files(report, settings, path / "files")
            _kept(report, settings, path)
        disk.tell(report, settings)
    except disk.NoDisk as refused:
        report.note(f"Not run: {refused}.")
    return report


# -- a past -----------------------------------------------------------------------------------------------------------------


def _past(report: Report, settings: Settings, where: Path) -> None:
    """Make one, ask it, and start from its files, which is the other way to have a state of them."""
    name = f"bench-history-{os.getpid()}"
    try:
        first, commits, wrong = _make(settings, name, where)
    finally:
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(name)
    last = first + commits - 1
    _states(report, settings, where, first, last)
    _questions(report, settings, where, first, last, wrong)
    _whole(report, settings, where, last)
    _bytes(report, where, commits)


def _make(settings: Settings, name: str, where: Path) -> tuple[int, int, int]:
    """Make the journal; return the number of the first transfer's commit, how many there are, and which of them is wrong."""
    count, more = settings.pick(500, 8) * 1024, settings.pick(1_000_000, 20_000)
    size = f"{settings.pick(1024, 64)} MiB"
    with contextlib.closing(Arena.open(name, size, journal=where, compact=False, keep="24h")) as arena:
        with arena.transaction():
            arena.root["accounts"] = {f"account-{i}": OPENING for i in range(ACCOUNTS)}
            arena.root["sessions"] = {}
            arena.root["kinds"] = _kinds()
        for at in range(0, count, 1024):
            progress(f"history: {at:,} of {count:,} sessions")
            journal_state.write(arena, at, at + 1024)
        journal_state.finish_file(arena, count)
        journal_state.command(where)
        progress(f"history: {more:,} transfers")
        accounts: Any = arena.root["accounts"]
        keys = list(accounts)
        first = arena.stats().feed.seq + 1
        for i in range(more):
            with arena.transaction():
                accounts[keys[i % ACCOUNTS]] -= 1
                accounts[keys[(i * 7 + 331) % ACCOUNTS]] += 1 if i != more * 2 // 3 else 2
            if i % 1000 == 0:
                with arena.transaction():
                    _change(arena.root["kinds"], i // 1000)
            if i % 10_000 == 0:
                transfers.flush(arena)
        transfers.flush(arena)
    wrong = more * 2 // 3
    return first, more + (more - 1) // 1000 + 1, first + wrong + (wrong - 1) // 1000 + 1


class Cart(Record, name="benchmarks.history.Cart"):
    total: int = 0


#: How a part of each kind of container is looked at.
_LOOKS: dict[str, Callable[[Any], object]] = {
    "Dict": lambda it: it["k7"]["n"],
    "List": lambda it: it[500],
    "Deque": lambda it: it[500],
    "Set": lambda it: 7 in it,
    "Counter": lambda it: it.value,
    "Record": lambda it: it.total,
    "Array": lambda it: it[500_000],
}


def _kinds() -> dict[str, Any]:
    return {
        "Dict": {f"k{i}": {"n": i} for i in range(1000)},
        "List": list(range(1000)),
        "Deque": Deque(range(1000)),
        "Set": Set(range(1000)),
        "Counter": Counter(),
        "Record": Cart(),
        "Array": Array(1_000_000, "f8"),
    }


def _change(kinds: Any, n: int) -> None:
    kinds["Dict"][f"k{n % 1000}"]["n"] += 1
    kinds["List"][n % 1000] += 1
    kinds["Deque"].rotate(1)
    kinds["Set"].add(n)
    kinds["Counter"].add(1)
    kinds["Record"].total += 1
    kinds["Array"][n * 977 % 1_000_000] = n


def _timed(doing: Callable[[History], object], where: Path) -> float:
    """Ask a history that was just opened; return the seconds."""
    begun = time.perf_counter()
    with History.open(where) as history:
        doing(history)
        return time.perf_counter() - begun


def _states(report: Report, settings: Settings, where: Path, first: int, last: int) -> None:
    rounds = settings.pick(11, 2)
    far = [each for each in _FAR if each <= last - first + 1]
    took: dict[int, list[float]] = {each: [] for each in far}

    def ask(history: History, seq: int) -> None:
        assert abs(history.at(seq)["accounts"]["account-77"] - OPENING) < last

    for i in range(rounds):
        progress(f"history: at(), round {i + 1} of {rounds}")
        for each in far[i % len(far) :] + far[: i % len(far)]:
            took[each].append(_timed(lambda history, each=each: ask(history, first + each - 1), where) * 1e3)
    spreads = {each: Spread.of(values) for each, values in took.items()}
    report.table(
        f"A state of an arena of {settings.pick(1024, 64):,} MiB, and one key of it looked at",
        ["commits since the keyframe", "ms"],
        [[f"{each:,}", str(spread)] for each, spread in spreads.items()],
    )
    for each, spread in spreads.items():
        report.figure(f"at(), {each} commits since the keyframe: ms", spread)
    report.aim(f"at() of {far[-1]:,} commits since the keyframe, one key: ms", AT, spreads[far[-1]], "ms")
    parts: dict[str, list[float]] = {kind: [] for kind in _LOOKS}
    for _ in range(settings.pick(5, 1)):
        for kind, look in _LOOKS.items():
            parts[kind].append(_timed(lambda history, k=kind, f=look: f(history.at(last)["kinds"][k]), where) * 1e3)
    kinds = {kind: Spread.of(values) for kind, values in parts.items()}
    report.table(
        f"A state {last - first + 1:,} commits after the keyframe, and a part of a container of each kind looked at",
        ["a part of", "ms"],
        [[kind, str(spread)] for kind, spread in kinds.items()],
    )
    worst = max(kinds, key=lambda kind: kinds[kind].median)
    report.aim(f"at(), a part of the slowest kind, {worst}: ms", AT, kinds[worst], "ms")


def _questions(report: Report, settings: Settings, where: Path, first: int, last: int, wrong: int) -> None:
    rounds = settings.pick(5, 1)
    path = "root['accounts']['account-77']"

    def bisect(history: History) -> None:
        found = history.bisect(
            lambda root: sum(root["accounts"].values()) == ACCOUNTS * OPENING,
            good=first,
            progress=lambda good, bad: progress(f"history: bisect, {good:,} to {bad:,}"),
        )
        assert found.commit.seq == wrong

    questions: dict[str, Callable[[History], object]] = {
        f"bisect: a sum over {ACCOUNTS:,} accounts": bisect,
        "last_writer of an account": lambda history: history.last_writer(path).seq,  # type: ignore[union-attr]
        "changes of an account, the last one": lambda history: _take(history, path, 1),
        "changes of an account, all that there are": lambda history: list(history.changes(path, since=first)),
        "changed_by of the last commit": lambda history: history.changed_by(last),
        "commits, the last hundred": lambda history: [
            each for each, _ in zip(history.commits(), range(100), strict=False)
        ],
        "diff of the accounts, first to last": lambda history: history.diff(first, last, "root['accounts']"),
    }
    took: dict[str, list[float]] = {what: [] for what in questions}
    for _ in range(rounds):
        for what, doing in questions.items():
            progress(f"history: {what}")
            took[what].append(_timed(doing, where))
    progress("")
    spreads = {what: Spread.of(values) for what, values in took.items()}
    report.table(
        f"Questions to {last - first + 1:,} commits, each to a history that was just opened",
        ["", "seconds"],
        [[what, str(spread)] for what, spread in spreads.items()],
    )
    for what, spread in spreads.items():
        report.figure(f"{what}: s", spread)
    report.aim(f"bisect among {last - first + 1:,} commits: s", BISECT, spreads[next(iter(questions))], "s")


def _whole(report: Report, settings: Settings, where: Path, last: int) -> None:
    """Read a whole state, against what else would give one: a restore, and reading that."""
    ours, restored = [], []

    def ask(history: History) -> None:
        history.at(last).to_python()

    for i in range(settings.pick(5, 1)):
        progress(f"history: a whole state, round {i + 1}")
        ours.append(_timed(ask, where))
        restored.append(_restored(where))
    ratio = Spread.of(a / b for a, b in zip(ours, restored, strict=True))
    report.table(
        "All of the last state as plain Python",
        ["", "seconds"],
        [["at().to_python()", str(Spread.of(ours))], ["a restore, and to_python() of it", str(Spread.of(restored))]],
    )
    report.aim("at().to_python() over a restore and the same", 1.0, ratio, "x")


def _restored(where: Path) -> float:
    """Restore into the object of a new arena, and read it; what the folder got by that is removed."""
    folder = Folder(where)
    name = f"bench-restored-{os.getpid()}"
    target = os.open(f"/dev/shm/recoverable.{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    lock = folder.take()
    begun = time.perf_counter()
    try:
        start.restore(folder, target, name)
        with Arena.open(name, create=False) as arena:
            arena.root.to_python()
        return time.perf_counter() - begun
    finally:
        lock.release()
        os.close(target)
        Arena.unlink(name)
        Path(folder.file_path(folder.files()[-1])).unlink()


def _bytes(report: Report, where: Path, commits: int) -> None:
    starts = Folder(where).starts()
    position = Folder(where).snapshots()[-1]
    with Folder(where).open_file(starts[-1].number) as file:
        end = starts[-1].position
        while (batch := file.next()) is not None:
            end = batch.end
    each = (end - position) / commits
    rows = [["a commit that is kept: a transfer between two accounts", f"{digits(each)} bytes"]]
    core = _core()
    if core is not None:
        rows.append(["a core dump of this process, without shared memory", f"{digits(core / 2**20)} MiB"])
    report.table("For a sense of scale", ["", "size"], rows)
    if shutil.which("rr") is None:
        report.note("rr, which records all that a process does, is not on this machine, so it stands in no table.")


def _core() -> int | None:
    """Return how large a dump of this process is; None: this machine writes none here."""
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core":
        return None
    with tempfile.TemporaryDirectory() as path:
        pid = os.fork()
        if pid == 0:
            os.chdir(path)
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            with contextlib.suppress(Exception):
                resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                os.abort()
            os._exit(1)
        os.waitpid(pid, 0)
        return next((each.stat().st_blocks * 512 for each in Path(path).iterdir()), None)


# -- what is many -----------------------------------------------------------------------------------------------------------


def _shapes(report: Report, settings: Settings, path: Path) -> None:
    """Ask for the last changes in arenas with many containers, and for all where every commit changes the place."""
    many, few, commits = settings.pick(100_000, 2_000), settings.pick(10_000, 1_000), settings.pick(1_500, 200)
    every = settings.pick(200_000, 4_000)

    def sessions(arena: Arena, count: int) -> Any:
        with arena.transaction():
            arena.root["sessions"] = {}
        for at in range(0, count, 1000):
            with arena.transaction():
                arena.root["sessions"].update({str(i): {"n": i} for i in range(at, at + 1000)})
            transfers.flush(arena)
        return arena.root["sessions"]

    def array(arena: Arena) -> Callable[[int], None]:
        sessions(arena, many)
        with arena.transaction():
            arena.root["hits"] = Array((1000,), "i8")

        def write(i: int) -> None:
            arena.root["hits"][i % 1000] += 1
            arena.root["n"] = i

        return write

    def added(arena: Arena) -> Callable[[int], None]:
        kept = sessions(arena, many)

        def write(i: int) -> None:
            kept[f"new {i}"] = {"n": i}

        return write

    def listed(arena: Arena) -> Callable[[int], None]:
        with arena.transaction():
            arena.root["list"] = [{"n": i} for i in range(few)]
        kept = arena.root["list"]

        def write(i: int) -> None:
            kept[i * 37 % few]["n"] = -i

        return write

    def changed(arena: Arena) -> Callable[[int], None]:
        with arena.transaction():
            arena.root["accounts"] = {str(i): 0 for i in range(1000)}
        kept = arena.root["accounts"]

        def write(i: int) -> None:
            kept[str(i % 1000)] = i + 1

        return write

    shapes: list[tuple[str, Callable[[Arena], Callable[[int], None]], int, str, int]] = [
        (f"an Array and a number, each commit, beside {many:,} Dicts", array, commits, "root['n']", 20),
        (f"the Array there, of {many:,} containers", array, commits, "root", 20),
        (f"{many:,} Dicts, each commit adds one", added, commits, "root['sessions']", 20),
        (f"the same, {commits:,} commits", added, commits, "root['sessions']", commits),
        (f"a List of {few:,} Dicts, each commit changes one", listed, commits, "root['list']", commits),
        (f"a Dict that all of {every:,} commits change", changed, every, "root['accounts']", every),
    ]
    rows = []
    for number, (what, begin, count, place, wanted) in enumerate(shapes):
        progress(f"history: {what}")
        where = path / f"shape-{number}"
        with Arena.temporary("512 MiB", journal=where, compact=False) as arena:
            write = begin(arena)
            for i in range(count):
                with arena.transaction():
                    write(i)
                if i % 10_000 == 0:
                    transfers.flush(arena)
            transfers.flush(arena)
            took = _timed(lambda history, place=place, wanted=wanted: _take(history, place, wanted), where)
        shutil.rmtree(where)
        rows.append([what, f"{wanted:,}", digits(took)])
        report.figure(f"the last {wanted} changes of {place}, {what}: s", Spread.of([took]))
    progress("")
    report.table("Changes of a place, the last ones", ["", "changes", "seconds"], rows)


def _take(history: History, place: str, number: int) -> None:
    assert len([each for each, _ in zip(history.changes(place), range(number), strict=False)]) == number


def _files(report: Report, settings: Settings, where: Path) -> None:
    """Look at a folder with many files of commits: what a look takes the first time, and again, as a watch does."""
    many = settings.pick(1_000, 50)
    native_journal.file_size(16 * 1024)
    try:
        with Arena.temporary("16 MiB", journal=where, compact=False) as arena:
            while len(Folder(where).files()) < many:
                with arena.transaction():
                    arena.root["filled"] = os.urandom(6000)
                transfers.flush(arena)
            first = _timed(lambda history: history.at(history.oldest), where)
            with History.open(where) as history:
                time.sleep(1.1)  # a name that has changed within a second may have changed again
                _ = history.oldest
                begun = time.perf_counter()
                for _ in range(100):
                    _ = history.oldest
                again = (time.perf_counter() - begun) / 100
    finally:
        native_journal.file_size(64 * 1024**2)
    report.table(
        f"A folder with {many:,} files of commits",
        ["", "ms"],
        [
            ["at(), in a history that was just opened", digits(first * 1e3)],
            ["a look at the folder again", digits(again * 1e3)],
        ],
    )
    report.figure(f"at(), beside {many} files: ms", Spread.of([first * 1e3]))
    report.figure(f"a look again, beside {many} files: ms", Spread.of([again * 1e3]))
    report.aim(f"at(), beside {many:,} files of commits: ms", AT, Spread.of([first * 1e3]), "ms")


# -- a server that keeps it -------------------------------------------------------------------------------------------------


def _kept(report: Report, settings: Settings, path: Path) -> None:
    """Load an arena that keeps history, one that does not, and one that would keep requests that crash, in turn."""
    rounds, seconds = settings.pick(31, 3), settings.pick(0.4, 0.1)
    with contextlib.ExitStack() as stack:
        handlers = [
            stack.enter_context(_bank(path / "without", 0)),
            stack.enter_context(_bank(path / "kept", "24h")),
            stack.enter_context(_bank(path / "capsules", "24h", Capsules(path / "crashed"))),
        ]
        ratios: tuple[list[float], list[float]] = [], []
        for i in range(rounds):
            progress(f"history: kept, round {i + 1} of {rounds}")
            rates = {}
            for which in (0, 1, 2) if i % 2 else (2, 1, 0):
                rates[which] = transfers.load(handlers[which], 16, seconds).rate
            ratios[0].append(rates[0] / rates[1])
            ratios[1].append(rates[1] / rates[2])
    progress("")
    report.aim('transfers with a journal: without keep= over keep="24h", commits/s', BEYOND, Spread.of(ratios[0]), "x")
    report.table(
        "Transfers with a journal and history, commits a second",
        ["", "times those of the next row"],
        [["without capsules", str(Spread.of(ratios[1]))], ["with capsules, none of which is written", ""]],
    )
    report.figure("transfers with a journal: without capsules over with them: x", Spread.of(ratios[1]))


@contextlib.contextmanager
def _bank(where: Path, keep: Any, capsules: Capsules | None = None) -> Iterator[transfers.Handler]:
    with Arena.temporary("64 MiB", journal=where, keep=keep) as arena:
        transfers.fill(arena)
        if capsules is not None:
            capsules.begin(arena.native)
        yield transfers.transfers(arena, "journal")
        if capsules is not None:
            capsules.end(arena.native)
