"""Capsules: requests that have crashed, kept in files, and run again on the states that they saw."""

from recoverable.capsules.capsule import Capsule
from recoverable.capsules.keeper import Capsules
from recoverable.capsules.verdict import Replay
from recoverable.errors import CapsuleError

__all__ = ["Capsule", "CapsuleError", "Capsules", "Replay"]
