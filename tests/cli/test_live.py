"""Reading an arena while servers work in it: what is seen was committed, all of one moment, and nobody notices."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena, ArenaBusyError, Array, Counter, NoTransactionError, TransactionError
from recoverable._native.runtime import Transaction
from recoverable.cli import _image, _inspect, _outside
from recoverable.cli._live import live
from support.commands import child, command_json
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable.cli._live import Live

TOTAL = 2000

#: Moves amounts between two places for ever, as fast as it can. Whatever it commits, the sum stays.
TRANSFERS = """
import random, sys, time
from recoverable import Arena
arena = Arena.open(sys.argv[1], create=False, tracking=sys.argv[3] if len(sys.argv) > 3 else "hybrid")
way, random = sys.argv[2], random.Random(1)
root = arena.root

def plain(k):
    with arena.transaction():
        root["ann"] -= k
        root["bob"] += k

def rolled_back(k):
    try:
        with arena.transaction():
            root["ann"] -= k
            try:
                with arena.savepoint():
                    root["bob"] += 1000
                    raise LookupError
            except LookupError:
                pass
            root["bob"] += k
            if k % 2:
                raise LookupError
    except LookupError:
        pass

def growing(k):
    with arena.transaction():
        root["names"][str(random.randrange(50))] = "x" * random.randrange(100)
        root["names"].pop(str(random.randrange(50)), None)
        root["ann"] -= k
        root["bob"] += k

def counters(k):
    with arena.transaction():
        root["out"].add(-k)
        root["in"].add(k)

def raw(k):
    with arena.transaction():
        view = root["cells"].view
        view[random.randrange(1024)] -= k
        view[random.randrange(1024)] += k

def halfway(k):
    with arena.transaction():
        root["ann"] -= k
        if k > 1:
            time.sleep(3600)
        root["bob"] += k

transfer = globals()[way]
transfer(1)
print("ready", flush=True)
while True:
    transfer(random.randrange(2, 9))
"""


def of_items(source: Live) -> int:
    """Return the sum of two items of the root."""
    return int(source.root["ann"] + source.root["bob"])


def of_counters(source: Live) -> int:
    """Return the sum of two counters."""
    return int(source.root["out"]) + int(source.root["in"])


def of_cells(source: Live) -> int:
    """Return the sum of an array's two pages."""
    cells = source.root["cells"]
    return TOTAL + sum(int(cells[at : at + 64].sum()) for at in range(0, 1024, 64))


@pytest.fixture
def bank(arena: Arena) -> Arena:
    """Give an arena in which each pair adds up to TOTAL."""
    with arena.transaction():
        arena.root.update(ann=1000, bob=1000, names={}, cells=Array((1024,), "i8"))
        arena.root.update({"out": Counter(1000), "in": Counter(1000)})
    return arena


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "total"),
    [
        ("plain", of_items),
        ("rolled_back", of_items),
        ("growing", of_items),
        ("counters", of_counters),
        ("raw", of_cells),
    ],
)
def test_the_sum_holds_beside_a_writer_at_full_speed(bank: Arena, way: str, total: Callable[[Live], int]) -> None:
    """Whatever a process commits, rolls back or writes raw meanwhile, both sides of a transfer are read as of one moment."""
    writer = child(TRANSFERS, bank.name, way)
    try:
        sums: list[int] = []
        moved = _outside.peek(bank.name).cuts
        with live(bank.name) as source:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                sums.append(source.at_one_moment(lambda: total(source)))
        assert len(sums) > 20
        assert set(sums) == {TOTAL}
        assert _outside.peek(bank.name).cuts - moved > len(sums), "it has to be read while others commit"
    finally:
        writer.kill()
        writer.communicate(timeout=30)


@pytest.mark.slow
def test_the_sum_holds_beside_a_writer_that_traps(bank: Arena) -> None:
    """Where containers' writes are found by faults as well, committed state is found all the same."""
    bank.close()
    writer = child(TRANSFERS, bank.name, "growing", "trap")
    try:
        with live(bank.name) as source:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert source.at_one_moment(lambda: of_items(source)) == TOTAL
    finally:
        writer.kill()
        writer.communicate(timeout=30)


@pytest.mark.slow
def test_the_sum_holds_when_the_writer_is_killed_at_any_moment(bank: Arena) -> None:
    """`kill -9`, in a step or in a commit: the image shows committed state, and leaves the recovery to others."""
    for way in ["rolled_back"] * 9 + ["halfway"]:
        writer = child(TRANSFERS, bank.name, way)
        with live(bank.name) as source:
            for _ in range(10):
                assert source.at_one_moment(lambda: of_items(source)) == TOTAL
            end = time.monotonic() + 30
            while way == "halfway" and _outside.peek(bank.name).phase != "step":
                assert time.monotonic() < end
            writer.kill()
            writer.communicate(timeout=30)
            before = path_of(bank.name).read_bytes()
            assert way != "halfway" or _outside.peek(bank.name).phase == "step"
            assert source.at_one_moment(lambda: of_items(source)) == TOTAL
            assert path_of(bank.name).read_bytes() == before


@pytest.mark.slow
def test_the_command_shows_one_moment(bank: Arena) -> None:
    """`inspect` beside a writer at full speed: the counters, one level below the root, are of one moment as well."""
    writer = child(TRANSFERS, bank.name, "counters")
    try:
        for _ in range(3):
            found = command_json("inspect", bank.name)
            value = {entry["path"]: entry.get("value") for entry in found["entries"]}
            assert value["root['out']"] + value["root['in']"] == TOTAL
            assert value["root['out']"] != 1000
    finally:
        writer.kill()
        writer.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "raw"])
def test_a_copy_is_of_one_moment(bank: Arena, way: str) -> None:
    """`export` and `verify` look at a copy; under a writer at full speed it takes the lock, and else it does not."""
    with _image.capture(bank.name) as copy:
        assert _outside.peek_fd(copy, bank.name).alive == ()
    writer = child(TRANSFERS, bank.name, way)
    try:
        for _ in range(5):
            with _image.opened_copy(bank.name) as copied:
                copied.verify()
                root = copied.root
                assert root["ann"] + root["bob"] == TOTAL
                assert sum(int(root["cells"][i : i + 64].sum()) for i in range(0, 1024, 64)) == 0
    finally:
        writer.kill()
        writer.communicate(timeout=30)


def test_a_copy_beside_a_server_at_rest_takes_no_lock(bank: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no step ends while it is made, a copy needs nothing of the arena but to read it."""
    monkeypatch.setattr(_image, "_copy_locked", None)
    before = path_of(bank.name).read_bytes()
    with bank.transaction():
        bank.root["ann"] -= 5
        with _image.opened_copy(bank.name) as copied:
            assert copied.root["ann"] == 1000
        bank.root["ann"] += 5
    with _image.capture(bank.name):
        pass
    assert len(path_of(bank.name).read_bytes()) == len(before)


def test_it_is_open_for_reading_alone(bank: Arena) -> None:
    """The kernel itself would refuse a store: neither a descriptor nor a mapping of it can be written to."""
    inode = str(path_of(bank.name).stat().st_ino)

    def rights() -> tuple[list[str], list[int]]:
        with open("/proc/self/maps") as maps:  # noqa: PTH123 -- not a file
            mapped = [line.split()[1] for line in maps if line.split()[4] == inode]
        modes = []
        for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- the same
            try:
                if str(os.stat(f"/proc/self/fd/{descriptor}").st_ino) == inode:  # noqa: PTH116
                    modes.append(fcntl.fcntl(int(descriptor), fcntl.F_GETFL) & os.O_ACCMODE)
            except OSError:
                continue
        return mapped, modes

    mapped, modes = rights()
    slots = _outside.peek(bank.name).alive
    with live(bank.name) as source:
        assert source.at_one_moment(lambda: of_items(source)) == TOTAL
        now_mapped, now_modes = rights()
        assert _outside.peek(bank.name).alive == slots
    for right in mapped:
        now_mapped.remove(right)
    for mode in modes:
        now_modes.remove(mode)
    assert now_mapped == ["r--s"]
    assert now_modes == [os.O_RDONLY]


def test_nothing_can_be_written_through_it(bank: Arena) -> None:
    """A write, or a transaction, is refused with a named error."""
    with live(bank.name) as source:
        with pytest.raises(NoTransactionError):
            source.at_one_moment(lambda: source.root.__setitem__("ann", 1))
        with pytest.raises(TransactionError, match="without being attached"):
            Transaction(source.root._arena, "test", True)


@pytest.mark.slow
def test_what_is_too_much_for_one_moment_is_said(name: str) -> None:
    """More than an image holds is a named error with the way out, and the next read is not the worse for it."""

    def all_of_it() -> int:
        big = source.root["big"]
        return sum(int(big[at]) for at in range(0, len(big), 4096))

    with Arena.open(name, "64 MiB") as arena:
        with arena.transaction():
            arena.root.update(big=Array((40 << 20,), "u1"), ann=1, bob=2)
        with live(name) as source:
            with pytest.raises(ArenaBusyError, match="too much to be read between two commits"):
                source.at_one_moment(all_of_it)
            assert source.at_one_moment(lambda: of_items(source)) == 3


def test_in_parts_where_it_has_to_be(bank: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no moment for the whole tree, each container is read for itself."""
    with bank.transaction():
        bank.root["names"].update((str(n), [n]) for n in range(20))
    with live(bank.name) as source:
        whole = _inspect.look(source, [], depth=3).as_json()
        at_one_moment, tries = source.at_one_moment, itertools.count()

        def first_one_fails(read: Callable[[], object], **patience: float) -> object:
            if next(tries) == 0:
                raise ArenaBusyError("no moment")
            return at_one_moment(read, **patience)

        monkeypatch.setattr(source, "at_one_moment", first_one_fails)
        assert _inspect.look(source, [], depth=3).as_json() == whole
