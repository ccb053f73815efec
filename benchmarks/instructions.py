"""How many instructions does recovery add to a request? Counted by valgrind, so the figures repeat, and can be a gate.

`python -m benchmarks.instructions` (or `tox -e instructions`) counts the servers of `counted.py` and compares what each takes
above the plain one of its family with a ceiling, a little above what was reached. A row that exceeds its ceiling fails, and
the functions that grew are named, by what was stored with the ceiling.

With `--update` it stores what is reached now, and the ceilings with it: in the commit that changes the path.

A count depends on the interpreter, on the libraries and on the compilers. The ceilings are those of CPython 3.11 and of the
exact versions that the tox environment pins; elsewhere the counts are shown, and nothing is judged. Whether the plain
server takes what it took says whether this is elsewhere.
"""

from __future__ import annotations

import argparse
import json
import lzma
import platform
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import callgrind
from benchmarks.counted import COUNTED, FAMILIES, PLAIN
from benchmarks.harness import Report, Settings, Spread, progress
from recoverable._native import _core, _switches

REACHED = Path(__file__).with_name("data") / "instructions.json"
PROFILES = REACHED.with_suffix(".xz")  # JSON: the functions of each row
VERSIONS = ("aiohttp", "uvloop", "fastapi", "starlette", "uvicorn")  # what else counts depend on
JUDGED = "3.11"  # the Python of the ceilings
ROOM, LEAST_ROOM = 0.02, 50  # a ceiling above what was reached: this part of it, or so many instructions
SAME_PLAIN = 0.02  # how far the plain server's count may be from the stored one, as a part of it
KEPT = 20  # instructions of a function that are worth storing
NAMED = 12  # functions that a failure names

#: What these take depends on where the blocks of all that came before lie, by up to 3 % of a row: it is in no count. Who allocates
#: more runs more elsewhere, too.
ALLOCATORS = re.compile(
    r"libpython: (_?PyObject_(Free|Malloc|Calloc|Realloc)|new_arena|pymalloc_\w+|address_in_range)"
    r"|libc: (_int_\w+|malloc\w*|free|calloc|realloc|cfree|unlink_chunk\w*|sysmalloc|systrim|tcache_\w+|checked_request2size)"
)

#: Neither is the interpreter's look-up of an attribute in a type: the slots of its cache go by addresses, so which names push each
#: other out is different in each build and folder. That was 400 of a hello's 3,900.
LOOKUPS = frozenset({"_PyType_Lookup", "find_name_in_mro"})

Row = tuple[str, str]  # family, row
Costs = dict[str, float]  # a request's, by function


@dataclass
class Counts:
    """What a request to a server takes."""

    functions: Costs  # instructions, by library and function; without ALLOCATORS and LOOKUPS
    lines: Costs  # of Python, by file and function

    @property
    def total(self) -> float:
        return sum(self.functions.values())

    def above(self, plain: Counts) -> Counts:
        return Counts(_less(self.functions, plain.functions), _less(self.lines, plain.lines))


def _less(costs: Costs, other: Costs) -> Costs:
    """Return the differences, leaving out zeros."""
    names = sorted(costs.keys() | other.keys())
    return {name: d for name in names if (d := costs.get(name, 0) - other.get(name, 0))}


# -- counting -------------------------------------------------------------------------------------------------------


class Counting:
    """Counts rows, and keeps what was found; of two counts of a row, the smaller one."""

    def __init__(self) -> None:
        self.found: dict[Row, Counts] = {}

    def count(self, rows: Iterable[Row]) -> None:
        with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
            arguments = [str(callgrind.compiled_marks(folder)), folder, json.dumps(list(rows))]
            profiles = callgrind.count("benchmarks.counted", arguments, folder, timeout=1200, without=LOOKUPS)
            for process, profile in profiles.items():
                said = json.loads(Path(folder, f"{process}.json").read_text())
                named = ((f"{library}: {name}", n / COUNTED) for (library, name), n in profile.items())
                functions = {name: n for name, n in named if not ALLOCATORS.fullmatch(name)}
                self._keep(tuple(said["row"]), Counts(functions, said["lines"]))

    def _keep(self, row: Row, counts: Counts) -> None:
        if row not in self.found or counts.total < self.found[row].total:
            self.found[row] = counts

    def above(self, row: Row) -> Counts:
        return self.found[row].above(self.found[row[0], PLAIN])


ROWS = [(family, row) for family, makes in FAMILIES.items() for row in makes]


# -- judging --------------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    """What was reached when the ceilings were set, and on what."""

    build: dict[str, str]
    plain: dict[str, float]  # instructions of a family's plain server
    reached: dict[Row, float]  # above that
    profiles: dict[Row, Counts]  # the same by function; only what is worth storing

    @classmethod
    def load(cls) -> Stored:
        data, profiles = json.loads(REACHED.read_text()), json.loads(lzma.decompress(PROFILES.read_bytes()))
        reached = {(family, row): n for family, rows in data["reached"].items() for row, n in rows.items()}
        by_row = {(family, row): Counts(*costs) for family, rows in profiles.items() for row, costs in rows.items()}
        return cls(data["build"], data["plain"], reached, by_row)

    def ceiling(self, row: Row) -> float:
        reached = self.reached[row]
        return reached + max(ROOM * reached, LEAST_ROOM)


def save(counting: Counting) -> None:
    """Store what was counted."""
    reached: dict[str, dict[str, int]] = {}
    profiles: dict[str, dict[str, Any]] = {}
    for row in ROWS:
        if row[1] != PLAIN:
            above = counting.above(row)
            reached.setdefault(row[0], {})[row[1]] = round(above.total)
            costs = [_worth(above.functions, KEPT), _worth(above.lines, 1)]
            profiles.setdefault(row[0], {})[row[1]] = costs
    plain = {family: round(counting.found[family, PLAIN].total) for family in FAMILIES}
    REACHED.write_text(json.dumps({"build": build(), "plain": plain, "reached": reached}, indent=1) + "\n")
    PROFILES.write_bytes(lzma.compress(json.dumps(profiles).encode()))


def _worth(costs: Costs, least: float) -> Costs:
    """Return the large ones, the largest first."""
    return {name: round(n, 1) for name, n in sorted(costs.items(), key=lambda x: -x[1]) if abs(n) >= least}


def build() -> dict[str, str]:
    """Say on what this runs, as far as counts depend on it."""
    core = next(Path(_core.__file__).parent.glob("librecoverable_core*.so")).read_bytes()
    compiler = re.search(rb"GCC: \([^)]*\) ([\d.]+)|clang version ([\d.]+)", core)
    return {
        "python": platform.python_version(),
        "compiler": (compiler[1] or compiler[2]).decode() if compiler else "unknown",
        **{name: metadata.version(name) for name in VERSIONS},
    }


def differences(stored: Stored, here: dict[str, str]) -> str:
    """Say which versions are not those of the ceilings."""
    then = stored.build
    return "; ".join(f"{name} {here.get(name)}, not {then[name]}" for name in then if here.get(name) != then[name])


def elsewhere(stored: Stored, counting: Counting, here: dict[str, str]) -> str:
    """Say why the ceilings do not hold here; "": they do.

    A patch release of Python, or another build of it, is told by what the plain server takes; what else differs, by its version:
    most of it is in what is counted above the plain server, and in that one hardly at all.
    """
    differing = f" ({others})" if (others := differences(stored, here)) else ""
    if not here["python"].startswith(f"{JUDGED}."):
        return f"the ceilings are those of Python {JUDGED}{differing}"
    if any(here[name] != version for name, version in stored.build.items() if name != "python"):
        return f"the ceilings are those of other versions{differing}"
    for family, then in stored.plain.items():
        now = counting.found[family, PLAIN].total
        if abs(now - then) > SAME_PLAIN * then:
            return (
                f"the plain server of “{family}” takes {now:,.0f} instructions where it took {then:,.0f} when the ceilings "
                f"were set: another interpreter, or other libraries{differing}"
            )
    return ""


def grown(now: Costs, then: Costs, least: float) -> list[str]:
    """Return lines on what grew most; what was not worth storing counts as nothing."""
    growth = sorted(((n - then.get(name, 0), name) for name, n in now.items()), reverse=True)
    return [
        f"{by:+9,.0f}  {name} ({then.get(name, 0):,.0f} → {now[name]:,.0f})"
        for by, name in growth[:NAMED]
        if by >= least
    ]


def judged(row: Row, above: Counts, stored: Stored) -> list[str]:
    """Return what is to be said of a row that exceeds its ceiling; nothing if it does not."""
    if above.total <= stored.ceiling(row):
        return []
    then = stored.reached[row]
    said = [
        f"FAILED  {row[0]}: {row[1]}: {above.total:,.0f} instructions above plain, {above.total - then:+,.0f}; "
        f"reached were {then:,.0f}, the ceiling is {stored.ceiling(row):,.0f}",
        "  instructions of their own that grew, library: function",
        *(f"  {line}" for line in grown(above.functions, stored.profiles[row].functions, KEPT)),
    ]
    if lines := grown(above.lines, stored.profiles[row].lines, 1):
        said += ["  lines of Python that run more, by function", *(f"  {line}" for line in lines)]
    return said


def verdict(counting: Counting, stored: Stored) -> dict[Row, list[str]]:
    """Return the rows that exceed their ceilings, and what is to be said of each."""
    return {row: said for row in stored.reached if (said := judged(row, counting.above(row), stored))}


def show(counting: Counting, stored: Stored) -> None:
    print(f"instructions of a request above the plain server's; {', '.join(f'{k} {v}' for k, v in build().items())}")
    if others := differences(stored, build()):
        print(f"not as when the ceilings were set: {others}")
    for row in ROWS:
        if row[1] == PLAIN:
            print(f"{counting.found[row].total:9,.0f}  {row[0]}: plain")
        else:
            ceiling = f"ceiling {stored.ceiling(row):9,.0f}" if row in stored.reached else "no ceiling yet"
            print(f"{counting.above(row).total:+9,.0f}  {ceiling}  {row[0]}: {row[1]}")


def gate() -> int:
    """Count, show and judge; return 1 if a ceiling is exceeded."""
    stored, counting = Stored.load(), Counting()
    counting.count(ROWS)
    why = "this build has crash points" if _switches.test_build() else elsewhere(stored, counting, build())
    exceeded = {} if why else verdict(counting, stored)
    if exceeded:
        counting.count(exceeded)
        exceeded = verdict(counting, stored)
    show(counting, stored)
    if why:
        print(f"\nNOT JUDGED: {why}.\nIf that is what to go on with: tox -e instructions -- --update")
    elif exceeded:
        print("", *(line for said in exceeded.values() for line in said), sep="\n")
        print("If that is what this change is worth: tox -e instructions -- --update, in the same commit.")
    else:
        print("within the ceilings")
    return bool(exceeded)


def update() -> int:
    """Count everything twice and store the smaller counts."""
    counting = Counting()
    for turn in ("first", "second"):
        progress(f"instructions: {turn} count")
        counting.count(ROWS)
    progress("")
    save(counting)
    show(counting, Stored.load())
    return 0


# -- for the docs ---------------------------------------------------------------------------------------------------


def run(settings: Settings) -> Report:
    report = Report("instructions", "How many instructions does recovery add to a request?")
    try:
        callgrind.needed()
        counting = Counting()
        counting.count(ROWS)
    except callgrind.Missing as missing:
        report.note(f"Not run: {missing}.")
        return report
    above = {row: counting.above(row).total for row in ROWS}
    hello = {row: n for (family, row), n in above.items() if family == "hello"}

    def aim(what: str, limit: float, figure: float) -> None:
        report.aim(what, limit, Spread.of([figure]), "instructions")

    aim("hello, `setup()` and `@recoverable`, above plain", 4_000, hello["setup() and @recoverable"])
    aim("hello that counts requests in the arena", 8_000, hello["setup() and @recoverable, counting requests"])
    aim("`timeout=` on top, no suspension", 500, hello["@recoverable(timeout=)"] - hello["@recoverable"])
    aim(
        "hello in Starlette, `setup()` and `@recoverable`", 12_000, above["Starlette hello", "setup() and @recoverable"]
    )
    aim("bank, all in the arena", 25_000, above["bank", "all in the arena"])
    rows = []
    for family, row in ROWS:
        counts, more = counting.found[family, row], above[family, row]
        report.figure(f"{family}: {row}", Spread.of([counts.total]))
        rows.append([family, row, f"{counts.total:,.0f}", "" if row == PLAIN else f"{more:,.0f}"])
        rows[-1].append("" if row == PLAIN else ", ".join(by_library(counting.above((family, row)))))
    report.table(
        "instructions a request; its system calls and the load are not in it",
        ["server", "with", "instructions", "above plain", "of these in"],
        rows,
    )
    return report


def by_library(above: Counts) -> list[str]:
    """Return the libraries that most of it is in, with their instructions."""
    libraries: Counter[str] = Counter()
    for name, n in above.functions.items():
        libraries[name.partition(": ")[0]] += n  # type: ignore[assignment]
    return [f"{library} {n:,.0f}" for library, n in libraries.most_common(4) if n >= 100]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--update", action="store_true", help="store what is reached now: the ceilings follow it")
    options = parser.parse_args()
    try:
        callgrind.needed()
        return update() if options.update else gate()
    except callgrind.Missing as missing:
        print(f"NOT RUN: {missing}. Instructions were not counted.", flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main())
