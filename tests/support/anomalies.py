"""The anomalies of Adya's levels, each as an interleaving, and as the history that a system without isolation would give.

Names as in Adya, Liskov, O'Neil, ICDE 2000, and in Bailis et al., PVLDB 7, 2013: dirty writes (G0), aborted reads (G1a),
intermediate reads (G1b), circular information flow (G1c), an observed transaction that vanishes (OTV), predicates with
many preceders (PMP), lost updates (P4), read skew (G-single), write skew on items (G2-item) and with predicates (G2).
"""

from __future__ import annotations

from dataclasses import dataclass

from support.operations import Operation
from support.serial import Event

Step = tuple[str, tuple[Operation, ...] | str]

COMMIT, ABORT = "commit", "abort"


@dataclass(frozen=True)
class Anomaly:
    """One anomaly.

    Attributes:
        steps: Which transaction runs which operations, or ends, in which order.
        losers: Which of them must be told of a conflict, where none may be run again.
        bad: The history as it must never be.
    """

    steps: tuple[Step, ...]
    losers: frozenset[str]
    bad: tuple[Event, ...]


def _bad(steps: tuple[Step, ...], answers: list[object], final: dict[str, int]) -> tuple[Event, ...]:
    """Write a history with these answers, in order, and with this content of the Dict at its end."""
    events: list[Event] = []
    left = iter(answers)
    begun: set[str] = set()
    for t, what in steps:
        if t not in begun:
            begun.add(t)
            events.append(("begin", t))
        if what == COMMIT:
            events += [("returns", t), ("committed", t)]
        elif what == ABORT:
            events.append(("aborted", t))
        else:
            events += [("op", t, operation, next(left)) for operation in what]
            events.append(("pause", t))
    return (*events, ("final", final))


def get(key: str) -> tuple[Operation]:
    """Read a key of the Dict."""
    return (("d.get", key),)


def put(key: str, value: int) -> tuple[Operation]:
    """Write one."""
    return (("d.set", key, value),)


ALL: tuple[Operation] = (("d.items",),)
COUNT: tuple[Operation] = (("d.len",),)

_G0: tuple[Step, ...] = (
    ("1", put("x", 1)), ("2", put("x", 2)), ("2", put("y", 2)), ("2", COMMIT), ("1", put("y", 1)), ("1", COMMIT),
)  # fmt: skip
_G1A: tuple[Step, ...] = (("1", put("x", 1)), ("2", get("x")), ("1", ABORT), ("2", get("x")), ("2", COMMIT))
_G1B: tuple[Step, ...] = (
    ("1", put("x", 1)), ("2", get("x")), ("1", put("x", 2)), ("1", COMMIT), ("2", put("u", 1)), ("2", COMMIT),
)  # fmt: skip
_G1C: tuple[Step, ...] = (
    ("1", put("x", 1)), ("2", put("y", 2)), ("1", get("y")), ("2", get("x")), ("1", COMMIT), ("2", COMMIT),
)  # fmt: skip
_OTV: tuple[Step, ...] = (
    ("1", put("x", 1)), ("1", put("y", 1)), ("2", put("x", 2)), ("1", COMMIT), ("3", get("x")), ("2", put("y", 2)),
    ("2", COMMIT), ("3", get("y")), ("3", COMMIT),
)  # fmt: skip
_PMP: tuple[Step, ...] = (
    ("1", COUNT),
    ("2", put("z", 5)),
    ("2", COMMIT),
    ("1", COUNT),
    ("1", put("u", 1)),
    ("1", COMMIT),
)
_P4: tuple[Step, ...] = (
    ("1", get("x")), ("2", get("x")), ("2", put("x", 11)), ("2", COMMIT), ("1", put("x", 12)), ("1", COMMIT),
)  # fmt: skip
_SINGLE: tuple[Step, ...] = (
    ("1", get("x")), ("2", put("x", 1)), ("2", put("y", 2)), ("2", COMMIT), ("1", get("y")), ("1", put("u", 1)), ("1", COMMIT),
)  # fmt: skip
_ITEM: tuple[Step, ...] = (
    ("1", get("x") + get("y")), ("2", get("x") + get("y")), ("1", put("x", 1)), ("2", put("y", 2)), ("1", COMMIT), ("2", COMMIT),
)  # fmt: skip
_G2: tuple[Step, ...] = (
    ("1", ALL), ("2", ALL), ("1", put("u", 1)), ("2", put("w", 2)), ("1", COMMIT), ("2", COMMIT),
)  # fmt: skip
_START = [("x", 10), ("y", 20)]

ANOMALIES: dict[str, Anomaly] = {
    "G0": Anomaly(_G0, frozenset("1"), _bad(_G0, [None] * 4, {"x": 2, "y": 1})),
    "G1a": Anomaly(_G1A, frozenset(), _bad(_G1A, [None, 1, 10], {"x": 10, "y": 20})),
    "G1b": Anomaly(_G1B, frozenset("2"), _bad(_G1B, [None, 1, None, None], {"x": 2, "y": 20, "u": 1})),
    "G1c": Anomaly(_G1C, frozenset("2"), _bad(_G1C, [None, None, 2, 1], {"x": 1, "y": 2})),
    "OTV": Anomaly(_OTV, frozenset("2"), _bad(_OTV, [None, None, None, 1, None, 2], {"x": 2, "y": 2})),
    "PMP": Anomaly(_PMP, frozenset("1"), _bad(_PMP, [2, None, 3, None], {"x": 10, "y": 20, "z": 5, "u": 1})),
    "P4": Anomaly(_P4, frozenset("1"), _bad(_P4, [10, 10, None, None], {"x": 12, "y": 20})),
    "G-single": Anomaly(_SINGLE, frozenset("1"), _bad(_SINGLE, [10, None, None, 2, None], {"x": 1, "y": 2, "u": 1})),
    "G2-item": Anomaly(_ITEM, frozenset("2"), _bad(_ITEM, [10, 20, 10, 20, None, None], {"x": 1, "y": 2})),
    "G2": Anomaly(_G2, frozenset("2"), _bad(_G2, [_START, _START, None, None], {"x": 10, "y": 20, "u": 1, "w": 2})),
}
