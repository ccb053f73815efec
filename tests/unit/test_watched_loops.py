"""A loop is stopped inside of the `with` and `try` that it is in, also where Python has put its jump back outside of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Arena, StepTooLongError, recoverable, watchdog
from recoverable._jumps import NOTHING, outside
from recoverable._native import watchdog as native
from support.watched import seen, watched_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between

LIMIT = 0.01  # seconds, from where a loop begins
MONITORING: Any = getattr(sys, "monitoring", None)
FREE = (3, 4)  # what the watchdog may use


class Until:
    """A condition that holds for so long that no test waits for its end."""

    def __init__(self) -> None:
        self.end = time.monotonic() + 10

    def __bool__(self) -> bool:
        return time.monotonic() < self.end


class Kept:
    """Counts who has entered and not left. Their step is stopped when they say so, once: they may take their time to leave."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self.inside = arena, 0
        native.set_limit(arena.native, 60, ends=False)

    def __enter__(self) -> Kept:
        self.inside += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self.inside -= 1

    def late(self) -> None:
        """Have it stopped from now on."""
        native.set_limit(self.arena.native, LIMIT, ends=False)
        native.begin(lambda: None)
        threading.Thread(target=self._stop).start()

    def _stop(self) -> None:
        while not seen(self.arena, native.STOP).stop():
            time.sleep(0)


class Held(Kept):
    """Whoever has entered and not left is in a block, which something else holds on to."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.block = arena.transaction()

    def __enter__(self) -> Held:
        self.block.__enter__()
        self.arena.root["n"] = 1
        return self

    def __exit__(self, *error: Any) -> None:
        self.block.__exit__(*error)


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps never end the process."""
    with watched_arena(name, 60) as opened:
        native.begin(lambda: None)  # nobody stops a step but the tests
        yield opened
        watchdog.settle()
    if MONITORING is not None:
        assert [MONITORING.get_tool(each) for each in FREE] == [None, None]  # all of it is taken back


SHAPES = {
    "passes": "while until: pass",
    "one line": "while i < 10**9: i += 1",
    "at its end": "while until:\n    i += 1\ni = 0",
    "two conditions": "while until and i >= 0 or not until: pass",
    "continues": "while until:\n    if i: continue\n    i = 1",
    "ends by a condition": "while True:\n    i += 1\n    if not until: break",
    "filters": "for i in range(10**9):\n    if i: continue",
    "filters all": "for i in range(10**9):\n    if not i: continue",
    "filters by a call": "for i in range(10**9):\n    if until: continue\n    i = 1",
    "filters in a while": "while until:\n    if not i: continue\n    i = 1",
    "in a for": "for _ in range(10**9):\n    while until: pass",
    "in a try": "try:\n    while until: pass\nfinally:\n    i = 0",
    "in a with": "with others:\n    while until: pass",
    "around a with": "while until:\n    with others: pass",
    "around a try": "while until:\n    try: i += 1\n    except ValueError: pass",
    "a long one": "while until:\n" + "    if i: i = int(i) + 1\n" * 150,
    "after an else": "while not i:\n    while until: pass\n    else: i = 1",
    "matches": "while until:\n    match i:\n        case 1: pass\n        case _: i = 2",
}


def made(shape: str) -> Callable[[Any, Any], None]:
    """Return a function whose loop is of that shape, inside of a `with`."""
    body = "\n".join(f"        {line}" for line in SHAPES[shape].splitlines())
    names: dict[str, Any] = {"others": contextlib.nullcontext()}
    exec(f"def loop(kept, until):\n    i = 0\n    with kept:\n        kept.late()\n{body}\n", names)
    return names["loop"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_loop_is_in_ends_where_the_loop_is_stopped(arena: Arena, shape: str) -> None:
    """In a function that the block calls, and in the block itself, which somebody holds on to."""
    loop = made(shape)
    for _ in range(2):
        kept = Kept(arena)
        with pytest.raises(StepTooLongError), arena.transaction():
            arena.root["n"] = 1
            loop(kept, Until())
        assert kept.inside == 0
    held = Held(arena)
    with pytest.raises(StepTooLongError):
        loop(held, Until())
    assert arena.root["n"] == 0
    with arena.transaction():
        arena.root["n"] = 3


def test_so_does_what_a_handler_is_in(arena: Arena) -> None:
    """In the handler's own code, and in a generator that it uses; then the event loop goes on."""
    kept = Kept(arena)

    def turns() -> Iterator[int]:
        with kept:
            yield 1
            kept.late()
            i = 0
            while i < 10**9:
                i += 1

    @recoverable(arena=arena)
    async def handler(generator: bool) -> None:
        with kept, contextlib.ExitStack() as stack:
            stack.enter_context(kept)
            arena.root["n"] += 1
            for _ in turns() if generator else ():
                pass
            kept.late()
            until = Until()
            while until:
                pass

    async def main() -> str:
        for generator in (False, True):
            with pytest.raises(StepTooLongError):
                await handler(generator)
            assert kept.inside == 0
            native.set_limit(arena.native, 60, ends=False)
        return "well"

    assert asyncio.run(main()) == "well"
    assert arena.root["n"] == 0


def test_who_asks_a_server_for_it_gets_a_response(arena: Arena) -> None:
    """Of a block in a plain handler, which knows nothing of this library."""
    kept = Kept(arena)

    async def handler(request: web.Request) -> web.Response:
        block = arena.transaction()
        with block:
            arena.root["n"] = 1
            kept.late()
            i = 0
            while i < 10**9:
                i += 1
        return web.Response()

    async def main() -> int:
        app = web.Application()
        app.router.add_get("/", handler)
        async with TestClient(TestServer(app)) as client, client.get("/") as response:
            return response.status

    assert asyncio.run(main()) == 500
    assert arena.root["n"] == 0
    with arena.transaction():
        arena.root["n"] = 1


def test_what_catches_it_is_stopped_once_more(arena: Arena) -> None:
    """Inside of what it is in then."""
    kept = Kept(arena)
    with pytest.raises(StepTooLongError), arena.transaction():
        arena.root["n"] = 1
        until = Until()
        with kept:
            kept.late()
            try:
                while until:
                    pass
            except BaseException:
                kept.late()
                with contextlib.nullcontext():
                    while until:
                        pass
    assert kept.inside == 0


def test_each_of_two_threads_is_stopped_by_its_own(arena: Arena) -> None:
    """Both run the same code, and one of them is never late."""
    kept, ends = Kept(arena), []

    def work(i: int) -> int:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.nullcontext())
            while i < 10**9 and not ends:
                i += 1
        return i

    def late() -> None:
        try:
            with arena.transaction(), kept:
                arena.root["n"] = 1
                kept.late()
                work(0)
        except StepTooLongError:
            ends.append("stopped")

    thread = threading.Thread(target=late)
    thread.start()
    assert 0 < work(0) < 10**9
    thread.join(10)
    assert ends == ["stopped"]
    assert work(10**9 - 5) >= 10**9 - 5


@pytest.fixture
def debugged() -> Iterator[None]:
    """Have a debugger and a profiler watch each line and jump, as they do in Python 3.12 and later."""
    trace = sys.gettrace()

    def line(frame: FrameType, event: str, argument: object) -> Any:
        return line

    tool = next((each for each in (1, 2) if MONITORING is not None and MONITORING.get_tool(each) is None), None)
    if tool is not None:
        events = MONITORING.events
        MONITORING.use_tool_id(tool, "tests")
        for each in (events.LINE, events.JUMP, events.BRANCH, events.INSTRUCTION):
            MONITORING.register_callback(tool, each, lambda *of: None)
        MONITORING.set_events(tool, events.LINE | events.JUMP | events.BRANCH | events.INSTRUCTION)
    sys.settrace(line)
    sys._getframe().f_trace = line
    yield
    sys.settrace(trace)
    if tool is not None:
        MONITORING.set_events(tool, 0)
        MONITORING.free_tool_id(tool)


@pytest.mark.usefixtures("debugged")
@pytest.mark.parametrize("shape", ["passes", "one line", "in a for"])
def test_it_is_stopped_under_a_debugger_as_well(arena: Arena, shape: str) -> None:
    """A callback of theirs runs at most times: what stops the step is not raised in that."""
    kept, loop = Kept(arena), made(shape)
    with pytest.raises(StepTooLongError), arena.transaction():
        arena.root["n"] = 1
        loop(kept, Until())
    assert kept.inside == 0
    assert arena.root["n"] == 0


@pytest.mark.skipif(MONITORING is None, reason="Python 3.12 and later")
def test_where_others_have_all_tools_it_is_stopped_all_the_same(arena: Arena) -> None:
    """As it was before: maybe past a `with`."""
    for each in FREE:
        MONITORING.use_tool_id(each, "tests")
    try:
        with pytest.raises(BaseException, match="step_limit"), arena.transaction():
            arena.root["n"] = 1
            made("passes")(Kept(arena), Until())
    finally:
        for each in FREE:
            MONITORING.free_tool_id(each)
    assert arena.root["n"] == 0


def test_constants_that_can_not_be_shown_do_no_harm() -> None:
    """A number of more digits than Python writes: the code that has it is looked at all the same."""
    names: dict[str, Any] = {}
    text = f"def big(go_on):\n try:\n  n = 0x{'f' * 5000}\n  while go_on:\n   n += 1\n finally:\n  print(n)\n"
    exec(text, names)
    assert bool(outside(names["big"].__code__).jumps) == (sys.version_info >= (3, 12))


def test_a_loop_that_is_in_nothing_is_left_alone() -> None:
    """Its jump back has no entry, as it should be."""

    def work(things: list[int]) -> None:
        while things:
            things.pop()
        for _ in things:
            with contextlib.suppress(IndexError):
                things.pop()

    assert outside(work.__code__) == NOTHING
    found = outside(made("one line").__code__)
    assert [len(each) for each in found] == [int((3, 12) <= sys.version_info < (3, 14))] * 3
