"""The words of fault injection: where a fault can strike, which faults there are, and a plan that puts them together.

A *point* is a place that a run reaches, counted from 1: its third write is `write:3`. A run that does the same each time
reaches the same points, so a *plan*, `write:3=raise`, names one experiment and can be repeated. Two faults in one run are
joined by a plus: `line:4=raise+line:9=raise`.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from recoverable.errors import FaultSyntaxError

__all__ = [
    "NATIVE",
    "PLACES",
    "Cancel",
    "Conflict",
    "Delay",
    "Disconnect",
    "Fault",
    "Full",
    "InjectedFault",
    "Kill",
    "OutOfMemory",
    "Plan",
    "Point",
    "Raise",
    "Segfault",
    "Timeout",
    "parse_fault",
]

#: Where a fault can strike.
PLACES: Final[Mapping[str, str]] = {
    "line": "before a line of the handler's file runs",
    "await": "the handler is suspended",
    "resume": "a transaction that has touched the arena goes on after an await",
    "write": "a container is about to be changed",
    "alloc": "the core asks for room: a block of memory, a record of the undo log",
    "commit": "the handler has returned; the commit is next",
    "phase": "a step, a commit or a recovery goes from one phase to the next",
    "recover": "the same, in the process that recovers after a kill",
    "store": "any store whose order matters (only in test builds)",
}
NATIVE: Final = frozenset({"alloc", "phase", "store", "recover"})  # counted by the core
_DEADLY: Final = frozenset(PLACES)


class InjectedFault(RuntimeError):
    """Is what an injected `Raise()` raises where no other exception was asked for."""


class Fault:
    """Something that goes wrong. The classes below are all there are."""

    name: ClassVar[str]
    places: ClassVar[frozenset[str]]
    deadly: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Raise(Fault):
    """Raise an exception: the code has a bug there, or what it called has failed.

    Args:
        error: An exception class, or an exception.
    """

    error: type[BaseException] | BaseException = InjectedFault
    name: ClassVar[str] = "raise"
    places: ClassVar[frozenset[str]] = frozenset({"line", "await", "write"})

    def make(self, what: str) -> BaseException:
        """Return a fresh exception; one that was given as a class says where it was injected."""
        if isinstance(self.error, type):
            return self.error(f"injected at {what}")
        try:
            return type(self.error)(*self.error.args)
        except Exception:  # its class wants other arguments than it keeps
            return self.error

    def __str__(self) -> str:
        kind = self.error if isinstance(self.error, type) else type(self.error)
        if kind is InjectedFault:
            return self.name
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return f"{self.name}({module}{kind.__qualname__})"


@dataclass(frozen=True)
class Full(Fault):
    """Run out of room: `ArenaFullError`."""

    name: ClassVar[str] = "full"
    places: ClassVar[frozenset[str]] = frozenset({"write", "alloc"})


@dataclass(frozen=True)
class Cancel(Fault):
    """Cancel the task at an await, as a shutdown does."""

    name: ClassVar[str] = "cancel"
    places: ClassVar[frozenset[str]] = frozenset({"await"})


@dataclass(frozen=True)
class Timeout(Fault):
    """Let what is awaited fail with `TimeoutError`, after others have run."""

    name: ClassVar[str] = "timeout"
    places: ClassVar[frozenset[str]] = frozenset({"await"})


@dataclass(frozen=True)
class Disconnect(Fault):
    """Cut the connection to the client while its handler awaits."""

    name: ClassVar[str] = "disconnect"
    places: ClassVar[frozenset[str]] = frozenset({"await"})


@dataclass(frozen=True)
class Delay(Fault):
    """Go on later: others run first.

    Args:
        seconds: How much later. 0 lets the event loop turn a few times.
    """

    seconds: float = 0.0
    name: ClassVar[str] = "delay"
    places: ClassVar[frozenset[str]] = frozenset({"await"})

    def __str__(self) -> str:
        return f"{self.name}({self.seconds * 1000:g}ms)"


@dataclass(frozen=True)
class Conflict(Fault):
    """Lose a conflict: the transaction is doomed, rolled back and run again."""

    name: ClassVar[str] = "conflict"
    places: ClassVar[frozenset[str]] = frozenset({"resume", "commit"})


@dataclass(frozen=True)
class Kill(Fault):
    """SIGKILL."""

    name: ClassVar[str] = "kill"
    places: ClassVar[frozenset[str]] = _DEADLY
    deadly: ClassVar[bool] = True


@dataclass(frozen=True)
class Segfault(Fault):
    """Store to where nothing is mapped, as a bug in an extension module does."""

    name: ClassVar[str] = "segv"
    places: ClassVar[frozenset[str]] = _DEADLY
    deadly: ClassVar[bool] = True


@dataclass(frozen=True)
class OutOfMemory(Fault):
    """Die as by the kernel's OOM killer: a SIGKILL, by default at the moment when memory is asked for.

    What it does to the process is the same as `Kill`; no memory is really used up.
    """

    name: ClassVar[str] = "oom"
    places: ClassVar[frozenset[str]] = _DEADLY
    deadly: ClassVar[bool] = True


_SIMPLE: Final[Mapping[str, Fault]] = {
    fault.name: fault
    for fault in (
        Raise(),
        Full(),
        Cancel(),
        Timeout(),
        Disconnect(),
        Delay(),
        Conflict(),
        Kill(),
        Segfault(),
        OutOfMemory(),
    )
}
_FAULT: Final = re.compile(r"(?P<name>[a-z]+)(?:\((?P<argument>[^()]*)\))?")
_SECONDS: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>us|ms|s)")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LONGEST: Final = 3600.0


def parse_fault(text: str, at: int = 0, whole: str | None = None) -> Fault:
    """Return the fault that a text names: `raise`, `raise(KeyError)`, `delay(50ms)`, `kill` and so on.

    Args:
        text: The name, with its argument.
        at: Where it stands in `whole`, for the message.
        whole: The text that it is a part of.

    Raises:
        FaultSyntaxError: It names none.
    """
    whole = text if whole is None else whole
    match = _FAULT.fullmatch(text)
    if match is None or match["name"] not in _SIMPLE:
        raise FaultSyntaxError(whole, at, f"there is no fault {text!r}; there are {', '.join(sorted(_SIMPLE))}")
    name, argument = match["name"], match["argument"]
    inside = at + len(name) + 1
    if argument is None:
        return _SIMPLE[name]
    if name == "raise":
        return Raise(_exception(argument, inside, whole))
    if name == "delay":
        time = _SECONDS.fullmatch(argument)
        if time is None or float(time["number"]) * _UNITS[time["unit"]] > _LONGEST:
            raise FaultSyntaxError(whole, inside, "a delay is a number and us, ms or s, up to an hour: delay(50ms)")
        return Delay(float(time["number"]) * _UNITS[time["unit"]])
    raise FaultSyntaxError(whole, inside - 1, f"{name} takes no argument")


def _exception(name: str, at: int, whole: str) -> type[BaseException]:
    module, _, last = name.rpartition(".")
    found: object = None
    with contextlib.suppress(ImportError, ValueError):
        found = getattr(importlib.import_module(module) if module else builtins, last, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    raise FaultSyntaxError(
        whole,
        at,
        f"{name!r} is no exception; give a built-in one, or one with its module: raise(shop.errors.OutOfStock)",
    )


@dataclass(frozen=True)
class Point:
    """A place that a run has reached.

    Attributes:
        place: One of the places: "line", "await", "write", …
        nth: Its number among the run's points of that place, from 1.
        where: The line of code, or the name of the phase.
    """

    place: str
    nth: int
    where: str = ""

    def __str__(self) -> str:
        return f"{self.place}:{self.nth}"


_STEP: Final = re.compile(r"(?P<place>[a-z]+):(?P<nth>[1-9][0-9]{0,8})=(?P<fault>.+)")


@dataclass(frozen=True)
class Plan:
    """What goes wrong in one run: faults at points.

    Attributes:
        steps: The points and their faults, in the order in which they strike. None at all is a clean run.
    """

    steps: tuple[tuple[Point, Fault], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Return the plan that `str(plan)` has written.

        Raises:
            FaultSyntaxError: It is none; the message points at the character.
        """
        steps, at = [], 0
        for part in text.split("+") if text else ():
            match = _STEP.fullmatch(part)
            if match is None:
                raise FaultSyntaxError(text, at, "a plan is place:number=fault, as in write:3=raise, joined by +")
            place = match["place"]
            if place not in PLACES:
                raise FaultSyntaxError(text, at, f"there is no place {place!r}; there are {', '.join(PLACES)}")
            fault = parse_fault(match["fault"], at + match.start("fault"), text)
            if place not in fault.places:
                raise FaultSyntaxError(
                    text, at, f"{fault.name} can't strike at {place}, but at {', '.join(sorted(fault.places))}"
                )
            steps.append((Point(place, int(match["nth"])), fault))
            at += len(part) + 1
        return cls(tuple(steps))

    @property
    def deadly(self) -> bool:
        """Whether it ends the process."""
        return any(fault.deadly for _, fault in self.steps)

    @property
    def recovery(self) -> Plan:
        """What of it strikes in the process that recovers."""
        return Plan(tuple(step for step in self.steps if step[0].place == "recover"))

    def then(self, point: Point, fault: Fault) -> Plan:
        """Return a plan with one more fault."""
        return Plan((*self.steps, (point, fault)))

    def __iter__(self) -> Iterator[tuple[Point, Fault]]:
        return iter(self.steps)

    def __str__(self) -> str:
        return "+".join(f"{point}={fault}" for point, fault in self.steps)
