"""Work that history must not do: what it costs is counted, in parts read and files opened, not timed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Array, Deque, Dict, List
from recoverable._native.journal import Start
from recoverable.history import line, states, trail, watch
from recoverable.history.places import Path as Place
from recoverable.history.states import State
from recoverable.journal.folder import Folder
from recoverable.journal.order import END, ends_of, until


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("64 MiB", name=new_name(), feed="16 MiB", journal=tmp_path / "journal", compact=False) as made:
        yield made


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[object]:
    """Have the calls of a method noted: whose they were."""
    calls: list[object] = []
    method = getattr(owner, name)

    def noting(self: Any, *args: Any) -> Any:
        calls.append(self)
        return method(self, *args)

    monkeypatch.setattr(owner, name, noting)
    return calls


def sequences() -> Iterator[tuple[str, Any]]:
    """Give ways to come to a List or a Deque of Dicts: what they have of memory is another each time."""
    for n in 1, 31, 32, 33, 100:
        yield f"list made of {n}", lambda new, n=n: new(List, n)
        yield f"deque made of {n}", lambda new, n=n: new(Deque, n)

    def appended(new: Any) -> Any:
        made = new(List, 5)
        for i in range(90):
            made.append({"i": -i})
        return made

    def cut(new: Any) -> Any:
        made = new(List, 70)
        del made[3:40]
        made.insert(0, 1)
        made.insert(0, {"first": 1})
        return made

    def worn(new: Any) -> Any:
        made = new(Deque, 70)
        for _ in range(40):
            made.popleft()
        for i in range(50):
            made.appendleft({"left": i} if i % 3 else i)
            made.append({"right": i})
        made.rotate(7)
        return made

    def queue(new: Any) -> Any:
        made = new(Deque, 0)
        for i in range(200):
            made.append({"i": i})
            if i >= 3:
                made.popleft()
        return made

    yield from (("appended to", appended), ("cut and added to", cut), ("a worn Deque", worn), ("a queue", queue))


@pytest.mark.parametrize("made", [each for _, each in sequences()], ids=[name for name, _ in sequences()])
def test_where_a_container_is_in_a_sequence(
    arena: Arena, made: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position of a container in a List or a Deque is found in the core, and no other item is given a handle."""

    def new(kind: Any, n: int) -> Any:
        arena.root["s"] = kind([{"i": i} for i in range(n)])
        return arena.root["s"]

    with arena.transaction():
        made(new)
    found = arena.root["s"]
    calls = [counted(monkeypatch, kind, "_parts") for kind in (List, Deque)]
    for i, each in enumerate(list(found)):
        if not isinstance(each, int):
            assert Place.of(each) == Place(("s", i))
    assert calls == [[], []]


def test_an_array_that_every_commit_writes_to(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that writes to an Array has that one looked at, not the arena; of a place elsewhere, none."""
    with arena.transaction():
        arena.root["hits"] = Array((5000,), "i8")
        arena.root["ann"] = {"n": 0}
        arena.root["sessions"] = {str(i): {"i": i} for i in range(200)}
    for i in range(50):
        with arena.transaction():
            arena.root["hits"][i * 7] += 1
            arena.root["ann"]["n"] += 1
    flush(arena)
    read = counted(monkeypatch, Dict, "_parts")
    found = list(arena.history.changes("root['ann']['n']", since=arena.history.newest - 40))
    assert len(found) == 41
    assert read == []
    compared: list[int] = []
    method = Array._read
    monkeypatch.setattr(Array, "_read", lambda self, at, size: compared.append(size) or method(self, at, size))
    found = list(arena.history.changes("root['hits']", since=arena.history.newest - 40))
    assert [str(each.differences[0]) for each in found[:2]] == [
        "root['hits'][343]: 0 -> 1",
        "root['hits'][336]: 0 -> 1",
    ]
    assert sum(compared) <= 41 * 2 * 8
    assert read == []
    assert len(list(arena.history.changes(since=arena.history.newest - 40))) == 41
    assert len(read) <= 203 * 2  # once in each part of the commits


def test_containers_that_come_are_added(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each commit adds a container, all that are there are asked for once, not at each commit."""
    with arena.transaction():
        arena.root["sessions"] = {str(i): {"i": i} for i in range(200)}
    sessions: Any = arena.root["sessions"]
    for i in range(100):
        with arena.transaction():
            sessions[f"new {i}"] = {"i": i}
        with arena.transaction():
            sessions[f"new {i}"]["i"] += 1
    flush(arena)
    read = counted(monkeypatch, Dict, "_parts")
    found = list(arena.history.commits(path="root['sessions']", since=arena.history.newest - 60))
    assert len(found) == 61
    assert len(read) < 400 * 2


def test_parts_are_as_large_as_there_is_room(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every commit changes the place, they are not gone through in small parts: each begins at the snapshot again."""
    for i in range(600):
        with arena.transaction():
            arena.root["n"] = i
    flush(arena)
    monkeypatch.setattr(trail, "_FIRST", 8)
    monkeypatch.setattr(trail, "_KEPT", 256)
    begun = counted(monkeypatch, trail.Stepper, "__init__")
    assert [change.differences[0].after for change in arena.history.changes("root['n']")] == list(range(599, -1, -1))
    assert len(begun) <= 2 + -(-600 // 192) + 1


def test_what_differences_take_is_counted(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short record may make many differences: what is in memory at a time is bounded by these as well."""
    with arena.transaction():
        arena.root["queue"] = list(range(1000))
    for i in range(60):
        with arena.transaction():
            arena.root["queue"].pop(0)
            arena.root["queue"].append(1000 + i)
    flush(arena)
    monkeypatch.setattr(trail, "_ROOM", 8 << 20)
    kept: list[int] = []
    newest = trail._newest

    def noting(*args: Any) -> Any:
        found = newest(*args)
        kept.append(sum(len(change.differences) for change in found[0]))
        return found

    monkeypatch.setattr(trail, "_newest", noting)
    assert len(list(arena.history.changes("root['queue']"))) == 61
    assert max(kept) <= (8 << 20) // 512
    assert len(kept) >= 4


def test_files_that_are_known_are_not_read_again(arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of the files that are kept, and the snapshots, are read once; a watch looks at the last file alone."""
    filled = "x" * 60_000
    while len(Folder(tmp_path / "journal").files()) < 12:
        with arena.transaction():
            arena.root["n"] = filled
            filled = filled[::-1] + "y"
        flush(arena)
    opened = counted(monkeypatch, Folder, "start_of")
    read: list[str] = []
    snapshot = line._read
    monkeypatch.setattr(line, "_read", lambda path: read.append(path) or snapshot(path))
    history = arena.history
    assert history.oldest < history.newest
    assert len(opened) <= 12 + 2  # each once, and the last one again
    assert len(read) == 1
    watch = history.watch("root['k']")
    for i in range(5):
        with arena.transaction():
            arena.root["k"] = i
        flush(arena)
        assert next(watch).differences[0].after == i
    assert len(opened) <= 12 + 2 + 5 * 3 + 3
    os.utime(tmp_path / "journal", ns=(1, 1))  # names in it have not changed for long
    assert history.newest >= 5
    del opened[:]
    monkeypatch.setattr(Folder, "files", lambda _: pytest.fail("names were looked at"))
    assert history.oldest >= 0
    assert history.commits() is not None
    assert opened == []
    monkeypatch.undo()
    (tmp_path / "journal" / f"snapshot-{1 << 60:016x}").write_bytes(b"no snapshot")  # a new name
    files = counted(monkeypatch, Folder, "files")
    assert history.oldest >= 0
    assert files != []
    watch.close()


def test_what_each_file_counts_up_to_is_asked_once() -> None:
    """Which part of each file counts is found in one way through them."""
    assert ends_of([]) == []
    starts = [Start("", i, 0, 0, position, 0, 0, 0) for i, position in enumerate([0, 100, 300, 200, 200, 500])]
    assert ends_of(starts) == [until(starts, i) for i in range(6)] == [100, 200, 200, 200, 500, END]


def test_a_watch_is_made_in_a_thread(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """To begin to watch in an event loop makes no state there, and reads no file of commits: the first change does, in a thread."""
    with arena.transaction():
        arena.root["n"] = 0
    flush(arena)
    history = arena.history
    threads: list[int] = []
    begin = watch.Watch._begin

    def noting(self: watch.Watch) -> Any:
        threads.append(threading.get_ident())
        return begin(self)

    monkeypatch.setattr(watch.Watch, "_begin", noting)
    files, made = counted(monkeypatch, Folder, "open_file"), counted(monkeypatch, State, "__init__")

    async def main() -> None:
        changes = history.watch("root['n']")
        opened = len(files)
        assert opened <= 1  # the head of the last file
        assert made == []
        with arena.transaction():
            arena.root["n"] = 1
        await arena.durable()
        async for change in changes:
            assert change.differences[0].after == 1
            break
        changes.close()

    asyncio.run(main())
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


def test_states_are_forgotten_after_a_while(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that was asked for is kept for the next call, and not for as long as the server runs."""
    monkeypatch.setattr(states, "_REST", 0.05)
    with arena.transaction():
        arena.root["n"] = 0
    flush(arena)
    root = arena.history.at(arena.history.newest)
    native = weakref.ref(root._arena)
    assert arena.history.at(arena.history.newest)._arena is native()
    end = time.monotonic() + 30
    while arena.history._states._kept and time.monotonic() < end:
        time.sleep(0.01)
    assert arena.history._states._kept == {}
    assert root["n"] == 0  # who has a container of it goes on
    del root
    assert native() is None
    assert arena.history.at(arena.history.newest)["n"] == 0
    monkeypatch.setattr(states, "_REST", 60.0)
    arena.history.at(arena.history.newest)
    arena.history.close()
    assert arena.history._states._timer is None


def test_threads_share_a_history(arena: Arena) -> None:
    """Whichever thread asks for it first, there is one."""
    threads = 8
    ready, found = threading.Barrier(threads), []

    def ask() -> None:
        ready.wait(30)
        history = arena.history
        found.append(history)
        history.watch().close()

    working = [threading.Thread(target=ask) for _ in range(threads)]
    for each in working:
        each.start()
    for each in working:
        each.join()
    assert len(found) == threads
    assert {id(each) for each in found} == {id(arena.history)}
