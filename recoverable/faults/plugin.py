"""The pytest plugin: a test that uses the fixture `faults` is run once for each point that its block reaches.

    @pytest.mark.faults(points=["line", "await", "write", "kill"])
    async def test_checkout(faults, client):
        async with faults:                            # the fault is armed in here
            await client.post("/checkout", json=...)
        assert total_money(faults.arena) == 1000      # must hold whatever happened

Which points there are is known only once the test has run, so they can't be parameters, which pytest wants when it collects.
The test stays one item, as a Hypothesis test does: it is run without a fault, twice, and then once for each plan, each time
with its fixtures set up and torn down anew, so that no run sees what another has left in them. What is reported is the
smallest failing run, with the command that repeats it.

A run that kills forks where the block begins. The child runs the block and dies in it; the test waits, another process
attaches to the arena as a restarted server does, and the test goes on *behind* the block. To leave the block out it traces
its own frame and raises at the first line of the body, which is therefore to begin on a line of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from recoverable.arena import Arena
    from recoverable.faults._judge import Judge
    from recoverable.faults._points import Plan, Point
    from recoverable.faults._report import Report
    from recoverable.faults._trace import Trace

__all__ = ["Faults", "faults"]

_FIXTURE: Final = "faults"
_OPTIONS: Final = {"points", "faults", "modules", "depth", "max_points", "seed", "atomic", "timeout", "invariant"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("faults", "fault injection (recoverable)")
    group.addoption(
        "--faults-replay", metavar="PLAN", help="run tests with `faults` only with this plan: write:3=raise"
    )
    group.addoption("--faults-max-points", metavar="N", type=int, help="at most so many runs of a test with `faults`")
    group.addoption(
        "--faults-seed", metavar="SEED", type=int, help="of the sample where there are more points than that"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "faults(points=..., faults=None, modules=(), depth=1, max_points=1000, seed=0, atomic=True, timeout=10.0, "
        "invariant=None): how a test that uses the fixture `faults` is explored; see recoverable.faults.explore()",
    )


_reports: Final = pytest.StashKey[list["Report"]]()
_exploration: Final = pytest.StashKey["_Exploration"]()


class _Skipped(BaseException):
    """Leaves the block out of a run whose block was run by a child."""


class Faults:
    """What the fixture `faults` is: a block, `async with faults:` or `with faults:`, and what is known behind it.

    What leaves the block after a fault has struck goes no further: it is in `error`.

    Attributes:
        plan: What goes wrong in this run. Empty: nothing, it is one of the clean runs.
        error: What left the block, or None.
        struck: Whether the fault has struck.
        killed: Whether the block was run by a process that has died in it.
    """

    def __init__(self, exploration: _Exploration, arena: Arena | None) -> None:
        self._exploration = exploration
        self._arena = arena
        self._judge: Judge | None = None
        self._trace: Trace | None = None
        self._stack = contextlib.ExitStack()
        self._before: Any = None
        self._child = False
        self.plan = exploration.plan
        self.error: BaseException | None = None
        self.struck = False
        self.killed = False

    @property
    def arena(self) -> Arena:
        """The arena: the fixture `arena`'s value, else the only one that is open. Set it where there are several."""
        from recoverable import _registry
        from recoverable.errors import RecoverableError

        if self._arena is None:
            segments = _registry.all_open()
            if len(segments) != 1:
                names = ", ".join(repr(segment.name) for segment in segments)
                raise RecoverableError(
                    f"which arena is it that faults are to be injected into? {len(segments)} are open ({names}). Nothing "
                    "was armed. Write faults.arena = … before the block, or have a fixture named `arena`."
                )
            self._arena = segments[0].arenas[0]
        return self._arena

    @arena.setter
    def arena(self, arena: Arena) -> None:
        self._arena = arena

    async def __aenter__(self) -> Faults:
        self._enter(sys._getframe(1))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, asyncio.CancelledError) and self._has_struck():
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                task.uncancel()
        return self._leave(error)

    def __enter__(self) -> Faults:
        self._enter(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._leave(error)

    def _enter(self, frame: FrameType) -> None:
        from recoverable.faults._explore import quietly
        from recoverable.faults._judge import Judge
        from recoverable.faults._trace import Trace, watching

        exploration = self._exploration
        if exploration.entered:
            pytest.fail("a test enters `faults` once; put what belongs together into one block", pytrace=False)
        exploration.entered = True
        self._judge = Judge(self.arena, exploration.invariant, atomic=exploration.atomic)
        if exploration.states is not None:
            exploration.agree(self._judge)
        self._trace = Trace(self.plan, lines="line" in exploration.chosen, files=exploration.files)
        if self.plan.deadly:
            self._fork(frame)
            if not self._child:
                return
        self._stack.enter_context(quietly())
        self._stack.enter_context(watching(self._trace, [self.arena.native], stores="store" in exploration.chosen))

    def _has_struck(self) -> bool:
        return self._struck() > 0

    def _struck(self) -> int:
        from recoverable._native import _faults

        return _faults.fault_struck() - self._exploration.struck_before

    def _leave(self, error: BaseException | None) -> bool:
        """End the block: true where what left it goes no further."""
        from recoverable.faults._judge import Outcome

        if self.killed:
            if not isinstance(error, _Skipped):
                pytest.fail("the body of `with faults:` must begin on a line of its own", pytrace=False)
            return True
        struck = self.struck = self._has_struck()
        self._stack.close()
        if self._child:
            os._exit(0)  # it has survived its plan
        if error is not None and not (struck and isinstance(error, (Exception, asyncio.CancelledError))):
            return False
        self.error = error
        ended = "ended" if error is None else f"raised {type(error).__name__}: {error}"
        outcome = Outcome(ended=ended.splitlines()[0][:200], missed=self._struck() < len(self.plan.steps))
        assert self._judge is not None
        assert self._trace is not None
        self._exploration.ran(self._judge, self._trace, outcome)
        return True

    # -- a kill -------------------------------------------------------------------------------------------------------

    def _fork(self, frame: FrameType) -> None:
        """Let a child go on into the block, and see it die; then have the block left out here."""
        from recoverable.faults import _children
        from recoverable.faults._judge import Outcome
        from recoverable.faults._restart import fresh_selector, fresh_threads, restart
        from recoverable.transaction import running_loop

        assert self._judge is not None
        loop = running_loop()
        reader, writer = os.pipe()
        pid = _children.fork()
        if pid == 0:
            os.close(reader)  # the other end closes with us
            self._child = True
            if loop is not None:
                asyncio._set_running_loop(loop)  # a fork has none
                fresh_selector(loop)
                fresh_threads(loop)
            return
        os.close(writer)
        exploration = self._exploration
        ending = _children.await_child(pid, reader, exploration.timeout)
        outcome = Outcome(ended="survived" if not ending.signal else str(ending))
        if ending.hung:
            outcome.problems.append(f"the run that was to be killed did not end within {exploration.timeout:g} s")
        self.killed, self.struck = True, ending.signal != 0
        outcome.missed = not self.struck
        self._skip(frame)
        exploration.recoveries = restart(self._judge, self.plan, outcome, exploration.timeout)
        try:
            exploration.ran(self._judge, None, outcome)
        except BaseException:
            self._stack.close()
            raise

    def _skip(self, frame: FrameType) -> None:
        """Raise at the next line of that frame."""
        before = sys.gettrace()

        def skip(at: FrameType, event: str, argument: object) -> Any:
            if event == "line" and at is frame:
                raise _Skipped
            return skip

        def end() -> None:
            sys.settrace(before)
            frame.f_trace = None

        frame.f_trace = skip
        sys.settrace(lambda at, event, argument: None)
        self._stack.callback(end)

    def _close(self) -> None:
        self._stack.close()


class _Exploration:
    """The runs of one test."""

    def __init__(self, item: pytest.Item) -> None:
        from recoverable.faults._explore import DEFAULT, faults_at, files_of
        from recoverable.faults._points import Plan
        from recoverable.faults._report import REPLAY, Report

        marker = item.get_closest_marker("faults")
        given = {} if marker is None else dict(marker.kwargs)
        if marker is not None and (marker.args or given.keys() - _OPTIONS):
            wrong = ", ".join([*map(repr, marker.args), *sorted(given.keys() - _OPTIONS)])
            raise pytest.UsageError(
                f"{item.nodeid}: the marker `faults` takes {', '.join(sorted(_OPTIONS))}; not {wrong}"
            )
        self.item = item
        self.chosen = faults_at(given.get("points", DEFAULT), given.get("faults"), web=True)
        self.given = "await" in (given.get("faults") or {})
        self.files = files_of(given.get("modules", ()))
        self.invariant = given.get("invariant")
        self.atomic: bool = given.get("atomic", True)
        self.timeout: float = given.get("timeout", 10.0)
        limit = item.config.getoption("--faults-max-points")
        self.limit = given.get("max_points", 1000) if limit is None else limit
        seed = item.config.getoption("--faults-seed")
        self.report: Report = Report(item.nodeid, given.get("seed", 0) if seed is None else seed, given.get("depth", 1))
        replay = item.config.getoption("--faults-replay") or os.environ.get(REPLAY)
        self.replay = None if replay is None else Plan.parse(replay)
        self.plan: Plan = Plan()
        self.entered = False
        self.struck_before = 0
        self.states: list[Any] | None = None
        self.recoveries: tuple[str, ...] = ()
        self.found: list[Point] = []
        self.second: list[Plan] = []
        self._tried: set[tuple[str, int]] = set()
        self._reached: set[str] = set()
        self.ended = ""
        self.problems: tuple[str, ...] = ()
        self.missed = False

    # -- what a run's block tells ---------------------------------------------------------------------------------------

    def agree(self, judge: Judge) -> None:
        """Judge a run by the states of the clean one."""
        from recoverable import _state

        assert self.states is not None
        if judge.atomic and not _state.same(judge.before, self.states[0]):
            judge.atomic = self.atomic = False
            note = "; ".join(_state.differences(self.states[0], judge.before, limit=2))
            self.report.notes.append(f"the arena is not the same before each run, so states are not compared: {note}")
        judge.states = self.states

    def ran(self, judge: Judge, trace: Trace | None, outcome: Any) -> None:
        """Look at what a block has left; fail the test where that must not be."""
        from recoverable import _state
        from recoverable.faults._explore import second_plans
        from recoverable.faults._points import NATIVE, Kill, Point

        report = self.report
        clean = not self.plan.steps
        if trace is not None:
            self._reached |= trace.reached
            if clean:
                self.found = list(trace.points)
                if not trace.clients and not self.given:
                    self.chosen["await"] = [one for one in self.chosen.get("await", ()) if one.name != "disconnect"]
                for place in ("alloc", "phase", "store"):
                    if place in self.chosen:
                        self.found += trace.native_points(place)
                for code in trace.followed:
                    report.follow(code)
            elif report.depth == 2 and len(self.plan.steps) == 1:
                native = [point for place in NATIVE & self.chosen.keys() for point in trace.native_points(place)]
                self.second += second_plans(self.plan, trace, native, self.chosen)
        elif report.depth == 2 and len(self.plan.steps) == 1:
            self.second += [
                self.plan.then(Point("recover", n, name), Kill()) for n, name in enumerate(self.recoveries, 1)
            ]
        now = judge.look(outcome, clean=clean)
        self.ended = outcome.ended
        if clean and now is not None:
            states = [judge.before, now]
            if self.states is not None and self.atomic and not _state.same(self.states[-1], now):
                self.atomic = False
                note = "; ".join(_state.differences(self.states[-1], now, limit=2))
                report.notes.append(
                    f"two runs without faults left different states, so states are not compared: {note}"
                )
            self.states = states
        if not clean:
            report.outcomes[outcome.state] += 1
        self.problems, self.missed = tuple(outcome.problems), outcome.missed
        if outcome.problems:
            pytest.fail("\n".join(outcome.problems), pytrace=False)

    # -- the loop ---------------------------------------------------------------------------------------------------------

    def explore(self, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Run the test as often as it takes; return the reports to show for it."""
        from recoverable.faults._explore import plans_of, sample

        report, began = self.report, time.perf_counter()
        assert self.item.parent is not None
        again = _Again.from_parent(self.item.parent, name=self.item.name)
        shown = self._once(_plan(), again)
        failed = [shown] if _failed(shown) else []
        if not failed and not shown[0].skipped and not any(one.skipped for one in shown):
            if not self.entered:
                shown[1] = _as_failure(shown[1], "the test never entered `with faults:`, so nothing could be injected")
                failed = [shown]
            else:
                first = [str(point) for point in self.found]
                shown = self._once(_plan(), again)
                if first != [str(point) for point in self.found]:
                    report.notes.append("two runs without faults reached different points: a plan may strike elsewhere")
                report.found = Counter(point.place for point in self.found)
                plans = plans_of(self.found, self.chosen) if self.replay is None else [self.replay]
                failed = [shown] if _failed(shown) else self._plans(sample(plans, self._limit, report), again)
                if report.depth == 2 and not _failed(shown) and self.replay is None:
                    left = max(0, self._limit - len(plans))
                    failed += self._plans(sample(self.second, left, report), again)
        report.seconds = time.perf_counter() - began
        for file in report.lines:
            seen = (where.rpartition(":") for where in self._reached)
            report.reached[file] = {int(line) for name, _, line in seen if name == file}
        self.item.session._setupstate.teardown_exact(nextitem)
        return self._shown(failed[0] if failed else shown, bool(failed))

    @property
    def _limit(self) -> int:
        return sys.maxsize if self.limit is None else self.limit

    def _plans(self, plans: list[Plan], again: pytest.Item) -> list[list[pytest.TestReport]]:
        from recoverable.faults._report import Failure

        failed = []
        for plan in plans:
            reports = self._once(plan, again)
            if self.missed:
                self.report.missed.append(plan)
            else:
                self._tried.update((point.place, point.nth) for point, _ in plan)
            if _failed(reports):
                failed.append(reports)
                problems = self.problems or _why(next(one for one in reports if one.failed))
                self.report.failures.append(Failure(plan, problems, self.ended, self._command(plan)))
        self.report.tried = Counter(place for place, _ in self._tried)
        return failed

    def _command(self, plan: Plan) -> str:
        return shlex.join(["python", "-m", "pytest", self.item.nodeid, f"--faults-replay={plan}"])

    def _once(self, plan: Plan, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """Set up, run and tear down the test once."""
        from _pytest.runner import runtestprotocol  # as other plugins that run tests again do

        from recoverable._native import _faults

        self.plan, self.entered, self.ended, self.problems = plan, False, "did not enter the block", ()
        self.missed = True
        self.struck_before = _faults.fault_struck()
        self.report.runs += 1
        item: Any = self.item
        return runtestprotocol(item, log=False, nextitem=nextitem)

    def _shown(self, reports: list[pytest.TestReport], failed: bool) -> list[pytest.TestReport]:
        for one in reports:
            if one.when == "call":
                one.duration = self.report.seconds
                if failed and self.report.failures:
                    one.sections.append(("faults", str(self.report)))
        return reports


def _plan() -> Plan:
    from recoverable.faults._points import Plan

    return Plan()


def _failed(reports: list[pytest.TestReport]) -> bool:
    return any(report.failed for report in reports)


def _why(report: pytest.TestReport) -> tuple[str, ...]:
    """Return what a failed test says, without its traceback."""
    text = report.longreprtext.strip().splitlines()
    return tuple(line.removeprefix("E").strip() for line in text if line.startswith("E ")) or tuple(text[-1:])


def _as_failure(report: pytest.TestReport, why: str) -> pytest.TestReport:
    report.outcome = "failed"
    report.longrepr = why
    return report


class _Again(pytest.Item):
    """Stands for the next run, so that pytest keeps the fixtures of module, class and session between two."""

    def runtest(self) -> None:
        """Never be run."""
        raise NotImplementedError


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that uses the fixture once for each point; every other as always."""
    if _FIXTURE not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        exploration = item.stash[_exploration] = _Exploration(item)
    except (ValueError, pytest.UsageError) as error:  # of the marker, or of a plan
        report = pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", str(error), "setup")
        item.ihook.pytest_runtest_logreport(report=report)
    else:
        for report in exploration.explore(nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.config.stash.setdefault(_reports, []).append(exploration.report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say for each explored test what was covered: a line, or with -v all of it."""
    reports = config.stash.get(_reports, [])
    if not reports or config.get_verbosity() < 0:
        return
    terminalreporter.section("faults")
    for report in reports:
        lines = str(report).splitlines()
        terminalreporter.write_line("\n".join(lines if config.get_verbosity() > 0 else [lines[0], *report.limits()]))


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Generator[Faults, None, None]:
    """Give the block in which faults strike: `async with faults:`; the test runs once for each point that it reaches."""
    exploration = request.node.stash.get(_exploration, None)
    if exploration is None:
        pytest.fail("the fixture `faults` is for test functions; use recoverable.faults.explore() here", pytrace=False)
    arena = request.getfixturevalue("arena") if "arena" in request.fixturenames else None
    given = Faults(exploration, arena)
    yield given
    given._close()
