"""`recoverable`: a Dict of numbers, a Dict of Dicts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.harness import Back, Run
from benchmarks.stores import FIELDS, INSERT, READ, UPDATE, Four, Operation, Store, User, reading
from recoverable import Arena


class Recoverable(Store):
    """A temporary arena, changed in `with arena.transaction()` blocks."""

    name = "recoverable"

    def __init__(self, size: str) -> None:
        self.size = size

    def open(self, closing: contextlib.ExitStack) -> None:
        self.arena = closing.enter_context(Arena.temporary(size=self.size))
        self.begin = self.arena.transaction

    def load_numbers(self, numbers: dict[str, int]) -> None:
        with self.begin():
            self.arena.root["numbers"] = numbers
        self.numbers: Any = self.arena.root["numbers"]

    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        read = reading(self.numbers, keys)

        def inside(n: int) -> None:
            with self.begin():
                read(n)

        return {"recoverable, in a transaction": inside, "recoverable, outside one": read}

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        begin, d, many, back = self.begin, self.numbers, len(fours), Back()

        def committed(n: int) -> None:
            for i in range(n):
                a, b, c, e = fours[i % many]
                with begin():
                    d[a] += 1
                    d[b] += 1
                    d[c] += 1
                    d[e] += 1

        def rolled_back(n: int) -> None:
            for i in range(n):
                a, b, c, e = fours[i % many]
                try:
                    with begin():
                        d[a] += 1
                        d[b] += 1
                        d[c] += 1
                        d[e] += 1
                        raise back
                except Back:
                    back.__traceback__ = None

        return committed if commit else rolled_back

    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        with self.begin():
            self.arena.root["users"] = {}
        self.users: Any = self.arena.root["users"]
        rest = iter(users)
        while batch := list(itertools.islice(rest, 500)):
            with self.begin():
                self.users.update(batch)

    def operate(self, operations: Sequence[Operation]) -> None:
        begin, users = self.begin, self.users
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
