"""`explore`: run something again and again, each time with a fault at the next point, and look at what is left.

What we want: to know what a crash at *every* point does, in seconds. What does not work: to start anew for each run (an
interpreter takes half a second, a server tens of milliseconds). What does: one warm process. A run that does not kill
happens in it, and afterwards what it committed is taken back, container by container, so that handles, the application and
its client stay good. A run that kills happens in a child forked from it; a second child, which stands for the restarted
server, attaches anew and recovers, and the two must agree with this process on what is left.

The clean run comes first, twice: it finds the points, and tells whether the scenario does the same each time, without
which a plan means nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import mmap
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from recoverable import _state, event_log
from recoverable._native import _faults, _switches
from recoverable.arena import Arena
from recoverable.errors import ArenaOptionError, RecoverableError
from recoverable.faults import _children, _watch
from recoverable.faults._judge import Judge, Outcome, call, comparable
from recoverable.faults._points import (
    NATIVE,
    Cancel,
    Conflict,
    Delay,
    Disconnect,
    Fault,
    Full,
    Kill,
    OutOfMemory,
    Plan,
    Point,
    Raise,
    Segfault,
    Timeout,
)
from recoverable.faults._report import REPLAY, Failure, Report, replay_command
from recoverable.faults._restart import fresh_selector, fresh_threads, restart
from recoverable.faults._trace import Trace, watching

if TYPE_CHECKING:
    from recoverable.capsules import Capsules

__all__ = ["DEFAULT", "GROUPS", "explore", "faults_at", "files_of", "plans_of", "quietly", "sample", "second_plans"]

#: What may be asked for as `points`, and what it stands for: places, and the faults tried there.
GROUPS: Final[Mapping[str, Mapping[str, tuple[Fault, ...]]]] = {
    "line": {"line": (Raise(),)},
    "await": {"await": (Cancel(), Timeout(), Delay(), Disconnect())},
    "write": {"write": (Raise(), Full())},
    "alloc": {"alloc": (Full(),)},
    "conflict": {"resume": (Conflict(),), "commit": (Conflict(),)},
    "kill": {"phase": (Kill(), Segfault()), "alloc": (OutOfMemory(),)},
    "store": {"store": (Kill(),)},
}
DEFAULT: Final = ("line", "await", "write", "alloc", "conflict", "kill")
_COUNT: Final = 8  # bytes on the board
_GRACE: Final = 1.0  # seconds for the tasks that a run leaves behind


def faults_at(
    points: Iterable[str], faults: Mapping[str, Sequence[Fault]] | None, *, web: bool
) -> dict[str, list[Fault]]:
    """Return which faults are tried at each place.

    Args:
        points: Groups: keys of `GROUPS`.
        faults: Faults to try instead, by group.
        web: Whether there is a client that can hang up.

    Raises:
        ArenaOptionError: There is no such group, or a fault can't strike there.
    """
    chosen: dict[str, list[Fault]] = {}
    points = (points,) if isinstance(points, str) else tuple(points)
    for group in points:
        if group not in GROUPS:
            raise ArenaOptionError(f"there are no points {group!r}; there are {', '.join(GROUPS)}. Nothing was run.")
        if group == "store" and not _switches.test_build():
            raise ArenaOptionError("points 'store' are only in builds with -Dcrashpoints=true. Nothing was run.")
    for group in dict.fromkeys(points):
        for place, usual in GROUPS[group].items():
            mine = usual if faults is None or group not in faults else faults[group]
            for fault in mine:
                if place not in fault.places:
                    raise ArenaOptionError(
                        f"{fault} can't strike at {place!r}, but at {', '.join(sorted(fault.places))}. Nothing was run."
                    )
            chosen.setdefault(place, []).extend(
                fault for fault in mine if web or not isinstance(fault, Disconnect) or faults is not None
            )
    return chosen


def plans_of(points: Iterable[Point], chosen: Mapping[str, Sequence[Fault]]) -> list[Plan]:
    """Return the plans of one fault each."""
    return [Plan(((point, fault),)) for point in points for fault in chosen.get(point.place, ())]


def second_plans(
    plan: Plan, trace: Trace, native: Iterable[Point], chosen: Mapping[str, Sequence[Fault]]
) -> list[Plan]:
    """Return the plans that let something else go wrong after a plan's own fault has struck.

    Args:
        plan: The plan that was run, of one fault that does not kill.
        trace: Its run.
        native: The points of that run that the core has counted.
        chosen: The faults by place.
    """
    if trace.since is None:
        point = plan.steps[0][0]
        later = [found for found in native if found.place == point.place and found.nth > point.nth]
    else:
        later = trace.points[trace.since :]
        later += [found for found in native if found.nth > trace.native.get(found.place, 0)]
    return [plan.then(point, fault) for point in later for fault in chosen.get(point.place, ())]


def sample(plans: list[Plan], limit: int, report: Report) -> list[Plan]:
    """Return at most `limit` of the plans, in their order; each line, each place is in it as far as that goes."""
    if len(plans) <= limit:
        return plans
    rng = random.Random(report.seed)
    order = list(range(len(plans)))
    rng.shuffle(order)
    seen: set[tuple[str, ...]] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in order:
        key = tuple(f"{point.place} {point.where} {fault}" for point, fault in plans[i])
        (rest if key in seen else first).append(i)
        seen.add(key)
    report.skipped += len(plans) - limit
    return [plans[i] for i in sorted((first + rest)[:limit])]


# -- the loop ------------------------------------------------------------------------------------------------------


def explore(
    target: Callable[..., Any],
    *,
    arena: Arena | None = None,
    prepare: Callable[..., object] | None = None,
    app: Callable[..., Any] | None = None,
    invariant: Callable[..., object] | None = None,
    before: Callable[..., object] | None = None,
    points: str | Iterable[str] = DEFAULT,
    faults: Mapping[str, Sequence[Fault]] | None = None,
    modules: Iterable[ModuleType | str] = (),
    depth: int = 1,
    max_points: int | None = 1000,
    seed: int = 0,
    atomic: bool = True,
    timeout: float = 10.0,
    size: int | str = "16 MiB",
    progress: bool | Callable[[int, int], object] | None = None,
    max_failures: int | None = None,
    check: bool = True,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    capsules: Capsules | None = None,
) -> Report:
    """Run something again and again, each time with a fault at the next point, and check what is left after each run.

    After each run `arena.verify()` passes, the arena's state equals that before the run or that after a clean one, a run
    that answered as a clean one does has its state, and the invariant holds.

    Args:
        target: What to run. A coroutine function: a handler, or anything that is one unit of work. With `app`: a coroutine
            function that uses a client of the application, `async def target(client)`. A plain function. A generator
            function, for several units of work: it yields wherever a new state has been committed. It is given the arena
            (with `app`, the client) if it takes an argument; parameters named `arena` and `client` are given those.
        arena: An open arena; its state now is the state before, and is there again at the end. By default a new one.
        prepare: `prepare(arena)` fills it, once.
        app: `app(arena)` makes the application that `target`'s client talks to. It is served in this process: one of aiohttp on a
            socket, with aiohttp's test client; an ASGI application, with its lifespan, through httpx's ASGI transport.
        invariant: `invariant(arena)` returns false or raises where something must not be so.
        before: `before(arena)` is called before each run, for what is not in the arena.
        points: What goes wrong where: "line", "await", "write", "alloc", "conflict", "kill"; in test builds also "store".
        faults: Which faults to try instead of the usual ones, by those names: `{"line": [Raise(KeyError)]}`.
        modules: Modules, or files, whose lines count beside those of the handlers' own files.
        depth: 2 lets a second thing go wrong after the first: in the `except`, in the re-run, in the recovery.
        max_points: Runs at most; of more, a sample is taken.
        seed: Of the sample.
        atomic: False, where a fault may leave other states than those before and after; what must hold then, the invariant
            says.
        timeout: Seconds that a run may take.
        size: Of the new arena.
        progress: True writes a line to standard error; or a function that is given how many runs are done, and of how many.
        max_failures: Stop after so many runs that left something that does not hold. By default all are run.
        check: False returns the report also where something did not hold.
        loop_factory: Makes the event loop: `uvloop.new_event_loop`, say. By default asyncio does.
        capsules: Where each run that left something that does not hold is kept (docs/capsules.md). By default where the application
            keeps its requests that crash, if it does; those of other runs are not kept.

    Returns:
        What was covered, and what was found.

    Raises:
        FaultsFound: Something did not hold after a run. An `AssertionError` with the report.
        ArenaOptionError: The arguments don't go together.
    """
    if depth not in (1, 2):
        raise ArenaOptionError(f"depth={depth!r} must be 1 or 2. Nothing was run.")
    chosen = faults_at(points, faults, web=app is not None)
    with contextlib.ExitStack() as stack:
        if arena is None:
            arena = stack.enter_context(Arena.temporary(size))
        if prepare is not None:
            call(prepare, arena=arena)
        explorer = _Explorer(
            target,
            arena,
            app,
            invariant,
            before,
            chosen,
            files_of(modules),
            depth,
            max_points,
            seed,
            atomic,
            timeout,
            progress,
            max_failures,
            loop_factory or asyncio.new_event_loop,
            capsules,
        )
        stack.enter_context(quietly())
        stack.callback(explorer.close)
        report = explorer.run()
    return report.check() if check else report


def files_of(modules: Iterable[ModuleType | str]) -> set[str]:
    """Return the files of modules; what is a text is one."""
    files = set()
    for module in modules:
        file = module if isinstance(module, str) else getattr(module, "__file__", None)
        if file is None:
            raise ArenaOptionError(f"{module!r} has no file, so it has no lines. Nothing was run.")
        files.add(file)
    return files


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep what faults make others write out of the way: hundreds of tracebacks tell nothing."""
    loggers = [logging.getLogger(name) for name in ("aiohttp.server", "asyncio")]
    were = [logger.disabled for logger in loggers]
    quiet, event_log.quiet = event_log.quiet, True
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        event_log.quiet = quiet
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was


async def _finish(tasks: set[asyncio.Task[Any]]) -> None:
    """Let what a run has started come to its end, so that it is not a part of the next run; cancel what does not."""
    if not tasks:
        return
    _, left = await asyncio.wait(tasks, timeout=_GRACE)
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_GRACE)


class _Enough(Exception):
    """Ends an exploration before its last run; its text says why."""


class _Explorer:
    """One exploration: the target, its surroundings, and the runs."""

    def __init__(
        self,
        target: Callable[..., Any],
        arena: Arena,
        app: Callable[..., Any] | None,
        invariant: Callable[..., object] | None,
        before: Callable[..., object] | None,
        chosen: dict[str, list[Fault]],
        files: set[str],
        depth: int,
        max_points: int | None,
        seed: int,
        atomic: bool,
        timeout: float,
        progress: bool | Callable[[int, int], object] | None,
        max_failures: int | None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        capsules: Capsules | None,
    ) -> None:
        self.target, self.arena, self.app, self.before = target, arena, app, before
        self.chosen, self.files, self.timeout = chosen, files, timeout
        self.limit = sys.maxsize if max_points is None else max_points
        self.max_failures = sys.maxsize if max_failures is None else max_failures
        self.loop: asyncio.AbstractEventLoop | None = None
        self.site: Any = None
        if app is not None or inspect.iscoroutinefunction(target):
            self.loop = loop_factory()
            self.loop.set_exception_handler(lambda loop, context: None)  # a task's: a fault's doing, mostly
        self.board = mmap.mmap(-1, mmap.PAGESIZE)
        self.report = Report(getattr(target, "__qualname__", repr(target)), seed, depth)
        self.progress = progress
        self._given = capsules
        if capsules is not None:
            capsules.begin(arena.native, instead=True)
            capsules.hold(True)
        if app is not None:
            try:
                self._open_site()
            except BaseException:
                assert self.loop is not None
                self.loop.close()
                self._arena_of_app.close()
                raise
        self.capsules: Capsules | None = capsules or arena.native.capsules
        if self.capsules is not None:
            self.capsules.hold(True)
        self.judge = Judge(arena, invariant, atomic=atomic)
        self._tried: set[tuple[str, int]] = set()
        self._reached: set[str] = set()

    def _open_site(self) -> None:
        assert self.app is not None
        assert self.loop is not None
        if self.site is not None:
            self._close_site()
        self._arena_of_app = Arena.open(self.arena.name)
        app = call(self.app, arena=self._arena_of_app)
        if any(kind.__module__.partition(".")[0] == "aiohttp" for kind in type(app).__mro__):
            from recoverable.faults.aiohttp import Site
        else:
            from recoverable.faults.asgi import Site  # type: ignore[assignment]
        self.site = Site(self.loop, app)

    def _close_site(self) -> None:
        self.site.close()
        self._arena_of_app.close()  # of an application that has no lifespan, or does not close it

    def close(self) -> None:
        """Put everything away."""
        if self.capsules is not None:
            self.capsules.hold(False)
            self.capsules.flush()
        if self._given is not None:
            self._given.end(self.arena.native)
        if self.site is not None:
            self._close_site()
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        self.board.close()

    # -- the runs of an exploration ---------------------------------------------------------------------------------

    def run(self) -> Report:
        """Explore."""
        began = time.perf_counter()
        report = self.report
        replay = os.environ.get(REPLAY)
        try:
            points = self._clean()
            if replay is not None:
                plan = Plan.parse(replay)
                report.notes.append(f"only {plan}, because {REPLAY} says so")
                self._one(plan)
            elif not report.failures:
                self._all(plans_of(points, self.chosen))
        except _Enough as enough:
            report.notes.append(str(enough))
            if not report.failures:  # it can't be put back: that does not hold either
                report.failures.append(Failure(Plan(), (str(enough),), "ended", replay_command(Plan())))
        report.seconds = time.perf_counter() - began
        for file in report.lines:
            seen = (where.rpartition(":") for where in self._reached)
            report.reached[file] = {int(line) for name, _, line in seen if name == file}
        return report

    def _all(self, plans: list[Plan]) -> None:
        """Run each plan, then those of two faults, as far as max_points allows."""
        report = self.report
        plans = sample(plans, self.limit, report)
        second: list[Plan] = []
        for done, plan in enumerate(plans, 1):
            second += self._one(plan)
            self._tell(done, len(plans))
        if report.depth == 2:
            second = sample(second, max(0, self.limit - len(plans)), report)
            for done, plan in enumerate(second, 1):
                self._one(plan)
                self._tell(len(plans) + done, len(plans) + len(second))

    def _tell(self, done: int, of: int) -> None:
        if callable(self.progress):
            self.progress(done, of)
        elif self.progress:
            end = "\n" if done == of else ""
            failures = len(self.report.failures)
            sys.stderr.write(f"\r{self.report.name}: {done} of {of} runs, {failures} failures {end}")
            sys.stderr.flush()

    # -- one run -----------------------------------------------------------------------------------------------------

    def _clean(self) -> list[Point]:
        """Run it twice without faults; return its points, and keep the states that it commits."""
        report, judge = self.report, self.judge
        outcome, first = self._watched(Plan(), states=judge.states)
        self._reached = set(first.reached)
        for code in first.followed if "line" in self.chosen else ():
            report.follow(code)
        found = self._found(first)
        now = judge.look(outcome, clean=True)
        if now is not None:
            if len(judge.states) == 1 or not _state.same(judge.states[-1], now):
                judge.states.append(now)
            judge.result = outcome.result
        if not outcome.ended.startswith("returned"):
            report.notes.append(f"the run without faults {outcome.ended}")
            if not found:
                outcome.problems.append("it reached no point without faults, so nothing could be explored")
        report.runs += 1
        self._keep(Plan(), outcome)
        if outcome.problems or now is None:
            return found
        self._put_back()
        outcome, second = self._watched(Plan())
        report.runs += 1
        again = _state.image_of(self.arena)
        if not _state.same(again, now):
            judge.atomic = False
            report.notes.append(
                "two runs without faults left different states, so states are not compared, only the invariant and "
                f"verify(): {'; '.join(_state.differences(now, again, limit=2))}"
            )
        found_again = self._found(second)
        if [str(point) for point in found] != [str(point) for point in found_again]:
            report.notes.append(
                "two runs without faults reached different points, so some faults strike elsewhere when they are replayed "
                f"({len(found)} points, then {len(found_again)})"
            )
        self._put_back()
        report.found.update(point.place for point in found_again)
        return found_again

    def _found(self, trace: Trace) -> list[Point]:
        found = list(trace.points)
        for place in ("alloc", "phase", "store"):
            if place in self.chosen:
                found += trace.native_points(place)
        return found

    def _one(self, plan: Plan) -> list[Plan]:
        """Run a plan and judge it; return the plans of two faults that begin with it."""
        report = self.report
        second: list[Plan] = []
        if plan.deadly:
            outcome = self._killed(plan)
            if report.depth == 2 and len(plan.steps) == 1 and self._recoveries:
                second = [plan.then(Point("recover", n, name), Kill()) for n, name in enumerate(self._recoveries, 1)]
            self.judge.look(outcome)
        else:
            outcome, trace = self._watched(plan)
            self._reached |= trace.reached
            if report.depth == 2 and len(plan.steps) == 1:
                native = [point for place in NATIVE & self.chosen.keys() for point in trace.native_points(place)]
                second = second_plans(plan, trace, native, self.chosen)
            self.judge.look(outcome)
        report.runs += 1
        if outcome.missed:
            report.missed.append(plan)
        else:
            self._tried.update((point.place, point.nth) for point, _ in plan)
        report.tried = Counter(place for place, _ in self._tried)
        report.outcomes[outcome.state] += 1
        self._keep(plan, outcome)
        self._put_back()
        return second

    def _keep(self, plan: Plan, outcome: Outcome) -> None:
        held = None if self.capsules is None else self.capsules.take_held()
        if outcome.problems:
            again = replay_command(plan)
            capsule = None if self.capsules is None else self._kept(self.capsules, held, plan, outcome, again)
            self.report.failures.append(Failure(plan, tuple(outcome.problems), outcome.ended, again, capsule))
        if len(self.report.failures) >= self.max_failures:
            raise _Enough(f"stopped after {self.max_failures} failures, as max_failures says")

    def _kept(self, capsules: Capsules, held: Any, plan: Plan, outcome: Outcome, again: str) -> str | None:
        """Keep a run that left something that does not hold, with the request that crashed in it."""
        found = {
            "target": self.report.name,
            "faults": str(plan),
            "problems": list(outcome.problems),
            "ended": outcome.ended,
            "again": again,
        }
        return capsules.keep_exploration(held, self.report.name, self.arena.name, found)

    def _put_back(self) -> None:
        """Make the arena hold the state before again."""
        try:
            remade = _state.restore(self.arena, self.judge.before)
            now = _state.image_of(self.arena)
        except RecoverableError as error:
            raise _Enough(
                f"stopped, because the state before can't be put back: {type(error).__name__}: {error}"
            ) from None
        if not _state.same(now, self.judge.before):
            difference = "; ".join(_state.differences(self.judge.before, now, limit=2))
            raise _Enough(f"stopped, because the state before can't be put back: {difference}")
        if remade and self.app is not None:
            self._open_site()  # its handles may be stale

    def _watched(self, plan: Plan, states: list[_state.Node] | None = None) -> tuple[Outcome, Trace]:
        """Run the target in this process."""
        if self.before is not None:
            call(self.before, arena=self.arena)
        trace = Trace(plan, lines="line" in self.chosen, files=self.files)
        outcome, struck = Outcome(), _faults.fault_struck()
        with watching(trace, [self.arena.native], stores="store" in self.chosen):
            try:
                result = self._target(trace, outcome, states)
            except (KeyboardInterrupt, SystemExit):
                raise
            except TimeoutError as error:
                outcome.ended = f"raised TimeoutError: {error}"
                if self._late:
                    outcome.problems.append(f"it took longer than timeout={self.timeout:g} s")
            except BaseException as error:
                outcome.ended = f"raised {type(error).__name__}: {error}".splitlines()[0][:200]
            else:
                outcome.result = comparable(result)
                outcome.ended = f"returned {outcome.result}" if outcome.result is not None else "returned"
        outcome.missed = _faults.fault_struck() - struck < len(plan.steps) - len(plan.recovery.steps)
        return outcome, trace

    _late = False

    def _target(self, trace: Trace, outcome: Outcome, states: list[_state.Node] | None) -> Any:
        """Call the target, and bring what it returns to its end."""
        given: dict[str, Any] = {"arena": self.arena}
        if self.site is not None:
            given = {"client": self.site.client, "arena": self.arena}
        function = inspect.unwrap(self.target)
        code = getattr(function, "__code__", None)
        if self.loop is not None:
            if self.site is None and code is not None and not hasattr(self.target, "__wrapped__"):
                trace.follow(code)
            return self._in_loop(self.target, given)
        if code is not None:
            trace.follow(code)
        with _watch.lines_traced():
            result = call(self.target, **given)
            if not inspect.isgenerator(result):
                return result
            for _ in result:
                outcome.units += 1
                self.board[:_COUNT] = outcome.units.to_bytes(_COUNT, "little")
                if states is not None:
                    with _watch.lines_not_traced():
                        now = _state.image_of(self.arena)
                    states.append(now)
        return None

    def _in_loop(self, target: Callable[..., Any], given: dict[str, Any]) -> Any:
        assert self.loop is not None
        self._late = False

        async def main() -> Any:
            limit, others = asyncio.timeout(self.timeout), asyncio.all_tasks()
            try:
                async with limit:
                    if self.site is not None or hasattr(target, "__wrapped__"):
                        return await call(target, **given)
                    return await _watch.driven(call(target, **given), self.report.name)
            finally:
                self._late = limit.expired()
                await _finish(asyncio.all_tasks() - others)

        return self.loop.run_until_complete(main())

    # -- a run that kills ---------------------------------------------------------------------------------------------

    _recoveries: tuple[str, ...] = ()

    def _killed(self, plan: Plan) -> Outcome:
        """Run the target in a child, which dies; attach anew in another; return how it ended and what that one saw."""
        self.board[:_COUNT] = bytes(_COUNT)

        def die() -> str:
            if self.loop is not None:
                fresh_selector(self.loop)
                fresh_threads(self.loop)
            return self._watched(plan)[0].ended

        ending = _children.in_child(die, self.timeout + 5)
        outcome = Outcome(ended=str(ending).strip().splitlines()[-1])
        outcome.units = int.from_bytes(self.board[:_COUNT], "little")
        if ending.hung or ending.error:
            outcome.problems.append(f"the run that was to be killed did not end by itself: {ending}")
        elif not ending.signal:
            outcome.ended = f"survived and {ending.value}"
            outcome.missed = True
        self._recoveries = restart(self.judge, plan, outcome, self.timeout)
        return outcome
