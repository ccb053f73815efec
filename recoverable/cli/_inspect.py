"""What is in an arena: a page of each container, some levels deep, and the value that a path names.

All that is shown is of one moment where that can be had. Where servers commit too fast for it, each container's page is of
one, and what is gone by then is said to be gone. Memory is added up afterwards.
"""

from __future__ import annotations

import ast
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from recoverable._keys import key_of, key_of_text, said, spelled, spelled_key
from recoverable._native.runtime import Container
from recoverable.cli._history_text import value_json
from recoverable.errors import ArenaBusyError, ArenaCorruptError, RecoverableError, StaleReferenceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from recoverable.cli._live import Copy, Live

__all__ = ["Node", "PathError", "look", "parse"]

_SHOWN: Final = 80  # characters of a value in a table
_WHOLE: Final = 1.0  # seconds to wait for a moment in which all of it can be read; then it is read in parts


class PathError(RecoverableError):
    """A path can't be read, or nothing lies there."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a path: into a container by key or position, or to a record's field.

    Attributes:
        key: What it names.
        kind: "key" for what was in brackets, "field" after a dot, "word" between slashes, which may be any of them.
    """

    key: Any
    kind: str

    @property
    def literal(self) -> Any:
        """What it names in brackets: of a word, what Python reads it as; KeyError where that is nothing."""
        if self.kind != "word":
            return self.key
        try:
            return key_of_text(self.key)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise KeyError(self.key) from None


@dataclass(slots=True)
class Node:
    """A value, and the page of what it holds.

    Attributes:
        path: Where it is, as Python would write it.
        kind: Its type's name; a record's is its class's.
        length: How many entries it has, or None for what has none.
        value: The value, None for a container.
        text: For people: the value, or what there is to say of a container.
        memory: Bytes of it and all that it holds, or None where that was not measured.
        children: A page of its entries.
        left_out: Entries before and after that page.
        container: Whether it is a container.
        handle: The container.
    """

    path: str
    kind: str
    length: int | None = None
    value: Any = None
    text: str = ""
    memory: int | None = None
    children: list[Node] = field(default_factory=list)
    left_out: int = 0
    container: bool = False
    handle: Any = None

    @property
    def size(self) -> str:
        """Its length as text."""
        return "" if self.length is None else str(self.length)

    def rows(self) -> Iterator[tuple[str, Node]]:
        """Yield what to call it in a table and the node, and then its page, each below what holds it."""
        yield self.path, self
        for child in self.children:
            yield from child.rows()
        if self.left_out and self.children:
            yield f"{self.path}…", Node("", "", text=f"{self.left_out} more: --offset, --limit")

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it; a value that JSON has no word for as Python writes it."""
        out: dict[str, Any] = {"path": self.path, "type": self.kind}
        if self.length is not None:
            out["length"] = self.length
        if self.memory is not None:
            out["memory"] = self.memory
        if not self.container:
            out["value"] = value_json(self.value)
        elif self.text:
            out["about"] = self.text
        if self.children:
            out["entries"] = [child.as_json() for child in self.children]
        if self.left_out:
            out["left_out"] = self.left_out
        return out


# -- paths -------------------------------------------------------------------------------------------------------


def parse(path: str) -> list[Step]:
    """Return the steps of a path from the root.

    Args:
        path: `root["a"][0].b`, with or without `root`; or words between slashes, `a/0/b`.

    Raises:
        PathError: It is neither.
    """
    if path in {"", "root", "/"}:
        return []
    if not (path.startswith(("root[", "root.", "["))):
        return [Step(word, "word") for word in path.strip("/").split("/")]
    steps: list[Step] = []
    try:
        node = ast.parse(path if path.startswith("root") else f"root{path}", mode="eval").body
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Subscript):
                steps.append(Step(key_of(node.slice), "key"))
                node = node.value
            elif isinstance(node, ast.Attribute):
                steps.append(Step(node.attr, "field"))
                node = node.value
            else:
                raise ValueError
        if node.id != "root":
            raise ValueError
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise PathError(f'{path!r} is not a path: write it as root["carts"]["ann"].total, or carts/ann/total') from None
    return steps[::-1]


# -- looking -----------------------------------------------------------------------------------------------------


def look(source: Copy | Live, steps: Sequence[Step], *, depth: int = 1, offset: int = 0, limit: int = 50) -> Node:
    """Read what a path names.

    Args:
        source: Where to read.
        steps: The path, from `parse`.
        depth: How many levels of containers to open; 0 for the one alone.
        offset: Entries to leave out of the first one's page.
        limit: Entries of a page.

    Raises:
        PathError: Nothing lies there.
        ArenaCorruptError: What lies there is damaged.
    """
    try:
        node = _look_at_all(source, steps, depth, offset, limit)
        for _, item in node.rows():
            if isinstance(item.handle, Container):
                with contextlib.suppress(StaleReferenceError, ArenaCorruptError):  # what could be read is shown
                    item.memory = source.memory(item.handle)
    except RecoverableError:
        raise
    except Exception as error:  # a key that is listed and can't be found, a codec's bytes that are none, ...
        raise ArenaCorruptError(
            f"what lies there can't be read ({type(error).__name__}: {said(error)}): the arena is damaged. It was left as it is; "
            "recoverable verify tells more, and a longer path may lead past the damage"
        ) from error
    return node


def _look_at_all(source: Copy | Live, steps: Sequence[Step], depth: int, offset: int, limit: int) -> Node:
    """Read all of it at one moment, or, where servers commit too fast for that, each page at one."""

    def all_of_it() -> Node:
        return _look(source, *_find(source, steps), depth, offset, limit)

    try:
        return source.at_one_moment(all_of_it, patience=_WHOLE)
    except ArenaBusyError:
        path, value = source.at_one_moment(lambda: _find(source, steps))
        return _look(source, path, value, depth, offset, limit)


def _find(source: Copy | Live, steps: Sequence[Step]) -> tuple[str, Any]:
    """Go the way that a path says; return how it is written, and what lies there."""
    path, value = "root", source.root
    for step in steps:
        try:
            if not isinstance(value, Container):
                raise KeyError(step.key)
            value, name = value._follow(step)
        except (LookupError, TypeError, AttributeError, ValueError):
            raise PathError(f"{path} has nothing at {spelled_key(step.key)}") from None
        path += name
    return path, value


def _look(source: Copy | Live, path: str, value: Any, depth: int, offset: int, limit: int) -> Node:
    if not isinstance(value, Container):
        return _leaf(path, value)
    try:
        node, page = source.at_one_moment(lambda: _page(path, value, offset, limit if depth else 0))
    except StaleReferenceError:
        return Node(path, "", text="gone meanwhile", container=True)
    node.handle = value
    node.children = [_look(source, path + name, child, depth - 1, 0, limit) for name, child in page or ()]
    node.left_out = (node.length or 0) - len(page) if depth and page is not None else 0
    return node


def _leaf(path: str, value: Any) -> Node:
    text = spelled(value)
    size = len(value) if isinstance(value, str | bytes | tuple) else None
    return Node(path, type(value).__name__, size, value, text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def _page(path: str, value: Container, offset: int, limit: int) -> tuple[Node, list[tuple[str, Any]] | None]:
    """Return a container's node and a page of its entries, if it has entries, read at one moment."""
    kind, length, text = value._about()
    node = Node(path, kind, length, text=text, container=length is not None)
    if length is None:
        node.value = value.to_python()
    return node, value._entries(offset, limit)
