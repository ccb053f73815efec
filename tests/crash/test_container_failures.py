"""Every operation of every container with every allocation in it failing once, and every crash while a tree is reclaimed."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import pytest

from recoverable import Arena, ArenaFullError, Array, Counter, Deque, List, Record, Set
from recoverable._native import _switches
from support.forks import in_child
from support.workers import Request, pause

pytestmark = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")

LONG = "long " * 30


class Old(Record, name="failures.Row"):
    a: int = 0


class Row(Record, name="failures.Row"):
    a: int = 0
    text: str = ""
    items: List[Any] = List()


def fill(root: Any) -> None:
    root["d"] = dict.fromkeys(range(8), LONG)
    root["l"] = [*range(32)]  # a full chunk
    root["s"] = set(range(8))
    root["q"] = Deque(range(62))  # a full block
    root["bounded"] = Deque([LONG, {}], 2)
    root["r"] = Row(items=[1])
    root["n"] = Counter(5)
    root["old"] = [Old(a=3), {"x": {}}]


TREE = {"list": [1, LONG, {"k": LONG}], "set": {1, 2}, "deque": [LONG] * 3, "n": 10**40}

OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "d.insert": lambda root: root["d"].__setitem__("new", LONG),
    "d.insert tree": lambda root: root["d"].__setitem__("new", TREE),
    "d.replace": lambda root: root["d"].__setitem__(3, TREE),
    "d.del": lambda root: root["d"].__delitem__(3),
    "d.clear": lambda root: root["d"].clear(),
    "d.pop": lambda root: root["d"].pop(2),
    "d.setdefault": lambda root: root["d"].setdefault("new", {"a": LONG}),
    "l.append": lambda root: root["l"].append(LONG),
    "l.append tree": lambda root: root["l"].append(TREE),
    "l.insert": lambda root: root["l"].insert(3, [LONG]),
    "l.extend": lambda root: root["l"].extend([LONG] * 40),
    "l.slice": lambda root: root["l"].__setitem__(slice(3, 9), [LONG, TREE] * 4),
    "l.extended slice": lambda root: root["l"].__setitem__(slice(0, 4, 2), [LONG, TREE]),
    "l.del": lambda root: root["l"].__delitem__(slice(None, None, 3)),
    "l.pop": lambda root: root["l"].pop(5),
    "l.sort": lambda root: root["l"].sort(key=str, reverse=True),
    "l.reverse": lambda root: root["l"].reverse(),
    "l.set": lambda root: root["l"].__setitem__(5, TREE),
    "l *= 3": lambda root: root["l"].__imul__(3),
    "s.add": lambda root: root["s"].add(LONG),
    "s.update": lambda root: root["s"].update(range(30), [LONG]),
    "s.discard": lambda root: root["s"].discard(3),
    "s.^=": lambda root: root["s"].symmetric_difference_update(range(4, 12)),
    "q.append": lambda root: root["q"].append(LONG),
    "q.appendleft": lambda root: root["q"].appendleft([LONG]),
    "q.extend": lambda root: root["q"].extend([LONG] * 70),
    "q.popleft": lambda root: root["q"].popleft(),
    "q.rotate": lambda root: root["q"].rotate(5),
    "q.insert": lambda root: root["q"].insert(5, TREE),
    "q.del": lambda root: root["q"].__delitem__(5),
    "q.reverse": lambda root: root["q"].reverse(),
    "q.clear": lambda root: root["q"].clear(),
    "bounded.append": lambda root: root["bounded"].append(TREE),
    "r.set": lambda root: setattr(root["r"], "text", LONG),
    "r.items": lambda root: setattr(root["r"], "items", [LONG, {}]),
    "n.add": lambda root: root["n"].add(7),
    "r.migrate": lambda root: setattr(root["old"][0], "items", [LONG]),
    "replace all": lambda root: root.__setitem__("l", {"r": Row(text=LONG), "s": Set([LONG]), "a": Array((3,), "f8")}),
}
KINDS = {"malloc": _switches.FAIL_MALLOC, "heap": _switches.FAIL_HEAP, "fallocate": _switches.FAIL_FALLOCATE}


def failing_at(arena: Arena, kind: int, nth: int, operation: Callable[[Any], Any]) -> tuple[bool, bool]:
    """One transaction with the nth call failing in the operation: (it failed so, there was an nth)."""
    root = arena.root
    with arena.transaction():
        root["before"] = nth  # there is something to keep
        state = root.to_python()
        _switches.fail_at(kind, nth)
        try:
            operation(root)
            failed = False
        except (ArenaFullError, MemoryError):
            failed = True
        finally:
            reached = _switches.fail_count(kind) >= nth
            _switches.fail_at(kind, 0)
        if failed:
            assert root.to_python() == state, "a failed operation has left something"
            root["after"] = nth  # and the transaction goes on
    if failed:
        assert root.to_python() == {**state, "after": nth}
    return failed, reached


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_failed_operation_leaves_the_container_as_it_was(kind: str) -> None:
    """With the nth allocation failing, n = 1, 2, 3, ..., each operation is undone and its transaction can commit."""
    failures = 0
    for name, operation in OPERATIONS.items():
        for nth in range(1, 400):
            with Arena.temporary("4 MiB") as arena:
                with arena.transaction():
                    fill(arena.root)
                try:
                    failed, reached = failing_at(arena, KINDS[kind], nth, operation)
                    assert arena.verify().leaked_blocks == 0
                except BaseException as error:
                    error.add_note(f"{kind} {nth} of {name}")
                    raise
            failures += failed
            if not reached:
                break
        else:
            pytest.fail(f"{name} never ends")
    print(f"{failures} failures of {kind}")
    assert failures > 2 or kind == "fallocate"  # it is claimed ahead of need


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["malloc", "heap"])
def test_failure_at_a_suspension_or_resumption_loses_only_its_own_transaction(kind: str) -> None:
    """With the nth allocation failing while a request waits and comes back, it commits all or nothing."""
    for nth in range(1, 200):
        with Arena.temporary("4 MiB") as arena:
            with arena.transaction():
                fill(arena.root)
            before = arena.root.to_python()

            async def run() -> None:
                for name in ("d.insert tree", "l.insert", "q.extend", "s.update", "n.add", "r.items", "d.del"):
                    OPERATIONS[name](arena.root)
                await pause()
                arena.root["more"] = TREE
                await pause()

            request = Request(arena, run)
            request.step()
            _switches.fail_at(KINDS[kind], nth)
            try:
                request.finish()
            except (ArenaFullError, MemoryError):
                assert arena.root.to_python() == before
            else:
                assert "more" in arena.root
            finally:
                reached = _switches.fail_count(KINDS[kind]) >= nth
                _switches.fail_at(KINDS[kind], 0)
            assert arena.verify().leaked_blocks == 0
        if not reached:
            return
    pytest.fail("it never ends")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["l.extend", "q.extend", "s.update", "l.sort", "l.slice", "q.reverse", "q.clear", "d.clear"]
)
def test_full_undo_log_undoes_the_operation(name: str) -> None:
    """Where the undo log is full in the middle of an operation, it is undone, and the rest of the transaction commits."""
    with Arena.temporary("8 MiB", undo_size="512 KiB") as arena:
        root = arena.root
        with arena.transaction():
            fill(root)
            root["fill"] = []
        for _ in range(20):
            with arena.transaction():
                root["fill"].extend([0] * 1000)
                root["l"].extend([LONG] * 40)
                root["q"].extend([LONG] * 40)
                root["d"].update({f"{_} {i}": LONG for i in range(20)})
        most = fill_up(arena, 20000)
        assert 1000 < most < 20000, "the undo log does not get full"
        failed = 0
        for less in (0, 1, 2, 3, 5, 10, 20, 40, 80, 160, 320):
            state = before = root.to_python()
            try:
                with arena.transaction():
                    for i in range(most - less):
                        root["fill"][i] = less
                    state = root.to_python()
                    try:
                        OPERATIONS[name](root)
                    except ArenaFullError:
                        failed += 1
                        assert root.to_python() == state
                    else:
                        state = root.to_python()
            except ArenaFullError:  # what is applied at the commit did not fit: all of it is undone
                state = before
            assert root.to_python() == state
            assert arena.verify().leaked_blocks == 0
        assert failed, "no operation met a full log"


def fill_up(arena: Arena, most: int) -> int:
    """How many items can be written before the undo log is full."""
    written = 0
    try:
        with arena.transaction():
            for i in range(most):
                arena.root["fill"][i] = -1
                written += 1
    except ArenaFullError:
        pass
    return written


def big_tree() -> dict[str, Any]:
    """Every kind of container, more of it than one slice of reclaiming takes."""
    return {
        "dict": {i: {"x": LONG} for i in range(40)},
        "list": [[i, LONG] for i in range(40)],
        "set": Set(range(60)),
        "deque": Deque([{"i": i} for i in range(70)], 100),
        "records": [Row(a=i, text=LONG, items=[i]) for i in range(20)],
        "counters": {i: Counter(i) for i in range(10)},
        "arrays": [Array((10,), "f8") for _ in range(5)],
        "wide": {i: i for i in range(200)},
        "long": list(range(200)),
    }


def drain(arena: Arena) -> None:
    """Let a number of boundaries pass, at each of which a slice is reclaimed."""
    for turn in range(60):
        with arena.transaction():
            arena.root["turn"] = turn


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(600)
def test_a_kill_at_any_point_of_reclaiming_a_tree_loses_and_leaks_nothing(new_name: Callable[[], str]) -> None:
    """Killed at point 1, 2, 3, ... after the delete: the next process finds a sound arena, and frees the rest."""
    name = new_name()
    with Arena.open(name, size="8 MiB") as arena:
        with arena.transaction():
            arena.root["kept"] = [1, {"a": 2}]
            arena.root["tree"] = big_tree()  # its records' schemas stay
        with arena.transaction():
            del arena.root["tree"]
        drain(arena)
        empty = arena.stats().used
    killed: set[str] = set()
    note = mmap.mmap(-1, 64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(note))
    nth = 1
    while True:

        def scenario(nth: int = nth) -> bool:
            with Arena.open(name, create=False) as arena:
                with arena.transaction():
                    arena.root["tree"] = big_tree()
                _switches.crash_note(address, 64)
                with arena.transaction():
                    del arena.root["tree"]
                _switches.crash_at(nth)
                drain(arena)
                _switches.crash_at(0)
                return True

        note[:] = b"\0" * 64
        ending = in_child(scenario)
        assert ending.signal in (0, 9), ending
        assert not ending.error, ending
        with Arena.open(name, create=False) as arena:
            assert arena.verify().leaked_blocks == 0, nth
            assert arena.root["kept"] == [1, {"a": 2}]
            drain(arena)
            assert arena.verify().leaked_blocks == 0, nth
            assert arena.stats().used == empty, nth
        if ending.returned:
            break
        killed.add(note[:].rstrip(b"\0").split(b"\0")[0].decode())
        nth += 1 if nth < 60 else 37  # all of the first slices, then samples
    print(f"killed up to point {nth}: {sorted(killed)}")
    assert {point for point in killed if point.startswith("reclaim.")}
