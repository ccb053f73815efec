"""docs/history.md: its commands run as they stand there, beside a server, and show what the page says."""

from __future__ import annotations

import asyncio
import datetime
import re
import shlex
import sys
from pathlib import Path

import pytest

from recoverable import Arena, recoverable
from recoverable.cli._app import run

PAGE = (Path(__file__).parents[2] / "docs/history.md").read_text()


@pytest.mark.slow
def test_the_commands_of_the_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of its shell blocks does what is said beside it."""
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    program = re.search(r"^```python\n# checks.py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert program is not None
    (tmp_path / "checks.py").write_text(program[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "checks", raising=False)
    with Arena.open(name, "16 MiB", journal=tmp_path / "journal", durable="disk", compact=False) as arena:

        @recoverable(arena=arena)
        async def transfer(amount: int) -> None:
            accounts = arena.root.setdefault("accounts", {"ann": 100, "bob": 100, "eve": 100})
            accounts["ann"] -= amount
            accounts["bob"] += amount if amount != 13 else 12

        for amount in 0, 5, 13, 7:
            asyncio.run(transfer(amount))
        first, *_, bad, last = sorted(commit.seq for commit in arena.history.commits())
        at = datetime.datetime.now().astimezone().replace(tzinfo=None).isoformat()
        told = {}
        for line in lines:
            text = line.replace("4700", str(first)).replace("2026-05-31T12:00:00", at)
            text = text.replace("4711", str(bad if " show " in text else last))
            words = shlex.split(re.sub(r"(?<![\w/.])shop(?![\w/.])", name, text), comments=True)
            code = run(words[1:])
            printed = capsys.readouterr()
            assert code == 0, (words, printed.err)
            told[line.split()[1]] = printed.out
        assert f"commit {bad} is the first bad one" in told.pop("bisect")
        assert "root['accounts']['bob']: 105 -> 117" in told.pop("show")
        assert "~ root['accounts']['bob']: 117 -> 124" in told.pop("log")
        assert str(last) in told.pop("blame")
        assert told.pop("diff").count("\n") == 2
        assert "88" not in told["inspect"]
        assert "75" in told.pop("inspect")
        assert not told, "commands that nobody has looked at"
        assert run(["log", str(tmp_path / "journal")]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 5
    Arena.unlink(name)
