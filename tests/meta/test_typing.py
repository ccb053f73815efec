"""What a user's mypy sees of the containers, and of decorated functions."""

from __future__ import annotations

from pathlib import Path

import pytest

SAMPLE = """
from typing import assert_type

from recoverable import Arena, Counter, Deque, Dict, List, Record, Set


class Account(Record):
    owner: str
    balance: int = 0


def use(arena: Arena) -> None:
    stock: Dict[str, int] = arena.root["stock"]
    assert_type(stock["a"], int)
    stock["b"] = 1
    for key, count in stock.items():
        assert_type(key, str)
        assert_type(count, int)

    accounts: List[Account] = arena.root["accounts"]
    accounts.append(Account(owner="ann"))
    assert_type(accounts[0], Account)
    assert_type(accounts[0].balance, int)
    accounts[0].balance += 1
    for account in accounts:
        assert_type(account.owner, str)

    jobs: Deque[str] = arena.root["jobs"]
    jobs.append("job")
    assert_type(list(jobs), list[str])
    tags: Set[str] = arena.root["tags"]
    tags.add("tag")
    assert_type(list(tags), list[str])
    hits: Counter = arena.root["hits"]
    hits.add(1)
    assert_type(hits.value, int)

    stock["c"] = "x"  # wrong: value
    accounts.append("ann")  # wrong: item
    tags.add(1)  # wrong: member
    hits.add("1")  # wrong: amount
    jobs.appendleft(1)  # wrong: item
    accounts[0].balance = "x"  # wrong: field
"""


DECORATED = """
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from recoverable import recoverable


@recoverable
def plain(a: int, *, b: str = "") -> list[str]:
    return [b] * a


@recoverable(retries=2, retry_on=OSError, nested="independent", durable="disk")
def with_options(a: int) -> str:
    return str(a)


@recoverable
async def coroutine(a: int) -> str:
    return str(a)


@recoverable(timeout=1)
async def coroutine_with_options(a: int) -> str:
    return str(a)


class View:
    @recoverable
    def get(self, a: int) -> bytes:
        return bytes(a)

    @recoverable(max_conflicts=0)
    async def post(self, a: int) -> bytes:
        return bytes(a)


same: Callable[[int], str] = with_options
other: Callable[[int], Coroutine[Any, Any, str]] = coroutine


async def use() -> None:
    assert_type(plain(1, b="x"), list[str])
    assert_type(with_options(1), str)
    assert_type(await coroutine(1), str)
    assert_type(await coroutine_with_options(1), str)
    assert_type(View().get(1), bytes)
    assert_type(await View().post(1), bytes)

    plain("1")  # wrong: argument
    plain(1, c="x")  # wrong: name
    with_options()  # wrong: none given
    await coroutine("1")  # wrong: argument
    await with_options(1)  # wrong: nothing to await
    View().get("1")  # wrong: argument
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [SAMPLE, DECORATED], ids=["containers", "decorated"])
def test_it_is_typed(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mypy --strict knows what a Dict[str, int] holds and what a decorated function takes, and finds what does not fit."""
    api = pytest.importorskip("mypy.api", reason="mypy is in the group `types`, not in `test`")
    sample = tmp_path / "sample.py"
    sample.write_text(program)
    monkeypatch.setenv("MYPYPATH", str(Path(__file__).parents[2]))
    out, errors, _ = api.run(["--strict", "--no-incremental", "--config-file", "", str(sample)])
    assert not errors, errors
    found = {int(line.split(":")[1]) for line in out.splitlines() if "sample.py" in line and ": error:" in line}
    wanted = {number for number, line in enumerate(program.splitlines(), 1) if "# wrong" in line}
    assert found == wanted, out
