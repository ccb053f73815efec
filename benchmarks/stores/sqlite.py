"""SQLite: a table of numbers, and one of users with a column a field."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence

from benchmarks.harness import Run
from benchmarks.stores import FIELDS, INSERT, READ, UPDATE, Four, Operation, Store, User

INSERT_USER = f"INSERT INTO users VALUES ({', '.join('?' * (1 + len(FIELDS)))})"
SELECT_USER = f"SELECT {', '.join(FIELDS)} FROM users WHERE k = ?"
UPDATE_USER = {field: f"UPDATE users SET {field} = ? WHERE k = ?" for field in FIELDS}


class Sqlite(Store):
    """A database in memory. Each statement outside `BEGIN` and `COMMIT` is a transaction of its own."""

    name = "SQLite"

    def open(self, closing: contextlib.ExitStack) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=200)
        closing.callback(self.db.close)

    def load_numbers(self, numbers: dict[str, int]) -> None:
        self.db.execute("CREATE TABLE numbers (k TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID")
        self.db.executemany("INSERT INTO numbers VALUES (?, ?)", numbers.items())

    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        execute = self.db.execute

        def read(n: int) -> None:
            execute("BEGIN")
            for _ in range(n):
                for k in keys:
                    execute("SELECT v FROM numbers WHERE k = ?", (k,)).fetchone()
            execute("COMMIT")

        return {"SQLite": read}

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        execute, many, end = self.db.execute, len(fours), "COMMIT" if commit else "ROLLBACK"

        def work(n: int) -> None:
            for i in range(n):
                execute("BEGIN")
                for k in fours[i % many]:
                    execute("UPDATE numbers SET v = v + 1 WHERE k = ?", (k,))
                execute(end)

        return work

    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        execute = self.db.execute
        execute(f"CREATE TABLE users (k TEXT PRIMARY KEY, {', '.join(f'{f} TEXT' for f in FIELDS)}) WITHOUT ROWID")
        execute("BEGIN")
        self.db.executemany(INSERT_USER, ((k, *user.values()) for k, user in users))
        execute("COMMIT")

    def operate(self, operations: Sequence[Operation]) -> None:
        execute = self.db.execute
        for kind, k, field, value in operations:
            if kind == READ:
                dict(zip(FIELDS, execute(SELECT_USER, (k,)).fetchone(), strict=True))
            elif kind == UPDATE:
                execute(UPDATE_USER[field], (value, k))
            elif kind == INSERT:
                execute(INSERT_USER, (k, *(value,) * 10))
            else:
                execute("BEGIN")
                dict(zip(FIELDS, execute(SELECT_USER, (k,)).fetchone(), strict=True))
                execute(UPDATE_USER[field], (value, k))
                execute("COMMIT")
