"""What happens between two items of an iteration: it goes on only with what is still so, for whoever asks for the next one."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any

import pytest

from recoverable import Arena, ConflictError, List, Set, StaleReferenceError, TransactionClosedError
from support.workers import Request, pause

FEW, MANY = 5, 40  # in one block, and an entry each


def keys_of(n: int) -> list[str]:
    """Return that many keys."""
    return [f"key{i:03}" for i in range(n)]


def made(kind: str, n: int) -> Any:
    """Return what to store."""
    keys = keys_of(n)
    return {"dict": dict.fromkeys(keys, 0), "set": Set(keys), "list": List(keys)}[kind]


@pytest.fixture(params=[FEW, MANY], ids=["few", "many"])
def n(request: pytest.FixtureRequest) -> int:
    """Give how many items there are."""
    return int(request.param)


@pytest.fixture(params=["dict", "set", "list"])
def kind(request: pytest.FixtureRequest) -> str:
    """Give a kind of containers."""
    return str(request.param)


def store(arena: Arena, kind: str, n: int) -> Any:
    """Store one below another container; return its handle."""
    with arena.transaction():
        arena.root["outer"] = {"inner": made(kind, n)}
    return arena.root["outer"]["inner"]


@pytest.mark.parametrize("path", [("outer",), ("outer", "inner")])
def test_a_container_that_is_gone_gives_no_further_item(arena: Arena, kind: str, n: int, path: tuple[str, ...]) -> None:
    """Deleted itself, or with what it lay in, by a commit or by the same transaction: StaleReferenceError."""

    def delete() -> None:
        if len(path) == 1:
            del arena.root["outer"]
        else:
            del arena.root["outer"]["inner"]

    walk = iter(store(arena, kind, n))
    assert next(walk) == next(iter(keys_of(n)))
    next(walk)
    with arena.transaction():
        delete()
    with pytest.raises(StaleReferenceError):
        next(walk)
    container = store(arena, kind, n)
    with arena.transaction():
        walk = iter(container)
        next(walk), next(walk)
        delete()
        with pytest.raises(StaleReferenceError):
            next(walk)


def test_a_container_that_was_rolled_back_gives_no_further_item(arena: Arena, kind: str, n: int) -> None:
    """What only an undone transaction has made is not there outside of it."""
    with pytest.raises(ZeroDivisionError), arena.transaction():
        arena.root["c"] = made(kind, n)
        walk = iter(arena.root["c"])
        next(walk), next(walk)
        raise ZeroDivisionError
    with pytest.raises(StaleReferenceError):
        next(walk)


def test_each_item_is_as_it_is_when_it_is_given(arena: Arena, n: int) -> None:
    """Values that transactions of the loop's body, or the transaction around it, change, are seen further on."""
    d = store(arena, "dict", n)
    seen = []
    for _, value in d.items():
        seen.append(value)
        with arena.transaction():
            for other in d:
                d[other] += 1
    assert seen == list(range(n))
    with arena.transaction():
        seen = []
        for value in d.values():
            seen.append(value)
            d[keys_of(n)[-1]] = "changed"
    assert seen == [n] * (n - 1) + ["changed"]


@pytest.mark.parametrize("where", ["outside", "before"])
@pytest.mark.parametrize("look", ["keys", "items"])
def test_whoever_goes_on_with_an_iteration_reads_it(arena: Arena, n: int, where: str, look: str) -> None:
    """One that began outside, or in an earlier transaction, counts as read in the one that goes on: no phantoms."""
    d = store(arena, "dict", n)
    if where == "outside":
        walk = iter(getattr(d, look)())
        next(walk)
    else:
        with arena.transaction():
            walk = iter(getattr(d, look)())
            next(walk)

    async def go_on() -> None:
        next(walk)
        await pause()
        arena.root["seen"] = True

    request = Request(arena, go_on)
    request.step()
    with arena.transaction():
        d["new"] = 1
    with pytest.raises(ConflictError):
        request.step()


def test_between_two_items_others_may_commit(arena: Arena, n: int) -> None:
    """A request that is suspended at each item goes on past a value it has not read, and stops where another key came."""
    d = store(arena, "dict", n)

    async def walk(look: str) -> list[Any]:
        seen = []
        for item in getattr(d, look)():
            seen.append(item)
            await pause()
        arena.root["seen"] = len(seen)
        return seen

    request = Request(arena, walk, "keys")
    request.step()
    with arena.transaction():
        d[keys_of(n)[2]] = 1
    assert request.finish() == keys_of(n)
    for look, change in (("items", {keys_of(n)[2]: 2}), ("keys", {"new": 1})):
        request = Request(arena, walk, look)
        request.step()
        with arena.transaction():
            d.update(change)
        with pytest.raises(ConflictError):
            request.finish()


def test_what_the_transaction_adds_itself_comes_last(arena: Arena, n: int) -> None:
    """Its own keys follow the committed ones, or come first backwards, and what it has deleted is not among them."""
    d = store(arena, "dict", n)
    with arena.transaction():
        d["own"] = 1
        d["own too"] = 2
        del d[keys_of(n)[1]]
        left = [key for key in keys_of(n) if key != keys_of(n)[1]]
        assert list(d) == list(d.keys()) == [key for key, _ in d.items()] == [*left, "own", "own too"]
        assert list(reversed(d)) == ["own too", "own", *reversed(left)]
        assert list(d.values()) == [0] * (n - 1) + [1, 2]


def test_a_closed_arena_gives_no_further_item(arena: Arena, kind: str, n: int) -> None:
    """The next item says that the arena is closed."""
    walk = iter(store(arena, kind, n))
    next(walk), next(walk)
    arena.close()
    with pytest.raises(TransactionClosedError):
        next(walk)


def test_an_iteration_that_has_ended_stays_ended(arena: Arena, kind: str, n: int) -> None:
    """As for a plain one: what comes later is not given any more, and no error."""
    container = store(arena, kind, n)
    walk = iter(container)
    assert list(walk) == keys_of(n)
    with arena.transaction():
        del arena.root["outer"]
    assert list(walk) == []


def test_views_are_what_those_of_a_dict_are(arena: Arena, n: int) -> None:
    """Their classes, lengths, what is in them and how they combine, of a stored Dict and of one that is not."""
    d = store(arena, "dict", n)
    plain = dict.fromkeys(keys_of(n), 0)
    for one in (d, d.copy()):
        assert isinstance(one.keys(), KeysView)
        assert isinstance(one.values(), ValuesView)
        assert isinstance(one.items(), ItemsView)
        assert (len(one.keys()), len(one.values()), len(one.items())) == (n, n, n)
        assert one.keys() == plain.keys()
        assert one.items() == plain.items()
        assert list(one.values()) == list(plain.values())
        assert one.keys() & {"key001", "no"} == {"key001"}
        assert ("key001", 0) in one.items()
        assert "no" not in one.values()
        assert list(reversed(one.items())) == list(reversed(plain.items()))
