"""The folders of the C core have one direction: what each includes and calls lies in its own folder or below it."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "recoverable" / "_native" / "src"

#: The lowest first. "." holds what serves whole arenas: opening, verification, readers without the lock.
FOLDERS = ["base", "segment", "heap", "pages/estimators", "pages", "transaction", "containers", "."]
#: Files that may call each other in a circle.
CIRCLE = 3

Name = tuple[str, str]  # file, function

_BLANK = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\])'", re.DOTALL)
_FUNCTION = re.compile(r"^(?P<head>[A-Za-z_][^\n=;{}]*?)(?P<name>\w+)\((?P<parameters>[^;{}]*)\)\s*\{", re.MULTILINE)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\(")


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of each file without comments, strings and directives."""
    texts = {}
    for path in sorted(SOURCE.rglob("*.[ch]")):
        text = re.sub(r"__attribute__\s*\(\(.*?\)\)", " ", _BLANK.sub(" ", path.read_text()), flags=re.DOTALL)
        texts[str(path.relative_to(SOURCE))] = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    return texts


def functions(text: str) -> Iterator[tuple[str, bool, str]]:
    """Yield name, whether it is static, and body of each function defined in a file."""
    for found in _FUNCTION.finditer(text):
        depth, at = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        yield found["name"], "static" in found["head"].split(), text[found.end() : at]


def calls(texts: dict[str, str]) -> dict[Name, set[Name]]:
    """Return which functions each function calls by name; one that is called through a pointer is nobody's."""
    bodies: dict[Name, str] = {}
    public: dict[str, str] = {}
    for file, text in texts.items():
        for name, static, body in functions(text):
            bodies[file, name] = body
            if not static and file.endswith(".c"):
                public[name] = file
    return {
        (file, name): {
            (file, called) if (file, called) in bodies else (public[called], called)
            for called in _CALL.findall(body)
            if (file, called) in bodies or called in public
        }
        for (file, name), body in bodies.items()
    }


def folder(file: str) -> str:
    """Return the folder of a file, as FOLDERS has it."""
    return file.rpartition("/")[0] or "."


def upward(graph: dict[Name, set[Name]]) -> list[str]:
    """Name the calls that lead into a higher folder."""
    return [
        f"{file}: {name}() calls {called}() of {target}"
        for (file, name), found in graph.items()
        for target, called in found
        if FOLDERS.index(folder(target)) > FOLDERS.index(folder(file))
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of files that all reach each other (Tarjan 1972), but for single ones."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            component = sorted(stack[cut:])
            del stack[cut:]
            if len(component) > 1:
                found.append(component)

    for node in list(edges):
        if node not in index:
            visit(node)
    return found


def test_every_folder_of_the_core_is_listed() -> None:
    """A new folder takes its place among the others here."""
    assert {folder(file) for file in sources()} == set(FOLDERS)


def test_headers_lead_down() -> None:
    """A file includes headers of its own folder and of lower ones; of another folder's only the one named like it."""
    wrong = []
    for path in sorted(SOURCE.rglob("*.[ch]")):
        file = str(path.relative_to(SOURCE))
        for name in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE):
            if name in {"recoverable.h", "counters.h"}:
                continue
            target = file.rpartition("/")[0] + "/" + name if "/" not in name else name
            there = folder(target.lstrip("/"))
            own = there == folder(file)
            interface = name.rpartition("/")[2] in {f"{there.rpartition('/')[2]}.h", "layout.h"}
            if FOLDERS.index(there) > FOLDERS.index(folder(file)) or not (own or interface):
                wrong.append(f"{file} includes {name}")
    assert not wrong


def test_calls_go_down() -> None:
    """No function calls one of a higher folder: what must be told upwards goes through a table of pointers."""
    graph = calls(sources())
    assert len(graph) > 700, "the core's functions were not found"
    assert not upward(graph)


def test_no_more_than_three_files_form_a_circle() -> None:
    """Files of a folder may need each other, but few at a time."""
    edges: dict[str, set[str]] = defaultdict(set)
    for (file, _), found in calls(sources()).items():
        edges[file] |= {target for target, _ in found if target != file}
    assert [circle for circle in circles(edges) if len(circle) > CIRCLE] == []


@pytest.mark.parametrize(
    ("file", "added"),
    [
        ("segment/undo.c", "static void up(rcv_arena *a) {\n tracker_shut(a);\n}\n"),
        ("base/os.c", "static int up(void) {\n return rcv_open(0, 0, 0);\n}\n"),
        ("heap/heap.c", "static void up(rcv_txn *t) {\n intent_settle(t);\n}\n"),
    ],
)
def test_an_upward_call_is_seen(file: str, added: str) -> None:
    """The reader of calls finds one that somebody adds."""
    texts = {**sources(), file: sources()[file] + added}
    assert len(upward(calls(texts))) == 1
