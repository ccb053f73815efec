"""The examples without recovery: what they import from `recoverable`, as plain Python objects.

`install` puts them into the package before an example is imported. The handlers are then the very same, their state is dicts,
lists, a deque, objects with attributes and an ndarray, and nothing is protected from anything.
"""

from __future__ import annotations

import contextlib
import copy
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


def recoverable(fn: Any = None, /, **options: Any) -> Any:
    """Return the function as it is."""
    return fn if fn is not None else lambda fn: fn


def after_commit(fn: Callable[..., object], *args: Any) -> None:
    """Do it."""
    fn(*args)


def attempt() -> int:
    """Say that this is the first."""
    return 1


class Record:
    """Attributes with defaults."""

    _defaults: dict[str, Any]

    def __init_subclass__(cls, name: str | None = None) -> None:
        cls._defaults = {field: getattr(cls, field) for field in cls.__annotations__ if hasattr(cls, field)}

    def __init__(self, **values: Any) -> None:
        for field, value in self._defaults.items():
            setattr(self, field, copy.copy(value))
        for field, value in values.items():
            setattr(self, field, value)


class Counter:
    """A number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, n: int) -> None:
        self.value += n


class Deque(deque[Any]):
    """With the one method more that the examples call."""

    def to_python(self) -> list[Any]:
        return list(self)


class Matrix:
    """An ndarray where the examples look for it."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        import numpy as np

        self.view = np.zeros(shape, dtype)


def array(given: Any, dtype: str) -> Any:
    """Return a list for a list, and an ndarray for a shape."""
    return given if isinstance(given, list) else Matrix(given, dtype)


class Arena:
    """A dict."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}

    def transaction(self, independent: bool = False) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def run(self, fn: Callable[..., Awaitable[Any]], /, *args: Any) -> Any:
        return await fn(*args)


def setup(app: Any, arena: Arena, **options: Any) -> None:
    """Keep it where the handlers look for it."""
    import recoverable.aiohttp as web

    app[web.arena_key] = arena


def install() -> None:
    """Replace what the examples import. Before they do, and for the rest of this process's life."""
    import recoverable as package
    import recoverable.aiohttp as web

    for name, stand_in in {
        "recoverable": recoverable,
        "after_commit": after_commit,
        "attempt": attempt,
        "Record": Record,
        "Counter": Counter,
        "Deque": Deque,
        "Array": array,
    }.items():
        setattr(package, name, stand_in)
    web.setup = setup  # type: ignore[assignment]
