"""`recoverable top --waiting`: what other processes tell of their requests, as a table and as JSON."""

from __future__ import annotations

import os

import pytest
from rich.console import Console

from recoverable import Arena, Request
from recoverable.cli import _waiting
from support.commands import command, command_json
from support.hanging import serving


def shown(look: _waiting.Look) -> str:
    """Return what a terminal shows."""
    out = Console(width=200)
    with out.capture() as text:
        out.print(_waiting.screen(look, width=200))
    return text.get()


@pytest.mark.crash
def test_requests_of_another_process(arena: Arena) -> None:
    """They are in the table, with their lines and how long they go on; how many there are is said."""
    with serving(arena, 3) as pid:
        (look,) = _waiting.looks(arena.name, 1, 1)
        assert (look.in_flight, look.silent) == (3, ())
        text = shown(look)
        assert text.count(f" {pid} ") == text.count("in helper") == 3
        assert "3 in flight" in text
    (look,) = _waiting.looks(arena.name, 1, 1)
    assert (look.in_flight, look.requests) == (0, ())


@pytest.mark.slow
@pytest.mark.crash
def test_from_a_process_of_its_own(arena: Arena) -> None:
    """The command asks though it can only read; as JSON it has every field of `arena.requests()`."""
    with serving(arena) as pid:
        done = command("top", arena.name, "--waiting", "--once", env={**os.environ, "FORCE_COLOR": "1"})
        assert done.returncode == 0, done.stderr
        assert str(pid) in done.stdout
        assert "\x1b" not in done.stdout
        told = command_json("top", arena.name, "--waiting", "--once")
        (request,) = told["requests"]
        assert (request["process"], request["handler"], request["run"]) == (pid, "helper", 1)
        assert request.keys() == set(Request.__slots__)
        assert told["name"] == arena.name


def test_what_each_waits_for_is_said_in_words() -> None:
    """Its turn, where and behind whom; a privileged run; the lock. A process that is silent is named, with what it is in."""
    common = ("id", 2, 3, "/srv/shop.py:12 in sell", False)
    requests = (
        Request("sell", 7, 1.5, *common, "turn", 0.25, "buy", 9, "root['stock']", "'tea'"),
        Request("sell", 7, 1.4, *common, "privilege", 0.2, None, 9, None, None),
        Request("sell", 7, 1.3, *common, "lock", 0.1, None, 0, None, None),
        Request("sell", 7, 1.2, "id", 1, 0, None, False, None, 0.0, None, 0, None, None),
        Request("nightly", 8, 1.1, None, 1, 1, None, True, "lock", 0.1, "sell", 7, None, None, "block"),
    )
    text = shown(_waiting.Look(0.0, "shop", 99, requests, (5, 6), 6, "report"))
    assert "its turn at root['stock'], 'tea', behind buy (9), 0.2 s so far" in text
    assert "a privileged run, behind ? (9), 0.2 s so far" in text
    assert "the lock, 0.1 s so far" in text
    assert "process 5 does not answer" in text
    assert "process 6 does not answer: it is inside a step, of report" in text
    assert "nightly (block)" in text
    assert "sell (" not in text.replace("sell (7)", "")
    assert "94 more" in text
