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

from recoverable import Arena, RecoverableError
from support.damage import LONG, Row, damage, fill, targets
from support.forks import in_child

AMOUNT = int(os.environ.get("RECOVERABLE_FUZZ", "2000"))
BATCH = 250  # segments a child
SECONDS = 10  # for one segment, whatever else the machine does
SHARED = Path("/dev/shm")
PAGE = 4096


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


def test_no_damage_crashes_or_hangs(new_name: Callable[[], str], seed: int, tmp_path: Path) -> None:
    """Segments with changed words: opening, reading, writing and verify() end in an error of ours or well."""
    name = new_name()
    with Arena.open(name, size="1536 KiB", undo_size="256 KiB") as arena:
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
