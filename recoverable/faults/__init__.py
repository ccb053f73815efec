"""Fault injection: find out what a crash at every point would do.

`explore` runs a handler, a request or any scenario again and again, each time with a fault at the next point that it
reaches, and checks what is left. The pytest plugin does the same for a test that uses the fixture `faults`.
"""

from recoverable.faults._explore import GROUPS, explore
from recoverable.faults._points import (
    PLACES,
    Cancel,
    Conflict,
    Delay,
    Disconnect,
    Fault,
    Full,
    InjectedFault,
    Kill,
    OutOfMemory,
    Plan,
    Point,
    Raise,
    Segfault,
    Timeout,
)
from recoverable.faults._report import Failure, FaultsFound, Report
from recoverable.faults._trace import armed
from recoverable.faults.chaos import Injection, Rule, inject, parse_rules

__all__ = [
    "GROUPS",
    "PLACES",
    "Cancel",
    "Conflict",
    "Delay",
    "Disconnect",
    "Failure",
    "Fault",
    "FaultsFound",
    "Full",
    "InjectedFault",
    "Injection",
    "Kill",
    "OutOfMemory",
    "Plan",
    "Point",
    "Raise",
    "Report",
    "Rule",
    "Segfault",
    "Timeout",
    "armed",
    "explore",
    "inject",
    "parse_rules",
]
