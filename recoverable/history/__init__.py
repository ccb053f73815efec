"""Time travel: each commit that a journal has can be visited, explained and searched for."""

from recoverable.history.differences import MISSING, Difference
from recoverable.history.history import History
from recoverable.history.places import Path
from recoverable.history.trail import Change
from recoverable.history.watch import Watch

__all__ = ["MISSING", "Change", "Difference", "History", "Path", "Watch"]
