"""Each known anomaly, tried; and the judges of histories, on histories that show them."""

from __future__ import annotations

from typing import Any

import pytest

from recoverable import Arena
from support.anomalies import ABORT, ANOMALIES, COMMIT
from support.histories import Play, Site, fill
from support.operations import look, model
from support.serial import NotSerialisableError, find_order, replay, runs_of


@pytest.mark.parametrize("which", ANOMALIES)
def test_it_does_not_happen(arena: Arena, which: str, log: list[Any]) -> None:
    """The interleaving is run: those that saw what is not so any more are stopped, and the rest is in some order."""
    anomaly = ANOMALIES[which]
    fill(arena)
    play = Play()
    site = Site(arena, play.take)
    lost = set()
    for t in sorted({t for t, _ in anomaly.steps}):
        site.do(("begin", t, 0))
    for t, what in anomaly.steps:
        if t not in site.flying:
            continue  # stopped at its first access after another's commit
        if what == COMMIT:
            site.do(("step", t, "commit", []))
        elif what == ABORT:
            site.do(("step", t, "raise", []))
        else:
            site.do(("step", t, "go", list(what)))
        if what != ABORT and t not in site.flying and play.events[-1][0] == "aborted":
            lost.add(t)
    site.do(("state",))
    site.do(("verify",))
    assert lost == anomaly.losers
    find_order(runs_of(play.events), play.events[-1][1])


@pytest.mark.parametrize("which", ANOMALIES)
def test_both_judges_see_it(which: str) -> None:
    """A history with the anomaly is refused by the judge that knows the order of commits, and by the one that does not."""
    *events, (_, content) = ANOMALIES[which].bad
    state = model()
    state["d"] = content
    final = look(state)
    with pytest.raises(NotSerialisableError):
        find_order(runs_of(events), final)
    with pytest.raises(NotSerialisableError):
        replay([*events, ("state", final)])


def test_a_mix_that_an_aborted_transaction_saw_is_seen_as_well() -> None:
    """Opacity: it does not help that it was rolled back in the end."""
    *events, _ = ANOMALIES["G-single"].bad
    aborted = [("aborted", "1") if event == ("committed", "1") else event for event in events]
    state = model()
    state["d"] = {"x": 1, "y": 2}
    with pytest.raises(NotSerialisableError):
        find_order(runs_of(aborted), look(state))
    with pytest.raises(NotSerialisableError):
        replay([*aborted, ("state", look(state))])


def test_good_histories_are_accepted() -> None:
    """One after another; a reader that ends after a commit it has not seen; an abort that is not there."""
    read, write = ("d.get", "x"), ("d.set", "x", 1)
    events: list[Any] = [
        ("begin", "r"), ("op", "r", read, 10), ("pause", "r"),
        ("begin", "a"), ("op", "a", write, None), ("pause", "a"), ("aborted", "a"),
        ("begin", "w"), ("op", "w", read, 10), ("op", "w", write, None), ("returns", "w"), ("committed", "w"),
        ("returns", "r"), ("committed", "r"),
        ("outside", read, 1),
    ]  # fmt: skip
    state = model()
    state["d"]["x"] = 1
    judge = replay([*events, ("state", look(state))])
    assert judge.counts == {"committed": 2, "aborted": 1, "died": 0}
    assert [run.name for run in find_order(runs_of(events), look(state))][-1] == "outside"


def test_real_time_counts() -> None:
    """Who begins after another has committed can't have run before it."""
    events: list[Any] = [
        ("begin", "w"), ("op", "w", ("d.set", "x", 1), None), ("returns", "w"), ("committed", "w"),
        ("begin", "r"), ("op", "r", ("d.get", "x"), 10), ("returns", "r"), ("committed", "r"),
    ]  # fmt: skip
    state = model()
    state["d"]["x"] = 1
    with pytest.raises(NotSerialisableError):
        find_order(runs_of(events), look(state))
    with pytest.raises(NotSerialisableError):
        replay(events)
