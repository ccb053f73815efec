"""The nth call of a kind fails, for n = 1, 2, 3 … until the scenario runs untouched.

After each: one of our errors or success; a commit that raised has not happened, one that returned has; everything adds
up; the same process goes on to use the arena; and the next process finds the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recoverable import Arena, RecoverableError
from recoverable._native import _switches
from support.forks import in_child
from support.scenarios import OPTIONS, SCENARIOS, closed, state_of
from support.segments import Saved, path_of
from support.workers import Request, pause

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true"),
]

KINDS = {
    "malloc": _switches.FAIL_MALLOC,
    "mprotect": _switches.FAIL_MPROTECT,
    "fallocate": _switches.FAIL_FALLOCATE,
    "mmap": _switches.FAIL_MMAP,
    "heap": _switches.FAIL_HEAP,
}
USED = {  # what each scenario must have called, so that its loop is not empty
    "attach": {"malloc", "mmap"},
    "inserts": {"malloc", "heap"},
    "deletes": {"malloc"},
    "array_items": {"malloc"},
    "raw_pages": {"malloc", "mprotect", "fallocate"},
    "captures": {"malloc", "mprotect"},
    "rollbacks": {"malloc", "mprotect", "heap"},
    "suspensions": {"malloc", "mprotect", "heap"},
    "claims": {"malloc", "fallocate", "heap"},
    "packed": {"malloc", "heap"},
    "made_at_once": {"malloc", "heap"},
}


@pytest.fixture
def base(name: str) -> Saved:
    """A closed arena that holds prepare()'s state, as bytes."""
    return closed(name)


def use(arena: Arena) -> None:
    """Do a little of everything, and leave the state as it was."""
    before = state_of(arena)
    arena.verify()
    with arena.transaction():
        arena.root["used"] = {"after": b"x" * 300, "deep": {"er": 1}}
        if "a" in arena.root:
            old = arena.root["a"][1]
            arena.root["a"].view[1] = 9
    with arena.transaction():
        del arena.root["used"]
        if "a" in arena.root:
            assert arena.root["a"][1] == 9
            arena.root["a"][1] = old
    assert state_of(arena) == before
    assert arena.verify().leaked_blocks == 0


def off() -> None:
    """Let nothing fail any more."""
    for kind in KINDS.values():
        _switches.fail_at(kind, 0)


def attempts(put: Callable[[], None], child: Callable[[int], Any], timeout: float = 20.0) -> list[Any]:
    """Run `child(n)` in new processes for n = 1, 2, 3 … until it tells (last element) that nothing failed."""
    answers = []
    while True:
        put()
        ending = in_child(lambda: child(len(answers) + 1), timeout)
        assert ending.returned, f"failure {len(answers) + 1}: {ending}"
        answers.append(ending.value)
        if not ending.value[-1]:
            return answers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", SCENARIOS)
def test_a_failing_call_is_an_error_of_ours_and_changes_nothing(label: str, kind: str, name: str, base: Saved) -> None:
    """Whichever call fails, the commit it was for is refused whole with a named error, or done."""
    scenario, number, options = SCENARIOS[label], KINDS[kind], OPTIONS.get(label, {})
    base.put(name)

    def clean() -> list[Any]:
        with Arena.open(name, create=False, **options) as arena:
            states = [state_of(arena)]
            for _ in scenario(arena):
                states.append(state_of(arena))
            states.append(state_of(arena))
            return states

    ending = in_child(clean)
    assert ending.returned, ending
    states = ending.value

    def child(nth: int) -> tuple[int, str, bool]:
        commits, failure = 0, ""
        _switches.fail_at(number, nth)
        try:
            arena = Arena.open(name, create=False, **options)
        except (RecoverableError, MemoryError) as error:
            failure = f"{type(error).__name__} in open"
            failed = _switches.fail_count(number) >= nth
            off()
            arena = Arena.open(name, create=False, **options)
        else:
            try:
                for _ in scenario(arena):
                    commits += 1
            except (RecoverableError, MemoryError) as error:
                failure = type(error).__name__
            except AssertionError as error:  # the scenario's own: a page that did not become hot, say
                failure = str(error)
            failed = _switches.fail_count(number) >= nth
        off()
        if failure and "scenario" not in failure:
            assert state_of(arena) == states[commits], f"{failure} after {commits} commits, but not the state before"
        elif not failure:
            assert state_of(arena) == states[-1]
        use(arena)
        arena.close()
        return commits, failure, failed

    def put() -> None:
        base.put(name)

    answers = attempts(put, child)
    errors = sorted({failure for _, failure, _ in answers if failure})
    print(f"{label}, {kind}: {len(answers) - 1} failures, {sum(1 for a in answers if a[1])} raised: {errors}")
    assert len(answers) > 1 or kind not in USED[label], f"{label} makes no {kind} calls any more"


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_while_creating_leaves_no_half_made_arena(kind: str, name: str) -> None:
    """Creating either works or is an error of ours; then the same process can create it."""
    number = KINDS[kind]

    def child(nth: int) -> tuple[str, bool]:
        failure = ""
        _switches.fail_at(number, nth)
        try:
            with Arena.open(name, size="1 MiB") as arena, arena.transaction():
                arena.root["a"] = {"b": 1}
        except (RecoverableError, MemoryError) as error:
            failure = type(error).__name__
        failed = _switches.fail_count(number) >= nth
        off()
        with Arena.open(name, size="1 MiB") as arena:
            assert arena.root == ({} if failure else {"a": {"b": 1}})
            prepare_some(arena)
            assert arena.verify().leaked_blocks == 0
        return failure, failed

    def prepare_some(arena: Arena) -> None:
        with arena.transaction():
            arena.root["x"] = {"y": b"z" * 1000}

    answers = attempts(lambda: path_of(name).unlink(missing_ok=True), child)
    print(f"create, {kind}: {len(answers) - 1} failures: {sorted({a[0] for a in answers if a[0]})}")


def test_a_failing_call_in_recovery_is_mended_by_the_next_attempt(name: str, base: Saved) -> None:
    """Attaching after a kill fails cleanly whichever call fails, and works the next time."""

    def die() -> None:
        with Arena.open(name, create=False) as arena:
            for _ in range(3):
                with arena.transaction():
                    arena.root["a"].view[[0, 700]] += 1
            with arena.transaction():
                arena.root["n"]["m"]["x"] = 9
                arena.root["a"].view[[0, 700, 1400]] += 1
                del arena.root["blob"]
                _switches.crash_at(1)
                arena.root["lost"] = 1

    base.put(name)
    ending = in_child(die)
    assert ending.signal == 9, ending
    broken = Saved(name)

    def look() -> Any:
        with Arena.open(name, create=False) as arena:
            arena.verify()
            return state_of(arena)

    ending = in_child(look)
    assert ending.returned, ending
    want = ending.value

    for kind, number in KINDS.items():

        def child(nth: int, number: int = number) -> tuple[str, bool]:
            failure = ""
            _switches.fail_at(number, nth)
            try:
                Arena.open(name, create=False).close()
            except (RecoverableError, MemoryError) as error:
                failure = type(error).__name__
            failed = _switches.fail_count(number) >= nth
            off()
            with Arena.open(name, create=False) as arena:
                assert state_of(arena) == want
                use(arena)
            return failure, failed

        answers = attempts(lambda: broken.put(name), child)
        print(f"recovery, {kind}: {len(answers) - 1} failures: {sorted({a[0] for a in answers if a[0]})}")


OPERATIONS: list[Callable[[Any], object]] = [
    lambda root: root["n"].__setitem__("blob", b"B" * 900),
    lambda root: root["n"].__setitem__("new", b"N" * 900),  # a blob, then an entry
    lambda root: root["many"].update({i: f"text number {i}" for i in range(200, 210)}),
    lambda root: root.__setitem__("tree", {"a": {"b": {"c": "long enough for a blob"}}, "d": 1}),
    lambda root: root["n"].__setitem__("m", {"other": 1}),  # replaces a Dict
    lambda root: root["many"].pop(3),
    lambda root: root["tree"]["a"]["b"].__setitem__("c", 2),
    lambda root: root["many"].clear(),
    lambda root: root["many"].update({i: i for i in range(5)}),
    lambda root: root.pop("tree"),
    lambda root: root["n"].popitem(),
    lambda root: root["many"].setdefault("x", {"y": b"z" * 100}),
]


@pytest.mark.parametrize("kind", ["malloc", "heap", "fallocate"])
@pytest.mark.parametrize("suspended", [False, True])
def test_an_operation_that_fails_is_undone_alone(kind: str, suspended: bool, name: str, base: Saved) -> None:
    """A handler that catches a failed operation keeps the others, before and after it: each is all or nothing."""
    number = KINDS[kind]

    def child(nth: int) -> tuple[int, bool]:
        arena = Arena.open(name, create=False)
        with arena.transaction():
            del arena.root["a"], arena.root["b"]
        model = dict(state_of(arena))
        failures = 0

        async def work() -> None:
            nonlocal failures
            _switches.fail_at(number, nth)
            for operation in OPERATIONS:
                try:
                    operation(arena.root)
                except (RecoverableError, MemoryError):
                    failures += 1
                except KeyError:  # an earlier one, that failed, should have made it
                    pass
                else:
                    operation(model)
                assert state_of(arena) == list(model.items()), f"after {failures} failures"
                if suspended:
                    await pause()

        request = Request(arena, work)
        try:
            request.finish()
        except (RecoverableError, MemoryError):  # the transaction as a whole: a suspension, say
            model = dict(before)
            failures += 1
        failed = _switches.fail_count(number) >= nth
        off()
        assert state_of(arena) == list(model.items())
        use(arena)
        arena.close()
        return failures, failed

    def clean() -> Any:
        with Arena.open(name, create=False) as arena:
            return [(key, value) for key, value in state_of(arena) if key not in "ab"]

    base.put(name)
    ending = in_child(clean)
    assert ending.returned, ending
    before = ending.value
    answers = attempts(lambda: base.put(name), child)
    print(f"{kind}: {len(answers) - 1} failures, {sum(1 for a in answers if a[0])} seen by the handler")
    assert len(answers) > 1 or kind == "fallocate"
