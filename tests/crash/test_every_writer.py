"""Kills of four processes while everybody writes who may.

Native threads through raw views, edits that are followed by an await, codecs that try a transaction of their own, plain
transfers; two of the processes live in PID namespaces of their own.

After each kill the committed state is read in one transaction and held against what must always be true of it, and against
what the dead process had been told: nothing lost, nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from recoverable import Arena, Array, ConflictError, TransactionError, codecs, recoverable

np = pytest.importorskip("numpy")

KILLS = int(os.environ.get("RECOVERABLE_KILLS", "36")) // 2  # for each way of tracking
PLACES, IN_FLIGHT, THREADS = 4, 3, 3
ACCOUNTS, ROWS, WIDTH, CELLS = 12, 6, 5 * 4096, 64
NEW_PID_NAMESPACE = 0x20000000  # CLONE_NEWPID
libc = ctypes.CDLL(None, use_errno=True)
memset = libc.memset
memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(120 + KILLS)]


class Money:
    """A value whose codec uses the arena in the middle of the operation that stores it."""

    arena: Arena | None = None
    refused = 0

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def encode(self) -> bytes:
        """Try to commit something of its own; it is refused, and the operation goes on."""
        assert Money.arena is not None
        try:
            with Money.arena.transaction(independent=True):
                Money.arena.root["audit"] = self.cents
        except TransactionError:
            Money.refused += 1
        return str(self.cents).encode()


class Crash(Exception):
    """A handler's bug."""


class Worker:
    """What one process does, in a forked child, until it is killed.

    Args:
        arena: The arena, opened there.
        name: Of this life of the process.
        file: Where it writes which requests it has begun, and which have been answered.
        seed: Of its randomness.
    """

    def __init__(self, arena: Arena, name: str, file: int, seed: int) -> None:
        self.arena, self.name, self.file = arena, name, file
        self.rng = random.Random(seed)
        self.pool = ThreadPoolExecutor(THREADS)

    def run(self) -> None:
        """Keep a few requests in flight for ever."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        asyncio.run(self.main())

    async def main(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in range(IN_FLIGHT):
                tasks.create_task(self.lane(lane))

    async def lane(self, lane: int) -> None:
        for number in range(10**9):
            kind = self.rng.choice(("transfer", "matrix", "matrix", "edit", "money"))
            key = f"{self.name}.{lane}.{number}"
            os.write(self.file, f"b {key} {kind}\n".encode())
            try:
                await self.request(key, kind, self.rng.randrange(2**31))
            except (ConflictError, Crash):
                continue
            os.write(self.file, f"a {key} {kind}\n".encode())

    @recoverable
    async def request(self, key: str, kind: str, seed: int) -> None:
        rng, root = random.Random(seed), self.arena.root
        await getattr(self, kind)(root, rng)
        root["ledger"][key] = kind
        root["done"][kind] = root["done"][kind] + 1
        if rng.random() < 0.1:
            raise Crash

    async def transfer(self, root: Any, rng: random.Random) -> None:
        one, other = rng.sample(range(ACCOUNTS), 2)
        accounts, amount = root["accounts"], rng.randrange(100)
        accounts[one] -= amount
        await asyncio.sleep(0)
        accounts[other] += amount

    async def matrix(self, root: Any, rng: random.Random) -> None:
        """Have threads that never heard of the arena fill a row; keep the view over an await, now and then."""
        row, version = rng.randrange(ROWS), rng.randrange(256)
        view = root["W"].view
        part, start = WIDTH // THREADS + 1, view.ctypes.data + row * WIDTH
        waiting = [self.pool.submit(memset, start + at, version, min(part, WIDTH - at)) for at in range(0, WIDTH, part)]
        for future in waiting:
            future.result()
        root["rows"][row] = version
        if rng.random() < 0.5:
            del view
        if rng.random() < 0.5:
            await asyncio.sleep(0)

    async def edit(self, root: Any, rng: random.Random) -> None:
        """Change one cell of a range that others edit, too."""
        cell = rng.randrange(CELLS)
        with root["E"].edit(slice(cell // 8 * 8, cell // 8 * 8 + 8)) as part:
            part[cell % 8] += 1
        await asyncio.sleep(0)
        root["cells"][cell] = root["cells"][cell] + 1

    async def money(self, root: Any, rng: random.Random) -> None:
        cents = rng.randrange(10**6)
        root["money"][rng.randrange(8)] = {"cents": cents, "lines": [Money(cents), [Money(cents)]]}


def fill(arena: Arena) -> None:
    """Put the beginning there."""
    with arena.transaction():
        root = arena.root
        root["accounts"] = dict.fromkeys(range(ACCOUNTS), 1000)
        root["W"], root["rows"] = Array((ROWS, WIDTH), "u1"), dict.fromkeys(range(ROWS), 0)
        root["E"], root["cells"] = Array(CELLS, "i8"), dict.fromkeys(range(CELLS), 0)
        root["money"], root["audit"], root["ledger"] = {}, 0, {}
        root["done"] = dict.fromkeys(("transfer", "matrix", "edit", "money"), 0)


class Place:
    """One of the processes, and those that follow it."""

    def __init__(self, arena: Arena, number: int, folder: Path, *, namespaced: bool, tracking: str) -> None:
        self.arena, self.number, self.folder = arena, number, folder
        self.namespaced, self.tracking = namespaced, tracking
        self.life = self.pid = self.guard = 0

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.number}-{self.life}"

    def start(self, seed: int) -> None:
        """Fork the next life."""
        self.life += 1
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if self.namespaced:
                    libc.unshare(NEW_PID_NAMESPACE)
                    if (inner := os.fork()) != 0:
                        os.write(writer, f"{inner}\n".encode())
                        os._exit(0 if os.WIFSIGNALED(os.waitpid(inner, 0)[1]) else 1)
                else:
                    os.write(writer, f"{os.getpid()}\n".encode())
                file = os.open(self.journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
                arena = self.arena
                if self.life % 2:  # a mapping of its own; else the one that it has inherited
                    name = arena.name
                    arena.close()
                    arena = Arena.open(name, create=False, tracking=self.tracking)
                Money.arena = arena
                Worker(arena, f"{self.number}-{self.life}", file, seed).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writer)
        with open(reader) as told:  # noqa: PTH123 -- a descriptor
            self.pid = int(told.readline())
        self.guard = pid if pid != self.pid else 0

    def kill(self) -> None:
        """End it at once."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.guard or self.pid, 0)[1]
        self.pid = 0
        killed = os.WIFSIGNALED(status) if not self.guard else status == 0  # the guard tells how its child ended
        assert killed, f"place {self.number} ended by itself: {status}"

    def tell(self) -> tuple[dict[str, str], set[str]]:
        """Give what the dead life had begun, by kind, and what it knows to be committed."""
        begun, answered = {}, set()
        text = self.journal.read_text() if self.journal.exists() else ""
        for line in text.splitlines():
            what, key, kind = line.split()
            if what == "b":
                begun[key] = kind
            else:
                answered.add(key)
        return begun, answered


def examine(arena: Arena) -> dict[str, Any]:
    """Hold one committed state against what is always true of it; give the ledger."""
    with arena.transaction():
        root = arena.root
        assert sum(root["accounts"].values()) == 1000 * ACCOUNTS
        rows = dict(root["rows"].items())
        for row in range(ROWS):
            found = np.unique(root["W"][row])
            assert list(found) == [rows[row]], f"row {row} holds {found}, not {rows[row]}"
        assert list(root["E"][:]) == [root["cells"][n] for n in range(CELLS)]
        for entry in root["money"].values():
            money, nested = entry["lines"]
            assert money.cents == nested[0].cents == entry["cents"]
        assert root["audit"] == 0
        done, ledger = dict(root["done"].items()), dict(root["ledger"].items())
        assert sum(root["cells"].values()) == done["edit"]
    assert Counter(ledger.values()) == Counter({kind: n for kind, n in done.items() if n})
    return ledger


def namespaces_allowed() -> bool:
    """Whether a process may make a PID namespace here: a forked one tries."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(NEW_PID_NAMESPACE) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("tracking", ["hybrid", "trap"])
def test_kills_lose_nothing_whoever_writes(name: str, seed: int, tmp_path: Path, tracking: str) -> None:
    """After each of many kills every promise holds: rows are whole, sums are right, answers stand, nothing ran twice."""
    with contextlib.suppress(ValueError):
        codecs.register_codec(Money, encode=Money.encode, decode=lambda raw: Money(int(raw)), name="test-money")
    rng, namespaced = random.Random(seed), namespaces_allowed()
    counts: Counter[str] = Counter()
    with Arena.temporary("64 MiB", name=name, tracking=tracking) as arena:
        Money.arena = arena
        fill(arena)
        places = [
            Place(arena, n, tmp_path, namespaced=namespaced and n >= PLACES // 2, tracking=tracking)
            for n in range(PLACES)
        ]
        try:
            for place in places:
                place.start(rng.randrange(2**31))
            for kill in range(KILLS):
                time.sleep(rng.uniform(0.002, 0.06))  # a moment, not a measure: any is right
                place = rng.choice(places)
                place.kill()
                ledger = examine(arena)
                begun, answered = place.tell()
                own = {key for key in ledger if key.startswith(f"{place.number}-{place.life}.")}
                assert answered <= own <= begun.keys(), (answered - own, own - begun.keys())
                assert all(ledger[key] == begun[key] for key in own)
                counts["requests"] += len(begun)
                counts["committed"] += len(own)
                counts["unanswered"] += len(own - answered)
                if kill % 16 == 0:
                    arena.verify()
                place.start(rng.randrange(2**31))
        finally:
            for place in places:
                place.kill()
        ledger = examine(arena)
        counts["in all"] = len(ledger)
        arena.verify()
        print(
            f"{KILLS} kills, {tracking}, namespaces {namespaced}: {dict(counts)}; repaired {arena.stats().recoveries}"
        )
    assert counts["committed"] > KILLS
