"""What importing pulls in, and which file may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recoverable

PACKAGE = Path(recoverable.__file__).parent

#: The layers of the Python half, the lowest first: a file imports from its own layer's files above it in this list, and
#: from lower layers; never from higher ones.
LAYERS = [
    ["errors", "reports", "_options"],
    ["_native", "speculation", "_registry", "_shm", "events"],
    ["codecs", "containers"],
    ["callbacks", "transaction", "policy", "tasks", "_timelimit"],
    ["boundary"],
    ["arena"],
    ["decorator"],
    ["_aiohttp", "aiohttp"],
    ["faults", "metrics"],
    ["cli"],
]


def loaded_by(program: str) -> set[str]:
    """Return the top-level modules that a program has loaded at its end."""
    code = f"{program}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_recoverable_imports_no_framework() -> None:
    """`import recoverable` loads neither aiohttp nor uvloop nor numpy."""
    assert not loaded_by("import recoverable") & {"aiohttp", "uvloop", "numpy"}


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
    assert recoverable.__all__ == sorted(recoverable.__all__)
    for name in recoverable.__all__:
        assert hasattr(recoverable, name)


def test_the_top_is_thin() -> None:
    """`recoverable/__init__.py` has imports, `__all__` and the lazy import, nothing else."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    kinds = [type(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    assert kinds == [ast.Expr, ast.Assign, ast.FunctionDef]


def imports_of(path: Path) -> set[str]:
    """Return what a file imports of this package when it is loaded, as first parts below `recoverable`."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "recoverable":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("recoverable."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("recoverable.")}
    return found


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_imports_go_down_only(layer: int) -> None:
    """No file imports from a layer above its own."""
    above = {name for names in LAYERS[layer + 1 :] for name in names}
    for name in LAYERS[layer]:
        files = sorted((PACKAGE / name).glob("*.py")) or sorted(PACKAGE.glob(f"{name}.py"))
        for file in files:
            assert not imports_of(file) & above, f"{file.name} imports from above"


def test_every_file_has_a_layer() -> None:
    """A new file has to be put into the list above."""
    known = {name for names in LAYERS for name in names} | {"__init__"}
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there <= known


def test_the_adapter_imports_aiohttp() -> None:
    """Only `recoverable/aiohttp.py` and its inner half import the web framework, and fault injection's test client."""
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module == "aiohttp" or (module or "").startswith("aiohttp.") for module in modules):
                importers.add(str(path.relative_to(PACKAGE)))
    assert importers == {"_aiohttp.py", "aiohttp.py", "faults/aiohttp.py"}


def test_ctypes_and_cython_use_one_library() -> None:
    """The library that ctypes drives is the one that the Cython module is linked to: it is mapped once."""
    from recoverable._native import LIBRARY, library_path

    maps = {
        line.split(None, 5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if LIBRARY in line
    }
    assert {Path(path).resolve() for path in maps} == {library_path()}
