"""A process that was forked after the arena was opened, and may not open it again: gunicorn's worker with another user."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from recoverable import Arena
from recoverable.aiohttp import setup
from support.forks import in_child

pytestmark = pytest.mark.crash


def lose(arena: Arena) -> None:
    """Make it so that this process may not open the arena: as another user, or, of one user, by the file's mode."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    else:
        Path(f"/dev/shm/recoverable.{arena.name}").chmod(0)


def test_first_use_names_the_user(arena: Arena) -> None:
    """Its first use is an ArenaPermissionError that says what to do; the parent's state is as it was."""
    with arena.transaction():
        arena.root["n"] = 1

    def child() -> None:
        lose(arena)
        with arena.transaction():
            arena.root["n"] = 2

    ending = in_child(child)
    assert f"ArenaPermissionError: arena {arena.name!r} was opened before a fork".replace("'", '"') in ending.error
    assert "nothing was changed; open it after the fork, as its user" in ending.error
    assert arena.root["n"] == 1
    assert arena.processes() == [os.getpid()]


@pytest.mark.parametrize("protect", ["decorated", "all"])
def test_application_does_not_start(arena: Arena, protect: str) -> None:
    """An application that is set up with such an arena does not start, where gunicorn would wait for it to serve."""
    app = web.Application()
    setup(app, arena, protect=protect)  # type: ignore[arg-type]

    async def serve() -> None:
        async with TestServer(app):
            raise AssertionError("it has started")

    def child() -> None:
        lose(arena)
        asyncio.run(serve())

    assert "ArenaPermissionError" in in_child(child).error
