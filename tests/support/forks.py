"""Run a function in a forked child and see how it ends: value, exception, signal or time-out.

Forks come from one warm process (imports done, costs calibrated), so that a loop of hundreds takes seconds. The child
never runs the parent's clean-up: no atexit, no pytest.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Ending:
    """How a child ended.

    Attributes:
        value: What the function returned, if it did.
        error: The traceback of an exception that left it, else "".
        signal: The signal that killed it, or 0.
        hung: Whether it had to be killed after the time-out.
    """

    value: Any = None
    error: str = ""
    signal: int = 0
    hung: bool = False

    @property
    def returned(self) -> bool:
        """Whether the function returned."""
        return not (self.error or self.signal or self.hung)

    def __str__(self) -> str:
        if self.hung:
            return "hung" + (f"; {self.error}" if self.error else "")
        return f"died of signal {self.signal}" if self.signal else self.error or f"returned {self.value!r}"


def in_child(function: Callable[[], Any], timeout: float = 20.0) -> Ending:
    """Run `function()` in a forked child.

    Args:
        function: What to run; its result must be picklable.
        timeout: Seconds after which the child is killed and counts as hung.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        gc.freeze()  # a collection would copy every page that we share with the parent
        try:
            try:
                answer = pickle.dumps(("", function()))
            except BaseException:
                answer = pickle.dumps((traceback.format_exc(), None))
            with open(writer, "wb") as out:  # noqa: PTH123 -- a descriptor
                out.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    return _await(pid, reader, timeout)


def _await(pid: int, reader: int, timeout: float) -> Ending:
    """Collect the child's answer and its end."""
    ending, answer = Ending(), b""
    child = os.pidfd_open(pid)
    with open(reader, "rb", buffering=0) as source:
        poll = select.poll()
        poll.register(reader, select.POLLIN | select.POLLHUP)
        while poll.poll(timeout * 1000):
            piece = source.read(1 << 20)
            if not piece:
                break
            answer += piece
        else:
            ending.hung = True
        if not ending.hung:
            done = select.poll()
            done.register(child, select.POLLIN)
            ending.hung = not done.poll(timeout * 1000)
    if ending.hung:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(child)
    if os.WIFSIGNALED(status) and not ending.hung:
        ending.signal = os.WTERMSIG(status)
    if answer and not ending.signal:
        ending.error, ending.value = pickle.loads(answer)
    elif not ending.signal and not ending.hung:
        ending.error = f"ended without an answer (status {status})"
    return ending
