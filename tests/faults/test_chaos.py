"""Chaos: faults by rules in a running server, and one at a chosen point of a program."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from examples.bank.load import Bank, Customers, Ledger
from examples.process import ServerError
from recoverable import (
    Arena,
    ArenaFullError,
    ArenaOptionError,
    FaultsNotAllowedError,
    FaultSyntaxError,
    TransactionError,
    recoverable,
)
from recoverable.aiohttp import arena_key, setup
from recoverable.faults import (
    Cancel,
    Conflict,
    Delay,
    Disconnect,
    Full,
    InjectedFault,
    Kill,
    Raise,
    Rule,
    Segfault,
    Timeout,
    _watch,
    armed,
    explore,
    inject,
    parse_rules,
)
from recoverable.faults.chaos import Chaos
from support.forks import in_child


@pytest.fixture(autouse=True)
def nothing_left_armed() -> Iterator[None]:
    """Fail a test that leaves faults armed."""
    yield
    left = _watch.armed()
    _watch.disarm()
    assert left is None


# -- the grammar ------------------------------------------------------------------------------------------------------


def test_rules_are_read_as_the_manual_says() -> None:
    """A rule is handler=fault@place:rate; blanks and empty rules do no harm; the rate is 1 where there is none."""
    rules = parse_rules("checkout=raise@line:0.01; *=kill@commit:1e-4;\n *=delay(50ms)@await:0.05 ;;Cart.*=full@alloc")
    assert rules == [
        Rule("checkout", Raise(), "line", 0.01),
        Rule("*", Kill(), "commit", 0.0001),
        Rule("*", Delay(0.05), "await", 0.05),
        Rule("Cart.*", Full(), "alloc"),
    ]
    assert parse_rules("; ".join(map(str, rules))) == rules
    assert parse_rules("f=raise(builtins.KeyError)@write")[0].fault == Raise(KeyError)


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 0, "there is no rule in it"),
        (" ; ", 0, "there is no rule in it"),
        ("checkout", 8, "a rule is handler=fault@place:rate"),
        ("=raise@line", 0, "a rule is handler=fault@place:rate"),
        ("f=raise", 7, "a rule is handler=fault@place:rate"),
        ("f=@line", 2, "a rule is handler=fault@place:rate"),
        ("a=raise@line; f=boom@line", 16, "there is no fault 'boom'"),
        ("f=raise(Nothing)@line", 8, "'Nothing' is no exception"),
        ("f=delay(50)@await", 8, "a number and us, ms or s"),
        ("f=kill(9)@line", 6, "kill takes no argument"),
        ("f=raise@", 8, "there is no place ''"),
        ("f=raise@row:0.1", 8, "there is no place 'row'; there are line, await"),
        ("f=raise@commit", 8, "raise can't strike at commit, but at line, await, write"),
        ("f=kill@alloc", 7, "kill can't strike at alloc"),
        ("f=raise@line:", 13, "'' is no rate"),
        ("f=raise@line:often", 13, "'often' is no rate"),
        ("f=raise@line:0", 13, "'0' is no rate: a number above 0 and at most 1"),
        ("f=raise@line:1.5", 13, "'1.5' is no rate"),
        ("f=raise@line: nan", 14, "'nan' is no rate"),
    ],
)
def test_a_wrong_rule_is_pointed_at(text: str, at: int, why: str) -> None:
    """The error says what is wrong and stands under the character."""
    with pytest.raises(FaultSyntaxError, match=re.escape(why)) as caught:
        parse_rules(text)
    assert caught.value.position == at
    assert str(caught.value).splitlines()[-1] == "  " + " " * at + "^"


def test_rules_made_by_hand_are_checked() -> None:
    """A fault that can't strike there and a rate that is none are refused."""
    for wrong, message in (
        ({"fault": Conflict(), "at": "line"}, "conflict can't strike at line, but at resume, commit"),
        ({"fault": Raise(), "at": "line", "rate": 0}, "rate=0 must be above 0"),
        ({"fault": Raise(), "at": "phase"}, "there is no place 'phase'"),
    ):
        with pytest.raises(ArenaOptionError, match=message):
            Rule("f", **wrong)  # type: ignore[arg-type]


def test_a_rule_means_a_name_with_or_without_what_it_is_qualified_by() -> None:
    """`checkout` is also `Shop.checkout`; * and ? stand for others."""
    assert all(Rule(name, Raise(), "line").matches("Shop.checkout") for name in ("checkout", "Shop.*", "*", "check???"))
    assert not any(Rule(name, Raise(), "line").matches("Shop.checkout") for name in ("check", "Shop", "Checkout"))


# -- a server ---------------------------------------------------------------------------------------------------------


@recoverable
async def checkout(request: web.Request) -> web.Response:
    """Move one from the stock to the orders."""
    root = request.app[arena_key].root
    root["stock"] -= 1
    await asyncio.sleep(0)
    root["orders"].append(await request.text())
    return web.Response(text="ok")


async def plain(request: web.Request) -> web.Response:
    """Do something of its own."""
    await asyncio.sleep(0)
    return web.Response(text="ok")


@contextlib.asynccontextmanager
async def serving(arena: Arena, **options: Any) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve the shop on a real socket."""
    with arena.transaction():
        arena.root["stock"], arena.root["orders"] = 100, []
    app = web.Application()
    app.add_routes([web.post("/checkout", checkout), web.get("/plain", plain)])
    setup(app, Arena.open(arena.name), **options)
    async with TestClient(TestServer(app)) as client:
        yield client


async def order(client: TestClient[Any, Any], times: int = 1) -> list[int]:
    """Send so many orders; return the answers, 0 for a connection that was closed."""
    answers = []
    for _ in range(times):
        try:
            async with client.post("/checkout", data=b"it") as response:
                answers.append(response.status)
        except aiohttp.ClientConnectionError:
            answers.append(0)
    return answers


def whole(arena: Arena) -> bool:
    """Tell whether nothing is lost."""
    return arena.root["stock"] + len(arena.root["orders"]) == 100


def injected(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of injections."""
    return [event for event in log if event["event"] == "fault.injected"]


@pytest.mark.parametrize("how", ["variable", "text", "rules"])
async def test_faults_are_refused_unless_the_application_allows_them(
    arena: Arena, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without allow_faults=True a set variable, a text or rules are a named error, and nothing is set up or armed."""
    options: dict[str, Any] = {"text": {"faults": "*=raise@line"}, "rules": {"faults": [Rule("*", Raise(), "line")]}}
    if how == "variable":
        monkeypatch.setenv("RECOVERABLE_FAULTS", "*=raise@line")
    app = web.Application()
    with pytest.raises(FaultsNotAllowedError, match=r"Is this production\?") as caught:
        setup(app, arena, **options.get(how, {}))
    assert ("RECOVERABLE_FAULTS asks for" if how == "variable" else "setup(faults=...) asks for") in str(caught.value)
    assert arena_key not in app
    assert _watch.armed() is None


async def test_a_wrong_text_stops_the_start(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the variable, or in its seed, is an error at the start and not a server without faults."""
    monkeypatch.setenv("RECOVERABLE_FAULTS", "*=boom@line")
    with pytest.raises(FaultSyntaxError, match="no fault 'boom'"):
        setup(web.Application(), arena, allow_faults=True)
    monkeypatch.setenv("RECOVERABLE_FAULTS", "*=raise@line")
    monkeypatch.setenv("RECOVERABLE_FAULTS_SEED", "x")
    with pytest.raises(ArenaOptionError, match="RECOVERABLE_FAULTS_SEED='x' must be a whole number"):
        setup(web.Application(), arena, allow_faults=True)


async def test_without_rules_nothing_is_armed(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """allow_faults=True alone, an empty variable, faults="" beside a set variable: none is armed."""
    async with serving(arena, allow_faults=True) as client:
        assert _watch.armed() is None
        assert await order(client) == [200]
    monkeypatch.setenv("RECOVERABLE_FAULTS", "*=raise@line")
    async with serving(arena, faults=""):
        assert _watch.armed() is None


async def test_armed_faults_are_announced_and_each_is_an_event_that_is_counted(
    arena: Arena, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning at the start says that the process fails on purpose; each injection has an id, and stats count it."""
    before = arena.stats().faults
    monkeypatch.setenv("RECOVERABLE_FAULTS", "checkout=raise(KeyError)@write:0.4")
    monkeypatch.setenv("RECOVERABLE_FAULTS_SEED", "77")
    async with serving(arena, allow_faults=True) as client:
        (armed,) = [event for event in log if event["event"] == "faults.armed"]
        assert armed["log_level"] == "warning"
        assert "FAULTS ARE ARMED" in armed["note"]
        assert (armed["seed"], armed["rules"]) == (77, ["checkout=raise(KeyError)@write:0.4"])
        assert "RECOVERABLE_FAULTS" in armed["source"]
        answers = await order(client, 20)
    struck = injected(log)
    assert answers.count(500) == len(struck) == arena.stats().faults - before > 0 < answers.count(200)
    assert [event["fault_id"] for event in struck] == [f"4d-{n}" for n in range(1, len(struck) + 1)]
    assert {(event["fault"], event["at"], event["handler"]) for event in struck} == {
        ("raise(KeyError)", "write", "checkout")
    }
    assert all(re.match(r".*test_chaos\.py:\d+", event["where"]) for event in struck)
    assert whole(arena)


async def test_a_seed_repeats_the_faults(arena: Arena) -> None:
    """The same seed and requests, the same faults, also beside an injection; another seed, others."""

    async def answers(seed: int) -> list[int]:
        async with serving(arena, faults="*=raise@line:0.1", allow_faults=True, faults_seed=seed) as client:
            return await order(client, 30)

    first = await answers(5)
    assert first == await answers(5) != await answers(6)
    with inject("nobody", Raise(), at="line"):
        assert first == await answers(5)


def test_a_rate_at_allocations_is_that_of_each(arena: Arena) -> None:
    """The allocation that is struck is drawn as if a coin were thrown at each: the first, or one behind it."""
    chaos = Chaos([], seed=1)
    draws = [chaos._draw(0.25) for _ in range(4000)]
    assert min(draws) == 1
    assert abs(draws.count(1) / 4000 - 0.25) < 0.03
    assert abs(sum(draws) / 4000 - 4) < 0.25
    assert {chaos._draw(1) for _ in range(5)} == {1}


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("checkout=raise@line", 500),
        ("*=raise@await", 500),
        ("*=timeout@await", 504),
        ("*=cancel@await", 0),
        ("*=disconnect@await", 0),
        ("*=delay(1ms)@await", 200),
        ("*=full@write", 507),
        ("*=full@alloc", 507),
        ("*=conflict@resume", 503),
        ("*=conflict@commit", 503),
        ("other=raise@line", 200),
    ],
)
async def test_each_fault_strikes_a_served_request(arena: Arena, rule: str, answer: int) -> None:
    """What a client sees of each fault, over a socket; none leaves the state in between."""
    async with serving(arena, faults=rule, allow_faults=True) as client:
        assert await order(client) == [answer]
    assert whole(arena)
    assert len(arena.root["orders"]) == (answer == 200)


async def test_a_handler_that_is_not_decorated_fails_too(arena: Arena) -> None:
    """Lines and awaits of plain handlers behind the middleware are points."""
    for rule, answer in (("plain=raise@line", 500), ("plain=timeout@await", 504)):
        async with serving(arena, faults=rule, allow_faults=True) as client:
            async with client.get("/plain") as response:
                assert response.status == answer
            assert await order(client) == [200]


async def test_nothing_of_it_can_be_armed_through_a_request(arena: Arena) -> None:
    """Whatever a client sends where it might be listened to, nothing is armed, and what is armed stays as it is."""
    text = "*=raise@line"
    names = ("RECOVERABLE_FAULTS", "X-Recoverable-Faults", "faults", "X-Request-ID", "allow_faults")

    async def ask(client: TestClient[Any, Any]) -> None:
        for name in names:
            for more in ({"headers": {name: text}}, {"params": {name: text}}, {"json": {name: text}}):
                async with client.post("/checkout", **more) as response:  # type: ignore[arg-type]
                    assert response.status == 200
            async with client.post("/checkout", cookies={name: text}) as response:
                assert response.status == 200

    async with serving(arena, allow_faults=True) as client:
        await ask(client)
        assert _watch.armed() is None
    async with serving(arena, allow_faults=True, faults="nobody=raise@line") as client:
        armed: Any = _watch.armed()
        await ask(client)
        assert _watch.armed() is armed
        assert list(map(str, armed.rules)) == ["nobody=raise@line"]
        assert not armed.injections


async def test_two_applications_share_one_chaos(arena: Arena, new_name: Any) -> None:
    """The variable's rules hold in both, once; when the last has ended, nothing is armed."""
    with Arena.temporary("4 MiB", name=new_name()) as other:
        async with serving(arena, faults="*=full@write", allow_faults=True) as one:
            async with serving(other, faults="*=full@write", allow_faults=True) as two:
                armed: Any = _watch.armed()
                assert len(armed.rules) == 1
                assert await order(one) == await order(two) == [507]
            assert await order(one) == [507]
    assert _watch.armed() is None


async def test_an_exploration_and_chaos_do_not_mix(arena: Arena) -> None:
    """Who asks for the second is told."""
    async with serving(arena, faults="nobody=raise@line", allow_faults=True):
        with pytest.raises(TransactionError, match="faults are armed already, by Chaos"):
            explore(lambda: None, arena=arena)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "segv"])
@pytest.mark.parametrize("at", ["line", "await", "resume", "write", "commit"])
def test_a_process_is_killed(arena: Arena, fault: str, at: str) -> None:
    """A deadly rule ends the server at that place, and the next process finds the state before or after."""

    @recoverable(arena=arena)
    async def work() -> None:
        arena.root["n"] += 1
        await asyncio.sleep(0)
        arena.root["n"] += 1

    def serve(seed: int) -> None:
        faulthandler.disable()
        setup(web.Application(), arena, faults=f"work={fault}@{at}", allow_faults=True, faults_seed=seed)
        asyncio.run(work())

    left = set()
    for seed in range(8 if at == "commit" else 1):
        with arena.transaction():
            arena.root["n"] = 0
        died = in_child(lambda seed=seed: serve(seed))  # type: ignore[misc]
        assert died.signal == (9 if fault == "kill" else 11), died
        left.add(arena.root["n"])
        assert arena.verify()
    assert left == ({0, 2} if at == "commit" else {0}), "in a commit both sides of its publication are struck"


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "segv"])
def test_a_commit_of_reads_has_no_phases_and_is_struck_all_the_same(arena: Arena, fault: str) -> None:
    """Whichever phase is drawn, the process dies before that request has ended, and not in the next one's."""
    with arena.transaction():
        arena.root["n"] = 0

    @recoverable(arena=arena)
    async def look() -> int:
        return int(arena.root["n"])

    async def serve(seed: int) -> None:
        faulthandler.disable()
        setup(web.Application(), arena, faults=f"look={fault}@commit", allow_faults=True, faults_seed=seed)
        await look()
        raise AssertionError("look() has ended")

    for seed in range(8):
        died = in_child(lambda seed=seed: asyncio.run(serve(seed)))  # type: ignore[misc]
        assert died.signal == (9 if fault == "kill" else 11), (seed, died)


async def test_a_disconnect_reaches_the_client_of_the_request_around(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A transaction that a handler runs, and that is given no request, hangs up on the handler's client."""

    async def inner() -> None:
        arena.root["stock"] -= 1
        await asyncio.sleep(0)

    async def outer(request: web.Request) -> web.Response:
        await request.app[arena_key].run(inner)
        return web.Response(text="ok")

    with arena.transaction():
        arena.root["stock"] = 100
    app = web.Application()
    app.add_routes([web.post("/checkout", outer)])
    setup(app, arena, faults="*inner=disconnect@await", allow_faults=True)
    async with TestClient(TestServer(app)) as client:
        assert await order(client) == [0]
    (event,) = injected(log)
    assert event["handler"].endswith("inner")


async def test_a_disconnect_without_a_client_is_told_and_not_counted(
    arena: Arena, log: list[dict[str, Any]], work: Any
) -> None:
    """Where no request is served, nothing strikes, which an event says once; an injection has not struck."""
    before = arena.stats().faults
    setup(app := web.Application(), arena, faults="work=disconnect@await", allow_faults=True)
    with inject("work", Disconnect(), at="await") as injection:
        assert [await work(), await work()] == ["done", "done"]
        assert (injection.struck, injection.left) == (False, 1)
    told = [event for event in log if event["event"] == "fault.not_injected"]
    assert [(event["rule"], event["handler"].rpartition(".")[2]) for event in told] == [
        ("work=disconnect@await", "work")
    ]
    assert "no client" in told[0]["why"]
    assert not injected(log)
    assert arena.stats().faults == before
    app.freeze()
    await app.cleanup()


# -- one fault at a chosen point ----------------------------------------------------------------------------------------


@pytest.fixture
def work(arena: Arena) -> Any:
    """Give a handler with two awaits and three writes."""
    with arena.transaction():
        arena.root["n"] = 0

    @recoverable
    async def work() -> str:
        arena.root["n"] += 1
        await asyncio.sleep(0)
        arena.root["n"] += 1
        await asyncio.sleep(0)
        arena.root["n"] += 1
        return "done"

    return work


@pytest.mark.parametrize(
    ("fault", "at", "nth", "error"),
    [
        (Raise(ValueError), "await", 2, ValueError),
        (Raise(ValueError), "line", 4, ValueError),
        (Raise(OSError(5, "disk")), "write", 3, OSError),
        (Timeout(), "await", 1, TimeoutError),
        (Cancel(), "await", 1, asyncio.CancelledError),
        (Full(), "write", 1, ArenaFullError),
        (Full(), "alloc", 1, ArenaFullError),
    ],
)
async def test_a_fault_strikes_once_at_the_nth_point(
    arena: Arena, work: Any, fault: Any, at: str, nth: int, error: type[BaseException], log: list[dict[str, Any]]
) -> None:
    """`inject` lets one fault strike, in the first run that gets that far, as an event; later runs are untouched."""
    with inject("work", fault, at=at, nth=nth) as injection:
        if nth > 1:
            assert not injection.struck
        with pytest.raises(error):
            await work()
        assert injection.struck
        assert arena.root["n"] == 0
        assert await work() == "done"
        assert arena.root["n"] == 3
    assert [(event["fault"], event["at"]) for event in injected(log)] == [(str(fault), at)]


async def test_points_are_counted_across_runs(arena: Arena, work: Any) -> None:
    """The fourth await is the second of the second run; the seventh write is the first of the third run."""
    with inject("*", Raise(), at="await", nth=4), inject("work", Raise(KeyError), at="write", nth=7):
        assert await work() == "done"
        with pytest.raises(InjectedFault):
            await work()
        # three writes of the first, two of the second: the seventh is the second of the third run
        with pytest.raises(KeyError):
            await work()
        assert await work() == "done"


async def test_an_allocation_is_counted_across_steps_and_runs(arena: Arena) -> None:
    """The nth allocation of a run is the one that a plan's fault strikes; one behind the last is in the next run."""
    done: list[int] = []

    @recoverable
    async def grow() -> None:
        done.clear()
        for i in range(6):
            arena.root[i] = {"text": b"x" * 300}
            done.append(i)
            if i in {1, 3}:
                await asyncio.sleep(0)
        raise LookupError  # rolled back: each run is like the first

    async def writes_of(runs: int) -> int:
        """Run it so often; return how many writes the last one had done when it ran out of room."""
        for _ in range(runs - 1):
            with pytest.raises(LookupError):
                await grow()
        with pytest.raises(ArenaFullError):
            await grow()
        return len(done)

    with contextlib.suppress(LookupError):
        await grow()
    expected: list[int] = []
    while len(done) < 6 or not expected:
        with armed(f"alloc:{len(expected) + 1}=full", arena), contextlib.suppress(ArenaFullError, LookupError):
            await grow()
        expected.append(len(done))
    expected.pop()
    assert set(expected) == set(range(6)), "each write is to allocate"
    total = len(expected)
    for nth in (1, 2, 3, total // 2, total - 1, total, total + 1, total + 2, 2 * total, 2 * total + 3):
        with inject("grow", Full(), at="alloc", nth=nth) as injection:
            assert await writes_of(1 + (nth - 1) // total) == expected[(nth - 1) % total]
            assert injection.struck
            with pytest.raises(LookupError):
                await grow()
    with inject("grow", Full(), at="alloc", nth=total + 3) as injection:
        with pytest.raises(LookupError):
            await grow()
        assert (injection.struck, injection.left) == (False, 3)


async def test_allocations_of_others_are_not_counted(arena: Arena) -> None:
    """Only those of the handlers that the name means count, also where one runs inside the other."""
    done: list[str] = []

    @recoverable
    async def outer() -> None:
        done.clear()
        arena.root["before"] = b"x" * 300
        await arena.run(inner, nested="independent")
        arena.root["after"] = b"x" * 300

    async def inner() -> None:
        arena.root["inner"] = b"x" * 300
        done.append("inner")

    with inject("*inner", Full(), at="alloc") as injection:
        with pytest.raises(ArenaFullError):
            await outer()
        assert injection.struck
        assert "before" not in arena.root
    counted = {}
    await outer()  # the keys are there from now on: each run is like the next
    for name in ("*outer", "*inner", "*"):
        with inject(name, Full(), at="alloc", nth=10_000) as injection:
            await outer()
        counted[name] = 10_000 - injection.left
    assert counted["*"] == counted["*outer"] + counted["*inner"] > counted["*inner"] > 0 < counted["*outer"]
    with inject("*outer", Full(), at="alloc", nth=counted["*outer"]), pytest.raises(ArenaFullError):
        await outer()
    assert done == ["inner"], "the last allocation of the outer one is behind the inner one"


async def test_a_forced_conflict_runs_the_handler_again(arena: Arena, work: Any, log: list[dict[str, Any]]) -> None:
    """A conflict at a resume or at the commit is solved by a re-run, and counted as any other."""
    before = arena.stats()
    for at in ("resume", "commit"):
        with inject("work", Conflict(), at=at) as injection:
            assert await work() == "done"
            assert injection.struck
    assert arena.root["n"] == 6
    after = arena.stats()
    assert (after.conflicts - before.conflicts, after.rollbacks - before.rollbacks) == (2, 2)
    assert [event["then"] for event in log if event["event"] == "request.conflict"] == ["rerun", "rerun"]


async def test_an_injection_that_is_removed_does_not_strike(arena: Arena, work: Any) -> None:
    """remove() takes it back; the last one disarms everything."""
    injection = inject("work", Raise(), at="line")
    other = inject("work", Raise(), at="write", arena=arena)
    injection.remove()
    with pytest.raises(InjectedFault):
        await work()
    assert (injection.struck, other.struck) == (False, True)
    other.remove()
    other.remove()
    assert _watch.armed() is None


async def test_an_injection_goes_beside_the_rules_of_a_server(arena: Arena) -> None:
    """With chaos armed one more fault can be injected, and taken back without ending the rest."""
    async with serving(arena, faults="plain=raise@line", allow_faults=True) as client:
        assert await order(client) == [200]
        with inject("checkout", Disconnect(), at="await"):
            assert await order(client, 2) == [0, 200]
        with inject("checkout", Raise(), at="line"):
            assert await order(client, 2) == [500, 200]
        async with client.get("/plain") as response:
            assert response.status == 500


def test_wrong_injections_are_refused(arena: Arena) -> None:
    """Places, faults and numbers that can't be are errors, and nothing is armed."""
    for wrong, message in (
        ({"fault": Raise(), "at": "commit"}, "raise can't strike at commit"),
        ({"fault": Raise(), "at": "line", "nth": 0}, "nth=0 must be a whole number, 1 or more"),
        ({"fault": Segfault(), "at": "recover"}, "there is no place 'recover'"),
    ):
        with pytest.raises(ArenaOptionError, match=message):
            inject("work", **wrong)  # type: ignore[arg-type]
    assert _watch.armed() is None


# -- the bank, a real process -------------------------------------------------------------------------------------------

ACCOUNTS = 10
RULES = (
    "transfer=raise@line:0.002; transfer=kill@commit:0.01; *=kill@write:0.0005; *=full@alloc:0.002; *=cancel@await:0.02;"
    "*=delay(2ms)@await:0.05; *=disconnect@await:0.02; *=conflict@resume:0.03; *=conflict@commit:0.03"
)
numbers = itertools.count()


@contextlib.asynccontextmanager
async def bank(*options: str) -> AsyncIterator[Bank]:
    """Give a bank that has not been started, with an arena of its own; remove both."""
    made = Bank(f"test-{os.getpid()}-chaos-{next(numbers)}", accounts=ACCOUNTS, size="8 MiB", options=options)
    try:
        yield made
    finally:
        await made.stop()
        made.close()
        made.unlink()


@pytest.mark.slow
async def test_a_server_in_production_does_not_start_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank that is not told that faults are allowed refuses to serve and says why."""
    monkeypatch.setenv("RECOVERABLE_FAULTS", RULES)
    async with bank() as server:
        with pytest.raises(ServerError, match="FaultsNotAllowedError"):
            await server.start()


@pytest.mark.slow
@pytest.mark.crash
async def test_the_bank_loses_nothing_in_chaos(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Under every kind of fault, deaths included, each restart finds all the money and every answered transfer."""
    lives = 4
    monkeypatch.setenv("RECOVERABLE_FAULTS", RULES)
    async with bank("--allow-faults") as server, aiohttp.ClientSession() as session:
        ledger = Ledger()
        customers = Customers(server, ledger, ACCOUNTS, seed, crash_rate=0)
        clients: list[asyncio.Task[None]] = []
        for life in range(lives):
            monkeypatch.setenv("RECOVERABLE_FAULTS_SEED", str(seed + life))
            await server.start()
            server.open_doors()
            if not clients:
                clients = [asyncio.ensure_future(customers.work(session, n)) for n in range(4)]
            async with asyncio.timeout(20):
                await server.ended()
            await server.killed()
        assert server.log(10**6).count("FAULTS ARE ARMED") == lives
        monkeypatch.delenv("RECOVERABLE_FAULTS")
        customers.stop.set()
        await server.start()
        server.open_doors()
        await asyncio.wait_for(asyncio.gather(*clients), 20)
        books = await server.get(session, "/books")
        await server.get(session, "/verify")
        struck = re.findall(r"fault=([a-z]+)", server.log(10**6))
    assert ledger.problems(books, ACCOUNTS) == []
    assert ledger.answers[200] > 0
    assert struck.count("kill") == lives
    assert len(struck) > lives
