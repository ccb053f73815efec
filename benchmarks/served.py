"""The five example servers as benchmarks run them: filled with state, in a process of their own, under load.

`python -m benchmarks.served NAME MODE` is the process. It prints its port and ends at SIGTERM. MODE is "plain" (the same
handlers on plain Python objects, `benchmarks/plain.py`), or the options of `Arena.open` as JSON; with "record" among them
the run is recorded, announced writes included, and the recording is written to that file at the end. "announce" adds a
handler to `features` that announces what it writes: rows, by `Array.edit()`, or items.

The examples are as they are, but for their size: more accounts, products, items. Load comes from `wrk`, over 64 connections;
for the chat, which speaks WebSocket, from an aiohttp client with 16 of them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import served_asgi
from benchmarks.serving import cpu_ns, listening, terminated

NAMES = ("bank", "shop", "chat", "leaderboard", "features")
ON_ASGI = ("bank, FastAPI", "bank, Starlette")  # they write what the bank writes
ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS, SOCKETS = 64, 16
ACCOUNTS, PRODUCTS, SESSIONS, ROOMS, PLAYERS, ITEMS = 100_000, 5_000, 40_000, 600, 300_000, 2816

Fill = Callable[[Any, random.Random], None]


def _bank(arena: Any, rng: random.Random) -> None:
    audit = arena.root["audit"]
    for begin in range(0, 40_000, 250):
        with arena.transaction():
            for n in range(begin, begin + 250):
                audit[f"old-{n}"] = {"from": rng.randrange(ACCOUNTS), "to": rng.randrange(ACCOUNTS), "amount": n}


def _shop(arena: Any, rng: random.Random) -> None:
    from examples.shop import server

    sessions, skus = arena.root["sessions"], sorted(server.PRICES)
    for begin in range(0, SESSIONS, 250):
        with arena.transaction():
            for n in range(begin, begin + 250):
                session = server.Session()
                sessions[f"visitor-{n}"] = session
                cart = sessions[f"visitor-{n}"].cart
                for sku in rng.sample(skus, 3):
                    cart[sku] = rng.randint(1, 3)


def _chat(arena: Any, rng: random.Random) -> None:
    import recoverable

    rooms = arena.root["rooms"]
    for room in range(ROOMS):
        with arena.transaction():
            rooms[f"room-{room}"] = {"said": 100, "history": recoverable.Deque(maxlen=100)}
            history = rooms[f"room-{room}"]["history"]
            for n in range(1, 101):
                history.append({"n": n, "who": f"visitor-{rng.randrange(10**6)}", "text": "x" * rng.randrange(20, 200)})


def _leaderboard(arena: Any, rng: random.Random) -> None:
    scores = arena.root["scores"]
    for begin in range(0, PLAYERS, 250):
        with arena.transaction():
            for n in range(begin, begin + 250):
                scores[f"player-{n}"] = rng.randrange(1_000_000)
    best = sorted(((score, player) for player, score in dict(scores).items()), key=lambda row: (-row[0], row[1]))[:10]
    with arena.transaction():
        arena.root["top"][:] = best


def _features(arena: Any, rng: random.Random) -> None:
    import numpy as np

    together, pairs = arena.root["together"], arena.root["pairs"]
    random_ = np.random.default_rng(rng.randrange(1 << 32))
    for begin in range(0, ITEMS, 16):
        with arena.transaction():
            together.view[begin : begin + 16] = random_.integers(0, 9, (16, ITEMS))
    with arena.transaction():
        pairs.add(1)


@dataclass(frozen=True)
class Kind:
    """What is particular to one of them."""

    fill: Fill
    load: str  # how wrk makes its requests, in Lua; "": it can't
    size: str


KINDS = {
    "bank": Kind(
        _bank,
        f"""request = function()
  n = n + 1
  local body = string.format('{{"id": "%d-%d", "from": %d, "to": %d, "amount": %d}}', seed, n, math.random(0, {ACCOUNTS - 1}),
    math.random(0, {ACCOUNTS - 1}), math.random(1, 50))
  return wrk.format("POST", "/transfer", nil, body)
end""",
        "64 MiB",
    ),
    # Every other request fills a cart, the next one buys what was put into another one a while ago.
    "shop": Kind(
        _shop,
        f"""request = function()
  n = n + 1
  local visitor = seed * 3571 + math.floor(n / 2)
  if n % 2 == 0 or n < 400 then
    return wrk.format("PUT", "/cart/sku-" .. math.random(0, {PRODUCTS - 1}),
      {{["Cookie"] = "session=visitor-" .. visitor % {SESSIONS}}}, '{{"n": 2}}')
  end
  return wrk.format("POST", "/checkout", {{["Cookie"] = "session=visitor-" .. (visitor - 150) % {SESSIONS}}})
end""",
        "64 MiB",
    ),
    "chat": Kind(_chat, "", "64 MiB"),
    "leaderboard": Kind(
        _leaderboard,
        f"""request = function()
  return wrk.format("POST", "/play/player-" .. math.random(0, {PLAYERS - 1}), nil, '{{"points": ' .. math.random(1, 100) .. '}}')
end""",
        "64 MiB",
    ),
    "features": Kind(
        _features,
        f"""request = function()
  local middle = math.min(math.floor(-math.log(1 - math.random()) * 400), {ITEMS - 12})
  local step = math.random(1, 3)
  return wrk.format("POST", "/baskets", nil, string.format('{{"basket": [%d, %d, %d, %d]}}', middle, middle + step,
    middle + step + 1, middle + 2 * step + 2))
end""",
        "64 MiB",
    ),
}

# FastAPI reads no JSON that is not said to be some.
JSON_BANK = dataclasses.replace(
    KINDS["bank"], load='wrk.headers["Content-Type"] = "application/json"\n' + KINDS["bank"].load
)
KINDS |= dict.fromkeys(served_asgi.APPLICATIONS, JSON_BANK)


# -- the server ---------------------------------------------------------------------------------------------------


def application(name: str, arena: Any) -> Any:
    """Make an example's application around an arena, and fill that."""
    import importlib

    if name in served_asgi.APPLICATIONS:
        app = served_asgi.APPLICATIONS[name](arena, ACCOUNTS)
        KINDS[name].fill(arena, random.Random(name))
        return app
    server = importlib.import_module(f"examples.{name}.server")
    options: dict[str, Any] = {}
    if name == "bank":
        options["accounts"] = ACCOUNTS
    elif name == "shop":
        server.OPENING = 10**9
        server.PRICES = {f"sku-{n}": 100 + n for n in range(PRODUCTS)}
    elif name == "leaderboard":
        options["limit"] = 10**9
    elif name == "features":
        server.ITEMS = ITEMS
    app = server.make_app(arena, **options)
    KINDS[name].fill(arena, random.Random(name))
    return app


def announcing(server: Any, rows_of: bool) -> Any:
    """Return `learn` of the feature server with announced writes, of a row's items together or of each, instead of raw ones."""
    import numpy as np
    from aiohttp import web

    import recoverable

    @recoverable.recoverable
    async def learn(request: web.Request) -> web.Response:
        root = server.state(request)
        items = await server.basket_of(request)
        a, b = np.array(list(itertools.combinations(items, 2))).T

        def count(rows: Any, columns: Any) -> None:
            if not rows_of:
                for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                    root["together"][row, column] += 1
                return
            for row in np.unique(rows):
                with root["together"].edit(slice(int(row), int(row) + 1)) as edited:
                    edited[0, columns[rows == row]] += 1

        count(a, b)
        await server.stock_check()
        count(b, a)
        root["pairs"].add(len(a))
        return web.json_response({"pairs": len(a)})

    return learn


def serve(name: str, mode: str) -> None:
    """Run one until SIGTERM."""
    sys.path.append(str(ROOT))
    import uvloop
    from aiohttp import web

    record, announce = None, None
    if mode == "plain":
        from benchmarks import plain

        plain.install()
        if name in served_asgi.APPLICATIONS:
            served_asgi.install_plain()
        arena: Any = plain.Arena()
    else:
        from recoverable import Arena
        from recoverable.errors import ArenaOptionError

        options = json.loads(mode)
        record, announce = options.pop("record", None), options.pop("announce", None)
        try:
            arena = Arena.open(f"bench-{name.replace(', ', '-')}-{os.getpid()}", size=KINDS[name].size, **options)
        except ArenaOptionError as error:
            print(json.dumps({"refused": str(error)}), flush=True)
            return
        atexit.register(Arena.unlink, arena.name)
    app = application(name, arena)
    if announce is not None:
        from examples.features import server

        app.router.add_post("/announced", announcing(server, announce == "rows"))

    def told() -> str:
        return json.dumps(dataclasses.asdict(arena.stats()), default=str)

    async def stats(request: web.Request) -> web.Response:
        return web.json_response(text=told())

    if name in served_asgi.APPLICATIONS:
        listen: Any = served_asgi.listening
        if mode != "plain":
            from starlette.responses import Response

            app.add_route("/_stats", lambda request: Response(told()))
    else:
        listen = listening
        if mode != "plain":
            app.router.add_get("/_stats", stats)

    async def main() -> None:
        async with listen(app) as port:  # its clean-up closes the arena
            print(json.dumps({"port": port}), flush=True)
            await terminated()
            if record is not None:
                found = recording.recording
                data = {"ends": list(found.ends), "pages": list(found.pages), "handlers": found.handlers}
                Path(record).write_text(json.dumps(data))

    with arena.record(announced=True) if record is not None else contextlib.nullcontext() as recording:
        uvloop.run(main())


class Refused(Exception):
    """This version can't be run like that."""


class Served:
    """One of the servers, and what loads it."""

    def __init__(self, name: str, mode: str, *, path: str | None = None) -> None:
        self.name, self.mode, self.path = name, mode, path
        self.seed = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.served", name, mode], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        if "refused" in said:
            self.process.wait(timeout=20)
            raise Refused(said["refused"])
        self.url = f"http://127.0.0.1:{said['port']}"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + "/_stats", timeout=20) as response:
            return dict(json.load(response))

    def load(self, seconds: float) -> tuple[float, float, int]:
        """Load it; return (requests a second, µs of its CPU a request, requests)."""
        before = cpu_ns(self.process.pid)
        self.seed += 1
        rate, requests = self._wrk(seconds) if KINDS[self.name].load else asyncio.run(chatter(self.url, seconds))
        return rate, (cpu_ns(self.process.pid) - before) / requests / 1e3, requests

    def _wrk(self, seconds: float) -> tuple[float, int]:
        import tempfile

        script = f"n = 0\nseed = {self.seed}\nmath.randomseed({self.seed})\n" + KINDS[self.name].load
        if self.path:
            script = re.sub(r'"POST", "[^"]*"', f'"POST", "{self.path}"', script)
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            command = [
                "wrk",
                "-t1",
                f"-c{CONNECTIONS}",
                f"-d{seconds:g}s",
                "--timeout",
                "10s",
                "-s",
                file.name,
                self.url,
            ]
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
        found, rate = re.search(r"(\d+) requests in", text), re.search(r"Requests/sec:\s*([\d.]+)", text)
        assert found is not None, text
        assert rate is not None, text
        errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        if errors is not None and int(errors[1]) > int(found[1]) / 100:
            raise RuntimeError(f"{self.name}, {self.mode}: {errors[0]} of {found[1]}")
        return float(rate[1]), int(found[1])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def chatter(url: str, seconds: float) -> tuple[float, int]:
    """Say things in 16 rooms, one after the other in each; a message counts once it has come back."""
    import aiohttp

    said, end = 0, time.monotonic() + seconds

    async def talk(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal said
        rng = random.Random(number)
        async with session.ws_connect(f"{url}/rooms/room-{number * 7 % ROOMS}?who=me-{number}") as socket:
            while time.monotonic() < end:
                text = f"{number} {said} " + "x" * rng.randrange(20, 200)
                await socket.send_json({"text": text})
                while (await socket.receive_json()).get("text") != text:
                    pass
                said += 1

    begun = time.monotonic()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(talk(session, n) for n in range(SOCKETS)))
    return said / (time.monotonic() - begun), said


def recorded(name: str, seconds: float, most: int) -> tuple[array[int], array[int], list[str]]:
    """Run one under load and return a recording of it: ends, pages and handlers of at most so many steps."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "recording.json")
        server = Served(name, json.dumps({"policy": "incremental", "record": str(to)}))
        try:
            server.load(seconds)
        finally:
            server.stop()
        data = json.loads(to.read_text())
    ends = data["ends"][:most]
    return array("I", ends), array("I", data["pages"][: ends[-1] if ends else 0]), data["handlers"][: len(ends)]


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
