"""The rules of chaos: how they are written, what is wrong with one, and which handler they mean."""

from __future__ import annotations

import re

import pytest

from recoverable import (
    ArenaOptionError,
    FaultSyntaxError,
)
from recoverable.faults import (
    Conflict,
    Delay,
    Full,
    Kill,
    Raise,
    Rule,
    parse_rules,
)


def test_rules_are_read_as_the_manual_says() -> None:
    """A rule is handler=fault@place:rate; blanks and empty rules do no harm; the rate is 1 where there is none."""
    rules = parse_rules("checkout=raise@line:0.01; *=kill@commit:1e-4;\n *=delay(50ms)@await:0.05 ;;Cart.*=full@alloc")
    assert rules == [
        Rule("checkout", Raise(), "line", 0.01),
        Rule("*", Kill(), "commit", 0.0001),
        Rule("*", Delay(0.05), "await", 0.05),
        Rule("Cart.*", Full(), "alloc"),
    ]
    assert parse_rules("; ".join(map(str, rules))) == rules
    assert parse_rules("f=raise(builtins.KeyError)@write")[0].fault == Raise(KeyError)


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 0, "there is no rule in it"),
        (" ; ", 0, "there is no rule in it"),
        ("checkout", 8, "a rule is handler=fault@place:rate"),
        ("=raise@line", 0, "a rule is handler=fault@place:rate"),
        ("f=raise", 7, "a rule is handler=fault@place:rate"),
        ("f=@line", 2, "a rule is handler=fault@place:rate"),
        ("a=raise@line; f=boom@line", 16, "there is no fault 'boom'"),
        ("f=raise(Nothing)@line", 8, "'Nothing' is no exception"),
        ("f=delay(50)@await", 8, "a number and us, ms or s"),
        ("f=kill(9)@line", 6, "kill takes no argument"),
        ("f=raise@", 8, "there is no place ''"),
        ("f=raise@row:0.1", 8, "there is no place 'row'; there are line, await"),
        ("f=raise@commit", 8, "raise can't strike at commit, but at line, await, write"),
        ("f=kill@alloc", 7, "kill can't strike at alloc"),
        ("f=raise@line:", 13, "'' is no rate"),
        ("f=raise@line:often", 13, "'often' is no rate"),
        ("f=raise@line:0", 13, "'0' is no rate: a number above 0 and at most 1"),
        ("f=raise@line:1.5", 13, "'1.5' is no rate"),
        ("f=raise@line: nan", 14, "'nan' is no rate"),
    ],
)
def test_a_wrong_rule_is_pointed_at(text: str, at: int, why: str) -> None:
    """The error says what is wrong and stands under the character."""
    with pytest.raises(FaultSyntaxError, match=re.escape(why)) as caught:
        parse_rules(text)
    assert caught.value.position == at
    assert str(caught.value).splitlines()[-1] == "  " + " " * at + "^"


def test_rules_made_by_hand_are_checked() -> None:
    """A fault that can't strike there and a rate that is none are refused."""
    for wrong, message in (
        ({"fault": Conflict(), "at": "line"}, "conflict can't strike at line, but at resume, commit"),
        ({"fault": Raise(), "at": "line", "rate": 0}, "rate=0 must be above 0"),
        ({"fault": Raise(), "at": "phase"}, "there is no place 'phase'"),
    ):
        with pytest.raises(ArenaOptionError, match=message):
            Rule("f", **wrong)  # type: ignore[arg-type]


def test_a_rule_means_a_name_with_or_without_what_it_is_qualified_by() -> None:
    """`checkout` is also `Shop.checkout`; * and ? stand for others."""
    assert all(Rule(name, Raise(), "line").matches("Shop.checkout") for name in ("checkout", "Shop.*", "*", "check???"))
    assert not any(Rule(name, Raise(), "line").matches("Shop.checkout") for name in ("check", "Shop", "Checkout"))
