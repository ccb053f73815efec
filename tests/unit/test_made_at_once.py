"""A List or Record that is made at once lies in one block: what that costs, and that nobody can tell otherwise."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaFullError, List, Record, SchemaError, StaleReferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Entry(Record, name="made at once"):
    """Stands for an audit entry."""

    src: int
    dst: int
    amount: float = 0.0
    note: str | None = None
    tags: list = []  # noqa: RUF012


class Plain(Record, name="made at once, plain"):
    """Three numbers."""

    src: int
    dst: int
    amount: float


@pytest.fixture
def arena(new_name: Any) -> Iterator[Arena]:
    """Give an arena in which the keys and the schemas are there."""
    with Arena.temporary("16 MiB", name=new_name()) as made:
        with made.transaction():
            made.root["x"], made.root["y"], made.root["e"], made.root["p"] = 0, 0, Entry(1, 2), Plain(1, 2, 3)
        yield made
        assert made.verify().leaked_blocks == 0


def cost(arena: Arena, value: Any) -> tuple[int, int]:
    """Return how many undo records and bytes of the heap it takes to store a value where a number was."""
    with arena.transaction():
        arena.root["x"] = 0
    for i in range(3):
        with arena.transaction():
            arena.root["y"] = i  # what was deleted is freed by now
    before = arena.stats()
    with arena.transaction():
        arena.root["x"] = value
    after = arena.stats()
    return after.undo_records - before.undo_records, after.used - before.used


def test_it_takes_one_block_and_no_undo_of_its_content(arena: Arena) -> None:
    """The undo log holds its place, its parent and what the heap notes of one block, however many items it has."""
    assert cost(arena, [1, 2, 3]) == (4, 128)
    assert cost(arena, list(range(10))) == (4, 256)
    assert cost(arena, List(range(32))) == (4, 640)
    assert cost(arena, Plain(src=1, dst=2, amount=3.0)) == (4, 128)
    records, _ = cost(arena, list(range(320)))
    assert records <= 40


def test_appending_logs_each_new_item_once(arena: Arena) -> None:
    """Ten appends, or an extension by ten, where cells are: a record each, or one, and the length's; none in a new chunk."""
    with arena.transaction():
        arena.root["x"] = List(range(40))
        arena.root["x"].extend(range(5))
    for add, most in (
        (lambda x: [x.append(i) for i in range(10)], 11),
        (lambda x: x.extend("short text" for _ in range(9)), 2),
        (lambda x: x.extend(range(32)), 9),
    ):
        before = arena.stats().undo_records
        with arena.transaction():
            add(arena.root["x"])
        assert arena.stats().undo_records - before <= most
    assert len(arena.root["x"]) == 96


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 64, 100])
def test_a_list_of_any_size_grows_and_shrinks_as_a_plain_list(arena: Arena, n: int) -> None:
    """Whether its first items lie in its own block or not, in the request that makes it and in later ones; its memory is freed."""
    rng = random.Random(n)
    plain: list[Any] = [rng.choice([i, "t" * i, None]) for i in range(n)]
    before = arena.stats().used
    with arena.transaction():
        arena.root["x"] = plain
        assert arena.root["x"].to_python() == plain
    for turn in range(12):
        with arena.transaction():
            stored, at = arena.root["x"], rng.randrange(len(plain) + 1)
            match turn % 6:
                case 0:
                    plain.extend(range(turn * 3)), stored.extend(range(turn * 3))
                case 1:
                    plain[at:at] = ["new", [turn]]
                    stored[at:at] = ["new", [turn]]
                case 2:
                    del plain[at : at + 5], stored[at : at + 5]
                case 3:
                    plain.reverse(), stored.reverse()
                case 4:
                    for _ in range(len(plain) // 2):
                        assert plain.pop() == stored.pop()
                case _:
                    plain.append("last"), stored.append("last")
                    plain[0] = stored[0] = "x" * 40
            assert stored.to_python() == plain
            assert list(reversed(stored)) == [stored[i] for i in range(len(plain) - 1, -1, -1)]
        assert arena.root["x"].to_python() == plain
        arena.verify()
    with arena.transaction():
        arena.root["x"].clear()
        assert arena.root["x"].to_python() == []
        arena.root["x"] = 0
    for i in range(5):
        with arena.transaction():
            arena.root["y"] = i
    assert arena.stats().used == before


def test_one_that_has_outgrown_its_block_is_put_back(arena: Arena) -> None:
    """Changes that shift items over the edge of its block go back with their savepoint and with their request."""
    with arena.transaction():
        arena.root["x"] = list(range(10))
        arena.root["y"] = "what lies behind it" * 3
    with arena.transaction():
        arena.root["x"].extend(range(10, 50))
    plain = list(range(50))

    def change(stored: Any) -> None:
        stored.insert(2, ["new"])
        del stored[5:12]
        stored[8:8] = range(100, 110)
        stored.reverse()
        stored.append("last")

    with arena.transaction():
        with pytest.raises(KeyError), arena.savepoint():
            change(arena.root["x"])
            raise KeyError
        assert arena.root["x"].to_python() == plain
    with pytest.raises(KeyError), arena.transaction():
        change(arena.root["x"])
        raise KeyError
    assert arena.root["x"].to_python() == plain
    assert arena.root["y"] == "what lies behind it" * 3
    arena.verify()


def test_containers_in_one_made_at_once(arena: Arena) -> None:
    """Nested ones are stored with it, named by their path, gone with it, and stale where the request was rolled back."""
    with arena.transaction():
        arena.root["x"] = [1, [2, {"k": [3]}], Entry(1, 2, tags=["a"])]
        inner, entry = arena.root["x"][1], arena.root["x"][2]
        assert arena.root["x"].to_python() == [1, [2, {"k": [3]}], entry.to_python()]
    assert inner[1]["k"][0] == 3
    assert entry.tags.to_python() == ["a"]
    kept = []
    with pytest.raises(KeyError), arena.transaction():
        arena.root["y"] = [[1], Entry(3, 4)]
        kept = [arena.root["y"], arena.root["y"][0], arena.root["y"][1]]
        raise KeyError
    with arena.transaction():
        arena.root["y"] = [[5], [6]]  # where they lay
        for handle in kept:
            with pytest.raises(StaleReferenceError):
                handle.to_python()
    with arena.transaction():
        arena.root["x"] = 0
        with pytest.raises(StaleReferenceError):
            inner.to_python()


def test_what_can_not_be_stored_leaves_nothing(arena: Arena) -> None:
    """An item that is refused, however far behind: no part of the value is there, and no memory is lost."""
    used = arena.stats().used
    for bad in (
        [1, "t" * 500, object()],
        [1, [2, object()]],
        [0] * 100 + [object()],
        Entry(1, 2, tags=["t" * 500, object()]),
    ):
        with arena.transaction():
            with pytest.raises(TypeError):
                arena.root["x"] = bad
            assert arena.root["x"] == 0
    assert arena.stats().used == used


def test_an_append_for_which_there_is_no_room_leaves_nothing(arena: Arena) -> None:
    """Whether the cell for it is there already or not."""
    with arena.transaction():
        arena.root["x"] = [1, 2]
        stored = arena.root["x"]
        for plain in ([1, 2], [1, 2, *range(40)]):
            stored.extend(plain[2:])
            for _ in range(2):
                with pytest.raises(ArenaFullError):
                    stored.append("t" * (17 * 1024**2))
                assert stored.to_python() == plain
    assert arena.root["x"].to_python() == [1, 2, *range(40)]


async def test_a_field_written_while_another_request_moves_the_record_is_not_lost(arena: Arena) -> None:
    """Who has written a field before the record was given more of them runs again: what it keeps belongs to the old place."""

    class Moved(Record, name="made at once, moved"):
        one: int

    with arena.transaction():
        arena.root["x"] = Moved(1)

    class Moved2(Record, name="made at once, moved"):
        one: int
        two: int = 0

    runs = 0

    async def slow() -> None:
        nonlocal runs
        runs += 1
        arena.root["x"].one = 5
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def move() -> None:
        arena.root["x"].two = 7

    await asyncio.gather(arena.run(slow), arena.run(move))
    assert runs == 2
    assert arena.root["x"].to_python() == {"one": 5, "two": 7}


def test_a_savepoint_takes_it_back(arena: Arena) -> None:
    """What was made before the savepoint is as it was; what was made after it is gone, and so is what it grew by."""
    with arena.transaction():
        arena.root["x"], arena.root["y"] = [1, 2, 3], Entry(1, 2)
        made, entry = arena.root["x"], arena.root["y"]
        with pytest.raises(KeyError), arena.savepoint():
            made[1] = ["more"]
            made.extend(range(40))
            entry.note = "n" * 30
            entry.tags.append(1)
            arena.root["z"] = [made.to_python()]
            raise KeyError
        assert made.to_python() == [1, 2, 3]
        assert entry.to_python() == {"src": 1, "dst": 2, "amount": 0.0, "note": None, "tags": []}
        assert "z" not in arena.root
        made.append(4)
    assert arena.root["x"].to_python() == [1, 2, 3, 4]


@pytest.mark.parametrize("tracking", ["hybrid", "trap"])
async def test_its_own_is_kept_across_awaits(new_name: Any, tracking: Any) -> None:
    """What a request has made and changed since is there after each await, and for others only after its commit."""
    with Arena.temporary("16 MiB", name=new_name(), tracking=tracking) as arena:

        async def make() -> None:
            arena.root["x"], arena.root["y"] = [1, "t" * 50, [2]], Entry(1, 2, tags=["a"])
            await asyncio.sleep(0)
            arena.root["x"][0] = "changed"
            arena.root["y"].amount = 2
            await asyncio.sleep(0)
            arena.root["x"].extend(range(33))
            arena.root["y"].tags.append("b")
            await asyncio.sleep(0)
            assert arena.root["x"].to_python() == ["changed", "t" * 50, [2], *range(33)]

        async def other() -> None:
            for _ in range(2):
                assert "x" not in arena.root
                arena.root["z"] = [[7], "t" * 50]
                await asyncio.sleep(0)

        await asyncio.gather(arena.run(make), arena.run(other))
        assert arena.root["x"].to_python() == ["changed", "t" * 50, [2], *range(33)]
        assert arena.root["y"].to_python() == {"src": 1, "dst": 2, "amount": 2.0, "note": None, "tags": ["a", "b"]}
        assert arena.root["z"].to_python() == [[7], "t" * 50]
        arena.verify()


async def test_an_append_and_a_reader_of_its_first_items_do_not_conflict(arena: Arena) -> None:
    """One request lengthens it past its block while another changes an item there: neither runs again."""
    with arena.transaction():
        arena.root["x"] = list(range(10))
    runs = 0

    async def grow() -> None:
        nonlocal runs
        runs += 1
        arena.root["x"].append("end")

    async def change() -> None:
        nonlocal runs
        runs += 1
        arena.root["x"][3] = "changed"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        arena.root["x"][4] = "too"

    await asyncio.gather(arena.run(change), arena.run(grow))
    assert runs == 2
    assert arena.root["x"].to_python() == [0, 1, 2, "changed", "too", 5, 6, 7, 8, 9, "end"]


def test_a_record_that_gains_fields_moves_out_of_its_block(arena: Arena) -> None:
    """Its new fields hold their defaults until written, and its memory is freed."""
    with arena.transaction():
        arena.root["x"] = Plain(1, 2, 3)
    used = arena.stats().used

    class More(Record, name="made at once, plain"):
        src: int
        dst: int
        amount: float
        fee: int = 7

    try:
        assert arena.root["x"].fee == 7
        for fee in (8, 9):
            with arena.transaction():
                arena.root["x"].fee = fee
                arena.root["x"].amount += 1
        arena.verify()
        assert arena.root["x"].to_python() == {"src": 1, "dst": 2, "amount": 5.0, "fee": 9}
        with arena.transaction():
            arena.root["x"] = 0
        for i in range(5):
            with arena.transaction():
                arena.root["y"] = i
        assert arena.stats().used <= used + 300  # the schema's text
    finally:

        class Plain3(Record, name="made at once, plain"):  # for the tests after this one
            src: int
            dst: int
            amount: float


def test_what_a_record_is_called_with() -> None:
    """By position, by name, with defaults that are copied; what does not fit is a TypeError that names it."""
    entry = Entry(1, dst=2)
    assert entry.to_python() == {"src": 1, "dst": 2, "amount": 0.0, "note": None, "tags": []}
    entry.tags.append(1)
    assert Entry(1, 2).tags == []
    assert type(Entry(1, 2, 3).amount) is float
    assert type(Entry(True, 2, True).amount) is float
    for args, values, message in (
        ((1, 2, 3.0, "n", [], 6), {}, "takes 5 fields, 6 were given"),
        ((1,), {"dsd": 2}, "has no field 'dsd'"),
        ((1,), {"src": 2, "dst": 3}, "two values for the field 'src'"),
        ((1,), {}, "needs a value for the field 'dst'"),
        ((), {"dst": 1}, "needs a value for the field 'src'"),
        ((1, "2"), {}, "Entry.dst is int, not str"),
        ((1, 2), {"note": 3}, r"Entry.note is str\|None, not int"),
    ):
        with pytest.raises(TypeError, match=message):
            Entry(*args, **values)


def test_a_field_of_another_class_is_none_of_its_own(arena: Arena) -> None:
    """A Field taken out of its class refuses what is no record, and maps by name where one is stored with another schema."""
    field = Entry.__dict__["tags"]
    for stranger in (object(), 42, Plain):
        with pytest.raises(TypeError):
            field.__get__(stranger, type(stranger))
    for call in (lambda r: field.__get__(r, Plain), lambda r: field.__set__(r, [])):
        with pytest.raises(AttributeError):
            call(Plain(1, 2, 3.0))
    with arena.transaction(), pytest.raises(SchemaError):
        Entry.__dict__["src"].__get__(arena.root["x"] if isinstance(arena.root["x"], Record) else other(arena), Entry)


def other(arena: Arena) -> Any:
    """Return a stored record in which Entry's fields are not."""

    class Other(Record, name="made at once, other"):
        name: str

    arena.root["x"] = Other("n")
    return arena.root["x"]


def test_a_record_whose_init_was_not_called() -> None:
    """It is a TypeError that says so, and nothing worse."""

    class Odd(Plain):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="has to call that of Record"):
        _ = Odd().src


def test_a_field_of_a_base_class_is_one_of_its_own(arena: Arena) -> None:
    """`super().field` reads and writes what the class itself does, stored or not."""

    class Base(Record, name="made at once, base"):
        size: int

    class Wide(Base, name="made at once, wide"):
        more: int = 2

        def base_size(self) -> int:
            return super().size

    assert Wide(1).base_size() == 1
    record = Wide(1)
    Base.__dict__["size"].__set__(record, 5)
    assert record.to_python() == {"size": 5, "more": 2}
    with arena.transaction():
        arena.root["x"] = record
        assert arena.root["x"].base_size() == 5


def test_a_field_that_no_class_of_the_record_has_is_not_added(arena: Arena) -> None:
    """Setting it on a stored record is an AttributeError, though it has a default to migrate with; the transaction goes on."""

    class Stranger(Record, name="made at once, stranger"):
        far: int = 0

    class Near(Record, name="made at once, near"):
        one: int

    with arena.transaction():
        arena.root["x"] = Near(1)
        with pytest.raises(AttributeError, match="of another class than 'Near'"):
            Stranger.__dict__["far"].__set__(arena.root["x"], 5)
        arena.root["x"].one = 7
    assert arena.root["x"].to_python() == {"one": 7}


def test_a_record_whose_class_was_assigned_to(arena: Arena) -> None:
    """One that is not stored yet and has fewer values than its new class has fields is refused, read, written or stored."""

    class Few(Record, name="made at once, few"):
        one: int

    class Many(Record, name="made at once, many"):
        one: int
        two: int

    record: Any = Few(1)
    record.__class__ = Many
    with pytest.raises(TypeError, match="without values"):
        _ = record.two
    with pytest.raises(TypeError, match="without values"):
        record.two = 3
    with arena.transaction(), pytest.raises(TypeError, match="without values"):
        arena.root["x"] = record


def test_a_class_that_is_defined_while_its_name_is_looked_up_counts(arena: Arena) -> None:
    """Records that are read after that are of the new class, not for good of the one that was found before it."""

    class Late(Record, name="made at once, late"):
        one: int

    with arena.transaction():
        arena.root["x"] = Late(1)

    class Newer(Record, name="made at once, newer"):  # so that all are looked up again
        one: int

    def define(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_name == "_class_of":
            sys.setprofile(None)

            class Late(Record, name="made at once, late"):
                one: int
                two: int = 2

    try:
        sys.setprofile(define)
        assert not hasattr(arena.root["x"], "two")
    finally:
        sys.setprofile(None)
    assert arena.root["x"].two == 2
