"""Chaos: faults at random in a running server, and one at a chosen point of a running program.

The rules are text, `checkout=raise@line:0.01; *=kill@commit:0.0001; *=delay(50ms)@await:0.05`, or objects. Who gives them is
whoever starts the program: its environment, its code. No request can.
"""

from __future__ import annotations

import fnmatch
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, TracebackType
from typing import Final

from recoverable import _registry, events
from recoverable._native import _faults
from recoverable.arena import Arena
from recoverable.errors import ArenaOptionError, FaultsNotAllowedError, FaultSyntaxError
from recoverable.faults import _watch
from recoverable.faults._points import Disconnect, Fault, parse_fault
from recoverable.faults._trace import short

__all__ = ["SEED", "VARIABLE", "Chaos", "Injection", "Rule", "arm", "inject", "parse_rules"]

VARIABLE: Final = "RECOVERABLE_FAULTS"
SEED: Final = "RECOVERABLE_FAULTS_SEED"
_CHAOTIC: Final = ("line", "await", "resume", "write", "alloc", "commit")
_PHASES: Final = 6  # of a commit of writes: a kill strikes before it, in one of them, or at its end where it has fewer
_NEVER: Final = 2**62  # allocations
_RULE: Final = re.compile(
    r"\s*(?P<handler>[^=;@\s]+)\s*=\s*(?P<fault>[^@;]*[^@;\s])\s*@\s*(?P<place>[a-z]*)\s*(?::\s*(?P<rate>[^;]*?))?\s*"
)


@dataclass(frozen=True)
class Rule:
    """One fault, where it strikes and how often.

    Attributes:
        handler: Which handlers: a name, with or without what it is qualified by; * and ? stand for others.
        fault: What goes wrong.
        at: The place: line, await, resume, write, alloc, commit.
        rate: How probable it is at each point of that place, above 0 to 1.
    """

    handler: str
    fault: Fault
    at: str
    rate: float = 1.0

    def __post_init__(self) -> None:
        problem = _impossible(self.fault, self.at)
        if problem:
            raise ArenaOptionError(f"{problem}. Nothing was armed.")
        if not _is_rate(self.rate):
            raise ArenaOptionError(f"rate={self.rate!r} must be above 0 and at most 1. Nothing was armed.")

    def matches(self, handler: str) -> bool:
        """Return whether a handler is meant."""
        last = handler.rpartition(".")[2]
        return fnmatch.fnmatchcase(handler, self.handler) or fnmatch.fnmatchcase(last, self.handler)

    def __str__(self) -> str:
        return f"{self.handler}={self.fault}@{self.at}" + ("" if self.rate == 1 else f":{self.rate:g}")


def _is_rate(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value <= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _impossible(fault: Fault, at: str) -> str:
    """Return why a fault can't strike there, or ""."""
    if at not in _CHAOTIC:
        return f"there is no place {at!r}; there are {', '.join(_CHAOTIC)}"
    places = [place for place in _CHAOTIC if place in fault.places and (place != "alloc" or not fault.deadly)]
    if at not in places:
        return f"{fault.name} can't strike at {at}, but at {', '.join(places)}"
    return ""


def parse_rules(text: str) -> list[Rule]:
    """Return the rules that a text has: handler=fault@place:rate, joined by semicolons.

    Raises:
        FaultSyntaxError: It is wrong somewhere; the message points there.
    """
    rules, at = [], 0
    for part in text.split(";"):
        start = at
        at += len(part) + 1
        if not part.strip():
            continue
        match = _RULE.fullmatch(part)
        if match is None:
            raise FaultSyntaxError(
                text, start + _where(part), "a rule is handler=fault@place:rate, with or without the rate"
            )
        fault = parse_fault(match["fault"].strip(), start + match.start("fault"), text)
        problem = _impossible(fault, match["place"])
        if problem:
            raise FaultSyntaxError(text, start + match.start("place"), problem)
        rate = 1.0
        if match["rate"] is not None:
            try:
                rate = float(match["rate"])
            except ValueError:
                rate = math.nan
            if not 0 < rate <= 1:
                raise FaultSyntaxError(
                    text, start + match.start("rate"), f"{match['rate']!r} is no rate: a number above 0 and at most 1"
                )
        rules.append(Rule(match["handler"], fault, match["place"], rate))
    if not rules:
        raise FaultSyntaxError(text, 0, "there is no rule in it")
    return rules


def _where(part: str) -> int:
    """Return where a rule goes wrong: at the sign that is missing, or at its end."""
    handler, equals, rest = part.partition("=")
    if not equals or not handler.strip():
        return len(part) - len(part.lstrip()) if equals else len(part)
    fault, sign, place = rest.partition("@")
    if not sign or not fault.strip():
        return len(handler) + 1 if sign else len(part)
    return len(handler) + len(fault) + 2 + len(place) - len(place.lstrip())


class Injection:
    """A fault that strikes once, at the nth point from now; a context manager that takes it back.

    Attributes:
        struck: Whether it has.
    """

    def __init__(self, chaos: Chaos, rule: Rule, nth: int) -> None:
        self._chaos = chaos
        self.rule = rule
        self.left = nth
        self.struck = False

    def remove(self) -> None:
        """Take it back, whether it has struck or not."""
        self._chaos.remove(self)

    def __enter__(self) -> Injection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class Chaos:
    """What watches a process in which faults strike by rules.

    Args:
        rules: The rules.
        seed: Of their randomness; a process that does the same in the same order has the same faults.
    """

    def __init__(self, rules: Iterable[Rule], seed: int) -> None:
        self.rules = list(rules)
        self.injections: list[Injection] = []
        self.seed = seed
        self.files: set[str] = set()
        self.count = 0
        self.owners = 0  # applications that have armed rules
        self._random = random.Random(seed)
        self._wanted: dict[str, frozenset[str]] = {}
        self._unable: set[tuple[Rule, str]] = set()  # which could not strike there
        self._steps: list[str] = []  # whose run now, one inside the other
        self._alloc: Rule | Injection | None = None  # what the core is to strike with
        self._alloc_at = 0

    @property
    def lines(self) -> bool:
        """Whether lines are to be traced."""
        return any(rule.at == "line" for rule in self._all())

    def _all(self) -> list[Rule]:
        return [*self.rules, *(injection.rule for injection in self.injections)]

    def join(self, rules: Iterable[Rule], seed: int) -> None:
        """Add an application's rules; the first one's seed counts."""
        if not self.rules:
            self.seed, self._random = seed, random.Random(seed)
        self.rules += [rule for rule in rules if rule not in self.rules]
        self.owners += 1
        self._wanted.clear()

    def leave(self) -> None:
        """Take the rules back when the last application has ended."""
        self.owners -= 1
        if self.owners == 0:
            self.rules.clear()
            self._wanted.clear()
            self._end_if_done()

    def add(self, injection: Injection) -> None:
        """Add a fault that strikes once."""
        self.injections.append(injection)
        self._wanted.clear()

    def remove(self, injection: Injection) -> None:
        """Take one back; the last one disarms what it has armed."""
        if injection in self.injections:
            self.injections.remove(injection)
            self._wanted.clear()
            self._end_if_done()

    def _end_if_done(self) -> None:
        if not self.rules and not self.injections and _watch.armed() is self:
            _watch.disarm()

    def wants(self, handler: str) -> frozenset[str]:
        """Return the places at which something may happen to a handler."""
        found = self._wanted.get(handler)
        if found is None:
            found = self._wanted[handler] = frozenset(rule.at for rule in self._all() if rule.matches(handler))
        return found

    def follow(self, code: CodeType) -> None:
        """Note a handler that runs; its file's lines are points."""
        self.files.add(code.co_filename)

    def reach(self, place: str, where: str, handler: str, *, connected: bool = True) -> Fault | None:
        """Hear of a point; draw."""
        if not handler or place not in self.wants(handler):
            return None
        for rule in self.rules:
            if (
                rule.at == place
                and rule.matches(handler)
                and self._can(rule, handler, connected=connected)
                and self._random.random() < rule.rate
            ):
                return self._strike(rule, where, handler)
        for injection in list(self.injections):
            if (
                injection.rule.at == place
                and injection.rule.matches(handler)
                and not injection.struck
                and self._can(injection.rule, handler, connected=connected)
            ):
                injection.left -= 1
                if injection.left == 0:
                    injection.struck = True
                    return self._strike(injection.rule, where, handler)
        return None

    def _can(self, rule: Rule, handler: str, *, connected: bool) -> bool:
        """Return whether it can strike; where it can't, say so, once for each handler."""
        if connected or not isinstance(rule.fault, Disconnect):
            return True
        if (rule, handler) not in self._unable:
            self._unable.add((rule, handler))
            events.fault_not_injected(
                str(rule), handler, "it awaits outside of a request: there is no client to hang up on"
            )
        return False

    def _strike(self, rule: Rule, where: str, handler: str) -> Fault | None:
        _faults.fault_count()
        self._tell(rule, where, handler)
        if rule.fault.deadly and rule.at == "commit":
            phase = self._random.randrange(_PHASES + 1)
            if phase > 0:
                _faults.fault_clear()
                _faults.fault_in_commit(phase, _faults.FAULT_SEGV if rule.fault.name == "segv" else _faults.FAULT_KILL)
                return None  # the core kills, inside the commit
        return rule.fault

    def _tell(self, rule: Rule, where: str, handler: str) -> None:
        self.count += 1
        events.fault_injected(f"{self.seed:x}-{self.count}", str(rule.fault), rule.at, short(where), handler)

    # -- allocations: the core strikes by itself -------------------------------------------------------------------------

    def begin(self, handler: str) -> None:
        """Hear that a step of a handler begins."""
        self._count()
        self._steps.append(handler)
        self._arm(handler)

    def end(self, handler: str) -> None:
        """Hear that it has ended."""
        self._count()
        if self._steps:
            self._steps.pop()
        if self._steps:
            self._arm(self._steps[-1])

    def _arm(self, handler: str) -> None:
        """Let the core strike in what comes."""
        if "alloc" not in self.wants(handler):
            return
        nearest: list[tuple[int, Rule | Injection]] = [
            (self._draw(rule.rate), rule) for rule in self.rules if rule.at == "alloc" and rule.matches(handler)
        ]
        nearest += [(injection.left, injection) for injection in self._waiting(handler)]
        if nearest:
            self._alloc_at, self._alloc = min(nearest, key=lambda one: one[0])
            _faults.fault_clear()
            _faults.fault_at(_faults.FAULT_ROOM, self._alloc_at, _faults.FAULT_FULL)

    def _draw(self, rate: float) -> int:
        """Draw at which allocation a rate strikes first."""
        if rate == 1:
            return 1
        return 1 + int(min(math.log1p(-self._random.random()) / math.log1p(-rate), _NEVER))

    def _waiting(self, handler: str) -> list[Injection]:
        """Return the injections that wait for an allocation of a handler."""
        return [
            one for one in self.injections if one.rule.at == "alloc" and not one.struck and one.rule.matches(handler)
        ]

    def _count(self) -> None:
        """See how many allocations there were, and whether the core has struck at one."""
        armed, self._alloc = self._alloc, None
        if armed is None:
            return
        handler, passed = self._steps[-1], _faults.fault_passed(_faults.FAULT_ROOM)
        _faults.fault_clear()
        for injection in self._waiting(handler):
            injection.left = max(1, injection.left - passed)
        if passed >= self._alloc_at:
            if isinstance(armed, Injection):
                armed.struck = True
            self._tell(armed.rule if isinstance(armed, Injection) else armed, "", handler)


def arm(
    rules: str | Iterable[Rule], arena: Arena, *, allowed: bool, seed: int | str | None, variable: bool = False
) -> Callable[[], None]:
    """Let faults strike in this process by rules, until what is returned is called.

    Args:
        rules: Text, or rules.
        arena: Whose writes are points.
        allowed: Whether the program has said that faults may be injected into it.
        seed: Of the randomness; None draws one.
        variable: Whether the rules are the environment's, for messages.

    Raises:
        FaultsNotAllowedError: It has not.
        FaultSyntaxError: The text is wrong.
        TransactionError: An exploration is running.
    """
    source = f"the environment variable {VARIABLE}" if variable else "setup(faults=...)"
    if not allowed:
        raise FaultsNotAllowedError(
            f"{source} asks for faults, and this application has not said that it may have some. None was armed, and the "
            f"application was not set up. Is this production? Unset {VARIABLE}. If it is not, say so: "
            "setup(app, arena, allow_faults=True)."
        )
    chosen = parse_rules(rules) if isinstance(rules, str) else list(rules)
    try:
        number = random.SystemRandom().randrange(2**32) if seed is None else int(seed)
    except ValueError:
        raise ArenaOptionError(f"{SEED}={seed!r} must be a whole number. Nothing was armed.") from None
    writes = [arena.native] if any(rule.at == "write" for rule in chosen) else []
    chaos = _watch.armed()
    if isinstance(chaos, Chaos):
        chaos.join(chosen, number)
        _watch.extend(writes)
    else:
        chaos = Chaos((), number)
        chaos.join(chosen, number)
        _watch.arm(chaos, writes)
    events.faults_armed([str(rule) for rule in chosen], chaos.seed, source)
    return chaos.leave


def inject(handler: str, fault: Fault, *, at: str, nth: int = 1, arena: Arena | None = None) -> Injection:
    """Let a fault strike once: at the nth point of that place that a handler reaches from now on.

    For tests that want one failure at one place; it goes beside the rules of a running server's chaos.

    Args:
        handler: The handler's name; * and ? stand for others.
        fault: What goes wrong.
        at: The place: line, await, resume, write, alloc, commit.
        nth: Which of the points, from 1.
        arena: The arena whose writes count; by default all that are open.

    Returns:
        The injection: `struck`, `remove()`, and a context manager that removes it.

    Raises:
        ArenaOptionError: It can't strike there.
        TransactionError: An exploration is running.
    """
    rule = Rule(handler, fault, at)
    if not _is_number(nth):
        raise ArenaOptionError(f"nth={nth!r} must be a whole number, 1 or more. Nothing was armed.")
    natives = [arena.native] if arena is not None else [segment.native for segment in _registry.all_open()]
    armed = _watch.armed()
    chaos = armed if isinstance(armed, Chaos) else Chaos((), 0)
    injection = Injection(chaos, rule, nth)
    chaos.add(injection)
    if chaos is armed:
        _watch.extend(natives)
    else:
        _watch.arm(chaos, natives)
    return injection
