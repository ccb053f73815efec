"""`recoverable log`, `blame`, `show`, `diff`, `inspect --at`: the past, from a server's name and from a folder alone."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Array, Counter, Deque, Record, recoverable
from recoverable._native import journal as native_journal
from recoverable.cli._app import run
from recoverable.history import History
from support.commands import child, command_json


class Account(Record, name="tests.cli.history.Account"):
    owner: str
    marks: Any


def work(name: str, folder: Path) -> None:
    """Make a journal of six commits, by three handlers."""
    with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:

        @recoverable(arena=arena, durable="disk")
        async def opens() -> None:
            arena.root["accounts"] = {"ann": 100, "bob": 100}

        @recoverable(arena=arena, durable="disk")
        async def pays(amount: int) -> None:
            arena.root["accounts"]["ann"] -= amount
            arena.root["accounts"]["bob"] += amount if amount != 13 else 12

        @recoverable(arena=arena, durable="disk")
        async def decorates() -> None:
            arena.root["best"] = Account(owner="ann", marks=[1, 2])
            arena.root["text"] = "x" * 1000
            arena.root["kinds"] = {"set": {1}, "pair": (1, b"x"), 5: float("inf"), "queue": Deque([1]), "n": Counter(3)}
            arena.root["grid"] = Array((2, 3), "i4")

        @recoverable(arena=arena, durable="disk")
        async def forgets() -> None:
            del arena.root["text"]
            arena.root["grid"][1, 2] = 9

        async def main() -> None:
            await opens()
            for amount in 5, 13, 7:
                await pays(amount)
            await decorates()
            await forgets()

        asyncio.run(main())
    Arena.unlink(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a journal that nobody writes."""
    path = tmp_path_factory.mktemp("history") / "journal"
    native_journal.file_size(256 * 1024)
    work(f"test-history-{os.getpid()}", path)
    native_journal.file_size(64 * 1024**2)
    return str(path)


@pytest.fixture
def seqs(folder: str) -> list[int]:
    """Give the numbers of its commits, the oldest first."""
    with History.open(folder) as history:
        return [commit.seq for commit in history.commits()][::-1]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: its exit code, and what it wrote."""

    def ask(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(each) for each in arguments])
        return code, *capsys.readouterr()

    return ask


Ask = Callable[..., tuple[int, str, str]]


def last_words(line: str) -> str:
    """Return the name of a handler without where it was defined."""
    return line.rpartition(".")[2]


# -- log ---------------------------------------------------------------------------------------------------------------------


def test_log_lists_the_newest_first(ask: Ask, folder: str, seqs: list[int]) -> None:
    """All commits, the newest first, with local times; -n bounds them and says that there are more."""
    code, out, err = ask("log", folder)
    rows = [line.split() for line in out.splitlines()[1:]]
    assert (code, err, [int(row[0]) for row in rows]) == (0, "", seqs[::-1])
    assert [last_words(row[2]) for row in rows] == ["forgets", "decorates", "pays", "pays", "pays", "opens"]
    at = datetime.datetime.fromisoformat(rows[0][1])
    assert at.utcoffset() == datetime.datetime.now().astimezone().utcoffset()
    code, out, err = ask("log", folder, "-n", 2)
    assert (code, len(out.splitlines()), "-n 4" in err) == (0, 3, True)
    code, out, err = ask("log", folder, "-n", 0)
    assert (code, err, [int(line.split()[0]) for line in out.splitlines()]) == (0, "", seqs[::-1])


def test_log_filters(ask: Ask, folder: str, seqs: list[int]) -> None:
    """By path, with what has changed there; by handler; by numbers and times that an earlier log has shown."""
    code, out, _ = ask("log", folder, "--path", "accounts/bob")
    assert code == 0
    assert [line.split("bob']: ")[1] for line in out.splitlines()[1:]] == [
        "117 -> 124",
        "105 -> 117",
        "100 -> 105",
    ] or out
    found = json.loads(ask("log", folder, "--path", "root['accounts']['bob']", "--json")[1])
    assert [(each["differences"][0]["before"], each["differences"][0]["after"]) for each in found[:3]] == [
        (117, 124),
        (105, 117),
        (100, 105),
    ]
    handler = found[0]["handler"]
    assert [each["seq"] for each in json.loads(ask("log", folder, "--handler", handler, "--json")[1])] == seqs[3:0:-1]
    _, out, _ = ask("log", folder, "--since", seqs[2], "--until", seqs[4])
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [int(row[0]) for row in rows] == seqs[4:1:-1]
    for zone in "local", "utc":
        times = [datetime.datetime.fromisoformat(row[1]) for row in rows]
        since, until = (
            each.replace(tzinfo=None).isoformat(" ")
            if zone == "local"
            else each.astimezone(datetime.UTC).isoformat()[:-6] + "Z"
            for each in (times[-1], times[0])
        )
        _, again, _ = ask("log", folder, "--since", since, "--until", until)
        assert [line.split() for line in again.splitlines()[1:]] == rows
    assert len(json.loads(ask("log", folder, "--since", "1h", "--json")[1])) == 6


def test_nothing_to_show_is_said(ask: Ask, folder: str) -> None:
    """On standard error, with 0: a program that reads the results gets none."""
    assert ask("log", folder, "--handler", "nobody") == (0, "", "no such commit in the history that is kept\n")
    assert ask("log", folder, "--until", "9000d")[:2] == (0, "")
    code, out, _ = ask("log", folder, "--handler", "nobody", "--json")
    assert (code, json.loads(out)) == (0, [])
    assert ask("diff", folder, "..1")[::2] == (0, "nothing is different\n")


# -- blame, show, diff -------------------------------------------------------------------------------------------------------


def test_blame_names_the_last_writer_of_each_entry(ask: Ask, folder: str, seqs: list[int]) -> None:
    """Of a container each entry; of a value itself; of what is gone who has removed it."""
    found = json.loads(ask("blame", folder, "--json")[1])
    assert {each["path"]: each["commit"]["seq"] for each in found} == {
        "root['accounts']": seqs[3],
        "root['best']": seqs[4],
        "root['kinds']": seqs[4],
        "root['grid']": seqs[5],
    }
    assert found[0]["value"] == {"ann": 75, "bob": 124}
    code, out, err = ask("blame", folder, "root['accounts']", "--limit", 1)
    assert (code, out.splitlines()[1].split()[:3], err) == (
        0,
        ["root['accounts']['ann']", "75", str(seqs[3])],
        "1 more: --offset, --limit\n",
    )
    code, out, _ = ask("blame", folder, "best/owner")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["root['best'].owner", "'ann'", str(seqs[4])])
    code, out, _ = ask("blame", folder, "root['text']")
    assert (code, out.splitlines()[1].split()[:3]) == (0, ["root['text']", "(nothing)", str(seqs[5])])


def test_show_tells_what_a_commit_has_changed(ask: Ask, folder: str, seqs: list[int]) -> None:
    """By its number, by its time, or the newest; values are bounded in the text and whole in JSON."""
    code, out, _ = ask("show", folder, seqs[2])
    lines = out.splitlines()
    assert (code, lines[0], lines[-2:]) == (
        0,
        f"commit {seqs[2]}",
        ["~ root['accounts']['ann']: 95 -> 82", "~ root['accounts']['bob']: 105 -> 117"],
    )
    at = lines[1].split()[1]
    assert ask("show", folder, at)[1] == out
    assert ask("show", folder)[1].splitlines()[-2:] == [
        f"- root['text']: '{'x' * 78}…",
        "~ root['grid'][1, 2]: 0 -> 9",
    ]
    whole = json.loads(ask("show", folder, seqs[4], "--json")[1])
    after = {each["path"]: each["after"] for each in whole["differences"]}
    assert after["root['text']"] == "x" * 1000
    assert "before" not in whole["differences"][0]
    assert isinstance(after["root['kinds']"], str)  # 5 is no key of JSON


@pytest.mark.parametrize("form", ["{}..{}", "{}..", "..{}", "{}"])
def test_diff_takes_ranges(ask: Ask, folder: str, seqs: list[int], form: str) -> None:
    """Either end may be left out; --path bounds it, and --exit-code tells whether anything is different."""
    first, last = (1 if form == "..{}" else seqs[1]), (seqs[3] if "..{}" in form else seqs[-1])
    text = form.format(*[seqs[3]] if form == "..{}" else (seqs[1], seqs[3]))
    found = json.loads(ask("diff", folder, text, "--json")[1])
    with History.open(folder) as history:
        assert [each["path"] for each in found] == [str(each.path) for each in history.diff(first, last)]
    code, out, _ = ask("diff", folder, text, "--path", "accounts/bob", "--exit-code")
    assert (code, len(out.splitlines())) == (1, 1)
    assert ask("diff", folder, f"{seqs[3]}..{seqs[3]}", "--exit-code")[0] == 0


def test_inspect_at(ask: Ask, folder: str, seqs: list[int]) -> None:
    """The tree as it was after a commit, or at a time, with pages and JSON as of a live one."""
    code, out, _ = ask("inspect", folder, "accounts", "--at", seqs[1])
    assert (code, [line.split()[-1] for line in out.splitlines()[2:]]) == (0, ["95", "105"])
    at = ask("show", folder, seqs[1])[1].splitlines()[1].split()[1]
    assert json.loads(ask("inspect", folder, "accounts/ann", "--at", at, "--json")[1])["value"] == 95
    assert ask("inspect", folder, "best", "--at", seqs[1])[0] == 3


# -- what is wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["log", "{}", "--since", "yesterday"], 2, "neither a commit's number nor a time"),
        (["log", "{}", "--since", "9" * 30], 2, "neither a commit's number nor a time"),
        (["log", "{}", "--path", "root["], 3, "is not a path"),
        (["log", "{}", "--path", "root['accounts'][-1][0]"], 0, ""),
        (["log", "{}", "--path", "no/where"], 3, "has nothing at"),
        (["blame", "{}", "root['nobody']"], 3, "there is nothing at root['nobody']"),
        (["show", "{}", "99999"], 3, "which goes up to commit"),
        (["show", "{}", "0"], 3, "does not go back as far"),
        (["show", "{}", "2001-01-01"], 3, "does not go back as far"),
        (["diff", "{}", "1..x"], 2, "neither a commit's number nor a time"),
        (["diff", "{}", ""], 2, "is no range"),
        (["diff", "{}", "1..99999"], 3, "which goes up to commit"),
        (["inspect", "{}", "--at", "99999"], 3, "which goes up to commit"),
        (["log", "/nowhere/at/all"], 3, "there is no folder"),
        (["log", "/tmp"], 3, "there is no journal in"),
        (["log", "no-such-arena"], 3, "there is no arena named"),
        (["log", "no such arena"], 2, "can't be the name"),
    ],
)
def test_bad_input(ask: Ask, folder: str, arguments: list[str], code: int, says: str) -> None:
    """What can't be is one line on standard error, and an exit code as of the other commands."""
    found, out, err = ask(*(each.format(folder) for each in arguments))
    assert (found, out) == (code, ""), err
    assert says in err
    assert len(err.splitlines()) <= 1 or code == 0


# -- bisect ------------------------------------------------------------------------------------------------------------------

CHECKS = """
from recoverable import Arena

def balanced(root):
    return sum(root["accounts"].values()) == 200 if "accounts" in root else True

def fails(root):
    return root["best"].owner

def writes(root):
    root["n"] = 1

async def waits(root):
    return True

def never(root):
    return False

def exits(root):
    raise SystemExit(3)

def has_no(root):
    return root[10**5000]

number = 5
"""


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a module in the current directory."""
    (tmp_path / "history_checks.py").write_text(CHECKS)
    monkeypatch.chdir(tmp_path)
    path = sys.path[:]
    yield "history_checks"
    sys.path[:] = path
    sys.modules.pop("history_checks", None)


def test_bisect_finds_the_first_bad_commit(ask: Ask, folder: str, seqs: list[int], checks: str) -> None:
    """It says where it is, on standard error, and shows the commit."""
    code, out, err = ask("bisect", folder, f"{checks}:balanced")
    assert (code, out.splitlines()[0], out.splitlines()[-1]) == (
        0,
        f"commit {seqs[2]} is the first bad one",
        "~ root['accounts']['bob']: 105 -> 117",
    )
    assert err.splitlines()[-1] == f"found: {seqs[2]}"
    code, out, err = ask(
        "bisect", folder, f"{checks}:balanced", "--good", seqs[0], "--bad", seqs[3], "--json", "--quiet"
    )
    assert (code, json.loads(out)["seq"], err) == (0, seqs[2], "")


@pytest.mark.parametrize(
    ("function", "options", "code", "says"),
    [
        (
            "fails",
            [],
            1,
            "fails has failed: KeyError: 'best' (history_checks.py:8)|This was asked of the state after commit 1.",
        ),
        ("writes", [], 1, "PastError"),
        ("waits", [], 1, "asynchronous"),
        ("exits", ["--json"], 1, "exits has failed: SystemExit: 3 (history_checks.py:22).|This was asked"),
        ("has_no", [], 1, "has_no has failed: KeyError: 0x"),
        ("never", [], 3, "does not hold for the good state, after commit 1"),
        ("balanced", ["--good", "3", "--bad", "2"], 3, "is not before the bad one|holds for the bad state"),
        ("balanced", ["--good", "x"], 2, "neither a commit's number nor a time"),
        ("nothing", [], 2, "can't be had: AttributeError"),
        ("number", [], 2, "is no function"),
        ("", [], 2, "is not MODULE:FUNCTION"),
    ],
)
def test_what_bisect_can_not_do(
    ask: Ask, folder: str, checks: str, function: str, options: list[str], code: int, says: str
) -> None:
    """A function that fails is told with the state that it was asked of; one that is not there, or knows no bad state, too."""
    found, out, err = ask("bisect", folder, f"{checks}:{function}" if function else checks, *options)
    assert (found, out) == (code, ""), err
    assert any(each in err for each in says.split("|")), err
    assert ask("bisect", folder, "no_such_module:f")[0] == 2


def test_a_module_that_ends_the_program(ask: Ask, folder: str, checks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told as one that can't be imported; from wherever it comes, it does not end the command as if all were well."""
    Path("history_ends.py").write_text("raise SystemExit(0)")
    code, out, err = ask("bisect", folder, "history_ends:f")
    assert (code, out, "can't be had: SystemExit: 0" in err) == (2, "", True)
    monkeypatch.setattr("recoverable.cli._history._function", lambda _: sys.exit(0))
    code, out, err = ask("bisect", folder, "history_ends:f")
    assert (code, out, "has ended the program (SystemExit: 0)" in err) == (1, "", True)


# -- real processes ----------------------------------------------------------------------------------------------------------

SERVER = """
import asyncio, sys
from recoverable import Arena
Arena.open(sys.argv[1] + "-other", "8 MiB", journal=sys.argv[2] + "-other")
with Arena.open(sys.argv[1], "16 MiB", journal=sys.argv[2], compact=False) as arena:
    async def first():
        arena.root["n"] = 1
    asyncio.run(arena.run(first))
    asyncio.run(arena.durable())
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_an_arena_is_found_by_its_name(ask: Ask, name: str, tmp_path: Path) -> None:
    """While a server has it; when nobody has, or it has no journal, the command says what to name instead."""
    server = child(SERVER, name, str(tmp_path / "journal"))
    try:
        assert [each["handler"] for each in command_json("log", name)] == ["first"]
        assert ask("inspect", name, "n", "--at", "1h")[0] == 3
        assert json.loads(ask("blame", name, "--json")[1])[0]["value"] == 1
    finally:
        server.communicate()
    code, _, err = ask("log", name)
    assert (code, "Name the folder instead" in err) == (5, True)
    Arena.unlink(name)
    Arena.unlink(f"{name}-other")
    with Arena.open(name, "8 MiB"):
        code, _, err = ask("log", name)
        assert (code, "has no journal" in err) == (3, True)
    Arena.unlink(name)


@pytest.mark.slow
def test_a_reader_that_has_had_enough(new_name: Callable[[], str], tmp_path: Path) -> None:
    """A pipe that is closed, as by head, ends it in silence."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as arena:
        for n in range(3000):
            with arena.transaction():
                arena.root["n"] = n
        asyncio.run(arena.durable())
    log = subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "log", str(tmp_path / "journal"), "-n", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert log.stdout is not None
    assert log.stderr is not None
    log.stdout.readline()
    log.stdout.close()
    assert (log.wait(timeout=60), log.stderr.read()) == (0, b"")
    log.stderr.close()


@pytest.mark.slow
def test_follow(new_name: Callable[[], str], tmp_path: Path) -> None:
    """`log -f` shows the last commits, the oldest first, and then each that comes to the path; Ctrl-C ends it with 0."""
    folder = str(tmp_path / "journal")
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as arena:

        def put(n: int) -> None:
            with arena.transaction():
                arena.root["n"] = n
            with arena.transaction():
                arena.root["other"] = n
            asyncio.run(arena.durable())

        for n in range(3):
            put(n)
        arguments = ["log", arena.name, "--path", "root['n']", "-f", "-n", "2"]
        log = subprocess.Popen([sys.executable, "-m", "recoverable.cli", *arguments], stdout=subprocess.PIPE, text=True)
        try:
            assert log.stdout is not None
            found = [log.stdout.readline() for _ in range(2)]
            put(3)
            found.append(log.stdout.readline())
            log.send_signal(signal.SIGINT)
            assert (log.wait(timeout=60), log.stdout.read()) == (0, "")
        finally:
            log.kill()
            log.wait()
            log.stdout.close()
    assert [line.split("['n']: ")[1].strip() for line in found] == ["0 -> 1", "1 -> 2", "2 -> 3"]
