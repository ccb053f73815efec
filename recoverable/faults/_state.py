"""What an arena holds, as plain data: to tell whether two states are the same, say where they differ, and put one back.

An *image* is a leaf value, or a node that names its kind. The order of a Dict's keys is not part of it: a key that was
deleted and put back is last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from recoverable.arena import Arena
from recoverable.containers import Array, Counter, Deque, Dict, List, Record, Set

__all__ = ["Node", "differences", "digest", "image_of", "restore", "same", "settle"]

_PIECE: Final = 4096  # bytes of an Array that are put back at once
_SETTLED: Final = 1000  # steps in which everything that was cut off is freed, at most


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A container: its kind, what else it is made of, and its parts by key, name or position."""

    kind: str
    extra: Any
    parts: dict[Any, Any]


def image_of(arena: Arena) -> Node:
    """Read all of an arena, as one state."""
    with arena.transaction():
        node = _image(arena.root)
    assert isinstance(node, Node)
    return node


def _image(value: Any) -> Any:
    match value:
        case Dict():
            return Node("Dict", None, {key: _image(item) for key, item in value.items()})
        case List():
            return Node("List", None, dict(enumerate(map(_image, value))))
        case Deque():
            return Node("Deque", value.maxlen, dict(enumerate(map(_image, value))))
        case Set():
            return Node("Set", None, dict.fromkeys(value, True))
        case Counter():
            return Node("Counter", None, {"value": value.value})
        case Array():
            value._know()
            raw = value._read(0, value.nbytes) if value.nbytes else b""
            pieces = {at: raw[at : at + _PIECE] for at in range(0, len(raw), _PIECE)}
            return Node("Array", (value.shape, value._dtype), pieces)
        case Record():
            names = getattr(type(value)._schema, "names", None)
            if names is None or type(value).__name__ == "_Unknown":  # its class is not imported here
                return Node("Record", None, dict(value.to_python()))
            return Node("Record", type(value), {name: _image(getattr(value, name)) for name in names})
        case _:
            return value


def digest(image: Any) -> str:
    """Return a fingerprint of an image: the same for the same state."""
    hashed = hashlib.blake2b(digest_size=16)
    for piece in _canonical(image):
        hashed.update(piece.encode("utf-8", "surrogatepass"))
        hashed.update(b"\0")
    return hashed.hexdigest()


def _canonical(image: Any) -> Iterator[str]:
    if not isinstance(image, Node):
        yield f"{type(image).__qualname__} {image!r}"
        return
    yield f"{image.kind} {image.extra!r} {len(image.parts)}"
    parts = image.parts.items()
    if image.kind in {"Dict", "Set"}:
        parts = sorted(parts, key=lambda part: f"{type(part[0]).__qualname__} {part[0]!r}")  # type: ignore[assignment]
    for key, part in parts:
        yield f"{type(key).__qualname__} {key!r}"
        yield from _canonical(part)


def same(one: Any, other: Any) -> bool:
    """Tell whether two images are of the same state."""
    if not isinstance(one, Node) or not isinstance(other, Node):
        return type(one) is type(other) and (one == other or repr(one) == repr(other))  # NaN is like itself
    return (
        one.kind == other.kind
        and one.extra == other.extra
        and one.parts.keys() == other.parts.keys()
        and all(same(part, other.parts[key]) for key, part in one.parts.items())
    )


def differences(was: Any, now: Any, path: str = "root", limit: int = 5) -> list[str]:
    """Say where two images differ, at most `limit` times."""
    found: list[str] = []
    if isinstance(was, Node) and isinstance(now, Node) and was.kind == now.kind and was.extra == now.extra:
        for key in [*was.parts, *(key for key in now.parts if key not in was.parts)]:
            if len(found) >= limit:
                break
            place = f"{path}.{key}" if was.kind in {"Record", "Counter"} else f"{path}[{key!r}]"
            if key not in now.parts:
                found.append(f"{place}: {_short(was.parts[key])} is gone")
            elif key not in was.parts:
                found.append(f"{place}: {_short(now.parts[key])} is new")
            elif was.kind == "Array":
                found += _bytes(was.parts[key], now.parts[key], path, key)
            else:
                found += differences(was.parts[key], now.parts[key], place, limit - len(found))
    elif not same(was, now):
        found.append(f"{path}: {_short(was)} became {_short(now)}")
    return found[:limit]


def _bytes(was: bytes, now: bytes, path: str, start: int) -> list[str]:
    at = next((i for i, (one, other) in enumerate(zip(was, now, strict=False)) if one != other), None)
    return [] if at is None else [f"{path}: its bytes differ from byte {start + at} on"]


def _short(image: Any) -> str:
    text = f"a {image.kind} of {len(image.parts)}" if isinstance(image, Node) else repr(image)
    return text if len(text) <= 60 else text[:57] + "..."


# -- putting a state back ---------------------------------------------------------------------------------------------


def restore(arena: Arena, wanted: Node) -> bool:
    """Make an arena hold the state of an image, changing no more than differs, so that handles stay good.

    Returns:
        Whether it had to make a container anew: handles of the one before are stale.
    """
    with arena.transaction():
        now = _image(arena.root)
        if same(now, wanted):
            return False
        remade = _restore(arena.root, now, wanted)
    settle(arena)
    return remade


def settle(arena: Arena) -> None:
    """Have what was cut off freed now, not in the steps to come: a run would do it, and the next one would not."""
    before = None
    for _ in range(_SETTLED):
        stats = arena.stats()
        if (stats.used, stats.commit_seq) == before:
            return
        before = stats.used, stats.commit_seq
        with arena.transaction():
            arena.root.get(None)


def _restore(container: Any, now: Node, wanted: Node) -> bool:
    remade = False
    match wanted.kind:
        case "Counter":
            container.add(wanted.parts["value"] - now.parts["value"])
            return False
        case "Array":
            for at, piece in wanted.parts.items():
                if now.parts[at] != piece:
                    container._write(at, piece)
            return False
        case "Set":
            for member in now.parts.keys() - wanted.parts.keys():
                container.discard(member)
            for member in wanted.parts.keys() - now.parts.keys():
                container.add(member)
            return False
        case "Dict":
            for key in [key for key in now.parts if key not in wanted.parts]:
                del container[key]
        case "List" | "Deque":
            for _ in range(len(wanted.parts), len(now.parts)):
                container.pop()
    for key, part in wanted.parts.items():
        if key in now.parts and same(part, now.parts[key]):
            continue
        if key in now.parts and _alike(part, now.parts[key]):
            inner = getattr(container, key) if wanted.kind == "Record" else container[key]
            remade |= _restore(inner, now.parts[key], part)
            continue
        remade |= isinstance(part, Node)
        if wanted.kind == "Record":
            setattr(container, key, _build(part))
        elif wanted.kind in {"List", "Deque"} and key not in now.parts:
            container.append(_build(part))
        else:
            container[key] = _build(part)
    return remade


def _alike(wanted: Any, now: Any) -> bool:
    """Tell whether one can be made of the other in place."""
    return isinstance(wanted, Node) and isinstance(now, Node) and (wanted.kind, wanted.extra) == (now.kind, now.extra)


def _build(image: Any) -> Any:
    if not isinstance(image, Node):
        return image
    match image.kind:
        case "Dict":
            return {key: _build(part) for key, part in image.parts.items()}
        case "List":
            return [_build(part) for part in image.parts.values()]
        case "Deque":
            return Deque([_build(part) for part in image.parts.values()], image.extra)
        case "Set":
            return set(image.parts)
        case "Counter":
            return Counter(image.parts["value"])
        case "Array":
            shape, dtype = image.extra
            array = Array(shape, dtype)
            array._source = b"".join(image.parts.values())
            return array
        case _:
            assert image.extra is not None, "a record whose class is not imported can't be put back"
            return image.extra(**{name: _build(part) for name, part in image.parts.items()})
