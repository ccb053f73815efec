"""What does reading a `str` key of 10,000 cost, in a transaction that is open?"""

from __future__ import annotations

import random

from benchmarks import stores
from benchmarks.harness import Report, Settings, compare, digits
from benchmarks.stores import KEYS, key
from recoverable import Arena


def run(settings: Settings) -> Report:
    report = Report("read", f"What does reading a str key of {KEYS:,} cost?")
    order = [key(i) for i in random.Random(1).sample(range(KEYS), KEYS)]
    raw = [k.encode() for k in order]
    plain = {key(i): i for i in range(KEYS)}
    with (
        Arena.temporary(size="256 MiB") as arena,
        stores.lmdb() as env,
        stores.sqlite() as db,
        stores.zodb() as (_, tree),
    ):
        with arena.transaction():
            arena.root["numbers"] = plain
        numbers = arena.root["numbers"]
        with env.begin(write=True) as txn:
            for k, v in plain.items():
                txn.put(k.encode(), stores.number(v))
        db.execute("CREATE TABLE numbers (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID")
        db.executemany("INSERT INTO numbers VALUES (?, ?)", plain.items())
        tree.update(plain)

        def of(mapping: object) -> object:
            def read(n: int) -> None:
                for _ in range(n):
                    for k in order:
                        mapping[k]

            return read

        def inside(n: int) -> None:
            with arena.transaction():
                of(numbers)(n)

        def lmdb_bytes(n: int) -> None:
            with env.begin() as txn:
                get = txn.get
                for _ in range(n):
                    for k in raw:
                        get(k)

        def lmdb_python(n: int) -> None:
            with env.begin() as txn:
                get, number = txn.get, int.from_bytes
                for _ in range(n):
                    for k in order:
                        number(get(k.encode()), "little")

        def sqlite(n: int) -> None:
            execute = db.execute
            execute("BEGIN")
            for _ in range(n):
                for k in order:
                    execute("SELECT v FROM numbers WHERE k = ?", (k,)).fetchone()
            execute("COMMIT")

        def loop(n: int) -> None:
            for _ in range(n):
                for k in order:
                    k

        timed = compare(
            {
                "an empty loop": loop,
                "dict": of(plain),
                "recoverable, in a transaction": inside,
                "recoverable, outside one": of(numbers),
                "LMDB get, bytes to bytes": lmdb_bytes,
                "LMDB get, str to int": lmdb_python,
                "SQLite": sqlite,
                "ZODB": of(tree),
            },
            settings,
            title="read",
        )
    ours, lmdb = "recoverable, in a transaction", "LMDB get, bytes to bytes"
    report.aim("one read, against LMDB's `get` of bytes", 0.7, timed.ratio(ours, lmdb), "x")
    rows = []
    for name in timed.samples:
        per = 1 / KEYS
        report.figure(name, timed[name].scaled(per))
        rows.append([name, str(timed[name].scaled(per)), digits(timed.ratio(name, ours).median)])
    report.table(
        "ns of CPU time a read, every key once in random order", ["", "median (quartiles)", "x recoverable"], rows
    )
    return report
