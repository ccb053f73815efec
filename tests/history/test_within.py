"""What lies at a place, while containers come and go there: no change is missed, wherever Arrays, Dicts and Lists are put."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Array, Deque, Dict, List
from recoverable._native.runtime import Container
from recoverable.history import History
from recoverable.history import trail as trails
from recoverable.history.differences import Difference

STEPS = int(os.environ.get("RECOVERABLE_HISTORY_STEPS", "30"))


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("64 MiB", name=new_name(), feed="16 MiB", journal=tmp_path / "journal", compact=False) as made:
        yield made


class Tree:
    """Containers in containers, Arrays among them, which are made, replaced, moved, dropped and written to."""

    def __init__(self, arena: Arena, rng: random.Random) -> None:
        self.arena = arena
        self.rng = rng
        with arena.transaction():
            for name in "abc":
                arena.root[name] = self.made(2)

    def made(self, depth: int) -> Any:
        """Give something new."""
        kind = self.rng.choice(["array", "dict", "list", "deque", "plain"] if depth else ["array", "plain"])
        if kind == "array":
            return Array((self.rng.choice([1, 3, 2000]),), "i8")
        if kind == "plain":
            return self.rng.randrange(100)
        parts = [self.made(depth - 1) for _ in range(self.rng.randrange(4))]
        return (
            {f"k{i}": part for i, part in enumerate(parts)}
            if kind == "dict"
            else (parts if kind == "list" else Deque(parts))
        )

    def containers(self) -> list[Any]:
        """Give all that there are."""
        found, todo = [], [self.arena.root]
        while todo:
            each = todo.pop()
            found.append(each)
            if not isinstance(each, Array):
                todo += [part for part in each._parts().values() if isinstance(part, Container)]
        return found

    def work(self) -> None:
        """Do one thing to one of them."""
        rng, chosen = self.rng, self.rng.choice(self.containers())
        if isinstance(chosen, Array):
            at = rng.randrange(len(chosen))
            if rng.random() < 0.7:
                chosen[at] = rng.randrange(100)
            else:
                chosen[at : at + rng.randrange(500)] = rng.randrange(100)
        elif isinstance(chosen, Dict):
            key = rng.choice("abc") if chosen == self.arena.root else f"k{rng.randrange(4)}"
            if rng.random() < 0.2 and key in chosen:
                del chosen[key]
            else:
                chosen[key] = self.made(2)
        elif isinstance(chosen, List):
            where = rng.randrange(len(chosen) + 1)
            match rng.randrange(5):
                case 0:
                    chosen.insert(where, self.made(1))
                case 1:
                    chosen.append(self.made(1))
                case 2:
                    chosen.reverse()
                case 3 if where < len(chosen):
                    chosen[where] = self.made(1)
                case 4 if where < len(chosen):
                    del chosen[where]
        else:
            match rng.randrange(4):
                case 0:
                    chosen.append(self.made(1))
                case 1 if chosen:
                    chosen.popleft()
                case 2:
                    chosen.rotate(1)
                case 3 if chosen:
                    chosen[rng.randrange(len(chosen))] = self.made(1)


def told(differences: Any) -> list[tuple[str, str, str]]:
    """Return differences comparably."""
    return sorted((each.path.text, repr(each.before), repr(each.after)) for each in differences)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moved", [64, 2])
def test_no_change_is_missed(
    arena: Arena, seed: int, tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tree of all kinds of containers, the changes at each path are what is different there between the states."""
    monkeypatch.setattr(trails, "_MOVED", moved)
    rng = random.Random(seed)
    tree = Tree(arena, rng)

    async def one() -> None:
        for _ in range(rng.randrange(1, 4)):
            tree.work()

    async def other() -> None:
        await one()

    async def work() -> None:
        for _ in range(STEPS):
            await arena.run(rng.choice([one, other]))
        await arena.durable(timeout=30)

    asyncio.run(work())
    with History.open(tmp_path / "journal") as history:
        commits = list(history.commits())[::-1]
        handler_of_some = commits[-1].handler
        paths = {"root", "root['a']", "root['b']['k1']", "root['c']['k0'][0]", "root['a'][1]", "root['b'][0]['k0']"}
        everything: dict[int, list[Difference]] = {}
        for before, after in itertools.pairwise(commits):
            everything[after.seq] = history.diff(before.seq, after.seq)
            paths |= {str(each.path) for each in rng.sample(everything[after.seq], min(len(everything[after.seq]), 1))}
        for path in sorted(paths):
            for handler in None, handler_of_some:
                found = {change.commit.seq: change.differences for change in history.changes(path, handler=handler)}
                for before, after in itertools.pairwise(commits):
                    wanted = [] if handler not in (None, after.handler) else history.diff(before.seq, after.seq, path)
                    assert told(found.get(after.seq, ())) == told(wanted), (path, handler, after.seq)
