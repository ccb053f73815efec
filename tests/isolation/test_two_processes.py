"""Two processes that run at the same time on one arena, and are killed at any moment: serialisable all the same.

Nobody steers these: each keeps a few requests in flight and takes their steps as fast as it gets the lock. What a request
ran is written to a file as it runs it, which survives the process. In which order the requests committed the arena itself
tells: each inserts its name into one Dict, which no two do in conflict, and a Dict keeps the order of the commits.
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ConflictError
from support.operations import APART, Dice, Operation, Undone, copy, fill, look, model, run
from support.workers import Request, pause

ROUNDS = int(os.environ.get("RECOVERABLE_RACES", "6"))
TURNS, IN_FLIGHT, DEATHS = 120, 4, 3
JOURNAL = "journal"
pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(60 + 20 * ROUNDS)]


class Worker:
    """What one process does, in a forked child.

    Args:
        arena: The arena, opened there.
        name: Of this life of the process.
        seed: Of its randomness.
        file: Where it writes what happens.
        ticks: A pipe into which goes a byte for each end of a request.
    """

    def __init__(self, arena: Arena, name: str, seed: int, file: int, ticks: int) -> None:
        self.arena, self.name, self.file, self.ticks = arena, name, file, ticks
        self.rng = random.Random(seed)
        self.dice = Dice(self.rng)
        self.dice.value = seed % 100 * 10**6 * APART  # of this life in this place: nobody else writes these
        self.numbers = itertools.count()
        self.names: dict[Request, str] = {}

    def note(self, what: str, t: str, *more: Any) -> None:
        """Write a line that a kill can't take back."""
        record = pickle.dumps((what, t, time.monotonic_ns(), *more))
        os.write(self.file, len(record).to_bytes(4, "little") + record)

    async def body(self) -> None:
        """Run some operations with pauses between; then, mostly, put the name into the journal."""
        t = f"{self.name}.{next(self.numbers)}"
        self.note("begin", t)
        await pause(t)
        for _ in range(self.rng.randrange(1, 4)):
            for operation in self.dice.operations(3):
                self.note("op", t, operation, run(operation, self.arena.root, self.arena))
            await pause(t)
        if self.rng.random() < 0.1:
            raise Undone
        self.arena.root[JOURNAL][t] = True
        self.note("returns", t)

    def work(self, turns: int) -> None:
        """Keep requests in flight for so many turns."""
        flying: list[Request] = []
        for _ in range(turns):
            while len(flying) < IN_FLIGHT:
                flying.append(Request(self.arena, self.body, max_conflicts=self.rng.choice((0, 1, 3))))
            request = self.rng.choice(flying)
            for _ in range(self.rng.randrange(1, 4)):
                if not request.done:
                    self.step(request)
            if request.done:
                flying.remove(request)
                os.write(self.ticks, b".")
        for request in flying:
            request.close()

    def step(self, request: Request) -> None:
        """Take one. It may end, and it may have lost: then what it pauses with is the name of its next run."""
        committed = False
        try:
            t = request.step()
            if isinstance(t, str):  # or it waits for a privileged one
                self.names[request] = t
            committed = request.done
        except (ConflictError, Undone):
            pass
        if request.done:
            self.note("ended", self.names[request], committed)


def start(arena: Arena, name: str, seed: int, folder: Path, turns: int) -> tuple[int, int]:
    """Fork a worker; give its process id and the end of its pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            file = os.open(folder / name, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            with Arena.open(arena.name, create=False) as own:
                Worker(own, name, seed, file, writer).work(turns)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    return pid, reader


def race(arena: Arena, seed: int, folder: Path) -> int:
    """Let two workers run; kill one of them now and then, and start another in its place. Gives the kills that hit."""
    rng = random.Random(seed)
    victims = [rng.randrange(2) for _ in range(DEATHS)]
    hits = 0

    def begin(place: int, life: int) -> tuple[int, int]:
        doomed = place in victims[life:]  # it must not have ended when the kill comes
        return start(arena, f"{place}-{life}", seed * 100 + 10 * life + place, folder, 50 * TURNS if doomed else TURNS)

    places = [begin(0, 0), begin(1, 0)]
    try:
        for life, place in enumerate(victims, 1):
            pid, reader = places[place]
            for _ in range(rng.randrange(3, 40)):  # not a clock: after so many ends of its requests
                if not os.read(reader, 1):
                    break
            os.kill(pid, signal.SIGKILL)
            os.close(reader)
            hits += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            places[place] = 0, 0
            places[place] = begin(place, life)
        for place, (pid, reader) in enumerate(places):
            while os.read(reader, 4096):
                pass
            os.close(reader)
            places[place] = 0, 0
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        for pid, _ in places:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return hits


def records(folder: Path) -> Iterator[tuple[Any, ...]]:
    """Read what the workers wrote; the last record of a killed one may be cut off."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        at = 0
        while at + 4 <= len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            if at + 4 + size > len(data):
                break
            yield pickle.loads(data[at + 4 : at + 4 + size])
            at += 4 + size


@dataclass
class Life:
    """What is known of one run.

    Attributes:
        began: When; nanoseconds of the machine's clock, which is one for both processes.
        last: When it last told of anything before its end.
        returned: When it had done all it wanted, if it came to that.
        ended: When its end was known; until then it may still commit.
        committed: What its process knows of it.
        log: What it ran, with the answers.
    """

    began: int
    last: int
    returned: float = math.inf
    ended: float = math.inf
    committed: bool | None = None
    log: list[tuple[Operation, Any]] = field(default_factory=list)


def lives(folder: Path) -> dict[str, Life]:
    """Put the runs together."""
    found: dict[str, Life] = {}
    for what, t, when, *more in records(folder):
        if what == "begin":
            found[t] = Life(when, when)
            continue
        one = found[t]
        if what == "op":
            one.log.append((more[0], more[1]))
            one.last = when
        elif what == "returns":
            one.returned = when
        else:
            one.ended, one.committed = when, more[0]
    return found


def explain(order: list[str], runs: dict[str, Life], content: Any) -> None:
    """Replay the committed runs in the order of the journal, and place the others between them."""
    state = model()
    states = [copy(state)]
    for t in order:
        for operation, answer in runs[t].log:
            expected = run(operation, state)
            assert expected == answer, f"{t}: {operation} gave {answer!r}, not {expected!r}"
        states.append(copy(state))
    assert look(state) == content
    earliest = math.inf
    for t in reversed(order):
        assert runs[t].began < earliest, f"{t} began after one had ended that is behind it in the order"
        earliest = min(earliest, runs[t].ended)
    for t, one in runs.items():
        assert (t in order) == one.committed or one.committed is None, f"{t} is not what its process was told"
        assert t not in order or one.returned < math.inf, f"{t} is committed before it had done what it wanted"
        if t not in order and one.log:
            first = max((i + 1 for i, other in enumerate(order) if runs[other].ended < one.began), default=0)
            last = next((i for i, other in enumerate(order) if runs[other].returned > one.last), len(order))
            assert any(saw(one, before) for before in states[first : last + 1]), f"{t} saw what never was: {one.log}"


def saw(one: Life, state: Any) -> bool:
    """Tell whether a run's answers are those of this state."""
    state = copy(state)
    return all(run(operation, state) == answer for operation, answer in one.log)


def test_two_processes_race_and_die(name: str, seed: int, tmp_path: Path, log: list[Any]) -> None:
    """Every run, committed or not, saw one state; every answer stands; the order of commits explains what is there."""
    counts: Counter[str] = Counter()
    with Arena.temporary("16 MiB", name=name) as arena:
        for number in range(ROUNDS):
            fill(arena)
            with arena.transaction():
                arena.root[JOURNAL] = {}
            folder = tmp_path / str(number)
            folder.mkdir()
            print(f"round {number}, seed {seed + number}")
            counts["kills"] += race(arena, seed + number, folder)
            report = arena.verify()
            assert report.leaked_blocks == 0, report
            order = list(arena.root[JOURNAL])
            runs = lives(folder)
            explain(order, runs, look(arena.root))
            counts["committed"] += len(order)
            counts["runs"] += len(runs)
            counts["unknown"] += sum(one.committed is None for one in runs.values())
            if number == 0:
                falsified(order, runs, look(arena.root))
        print(dict(counts), "deaths within a step:", arena.stats().recoveries)
    assert counts["committed"] > 50 * ROUNDS
    assert counts["kills"] == DEATHS * ROUNDS


def falsified(order: list[str], runs: dict[str, Life], content: Any) -> None:
    """A history in which two commits are exchanged, or one answer is another, is refused."""
    writers = [i for i, t in enumerate(order) if any(operation[0] == "q.append" for operation, _ in runs[t].log)]
    swapped = list(order)
    swapped[writers[0]], swapped[writers[-1]] = swapped[writers[-1]], swapped[writers[0]]
    with pytest.raises(AssertionError):
        explain(swapped, runs, content)
    reader = next(one for one in runs.values() if one.log and not one.committed)
    operation, answer = reader.log[0]
    reader.log[0] = (operation, "something else")
    with pytest.raises(AssertionError):
        explain(order, runs, content)
    reader.log[0] = (operation, answer)
