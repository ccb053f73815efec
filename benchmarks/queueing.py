"""A model of workers on one arena: processes that run on cores of their own and meet at one lock.

A closed loop: each worker takes its next request as soon as it has answered the last. A request is parts of its own time and
times that it holds the lock, in turn; each time is drawn from a distribution. The lock is what `queue.c` makes of it: one that
is dropped is free for whoever comes; the first of those who sleep is woken, which takes it a while, and has to try as well; one
that has waited for long is offered it, and meanwhile nobody has it. What is not in the model: what cores share (memory, caches,
the kernel), conflicts, and the network. So it says at how many workers the lock is full, not what else may be by then.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Draw = Callable[[random.Random], float]  # seconds

PATIENCE, PAUSE, PASSED = 1e-3, 250e-6, 2  # as in queue.c


def constant(seconds: float) -> Draw:
    """Always as long."""
    return lambda rng: seconds


def around(seconds: float) -> Draw:
    """Return a time between half and one and a half of that."""
    return lambda rng: seconds * rng.uniform(0.5, 1.5)


def memoryless(seconds: float) -> Draw:
    """Return an exponential distribution: for the cases that have a formula."""
    return lambda rng: rng.expovariate(1 / seconds)


def measured(bounds: Sequence[float], classes: Sequence[int], mean: float) -> Draw:
    """Return what a histogram says, scaled to the mean that goes with it: within a class all is as likely."""
    edges = [0.0, *bounds, 2 * bounds[-1]]
    middle = sum(n * (edges[i] + edges[i + 1]) / 2 for i, n in enumerate(classes)) / sum(classes)
    weights, indexes, scale = list(itertools.accumulate(classes)), range(len(classes)), mean / middle

    def draw(rng: random.Random) -> float:
        (i,) = rng.choices(indexes, cum_weights=weights)
        return scale * rng.uniform(edges[i], edges[i + 1])

    return draw


@dataclass(frozen=True)
class Request:
    """What a request does: `parts` times its own work, then the lock.

    Attributes:
        own: Its own time before each hold, and after the last one nothing.
        held: How long it holds the lock.
        parts: How often.
    """

    own: Draw
    held: Draw
    parts: int


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        wake: From the call that wakes a sleeper until that one runs.
        ring: That call, for who makes it.
        spin: How long one who finds it taken looks again and again before it sleeps.
    """

    wake: float = 50e-6
    ring: float = 3e-6
    spin: float = 0.0


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        rate: Requests a second, of all workers.
        busy: The share of the time that the lock was held.
        waited: The share of the holds that were waited for.
        waits: How long, of those.
    """

    rate: float = 0.0
    busy: float = 0.0
    waited: float = 0.0
    waits: list[float] = field(default_factory=list)


class _Lock:
    """The events of one run, in the order of their times."""

    def __init__(self, workers: int, request: Request, costs: Costs, seed: int) -> None:
        self.rng, self.request, self.costs = random.Random(seed), request, costs
        self.events: list[tuple[float, int, int, Callable[[float, int], None]]] = []
        self.number = itertools.count()
        self.held_by: int | None = None
        self.offered: int | None = None
        self.offered_at = -1.0
        self.spinning: list[int] = []
        self.asleep: dict[int, float] = {}  # since when; the first came first
        self.passed: dict[int, int] = {}
        self.begun: dict[int, float] = {}
        self.holds, self.ended, self.held_for = [0] * workers, 0, 0.0
        self.out = Outcome()
        self.takes = 0
        for worker in range(workers):
            self.at(request.own(self.rng) * self.rng.random(), worker, self.arrive)

    def at(self, when: float, worker: int, what: Callable[[float, int], None]) -> None:
        heapq.heappush(self.events, (when, next(self.number), worker, what))

    def run(self, requests: int) -> Outcome:
        warm, now, since, held = requests // 10, 0.0, 0.0, 0.0
        while self.ended < warm + requests:
            now, _, worker, what = heapq.heappop(self.events)
            before = self.ended
            what(now, worker)
            if before < warm <= self.ended:
                since, held, self.takes, self.out.waits = now, self.held_for, 0, []
        out = self.out
        out.rate, out.busy = requests / (now - since), min(1.0, (self.held_for - held) / (now - since))
        out.waited = len(out.waits) / max(1, self.takes)
        return out

    def arrive(self, now: float, worker: int) -> None:
        if self.held_by is None and self.offered is None:
            self.take(now, worker)
            return
        self.begun[worker] = now
        self.spinning.append(worker)
        self.at(now + self.costs.spin, worker, self.sleep)

    def sleep(self, now: float, worker: int) -> None:
        """End to spin for a hold, unless that has begun; by then it may spin for the next one."""
        if worker in self.spinning and now >= self.begun[worker] + self.costs.spin:
            self.spinning.remove(worker)
            self.asleep[worker] = self.begun[worker]
            self.passed[worker] = 0

    def take(self, now: float, worker: int) -> None:
        self.held_by, self.offered = worker, None
        self.takes += 1
        if worker in self.begun:
            self.asleep.pop(worker, None), self.passed.pop(worker, None)
            self.out.waits.append(now - self.begun.pop(worker))
        seconds = self.request.held(self.rng)
        self.held_for += seconds
        self.at(now + seconds, worker, self.drop)

    def awake(self, now: float, worker: int) -> None:
        if worker in self.asleep and self.held_by is None and self.offered in (None, worker):
            self.take(now, worker)

    def drop(self, now: float, worker: int) -> None:
        self.held_by = None
        if self.asleep:
            for each in self.passed:
                self.passed[each] += 1
            first, since = next(iter(self.asleep.items()))
            if now - since >= PATIENCE and self.passed[first] >= PASSED and now - self.offered_at >= PAUSE:
                self.offered, self.offered_at = first, now
            self.at(now + self.costs.wake, first, self.awake)
            now += self.costs.ring
        if self.spinning and self.offered is None:
            self.take(now, self.spinning.pop(self.rng.randrange(len(self.spinning))))
        self.holds[worker] += 1
        self.ended += self.holds[worker] % self.request.parts == 0
        self.at(now + self.request.own(self.rng), worker, self.arrive)


def simulate(workers: int, request: Request, costs: Costs, *, requests: int = 20_000, seed: int = 1) -> Outcome:
    """Run so many requests, after a tenth more to warm up."""
    return _Lock(workers, request, costs, seed).run(requests)


def repairman(workers: int, own: float, held: float) -> float:
    """Return the requests a second of exponential times and a lock that is handed over in no time: the formula, for a check."""
    load = held / own
    terms = [1.0]
    for k in range(workers):
        terms.append(terms[-1] * (workers - k) * load)
    return (1 - 1 / sum(terms)) / held
