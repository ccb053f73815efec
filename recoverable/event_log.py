"""Where events go: the program's own structlog pipeline, or standard error; and whether one of a level is written at all.

What we want: whoever configures structlog gets every event in their own pipeline; a healthy request pays nothing for
it; and a program that never heard of structlog is not flooded. structlog's own default prints everything, debug
included, to standard output, which would put a line there for each request. So, as the standard library's logging does
for libraries, an unconfigured structlog gets warnings and errors only, on standard error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["committed_wanted", "log", "quietly", "settings", "shown"]

_configured = structlog.get_logger("recoverable")  # a proxy: it takes up the configuration at each use


class _Unconfigured:
    """Writes warnings and errors to standard error, for programs that have not configured structlog."""

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        logger = structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
            ],
            wrapper_class=structlog.BoundLogger,
        )
        getattr(logger, level)(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write it."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write it."""
        self._write("error", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Drop it."""

    debug = info


class _Nobody(_Unconfigured):
    """Writes nothing."""

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Drop it."""


_unconfigured, _nobody = _Unconfigured(), _Nobody()

#: Write nothing: while faults are explored, most of what is told is what they did.
quiet = False


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Write nothing in the block."""
    global quiet
    was, quiet = quiet, True
    try:
        yield
    finally:
        quiet = was


def log() -> Any:
    """Return the logger that events are written to now."""
    if quiet:
        return _nobody
    return _configured if structlog.is_configured() else _unconfigured


# -- whether it is written -----------------------------------------------------------------------------------------

_asked: object = None  # the wrapper class that _enabled was asked of
_enabled: Callable[[], bool] = bool
_silent: list[object] = []  # that class, if its loggers never write `request.committed`


def committed_wanted() -> bool:
    """Return, cheaply, whether `request.committed` (debug) would be written anywhere."""
    global _asked, _enabled
    if not structlog.is_configured():
        return False
    wrapper = structlog.get_config()["wrapper_class"]
    if wrapper is not _asked:
        _asked, _enabled = wrapper, _level_check(_configured.bind(), logging.DEBUG)
        _silent[:] = [wrapper] if _enabled is _never else []
    return _enabled()


def settings() -> tuple[dict[str, Any] | None, list[object]]:
    """Return structlog's own settings, and the "default_wrapper_class" in there with which `request.committed` is never written.

    For native code, which asks for each request that has written, and can't afford a call. The settings are a dict that has
    what was ever configured; None where they can't be found: structlog has no public name for them.
    """
    found: dict[str, Any] | None = getattr(
        getattr(getattr(structlog, "_config", None), "_CONFIG", None), "__dict__", None
    )
    had = found is not None and found.get("is_configured", False) is structlog.is_configured()
    return found if had else None, _silent


def _level_check(logger: Any, level: int) -> Callable[[], bool]:
    """Find out how this kind of logger tells whether a level is enabled."""
    if isinstance(logger, structlog.stdlib.BoundLogger):  # the standard library's levels may change at any time
        standard = logging.getLogger("recoverable")
        return lambda: standard.isEnabledFor(level)
    # Its class: structlog.BoundLogger itself takes any name that it is asked for as an event's method.
    ask = getattr(type(logger), "is_enabled_for", None)
    return _always if ask is None or ask(logger, level) else _never  # fixed in the class of a filtering logger


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def shown(level: int) -> bool:
    """Return whether an event of that level goes where the program wants its events; not to our own fallback."""
    return not quiet and structlog.is_configured() and _level_check(_configured.bind(), level)()
