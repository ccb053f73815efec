"""Killed at every point: a child dies at crash point 1, 2, 3 … of a scenario, until it survives.

After each death a new process attaches, everything adds up, the state is that of the last commit before the death or of
the first after it, what the feed has told by then leads a copy to the same state, and the arena can be used. Children are
forked from this one warm process: hundreds of deaths take seconds. The core counts its points (CRASHPOINT in the C files);
the one that kills leaves its name in shared memory, and the last test here checks that the points which matter were really
reached.

Where a step passes one point again and again, as for each record of its undo log, only some of those deaths are died; with
RECOVERABLE_POINTS=1 all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena
from recoverable._native import _faults, _switches
from support.forks import in_child
from support.replica import Replica
from support.scenarios import OPTIONS, SCENARIOS, closed, state_of
from support.segments import Saved, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true"),
]

#: A step is killed twice at a point that it passes again and again, and then every so many times.
EVERY = int(os.environ.get("RECOVERABLE_POINTS", "5"))

reached: dict[str, set[str]] = {}  # scenario -> names of the points that killed it


class Board:
    """Memory that children share with us: how many commits were done, and where the kill was."""

    NAME = 64

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def clear(self) -> None:
        """Forget the child before."""
        self.memory[: self.NAME + 8] = bytes(self.NAME + 8)

    def arm(self, nth: int) -> None:
        """In the child: die at the nth point from now; 0: never, but keep their names."""
        self.nth = nth
        _switches.crash_note(self.address, self.NAME)
        _switches.crash_at(nth)
        if nth == 0:
            _faults.fault_watch(_faults.FAULT_STORE)

    def advance(self) -> None:
        """In the child: one commit more."""
        self.memory[self.NAME] += 1

    @property
    def commits(self) -> int:
        """How many commits the child has done."""
        return self.memory[self.NAME]

    @property
    def point(self) -> str:
        """Name of the point that killed it."""
        return self.memory[: self.NAME].split(b"\0")[0].decode()


board = Board()


@pytest.fixture
def base(name: str) -> Saved:
    """A closed arena that holds prepare()'s state, as bytes."""
    return closed(name)


def states_of(name: str, base: Saved, label: str) -> list[Any]:
    """Run it untouched: the state before, after each commit, and at the end."""

    def run() -> list[Any]:
        with Arena.open(name, create=False, **OPTIONS.get(label, {})) as arena:
            states = [state_of(arena)]
            for _ in SCENARIOS[label](arena):
                states.append(state_of(arena))
            states.append(state_of(arena))
        return states

    base.put(name)
    ending = in_child(run)
    assert ending.returned, ending
    return ending.value


def look(name: str, base: Saved | None = None, use: bool = True) -> Any:
    """In a new process: attach, verify, read everything, and use it. `base`: what its feed led from."""

    def run() -> Any:
        with Arena.open(name, create=False) as arena:
            arena.verify()
            state = state_of(arena)
            if base is not None:
                with contextlib.closing(Replica(name, base)) as replica:
                    replica.follow(arena)
                    with replica.opened() as copy:
                        copy.verify()
                        assert state_of(copy) == state, "the feed leads elsewhere"
            if use:
                with arena.transaction():
                    arena.root["used"] = {"after": b"x" * 100}
                    arena.root["used"]["more"] = 1
                    del arena.root["used"]
                arena.verify()
                assert state_of(arena) == state
            report = arena.verify()
            assert report.leaked_blocks == 0, report
            return state

    ending = in_child(run)
    assert ending.returned, f"killed at {board.point!r} after {board.commits} commits; then: {ending}"
    return ending.value


def points_of(put: Callable[[], None], child: Callable[[], None]) -> list[str]:
    """Run it untouched: the names of the points it passes."""

    def run() -> list[str]:
        board.arm(0)
        child()
        return _faults.fault_names(_faults.FAULT_STORE)

    put()
    board.clear()
    ending = in_child(run)
    assert ending.returned, ending
    return ending.value


def chosen(points: list[str]) -> Iterator[int]:
    """Number those to die at, and go on with as many as there are, should a child pass more."""
    passed: Counter[str] = Counter()
    for nth, name in enumerate(points, 1):
        if name == "step.entered":
            passed.clear()
        passed[name] += 1
        if passed[name] <= 2 or passed[name] % EVERY == 0:
            yield nth
    yield from itertools.count(len(points) + 1)


def loop(label: str, put: Callable[[], None], child: Callable[[], None], check: Callable[[], None]) -> int:
    """Kill `child` at the points it passes; `check` what it leaves. Returns how many points there were."""
    names = reached.setdefault(label, set())
    for nth in chosen(points_of(put, child)):
        put()
        board.clear()

        def run(nth: int = nth) -> None:
            board.arm(nth)
            child()
            _switches.crash_at(0)

        ending = in_child(run)
        if ending.returned:
            check()
            break
        assert ending.signal == signal.SIGKILL, f"at point {nth}, {board.point!r}: {ending}"
        names.add(board.point)
        check()
    return nth - 1


@pytest.mark.parametrize("label", SCENARIOS)
def test_a_kill_at_any_point_leaves_the_state_of_a_commit(label: str, name: str, base: Saved) -> None:
    """Whatever point of a scenario kills the process, the next one finds the state before or after its commit."""
    states = states_of(name, base, label)

    def child() -> None:
        with Arena.open(name, create=False, **OPTIONS.get(label, {})) as arena:
            for _ in SCENARIOS[label](arena):
                board.advance()

    def check() -> None:
        k = board.commits
        state = look(name, base)
        assert state in states[k : k + 2], f"killed at {board.point!r} after {k} commits: neither before nor after"

    points = loop(label, lambda: base.put(name), child, check)
    print(f"{label}: {points} points, {len(reached[label])} names")


@pytest.mark.parametrize("label", ["deletes", "captures", "suspensions"])
def test_a_kill_at_any_point_in_trap_mode_does_too(label: str, name: str, base: Saved) -> None:
    """The same where pages track containers, all hot ones among them; whoever comes next may announce its writes again."""
    states = states_of(name, base, label)
    options = {"policy": "full", "tracking": "trap"} | OPTIONS.get(label, {})

    def child() -> None:
        with Arena.open(name, create=False, **options) as arena:
            for _ in SCENARIOS[label](arena):
                board.advance()

    def check() -> None:
        k = board.commits
        assert look(name, base) in states[k : k + 2], (
            f"killed at {board.point!r} after {k} commits: neither before nor after"
        )

    print(label, loop(f"trap mode: {label}", lambda: base.put(name), child, check), "points")


def test_a_kill_while_creating_leaves_nothing_that_opening_cannot_mend(name: str) -> None:
    """A half-made segment is made anew; the first commit is whole or not there."""

    def child() -> None:
        with Arena.open(name, size="1 MiB") as arena, arena.transaction():
            arena.root["a"] = {"b": 1}

    def check() -> None:
        def run() -> Any:
            with Arena.open(name, size="1 MiB") as arena:
                arena.verify()
                return state_of(arena)

        ending = in_child(run)
        assert ending.returned, f"killed at {board.point!r}: {ending}"
        assert ending.value in ([], [("a", {"b": 1})])

    points = loop("create", lambda: path_of(name).unlink(missing_ok=True), child, check)
    print(f"create: {points} points")


def crashed_at(point: str, nth: int, name: str, base: Saved, label: str) -> tuple[Saved, int]:
    """Kill a scenario where it meets that point the nth time: what that leaves, and after how many commits."""

    def run() -> None:
        _switches.crash_only(point)
        board.arm(nth)
        with Arena.open(name, create=False, **OPTIONS.get(label, {})) as arena:
            for _ in SCENARIOS[label](arena):
                board.advance()

    base.put(name)
    board.clear()
    ending = in_child(run)
    assert ending.signal == signal.SIGKILL, f"never met {point} {nth} times: {ending}"
    return Saved(name), board.commits


@pytest.mark.parametrize(
    ("label", "point", "time"),
    [
        ("deletes", "commit.applied", 1),
        ("deletes", "commit.after_publish", 1),
        ("deletes", "reclaim.applied", 1),
        ("raw_pages", "commit.applied", 4),
        ("raw_pages", "commit.after_publish", 4),
        ("raw_pages", "commit.after_tail", 4),
        ("captures", "capture.unprotected", 2),
        ("captures", "commit.applied", 3),
        ("suspensions", "suspend.after_stash", 3),
        ("suspensions", "resume.before_write", 5),
    ],
)
def test_recovery_can_itself_be_killed_at_any_point(label: str, point: str, time: int, name: str, base: Saved) -> None:
    """Recovery that dies is done again, by a recovery that may die too; the outcome is the same."""
    states = states_of(name, base, label)
    broken, commits = crashed_at(point, time, name, base, label)
    broken.put(name)
    first = look(name, base)
    assert first in states[commits : commits + 2]

    def child() -> None:
        Arena.open(name, create=False).close()

    def check() -> None:
        assert look(name, base) == first, f"recovery killed at {board.point!r} came to another state"

    print(loop("recovery", lambda: broken.put(name), child, check), "points")


def test_a_survivor_that_recovers_in_place_can_be_killed_at_any_point(name: str, base: Saved) -> None:
    """The owner of the lock dies inside a step; another live process takes over, and is killed while it does."""

    def child() -> None:
        nth = board.nth
        _switches.crash_at(0)
        with Arena.open(name, create=False) as arena:
            victim = os.fork()
            if victim == 0:
                with arena.transaction():
                    arena.root["lost"] = {"a": 1}
                    arena.root["a"].view[3] = 3
                    arena.root["n"]["z"] = "lost"
                    os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(victim, 0)
            board.arm(nth)
            with arena.transaction():
                arena.root["kept"] = 1
            board.advance()
            arena.verify()

    base.put(name)
    before = look(name)
    after = [*before, ("kept", 1)]

    def check() -> None:
        assert look(name, base) in ([before, after] if not board.commits else [after])

    print(loop("survivor", lambda: base.put(name), child, check), "points")


NAMED = {
    "attach": {"join.witness", "join.before_token", "join.after_token", "open.joined", "open.lock", "open.recovered", "open.done"},
    "create": {
        "open.format.claim", "open.format.fixed", "open.format.lock", "open.format.before_magic",
        "open.format.after_magic", "claim.before_mark", "claim.after_mark",
    },
    "inserts": {
        "undo.append.before_tail", "undo.append.after_tail", "heap.reserve.after_owner", "heap.reserve.after_kind",
        "commit.applied", "commit.after_seq", "commit.after_stamps", "feed.record", "feed.next", "commit.before_publish",
        "commit.after_publish", "feed.head", "commit.after_shadows", "commit.after_tail",
    },
    "deletes": {"reclaim.applied", "reclaim.before_publish", "reclaim.after_publish", "reclaim.after_tail"},
    "array_items": {"undo.append.before_tail"},
    "raw_pages": {
        "trap.before_unprotect", "tracker.shut", "hot.promote.before_entry", "hot.promote.before_unprotect",
        "hot.demote.before_entry", "hot.demote.after_entry", "hot.refreshed", "hot.before_generation",
        "hot.after_generation", "hot.claim.before_mark", "hot.claim.after_mark",
    },
    "captures": {"capture.logged", "capture.unprotected", "suspend.after_stash"},
    "rollbacks": {"undo.apply", "rollback.after_undo", "rollback.after_tail", "tracker.reverted"},
    "suspensions": {"suspend.after_stash", "resume.before_write"},
    "claims": {
        "claim.before_memory", "claim.before_mark", "claim.after_mark", "undo.grow.before_mark", "undo.grow.after_mark",
    },
    "recovery": {
        "recover.checked", "recover.undone", "recover.before_tail", "recover.before_phase", "recover.after_phase",
        "hot.recovered", "undo.apply", "heap.return_dead.after_owner",
    },
    "survivor": {"lock.before_seize", "lock.seized", "lock.mended", "recover.undone"},
}  # fmt: skip


@pytest.mark.parametrize("label", NAMED)
def test_the_points_that_matter_were_reached(label: str) -> None:
    """The loops above killed at these points by name; a point that moves or vanishes shows here."""
    if label not in reached:
        pytest.skip("its loop did not run in this session")
    missing = NAMED[label] - reached[label]
    assert not missing, f"{label} did not reach {sorted(missing)}; it reached {sorted(reached[label])}"
