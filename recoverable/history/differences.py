"""What is different between two states, as paths with the value before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from recoverable._keys import spelled
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.codecs import exact
from recoverable.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable.history.places import Path

__all__ = ["MISSING", "Difference", "at_place", "differences", "of_parts", "part_of", "plain"]


class _Missing:
    """Stands for what is not there."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "(nothing)"

    def __bool__(self) -> bool:
        return False


#: What a `Difference` has where there is nothing: before what has come, and after what has gone. It is false.
MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that is another one afterwards.

    Attributes:
        path: Where.
        before: What it was, a container as plain Python; MISSING: nothing.
        after: What it is.
        is_container: Whether a container has come there, or was there.
    """

    path: Path
    before: Any
    after: Any
    is_container: bool = field(default=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.path}: {spelled(self.before)} -> {spelled(self.after)}"

    def __repr__(self) -> str:
        return f"Difference(path={self.path!r}, before={spelled(self.before)}, after={spelled(self.after)})"


def plain(value: Any) -> Any:
    """Return a value as plain Python: it stays when the state that it is of does not."""
    return value.to_python() if isinstance(value, Container) else value


def _alike(before: Any, after: Any) -> bool:
    """Are they containers of one kind, with parts that can be told apart?"""
    return (
        isinstance(before, Container)
        and isinstance(after, Container)
        and type(before) is type(after)
        and before._extra() == after._extra()
    )


def differences(before: Any, after: Any, path: Path) -> Iterator[Difference]:
    """Yield what is different between two values at one path, as far down as both have it."""
    if _alike(before, after):
        yield from of_parts(before, after, path)
    elif isinstance(before, Container) or isinstance(after, Container):
        yield Difference(path, plain(before), plain(after), is_container=True)
    elif exact(before) != exact(after):
        yield Difference(path, before, after)


def at_place(place: Path, before: Any, after: Any) -> Iterator[Difference]:
    """Yield what is different at a path, or below it, between the states that two roots are of."""
    (old_way, old, there), (new_way, new, here) = place.chain(before), place.chain(after)
    if there and here and old_way and new_way and len(old_way) == len(new_way):
        (old_holder, _), (new_holder, _) = old_way[-1], new_way[-1]
        if new_holder._in_pieces and _alike(old_holder, new_holder):  # a row of an Array, or an item
            path = type(place).of(new_holder)
            if path is not None:
                yield from (each for each in of_parts(old_holder, new_holder, path) if each.path.is_within(place))
            return
    yield from differences(old if there else MISSING, new if here else MISSING, place)


def of_parts(before: Container, after: Container, path: Path, *, shallow: bool = False) -> Iterator[Difference]:
    """Yield what is different between the parts of two containers of one kind; `shallow`: not within those that both have."""
    items = after._other_items(before)
    if items is not None:
        yield from (Difference(path.to(after, key), old, new) for key, old, new in items)
        return
    old, new = ({exact(key): (key, part) for key, part in each._parts().items()} for each in (before, after))
    for which, (key, was) in old.items():
        yield from of_part(was, new[which][1] if which in new else MISSING, path.to(after, key), shallow=shallow)
    for which, (key, part) in new.items():
        if which not in old:
            yield from of_part(MISSING, part, path.to(after, key), shallow=shallow)


def of_part(before: Any, after: Any, path: Path, *, shallow: bool) -> Iterator[Difference]:
    """Yield what is different between two values; `shallow`: nothing if both are the same container."""
    containers = isinstance(before, Container) and isinstance(after, Container)
    if not (shallow and containers and paths.number_of(before) == paths.number_of(after)):
        yield from differences(before, after, path)


def part_of(container: Container, key: Any) -> Any:
    """Return a part of a container, or MISSING."""
    try:
        return container._part(key)
    except RecoverableError:  # some are LookupErrors as well
        raise
    except LookupError:
        return MISSING
