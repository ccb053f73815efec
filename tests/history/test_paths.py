"""Paths that are shown can be given back, whatever their keys are, to the history and to the command."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recoverable import Arena, ArenaOptionError, Deque, Dict, codecs
from recoverable.cli import _inspect
from recoverable.cli._app import run
from recoverable.history.places import Path as Place
from support.states import leaves

NOON = dt.datetime(2026, 1, 2, 12, 30, 1, 5, dt.UTC)
LATER, EVENING = NOON.replace(hour=13), NOON.replace(hour=18)
KEYS = [
    None,
    True,
    -3,
    2**70,
    10**4400,  # of more digits than Python writes
    -(10**4400),
    2.5,
    math.inf,
    -math.inf,
    math.nan,
    -math.nan,  # another key of an arena
    'it\'s "a" \ud800 \n key',
    b"bytes",
    Decimal("1.10"),
    Decimal("NaN"),
    Decimal("-NaN"),
    UUID(int=7),
    NOON,
    NOON.replace(tzinfo=None),
    LATER.astimezone(dt.timezone(dt.timedelta(hours=2, seconds=1))),
    EVENING.astimezone(ZoneInfo("Europe/Berlin")).replace(fold=1),
    NOON.date(),
    NOON.time(),
    NOON.timetz(),
    dt.timedelta(days=-1, microseconds=5),
    (),
    (1,),
    ("a", (UUID(int=7), math.nan, -math.inf), NOON.date()),
    (10**4400, -math.nan),
]


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as made:
        yield made


def test_each_type_of_a_key_is_among_them() -> None:
    """Of those that arenas know without a codec."""
    assert {type(key) for key in KEYS} == {*codecs.BASES, type(None), bool}


def of_plain_nans(key: Any) -> Any:
    """Return a key without what else a NaN may have than its sign: text does not tell it."""
    if isinstance(key, tuple):
        return tuple(map(of_plain_nans, key))
    return math.copysign(math.nan, key) if isinstance(key, float) and key != key else key


@given(st.lists(leaves, max_size=3))
@example([math.nan, (Decimal("NaN"), math.nan)])
@example([-math.nan, (Decimal("-NaN"), -math.nan), 10**4400, (-(10**4400),)])
def test_what_is_shown_is_read_as_it_was(keys: list[Any]) -> None:
    """To the same keys; NaN included, which nothing equals otherwise."""
    path = Place()
    for key in map(of_plain_nans, keys):
        path = path.to(Dict(), key)
    back = Place.parse(str(path))
    assert back == path
    assert [type(key) for key in back.keys] == [type(key) for key in path.keys]
    assert Place.parse(str(path.to(Dict(), 1))).is_within(back)


@pytest.mark.slow
def test_paths_with_such_keys(arena: Arena, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Lead there in the history, and in the command, as what it has shown."""
    with arena.transaction():
        arena.root["d"] = {key: {"n": 0} for key in KEYS}
    assert len(arena.root["d"]) == len(KEYS)
    for key in KEYS:
        with arena.transaction():
            arena.root["d"][key]["n"] = 1
    asyncio.run(arena.durable(timeout=30))
    history, folder = arena.history, str(tmp_path / "journal")
    commits = list(history.commits())
    for commit in commits[: len(KEYS)]:
        (shown,) = history.changed_by(commit).differences
        for path in shown.path, str(shown.path):
            assert [(each.before, each.after) for each in history.diff(commit.seq - 1, commit, path)] == [(0, 1)]
            assert len(history.diff(commit.seq - 1, commit)) == 1
            assert [change.commit for change in history.changes(path)][:-1] == [commit]
            assert history.last_writer(path) == commit
        holder = str(shown.path).removesuffix("['n']")
        for command in ["blame"], ["log", "--path"], ["inspect", "--at", str(commit.seq)]:
            for path in str(shown.path), holder:
                capsys.readouterr()
                assert run([command[0], folder, *command[1:], path, "--json"]) == 0
                out = json.loads(capsys.readouterr().out)
                if command[0] == "inspect":
                    assert out["path"] == path
                    assert out.get("value", 1) == 1
                else:
                    assert out[0].get("commit", out[0])["seq"] == commit.seq
    capsys.readouterr()
    last = str(commits[0].seq)
    for command in (
        ["blame"],
        ["log"],
        ["log", "--path", "d"],
        ["show"],
        ["diff", "2.."],
        ["inspect", "--at", last, "d"],
    ):
        for form in [], ["--json"]:
            assert run([command[0], folder, *command[1:], *form]) == 0, command
            assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    "text",
    [
        "f()",
        "UUID()",
        "UUID(7)",
        "UUID('x')",
        "Decimal('x')",
        "datetime.date(1, 1)",
        "datetime.timedelta(10**10)",
        "datetime.timedelta(9999999999)",
        "zoneinfo.ZoneInfo('no/where')",
        "zoneinfo.ZoneInfo('../../etc/passwd')",
        "UUID(**{'int': 7})",
        "UUID(*[1])",
        "UUID",
        "-x",
        "datetime.datetime.now()",
        "__import__('os')",
        "(f(), 1)",
    ],
)
def test_what_is_no_key(text: str) -> None:
    """Is refused, and nothing of it is run."""
    with pytest.raises(ArenaOptionError, match="is no path"):
        Place.parse(f"root[{text}]")
    with pytest.raises(_inspect.PathError, match="is not a path"):
        _inspect.parse(f"root[{text}]")
    with pytest.raises(KeyError):
        _ = _inspect.parse(f"a/{text.replace('/', '')}")[1].literal


# -- what keys become as time goes by ----------------------------------------------------------------------------------------


def test_a_key_that_was_negative_where_a_list_is_now(
    arena: Arena, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Is followed while it was there; of a position that counts from the end it is said that there was nothing."""
    for x in {-1: "debit", 1: "credit"}, {-1: "other", 1: "credit"}, ["debit", "credit"]:
        with arena.transaction():
            arena.root["x"] = x
    with arena.transaction():
        arena.root["x"][1] = "both"
    asyncio.run(arena.durable(timeout=30))
    history, folder = arena.history, str(tmp_path / "journal")
    newest, *commits = list(history.commits())[:4]
    path = history.diff(commits[2], commits[1])[0].path
    assert str(path) == "root['x'][-1]"
    for asked in path, str(path):
        assert [change.commit for change in history.changes(asked)] == commits
        assert history.last_writer(asked) == commits[0]
        assert [each.after for each in history.diff(commits[2], commits[1], asked)] == ["other"]
    assert list(history.changes(path, since=newest)) == []
    assert history.diff(commits[0], newest, path) == []
    history.watch(path).close()
    for ask in (
        lambda text: list(history.changes(text, since=newest)),
        lambda text: history.diff(commits[0], newest, text),
        lambda text: history.watch(text),
    ):
        with pytest.raises(ArenaOptionError, match="negative position"):
            ask(str(path))
    assert run(["log", folder, "--path", str(path), "--json"]) == 0
    assert [each["seq"] for each in json.loads(capsys.readouterr().out)] == [each.seq for each in commits]
    assert run(["blame", folder, str(path)]) == 0
    assert run(["blame", folder, "root['x'][-2]"]) == 2
    assert "negative position" in capsys.readouterr().err


def test_a_key_that_equals_nothing(arena: Arena, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Is found by each commit that has put a value there, and told of by no other."""
    keys = [math.nan, -math.nan, Decimal("NaN"), Decimal("-NaN"), (math.nan, 1), (-math.nan, 1)]
    with arena.transaction():
        arena.root["d"] = {**dict.fromkeys(keys, 0), "n": 0}
    for key in [*keys, "n"]:
        with arena.transaction():
            arena.root["d"][key] = 1
    asyncio.run(arena.durable(timeout=30))
    history, folder = arena.history, str(tmp_path / "journal")
    *commits, first = list(history.commits())[: len(keys) + 2]
    assert len(history.diff(first, commits[0])) == len(keys) + 1
    for commit in commits:
        (difference,) = history.diff(commit.seq - 1, commit)
        assert history.changed_by(commit).differences == (difference,)
        for path in difference.path, str(difference.path):
            assert [change.commit for change in history.changes(path)] == [commit, first]
            assert history.last_writer(path) == commit
    assert run(["blame", folder, "d", "--json"]) == 0
    blamed = json.loads(capsys.readouterr().out)
    assert [each["commit"]["seq"] for each in blamed] == [commit.seq for commit in reversed(commits)]


def test_a_key_that_equals_the_one_before_it(arena: Arena) -> None:
    """Is another key all the same, which has come where that has gone."""
    with arena.transaction():
        arena.root.update({"d": {1: "same", 2: {"n": 0}}, "s": {1}, "same": {1: 0}})
    with arena.transaction():
        del arena.root["d"][1], arena.root["d"][2]
        arena.root["d"].update({True: "same", 2.0: {"n": 1}})
        arena.root["s"].remove(1)
        arena.root["s"].add(True)
        arena.root["same"][True] = 1  # Python keeps the key that is there
    asyncio.run(arena.durable(timeout=30))
    history = arena.history
    newest = next(history.commits())
    expected = [
        "root['d'][1]: 'same' -> (nothing)",
        "root['d'][2.0]: (nothing) -> {'n': 1}",
        "root['d'][2]: {'n': 0} -> (nothing)",
        "root['d'][True]: (nothing) -> 'same'",
        "root['s'][1]: True -> (nothing)",
        "root['s'][True]: (nothing) -> True",
        "root['same'][1]: 0 -> 1",
    ]
    assert sorted(map(str, history.diff(newest.seq - 1, newest))) == expected
    assert sorted(map(str, history.changed_by(newest).differences)) == expected
    assert history.last_writer("root['d'][1]") == newest


# -- values that can't be written ----------------------------------------------------------------------------------------------


class Odd:
    """Can be stored, and not be shown."""

    def __repr__(self) -> str:
        raise LookupError


codecs.register_codec(Odd, lambda _: b"", lambda _: Odd(), "tests.history.Odd")
LONG = 10**4400


def test_a_value_that_python_does_not_write(arena: Arena, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Is told, wherever in another it is: an int of too many digits in hex, and of what has a bad repr() that it has."""
    values = {
        "n": LONG,
        "l": [-LONG, (LONG,)],
        "d": {LONG: [0]},
        "s": {LONG},
        "q": Deque([LONG], 2),
        "odd": Odd(),
        "in": [Odd()],
    }
    with arena.transaction():
        arena.root.update(values)
    asyncio.run(arena.durable(timeout=30))
    told = {str(each.path): str(each) for each in arena.history.changed_by(arena.history.newest).differences}
    number = hex(LONG)
    for name, text in {
        "n": number,
        "l": f"[-{number}, ({number},)]",
        "d": f"{{{number}: [0]}}",
        "s": f"[{number}]",
        "q": f"[{number}]",
        "odd": "<Odd: its repr() raises LookupError>",
        "in": "[<Odd: its repr() raises LookupError>]",
    }.items():
        assert told[f"root['{name}']"] == f"root['{name}']: (nothing) -> {text}"
    assert number in repr(list(arena.history.changes("root['n']")))
    folder, last = str(tmp_path / "journal"), str(arena.history.newest)
    for command in (
        ["blame"],
        ["blame", "n"],
        ["log", "--path", "n"],
        ["show"],
        ["diff", "1.."],
        ["inspect", "--at", last, "n"],
    ):
        for form in [], ["--json"]:
            capsys.readouterr()
            assert run([command[0], folder, *command[1:], *form]) == 0, command
            assert number[:40] in capsys.readouterr().out
    assert run(["inspect", arena.name, "l", "--depth", "3", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [each["value"] for each in entries] == [f"-{number}", f"({number},)"]
    assert run(["inspect", arena.name, f"root[{number}]"]) == 3
