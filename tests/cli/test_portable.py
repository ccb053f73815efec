"""`recoverable export --portable`, and `import` of what it has written: also under a release of another segment format."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from recoverable import Arena, Array, Record, codecs, portable, register_codec
from recoverable.cli import _app, _portable
from recoverable.cli._codes import Refused
from recoverable.cli._file import DamagedFileError
from recoverable.cli._render import Progress
from recoverable.errors import ArenaFullError, ArenaVersionError, CodecError
from support.commands import command
from support.segments import path_of
from support.states import told

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

DATA = Path(__file__).parents[1] / "data"
OLD = DATA / "format-2.jsonl"


class Bytes(bytes):
    """Has a codec of its own."""


class Kept(Record, name="portable.Kept"):
    what: str
    more: object = None


@pytest.fixture(scope="module")
def every_kind() -> ModuleType:
    """Give the program that has filled the arena of the files in DATA."""
    spec = importlib.util.spec_from_file_location("every_kind", DATA / "every_kind.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["every_kind"] = module  # where a Record's annotations are looked up
    spec.loader.exec_module(module)
    return module


def imported(path: Path, name: str, **options: Any) -> None:
    """Import a file in this process."""
    _portable.import_file(path, name, **{"size": None, "feed": None} | options, progress=Progress(quiet=True))


def sealed(lines: list[bytes]) -> bytes:
    """Give lines the last one that belongs to them."""
    whole = b"".join(lines)
    return whole + portable.dumps({"end": len(lines), "sha256": hashlib.sha256(whole).hexdigest()})


def nothing_is_left_of(name: str) -> bool:
    """Return whether neither an arena of that name is there nor one that was begun."""
    return not list(path_of(name).parent.glob(f"{path_of(name).name}*"))


# -- from a former release ----------------------------------------------------------------------------------------------


def test_what_a_release_of_format_2_has_written_is_imported(
    arena: Arena, new_name: Callable[[], str], every_kind: ModuleType
) -> None:
    """Every kind of container and value comes back as what the same program stores today, in order and to the last bit."""
    name, known = new_name(), dict(codecs._by_type)
    imported(OLD, name)
    assert known == codecs._by_type
    with arena.transaction():
        every_kind.fill(arena.root)
    with Arena.open(name, create=False) as other:
        assert told(other.root) == told(arena.root)
        assert other.size == 4 * 1024**2
        with other.transaction():
            other.root["order"].lines.append(every_kind.Line(what="cup"))
            other.root["deep"]["more"].append(other.root["arrays"]["plain"].copy())
        other.verify()


def test_the_writer_of_today_writes_what_it_has_written_under_that_release(
    arena: Arena, tmp_path: Path, every_kind: ModuleType
) -> None:
    """Of the same state it makes the same lines, but for the first and the last, as long as the version is the same."""
    path = tmp_path / "state.jsonl"
    with arena.transaction():
        every_kind.fill(arena.root)
    portable.write(arena, "x", path)
    assert path.read_bytes().splitlines()[1:-1] == OLD.read_bytes().splitlines()[1:-1]


@pytest.mark.slow
def test_a_copy_of_format_2_is_refused_and_the_way_is_named(name: str, tmp_path: Path) -> None:
    """Import of a binary export of another format ends with 6, says that it is another and what to do, and makes nothing."""
    path = tmp_path / "old.rcv"
    path.write_bytes(gzip.decompress((DATA / "format-2.rcv.gz").read_bytes()))
    done = command("import", name, str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert "format 2" in done.stderr
    assert "portable.py" in done.stderr
    assert "Nothing was imported" in done.stderr
    assert nothing_is_left_of(name)


def test_an_arena_of_format_2_is_refused_and_the_way_is_named(name: str) -> None:
    """Opening a segment of another format raises ArenaVersionError, which names portable.py, and leaves it as it is."""
    data = bytearray(gzip.decompress((DATA / "format-2.rcv.gz").read_bytes()))
    segment = data[data.index(b"RCVAREN1") :]
    path_of(name).write_bytes(segment)
    with pytest.raises(ArenaVersionError, match=r"format 2.*portable\.py"):
        Arena.open(name)
    assert path_of(name).read_bytes() == segment


@pytest.mark.slow
def test_portable_py_is_run_by_its_path(name: str, tmp_path: Path) -> None:
    """The file is a program of its own, whose folder hides no module of others; it replaces no file."""
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root.update(a=[1, {"b": 2}])
    (tmp_path / "decimal.py").write_text("raise SystemExit('hidden')")
    path, program = tmp_path / "state.jsonl", shutil.copy(portable.__file__, tmp_path)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, program, name, str(path)], env=env, capture_output=True, text=True, timeout=60, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_bytes().splitlines()[1]) == {
        "to": 0,
        "items": [["a", {"List": [1, {"Dict": [["b", 2]]}]}]],
    }
    before = path.read_bytes()
    assert run().returncode == 4
    assert path.read_bytes() == before


# -- the commands ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_commands_do_not_know_goes_through_them(
    name: str, new_name: Callable[[], str], tmp_path: Path
) -> None:
    """Values of a codec and Records whose class is the application's come back, though the commands have neither."""
    register_codec(Bytes, encode=bytes, decode=Bytes, name="'portable\u2028\" bytes'")
    other, path = new_name(), tmp_path / "state.jsonl"
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root["first"] = [1, 2, Bytes(b"z"), 3]
        arena.root["kept"] = [Kept(what="a", more={"k": Kept(what="b", more=Bytes(b"x"))})]
        arena.root["codec"] = {
            Bytes(b"\x00"): (Bytes(b""), [1]) and (Bytes(b"y"), 1),
            "n": [Bytes(b"z") for _ in range(3)],
        }
        arena.root["members"] = {Bytes(b"1"), Bytes(b"2")}
    done = command("export", name, str(path), "--portable")
    assert (done.returncode, done.stderr) == (0, "")
    done = command("import", other, str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"imported {other}\n", "")
    with Arena.open(name, create=False) as arena, Arena.open(other, create=False) as second:
        assert told(second.root) == told(arena.root)
        second.verify()


def test_the_commands_say_what_they_do_not_do(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is there is not replaced, a copy takes no --size, and what is neither kind of file is damage."""
    Arena.open(name, "1 MiB").close()
    path = tmp_path / "state"
    path.write_text("mine")
    assert _app.run(["export", name, str(path), "--portable"]) == 4
    assert _app.run(["import", "portable-none", str(path)]) == 6
    path.unlink()
    assert _app.run(["export", name, str(path)]) == 0
    assert _app.run(["import", "portable-none", str(path), "--size", "1 MiB"]) == 2
    assert "export --portable" in capsys.readouterr().err


DTYPES = [
    np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i2"], "offsets": [0, 2], "itemsize": 12}),
    np.dtype([(("title", "a"), "<i4"), ("b", [("c", "<U2"), ("d", ">f4", (2, 3))])]),
    *map(np.dtype, ("S3", "<c16", ">M8[ms]", "?")),
]


def test_arrays_of_every_dtype(
    arena: Arena, new_name: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Array comes back with its dtype, offsets and alignment included, its shape and its bytes, in one piece or in several."""
    path, other = tmp_path / "state.jsonl", new_name()
    monkeypatch.setattr(portable, "_INLINE", 200)
    monkeypatch.setattr(portable, "_BYTES", 16)
    with arena.transaction():
        for dtype in DTYPES:
            for shape in (3,), (2, 1, 30), (0, 2):
                size = math.prod(shape) * dtype.itemsize
                items = np.frombuffer(bytes(i % 2 for i in range(size)), dtype)
                arena.root[str(dtype), shape] = Array(items.reshape(shape))
    portable.write(arena, "x", path)
    imported(path, other)
    with Arena.open(other, create=False) as second:
        assert told(second.root) == told(arena.root)
        for key in arena.root:
            assert second.root[key].dtype.isalignedstruct == arena.root[key].dtype.isalignedstruct


def test_a_file_is_its_owners_and_replaces_none_but_when_whole(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has mode 0600, and its name only when it is whole: what was there stays where writing fails, and nothing else is left."""
    path = tmp_path / "state.jsonl"
    with arena.transaction():
        arena.root["a"] = 1
    portable.write(arena, "x", path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(portable._Writer, "end", full)
    with pytest.raises(OSError, match="No space"):
        portable.write(arena, "x", path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_arena_of_that_name_is_not_touched(name: str) -> None:
    """Import is refused where there is one, also one that is made while it reads."""
    with Arena.open(name, "1 MiB") as arena:
        with pytest.raises(Refused, match="there is an arena"):
            imported(OLD, name)
        assert arena.root == {}
    Arena.unlink(name)

    class Slow(Progress):
        def __call__(self, done: int, total: int, doing: str) -> None:
            if doing == "imported":
                Arena.open(name, "1 MiB").close()

    with pytest.raises(Refused, match="there is an arena"):
        _portable.import_file(OLD, name, size=None, feed=None, progress=Slow())
    with Arena.open(name, create=False) as arena:
        assert arena.root == {}
    Arena.unlink(name)
    assert nothing_is_left_of(name)


def test_it_takes_the_size_and_the_feed_that_are_asked_for(new_name: Callable[[], str], tmp_path: Path) -> None:
    """Without options an arena has the size and the feed that it had, with them others; too little is ArenaFullError."""
    name, other, path = new_name(), new_name(), tmp_path / "state.jsonl"
    with Arena.temporary("2 MiB", feed="1 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = ["x" * 1000] * 500
        portable.write(arena, "x", path, feed=1024**2)
    imported(path, name)
    imported(path, other, size="8 MiB", feed="2 MiB")
    with Arena.open(name, create=False) as first, Arena.open(other, create=False) as second:
        assert (first.size, second.size) == (2 * 1024**2, 8 * 1024**2)
        assert len(list(first.feed(after=0, follow=False))) > 0
    with pytest.raises(ArenaFullError, match=r"line \d+: .*--size"):
        imported(path, new_name(), size="256 KiB")
    with pytest.raises(ArenaFullError, match=r"line \d+: .*--feed"):
        imported(path, new_name(), feed="64 KiB")


# -- damage ------------------------------------------------------------------------------------------------------------------


def test_every_damage_of_a_file_is_found(name: str, tmp_path: Path, seed: int) -> None:
    """A flipped bit anywhere, an end that is missing, lines that are gone or twice: an error with a line, and nothing is left."""
    print("seed", seed)
    whole, chosen = OLD.read_bytes(), random.Random(seed)
    lines = whole.splitlines(keepends=True)
    cases = [b"", b"\n", b"{}\n", whole[:-1], whole + b"x", whole + whole]
    cases += [whole[: chosen.randrange(len(whole) - 1)] for _ in range(10)]
    cases += [b"".join(lines[:i] + lines[i + 1 :]) for i in chosen.sample(range(len(lines)), 5)]
    cases += [b"".join(lines[:i] + lines[i - 1 :]) for i in chosen.sample(range(1, len(lines)), 5)]
    for _ in range(40):
        data = bytearray(whole)
        data[chosen.choice([chosen.randrange(100), chosen.randrange(len(data))])] ^= 1 << chosen.randrange(8)
        cases.append(bytes(data))
    path = tmp_path / "state.jsonl"
    for data in cases:
        path.write_bytes(data)
        with pytest.raises((DamagedFileError, ArenaVersionError), match=r"line \d+: .*nothing was imported"):
            imported(path, name)
        assert nothing_is_left_of(name)


@pytest.mark.parametrize(
    ("at", "line", "kind", "text"),
    [
        (0, {"recoverable": "portable", "version": 2}, ArenaVersionError, "line 1: version 2"),
        (1, {"frob": 1}, ArenaVersionError, "line 2: a line of 'frob'"),
        (1, {"to": 0, "items": [["a", {"Heap": []}]]}, ArenaVersionError, "line 2: a value of kind 'Heap'"),
        (1, {"to": 0, "items": [["a", {"date": "x"}]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 0, "items": [["a", {"List": 1, "Dict": 2}]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 0, "items": [["a", {"pieces": 1}]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 0, "items": [["a", {"Array": ["u1", [2], "AA=="]}]]}, DamagedFileError, "line 2: an Array with"),
        (1, {"to": 0, "items": [["a", {"Record": [0, []]}]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 0, "items": [["a", {"Counter": 2**63}]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 7, "items": []}, DamagedFileError, "line 2: it can't be read"),
        (2, {"to": 0, "items": []}, DamagedFileError, "line 4: something before it is missing"),
        (1, {"piece": "1"}, DamagedFileError, "line 4: something before it is missing"),
        (2, {"whole": 0, "count": 1}, DamagedFileError, "line 3: container 0 is not whole"),
        (1, {"to": 0, "items": [[["a", "b"]]]}, DamagedFileError, "line 2: it can't be read"),
        (1, {"to": 0, "items": [["a", {"Array": ["f8", [1 << 50], 1]}]]}, ArenaFullError, "line 2: .*--size"),
        (1, {"to": 0, "items": [["a", {"time": ["01:00", "No/Where", 0]}]]}, CodecError, "line 2: .*'No/Where'"),
    ],
)
def test_a_line_that_is_not_right_is_named(
    name: str, tmp_path: Path, at: int, line: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Of a file that is whole, what this release does not know, or what does not add up, is told with its line; nothing is left."""
    lines = [
        portable.dumps({"recoverable": "portable", "version": 1, "size": 1024**2, "feed": None}),
        portable.dumps({"to": 0, "items": []}),
        portable.dumps({"whole": 0, "count": 0}),
    ]
    path = tmp_path / "state.jsonl"
    path.write_bytes(sealed(lines))
    imported(path, name)
    Arena.unlink(name)
    lines[at] = portable.dumps(line)
    path.write_bytes(sealed(lines))
    with pytest.raises(kind, match=text):
        imported(path, name)
    assert nothing_is_left_of(name)


@pytest.mark.slow
@pytest.mark.crash
def test_an_import_that_was_killed_is_begun_again(name: str, tmp_path: Path) -> None:
    """Killed in the middle, it leaves no arena of that name, and the next import begins anew."""

    class Fatal(Progress):
        def __call__(self, done: int, total: int, doing: str) -> None:
            if doing == "imported" and done == total:
                os.kill(os.getpid(), signal.SIGKILL)

    if (pid := os.fork()) == 0:
        _portable.import_file(OLD, name, size=None, feed=None, progress=Fatal())
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not path_of(name).exists()
    assert not nothing_is_left_of(name)
    path = tmp_path / "state.jsonl"
    with Arena.temporary("1 MiB") as arena:
        with arena.transaction():
            arena.root["a"] = 1
        portable.write(arena, "x", path)
    imported(path, name)
    with Arena.open(name, create=False) as arena:
        assert arena.root == {"a": 1}
    Arena.unlink(name)
    assert nothing_is_left_of(name)
