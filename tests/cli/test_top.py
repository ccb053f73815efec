"""`recoverable top`: what it tells of an arena that others work on, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import aiohttp
import pytest
from rich.console import Console

from examples.bank.load import Bank, Customers, Ledger
from recoverable import Arena, Array, attempt
from recoverable._native import _counts
from recoverable._native.runtime import meter
from recoverable.cli import _outside, _top
from support.commands import child, command, command_json
from support.segments import path_of
from support.workers import Request


def commit(arena: Arena, times: int) -> None:
    """Commit that often."""
    for n in range(times):
        with arena.transaction():
            arena.root["n"] = n


def test_rates_are_of_what_happened_between_two_looks(arena: Arena) -> None:
    """Commits between two samples, over the time between them; the first sample has no rate."""
    looks = _top.samples(arena.name, 0.05, 2)
    first = next(looks)
    commit(arena, 20)
    second = next(looks)
    assert first.together.commits_per_second == 0
    assert second.peek.commits - first.peek.commits == 20
    assert second.together.commits_per_second == pytest.approx(20 / (second.at - first.at))
    assert next(looks, None) is None


def run_as(arena: Arena, handler: str) -> None:
    """Commit once, by a handler of that name."""

    async def work() -> None:
        arena.root["n"] = 1

    work.__qualname__ = handler
    Request(arena, work).step()


def fail(arena: Arena, times: int) -> None:
    """Roll back that often."""
    for n in range(times):
        with contextlib.suppress(LookupError), arena.transaction():
            arena.root["n"] = n
            raise LookupError


def only(arena: Arena) -> dict[str, _top.Handler]:
    """Return what the board has, by handler."""
    (sample,) = _top.samples(arena.name, 1, 1)
    return {row.handler: row for row in sample.handlers}


def test_each_handler_has_its_own_numbers(arena: Arena) -> None:
    """Commits and rollbacks are counted where they belong, rates are of the time between two looks, and the sum is told."""
    commit(arena, 7)
    looks = _top.samples(arena.name, 0.05, 2)
    first = next(looks)
    commit(arena, 30)
    fail(arena, 10)
    second = next(looks)
    rows = {row.handler: row for row in second.handlers}
    assert [row.commits for row in first.handlers] == [7]
    assert (rows["commit"].commits, rows["commit"].rollbacks, rows["commit"].requests) == (37, 0, 37)
    assert (rows["fail"].commits, rows["fail"].rollbacks, rows["fail"].requests) == (0, 10, 10)
    seconds = second.at - first.at
    assert rows["commit"].commits_per_second == pytest.approx(30 / seconds)
    assert rows["fail"].rollbacks_per_second == pytest.approx(10 / seconds)
    assert second.together.requests_per_second == pytest.approx(40 / seconds)
    assert second.together.requests == 47
    assert [row.handler for row in second.handlers] == ["commit", "fail"]


def test_checkpoints_are_timed_by_sample(arena: Arena) -> None:
    """One run in 32 has its checkpoints timed, spread evenly, whatever alternates with it."""
    meter(False)  # an application with metrics that an earlier test has made has them all timed
    for _ in range(800):
        commit(arena, 1)
        fail(arena, 1)
    with _outside.opened(arena.name) as fd:
        rows, _ = _counts.peek_board(fd, arena.name)
    assert rows["commit"]["timed"] == pytest.approx(25, abs=8)
    assert rows["fail"]["timed"] == pytest.approx(25, abs=8)
    took = only(arena)["commit"].checkpoint_us
    assert took is not None
    assert 0 < took < 10_000


def test_traps_and_hits_of_raw_writes(arena: Arena) -> None:
    """The share of pages that were written without a fault: none at first, nearly all once they are hot."""

    def raw() -> None:
        with arena.transaction():
            view = arena.root["cells"].view
            view[:] += 1

    with arena.transaction():
        arena.root["cells"] = Array((1024,), "i8")  # two pages
    raw()
    first = only(arena)[raw.__qualname__[-39:]]
    assert first.hit_rate == 0.0
    for _ in range(99):
        raw()
    later = only(arena)[raw.__qualname__[-39:]]
    assert later.hit_rate is not None
    assert later.hit_rate > 0.9


async def test_conflicts_are_counted_and_named(arena: Arena) -> None:
    """A lost conflict is its handler's, and the place is told with its path from outside."""
    with arena.transaction():
        arena.root["stock"] = {"tea": 5}

    waits = asyncio.Event()

    async def slow() -> None:
        seen = arena.root["stock"]["tea"]
        if attempt() == 1:
            await waits.wait()
        arena.root["sold"] = seen

    async def change() -> None:
        arena.root["stock"]["tea"] = 6

    slow_one = asyncio.ensure_future(arena.run(slow))
    await asyncio.sleep(0)
    await arena.run(change)
    waits.set()
    await slow_one
    (sample,) = _top.samples(arena.name, 1, 1)
    rows = {row.handler.rpartition(".")[2]: row for row in sample.handlers}
    assert (rows["slow"].conflicts, rows["slow"].commits, rows["slow"].rollbacks) == (1, 1, 0)
    assert (rows["change"].conflicts, rows["change"].commits) == (0, 1)
    assert sample.spots == (_top.Spot("root['stock']", "'tea'", 1, 0, 0),)


@pytest.mark.slow
def test_what_a_killed_worker_counted_stays(arena: Arena) -> None:
    """Rows are sums over all processes, dead ones too."""
    program = (
        "import sys\nfrom recoverable import Arena\narena = Arena.open(sys.argv[1], create=False)\n"
        "def work():\n    with arena.transaction():\n        arena.root['n'] = 1\n"
        "for _ in range(50): work()\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    for _ in range(2):
        worker = child(program, arena.name)
        worker.kill()
        worker.communicate(timeout=30)
    assert only(arena)["work"].commits == 100


def test_more_handlers_than_rows(arena: Arena) -> None:
    """Beyond 63 handlers the rest is counted together, and nothing is lost."""
    for n in range(80):
        run_as(arena, f"handler {n}")
    rows = only(arena)
    assert len(rows) <= 64
    assert sum(row.commits for row in rows.values()) == 80
    assert rows[_top.REST].commits == 80 - (len(rows) - 1)


def test_a_name_from_the_segment_is_printed_with_care(arena: Arena) -> None:
    """Control characters of a name never reach the terminal."""
    run_as(arena, "evil\x1b[2J\n")
    assert "evil?[2J?" in only(arena)


def test_each_attached_process_is_shown(arena: Arena) -> None:
    """A sample has this process, with its memory and command, and the screen shows it."""
    (sample,) = _top.samples(arena.name, 1, 1)
    (worker,) = sample.workers
    assert (worker.pid, worker.memory > 1 << 20) == (os.getpid(), True)
    assert "pytest" in worker.command
    shown = Console(width=120)
    with shown.capture() as text:
        shown.print(_top.screen(sample))
    assert str(os.getpid()) in text.get()
    assert "16 MiB" in text.get()


@pytest.mark.slow
def test_looking_changes_nothing(name: str) -> None:
    """A closed arena is byte for byte what it was; in a pipe there is a line a look, without colour."""
    with Arena.open(name, "4 MiB") as arena:
        commit(arena, 3)
    before = path_of(name).read_bytes()
    done = command("top", name, "--count", "2", "--interval", "0.05", env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "processes none" in done.stdout
    assert "\x1b" not in done.stdout
    assert path_of(name).read_bytes() == before


@pytest.mark.slow
def test_json_is_an_object_a_line(arena: Arena) -> None:
    """Programs get each look as one line."""
    done = command("top", arena.name, "--count", "2", "--interval", "0.05", "--json")
    looks = [json.loads(text) for text in done.stdout.splitlines()]
    assert [look["name"] for look in looks] == [arena.name] * 2
    assert looks[1]["processes"][0]["pid"] == os.getpid()


@pytest.mark.slow
def test_ctrl_c_ends_it_well(arena: Arena) -> None:
    """SIGINT is 0 and silent."""
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "top", arena.name, "--interval", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate(timeout=30) == ("", "")
        finally:
            process.kill()  # or leaving the block would wait for it
    assert process.returncode == 0


@pytest.mark.slow
def test_a_terminal_gets_its_screen_back(arena: Arena) -> None:
    """On a terminal it fills the alternate screen and leaves it, cursor shown, when it is ended."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "top", arena.name, "--interval", "30"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        seen = b""
        while b"COMMAND" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 65536):
                seen += data
        except OSError:  # the other end is closed
            pass
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    os.close(ours)
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"q", signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_as_before(arena: Arena, end: bytes | signal.Signals) -> None:
    """However it is ended: q, Ctrl-C or `kill`, the keyboard's settings are what they were, and it is 0."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "top", arena.name, "--interval", "30"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        seen = b""
        while b"COMMAND" not in seen:
            seen += os.read(ours, 65536)
        assert termios.tcgetattr(theirs) != before
        if isinstance(end, bytes):
            os.write(ours, end)
        else:
            process.send_signal(end)
        try:
            while b"\x1b[?1049l" not in seen:
                seen += os.read(ours, 65536)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)


@pytest.mark.slow
def test_once_is_one_table(arena: Arena) -> None:
    """--once looks twice, an interval apart, and writes the second look, without colour in a pipe."""
    commit(arena, 3)
    done = command("top", arena.name, "--once", "--interval", "0.05", env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert "HANDLER" in done.stdout
    assert "Ctrl-C" not in done.stdout
    assert "\x1b" not in done.stdout
    looks = [line.split() for line in done.stdout.splitlines() if line.endswith(" commit")]
    assert looks[-1][-2:] == ["3", "commit"]
    assert command_json("top", arena.name, "--once", "--interval", "0.05")["handlers"][0]["commits"] == 3


@pytest.mark.slow
def test_a_long_command_leaves_room_for_the_rest(arena: Arena) -> None:
    """Ids and memory of processes are shown whole, however long their commands are."""
    program = (
        "import sys\nfrom recoverable import Arena\narena = Arena.open(sys.argv[1], create=False)\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    worker = child(program, arena.name, "x" * 500)
    try:
        (sample,) = _top.samples(arena.name, 1, 1)
        shown = Console(width=80)
        with shown.capture() as text:
            shown.print(_top.screen(sample, width=80))
        assert any(line.split()[:1] == [str(worker.pid)] for line in text.get().splitlines())
    finally:
        worker.kill()
        worker.communicate(timeout=30)


@pytest.mark.slow
async def test_a_bank_under_load(name: str) -> None:
    """Beside a real server it shows requests, rollbacks and what checkpoints cost, by handler, and the bank stays sound."""
    bank = Bank(name, accounts=10, size="8 MiB")
    await bank.start()
    bank.open_doors()
    try:
        async with aiohttp.ClientSession() as session:
            customers = Customers(bank, Ledger(), accounts=10, seed=1, crash_rate=0.3)
            work = [asyncio.ensure_future(customers.work(session, n)) for n in range(4)]
            look = await asyncio.to_thread(command_json, "top", name, "--once", "--interval", "2")
            customers.stop.set()
            await asyncio.gather(*work)
            assert (await bank.get(session, "/verify"))["ok"]
    finally:
        await bank.stop()
        bank.close()
    transfer = next(row for row in look["handlers"] if "transfer" in row["handler"])
    assert transfer["requests_per_second"] > 1
    assert transfer["requests"] == transfer["commits"] + transfer["rollbacks"]
    assert transfer["rollbacks"] > 0
    assert transfer["checkpoint_us"] > 0
    assert look["requests"] >= transfer["requests"]
    assert look["processes"][0]["pid"] > 0


@pytest.mark.slow
def test_an_arena_that_is_not_there() -> None:
    """3, as for every command."""
    assert command("top", "no-such-arena").returncode == 3


def test_how_full_the_lock_is(arena: Arena) -> None:
    """Between two looks: the share of the time that it was held, how often and for how long; nothing at the first look."""
    looks = _top.samples(arena.name, 0.05, 2)
    first = next(looks)
    commit(arena, 300)
    second = next(looks)
    assert first.lock.held.count == 0
    assert second.lock.held.count == pytest.approx(300, abs=64)
    assert 0 < second.lock.busy < 1
    shown = Console(width=120)
    with shown.capture() as text:
        shown.print(_top.screen(second))
    assert "% busy, held " in text.get()
    assert "% busy" in _top.line(second)
    told = second.as_json()["lock"]
    assert told["busy"] == second.lock.busy
    assert told["held"]["times"] == second.lock.held.count
    assert told["waited"] == {"times": 0, "mean_us": 0.0, "p99_us": 0.0}


def test_which_handler_fills_the_lock(arena: Arena) -> None:
    """Of a sample of runs: how long one holds the lock, and what share of the time that comes to."""

    def slow() -> None:
        with arena.transaction():
            arena.root["n"] = 0
            time.sleep(0.001)

    looks = _top.samples(arena.name, 0.0, 2)
    next(looks)
    for _ in range(96):
        slow()
        commit(arena, 1)
    rows = {row.handler: row for row in next(looks).handlers}
    name = next(handler for handler in rows if handler.endswith("slow"))
    assert rows[name].held_us is not None
    assert rows[name].held_us > 1000
    assert rows[name].lock_percent > 30 > rows["commit"].lock_percent  # a sample, which may come to more than 100
