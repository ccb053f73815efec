"""Where events go: to the program's structlog, or to the standard library's logging; and whether one of a level is written at all.

What we want: every event in the pipeline that the program has, whichever it is, without a line of configuration for us; and a
healthy request pays nothing for it. A program that has called `structlog.configure()` has its events there. Any other has
them as records of `logging`, below the logger "recoverable": `arena.full` is one of "recoverable.arena". So its levels,
handlers, formatters and filters apply, and without any of these warnings and errors are on standard error, as every
library's are. A record's message is a line to read, and each field of the event an attribute, for formatters that write JSON.

Which of the two is asked at each event, since a program configures after it has imported us, or in a test for a while. And
structlog is not imported for that, by us: who has not imported it has not configured it. It would bring rich into every
worker.

Loggers are made when an event first needs them, not before: `logging.config.dictConfig` disables those that it finds, unless
it is told otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["committed_wanted", "log", "quietly", "shown", "untold"]

NAME: Final = "recoverable"

# -- the standard library's -------------------------------------------------------------------------------------------

#: Fields that are a record's attributes and not words of its message: too much to read, or there by themselves.
_ASIDE: Final = frozenset(("pages", "microseconds", "chunks", "stack", "detail", "note"))


class _Standard:
    """Writes records of the standard library's logging."""

    def debug(self, event: str, **fields: Any) -> None:
        """Write it."""
        _record(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write it."""
        _record(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write it."""
        _record(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write it."""
        _record(logging.ERROR, event, fields)


@functools.cache
def _logger(event: str) -> logging.Logger:
    return logging.getLogger(f"{NAME}.{event.partition('.')[0]}")


def _record(level: int, event: str, fields: dict[str, Any]) -> None:
    logger = _logger(event)
    if not logger.isEnabledFor(level):
        return
    error = fields.pop("exc_info", None)
    if isinstance(error, BaseException):
        error = (type(error), error, error.__traceback__)
    message, values = _message(event, fields)
    code = sys._getframe(2).f_code  # the event's function
    record = logger.makeRecord(
        logger.name,
        level,
        code.co_filename,
        code.co_firstlineno,
        message,
        (values,),
        error,
        code.co_name,
    )
    # Not by `extra`: that raises where a field is there already, as a `request_id` of the program's own record factory.
    for name, value in {"event": event, **fields}.items():
        record.__dict__.setdefault(name if name not in record.__dict__ else f"{NAME}_{name}", value)
    logger.handle(record)


def _message(event: str, fields: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return what is to be read, as a template that all events of a form share, and what belongs in there."""
    values = {name: _word(value) for name, value in fields.items() if value is not None and name not in _ASIDE}
    template = " ".join(f"{name}=%({name})s" for name in values)
    sentence = next((name for name in ("detail", "note") if fields.get(name)), None)
    template = f"{event} {template}" if sentence is None else f"{event}: %({sentence})s [{template}]"
    if fields.get("stack"):  # many lines
        template += "\n%(stack)s"
    values.update({name: str(fields[name]) for name in (sentence, "stack") if name is not None and fields.get(name)})
    return template, values


def _word(value: Any) -> str:
    """Return a value so that a reader sees where it ends."""
    text = str(value)
    return text if text and text.isprintable() and not any(sign in text for sign in ' "') else repr(value)


class _Nobody(_Standard):
    """Writes nothing."""

    def debug(self, event: str, **fields: Any) -> None:
        """Drop it."""

    info = warning = error = debug


_standard, _nobody = _Standard(), _Nobody()

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


# -- the program's structlog ------------------------------------------------------------------------------------------

_proxy: Any = None  # it takes up the configuration at each use


def _structlog() -> Any:
    """Return structlog where the program has configured it, else None."""
    found = sys.modules.get("structlog")
    ask = getattr(found, "is_configured", None)  # None: it is being imported
    return found if ask is not None and ask() else None


def _configured(structlog: Any) -> Any:
    global _proxy
    if _proxy is None:
        _proxy = structlog.get_logger(NAME)
    return _proxy


def log() -> Any:
    """Return the logger that events are written to now."""
    if quiet:
        return _nobody
    structlog = _structlog()
    return _standard if structlog is None else _configured(structlog)


# -- whether it is written --------------------------------------------------------------------------------------------

_asked: object = None  # the wrapper class that _enabled was asked of
_enabled: Callable[[], bool] = bool

#: Two facts, a dict, a key and what is there or None, each: as long as they are unchanged, `request.committed` is written
#: nowhere. Or nothing. For native code, which asks for each request that has written, and can't afford a call.
untold: Final[list[Any]] = []


def committed_wanted() -> bool:
    """Return, cheaply, whether `request.committed` (debug) would be written anywhere."""
    global _asked, _enabled
    structlog = _structlog()
    if structlog is None:
        logger = _logger("request.committed")
        wanted = logger.isEnabledFor(logging.DEBUG)
        untold[:] = [] if wanted else _facts(*_unconfigured(), getattr(logger, "_cache", None), logging.DEBUG)
        return wanted
    wrapper = structlog.get_config()["wrapper_class"]
    if wrapper is not _asked:
        _asked, _enabled = wrapper, _level_check(structlog, logging.DEBUG)
    settings = _settings()
    never = _enabled is _never and settings is not None
    untold[:] = _facts(settings, "is_configured", settings, "default_wrapper_class") if never else []
    return _enabled()


def _unconfigured() -> tuple[Any, str]:
    """Return where it stands that structlog is not configured."""
    return (sys.modules, "structlog") if "structlog" not in sys.modules else (_settings(), "is_configured")


def _settings() -> dict[str, Any] | None:
    """Return structlog's own settings, a dict that has what was ever configured, or None: it has no public name for them."""
    structlog = sys.modules["structlog"]
    ask = getattr(structlog, "is_configured", bool)  # bool: it is being imported
    found: dict[str, Any] | None = getattr(
        getattr(getattr(structlog, "_config", None), "_CONFIG", None), "__dict__", None
    )
    return found if found is not None and found.get("is_configured", False) is ask() else None


def _facts(first: Any, key: object, second: Any, other: object) -> list[Any]:
    """Return both as they are now, or nothing where a dict is not to be had."""
    if type(first) is not dict or type(second) is not dict or other not in second:
        return []
    return [first, key, first.get(key), second, other, second[other]]


def _level_check(structlog: Any, level: int) -> Callable[[], bool]:
    """Find out how the program's kind of logger tells whether a level is enabled."""
    logger = _configured(structlog).bind()
    if isinstance(logger, structlog.stdlib.BoundLogger):  # the standard library's levels may change at any time
        standard = logging.getLogger(NAME)
        return lambda: standard.isEnabledFor(level)
    # Its class: structlog.BoundLogger itself takes any name that it is asked for as an event's method.
    ask = getattr(type(logger), "is_enabled_for", None)
    return _always if ask is None or ask(logger, level) else _never  # fixed in the class of a filtering logger


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def shown(level: int) -> bool:
    """Return whether the program's structlog writes events of that level, with their tracebacks.

    Not logging: there a framework's own record of an exception, an error, is what tools such as Sentry look for.
    """
    structlog = None if quiet else _structlog()
    return structlog is not None and _level_check(structlog, level)()
