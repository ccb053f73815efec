"""How many requests stand at a hot spot, and how many are in flight, as statistics, `recoverable top` and metrics have it."""

from __future__ import annotations

import asyncio

import pytest

import recoverable
from recoverable import Arena
from recoverable._native import _counts
from recoverable._native.runtime import Turn, whole_of
from recoverable.cli import _outside, _top
from recoverable.inflight import ages
from support.hanging import helper, running
from support.workers import Request, pause

pytest.importorskip("prometheus_client")

from recoverable import metrics


def gauges() -> dict[str, float]:
    """Return what a scrape has of requests, of the one arena that is open."""
    return {
        family.name: family.samples[0].value
        for family in metrics._Collector().collect()
        if family.name.startswith(("recoverable_request", "recoverable_longest"))
    }


def test_how_many_stand_at_a_hot_spot(arena: Arena) -> None:
    """`stats()`, `recoverable top` and metrics have the queue: at the place, or for all of its container."""
    pytest.importorskip("prometheus_client")

    with arena.transaction():
        arena.root["stock"] = 10**6

    def lose() -> None:
        async def reader() -> None:
            left = arena.root["stock"]
            await pause()
            arena.root["stock"] = left - 1

        request = Request(arena, reader)
        request.step()
        with arena.transaction():
            arena.root["stock"] += 5
        with pytest.raises(recoverable.ConflictError):
            request.step()

    lose()
    (spot,) = arena.stats().hot_spots
    assert spot.queue == 0
    with _outside.opened(arena.name) as fd:
        _, ((place),) = _counts.peek_board(fd, arena.name)
    where = (place["id"], place["kind"], place["arg"])
    turns = [Turn(arena.native, where), Turn(arena.native, where), Turn(arena.native, whole_of(where))]
    assert arena.native.queues() == (3, 2)
    (spot,) = arena.stats().hot_spots
    assert (spot.key, spot.queue) == ("'stock'", 3)
    (sample,) = _top.samples(arena.name, 1, 1)
    assert [each.queue for each in sample.spots] == [3]
    assert (gauges()["recoverable_requests_in_queues"], gauges()["recoverable_longest_queue"]) == (3, 2)
    for turn in turns:
        turn.drop()
    assert arena.native.queues() == (0, 0)


async def test_what_is_in_flight_is_a_metric(arena: Arena) -> None:
    """How many, and the age of the oldest."""
    assert ages(arena.native) == []
    async with running(arena.run(helper), arena.run(helper)):
        await asyncio.sleep(0.05)
        first, second = ages(arena.native)
        assert gauges()["recoverable_requests_in_flight"] == 2
        assert gauges()["recoverable_request_oldest_age_seconds"] > 0.03
        assert 0.03 < first < 5
        assert 0.03 < second < 5
