"""Raw writes and announced ones that meet on a page: do record, shadow, undo and recovery agree with what a commit has left?"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from recoverable import Arena, Array
from support.doing import Undone
from support.forks import in_child
from support.replica import Replica
from support.segments import path_of
from support.workers import Request, pause

PAGE = 4096  # where the items of an Array begin
SCRIPTS = int(os.environ.get("RECOVERABLE_RAW_SCRIPTS", "400"))

#: How a transaction writes: one item, or three; announced, or raw.
WRITES = ["item", "items", "view", "views", "edit", "out"]
#: What it does in between. A word holds four of the smaller items: "beside" changes another part of it.
OTHERS = ["beside", "wait", "another commits", "independent", "undone item", "undone view", "savepoint"]

#: What is done, and the value that is written: 0 is what is committed.
Do = tuple[str, int]

SHORT: list[Do] = [*itertools.product(WRITES, (0, 1)), *((name, 7) for name in OTHERS)]
LONG: list[Do] = [*itertools.product(WRITES, (0, 1, 2)), *((name, 7) for name in OTHERS)]


class Page:
    """An arena with one Array on one page, and what is known to be committed there.

    Attributes:
        items: What the Array holds.
    """

    def __init__(self, arena: Arena, dtype: str, *, hot: bool) -> None:
        self.arena, self.dtype = arena, dtype
        self.items = [0] * 16
        places = []
        with arena.transaction():
            arena.root["m"] = Array(self.items, dtype)
        for first in (40, 60):  # it is where both are: records stay where they are
            self.items = [*range(first, first + 16)]
            with arena.transaction():
                self.array[:] = self.items
            segment, wanted = path_of(arena.name).read_bytes(), self.bytes()
            places.append({at for at in range(0, len(segment), PAGE) if segment.startswith(wanted, at)})
        self.at = max(places[0] & places[1])  # a shadow lies before it
        for _ in range(3 * hot):
            self.items = self.run([("view", 1)])
        assert bool(arena.stats().hot_pages) == hot

    @property
    def array(self) -> Any:
        """The Array."""
        return self.arena.root["m"]

    def bytes(self) -> bytes:
        """Return what its memory should be."""
        return np.array(self.items, self.dtype).tobytes()

    def run(self, script: Sequence[Do], *, bad: bool = False) -> list[int]:
        """Run a script as one transaction, and return what the items should be then; a `bad` one is rolled back."""
        now = [*self.items]
        request = Request(self.arena, self._do, script, now, bad)
        with contextlib.suppress(Undone):
            while not request.done:
                if request.step():
                    self._another()
        return self.items if bad else [*now[:3], *self.items[3:]]

    def _another(self, *, independent: bool = False) -> None:
        """Commit another item of the page, by turns announced and raw."""
        self.items[3] = (self.items[3] + 1) % 1000
        with self.arena.transaction(independent=independent):
            if self.items[3] % 2:
                self.array[3] = self.items[3]
            else:
                self.array.view[3] = self.items[3]

    async def _do(self, script: Sequence[Do], now: list[int], bad: bool) -> None:
        """Write as the script says, into the Array and into `now`."""
        base, kept = now[0], None
        with contextlib.ExitStack() as stack:
            for name, more in script:
                value = (base + more) % 1000
                match name:
                    case "item":
                        self.array[0] = now[0] = value
                    case "items":
                        self.array[0:3] = now[0:3] = [value] * 3
                    case "view":
                        self.array.view[0] = now[0] = value
                    case "views":
                        kept = self.array.view  # lives on, over an await as well
                        kept[0:3] = now[0:3] = [value] * 3
                    case "edit":
                        with self.array.edit(slice(0, 2)) as part:
                            part[0] = now[0] = value
                    case "out":
                        view = self.array.view[0:1]
                        np.add(view, value - now[0], out=view)
                        now[0] = value
                        del view
                    case "beside":
                        self.array.view[1] = now[1] = value
                    case "wait" | "another commits":
                        stack.close()  # a savepoint ends with its step
                        await pause(name == "another commits")
                    case "independent":
                        stack.close()
                        self._another(independent=True)
                    case "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    case "savepoint":
                        stack.enter_context(self.arena.savepoint())
                    case _:
                        with contextlib.suppress(Undone), self.arena.savepoint():
                            if name == "undone item":
                                self.array[0] = value
                            else:
                                self.array.view[0] = value
                            raise Undone
        del kept
        if bad:
            raise Undone

    def holds(self) -> bool:
        """Is what is live what should be? Also after a later transaction on the page that is rolled back."""
        with contextlib.suppress(Undone), self.arena.transaction():
            before = self.array.to_python()
            self.array.view[5] = self.array[6] = 999
            raise Undone
        return before == self.items == self.array.to_python()


class Copy:
    """A copy of a page's arena that the feed alone brings forward, or nothing, where there is no feed."""

    def __init__(self, page: Page, replica: Replica | None) -> None:
        self.page, self.replica = page, replica

    def holds(self) -> bool:
        """Is the Array's memory in it what it should be?"""
        if self.replica is None:
            return True
        self.replica.follow(self.page.arena)
        expected = self.page.bytes()
        return os.pread(self.replica.fd, len(expected), self.page.at) == expected


def options(tracking: str, hot: bool, feed: bool) -> dict[str, Any]:
    """Return what an arena is opened with."""
    policy = "full" if hot else "incremental"
    return {"size": "8 MiB", "tracking": tracking, "policy": policy} | ({"feed": "1 MiB"} if feed else {})


@contextlib.contextmanager
def page_of(name: str, tracking: str, hot: bool, feed: bool, dtype: str) -> Iterator[tuple[Page, Copy]]:
    """Give a page of a new arena and its copy."""
    with Arena.temporary(name=name, **options(tracking, hot, feed)) as arena, contextlib.ExitStack() as stack:
        page = Page(arena, dtype, hot=hot)
        replica = stack.enter_context(contextlib.closing(Replica(name))) if feed else None
        yield page, Copy(page, replica)


def wrong(page: Page, copy: Copy, scripts: Iterable[Sequence[Do]]) -> Iterator[Sequence[Do]]:
    """Run each script, first undone and then committed; yield those after which something is not as it should be."""
    for script in scripts:
        page.run(script, bad=True)
        undone = page.holds() and copy.holds()
        page.items = page.run(script)
        if not (undone and page.holds() and copy.holds()):
            yield script
            with page.arena.transaction():  # begin again
                page.array[:] = page.items
                page.array.view[:] = page.items
            copy.holds()


KINDS = pytest.mark.parametrize(
    ("tracking", "hot", "feed", "dtype"),
    [
        pytest.param(tracking, hot, feed, dtype, id=f"{tracking}-{'hot' if hot else 'cold'}{'-feed' * feed}-{dtype}")
        for tracking, hot, feed, dtype in itertools.product(
            ("hybrid", "trap"), (True, False), (True, False), ("i8", "i2")
        )
        if dtype == "i8" or (hot and feed)  # a range that is no whole words
    ],
)


@pytest.mark.slow
@KINDS
def test_every_short_script_is_kept_as_it_ended(
    new_name: Callable[[], str], tracking: str, hot: bool, feed: bool, dtype: str
) -> None:
    """Two writes, and whatever comes before, between or after them: the feed's copy, a rollback, a later rollback agree."""
    with page_of(new_name(), tracking, hot, feed, dtype) as (page, copy):
        scripts = (
            script
            for n in (1, 2, 3)
            for script in itertools.product(SHORT, repeat=n)
            if n < 3 or sum(do[0] in WRITES for do in script) > 1
        )
        assert list(itertools.islice(wrong(page, copy, scripts), 10)) == []


@pytest.mark.slow
@KINDS
def test_long_scripts_are_kept_as_they_ended(
    new_name: Callable[[], str], seed: int, tracking: str, hot: bool, feed: bool, dtype: str
) -> None:
    """The same of longer ones, at random."""
    rng = random.Random(seed)
    with page_of(new_name(), tracking, hot, feed, dtype) as (page, copy):
        scripts = (rng.choices(LONG, k=rng.randrange(4, 9)) for _ in range(SCRIPTS))
        assert list(itertools.islice(wrong(page, copy, scripts), 10)) == []


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("feed", [True, False], ids=["feed", "no feed"])
@pytest.mark.parametrize("tracking", ["hybrid", "trap"])
def test_a_kill_in_a_later_step_takes_nothing_back(new_name: Callable[[], str], tracking: str, feed: bool) -> None:
    """Whoever is killed before its commit leaves what was committed, by any two writes, before."""

    def killed() -> None:
        page.arena = Arena.open(page.arena.name, **options(tracking, True, feed))
        page.arena.run(page._do, script, [*page.items], False).send(None)

    with page_of(new_name(), tracking, True, feed, "i8") as (page, copy):
        for first, second in itertools.product([(name, 1) for name in WRITES], repeat=2):
            page.items = page.run([first, second])
            script = [second, first, ("item", 2), ("view", 1), ("kill", 0)]
            assert in_child(killed).signal == signal.SIGKILL
            assert page.array.to_python() == page.items, script
            assert copy.holds()
