"""What a call is given: objects of a class among its arguments, and in what these are made of."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["given"]

T = TypeVar("T")

_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None), list, tuple, dict, set})


def given(cls: type[T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[T]:
    """Give the objects of a class that a function is given: as arguments, in partials and closures, and as `request` of a view.

    Args:
        cls: The class, such as that of a framework's requests.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """
    for value in (*args, *kwargs.values()):
        if type(value) in _PLAIN:
            continue
        if isinstance(value, cls):
            yield value
        elif isinstance(value, functools.partial):
            yield from given(cls, (value.func, *value.args), value.keywords)
        else:
            yield from (each for each in _inside(value) if isinstance(each, cls))


def _inside(value: Any) -> Iterator[Any]:
    try:
        held = getattr(getattr(value, "__self__", value), "__dict__", None)  # a class-based view, or its method
        cells = getattr(value, "__closure__", None) or ()
    except Exception:  # a proxy, of something that is not there now
        return
    if isinstance(held, dict):
        yield from (held[name] for name in ("request", "_request") if name in held)
    for cell in cells:
        with contextlib.suppress(ValueError):  # empty so far
            yield cell.cell_contents
