"""A process that is forked when the watchdog has just stopped a step of its parent: nothing of that reaches the child."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.crash, pytest.mark.slow]

PROGRAM = """
import _thread, ctypes, functools, os, sys

dropped = []
stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
args = (ctypes.c_ulong(_thread.get_ident()), error := ctypes.py_object(ValueError))
os.register_at_fork(before=functools.partial(stop, *args))  # the last before it: no Python code runs in between

from recoverable import Arena
from recoverable.errors import _TooLong

sys.unraisablehook = lambda what: dropped.append(what.exc_type)
with Arena.temporary("4 MiB", name=sys.argv[1], step_limit=5) as arena:
    if sys.argv[2] == "ours":
        error.value = _TooLong
    try:
        child = os.fork()
        if child == 0:
            os.write(1, f"{dropped}".encode())
            os._exit(0)
    except (_TooLong, ValueError):
        pass
    while True:
        try:
            os.waitpid(-1, 0)
            break
        except (_TooLong, ValueError):
            pass
        except ChildProcessError:
            break
"""


@pytest.mark.parametrize(("whose", "seen"), [("ours", "[]"), ("another's", "[<class 'ValueError'>]")])
def test_an_exception_for_a_step_of_the_parent(name: str, whose: str, seen: str) -> None:
    """It is gone before any code of the child runs, which would be a function that is called after a fork; others stay."""
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, whose], capture_output=True, text=True, timeout=60, check=True
    )
    assert program.stdout == seen, program.stderr
