"""What is watched is told once each, in order, whoever commits it and however it is waited for; and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ArenaOptionError, HistoryError, TransactionError, _shm, recoverable
from recoverable._compaction import verify
from recoverable.history import Change, History
from recoverable.journal import attach
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from support.children import child


@pytest.fixture
def arena(new_name: Callable[[], str], folder: str) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as made:
        yield made


@pytest.fixture(params=["arena", "folder"])
def history(request: pytest.FixtureRequest, arena: Arena, folder: str) -> Iterator[History]:
    """Give the history of an arena that is open here, and the one that sees nothing but the folder."""
    with arena.history if request.param == "arena" else History.open(folder) as made:
        yield made


def put(arena: Arena, key: str, value: Any) -> None:
    """Commit once."""
    with arena.transaction():
        arena.root[key] = value


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def told(changes: list[Change]) -> list[str]:
    """Return what is different after each."""
    return [str(difference) for change in changes for difference in change.differences]


def test_in_a_thread(arena: Arena, history: History) -> None:
    """What is committed after the call comes, in order, and nothing else; also what was there before a first look."""
    put(arena, "n", 0)
    flush(arena)
    watch = history.watch("root['n']")
    found: list[Change] = []
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=lambda: found.extend(watch))
        stack.callback(thread.join, 30)
        stack.callback(watch.close)
        thread.start()
        for n in range(1, 30):
            put(arena, "n", n)
            put(arena, "other", n)
            if n == 10:
                flush(arena)
        flush(arena)
        deadline = time.monotonic() + 30
        while len(found) < 29 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert told(found) == [f"root['n']: {n - 1} -> {n}" for n in range(1, 30)]
    assert not thread.is_alive()


def test_in_an_event_loop(arena: Arena, history: History) -> None:
    """The loop goes on while nothing comes; who waits can be cancelled, and nothing is lost by that; close() ends it."""

    @recoverable(arena=arena)
    async def writes(n: int) -> None:
        arena.root["n"] = n

    async def main() -> None:
        put(arena, "n", 0)
        await arena.durable()
        watch = history.watch("root['n']")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.05)
        found, enough = [], asyncio.Event()

        async def reads() -> None:
            async for change in watch:
                found.append(change)
                if len(found) == 4:
                    enough.set()

        for n in 1, 2, 3:
            waiting = asyncio.create_task(reads())
            await asyncio.sleep(0)
            await writes(n)
            await arena.durable()
            waiting.cancel()
            await asyncio.wait([waiting])
        waiting = asyncio.create_task(reads())
        await asyncio.sleep(0)
        await writes(4)
        async with asyncio.timeout(30):
            await enough.wait()
        watch.close()
        await asyncio.wait_for(waiting, 30)
        assert told(found) == [f"root['n']: {n - 1} -> {n}" for n in range(1, 5)]

    asyncio.run(main())


def test_commits_of_others_and_filters(arena: Arena, history: History, folder: str) -> None:
    """A handler's commits of another process come as well, from an earlier commit on; without a path no state is made."""

    @recoverable(arena=arena)
    async def counts(n: int) -> None:
        arena.root["n"] = n

    @recoverable(arena=arena)
    async def other(n: int) -> None:
        arena.root["n"] = -n

    asyncio.run(other(0))
    flush(arena)
    first = next(history.commits())

    def work() -> None:
        for n in range(1, 4):
            asyncio.run(counts(n))
            asyncio.run(other(n))
        asyncio.run(arena.durable())

    handler = counts.__qualname__[-39:]
    watches = [history.watch(path, after=first, handler=handler) for path in ("root['n']", None)]
    with child(work):
        pass
    found = [[next(watch) for _ in range(3)] for watch in watches]
    assert [change.commit.seq for change in found[0]] == [change.commit.seq for change in found[1]]
    assert [change.differences[0].after for change in found[0]] == [1, 2, 3]
    assert all(change.differences == () for change in found[1])
    assert {change.commit.handler for each in found for change in each} == {handler}


def test_new_containers_snapshots_and_files(arena: Arena, history: History, folder: str) -> None:
    """Where the path leads may be made anew, and files and snapshots may come and go, while it goes on."""
    watch = history.watch("root['cart']['n']")
    expected = []
    for n in range(400):
        if n % 50 == 0:
            put(arena, "cart", {"n": -n, "text": "x" * 500})
        with arena.transaction():
            arena.root["cart"]["n"] = n + 1
            arena.root["fill"] = str(n) * 400
        if n % 100 == 99:
            flush(arena)
            expected += [next(watch).differences[0].after for _ in range(102)]
            compact(Folder(folder), verify)
    put(arena, "cart", None)
    flush(arena)
    next(watch)
    assert "(deleted)" not in "".join(
        line for line in Path("/proc/self/maps").read_text().splitlines() if "snapshot-" in line
    )
    wanted = [after for n in range(400) for after in ((-n, n + 1) if n % 50 == 0 else (n + 1,))]
    assert expected == wanted


def test_what_is_dropped_before_it_was_read(arena: Arena, folder: str) -> None:
    """Ends it by an error that names what is left, and then it is at its end."""
    with History.open(folder) as history:
        watch = history.watch("root['k1']")
        for round_ in range(4):
            for n in range(300):
                put(arena, f"k{n % 9}", str(n + round_) * 400)
            flush(arena)
            compact(Folder(folder), verify)
        with pytest.raises(HistoryError) as caught:
            next(watch)
        assert caught.value.oldest is not None
        assert next(watch, None) is None


def test_what_ends_it(new_name: Callable[[], str], folder: str) -> None:
    """The end of the arena, from another thread, and that of the history; in an event loop `for` would stand still."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as arena:
        put(arena, "n", 0)
        flush(arena)
        with pytest.raises(ArenaOptionError):
            arena.history.watch("root[")
        with pytest.raises(HistoryError):
            arena.history.watch(after=10**6)
        watch = arena.history.watch()

        async def main() -> None:
            with pytest.raises(TransactionError, match="async for"):
                next(watch)

        asyncio.run(main())
        closing = threading.Timer(0.05, arena.close)
        closing.start()
        assert list(watch) == []
        closing.join()
    with History.open(folder) as history:
        watch = history.watch()
    assert list(watch) == []


def test_restored_to_an_earlier_commit(new_name: Callable[[], str], folder: str) -> None:
    """Commits of another line of states are not taken for what comes next."""
    name = new_name()
    with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
        for n in range(10):
            put(arena, "n", n)
        flush(arena)
    Arena.unlink(name)
    with History.open(folder) as history:
        commits = list(history.commits())
        watch, late = history.watch("root['n']"), history.watch("root['n']", after=commits[6])
        with _shm.locked(name, create=True, timeout=5.0):
            attach.restore(name, Folder(folder), seq=commits[4].seq)
        with Arena.open(name, journal=folder, compact=False) as arena:
            put(arena, "n", 99)
            flush(arena)
            assert [next(late).differences[0].after for _ in range(3)] == [4, 5, 99]
            with pytest.raises(HistoryError, match="restored to a commit before"):
                next(watch)
    Arena.unlink(name)


def test_a_folder_that_nobody_writes_to_any_more(new_name: Callable[[], str], folder: str) -> None:
    """From an earlier commit on, all that is there comes, batch by batch."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as arena:
        for n in range(5):
            put(arena, "n", n)
            flush(arena)
    for path in Path(folder).iterdir():
        os.utime(path, (10**9, 10**9))
    with History.open(folder) as history:
        watch = history.watch("root['n']", after=history.oldest)
        assert [next(watch).differences[0].after for _ in range(5)] == [0, 1, 2, 3, 4]
