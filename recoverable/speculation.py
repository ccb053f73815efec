"""The policies that choose which pages are hot: names, options, recordings of runs, and policies compared on them.

The estimators themselves run in C (`wse*.c`); here is what `Arena.open(policy=..., policy_options=...)` takes, and
`evaluate`, which runs them in shadow: on page numbers, without an arena and without faults.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from recoverable._native import _policies
from recoverable.errors import ArenaOptionError, RecoverableError

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = [
    "DEFAULT",
    "OPTIONS",
    "POLICIES",
    "Costs",
    "Evaluation",
    "Outcome",
    "Recorder",
    "Recording",
    "checked",
    "checked_options",
    "evaluate",
]

DEFAULT: Final = "adaptive"

#: The policies that can be chosen, each with its rule. `active-rnd`, `active-cks` and `genetic` are the estimators of
#: Speculative Memory Checkpointing (Vogt et al., Middleware 2015), with the constants of its authors' later code.
POLICIES: Final = {
    "adaptive": "a page that traps becomes hot where its writes are close together; unwritten for a while, it is demoted",
    "incremental": "no page is ever hot: every first write to a page in a step traps",
    "full": "a page is hot from its first trap on, for good",
    "active-rnd": "a list of pages that trapped; while it is full, a random one leaves; its bound is sampled",
    "active-cks": "a list without a bound; a page leaves after some checkpoints in a row without a change",
    "genetic": "sets of pages take turns and are scored; the better ones are crossed and mutated",
    "oracle": "replays the cheapest plan for a recorded run: the bound, for evaluation only",
}

_MAX_HOT: Final = {
    "max_hot": (0.0, "pages that may be hot at a time; 0: a sixteenth of those with memory, and 256 at least")
}
_PROFILES: Final = "whether each handler's working set is learned, and captured when it runs: 1 or 0"
_EVERY: Final = {**_MAX_HOT, "profiles": (0.0, _PROFILES)}

#: The options of each policy: the default, and what it means. Numbers, but for the recording of `oracle`.
OPTIONS: Final[Mapping[str, Mapping[str, tuple[float | None, str]]]] = {
    "adaptive": {
        "patience": (0.0, "checkpoints that a hot page may go unwritten; 0: as many as cost its return"),
        "window": (
            0.0,
            "checkpoints between two writes of a page that make it hot; 0: as many as cost three quarters of a trap",
        ),
        "memory": (4.0, "a new gap between two writes moves the estimate by one part in so many"),
        "silence": (16.0, "a hot page that goes unwritten for so many of its gaps is demoted at once; 0: not for that"),
        **_MAX_HOT,
        "profiles": (1.0, _PROFILES),
    },
    "incremental": {**_EVERY},
    "full": {**_EVERY},
    "active-rnd": {
        "period": (50.0, "checkpoints between two samples of the size of the working set"),
        "samples": (10.0, "of which the median is taken"),
        "slack": (1.125, "by which it is multiplied"),
        "seed": (1.0, "of what is thrown out"),
        **_EVERY,
    },
    "active-cks": {
        "epochs": (5.0, "checkpoints in a row without a change, after which a page leaves"),
        **_EVERY,
    },
    "genetic": {
        "population": (5.0, "sets that take turns"),
        "miss": (8.0, "what a trap adds to a set's score"),
        "vain": (1.0, "what a page that was hot for nothing adds to it"),
        "mutation": (0.01, "how probably a gene flips before its turn"),
        "seed": (1.0, "of drawing, crossing and mutation"),
        **_EVERY,
    },
    "oracle": {"recording": (None, "a `Recording` of the run that is going to happen again"), **_EVERY},
}


@dataclass(frozen=True, slots=True)
class Recording:
    """Which pages were written between one checkpoint and the next.

    Attributes:
        ends: For each checkpoint, where its pages end in `pages`; those of the first begin at 0.
        pages: Pages of the data region, each once a checkpoint.
        handlers: For each checkpoint the name of the handler that wrote, or nothing at all.
        truncated: Whether memory for it ran out, so that later checkpoints are missing.
    """

    ends: array[int]
    pages: array[int]
    handlers: tuple[str, ...] = ()
    truncated: bool = False

    @classmethod
    def of(cls, steps: Iterable[Iterable[int]], handlers: Iterable[str] = ()) -> Recording:
        """Make one of the pages written before each checkpoint."""
        ends, pages = array("I"), array("I")
        for step in steps:
            pages.extend(dict.fromkeys(step))
            ends.append(len(pages))
        return cls(ends, pages, tuple(handlers))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[list[int]]:
        begin = 0
        for end in self.ends:
            yield self.pages[begin:end].tolist()
            begin = end


class Recorder:
    """What `Arena.record` gives: the recording so far, and after the block the whole one."""

    __slots__ = ("_arena", "_kept")

    def __init__(self, arena: NativeArena, *, announced: bool = False) -> None:
        """Begin to record the arena."""
        self._arena: NativeArena | None = arena
        self._kept = Recording.of([])
        try:
            _policies.record(arena, announced=announced)
        except RecoverableError as error:
            raise ArenaOptionError(f"{error}. Nothing has changed. One recording at a time.") from None

    @property
    def recording(self) -> Recording:
        """Everything recorded so far."""
        if self._arena is not None:
            ends, pages, handlers, truncated = _policies.recorded(self._arena)
            self._kept = Recording(ends, pages, tuple(handlers), truncated)
        return self._kept

    def end(self, *, mapped: bool) -> None:
        """Keep what was recorded and stop; where the arena is not `mapped` any more, keep what was asked for last."""
        if mapped and self._arena is not None:
            _ = self.recording
            _policies.record_end(self._arena)
        self._arena = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What things cost, in nanoseconds a page. The defaults are of the machine that `docs/evaluation.md` was made on.

    Attributes:
        trap: A fault, its pre-image and the unprotection.
        protect: Changing the protection of a page.
        compare: Comparing it with its shadow.
        copy: Copying it.
    """

    trap: int = 7000
    protect: int = 3000
    compare: int = 120
    copy: int = 150


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy made of a recording.

    Attributes:
        traps: First writes to cold pages.
        protects: Changes of protection: after traps, at promotions and demotions.
        compares: Comparisons of hot pages with their shadows.
        copies: Pages copied into shadows: refreshed, and at promotions.
        vain: Hot pages that a checkpoint found unwritten, summed over the checkpoints.
        promotions: Pages made hot.
        demotions: Hot pages given up.
        most_hot: The most that were hot at a time.
        ns: What all that costs, as modelled.
        policy_ns: What the policy itself took, as measured, counting included.
        captures: Pages captured for their handler.
        captures_vain: Those of them that it did not write.
        by_step: The modelled cost of each checkpoint.
    """

    traps: int
    protects: int
    compares: int
    copies: int
    vain: int
    promotions: int
    demotions: int
    most_hot: int
    ns: int
    policy_ns: int
    captures: int
    captures_vain: int
    by_step: array[int]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What each policy made of a recording, and the least that anybody could have paid.

    Attributes:
        outcomes: By policy.
        optimum: Modelled nanoseconds of the cheapest way through the recording, known afterwards: exact in the model.
            It unprotects pages just before they are written, which takes knowledge of the future.
        on_demand: The same where a page becomes hot only at a checkpoint before which it was written, as every policy
            but `oracle` does it.
    """

    outcomes: Mapping[str, Outcome]
    optimum: int
    on_demand: int


def evaluate(
    recording: Recording,
    policies: Iterable[str] | Mapping[str, Mapping[str, Any]] = tuple(POLICIES),
    costs: Costs | None = None,
    *,
    comparisons: int = 2,
) -> Evaluation:
    """Run policies in shadow on a recorded run.

    The model: a page written while cold costs `trap + protect`; a hot page its comparisons at each checkpoint, and a
    copy where it was written; a promotion `copy + protect`, a demotion `protect`. Where profiles are kept (the option
    `profiles`) and the recording names the handlers, a captured page costs `compare + copy`, and each run of neighbours
    `2 * protect`. That other neighbours share system calls is not in it.

    Args:
        recording: The run.
        policies: Names; or names with their options.
        costs: What things cost.
        comparisons: Of a hot page at each checkpoint: 2 where raw buffers stay alive between steps, else 1.

    Raises:
        ArenaOptionError: There is no such policy or option.
    """
    costs = costs or Costs()
    prices = (costs.trap, costs.protect, costs.compare, costs.copy)
    chosen = policies if isinstance(policies, Mapping) else {name: {} for name in policies}
    numbers_of: dict[str, int] = {}
    handlers = array("I", (numbers_of.setdefault(name, len(numbers_of)) for name in recording.handlers))
    if len(handlers) not in {0, len(recording)}:
        raise ArenaOptionError(
            f"the recording has {len(recording)} checkpoints and names the handlers of {len(handlers)}. Nothing was "
            "evaluated. Give one each checkpoint, or none."
        )
    outcomes = {}
    for name, given in chosen.items():
        options = dict(given)
        if checked(name) == "oracle":
            options.setdefault("recording", recording)
        numbers, _ = checked_options(name, options)
        try:
            counts, by_step = _policies.replay(
                recording.ends,
                recording.pages,
                costs=prices,
                comparisons=comparisons,
                policy=name,
                options=numbers,
                handlers=handlers,
            )
        except RecoverableError as error:
            raise ArenaOptionError(str(error)) from None
        outcomes[name] = Outcome(**counts, by_step=by_step)
    best = [
        _policies.optimum(recording.ends, recording.pages, costs=prices, comparisons=comparisons, on_demand=on_demand)
        for on_demand in (False, True)
    ]
    return Evaluation(outcomes, *best)


def checked(policy: object) -> str:
    """Return `policy` if it can be chosen.

    Raises:
        ArenaOptionError: It can't; the message lists those that can.
    """
    if isinstance(policy, str) and policy in POLICIES:
        return policy
    known = ", ".join(repr(name) for name in POLICIES)
    raise ArenaOptionError(f"policy={policy!r} is not the name of a policy. Nothing was opened. Choose one of {known}.")


def checked_options(policy: str, options: Mapping[str, Any] | None) -> tuple[dict[str, float], Recording | None]:
    """Return the numbers among the options of a policy, and its recording. Their ranges are the core's to check.

    Raises:
        ArenaOptionError: One is not an option of this policy, or not of its kind.
    """
    given = dict(options or {})
    known = OPTIONS[policy]
    for name in given:
        if name not in known:
            raise ArenaOptionError(
                f"policy_options: the policy {policy!r} has no option {name!r}. Nothing was opened. "
                f"It has {', '.join(repr(n) for n in known)}."
            )
    recording = given.pop("recording", None)
    if "recording" in known and not isinstance(recording, Recording):
        raise ArenaOptionError(
            f"policy={policy!r} replays a recorded run, and got {type(recording).__name__} instead of one. Nothing was "
            "opened. Give policy_options={'recording': recording}, a recoverable.speculation.Recording."
        )
    for name, value in given.items():
        if isinstance(value, bool) and name == "profiles":
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ArenaOptionError(f"policy_options: {name}={value!r} is not a number. Nothing was opened.")
    return {name: float(value) for name, value in given.items()}, recording
