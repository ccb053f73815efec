"""What an arena holds, as plain data: to tell whether two states are the same, say where they differ, and put one back.

An *image* is a leaf value, or a node that names its kind. The order of a Dict's keys is not part of it: a key that was
deleted and put back is last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from recoverable._keys import spelled, that_equals_itself
from recoverable._native.runtime import Container, kind_name
from recoverable.arena import Arena

__all__ = [
    "Node",
    "build",
    "differences",
    "digest",
    "image",
    "image_of",
    "restore",
    "restore_in_place",
    "same",
    "settle",
]

_SETTLED: Final = 1000  # steps in which everything that was cut off is freed, at most


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A container: its class, what else it is made of, and its parts by key, name or position."""

    kind: type[Container]
    extra: Any
    parts: dict[Any, Any]


def image_of(arena: Arena) -> Node:
    """Read all of an arena, as one state."""
    with arena.transaction():
        node = image(arena.root)
    assert isinstance(node, Node)
    return node


def image(value: Any) -> Any:
    """Return the image of a value."""
    if not isinstance(value, Container):
        return value
    return Node(
        type(value), value._extra(), {that_equals_itself(key): image(part) for key, part in value._parts().items()}
    )


def digest(image: Any) -> str:
    """Return a fingerprint of an image: the same for the same state."""
    hashed = hashlib.blake2b(digest_size=16)
    for piece in _canonical(image):
        hashed.update(piece.encode("utf-8", "surrogatepass"))
        hashed.update(b"\0")
    return hashed.hexdigest()


def _canonical(image: Any) -> Iterator[str]:
    if not isinstance(image, Node):
        yield f"{type(image).__qualname__} {spelled(image)}"
        return
    yield f"{image.kind!r} {image.extra!r} {len(image.parts)}"
    for key, part in sorted(image.parts.items(), key=lambda part: f"{type(part[0]).__qualname__} {spelled(part[0])}"):
        yield f"{type(key).__qualname__} {spelled(key)}"
        yield from _canonical(part)


def same(one: Any, other: Any) -> bool:
    """Return whether two images are of the same state."""
    if not isinstance(one, Node) or not isinstance(other, Node):
        return type(one) is type(other) and (one == other or spelled(one) == spelled(other))  # NaN is like itself
    return (
        one.kind is other.kind
        and one.extra == other.extra
        and one.parts.keys() == other.parts.keys()
        and all(same(part, other.parts[key]) for key, part in one.parts.items())
    )


def differences(was: Any, now: Any, path: str = "root", limit: int = 5) -> list[str]:
    """Say where two images differ, at most `limit` times."""
    found: list[str] = []
    if isinstance(was, Node) and isinstance(now, Node) and was.kind is now.kind and was.extra == now.extra:
        for key in [*was.parts, *(key for key in now.parts if key not in was.parts)]:
            if len(found) >= limit:
                break
            place = path + was.kind._part_text(key)
            if key not in now.parts:
                found.append(f"{place}: {_short(was.parts[key])} is gone")
            elif key not in was.parts:
                found.append(f"{place}: {_short(now.parts[key])} is new")
            elif was.kind._in_pieces:
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
    text = f"a {kind_name(image.kind)} of {len(image.parts)}" if isinstance(image, Node) else spelled(image)
    return text if len(text) <= 60 else text[:57] + "..."


# -- putting a state back ---------------------------------------------------------------------------------------------


def restore(arena: Arena, wanted: Node) -> bool:
    """Make an arena hold the state of an image, changing no more than differs, so that handles stay good.

    Returns:
        Whether it had to make a container anew: handles of the one before are stale.
    """
    with arena.transaction():
        now = image(arena.root)
        if same(now, wanted):
            return False
        remade = restore_in_place(arena.root, now, wanted)
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


def restore_in_place(container: Container, now: Node, wanted: Node) -> bool:
    """Make a container hold an image, and return whether one in it had to be made anew. `now`: what it holds."""
    remade = False
    for key in reversed([key for key in now.parts if key not in wanted.parts]):
        container._drop_part(key)
    for key, part in wanted.parts.items():
        if key in now.parts and same(part, now.parts[key]):
            continue
        if key in now.parts and _alike(part, now.parts[key]):
            remade |= restore_in_place(container._part(key), now.parts[key], part)
            continue
        remade |= isinstance(part, Node)
        container._put_part(key, build(part))
    return remade


def _alike(wanted: Any, now: Any) -> bool:
    """Return whether one can be made of the other in place."""
    return isinstance(wanted, Node) and isinstance(now, Node) and wanted.kind is now.kind and wanted.extra == now.extra


def build(of: Any) -> Any:
    """Make a value of an image."""
    if not isinstance(of, Node):
        return of
    return of.kind._of_parts(of.extra, {key: build(part) for key, part in of.parts.items()})
