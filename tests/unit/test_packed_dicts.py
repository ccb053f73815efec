"""A Dict or Set that is made of plain values lies in one block: what that costs, and that nobody can tell otherwise."""

from __future__ import annotations

import asyncio
import datetime
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, codecs

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRY = {"from": 12, "to": 34, "amount": 56}


@pytest.fixture
def arena(new_name: Any) -> Iterator[Arena]:
    """Give an arena with an audit that has grown to its usual shape."""
    with Arena.temporary("16 MiB", name=new_name()) as made:
        with made.transaction():
            made.root["audit"] = {}
        for i in range(40):
            with made.transaction():
                made.root["audit"][f"p-1-{i}"] = ENTRY
        yield made
        made.verify()


def test_an_entry_of_three_numbers_takes_245_bytes(arena: Arena) -> None:
    """What the heap gives away for an audit entry, its key in the audit included, is at most 245 bytes."""
    n, before = 4000, arena.stats().used
    with arena.transaction():
        for i in range(n):
            arena.root["audit"][f"p-2-{i}"] = ENTRY
    assert (arena.stats().used - before) / n <= 245


def test_a_transfer_takes_15_undo_records(arena: Arena) -> None:
    """Two balances and an audit entry are at most 15 undo records and 125 bytes, on average."""
    with arena.transaction():
        arena.root["accounts"] = Array([100] * 200, "i8")
    accounts, audit = arena.root["accounts"], arena.root["audit"]
    n, before = 100, arena.stats()
    for i in range(n):
        with arena.transaction():
            accounts[i] -= 1
            accounts[i + 1] += 1
            audit[f"p-3-{i}"] = ENTRY
    after = arena.stats()
    assert (after.undo_records - before.undo_records) / n <= 15
    assert (after.undo_bytes - before.undo_bytes) / n <= 125


def test_it_behaves_as_a_plain_dict(arena: Arena) -> None:
    """Reading, replacing, inserting, deleting, both orders of iteration: as the plain dict beside it, in and after the request."""
    plain: dict[Any, Any] = {"a": 1, 2: "two", None: 2.5, b"x": None, "long": "t" * 100, "big": 10**30, 7.5: True}
    with arena.transaction():
        arena.root["d"] = plain
        d = arena.root["d"]
        for step in range(6):
            if step == 1:
                plain["new"], d["new"] = 1, 1
            elif step == 2:
                plain["long"], d["long"] = [1, 2], [1, 2]
            elif step == 3:
                del plain[2], d[2]
            elif step == 4:
                plain[2], d[2] = {"k": "v"}, {"k": "v"}
            elif step == 5:
                assert plain.popitem() == d.popitem()
            assert d.to_python() == plain
            assert list(d) == list(plain)
            assert list(reversed(d)) == list(reversed(plain))
            assert len(d) == len(plain)
            assert "gone" not in d
    assert list(arena.root["d"].to_python().items()) == list(plain.items())
    arena.verify()
    with arena.transaction():
        arena.root["d"].clear()
        assert list(arena.root["d"]) == []
        arena.root["d"]["a"] = 2
    assert arena.root["d"].to_python() == {"a": 2}


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 40])
def test_sizes(arena: Arena, n: int) -> None:
    """Dicts and Sets of any size are stored alike, whether they fit into a block or not, and their memory is freed."""
    value = {f"key {i}": i for i in range(n)}
    before = arena.stats().used
    with arena.transaction():
        arena.root["d"], arena.root["s"] = value, set(value)
    assert arena.root["d"].to_python() == value
    assert set(arena.root["s"]) == set(value)
    arena.verify()
    with arena.transaction():
        del arena.root["d"], arena.root["s"]
    for i in range(5):
        with arena.transaction():
            arena.root["turn"] = i
    with arena.transaction():
        del arena.root["turn"]
    assert arena.stats().used == before


def test_what_does_not_fit_is_as_before(arena: Arena) -> None:
    """Nested containers, codecs' values, long keys and what can't be stored."""
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    value = {"at": moment, "k" * 100: (1, 2), "in": {"x": [1, {"y": 2}]}, "text": "t" * 1000}
    with arena.transaction():
        arena.root["d"] = value
        with pytest.raises(TypeError):
            arena.root["bad"] = {"fine": 1, "bad": object()}
        with pytest.raises(TypeError):
            arena.root["bad"] = {"fine": 1, (): object}
        assert "bad" not in arena.root
    assert arena.root["d"].to_python() == value


@pytest.mark.parametrize("plain", [1, 1.5, b"bytes", True, None])
def test_a_codec_for_a_plain_type_is_asked(arena: Arena, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that a program has registered for a type of Python's own makes the bytes of a value in a small dict, too."""
    asked: list[bytes] = []
    codec = codecs._Codec(
        type(plain), lambda value: repr(value).encode(), lambda data: asked.append(data) or plain, "plain"
    )
    monkeypatch.setitem(codecs._by_type, type(plain), codec)
    monkeypatch.setitem(codecs._by_name, "plain", codec)
    with arena.transaction():
        arena.root["d"] = {"key": plain}
    asked.clear()
    assert list(arena.root["d"].values()) == [plain]
    assert asked == [repr(plain).encode()]


def test_texts_and_numbers_of_all_sizes(arena: Arena) -> None:
    """Keys and values that are no ASCII, numbers beyond 64 bits, and what is just short or long enough."""
    texts = ["", "a", "\x7f", "\x80", "é", "\ud800", "𝄞", "x" * 14, "x" * 15, "k" * 64, "k" * 65]
    with arena.transaction():
        for i, text in enumerate(texts):
            arena.root[i] = {text: text, "last": 2**63 - 1 + i % 2}
    for i, text in enumerate(texts):
        assert arena.root[i].to_python() == {text: text, "last": 2**63 - 1 + i % 2}


async def test_an_insertion_is_seen_by_who_reads_values(arena: Arena) -> None:
    """A request that has added up the values of a Dict, and one that inserts a key, conflict: the sum is not committed."""
    with arena.transaction():
        arena.root["d"], arena.root["sum"] = {"a": 1}, 0
    runs = 0

    async def add_up() -> None:
        nonlocal runs
        runs += 1
        found = sum(arena.root["d"].values())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        arena.root["sum"] = found

    async def insert() -> None:
        arena.root["d"]["b"] = 2

    await asyncio.gather(arena.run(add_up), arena.run(insert))
    assert (runs, arena.root["sum"]) == (2, 3)


async def test_two_requests_insert_other_keys(arena: Arena) -> None:
    """Two that give one such Dict its first new keys across an await do not conflict; nor do writers of two of its values."""
    with arena.transaction():
        arena.root["d"] = {"a": 1, "b": 2}
    runs = 0

    async def insert(key: str) -> None:
        nonlocal runs
        runs += 1
        arena.root["d"][key + "!"] = key
        await asyncio.sleep(0)
        arena.root["d"][key + "?"] = key

    async def change(key: str) -> None:
        nonlocal runs
        runs += 1
        arena.root["d"][key] = key
        await asyncio.sleep(0)
        arena.root["d"][key] += "."

    await asyncio.gather(arena.run(insert, "x"), arena.run(insert, "y"), arena.run(change, "a"), arena.run(change, "b"))
    assert runs == 4
    assert arena.root["d"].to_python() == {"a": "a.", "b": "b.", "x!": "x", "x?": "x", "y!": "y", "y?": "y"}


async def test_a_deletion_waits_beside_others(arena: Arena) -> None:
    """A deletion across an await is not seen before the commit, and is done in what another has committed meanwhile."""
    with arena.transaction():
        arena.root["d"] = {"a": 1, "b": 2}

    async def delete() -> None:
        del arena.root["d"]["a"]
        await asyncio.sleep(0)
        assert "a" not in arena.root["d"]

    async def other() -> None:
        assert arena.root["d"]["b"] == 2
        arena.root["d"]["c"] = 3

    await asyncio.gather(arena.run(delete), arena.run(other))
    assert arena.root["d"].to_python() == {"b": 2, "c": 3}

    async def again() -> None:
        del arena.root["d"]["b"]
        arena.root["d"]["b"] = 4
        await asyncio.sleep(0)
        raise KeyError

    with pytest.raises(KeyError):
        await arena.run(again)
    assert list(arena.root["d"].to_python().items()) == [("b", 2), ("c", 3)]


async def test_its_own_is_kept_across_awaits(arena: Arena) -> None:
    """One that a request has made and not committed yet goes on with every change that the request has made to it."""

    async def make() -> None:
        arena.root["d"] = ENTRY
        await asyncio.sleep(0)
        arena.root["d"]["from"] = "another"
        await asyncio.sleep(0)
        arena.root["d"]["more"] = 1
        del arena.root["d"]["to"]
        await asyncio.sleep(0)
        assert arena.root["d"].to_python() == {"from": "another", "amount": 56, "more": 1}

    await arena.run(make)
    assert list(arena.root["d"].to_python().items()) == [("from", "another"), ("amount", 56), ("more", 1)]


def test_an_operation_that_fails_leaves_it(arena: Arena) -> None:
    """A savepoint that is left by an exception takes back changes of rows, deletions, and the first insertion."""
    with arena.transaction():
        arena.root["d"] = ENTRY
        d = arena.root["d"]
        with pytest.raises(RuntimeError), arena.savepoint():
            d["from"] = [1]
            d["more"] = 2
            del d["to"]
            raise RuntimeError
        assert d.to_python() == ENTRY
    assert arena.root["d"].to_python() == ENTRY


def test_iteration_notices_what_changes(arena: Arena) -> None:
    """Keys that come or go during an iteration are a RuntimeError, as for a dict; values may change."""
    with arena.transaction():
        arena.root["d"] = ENTRY
        d = arena.root["d"]
        for key in d:
            d[key] = 0
        for change in (lambda: d.pop("to"), lambda: d.update(new=1)):
            with pytest.raises(RuntimeError, match="changed its keys"):
                for _ in d:
                    change()
    for change in (lambda: d.pop("from"), lambda: d.update(newer=1)):
        with pytest.raises(RuntimeError, match="changed its keys"):
            for _ in d:
                with arena.transaction():
                    change()
    assert d.to_python() == {"amount": 0, "new": 1, "newer": 1}
