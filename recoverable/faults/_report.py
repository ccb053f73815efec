"""What an exploration has found, as an object and as text."""

from __future__ import annotations

import dis
import os
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import CodeType
from typing import Final

from recoverable.faults._points import PLACES, Fault, Plan, Point
from recoverable.faults._trace import short

__all__ = ["REPLAY", "Failure", "FaultsFound", "Report", "replay_command"]

REPLAY: Final = "RECOVERABLE_FAULTS_REPLAY"
_SHOWN: Final = 5  # failures in the text


@dataclass(frozen=True)
class Failure:
    """A run after which something did not hold.

    Attributes:
        plan: The faults that struck.
        problems: What did not hold, one sentence each.
        ended: How the run ended: what it raised, returned or died of.
        replay: A command that runs this case alone.
        capsule: The file that it is kept in, if capsules are.
    """

    plan: Plan
    problems: tuple[str, ...]
    ended: str
    replay: str
    capsule: str | None = None

    def __str__(self) -> str:
        what = ", then ".join(_said(point, fault) for point, fault in self.plan) or "no fault at all"
        lines = [f"{what}: the run {self.ended}"]
        lines += [f"  {line}" for problem in self.problems for line in problem.splitlines()]
        lines.append(f"  again: {self.replay}")
        if self.capsule is not None:
            lines.append(f"  capsule: {self.capsule}")
        return "\n".join(lines)


def _said(point: Point, fault: Fault) -> str:
    return f"{fault} at {point}" + (f" ({short(point.where)})" if point.where else "")


@dataclass
class Report:
    """What was run, what was covered, and what did not hold.

    Attributes:
        name: What was explored.
        seed: The seed of the sampling.
        depth: How many faults a run had at most.
        runs: How many runs there were, clean ones included.
        seconds: How long all of it took.
        found: Points by place, as far as runs reached them.
        tried: Points by place at which something went wrong in a run.
        outcomes: What the runs left: "rolled back", "committed", "unchanged", "other".
        skipped: Plans that max_points left out.
        missed: Plans of which a fault did not strike: a run did not get there again, or there was no client to hang up on.
        lines: For each file, its lines that can be reached by a fault.
        reached: Those that were.
        failures: The runs after which something did not hold, the smallest first.
        notes: What limits the result.
    """

    name: str
    seed: int
    depth: int
    runs: int = 0
    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    missed: list[Plan] = field(default_factory=list)
    lines: dict[str, set[int]] = field(default_factory=dict)
    reached: dict[str, set[int]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything held after each run."""
        return not self.failures

    def check(self) -> Report:
        """Return itself, or raise `FaultsFound` where something did not hold."""
        if self.failures:
            raise FaultsFound(self)
        return self

    def follow(self, code: CodeType) -> None:
        """Count the lines of a function, and of those in it, among those to be reached."""
        lines = self.lines.setdefault(code.co_filename, set())
        lines |= {line for _, line in dis.findlinestarts(code) if line} - {code.co_firstlineno}
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                lines.discard(inner.co_firstlineno)
                self.follow(inner)

    def limits(self) -> list[str]:
        """Return lines that say what was not covered."""
        text = []
        if self.skipped:
            text.append(f"  left out by max_points: {self.skipped} runs")
        if self.missed:
            several = "; ".join(", then ".join(_said(*step) for step in plan) for plan in self.missed[:_SHOWN])
            more = f"; and {len(self.missed) - _SHOWN} more: report.missed" if len(self.missed) > _SHOWN else ""
            why = " (a disconnect needs a request)" if "disconnect" in several else ""
            text.append(f"  not covered, because the fault did not strike{why}: {several}{more}")
        return text + [f"  note: {note}" for note in self.notes]

    def __str__(self) -> str:
        each = f"{self.seconds / self.runs * 1000:.1f} ms" if self.runs else "-"
        text = [
            f"explored {self.name}: {self.runs} runs in {self.seconds:.1f} s ({each} each), "
            f"depth {self.depth}, seed {self.seed}",
            "  points (tried of reached): "
            + (
                ", ".join(
                    f"{place} {self.tried[place]} of {self.found[place]}" for place in PLACES if self.found[place]
                )
                or "none"
            ),
            "  outcomes: " + (", ".join(f"{what} {n}" for what, n in self.outcomes.most_common()) or "none"),
        ]
        for file, lines in self.lines.items():
            seen = self.reached.get(file, set()) & lines
            missed = f"; not reached: {_ranges(lines - seen)}" if lines - seen else ""
            text.append(f"  lines of {short(file)}: {len(seen)} of {len(lines)} reached{missed}")
        text += self.limits()
        if self.failures:
            text.append(f"  {len(self.failures)} of the runs left something that does not hold; the smallest:")
            for failure in self.failures[:_SHOWN]:
                text += [f"  - {line}" if i == 0 else f"    {line}" for i, line in enumerate(str(failure).splitlines())]
            if len(self.failures) > _SHOWN:
                text.append(f"  … and {len(self.failures) - _SHOWN} more: report.failures")
        else:
            text.append("  everything held after each run")
        return "\n".join(text)


class FaultsFound(AssertionError):
    """Is raised by an exploration that found a fault after which something does not hold.

    Attributes:
        report: All that was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def _ranges(numbers: set[int]) -> str:
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def replay_command(plan: Plan) -> str:
    """Return a command that runs the program again with that plan alone."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if test:
        command = ["python", "-m", "pytest", test]
    elif case := _unittest():
        command = ["python", "-m", "unittest", case]
    else:
        command = list(sys.orig_argv)
    return f"{REPLAY}={shlex.quote(str(plan))} {shlex.join(command)}"


def _unittest() -> str:
    """Return the id of the unittest test that runs, if one does and can be found by it."""
    unittest = sys.modules.get("unittest")
    frame = sys._getframe(1) if unittest is not None else None
    while frame is not None:
        case = frame.f_locals.get("self")
        if isinstance(case, unittest.TestCase):  # type: ignore[union-attr]
            return "" if type(case).__module__ == "__main__" else str(case.id())
        frame = frame.f_back
    return ""
