"""The next file is ready when it is needed, also where a server never rests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import _switches
from recoverable._native import journal as native_journal
from recoverable.journal.folder import Folder

_SIZE = 32 * 1024**2


@pytest.mark.slow
@pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")
def test_a_server_that_never_rests_gets_a_file_without_holes(name: str, tmp_path: Path) -> None:
    """Each batch is there when the one before it ends: the file behind the first one is one that was written with zeros."""
    native_journal.file_size(_SIZE)
    folder = Folder(tmp_path / "journal", create=True)
    with Arena.open(name, "64 MiB", journal=folder.path, feed="64 MiB", busy_timeout=60) as arena:
        _switches.crash_hold("journal.written")
        try:
            for n in range(40):
                with arena.transaction():
                    arena.root["blob"] = bytes([n]) * 1_000_000
        finally:
            _switches.crash_hold(None)
        asyncio.run(arena.durable())
        assert folder.files() == [1, 2]
        status = Path(folder.file_path(2)).stat()
        assert status.st_size == _SIZE
        assert status.st_blocks * 512 >= _SIZE
    Arena.unlink(name)
