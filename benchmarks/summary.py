"""What is told of results elsewhere than with them: the page of missed aims, and the README's table of costs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.harness import OUT, Aim, Spread, digits, markdown_table
from benchmarks.rivals import DECORATED

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE = re.compile(r"(?<=\| measured on two shared cores \| \|\n\|---\|---\|\n)(\|.*\n)+")
BANKS = {
    "with `@recoverable`": DECORATED,
    "as a block": "recoverable, a block after the await",
    "on SQLite": "SQLite, WAL, OFF",
    "on Redis": "Redis, Lua",
    "on PostgreSQL": "PostgreSQL",
}
STORES = ("dict, unprotected", "LMDB", "SQLite")


def write(names: Iterable[str], out: Path) -> None:
    """Write both from the results in a folder; the README's table only from those of this tree."""
    missed, costs = summaries(names, out)
    (out / "missed.md").write_text(missed)
    if out == OUT and README.exists():
        README.write_text(TABLE.sub(lambda _: costs, README.read_text()))


def summaries(names: Iterable[str], out: Path) -> tuple[str, str]:
    """Return the page of missed aims, and the rows of the README's table."""
    aims: dict[str, list[Aim]] = {}
    found: dict[str, float] = {}  # medians, by benchmark and what an aim or a figure is called
    for name in names:
        if (path := out / f"{name}.json").exists():
            result = json.loads(path.read_text())
            aims[name] = [Aim(a["what"], a["limit"], Spread(**a["figure"]), a["unit"]) for a in result["aims"]]
            found |= {f"{name}: {aim.what}": aim.figure.median for aim in aims[name]}
            spreads = {what: figure for what, figure in result["figures"].items() if isinstance(figure, dict)}
            found |= {f"{name}: {what}": spread["median"] for what, spread in spreads.items() if "median" in spread}
    missed = [[name, *aim.cells()] for name in aims for aim in aims[name] if not aim.met]
    page = "\n".join(markdown_table(["benchmark", "aim", "at most", "measured"], missed))
    return page, "".join(f"| {what} | {figures} |\n" for what, figures in costs(found))


def costs(found: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Return the rows of the README's table; one is left out if its benchmark was never run."""
    banks = [(found.get(f"compare: {bank}: throughput"), how) for how, bank in BANKS.items()]
    shares = ", ".join(f"{share:.2f} {how}" for share, how in banks if share is not None)
    if (paired := found.get("compare: throughput of LMDB over decorated, paired")) is not None:
        shares += f"; in paired runs LMDB's throughput is {paired:.2f} times that with `@recoverable`"
    yield "a bank over HTTP, as a fraction of plain Python's throughput", shares
    with contextlib.suppress(KeyError):
        plain, own = (found[f"instructions: hello: {server}"] for server in ("plain", "setup() and @recoverable"))
        lost = found[
            "hello: throughput that setup() and @recoverable costs, by server CPU time, in bursts of 320 requests"
        ]
        more = f"{own - plain:,.0f} instructions more than {plain:,.0f}; {lost:.0f} % of its throughput, by CPU time"
        yield "a JSON hello that does nothing else", more
    with contextlib.suppress(KeyError):
        one = found["checkpoint: transaction: one number written through Dict, commit"]
        yield "a transaction that writes one number", f"{digits(one / 1e3)} µs of CPU time"
    with contextlib.suppress(KeyError):
        four = found["transaction: committed: recoverable"]
        ratios = [found[f"transaction: four read-modify-writes, committed, against {store}"] for store in STORES]
        over = "{:.1f} times a plain `dict` without protection, {:.2f} times LMDB, {:.2f} times SQLite".format(*ratios)
        yield "a transaction of four read-modify-writes", f"{digits(four / 1e3)} µs: {over}"
