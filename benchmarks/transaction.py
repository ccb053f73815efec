"""What does a transaction of four read-modify-writes cost, committed and rolled back?

Four counters of 10,000, at random, are read and raised by one. LMDB raises bytes; SQLite does it in one `UPDATE` a
key; copy.deepcopy is what people do who have nothing else: copy the state, work, and put the copy in place, or drop
it. Where an exception ends the transaction, what raising and catching it costs is taken off.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from benchmarks import stores
from benchmarks.harness import Report, Settings, compare, digits
from benchmarks.stores import KEYS, key
from recoverable import Arena

OURS, PLAIN, EXCEPTION = "recoverable", "dict, unprotected", "the exception alone"


class Back(Exception):
    """What ends a transaction that is to roll back."""


class Nothing:
    """A `with` block that does nothing."""

    def __enter__(self) -> None: ...
    def __exit__(self, *what: object) -> None: ...


def run(settings: Settings) -> Report:
    import transaction as zodb_transaction

    report = Report("transaction", "What does a transaction of four read-modify-writes cost?")
    rng = random.Random(2)
    fours = [tuple(key(i) for i in rng.sample(range(KEYS), 4)) for _ in range(1000)]
    raw = [tuple(k.encode() for k in four) for four in fours]
    state = {key(i): i for i in range(KEYS)}
    with (
        Arena.temporary(size="256 MiB") as arena,
        stores.lmdb() as env,
        stores.sqlite() as db,
        stores.zodb() as (_, tree),
    ):
        begin = arena.transaction
        with begin():
            arena.root["numbers"] = state
        numbers = arena.root["numbers"]
        with env.begin(write=True) as txn:
            for k, v in state.items():
                txn.put(k.encode(), stores.number(v))
        execute = db.execute
        execute("CREATE TABLE numbers (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID")
        db.executemany("INSERT INTO numbers VALUES (?, ?)", state.items())
        tree.update(state)
        zodb_transaction.commit()
        back = Back()
        box = {"state": state}

        def plain(n: int) -> None:
            d = state
            for i in range(n):
                a, b, c, e = fours[i % 1000]
                d[a] += 1
                d[b] += 1
                d[c] += 1
                d[e] += 1

        def ours(n: int) -> None:
            d = numbers
            for i in range(n):
                a, b, c, e = fours[i % 1000]
                with begin():
                    d[a] += 1
                    d[b] += 1
                    d[c] += 1
                    d[e] += 1

        def ours_back(n: int) -> None:
            d = numbers
            for i in range(n):
                a, b, c, e = fours[i % 1000]
                try:
                    with begin():
                        d[a] += 1
                        d[b] += 1
                        d[c] += 1
                        d[e] += 1
                        raise back
                except Back:
                    back.__traceback__ = None

        def exception(n: int) -> None:
            nothing = Nothing()
            for _ in range(n):
                try:
                    with nothing:
                        raise back
                except Back:
                    back.__traceback__ = None

        def lmdb_four(txn: Any, four: tuple[bytes, ...]) -> None:
            get, put, number = txn.get, txn.put, int.from_bytes
            a, b, c, e = four
            put(a, (number(get(a), "little") + 1).to_bytes(8, "little"))
            put(b, (number(get(b), "little") + 1).to_bytes(8, "little"))
            put(c, (number(get(c), "little") + 1).to_bytes(8, "little"))
            put(e, (number(get(e), "little") + 1).to_bytes(8, "little"))

        def lmdb(n: int) -> None:
            for i in range(n):
                with env.begin(write=True) as txn:
                    lmdb_four(txn, raw[i % 1000])

        def lmdb_back(n: int) -> None:
            for i in range(n):
                txn = env.begin(write=True)
                lmdb_four(txn, raw[i % 1000])
                txn.abort()

        def sqlite_four(four: tuple[str, ...]) -> None:
            for k in four:
                execute("UPDATE numbers SET v = v + 1 WHERE k = ?", (k,))

        def sqlite(n: int) -> None:
            for i in range(n):
                execute("BEGIN")
                sqlite_four(fours[i % 1000])
                execute("COMMIT")

        def sqlite_back(n: int) -> None:
            for i in range(n):
                execute("BEGIN")
                sqlite_four(fours[i % 1000])
                execute("ROLLBACK")

        def zodb_four(four: tuple[str, ...]) -> None:
            for k in four:
                tree[k] += 1

        def zodb(n: int) -> None:
            for i in range(n):
                zodb_four(fours[i % 1000])
                zodb_transaction.commit()

        def zodb_back(n: int) -> None:
            for i in range(n):
                zodb_four(fours[i % 1000])
                zodb_transaction.abort()

        def deepcopy(n: int) -> None:
            for i in range(n):
                new = copy.deepcopy(box["state"])
                for k in fours[i % 1000]:
                    new[k] += 1
                box["state"] = new

        committed = compare(
            {PLAIN: plain, OURS: ours, "LMDB": lmdb, "SQLite": sqlite, "ZODB": zodb, "copy.deepcopy": deepcopy},
            settings,
            title="commit",
        )
        rolled = compare(
            {
                PLAIN: plain,
                EXCEPTION: exception,
                OURS: ours_back,
                "LMDB": lmdb_back,
                "SQLite": sqlite_back,
                "ZODB": zodb_back,
                "copy.deepcopy": deepcopy,
            },
            settings,
            title="rollback",
        )
    limits = [("LMDB", 0.4), ("SQLite", 0.2), ("ZODB", 0.02), (PLAIN, 2.0)]
    for other, limit in limits:
        report.aim(f"four read-modify-writes, committed, against {other}", limit, committed.ratio(OURS, other), "x")
    for other, limit in limits:
        ratio = rolled.ratio(OURS, other, less=EXCEPTION)
        report.aim(f"the same, rolled back (the exception's cost aside), against {other}", limit, ratio, "x")
    for caption, timed, less in (("committed", committed, None), ("rolled back", rolled, EXCEPTION)):
        rows = []
        for name in timed.samples:
            spread = timed.difference(name, EXCEPTION) if less and name == OURS else timed[name]
            report.figure(f"{caption}: {name}", spread)
            ratio = timed.ratio(OURS, name, less=less)
            rows.append([name, str(spread.scaled(1e-3)), digits(ratio.median) if name != OURS else ""])
        report.table(
            f"four read-modify-writes, {caption}: µs of CPU time", ["", "median (quartiles)", "recoverable / it"], rows
        )

    def draw(axes: Any) -> None:
        names = list(committed.samples)
        for shift, timed, label in ((-0.2, committed, "committed"), (0.2, rolled, "rolled back")):
            values = [
                (timed.difference(n, EXCEPTION) if timed is rolled and n == OURS else timed[n]).median / 1e3
                for n in names
            ]
            bars = axes.barh([i + shift for i in range(len(names))], values, 0.38, label=label)
            axes.bar_label(bars, [f" {digits(v)}" for v in values], fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="µs of CPU time (log)", title="a transaction of four read-modify-writes")
        axes.margins(x=0.15)
        axes.legend()

    report.plot(settings, "transaction.svg", "a transaction of four read-modify-writes", draw)
    return report
