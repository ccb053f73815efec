"""Damaged segments: whatever bytes lie in the file, opening and reading it ends, soon, with a result or our error.

Each mutation is tried in a forked child, so that a signal or a hang is seen for what it is. The seed is printed.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaCorruptError, RecoverableError
from support.forks import in_child
from support.scenarios import SIZE, prepare, raw_pages, state_of
from support.segments import Saved, path_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LIMIT = 10.0  # seconds for one child; each takes milliseconds


def make(name: str, die: bool) -> Saved:
    """Make a segment with some of everything, closed well or left by a process that died inside a step."""

    def run() -> None:
        arena = Arena.open(name, size=SIZE, feed="256 KiB")
        prepare(arena)
        for number, _ in enumerate(raw_pages(arena)):
            if number == 4:
                break
        with arena.transaction():
            for i in range(600):  # a table of two levels
                arena.root["many"][i] = i
            del arena.root["blob"]
        if not die:
            arena.close()
            return
        with arena.transaction():
            arena.root["n"]["m"]["x"] = 2
            arena.root["a"].view[[0, 600, 2000]] = 8
            arena.root["many"].clear()
            arena.root["lost"] = {"x": 1}
            os.kill(os.getpid(), 9)

    ending = in_child(run)
    assert ending.returned or ending.signal == 9, ending
    return Saved(name)


def examine(name: str) -> str:
    """Open, read, write and verify whatever is there: in a child."""
    try:
        arena = Arena.open(name, size=SIZE, busy_timeout=1.0)
    except RecoverableError as error:
        return type(error).__name__
    answers = []

    def attempt(function: Callable[[], Any]) -> None:
        try:
            function()
        except (RecoverableError, MemoryError, KeyError, RuntimeError, ValueError, UnicodeError) as error:
            answers.append(type(error).__name__)

    def write() -> None:
        with arena.transaction():
            arena.root["new"] = {"a": b"b" * 500}
            arena.root["many"]["x"] = 1
            arena.root["a"][0] += 1
            arena.root["a"].view[:] = 1

    def delete() -> None:
        with arena.transaction():
            del arena.root["many"], arena.root["n"], arena.root["a"]

    def more() -> None:
        for i in range(20):
            with arena.transaction():
                arena.root[i] = bytes(i * 100)

    def told() -> None:
        for commit in arena.feed(0, follow=False):
            commit.places()

    attempt(arena.verify)
    damaged = "ArenaCorruptError" in answers
    look = (told, lambda: state_of(arena), lambda: arena.root["a"].view.sum())
    for function in (*look, write, delete, more, told, arena.verify):
        attempt(function)
    attempt(arena.close)
    if not damaged and answers:
        return "sound, then " + ",".join(sorted(set(answers)))
    return "damage found" if damaged else "sound"


def mutate(saved: Saved, rng: random.Random) -> tuple[str, Saved]:
    """Return a copy with one wound, and what it is. Offsets are drawn mostly from where bytes are."""
    wounded = Saved.__new__(Saved)
    wounded.size, wounded.pieces = saved.size, list(saved.pieces)
    kind = rng.choice(["bit", "bit", "byte", "word", "word", "word", "run", "zero", "truncate", "swap"])
    if kind == "truncate":
        wounded.size = rng.choice([0, 1, 100, 4095, 4096, 8192, rng.randrange(saved.size)])
        wounded.pieces = [(at, piece[: wounded.size - at]) for at, piece in saved.pieces if at < wounded.size]
        return f"truncated to {wounded.size}", wounded
    which = rng.randrange(len(saved.pieces))
    at, piece = saved.pieces[which]
    data = bytearray(piece)
    full = [i for i in range(0, len(data), 64) if any(data[i : i + 64])]
    where = rng.choice(full) + rng.randrange(64) if full and rng.random() < 0.9 else rng.randrange(len(data))
    if kind == "bit":
        data[where] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[where] = rng.randrange(256)
    elif kind == "word":
        where -= where % 8
        old = struct.unpack_from("<Q", data, where)[0]
        new = rng.choice(
            [0, 1, old + 8, max(old, 8) - 8, 2**64 - 1, 2**63, 2**32, saved.size, saved.size - 8, rng.randrange(2**64),
             old ^ 2**rng.randrange(40)]
        )  # fmt: skip
        struct.pack_into("<Q", data, where, new % 2**64)
    elif kind == "run":
        size = rng.randrange(1, 200)
        data[where : where + size] = rng.randbytes(len(data[where : where + size]))
    elif kind == "zero":
        size = rng.choice([8, 64, 4096])
        data[where : where + size] = bytes(len(data[where : where + size]))
    else:
        other = rng.choice(full or [0])
        data[where : where + 16], data[other : other + 16] = data[other : other + 16], data[where : where + 16]
    wounded.pieces[which] = (at, bytes(data))
    return f"{kind} at {at + where}", wounded


@pytest.mark.parametrize("die", [False, True], ids=["closed", "died in a step"])
def test_no_bytes_crash_or_hang_who_opens_them(die: bool, name: str, seed: int) -> None:
    """Flipped bits, wrong words, zeroes, truncations: an error of ours or a sound arena, never a signal or a hang."""
    saved = make(name, die)
    saved.put(name)
    clean = in_child(lambda: examine(name), LIMIT)
    assert clean.value == "sound", clean
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    for number in range(int(os.environ.get("RECOVERABLE_MUTATIONS", "250"))):
        what, wounded = mutate(saved, rng)
        wounded.put(name)
        ending = in_child(lambda: examine(name), LIMIT)
        assert ending.returned, f"seed {seed}, mutation {number}, {what}: {ending}"
        ends[ending.value] += 1
    print(dict(ends))


@pytest.mark.parametrize("word", range(4))
@pytest.mark.parametrize("cost", [0, 2**63, 2**64 - 1])
def test_costs_that_can_not_be_are_measured_again(word: int, cost: int, name: str) -> None:
    """What page faults cost, as the segment says, may be anything: nobody divides by it, and no sum of it runs over."""

    def run() -> tuple[int, ...]:
        with contextlib.closing(Arena.open(name, "1 MiB")) as arena:
            stats = arena.stats()
        costs = [stats.cost_trap_ns, stats.cost_protect_ns, stats.cost_compare_ns, stats.cost_copy_ns]
        with path_of(name).open("r+b") as file:
            at = file.read(4096).index(struct.pack("=4Q", *costs))
            file.seek(at + 8 * word)
            file.write(struct.pack("=Q", cost))
        with contextlib.closing(Arena.open(name)) as arena:
            stats = arena.stats()
        return stats.cost_trap_ns, stats.cost_protect_ns, stats.cost_compare_ns, stats.cost_copy_ns

    ending = in_child(run)
    path_of(name).unlink(missing_ok=True)
    assert ending.returned, ending
    assert max(ending.value) < 10**9


@pytest.mark.parametrize("size", [0, 1, 7, 64, 4095, 4096, 10_000, 1 << 20])
@pytest.mark.parametrize("filling", ["zeros", "ones", "noise"])
def test_files_that_never_were_segments(size: int, filling: str, name: str) -> None:
    """A file of that name with anything in it is refused by name; without create nothing of it is changed."""
    content = {"zeros": bytes(size), "ones": b"\xff" * size, "noise": random.Random(size).randbytes(size)}[filling]
    path_of(name).write_bytes(content)
    path_of(name).chmod(0o600)

    def run() -> str:
        try:
            Arena.open(name, create=False).close()
        except RecoverableError as error:
            return type(error).__name__
        return "opened"

    ending = in_child(run, LIMIT)
    assert ending.returned, ending
    assert ending.value.endswith("Error"), ending
    assert path_of(name).read_bytes() == content


def test_damage_is_found_by_those_that_are_attached(name: str) -> None:
    """Bytes scribbled over while a process is attached give it an error of ours at its next access, and no hang."""
    saved = make(name, die=False)
    rng = random.Random(5)

    def run(wounded: Saved) -> str:
        arena = Arena.open(name, create=False, busy_timeout=1.0)
        with path_of(name).open("r+b") as file:
            for at, piece in wounded.pieces:
                if at >= wounded_from:
                    os.pwrite(file.fileno(), piece, at)
        seen = []
        for function in (arena.verify, lambda: state_of(arena), arena.close):
            try:
                function()
            except (RecoverableError, KeyError, RuntimeError, ValueError, UnicodeError) as error:
                seen.append(type(error).__name__)
        return ",".join(seen)

    wounded_from = 8192  # not the header: its lock is live
    for number in range(60):
        what, wounded = mutate(saved, rng)
        if what.startswith("truncate"):
            continue
        saved.put(name)
        ending = in_child(partial(run, wounded), LIMIT)
        assert ending.returned, f"mutation {number}, {what}: {ending}"


@pytest.mark.parametrize("change", ["reverse", "insert", "delete"])
def test_a_list_whose_items_lie_over_its_own_table_is_refused(change: str, name: str) -> None:
    """Moving items of a List whose chunk was made to overlap the table leading to it is damage; the header stays whole."""
    items = list(range(1000, 1096))
    with Arena.open(name, size=SIZE) as arena, arena.transaction():
        arena.root["l"] = items
    data = bytearray(path_of(name).read_bytes())
    tag = data[data.find(struct.pack("<q", 1000)) - 8]
    chunks = [data.find(struct.pack("<BxHIqBxHIq", tag, 0, 0, i, tag, 0, 0, i + 1)) for i in (1000, 1032, 1064)]
    table = data.find(struct.pack("<3Q", *chunks))
    assert min(*chunks, table) > 0
    struct.pack_into("<Q", data, table + 8, table - 8)  # item 32 lies over the first word, item 33 over the third
    path_of(name).write_bytes(data)

    def use() -> str:
        arena = Arena.open(name, create=False)
        with pytest.raises(ArenaCorruptError), arena.transaction():
            match change:
                case "reverse":
                    arena.root["l"].reverse()
                case "insert":
                    arena.root["l"].insert(0, 1)
                case _:
                    del arena.root["l"][0]
        return "damage found"

    ending = in_child(use, LIMIT)
    assert ending.value == "damage found", ending
    assert path_of(name).read_bytes()[:64] == bytes(data[:64])
