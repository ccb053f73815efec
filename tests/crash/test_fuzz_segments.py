"""Damaged segments by the thousand: whatever is done with one ends in an error of ours or well, soon, and never in a signal.

A closed segment's bytes are changed at places that hold structure (found by walking it), by a seed; a forked child opens the
segment, reads all, writes, verifies and closes, many of them one after the other, under an alarm. A child that dies or hangs
tells the seed. RECOVERABLE_FUZZ says how many: 10,000 and more where there is a minute for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Array, Counter, Deque, List, Record, RecoverableError
from support.forks import in_child

AMOUNT = int(os.environ.get("RECOVERABLE_FUZZ", "2000"))
BATCH = 250  # segments a child
SECONDS = 10  # for one segment, whatever else the machine does
SHARED = Path("/dev/shm")
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
    with arena.transaction():
        del root["gone"]  # more than a slice: some of it waits


def use(arena: Arena, rng: random.Random) -> None:
    """Read all, write everywhere; each piece may fail by itself."""
    errors = contextlib.suppress(RecoverableError)
    root = arena.root
    names = ["dict", "keys", "list", "long", "set", "deque", "bounded", "records", "counter", "array", "values"]
    with errors:
        arena.verify()
    with errors:
        root.to_python()
    for name in names:
        with errors, missing():
            there = root[name]
            repr(there)
            len(there) if name != "counter" else there.value
            there.to_python()
    steps: list[Callable[[], Any]] = [
        lambda: root["dict"].__setitem__("new", LONG),
        lambda: root["dict"].pop(3),
        lambda: root["dict"].__setitem__(5, [LONG]),
        lambda: root["dict"].popitem(),
        lambda: root["keys"].update(dict.fromkeys(range(30, 60))),
        lambda: [root["keys"].get("k" * i) for i in range(25)],
        lambda: root["keys"].clear(),
        lambda: root["list"].append({"a": LONG}),
        lambda: root["list"].insert(3, LONG),
        lambda: root["list"].__delitem__(slice(5, 40, 3)),
        lambda: root["list"].sort(key=repr),
        lambda: root["list"].pop(),
        lambda: root["long"].extend(range(100)),
        lambda: root["long"].__delitem__(slice(10, 500)),
        lambda: root["long"].reverse(),
        lambda: root["set"].update(range(15, 40)),
        lambda: root["set"].discard(3),
        lambda: root["set"].clear(),
        lambda: [root["deque"].popleft() for _ in range(80)],
        lambda: [root["deque"].pop() for _ in range(30)],
        lambda: root["deque"].extend(range(70)),
        lambda: root["deque"].rotate(9),
        lambda: root["deque"].reverse(),
        lambda: root["deque"].__setitem__(20, [1]),
        lambda: root["deque"].clear(),
        lambda: root["bounded"].append({"x": 1}),
        lambda: setattr(root["records"][1], "text", "new"),
        lambda: setattr(root["records"][2], "items", [LONG]),
        lambda: root["records"].pop(0),
        lambda: root["counter"].add(1),
        lambda: root["array"].__setitem__(3, 1.0),
        lambda: root.__setitem__("more", {"a": [1, LONG], "r": Row(text=LONG)}),
        lambda: root.__delitem__(rng.choice(names)),
        lambda: root.__delitem__(rng.choice(names)),
    ]
    rng.shuffle(steps)
    for first in range(0, len(steps), 6):
        with errors, arena.transaction():
            for step in steps[first : first + 6]:
                with errors, missing():
                    step()
            if rng.random() < 0.2:
                raise RecoverableError
    for turn in range(4):
        with errors, arena.transaction():
            root["turn"] = turn
    with errors:
        arena.verify()


@contextlib.contextmanager
def missing() -> Iterator[None]:
    """Swallow what a container that holds something else, or less, than expected may rightly raise."""
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        yield


def targets(data: bytes) -> tuple[list[int], list[int], list[int]]:
    """Offsets of words worth changing: those in the data that lead somewhere, all that are not zero, header and heap table."""
    regions = [struct.unpack_from("<QQ", data, 32 + 16 * i) for i in range(9)]
    first, size = regions[8]
    assert first + size <= len(data)
    assert first % PAGE == 0
    heap = regions[7][0]
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


def test_no_damage_crashes_or_hangs(new_name: Callable[[], str], seed: int, tmp_path: Path) -> None:
    """Segments with changed words: opening, reading, writing and verify() end in an error of ours or well."""
    name = new_name()
    with Arena.open(name, size="1 MiB", undo_size="256 KiB") as arena:
        fill(arena)
    file = SHARED / f"recoverable.{name}"
    sound = file.read_bytes()
    places = targets(sound)
    at = mmap.mmap(-1, PAGE)  # where the child is: shared with us
    problems, outcomes, number, hangs = [], [0, 0], 0, 0
    while number < AMOUNT and len(problems) < 10:

        def batch(start: int = number) -> tuple[int, int]:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            libc = ctypes.CDLL(None)
            libc.prctl(1, signal.SIGKILL)
            refused = 0
            with file.open("r+b") as out:
                for i in range(start, min(start + BATCH, AMOUNT)):
                    at[:8] = struct.pack("<Q", i)
                    signal.alarm(SECONDS)
                    rng = random.Random(f"{seed}.{i}")
                    data = bytearray(sound)
                    damage(data, rng, places)
                    out.seek(0)
                    out.write(data)
                    out.flush()
                    try:
                        arena = Arena.open(name, create=False)
                    except RecoverableError:
                        refused += 1
                        continue
                    try:
                        use(arena, rng)
                    finally:
                        with contextlib.suppress(RecoverableError):
                            arena.close()
                signal.alarm(0)
            return refused, min(start + BATCH, AMOUNT) - start - refused

        ending = in_child(batch, timeout=BATCH * SECONDS)
        if ending.returned:
            outcomes = [a + b for a, b in zip(outcomes, ending.value, strict=True)]
            number += BATCH
        else:
            reached = struct.unpack("<Q", at[:8])[0]
            hangs += ending.signal == signal.SIGALRM
            kept = bytearray(sound)  # the hash secret is another in each run: keep the bytes
            damage(kept, random.Random(f"{seed}.{reached}"), places)
            (tmp_path / str(reached)).write_bytes(kept)
            problems.append(f"segment {reached} (--seed={seed}), kept as {tmp_path / str(reached)}: {ending}")
            number = reached + 1
    print(f"{outcomes[0]} refused at opening, {outcomes[1]} used, {len(problems)} problems, {hangs} of them hung")
    assert not problems, "\n".join(problems)


test_no_damage_crashes_or_hangs = pytest.mark.slow(
    pytest.mark.crash(pytest.mark.timeout(1200)(test_no_damage_crashes_or_hangs))
)
