"""What an arena refuses, each with its error: names, sizes, options, damaged segments, no room, misuse."""
# what raises is a `with` block: its body is the point

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import posix_ipc
import pytest

from recoverable import (
    Arena,
    ArenaBusyError,
    ArenaCorruptError,
    ArenaFullError,
    ArenaNotFoundError,
    ArenaOptionError,
    ArenaPermissionError,
    ArenaVersionError,
    NoTransactionError,
    RecoverableError,
    recoverable,
)
from recoverable._options import human_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable


def segment(name: str) -> Path:
    """Return the file behind an arena."""
    return Path(f"/dev/shm/recoverable.{name}")


@pytest.mark.parametrize("bad", ["", "a/b", "..", ".", "ä", "a b", "a" * 101, "a\0b", "a\n", None, 7, b"x"])
def test_a_bad_name_is_refused(bad: Any) -> None:
    """Names that can't be are a RecoverableError that is also a ValueError."""
    for call in (Arena.open, Arena.unlink):
        with pytest.raises(ArenaOptionError, match="can't be the name") as raised:
            call(bad)
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, RecoverableError)


@pytest.mark.parametrize(
    "bad",
    ["", "big", "12 XB", "1e9", "-1", "0", "1,5 GB", "12 MiBs", 0, -1, 1.5, True, b"1", "9999999 TiB", 2**63, "1_0"],
)
def test_a_bad_size_is_refused(name: str, bad: Any) -> None:
    """Sizes that can't be are refused by name, for each option that takes one."""
    for option in ("size", "undo_size"):
        with pytest.raises(ArenaOptionError, match=f"^{option}=") as raised:
            Arena.open(name, **{option: bad})
        assert isinstance(raised.value, ValueError)
    assert not segment(name).exists()


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [(4096, 4096), ("4096", 4096), ("64 KiB", 65536), ("64kib", 65536), (" 1.5 MiB ", 1572864), ("2 MB", 2_000_000)],
)
def test_sizes_are_integers_or_text(text: Any, bytes_: int) -> None:
    """KiB and the like are powers of 1024, KB and the like of 1000."""
    assert parse_size(text) == bytes_


def test_sizes_are_written_for_people() -> None:
    """`human_size` uses the largest unit that fits."""
    assert [human_size(n) for n in (0, 1023, 1024, 1536, 256 * 1024**2, 3 * 1024**4)] == [
        *("0 B", "1023 B", "1 KiB", "1.5 KiB", "256 MiB", "3 TiB")
    ]


@pytest.mark.parametrize(
    ("option", "bad", "words"),
    [
        ("tracking", "none", "hybrid"),
        ("policy", "best", "'adaptive'"),
        ("policy", None, "'adaptive'"),
        ("policy", "oracle", "recording"),
        ("policy_options", {"epochs": 5}, "'adaptive' has no option 'epochs'.*'patience'"),
        ("policy_options", {"patience": "long"}, "'long' is not a number"),
        ("policy_options", {"patience": -1}, "from 0 to"),
        ("busy_timeout", -1, "seconds"),
        ("busy_timeout", float("nan"), "seconds"),
        ("busy_timeout", "5", "seconds"),
    ],
)
def test_a_bad_option_is_refused(name: str, option: str, bad: Any, words: str) -> None:
    """Options that can't be are refused before anything is made."""
    with pytest.raises(ArenaOptionError, match=words):
        Arena.open(name, **{option: bad})
    assert not segment(name).exists()


def test_a_tiny_size_is_rounded_up(name: str) -> None:
    """A size below what an arena needs for itself gives the smallest arena that works."""
    with Arena.open(name, 1) as arena, arena.transaction():
        arena.root["a"] = 1
    with Arena.open(name, 1) as arena:
        assert arena.root["a"] == 1


def test_more_than_shared_memory_holds_is_refused(name: str) -> None:
    """A size above what /dev/shm holds is a full arena, and leaves no object."""
    with pytest.raises(ArenaFullError, match=r"/dev/shm holds") as raised:
        Arena.open(name, "16 TiB")
    assert isinstance(raised.value, MemoryError)
    assert not segment(name).exists()


def test_a_missing_arena_is_not_made_without_create(name: str) -> None:
    """`create=False` on a name that is not there is `ArenaNotFoundError`."""
    with pytest.raises(ArenaNotFoundError, match=name):
        Arena.open(name, create=False)
    assert not segment(name).exists()


def test_unlinking_what_is_not_there_is_an_error(name: str) -> None:
    """`unlink` of a missing arena is `ArenaNotFoundError`."""
    with pytest.raises(ArenaNotFoundError):
        Arena.unlink(name)


def test_a_half_made_object_is_made_anew(name: str) -> None:
    """An object without content, left by a creator that died, is no arena yet and is finished by the next."""
    posix_ipc.SharedMemory(f"/recoverable.{name}", posix_ipc.O_CREX, mode=0o600, size=0).close_fd()
    with pytest.raises(ArenaNotFoundError):
        Arena.open(name, create=False)
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root["a"] = 1


def test_a_scribbled_header_is_refused(name: str) -> None:
    """A header that is no header, and was one, is never formatted over."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root["a"] = 1
    with segment(name).open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 120)
    with pytest.raises((ArenaCorruptError, ArenaVersionError)):
        Arena.open(name)
    assert segment(name).exists()


def test_a_truncated_segment_is_refused(name: str) -> None:
    """A segment that is shorter than its header says is damaged."""
    Arena.open(name, "4 MiB").close()
    os.truncate(segment(name), segment(name).stat().st_size // 2)
    with pytest.raises(ArenaCorruptError):
        Arena.open(name)


def test_another_format_version_is_refused(name: str) -> None:
    """The word after the magic is the format version: another one is `ArenaVersionError`."""
    Arena.open(name, "4 MiB").close()
    with segment(name).open("r+b") as file:
        file.seek(8)
        file.write((77).to_bytes(4, "little"))
    with pytest.raises(ArenaVersionError):
        Arena.open(name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a segment to another user")
def test_another_users_segment_is_refused(name: str) -> None:
    """A segment of another uid is `ArenaPermissionError`, for root too, and stays as it is."""
    Arena.open(name, "4 MiB").close()
    os.chown(segment(name), 12345, 12345)
    with pytest.raises(ArenaPermissionError) as raised:
        Arena.open(name)
    assert isinstance(raised.value, PermissionError)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_segment_that_the_system_keeps_closed_is_refused(name: str) -> None:
    """Where the system does not let a user open the object, that is `ArenaPermissionError`, for `unlink` too."""
    Arena.open(name, "4 MiB").close()
    results = []
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(12345)
        for call in (lambda: Arena.open(name), lambda: Arena.unlink(name)):
            try:
                call()
            except BaseException as error:
                os.write(write, f"{type(error).__name__}\n".encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        results = pipe.read().split()
    assert results == ["ArenaPermissionError", "ArenaPermissionError"]


def test_a_held_file_lock_is_waited_for_within_bounds(name: str) -> None:
    """Somebody who keeps opening for ever is `ArenaBusyError` after `busy_timeout`, not a hang."""
    Arena.open(name, "4 MiB").close()
    with segment(name).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ArenaBusyError):
            Arena.open(name, busy_timeout=0.05)


def test_an_object_unlinked_while_waited_for_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the file lock of an object that lost its name meanwhile starts anew with the name."""
    Arena.open(name, "4 MiB").close()
    flock, calls = fcntl.flock, []

    def unlink_first(fd: int, operation: int) -> None:
        if not calls:
            segment(name).unlink()
        calls.append(operation)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", unlink_first)
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root["a"] = 1
    with Arena.open(name, create=False) as arena:
        assert arena.root["a"] == 1
    Arena.unlink(name)
    calls.clear()
    Arena.open(name, "4 MiB").close()
    calls.clear()
    with pytest.raises(ArenaNotFoundError):
        Arena.unlink(name)


def test_a_full_arena_leaves_the_state_before_the_handler(arena: Arena) -> None:
    """A transaction that runs out of room raises `ArenaFullError`, leaves nothing, and the next one works."""
    with arena.transaction():
        arena.root["kept"] = 1
    with pytest.raises(ArenaFullError), arena.transaction():
        for number in range(1000):
            arena.root[number] = b"x" * 100_000
    assert dict(arena.root.items()) == {"kept": 1}
    with arena.transaction():
        arena.root["after"] = b"x" * 100_000
    arena.verify()


def _small_tmpfs(folder: Path) -> str | None:
    """Mount a tmpfs of 2 MiB as /dev/shm in a mount namespace of its own, and run a program there."""
    if shutil.which("unshare") is None or os.getuid() != 0:
        return "unshare is not there, or this is not root"
    test = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return None if test.returncode == 0 else test.stderr.decode()


def test_a_full_dev_shm_is_an_arena_full_error(tmp_path: Path) -> None:
    """With a /dev/shm of 2 MiB a handler that needs more gets `ArenaFullError`, never a SIGBUS."""
    why_not = _small_tmpfs(tmp_path)
    if why_not is not None:
        pytest.skip(f"no small tmpfs here: {why_not}")
    program = """
import recoverable
try:
    recoverable.Arena.open("full", "64 MiB")
except recoverable.ArenaFullError as error:
    assert "/dev/shm holds" in str(error), error
else:
    raise SystemExit("a ceiling above what /dev/shm holds was taken")
with recoverable.Arena.temporary(name="full") as arena:
    with arena.transaction():
        arena.root["kept"] = 1
    try:
        with arena.transaction():
            for number in range(100):
                arena.root[number] = b"x" * 100_000
    except recoverable.ArenaFullError:
        print("full")
    assert dict(arena.root.items()) == {"kept": 1}
    arena.verify()
"""
    child = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"',
            "-",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        check=False,
        env=dict(os.environ),
    )
    assert (child.returncode, child.stdout) == (0, b"full\n"), child.stderr.decode()


def test_an_unsupported_value_is_a_type_error(arena: Arena) -> None:
    """A value that can't be stored is refused by type, and the handler may go on."""
    with arena.transaction():
        with pytest.raises(TypeError):
            arena.root["a"] = object()
        arena.root["b"] = 1
    assert list(arena.root) == ["b"]


def test_a_write_outside_a_transaction_is_refused(arena: Arena) -> None:
    """Outside a transaction one can read, not write."""
    with pytest.raises(NoTransactionError):
        arena.root["a"] = 1
    assert len(arena.root) == 0


async def test_two_arenas_and_none_named_is_an_error(new_name: Callable[[], str]) -> None:
    """A decorated handler that could mean either arena is not run, and the message lists them."""
    runs = []

    @recoverable
    async def handler() -> None:
        runs.append(1)

    first, second = new_name(), new_name()
    with pytest.raises(RecoverableError, match="no arena is open"):
        await handler()
    with Arena.temporary("4 MiB", name=first), Arena.temporary("4 MiB", name=second):
        with pytest.raises(RecoverableError, match=f"'{first}', '{second}'"):
            await handler()
        assert runs == []
    with Arena.temporary("4 MiB", name=first):
        await handler()
    assert runs == [1]


async def test_run_with_an_option_that_does_not_exist(arena: Arena) -> None:
    """The error names `Arena.run`, its options, and how the function gets a keyword argument; the function is not called."""

    async def takes(*_: Any, **__: Any) -> None:
        raise AssertionError("it was called")

    with pytest.raises(
        TypeError, match=r"Arena\.run\(\) has no option 'b'; .*max_conflicts.*functools\.partial\(.*takes, b="
    ) as caught:
        await arena.run(takes, 1, b=9, retries=1)
    assert "options()" not in str(caught.value)
