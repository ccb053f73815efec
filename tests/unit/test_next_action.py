"""What follows a run that raised, as a table: it depends on nothing but what is known of the run."""

from __future__ import annotations

from typing import Any

import pytest

from recoverable.outcome import DEFAULT, Facts, Options, next_action, options


def chosen(**given: Any) -> Options:
    return options(**given)


def fallback(error: BaseException) -> None: ...


RETRIES = chosen(retries=2)
FALLS_BACK = chosen(fallback=fallback)
BOTH = chosen(retries=2, fallback=fallback)
ONCE = chosen(max_conflicts=0)

TABLE = [
    # it has ended as it chose to
    (Facts(chosen=True), DEFAULT, "end"),
    (Facts(chosen=True, conflicted=True, conflicts=1), BOTH, "end"),
    # it was closed
    (Facts(closed=True, retriable=True, crashes=1), BOTH, "raise"),
    (Facts(closed=True, conflicted=True, conflicts=1), BOTH, "raise"),
    # it was being cancelled or closed
    (Facts(stopped=True), BOTH, "raise"),
    (Facts(stopped=True, conflicted=True, conflicts=1), BOTH, "raise"),
    # a conflict
    (Facts(conflicted=True, conflicts=1), DEFAULT, "rerun"),
    (Facts(conflicted=True, conflicts=5), DEFAULT, "rerun"),
    (Facts(conflicted=True, conflicts=6), DEFAULT, "raise"),
    (Facts(conflicted=True, conflicts=6), FALLS_BACK, "fallback"),
    (Facts(conflicted=True, conflicts=1), ONCE, "raise"),
    (Facts(conflicted=True, conflicts=1, ordinary=False), DEFAULT, "rerun"),
    (Facts(conflicted=True, conflicts=1, spoilt=True), DEFAULT, "raise"),
    (Facts(conflicted=True, conflicts=1, spoilt=True), FALLS_BACK, "fallback"),
    # a crash
    (Facts(crashes=1, retriable=True), DEFAULT, "raise"),
    (Facts(crashes=1, retriable=True), FALLS_BACK, "fallback"),
    (Facts(crashes=1, retriable=True), RETRIES, "retry"),
    (Facts(crashes=2, retriable=True), BOTH, "retry"),
    (Facts(crashes=3, retriable=True), RETRIES, "raise"),
    (Facts(crashes=3, retriable=True), BOTH, "fallback"),
    (Facts(crashes=1, retriable=False), BOTH, "fallback"),
    (Facts(crashes=1, retriable=True, conflicts=9), RETRIES, "retry"),
    (Facts(crashes=1, retriable=True, spoilt=True), RETRIES, "raise"),
    (Facts(crashes=1, retriable=True, spoilt=True), BOTH, "fallback"),
    # a cancellation, an answer
    (Facts(crashes=1, ordinary=False, retriable=True), BOTH, "raise"),
    (Facts(crashes=1, cancelled=True, retriable=True), BOTH, "raise"),
    (Facts(crashes=3, cancelled=True, retriable=True), BOTH, "fallback"),
    (Facts(crashes=1, cancelled=True), FALLS_BACK, "fallback"),
]


@pytest.mark.parametrize(("facts", "given", "action"), TABLE)
def test_what_follows(facts: Facts, given: Options, action: str) -> None:
    """Each line of the table holds."""
    assert next_action(facts, given) == action


@pytest.mark.parametrize("given", [DEFAULT, RETRIES, FALLS_BACK, BOTH, ONCE])
def test_a_spoilt_request_is_not_run_again(given: Options) -> None:
    """Whatever else is known: where the request can't be made as it was, no run follows."""
    for bits in range(1 << 6):
        on = [bool(bits >> bit & 1) for bit in range(6)]
        for conflicts, crashes in ((0, 1), (1, 0), (1, 1)):
            facts = Facts(*on, spoilt=True, conflicts=conflicts, crashes=crashes)
            assert next_action(facts, given) not in ("rerun", "retry")
