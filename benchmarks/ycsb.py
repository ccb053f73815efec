"""YCSB core workloads A, B, C, D, F: records of 10 fields of 100 bytes, a transaction an operation.

Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010). Reads take all fields, updates write one,
keys are zipfian (0.99) and scrambled; D reads the latest and inserts. E needs range scans, which none of our
containers has.

| store | a record |
|---|---|
| recoverable | a `Dict` of fields |
| dict | a dict of fields, unprotected |
| LMDB | one value, packed by marshal, the fastest way to pack a dict that Python has |
| SQLite | a row with a column a field |
| ZODB | a persistent mapping in an `OOBTree` |

What each operation does is drawn beforehand and is the same for all stores.
"""

from __future__ import annotations

import itertools
import marshal
import random
import string
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import stores
from benchmarks.harness import Report, Settings, Spread, progress
from benchmarks.stores import key
from recoverable import Arena

FIELDS = [f"field{i}" for i in range(10)]
READ, UPDATE, INSERT, MODIFY = range(4)
MIXES = {
    "A": ("50 % read, 50 % update", {READ: 0.5, UPDATE: 0.5}),
    "B": ("95 % read, 5 % update", {READ: 0.95, UPDATE: 0.05}),
    "C": ("100 % read", {READ: 1.0}),
    "D": ("95 % read the latest, 5 % insert", {READ: 0.95, INSERT: 0.05}),
    "F": ("50 % read, 50 % read-modify-write", {READ: 0.5, MODIFY: 0.5}),
}
Operation = tuple[int, str, str, str]  # what, key, field, value
Store = Callable[[list[Operation]], None]


def text(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters, k=100))


class Draw:
    """Draws the operations of a workload."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.rng = np.random.default_rng(3)
        self.weights = np.cumsum(1 / np.arange(1, records + 1) ** 0.99)
        self.weights /= self.weights[-1]
        self.scrambled = np.random.default_rng(4).permutation(records)
        rng = random.Random(5)
        self.values = [text(rng) for _ in range(1000)]

    def operations(self, mix: dict[int, float], count: int, inserted: int, latest: bool) -> list[Operation]:
        """Draw `count` operations; new records are numbered from `inserted` on."""
        kinds = self.rng.choice(list(mix), count, p=list(mix.values()))
        ranks = np.searchsorted(self.weights, self.rng.random(count))
        fields = self.rng.integers(0, 10, count)
        values = self.rng.integers(0, 1000, count)
        out = []
        for kind, rank, field, value in zip(
            kinds.tolist(), ranks.tolist(), fields.tolist(), values.tolist(), strict=True
        ):
            if kind == INSERT:
                at, inserted = inserted, inserted + 1
            elif latest:
                at = max(0, inserted - 1 - rank)
            else:
                at = int(self.scrambled[rank])
            out.append((kind, key(at), FIELDS[field], self.values[value]))
        return out


def record(values: list[str], i: int) -> dict[str, str]:
    return {name: values[(i * 10 + j) % 1000] for j, name in enumerate(FIELDS)}


def plain_store(loaded: Callable[[], Any]) -> Store:
    users = dict(loaded())

    def work(operations: list[Operation]) -> None:
        for kind, k, field, value in operations:
            if kind == READ:
                dict(users[k])
            elif kind == UPDATE:
                users[k][field] = value
            elif kind == INSERT:
                users[k] = dict.fromkeys(FIELDS, value)
            else:
                user = users[k]
                dict(user)
                user[field] = value

    return work


def our_store(arena: Arena, loaded: Callable[[], Any]) -> Store:
    begin = arena.transaction
    with begin():
        arena.root["users"] = {}
    users: Any = arena.root["users"]
    for batch in batched(loaded(), 500):
        with begin():
            users.update(batch)

    def work(operations: list[Operation]) -> None:
        for kind, k, field, value in operations:
            with begin():
                if kind == READ:
                    users[k].to_python()
                elif kind == UPDATE:
                    users[k][field] = value
                elif kind == INSERT:
                    users[k] = dict.fromkeys(FIELDS, value)
                else:
                    user = users[k]
                    user.to_python()
                    user[field] = value

    return work


def batched(items: Any, n: int) -> Any:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, n)):
        yield batch


def lmdb_store(env: Any, loaded: Callable[[], Any]) -> Store:
    with env.begin(write=True) as txn:
        for k, user in loaded():
            txn.put(k.encode(), marshal.dumps(user))

    def work(operations: list[Operation]) -> None:
        begin, loads, dumps = env.begin, marshal.loads, marshal.dumps
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

    return work


def sqlite_store(db: Any, loaded: Callable[[], Any]) -> Store:
    execute = db.execute
    execute(f"CREATE TABLE users (k TEXT PRIMARY KEY, {', '.join(f'{f} TEXT' for f in FIELDS)}) WITHOUT ROWID")
    insert = f"INSERT INTO users VALUES ({', '.join('?' * 11)})"
    select = f"SELECT {', '.join(FIELDS)} FROM users WHERE k = ?"
    update = {field: f"UPDATE users SET {field} = ? WHERE k = ?" for field in FIELDS}
    execute("BEGIN")
    db.executemany(insert, ((k, *user.values()) for k, user in loaded()))
    execute("COMMIT")

    def work(operations: list[Operation]) -> None:
        for kind, k, field, value in operations:
            if kind == READ:  # one statement is a transaction of its own
                dict(zip(FIELDS, execute(select, (k,)).fetchone(), strict=True))
            elif kind == UPDATE:
                execute(update[field], (value, k))
            elif kind == INSERT:
                execute(insert, (k, *(value,) * 10))
            else:
                execute("BEGIN")
                dict(zip(FIELDS, execute(select, (k,)).fetchone(), strict=True))
                execute(update[field], (value, k))
                execute("COMMIT")

    return work


def zodb_store(tree: Any, loaded: Callable[[], Any]) -> Store:
    import transaction
    from persistent.mapping import PersistentMapping

    for i, (k, user) in enumerate(loaded()):
        tree[k] = PersistentMapping(user)
        if i % 5000 == 4999:
            transaction.commit()
    transaction.commit()

    def work(operations: list[Operation]) -> None:
        for kind, k, field, value in operations:
            if kind == READ:
                dict(tree[k])
            elif kind == UPDATE:
                tree[k][field] = value
            elif kind == INSERT:
                tree[k] = PersistentMapping(dict.fromkeys(FIELDS, value))
            else:
                user = tree[k]
                dict(user)
                user[field] = value
            transaction.commit()

    return work


def run(settings: Settings) -> Report:
    records = settings.pick(100_000, 5_000)
    report = Report("ycsb", f"How many YCSB operations a second, on {records:,} records of 10 x 100 bytes?")
    draw = Draw(records)

    def loaded() -> Any:
        return ((key(i), record(draw.values, i)) for i in range(records))

    rows, medians = [], {}
    with (
        Arena.temporary(size="2 GiB") as arena,
        stores.lmdb() as env,
        stores.sqlite() as db,
        stores.zodb() as (_, tree),
    ):
        work: dict[str, Store] = {}
        for name, make in {
            "dict, unprotected": lambda: plain_store(loaded),
            "recoverable": lambda: our_store(arena, loaded),
            "LMDB": lambda: lmdb_store(env, loaded),
            "SQLite": lambda: sqlite_store(db, loaded),
            "ZODB": lambda: zodb_store(tree, loaded),
        }.items():
            progress(f"ycsb: loading {name}")
            work[name] = make()
        rounds, size = settings.pick((15, 4000), (3, 500))
        inserted = records
        for letter, (what, mix) in MIXES.items():
            took: dict[str, list[float]] = {name: [] for name in work}
            for i in range(rounds):
                progress(f"ycsb {letter}: round {i + 1} of {rounds}")
                operations = draw.operations(mix, size, inserted, letter == "D")
                inserted += sum(operation[0] == INSERT for operation in operations)
                names = list(work)
                for name in names[i % len(names) :] + names[: i % len(names)]:
                    begun = time.thread_time_ns()
                    work[name](operations)
                    took[name].append((time.thread_time_ns() - begun) / size)
            spreads = {name: Spread.of(values) for name, values in took.items()}
            medians[letter] = {name: 1e6 / spread.median for name, spread in spreads.items()}
            for name, spread in spreads.items():
                report.figure(f"{letter}: {name}", spread)
            rows.append([f"{letter}: {what}", *(str(spread.scaled(1e-3)) for spread in spreads.values())])
            for other in ("LMDB", "SQLite"):
                ratio = Spread.of(a / b for a, b in zip(took["recoverable"], took[other], strict=True))
                report.aim(f"YCSB {letter}, time of an operation against {other}", 1.0, ratio, "x")
        progress("")
        verified = arena.verify()
    report.table("µs of CPU time an operation", ["workload", *work], rows)
    report.note(f"`arena.verify()` at the end: {verified}.")

    def plot(axes: Any) -> None:
        names = [name for name in work if name != "dict, unprotected"]
        for j, name in enumerate(names):
            xs = [i + (j - 1.5) * 0.2 for i in range(len(medians))]
            axes.bar(xs, [medians[letter][name] for letter in medians], 0.19, label=name)
        axes.set_xticks(range(len(medians)), list(medians))
        axes.set(yscale="log", ylabel="thousand operations a CPU second", title="YCSB, one transaction an operation")
        axes.grid(axis="y", alpha=0.3)
        axes.legend()

    report.plot(settings, "ycsb.svg", "YCSB throughput by store", plot)
    return report
