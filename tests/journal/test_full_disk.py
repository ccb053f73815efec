"""A disk that is really full: a small file system of its own, in a mount namespace that ends with the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recoverable import Arena

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from recoverable import Arena, FeedFullError, InDoubtError
from recoverable._native import journal as native_journal

name, disk, how = sys.argv[1:]
native_journal.file_size(256 * 1024)
arena = Arena.open(name, size="8 MiB", journal=disk + "/journal", feed="1 MiB", busy_timeout=60 if how == "few" else 0.3)
with arena.transaction():
    arena.root["n"] = 0
asyncio.run(arena.durable())
with open(disk + "/ballast", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass

async def put():
    arena.root["n"] += 1
    arena.root["blob"] = os.urandom(60_000)

try:
    for _ in range(12 if how == "few" else 200):  # what the feed has room for; four times what it and the disk have
        asyncio.run(arena.run(put))
except FeedFullError:
    print("full", flush=True)
if how == "room":
    Path(disk, "ballast").unlink()
    asyncio.run(arena.run(put, durable="disk"))
    print("durable", flush=True)
arena.close()
print("closed", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("full", ["full", "closed"]),
        ("few", ["closed"]),  # the thread that writes gives up before `busy_timeout` is over
        ("room", ["full", "durable", "closed"]),
    ],
)
def test_it_says_so_and_closes_and_goes_on_when_there_is_room(
    name: str, tmp_path: Path, how: str, said: list[str]
) -> None:
    """Requests fail by name when the feed is full, too; closing does not wait for a disk that stays full."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0
    ):
        pytest.skip("needs a mount namespace of its own")
    script = 'mount -t tmpfs -o size=3m none "$2" && exec "$0" -W ignore -c "$1" "$3" "$2" "$4"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, PROGRAM, str(tmp_path), name, how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == said, done.stderr
    assert done.stderr.count("journal.abandoned") == (how != "room"), done.stderr  # what it could not write is told of
    Arena.unlink(name)
