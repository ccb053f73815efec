"""ZODB: an `OOBTree` of numbers or of persistent mappings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

import transaction
import ZODB
import ZODB.MappingStorage
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping

from benchmarks.harness import Run
from benchmarks.stores import FIELDS, INSERT, READ, UPDATE, Four, Operation, Store, User, reading


class Zodb(Store):
    """A database in memory, and one connection whose cache holds everything."""

    name = "ZODB"

    def open(self, closing: contextlib.ExitStack) -> None:
        db = ZODB.DB(ZODB.MappingStorage.MappingStorage(), cache_size=2_000_000, cache_size_bytes=0)
        closing.callback(db.close)
        connection = db.open()
        closing.callback(connection.close)
        closing.callback(transaction.abort)
        connection.root()["tree"] = self.tree = OOBTree()
        transaction.commit()

    def load_numbers(self, numbers: dict[str, int]) -> None:
        self.tree.update(numbers)
        transaction.commit()

    def reads(self, keys: Sequence[str]) -> dict[str, Run]:
        return {"ZODB": reading(self.tree, keys)}

    def fours(self, fours: Sequence[Four], commit: bool) -> Run:
        tree, many, end = self.tree, len(fours), transaction.commit if commit else transaction.abort

        def work(n: int) -> None:
            for i in range(n):
                for k in fours[i % many]:
                    tree[k] += 1
                end()

        return work

    def load_users(self, users: Iterable[tuple[str, User]]) -> None:
        for i, (k, user) in enumerate(users):
            self.tree[k] = PersistentMapping(user)
            if i % 5000 == 4999:
                transaction.commit()
        transaction.commit()

    def operate(self, operations: Sequence[Operation]) -> None:
        tree = self.tree
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
