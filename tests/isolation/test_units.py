"""Which pairs of operations on one container conflict, and which must not.

Two requests each run one operation and wait; then the first commits, then the second. Where they conflict, exactly the
second is told; where they do not, both effects are there, as if one had run after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recoverable import Arena, ConflictError, Counter, Deque, Record
from support.workers import Request, pause


class Row(Record, name="units.Row"):
    a: int = 0
    b: int = 0


def fill(root: Any) -> None:
    root["d"] = {"a": 1, "b": 2, "c": {"n": 1}, "e": {}}
    root["l"] = list(range(100))
    root["s"] = {1, 2, 3}
    root["q"] = Deque(range(200))
    root["one"] = Deque([1])
    root["empty"] = Deque()
    root["bounded"] = Deque([1, 2], 3)
    root["r"] = Row()
    root["n"] = Counter()
    root["names"] = {"hits": Counter(), "row": Row()}


Operation = Callable[[Any], Any]


def plus(root: Any) -> None:
    root["names"]["hits"] += 1


def plus_row(root: Any) -> None:
    root["names"]["row"].a += 1


# name of the operation -> what it does to the root
OPERATIONS: dict[str, Operation] = {
    # Dict
    "d.set a": lambda root: root["d"].__setitem__("a", 10),
    "d.set b": lambda root: root["d"].__setitem__("b", 20),
    "d.get a": lambda root: root["d"]["a"],
    "d.get b": lambda root: root["d"]["b"],
    "d.del b": lambda root: root["d"].__delitem__("b"),
    "d.insert x": lambda root: root["d"].__setitem__("x", 1),
    "d.insert y": lambda root: root["d"].__setitem__("y", 1),
    "d.has x": lambda root: "x" in root["d"],
    "d.has y": lambda root: "y" in root["d"],
    "d.len": lambda root: len(root["d"]),
    "d.keys": lambda root: list(root["d"]),
    "d.values": lambda root: root["d"].to_python(),
    "d.c.set n": lambda root: root["d"]["c"].__setitem__("n", 5),
    "d.c.get n": lambda root: root["d"]["c"]["n"],
    "d.del c": lambda root: root["d"].__delitem__("c"),
    "d.e.insert": lambda root: root["d"]["e"].__setitem__("z", 1),
    "d.clear": lambda root: root["d"].clear(),
    # List
    "l.set 0": lambda root: root["l"].__setitem__(0, "x"),
    "l.set 1": lambda root: root["l"].__setitem__(1, "x"),
    "l.set 50": lambda root: root["l"].__setitem__(50, "y"),
    "l.get 0": lambda root: root["l"][0],
    "l.get 50": lambda root: root["l"][50],
    "l.get -1": lambda root: root["l"][-1],
    "l.append": lambda root: root["l"].append("new"),
    "l.pop": lambda root: root["l"].pop(),
    "l.insert 0": lambda root: root["l"].insert(0, "first"),
    "l.len": lambda root: len(root["l"]),
    "l.scan": lambda root: list(root["l"]),
    "l.to_python": lambda root: root["l"].to_python(),
    "l.sort": lambda root: root["l"].sort(key=str),
    # Set
    "s.add 4": lambda root: root["s"].add(4),
    "s.add 5": lambda root: root["s"].add(5),
    "s.has 4": lambda root: 4 in root["s"],
    "s.discard 1": lambda root: root["s"].discard(1),
    "s.has 1": lambda root: 1 in root["s"],
    "s.add 1 again": lambda root: root["s"].add(1),
    "s.scan": lambda root: set(root["s"]),
    "s.len": lambda root: len(root["s"]),
    # Deque
    "q.append": lambda root: root["q"].append("new"),
    "q.appendleft": lambda root: root["q"].appendleft("new"),
    "q.pop": lambda root: root["q"].pop(),
    "q.popleft": lambda root: root["q"].popleft(),
    "q.popleft 70": lambda root: [root["q"].popleft() for _ in range(70)],
    "q.append 70": lambda root: root["q"].extend(range(70)),
    "q.len": lambda root: len(root["q"]),
    "q.last": lambda root: root["q"][-1],
    "one.append": lambda root: root["one"].append(2),
    "one.pop": lambda root: root["one"].pop(),
    "one.popleft": lambda root: root["one"].popleft(),
    "empty.append": lambda root: root["empty"].append(1),
    "empty.popleft": lambda root: root["empty"].popleft() if root["empty"] else None,
    "empty.try popleft": lambda root: try_popleft(root["empty"]),
    "bounded.append": lambda root: root["bounded"].append(9),
    "bounded.popleft": lambda root: root["bounded"].popleft(),
    # Record
    "r.set a": lambda root: setattr(root["r"], "a", 1),
    "r.set b": lambda root: setattr(root["r"], "b", 2),
    "r.get a": lambda root: root["r"].a,
    "r.get b": lambda root: root["r"].b,
    "r.a += 1": lambda root: setattr(root["r"], "a", root["r"].a + 1),
    # Counter
    "n.add": lambda root: root["n"].add(1),
    "n.value": lambda root: root["n"].value,
    "names.hits += 1": plus,
    "names.row.a += 1": plus_row,
    # the whole
    "replace d": lambda root: root.__setitem__("d", {"new": 1}),
    "replace l": lambda root: root.__setitem__("l", [1]),
}


def try_popleft(queue: Any) -> Any:
    try:
        return queue.popleft()
    except IndexError:
        return None


# first to commit, second, does the second conflict
YES, NO = True, False
PAIRS: list[tuple[str, str, bool]] = [
    ("d.set a", "d.set b", NO),
    ("d.set a", "d.get b", NO),
    ("d.insert x", "d.insert y", NO),
    ("d.insert x", "d.del b", NO),
    ("d.set a", "d.set a", YES),
    ("d.set a", "d.get a", YES),
    ("d.get a", "d.set a", NO),
    ("d.insert x", "d.has x", YES),
    ("d.insert x", "d.has y", NO),
    ("d.insert x", "d.len", YES),
    ("d.del b", "d.len", YES),
    ("d.set a", "d.len", NO),
    ("d.insert x", "d.keys", YES),
    ("d.set a", "d.keys", NO),
    ("d.set a", "d.values", YES),
    ("d.insert x", "d.values", YES),
    ("d.c.set n", "d.set a", NO),
    ("d.c.set n", "d.e.insert", NO),
    ("d.c.set n", "d.c.get n", YES),
    ("d.c.set n", "d.len", NO),
    ("d.del c", "d.c.get n", YES),
    ("d.del c", "d.set a", NO),
    ("d.clear", "d.set a", YES),
    ("d.clear", "d.insert x", NO),
    ("d.insert x", "d.clear", YES),
    ("replace d", "d.get a", YES),
    ("replace d", "d.c.set n", YES),
    ("replace d", "d.insert x", YES),
    ("replace d", "l.set 0", NO),
    ("l.set 0", "l.set 50", NO),
    ("l.set 0", "l.get 50", NO),
    ("l.set 0", "l.set 1", YES),  # one chunk
    ("l.set 0", "l.get 0", YES),
    ("l.append", "l.get 0", NO),
    ("l.append", "l.set 50", NO),
    ("l.set 50", "l.append", NO),
    ("l.append", "l.append", YES),
    ("l.append", "l.len", YES),
    ("l.append", "l.get -1", YES),
    ("l.append", "l.scan", YES),
    ("l.append", "l.to_python", YES),
    ("l.set 0", "l.len", NO),
    ("l.set 0", "l.to_python", YES),
    ("l.insert 0", "l.get 50", YES),
    ("l.insert 0", "l.set 50", YES),
    ("l.insert 0", "l.len", YES),
    ("l.set 50", "l.insert 0", YES),  # it moves what was set
    ("l.pop", "l.get 0", NO),
    ("l.pop", "l.append", YES),
    ("l.pop", "l.get -1", YES),
    ("l.sort", "l.get 0", YES),
    ("l.set 0", "l.sort", YES),
    ("l.append", "l.sort", YES),
    ("replace l", "l.append", YES),
    ("s.add 4", "s.add 5", NO),
    ("s.add 4", "s.has 1", NO),
    ("s.add 4", "s.has 4", YES),
    ("s.add 4", "s.add 4", YES),
    ("s.discard 1", "s.add 4", NO),
    ("s.discard 1", "s.has 1", YES),
    ("s.discard 1", "s.add 1 again", YES),
    ("s.add 1 again", "s.add 1 again", NO),  # it changes nothing
    ("s.add 4", "s.scan", YES),
    ("s.add 4", "s.len", YES),
    ("q.append", "q.popleft", NO),
    ("q.popleft", "q.append", NO),
    ("q.append", "q.appendleft", NO),
    ("q.pop", "q.popleft", NO),
    ("q.pop", "q.appendleft", NO),
    ("q.popleft 70", "q.append 70", NO),
    ("q.append 70", "q.popleft 70", NO),
    ("q.append", "q.append", YES),
    ("q.popleft", "q.popleft", YES),
    ("q.append", "q.pop", YES),
    ("q.append", "q.len", YES),
    ("q.appendleft", "q.len", YES),
    ("q.append", "q.last", YES),
    ("one.popleft", "one.append", NO),
    ("one.append", "one.popleft", NO),
    ("one.pop", "one.popleft", YES),
    ("one.popleft", "one.pop", YES),
    ("empty.append", "empty.try popleft", YES),
    ("empty.try popleft", "empty.append", NO),
    ("bounded.append", "bounded.popleft", NO),
    ("bounded.popleft", "bounded.append", YES),  # what grows looks at both ends
    ("r.set a", "r.set b", NO),
    ("r.set a", "r.get b", NO),
    ("r.set a", "r.get a", YES),
    ("r.set a", "r.set a", YES),
    ("r.a += 1", "r.a += 1", YES),
    ("n.add", "n.add", NO),
    ("n.add", "n.value", YES),
    ("n.value", "n.add", NO),
    ("names.hits += 1", "names.hits += 1", NO),
    ("names.hits += 1", "names.row.a += 1", NO),
    ("names.row.a += 1", "names.row.a += 1", YES),
]


@pytest.mark.parametrize(("first", "second", "conflict"), PAIRS, ids=lambda value: str(value))
def test_pair_conflicts_exactly_where_it_must(arena: Arena, first: str, second: str, conflict: bool) -> None:
    """The second to commit is told of a conflict if it has read what the first has changed, and only then."""
    with arena.transaction():
        fill(arena.root)

    async def run(name: str) -> Any:
        answer = OPERATIONS[name](arena.root)
        await pause()
        arena.root.get("unused")  # come back to the arena, as a reader does too before it answers
        return answer

    one, two = Request(arena, run, first), Request(arena, run, second)
    one.step()
    two.step()
    one.finish()
    if conflict:
        with pytest.raises(ConflictError):
            two.finish()
    else:
        two.finish()
    found = arena.root.to_python()
    assert arena.verify().leaked_blocks == 0

    with arena.transaction():  # the same one after the other
        arena.root.clear()
        fill(arena.root)
    for name in [first] if conflict else [first, second]:
        with arena.transaction():
            OPERATIONS[name](arena.root)
    assert found == arena.root.to_python()


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_operation_leaves_no_trace_when_it_waits_and_rolls_back(arena: Arena, operation: str) -> None:
    """While a request waits nothing of its operation shows, and nothing is left when it fails."""
    with arena.transaction():
        fill(arena.root)
    before = arena.root.to_python()

    async def run() -> None:
        OPERATIONS[operation](arena.root)
        await pause()
        arena.root.get("unused")
        await pause()

    request = Request(arena, run)
    request.step()
    assert arena.root.to_python() == before
    request.step()
    assert arena.root.to_python() == before
    request.close()
    assert arena.root.to_python() == before
    assert arena.verify().leaked_blocks == 0
