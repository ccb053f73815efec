"""Code of users that runs in the middle of an operation and uses the arena: it works, or it is refused and nothing changes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    ArenaBusyError,
    ConflictError,
    Deque,
    Dict,
    List,
    Record,
    RecoverableError,
    Set,
    TransactionClosedError,
    TransactionError,
    recoverable,
    register_codec,
)
from recoverable.errors import _Doomed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Probe:
    """A value whose codec runs what the test wants."""

    on_encode: Callable[[], object] | None = None
    on_decode: Callable[[], object] | None = None

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Probe) and other.n == self.n

    def __hash__(self) -> int:
        return hash(self.n)


def encode(probe: Probe) -> bytes:
    """Run the hook, once at a time."""
    hook, Probe.on_encode = Probe.on_encode, None
    try:
        if hook is not None:
            hook()
    finally:
        Probe.on_encode = hook
    return str(probe.n).encode()


def decode(data: bytes) -> Probe:
    """Run the hook, once at a time."""
    hook, Probe.on_decode = Probe.on_decode, None
    try:
        if hook is not None:
            hook()
    finally:
        Probe.on_decode = hook
    return Probe(int(data))


register_codec(Probe, encode, decode, "test-reentrancy-probe")


class Entry(Record):
    """A record with a field for anything."""

    name: str
    value: Any = None


@pytest.fixture
def arena(arena: Arena) -> Iterator[Arena]:
    """Give an arena with one container of each kind, and take the hooks away afterwards."""
    with arena.transaction():
        arena.root.update(
            {
                "intruded": 0,
                "precious": "state",
                **_fresh(),
            }
        )
    yield arena
    Probe.on_encode = Probe.on_decode = None


# -- those who come in ---------------------------------------------------------------------------------------------


class Intruder:
    """Uses the arena in one of the ways that would have the running transaction give way; counts what came of it."""

    def __init__(self, arena: Arena, way: Callable[[Arena], object]) -> None:
        self.arena, self.way = arena, way
        self.done = 0
        self.doomed = False  # the transaction around it had met a conflict, and says so to whoever touches it
        self.errors: list[BaseException] = []

    def __call__(self) -> None:
        try:
            self.way(self.arena)
        except RecoverableError as error:
            self.errors.append(error.with_traceback(None))
        except _Doomed:
            self.doomed = True
        else:
            self.done += 1


def _count(arena: Arena) -> None:
    arena.root["intruded"] += 1


def independent(arena: Arena) -> None:
    """Commit apart from the running transaction."""
    with arena.transaction(independent=True):
        _count(arena)


def _transaction(arena: Arena) -> None:
    with arena.transaction():
        _count(arena)


def elsewhere(arena: Arena) -> None:
    """Commit in another context, as a callback of the event loop would."""
    contextvars.Context().run(_transaction, arena)


def _read(arena: Arena) -> None:
    arena.root["precious"]


def reads_elsewhere(arena: Arena) -> None:
    """Read in another context."""
    contextvars.Context().run(_read, arena)


def driven(arena: Arena) -> None:
    """Drive a handler's coroutine by hand."""

    @recoverable(arena=arena)
    async def handler() -> None:
        _count(arena)

    coroutine = contextvars.Context().run(handler)
    try:
        contextvars.Context().run(coroutine.send, None)
    except StopIteration:
        return
    finally:
        coroutine.close()
    raise AssertionError("it has not ended")


def closes(arena: Arena) -> None:
    """Close the arena, from another context."""
    contextvars.Context().run(arena.close)


INTRUDERS = [independent, elsewhere, reads_elsewhere, driven, closes]


# -- the operations ---------------------------------------------------------------------------------------------------


def nest() -> dict[str, Any]:
    """Give a value that is encoded in the middle of its operation."""
    return {"in": [Probe(7), {"it": Probe(8)}]}


WRITES: dict[str, Callable[[Any], object]] = {
    "dict-set": lambda root: root["dict"].__setitem__("k", nest()),
    "dict-update": lambda root: root["dict"].update(k=nest(), p=Probe(9)),
    "dict-setdefault": lambda root: root["dict"].setdefault("k", nest()),
    "dict-pop": lambda root: root["dict"].pop("a"),
    "dict-popitem": lambda root: root["dict"].popitem(),
    "dict-ior": lambda root: root["dict"].__ior__({"k": nest()}),
    "dict-key": lambda root: root["dict"].__setitem__(Probe(5), nest()),
    "list-append": lambda root: root["list"].append(nest()),
    "list-insert": lambda root: root["list"].insert(1, nest()),
    "list-set": lambda root: root["list"].__setitem__(0, nest()),
    "list-slice": lambda root: root["list"].__setitem__(slice(0, 2), [nest(), nest(), Probe(9)]),
    "list-stride": lambda root: root["list"].__setitem__(slice(0, 3, 2), [nest(), Probe(9)]),
    "list-extend": lambda root: root["list"].extend([nest(), Probe(9)]),
    "list-pop": lambda root: root["list"].pop(0),
    "list-sort": lambda root: root["list"].sort(key=lambda each: getattr(each, "n", each)),
    "list-delete": lambda root: root["list"].__delitem__(slice(0, 3, 2)),
    "deque-append": lambda root: root["deque"].append(nest()),
    "deque-appendleft": lambda root: root["deque"].appendleft(nest()),
    "deque-extend": lambda root: root["deque"].extend([nest(), Probe(9)]),
    "deque-set": lambda root: root["deque"].__setitem__(0, nest()),
    "deque-pop": lambda root: root["deque"].pop(),
    "deque-popleft": lambda root: root["deque"].popleft(),
    "deque-delete": lambda root: root["deque"].__delitem__(1),
    "set-add": lambda root: root["set"].add(Probe(4)),
    "set-update": lambda root: root["set"].update([Probe(4), (Probe(5), 1)]),
    "record-set": lambda root: setattr(root["item"], "value", nest()),
    "record-new": lambda root: root["dict"].__setitem__("r", Entry("new", nest())),
    "stored-deep": lambda root: root.__setitem__("deep", Dict({"x": List([Deque([nest()]), Set([Probe(3)])])})),
}


class _Undo(Exception):
    """Takes a transaction back."""


def plain(arena: Arena) -> Any:
    """Return all state but the intruders' count."""
    state = arena.root.to_python()
    del state["intruded"]
    return state


def check(arena: Arena, intruder: Intruder, expected: Any) -> None:
    """All is as it would be without the intruder, but for what it was allowed to do."""
    Probe.on_encode = Probe.on_decode = None
    assert plain(arena) == expected
    counts = intruder.way not in (reads_elsewhere, closes)
    assert arena.root["intruded"] == (intruder.done if counts else 0)
    assert all(isinstance(error, TransactionError) for error in intruder.errors), intruder.errors
    arena.verify()


@pytest.mark.parametrize("which", WRITES)
@pytest.mark.parametrize("way", INTRUDERS, ids=lambda way: way.__name__)
def test_a_write_goes_on_whatever_its_codec_does_to_the_arena(
    arena: Arena, which: str, way: Callable[..., Any]
) -> None:
    """A codec that begins, reads, drives or closes elsewhere is refused, or works; the operation is intact."""
    with pytest.raises(_Undo), arena.transaction():
        WRITES[which](arena.root)
        expected = plain(arena)
        raise _Undo
    before = plain(arena)
    intruder = Intruder(arena, way)
    try:
        with arena.transaction():
            arena.root["precious"] = "state"  # something of its own that must not be lost
            Probe.on_encode = Probe.on_decode = intruder
            WRITES[which](arena.root)
            Probe.on_encode = Probe.on_decode = None
    except ConflictError:  # it came in before the operation had begun, and has committed first
        assert intruder.done
        expected = before
    assert intruder.errors or intruder.done or which == "list-delete"
    check(arena, intruder, expected)


def test_a_nested_value_refuses_all_of_them(arena: Arena) -> None:
    """In the middle of storing a nested value, each of them gets a TransactionError that says so."""
    for way in INTRUDERS:
        intruder = Intruder(arena, way)
        with arena.transaction():
            arena.root["before"] = 1
            Probe.on_encode = intruder
            arena.root["order"] = {"lines": [Probe(5)]}
            Probe.on_encode = None
        assert intruder.done == 0
        assert [type(error) for error in intruder.errors] == [TransactionError], (way, intruder.errors)
        assert arena.root["order"].to_python() == {"lines": [Probe(5)]}
        arena.verify()


READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda root: root["dict"]["a"],
    "items": lambda root: list(root["dict"].items()),
    "values": lambda root: list(root["dict"].values()),
    "keys": lambda root: list(root["set"]),
    "list": lambda root: root["list"].to_python(),
    "iterate": lambda root: list(root["list"]),
    "deque": lambda root: root["deque"].to_python(),
    "record": lambda root: root["item"].value,
    "all": lambda root: root["dict"].to_python(),
}


@pytest.mark.parametrize("which", READS)
@pytest.mark.parametrize("way", INTRUDERS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_a_read_goes_on_whatever_its_codec_does(
    arena: Arena, which: str, way: Callable[..., Any], inside: bool
) -> None:
    """What is read is what was there, inside a transaction and outside."""
    expected, state = READS[which](arena.root), plain(arena)
    intruder = Intruder(arena, way)

    def read() -> Any:
        Probe.on_decode = intruder
        try:
            return READS[which](arena.root)
        finally:
            Probe.on_decode = None

    if inside:
        with arena.transaction():
            arena.root["mine"] = 1
            assert read() == expected
            del arena.root["mine"]
    else:
        assert read() == expected
    check(arena, intruder, state)


# -- other ways for code to get there -----------------------------------------------------------------------------------


class Items(list[Any]):
    """A list that runs something when it is walked."""

    hook: Callable[[], object]

    def __iter__(self) -> Iterator[Any]:
        self.hook()
        return super().__iter__()


class Loud:
    """Runs something when it goes."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self.hook = hook

    def __del__(self) -> None:
        self.hook()


class Other:
    """Something that a weak reference can be made of."""


def by_iteration(hook: Callable[[], object], root: Any) -> None:
    """Store a list that runs it when it is walked."""
    items = Items([1, 2])
    items.hook = hook
    root["order"] = {"lines": items}


def by_key(hook: Callable[[], object], root: Any) -> None:
    """Store a dict with a key whose codec runs it."""
    Probe.on_encode = hook
    root["order"] = {"lines": [1, 2], "more": {Probe(1): 1}}
    Probe.on_encode = None
    del root["order"]["more"]


def by_finaliser(hook: Callable[[], object], root: Any) -> None:
    """Let an object go in the middle."""
    held = [Loud(hook)]
    Probe.on_encode = held.clear
    root["order"] = {"lines": [1, 2], "probe": Probe(1)}
    Probe.on_encode = None
    del root["order"]["probe"]


def by_weak_reference(hook: Callable[[], object], root: Any) -> None:
    """Let an object go that a weakref.finalize watches."""
    held = [Other()]
    weakref.finalize(held[0], hook)
    Probe.on_encode = held.clear
    root["order"] = {"lines": [1, 2], "probe": Probe(1)}
    Probe.on_encode = None
    del root["order"]["probe"]


def by_collection(hook: Callable[[], object], root: Any) -> None:
    """Have the collector find it in the middle."""
    loud: Any = Loud(hook)
    loud.self = loud
    del loud
    Probe.on_encode = gc.collect
    root["order"] = {"lines": [1, 2], "probe": Probe(1)}
    Probe.on_encode = None
    del root["order"]["probe"]


def by_signal(hook: Callable[[], object], root: Any) -> None:
    """Let a signal come in the middle."""
    before = signal.signal(signal.SIGUSR1, lambda *_: hook())
    try:
        Probe.on_encode = lambda: os.kill(os.getpid(), signal.SIGUSR1)
        root["order"] = {"lines": [1, 2], "probe": Probe(1)}
        Probe.on_encode = None
    finally:
        signal.signal(signal.SIGUSR1, before)
    del root["order"]["probe"]


def by_tracing(hook: Callable[[], object], root: Any) -> None:
    """Have a trace function run it at each call."""

    def trace(frame: Any, event: str, argument: object) -> None:
        if frame.f_code is encode.__code__:
            hook()

    Probe.on_encode = None
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        root["order"] = {"lines": [1, 2], "probe": Probe(1)}
    finally:
        sys.settrace(before)
    del root["order"]["probe"]


@pytest.mark.parametrize("way", INTRUDERS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    "how",
    [by_iteration, by_key, by_finaliser, by_weak_reference, by_collection, by_signal, by_tracing],
    ids=lambda how: how.__name__,
)
def test_however_it_gets_there(arena: Arena, how: Callable[..., Any], way: Callable[..., Any]) -> None:
    """Iterators, keys, finalisers, weak references, signals and tracers are refused as codecs are."""
    intruder = Intruder(arena, way)
    with arena.transaction():
        arena.root["mine"] = 1
        how(intruder, arena.root)
    assert intruder.errors or intruder.done
    check(arena, intruder, {**plain(arena), "mine": 1, "precious": "state", "order": {"lines": [1, 2]}})


@pytest.mark.parametrize("way", [*INTRUDERS, _count, _read], ids=lambda way: way.__name__)
def test_a_collection_at_every_allocation(arena: Arena, way: Callable[..., Any]) -> None:
    """Finalisers that use the arena run wherever the collector can, over all operations; the state is what it would be."""
    expected = {}
    for name, operation in WRITES.items():
        with arena.transaction():
            arena.root["work"] = _fresh()
            operation(arena.root["work"])
            expected[name] = arena.root["work"].to_python()
    intruder = Intruder(arena, way)
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what other tests have left need not be looked at each time
    try:
        for name, operation in WRITES.items():
            try:
                with arena.transaction():
                    arena.root["mine"] = name
                    arena.root["work"] = _fresh()
                    gc.set_threshold(1, 1, 1)
                    try:
                        for _ in range(5):
                            loud: Any = Loud(intruder)
                            loud.self = loud
                            del loud
                        operation(arena.root["work"])
                    finally:
                        gc.set_threshold(*threshold)
            except ConflictError:  # between two operations one of them has committed first
                assert intruder.done or intruder.doomed
                continue
            assert arena.root["work"].to_python() == expected[name], name
            assert arena.root["mine"] == name
            if way is _count:
                intruder.done = arena.root["intruded"]
    finally:
        gc.unfreeze()
        with arena.transaction():  # else one that is left could close the arena rightly
            gc.collect()
        gc.freeze()
    assert all(isinstance(error, TransactionError) for error in intruder.errors), intruder.errors
    if way in (independent, elsewhere, driven):
        assert arena.root["intruded"] == intruder.done
    arena.verify()


def _fresh() -> dict[str, Any]:
    return {
        "dict": {"a": Probe(1)},
        "list": [Probe(1), Probe(2), 3],
        "deque": Deque([Probe(1), Probe(2), Probe(3)]),
        "set": Set([Probe(1)]),
        "item": Entry("item", Probe(1)),
    }


# -- the same transaction ------------------------------------------------------------------------------------------------


def test_a_codec_uses_the_transaction_that_it_runs_in(arena: Arena) -> None:
    """What it reads is what the transaction has written; what it writes is part of the operation."""
    seen = []

    def hook() -> None:
        seen.append(arena.root["mine"])
        arena.root["intruded"] += 1
        arena.root["list"].append({"nested": Probe(6)})
        with arena.savepoint():
            arena.root["intruded"] += 1

    with arena.transaction():
        arena.root["mine"] = "mine"
        Probe.on_encode = hook
        arena.root["order"] = {"lines": [Probe(5)]}
        Probe.on_encode = None
    assert seen == ["mine"]
    assert arena.root["intruded"] == 2
    assert arena.root["list"].to_python() == [Probe(1), Probe(2), 3, {"nested": Probe(6)}]
    arena.verify()


def test_an_operation_that_fails_undoes_what_its_codec_wrote(arena: Arena) -> None:
    """An operation is all or nothing, and what code inside it writes in its transaction is part of it."""

    def hook() -> None:
        arena.root["intruded"] += 1

    with arena.transaction():
        arena.root["mine"] = 1
        Probe.on_encode = hook
        with pytest.raises(TypeError):
            arena.root["order"] = {"lines": [Probe(5), object()]}
        Probe.on_encode = None
        assert "order" not in arena.root
    assert (arena.root["mine"], arena.root["intruded"]) == (1, 0)
    arena.verify()


def test_a_list_that_shrinks_while_it_is_read(arena: Arena) -> None:
    """A codec that deletes what is being read gives a RuntimeError, no item twice."""
    with arena.transaction():
        Probe.on_decode = arena.root["list"].clear
        with pytest.raises(RuntimeError, match="changed"):
            arena.root["list"].to_python()
        Probe.on_decode = None
    assert list(arena.root["list"]) == []


def test_a_deque_that_loses_the_item_that_is_being_taken(arena: Arena) -> None:
    """The item that is returned is the one that is removed, or it is a RuntimeError."""
    with arena.transaction():
        Probe.on_decode = arena.root["deque"].clear
        with pytest.raises(RuntimeError, match="mutated"):
            arena.root["deque"].pop()
        Probe.on_decode = None
    assert list(arena.root["deque"]) == []


class Equal:
    """Equals everything, and runs something when it is asked."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self.hook = hook

    def __eq__(self, other: object) -> bool:
        self.hook()
        return True

    def __hash__(self) -> int:
        return 0


MOVED: dict[str, Callable[[Any, Callable[[], object]], object]] = {
    "list-pop": lambda root, hook: root["list"].pop(2),
    "list-pop-nested": lambda root, hook: root["list"].pop(3),
    "list-remove": lambda root, hook: root["list"].remove(Equal(hook)),
    "list-insert": lambda root, hook: root["list"].insert(1, Probe(9)),
    "list-extend": lambda root, hook: root["list"].extend([Probe(9), {"in": Probe(9)}]),
    "list-grow": lambda root, hook: root["list"].__setitem__(slice(1, 2), [Probe(8), Probe(9)]),
    "list-shrink": lambda root, hook: root["list"].__setitem__(slice(1, 4), [Probe(8)]),
    "list-stride": lambda root, hook: root["list"].__setitem__(slice(0, 3, 2), [Probe(8), 9]),
    "deque-remove": lambda root, hook: root["deque"].remove(Equal(hook)),
    "deque-insert": lambda root, hook: root["deque"].insert(1, Probe(9)),
    "deque-pop": lambda root, hook: root["deque"].pop(),
}


@pytest.mark.parametrize("move", ["pop", "append", "insert", "clear"])
@pytest.mark.parametrize("which", MOVED)
def test_a_sequence_whose_items_move_meanwhile(arena: Arena, which: str, move: str) -> None:
    """Positions that were worked out before its codec moved the items are not used: an error, and nothing is lost."""
    kind = which.split("-")[0]
    with arena.transaction():
        arena.root["list"], arena.root["deque"] = [Probe(1), 2, Probe(3), [Probe(4)], 5], Deque([Probe(1), 2, Probe(3)])
        before = plain(arena)
    moved = []

    def hook() -> None:
        if moved:
            return
        moved.append(move)
        sequence = arena.root[kind]
        {
            "pop": sequence.pop,
            "append": lambda: sequence.append(7),
            "insert": lambda: sequence.insert(0, 7),
            "clear": sequence.clear,
        }[move]()

    with arena.transaction():
        Probe.on_encode = Probe.on_decode = hook
        with pytest.raises((RuntimeError, IndexError)) as raised:
            MOVED[which](arena.root, hook)
        Probe.on_encode = Probe.on_decode = None
        assert not isinstance(raised.value, RecoverableError)
        after = plain(arena)[kind]
        if after != before[kind]:  # what was moved, apart from the operation, and nothing else
            {"pop": before[kind].pop, "append": lambda: before[kind].append(7), "insert": lambda: before[kind].insert(0, 7),
             "clear": before[kind].clear}[move]()  # fmt: skip
        assert after == before[kind]
    assert moved
    arena.verify()


@pytest.mark.parametrize("failing", [False, True])
def test_a_transaction_that_is_ended_in_the_middle_of_its_operation(arena: Arena, failing: bool) -> None:
    """Leaving the block there is refused and dooms it; the operation raises; the arena is free, and nothing was committed."""

    def unit() -> Iterator[None]:
        with arena.transaction():
            arena.root["mine"] = 1
            yield

    generator = unit()
    next(generator)
    caught = []

    def hook() -> None:
        try:
            generator.throw(KeyError) if failing else next(generator, None)
        except (TransactionError, KeyError) as error:
            caught.append(type(error))

    Probe.on_encode = hook
    with pytest.raises(TransactionClosedError, match="ended its transaction"):
        arena.root["order"] = {"lines": [Probe(5)]}
    Probe.on_encode = None
    assert caught == [KeyError if failing else TransactionError]
    assert "order" not in arena.root
    assert "mine" not in arena.root
    with arena.transaction():
        arena.root["mine"] = 2
    arena.verify()


async def test_a_part_of_the_request_cannot_step_inside_an_operation(arena: Arena) -> None:
    """A coroutine of the same transaction that a codec drives would suspend it; it is refused before it runs."""
    from recoverable._native.runtime import current_transaction, part

    ran = []

    async def little() -> None:
        ran.append(1)
        await asyncio.sleep(0)

    async def handler() -> None:
        driver: Any = part(little(), current_transaction(arena.native))  # type: ignore[arg-type]

        def hook() -> None:
            with pytest.raises(TransactionError, match="in the middle"):
                driver.send(None)

        arena.root["mine"] = 1
        Probe.on_encode = hook
        arena.root["order"] = {"lines": [Probe(5)]}
        Probe.on_encode = None
        await driver

    await arena.run(handler)
    assert ran == [1]
    assert arena.root["order"].to_python() == {"lines": [Probe(5)]}


# -- other threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(name: str) -> Iterator[Arena]:
    """Give an arena whose lock is not waited for long."""
    with Arena.temporary("16 MiB", name=name, busy_timeout=0.05) as opened:
        yield opened


def test_another_thread_waits_while_an_operation_runs_user_code(impatient: Arena) -> None:
    """The lock is held in the middle of an operation, whoever has the GIL: a read and a write of another thread wait."""
    arena = impatient
    with arena.transaction():
        arena.root["x"] = 0
    errors = []

    def other() -> None:
        for access in (lambda: arena.root["x"], lambda: _with(arena)):
            try:
                access()
            except ArenaBusyError as error:
                errors.append(error)

    def hook() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with arena.transaction():
        arena.root["x"] = 1
        Probe.on_encode = hook
        try:
            arena.root["order"] = {"lines": [Probe(5)]}
        finally:
            Probe.on_encode = None
    assert len(errors) == 2
    assert arena.root["x"] == 1
    arena.verify()


def _with(arena: Arena) -> None:
    with arena.transaction():
        arena.root["x"] = 2
