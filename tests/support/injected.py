"""What the log says of faults that have struck."""

from __future__ import annotations

from typing import Any


def injected(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of injections."""
    return [event for event in log if event["event"] == "fault.injected"]
