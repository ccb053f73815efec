"""Keys as paths have them, `UUID('...')` in `root['users'][UUID('...')]`: read from text without running anything of it."""

from __future__ import annotations

import ast
import datetime as dt
import math
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["key_of", "key_of_text", "that_equals_itself"]


def _zone(key: str) -> dt.tzinfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(key)


# What repr() writes of the values that are keys and no literals: see recoverable.codecs.
_CALLS: Final[dict[str, Callable[..., Any]]] = {
    "Decimal": Decimal,
    "UUID": UUID,
    "datetime.date": dt.date,
    "datetime.datetime": dt.datetime,
    "datetime.time": dt.time,
    "datetime.timedelta": dt.timedelta,
    "datetime.timezone": dt.timezone,
    "float": float,
    "zoneinfo.ZoneInfo": _zone,
}
_NAMES: Final[dict[str, Any]] = {"datetime.timezone.utc": dt.UTC, "inf": math.inf, "nan": math.nan}
_nans: Final[dict[str, Decimal]] = {}


def key_of(node: ast.expr) -> Any:
    """Return the key that an expression stands for.

    Raises:
        ValueError: For none.
    """
    try:
        return that_equals_itself(_value(node))
    # What the types above raise of what they can't be made of; KeyError: a time zone that is not known here.
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError) as error:
        raise ValueError(str(error)) from None


def key_of_text(text: str) -> Any:
    """Return the key that a text stands for.

    Raises:
        ValueError, SyntaxError, MemoryError, RecursionError: For none.
    """
    return key_of(ast.parse(text.strip(), mode="eval").body)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple):
        return tuple(_value(each) for each in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -_NAMES[node.operand.id]
    if isinstance(node, ast.Call):
        made = _CALLS[ast.unparse(node.func)]
        return made(*map(_value, node.args), **{str(each.arg): _value(each.value) for each in node.keywords})
    if isinstance(node, ast.Name | ast.Attribute):
        return _NAMES[ast.unparse(node)]
    return ast.literal_eval(node)


def that_equals_itself(key: Any) -> Any:
    """Return a key for which `==` finds it again: NaN is one object, then, in tuples as well."""
    if type(key) is tuple:
        return tuple(map(that_equals_itself, key))
    if type(key) is float:
        return key if key == key else math.nan
    if type(key) is Decimal and key.is_nan():
        return _nans.setdefault(str(key), key)
    return key
