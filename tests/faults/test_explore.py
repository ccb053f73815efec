"""Exploration: which points there are, what strikes there, and that real bugs are found."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

import recoverable
from recoverable import Arena, ArenaFullError, ArenaOptionError, Array, Counter, Deque, Record, after_commit
from recoverable.aiohttp import setup
from recoverable.faults import (
    Cancel,
    Delay,
    Disconnect,
    FaultsFound,
    Full,
    InjectedFault,
    Plan,
    Raise,
    Report,
    Timeout,
    explore,
)
from recoverable.faults._restart import fresh_selector
from support.forks import in_child

IN_PROCESS = ("line", "await", "write", "alloc", "conflict")


def fill(arena: Arena) -> None:
    """Two accounts and a book of transfers."""
    with arena.transaction():
        arena.root["ann"], arena.root["bob"], arena.root["done"] = 100, 0, []


def total(arena: Arena) -> bool:
    """The money is all there."""
    return arena.root["ann"] + arena.root["bob"] == 100


def test_lines_are_told_only_where_they_were_tried(arena: Arena) -> None:
    """A report says which lines were reached where exceptions at lines were asked for, and nothing of lines where not."""
    with_lines = explore(move, arena=arena, prepare=fill, points=["line"])
    without = explore(move, arena=arena, prepare=fill, points=["write"])
    assert "  lines of " in str(with_lines)
    assert with_lines.lines
    assert "  lines of " not in str(without)
    assert without.lines == without.reached == {}


@recoverable.recoverable
async def move() -> str:
    """Move money the right way."""
    root = recoverable.arena_of_test.root  # type: ignore[attr-defined]
    root["ann"] -= 10
    await asyncio.sleep(0)
    root["bob"] += 10
    root["done"].append({"amount": 10})
    return "moved"


@pytest.fixture(autouse=True)
def shared(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let handlers find the arena as those of a program find a global one."""
    monkeypatch.setattr(recoverable, "arena_of_test", arena, raising=False)


@pytest.mark.slow
def test_a_sound_handler_survives_everything(arena: Arena) -> None:
    """Exceptions at each line, await, write and allocation, conflicts and kills: before or after, never between."""
    report = explore(move, arena=arena, prepare=fill, invariant=total)
    assert report.ok
    assert set(report.found) == {"line", "await", "resume", "write", "alloc", "commit", "phase"}
    assert report.tried == report.found
    assert report.outcomes["rolled back"] > 0 < report.outcomes["committed"]
    assert set(report.outcomes) == {"rolled back", "committed"}
    assert not report.notes
    assert total(arena)
    assert arena.root["ann"] == 100, "the state is not what it was before the exploration"


def test_each_kind_of_point_is_counted_where_it_is(arena: Arena) -> None:
    """The points of a handler are its lines, its awaits, its writes."""
    report = explore(move, arena=arena, prepare=fill, points=["line", "await", "write"])
    assert report.found["await"] == 1
    assert report.found["write"] == 3
    (lines,) = report.lines.values()
    assert report.reached[__file__] == lines
    assert report.found["line"] >= len(lines)


def two_transactions(arena: Arena) -> None:
    """Forget that two blocks are two transactions."""
    with arena.transaction():
        arena.root["ann"] -= 10
    with arena.transaction():
        arena.root["bob"] += 10


@pytest.mark.parametrize("kind", ["line", "write", "alloc", "kill"])
def test_a_forgotten_common_transaction_is_found(kind: str) -> None:
    """Two commits where one is meant: whatever is injected, some state is neither before nor after."""
    with pytest.raises(FaultsFound, match="neither that before nor that after") as caught:
        explore(two_transactions, prepare=fill, invariant=total, points=kind)
    report = caught.value.report
    assert "the invariant total does not hold" in str(report)
    assert "root['ann']: 100 became 90" in str(report)
    assert f"RECOVERABLE_FAULTS_REPLAY={report.failures[0].plan}" in str(report)


def test_awaits_between_transactions_are_points_of_a_plain_coroutine(arena: Arena) -> None:
    """A cancellation between two transactions of one handler is found although it is not decorated."""

    async def handler(arena: Arena) -> None:
        with arena.transaction():
            arena.root["ann"] -= 10
        await asyncio.sleep(0)
        with arena.transaction():
            arena.root["bob"] += 10

    report = explore(handler, arena=arena, prepare=fill, points="await", check=False)
    assert {str(failure.plan) for failure in report.failures} == {"await:1=cancel", "await:1=timeout"}


def test_a_side_effect_before_the_commit_is_found(arena: Arena) -> None:
    """A mail that is sent from the handler's body goes out for orders that are rolled back; after_commit mends it."""
    sent: list[int] = []

    def agree(arena: Arena) -> bool:
        return len(sent) == len(arena.root["done"])

    @recoverable.recoverable
    async def early() -> None:
        sent.append(1)
        arena.root["done"].append(1)

    @recoverable.recoverable
    async def late() -> None:
        after_commit(sent.append, 1)
        arena.root["done"].append(1)

    given: Any = {"arena": arena, "prepare": fill, "invariant": agree, "before": sent.clear, "points": IN_PROCESS}
    assert not explore(early, check=False, **given).ok
    assert explore(late, **given).ok


def test_an_answer_that_came_too_early_is_found(arena: Arena) -> None:
    """Who returns as if all were well after swallowing a failure has answered for what was not committed."""

    async def handler(arena: Arena) -> str:
        try:
            with arena.transaction():
                arena.root["ann"] -= 10
        except InjectedFault:
            pass
        return "moved"

    report = explore(handler, arena=arena, prepare=fill, points="write", faults={"write": [Raise()]}, check=False)
    assert [str(failure.plan) for failure in report.failures] == ["write:1=raise"]
    assert "answered as if it had committed (moved)" in str(report)


def test_two_faults_reach_the_except_path(arena: Arena) -> None:
    """A bug in what mends a failure shows only when that fails, too: depth 2 finds it, depth 1 does not."""

    async def handler(arena: Arena) -> None:
        try:
            with arena.transaction():
                arena.root["ann"] -= 10
                arena.root["bob"] += 10
        except InjectedFault:
            with arena.transaction():
                arena.root["ann"] -= 1
            with arena.transaction():
                arena.root["ann"] += 1

    given: Any = {"arena": arena, "prepare": fill, "points": "line", "check": False}
    assert explore(handler, **given).ok
    report = explore(handler, depth=2, **given)
    assert report.failures
    assert all(len(failure.plan.steps) == 2 for failure in report.failures)


def test_a_conflict_at_each_resume_and_commit_runs_the_handler_again(arena: Arena) -> None:
    """A forced conflict ends in a commit by the re-run; without re-runs, in a rollback."""
    report = explore(move, arena=arena, prepare=fill, points="conflict")
    assert (report.found["resume"], report.found["commit"]) == (1, 1)
    assert report.outcomes == {"committed": 2}

    @recoverable.recoverable(max_conflicts=0)
    async def once() -> None:
        arena.root["ann"] -= 10
        await asyncio.sleep(0)
        arena.root["bob"] += 10

    report = explore(once, arena=arena, prepare=fill, points="conflict")
    assert report.outcomes == {"rolled back": 2}


def test_retries_hide_a_single_fault_and_not_two(arena: Arena) -> None:
    """A handler that is run again commits after one crash, and rolls back after two."""

    @recoverable.recoverable(retries=1)
    async def again() -> None:
        arena.root["ann"] -= 10

    given: Any = {"arena": arena, "prepare": fill, "points": "write", "faults": {"write": [Raise()]}}
    assert explore(again, **given).outcomes == {"committed": 1}
    report = explore(again, depth=2, **given)
    assert report.outcomes == {"committed": 1, "rolled back": 1}


def test_each_fault_is_what_it_says(arena: Arena) -> None:
    """Handlers see the exception that was asked for."""
    seen: list[str] = []

    async def handler(arena: Arena) -> None:
        try:
            with arena.transaction():
                arena.root["ann"] = 1
            await asyncio.sleep(0)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    given: Any = {"arena": arena, "prepare": fill, "check": False}
    explore(handler, points="write", faults={"write": [Raise(KeyError), Raise(OSError(5, "x")), Full()]}, **given)
    explore(handler, points="await", faults={"await": [Cancel(), Timeout(), Delay(0.001), Raise(KeyError)]}, **given)
    explore(handler, points="alloc", max_points=1, **given)
    assert seen == [
        "KeyError",
        "OSError",
        "ArenaFullError",
        "CancelledError",
        "TimeoutError",
        "KeyError",
        "ArenaFullError",
    ]


def test_allocations_fail_in_the_commit_too(arena: Arena) -> None:
    """Every request for room is a point, those of the commit included, and each is an ArenaFullError."""
    ended = []

    def grow(arena: Arena) -> None:
        try:
            with arena.transaction():
                arena.root["new"] = {"a": {"b": b"x" * 300}}
        except ArenaFullError:
            ended.append("full")
            raise

    report = explore(grow, arena=arena, prepare=fill, points="alloc")
    assert len(ended) == report.found["alloc"] == report.outcomes["rolled back"] > 5


def test_delays_let_others_in(arena: Arena) -> None:
    """A delay at an await lets a task that was waiting run first."""
    order: list[str] = []

    async def handler() -> None:
        other = asyncio.ensure_future(wait_long())
        await asyncio.sleep(0)
        order.append("handler")
        await other

    async def wait_long() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("other")

    explore(handler, arena=arena, points="await", faults={"await": [Delay()]}, max_points=1, before=order.clear)
    assert order == ["other", "handler"]


# -- over HTTP --------------------------------------------------------------------------------------------------------


def shop(arena: Arena) -> web.Application:
    """Make an application with a handler that is decorated and one that is not."""

    @recoverable.recoverable
    async def good(request: web.Request) -> web.Response:
        order = await request.json()
        arena.root["ann"] -= order["amount"]
        await asyncio.sleep(0)
        arena.root["bob"] += order["amount"]
        return web.json_response({})

    async def bad(request: web.Request) -> web.Response:
        with request.app["arena"].transaction():
            arena.root["ann"] -= 1
        await asyncio.sleep(0)
        with request.app["arena"].transaction():
            arena.root["bob"] += 1
        return web.json_response({})

    app = web.Application()
    app["arena"] = arena
    app.add_routes([web.post("/good", good), web.post("/bad", bad)])
    setup(app, arena)
    return app


shop = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")(shop)


async def order(client: Any) -> Any:
    """Send the good request."""
    return await client.post("/good", json={"amount": 10})


async def bad_order(client: Any) -> Any:
    """Send the bad one."""
    return await client.post("/bad")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
def test_a_handler_behind_http_is_explored() -> None:
    """Each point of a handler that serves a request, disconnects and kills included."""
    report = explore(order, app=shop, prepare=fill, invariant=total)
    assert report.ok
    assert report.outcomes.keys() == {"rolled back", "committed"}
    assert report.found["await"] == 1
    assert report.lines.keys() == {__file__}


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
def test_uvloop_is_explored_as_well() -> None:
    """On uvloop the same points are reached, children that are killed included, and leave the same."""
    options: Any = {"app": shop, "prepare": fill, "invariant": total}
    here, there = explore(order, **options), explore(order, loop_factory=uvloop.new_event_loop, **options)
    assert there.ok
    assert (there.found, there.tried, there.outcomes) == (here.found, here.tried, here.outcomes)
    assert not there.missed


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_child_does_with_its_loop_is_not_the_parents(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A connection that a forked child has closed is heard of by the parent's loop all the same."""
    loop = make()

    async def opened() -> tuple[Any, ...]:
        accepted = loop.create_future()
        server = await asyncio.start_server(lambda *pair: accepted.set_result(pair), "127.0.0.1", 0)
        return server, *await asyncio.open_connection(*server.sockets[0].getsockname()), *await accepted

    async def close() -> str:
        writer.close()
        there.close()
        await writer.wait_closed()
        await there.wait_closed()
        return "closed"

    async def talk() -> bytes:
        writer.write(b"still there?\n")
        return await asyncio.wait_for(heard.readline(), 5)

    server, _, writer, heard, there = loop.run_until_complete(opened())

    def child() -> str:
        fresh_selector(loop)
        return loop.run_until_complete(close())

    assert in_child(child).value == "closed"
    assert loop.run_until_complete(talk()) == b"still there?\n"
    server.close()
    loop.run_until_complete(close())
    loop.close()


@pytest.mark.crash
def test_a_child_has_threads_of_its_own(arena: Arena) -> None:
    """A thread of the loop's executor, which waits for work here, is not there in a child: it gets another one."""

    @recoverable.recoverable
    async def asks() -> None:
        arena.root["ann"] -= 1
        await asyncio.to_thread(int)
        arena.root["bob"] += 1

    report = explore(asks, arena=arena, prepare=fill, invariant=total, points="kill", timeout=5)
    assert report.ok


@pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")
def test_an_undecorated_handler_behind_http_is_explored() -> None:
    """Its lines and awaits are points as well, and a client that hangs up between two transactions is found."""
    report = explore(bad_order, app=shop, prepare=fill, points=["await", "line"], check=False)
    plans = {str(failure.plan) for failure in report.failures}
    assert "await:1=disconnect" in plans
    assert "await:1=cancel" in plans
    assert any(plan.startswith("line:") for plan in plans)


def test_a_fault_that_does_not_strike_is_not_counted_as_tried(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disconnect without a request, a plan that is not reached again: the report names them as not covered."""
    awaits: Any = {"points": "await", "faults": {"await": [Disconnect()]}}
    report = explore(move, arena=arena, prepare=fill, **awaits)
    assert (report.found["await"], report.tried["await"]) == (1, 0)
    assert list(map(str, report.missed)) == ["await:1=disconnect"]
    assert "not covered, because the fault did not strike (a disconnect needs a request): disconnect at await:1" in str(
        report
    )
    for plan in ("write:99=raise", "phase:99=kill", "write:1=raise+write:99=full", "phase:1=kill+recover:99=kill"):
        monkeypatch.setenv("RECOVERABLE_FAULTS_REPLAY", plan)
        report = explore(move, arena=arena, prepare=fill)
        assert list(map(str, report.missed)) == [plan]
        assert not report.tried
    monkeypatch.setenv("RECOVERABLE_FAULTS_REPLAY", "phase:1=kill+recover:1=kill")
    report = explore(move, arena=arena, prepare=fill)
    assert not report.missed
    assert report.tried == {"phase": 1, "recover": 1}


# -- the loop -----------------------------------------------------------------------------------------------------------


def units(arena: Arena) -> Iterator[None]:
    """Three units of work."""
    for i in range(3):
        with arena.transaction():
            arena.root["ann"] -= 10
            arena.root["bob"] += 10
            arena.root[i] = {"n": i}
        yield


@pytest.mark.slow
def test_a_generator_is_several_units() -> None:
    """A fault in the third unit leaves the state of the second or of the third, and nothing else."""
    report = explore(units, prepare=fill, invariant=total, points=["line", "write", "alloc", "kill"])
    assert report.ok
    assert report.outcomes.keys() == {"rolled back", "committed"}


class Item(Record):
    name: str
    count: int = 0


def test_the_state_is_put_back_after_each_run(arena: Arena) -> None:
    """Whatever a run has committed is taken back, in place: handles made before are good afterwards."""

    def everything(arena: Arena) -> None:
        with arena.transaction():
            arena.root["d"] = {"x": {"y": [1, 2]}, "gone": 1}
            arena.root["a"] = Array(range(600), "i8")
            arena.root["c"] = Counter(5)
            arena.root["q"] = Deque([1, 2, 3], 4)
            arena.root["s"] = {1, 2}
            arena.root["r"] = Item(name="n")
            arena.root["f"] = float("nan")

    def change(arena: Arena) -> None:
        root = arena.root
        with arena.transaction():
            root["d"]["x"]["y"].append(3)
            del root["d"]["gone"]
            root["a"][3] = root["a"][599] = 9
            root["c"].add(3)
            root["q"].append(4)
            root["q"].append(5)
            root["s"].discard(1)
            root["s"].add(7)
            root["r"].count += 1
            root["new"] = {"n": Array(3, "f4")}

    def look() -> dict[str, Any]:
        """Read all, the order of keys left out of account."""
        plain = arena.root.to_python()
        plain["a"], plain["s"] = list(plain["a"]), sorted(plain["s"])
        return dict(sorted((key, repr(value)) for key, value in plain.items()))

    everything(arena)
    inner, was = arena.root["d"]["x"]["y"], look()
    report = explore(change, arena=arena, points=["write", "conflict"])
    assert report.ok
    assert not report.notes
    assert look() == was
    assert inner.to_python() == [1, 2]


def test_max_points_takes_a_sample_that_a_seed_repeats() -> None:
    """Above max_points a sample runs: the same for the same seed, each line in it as far as that goes."""

    def long(arena: Arena) -> None:
        for i in range(50):
            with arena.transaction():
                arena.root[i] = i
            del i

    def lines_of(seed: int) -> list[str]:
        seen: list[str] = []
        report = explore(long, points="line", max_points=12, seed=seed, check=False, prepare=fill)
        seen += [str(failure.plan) for failure in report.failures]
        assert report.runs == 14
        assert report.skipped > 100
        assert report.tried["line"] == 12
        assert f"left out by max_points: {report.skipped} runs" in str(report)
        return seen

    assert lines_of(1) == lines_of(1) != lines_of(2)


def test_a_state_that_is_never_the_same_is_noted_not_reported(arena: Arena) -> None:
    """Where clean runs differ, states are not compared, the report says so, and the invariant is still asked."""
    numbers = iter(range(1000))

    def draw(arena: Arena) -> None:
        with arena.transaction():
            arena.root["drawn"] = next(numbers)

    report = explore(draw, arena=arena, points="write", invariant=lambda arena: True)
    assert report.ok
    assert "left different states" in report.notes[0]
    assert not explore(draw, arena=arena, points="write", invariant=lambda arena: False, check=False).ok


def test_a_scenario_that_fails_by_itself_is_the_smallest_case(arena: Arena) -> None:
    """An invariant that does not hold without any fault is reported first, and nothing else is run."""
    report = explore(move, arena=arena, prepare=fill, invariant=lambda arena: False, check=False)
    assert report.runs == 1
    assert str(report.failures[0]).startswith("no fault at all: the run returned moved")


def test_a_scenario_that_gets_nowhere_is_no_success(arena: Arena) -> None:
    """A run that raises before the first point has shown nothing, and is a failure that says so."""

    async def handler(arena: Arena) -> None:
        raise LookupError("of its own")

    report = explore(handler, arena=arena, points="write", check=False)
    assert "raised LookupError: of its own\n  it reached no point without faults" in str(report.failures[0])


def test_a_hang_is_bounded_and_reported(arena: Arena) -> None:
    """A run that a fault lets wait for ever ends at the time-out, as a failure."""

    async def handler(arena: Arena) -> None:
        done = asyncio.Event()

        async def work() -> None:
            with arena.transaction():
                arena.root["ann"] -= 1
            done.set()

        task = asyncio.ensure_future(work())
        await done.wait()
        await task

    report = explore(handler, arena=arena, prepare=fill, points="write", timeout=0.05, check=False)
    assert any("took longer than timeout=0.05 s" in problem for f in report.failures for problem in f.problems)


def test_the_command_of_a_failure_repeats_it(
    tmp_path: Path, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program run with the printed variable runs that one case."""
    program = tmp_path / "prog.py"
    program.write_text(f"""
from recoverable import Arena
from recoverable.faults import explore

def fill(arena):
    with arena.transaction():
        arena.root["a"] = arena.root["b"] = 0

def half(arena):
    with arena.transaction():
        arena.root["a"] += 1
    with arena.transaction():
        arena.root["b"] += 1

with Arena.temporary("1 MiB", name={new_name()!r}) as arena:
    report = explore(half, arena=arena, prepare=fill, points=["write", "line"], check=False)
    print(report.runs, len(report.failures))
    print(report.failures[0].replay)
""")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    run = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, text=True, check=True)
    first, command = run.stdout.splitlines()
    assert first != "2 0"
    variable, text = re.match(r"(\w+)='?([^' ]+)", command).groups()  # type: ignore[union-attr]
    assert command.endswith("prog.py")
    again = subprocess.run(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, variable: text}
    )
    assert again.stdout.splitlines()[0] == "3 1"


def test_a_test_names_itself_in_the_command(arena: Arena) -> None:
    """In pytest the command runs the test."""
    report = explore(two_transactions, arena=arena, prepare=fill, points="write", check=False)
    assert report.failures[0].replay.endswith("test_explore.py::test_a_test_names_itself_in_the_command")


def test_what_cannot_be_asked_for_is_refused_before_anything_runs(arena: Arena) -> None:
    """Unknown points, impossible faults and depths are errors that say what there is."""
    for wrong, message in (
        ({"points": "lines"}, "there are no points 'lines'; there are line, await"),
        ({"points": "line", "faults": {"line": [Disconnect()]}}, "disconnect can't strike at 'line', but at await"),
        ({"depth": 3}, "depth=3 must be 1 or 2"),
        ({"modules": [sys]}, "has no file"),
    ):
        with pytest.raises(ArenaOptionError, match=message):
            explore(move, arena=arena, **wrong)  # type: ignore[arg-type]


def test_progress_is_told(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """A function is given how far it is; True writes a line."""
    told: list[tuple[int, int]] = []
    explore(move, arena=arena, prepare=fill, points="await", progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    explore(move, arena=arena, prepare=fill, points="await", progress=True)
    assert "move: 3 of 3 runs, 0 failures" in capsys.readouterr().err


def test_lines_of_chosen_modules_count(arena: Arena) -> None:
    """A fault strikes in a helper of another file where that is asked for."""
    from support import helpers_of_faults as helpers

    async def handler(arena: Arena) -> None:
        with arena.transaction():
            helpers.spend(arena)

    def lines(**more: Any) -> int:
        return explore(handler, arena=arena, prepare=fill, points="line", **more).found["line"]

    assert lines(modules=[helpers]) == lines() + 2


def test_nothing_is_left_armed(arena: Arena) -> None:
    """After an exploration, and after one that was interrupted, a handler runs untouched."""

    def interrupted(arena: Arena) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explore(interrupted, arena=arena, prepare=fill)
    from recoverable.faults import _watch

    assert _watch.armed() is None
    assert sys.gettrace() is None or "LineTracer" not in repr(sys.gettrace())
    assert explore(move, arena=arena, points="await").ok


def test_a_report_counts_and_names(arena: Arena) -> None:
    """The text has the points, the outcomes, the lines that were not reached and the failures."""

    async def handler(arena: Arena) -> int:
        with arena.transaction():
            arena.root["ann"] = 1
        if arena.root["ann"] > 1000:
            return 1
        return 2

    report: Report = explore(handler, arena=arena, prepare=fill, points=["line", "write"])
    text = str(report)
    assert re.search(r"explored .*handler: \d+ runs in", text)
    assert "points (tried of reached): line" in text
    assert re.search(r"lines of .*test_explore\.py: 4 of 5 reached; not reached: \d+", text)
    assert text.endswith("everything held after each run")


@pytest.mark.parametrize("text", ["", "line:3=raise", "write:1=raise(KeyError)+recover:2=kill", "await:9=delay(50ms)"])
def test_plans_are_read_as_they_are_written(text: str) -> None:
    """A plan's text makes the same plan."""
    assert str(Plan.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("line:3", 0, "place:number=fault"),
        ("line:0=raise", 0, "place:number=fault"),
        ("row:1=raise", 0, "no place 'row'"),
        ("line:1=raise+line:2=boom", 20, "no fault 'boom'"),
        ("line:1=raise(Nothing)", 13, "'Nothing' is no exception"),
        ("await:1=delay(50)", 14, "a number and us, ms or s"),
        ("line:1=conflict", 0, "conflict can't strike at line"),
        ("line:1=kill(9)", 11, "kill takes no argument"),
    ],
)
def test_a_wrong_plan_is_pointed_at(text: str, at: int, why: str) -> None:
    """The error says what is wrong and stands under the character."""
    with pytest.raises(recoverable.FaultSyntaxError, match=re.escape(why)) as caught:
        Plan.parse(text)
    assert caught.value.position == at
    assert str(caught.value).splitlines()[-2:] == [f"  {text}", "  " + " " * at + "^"]


UNITTEST = """
import unittest

from recoverable import Arena
from recoverable.faults import explore

def fill(arena):
    with arena.transaction():
        arena.root["a"] = arena.root["b"] = 0

def half(arena):
    with arena.transaction():
        arena.root["a"] += 1
    with arena.transaction():
        arena.root["b"] += 1

def whole(arena):
    with arena.transaction():
        arena.root["a"] += 1
        arena.root["b"] += 1

class Tests(unittest.TestCase):
    def test_half(self):
        explore(half, prepare=fill, points="write")

    def test_whole(self):
        explore(whole, prepare=fill, points="write")
"""


@pytest.mark.slow
def test_unittest_has_the_same_and_its_command_runs_that_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a unittest what is found is a failure, not an error, and its command, as it is printed, repeats it."""
    (tmp_path / "test_unit.py").write_text(UNITTEST)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)  # the test file lies in the current folder

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.stdout

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    out = run("python -m unittest test_unit")
    assert "FAILED (failures=1)" in out, out
    assert "Ran 2 tests" in out
    command = re.search(r"again: (RECOVERABLE_FAULTS_REPLAY=.*)", out)
    assert command is not None, out
    assert command[1].endswith("python -m unittest test_unit.Tests.test_half")
    again = run(command[1])
    assert "FAILED (failures=1)" in again, again
    assert "Ran 1 test" in again
    assert "3 runs in" in again


@pytest.mark.slow
def test_the_command_of_a_program_given_as_text_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -c` is repeated with its text."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    program = f"""{UNITTEST}
report = explore(half, prepare=fill, points="write", check=False)
print(report.runs, report.failures[0].replay)
"""
    out = subprocess.run(["python", "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    command = out[out.index("RECOVERABLE_FAULTS_REPLAY=") :].strip()
    again = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout
    assert out.startswith("6 ")
    assert again.startswith("3 ")
