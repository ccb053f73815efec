"""What do other ways to get the pre-images of a step's writes cost, beside those of this library?

The state is 16 MiB, 4,096 pages. In each checkpoint 8 of them, scattered and always the same, are written, one item each;
afterwards the state must be able to go back. All in one run, in turn, by the wall clock, since threads and processes are
among them. `userfaultfd` and bare `mprotect` are C (`benchmarks/kernel.c`), without Python, transactions, or a comparison of
what has changed: what a library built on them could at best be.
"""

from __future__ import annotations

import copy
import errno
import os
import platform
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kernel, workloads
from benchmarks.evaluation import PAGE, scattered, writer
from benchmarks.harness import Report, Settings, Spread, digits, progress
from recoverable import Arena, Array

WRITTEN = 8
NAMES = {
    "mprotect": "mprotect and SIGSEGV, bare C",
    "uffd-sigbus": "userfaultfd write protection, SIGBUS, bare C",
    "uffd-thread": "userfaultfd write protection, a thread, bare C",
}


def run(settings: Settings) -> Report:
    report = Report("preimages", "What do other ways to get the pre-image cost?")
    where = scattered(WRITTEN)
    took: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    with ExitStack() as stack:
        cases = {name: (make(stack, where), n) for name, make, n in CASES}
        ask = stack.enter_context(kernel.compiled())
        if ask is None:
            report.note("No C compiler: the rows of userfaultfd and bare mprotect are missing.")
        rounds = settings.pick(15, 3)
        for case, _ in cases.values():
            case(1)
        for i in range(rounds):
            progress(f"preimages: round {i + 1} of {rounds}")
            for name, (case, n) in cases.items():
                begun = time.perf_counter_ns()
                case(n)
                took.setdefault(name, []).append((time.perf_counter_ns() - begun) / n / 1e3)
            for line in ask("faults", workloads.PAGES, WRITTEN, 400) if ask else []:
                if int(line[1]) > 0:
                    took.setdefault(NAMES[line[0]], []).append(int(line[1]) / 1e3)
                else:
                    number = -int(line[1])
                    refused[NAMES[line[0]]] = (
                        f"{line[2]}: {errno.errorcode.get(number, number)} ({os.strerror(number)})"
                    )
        progress("")
    adaptive = took["adaptive, the whole transaction"]
    rows = []
    for name in sorted(took, key=lambda name: -Spread.of(took[name]).median):
        spread = Spread.of(took[name])
        report.figure(name, spread)
        over = Spread.of(a / b for a, b in zip(took[name], adaptive, strict=True))
        rows.append([name, str(spread), digits(over.median)])
    for name, why in refused.items():
        rows.append([name, f"refused: {why}; Linux {platform.release()}", ""])
    report.table(
        f"µs for a checkpoint of 16 MiB of which {WRITTEN} scattered pages are written, by the wall clock",
        ["", "median (quartiles)", "over adaptive"],
        rows,
    )
    allowed = Path("/proc/sys/vm/unprivileged_userfaultfd")
    if allowed.exists():
        report.note(f"vm.unprivileged_userfaultfd is {allowed.read_text().strip()}, user id {os.getuid()}.")
    return report


# -- the ways -------------------------------------------------------------------------------------------------------


def full_copy(stack: ExitStack, where: np.ndarray) -> Any:
    state = np.ones(workloads.PAGES * PAGE // 8, "i8")
    shadow = state.copy()

    def go(n: int) -> None:
        for i in range(n):
            np.copyto(shadow, state)
            state[where] = i

    return go


def fork(stack: ExitStack, where: np.ndarray) -> Any:
    """A child that keeps the old state and ends when the checkpoint does; the writes copy pages in the kernel."""
    state = np.ones(workloads.PAGES * PAGE // 8, "i8")

    def go(n: int) -> None:
        for i in range(n):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            state[where] = i
            os.close(reader)
            os.close(writer)
            os.waitpid(child, 0)

    return go


def deepcopy(stack: ExitStack, where: np.ndarray) -> Any:
    """Of a dict of 16,384 lists of 8 numbers: about 16 MiB as Python keeps them."""
    state = {i: [i * 1000 + k for k in range(8)] for i in range(workloads.PAGES * 4)}

    def go(n: int) -> None:
        for i in range(n):
            shadow = copy.deepcopy(state)
            for k in where.tolist():
                state[k * 8 // PAGE % len(state)][0] = i
            del shadow

    return go


def raw(policy: str) -> Any:
    def make(stack: ExitStack, where: np.ndarray) -> Any:
        go = writer(stack.enter_context(Arena.temporary(size="32 MiB", policy=policy)), where)
        go(200)
        return go

    return make


def announced(stack: ExitStack, where: np.ndarray) -> Any:
    arena = stack.enter_context(Arena.temporary(size="32 MiB"))
    with arena.transaction():
        arena.root["a"] = Array((workloads.PAGES * PAGE // 8,), "i8")
    array, transaction, places = arena.root["a"], arena.transaction, where.tolist()

    def go(n: int) -> None:
        for i in range(n):
            with transaction():
                for k in places:
                    array[k] = i

    return go


CASES = (
    ("full copy (numpy)", full_copy, 4),
    ("os.fork, a child that keeps the old state", fork, 3),
    ("copy.deepcopy of as much in a dict of lists", deepcopy, 1),
    ("incremental, the whole transaction", raw("incremental"), 200),
    ("adaptive, the whole transaction", raw("adaptive"), 2000),
    ("announced items (no view), the whole transaction", announced, 2000),
)
