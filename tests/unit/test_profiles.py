"""Working sets of handlers on live arenas: what is captured, for whom, and that a guess never changes an outcome."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recoverable import Arena, Array, codecs
from recoverable.errors import ArenaOptionError, ConflictError
from recoverable.speculation import Costs, Recording, evaluate
from support.forks import in_child
from support.segments import calibrated
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 4096
ITEMS = PAGE // 8


@pytest.fixture
def arena() -> Iterator[Arena]:
    """An arena without hot pages, with profiles, and an Array of 64 pages."""
    with calibrated("16 MiB", policy="incremental", policy_options={"profiles": True}) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, ITEMS), "i8")
        yield arena


class Undone(Exception):
    """Ends a transaction by a rollback."""


def left(arena: Arena, pages: list[int], value: int, fail: bool = False) -> int:
    """A handler: write an item in some pages; return how often that trapped."""
    before = arena.stats().traps
    with contextlib.suppress(Undone), arena.transaction():
        arena.root["a"].view[pages, 5] = value
        if fail:
            raise Undone
    return arena.stats().traps - before


def right(arena: Arena, pages: list[int], value: int) -> int:
    """Another handler."""
    before = arena.stats().traps
    with arena.transaction():
        arena.root["a"].view[pages, 6] = value
    return arena.stats().traps - before


def column(arena: Arena, item: int = 5) -> list[int]:
    """Return what is committed."""
    with arena.transaction():
        return arena.root["a"].view[:, item].tolist()  # type: ignore[no-any-return]


SET = [3, 4, 5, 20, 21, 50, 51, 52]


def test_a_handler_that_comes_again_traps_no_more(arena: Arena) -> None:
    """From its third request on a handler's pages are captured; those of another handler are its own."""
    assert [left(arena, SET, n) for n in range(1, 6)] == [8, 8, 0, 0, 0]
    assert [right(arena, [7, 8], n) for n in range(1, 5)] == [2, 2, 0, 0]
    stats = arena.stats()
    assert (stats.pages_captured, stats.captured_in_vain, stats.traps_avoided) == (3 * 8 + 2 * 2, 0, 28)
    sets = {each.handler: each for each in arena.working_sets()}
    assert (sets["left"].known, sets["left"].predicted, sets["left"].steps, sets["left"].captured) == (8, 8, 5, 24)
    assert sets["right"].known == 2
    assert column(arena) == [5 if page in SET else 0 for page in range(64)]


def test_the_incremental_policy_alone_keeps_none() -> None:
    """The paper's baselines stay what they are: only `adaptive` keeps profiles by default."""
    for policy, kept in (("adaptive", True), ("incremental", False), ("active-cks", False)):
        with calibrated("16 MiB", policy=policy) as arena:
            assert arena.profiles is kept
    with calibrated("16 MiB", policy_options={"profiles": False}) as arena:
        assert not arena.profiles


def test_a_rollback_takes_captured_pages_back(arena: Arena) -> None:
    """Nothing of a request that failed is left in pages that were captured for it."""
    for n in range(1, 4):
        left(arena, SET, n)
    assert left(arena, SET, 99, fail=True) == 0
    assert left(arena, [*SET, 30], 98, fail=True) == 1
    assert column(arena) == [3 if page in SET else 0 for page in range(64)]
    arena.verify()


@pytest.mark.parametrize("fail", [False, True])
def test_a_set_that_changes_is_learned_anew(arena: Arena, fail: bool) -> None:
    """A handler that moves to other pages is captured there from its third request, and no more where it was.

    So it is if its requests fail, too.
    """
    for n in range(20):
        left(arena, SET, n + 1)
    assert [left(arena, [40, 41, 42], n, fail) for n in range(5, 9)] == [3, 1, 0, 0]
    assert all(left(arena, [40, 41, 42], n + 10, fail) == 0 for n in range(40))
    vain = arena.stats().captured_in_vain
    left(arena, [40, 41, 42], 100, fail)
    assert arena.stats().captured_in_vain == vain
    assert arena.working_sets()[0].known == 3


def test_a_request_that_wrote_nothing_commits_nothing(arena: Arena) -> None:
    """Captured in vain, a request that only read leaves the commit sequence where it was."""

    def handler(write: bool) -> None:
        with arena.transaction():
            view = arena.root["a"].view
            if write:
                view[SET, 5] += 1
            del view

    for _ in range(3):
        handler(True)
    before = arena.stats()
    handler(False)
    after = arena.stats()
    assert after.captured_in_vain - before.captured_in_vain == 8
    assert after.commit_seq == before.commit_seq
    assert after.commits == before.commits
    handler(True)
    assert column(arena)[3] == 4
    arena.verify()


def test_steps_have_sets_of_their_own(arena: Arena) -> None:
    """What a request writes after an await is captured after it, and what it wrote before is not captured again."""

    async def handler(value: int) -> None:
        arena.root["a"].view[[3, 4], 5] = value
        await pause()
        arena.root["a"].view[[30, 31], 5] = value

    for n in range(3):
        Request(arena, handler, n + 1).finish()
    before = arena.stats()
    request = Request(arena, handler, 9)
    request.step()
    assert column(arena)[3] == 3
    request.finish()
    after = arena.stats()
    assert after.traps == before.traps
    assert after.pages_captured - before.pages_captured == 4
    assert after.captured_in_vain == before.captured_in_vain
    assert {(each.step, each.known) for each in arena.working_sets() if "handler" in each.handler} == {(0, 2), (1, 2)}
    assert [page for page, value in enumerate(column(arena)) if value] == [3, 4, 30, 31]
    assert set(column(arena)) == {0, 9}


def test_rows_that_nobody_could_foretell(arena: Arena) -> None:
    """A handler that writes a run of pages, another one each time, traps at its first page, and the others come along."""
    rows = [[n, n + 1, n + 2] for n in (3, 40, 11, 50, 29, 20, 57, 33)]
    assert [left(arena, row, n) for n, row in enumerate(rows, 1)] == [3, 3, 3, 1, 1, 1, 1, 1]
    before = arena.stats().captured_in_vain
    assert left(arena, [46, 47, 48], 99, fail=True) == 1
    assert left(arena, [45], 9) == 1
    assert left(arena, [61, 62, 63], 10) == 1  # the end of the Array
    assert arena.stats().captured_in_vain - before == 2
    expected = [0] * 64
    for n, row in [*enumerate(rows, 1), (9, [45]), (10, [61, 62, 63])]:
        for page in row:
            expected[page] = n
    assert column(arena) == expected
    arena.verify()


def test_pages_before_the_first_that_traps(arena: Arena) -> None:
    """It does not matter in which direction a handler works."""
    assert [left(arena, [n, n - 1, n - 2], n) for n in (5, 43, 13, 52, 31, 22)] == [3, 3, 3, 1, 1, 1]
    assert left(arena, [1, 0], 7) == 1


def test_an_edit_is_no_trap_to_a_profile(arena: Arena) -> None:
    """What `edit()` logs by itself is not captured ahead the next time: nothing would be saved."""
    for n in range(8):
        with arena.transaction(), arena.root["a"].edit(slice(7, 9)) as rows:
            rows[:] = n
    assert (arena.stats().traps, arena.stats().pages_captured) == (0, 0)
    assert column(arena)[6:10] == [0, 7, 7, 0]


def test_pages_that_a_request_goes_on_with(arena: Arena) -> None:
    """Where a handler writes the same rows after an await as before it, they trap once, and neighbours together."""

    async def handler(pages: list[int], value: int, fail: bool = False) -> None:
        arena.root["a"].view[pages, 5] += value
        await pause()
        arena.root["a"].view[pages, 5] += value
        if fail:
            raise Undone

    def traps(pages: list[int], value: int, fail: bool = False) -> int:
        before = arena.stats().traps
        with contextlib.suppress(Undone):
            Request(arena, handler, pages, value, fail).finish()
        return arena.stats().traps - before

    rows = [[n, n + 1, n + 30] for n in range(20)]
    assert [traps(pages, 1) for pages in rows[:8]] == [6, 6, 3] + [2] * 5
    assert traps(rows[9], 1, fail=True) == 2
    assert traps(rows[10], 1) == 2
    expected = np.zeros(64, "i8")
    for pages in [*rows[:8], rows[10]]:
        expected[pages] += 2
    assert column(arena) == expected.tolist()
    arena.verify()


def test_pages_between_those_that_a_request_goes_on_with(arena: Arena) -> None:
    """Of neighbours two pages apart, what lies between comes along in one call, and is neither changed nor taken as written."""

    async def handler(pages: list[int], value: int) -> None:
        arena.root["a"].view[pages, 5] += value
        await pause()
        arena.root["a"].view[pages, 5] += value

    for n in range(0, 40, 5):
        Request(arena, handler, [n, n + 2, n + 4], 1).finish()
    before = arena.stats()
    Request(arena, handler, [50, 52, 54], 1).finish()
    after = arena.stats()
    assert after.traps - before.traps == 1
    assert after.pages_captured - before.pages_captured == 4 + 5
    assert after.captured_in_vain - before.captured_in_vain == 2 + 2
    assert column(arena)[49:56] == [0, 2, 0, 2, 0, 2, 0]
    arena.verify()


def test_pages_that_a_request_is_done_with(arena: Arena) -> None:
    """Where it writes others after the await, its own are not captured, and are captured no more if it changes its ways."""

    async def handler(pages: list[int], after: list[int], value: int) -> None:
        arena.root["a"].view[pages, 5] = value
        await pause()
        arena.root["a"].view[after, 5] = value

    for n in range(20):
        Request(arena, handler, [n], [n], n + 1).finish()
    for n in range(20):
        Request(arena, handler, [n], [n + 20], n + 50).finish()
    vain = arena.stats().captured_in_vain
    assert 0 < vain <= 12  # as many as it takes, at the costs of this machine
    for n in range(20):
        Request(arena, handler, [n], [n + 20], n + 100).finish()
    assert arena.stats().captured_in_vain == vain
    assert column(arena)[:40] == [n + 100 for n in range(20)] * 2


def test_requests_in_flight_on_one_page(arena: Arena) -> None:
    """Captured pages merge by item, and an item that both have changed is a conflict, as with trapped ones."""

    async def handler(item: int, value: int) -> None:
        arena.root["a"].view[3, item] = value
        await pause()
        arena.root["a"].view[4, item] = value

    for n in range(4):
        Request(arena, handler, 0, n + 1).finish()
    one, two, three = (Request(arena, handler, item, 7) for item in (1, 2, 1))
    for each in (one, two, three):
        each.step()
    one.finish()
    two.finish()
    with pytest.raises(ConflictError):
        three.finish()
    with arena.transaction():
        assert arena.root["a"].view[3:5, :3].tolist() == [[4, 7, 7], [4, 7, 7]]
    assert arena.stats().traps_avoided > 0


def test_going_back_to_a_savepoint(arena: Arena) -> None:
    """Going back undoes what came after the savepoint on captured pages, and nothing else."""

    def handler(value: int) -> None:
        with arena.transaction():
            view = arena.root["a"].view
            view[[3, 4], 5] = value
            with contextlib.suppress(Undone), arena.savepoint():
                view[[3, 5], 5] = -1
                raise Undone
            view[5, 6] = value
            del view

    for n in range(1, 9):
        handler(n)
        assert column(arena)[3:6] == [n, n, 0]
        assert column(arena, 6)[5] == n
    assert arena.stats().pages_captured > 0
    arena.verify()


def test_edits_and_items_beside_captured_writes(arena: Arena) -> None:
    """Announced writes to captured pages are kept and undone like others."""

    def handler(value: int, fail: bool = False) -> None:
        with contextlib.suppress(Undone), arena.transaction():
            a = arena.root["a"]
            a.view[[3, 4], 5] = value
            a[3, 7] = value
            with a.edit(slice(4, 5)) as part:
                part[0, 8] = value
            del part
            if fail:
                raise Undone

    for n in range(1, 6):
        handler(n)
        handler(-n, fail=True)
        assert (column(arena)[3], column(arena, 7)[3], column(arena, 8)[4]) == (n, n, n)
    assert arena.stats().traps_avoided > 0


class Nosy:
    """A value whose codec writes raw, into the arena that the test has open."""


@pytest.mark.parametrize("profiles", [False, True])
def test_raw_writes_inside_an_operation_that_fails(arena: Arena, profiles: bool) -> None:
    """What trapped or was captured while a failing operation ran is logged anew when it is written after it."""

    def encode(_: Nosy) -> bytes:
        arena.root["a"].view[3, 5] = 7
        return b""

    def handler(fail: bool) -> None:
        with contextlib.suppress(Undone), arena.transaction():
            with contextlib.suppress(TypeError):
                arena.root["d"].update({"good": Nosy(), "bad": object()})
            arena.root["a"].view[[3, 4], 5] = 9
            if fail:
                raise Undone

    codecs.register_codec(Nosy, encode, lambda _: Nosy(), name="nosy")
    try:
        arena.profiles = profiles
        with arena.transaction():
            arena.root["d"] = {}
        for _ in range(3):
            handler(False)
            assert column(arena)[3:5] == [9, 9]
            with arena.transaction():
                arena.root["a"].view[:, 5] = 1
            handler(True)
            assert column(arena)[3:5] == [1, 1]
        assert len(arena.root["d"]) == 0
    finally:
        del codecs._by_type[Nosy], codecs._by_name["nosy"]


def test_memory_that_has_become_another_s_is_left_alone() -> None:
    """Where an Array was deleted, its handler captures nothing; where a new one lies, that one's bytes are safe."""
    with calibrated("4 MiB", policy="incremental", policy_options={"profiles": 1}) as arena:
        for turn in range(3):
            with arena.transaction():
                arena.root["a"] = Array((64, ITEMS), "i8")
            for n in range(4):
                left(arena, SET, n + 1)
                left(arena, SET, -1, fail=True)
            with arena.transaction():
                del arena.root["a"]
            for n in range(8):
                with arena.transaction():
                    arena.root[f"{turn} {n}"] = {"text": "x" * 5000, "more": {str(i): i for i in range(50)}}
            with arena.transaction():
                arena.root["a"] = Array((3, ITEMS), "i8")
            for n in range(4):
                left(arena, [0, 1, 2], n + 1)
            arena.verify()
        assert arena.root["2 7"]["more"]["49"] == 49


def test_it_can_be_switched_off_and_on(arena: Arena) -> None:
    """Off, everything traps and nothing is remembered; on again, it is learned anew. Inside a transaction, too."""
    for n in range(3):
        left(arena, SET, n)
    arena.profiles = False
    assert not arena.profiles
    assert left(arena, SET, 5) == 8
    assert arena.working_sets() == []
    assert arena.stats().profiles == 0
    arena.profiles = True
    arena.profiles = True
    assert [left(arena, SET, n) for n in range(10, 13)] == [8, 8, 0]
    with arena.transaction():
        arena.root["a"].view[SET, 5] = 70
        arena.profiles = False
    assert column(arena)[3] == 70


def test_a_small_log_is_left_to_the_request() -> None:
    """Where captures would take much of the undo log's room, the request traps as before and is not doomed."""
    everything = list(range(40))
    with Arena.temporary(
        size="16 MiB", undo_size="512 KiB", policy="incremental", policy_options={"profiles": True}
    ) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, ITEMS), "i8")
        assert [left(arena, everything, n + 1) for n in range(4)] == [40] * 4
        assert [right(arena, [1, 2, 3], n + 1) for n in range(4)] == [3, 3, 0, 0]
        assert arena.stats().dooms == 0


def test_what_is_kept_is_bounded(arena: Arena) -> None:
    """However many handlers and pages there are, 128 sets of at most 64 pages are kept, the latest ones."""
    for n in range(300):
        scope: dict[str, Any] = {"arena": arena}
        exec(f"def h{n}(page):\n with arena.transaction():\n  arena.root['a'].view[page, 5] += 1", scope)
        for page in (n % 64, (n + 9) % 64):
            scope[f"h{n}"](page)
    assert arena.stats().profiles == 128
    assert {each.handler for each in arena.working_sets()} == {f"h{n}" for n in range(172, 300)}
    rng = np.random.default_rng(2)
    with arena.transaction():
        arena.root["a"] = Array((1024, ITEMS), "i8")
    for n in range(400):
        left(arena, rng.integers(0, 1024, 6).tolist(), n + 1)
    assert next(each for each in arena.working_sets() if each.handler == "left").known <= 64


def test_a_forked_child_learns_for_itself(arena: Arena) -> None:
    """A child that is forked inside a step with captured pages undoes nothing of it, and captures in its own steps."""
    for n in range(3):
        left(arena, SET, n + 1)

    def child() -> int:
        assert column(arena)[3] == 10
        assert left(arena, SET, 20) == 0
        return column(arena)[3]

    def block() -> Any:
        with arena.transaction():
            arena.root["a"].view[SET, 5] = 10
            return in_child(lambda: arena.stats().pages_captured)

    assert block().returned
    assert column(arena)[3] == 10
    assert in_child(child).value == 20
    assert column(arena)[3] == 20
    assert left(arena, SET, 21) == 0
    arena.verify()


def test_the_policy_still_sees_what_is_captured() -> None:
    """With `adaptive`, one handler's scattered pages become hot; a block that it writes rarely stays captured."""
    with calibrated("16 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = Array((1024, ITEMS), "i8")
        for n in range(50):
            left(arena, [100, 300, 500], n)
        assert arena.stats().hot_pages == 3
    with calibrated("16 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = Array((1024, ITEMS), "i8")
        block, traps = list(range(64, 72)), []
        for n in range(600):
            if n % 30 == 0:
                traps.append(left(arena, block, n + 1))
            else:
                right(arena, [900], n + 1)
        stats = arena.stats()
        assert traps == [8, 8] + [0] * 18
        assert stats.captured_in_vain == 0
        assert stats.hot_pages == 1
        for n in range(5):  # in vain: no writes that could make them hot
            left(arena, [], n)
        stats = arena.stats()
        assert stats.captured_in_vain == 5 * 8
        assert stats.hot_pages == 1


def test_two_writes_of_one_request_are_not_a_working_set() -> None:
    """Rows that a request writes before and after an await, other rows each time, don't become hot with `adaptive`."""

    async def handler(page: int) -> None:
        arena.root["a"].view[page, 5] += 1
        await pause()
        arena.root["a"].view[page, 5] += 1

    with calibrated("16 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = Array((1024, ITEMS), "i8")
        with arena.record() as recorder:
            for n in range(200):
                Request(arena, handler, n * 5).finish()
        assert arena.stats().promotions <= 8
        assert arena.stats().traps <= 208
        writes = [len(step) for step in recorder.recording if step]
        assert len(writes) >= 390
        assert set(writes) == {1}


@pytest.mark.slow
def test_shadow_and_live_agree_on_profiles() -> None:
    """What `evaluate` counts with profiles is what a live arena does with the same writes."""
    generator = np.random.default_rng(7)
    sets = [generator.permutation(1024)[:6].tolist(), list(range(200, 208)), [*range(300, 304), 306, 900]]
    steps = [
        (int(k), sorted({*sets[k], *generator.integers(0, 1024, 2).tolist()} - set(generator.permutation(sets[k])[:1])))
        for k in generator.integers(0, 3, 400)
    ]
    for policy, given in (("incremental", {"profiles": 1}), ("adaptive", {"patience": 20, "window": 6})):
        with calibrated("16 MiB", policy=policy, policy_options=given) as arena:
            with arena.transaction():
                arena.root["a"] = Array((1024, ITEMS), "i8")
            handlers: list[Callable[[list[int], int], None]] = []
            for k in range(3):
                scope: dict[str, Any] = {"arena": arena}
                exec(f"def h{k}(p, n):\n with arena.transaction():\n  arena.root['a'].view[p, 5] = n", scope)
                handlers.append(scope[f"h{k}"])
            with arena.record() as recorder:
                for n, (k, pages) in enumerate(steps):
                    handlers[k](pages, n + 1)
            stats = arena.stats()
            recording = recorder.recording
        first = min(recording.pages) - min(min(pages) for _, pages in steps)
        again = Recording.of([[page + first for page in pages] for _, pages in steps], [f"h{k}" for k, _ in steps])
        if policy == "incremental":
            assert [sorted(step) for step in recording] == list(again)
            assert recording.handlers == again.handlers
        costs = Costs(stats.cost_trap_ns, stats.cost_protect_ns, stats.cost_compare_ns, stats.cost_copy_ns)
        found = evaluate(again, {policy: given}, costs).outcomes[policy]
        live = (stats.traps, stats.pages_captured, stats.captured_in_vain, stats.promotions, stats.demotions)
        assert live == (found.traps, found.captures, found.captures_vain, found.promotions, found.demotions), policy
        assert found.captures > (500 if policy == "incremental" else 5)


def test_evaluate_prices_captures() -> None:
    """Captured pages cost a copy, a comparison and two changes of protection a run; without names there are none."""
    costs = Costs(trap=7000, protect=3000, compare=100, copy=150)
    steps = [[10, 11, 12, 40]] * 100
    named = evaluate(Recording.of(steps, ["h"] * 100), {"incremental": {"profiles": 1}}, costs).outcomes["incremental"]
    assert (named.traps, named.captures, named.captures_vain) == (8, 392, 0)
    assert named.ns == 8 * 10000 + 98 * (2 * 2 * 3000 + 4 * 250)
    for recording, profiles in ((Recording.of(steps), True), (Recording.of(steps, ["h"] * 100), False)):
        found = evaluate(recording, {"incremental": {"profiles": profiles}}, costs).outcomes["incremental"]
        assert (found.traps, found.captures) == (400, 0)
    with pytest.raises(ArenaOptionError, match="names the handlers of 1"):
        evaluate(Recording.of(steps, ["h"]))


def test_guessing_costs_little_where_it_can_not_pay() -> None:
    """On scans, uniform and rare writes of one handler profiles cost at most a tenth, in the model."""
    generator = np.random.default_rng(11)
    streams = {
        "uniform": [set(row) for row in generator.integers(0, 1000, (4000, 4)).tolist()],
        "scan": [[(n * 4 + k) % 1000 for k in range(4)] for n in range(4000)],
        "rare": [np.flatnonzero(row).tolist() for row in generator.random((4000, 200)) < 0.02],
        "every other": [[5, 300, 600] if n % 2 else [6, 301, 601] for n in range(4000)],
    }
    for name, steps in streams.items():
        recording = Recording.of(steps, ["h"] * len(steps))
        for policy in ("incremental", "adaptive"):
            on, off = (evaluate(recording, {policy: {"profiles": kept}}).outcomes[policy].ns for kept in (1, 0))
            assert on <= 1.1 * off, (name, policy, on / off)
