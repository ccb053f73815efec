"""What `recoverable` is compared with, each used as its manual says, with what makes it fastest without a disk.

| store | how |
|---|---|
| dict | a plain dict: no protection at all |
| LMDB | py-lmdb, `sync=False, writemap=True, map_async=True`, its file on /dev/shm; keys and numbers are bytes |
| SQLite | `:memory:`, statements cached, autocommit off by hand (`BEGIN`, `COMMIT`) |
| ZODB | `MappingStorage`, an `OOBTree`, an object cache that holds everything |
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = 10_000


def key(i: int) -> str:
    return f"user:{i:08d}"


@contextlib.contextmanager
def lmdb(size: int = 2 << 30) -> Iterator[Any]:
    import lmdb

    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="bench-lmdb-", dir=shm if shm.is_dir() else None)
    try:
        with lmdb.open(folder, map_size=size, sync=False, metasync=False, writemap=True, map_async=True) as env:
            yield env
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def sqlite() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=200)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def zodb() -> Iterator[tuple[Any, Any]]:
    """Give (connection, tree): the tree hangs at the root."""
    import BTrees.OOBTree
    import transaction
    import ZODB
    import ZODB.MappingStorage

    db = ZODB.DB(ZODB.MappingStorage.MappingStorage(), cache_size=2_000_000, cache_size_bytes=0)
    connection = db.open()
    connection.root()["tree"] = tree = BTrees.OOBTree.OOBTree()
    transaction.commit()
    try:
        yield connection, tree
    finally:
        transaction.abort()
        connection.close()
        db.close()


def number(n: int) -> bytes:
    """What LMDB stores of an int."""
    return n.to_bytes(8, "little")
