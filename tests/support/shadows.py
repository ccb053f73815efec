"""Shadows of states: plain Python that knows kinds, and what is different between two of them, told without the history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from recoverable import Array, Counter, Deque, Dict, List, Record, Set
from recoverable._keys import spelled, spelled_key, that_equals_itself

__all__ = ["Difference", "Shadow", "at", "containers", "flat_diff", "shadow_of"]

#: A path as text, and what was there before and after, as spelled() writes it.
Difference = tuple[str, str, str]


@dataclass(frozen=True)
class Shadow:
    """What a container was.

    Attributes:
        kind: What it has in common with those that it can be compared with part by part.
        parts: What is in it, in order, by key, position or field.
        data: An Array's memory.
    """

    kind: tuple[Any, ...]
    parts: dict[Any, Any]
    data: bytes = b""

    def __repr__(self) -> str:
        return f"Shadow({self.kind}, {spelled(self.parts)}, {self.data!r})"

    def part(self, key: Any) -> Any:
        """Return one part, if there is one."""
        return {that_equals_itself(each): part for each, part in self.parts.items()}.get(key, _NOTHING)


def shadow_of(value: Any) -> Any:
    """Return a container's shadow; of another value, itself."""
    if isinstance(value, Array):
        items = np.array(value)
        return Shadow(("Array", items.shape, items.dtype.str), {}, items.tobytes())
    if isinstance(value, Dict):
        return Shadow(("Dict",), {key: shadow_of(part) for key, part in value.items()})
    if isinstance(value, List):
        return Shadow(("List",), {i: shadow_of(part) for i, part in enumerate(value)})
    if isinstance(value, Deque):
        return Shadow(("Deque", value.maxlen), {i: shadow_of(part) for i, part in enumerate(value)})
    if isinstance(value, Set):
        return Shadow(("Set",), dict.fromkeys(value, True))
    if isinstance(value, Counter):
        return Shadow(("Counter",), {"value": value.value})
    if isinstance(value, Record):
        return Shadow(
            ("Record", type(value).__name__), {name: shadow_of(getattr(value, name)) for name in value._schema.names}
        )
    return value


def _array(shadow: Shadow) -> Any:
    return np.frombuffer(shadow.data, shadow.kind[2]).reshape(shadow.kind[1])


def whole(value: Any) -> Any:
    """Return what a shadow is of as plain Python."""
    if not isinstance(value, Shadow):
        return value
    parts = {key: whole(part) for key, part in value.parts.items()}
    match value.kind[0]:
        case "Array":
            return _array(value).tolist()
        case "Set":
            return list(parts)
        case "Counter":
            return parts["value"]
        case "List" | "Deque":
            return list(parts.values())
    return parts


def flat_diff(before: Any, after: Any, path: str = "root") -> Iterator[Difference]:
    """Yield what is different between two shadows."""
    if not isinstance(before, Shadow) or not isinstance(after, Shadow) or before.kind != after.kind:
        same = type(before) is type(after) and (before == after or (before != before and after != after))
        if not same:
            yield path, spelled(whole(before)), spelled(whole(after))
    elif before.kind[0] == "Array":
        old, new = _array(before), _array(after)
        for index in map(tuple, np.argwhere(old != new).tolist()):
            yield f"{path}[{', '.join(map(str, index))}]", repr(old[index].item()), repr(new[index].item())
    else:
        dotted = before.kind[0] in {"Record", "Counter"}
        for key in dict.fromkeys(map(that_equals_itself, [*before.parts, *after.parts])):
            old, new = (each.part(key) for each in (before, after))
            yield from flat_diff(old, new, f"{path}.{key}" if dotted else f"{path}[{spelled_key(key)}]")


class _Nothing:
    def __repr__(self) -> str:
        return "(nothing)"


_NOTHING = _Nothing()


def at(shadow: Any, keys: tuple[Any, ...]) -> Any:
    """Return what was at a path; what is written (nothing), if there was nothing."""
    for key in keys:
        shadow = shadow.part(key) if isinstance(shadow, Shadow) else _NOTHING
    return shadow


def containers(shadow: Shadow, keys: tuple[Any, ...] = (), path: str = "root") -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the keys and the text of the paths of all that is in a shadow, but items of Arrays."""
    yield keys, path
    dotted = shadow.kind[0] in {"Record", "Counter"}
    for key, part in shadow.parts.items():
        text = f"{path}.{key}" if dotted else f"{path}[{spelled_key(key)}]"
        way = (*keys, that_equals_itself(key))
        if isinstance(part, Shadow):
            yield from containers(part, way, text)
        else:
            yield way, text
