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

from recoverable import Arena, ArenaOptionError, Dict, codecs
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
    2.5,
    math.inf,
    -math.inf,
    math.nan,
    'it\'s "a" \ud800 \n key',
    b"bytes",
    Decimal("1.10"),
    Decimal("NaN"),
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
]


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as made:
        yield made


def test_each_type_of_a_key_is_among_them() -> None:
    """Of those that arenas know without a codec."""
    assert {type(key) for key in KEYS} == {*codecs.BASES, type(None), bool}


@given(st.lists(leaves, max_size=3))
@example([math.nan, (Decimal("NaN"), math.nan)])
def test_what_is_shown_is_read_as_it_was(keys: list[Any]) -> None:
    """To the same keys; NaN included, which nothing equals otherwise."""
    path = Place()
    for key in keys:
        path = path.to(Dict(), key)
    back = Place.parse(str(path))
    assert back == path
    assert [type(key) for key in back.keys] == [type(key) for key in path.keys]
    assert Place.parse(str(path.to(Dict(), 1))).is_within(back)


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
    for commit in list(history.commits())[: len(KEYS)]:
        (shown,) = history.changed_by(commit).differences
        for path in shown.path, str(shown.path):
            assert [(each.before, each.after) for each in history.diff(commit.seq - 1, commit, path)] == [(0, 1)]
            assert [change.commit for change in history.changes(path)][:-1] == [commit]
            assert history.last_writer(path) == commit
        for command in "blame", "log":
            capsys.readouterr()
            assert run([command, folder, *["--path"] * (command == "log"), str(shown.path), "--json"]) == 0
            first = json.loads(capsys.readouterr().out)[0]
            assert first.get("commit", first)["seq"] == commit.seq


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
