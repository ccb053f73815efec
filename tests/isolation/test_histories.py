"""Random histories of many transactions in flight: whatever the interleaving, they could have run one after another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from recoverable import Arena
from support.histories import Play, Remote, Site, fill, script, story
from support.serial import NotSerialisableError, find_order, runs_of

HISTORIES = int(os.environ.get("RECOVERABLE_HISTORIES", "250"))
KILLED = max(1, HISTORIES // 4)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + HISTORIES)]


def judged(seed: int, play: Play, act: Callable[[], None]) -> None:
    """Run it; a failure tells the seed and the whole history."""
    try:
        act()
    except BaseException as error:
        again = f"again with: --seed={seed} RECOVERABLE_HISTORIES=1"
        raise AssertionError(f"{error}\n{again}\n{story(play.events)}") from error


def test_one_process(arena: Arena, seed: int, log: list[Any]) -> None:
    """Requests that wait, crash, are cancelled, closed or run again, and blocks beside them: serialisable and opaque."""
    counts: Counter[str] = Counter()
    for number in range(HISTORIES):
        fill(arena)
        play = Play()
        site = Site(arena, play.take)
        play.sites.append(site)
        judged(seed + number, play, lambda play=play, number=number: play.run(script(seed + number)))  # type: ignore[misc]
        site.close()
        counts.update(play.judge.counts)
        if number % 5 == 0:  # a second opinion, which knows nothing of the order
            judged(seed + number, play, lambda play=play: second_opinion(play))  # type: ignore[misc]
    print(dict(counts), "conflicts:", arena.stats().conflicts)
    assert counts["committed"] > 5 * HISTORIES
    assert arena.stats().conflicts > HISTORIES / 2


def second_opinion(play: Play) -> None:
    """Look for an order, and find none once the history is falsified."""
    content = next(event[1] for event in reversed(play.events) if event[0] == "state")
    runs = runs_of(play.events)
    find_order(runs, content)
    for one in reversed(runs):
        if one.committed and one.log and one.log[-1][0][0] in ("d.add", "a.add"):
            one.log[-1] = (one.log[-1][0], -1)
            with pytest.raises(NotSerialisableError):
                find_order(runs, content)
            return


@pytest.mark.crash
@pytest.mark.parametrize("sites", [1, 2])
def test_processes_that_are_killed(name: str, seed: int, sites: int, log: list[Any]) -> None:
    """The same on one or two processes, killed between and within steps: survivors go on, and nothing half-done stays."""
    counts: Counter[str] = Counter()
    with Arena.temporary("16 MiB", name=name) as arena:
        for number in range(KILLED):
            fill(arena)
            play = Play()
            try:
                judged(seed + number, play, lambda play=play, number=number: killed(arena, play, seed + number, sites))  # type: ignore[misc]
            finally:
                for site in play.sites:
                    site.kill()
            counts.update(play.judge.counts)
            counts["deaths"] += play.deaths
    print(dict(counts))
    assert counts["deaths"] >= KILLED


def killed(arena: Arena, play: Play, seed: int, sites: int) -> None:
    """Play a script with deaths in it."""
    play.sites += [Remote(arena.name, play.take) for _ in range(sites)]
    play.run(script(seed, sites=sites, deaths=3))
    for site in play.sites:
        site.close()
    report: Any = arena.verify()
    assert report.leaked_blocks == 0, report
