"""One bank on each store that people would take for it, as a competent user of that store writes it.

| rival | file | how |
|---|---|---|
| plain Python | `plain.py` | dicts, unprotected; what the others are compared with |
| undo by hand | `plain.py` | the same, a lock an account, and an `except` that puts everything back |
| recoverable | `ours.py` | the handler of plain Python, decorated; under `protect="all"`; or one block after the await |
| SQLite | `sqlite.py` | WAL with synchronous OFF or NORMAL on a file, or `:memory:`; the await first, then one transaction |
| LMDB | `lmdb.py` | in process, no sync, a writable map; the await first, then one transaction |
| ZODB | `zodb.py` | FileStorage (synced at each commit), BTrees, all of it cached; the await first, then one transaction |
| Redis | `redis.py` | a server beside, by its socket; one Lua script, or WATCH and MULTI |
| PostgreSQL | `postgres.py` | a server beside, by its socket; the await first, then one transaction; synchronous_commit off |

`DURABLE` has the same banks, told to keep it on a disk. Where a store has no group commit, one more commits all that wait at
once, in a thread (`grouped.py`).

A bank moves money between accounts and writes down each transfer under the id that the client chose. Between the debit and
the credit, or before both where the store should not wait in between, it asks another service, which takes 2 ms. Those that
wait first look at the balance before that, too, but for Redis and PostgreSQL, where each look is a message there and back.

A rival is a class here; it says what a user would write (`open`, `transfer`), whose lines are counted, and how its books are
read, so that `compare.py` can see what became of the money.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import importlib
import inspect
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNTS, OPENING = 10_000, 10_000
WAIT = 0.002  # seconds that the other service takes
CRASHING = "crash"  # a transfer whose id begins like this meets a bug between its debit and its credit


class Low(Exception):
    """The account does not hold that much."""


class Missing(Exception):
    """What a rival needs is not installed; says what."""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait until a server that was started says that it is up."""
    for _ in range(600):
        if condition():
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not come up; it ended with {process.poll()}")


async def fraud_check() -> None:
    await asyncio.sleep(WAIT)


def misbehave(ref: str) -> None:
    if ref.startswith(CRASHING):
        raise RuntimeError("a bug between debit and credit")


@dataclass(frozen=True)
class Books:
    """What a bank holds, read when nothing is in flight."""

    balances: dict[int, int]
    audit: dict[str, tuple[int, int, int]]  # id -> from, to, amount


class Bank(abc.ABC):
    """A bank on some store; `folder` is where its state survives, `address` where a store that runs beside listens."""

    def __init__(self, folder: str, address: str) -> None:
        self.folder, self.address = folder, address

    @abc.abstractmethod
    async def open(self) -> None:
        """Open the store; fill it if it is new."""

    @abc.abstractmethod
    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        """Move the money, once for an id; return "now" or "before"."""

    async def close(self) -> None:  # noqa: B027 (nothing to do, for some)
        """Close the store."""

    def setup(self, app: Any) -> None:  # noqa: B027
        """Prepare the application."""

    def decorate(self, handler: Any) -> Any:
        """Return the handler as it is served."""
        return handler

    @abc.abstractmethod
    async def total(self) -> int:
        """Return the sum of all balances, as a request would ask for it while others run."""

    @abc.abstractmethod
    async def books(self) -> Books:
        """Return everything."""

    @staticmethod  # noqa: B027
    def forget(folder: str) -> None:
        """Remove what is left of the state outside its folder."""

    def state(self) -> int | None:
        """Return how many bytes of the state lie in the memory of this process; None if that cannot be told."""
        return None


@dataclass(frozen=True)
class Rival:
    """A bank's name, the class that it is, and what runs beside it."""

    name: str
    module: str
    of: str
    #: The module has a context manager `beside(folder, *options)` that gives the address and the process id.
    beside: tuple[str, ...] | None = None

    def imported(self) -> Any:
        try:
            return importlib.import_module(f"benchmarks.rivals.{self.module}")
        except ImportError as error:
            raise Missing(f"{error.name} is not installed (tox -e bench installs it)") from None

    def bank(self) -> type[Bank]:
        return getattr(self.imported(), self.of)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def started(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Run what runs beside; give where it listens and its process id, "" and 0 for nothing."""
        if self.beside is None:
            yield "", 0
            return
        with self.imported().beside(folder, *self.beside) as found:
            yield found


PLAIN, DECORATED, LMDB = "plain Python", "recoverable, decorated", "LMDB"
RIVALS = [
    Rival(PLAIN, "plain", "Plain"),
    Rival("undo by hand, locks", "plain", "Undone"),
    Rival(DECORATED, "ours", "Decorated"),
    Rival('recoverable, protect="all"', "ours", "All"),
    Rival("recoverable, a block after the await", "ours", "Block"),
    Rival("SQLite, WAL, OFF", "sqlite", "Off"),
    Rival("SQLite, WAL, NORMAL", "sqlite", "Normal"),
    Rival("SQLite, :memory:", "sqlite", "Memory"),
    Rival(LMDB, "lmdb", "Lmdb"),
    Rival("ZODB, FileStorage", "zodb", "Zodb"),
    Rival("Redis, Lua", "redis", "Lua", beside=()),
    Rival("Redis, WATCH", "redis", "Watch", beside=()),
    Rival("PostgreSQL", "postgres", "Postgres", beside=()),
]
AOF = "--appendonly", "yes", "--appendfsync"
DURABLE = [  # what the others are when they are told to keep it on a disk
    Rival('recoverable, "journal"', "ours", "Journal"),
    Rival('recoverable, "journal", a block', "ours", "BlockJournal"),
    Rival('recoverable, "disk"', "ours", "Disk"),
    Rival('recoverable, "disk", a block', "ours", "BlockDisk"),
    Rival("SQLite, NORMAL, grouped", "sqlite", "GroupedNormal"),
    Rival("SQLite, FULL", "sqlite", "Full"),
    Rival("SQLite, FULL, grouped", "sqlite", "GroupedFull"),
    Rival("LMDB, synced each second", "lmdb", "EachSecond"),
    Rival("LMDB, synced", "lmdb", "Full"),
    Rival("LMDB, synced, grouped", "lmdb", "Grouped"),
    Rival("Redis, everysec", "redis", "Lua", beside=(*AOF, "everysec")),
    Rival("Redis, always", "redis", "Lua", beside=(*AOF, "always")),
    Rival("PostgreSQL, synchronous", "postgres", "Synchronous", beside=()),
]


def lines_of_code(bank: type[Bank]) -> int:
    """Count what a user writes for it: the statements of `open`, `transfer` and what they use, without documentation."""
    methods = [bank.open, bank.transfer]
    methods += [method for name in ("setup", "decorate") if (method := getattr(bank, name)) is not getattr(Bank, name)]
    code = [inspect.getsource(method) for method in methods] + list(getattr(bank, "CODE", ()))
    lines = [line.strip() for part in code for line in part.splitlines()]
    left_out = ("#", '"""', "async def open", "misbehave(", "if ARGV[3]")
    return sum(1 for line in lines if line and not line.startswith(left_out))
