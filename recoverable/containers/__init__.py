"""The containers that live in an arena: the Python face of the core's."""

from recoverable.containers.array import Array
from recoverable.containers.counter import Counter
from recoverable.containers.deque import Deque
from recoverable.containers.dict import Dict
from recoverable.containers.list import List
from recoverable.containers.record import Record
from recoverable.containers.set import Set

__all__ = ["Array", "Counter", "Deque", "Dict", "List", "Record", "Set"]
