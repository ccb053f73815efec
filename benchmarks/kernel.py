"""`kernel.c`, compiled and run: what the kernel's ways to notice a write cost."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("kernel.c")
Ask = Callable[..., list[list[str]]]


@contextlib.contextmanager
def compiled() -> Iterator[Ask | None]:
    """Give what runs it and returns its lines, cut at tabs; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/kernel"
        subprocess.run([compiler, "-O2", "-pthread", "-o", program, str(SOURCE)], check=True, timeout=60)

        def ask(*arguments: object) -> list[list[str]]:
            command = [program, *map(str, arguments)]
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            return [line.split("\t") for line in text.splitlines()]

        yield ask
