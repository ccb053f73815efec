"""Looks that follow each other: when the next one is due, and how they follow on a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING

from rich.live import Live

from recoverable.cli._render import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

__all__ = ["paced", "watch"]


def paced(interval: float, count: int, pause: Callable[[float], bool] | None = None) -> Iterator[None]:
    """Yield now and after each interval.

    Args:
        interval: Seconds between two.
        count: How often; 0 for no end.
        pause: Waits that many seconds, and returns whether to go on. The default sleeps.
    """
    taken = 0
    while True:
        yield
        taken += 1
        if taken == count:
            return
        if pause is None:
            time.sleep(interval)
        elif not pause(interval):
            return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Read single keys while the block runs; the terminal is as before after it, also when we are told to end.

    Yields:
        What waits that many seconds, and returns False as soon as q is typed.
    """
    if not sys.stdin.isatty():
        yield _sleep
        return
    keyboard = sys.stdin.fileno()

    def go_on(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([keyboard], [], [], left)[0]:
                typed = os.read(keyboard, 64)
                if not typed or typed.lower().startswith(b"q"):  # or nobody is at the keyboard any more
                    return False
        return True

    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard, termios.TCSANOW)
    try:
        yield go_on
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def watch(screens: Callable[[Callable[[float], bool]], Iterator[RenderableType]], count: int) -> None:
    """Show screens on the terminal, one in the place of the other, until q or Ctrl-C.

    Args:
        screens: Gives them, when it is given what waits so many seconds between two and returns whether to go on.
        count: How many there will be; 0: no end.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # the terminal is to be left as it was
    signal.signal(signal.SIGHUP, _interrupt)
    whole = count == 0 and sys.stdout.isatty()
    with _keys() as pause, Live(console=console(), auto_refresh=False, screen=whole) as shown:
        for each in screens(pause):
            shown.update(each, refresh=True)
