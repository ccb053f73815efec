"""Processes for runs that end in death: forked from this warm one, waited for, never left behind.

A fork costs milliseconds where a new interpreter costs half a second. The child never runs the parent's clean-up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import resource
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Ending", "await_child", "become_child", "in_child"]


@dataclass
class Ending:
    """How a child ended.

    Attributes:
        value: What its function returned, if it did.
        error: The traceback of an exception that left it, else "".
        signal: The signal that killed it, or 0.
        hung: Whether it had to be killed after the time-out.
    """

    value: Any = None
    error: str = ""
    signal: int = 0
    hung: bool = False

    def __str__(self) -> str:
        if self.hung:
            return "hung"
        if self.signal:
            return f"died of {signal.Signals(self.signal).name}"
        return self.error or "survived"


def fork() -> int:
    """Fork; the child is quiet about how it dies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns where there are threads; the child uses none
        pid = os.fork()
    if pid == 0:
        become_child()
    return pid


def become_child() -> None:
    """Dump no core, print no stack, share pages with the parent as long as possible."""
    faulthandler.disable()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()


def in_child(function: Callable[[], Any], timeout: float) -> Ending:
    """Run `function()` in a forked child.

    Args:
        function: What to run; its result must be picklable.
        timeout: Seconds after which the child is killed and counts as hung.
    """
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            os.close(reader)
            try:
                answer = pickle.dumps(("", function()))
            except BaseException:
                answer = pickle.dumps((traceback.format_exc(), None))
            with open(writer, "wb") as out:  # noqa: PTH123 -- a descriptor
                out.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    return await_child(pid, reader, timeout)


def await_child(pid: int, reader: int, timeout: float) -> Ending:
    """Wait for a child's answer and its end; `reader` is closed."""
    ending, answer = Ending(), b""
    child = os.pidfd_open(pid)
    try:
        with open(reader, "rb", buffering=0) as source:
            poll = select.poll()
            poll.register(source, select.POLLIN | select.POLLHUP)
            while poll.poll(timeout * 1000):
                piece = source.read(1 << 20)
                if not piece:
                    break
                answer += piece
            else:
                ending.hung = True
        if not ending.hung:
            poll = select.poll()
            poll.register(child, select.POLLIN)
            ending.hung = not poll.poll(timeout * 1000)
        if ending.hung:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(child)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and not ending.hung:
        ending.signal = os.WTERMSIG(status)
    if answer and not ending.signal and not ending.hung:
        ending.error, ending.value = pickle.loads(answer)
    elif not ending.signal and not ending.hung:
        ending.error = f"ended without an answer (status {status})"
    return ending
