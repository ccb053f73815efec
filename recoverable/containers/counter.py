"""Counter: a number that many requests may raise at once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Number
from typing import Any

from recoverable._native.counter import CounterHandle
from recoverable._native.runtime import register_container

__all__ = ["Counter"]


def _forward(op: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: op(self.value, other.value if isinstance(other, Counter) else other)


def _reflected(op: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: op(other, self.value)


def _refused(self: Counter, other: Any) -> Any:
    # Without this, `root["hits"] *= 2` would put a plain int in the Counter's place.
    raise TypeError("a Counter can only be added to, by += and -=; nothing was changed: compute with its .value")


class Counter(CounterHandle):
    """A 64-bit integer whose additions commute: hits, stock, totals.

    For example::

        arena.root["hits"] = Counter()
        arena.root["hits"].add(1)        # never conflicts with another request's add

    Reading `.value` conflicts with additions that others commit meanwhile; so does all that an int does as well, which gives
    plain numbers: arithmetic, comparison, formatting. It is no `collections.Counter`: for counts by key, hang Counters into a
    Dict.

    Args:
        value: What it begins with.

    Raises:
        OverflowError: it would leave the range of 64 bits; nothing was added.
    """

    __slots__ = ()

    def __iadd__(self, n: int) -> Counter:  # type: ignore[misc]
        self.add(n)
        return self

    def __isub__(self, n: int) -> Counter:  # type: ignore[misc]
        self.add(-n)
        return self

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __bool__(self) -> bool:
        return self.value != 0

    def __eq__(self, other: object) -> bool:
        if self._same(other):
            return True
        if isinstance(other, Counter):
            return self.value == other.value
        return bool(self.value == other) if isinstance(other, Number) else NotImplemented  # type: ignore[comparison-overlap]

    __lt__, __le__ = _forward(operator.lt), _forward(operator.le)
    __gt__, __ge__ = _forward(operator.gt), _forward(operator.ge)

    __add__, __radd__ = _forward(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _forward(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _forward(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _forward(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _forward(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _forward(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _forward(divmod), _reflected(divmod)
    __lshift__, __rlshift__ = _forward(operator.lshift), _reflected(operator.lshift)
    __rshift__, __rrshift__ = _forward(operator.rshift), _reflected(operator.rshift)
    __and__, __rand__ = _forward(operator.and_), _reflected(operator.and_)
    __or__, __ror__ = _forward(operator.or_), _reflected(operator.or_)
    __xor__, __rxor__ = _forward(operator.xor), _reflected(operator.xor)
    __rpow__ = _reflected(operator.pow)

    __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _refused
    __ilshift__ = __irshift__ = __iand__ = __ior__ = __ixor__ = _refused

    def __pow__(self, other: Any, modulus: Any = None) -> Any:
        return pow(self.value, other.value if isinstance(other, Counter) else other, modulus)

    def __neg__(self) -> int:
        return -self.value

    def __pos__(self) -> int:
        return self.value

    def __abs__(self) -> int:
        return abs(self.value)

    def __invert__(self) -> int:
        return ~self.value

    def __float__(self) -> float:
        return float(self.value)

    def __round__(self, digits: Any = None) -> int:
        return round(self.value, digits)

    __trunc__ = __floor__ = __ceil__ = __pos__

    def __str__(self) -> str:
        return repr(self) if self._arena is not None and self._arena.closed else str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __repr__(self) -> str:
        if self._arena is not None and self._arena.closed:
            return "<Counter of a closed arena>"
        return f"Counter({self.value})"

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        return {"value": self.value}

    @classmethod
    def _of_parts(cls, extra: Any, parts: dict[str, Any]) -> Counter:
        return cls(parts["value"])

    def _part(self, key: str) -> int:
        return self._parts()[key]  # type: ignore[no-any-return]

    def _put_part(self, key: str, value: int) -> None:
        self.add(value - self.value)

    @staticmethod
    def _part_text(key: str) -> str:
        return f".{key}"

    def _about(self) -> tuple[str, None, str]:
        return "Counter", None, str(self.value)

    def _entries(self, offset: int, limit: int) -> None:
        return None


register_container(Counter)
