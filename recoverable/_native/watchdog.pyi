from collections.abc import Callable
from typing import NamedTuple

from recoverable._native.runtime import NativeArena, Transaction

SLOW: int
STOP: int
AGAIN: int
ENDING: int

class Overdue:
    arena: NativeArena
    thread: int
    stage: int
    told: int
    current: bool
    seconds: float
    handler: str
    text: str

    transaction: Transaction | None
    def say(self, text: str) -> None: ...
    def done(self, stage: int) -> None: ...
    def stop(self) -> bool: ...

def due(arena: NativeArena) -> Overdue | None: ...

class SlowStep(NamedTuple):
    pid: int
    seconds: float
    handler: str
    text: str

def slow_step(arena: NativeArena) -> SlowStep | None: ...
def limit(arena: NativeArena) -> float: ...
def set_limit(arena: NativeArena, seconds: float, ends: bool = True) -> None: ...
def looked() -> None: ...
def begin(look: Callable[[], None]) -> None: ...
def end(for_good: bool = False) -> None: ...
def use_signal(fd: int, number: int) -> bool: ...
def signal_is_free(number: int) -> bool: ...
