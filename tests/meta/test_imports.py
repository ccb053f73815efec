"""What importing pulls in, and which file may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import recoverable

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(recoverable.__file__).parent

#: The layers of the Python half, the lowest first: a file imports from its own layer's files and from lower layers; never
#: from higher ones.
LAYERS = [
    [
        "errors",
        "reports",
        "event_log",
        "frames",
        "lock_times",
        "_options",
        "_times",
        "_keys",
        "_jumps",
        "_descriptors",
        "codecs",
    ],
    ["_native", "speculation", "_registry", "_shm", "_threads", "events", "feed_state"],
    ["containers"],
    [
        "between",
        "callbacks",
        "transaction",
        "_kept",
        "_given",
        "web",
        "lines",
        "waits",
        "watchdog",
        "privilege",
        "tasks",
        "bell",
        "feed",
    ],
    ["journal"],
    ["history"],
    ["outcome", "completion", "ambient", "contention", "turns", "lockwait", "feedwait", "inflight", "_segment"],
    ["runner"],
    ["plain"],
    [
        "middleware",
        "_aiohttp",
        "_aiohttp_kept",
        "_aiohttp_parts",
        "_aiohttp_replay",
        "_aiohttp_routes",
        "_asgi",
        "_asgi_connection",
        "_asgi_kept",
        "_asgi_lifespan",
        "_asgi_replay",
        "_litestar",
        "_quart",
        "_starlette",
        "_starlette_parts",
    ],
    ["frameworks"],
    ["arena"],
    ["_compaction", "_state"],
    ["decorator"],
    ["__init__"],
    ["portable"],
    ["capsules"],
    ["faults"],
    ["_fastapi_json", "service"],
    ["aiohttp", "asgi", "fastapi", "metrics"],
    ["cli"],
]


def loaded_by(program: str) -> set[str]:
    """Return the top-level modules that a program has loaded at its end."""
    code = f"{program}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_recoverable_imports_no_framework() -> None:
    """`import recoverable` loads neither aiohttp nor uvloop nor numpy, nor what only its command needs."""
    assert not loaded_by("import recoverable") & {"aiohttp", "uvloop", "numpy", "click", "rich"}


def test_a_server_does_not_load_what_the_command_needs() -> None:
    """`recoverable.aiohttp` brings neither click nor rich, which are installed, into a worker."""
    assert not loaded_by("from recoverable import aiohttp, capsules, history") & {"click", "rich"}


def test_an_array_of_plain_items_needs_no_numpy() -> None:
    """A server that uses an Array item by item, or copies it, does not load numpy, which takes more memory than all of ours."""
    program = """
import os, recoverable
name = f"no-numpy-{os.getpid()}"
with recoverable.Arena.open(name, size="8 MiB") as arena:
    recoverable.Arena.unlink(name)
    with arena.transaction():
        arena.root["a"] = recoverable.Array([1, 2, 3], "i8")
        arena.root["a"][1] += 5
        arena.root["a"].fill(arena.root["a"][1])
    assert arena.root["a"].to_python() == [7, 7, 7]
"""
    assert "numpy" not in loaded_by(program)


def test_the_aiohttp_module_is_loaded_when_it_is_asked_for() -> None:
    """`recoverable.aiohttp` works after `import recoverable`, and another name is an AttributeError."""
    assert "aiohttp" in loaded_by("import recoverable; recoverable.aiohttp.setup")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        recoverable.nothing  # noqa: B018


def test_decorating_loads_the_adapter_only_for_programs_with_aiohttp() -> None:
    """`@recoverable` brings aiohttp into no program that has not imported it."""
    program = "import recoverable\n@recoverable.recoverable\nasync def f(): ...\n"
    assert "aiohttp" not in loaded_by(program)


def test_all_is_sorted_and_true() -> None:
    """`__all__` of each module is sorted, and names what is there."""
    own = [name for name in recoverable.__all__ if name not in recoverable.containers.__all__]
    assert recoverable.__all__ == own + recoverable.containers.__all__
    for names in own, recoverable.containers.__all__:
        assert names == sorted(set(names))
    for name in recoverable.__all__:
        assert hasattr(recoverable, name)


def test_the_top_is_thin() -> None:
    """`recoverable/__init__.py` has imports, `__all__` and the lazy import, nothing else."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    kinds = [type(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert kinds == [ast.Expr, ast.Assign, ast.AugAssign, ast.FunctionDef]


#: Of the source tree: an installed package has no Cython files.
ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for pattern in ("*.pxd", "*.py", "*.pyx")
    for path in (ROOT / "recoverable").rglob(pattern)
}
if not any(path.suffix == ".pyx" for path in SOURCES.values()):
    pytest.skip("needs the source tree", allow_module_level=True)


def python_imports(text: str) -> Iterator[str]:
    """Give what Python code imports, wherever it does, but not where only a type checker looks; by the dotted names in use.

    Names of modules in a file that calls import_module() count as well: it may be given them from a table.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import_module" in text:
            yield node.value


def cython_imports(path: Path) -> Iterator[str]:
    """Give what a .pyx and the files that are a part of it import and cimport."""
    text = path.read_text()
    text += "".join((path.parent / name).read_text() for name in re.findall(r'^include "(.+)"', text, re.MULTILINE))
    if path.with_suffix(".pxd").exists():
        text += path.with_suffix(".pxd").read_text()
    text = text.replace("\\\n", " ")
    for module, names in re.findall(r"^\s*from (recoverable[\w.]*) c?import (.+)", text, re.MULTILINE):
        yield from (f"{module}.{name.split()[0]}" for name in names.split("#")[0].split(","))
    yield from re.findall(r"^\s*c?import (recoverable[\w.]+)", text, re.MULTILINE)
    yield from re.findall(r'import_module\("(recoverable[\w.]+)"', text)


def modules_of(name: str, importer: str) -> Iterator[str]:
    """Give the modules that importing a name loads: the one that has it, and the packages around it but for the importer's."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    if name:
        yield name
    while name := name.rpartition(".")[0]:
        if not f"{importer}.".startswith(f"{name}."):
            yield name


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Return what each module of this library imports of it."""
    found = {}
    for module, path in SOURCES.items():
        names = set(cython_imports(path) if path.suffix != ".py" else python_imports(path.read_text()))
        found[module] = {each for name in names for each in modules_of(name, module)} - {module}
    return found


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, if there are any."""
    left = {module: set(others) for module, others in graph.items()}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    # Whoever is left leads to a circle: follow.
    path: list[str] = []
    module = next(iter(sorted(left)), None)
    while module is not None and module not in path:
        path.append(module)
        module = min(left[module] & left.keys())
    return [] if module is None else [*path[path.index(module) :], module]


def test_no_modules_import_each_other_in_a_circle(imports: dict[str, set[str]]) -> None:
    """Imports in functions, cimports and import_module() count; what only a type checker reads does not."""
    assert circle_in(imports) == []


def test_a_circle_is_found() -> None:
    """Of modules that lead to a circle, those in it are named."""
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"d", "e"}, "d": {"b"}, "e": set()}) == ["b", "c", "d", "b"]
    assert circle_in({"a": {"b"}, "b": set()}) == []


def place_of(module: str) -> str:
    """Return the name by which a module, or the package that it is in, stands in the list of layers."""
    return module.partition(".")[2].partition(".")[0] or "__init__"


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_imports_go_down_only(layer: int, imports: dict[str, set[str]]) -> None:
    """No file imports from a layer above its own."""
    above = {name for names in LAYERS[layer + 1 :] for name in names}
    for module, others in imports.items():
        if place_of(module) in LAYERS[layer]:
            assert not {other for other in others if place_of(other) in above}, f"{module} imports from above"


def test_every_file_has_a_layer() -> None:
    """A new file has to be put into the list above."""
    known = {name for names in LAYERS for name in names}
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there <= known


def test_the_adapter_imports_aiohttp() -> None:
    """Only `recoverable/aiohttp.py` and its adapter import the web framework; faults' test client and replays do, too."""
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module == "aiohttp" or (module or "").startswith("aiohttp.") for module in modules):
                importers.add(str(path.relative_to(PACKAGE)))
    assert importers == {
        "_aiohttp.py",
        "_aiohttp_kept.py",
        "_aiohttp_parts.py",
        "_aiohttp_replay.py",
        "_aiohttp_routes.py",
        "aiohttp.py",
        "faults/aiohttp.py",
    }


def test_only_adapters_import_frameworks_of_asgi() -> None:
    """`recoverable/asgi.py` knows no framework: Starlette is its adapter's, FastAPI its own module's."""
    importers = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if found := {module.partition(".")[0] for module in modules} & {"fastapi", "starlette", "uvicorn", "anyio"}:
                importers.setdefault(str(path.relative_to(PACKAGE)), set()).update(found)
    assert importers == {"_starlette.py": {"starlette"}, "_fastapi_json.py": {"fastapi"}, "fastapi.py": {"fastapi"}}


def test_ctypes_and_cython_use_one_library() -> None:
    """The library that ctypes drives is the one that the Cython module is linked to: it is mapped once."""
    from recoverable._native import LIBRARY, library_path

    maps = {
        line.split(None, 5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if LIBRARY in line
    }
    assert {Path(path).resolve() for path in maps} == {library_path()}
