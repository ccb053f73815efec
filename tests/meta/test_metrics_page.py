"""docs/metrics.md against recoverable/metrics.py: every metric with its type and every cause, in both directions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recoverable._native import _counts
from recoverable._native.runtime import meter

if TYPE_CHECKING:
    from recoverable import Arena

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry

from recoverable import metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

#: Of `arena.stats()`, what is no metric of the arena, and why.
LEFT_OUT = {
    "by handler": {"transactions", "commits", "rollbacks", "conflicts", "traps"},
    "in overhead_bytes": {"undo_size", "undo_claimed", "shadow_claimed"},
    "constant while it is open": {"cost_trap_ns", "cost_protect_ns", "cost_compare_ns", "cost_copy_ns"},
    "as logged_bytes, in another unit": {"undo_records"},
}


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table whose first column has that heading."""
    found: list[list[str]] = []
    for table in re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        found += [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return found


def test_the_page_has_every_metric_with_its_type() -> None:
    """Full names, as a scrape has them, and types are those of the code."""
    code = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in metrics._Collector().describe()
    }
    page = {}
    for names, kind, _ in rows("metric"):
        for name in re.findall(r"`(\w+)`", names):
            page[f"recoverable_arena{name}" if name.startswith("_") else name] = kind
    assert page == code


def test_the_page_has_every_cause(arena: Arena) -> None:
    """The causes of rollbacks are those that are counted."""
    registry = CollectorRegistry()
    metrics.register(registry)
    try:
        with arena.transaction():
            arena.root["a"] = 1
        code = {
            sample.labels["cause"]
            for family in registry.collect()
            if family.name == "recoverable_rollbacks"
            for sample in family.samples
        }
    finally:
        meter(False)
    page = {cause for causes, _ in rows("cause") for cause in re.findall(r"`(\w+)`", causes)}
    assert page == code


def test_what_an_arena_counts_is_a_metric_or_left_out_for_a_reason(arena: Arena) -> None:
    """A new figure of `arena.stats()` is shown to Prometheus, unless this test says why not."""
    stats: dict[str, Any] = _counts.stats(arena.native.address)
    shown = {stat.name for stat in _counts.STATS if stat.metric}
    left = set().union(*LEFT_OUT.values())
    assert shown | left == stats.keys()
    assert not shown & left
