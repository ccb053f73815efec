"""Record against a dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from recoverable import Dict, List, Record
from support.container_machine import apply, inplace, machine, plain, replace, trees


class Point(Record, name="model.Point"):
    x: int = 0
    y: float = 0.0


class Account(Record, name="model.Account"):
    owner: str
    balance: int = 0
    note: str | None = None
    raw: bytes = b""
    open: bool = True
    tags: List[str] = List()
    at: Point | None = None
    extra: Dict[str, int] = Dict()


@dataclasses.dataclass
class PlainPoint:
    x: int = 0
    y: float = 0.0


@dataclasses.dataclass
class PlainAccount:
    owner: str
    balance: int = 0
    note: str | None = None
    raw: bytes = b""
    open: bool = True
    tags: list[Any] = dataclasses.field(default_factory=list)
    at: PlainPoint | None = None
    extra: dict[Any, Any] = dataclasses.field(default_factory=dict)


GOOD: dict[str, Any] = {
    "owner": st.sampled_from(["", "ann", "v" * 300, "\ud800"]),
    "balance": st.integers(-9, 9) | st.sampled_from([2**63, -(10**40)]),
    "note": st.none() | st.sampled_from(["n", "n" * 20]),
    "raw": st.binary(max_size=30),
    "open": st.booleans(),
    "tags": st.lists(trees, max_size=4),
    "at": st.none() | st.builds(PlainPoint, st.integers(0, 3), st.floats(0, 1)),
    "extra": st.dictionaries(st.sampled_from("ab"), trees, max_size=2),
}
accounts = st.builds(PlainAccount, **GOOD)
names = st.sampled_from([*GOOD, "absent"])


def store(original: PlainAccount) -> Account:
    values = dict(vars(original))
    if values["at"] is not None:
        values["at"] = Point(**vars(values["at"]))
    return Account(**values)


def assign(container: Any, name: str, value: Any) -> None:
    if isinstance(value, PlainPoint) and isinstance(container, Account):
        value = Point(value.x, value.y)
    setattr(container, name, value)


WRONG = {"owner": 5, "balance": "1", "open": 1, "raw": "r", "tags": (1,), "at": 5}


def assign_wrong(container: Any, name: str) -> None:
    """A Record checks its types, a dataclass does not: stand in for it."""
    if isinstance(container, PlainAccount):
        raise TypeError
    setattr(container, name, WRONG[name])


def read(container: Any, name: str) -> Any:
    if name == "absent" and isinstance(container, Account):
        assert not hasattr(container, name)
    return getattr(container, name)


def equal(container: Any, original: PlainAccount) -> tuple[bool, bool]:
    other = store(original) if isinstance(container, Account) else original
    return container == other, container == container.copy() if isinstance(container, Account) else True


def shown(container: Any) -> str:
    if isinstance(container, Account):
        return repr(container)
    point = None if container.at is None else f"Point(x={container.at.x!r}, y={container.at.y!r})"
    return (
        f"Account(owner={container.owner!r}, balance={container.balance!r}, note={container.note!r}, "
        f"raw={container.raw!r}, open={container.open!r}, tags=List({container.tags!r}), at={point}, "
        f"extra=Dict({container.extra!r}))"
    )


def raise_balance(container: Any, n: int) -> Any:
    container.balance += n
    return container


simple = st.one_of(
    *(apply(f"set {name}", assign, st.just(name), values) for name, values in GOOD.items()),
    *(apply(f"set {name}", assign, st.just(name), values) for name, values in GOOD.items()),
    apply("wrong", assign_wrong, st.sampled_from(sorted(WRONG))),
    apply("get", read, names),
    apply("get", read, names),
    apply("all", plain),
    apply("tags", lambda c, value: c.tags.append(value), trees),
    apply("extra", lambda c, value: c.extra.__setitem__("k", value), trees),
    apply("point", lambda c, n: setattr(c.at, "x", n), st.integers(0, 9)),
    apply("copy", lambda c: c.copy() if isinstance(c, Account) else dataclasses.replace(c)),
    apply("equal", equal, accounts),
    apply("repr", shown),
    inplace("balance +=", raise_balance, st.integers(-3, 3)),
    replace(accounts, store),
)

TestRecordModel = machine(simple, accounts, store)
