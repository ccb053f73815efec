"""What is done with capsules: by the command, in a debugger, as a test; and what explorations of faults leave."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import recoverable as ours
from recoverable import (
    Arena,
    CapsuleError,
    recoverable,
)
from recoverable.capsules import Capsule, Capsules
from recoverable.cli._app import run as command
from recoverable.faults import FaultsFound, explore
from support.capsules import arenas, crashed, current, divide, fails, flush, only


def test_the_command_lists_shows_and_runs_them(
    arena: Arena, capsules: Capsules, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`ls`, `show` and `run` for people and for programs; `run` ends with 1 where it does not fail in the same way."""
    found = crashed(arena, capsules)

    def said(*arguments: str) -> tuple[int, str]:
        code = command(["capsule", *arguments])
        done = capsys.readouterr()
        return code, done.out + done.err

    assert "divide" in said("ls", capsules.folder)[1]
    assert "ZeroDivisionError: division by zero, at capsules.py" in said("ls", capsules.folder)[1]
    (row,) = json.loads(said("ls", capsules.folder, "--json")[1])
    assert (row["error"], row["end"]) == ("ZeroDivisionError", found.end)
    code, shown = said("show", found.file)
    assert code == 0
    assert "Traceback (most recent call last)" in shown
    assert f"steps on commits {found.steps[0][0]}" in shown
    assert json.loads(said("show", found.file, "--json")[1])["handler"] == "divide"
    path = sys.path[:]
    code, ran = said("run", found.file)
    assert sys.path == path
    assert (code, "in the same way" in ran, "not replayed: the time" in ran) == (0, True, True)
    arenas.append(arena)
    data = json.loads(Path(found.file).read_text())
    data["call"]["args"][1]["value"] = {"n": 2}
    Path(found.file).write_text(json.dumps(data))
    code, ran = said("run", found.file)
    assert (code, "it did not fail, and returned 2.0" in ran) == (1, True)
    assert said("run", found.file, "--app", "nowhere:app")[0] == 4
    assert said("show", str(tmp_path / "none"))[0] == 3
    assert found.at.astimezone().isoformat(timespec="microseconds") in said("ls", capsules.folder)[1]
    data["error"]["message"] = data["error"]["traceback"] = "\x1b]0;evil\x07"
    data["runs"] = [{"run": 1, "conflict": None, "error": "ValueError: \x1b[2J"}]
    Path(found.file).write_text(json.dumps(data))
    for shown in said("ls", capsules.folder)[1], said("show", found.file)[1]:
        assert ("\x1b" in shown, r"\x1b]0;evil\x07" in shown) == (False, True)
    assert r"run 1: ValueError: \x1b[2J" in said("show", found.file)[1]
    name = Path(found.file).name
    Path(capsules.folder, name.replace("divide", "folder")).mkdir()
    Path(capsules.folder, name.replace("divide", "wrong")).write_text(json.dumps(data | {"error": {}}))
    code, shown = said("ls", capsules.folder)
    assert (code, "damaged" in shown, "Is a directory" in shown) == (0, True, True)
    (tmp_path / "damaged").write_text("{}")
    assert said("show", str(tmp_path / "damaged"))[0] == 6


def test_the_debugger_stops_inside_of_the_transaction(
    arena: Arena, capsules: Capsules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--pdb` stops where the handler fails: what it has written is there to be looked at, for as long as it takes."""
    arena.step_limit = 30.0
    found = crashed(arena, capsules)
    seen_there = []

    def look(trace: Any) -> None:
        while trace.tb_next is not None:
            trace = trace.tb_next
        seen_there.append(
            (trace.tb_frame.f_locals["before"], trace.tb_frame.f_locals["root"]["a"], current().step_limit)
        )

    monkeypatch.setattr("pdb.post_mortem", look)
    assert command(["capsule", "run", found.file, "--pdb"]) == 0
    assert seen_there == [(4, 5, None)]
    assert arena.step_limit == 30.0


SHOP = """
import asyncio, os
from recoverable import Arena, recoverable
arena = Arena.open(os.environ["SHOP"], journal=os.environ["SHOP_JOURNAL"])
@recoverable(arena=arena)
async def pay(amount):
    arena.root["n"] -= amount
    assert arena.root["n"] >= 0 or not os.environ.get("BUG"), "below zero"
"""


def test_a_test_that_was_made_of_it_fails_until_it_is_mended(
    new_name: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`as_test()` is a pytest function; the program that it imports opens no arena of its own, and leaves none behind."""
    (tmp_path / "shop.py").write_text(SHOP)
    name = new_name()
    env = {"SHOP": name, "SHOP_JOURNAL": str(tmp_path / "journal"), "PYTHONPATH": str(tmp_path), "BUG": "1"}
    program = (
        "import asyncio, shop; from recoverable.capsules import Capsules\n"
        f"Capsules({str(tmp_path / 'capsules')!r}).begin(shop.arena.native)\n"
        "with shop.arena.transaction(): shop.arena.root['n'] = 1\n"
        "async def main():\n    try: await shop.pay(2)\n    except AssertionError: pass\n    await shop.arena.durable()\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | env, check=True, timeout=60)
    Arena.unlink(name)
    (file,) = (tmp_path / "capsules").iterdir()
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.syspath_prepend(tmp_path)
    made: dict[str, Any] = {}
    exec(Capsule.open(file).as_test(), made)
    (test,) = [value for key, value in made.items() if key.startswith("test_pay_of_")]
    try:
        with pytest.raises(AssertionError, match="failed in the same way: AssertionError: below zero"):
            test()
        monkeypatch.setenv("BUG", "")
        test()
    finally:
        sys.modules.pop("shop", None)
    assert not Path(f"/dev/shm/recoverable.{name}").exists()


def test_an_exploration_leaves_a_capsule_for_each_failure(arena: Arena, capsules: Capsules) -> None:
    """Runs that crash as they should are not kept; one that leaves a wrong state is, with its faults and how to run it again."""

    @recoverable(arena=arena)
    async def careful() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    async def careless(arena: Arena) -> None:
        await careful()  # it crashes, too, and leaves nothing wrong
        await asyncio.sleep(0)
        with arena.transaction():
            arena.root["m"] = 1

    with pytest.raises(FaultsFound) as caught:
        explore(careless, arena=arena, points=["line"], capsules=capsules, max_failures=2)
    names = sorted(file.name for file in Path(capsules.folder).iterdir())
    assert len(names) == len(caught.value.report.failures) == 2
    assert [failure.capsule for failure in caught.value.report.failures] == names
    found = Capsule.open(Path(capsules.folder, names[0]))
    assert found.exploration is not None
    assert found.exploration["faults"] == str(caught.value.report.failures[0].plan)
    assert f"capsule: {names[0]}" in str(caught.value)
    with pytest.raises(CapsuleError, match="RECOVERABLE_FAULTS_REPLAY"):
        found.replay()


def test_what_an_injected_fault_has_crashed_is_said_to_be_so(arena: Arena, capsules: Capsules) -> None:
    """A crash under chaos is kept like any other, and its replay says that faults were injected."""
    arenas.append(arena)
    with arena.transaction():
        arena.root["a"] = 4
    with ours.faults.inject("divide", ours.faults.Raise(), at="await"):  # type: ignore[attr-defined]
        fails(divide("a", {"n": 1}))
    flush(arena)
    found = only(capsules)
    assert found.error is not None
    assert found.error["type"] == "InjectedFault"
    assert len(found.steps) == 1
    assert "faults that were injected into its process" in found.lacks
    replay = found.replay()
    assert (replay.same, replay.error) == (False, None)
