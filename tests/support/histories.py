"""Random histories: a script drawn from a seed, the sites that play it, and the judge who follows.

A script is drawn before anything runs and does not depend on what comes of it, so a seed always gives the same one. It
has up to eight transactions in flight on each *site*: an arena in this process (`Site`), or in a child that can be
killed (`Remote`). The play is step by step: a site runs one command at a time, and only one site runs.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import select
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recoverable import Arena, ConflictError
from recoverable._native import _switches
from support.operations import Dice, Operation, Undone, fill, look, run
from support.serial import Event, NotSerialisableError, Replay
from support.workers import Request, pause

SLOTS = 8
READS = ("l.get", "d.get", "d.has", "d.len", "d.items", "n.all", "s.all", "c.value", "q.all", "a.get", "a.all", "r.get")
DIE = ("die",)  # an operation that kills the process it runs in
DEADLINE = 20.0
ROUNDS = 200  # that all in flight have ended after


class DiedError(Exception):
    """The site's process is dead."""


# -- where transactions run ------------------------------------------------------------------------------------------


class Site:
    """An arena in this process and the requests that are in flight on it.

    Args:
        arena: The arena.
        emit: Takes the events, as they happen.
    """

    def __init__(self, arena: Arena, emit: Callable[[Event], None]) -> None:
        self.arena = arena
        self.emit = emit
        self.flying: dict[str, Request] = {}
        self.held: Any = None

    def do(self, command: tuple[Any, ...]) -> None:
        """Run one command: the name of a method here without its underscore, and its arguments."""
        verb, *arguments = command
        getattr(self, f"_{verb}")(*arguments)

    async def _body(self, t: str) -> bool:
        self.emit(("begin", t))
        while True:
            then, operations = await pause()
            self._run(t, operations)
            if then == "raise":
                raise Undone
            if then != "go":
                self.emit(("returns", t))
                return bool(then == "commit")

    def _run(self, t: str, operations: list[Operation]) -> None:
        for operation in operations:
            if operation == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            self.emit(("op", t, operation, run(operation, self.arena.root, self.arena)))

    def _begin(self, t: str, max_conflicts: int) -> None:
        request = Request(self.arena, self._body, t, max_conflicts=max_conflicts, commit_if=bool)
        request.step()
        self.flying[t] = request

    def _step(self, t: str, then: str, operations: list[Operation]) -> None:
        """Run a step of a request, which is or is not its last."""
        request = self.flying[t]
        try:
            if then == "cancel":
                request.throw(asyncio.CancelledError())
            elif then == "close":
                request.close()
            else:
                request.step((then, operations))
        except (ConflictError, Undone, asyncio.CancelledError):
            pass
        if not request.done:
            self.emit(("pause", t))  # or it has lost, and is run again
            return
        del self.flying[t]
        self.emit(("committed" if request.result else "aborted", t))

    def _block(self, t: str, then: str, operations: list[Operation]) -> None:
        """Run a `with arena.transaction():` block."""
        self.emit(("begin", t))
        try:
            with self.arena.transaction():
                self._run(t, operations)
                if then == "raise":
                    raise Undone
                self.emit(("returns", t))
        except Undone:
            self.emit(("aborted", t))
        else:
            self.emit(("committed", t))

    def _outside(self, operations: list[Operation]) -> None:
        for operation in operations:
            self.emit(("outside", operation, run(operation, self.arena.root, self.arena)))

    def _hold(self, on: bool) -> None:
        """Keep a raw buffer alive, or let it go: while there is one, every step enters at its start."""
        self.held = self.arena.root["a"].view if on else None

    def _state(self) -> None:
        self.emit(("state", look(self.arena.root)))

    def _arm(self, nth: int) -> None:
        """Die at the nth crash point from now."""
        _switches.crash_at(nth)

    def _verify(self) -> None:
        """With nothing in flight: all adds up, and nothing is left."""
        report, stats = self.arena.verify(), self.arena.stats()
        assert not self.flying
        assert report.leaked_blocks == 0, report
        assert stats.in_flight == 0, stats

    def close(self) -> None:
        """Finalise what is in flight and let go of buffers; the arena stays open."""
        for request in self.flying.values():
            request.close()
        self.flying.clear()
        self.held = None


class Remote:
    """A site in a forked child, which may die.

    Args:
        name: Of the arena, which exists.
        emit: Takes the events, in this process.
    """

    def __init__(self, name: str, emit: Callable[[Event], None]) -> None:
        self.name = name
        self.emit = emit
        self.pid = 0
        self.start()

    def start(self) -> None:
        """Fork a child that opens the arena."""
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                gc.freeze()  # a collection would copy every page that is shared with the parent
                self.socket.close()
                _serve(self.name, theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self._answer()

    def do(self, command: tuple[Any, ...]) -> None:
        """Have it run one command; raises `DiedError` if that was its last."""
        try:
            self.socket.send(pickle.dumps(command))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        self._answer()

    def _answer(self) -> None:
        while True:
            if not select.select([self.socket], [], [], DEADLINE)[0]:
                self.kill()
                raise AssertionError(f"a site hung for {DEADLINE} s")
            try:
                packet = self.socket.recv(1 << 20)
            except ConnectionResetError:
                packet = b""
            if not packet:
                raise self._died()
            event = pickle.loads(packet)
            if event == ("ready",):
                return
            if event[0] == "failed":
                raise AssertionError(f"a site failed:\n{event[1]}")
            self.emit(event)

    def _died(self) -> DiedError:
        status = self._reap()
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise AssertionError(f"a site ended by itself: status {status}")
        return DiedError()

    def _reap(self) -> int:
        self.socket.close()
        pid, self.pid = self.pid, 0
        return os.waitpid(pid, 0)[1]

    def kill(self) -> None:
        """Kill it where it stands."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def close(self) -> None:
        """Let it close its arena and end."""
        if self.pid:
            self.do(("end",))
            assert self._reap() == 0


def _serve(name: str, link: socket.socket) -> None:
    """The child: run commands until it is told to end, or its parent is gone."""

    def emit(event: Event) -> None:
        link.send(pickle.dumps(event))

    try:
        with Arena.open(name, create=False) as arena:
            site = Site(arena, emit)
            emit(("ready",))
            while select.select([link], [], [], 3 * DEADLINE)[0] and (packet := link.recv(1 << 20)):
                command = pickle.loads(packet)
                if command == ("end",):
                    site.close()
                    break
                site.do(command)
                emit(("ready",))
        emit(("ready",))
    except BaseException:
        emit(("failed", traceback.format_exc()))
        raise


# -- what they run ---------------------------------------------------------------------------------------------------


@dataclass
class Action:
    """One line of a script.

    Attributes:
        site: Which site.
        slot: Which of its transactions; where none is in flight there, one is begun.
        verb: "go" (one step), "commit", "refuse" (its result is not to be committed), "raise", "cancel", "close",
            "block" and "block raise" (a `with` block, in no slot), "outside", "hold", "release", "kill" and "arm".
        operations: What the step runs.
        number: How often a request that is begun here may be run again; the crash point, for "arm".
    """

    site: int
    slot: int
    verb: str
    operations: list[Operation] = field(default_factory=list)
    number: int = 0


VERBS = {"go": 60, "commit": 22, "raise": 3, "cancel": 2, "close": 2, "refuse": 2, "block": 6, "block raise": 1, "outside": 4,
         "hold": 1, "release": 1}  # fmt: skip


def script(seed: int, length: int = 60, sites: int = 1, deaths: int = 0) -> list[Action]:
    """Draw a script.

    Args:
        seed: Where all its randomness comes from.
        length: How many actions.
        sites: On how many sites.
        deaths: How often a site dies, in one way or another.
    """
    rng = random.Random(seed)
    dice = Dice(rng)
    slots = rng.randrange(2, SLOTS + 1)
    actions = []
    for verb in rng.choices(list(VERBS), list(VERBS.values()), k=length):
        action = Action(rng.randrange(sites), rng.randrange(slots), verb, number=rng.choice((0, 0, 1, 5)))
        if verb == "outside":
            action.operations = [one for one in dice.operations(30) if one[0] in READS]
        elif verb in ("go", "block", "block raise"):
            action.operations = dice.operations(4)
        elif verb in ("commit", "refuse", "raise"):
            action.operations = dice.operations(2)
        actions.append(action)
    for _ in range(deaths):
        at = rng.randrange(length)
        how = rng.randrange(3)
        if how == 0:
            actions.insert(at, Action(rng.randrange(sites), 0, "kill"))
        elif how == 1 and _switches.test_build():
            actions.insert(at, Action(rng.randrange(sites), 0, "arm", number=rng.randrange(1, 120)))
        else:  # between two operations
            one = actions[at]
            one.operations.insert(rng.randrange(len(one.operations) + 1), DIE)
            if one.verb not in ("go", "commit", "block"):
                one.verb = "go"
    return actions


class Play:
    """Play a script and judge what comes of it.

    Args:
        committed: What the arena holds; as `Replay` takes it.

    Attributes:
        events: The history so far.
        judge: Its judge.
        deaths: How often a site has died.
    """

    def __init__(self, committed: Any = None) -> None:
        self.events: list[Event] = []
        self.judge = Replay(committed)
        self.sites: list[Any] = []
        self.names: dict[tuple[int, int], str] = {}
        self.dead: set[int] = set()
        self.deaths = self.begun = 0

    def take(self, event: Event) -> None:
        """Keep and judge an event."""
        self.events.append(event)
        try:
            self.judge.take(event)
        except NotSerialisableError as error:
            raise NotSerialisableError(f"event {len(self.events) - 1}, {event}: {error}") from None

    def run(self, actions: list[Action]) -> None:
        """Play it to its end; then commit what is in flight."""
        for action in actions:
            self._act(action)
        for _ in range(ROUNDS):  # in turn: one may be run again, or wait for another
            for site, slot in list(self.names):
                if (site, slot) in self.names:
                    self._act(Action(site, slot, "commit"))
        assert not self.names, "requests that do not end"
        for number in range(len(self.sites)):
            self._command(number, ("hold", False))
            self._command(number, ("arm", 0)) if _switches.test_build() else None
        for number in range(len(self.sites)):
            self._command(number, ("state",))
            self._command(number, ("verify",))

    def _act(self, action: Action) -> None:
        number, verb = action.site, action.verb
        if verb == "kill":
            self.sites[number].kill()
            self._bury(number)
        elif verb == "arm":
            self._command(number, ("arm", action.number))
        elif verb in ("hold", "release"):
            self._command(number, ("hold", verb == "hold"))
        elif verb == "outside":
            self._command(number, ("outside", action.operations))
        elif verb.startswith("block"):
            self.begun += 1
            then = "raise" if verb == "block raise" else "commit"
            self._command(number, ("block", f"{number}/block.{self.begun}", then, action.operations))
        else:
            place = number, action.slot
            if place not in self.names:
                self.begun += 1
                name = f"{number}/{action.slot}.{self.begun}"
                self.names[place] = name
                self._command(number, ("begin", name, action.number))
            if place in self.names:
                self._command(number, ("step", self.names[place], verb, action.operations))

    def _command(self, number: int, command: tuple[Any, ...]) -> None:
        try:
            self.sites[number].do(command)
        except DiedError:
            self._bury(number)
        self.names = {place: name for place, name in self.names.items() if name in self.judge.flying}

    def _bury(self, number: int) -> None:
        """After a death: nothing of its transactions is there, in the eyes of the survivors and of the next one."""
        self.deaths += 1
        self.dead.add(number)
        self.take(("died", [name for name in self.judge.flying if name.startswith(f"{number}/")]))
        self.names = {place: name for place, name in self.names.items() if place[0] != number}
        for other in range(len(self.sites)):
            if other not in self.dead:
                self._command(other, ("state",))  # it recovers, and may die of that, too
        self.sites[number].start()
        self.dead.remove(number)
        self._command(number, ("state",))


def story(events: list[Event]) -> str:
    """Write a history down, a line an event, for a message; states are left out."""
    return "\n".join(" ".join(map(str, event)) for event in events if event[0] != "state")


__all__ = ["Action", "DiedError", "Play", "Remote", "Site", "fill", "script", "story"]
