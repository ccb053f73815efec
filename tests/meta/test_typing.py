"""What a user's mypy sees of the containers."""

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


@pytest.mark.slow
def test_containers_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mypy --strict knows what a Dict[str, int] and a List[Account] hold, and finds what does not fit."""
    api = pytest.importorskip("mypy.api", reason="mypy is in the group `types`, not in `test`")
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    monkeypatch.setenv("MYPYPATH", str(Path(__file__).parents[2]))
    out, errors, _ = api.run(["--strict", "--no-incremental", "--config-file", "", str(sample)])
    assert not errors, errors
    found = {int(line.split(":")[1]) for line in out.splitlines() if "sample.py" in line and ": error:" in line}
    wanted = {number for number, line in enumerate(SAMPLE.splitlines(), 1) if "# wrong" in line}
    assert found == wanted, out
