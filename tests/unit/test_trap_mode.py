"""tracking="trap": containers fault like raw writes, and page protection alone finds what a request has changed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from recoverable import Arena, ArenaFullError, Array, Counter
from recoverable._native import _switches
from support.workers import Request, pause

TRAP: dict[str, Any] = {"tracking": "trap", "policy": "incremental"}


class Undone(Exception):
    """Ends a transaction by a rollback."""


def fill(arena: Arena) -> None:
    """Give it some of everything."""
    with arena.transaction():
        arena.root["d"] = {i: f"a text that has a block of its own, number {i}" for i in range(300)}
        arena.root["l"] = list(range(300))
        arena.root["c"] = Counter(5)
        arena.root["a"] = Array(np.arange(2000))


def change(arena: Arena) -> None:
    """Change all of it, inside a transaction: overwrite, insert, grow, delete."""
    root = arena.root
    root["d"][7] = "another text that has a block of its own"
    root["d"].update({f"new {i}": {"nested": [i] * 20} for i in range(100)})
    del root["d"][9]
    root["l"].append("end")
    root["l"][3] = None
    root["c"].add(1)
    root["a"][5] = -1


def plain(arena: Arena) -> Any:
    """Read everything, comparably."""
    return arena.root.to_python()


@pytest.mark.parametrize("policy", ["incremental", "adaptive", "full"])
@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
def test_a_rollback_needs_no_announced_write(policy: str, request: pytest.FixtureRequest) -> None:
    """With all undo records of announced writes left out, the pages and shadows alone bring every byte back."""
    with Arena.temporary("4 MiB", tracking="trap", policy=policy) as arena:
        fill(arena)
        for _ in range(5):
            with arena.transaction():
                change(arena)
                arena.root["d"].clear()
                arena.root["d"].update({i: f"a text that has a block of its own, number {i}" for i in range(300)})
        before = plain(arena)
        request.addfinalizer(lambda: _switches.mutate(None))
        _switches.mutate("undo.skip_record")
        with pytest.raises(Undone), arena.transaction():
            change(arena)
            raise Undone
        _switches.mutate(None)
        assert plain(arena) == before
        assert arena.verify().leaked_blocks == 0


def test_without_it_containers_do_not_fault() -> None:
    """The same writes trap once a page in trap mode, and never in hybrid mode."""
    traps = {}
    for tracking in ("hybrid", "trap"):
        with Arena.temporary("4 MiB", tracking=tracking, policy="incremental") as arena:
            fill(arena)
            before = arena.stats().traps
            for _ in range(10):
                with arena.transaction():
                    arena.root["d"][7] = 1
                    arena.root["d"][7] = 2
            traps[tracking] = arena.stats().traps - before
    assert traps["hybrid"] == 0
    assert 10 <= traps["trap"] <= 40  # the entry's page, and those of the value's block and of the heap's counts


def test_hot_pages_do_not_fault_and_are_committed_and_undone() -> None:
    """Where the policy has made the written pages hot nothing traps; commits stay, rollbacks go."""
    with Arena.temporary("4 MiB", tracking="trap") as arena:
        fill(arena)
        for i in range(20):
            with arena.transaction():
                arena.root["l"][5] = i
        traps = arena.stats().traps
        for i in range(20):
            with arena.transaction():
                arena.root["l"][5] = -i
            with pytest.raises(Undone), arena.transaction():
                arena.root["l"][5] = "gone"
                raise Undone
            assert arena.root["l"][5] == -i
        assert arena.stats().traps == traps
        assert arena.stats().hot_pages > 0
        arena.verify()


@pytest.mark.parametrize("policy", ["incremental", "full"])
def test_what_a_suspended_request_has_made_is_kept(policy: str) -> None:
    """New containers, texts and grown tables of a request come through its awaits, savepoints and others' commits."""

    async def maker(arena: Arena) -> None:
        change(arena)
        await pause()
        with pytest.raises(Undone), arena.savepoint():
            arena.root["d"]["new 1"]["nested"] = "lost"
            arena.root["d"]["new 2"] = {"also": "lost"}
            raise Undone
        arena.root["d"]["new 3"]["more"] = "a text that has a block of its own"
        await pause()
        arena.root["made"] = Array(np.ones(3000))
        await pause()

    async def other(arena: Arena) -> None:
        arena.root["d"][200] = "changed by another"
        await pause()
        arena.root["o"] = ["o"] * 50

    with Arena.temporary("16 MiB", tracking="trap", policy=policy) as arena:
        fill(arena)
        expected = plain(arena)
        one = Request(arena, maker, arena)
        one.step()
        two = Request(arena, other, arena)
        two.step()
        assert plain(arena) == expected
        one.step()
        two.finish()
        one.step()
        assert "made" not in arena.root
        one.finish()
        found = arena.root["d"].to_python()
        assert found["new 1"] == {"nested": [1] * 20}
        assert found["new 3"] == {"nested": [3] * 20, "more": "a text that has a block of its own"}
        assert found[200] == "changed by another"
        assert found[7] == "another text that has a block of its own"
        assert len(found) == 399
        assert arena.root["o"].to_python() == ["o"] * 50
        assert arena.root["made"][:].tolist() == [1] * 3000
        assert arena.verify().leaked_blocks == 0


def test_an_operation_that_fails_is_undone_to_its_own_start() -> None:
    """Half an update is taken back; what the transaction wrote before it, on the same pages, stays."""
    with Arena.temporary("4 MiB", **TRAP) as arena:
        fill(arena)
        with arena.transaction():
            arena.root["d"][7] = "kept"
            with pytest.raises(TypeError, match="object"):
                arena.root["d"].update({7: "lost", "x": "lost", "y": object()})
            arena.root["d"][8] = "kept"
        assert (arena.root["d"][7], arena.root["d"][8], "x" in arena.root["d"]) == ("kept", "kept", False)
        assert arena.verify().leaked_blocks == 0


def test_more_pages_than_the_log_holds() -> None:
    """A step that changes more pages than the undo log has room for ends in ArenaFullError, and all is as it was."""
    with Arena.temporary("8 MiB", undo_size="256 KiB", **TRAP) as arena:
        for i in range(20):
            with arena.transaction():
                arena.root[i] = bytes([i]) * 50_000
        with pytest.raises(ArenaFullError), arena.transaction():
            for i in range(20):
                arena.root[i] = bytes([i + 100]) * 50_000
        assert [arena.root[i] for i in range(20)] == [bytes([i]) * 50_000 for i in range(20)]
        with arena.transaction():
            arena.root[0] = b"fits"
        assert arena.verify().leaked_blocks == 0


SCRIPT = """
import sys
from recoverable import Arena, ArenaOptionError
try:
    with Arena.open(sys.argv[1], create=False, tracking=sys.argv[2]) as arena:
        with arena.transaction():
            arena.root["by"] = sys.argv[2]
        arena.verify()
except ArenaOptionError as error:
    print(error)
else:
    print("opened")
"""


def another(name: str, tracking: str) -> str:
    """Open it in a process of its own and write there: what that says."""
    command = [sys.executable, "-c", SCRIPT, name, tracking]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.slow
def test_processes_must_agree(name: str) -> None:
    """Another process that opens a living arena with the other tracking is told so; alone it may change it."""
    with Arena.open(name, "4 MiB", tracking="trap", policy="full") as arena:
        fill(arena)
        assert arena.stats().hot_pages > 0
        assert 'in use with tracking="trap"' in another(name, "hybrid")
        assert another(name, "trap") == "opened"
        before = plain(arena)
    assert before["by"] == "trap"
    assert another(name, "hybrid") == "opened"
    with Arena.open(name, tracking="hybrid") as arena:
        assert plain(arena) == {**before, "by": "hybrid"}
        assert arena.stats().hot_pages == 0  # containers write there without the tracker from now on
        assert 'in use with tracking="hybrid"' in another(name, "trap")
        arena.verify()
    assert another(name, "trap") == "opened"
