"""Fault plans for Hypothesis, so that stateful tests mix operations and faults, and shrink both.

@rule(plan=strategies.plans(points=["write", "alloc"]))
def deposit(self, plan):
with contextlib.suppress(InjectedFault, ArenaFullError), armed(plan, self.arena):
self.bank.deposit(10)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hypothesis import strategies as st

from recoverable.errors import ArenaOptionError
from recoverable.faults._explore import faults_at
from recoverable.faults._points import Fault, Plan, Point

__all__ = ["faults", "plans"]

_IN_PROCESS = ("line", "await", "write", "alloc", "conflict")


def faults(
    points: str | Iterable[str] = _IN_PROCESS, *, given: Mapping[str, Sequence[Fault]] | None = None, kill: bool = False
) -> st.SearchStrategy[tuple[str, Fault]]:
    """Draw a place and a fault that can strike there.

    Args:
        points: As for `explore`.
        given: Faults to draw from instead of the usual ones, as `explore`'s `faults`.
        kill: Whether faults that end the process are among them.
    """
    chosen = faults_at(points, given, web=False)
    pairs = [(place, fault) for place, several in chosen.items() for fault in several if kill or not fault.deadly]
    if not pairs:
        raise ArenaOptionError(f"points={points!r} have only faults that end the process: say kill=True to draw them.")
    return st.sampled_from(pairs)


def plans(
    points: str | Iterable[str] = _IN_PROCESS,
    *,
    given: Mapping[str, Sequence[Fault]] | None = None,
    kill: bool = False,
    max_nth: int = 20,
    max_faults: int = 1,
) -> st.SearchStrategy[Plan]:
    """Draw a plan: no fault, which is what it shrinks to, or up to `max_faults`, early points first.

    Args:
        points: As for `explore`.
        given: Faults to draw from instead of the usual ones, as `explore`'s `faults`.
        kill: Whether faults that end the process are among them.
        max_nth: The latest point that is drawn. One that a run does not reach is a plan without an effect.
        max_faults: How many faults a plan has at most.
    """

    def step(drawn: tuple[tuple[str, Fault], int]) -> tuple[Point, Fault]:
        (place, fault), nth = drawn
        return Point(place, nth), fault

    steps = st.tuples(faults(points, given=given, kill=kill), st.integers(1, max_nth)).map(step)
    unique = st.lists(steps, max_size=max_faults, unique_by=lambda one: (one[0].place, one[0].nth))
    return unique.map(lambda several: Plan(tuple(several)))
