"""Fault plans from Hypothesis: a state machine that mixes operations and faults, and what its plans are."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from recoverable import Arena, ArenaFullError, ArenaOptionError
from recoverable.faults import InjectedFault, Plan, Raise, armed, strategies

WHO = st.sampled_from(["ann", "bob", "cyd"])


class Bank(RuleBasedStateMachine):
    """Transfers between three accounts, any of which may meet a fault; the model knows which were done."""

    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.arena = self.stack.enter_context(Arena.temporary("2 MiB"))
        self.model = {"ann": 100, "bob": 100, "cyd": 100}
        with self.arena.transaction():
            self.arena.root.update(self.model, log=[])
        self.done = 0

    def teardown(self) -> None:
        """Remove the arena."""
        self.stack.close()

    @rule(plan=strategies.plans(points=["write", "alloc"], max_nth=8), a=WHO, b=WHO, amount=st.integers(1, 50))
    def transfer(self, plan: Plan, a: str, b: str, amount: int) -> None:
        """Move money; under a fault, all of it or nothing."""
        root = self.arena.root
        with contextlib.suppress(InjectedFault, ArenaFullError), armed(plan, self.arena):
            if self.broken:
                with self.arena.transaction():
                    root[a] -= amount
                with self.arena.transaction():
                    root[b] += amount
                    root["log"].append([a, b, amount])
            else:
                with self.arena.transaction():
                    root[a] -= amount
                    root[b] += amount
                    root["log"].append([a, b, amount])
            self.model[a] -= amount
            self.model[b] += amount
            self.done += 1

    @invariant()
    def agrees(self) -> None:
        """What is there is what was done."""
        now = self.arena.root.to_python()
        assert len(now.pop("log")) == self.done
        assert now == self.model
        assert self.arena.verify()


SETTINGS: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


@pytest.mark.slow
def test_a_state_machine_mixes_operations_and_faults() -> None:
    """One transaction a transfer: whatever strikes, the accounts are as the model says."""
    run_state_machine_as_test(Bank, settings=settings(max_examples=40, stateful_step_count=15, **SETTINGS))


@pytest.mark.slow
def test_it_finds_a_forgotten_common_transaction_and_shrinks_it() -> None:
    """Two transactions where one is meant: the smallest example is one transfer with one fault."""

    class Broken(Bank):
        broken = True

    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(Broken, settings=settings(max_examples=60, stateful_step_count=15, **SETTINGS))
    steps = [note for note in "\n".join(caught.value.__notes__).splitlines() if "state.transfer(" in note]
    assert len(steps) == 1
    assert "nth=2" in steps[0] or "nth=3" in steps[0] or "nth=4" in steps[0]


def test_a_plan_shrinks_to_none() -> None:
    """The simplest plan has no fault; the simplest with one strikes first."""
    assert find(strategies.plans(), lambda plan: True) == Plan()
    found = find(strategies.plans(points="write"), lambda plan: len(plan.steps) == 1)
    assert str(found) == "write:1=raise"


@given(plan=strategies.plans(points=["line", "write", "kill"], kill=True, max_nth=7, max_faults=3))
def test_plans_are_within_what_was_asked_for(plan: Plan) -> None:
    """Places, numbers and how many are bounded; each plan can be written and read."""
    assert len(plan.steps) <= 3
    assert all(point.place in {"line", "write", "phase", "alloc"} and 1 <= point.nth <= 7 for point, _ in plan)
    assert str(Plan.parse(str(plan))) == str(plan)


@given(plan=strategies.plans())
def test_plans_do_not_kill_unless_asked(plan: Plan) -> None:
    """By default the test's own process survives all of them."""
    assert not plan.deadly


@given(drawn=strategies.faults("write", given={"write": [Raise(KeyError)]}))
def test_own_faults_can_be_given(drawn: Any) -> None:
    """`given` replaces the usual faults."""
    assert drawn == ("write", Raise(KeyError))


def test_points_without_faults_that_can_be_drawn_are_refused() -> None:
    """Only deadly ones, without kill=True: an error that says so."""
    with pytest.raises(ArenaOptionError, match="say kill=True"):
        strategies.plans(points="kill")


async def test_armed_strikes_in_the_block_only(arena: Arena) -> None:
    """A plan as text strikes inside, and not behind."""

    def change() -> None:
        with arena.transaction():
            arena.root["a"] = 1
            arena.root["b"] = 2

    with pytest.raises(InjectedFault), armed("write:2=raise", arena) as trace:
        change()
    assert trace.struck == 1
    assert arena.root.to_python() == {}
    change()
    assert arena.root.to_python() == {"a": 1, "b": 2}
