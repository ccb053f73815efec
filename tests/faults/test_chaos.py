"""Chaos: faults by rules in a running server."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import (
    Arena,
    ArenaOptionError,
    FaultsNotAllowedError,
    FaultSyntaxError,
    TransactionError,
    recoverable,
)
from recoverable.aiohttp import arena_key, setup
from recoverable.faults import (
    Disconnect,
    Raise,
    Rule,
    _watch,
    explore,
    inject,
)
from recoverable.faults.chaos import Chaos
from support.forks import in_child
from support.injected import injected


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
