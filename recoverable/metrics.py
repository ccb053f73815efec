"""Metrics for Prometheus: `metrics.setup(app)` adds a page `/metrics`. Needs the extra `[prometheus]`.

Its spelling is `from recoverable import metrics`: beside `from recoverable import recoverable`, `recoverable.metrics` is looked for
on the decorator.

Requests don't touch Prometheus' objects. The native call that ends a run adds it to plain integers of its handler, and a
collector turns these, and the arena's own statistics, into metrics when somebody scrapes. So a scrape costs by the number
of handlers, a request a dictionary look-up and four readings of the clock, and without `register` or `setup` a comparison.

Labels are `arena` and `handler`, names that come from the program's code, never from requests; a program that makes up
names without end (a new function object with a new name for each user, say) fills `handlers` of them, and the rest are
counted together as `(other)`. What is counted is this process's: scrape each worker. docs/metrics.md has the table.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
except ImportError as error:
    raise ImportError(
        "recoverable.metrics needs prometheus_client, which is not installed: pip install 'recoverable[prometheus]'"
    ) from error

from recoverable import _registry, events, feed_state, inflight
from recoverable._native import _core, _counts, _policies
from recoverable._native.runtime import BOUNDS, meter
from recoverable.lock_times import BOUNDS as LOCK_BOUNDS
from recoverable.lock_times import LockTimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from recoverable._native.runtime import TallyReport
    from recoverable.feed_state import FeedState

__all__ = ["OTHER", "register", "setup"]

#: The label of all the handlers that were too many to be told apart.
OTHER: Final = "(other)"

_BY_HANDLER: Final = ["arena", "handler"]
_LE: Final = [*(format(bound / 1e9, "g") for bound in BOUNDS), "+Inf"]
_LOCK_LE: Final = [*(format(bound, ".9g") for bound in LOCK_BOUNDS), "+Inf"]

# By handler: name, key of the tally, help.
_COUNTS: Final = (
    ("commits", "commits", "Runs that touched the arena and committed."),
    ("undone_bytes", "bytes", "Bytes put back by rollbacks."),
    ("undone_pages", "pages", "Pages put back by rollbacks."),
    ("traps", "traps", "First raw writes to a page that faulted."),
)

# By arena, in this order.
_REQUESTS: Final = (
    ("requests_in_flight", "Requests and open blocks of this process."),
    (
        "request_oldest_age_seconds",
        "How long ago the oldest of them began, all of its runs included; 0 without any.",
    ),
    (
        "requests_in_queues",
        "Requests that stand at hot spots, of all processes: those whose turn it is, and those that wait.",
    ),
    ("longest_queue", "Those of them in the longest queue."),
)

# By arena and sink, with the attribute.
_SINKS: Final = (
    ("lag_commits", "commits", "Commits that the sink has not taken yet, at most: numbers have gaps."),
    ("lag_bytes", "bytes", "Bytes of them."),
    ("lag_seconds", "seconds", "For how long the first of them has waited."),
    ("lost", "lost", "1: it has missed something, or has failed."),
)


class _Families:
    """The metrics of one scrape, empty at first."""

    def __init__(self) -> None:
        self.counts = {
            key: CounterMetricFamily(f"recoverable_{name}", text, labels=_BY_HANDLER) for name, key, text in _COUNTS
        }
        self.rollbacks = CounterMetricFamily(
            "recoverable_rollbacks",
            "Runs that touched the arena and were rolled back, by cause.",
            labels=[*_BY_HANDLER, "cause"],
        )
        self.conflicts = CounterMetricFamily(
            "recoverable_conflicts", "Runs that lost a conflict: rollbacks of that cause.", labels=_BY_HANDLER
        )
        self.reruns = CounterMetricFamily(
            "recoverable_reruns",
            "Runs of a handler after the first, by what came before: a conflict, or a crash that is retried.",
            labels=[*_BY_HANDLER, "cause"],
        )
        self.checkpoints = HistogramMetricFamily(
            "recoverable_checkpoint_seconds",
            "Time of a run's checkpoints: entering its steps, leaving them at an await, commit or rollback.",
            labels=_BY_HANDLER,
        )
        self.predicted = GaugeMetricFamily(
            "recoverable_predicted_pages",
            "Pages that a handler's next run is expected to write raw: its part of the working set.",
            labels=_BY_HANDLER,
        )
        self.held = HistogramMetricFamily(
            "recoverable_lock_hold_seconds",
            "For how long the arena's lock was held, by all processes: of holds that ended.",
            labels=["arena"],
        )
        self.waited = HistogramMetricFamily(
            "recoverable_lock_wait_seconds",
            "For how long the arena's lock was waited for by those who had to, in all processes.",
            labels=["arena"],
        )
        self.running = GaugeMetricFamily(
            "recoverable_lock_running_hold_seconds",
            "For how long the arena's lock has been held by now, if that is long, else 0.",
            labels=["arena"],
        )
        self.feed = {
            "size": GaugeMetricFamily("recoverable_feed_size_bytes", "The feed's ring.", labels=["arena"]),
            "used": GaugeMetricFamily(
                "recoverable_feed_used_bytes", "Commits in it that a required sink has not taken.", labels=["arena"]
            ),
        }
        self.sinks = {
            field: GaugeMetricFamily(f"recoverable_sink_{name}", text, labels=["arena", "sink"])
            for name, field, text in _SINKS
        }
        self.flushes = HistogramMetricFamily(
            "recoverable_journal_flush_seconds",
            "What writing a batch of commits to the journal and waiting for the disk took, by all processes.",
            labels=["arena"],
        )
        self.written: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            "commits": CounterMetricFamily("recoverable_journal_commits", "Commits in them.", labels=["arena"]),
            "bytes": CounterMetricFamily("recoverable_journal_bytes", "Bytes of these.", labels=["arena"]),
            "at": GaugeMetricFamily(
                "recoverable_journal_flushed_timestamp_seconds", "When the last flush ended.", labels=["arena"]
            ),
        }
        self.failing = GaugeMetricFamily(
            "recoverable_journal_failing",
            "1: nothing becomes durable: of a full disk until there is room (delayed), or for good (stopped).",
            labels=["arena", "how"],
        )
        self.in_doubt = CounterMetricFamily(
            "recoverable_requests_in_doubt",
            "Requests of this process that were answered by an InDoubtError: committed, or seen, and not known to be on the disk.",
            labels=["arena"],
        )
        self.capsules = CounterMetricFamily(
            "recoverable_capsules",
            "Requests of this process that have crashed, by what became of their capsules: written or dropped.",
            labels=["arena", "result"],
        )
        self.snapshot = {
            "at": GaugeMetricFamily(
                "recoverable_journal_snapshot_timestamp_seconds",
                "When the last commit of the last snapshot was.",
                labels=["arena"],
            ),
            "bytes": GaugeMetricFamily("recoverable_journal_snapshot_bytes", "What that takes.", labels=["arena"]),
        }
        self.durability = GaugeMetricFamily(
            "recoverable_journal_durability", "1: what an answer of this process means.", labels=["arena", "level"]
        )
        self.requests = {
            name: GaugeMetricFamily(f"recoverable_{name}", text, labels=["arena"]) for name, text in _REQUESTS
        }
        self.arenas = {
            stat.name: (CounterMetricFamily if stat.total else GaugeMetricFamily)(
                f"recoverable_arena_{stat.metric}", stat.help, labels=["arena"]
            )
            for stat in _counts.STATS
            if stat.metric
        }

    def __iter__(self) -> Iterator[Metric]:
        yield from self.counts.values()
        yield from (self.rollbacks, self.conflicts, self.reruns, self.checkpoints, self.predicted)
        yield from (self.held, self.waited, self.running)
        yield from self.requests.values()
        yield from self.arenas.values()
        yield from (*self.feed.values(), *self.sinks.values(), self.flushes, *self.written.values(), self.failing)
        yield from (self.in_doubt, self.capsules)
        yield from (*self.snapshot.values(), self.durability)

    def add_arena(self, name: str, stats: dict[str, int], lock: LockTimes) -> None:
        """Add what an arena tells about itself."""
        for field, family in self.arenas.items():
            family.add_metric([name], stats[field])
        for histogram, times in ((self.held, lock.held), (self.waited, lock.waited)):
            buckets = list(zip(_LOCK_LE, itertools.accumulate(times.classes), strict=True))
            histogram.add_metric([name], buckets, times.seconds)
        self.running.add_metric([name], lock.running)

    def add_feed(self, name: str, feed: FeedState) -> None:
        """Add how far its feed and its journal are."""
        for field, family in self.feed.items():
            family.add_metric([name], getattr(feed, field))
        for sink in feed.sinks:
            for field, family in self.sinks.items():
                family.add_metric([name, sink.name], getattr(sink, field))
        flushes = feed.flushes
        if flushes is not None:
            buckets = list(zip(_LOCK_LE, itertools.accumulate(flushes.classes), strict=True))
            self.flushes.add_metric([name], buckets, flushes.seconds)
            for field, written in self.written.items():
                written.add_metric([name], getattr(flushes, field))
            for how in ("delayed", "stopped"):
                self.failing.add_metric([name, how], getattr(flushes, how) is not None)
        if feed.snapshot is not None:
            for field, family in self.snapshot.items():
                family.add_metric([name], getattr(feed.snapshot, field))

    def add_requests(self, name: str, ages: list[float], queues: tuple[int, int]) -> None:
        """Add what is in flight, by its ages, and how many wait for their turns: in all, and in the longest queue."""
        numbers = (len(ages), max(ages, default=0.0), *queues)
        for family, number in zip(self.requests.values(), numbers, strict=True):
            family.add_metric([name], number)

    def add_handler(self, labels: list[str], tally: TallyReport) -> None:
        """Add what came of a handler's runs."""
        counted: dict[str, Any] = {**tally}
        for key, family in self.counts.items():
            family.add_metric(labels, counted[key])
        for cause, times in tally["rollbacks"].items():
            self.rollbacks.add_metric([*labels, cause], times)
        self.conflicts.add_metric(labels, tally["rollbacks"]["conflict"])
        self.reruns.add_metric([*labels, "conflict"], tally["conflict_reruns"])
        self.reruns.add_metric([*labels, "retry"], tally["retries"])
        buckets = list(zip(_LE, itertools.accumulate(tally["took"]), strict=True))
        self.checkpoints.add_metric(labels, buckets, tally["nanos"] / 1e9)

    def add_predictions(self, arena: str, handlers: Iterable[str], profiles: Iterable[dict[str, Any]]) -> None:
        """Add what profiles expect of each of these handlers; a profile has the end of a long name."""
        pages = dict.fromkeys(handlers, 0)
        for profile in profiles:
            for handler in pages:
                if handler.endswith(profile["handler"]):
                    pages[handler] += profile["predicted"]
                    break
        for handler, expected in pages.items():
            self.predicted.add_metric([arena, handler], expected)


class _Collector:
    """Reads the arenas that are open at the moment of a scrape."""

    def describe(self) -> Iterable[Metric]:
        return _Families()

    def collect(self) -> Iterable[Metric]:
        families = _Families()
        with _registry.lock:  # a scrape in another thread: no arena is closed meanwhile
            for segment in _registry.all_open():
                lock = LockTimes.of(_counts.lock_times(segment.native))
                families.add_arena(segment.name, _counts.stats(segment.native), lock)
                if (feed := feed_state.of(segment.native)) is not None:
                    families.add_feed(segment.name, feed)
                journal = segment.native.journal
                families.in_doubt.add_metric([segment.name], 0 if journal is None else journal.doubts)
                if (capsules := segment.native.capsules) is not None:
                    for result in ("written", "dropped"):
                        families.capsules.add_metric([segment.name, result], getattr(capsules, result))
                if journal is not None:
                    for level, holds in (("disk", segment.native.gated), ("journal", not segment.native.gated)):
                        families.durability.add_metric([segment.name, level], bool(holds))
                families.add_requests(segment.name, inflight.ages(segment.native), segment.native.queues())
                if _core.take_orphan(segment.native):
                    events.arena_orphaned(segment.name, None if journal is None else journal.path)
                tallies = segment.native.read_tallies()
                for handler, tally in tallies.items():
                    families.add_handler([segment.name, OTHER if handler is None else handler], tally)
                told_apart = [handler for handler in tallies if handler is not None]
                families.add_predictions(segment.name, told_apart, _policies.read_profiles(segment.native))
        return families


_registered: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()


def register(registry: CollectorRegistry = REGISTRY, *, handlers: int = 100) -> None:
    """Begin to count, and have a registry of prometheus_client show it. Registering twice is fine.

    Args:
        registry: Where; the default is the one that prometheus_client uses itself.
        handlers: How many handlers of an arena to tell apart; what is above is counted as `OTHER`.
    """
    meter(True, handlers)
    if registry not in _registered:
        registry.register(cast("Any", _Collector()))
        _registered.add(registry)


def setup(app: Any, *, path: str = "/metrics", registry: CollectorRegistry = REGISTRY, handlers: int = 100) -> None:
    """Add a page with all metrics of a registry to an aiohttp application, and `register` these in it.

    Args:
        app: The application, not started yet.
        path: The page's path.
        registry: As for `register`.
        handlers: As for `register`.
    """
    from recoverable import aiohttp  # here: register() is for programs without it, too

    register(registry, handlers=handlers)

    def render(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    aiohttp.add_page(app, path, render)


def _forget() -> None:
    """A forked child begins at 0: what was counted is its parent's."""
    for segment in _registry.all_open():
        segment.native.drop_tallies()


os.register_at_fork(after_in_child=_forget)
