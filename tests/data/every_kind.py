"""Fills an arena with every kind of container and value that a release of segment format 2 stores: `python every_kind.py NAME`.

That release has made `format-2.jsonl`, by `portable.py`, and `format-2.rcv`, by its own `recoverable export`, out of what this
stores (tests/data/README.md). The release of today fills an arena with the same, to compare with.
"""

from __future__ import annotations

import datetime as dt
import struct
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from recoverable import Arena, Array, Counter, Deque, Dict, List, Record, Set, register_codec

NOON = dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC)
SOME_NAN = struct.unpack("<d", bytes.fromhex("010000000000f8ff"))[0]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**63, -(2**100), 10**40),
    *(0.0, -0.0, 0.1, -1.5e300, 5e-324, float("inf"), float("-inf"), float("nan"), SOME_NAN),
    *("", "a", "é\n\u2028\0", "𝄞", "\ud800", "\ud834\udd1e", b"", b"\x00\xff", b"x" * 40),
    *((), (1, ("a", (None, 2.5, "\udfff"), b"\x01")), (NOON, (Decimal("1.10"),))),
    *(dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.time(23, 59, 59, 999999), dt.time(1, 2, fold=1)),
    *(NOON, NOON.replace(tzinfo=None), NOON.astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30)))),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    *(dt.timedelta(0), dt.timedelta(-3, 5, 7), dt.timedelta.max),
    *(Decimal("1.10"), Decimal("-0"), Decimal("1E+400"), Decimal("NaN"), Decimal("Infinity")),
    UUID(int=2**127 + 1),
]
KEYS: list[Any] = [
    *("b", "a", "", "\ud800", None, 1, 0.5, -7, 2**70, b"k", (1, "t"), True and (False, None)),
    *(dt.date(2024, 1, 1), NOON, NOON.astimezone(dt.timezone(dt.timedelta(hours=2))), dt.timedelta(1)),
    *(Decimal("2.5"), UUID(int=5), float("inf")),
]


class Line(Record, name="every.Line"):
    what: str
    amount: int = 1
    note: object = None


class Order(Record, name="every.Order"):
    number: int
    price: float
    lines: List = []  # noqa: RUF012 -- copied for each record
    first: Line | None = None


def fill(root: Any) -> None:
    """Store it. In a transaction."""
    register_codec(
        complex, encode=lambda z: repr(z).encode(), decode=lambda data: complex(data.decode()), name="every complex"
    )
    root["values"] = VALUES
    root["keys"] = {}
    for i, key in enumerate(KEYS):
        root["keys"][key] = i
    root["members"] = Set()
    for key in KEYS:
        root["members"].add(key)
    root["codec"] = [1 + 2j, (0, -1j), {3j: 4j}]
    root["empty"] = [{}, [], Set(), Deque(), Deque(maxlen=0), Counter()]
    root["deques"] = [Deque([1, "two", [3]], 5), Deque([None])]
    root["counters"] = {"low": Counter(-(2**63)), "high": Counter(2**63 - 1)}
    order = Order(number=7, price=2.0, lines=[Line(what="tea", amount=2), Line(what="mug", note={"gift": True})])
    order.first = Line(what="bag", note=(1, 2))
    root["order"] = order
    pairs = np.array([(1, 2.5), (-3, float("nan"))], dtype=[("n", "<i4"), ("x", ">f8")])
    root["arrays"] = {
        "plain": Array([1, 2, 3], "i8"),
        "grid": Array(np.arange(12, dtype="<f4").reshape(3, 4)),
        "big-endian": Array(np.array([1, 2], dtype=">u2")),
        "times": Array(np.array(["2024-01-01", "NaT"], dtype="M8[D]")),
        "texts": Array(np.array(["é", "ab"])),
        "pairs": Array(pairs),
        "none": Array(0, "f8"),
        "mostly zeros": Array(24_600, "f8"),
    }
    root["arrays"]["mostly zeros"][24_599] = -0.0
    deep = root["deep"] = Dict()
    deep = root["deep"]
    for i in range(9):  # further than a line of a portable export goes
        deep["more"] = [{"level": i}]
        deep = deep["more"][0]
    deep.update(l=[1], s={2}, d=Deque([3], 4), c=Counter(5), r=Line(what="deep"), a=Array([6], "u1"), t=(7,))


if __name__ == "__main__":
    with Arena.open(sys.argv[1], "4 MiB") as arena, arena.transaction():
        fill(arena.root)
