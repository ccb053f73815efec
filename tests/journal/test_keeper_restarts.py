"""The keeper in programs that are no Python interpreter, and after an arena was not closed after all."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, TransactionError
from recoverable.journal import keeper


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have journals looked at all the time, and compacted when they have grown by a little."""
    for name, value in {"_LEAST": 256 * 1024, "_LOOK": 0.02, "_BUSY": 0.1, "_AGAIN": 0.1}.items():
        monkeypatch.setattr(keeper, name, value)


def fill(arena: Arena) -> None:
    """Commit what some files hold."""
    for i in range(800):
        with arena.transaction():
            arena.root[f"k{i % 90}"] = {"n": i, "text": str(i) * 20, "list": [i] * (i % 30)}
        if i % 50 == 49:
            asyncio.run(arena.durable())
    asyncio.run(arena.durable())


def told(log: list[dict[str, Any]], *events: str) -> dict[str, Any]:
    """Wait for one of these events, and return it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for each in log:
            if each["event"] in events:
                return each
        time.sleep(0.01)
    raise AssertionError("in vain")


def _another_program(tmp_path: Path) -> str:
    """Return a program that is called as a server that embeds Python is, and does nothing with its arguments."""
    path = tmp_path / "uwsgi"
    path.write_text("#!/bin/sh\necho usage: uwsgi\nexit 1\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("found", [_another_program, lambda _: "", lambda _: None, lambda _: "/none/python3"])
def test_a_server_that_embeds_python(
    name: str, tmp_path: Path, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, found: Callable[[Path], Any]
) -> None:
    """`sys.executable` is that server there, as under uWSGI, or nothing: the child is an interpreter all the same."""
    monkeypatch.setattr(sys, "executable", found(tmp_path))
    monkeypatch.setattr(sys, "_base_executable", found(tmp_path))
    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal") as arena:
        fill(arena)
        event = told(log, "journal.compacted", "journal.compaction_failed")
    assert event["event"] == "journal.compacted", event


def test_where_there_is_no_interpreter_it_says_so(
    name: str, tmp_path: Path, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what to do instead."""
    for attribute, value in {
        "executable": "",
        "_base_executable": "",
        "prefix": "/none",
        "base_prefix": "/none",
    }.items():
        monkeypatch.setattr(sys, attribute, value)
    monkeypatch.setattr(keeper.sysconfig, "get_config_var", lambda _: None)
    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal") as arena:
        fill(arena)
        event = told(log, "journal.compacted", "journal.compaction_failed")
    assert "recoverable journal compact" in event["detail"]


@pytest.mark.slow
def test_it_goes_on_where_closing_was_refused(name: str, tmp_path: Path, log: list[dict[str, Any]]) -> None:
    """Another thread was inside a transaction: the arena stays open, and its journal is written and kept as before."""
    inside, go = threading.Event(), threading.Event()

    def holds() -> None:
        with arena.transaction():
            arena.root["n"] = 1
            inside.set()
            go.wait(20)

    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal") as arena:
        thread = threading.Thread(target=holds)
        thread.start()
        inside.wait(20)
        with pytest.raises(TransactionError):
            arena.close()
        go.set()
        thread.join()
        assert not arena.closed
        fill(arena)
        assert told(log, "journal.compacted", "journal.compaction_failed")["event"] == "journal.compacted"
        assert arena.root["n"] == 1
    assert os.listdir(tmp_path / "journal")  # noqa: PTH208
