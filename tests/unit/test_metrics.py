"""What `recoverable.metrics` counts, by handler and by arena, and that it counts nothing unless asked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaFullError, Array, ConflictError, TransactionError, recoverable
from recoverable._native.runtime import meter
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from recoverable import metrics


class AppError(Exception):
    """Stands for any error of an application."""


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """Give a registry of its own that shows what is counted; nothing is counted after the test."""
    own = CollectorRegistry()
    metrics.register(own)
    yield own
    meter(False)


@pytest.fixture
def value(registry: CollectorRegistry, arena: Arena) -> Callable[..., Any]:
    """Give a function from a metric and its labels to its value; the handler is given by the end of its name."""

    def find(name: str, handler: str | None = None, **labels: str) -> Any:
        found = [
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == f"recoverable_{name}"
            and sample.labels["arena"] == arena.name
            and (handler is None or sample.labels["handler"].rpartition(".")[2] == handler)
            and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1
        return found[0] if found else None

    return find


def causes(value: Callable[..., Any], handler: str) -> dict[str, float]:
    """Return how often a handler was rolled back, by cause, where that is not 0."""
    every = ("closed", "error", "response", "answer", "cancelled", "timeout", "conflict", "full", "await", "lock")
    counts = {cause: value("rollbacks_total", handler, cause=cause) for cause in every}
    return {cause: times for cause, times in counts.items() if times}


# -- by handler -------------------------------------------------------------------------------------------------------


async def test_commits_are_counted_by_handler(arena: Arena, value: Callable[..., Any]) -> None:
    """A run that touched the arena and committed counts, in a request and in a block; one that did not touch it does not."""

    @recoverable
    async def write() -> None:
        arena.root["a"] = 1

    @recoverable
    async def nothing() -> None: ...

    def block() -> None:
        with arena.transaction():
            arena.root["b"] = 1

    for _ in range(3):
        await write()
        await nothing()
    block()
    assert value("commits_total", "write") == 3
    assert value("commits_total", "block") == 1
    assert value("commits_total", "nothing") is None
    assert causes(value, "write") == {}


async def test_a_rollback_is_counted_with_its_cause_and_what_it_undid(arena: Arena, value: Callable[..., Any]) -> None:
    """A crash, an unwanted result and a cancellation are causes of their own; bytes put back are summed."""

    @recoverable
    async def crash() -> None:
        arena.root["a"] = 1
        raise AppError

    @recoverable(commit_if=lambda result: result)
    async def unwanted() -> bool:
        arena.root["a"] = 1
        return False

    @recoverable
    async def slow() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(60)

    @recoverable(timeout=0.01)
    async def late() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(60)

    for _ in range(2):
        with pytest.raises(AppError):
            await crash()
    await unwanted()
    task = asyncio.create_task(slow())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        await late()
    assert causes(value, "crash") == {"error": 2}
    assert causes(value, "unwanted") == {"response": 1}
    assert causes(value, "slow") == {"cancelled": 1}
    assert causes(value, "late") == {"timeout": 1}
    assert value("undone_bytes_total", "crash") > 0
    assert value("commits_total", "crash") == 0


def test_a_block_has_causes_too(arena: Arena, value: Callable[..., Any]) -> None:
    """An error, a full arena and an await in `with arena.transaction():` are told apart."""

    def crash() -> None:
        with arena.transaction():
            arena.root["a"] = 1
            raise AppError

    def fill() -> None:
        with arena.transaction():
            arena.root["a"] = b"x" * 20_000_000

    async def waits() -> None:
        with arena.transaction():
            arena.root["a"] = 1
            await asyncio.sleep(0)

    with pytest.raises(AppError):
        crash()
    with pytest.raises(ArenaFullError):
        fill()
    with pytest.raises(TransactionError):
        asyncio.run(waits())
    assert causes(value, "crash") == {"error": 1}
    assert causes(value, "fill") == {"full": 1}
    assert causes(value, "waits") == {"await": 1}


def test_a_closed_coroutine_is_a_cause(arena: Arena, value: Callable[..., Any]) -> None:
    """A handler that is closed while it waits was rolled back because of that."""

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(0)

    coroutine = handler()
    coroutine.send(None)
    coroutine.close()
    assert causes(value, "handler") == {"closed": 1}


async def test_conflicts_and_reruns_are_counted(arena: Arena, value: Callable[..., Any]) -> None:
    """A lost conflict is a rollback of that cause; a run after it, or after a crash that is retried, is a re-run."""

    @recoverable
    async def slow() -> None:
        seen = arena.root.get("n", 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        arena.root["n"] = seen + 1

    @recoverable(max_conflicts=0)
    async def once() -> None:
        seen = arena.root.get("n", 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        arena.root["n"] = seen + 1

    @recoverable
    async def quick() -> None:
        arena.root["n"] = 5

    @recoverable(retries=3)
    async def flaky() -> None:
        arena.root["f"] = 1
        raise AppError

    await asyncio.gather(slow(), quick())
    result, _ = await asyncio.gather(once(), quick(), return_exceptions=True)
    assert isinstance(result, ConflictError)
    with pytest.raises(AppError):
        await flaky()
    assert causes(value, "slow") == causes(value, "once") == {"conflict": 1}
    assert value("conflicts_total", "slow") == 1
    assert value("reruns_total", "slow", cause="conflict") == 1
    assert value("reruns_total", "once", cause="conflict") == 0
    assert value("commits_total", "slow") == 1
    assert causes(value, "flaky") == {"error": 4}
    assert value("reruns_total", "flaky", cause="retry") == 3


async def test_the_time_of_checkpoints_is_a_histogram(arena: Arena, value: Callable[..., Any]) -> None:
    """Each run counts once, in seconds, however many steps it has; the classes are cumulative and end with all."""

    @recoverable
    async def handler() -> None:
        for i in range(5):
            arena.root[i] = i
            await asyncio.sleep(0)

    for _ in range(20):
        await handler()
    assert value("checkpoint_seconds_count", "handler") == 20
    assert 20e-7 < value("checkpoint_seconds_sum", "handler") < 2
    cumulative = [value("checkpoint_seconds_bucket", "handler", le=le) for le in metrics._LE]
    assert cumulative == sorted(cumulative)
    assert cumulative[-1] == 20
    assert cumulative[0] < 20  # eleven enters and leaves are not done in half a microsecond


def test_traps_are_counted_by_handler(arena: Arena, value: Callable[..., Any]) -> None:
    """A first raw write to a page counts for the handler that made it, and for no other."""
    pytest.importorskip("numpy")

    def make() -> None:
        with arena.transaction():
            arena.root["m"] = Array((4096,), "f8")

    def write() -> None:
        with arena.transaction():
            arena.root["m"].view[::512] = 1.0

    make()
    write()
    assert value("traps_total", "write") >= 8
    assert value("traps_total", "make") == 0


def test_what_a_handler_is_expected_to_write_is_told_by_handler(name: str, registry: CollectorRegistry) -> None:
    """A handler that writes the same pages each time has them predicted, however long its name; another one has none."""
    pytest.importorskip("numpy")

    def make() -> None:
        with arena.transaction():
            arena.root["m"] = Array((16 * 512,), "f8")

    def writer_whose_name_is_longer_than_what_a_profile_keeps() -> None:
        with arena.transaction():
            arena.root["m"].view[4 * 512 : 12 * 512] += 1.0

    with Arena.temporary("16 MiB", name=name, policy="incremental", policy_options={"profiles": True}) as arena:
        make()
        for _ in range(20):
            writer_whose_name_is_longer_than_what_a_profile_keeps()
        assert sum(each.predicted for each in arena.working_sets()) > 0
        found = {
            sample.labels.get("handler", "").rpartition(".")[2]: sample.value
            for family in registry.collect()
            if family.name in ("recoverable_predicted_pages", "recoverable_arena_profiled_handlers")
            for sample in family.samples
        }
        assert found == {
            "(making the root)": 0,
            "make": 0,
            "writer_whose_name_is_longer_than_what_a_profile_keeps": sum(e.predicted for e in arena.working_sets()),
            "": arena.stats().profiles,
        }


def test_handlers_beyond_the_limit_are_one(arena: Arena) -> None:
    """A program that makes up names has no more labels than it was given, and loses no count."""
    own = CollectorRegistry()
    metrics.register(own, handlers=3)
    try:
        for i in range(10):

            async def handler() -> None:
                arena.root["a"] = 1

            handler.__qualname__ = f"made_up_{i}"
            asyncio.run(arena.run(handler))
        counts = {
            sample.labels["handler"]: sample.value
            for family in own.collect()
            if family.name == "recoverable_commits"
            for sample in family.samples
        }
    finally:
        meter(False)
    assert counts == {"made_up_0": 1, "made_up_1": 1, "made_up_2": 1, metrics.OTHER: 7}


def test_nothing_is_counted_unless_asked(arena: Arena) -> None:
    """Without `register` no handler has a count, and no transaction reads the clock."""

    async def handler() -> None:
        arena.root["a"] = 1

    asyncio.run(arena.run(handler))
    assert arena.native.read_tallies() == {}


# -- by arena ---------------------------------------------------------------------------------------------------------


def test_the_arena_is_read_when_it_is_scraped(arena: Arena, value: Callable[..., Any]) -> None:
    """Sizes and totals are those of `arena.stats()` at that moment; a closed arena has none."""
    with arena.transaction():
        arena.root["a"] = b"x" * 100_000
    stats = arena.stats()
    assert value("arena_used_bytes") == stats.used > 100_000
    assert value("arena_size_bytes") == arena.size
    assert value("arena_commits_total") == stats.commit_seq
    assert value("arena_processes") == 1
    assert value("arena_hot_pages") == stats.hot_pages
    arena.close()
    assert value("arena_used_bytes") is None


def test_names_follow_the_conventions(arena: Arena, registry: CollectorRegistry) -> None:
    """Every metric has our prefix, help and a unit that Prometheus knows; counters end in _total; all of it parses."""
    with arena.transaction():
        arena.root["a"] = 1
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith("recoverable_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_count", "_total", "_micros", "_ms"))
        if "bytes" in family.documentation.lower().split()[:1]:
            assert family.name.endswith("_bytes")
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert sample.labels.keys() <= {"arena", "handler", "cause", "le"}
    described = {family.name for family in metrics._Collector().describe()}
    assert described == {family.name for family in families}


def test_registering_twice_shows_it_once(arena: Arena, registry: CollectorRegistry) -> None:
    """Another `register` on the same registry is no error and no second set."""
    metrics.register(registry)
    names = [family.name for family in registry.collect()]
    assert len(names) == len(set(names))


def test_a_forked_child_counts_from_0(arena: Arena, value: Callable[..., Any]) -> None:
    """What the parent has counted is not counted once more by each of its workers."""

    def write() -> None:
        with arena.transaction():
            arena.root["a"] = 1

    def child() -> None:
        assert value("commits_total", "write") is None
        write()
        assert value("commits_total", "write") == 1

    write()
    write()
    assert (ending := in_child(child)).returned, ending
    assert value("commits_total", "write") == 2


def test_without_the_extra_it_says_what_to_install() -> None:
    """Where prometheus_client is missing, importing recoverable works and importing this says how to get it."""
    program = """
import sys
sys.modules["prometheus_client"] = None
import recoverable
try:
    recoverable.metrics
except ImportError as error:
    print(error)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert "pip install 'recoverable[prometheus]'" in out.stdout
