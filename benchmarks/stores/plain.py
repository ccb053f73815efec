"""A plain dict, unprotected, and one that is copied before it is changed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Sequence

from benchmarks.harness import Run
from benchmarks.stores import FIELDS, INSERT, READ, UPDATE, Four, Operation, Store, User, reading


class Plain(Store):
    """A dict. Nothing can be rolled back."""

    name = "dict, unprotected"

    def open(self, closing: contextlib.ExitStack) -> None: ...

    def load_numbers(self, numbers: dict[str, int]) -> None:
        self.numbers = dict(numbers)

    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        return {"dict": reading(self.numbers, keys)}

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        d, many = self.numbers, len(fours)

        def work(n: int) -> None:
            for i in range(n):
                a, b, c, e = fours[i % many]
                d[a] += 1
                d[b] += 1
                d[c] += 1
                d[e] += 1

        return work

    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        self.users = dict(users)

    def operate(self, operations: Sequence[Operation]) -> None:
        users = self.users
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


class DeepCopy(Plain):
    """Copy the state, work, and put the copy in its place, or drop it: the same work either way."""

    name = "copy.deepcopy"

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        def work(n: int) -> None:
            for i in range(n):
                new = copy.deepcopy(self.numbers)
                for k in fours[i % len(fours)]:
                    new[k] += 1
                self.numbers = new

        return work
