"""Records: classes that have changed since, or are not there, and what their fields refuse."""

from __future__ import annotations

from typing import Any

import pytest

from recoverable import Arena, List, Record, SchemaError
from support.forks import in_child
from support.kinds import Leaf, Tree

LONG = "long " * 30


def old_class() -> type[Record]:
    class Old(Record, name="unit.Evolving"):
        a: int
        gone: str = "g"

    return Old


def test_a_class_with_further_fields_reads_old_records(arena: Arena) -> None:
    """A field that was added is its default in an old record, until it is written; writing keeps all else."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)
        arena.root["other"] = old_class()(a=2, gone="x")

    class New(Record, name="unit.Evolving"):
        b: str = "default"
        a: int = 0
        rows: List[int] = List([7])

    there = arena.root["r"]
    assert (type(there), there.a, there.b, there.rows.to_python()) == (New, 1, "default", [7])
    with arena.transaction():
        there.b = "written"
        there.rows.append(8)
        assert there.to_python() == {"b": "written", "a": 1, "rows": [7, 8]}
    assert arena.root["r"] == New(a=1, b="written", rows=[7, 8])
    assert arena.root["other"].to_python() == {"b": "default", "a": 2, "rows": [7]}
    assert arena.verify().leaked_blocks == 0
    assert old_class() is not None
    assert arena.root["r"].gone == "g"  # stays stored
    assert arena.root["other"].gone == "x"


def test_a_migration_that_rolls_back_leaves_the_old_record(arena: Arena) -> None:
    """The slots that a write has added go with its transaction."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)

    class New(Record, name="unit.Evolving"):
        a: int
        b: str = LONG

    with pytest.raises(ZeroDivisionError), arena.transaction():
        arena.root["r"].b = "new"
        raise ZeroDivisionError
    there = arena.root["r"]
    assert isinstance(there, New)
    assert (there.a, there.b) == (1, LONG)
    assert arena.verify().leaked_blocks == 0


@pytest.mark.parametrize("which", ["type", "no default"])
def test_an_incompatible_class_is_a_schema_error_that_names_the_field(arena: Arena, which: str) -> None:
    """A changed type, or a new field without a default, is refused; the stored record stays."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)
    if which == "type":

        class Retyped(Record, name="unit.Evolving"):
            a: str = ""

    else:

        class Demanding(Record, name="unit.Evolving"):
            a: int
            needed: int

    field = "a" if which == "type" else "needed"
    with pytest.raises(SchemaError, match=f"[.]{field} ") as caught:
        _ = arena.root["r"].a
    assert caught.value.field == field
    arena.verify()
    old_class()
    assert arena.root["r"].a == 1


def test_a_record_without_its_class_can_be_read(name: str) -> None:
    """A process that has not imported the class reads the fields by their stored names."""
    with Arena.temporary("1 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["r"] = Tree("t", Leaf(5))

        def other() -> Any:
            from recoverable._native.record import forget_record_classes
            from recoverable.containers import record

            record._classes.clear()
            forget_record_classes()
            with Arena.open(name, create=False) as again:
                there = again.root["r"]
                assert (there.name, there.leaf.n) == ("t", 5)
                with pytest.raises(AttributeError):
                    _ = there.absent
                return there.to_python(), repr(there)

        ending = in_child(other)
        assert ending.returned, ending
        plain, text = ending.value
        assert plain == {"name": "t", "leaf": {"n": 5}, "maybe": None, "ratio": 1.0, "marks": []}
        assert "unit.Tree" in text


def test_records_check_types_and_names(arena: Arena) -> None:
    """A wrong type, an unknown field and a missing one are a TypeError; an int is taken for a float."""
    for make in (
        lambda: Tree(),
        lambda: Tree(name=1),
        lambda: Tree("a", absent=1),
        lambda: Tree("a", "b"),
        lambda: Tree("a", None, None, 1.0, [], 9),
        lambda: Tree("a", name="b"),
    ):
        with pytest.raises(TypeError):
            make()
    with arena.transaction():
        arena.root["r"] = Tree("a", ratio=2, marks=[1])
        there = arena.root["r"]
        assert type(there.ratio) is float
        for field, wrong in (("name", None), ("leaf", 1), ("ratio", "x"), ("marks", {})):
            with pytest.raises(TypeError, match=f"Tree.{field}"):
                setattr(there, field, wrong)
        there.leaf = Leaf(2)
        there.leaf.n += 1
        there.leaf = there.leaf  # where it is already
        there.maybe = None
        with pytest.raises(AttributeError):
            there.absent = 1
        with pytest.raises(AttributeError):
            del there.name
        assert there == Tree("a", Leaf(3), ratio=2.0, marks=[1])
        assert there != Tree("b")
    assert repr(arena.root["r"]) == "Tree(name='a', leaf=Leaf(n=3), maybe=None, ratio=2.0, marks=List([1]))"


def test_defaults_are_not_shared() -> None:
    """Each record gets its own copy of a default container."""
    a, b = Tree("a"), Tree("b")
    a.marks.append(1)
    assert b.marks == []
