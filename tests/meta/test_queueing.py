"""The model of many workers on one lock, against what can be calculated."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks.queueing import Costs, Request, constant, measured, memoryless, repairman, simulate

OWN, HELD = 100e-6, 20e-6
FREE = Costs(wake=0.0, ring=0.0)


@pytest.mark.parametrize("workers", [1, 2, 4, 8, 32])
def test_it_is_the_formula_where_there_is_one(workers: int) -> None:
    """Exponential times and a lock that is handed over in no time: the machine-repairman model."""
    found = simulate(workers, Request(memoryless(OWN), memoryless(HELD), 1), FREE, requests=6_000)
    assert found.rate == pytest.approx(repairman(workers, OWN, HELD), rel=0.05)
    assert found.busy == pytest.approx(found.rate * HELD, rel=0.05)


def test_one_worker_waits_for_nobody() -> None:
    """Its throughput is its own time and its holds, whatever waking costs."""
    found = simulate(1, Request(constant(OWN), constant(HELD), 2), Costs(wake=1.0), requests=1_000)
    assert found.rate == pytest.approx(1 / (2 * OWN + 2 * HELD), rel=0.01)
    assert (found.waited, found.waits) == (0.0, [])


def test_a_full_lock_is_what_bounds_many() -> None:
    """With more workers than fill it, throughput is that of the lock, less what it lies idle until a sleeper has woken up."""
    request = Request(constant(OWN), constant(HELD), 1)
    spun = simulate(16, request, Costs(wake=5e-6, spin=50e-6), requests=3_000)
    slept = simulate(16, request, Costs(wake=50e-6, spin=0.0), requests=3_000)
    assert 0.8 / HELD < spun.rate <= 1 / HELD
    assert slept.rate < 0.8 * spun.rate


def test_times_are_drawn_as_the_histogram_has_them() -> None:
    """Classes come as often as they were counted, and the mean is the one that was measured."""
    draw, rng = measured([1e-6, 2e-6, 4e-6], [0, 3, 1, 0], 2e-6), random.Random(1)
    drawn = [draw(rng) for _ in range(4_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(2e-6, rel=0.03)
    longer = sum(x >= 2e-6 * 2 / (1.5 * 0.75 + 3 * 0.25) for x in drawn)
    assert longer / len(drawn) == pytest.approx(0.25, abs=0.03)
