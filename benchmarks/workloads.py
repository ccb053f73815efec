"""Streams of written pages for the evaluation of policies: made from a seed, each page once a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recoverable.speculation import Recording

PAGES = 4096
WRITES = 4  # a step, where a workload does not say otherwise

Steps = list[list[int]]
Random = np.random.Generator


def fixed(n: int, rng: Random) -> Steps:
    """The same 8 scattered pages each time."""
    pages = rng.permutation(PAGES)[:8].tolist()
    return [pages] * n


def handlers(n: int, rng: Random) -> Steps:
    """16 handlers with 8 pages each, one of them a step."""
    sets = rng.permutation(PAGES)[: 16 * 8].reshape(16, 8).tolist()
    return [sets[i] for i in rng.integers(0, 16, n)]


def _zipf() -> np.ndarray:
    weights = 1 / np.arange(1, PAGES + 1) ** 0.99
    return weights / weights.sum()


def zipf(n: int, rng: Random) -> Steps:
    """4 pages a step, zipf 0.99 over 4096."""
    names = rng.permutation(PAGES)
    return _unique(names[rng.choice(PAGES, (n, WRITES), p=_zipf())])


def moving_zipf(n: int, rng: Random) -> Steps:
    """The same, and every 2000 steps other pages are the popular ones."""
    drawn = rng.choice(PAGES, (n, WRITES), p=_zipf())
    for begin in range(0, n, 2000):
        drawn[begin : begin + 2000] = rng.permutation(PAGES)[drawn[begin : begin + 2000]]
    return _unique(drawn)


def rare(n: int, rng: Random) -> Steps:
    """200 pages, each written in 2 % of the steps."""
    pages = rng.permutation(PAGES)[:200]
    return [pages[row].tolist() for row in rng.random((n, 200)) < 0.02]


def uniform(n: int, rng: Random) -> Steps:
    """4 of 4096 pages a step, each as likely."""
    return _unique(rng.integers(0, PAGES, (n, WRITES)))


def scan(n: int, rng: Random) -> Steps:
    """4 pages a step, one after the other, round and round."""
    return [[(i * WRITES + k) % PAGES for k in range(WRITES)] for i in range(n)]


def bursts(n: int, rng: Random) -> Steps:
    """Two pages anywhere; and in 30 of every 200 steps 8 pages that are other ones each time."""
    steps = _unique(rng.integers(0, PAGES, (n, 2)))
    for begin in range(0, n, 200):
        pages = rng.integers(0, PAGES, 8).tolist()
        for i in range(begin, min(begin + 30, n)):
            steps[i] = list({*steps[i], *pages})
    return steps


def alternating(every: int) -> Callable[[int, Random], Steps]:
    """Two fixed sets of 8 pages in turn."""

    def steps(n: int, rng: Random) -> Steps:
        sets = rng.permutation(PAGES)[:16].reshape(2, 8).tolist()
        return [sets[i // every % 2] for i in range(n)]

    return steps


def _unique(rows: np.ndarray) -> Steps:
    return [list(dict.fromkeys(row)) for row in rows.tolist()]


WORKLOADS: dict[str, Callable[[int, Random], Steps]] = {
    "fixed 8 pages": fixed,
    "16 handlers x 8": handlers,
    "zipf 0.99": zipf,
    "zipf, moving": moving_zipf,
    "rare (2 % each)": rare,
    "uniform": uniform,
    "sequential scan": scan,
    "bursts": bursts,
    "two in turn, 10": alternating(10),
    "two in turn, 100": alternating(100),
    "two in turn, 1000": alternating(1000),
}


def make(name: str, n: int, seed: int = 1) -> Recording:
    """Return a workload's stream of n steps."""
    return Recording.of(WORKLOADS[name](n, np.random.default_rng([seed, *name.encode()])))
