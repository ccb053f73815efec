"""A Dict or Set in one block at its edges: keys that are nearly one key, sizes at the bounds, what is freed, what conflicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from recoverable import Arena, ConflictError, Dict, List, register_codec
from support.workers import Request, pause


@pytest.fixture
def sound(arena: Arena) -> Iterator[Arena]:
    """Give an arena that is sound at the end, too."""
    yield arena
    arena.verify()


def blocks(arena: Arena) -> int:
    """Return how many blocks all of it takes."""
    return arena.verify().blocks


def turn(arena: Arena, n: int) -> None:
    """Make as many commits of nothing much, after each of which a part of what was cut off is freed."""
    for i in range(n):
        with arena.transaction():
            arena.root["turn"] = i


@pytest.mark.parametrize(
    "keys",
    [
        ["a", b"a"],
        [b"a", "a"],
        ["", b"", None],
        ["aa", "a", "aaa"],
        [1, (1).to_bytes(8, "little"), 2**64, 1.5],
        [True, 2.0, 0, False + 3, 2**70, float(2**80)],
        ["\ud800", "\udfff", "é" * 32],
        [math.inf, -math.inf, 5e-324, -(2**63), 2**63],
        [(1, 2), (1, "2"), ((1,), 2)],
    ],
    ids=repr,
)
def test_keys_that_are_nearly_one(sound: Arena, keys: list[Any]) -> None:
    """Each has its own value, is found as what it was, and is absent where only its like is there."""
    value = {key: i for i, key in enumerate(keys)}
    with sound.transaction():
        sound.root["d"], sound.root["s"] = value, set(keys)
        for key in keys:
            sound.root[repr(key)] = {key: 0}
    found = sound.root["d"].to_python()
    assert [(type(key), key, i) for key, i in found.items()] == [(type(key), key, i) for key, i in value.items()]
    for key in keys:
        assert sound.root["d"][key] == value[key]
        assert key in sound.root["s"]
        assert [other in sound.root[repr(key)] for other in keys] == [other is key for other in keys]
    with sound.transaction():
        del sound.root["d"][keys[0]]
        assert [key in sound.root["d"] for key in keys] == [False] + [True] * (len(keys) - 1)


def test_keys_that_are_one_in_an_arena_only(sound: Arena) -> None:
    """Two NaNs are two keys of a dict and one of an arena's: the later value counts, as where each is set by itself."""
    one, other = float("nan"), float("nan")
    with sound.transaction():
        sound.root["d"] = {one: 1, "x": 2, other: 3}
        sound.root["s"] = {one, other, 1}
    assert (sound.root["d"][math.nan], len(sound.root["d"]), len(sound.root["s"])) == (3, 2, 2)


@pytest.mark.parametrize("size", [0, 1, 4, 5, 63, 64, 65, 255, 256, 257, 300, 5000])
def test_lengths_of_keys(sound: Arena, size: int) -> None:
    """A key of any length is stored, in one block with the Dict up to 64 bytes."""
    value = {"k" * size: 1, b"k" * size: 2, "other": 3}
    before = blocks(sound)
    with sound.transaction():
        sound.root["d"] = value
    assert blocks(sound) - before == (2 if size <= 64 else 5)  # and the one by which the root has it
    assert sound.root["d"].to_python() == value


@pytest.mark.parametrize(("n", "expected"), [(1, 2), (16, 2), (17, 18)])
def test_numbers_of_keys(sound: Arena, n: int, expected: int) -> None:
    """Sixteen keys are one block, seventeen are more."""
    before = blocks(sound)
    with sound.transaction():
        sound.root["d"] = dict.fromkeys(range(n), 0)
    assert blocks(sound) - before >= expected
    assert (blocks(sound) - before == expected) == (n <= 16)
    before = blocks(sound)
    with sound.transaction():
        sound.root["s"] = set(range(n))
    assert (blocks(sound) - before == expected) == (n <= 16)


def test_a_codec_is_asked_once(sound: Arena) -> None:
    """Of a dict that has a container among its values, and of one that has none."""
    asked: list[Any] = []

    class Money(int):
        pass

    def encode(money: Money) -> bytes:
        asked.append(int(money))
        return int(money).to_bytes(4, "little")

    register_codec(Money, encode, lambda data: Money(int.from_bytes(data, "little")), name="packed-edges-money")
    with sound.transaction():
        sound.root["d"] = {"price": Money(1), "more": 2}
        sound.root["e"] = {"price": Money(3), "more": [2]}
    assert asked == [1, 3]


def test_all_of_it_is_freed(sound: Arena) -> None:
    """Texts, containers and later entries of many go with them, in slices; deleted rows' went before."""
    turn(sound, 1)
    before, used = blocks(sound), sound.stats().used
    with sound.transaction():
        sound.root["all"] = {}
        for i in range(30):
            sound.root["all"][i] = {"text": "t" * 100, "bytes": b"b" * 100, "gone": "g" * 100, "in": 0}
            sound.root["all"][str(i)] = {"t" * 20, "u" * 20}
    with sound.transaction():
        for i in range(30):
            one = sound.root["all"][i]
            one["in"] = {"deep": "d" * 100}
            del one["gone"]
            one.update({str(n): "n" * 40 for n in range(i * 3)})
            sound.root["all"][str(i)].update(range(i))
    with sound.transaction():
        del sound.root["all"]
    for _ in range(60):
        turn(sound, 1)
        sound.verify()
    assert (blocks(sound), sound.stats().used) == (before, used)


def test_waiting_keeps_no_memory(sound: Arena) -> None:
    """The first entry of one needs a block, once, however often its request suspends, and whether it commits or not."""

    async def grows(fails: bool) -> None:
        for i in range(4):
            sound.root["d"][f"new {i}"] = i
            await pause()
        if fails:
            raise OSError

    with sound.transaction():
        sound.root["d"] = {"a": 1}
    before, used = blocks(sound), sound.stats().used
    with pytest.raises(OSError):
        Request(sound, grows, True).finish()
    assert (blocks(sound), sound.stats().used) == (before, used)
    Request(sound, grows, False).finish()
    assert blocks(sound) == before + 1 + 4
    with sound.transaction():
        sound.root["d"] = {"a": 1}
    turn(sound, 3)
    with sound.transaction():
        del sound.root["turn"]
    turn(sound, 1)
    with sound.transaction():
        del sound.root["turn"]
    assert sound.stats().used == used


@pytest.mark.parametrize("change", ["clear", "del", "pop", "replace", "insert"])
@pytest.mark.parametrize("read", ["key", "absent", "len", "order", "values"])
def test_who_conflicts(sound: Arena, change: str, read: str) -> None:
    """A request that has read a key, or the whole, conflicts with one that changes that meanwhile, and with no other."""
    with sound.transaction():
        sound.root["d"] = {"a": 1, "b": 2}

    def look() -> Any:
        d = sound.root["d"]
        if read in ("key", "absent"):
            return d.get("a" if read == "key" else "new")
        return len(d) if read == "len" else list(d) if read == "order" else list(d.values())

    async def reads() -> None:
        seen = look()
        await pause()
        assert seen == look()
        sound.root["seen"] = repr(seen)

    request = Request(sound, reads)
    request.step()
    with sound.transaction():
        d = sound.root["d"]
        if change == "clear":
            d.clear()
        elif change == "del":
            del d["a"]
        elif change == "pop":
            assert d.popitem() == ("b", 2)
        elif change == "replace":
            d["a"] = 3
        else:
            d["new"] = 1
    touched = {"clear": {"key", "len", "order", "values"}, "del": {"key", "len", "order", "values"},
               "pop": {"len", "order", "values"}, "replace": {"key", "values"},
               "insert": {"absent", "len", "order", "values"}}  # fmt: skip
    if read in touched[change]:
        with pytest.raises(ConflictError):
            request.step()
    else:
        request.step()
        assert "seen" in sound.root


def test_a_conflict_names_the_key(sound: Arena) -> None:
    """Where a conflict was lost is said by the key, of one in the block as of one that was inserted later."""
    with sound.transaction():
        sound.root["d"] = {"first": 1, "second": 2}
        sound.root["d"]["third"] = 3
    for key in ("second", "third"):

        async def adds(key: str = key) -> None:
            sound.root["d"][key] += 1
            await pause()
            sound.root["d"][key] += 1

        request = Request(sound, adds)
        request.step()
        with sound.transaction():
            sound.root["d"][key] = 10
        with pytest.raises(ConflictError, match=f"'{key}'"):
            request.step()


class Meddler:
    """A value whose codec changes what it lies in."""

    def __init__(self, meddle: Any = None) -> None:
        self.meddle = meddle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Meddler)

    def __hash__(self) -> int:
        return 0


def encode_meddler(value: Meddler) -> bytes:
    """Change it, then be stored."""
    value.meddle()
    return b""


register_codec(Meddler, encode_meddler, lambda data: Meddler(), name="packed-meddler")


@pytest.mark.parametrize("meddle", ["clear", "grow"])
@pytest.mark.parametrize("kind", [list, dict, List, Dict])
def test_a_codec_that_changes_what_its_value_lies_in(sound: Arena, kind: Any, meddle: str) -> None:
    """Stored is what it was when it was assigned."""
    plain: Any = [] if kind in (list, List) else {}
    if kind in (list, List):
        change = plain.clear if meddle == "clear" else lambda: plain.extend(["x"] * 1000)
        plain += [1, Meddler(change), "end"]
        expected: Any = [1, Meddler(), "end"]
    else:
        change = plain.clear if meddle == "clear" else lambda: plain.update({str(i): "x" for i in range(1000)})
        plain |= {"a": 1, "b": Meddler(change), "c": "end"}
        expected = {"a": 1, "b": Meddler(), "c": "end"}
    with sound.transaction():
        sound.root["it"] = plain if kind in (list, dict) else kind(plain)
    assert sound.root["it"].to_python() == expected
    assert len(plain) == (0 if meddle == "clear" else 1003)
