"""The containers that live in an arena: the Python face of the core's."""

from recoverable.containers.array import Array
from recoverable.containers.dict import Dict

__all__ = ["Array", "Dict"]
