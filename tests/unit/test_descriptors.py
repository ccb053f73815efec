"""A program that closes descriptors which are not its own: no other file is touched, and the arena goes on."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaSystemError, Array, TransactionError
from support.forks import in_child
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.crash

HELLO = b"hello\n"
BIG = 3 * 1024**2


def descriptors() -> list[int]:
    """Return the numbers of this process's descriptors, that of looking included."""
    return sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())


def numbers_of(arena: Arena) -> list[int]:
    """Return the numbers of this process's descriptors of an arena's object."""
    found = []
    for number in descriptors():
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            if (status.st_dev, status.st_ino) == arena._segment.key:
                found.append(number)
    return found


@contextlib.contextmanager
def stolen(arena: Arena, folder: Path) -> Iterator[None]:
    """Close the arena's descriptors, give their numbers to files of the program's own, and look after these at the end."""
    numbers = numbers_of(arena)
    assert numbers
    files = {number: folder / str(number) for number in numbers}
    for number, file in files.items():
        file.write_bytes(HELLO)
        fd = os.open(file, os.O_RDWR)
        os.dup2(fd, number)
        os.close(fd)
    before = {number: os.fstat(number).st_blocks for number in numbers}
    yield
    for number, file in files.items():
        assert file.read_bytes() == HELLO
        assert os.fstat(number).st_blocks == before[number]
        assert os.path.samestat(os.fstat(number), file.stat()), "it was closed, or is another's"


def run(fn: Callable[[], Any]) -> Any:
    """Return what `fn` returns in a child."""
    ending = in_child(fn, timeout=30)
    assert ending.returned, str(ending)
    return ending.value


@pytest.fixture(params=["named", "unlinked"])
def lose_name(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give what is done to the name before the descriptors go: nothing, or it is removed."""
    return (lambda name: None) if request.param == "named" else (lambda name: path_of(name).unlink())


@pytest.mark.slow
def test_growth_touches_no_other_file(name: str, tmp_path: Path, lose_name: Callable[[str], None]) -> None:
    """Data and undo log grow, and the log's memory is given back, while other files have the arena's numbers."""

    def child() -> tuple[int, int, int]:
        with Arena.open(name, "32 MiB") as arena:
            lose_name(name)
            with stolen(arena, tmp_path):
                with arena.transaction():
                    arena.root["blob"] = bytes(BIG)
                    arena.root["array"] = Array((BIG // 8,), "f8")
                with arena.transaction():
                    arena.root["array"][:] = [1.0] * (BIG // 8)  # all of it goes into the log
                grown = arena.stats()
                for i in range(300):  # the log has been idle for long
                    with arena.transaction():
                        arena.root["i"] = i
                assert arena.verify().leaked_blocks == 0
                assert arena.root["blob"] == bytes(BIG)
                assert arena.root["array"][BIG // 8 - 1] == 1.0
                return grown.claimed, grown.undo_claimed, arena.stats().undo_claimed

    claimed, log, trimmed = run(child)
    assert claimed > 2 * BIG
    assert log > BIG > trimmed


@pytest.mark.slow
def test_strays_are_taken_back_without_a_descriptor(
    name: str, tmp_path: Path, lose_name: Callable[[str], None]
) -> None:
    """A raw write outside of a transaction is undone, by a mapping of the arena and not of the file with its number."""

    def child() -> tuple[list[float], list[float]]:
        numpy = pytest.importorskip("numpy")
        with Arena.open(name, "8 MiB") as arena:
            with arena.transaction():
                arena.root["array"] = Array((4096,), "f8")
                arena.root["array"][:] = [2.0] * 4096
                view = arena.root["array"].view  # writable, and kept: strays are what it is kept for
            assert isinstance(view, numpy.ndarray)
            lose_name(name)
            with stolen(arena, tmp_path):
                view[7] = 9.0
                seen = [float(view[6]), float(view[7])]
                with arena.transaction():
                    view[8] = 3.0
                after = [float(x) for x in view[6:9]]
                assert arena.root["array"][7] == 2.0
                assert arena.stats().strays == 1
            del view
            return seen, after

    seen, after = run(child)
    assert seen == [2.0, 9.0]
    assert after == [2.0, 2.0, 3.0]


def test_a_forked_child_finds_the_arena_by_its_name(name: str, tmp_path: Path) -> None:
    """After the descriptors are gone, a forked child joins by opening the object again, and commits."""

    def child() -> tuple[int, int]:
        with Arena.open(name, "4 MiB") as arena:
            with arena.transaction():
                arena.root["n"] = 1
            with stolen(arena, tmp_path):

                def grandchild() -> None:
                    with arena.transaction():
                        arena.root["n"] += 1

                ending = in_child(grandchild)
                assert ending.returned, str(ending)
                return arena.root["n"], len(numbers_of(arena))

    assert run(child)[0] == 2


def test_a_forked_child_that_cannot_join_says_why(name: str, tmp_path: Path) -> None:
    """With descriptors and name gone, a forked child's first use is an error with the remedy; the parent goes on."""

    def child() -> tuple[str, int]:
        with Arena.open(name, "4 MiB") as arena:
            with arena.transaction():
                arena.root["n"] = 1
            path_of(name).unlink()
            with stolen(arena, tmp_path):

                def grandchild() -> str:
                    try:
                        with arena.transaction():
                            arena.root["n"] += 1
                    except OSError as error:
                        return f"{type(error).__name__}: {error}"
                    return ""

                ending = in_child(grandchild)
                assert ending.returned, str(ending)
                with arena.transaction():
                    arena.root["n"] += 10
                return ending.value, arena.root["n"]

    said, n = run(child)
    assert said.startswith("ArenaSystemError")
    assert "open arenas after daemonizing" in said
    assert n == 11


def test_closing_closes_no_other_file(name: str, tmp_path: Path) -> None:
    """Closing an arena whose numbers other files have by now leaves these open; the arena can be opened again."""

    def child() -> int:
        arena = Arena.open(name, "4 MiB")
        with arena.transaction():
            arena.root["n"] = 5
        with stolen(arena, tmp_path):
            arena.close()
        with Arena.open(name) as again:
            return again.root["n"]

    assert run(child) == 5


def test_a_loop_over_low_numbers_misses_it(arena: Arena) -> None:
    """The arena's own descriptor has a high number, and is not inherited by what is executed."""
    assert max(numbers_of(arena)) >= 600
    assert not any(os.get_inheritable(number) for number in numbers_of(arena))


def test_a_failed_open_leaves_no_descriptor(name: str) -> None:
    """Whatever Arena.open raises, no descriptor stays behind."""
    before = descriptors()
    path_of(name).write_bytes(b"\xff" * 65536)
    path_of(name).chmod(0o600)
    for _ in range(3):
        with pytest.raises(Exception, match="damaged"):
            Arena.open(name)
    path_of(name).unlink()
    with Arena.open(name, "1 MiB") as arena, pytest.raises(TransactionError), arena.transaction():
        arena.close()
    assert descriptors() == before


def test_opening_without_a_descriptor_left_says_so(name: str) -> None:
    """A program that has as many files open as it may is told that, and can open the arena once it has closed one."""

    def child() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                os.open(os.devnull, os.O_RDONLY)
        with pytest.raises(ArenaSystemError) as raised:
            Arena.open(name, "1 MiB")
        return str(raised.value)

    assert "files open" in run(child)
    assert not path_of(name).exists()
