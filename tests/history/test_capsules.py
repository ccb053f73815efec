"""Which state a capsule is replayed on, what it says where it can't be, and what becomes of it in processes that fork or end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import recoverable as ours
from recoverable import (
    Arena,
    ArenaOptionError,
    Array,
    CapsuleError,
    Counter,
    Deque,
    HistoryError,
    List,
    Record,
    Set,
    TaskGroup,
    gather,
    recoverable,
)
from recoverable.capsules import Capsule, Capsules
from recoverable.cli._app import run as command
from support.capsules import arenas, crashed, divide, fails, flush, kept, only
from support.forks import in_child


class Cart(Record, name="tests.capsules.Cart"):
    items: Any
    total: int = 0


# -- which state ---------------------------------------------------------------------------------------------------------------


def changes(root: Any) -> None:
    """Do everything that another request may do between two steps."""
    root["dict"]["old"]["deep"] = 2
    root["dict"]["new"] = {"a": [1, {"b": 2}]}
    del root["dict"]["gone"]
    root["list"].insert(0, "first")
    root["set"].add(3)
    root["set"].discard(1)
    root["deque"].popleft()
    root["deque"].append({"x": 1})
    root["counter"].add(5)
    root["array"][1] = 7.0
    root["cart"].total += 1
    root["cart"].items["tea"] = 2
    root["same"] = {"made": "anew"}
    root["kind"] = [1]
    root["text"] = "x" * 5000


def fill(root: Any) -> None:
    """Make the state before."""
    root["dict"] = {"old": {"deep": 1}, "gone": 1}
    root["list"], root["set"], root["deque"] = List(["a"]), Set({1, 2}), Deque([1, 2], 5)
    root["counter"], root["array"], root["cart"] = Counter(1), Array([1.0, 2.0], "f8"), Cart(items={"tea": 1})
    root["same"], root["kind"] = {"made": "once"}, {"a": 1}


def seen(root: Any) -> str:
    """Return all that is in a root."""
    return repr(
        {key: value.to_python() if hasattr(value, "to_python") else value for key, value in root.items()}
    ) + repr(root["counter"].value)


def test_each_kind_of_container_is_brought_forward(arena: Arena, capsules: Capsules) -> None:
    """A handler's second step sees what another one's commit has made of all kinds of containers, as it did."""

    @recoverable(arena=arena)
    async def looks(text: str) -> None:
        first = seen(arena.root)
        await asyncio.sleep(0)
        raise ValueError(f"{text} {first} {seen(arena.root)}")

    @recoverable(arena=arena, max_conflicts=0)
    async def reads_late() -> None:
        arena.root["mine"] = 1
        await asyncio.sleep(0)
        raise ValueError(f"{arena.root['mine']} {arena.root['list'].to_python()} {seen(arena.root)}")

    @recoverable(arena=arena)
    async def other() -> None:
        changes(arena.root)

    async def main() -> None:
        late = asyncio.ensure_future(reads_late())
        await asyncio.sleep(0)
        await other()
        with contextlib.suppress(ValueError):
            await late

    with arena.transaction():
        fill(arena.root)
    asyncio.run(main())
    flush(arena)
    found = only(capsules)
    assert found.steps[0][0] < found.steps[1][0]
    replay = found.replay(reads_late)
    assert replay.same, replay.text
    assert "'first'" in str(replay.error)
    assert replay.error is not None
    assert found.error is not None
    assert str(replay.error) == found.error["message"]


def test_a_conflict_is_met_again(arena: Arena, capsules: Capsules) -> None:
    """A request that lost a conflict in its last run loses it when it is replayed: the winner's commit is there again."""

    @recoverable(arena=arena, max_conflicts=0)
    async def loses() -> None:
        arena.root["mine"] = arena.root["n"]
        await asyncio.sleep(0)
        arena.root["mine"] += 1

    @recoverable(arena=arena)
    async def wins() -> None:
        arena.root["n"] += 1

    async def main() -> None:
        late = asyncio.ensure_future(loses())
        await asyncio.sleep(0)
        await wins()
        with pytest.raises(ours.ConflictError):
            await late

    with arena.transaction():
        arena.root["n"] = 0
    asyncio.run(main())
    flush(arena)
    found = only(capsules)
    assert found.end is not None
    assert found.end > found.steps[-1][0]
    replay = found.replay(loses)
    assert replay.same, replay.text
    assert type(replay.error) is ours.ConflictError
    data = json.loads(Path(found.file).read_text())
    assert data["error"]["conflict"]["key"] == "'n'"
    data["error"]["conflict"]["key"] = "'other'"
    Path(found.file).write_text(json.dumps(data))
    replay = Capsule.open(found.file).replay(loses)
    assert (replay.same, "not the same: it was lost at root, 'n'" in replay.text) == (False, True), replay.text


def test_a_message_that_names_the_arena_is_the_same(arena: Arena, capsules: Capsules) -> None:
    """The private arena has the name of the one that it stands for."""

    @recoverable(arena=arena)
    async def crashes() -> None:
        arena.root["n"] = 1
        raise ValueError(f"{arena.name} {arena.native.owner.name}")

    fails(crashes())
    flush(arena)
    replay = only(capsules).replay(crashes)
    assert replay.same, replay.text


def test_tasks_that_a_replay_leaves_end_in_its_own_arena(arena: Arena, capsules: Capsules) -> None:
    """What the handler has started and not awaited is ended while the private arena still stands for the program's."""

    @recoverable(arena=arena)
    async def leaves() -> None:
        async def job() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                with arena.transaction():
                    arena.root["jobs"] += 1

        arena.root["n"] = 1
        kept.append(asyncio.create_task(job()))
        await asyncio.sleep(0)
        raise ValueError

    kept: list[asyncio.Task[None]] = []
    with arena.transaction():
        arena.root["jobs"] = 0
    fails(leaves())
    flush(arena)
    assert arena.root["jobs"] == 1

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(0.2))
        assert (await only(capsules).replay_async(leaves)).same
        assert not other.cancelled()
        assert kept[-1].done()

    asyncio.run(main())
    assert arena.root["jobs"] == 1


def test_the_line_is_the_program_s_also_where_a_container_has_raised(arena: Arena, capsules: Capsules) -> None:
    """A missing key on another line is not the same."""
    places = ["one"]

    @recoverable(arena=arena)
    async def looks() -> None:
        if places == ["one"]:
            arena.root["none"] += 1
        del arena.root["none"]

    fails(looks())
    flush(arena)
    found = only(capsules)
    assert "test_capsules.py" in found.summary
    assert found.replay(looks).same
    places.clear()
    replay = found.replay(looks)
    assert (replay.same, "another place" in replay.text) == (False, True), replay.text


def test_numbers_of_steps_are_the_journal_s(arena: Arena, capsules: Capsules) -> None:
    """The private arena counts its own commits; nobody is told of those."""

    @recoverable(arena=arena)
    async def looks() -> None:
        for _ in range(3):
            arena.root["n"]
            await asyncio.sleep(0)
        raise ValueError

    async def main() -> None:
        late = asyncio.ensure_future(looks())
        for i in range(6):
            with arena.transaction():
                arena.root[f"other{i}"] = i
            if i % 2:
                await asyncio.sleep(0)
        await late

    with arena.transaction():
        arena.root["n"] = 1
    fails(main())
    flush(arena)
    found = only(capsules)
    replay = found.replay(looks)
    assert replay.same, replay.text
    assert replay.steps == tuple(seq for seq, _ in found.steps)
    assert len(set(replay.steps)) == 3


def test_views_in_frames_do_not_keep_the_private_arena(arena: Arena, capsules: Capsules) -> None:
    """Also where the replay ends by its limit, in a debugger, or is cancelled: the result comes, and no mapping is left."""

    @recoverable(arena=arena)
    async def looks() -> None:
        view = arena.root["a"].view
        arena.root["n"] = 1
        await asyncio.sleep(waits[-1])
        raise ValueError(len(view))

    def maps() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:recoverable.capsule")

    async def cancelled() -> None:
        task = asyncio.ensure_future(found.replay_async(looks))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    waits = [0.0]
    with arena.transaction():
        arena.root["a"] = Array(8, "f8")
    fails(looks())
    flush(arena)
    found = only(capsules)
    traces: list[Any] = []
    assert found.replay(looks, debug=lambda error: traces.append([error.__traceback__])).same
    traces.clear()
    waits.append(60.0)
    with pytest.raises(CapsuleError, match="stopped after"):
        found.replay(looks, timeout=0.05)
    asyncio.run(cancelled())
    gc.collect()
    assert maps() == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data["arena"].update(epoch="1"), "arena.epoch is str"),
        (lambda data: data.update(steps=[{"seq": "1", "position": 1}]), r"steps\[\].seq is str"),
        (lambda data: data.update(hidden=[1]), r"hidden\[\] is int"),
        (lambda data: data["error"].update(frame={"file": 1}), "error.frame.file is int"),
        (lambda data: data["call"].update(function=None), "call.function is NoneType"),
        (lambda data: data.pop("versions"), "KeyError: 'versions'"),
    ],
)
def test_a_damaged_capsule_is_named(arena: Arena, capsules: Capsules, change: Callable[[Any], Any], says: str) -> None:
    """Whatever is wrong in it, wherever."""
    found = crashed(arena, capsules)
    data = json.loads(Path(found.file).read_text())
    change(data)
    Path(found.file).write_text(json.dumps(data))
    with pytest.raises(CapsuleError, match=f"is damaged: .*{says}"):
        Capsule.open(found.file)


def test_a_file_can_not_have_any_function_called(arena: Arena, capsules: Capsules, tmp_path: Path) -> None:
    """Only handlers are."""
    found = crashed(arena, capsules)
    data = json.loads(Path(found.file).read_text())
    data["call"].update(module="os", function="mkdir", args=[{"value": str(tmp_path / "made")}])
    Path(found.file).write_text(json.dumps(data))
    with pytest.raises(CapsuleError, match="os:mkdir is no handler"):
        Capsule.open(found.file).replay()
    assert not (tmp_path / "made").exists()


def test_an_argument_that_is_the_arena_is_the_private_one(arena: Arena, capsules: Capsules) -> None:
    """And one that can't be kept, and is secret by its name, is only named."""

    @recoverable(arena=arena)
    async def sweeps(given: Arena, pin: object = None) -> None:
        given.root["n"] = 1
        raise ValueError(given.root["n"])

    fails(sweeps(arena))
    fails(sweeps(arena, pin=object()))
    flush(arena)
    one, two = kept(capsules)
    replay = one.replay(sweeps)
    assert replay.same, replay.text
    assert two.call is not None
    assert two.call["missing"] == ["pin: object"]


def test_only_one_run_is_replayed(arena: Arena, capsules: Capsules) -> None:
    """A handler that is run again by its options is replayed once: by then it has failed in the same way."""
    runs = []

    @recoverable(arena=arena, retries=3)
    async def crashes() -> None:
        runs.append(arena.root.get("n"))
        raise ValueError

    fails(crashes())
    flush(arena)
    assert len(runs) == 4
    assert only(capsules).replay(crashes).same
    assert len(runs) == 5


def test_what_is_independent_commits_once(arena: Arena, capsules: Capsules) -> None:
    """An independent transaction inside a request that crashes commits in the replay as well, and is not there twice."""

    @recoverable(arena=arena, nested="independent")
    async def counts() -> None:
        arena.root["calls"].append({"call": len(arena.root["calls"]) + 1})

    @recoverable(arena=arena)
    async def crashes() -> None:
        arena.root["n"] = 1
        await counts()
        await asyncio.sleep(0)
        raise ValueError(f"calls {arena.root['calls'].to_python()}, {arena.root['n']}")

    with arena.transaction():
        arena.root["calls"] = []
    fails(crashes())
    flush(arena)
    replay = only(capsules).replay(crashes)
    assert replay.same, replay.text
    assert str(replay.error) == "calls [{'call': 1}], 1"


def test_what_only_looks_equal_is_brought_forward(arena: Arena, capsules: Capsules) -> None:
    """True is not 1, nor -0.0 0.0: also where nothing else was changed."""

    @recoverable(arena=arena)
    async def looks() -> None:
        arena.root["mine"] = 1
        await asyncio.sleep(0)
        raise ValueError(f"{arena.root['n']} {arena.root['zero']} {list(arena.root['keys'])}")

    @recoverable(arena=arena)
    async def other() -> None:
        arena.root.update(n=True, zero=-0.0)
        del arena.root["keys"][1]
        arena.root["keys"][True] = "x"

    async def main() -> None:
        late = asyncio.ensure_future(looks())
        await asyncio.sleep(0)
        await other()
        await late

    with arena.transaction():
        arena.root.update(n=1, zero=0.0, keys={1: "x"})
    fails(main())
    flush(arena)
    replay = only(capsules).replay(looks)
    assert replay.same, replay.text
    assert str(replay.error) == "True -0.0 [True]"


def test_parts_see_what_was_committed_between_their_steps(arena: Arena, capsules: Capsules) -> None:
    """Each step of a part is on its own commit, as those of the handler are; a buffer of an Array is open meanwhile."""

    @recoverable(arena=arena)
    async def looks() -> None:
        kept = arena.root["array"].view

        async def part() -> int:
            arena.root["mine"] = 1
            for _ in range(4):
                await asyncio.sleep(0)
            return int(arena.root["n"])

        async with TaskGroup() as group:
            late = group.create_task(part())
        (more,) = await gather(part())
        del kept
        raise ValueError(f"{late.result()} {more}")

    @recoverable(arena=arena)
    async def other() -> None:
        arena.root["n"] = 2

    async def main() -> None:
        late = asyncio.ensure_future(looks())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await other()
        await late

    with arena.transaction():
        arena.root.update(n=1, array=Array(8, "f8"))
    fails(main())
    flush(arena)
    found = only(capsules)
    assert found.steps[0][0] < found.steps[-1][0]
    replay = found.replay(looks)
    assert replay.same, replay.text
    assert str(replay.error) == "2 2"


def test_the_limit_of_a_replay_is_not_the_handler_s(arena: Arena, capsules: Capsules) -> None:
    """A replay that takes too long is an error that says where it was, not a request that has met its time limit again."""

    @recoverable(arena=arena, timeout=0.05)
    async def waits() -> None:
        arena.root["n"] = 1
        await asyncio.sleep(10)

    fails(waits())
    flush(arena)
    found = only(capsules)
    assert found.replay(waits).same

    @recoverable(arena=arena)
    async def waits_longer() -> None:
        arena.root["n"] = 1
        await asyncio.sleep(10)

    with pytest.raises(CapsuleError, match=r"stopped after 0\.05 seconds, at test_capsules\.py:\d+ in .*waits_longer"):
        found.replay(waits_longer, timeout=0.05)


def test_a_function_is_called_with_the_arguments_that_it_had(arena: Arena, capsules: Capsules) -> None:
    """Outside of any web request, a capsule has the function and its arguments; secret ones are hidden, others named."""
    arenas.append(arena)
    with arena.transaction():
        arena.root["a"] = 4
    fails(divide("a", {"n": 0}, pin="98765"))
    flush(arena)
    found = only(capsules)
    assert "98765" not in Path(found.file).read_text()
    assert found.call is not None
    assert found.call["args"] == [{"value": "a"}, {"value": {"n": 0}}]
    assert found.hidden == ("argument pin",)
    replay = found.replay()  # it is imported by its name
    assert replay.same, replay.text
    assert arena.root["a"] == 4
    with pytest.raises(CapsuleError, match="can't be imported"):
        found.replay("tests.nowhere:app")


def test_what_can_not_be_replayed_is_said(arena: Arena, capsules: Capsules) -> None:
    """A function that had arguments of other kinds, or is local, can be shown, and not be run again by its name."""

    @recoverable(arena=arena)
    async def crashes(thing: object) -> None:
        raise ValueError

    fails(crashes(object()))
    flush(arena)
    found = only(capsules)
    with pytest.raises(CapsuleError, match="can't be imported by its name"):
        found.replay()
    with pytest.raises(CapsuleError, match="thing: object"):
        found.replay(crashes)


# -- when the state is gone ------------------------------------------------------------------------------------------------------


def test_a_state_that_is_gone_is_a_history_error(arena: Arena, capsules: Capsules, tmp_path: Path) -> None:
    """Where compactions have dropped it, where the journal is another one's, and where it is not on the disk, replay says so."""
    found = crashed(arena, capsules)
    with Arena.temporary("8 MiB", name=f"{arena.name}-b", journal=tmp_path / "other") as other:
        with other.transaction():
            other.root["a"] = 1
        flush(other)
        with pytest.raises(HistoryError, match="of another arena"):
            found.replay(journal=tmp_path / "other")
    data = json.loads(Path(found.file).read_text())
    data["steps"][-1]["seq"] = data["end"] = 1000
    Path(found.file).write_text(json.dumps(data))
    with pytest.raises(HistoryError, match="goes up to commit"):
        Capsule.open(found.file).replay()

    for file in sorted(Path(found.arena["journal"]).glob("snapshot-*")):
        file.unlink()
    with pytest.raises(HistoryError, match="no snapshot"):
        found.replay()


def test_a_state_that_was_left_behind_by_a_restore_is_gone(new_name: Callable[[], str], tmp_path: Path) -> None:
    """A journal that was restored to an earlier commit goes on from there: what the capsule saw is not of its line."""
    name, folder = new_name(), tmp_path / "journal"
    with Arena.open(name, "8 MiB", journal=folder) as arena:
        capsules = Capsules(tmp_path / "capsules")
        capsules.begin(arena.native)
        with arena.transaction():
            arena.root["first"] = 1
        found = crashed(arena, capsules)
        capsules.end(arena.native)
        assert found.replay().same
    Arena.unlink(name)
    assert command(["journal", "restore", "--to", "1", "--name", name, str(folder)]) == 0
    with Arena.open(name, journal=folder) as arena, arena.transaction():
        arena.root["second"] = 1
    with pytest.raises(HistoryError, match="restored to an earlier one"):
        found.replay()


def test_a_file_that_is_no_capsule_is_named(tmp_path: Path, arena: Arena, capsules: Capsules) -> None:
    """What is not JSON, not one of ours, damaged, or of a later release is a CapsuleError that says which of them."""
    found = crashed(arena, capsules)
    data = json.loads(Path(found.file).read_text())
    for text, why in (
        ("{", "not JSON"),
        ("[]", "is no capsule"),
        (json.dumps(data | {"version": 2, "versions": {"recoverable": "9.1"}}), "written by recoverable 9.1"),
        (json.dumps({key: value for key, value in data.items() if key != "steps"}), "damaged"),
        *(
            (json.dumps(data | {key: 5}), "damaged")
            for key in ("at", "arena", "error", "runs", "request", "call", "versions")
        ),
        (json.dumps(data | {"error": data["error"] | {"frame": {}}}), "damaged"),
    ):
        (tmp_path / "file").write_text(text)
        with pytest.raises(CapsuleError, match=why):
            Capsule.open(tmp_path / "file")
    (tmp_path / "file").write_text(json.dumps(data | {"more": 1}))
    assert Capsule.open(tmp_path / "file").handler == "divide"


@pytest.mark.parametrize(
    "options",
    [{"keep": 0}, {"keep": True}, {"body_limit": "much"}, {"hide": "password"}, {"hide": [1]}, {"folder": ""}],
)
def test_options_that_can_not_be(tmp_path: Path, options: dict[str, Any]) -> None:
    """They are refused when they are given."""
    with pytest.raises(ArenaOptionError):
        Capsules(**{"folder": tmp_path} | options)


# -- processes -------------------------------------------------------------------------------------------------------------------


def test_a_forked_process_writes_its_own(arena: Arena, capsules: Capsules) -> None:
    """A child of a process that has written some goes on in the same folder, counts its own, and none is lost or written twice."""
    arenas.append(arena)
    with arena.transaction():
        arena.root["a"] = 4
    fails(divide("a", {"n": 0}))
    assert capsules.flush(10)

    def crash() -> tuple[int, int]:
        fails(divide("a", {"n": 0}))
        capsules.flush(10)
        return capsules.written, capsules.dropped

    assert in_child(crash).value == (1, 0)
    assert capsules.written == 1
    assert len(list(Path(capsules.folder).iterdir())) == 2


def test_a_process_that_ends_has_written_them(new_name: Callable[[], str], tmp_path: Path) -> None:
    """What has crashed just before the interpreter's end is in a file; of a process that is killed there is a whole one or none."""
    program = f"""
import asyncio, os, sys
from recoverable import Arena, recoverable
from recoverable.capsules import Capsules
@recoverable
async def crashes():
    raise ValueError
with Arena.temporary("8 MiB", name={new_name()!r}) as arena:
    Capsules({str(tmp_path / "capsules")!r}).begin(arena.native)
    try:
        asyncio.run(asyncio.wait_for(crashes(), 5))
    except ValueError:
        pass
if "kill" in sys.argv:
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    (first,) = (tmp_path / "capsules").iterdir()
    subprocess.run([sys.executable, "-c", program, "kill"], check=False, timeout=60)
    files = list((tmp_path / "capsules").glob("[!.]*"))
    assert first in files
    for file in files:
        assert Capsule.open(file).handler == "crashes"
