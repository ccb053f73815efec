"""The policies on live arenas: what each makes of the same writes, their options, and the oracle's recording."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.served import NAMES
from benchmarks.streams import load
from recoverable import Arena, Array, Counter, Deque
from recoverable._native import _policies
from recoverable.errors import ArenaOptionError
from recoverable.speculation import OPTIONS, POLICIES, Costs, Recording, evaluate
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 4096


def run(steps: list[list[int]], **options: Any) -> dict[str, int]:
    """Write one item in each page of each step; return what it took, and check that it is all there."""
    with Arena.temporary(size="16 MiB", **options) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, PAGE // 8), "i8")
        a = arena.root["a"]
        expected = np.zeros(64, "i8")
        before = arena.stats()
        for number, pages in enumerate(steps):
            expected[pages] = number + 1
            with arena.transaction():
                a.view[pages, 5] = number + 1
        after = arena.stats()
        with arena.transaction():
            assert (a.view[:, 5] == expected).all()
        return {
            name: getattr(after, name) - getattr(before, name)
            for name in ("traps", "promotions", "demotions", "hot_pages")
        }


def writer(arena: Arena) -> tuple[int, Callable[..., None]]:
    """Make an array of 64 pages; return the number of its first page, and what writes to some in one step."""
    with arena.transaction():
        arena.root["a"] = Array((64, PAGE // 8), "i8")
    a = arena.root["a"]

    def step(pages: list[int], fail: bool = False) -> None:
        with arena.transaction():
            a.view[pages, 5] += 1
            if fail:
                raise ZeroDivisionError

    with arena.record() as recorder:
        step([0])
    (first,) = recorder.recording.pages
    return first, step


FIXED = [[1, 3, 5, 7]] * 100


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"incremental", "oracle"}))
def test_a_fixed_working_set_is_learned(policy: str) -> None:
    """On the same pages again and again every estimator traps far less often than `incremental`."""
    assert run(FIXED, policy=policy)["traps"] < 400 / 2


def test_the_ends_of_the_scale() -> None:
    """`incremental` traps each time, `full` once a page."""
    assert run(FIXED, policy="incremental") == {
        "traps": 400,
        "promotions": 0,
        "demotions": 0,
        "hot_pages": 0,
    }
    full = run(FIXED, policy="full")
    assert (full["traps"], full["promotions"], full["demotions"], full["hot_pages"]) == (4, 4, 0, 4)


def test_options_are_obeyed() -> None:
    """`max_hot` bounds the hot set, `epochs` says when a page leaves it."""
    assert run(FIXED, policy="full", policy_options={"max_hot": 3})["hot_pages"] == 3
    once = [[1], [2], [2], [2], [2], [2]]
    assert run(once, policy="active-cks", policy_options={"epochs": 2})["hot_pages"] == 1
    assert run(once, policy="active-cks", policy_options={"epochs": 20})["hot_pages"] == 2


def test_the_documented_defaults_are_those_of_the_core() -> None:
    """Each option that is documented is one of the core's, with that default."""
    assert OPTIONS.keys() == POLICIES.keys()
    for policy, options in OPTIONS.items():
        for name, (default, _) in options.items():
            if default is not None:
                assert _policies.policy_default(policy, name) == default, (policy, name)
    with pytest.raises(Exception, match='"patience", "window"'):
        _policies.policy_default("adaptive", "nothing")


def test_a_recording_is_its_steps() -> None:
    """A `Recording` gives back what it was made of, each page once a step."""
    recording = Recording.of([[3, 1, 3], [], [2]], ["a", "b", "a"])
    assert list(recording) == [[3, 1], [], [2]]
    assert len(recording) == 3
    assert recording.handlers == ("a", "b", "a")


@pytest.mark.parametrize("steps", [[], [[]], [[1 << 30]]])
def test_odd_recordings(steps: list[list[int]]) -> None:
    """An empty recording is one; a page that the arena does not have is refused."""
    options = {"policy": "oracle", "policy_options": {"recording": Recording.of(steps)}}
    if steps == [[1 << 30]]:
        with pytest.raises(ArenaOptionError, match="names page 1073741824"):
            run(FIXED, **options)
    else:
        assert run(FIXED, **options)["traps"] == 400


def test_a_live_run_is_recorded() -> None:
    """A recording has the pages of each step, whatever became of it, and whose they were."""
    steps: list[list[int]] = [[1, 4], [], [4], [2, 1], [63]]
    for policy in ("incremental", "full"):
        with Arena.temporary(size="16 MiB", policy=policy) as arena:
            first, run_step = writer(arena)
            with arena.record() as recorder:
                for pages in steps:
                    run_step(pages)
                with pytest.raises(ZeroDivisionError):
                    run_step([7, 4], fail=True)
                so_far = recorder.recording
            run_step([8])
            recording = recorder.recording
            assert list(recording) == list(so_far)
            pages = [sorted(page - first for page in step) for step in recording if step]
            assert pages == [[1, 4], [4], [1, 2], [63], [4, 7]]
            assert not recording.truncated
            assert len(recording.handlers) == len(recording)


async def test_a_recording_names_the_handlers() -> None:
    """Each step carries the name of what ran."""

    async def left() -> None:
        a.view[1, 0] += 1

    async def right() -> None:
        a.view[2, 0] += 1

    with Arena.temporary(size="16 MiB") as arena:
        writer(arena)
        a = arena.root["a"]
        with arena.record() as recorder:
            for handler in (left, right, left):
                await arena.run(handler)
        names = [name.rpartition(".")[2] for name in recorder.recording.handlers]
        assert [name for name in names if name] == ["left", "right", "left"]


def data_of(arena: Arena) -> bytes:
    """Return the data region of an arena, as far as it has memory."""
    header = path_of(arena.name).read_bytes()[:4096]
    (offset,) = struct.unpack_from("<Q", header, 32 + 9 * 16)  # the regions; data is the last
    with path_of(arena.name).open("rb") as file:
        file.seek(offset)
        return file.read(arena.stats().claimed)


def changed_pages(before: bytes, after: bytes) -> set[int]:
    """Return the numbers of the pages that differ; new memory was zero."""
    before = before.ljust(len(after), b"\0")
    return {at // PAGE for at in range(0, len(after), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]}


@pytest.mark.slow
def test_announced_writes_are_recorded_when_asked_for() -> None:
    """Every page that containers have changed is in the recording of that step; without the option it is empty."""
    random = Random(3)
    with Arena.temporary(size="16 MiB") as arena:
        with arena.transaction():
            arena.root.update(d={}, l=[0] * 2000, q=Deque(maxlen=50), n=Counter(), a=Array(4000, "i8"))
        root = arena.root
        with arena.record() as recorder, arena.transaction():
            root["d"]["x"] = 1
        assert not any(recorder.recording)

        changed = []
        with arena.record(announced=True) as recorder:
            for step in range(60):
                before = data_of(arena)
                with arena.transaction():
                    root["d"][f"key-{step}"] = "x" * random.randrange(3000)
                    root["l"][random.randrange(2000)] = step
                    root["q"].append(step)
                    root["n"].add(1)
                    root["a"][random.randrange(4000)] = step
                    if step % 3 == 2:
                        del root["d"][f"key-{step - 2}"]
                changed.append(changed_pages(before, data_of(arena)))
            with pytest.raises(ZeroDivisionError), arena.transaction():
                root["l"][7] = 1 / 0 if root["l"].append(1) else 1 // 0
            with arena.transaction():
                assert root["l"][7] != 1
        recorded = [set(pages) for pages in recorder.recording]
        assert len(recorded) == len(changed) + 1  # the one that was undone wrote, too; the one that only read did not
        assert recorded[-1]
        for n, (is_, said) in enumerate(zip(changed, recorded[:-1], strict=True)):
            assert is_ <= said, n
            assert len(said) <= len(is_) + 4, n  # what was written with the bytes that were there


def test_shadows_are_a_small_part_of_the_state() -> None:
    """However many pages are written again and again, 256 or a sixteenth of the claimed ones become hot; `max_hot` decides."""
    for megabytes, expected in ((2, 256), (24, 24 * 256 // 16)):
        with Arena.temporary(size="64 MiB", policy="full") as arena:
            with arena.transaction():
                arena.root["a"] = Array((megabytes * 256, PAGE // 8), "i8")
            for step in range(3):
                with arena.transaction():
                    arena.root["a"].view[:, 0] = step + 1
            stats = arena.stats()
            assert expected <= stats.hot_pages <= stats.claimed // PAGE // 16 or stats.hot_pages == expected == 256
            assert stats.shadow_claimed < max(stats.claimed // 16, 1 << 20) + 16 * PAGE  # claimed 16 at a time
    with Arena.temporary(size="64 MiB", policy="full", policy_options={"max_hot": 400}) as arena:
        with arena.transaction():
            arena.root["a"] = Array((512, PAGE // 8), "i8")
        for step in range(3):
            with arena.transaction():
                arena.root["a"].view[:, 0] = step + 1
        assert arena.stats().hot_pages == 400


@pytest.mark.slow
def test_shadows_of_a_burst_are_given_back() -> None:
    """After many pages were hot and few stayed so, memory for few shadows is left; what they stand for is right."""
    with Arena.temporary(size="64 MiB", policy_options={"profiles": False}) as arena:
        with arena.transaction():
            arena.root["a"] = Array((256, PAGE // 8), "i8")
        a = arena.root["a"]
        for step in range(6):
            with arena.transaction():
                a.view[:, 0] = step
        assert arena.stats().shadow_claimed == 256 * PAGE
        for step in range(3500):  # the last page stays hot from the first to the last
            with arena.transaction():
                a.view[[3, 255], 1] = step
        stats = arena.stats()
        assert stats.hot_pages == 2
        assert stats.shadow_claimed <= 48 * PAGE
        with pytest.raises(ZeroDivisionError), arena.transaction():
            a.view[:, 1] = 1 // 0 if a.view.fill(77) is None else 0
        with arena.transaction():
            assert a.view[:, 0].tolist() == [5] * 256
            assert a.view[255, 1] == 3499
        arena.verify()


OTHER = """
import sys
from recoverable import Arena
with Arena.open(sys.argv[1], create=False, policy="full") as arena:
    a = arena.root["a"]
    for step in range(3):
        with arena.transaction():
            a.view[:300, 0] = step
    print(arena.stats().hot_pages, flush=True)
    sys.stdin.readline()
    try:
        with arena.transaction():
            a.view[:300, 0] = 99
            raise KeyError
    except KeyError:
        pass
    with arena.transaction():
        print(sorted(set(a.view[:300, 0].tolist())), flush=True)
"""


@pytest.mark.slow
def test_shadows_that_another_process_gave_back() -> None:
    """Pages that were hot in a process whose shadows another one has given back trap there again, and are undone."""
    with Arena.temporary(size="64 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = Array((2048, PAGE // 8), "i8")
        a = arena.root["a"]
        command = [sys.executable, "-c", OTHER, arena.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None
            assert other.stdout is not None
            assert int(other.stdout.readline()) >= 256
            with arena.transaction():
                view = a.view
            for step in range(4000):  # with a buffer alive it looks for pages that nobody writes any more
                with arena.transaction():
                    a.view[2000, 0] = step
            assert arena.stats().shadow_claimed <= 48 * PAGE
            del view
            other.stdin.write("go\n")
            other.stdin.flush()
            assert other.stdout.readline().strip() == "[2]"
        assert other.returncode == 0
        arena.verify()


@pytest.mark.slow
def test_the_log_of_a_huge_step_is_given_back() -> None:
    """A log that has grown large stays while it is needed, and is cut back once it has not been for some hundred steps."""
    with Arena.temporary(size="64 MiB") as arena:
        with arena.transaction():
            arena.root.update(a=Array(1 << 20, "i8"), n=0)
        for step in range(300):
            with arena.transaction():
                arena.root["a"].view[: 1 << 18] = step
        assert arena.stats().undo_claimed >= 2 << 20
        for step in range(300):
            with arena.transaction():
                arena.root["n"] = step
        assert arena.stats().undo_claimed <= 256 << 10
        with arena.transaction():
            arena.root["a"].view[:] = 1
        assert arena.verify().entries
        assert arena.root["a"][99] == 1


def test_costs_are_measured_once() -> None:
    """What traps and copies cost is kept in the header, and read from there when the arena is opened again."""
    costs = ("cost_trap_ns", "cost_protect_ns", "cost_compare_ns", "cost_copy_ns")
    name = f"test-costs-{os.getpid()}"
    try:
        with Arena.open(name, size="1 MiB") as arena:
            measured = [getattr(arena.stats(), cost) for cost in costs]
        assert all(measured)
        with path_of(name).open("r+b") as file:
            at = file.read(16384).index(struct.pack("<4Q", *measured))
            file.seek(at)
            file.write(struct.pack("<4Q", 1111, 222, 33, 44))
        with Arena.open(name) as arena:
            assert [getattr(arena.stats(), cost) for cost in costs] == [1111, 222, 33, 44]
    finally:
        Arena.unlink(name)


def test_one_recording_at_a_time() -> None:
    """A second recording is refused, and the first goes on; closing the arena inside one is fine."""
    with Arena.temporary(size="16 MiB") as arena:
        _, run_step = writer(arena)
        with arena.record() as recorder:
            with pytest.raises(ArenaOptionError, match="recorded already"), arena.record():
                pass
            run_step([3])
        assert any(recorder.recording)
        with arena.record() as recorder:
            arena.close()
        assert list(recorder.recording) == []


def test_the_oracle_knows_what_comes() -> None:
    """Fed with a recording of the run that comes again, `oracle` makes pages hot before they are written again."""
    steps = [[n % 3] for n in range(300)]
    with Arena.temporary(size="16 MiB", policy="incremental") as arena:
        _, run_step = writer(arena)
        with arena.record() as recorder:
            for pages in steps:
                run_step(pages)
        recording = recorder.recording
    expected = evaluate(recording, ["oracle"], Costs()).outcomes["oracle"]
    with Arena.temporary(size="16 MiB", policy="oracle", policy_options={"recording": recording}) as arena:
        _, run_step = writer(arena)
        before = arena.stats().traps
        for pages in steps:
            run_step(pages)
        assert arena.stats().traps - before <= 6
    assert expected.traps <= 3


def test_a_page_that_was_written_often_and_falls_silent_is_given_up_early() -> None:
    """A set that is done with is compared for some 16 of its gaps, not for as long as one that is written now and then."""
    stream = Recording.of([[n // 100 % 2 * 100 + k for k in range(8)] for n in range(1000)])
    seldom = Recording.of([[n % 20] if n % 20 < 8 else [] for n in range(1000)])
    costs = Costs(7500, 3300, 110, 180)
    for recording, at_most in ((stream, 0.5), (seldom, 1.0)):
        early, late = (
            evaluate(recording, {"adaptive": {"silence": silence}}, costs).outcomes["adaptive"] for silence in (16, 0)
        )
        assert early.vain <= at_most * late.vain
        assert early.ns <= late.ns
    assert early == replace(late, policy_ns=early.policy_ns)  # nothing is different where pages are written seldom


@pytest.mark.slow
def test_shadow_and_live_agree() -> None:
    """What `evaluate` counts for a policy on a recording is what the policy does when the run is made again."""
    generator = np.random.default_rng(7)
    steps = [
        sorted({*generator.integers(0, 4, 2).tolist(), *generator.integers(0, 64, 2).tolist()}) for _ in range(300)
    ]
    with Arena.temporary(size="16 MiB", policy="incremental") as arena:
        first, run_step = writer(arena)
        with arena.record() as recorder:
            for pages in steps:
                run_step(pages)
        recording = Recording.of([[first], *recorder.recording])  # writer() has made a step, too
    options: dict[str, dict[str, float]] = {
        "incremental": {},
        "full": {},
        "adaptive": {"patience": 20, "window": 20, "profiles": 0},  # else they follow from measured costs
        "active-cks": {},
        "active-rnd": {"period": 10},
        "genetic": {},
    }
    found = evaluate(recording, options).outcomes
    for policy, given in options.items():
        with Arena.temporary(size="16 MiB", policy=policy, policy_options=given) as arena:
            _, run_step = writer(arena)
            for pages in steps:
                run_step(pages)
            stats = arena.stats()
        live = (stats.traps, stats.promotions, stats.demotions)
        assert live == (found[policy].traps, found[policy].promotions, found[policy].demotions), policy


def test_evaluate_prices_what_it_counts() -> None:
    """The model is a sum of counts times costs; nobody pays less than the optimum, and the oracle pays just that."""
    generator = np.random.default_rng(3)
    recording = Recording.of([set(generator.zipf(1.5, 4).tolist()) & set(range(1000)) for _ in range(500)])
    costs = Costs(trap=6000, protect=2000, compare=100, copy=130)
    found = evaluate(recording, costs=costs)
    assert found.outcomes.keys() == POLICIES.keys()
    for outcome in found.outcomes.values():
        assert (
            outcome.ns
            == sum(outcome.by_step)
            == (outcome.traps * 6000 + outcome.protects * 2000 + outcome.compares * 100 + outcome.copies * 130)
        )
        assert outcome.ns >= found.optimum
    assert found.outcomes["oracle"].ns == found.optimum
    assert found.outcomes["incremental"].traps == len(recording.pages)


def test_adaptive_costs_little_more_than_never_guessing() -> None:
    """Where guessing can't pay, `adaptive` stays within 10 % of `incremental`; where it can, it costs a twentieth."""
    generator = np.random.default_rng(11)
    rarely = [np.flatnonzero(row).tolist() for row in generator.random((4000, 100)) < 0.02]
    scan = [[n % 1000] for n in range(4000)]
    pairs = [[1] if n % 200 < 2 else [] for n in range(20000)]
    for steps in (rarely, scan, pairs):
        found = evaluate(Recording.of(steps), ["adaptive", "incremental"]).outcomes
        assert found["adaptive"].ns <= 1.1 * found["incremental"].ns
    found = evaluate(Recording.of([[1, 2, 3]] * 1000), ["adaptive", "incremental"]).outcomes
    assert found["adaptive"].ns <= found["incremental"].ns / 20


def test_evaluate_refuses_what_there_is_not() -> None:
    """A wrong policy, option or value is named; an empty recording costs nothing."""
    recording = Recording.of([[1], [2]])
    with pytest.raises(ArenaOptionError, match="'psychic'"):
        evaluate(recording, ["psychic"])
    with pytest.raises(ArenaOptionError, match="no option 'epochs'"):
        evaluate(recording, {"adaptive": {"epochs": 1}})
    with pytest.raises(ArenaOptionError, match="from 1 to"):
        evaluate(recording, {"active-cks": {"epochs": 0}})
    assert evaluate(Recording.of([])).optimum == 0


@pytest.mark.slow
@pytest.mark.parametrize("server", NAMES)
def test_adaptive_on_what_servers_write(server: str) -> None:
    """On each recorded stream of the examples `adaptive` is within twice the optimum, and no dearer than never guessing."""
    found = evaluate(load(server), ["adaptive", "incremental"], Costs(7500, 3300, 110, 180))
    adaptive = found.outcomes["adaptive"].ns
    assert adaptive <= 2 * found.optimum
    assert adaptive <= found.outcomes["incremental"].ns
