"""The options of `Arena.open`: which names and sizes there can be, and what is wrong with the others."""

from __future__ import annotations

import math
import re
from typing import Final

from recoverable.errors import ArenaOptionError

__all__ = ["human_size", "parse_name", "parse_size", "parse_timeout", "parse_tracking"]

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_BINARY: Final = ("KiB", "MiB", "GiB", "TiB")
_UNITS: Final = (
    {"": 1, "b": 1}
    | {unit.lower(): 1024 ** (n + 1) for n, unit in enumerate(_BINARY)}
    | {unit: 1000 ** (n + 1) for n, unit in enumerate(("kb", "mb", "gb", "tb"))}
)

#: A segment is mapped twice, whole, into 47 bits of address space.
_LARGEST: Final = 1 << 45


def parse_name(name: object) -> str:
    """Return `name` if an arena can be called so."""
    if isinstance(name, str) and _NAME.fullmatch(name) and name not in {".", ".."}:
        return name
    raise ArenaOptionError(
        f"{name!r} can't be the name of an arena. Nothing was opened. "
        "Use 1 to 100 of the characters A-Z a-z 0-9 . _ -, for example 'shop'."
    )


def parse_size(size: object, option: str = "size") -> int:
    """Return the bytes that `size` means: an integer, or text such as "256 MiB" or "1.5 GB".

    Args:
        size: What the user gave. KiB, MiB, GiB, TiB are powers of 1024, KB, MB, GB, TB of 1000.
        option: The option's name, for the message.

    Raises:
        ArenaOptionError: It is no size, not positive, or more than can be mapped.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        number = size
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size)) and match[2].lower() in _UNITS:
        unit = _UNITS[match[2].lower()]
        number = int(match[1]) * unit if match[1].isdigit() else int(float(match[1]) * unit)
    else:
        raise ArenaOptionError(
            f"{option}={size!r} is not a size. Nothing was opened. "
            "Give bytes as an integer, or text such as '64 MiB' (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB)."
        )
    if number <= 0:
        raise ArenaOptionError(f"{option}={size!r} is not a size: it must be above 0. Nothing was opened.")
    if number > _LARGEST:
        raise ArenaOptionError(
            f"{option}={size!r} is more than can be mapped ({human_size(_LARGEST)}). Nothing was opened."
        )
    return number


def parse_timeout(seconds: object, option: str = "busy_timeout", left: str = "opened") -> float:
    """Return a bounded, non-negative number of seconds. `left`: what was not done, where it is none."""
    if (
        isinstance(seconds, (int, float))
        and not isinstance(seconds, bool)
        and math.isfinite(seconds)
        and 0 <= seconds <= 86400
    ):
        return float(seconds)
    raise ArenaOptionError(f"{option}={seconds!r} is not a time: give seconds from 0 to 86400. Nothing was {left}.")


def parse_tracking(tracking: object) -> bool:
    """Return whether containers write through the tracked view (`tracking="trap"`)."""
    if tracking in ("hybrid", "trap"):
        return tracking == "trap"
    raise ArenaOptionError(
        f"tracking={tracking!r} is not a way of tracking. Nothing was opened. Use 'hybrid', or 'trap' to measure against."
    )


def human_size(number: int) -> str:
    """Write a number of bytes for people: the largest binary unit that it is at least one of."""
    for power in range(len(_BINARY), 0, -1):
        unit = 1024**power
        if number >= unit:
            text = f"{number / unit:.1f}".removesuffix(".0")
            return f"{text} {_BINARY[power - 1]}"
    return f"{number} B"
