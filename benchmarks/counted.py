"""The servers that `instructions.py` counts, each in a process of its own; they answer requests without a socket.

`python -m benchmarks.counted MARKS FOLDER ROWS` runs under callgrind and forks a child for each row. Requests reach the
real server's code through a transport that stays in memory (`loopback.py`): only the system calls are missing. A row is a
server with one thing more than the plain one of its family; both answer the same requests. Afterwards some requests are
traced, and the lines of Python that each function ran are written to a file of FOLDER, PID.json: to callgrind, all Python
code is one function.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from benchmarks import counted_asgi
from benchmarks.loopback import PATIENCE, Loopback, connected

AT_ONCE = 64  # connections
WARM, COUNTED, TRACED = 192, 256, 64  # requests
ACCOUNTS, ENTRIES = 100_000, 500  # of the bank: what is there before

Make = Callable[[], Any]  # makes an application


# -- hello ----------------------------------------------------------------------------------------------------------


async def hello(request: web.Request) -> web.Response:
    return web.json_response({"message": "hello"})


async def pausing(request: web.Request) -> web.Response:
    await asyncio.sleep(0)
    return web.json_response({"message": "hello"})


@web.middleware
async def empty(request: web.Request, handler: Any) -> web.StreamResponse:
    return await handler(request)


def plainly(handler: Any, *middlewares: Any) -> Make:
    """Return what makes a server of that handler alone."""

    def make() -> web.Application:
        app = web.Application(middlewares=middlewares)
        app.router.add_get("/", handler)
        return app

    return make


def recoverably(handler: Any = hello, *, setup: str | None = None, decorate: bool = True, **options: Any) -> Make:
    """Return what makes a server of that handler, decorated; `setup`: what to protect."""

    def make() -> web.Application:
        import recoverable
        import recoverable.aiohttp

        app, arena = web.Application(), temporary("16 MiB")
        root = arena.root
        with arena.transaction():
            root["hits"] = 0

        async def counting(request: web.Request) -> web.Response:
            root["hits"] += 1
            return web.json_response({"message": "hello"})

        served = counting if handler is None else handler
        if setup is not None:
            recoverable.aiohttp.setup(app, arena, protect=setup)
        app.router.add_get("/", recoverable.recoverable(arena=arena, **options)(served) if decorate else served)
        return app

    return make


def by_run(*, callback: bool) -> Make:
    """Return what makes a server whose handler counts by `arena.run()`; `callback`: and has something done after the commit."""

    def make() -> web.Application:
        import recoverable
        import recoverable.aiohttp

        app, arena = web.Application(), temporary("16 MiB")
        root = arena.root
        with arena.transaction():
            root["hits"] = 0

        async def count() -> None:
            root["hits"] += 1
            if callback:
                recoverable.after_commit(nothing)

        async def counting(request: web.Request) -> web.Response:
            await arena.run(count)
            return web.json_response({"message": "hello"})

        recoverable.aiohttp.setup(app, arena)
        app.router.add_get("/", counting)
        return app

    return make


def nothing() -> None:
    """Be a callback."""


# -- the bank -------------------------------------------------------------------------------------------------------


def bank(*, protected: bool = True, balances: bool = False, audit: bool = False, block: bool = False) -> Make:
    """Return what makes the example bank; `balances`, `audit`: which of its state is in the arena."""

    def make() -> web.Application:
        import recoverable

        if protected:
            arena: Any = temporary("64 MiB")
            real = recoverable.recoverable

            def patient(fn: Any = None, /, **options: Any) -> Any:
                if "timeout" in options:
                    options["timeout"] = PATIENCE
                return real(fn, **options) if fn is not None else real(**options)

            recoverable.recoverable = patient
        else:
            from benchmarks import plain

            plain.install()
            arena = plain.Arena()
        from examples.bank import server

        async def fraud_check(*, hangs: bool) -> None:
            await asyncio.sleep(0)

        server.fraud_check = fraud_check
        app = server.make_app(arena, accounts=ACCOUNTS)
        with arena.transaction():
            for n in range(ENTRIES):
                arena.root["audit"][f"old-{n}"] = {"from": n, "to": n + 1, "amount": n}
        if protected and not balances:
            app[server.ACCOUNTS] = [server.OPENING] * ACCOUNTS
        if protected and not audit:
            app[server.AUDIT] = {}
        if block:
            app.router.add_post("/block", in_a_block(server, arena))
        return app

    return make


def in_a_block(server: Any, arena: Any) -> Any:
    """Return the bank's transfer without a decorator, with the await before its only step on the arena."""

    async def transfer(request: web.Request) -> web.Response:
        accounts, audit = request.app[server.ACCOUNTS], request.app[server.AUDIT]
        order = await server.read_order(request, len(accounts))
        source, target, amount = order["from"], order["to"], order["amount"]
        await server.fraud_check(hangs=False)
        with arena.transaction():
            if order["id"] in audit:
                return web.json_response({"id": order["id"], "done": "before"})
            if accounts[source] < amount:
                raise web.HTTPConflict(text=f"account {source} does not hold {amount} cents")
            accounts[source] -= amount
            accounts[target] += amount
            audit[order["id"]] = {"from": source, "to": target, "amount": amount}
        return web.json_response({"id": order["id"], "done": "now"})

    return transfer


def temporary(size: str) -> Any:
    """Open an arena that is gone when this process ends."""
    from recoverable import Arena, ArenaNotFoundError

    name = f"bench-counted-{os.getpid():08d}"
    with contextlib.suppress(ArenaNotFoundError):  # of a count that was killed, in a process that had our number
        Arena.unlink(name)
    arena = Arena.open(name, size=size)
    at_end.callback(Arena.unlink, arena.name)
    return arena


at_end = contextlib.ExitStack()


# -- the rows -------------------------------------------------------------------------------------------------------

ASGI = counted_asgi.families(temporary)

# By family: the plain server first; the others answer the same requests, and their cost is told above its.
FAMILIES: dict[str, dict[str, Make]] = {
    "hello": {
        "plain": plainly(hello),
        "an empty middleware": plainly(hello, empty),
        "@recoverable": recoverably(),
        "@recoverable(timeout=)": recoverably(timeout=PATIENCE),
        "setup() and @recoverable": recoverably(setup="decorated"),
        "setup() and @recoverable, counting requests": recoverably(None, setup="decorated"),
        "setup() and arena.run(), counting requests": by_run(callback=False),
        "setup() and arena.run(), counting requests, a callback": by_run(callback=True),
        'setup(protect="all")': recoverably(setup="all", decorate=False),
    },
    "hello that suspends": {
        "plain": plainly(pausing),
        "setup() and @recoverable": recoverably(pausing, setup="decorated"),
        "setup() and @recoverable(timeout=)": recoverably(pausing, setup="decorated", timeout=PATIENCE),
    },
    "bank": {
        "plain": bank(protected=False),
        "transactions that touch nothing": bank(),
        "balances in the arena": bank(balances=True),
        "all in the arena": bank(balances=True, audit=True),
        "all in the arena, in a block after the await": bank(balances=True, audit=True, block=True),
    },
    **ASGI,
}
PLAIN = "plain"


def requests(family: str, row: str) -> Iterator[bytes]:
    """Return the requests to a server, without end and always the same."""
    rng, number = random.Random(7), 0
    path = "/block" if "block" in row else "/transfer"
    while True:
        if not family.startswith("bank"):
            yield b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
            continue
        number += 1
        accounts = {"from": rng.randrange(ACCOUNTS), "to": rng.randrange(ACCOUNTS)}
        body = json.dumps({"id": f"new-{number:06d}", **accounts, "amount": rng.randint(1, 50)}).encode()
        kind = b"" if family == "bank" else b"Content-Type: application/json\r\n"  # FastAPI reads no other
        head = b"POST %s HTTP/1.1\r\nHost: bench\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), kind, len(body))
        yield head + body


async def serve(family: str, row: str, marks: Any) -> dict[str, float]:
    """Answer some requests to warm up, then those that are counted; return the lines a request, by Python function."""
    loop = asyncio.get_running_loop()
    connections = await connected(FAMILIES[family][row](), AT_ONCE)
    source = requests(family, row)

    async def client(handler: Any, transport: Loopback, left: Iterator[bytes]) -> None:
        for request in left:
            transport.answered = loop.create_future()
            handler.data_received(request)
            await transport.answered

    async def answer(n: int) -> None:
        left = iter([next(source) for _ in range(n)])
        await asyncio.gather(*(client(*connection, left) for connection in connections))

    now = time.time()
    time.time = lambda: now  # aiohttp makes a new header Date each second, and callgrind's seconds are long
    gc.collect()
    gc.disable()
    heap = settled_heap()
    await answer(WARM)
    marks.begin()
    await answer(COUNTED)
    marks.end()
    del heap
    return await traced(answer)


def settled_heap() -> list[object]:
    """Return objects that keep pools of Python's allocator in use, in each of its size classes.

    A pool that becomes empty goes back to its arena, whose place among the others is then looked for: some hundred
    instructions that depend on where everything happens to lie. With pools that are neither full nor empty, there is no such
    search.
    """
    made: list[object] = []
    for size in range(16, 513, 16):
        many = 8 * 16384 // size  # a pool is 16 KiB
        if size < 48:
            made += [object() if size == 16 else float(i) for i in range(many)]
        else:
            made += [bytes(size - 33) for _ in range(many)]
    return made[::4]


async def traced(answer: Callable[[int], Any]) -> dict[str, float]:
    """Return how many lines of Python each function runs a request."""
    lines: Counter[Any] = Counter()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            lines[frame.f_code] += 1
        return trace

    # The loop's callbacks run below the frame that is running now: tracing holds for those that begin.
    sys.settrace(trace)
    try:
        await answer(TRACED)
    finally:
        sys.settrace(None)
    return {where(code): count / TRACED for code, count in lines.items()}


def where(code: Any) -> str:
    """Name a function by the end of its file's path."""
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}: {code.co_qualname}"


def forked(family: str, row: str, marks: Any, folder: str) -> int:
    """Fork the child that answers a row's requests; return its process id."""
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        with at_end:
            found = uvloop.run(serve(family, row, marks))
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps({"row": [family, row], "lines": found}))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # what a process does at its end takes long under callgrind


def main(marks: Any, folder: str, rows: list[tuple[str, str]]) -> int:
    """Serve each row in a child, two at a time; return 1 if one of them failed."""
    left, running = list(rows), 0
    failed = False
    while left or running:
        if left and running < 2:
            if left[0][0] in ASGI:
                counted_asgi.load()  # here, for all of them; and for no other, whose requests would be asked for by more adapters
            forked(*left.pop(0), marks, folder)
            running += 1
        else:
            failed |= os.wait()[1] != 0
            running -= 1
    return int(failed)


if __name__ == "__main__":
    # What all children need is imported before there are any.
    import recoverable.aiohttp  # noqa: F401
    from benchmarks.callgrind import Marks

    status = main(Marks(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
    sys.stderr.flush()
    os._exit(status)
