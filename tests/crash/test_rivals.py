"""The comparison of stores sees what it tells: of a bank that loses money, and of one that does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import compare
from benchmarks.compare import Seen
from benchmarks.rivals import DECORATED, DURABLE, PLAIN, RIVALS, Low, lines_of_code
from benchmarks.rivals.grouped import Group, Order

WHAT = {
    PLAIN: Seen(survives_exception=False, survives_kill=False, in_flight=True),
    DECORATED: Seen(survives_exception=True, survives_kill=True, in_flight=False),
    'recoverable, "disk"': Seen(survives_exception=True, survives_kill=True, in_flight=False),
    "SQLite, FULL, grouped": Seen(survives_exception=True, survives_kill=True, in_flight=False),
}


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("name", WHAT)
def test_what_is_told_was_seen(name: str) -> None:
    """Bugs, a kill under load and a reader find the plain bank wrong each time, and the others never."""
    (rival,) = (rival for rival in (*RIVALS, *DURABLE) if rival.name == name)
    assert compare.see(rival) == WHAT[name]


def test_lines_of_code_leave_out_the_benchmark() -> None:
    """What a user writes counts; documentation, and what makes the handler fail, do not."""
    plain, decorated = (next(rival.bank() for rival in RIVALS if rival.name == name) for name in (PLAIN, DECORATED))
    # Both have the same handler: the difference is an arena that is opened, filled once, and given to two functions.
    assert lines_of_code(plain) < lines_of_code(decorated) <= lines_of_code(plain) + 10


async def test_of_transfers_that_are_committed_together_one_with_a_bug_fails_alone() -> None:
    """A user's group commit keeps what `@recoverable` promises; else it would be compared with something cheaper."""
    committed: list[list[str]] = []

    def commit(orders: list[Order]) -> list[str | Low]:
        refs = [ref for ref, *_ in orders]
        if "bug" in refs:
            raise RuntimeError
        committed.append(refs)
        return [Low() if ref == "low" else "now" for ref in refs]

    group = Group(commit)
    try:
        found = await asyncio.gather(
            *(group.add(ref, 1, 2, 3) for ref in ("a", "bug", "low", "b")), return_exceptions=True
        )
        assert await group.add("c", 1, 2, 3) == "now"
    finally:
        group.close()
    assert [str(each) if isinstance(each, str) else type(each) for each in found] == ["now", RuntimeError, Low, "now"]
    assert committed == [["a"], ["low"], ["b"], ["c"]]
