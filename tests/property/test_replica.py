"""Is a copy that the feed alone brings forward what the arena is, in both modes, whatever was done, and by whomever?"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator

import pytest

from recoverable import Arena, ArenaNotFoundError, Array
from recoverable._native import _switches
from support.children import child
from support.doing import Doing, plain, prepare
from support.forks import in_child
from support.replica import Replica

STEPS = int(os.environ.get("RECOVERABLE_REPLICA_STEPS", "150"))


def same(arena: Arena, replica: Replica, use: bool = False) -> None:
    """Check that the copy is what the arena is, and can be used."""
    replica.follow(arena)
    with replica.opened() as copy:
        copy.verify()
        found, expected = plain(copy), plain(arena)
        # By name: how thousands of lines differ takes pytest minutes to find out, and where CI is set it does that on its own.
        assert [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)] == []
        if use:
            with copy.transaction():
                copy.root["d"]["after"] = "promoted" * 100
                copy.root["big"]["tree"] = {i: str(i) * 50 for i in range(2000)}
                copy.root["big"]["more"] = Array(50000, "f8")
            assert copy.verify().leaked_blocks == 0


@pytest.fixture(params=["hybrid", "trap"])
def arena(request: pytest.FixtureRequest, new_name: Callable[[], str]) -> Iterator[Arena]:
    size, feed = max(32, STEPS // 20), max(4, STEPS // 25)
    with Arena.temporary(f"{size} MiB", name=new_name(), tracking=request.param, feed=f"{feed} MiB") as made:
        prepare(made)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replica_is_what_the_arena_is(arena: Arena, seed: int) -> None:
    """Over random changes by blocks and requests, each state of the copy is the arena's, and it can be used."""
    doing = Doing(arena, random.Random(seed))
    kept = arena.root["a"].view  # a buffer lives: raw writes are possible all the time
    with contextlib.closing(Replica(arena.name)) as replica:
        for i in range(STEPS):
            doing.step()
            if i % (STEPS // 6) == 0:
                same(arena, replica)
        del kept
        same(arena, replica, use=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commits_of_several_processes_are_in_one_order(arena: Arena, seed: int) -> None:
    """What four processes commit at the same time, over the ring's end again and again, leads a copy to the same state."""

    def work(number: int) -> None:
        doing = Doing(arena, random.Random(seed + number))
        for _ in range(STEPS // 5):
            doing.block()

    with contextlib.closing(Replica(arena.name)) as replica, contextlib.ExitStack() as stack:
        pids = [stack.enter_context(child(lambda n=n: work(n))) for n in range(3)]  # type: ignore[misc]
        doing = Doing(arena, random.Random(seed))
        for _ in range(STEPS // 5):
            doing.block()
            replica.follow(arena)
        stack.close()  # they have ended
        assert len(pids) == 3
        same(arena, replica, use=True)


@pytest.mark.slow
@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
@pytest.mark.parametrize("mutation", [name for name in _switches.mutations() if name.startswith("feed.")])
def test_what_a_record_must_carry_is_missed_when_it_is_left_out(mutation: str, new_name: Callable[[], str]) -> None:
    """Each thing that a record has for the copy's sake, left out, is found by comparing the two."""
    name = new_name()

    def found() -> bool:
        with Arena.temporary("32 MiB", name=name, feed="16 MiB", policy="full") as arena:
            prepare(arena)
            doing = Doing(arena, random.Random(7))
            kept = arena.root["a"].view
            for _ in range(5):
                with arena.transaction():
                    doing.do_raw()
            with contextlib.closing(Replica(name)) as replica:
                for _ in range(20):
                    _switches.mutate(mutation)
                    for _ in range(60):
                        doing.block()
                    replica.follow(arena)
                    _switches.mutate(None)
                    try:
                        same(arena, replica, use=True)
                    except Exception:
                        return True
            del kept
        return False

    ending = in_child(found)
    with contextlib.suppress(ArenaNotFoundError):
        Arena.unlink(name)  # of a child that has died of it
    assert ending.signal or ending.error or ending.value, f"without {mutation} the copy was the same"
