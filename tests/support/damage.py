"""Segments with changed words: one with every kind of container, where its structure lies, and what is done to it."""

from __future__ import annotations

import random
import struct
from typing import Any

from recoverable import Arena, Array, Counter, Deque, List, Record

__all__ = ["LONG", "Row", "damage", "fill", "targets"]

PAGE = 4096
LONG = "long " * 30


class Row(Record, name="fuzz.Row"):
    a: int = 0
    text: str = ""
    items: List[Any] = List()


def fill(arena: Arena) -> None:
    """Every kind of container, small and past its first size, and garbage that waits to be reclaimed."""
    root = arena.root
    with arena.transaction():
        root["dict"] = {i: {"x": LONG, "y": i} for i in range(12)}
        root["keys"] = {"k" * i: i for i in range(20)} | {10**40: 1, (1, "a"): 2, 1.5: 3, b"b": 4, None: 5}
        root["list"] = [*range(70), LONG, [1, [2]]]
        root["long"] = list(range(600))
        root["set"] = {*range(20), "member", LONG}
        root["deque"] = Deque([*range(150), LONG, {"n": 1}])
        root["bounded"] = Deque([1, [2]], 2)
        root["records"] = [Row(a=i, text=LONG, items=[i]) for i in range(5)]
        root["counter"] = Counter(7)
        root["array"] = Array((100,), "f8")
        root["values"] = [10**50, "x" * 15, b"y" * 40, 1.5, None, True, (1, (2, "three"))]
    with arena.transaction():
        root["gone"] = {i: [i] * 40 for i in range(60)}
        root["grown"] = {"a": 1, "b": LONG, "c": 3}  # of one block, to which more is added and in which a row is dead
        root["grown"].update(dict.fromkeys("defghijk", 4))
        del root["grown"]["a"]
    with arena.transaction():
        del root["gone"]  # more than a slice: some of it waits


def targets(data: bytes) -> tuple[list[int], list[int], list[int]]:
    """Offsets of words worth changing: those in the data that lead somewhere, all that are not zero, header and heap table."""
    regions = [struct.unpack_from("<QQ", data, 32 + 16 * i) for i in range(10)]
    first, size = regions[9]
    assert first + size <= len(data)
    assert first % PAGE == 0
    heap = regions[8][0]
    words = struct.unpack_from(f"<{(len(data) - heap) // 8}Q", data, heap)
    live = [heap + 8 * i for i, word in enumerate(words) if word]
    data_words = [at for at in live if at >= first]
    control = [at for at in live if at < first] + [8 * i for i in range(96)] * 2
    links = [
        at for at in data_words if first < words[(at - heap) // 8] < len(data) and words[(at - heap) // 8] % 8 == 0
    ]
    return links, data_words, control


INTERESTING = [0, 1, 2, 7, 8, 31, 32, 62, 512, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8]


def damage(data: bytearray, rng: random.Random, places: tuple[list[int], list[int], list[int]]) -> None:
    """Change one to four words: a bit, a word of its own kind from elsewhere, a neighbour's, an interesting number."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        pool = rng.choices(places, [5, 4, 1])[0]
        at = rng.choice(pool)
        word = struct.unpack_from("<Q", data, at)[0]
        match rng.randrange(7):
            case 0 | 1:
                word ^= 1 << rng.randrange(64)
            case 2:
                word = struct.unpack_from("<Q", data, rng.choice(pool))[0]
            case 3:
                word = rng.choice(INTERESTING)
            case 4:
                word = rng.choice(pool)  # an offset: of some structure, or itself
            case 5:
                word = (word + rng.choice([-64, -16, -8, -1, 1, 8, 16, 64, 4096])) % 2**64
            case _:
                word = (word & ~0xFFFFFFFF) | rng.randrange(2**32)
        struct.pack_into("<Q", data, at, word)
