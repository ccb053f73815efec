"""Keys as paths have them, `UUID('...')` in `root['users'][UUID('...')]`: written, and read without running anything of the text.

Values are written here as well, for people: what can't be written must not stand in the way of what there is to tell.
"""

from __future__ import annotations

import ast
import datetime as dt
import math
import struct
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["key_of", "key_of_text", "said", "spelled", "spelled_key", "that_equals_itself"]


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
_nans: Final[dict[bytes | str, Any]] = {struct.pack("d", math.nan): math.nan}  # by what an arena tells them apart by


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
        return key if key == key else _nans.setdefault(struct.pack("d", key), key)
    if type(key) is Decimal and key.is_nan():
        return _nans.setdefault(str(key), key)
    return key


# -- written -----------------------------------------------------------------------------------------------------------------


def spelled(value: Any) -> str:
    """Return what repr() writes; of an int of more digits than Python writes, hex(), which is read back as well.

    Of what can't be written otherwise, say so.
    """
    try:
        return repr(value)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # of an int in it, or of its own __repr__()
        why = error
    kind = type(value)
    if kind is int:
        return hex(value)
    if kind is tuple:
        return f"({', '.join(map(spelled, value))}{',' * (len(value) == 1)})"
    if kind is list:
        return f"[{', '.join(map(spelled, value))}]"
    if kind is dict:
        return f"{{{', '.join(f'{spelled(key)}: {spelled(part)}' for key, part in value.items())}}}"
    return f"<{kind.__qualname__}: its repr() raises {type(why).__name__}>"


def spelled_key(key: Any) -> str:
    """Return a key as it is read back: of NaN with its sign, for an arena takes the two for two keys."""
    if type(key) is float and key != key:
        return "-nan" if math.copysign(1.0, key) < 0 else "nan"
    if type(key) is tuple:
        return f"({', '.join(map(spelled_key, key))}{',' * (len(key) == 1)})"
    return spelled(key)


def said(error: BaseException) -> str:
    """Return what an exception says: a KeyError its key, however long that is."""
    try:
        return str(error)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return ", ".join(map(spelled, error.args))
