"""Is the past what was: each state, what each commit has changed, and who wrote what last?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import pickle
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Dict, StaleReferenceError, _shm
from recoverable._keys import spelled
from recoverable._native import feed as native_feed
from recoverable.history import History
from recoverable.journal import attach
from recoverable.journal.folder import Folder
from recoverable.journal.order import END
from support.children import child
from support.doing import Doing, Undone, prepare
from support.shadows import Difference, Shadow, at, containers, flat_diff, shadow_of

STEPS = int(os.environ.get("RECOVERABLE_HISTORY_STEPS", "30"))
# Keys that nothing equals, that Python does not write, and that are no positions of a List.
KEYS = [math.nan, -math.nan, Decimal("NaN"), (math.nan, "a"), 10**4400, (-(10**4400),), -1, 1]


def begin(arena: Arena) -> None:
    """Fill an arena with what Work changes, in one commit."""
    with arena.transaction():
        prepare(arena)
        arena.root["odd"] = {}


class Work(Doing):
    """Random changes, some of them by such keys, where a Dict becomes a List, and a Dict again."""

    def do_odd(self) -> None:
        odd: Any = self.arena.root["odd"]
        value = self.rng.choice([0, 1, {"n": 0}])
        if self.rng.random() < 0.1:
            self.arena.root["odd"] = self.rng.choice([[0, value], dict.fromkeys(self.rng.sample(KEYS, 4), value)])
        elif not isinstance(odd, Dict):
            odd[self.rng.randrange(2)] = value
        else:
            key = self.rng.choice(KEYS)
            if isinstance(odd.get(key), Dict) and self.rng.random() < 0.5:
                odd[key]["n"] += 1
            elif self.rng.random() < 0.7:
                odd[key] = value
            else:
                odd.pop(key, None)

    def one(self) -> None:
        """Change something."""
        self.do_odd() if self.rng.random() < 0.2 else super().one()


@pytest.fixture(params=["hybrid", "trap"])
def arena(request: pytest.FixtureRequest, new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal that is kept."""
    options = {"tracking": request.param, "feed": "64 MiB", "journal": tmp_path / "journal", "compact": False}
    with Arena.temporary("64 MiB", name=new_name(), **options) as made:
        begin(made)
        yield made


def seq_of(arena: Arena) -> int:
    """Return the number of the last commit."""
    state = native_feed.state(arena.native)
    assert state is not None
    return state[5]


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def told(differences: Any) -> list[Difference]:
    """Return differences comparably."""
    return sorted((each.path.text, spelled(each.before), spelled(each.after)) for each in differences)


class Past:
    """What plain Python remembers of each commit: the state behind it, and the one before it, where that is known.

    Attributes:
        shadows: The states that are known, by the number of the last commit.
        single: The numbers before and after a commit both states around which are known.
    """

    def __init__(self, arena: Arena) -> None:
        self.shadows = {seq_of(arena): shadow_of(arena.root)}
        self.single: list[tuple[int, int]] = []

    def took(self, arena: Arena, before: int, *, one: bool) -> None:
        """Remember the state after a commit; `one`: there was one at most since the last state."""
        seq = seq_of(arena)
        if one and seq != before:
            self.single.append((before, seq))
        self.shadows[seq] = shadow_of(arena.root)

    def back_to(self, seq: int) -> None:
        """Forget what came after a commit."""
        self.shadows = {each: state for each, state in self.shadows.items() if each <= seq}
        self.single = [each for each in self.single if each[1] <= seq]

    def check(self, history: History, rng: random.Random) -> None:
        """Compare what the history says with what is remembered."""
        for seq, expected in self.shadows.items():
            assert list(flat_diff(shadow_of(history.at(seq)), expected)) == [], f"commit {seq}"
        for before, after in self.single:
            expected = sorted(flat_diff(self.shadows[before], self.shadows[after]))
            assert told(history.changed_by(after).differences) == expected, f"commit {after}"
        for _ in range(5):
            a, b = rng.choices(list(self.shadows), k=2)
            assert told(history.diff(a, b)) == sorted(flat_diff(self.shadows[a], self.shadows[b])), (a, b)
        for keys, text in self._paths(rng).items():
            self._check_path(history, keys, text)
        if len(self.single) == len(self.shadows) - 1:  # else there are states of which nothing is known
            for _ in range(2):
                self._check_bisect(history, rng)

    def _paths(self, rng: random.Random) -> dict[tuple[Any, ...], str]:
        """Return paths of all levels, some of which are gone, or were never there: as text, by their keys."""
        found: dict[tuple[Any, ...], str] = {}
        for seq in rng.choices(list(self.shadows), k=3):
            there = list(containers(self.shadows[seq]))
            found |= dict(rng.sample([each for each in there if len(each[0]) == 1], 2))
            found |= dict(rng.sample([each for each in there if each[0][:1] in {("boxes",), ("row",), ("line",)}], 3))
            odd = [each for each in there if each[0][:1] == ("odd",)]
            found |= dict(rng.sample(there, 1) + rng.sample(odd, min(len(odd), 3)))
        return found | {("no", "such"): "root['no']['such']", (): "root"}

    def _check_path(self, history: History, keys: tuple[Any, ...], text: str) -> None:
        """Compare who has changed what at a path, and who was the last."""
        changes = {change.commit.seq: change.differences for change in history.changes(text)}
        for before, after in self.single:
            expected = sorted(flat_diff(*(at(self.shadows[seq], keys) for seq in (before, after)), text))
            assert told(changes.get(after, ())) == expected, (text, after)
        last = history.last_writer(text)
        assert (None if last is None else last.seq) == max(changes, default=None), text
        for before, after in itertools.pairwise(sorted(self.shadows)):  # where several commits are between two states
            if list(flat_diff(*(at(self.shadows[seq], keys) for seq in (before, after)))):
                assert any(before < seq <= after for seq in changes), (text, before, after)

    def _check_bisect(self, history: History, rng: random.Random) -> None:
        """Have it find where the states that are remembered come to an end."""
        seqs = sorted(self.shadows)
        states = [repr(self.shadows[seq]) for seq in seqs]
        last = rng.randrange(len(seqs) - 1)
        good = set(states[: last + 1])
        first_bad = next((i for i, state in enumerate(states) if state not in good), None)
        if first_bad is None or any(state in good for state in states[first_bad:]):
            return  # a state has come again
        found = history.bisect(lambda root: repr(shadow_of(root)) in good, good=seqs[0], bad=seqs[-1])
        assert found.commit.seq == seqs[first_bad]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_state_is_what_was(arena: Arena, seed: int, tmp_path: Path) -> None:
    """Over random work, the state after each commit is the shadow's, and what it changed is what is different."""
    doing, past = Work(arena, random.Random(seed), large=False), Past(arena)
    kept = arena.root["a"].view  # a buffer lives: raw writes are possible all the time
    for _ in range(STEPS):
        before, one = seq_of(arena), doing.rng.random() < 0.8
        doing.block() if one else doing.step()
        past.took(arena, before, one=one)
    del kept
    flush(arena)
    with History.open(tmp_path / "journal") as history:
        past.check(history, doing.rng)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_going_back_what_counts_is_what_was(name: str, seed: int, tmp_path: Path) -> None:
    """Numbers come again after a restore to an earlier commit: each is of the line that the arena went on with."""
    rng = random.Random(seed)
    folder = tmp_path / "journal"
    past: Past | None = None
    for back in range(3):
        with Arena.open(name, "64 MiB", feed="64 MiB", journal=folder, compact=False) as arena:
            if past is None:
                begin(arena)
                past = Past(arena)
            doing = Work(arena, rng, large=False)
            for _ in range(STEPS):
                before = seq_of(arena)
                doing.block()
                past.took(arena, before, one=True)
                if rng.random() < 0.2:
                    flush(arena)
            flush(arena)
        Arena.unlink(name)
        if back < 2:
            kept = rng.choice([before for before, _ in past.single])
            with _shm.locked(name, create=True, timeout=5):
                attach.restore(name, Folder(folder), seq=kept, at=END)
            past.back_to(kept)
    assert past is not None
    with History.open(folder) as history:
        assert [each.seq for each in history.commits()] == sorted(
            {min(past.shadows), *(each for _, each in past.single)}, reverse=True
        )
        past.check(history, rng)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commits_of_several_processes_are_in_one_history(arena: Arena, seed: int, tmp_path: Path) -> None:
    """What two processes commit at the same time is one line of states: each is what its transaction left, and follows another."""
    past = Past(arena)

    def work(number: int) -> None:
        doing = Work(arena, random.Random(seed + number), large=False)
        with Path(tmp_path, f"notes-{number}").open("wb") as notes:
            for i in range(STEPS):
                with contextlib.suppress(Undone, StaleReferenceError), arena.transaction():
                    for _ in range(doing.rng.randrange(1, 5)):
                        doing.one()
                    arena.root["who"] = (number, i)
                    pickle.dump((number, i, shadow_of(arena.root)), notes)
                    if doing.rng.random() < 0.2:
                        raise Undone

    with child(lambda: work(1)):
        work(0)
    flush(arena)
    noted: dict[tuple[int, int], Shadow] = {}
    for number in 0, 1:
        with Path(tmp_path, f"notes-{number}").open("rb") as notes, contextlib.suppress(EOFError):
            while True:
                who, i, shadow = pickle.load(notes)
                noted[who, i] = shadow
    with History.open(tmp_path / "journal") as history:
        seqs = [commit.seq for commit in history.commits()][::-1]
        assert seqs == sorted(set(seqs))
        order = [history.at(seq).get("who") for seq in seqs if seq > min(past.shadows)]
        for number in 0, 1:
            its = [each for each in order if each[0] == number]
            assert its == sorted(set(its))
            assert len(its) > STEPS // 2
        before = min(past.shadows)
        for seq, who in zip(seqs[-len(order) :], order, strict=True):
            past.shadows[seq] = noted[who]
            past.single.append((before, seq))
            before = seq
        past.check(history, random.Random(seed))
        assert list(flat_diff(past.shadows[before], shadow_of(arena.root))) == []
