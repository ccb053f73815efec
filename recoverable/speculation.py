"""The policies that choose which pages are hot: their names, and which of them this version has.

The estimators themselves run in C (`wse.c`); here are the names that `Arena.open(policy=...)` takes.
"""

from __future__ import annotations

from typing import Final

from recoverable.errors import ArenaOptionError

__all__ = ["DEFAULT", "POLICIES", "checked"]

DEFAULT: Final = "adaptive"

#: The policies that can be chosen, each with its rule.
POLICIES: Final = {
    "adaptive": "a page that traps twice within a window becomes hot; an unwritten hot page is demoted after a while",
    "incremental": "no page is ever hot: every first write to a page in a step traps",
}

_LATER: Final = frozenset({"active-rnd", "active-cks", "genetic", "oracle"})


def checked(policy: object) -> str:
    """Return `policy` if it can be chosen.

    Raises:
        ArenaOptionError: It can't; the message lists those that can.
    """
    if isinstance(policy, str) and policy in POLICIES:
        return policy
    known = ", ".join(repr(name) for name in POLICIES)
    why = "is not in this version yet" if policy in _LATER else "is not the name of a policy"
    raise ArenaOptionError(f"policy={policy!r} {why}. Nothing was opened. Choose one of {known}.")
