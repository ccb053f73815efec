"""What does recovery cost the five example servers, end to end?

Each example runs as aiohttp on uvloop, a process for each way of tracking, and is loaded in turn, A B C A B C …, by `wrk`
over loopback (the chat by a WebSocket client written with aiohttp). "No recovery" are the very same handlers with what they
import from `recoverable` replaced by plain Python objects (`benchmarks/plain.py`): dict, list, deque, objects with attributes,
ndarray; no transaction, no middleware.

    incremental   tracking="trap", policy="incremental": every first write to a page in a step faults, as in classic
                  incremental checkpointing
    adaptive      tracking="trap", policy="adaptive": the working set is predicted
    hybrid        the default: containers announce their writes; only raw writes through `Array.view` fault

The matrix of the feature server is written raw, so hybrid tracks it as the others do. It runs in three more ways: hybrid without
speculation; with `Array.edit()`, a row at a time, instead of raw writes; and with announced writes, an item at a time.

Requests a second depend on who else has the two cores, the load generator first of all; so the CPU time that the server
itself took is told as well, and is the better figure on a busy machine.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from benchmarks import served
from benchmarks.harness import Report, Settings, Spread, digits, progress

PLAIN, INCREMENTAL, ADAPTIVE, HYBRID = "no recovery", "incremental", "adaptive", "hybrid"
UNGUESSED, EDITED, ITEMS = "hybrid, incremental", "hybrid, edit()", "hybrid, items"
MODES: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    INCREMENTAL: {"tracking": "trap", "policy": "incremental"},
    ADAPTIVE: {"tracking": "trap", "policy": "adaptive"},
    HYBRID: {},
}
FEATURES: dict[str, dict[str, Any] | None] = {
    UNGUESSED: {"policy": "incremental"},
    EDITED: {"announce": "rows"},
    ITEMS: {"announce": "items"},
}
KEPT = {
    "bank": 90,
    "bank, FastAPI": 92,
    "bank, Starlette": 92,
    "shop": 90,
    "leaderboard": 90,
    "chat": 95,
    "features": 60,
}  # percent of the throughput that should be left
COUNTED = ("traps", "pages_copied", "pages_compared", "conflicts", "promotions", "demotions")


def run(settings: Settings) -> Report:
    report = Report("servers", "What does recovery cost the five example servers, end to end?")
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    found = {name: measure(report, settings, name) for name in served.NAMES + served.ON_ASGI}
    table(report, settings, found)
    details(report, found)
    memory(report, found)
    return report


class Found:
    """What was measured of one server in one mode."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.requests = 0
        self.counts: dict[str, int] = {}
        self.stats: dict[str, Any] = {}


def measure(report: Report, settings: Settings, name: str) -> dict[str, Found]:
    """Load one example in all its modes in turn."""
    modes = MODES | (FEATURES if name == "features" else {})
    servers: dict[str, served.Served] = {}
    found: dict[str, Found] = {}
    rounds, seconds = settings.pick(6, 2), 1
    try:
        for mode, options in modes.items():
            progress(f"{name}: {mode}")
            try:
                servers[mode] = served.Served(
                    name,
                    "plain" if options is None else json.dumps(options),
                    path="/announced" if mode in (EDITED, ITEMS) else None,
                )
            except served.Refused as refused:
                if name == served.NAMES[0]:
                    report.note(f"Not run: {mode}. {refused}")
                continue
            found[mode] = Found()
            servers[mode].load(seconds)
        before = {mode: server.stats() for mode, server in servers.items() if mode != PLAIN}
        order = list(servers)
        for i in range(rounds):
            progress(f"{name}: round {i + 1} of {rounds}")
            for mode in order[i % len(order) :] + order[: i % len(order)]:
                rate, cpu, requests = servers[mode].load(seconds)
                found[mode].rates.append(rate)
                found[mode].cpu.append(cpu)
                found[mode].requests += requests
        for mode, old in before.items():
            now = servers[mode].stats()
            found[mode].counts = {what: now[what] - old[what] for what in COUNTED}
            found[mode].stats = now
    finally:
        progress("")
        for server in servers.values():
            server.stop()
    return found


def kept(found: dict[str, Found], mode: str) -> tuple[Spread, Spread] | None:
    """Return percent of the throughput without recovery: by requests a second, and by CPU time; round by round."""
    if mode not in found:
        return None
    own, plain = found[mode], found[PLAIN]
    return (
        Spread.of(100 * a / b for a, b in zip(own.rates, plain.rates, strict=True)),
        Spread.of(100 * b / a for a, b in zip(own.cpu, plain.cpu, strict=True)),
    )


def table(report: Report, settings: Settings, found: dict[str, dict[str, Found]]) -> None:
    """Print the one that the paper would."""
    rows = []
    modes = (INCREMENTAL, ADAPTIVE, HYBRID)
    for name, by_mode in found.items():
        row = [name]
        for which in (0, 1):
            for mode in modes:
                figures = kept(by_mode, mode)
                row.append("–" if figures is None else f"{digits(figures[which].median)} %")
        rows.append(row)
        for mode in by_mode:
            report.figure(f"{name}: {mode}: requests/s", Spread.of(by_mode[mode].rates))
            report.figure(f"{name}: {mode}: CPU µs a request", Spread.of(by_mode[mode].cpu))
    report.table(
        "Throughput relative to no recovery: by requests a second, then by CPU time of the server",
        ["server", *modes, *(f"{mode}, CPU" for mode in modes)],
        rows,
    )
    for name, percent in KEPT.items():
        if (figures := kept(found[name], HYBRID)) is None:
            continue
        for spread, what in zip(figures, ("requests a second", "CPU time"), strict=True):
            inverse = Spread(100 / spread.median, 100 / spread.high, 100 / spread.low, spread.rounds)
            report.aim(f"{name}: no recovery over hybrid, by {what}", 100 / percent, inverse, "x")

    def draw(axes: Any) -> None:
        for k, mode in enumerate(modes):
            for n, by_mode in enumerate(found.values()):
                if (figures := kept(by_mode, mode)) is not None:
                    at = n + (k - 1) * 0.27
                    low, high = figures[1].median - figures[1].low, figures[1].high - figures[1].median
                    axes.bar(
                        at, figures[1].median, 0.25, color=f"C{k}", yerr=[[low], [high]], label=mode if n == 0 else None
                    )
        axes.axhline(100, color="black", lw=0.8)
        axes.set_xticks(range(len(found)), list(found))
        axes.set(ylim=0, ylabel="% of the throughput without recovery, by CPU time", title="the five example servers")
        axes.legend()

    report.plot(settings, "servers.svg", "throughput of the example servers relative to no recovery", draw)


def details(report: Report, found: dict[str, dict[str, Found]]) -> None:
    rows = []
    for name, by_mode in found.items():
        for mode, each in by_mode.items():
            n = max(each.requests, 1)
            rows.append([name, mode, str(Spread.of(each.rates)), str(Spread.of(each.cpu))])
            counts = [digits(each.counts[what] / n) for what in COUNTED[:4]] if each.counts else [""] * 4
            rows[-1] += counts
    report.table(
        f"The same in full: {served.CONNECTIONS} connections (chat: {served.SOCKETS}); medians with quartiles; counts a request",
        ["server", "tracking", "requests/s", "CPU µs a request", "traps", "pages copied", "compared", "conflicts"],
        rows,
    )
    features = found.get("features", {})
    if all(mode in features for mode in (HYBRID, EDITED, UNGUESSED, ITEMS)):
        raw, edited, items, unguessed = (features[mode] for mode in (HYBRID, EDITED, ITEMS, UNGUESSED))
        plain = Spread.of(features[PLAIN].cpu).median
        over = [Spread.of(each.cpu).median - plain for each in (unguessed, raw, edited, items)]
        report.note(
            f"The raw-view server traps {digits(raw.counts['traps'] / max(raw.requests, 1))} times a request with speculation "
            f"and {digits(unguessed.counts['traps'] / max(unguessed.requests, 1))} times without; recovery adds "
            f"{digits(over[1])} and {digits(over[0])} µs of CPU time to a request. With `edit()` it adds {digits(over[2])} µs, "
            f"with announced items {digits(over[3])}."
        )


def memory(report: Report, found: dict[str, dict[str, Found]]) -> None:
    """What recovery keeps beside the state."""
    rows = []
    worst: tuple[float, str] = (0.0, "")
    for name, by_mode in found.items():
        for mode in (HYBRID, ADAPTIVE):
            if mode not in by_mode:
                continue
            stats = by_mode[mode].stats
            state, log, shadows = stats["used"], stats["undo_claimed"], stats["shadow_claimed"]
            tables = stats["overhead"] - log - shadows
            share = stats["overhead"] / state
            worst = max(worst, (share, f"{name}, {mode}"))
            rows.append(
                [
                    *(name, mode, digits(state / 2**20), f"{stats['hot_pages']:,}"),
                    *(f"{x / 2**10:,.0f}" for x in (shadows, log, tables)),
                    f"{share:.1%}",
                ]
            )
    report.table(
        "Memory after the load: the state in MiB; beside it, in KiB, shadows, undo log and tables of an arena of 64 MiB",
        ["server", "tracking", "state", "hot pages", "shadows", "log", "tables", "over the state"],
        rows,
    )
    report.aim(f"shadows, log and tables over the state, the worst server ({worst[1]})", 0.10, Spread.of([worst[0]]))
