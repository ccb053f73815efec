"""What the history must not miss, mistake, or keep: containers that are made while others commit, files that go, forks, names."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ArenaOptionError, Array, HistoryError, JournalError, Record, recoverable
from recoverable._compaction import verify
from recoverable.history import History, trail
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from support.forks import in_child


class Cart(Record, name="tests.history.Cart"):
    items: Any
    total: int = 0


@pytest.fixture
def arena(new_name: Callable[[], str], folder: str) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, durable="disk", compact=False, keep="24h") as made:
        yield made


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def test_an_array_that_is_written_raw_and_otherwise_is_told_once(arena: Arena) -> None:
    """Its commit names the Array, which was to be dropped by what was rolled back, and its pages."""
    with arena.transaction():
        arena.root["a"] = Array(8, "f8")
    with arena.transaction():
        with contextlib.suppress(LookupError), arena.transaction():
            del arena.root["a"]
            raise LookupError
        arena.root["a"].view[1] = 2.0
    flush(arena)
    with History.open(arena.native.journal.path) as history:
        newest = next(history.commits())
        told = [str(each) for each in history.changed_by(newest).differences]
    assert told == ["root['a'][1]: 0.0 -> 2.0"]


@pytest.mark.parametrize("path", ["root['cart']", "root['cart']['items']", "root['cart']['items']['tea']"])
def test_a_container_that_was_made_before_another_commits(arena: Arena, folder: str, path: str) -> None:
    """A handler makes containers in one step and commits after others did; what is written to them later is found all the same."""

    @recoverable(arena=arena)
    async def makes(go_on: asyncio.Event) -> None:
        arena.root["cart"] = {"items": {"tea": 0}}
        await go_on.wait()

    @recoverable(arena=arena)
    async def other(key: str) -> None:
        arena.root[key] = {"more": {}}  # of greater numbers

    @recoverable(arena=arena)
    async def orders() -> None:
        arena.root["cart"]["items"]["tea"] += 1

    async def main() -> None:
        go_on = asyncio.Event()
        making = asyncio.create_task(makes(go_on))
        await asyncio.sleep(0)
        await other("a")
        compact(Folder(folder), verify)
        go_on.set()
        await making
        for i in range(5):
            await orders()
            await other(f"b{i}")

    asyncio.run(main())
    found = list(arena.history.changes(path))
    assert [change.commit.handler.rpartition(".")[2] for change in found] == ["orders"] * 5 + ["makes"]
    last = arena.history.last_writer(path)
    assert last is not None
    assert last.seq == found[0].commit.seq


def test_a_process_without_the_classes_sees_the_same(arena: Arena, folder: str) -> None:
    """What is in a Record is found by a process that has not imported its class."""
    with arena.transaction():
        arena.root["cart"] = Cart(items={"tea": 0})
    with arena.transaction():
        arena.root["cart"].items["tea"] += 1
    flush(arena)
    program = f"""
from recoverable.history import History, trail
with History.open({folder!r}) as history:
    found = list(history.changes("root['cart']"))
    print(len(found), found[0].differences[0].path, found[0].differences[0].after)
    print(history.last_writer("root['cart'].items['tea']").seq == found[0].commit.seq)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["2 root['cart'].items['tea'] 1", "True"]


def test_names_and_ids_longer_than_what_is_kept_of_them(arena: Arena) -> None:
    """A handler's name and a request's id are looked for by what a record keeps of them."""

    async def a_handler_with_a_name_that_is_longer_than_what_a_record_has_room_for() -> None:
        arena.root["n"] = 1

    name = a_handler_with_a_name_that_is_longer_than_what_a_record_has_room_for.__qualname__
    asyncio.run(arena.run(a_handler_with_a_name_that_is_longer_than_what_a_record_has_room_for))
    assert len(list(arena.history.commits(handler=name))) == 1
    assert list(arena.history.commits(handler="another")) == []
    assert list(arena.history.commits(request_id="x" * 1000)) == []


def test_states_go_with_the_last_handle(arena: Arena) -> None:
    """A state's memory is given back when nobody has a container of it any more, without the collector."""
    for i in range(20):
        with arena.transaction():
            arena.root["n"] = i
    flush(arena)
    history = arena.history
    commits = list(history.commits())

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count("snapshot-")

    gc.collect()  # what earlier tests have left
    gc.disable()
    try:
        before = maps()
        kept = history.at(commits[3])
        history.bisect(lambda root: root.get("n", 0) < 10, good=commits[-1])
        list(history.changes("root['n']"))
        assert maps() <= before + 10
        history.close()
        assert kept["n"] == 16
        assert maps() == before + 1
        del kept
        assert maps() == before
    finally:
        gc.enable()


def test_bounds_of_a_bisect(arena: Arena) -> None:
    """The wrong way round, or with an invariant that holds at both ends, it names no commit."""
    for i in range(10):
        with arena.transaction():
            arena.root["n"] = i
    flush(arena)
    commits = list(arena.history.commits())
    with pytest.raises(HistoryError, match="is not before"):
        arena.history.bisect(lambda root: root["n"] > 5, good=commits[0], bad=commits[8])
    with pytest.raises(HistoryError, match="holds for the bad state"):
        arena.history.bisect(lambda root: True)
    with pytest.raises(HistoryError, match="does not hold for the good state"):
        arena.history.bisect(lambda root: False)


@pytest.mark.parametrize("path", ["root[", "1 + 1", "root['l'][-1]", "other['a']", "root[f()]"])
def test_paths_that_are_none(arena: Arena, path: str) -> None:
    """Are refused, and not taken for a place where nothing has changed."""
    with arena.transaction():
        arena.root["l"] = [1, 2]
    flush(arena)
    with pytest.raises(ArenaOptionError, match=r"Nothing was looked at|nothing was found"):
        list(arena.history.changes(path))


def test_moments_long_before_and_after_all(arena: Arena) -> None:
    """Are moments like others, although no commit could have them."""
    with arena.transaction():
        arena.root["n"] = 1
    flush(arena)
    early, late = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (1900, 9999))
    assert len(list(arena.history.commits(since=early, until=late))) == len(list(arena.history.commits()))
    assert arena.history.at(late)["n"] == 1
    with pytest.raises(HistoryError):
        arena.history.at(early)


def test_an_invariant_that_is_async_is_refused(arena: Arena) -> None:
    """Its coroutine would always be true."""

    async def holds(root: Any) -> bool:
        return "l" not in root

    with arena.transaction():
        arena.root["l"] = [1, 2]
    flush(arena)
    with pytest.raises(ArenaOptionError, match="Nothing was searched for"):
        arena.history.bisect(holds)


def test_a_forked_child_makes_its_own(arena: Arena) -> None:
    """A child is given no state of its parent's, whose lock another thread may have had."""
    with arena.transaction():
        arena.root["n"] = 1
    flush(arena)
    history = arena.history
    seq = next(history.commits()).seq
    root = history.at(seq)

    def reads() -> int:
        with pytest.raises(Exception, match="closed"):
            root["n"]
        return int(history.at(seq)["n"])

    assert in_child(reads).value == 1
    assert root["n"] == 1


def test_files_that_go_while_commits_are_read(new_name: Callable[[], str], folder: str) -> None:
    """What a compaction drops while somebody reads is told as gone; what is left is told as it is."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as arena:
        for i in range(3000):
            with arena.transaction():
                arena.root[f"k{i % 50}"] = {"n": i, "text": str(i) * 40}
            if i % 500 == 0:
                flush(arena)
        flush(arena)
        reading = arena.history.commits()
        seen = [next(reading).seq for _ in range(10)]
        for _ in range(2):
            compact(Folder(folder), verify)
            with arena.transaction():
                arena.root["more"] = "x" * 300_000
            flush(arena)
        try:
            seen += [commit.seq for commit in reading]
        except HistoryError as error:
            assert error.oldest is not None  # noqa: PT017
            assert arena.history.at(error.oldest) is not None  # noqa: PT017
        assert seen == sorted(seen, reverse=True)


def test_what_is_kept_must_be_known_before_anything_is_dropped(arena: Arena, folder: str) -> None:
    """A folder whose `keep` can't be read loses nothing."""
    for round_ in range(3):
        for i in range(500):
            with arena.transaction():
                arena.root[f"k{i % 50}"] = {"n": i, "text": str(i) * 40}
        flush(arena)
        if round_ == 0:
            compact(Folder(folder), verify)
            Path(folder, "keep").write_text("{")
            continue
        with pytest.raises(JournalError, match="Nothing is dropped"):
            compact(Folder(folder), verify)
    assert len(list(arena.history.commits())) == 1500
    with History.open(folder) as history:
        assert history.at(list(history.commits())[-1])["k0"]["n"] == 0


def test_a_filter_does_not_hide_where_the_place_leads(arena: Arena) -> None:
    """The commits of one handler are found although another has made the container that they write to."""

    @recoverable(arena=arena)
    async def makes() -> None:
        arena.root["a"] = {"n": 0}

    @recoverable(arena=arena)
    async def counts() -> None:
        arena.root["a"]["n"] += 1

    async def main() -> None:
        for _ in range(3):
            await makes()
            await counts()

    asyncio.run(main())
    name = next(arena.history.commits()).handler
    found = list(arena.history.changes("root['a']['n']", handler=name))
    assert [(str(change.differences[0].before), change.differences[0].after) for change in found] == [("0", 1)] * 3
    moment = found[1].commit.at
    assert [
        change.commit for change in arena.history.changes("root['a']['n']", since=moment, until=moment, handler=name)
    ] == [found[1].commit]


def test_changes_are_the_same_however_many_are_in_memory(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going backwards in parts, which are bounded, finds what going through all at once does; places that move included."""
    for i in range(70):
        with arena.transaction():
            arena.root["text"] = str(i) * 100
            if i % 13 == 0:
                arena.root["cart"] = {"items": {"tea": i}}
            if i % 3 == 0:
                arena.root["cart"]["items"]["tea"] = -i
    flush(arena)
    history, most = arena.history, 0
    commits = list(history.commits())
    newest = trail._newest

    def watched(*arguments: Any) -> Any:
        nonlocal most
        found = newest(*arguments)
        most = max(most, len(found[0]))
        return found

    def all_of_it() -> list[Any]:
        return [
            list(history.changes(path, since=since, until=until))
            for path in ("root", "root['cart']['items']['tea']", "root['text']", "root['nothing']")
            for since, until in ((None, None), (commits[50], commits[20]), (commits[39].at, commits[10].at))
        ]

    expected = all_of_it()
    assert [len(each) for each in expected[:3]] == [70, 31, 30]
    monkeypatch.setattr(trail, "_newest", watched)
    for kept, room, first in (5, 1 << 20, 64), (1 << 20, 2000, 64), (2, 1, 7):
        monkeypatch.setattr(trail, "_KEPT", kept)
        monkeypatch.setattr(trail, "_ROOM", room)
        monkeypatch.setattr(trail, "_FIRST", first)
        most = 0
        assert all_of_it() == expected
        assert 0 < most <= max(min(kept, 30), 1)


def test_a_list_is_compared_where_it_was_written(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at of a long List is what a commit has written, whatever it has done to it."""
    rng = random.Random(7)
    with arena.transaction():
        arena.root["l"] = list(range(1000))
    for _ in range(60):
        with arena.transaction():
            items = arena.root["l"]
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(items))
                match rng.randrange(8):
                    case 0 | 1:
                        items.append(rng.random())
                    case 2:
                        items.pop()
                    case 3:
                        items[at] = {"n": at}
                    case 4:
                        items.extend([1, [2], 3])
                    case 5:
                        items.insert(at, None)
                    case 6:
                        del items[at:]
                        items.extend(range(at))
                    case 7:
                        items[at] = rng.random()
    with arena.transaction():
        arena.root["l"].append("last")
    flush(arena)
    history = arena.history
    commits = list(history.commits())
    for after, before in itertools.pairwise(commits[:-1]):
        found = sorted(map(str, history.changed_by(after).differences))
        assert found == sorted(map(str, history.diff(before, after))), after.seq
    monkeypatch.setattr(type(arena.root["l"]), "_items", None)
    assert [str(each).rpartition(":")[2] for each in history.changed_by(commits[0]).differences] == [
        " (nothing) -> 'last'"
    ]
