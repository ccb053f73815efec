"""Instructions, counted by valgrind's callgrind: a Python process runs under it, and a part of that is counted.

The process says itself where the part begins and ends (`Marks`), by the library that `compiled_marks` makes of `callgrind.c`.
Outside that part nothing is instrumented, which makes start-up and warming up ten times faster.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks import tree

SOURCE = Path(__file__).with_name("callgrind.c")

Function = tuple[str, str]  # the file name of its library, its name
Profile = Counter[Function]  # instructions of its own, without those that it called

# What compilers add to the name of a function of which they make a part, or a copy, of their own; and callgrind to one in itself.
ADDED = re.compile(r"(\.(lto_priv|constprop|isra|part|cold)(\.\d+)*)*('\d+)?$")


class Missing(Exception):
    """Something that counting needs is not installed; says what."""


def needed() -> None:
    """Raise `Missing` unless instructions can be counted here."""
    if shutil.which("valgrind") is None:
        raise Missing("valgrind is not installed (Debian: apt install valgrind)")
    if _compiler() is None:
        raise Missing("there is no C compiler (Debian: apt install gcc libc6-dev)")


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled_marks(folder: str) -> Path:
    """Compile the marks into a library in that folder; return its path."""
    library = Path(folder, "marks.so")
    command = [_compiler() or "cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Missing(f"{SOURCE.name} was not compiled; valgrind's headers are missing?\n{done.stderr.strip()}")
    return library


class Marks:
    """Begin and end of what is counted, for the process that runs under callgrind."""

    def __init__(self, library: str) -> None:
        marks = ctypes.CDLL(library)
        self.begin, self.end = marks.begin_counting, marks.end_counting


def count(
    module: str, arguments: Sequence[str], folder: str, *, timeout: float, without: Collection[str] = ()
) -> dict[int, Profile]:
    """Run `python -m module arguments…` under callgrind; return what was counted between marks, by process id.

    Children that it forks are counted as it is, those that it starts by `exec` are not. What could differ from run to run is
    fixed where it can be: the seed of `hash()`, the environment, and the folder.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no", "--compress-pos=no"),
        *("--dump-line=no", f"--callgrind-out-file={folder}/out.%p", f"--log-file={folder}/log.%p"),
        *tree.command(module, *arguments),
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # with the children that it forked
        process.communicate()
        raise
    if process.returncode != 0:
        told = Path(folder, f"log.{process.pid}").read_text()[-2000:]
        raise RuntimeError(f"{module} under callgrind ended with {process.returncode}:\n{said[-4000:]}\n{told}")
    return {int(path.suffixes[-2][1:]): parsed(path.read_text(), without) for path in Path(folder).glob("out.*.*")}


def parsed(text: str, without: Collection[str] = ()) -> Profile:
    """Return the self cost of each function of a dump that was written with --compress-strings=no.

    The format: valgrind's manual, "Callgrind Format Specification". `ob=` and `fn=` say whose the lines of cost that follow
    are; a line of cost after `calls=` is what a call took, which is the callee's.

    Args:
        text: The dump.
        without: Functions that are left out, with all that they call: that is taken off the functions that they call directly.
    """
    profile: Profile = Counter()
    library, function, is_call = "?", "?", False
    callee_library, callee = "?", "?"
    for line in text.splitlines():
        if line.startswith("fn="):
            function = ADDED.sub("", line[3:])
        elif line.startswith("ob="):
            library = callee_library = plain_name(line[3:])
        elif line.startswith("cfn="):
            callee = ADDED.sub("", line[4:])
        elif line.startswith("cob="):
            callee_library = plain_name(line[4:])
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit():
            cost = int(line.split()[1])
            if not is_call:
                profile[library, function] += cost * (function not in without)
            elif function in without and callee not in without:
                profile[callee_library, callee] -= cost
            is_call, callee_library = False, library
    return profile


def plain_name(path: str) -> str:
    """Return a library's file name without versions and platform: libpython3.11.so.1.0 is libpython."""
    name = Path(path).name
    return re.sub(r"^(libpython|python)3?[\d.]*", r"\1", name.partition(".cpython-")[0].partition(".so")[0])
