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
FOLDERS = ["base", "segment", "journal", "heap", "pages/estimators", "pages", "transaction", "containers", "."]
#: Files that may call each other in a circle.
CIRCLE = 3

Name = tuple[str, str]  # file, function

_BLANK = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\])'", re.DOTALL)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:.*\\\n)*.*)$", re.MULTILINE)
_FUNCTION = re.compile(r"^(?P<head>[A-Za-z_][^\n=;{}]*?)(?P<name>\w+)\((?P<parameters>[^;{}]*)\)\s*\{", re.MULTILINE)
_NAME = re.compile(r"\b([A-Za-z_]\w*)\b(\()?")


def plain(text: str) -> str:
    """Return C without comments, strings, attributes and directives; macros become functions."""
    text = re.sub(r"__attribute__\s*\(\(.*?\)\)", " ", _BLANK.sub(" ", text), flags=re.DOTALL)
    text = _MACRO.sub(r"static void \1() {\2\n}", text)
    return re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of each file, as plain() leaves it."""
    return {str(path.relative_to(SOURCE)): plain(path.read_text()) for path in sorted(SOURCE.rglob("*.[ch]"))}


def functions(text: str) -> Iterator[tuple[str, bool, str]]:
    """Yield name, whether it is static, and body of each function defined in a file; at last, nameless, all that is outside."""
    outside, end = "", 0
    for found in _FUNCTION.finditer(text):
        depth, at = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        yield found["name"], "static" in found["head"].split(), text[found.end() : at]
        outside, end = outside + text[end : found.start()], at
    yield "", True, outside + text[end:]


def calls(texts: dict[str, str]) -> dict[Name, set[Name]]:
    """Return which functions each function names, be it to call them or to store a pointer; also by way of what headers define.

    What is called through a pointer is nobody's: whoever stores it has named it.
    """
    bodies: dict[Name, str] = defaultdict(str)
    public: dict[str, str] = {}
    shared: dict[str, str] = {}
    for file, text in texts.items():
        for name, static, body in functions(text):
            bodies[file, name] += body
            if name and file.endswith(".h"):
                shared[name] = file
            elif not static:
                public[name] = file

    def named(file: str, body: str, seen: set[str]) -> Iterator[Name]:
        for name, call in set(_NAME.findall(body)):
            if (file, name) in bodies:
                yield file, name
            elif name in public:
                yield public[name], name
            elif call and name in shared and name not in seen:
                seen.add(name)
                yield shared[name], name
                yield from named(shared[name], bodies[shared[name], name], seen)

    return {(file, name): set(named(file, body, set())) for (file, name), body in list(bodies.items())}


def folder(file: str) -> str:
    """Return the folder of a file, as FOLDERS has it."""
    return file.rpartition("/")[0] or "."


def upward(graph: dict[Name, set[Name]]) -> list[str]:
    """Name the calls that lead into a higher folder."""
    return [
        f"{file}: {name or 'its data'} names {called}() of {target}"
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
    """No function names one of a higher folder: what must be told upwards goes through a table of pointers."""
    graph = calls(sources())
    assert len(graph) > 900, "the core's functions were not found"
    assert not upward(graph)


def test_no_more_than_three_files_form_a_circle() -> None:
    """Files of a folder may need each other, but few at a time."""
    edges: dict[str, set[str]] = defaultdict(set)
    for (file, _), found in calls(sources()).items():
        if file.endswith(".c"):  # what headers define is its users'
            edges[file] |= {target for target, _ in found if target.endswith(".c") and target != file}
    assert [circle for circle in circles(edges) if len(circle) > CIRCLE] == []


@pytest.mark.parametrize(
    ("file", "added"),
    [
        ("segment/undo.c", "static void up(rcv_arena *a) {\n tracker_shut(a);\n}\n"),
        ("base/os.c", "static int up(void) {\n return rcv_open(0, 0, 0);\n}\n"),
        ("heap/heap.c", "static void up(rcv_txn *t) {\n intent_settle(t);\n}\n"),
        ("segment/lock.c", "static int (*const up)(rcv_txn *) = raw_collect;\n"),
        ("pages/hot.c", "#define UP(t) \\\n    stamp_publish(t)\n"),
        ("heap/heap.h", "static inline void up(rcv_txn *t) {\n raw_base(t);\n}\n"),
        ("pages/view.c", "static uint64_t up(rcv_arena *a) {\n return dict_chain_bound(a);\n}\n"),
    ],
)
def test_an_upward_call_is_seen(file: str, added: str) -> None:
    """The reader of calls finds one that somebody adds: in a function, a macro, a header, or as a pointer."""
    texts = {**sources(), file: sources()[file] + plain(added)}
    assert len(upward(calls(texts))) == 1


def test_the_signal_handler_runs_what_it_says() -> None:
    """The list at the top of trap.c names each function of other files that the SIGSEGV handler can get to, and no other."""
    graph = calls(sources())
    reached: set[Name] = set()
    todo: list[Name] = [
        ("pages/trap.c", "handler"),
        ("image.c", "image_fault"),
    ]  # the latter by a pointer: trap_images()
    while todo:
        if (name := todo.pop()) not in reached:
            reached.add(name)
            todo += graph[name]
    essay = re.search(r"What runs here(.*?)Of the system", (SOURCE / "pages" / "trap.c").read_text(), re.DOTALL)
    assert essay
    static = {(file, name) for file, text in sources().items() for name, static, _ in functions(text) if static}
    ours = {
        name
        for file, name in reached - static
        if file.endswith(".c") and file not in {"pages/trap.c", "base/crashpoint.c", "base/fault.c"}
    }
    defined = {name for _, name in graph if name}
    assert set(re.findall(r"\w+", essay[1])) & defined == ours | {"image_fault"}
