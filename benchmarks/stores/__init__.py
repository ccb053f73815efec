"""What `recoverable` is compared with, each used as its manual says, with what makes it fastest without a disk.

| store | file | how |
|---|---|---|
| dict | `plain.py` | a plain dict: no protection at all |
| copy.deepcopy | `plain.py` | what people do who have nothing else: copy the state, work, and put the copy in its place |
| recoverable | `ours.py` | a temporary arena, changed in `with arena.transaction()` |
| LMDB | `lmdb.py` | py-lmdb, `sync=False, writemap=True, map_async=True`, its file on /dev/shm; keys and numbers are bytes |
| SQLite | `sqlite.py` | `:memory:`, statements cached, autocommit off by hand (`BEGIN`, `COMMIT`) |
| ZODB | `zodb.py` | `MappingStorage`, an `OOBTree`, an object cache that holds everything |

A store is a class here, and no benchmark knows how it is opened or spoken to. Another store is another class; the same
store set up in another way is an argument of its class, or a subclass with a name of its own. Work of another kind is a
method more, beside `reads`, `fours` and `operate`.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

from benchmarks.harness import Run

KEYS = 10_000

FIELDS = [f"field{i}" for i in range(10)]
READ, UPDATE, INSERT, MODIFY = range(4)
Operation = tuple[int, str, str, str]  # what, key, field, value
User = dict[str, str]  # value by field

Four = tuple[str, str, str, str]  # keys


def key(i: int) -> str:
    return f"user:{i:08d}"


class Store(abc.ABC):
    """A place for state, open for as long as its `with` block lasts.

    It holds numbers (`str -> int`) or users (records of `FIELDS`) or both. The loops are each store's own: what it takes to
    go through a common one would be timed, too.
    """

    name: str  # in the tables

    @abc.abstractmethod
    def open(self, closing: contextlib.ExitStack) -> None:
        """Get ready; `closing` takes what is to be done at the end."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as closing:
            self.open(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *what: Any) -> None:
        self._closing.__exit__(*what)

    # -- numbers --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def load_numbers(self, numbers: dict[str, int]) -> None:
        """Store them, committed."""

    @abc.abstractmethod
    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        """Return by name the ways to read the number of each key, in a transaction that is open, where there is one."""

    @abc.abstractmethod
    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        """Return what raises four numbers by one, in a transaction of its own, committed or rolled back."""

    # -- users ----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        """Store them, committed."""

    @abc.abstractmethod
    def operate(self, operations: Sequence[Operation]) -> None:
        """Do each in a transaction of its own: READ all fields, UPDATE one, INSERT a user, or MODIFY: read, then update."""


def compared(size: str = "256 MiB") -> list[Store]:
    """Return the stores that comparisons go over, not yet open; `size` is that of our arena."""
    from benchmarks.stores.lmdb import Lmdb
    from benchmarks.stores.ours import Recoverable
    from benchmarks.stores.plain import Plain
    from benchmarks.stores.sqlite import Sqlite
    from benchmarks.stores.zodb import Zodb

    return [Plain(), Recoverable(size), Lmdb(), Sqlite(), Zodb()]


def reading(mapping: Any, keys: Sequence[str]) -> Run:
    """Return what reads each key of a mapping."""

    def read(n: int) -> None:
        for _ in range(n):
            for k in keys:
                mapping[k]

    return read
