"""What a container costs: its own files, its tests and docs, and its name in four files that all of them share.

A file names a container if its code has one of its names as a word: comments, docstrings, the prose of messages and what other
packages call so (`collections.Counter`) don't count.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "recoverable"
NATIVE = ROOT / "_native"
LAYOUT = "_native/src/segment/layout.h"

if not (ROOT / LAYOUT).exists():
    pytest.skip("needs the source tree", allow_module_level=True)

#: Where each container has a line: CONTRIBUTING lists them.
SHARED = {LAYOUT, "containers/__init__.py", "portable.py", "cli/_portable.py"}

KINDS = re.findall(r"\bX\([A-Z]+, \d+, (\w+)\)", (ROOT / LAYOUT).read_text())

ROOT_IS_ONE = "the root, and what schemas are kept in, is a Dict"
SET_IS_ONE = "a Set is a Dict without values"
RAW = "raw writes go into the memory of Arrays"
#: Who else knows which container, and why.
KNOWN = {
    "dict": {
        "_segment.py": ROOT_IS_ONE,
        "arena.py": ROOT_IS_ONE,
        "_native/src/check.c": ROOT_IS_ONE,
        "_native/src/containers/roots.c": ROOT_IS_ONE,
        "_native/record.pyx": ROOT_IS_ONE,
        "_native/src/containers/containers.h": SET_IS_ONE,
        "_native/set.pyx": SET_IS_ONE,
    },
    "set": {
        "_native/src/containers/containers.h": SET_IS_ONE,
        "_native/src/containers/dict.c": SET_IS_ONE,
        "_native/src/containers/dict_rows.c": SET_IS_ONE,
        "_native/dict_pack.pxi": SET_IS_ONE,
    },
    "array": {
        "_native/src/pages/pages.h": RAW,
        "_native/src/pages/viewed.c": RAW,
        "_native/src/transaction/raw.c": RAW,
    },
}


def is_own(path: Path, kind: str) -> bool:
    """Return whether it is a file of that container: they are named like it, counter.c, counter.pyx, deque_check.c."""
    return re.split(r"[._]", path.name)[0] == kind


@functools.cache
def native_names(kind: str) -> frozenset[str]:
    """Return what C and Cython call it: its number, its structs and the functions that its header declares."""
    header = (NATIVE / f"include/containers/{kind}.h").read_text()
    functions = re.findall(r"\b(rcv_\w+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL))
    return frozenset(
        {f"RCV_K_{kind.upper()}", kind.upper(), f"struct rcv_{kind}", f"{kind}_kind", f"{kind}_check", *functions}
    )


def python_names(kind: str) -> set[str]:
    """Return what Python calls it: its class, the handle that this is built on, their modules; and Meson."""
    name = kind.capitalize()
    return {name, f"{name}Handle", f"recoverable.containers.{kind}", f"recoverable._native.{kind}", f"'{kind}'"}


def words_of_python(text: str) -> set[str]:
    """Return the names in Python code, texts that may be one, and modules that it imports from this package."""
    found: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("recoverable"):
            found |= {str(node.module), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            foreign |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found - foreign


def words_of_c(text: str) -> set[str]:
    """Return the words of C code, and `struct x` where it says that."""
    text = re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)
    return set(re.findall(r"\bstruct \w+|\w+", text)) | set(re.findall(r"\w+", text))


def words_of_cython(text: str) -> set[str]:
    """Return the words of Cython or Meson code; of texts only those of one word, Meson's in their quotes."""
    text = re.sub(r'""".*?"""', " ", text, flags=re.DOTALL)
    text = re.sub(r"#.*", " ", text)
    text = re.sub(r'"[^"\n]*[^"\n\w][^"\n]*"', " ", text)
    return set(re.findall(r"'\w+'|\w+", text))


WORDS = {
    **dict.fromkeys([".py", ".pyi"], words_of_python),
    **dict.fromkeys([".c", ".h"], words_of_c),
    **dict.fromkeys([".pyx", ".pxd", ".pxi", ".build"], words_of_cython),
}


@pytest.fixture(scope="module")
def named() -> dict[str, set[str]]:
    """Which files name each container and are not its own."""
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for path in sorted(ROOT.rglob("*")):
        if path.suffix not in WORDS:
            continue
        words = WORDS[path.suffix](path.read_text())
        for kind in KINDS:
            if not is_own(path, kind) and words & (native_names(kind) | python_names(kind)):
                found[kind].add(str(path.relative_to(ROOT)))
    return found


def test_the_kinds_are_found() -> None:
    """The list that the core goes by is the one that is read here."""
    assert {"dict", "array", "list", "set", "deque", "counter", "record"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_is_named_in_the_shared_files(named: dict[str, set[str]], kind: str) -> None:
    """Nobody else names one: whoever needs to know something of a container asks it."""
    assert named[kind] >= SHARED
    assert named[kind] - SHARED - KNOWN.get(kind, {}).keys() == set()


def test_who_else_knows_one_does(named: dict[str, set[str]]) -> None:
    """The exceptions are no more than there are."""
    assert {kind: files.keys() - named[kind] for kind, files in KNOWN.items()} == {kind: set() for kind in KNOWN}


def test_the_core_takes_a_line_for_a_container() -> None:
    """Where it is named in the shared header, it is one line: a Counter's struct is in its C file."""
    lines = (ROOT / LAYOUT).read_text().splitlines()
    assert [line for line in lines if words_of_c(line) & native_names("counter")] == ["    X(COUNTER, 6, counter) \\"]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", "from recoverable.containers import Counter\n"),
        (".py", "def f(node):\n    match node.kind:\n        case 'Counter':\n            pass\n"),
        (".pyx", "if kind == RCV_K_COUNTER:\n    pass\n"),
        (".build", "modules = ['array', 'counter', 'dict']\n"),
        (".c", "int f(void) { return rcv_counter_get(a, t, c, &n); }\n"),
        (".h", "struct rcv_counter *counter;\n"),
    ],
)
def test_a_name_is_seen(suffix: str, text: str) -> None:
    """The reader finds a container that somebody names."""
    assert WORDS[suffix](text) & (native_names("counter") | python_names("counter"))


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", '"""A Counter counts."""\nfrom collections import Counter\nfound: Counter[str] = Counter()\n'),
        (".pyx", '"""A Counter."""\nx = 1 # Counter\nraise TypeError("a Counter is no number")\n'),
        (".c", '/* Counter: RCV_K_COUNTER */\nint counters; char *text = "RCV_K_COUNTER";\n'),
    ],
)
def test_prose_is_none(suffix: str, text: str) -> None:
    """Comments, messages and other packages' names are nothing that a new container would have to be added to."""
    assert not WORDS[suffix](text) & (native_names("counter") | python_names("counter"))
