"""Do random operations keep the condition that their judges rely on? Otherwise a right history is judged to be wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest

from support.operations import Dice, model, run

WRITES = {"a.set", "a.fill", "a.raw"}


def values(operation: tuple[Any, ...]) -> list[int]:
    """Return what an operation writes into the Array, apart from sums."""
    written = operation[2]
    return written if isinstance(written, list) else [written]


@pytest.mark.parametrize("start", [1000, 677001 * 10**6])
def test_no_value_is_stored_that_was_there_before(start: int) -> None:
    """Neither as a value of another operation nor as a sum: as a raw store it would count as none."""
    dice = Dice(random.Random(1))
    dice.value = start
    state, before = model(), set(model()["a"])
    sums = 0
    for _ in range(3000):
        operation = dice.operation(1)  # savepoints hold the same
        if operation[0] in WRITES:
            assert not before.intersection(values(operation)), operation
        run(operation, state)
        sums += operation[0] == "a.add"
        before.update(state["a"])
    assert sums > 50
