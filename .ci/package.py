#!/usr/bin/env python3
"""Build the sdist, and the wheel from it; install each as a user does, and run the tests on what is installed.

Usage: package.py FOLDER [pytest arguments]

Each is installed into an empty virtual environment of FOLDER, with its extras. The tests are those that the sdist
carries, run in its unpacked tree, of which only the tests, examples and pages are imported or read: an installed
`recoverable` goes before the tree's (PYTHONSAFEPATH), and that is checked. A release has no crash points; the tests that
need them are skipped, and pytest's summary says so. Needs `build` in the environment that runs this.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHERE = "import pathlib, recoverable, sys; sys.exit(not pathlib.Path(recoverable.__file__).is_relative_to(sys.prefix))"


def run(*words: object, cwd: Path = ROOT) -> None:
    """Run a command, tell which, and end here where it fails."""
    print("+", *words, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(word) for word in words]
    subprocess.run(command, check=True, cwd=cwd, env={**environment, "PYTHONSAFEPATH": "1"})


def try_out(package: Path, tree: Path, folder: Path, arguments: list[str]) -> None:
    """Install a package into a new environment and run the tree's tests there."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "pip")
    quietly = ("install", "--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", *quietly, f"{package}[numpy,prometheus]", "--group", "test", cwd=tree)
    run(python, "-c", WHERE, cwd=tree)
    run(python, "-m", "pytest", "-p", "no:cacheprovider", *arguments, cwd=tree)


def main(folder: Path, arguments: list[str]) -> None:
    """Build both and try both out."""
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tree = folder / sdist.name.removesuffix(".tar.gz")
    for package, name in ((wheel, "wheel"), (sdist, "sdist")):
        try_out(package, tree, folder / name, arguments)
    print(f"both install and pass their tests: {sdist.name}, {wheel.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
