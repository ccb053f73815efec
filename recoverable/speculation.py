"""The policies that choose which pages are hot: their names, their options, and the recording that `oracle` replays.

The estimators themselves run in C (`wse*.c`); here is what `Arena.open(policy=..., policy_options=...)` takes.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from recoverable.errors import ArenaOptionError

__all__ = ["DEFAULT", "OPTIONS", "POLICIES", "Recording", "checked", "checked_options"]

DEFAULT: Final = "adaptive"

#: The policies that can be chosen, each with its rule. `active-rnd`, `active-cks` and `genetic` are the estimators of
#: Speculative Memory Checkpointing (Vogt et al., Middleware 2015), with the constants of its authors' later code.
POLICIES: Final = {
    "adaptive": "a page that traps twice within a window becomes hot; an unwritten hot page is demoted after a while",
    "incremental": "no page is ever hot: every first write to a page in a step traps",
    "full": "a page is hot from its first trap on, for good",
    "active-rnd": "a list of pages that trapped; while it is full, a random one leaves; its bound is sampled",
    "active-cks": "a list without a bound; a page leaves after some checkpoints in a row without a change",
    "genetic": "sets of pages take turns and are scored; the better ones are crossed and mutated",
    "oracle": "replays the cheapest plan for a recorded run: the bound, for evaluation only",
}

_EVERY: Final = {"max_hot": (0.0, "pages that may be hot at a time; 0: as many as there is room for")}

#: The options of each policy: the default, and what it means. Numbers, but for the recording of `oracle`.
OPTIONS: Final[Mapping[str, Mapping[str, tuple[float | None, str]]]] = {
    "adaptive": {
        "patience": (0.0, "checkpoints that a hot page may go unwritten; 0: as many as cost one trap, as measured"),
        "window": (0.0, "checkpoints between two traps that make a page hot; 0: as `patience`"),
        **_EVERY,
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
    """

    ends: array[int]
    pages: array[int]
    handlers: tuple[str, ...] = ()

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
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ArenaOptionError(f"policy_options: {name}={value!r} is not a number. Nothing was opened.")
    return {name: float(value) for name, value in given.items()}, recording
