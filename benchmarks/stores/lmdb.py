"""LMDB: numbers are eight bytes; a user is one value, packed by marshal, the fastest way to pack a dict that Python has."""

from __future__ import annotations

import contextlib
import marshal
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb

from benchmarks.harness import Run
from benchmarks.stores import FIELDS, INSERT, READ, Four, Operation, Store, User

SIZE = 2 << 30


class Lmdb(Store):
    """One environment, its file on /dev/shm."""

    name = "LMDB"

    def open(self, closing: contextlib.ExitStack) -> None:
        shm = Path("/dev/shm")
        where = tempfile.TemporaryDirectory(prefix="bench-lmdb-", dir=shm if shm.is_dir() else None)
        folder = closing.enter_context(where)
        self.env = closing.enter_context(
            lmdb.open(folder, map_size=SIZE, sync=False, metasync=False, writemap=True, map_async=True)
        )

    def load_numbers(self, numbers: dict[str, int]) -> None:
        with self.env.begin(write=True) as txn:
            for k, v in numbers.items():
                txn.put(k.encode(), v.to_bytes(8, "little"))

    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        env, raw = self.env, [k.encode() for k in keys]

        def as_bytes(n: int) -> None:
            with env.begin() as txn:
                get = txn.get
                for _ in range(n):
                    for k in raw:
                        get(k)

        def as_python(n: int) -> None:
            with env.begin() as txn:
                get, number = txn.get, int.from_bytes
                for _ in range(n):
                    for k in keys:
                        number(get(k.encode()), "little")

        return {"LMDB get, bytes to bytes": as_bytes, "LMDB get, str to int": as_python}

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        env, many = self.env, len(fours)
        raw = [tuple(k.encode() for k in four) for four in fours]

        def work(txn: Any, four: tuple[bytes, ...]) -> None:
            get, put, number = txn.get, txn.put, int.from_bytes
            a, b, c, e = four
            put(a, (number(get(a), "little") + 1).to_bytes(8, "little"))
            put(b, (number(get(b), "little") + 1).to_bytes(8, "little"))
            put(c, (number(get(c), "little") + 1).to_bytes(8, "little"))
            put(e, (number(get(e), "little") + 1).to_bytes(8, "little"))

        def committed(n: int) -> None:
            for i in range(n):
                with env.begin(write=True) as txn:
                    work(txn, raw[i % many])

        def rolled_back(n: int) -> None:
            for i in range(n):
                txn = env.begin(write=True)
                work(txn, raw[i % many])
                txn.abort()

        return committed if commit else rolled_back

    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        with self.env.begin(write=True) as txn:
            for k, user in users:
                txn.put(k.encode(), marshal.dumps(user))

    def operate(self, operations: Sequence[Operation]) -> None:
        begin, loads, dumps = self.env.begin, marshal.loads, marshal.dumps
        for kind, k, field, value in operations:
            raw = k.encode()
            if kind == READ:
                with begin() as txn:
                    loads(txn.get(raw))
                continue
            with begin(write=True) as txn:
                if kind == INSERT:
                    txn.put(raw, dumps(dict.fromkeys(FIELDS, value)))
                else:
                    user = loads(txn.get(raw))
                    user[field] = value
                    txn.put(raw, dumps(user))
