"""Exploration of ASGI applications: a bank of FastAPI, and the mistakes that its path functions may have."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from recoverable import Arena, _registry, after_commit, recoverable
from recoverable import asgi as recoverable_asgi
from recoverable._native import _switches
from recoverable.fastapi import setup, transaction
from recoverable.faults import Cancel, Disconnect, Kill, Raise, explore
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Make = Callable[[Arena], Any]

IN_PROCESS = ("line", "await", "write", "alloc", "conflict")
ALL = {"line", "await", "resume", "write", "alloc", "commit", "phase"}

mails: list[int] = []
tries: list[int] = []


class Transfer(BaseModel):
    """What is sent to the bank."""

    amount: int


def open_accounts(arena: Arena) -> None:
    """Two accounts, and an audit."""
    with arena.transaction():
        arena.root.update(ann=100, bob=0, audit=[], tries=0)


def nothing_lost(arena: Arena) -> bool:
    """All the money is there, and the audit explains it."""
    root = arena.root
    return root["ann"] + root["bob"] == 100 and root["bob"] == sum(root["audit"].to_python())


async def transfer(client: httpx.AsyncClient) -> int:
    """Send a transfer; return the answer."""
    return (await client.post("/transfer", json={"amount": 10})).status_code


def bank(protect: Any = "decorated", *, route: Callable[[Arena], Any] | None = None, middleware: bool = False) -> Make:
    """Return what makes the bank, with its own transfer or another one."""

    def sound(arena: Arena) -> Any:
        async def transfer(order: Transfer) -> dict[str, int]:
            root = arena.root
            root["ann"] -= order.amount
            await asyncio.sleep(0)  # ask somebody
            root["bob"] += order.amount
            root["audit"].append(order.amount)
            return {"left": root["ann"]}

        return transfer if protect == "all" else recoverable(transfer)

    def make(arena: Arena) -> FastAPI:
        app = FastAPI()
        routes = APIRouter()
        routes.post("/transfer")((route or sound)(arena))
        app.include_router(routes)
        if middleware:

            @app.middleware("http")
            async def around(request: Request, call_next: Any) -> Any:
                return await call_next(request)

        setup(app, arena, protect=protect)
        return app

    return make


# -- a sound bank ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("protect", ["decorated", "all"])
@pytest.mark.parametrize("middleware", [False, True])
def test_every_point_of_a_transfer(protect: str, middleware: bool) -> None:
    """Exceptions, cancellations, time-outs, disconnects, a full arena, conflicts and kills at each point lose nothing."""
    report = explore(
        transfer, app=bank(protect, middleware=middleware), prepare=open_accounts, invariant=nothing_lost, check=False
    )
    assert report.ok, str(report)
    assert report.tried == report.found
    assert report.found.keys() == ALL
    assert set(report.outcomes) == {"rolled back", "committed"}
    assert report.lines.keys() == {__file__}
    assert not report.notes


@pytest.mark.slow
@pytest.mark.crash
def test_two_faults_in_a_transfer() -> None:
    """A second fault after the first, in a re-run or in the recovery, loses nothing either."""
    report = explore(transfer, app=bank(), prepare=open_accounts, invariant=nothing_lost, depth=2, max_points=120)
    assert report.ok
    assert report.runs == 122


def plain(arena: Arena) -> Any:
    """Make a plain path function, which runs in a thread."""

    @recoverable
    def transfer(order: Transfer) -> None:
        arena.root["ann"] -= order.amount
        arena.root["bob"] += order.amount
        arena.root["audit"].append(order.amount)

    return transfer


def depending(arena: Arena) -> Any:
    """Make one whose transaction comes from a dependency, as its root does."""

    def transfer(order: Transfer, root: Annotated[Any, Depends(transaction)]) -> None:
        root["ann"] -= order.amount
        root["bob"] += order.amount
        root["audit"].append(order.amount)

    return transfer


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("route", [plain, depending])
def test_path_functions_in_threads(route: Any) -> None:
    """Their writes and allocations, their conflicts, and the phases of their commits are points; not their lines."""
    report = explore(transfer, app=bank(route=route), prepare=open_accounts, invariant=nothing_lost, check=False)
    assert report.ok, str(report)
    assert report.found.keys() == ALL - {"line"}
    assert set(report.outcomes) == {"rolled back", "committed"}


def test_a_scenario_with_a_client_of_its_own(arena: Arena) -> None:
    """Without `app`, what calls an application through httpx's ASGI transport is a scenario like any other."""
    app = bank()(arena)

    async def scenario() -> int:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await transfer(client)

    report = explore(
        scenario, arena=arena, prepare=open_accounts, invariant=nothing_lost, points=IN_PROCESS, check=False
    )
    assert report.ok, str(report)
    assert report.found.keys() == ALL - {"phase"}


# -- mistakes ---------------------------------------------------------------------------------------------------------------


def in_halves(arena: Arena) -> Any:
    """Two transactions for what belongs together."""

    async def transfer(order: Transfer) -> None:
        with arena.transaction():
            arena.root["ann"] -= order.amount
        await asyncio.sleep(0)
        with arena.transaction():
            arena.root["bob"] += order.amount
            arena.root["audit"].append(order.amount)

    return transfer


def dependency_apart(arena: Arena) -> Any:
    """The dependency has a transaction of its own, and its path function another one."""

    async def taken(order: Transfer) -> int:
        with arena.transaction():
            arena.root["ann"] -= order.amount
        return order.amount

    async def transfer(amount: int = Depends(taken)) -> None:
        with arena.transaction():
            arena.root["bob"] += amount
            arena.root["audit"].append(amount)

    return transfer


def swallowing(arena: Arena) -> Any:
    """What goes wrong half-way is not noticed, and answered with 200."""

    @recoverable
    async def transfer(order: Transfer) -> None:
        with contextlib.suppress(Exception):
            arena.root["ann"] -= order.amount
            arena.root["bob"] += order.amount
            arena.root["audit"].append(order.amount)

    return transfer


def answering_early(arena: Arena) -> Any:
    """The answer streams, and what it does is outside of the transaction, which is committed before its first byte."""

    @recoverable
    async def transfer(order: Transfer) -> StreamingResponse:
        arena.root["ann"] -= order.amount

        async def parts() -> AsyncIterator[bytes]:
            yield b"going on\n"
            with arena.transaction():
                arena.root["bob"] += order.amount
                arena.root["audit"].append(order.amount)
            yield b"done\n"

        return StreamingResponse(parts())

    return transfer


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize(
    ("route", "points", "plans"),
    [
        (in_halves, ["line", "await", "write"], {"await:3=cancel", "await:3=timeout"}),
        (dependency_apart, ["line", "await", "write"], {"write:2=raise"}),
        (swallowing, ["write"], {"write:2=raise", "write:3=full"}),
        (answering_early, ["write"], {"write:2=raise"}),
    ],
)
def test_a_mistake_is_found(route: Any, points: list[str], plans: set[str], middleware: bool) -> None:
    """An ordinary test passes; with a fault at one of these points something is left that must not be.

    Also where a middleware has handed the request on in a task of its own.
    """
    app = bank(route=route, middleware=middleware)
    report = explore(transfer, app=app, prepare=open_accounts, invariant=nothing_lost, points=points, check=False)
    found = {str(failure.plan) for failure in report.failures}
    if middleware:  # its own awaits count as well
        plans, found = ({plan.partition(":")[0] for plan in each} for each in (plans, found))
    assert plans <= found, str(report)
    assert not any(failure.plan.steps == () for failure in report.failures)


def test_a_side_effect_before_the_commit_is_found_and_its_mending_is_not() -> None:
    """A mail in the path function is sent for what was rolled back, and by each run; with after_commit neither."""

    def mailing(send: Callable[..., object]) -> Callable[[Arena], Any]:
        def route(arena: Arena) -> Any:
            @recoverable
            async def transfer(order: Transfer) -> None:
                arena.root["ann"] -= order.amount
                send(mails.append, order.amount)
                await asyncio.sleep(0)
                arena.root["bob"] += order.amount
                arena.root["audit"].append(order.amount)

            return transfer

        return route

    def at_once(function: Callable[..., object], *args: Any) -> None:
        function(*args)

    def a_mail_for_each(arena: Arena) -> bool:
        return mails == arena.root["audit"].to_python()

    options: Any = {"prepare": open_accounts, "invariant": a_mail_for_each, "before": mails.clear, "check": False}
    wrong = explore(transfer, app=bank(route=mailing(at_once)), points=IN_PROCESS, **options)
    assert {"conflict"} <= {fault.name for failure in wrong.failures for _, fault in failure.plan}, str(wrong)
    right = explore(transfer, app=bank(route=mailing(after_commit)), points=IN_PROCESS, **options)
    assert right.ok, str(right)


def test_a_forgotten_independent_transaction_is_found() -> None:
    """Tries that are counted in the transaction are lost with it; in one of their own they are not."""

    def counting(**options: Any) -> Callable[[Arena], Any]:
        def route(arena: Arena) -> Any:
            @recoverable
            async def transfer(order: Transfer) -> None:
                tries.append(1)
                with arena.transaction(**options):
                    arena.root["tries"] += 1
                await asyncio.sleep(0)
                arena.root["ann"] -= order.amount

            return transfer

        return route

    def all_counted(arena: Arena) -> bool:
        return bool(arena.root["tries"] >= len(tries))

    options: Any = {"prepare": open_accounts, "invariant": all_counted, "before": tries.clear, "points": "await"}
    wrong = explore(transfer, app=bank(route=counting()), check=False, **options)
    assert "await:3=timeout" in {str(failure.plan) for failure in wrong.failures}
    right = explore(transfer, app=bank(route=counting(independent=True)), atomic=False, check=False, **options)
    assert right.ok, str(right)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
@pytest.mark.parametrize(
    "mutation", [None, "undo.skip_record", "commit.publish_first", "commit.keep_tail", "heap.no_mark", "recover.half"]
)
def test_a_mistake_in_the_core_is_found(mutation: str | None) -> None:
    """As by tests/faults/test_mutations.py, through a request to the bank; without one, nothing is."""

    def run() -> tuple[int, str]:
        with Arena.temporary("16 MiB") as arena:
            open_accounts(arena)
            _switches.mutate(mutation)
            try:
                limit = 1 if mutation else None
                report = explore(
                    transfer, arena=arena, app=bank(), invariant=nothing_lost, check=False, max_failures=limit
                )
            finally:
                _switches.mutate(None)
            return len(report.failures), str(report)

    ending = in_child(run, timeout=120)
    if mutation is None:
        assert ending.returned, ending
        assert ending.value[0] == 0, ending.value[1]
    else:  # what it brings down with it is found as well
        assert not ending.returned or ending.value[0], ending


# -- inside the answer ------------------------------------------------------------------------------------------------------


def answering(arena: Arena, protect: Any) -> Any:
    """Make an ASGI application that writes, and sends its answer by hand, with others' turns in between."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        arena.root["ann"] -= 10
        arena.root["bob"] += 10
        arena.root["audit"].append(10)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0)  # the answer has been begun
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"b"})

    return recoverable_asgi.Middleware(app, arena, protect=protect)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("fault", [Kill(), Cancel(), Raise()])
def test_points_inside_an_answer(fault: Any) -> None:
    """Between the start of an answer and its body nothing is committed; from its first byte on all of it is."""
    report = explore(
        transfer,
        app=lambda arena: answering(arena, "all"),
        prepare=open_accounts,
        invariant=nothing_lost,
        points=["await"],
        faults={"await": [fault]},
        check=False,
    )
    assert report.ok, str(report)
    assert (
        report.found["await"] == 5
    )  # in the middle of it: nothing has left; then the start, two bodies, and one between these
    assert report.outcomes == {"rolled back": 1, "committed": 4}
    assert not _registry.all_open()  # also where no lifespan has closed the application's


# -- a client that hangs up ---------------------------------------------------------------------------------------------------


def test_a_disconnect_is_told_to_the_application() -> None:
    """Its next message says so, also to who waits for it, what is sent goes nowhere, and the client has no answer."""
    heard: list[str] = []

    def make(arena: Arena) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            while (await receive()).get("more_body"):
                pass
            heard.append("waits")
            waiting = asyncio.ensure_future(receive())
            for _ in range(10):
                await asyncio.sleep(0)
            if waiting.done():
                heard.append((await waiting)["type"])
                heard.append((await receive())["type"])
            else:
                waiting.cancel()
            with arena.transaction():
                arena.root["ann"] -= 1
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        return recoverable_asgi.Middleware(app, arena)

    async def ask(client: httpx.AsyncClient) -> int:
        heard.clear()
        try:
            return (await client.post("/")).status_code
        except httpx.RemoteProtocolError:
            heard.append("no answer")
            return 0

    told = []

    def note(arena: Arena) -> None:
        told.append([*heard])

    report = explore(
        ask,
        app=make,
        prepare=open_accounts,
        invariant=note,
        points="await",
        faults={"await": [Disconnect()]},
        check=False,
    )
    assert report.ok, str(report)
    assert not report.missed
    assert ["waits", "http.disconnect", "http.disconnect", "no answer"] in told


# -- the lifespan -------------------------------------------------------------------------------------------------------------


def test_an_application_is_started_and_shut_down_and_its_state_is_there() -> None:
    """Its lifespan runs around all runs, in one task, and what it yields is in the state of each request."""
    log: list[str] = []

    def make(arena: Arena) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
            task = asyncio.current_task()
            log.append("start")
            yield {"from": "lifespan"}
            assert asyncio.current_task() is task
            log.append("stop")

        app = FastAPI(lifespan=lifespan)

        @app.post("/transfer")
        @recoverable
        async def transfer(request: Request) -> str:
            arena.root["ann"] -= 1
            return str(request.state["from"])

        setup(app, arena)
        return app

    async def ask(client: httpx.AsyncClient) -> str:
        return (await client.post("/transfer")).text

    report = explore(ask, app=make, prepare=open_accounts, points="write")
    assert report.ok
    assert report.runs > 2
    assert log == ["start", "stop"]


def test_an_application_that_does_not_start_is_no_exploration() -> None:
    """What it says is the error."""

    def make(arena: Arena) -> FastAPI:
        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            raise OSError("no database")
            yield

        return FastAPI(lifespan=lifespan)

    with pytest.raises(RuntimeError, match=r"(?s)did not start: .*no database"):
        explore(transfer, app=make, prepare=open_accounts)
