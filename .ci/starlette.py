#!/usr/bin/env python3
"""Run Starlette's own tests with our middleware around each application of theirs: what passes without passes with it.

Usage: starlette.py FOLDER [pytest arguments]

The tests are those of the sdist of the Starlette that is installed, unpacked in FOLDER. They run three times, as they are and with
`recoverable.asgi.Middleware` around each application that a test gives its client, for each `protect`; on asyncio. Every test
whose outcome differs is told, and makes the exit status 1, but for `KNOWN`. `tox -e starlette` has what they need.

With `-p` it is a plugin of pytest's as well, which puts the middleware around; RECOVERABLE_PROTECT says which.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

RUNS = ("", "decorated", "all")
VARIABLE = "RECOVERABLE_PROTECT"

# What differs by design. With "all" the head of an answer waits for the first part of its body, and for the commit before that;
# and there is no transaction without an arena, which is closed with the lifespan.
KNOWN = {
    ("all", f"tests/test_testclient.py::{name}[asyncio]")
    for name in ("test_streaming_response_is_available_before_first_chunk", "test_use_testclient_as_contextmanager")
}

# -- in pytest --------------------------------------------------------------------------------------------------------

outcomes: dict[str, str] = {}
_numbers = itertools.count()


def pytest_configure(config: Any) -> None:
    """Have each client of the tests serve an application with the middleware around."""
    if protect := os.environ.get(VARIABLE):
        import starlette.testclient

        begin = starlette.testclient.TestClient.__init__
        is_one, old = starlette.testclient._is_asgi3, starlette.testclient._WrapASGI2

        @functools.wraps(begin)
        def beginning(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
            begin(self, around(app if is_one(app) else old(app), protect), *args, **kwargs)

        starlette.testclient.TestClient.__init__ = beginning  # type: ignore[method-assign]
        may_close()


def may_close() -> None:
    """Have the tests' guard against what blocks an event loop let an arena be closed: it waits for its thread, at shut-down."""
    import blockbuster

    activate = blockbuster.BlockBuster.activate

    @functools.wraps(activate)
    def activating(self: Any) -> None:
        for each in self.functions.values():
            each.can_block_in("/recoverable/service.py", "close")
        activate(self)

    blockbuster.BlockBuster.activate = activating  # type: ignore[method-assign]


def around(app: Any, protect: Any) -> Any:
    """Put the middleware around an application, on an arena of its own."""
    import recoverable.asgi

    name = f"starlette-tests-{os.getpid()}-{next(_numbers)}"
    arena = recoverable.Arena.open(name, size="1 MiB")

    def remove() -> None:
        with contextlib.suppress(Exception):
            arena.close()
        with contextlib.suppress(Exception):
            recoverable.Arena.unlink(name)

    atexit.register(remove)
    return recoverable.asgi.Middleware(app, arena, protect=protect)


def pytest_runtest_logreport(report: Any) -> None:
    """Remember what became of a test."""
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = f"{report.when} {report.outcome}"


def pytest_sessionfinish() -> None:
    """Write it down."""
    Path(os.environ["RECOVERABLE_OUTCOMES"]).write_text(json.dumps(outcomes))


# -- around pytest ----------------------------------------------------------------------------------------------------


def tests(folder: Path) -> Path:
    """Return the unpacked sdist of the Starlette that is installed."""
    version = importlib.metadata.version("starlette")
    tree = folder / f"starlette-{version}"
    if not tree.exists():
        command = ("download", "--quiet", "--no-deps", "--no-binary", "starlette", "--dest", str(folder))
        subprocess.run([sys.executable, "-m", "pip", *command, f"starlette=={version}"], check=True)
        with tarfile.open(folder / f"starlette-{version}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return tree


def run(tree: Path, folder: Path, protect: str, arguments: list[str]) -> dict[str, str]:
    """Run the tests once; return what became of each."""
    said = folder / f"outcomes-{protect or 'plain'}.json"
    plugin = folder / "around_starlette.py"
    plugin.write_text(Path(__file__).read_text())
    environment = {**os.environ, VARIABLE: protect, "RECOVERABLE_OUTCOMES": str(said), "PYTHONPATH": str(folder)}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONSAFEPATH": ""}
    if (tree / "starlette").exists():  # what is installed is tested
        (tree / "starlette").rename(tree / "not-installed")
    plugins = ("-p", "around_starlette", "-p", "anyio.pytest_plugin", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "-k", "not trio", *arguments]
    text = folder / f"log-{protect or 'plain'}.txt"
    with text.open("w") as log:
        subprocess.run(command, cwd=tree, env=environment, stdout=log, stderr=log, check=False, timeout=1200)
    print(f"{protect or 'plain':10} {text.read_text().strip().splitlines()[-1]}", flush=True)
    found: dict[str, str] = json.loads(said.read_text())
    return found


def main(folder: Path, arguments: list[str]) -> int:
    """Compare the outcomes."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = tests(folder)
    plain, *others = (run(tree, folder, protect, arguments) for protect in RUNS)
    differing = 0
    for protect, found in zip(RUNS[1:], others, strict=True):
        for name in sorted(plain.keys() | found.keys()):
            if plain.get(name) != found.get(name) and (protect, name) not in KNOWN:
                print(f"{protect}: {name}: {found.get(name)}, without us {plain.get(name)}")
                differing += 1
    print(f"{differing} of {len(plain)} tests differ" if differing else f"{len(plain)} tests, no difference")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
