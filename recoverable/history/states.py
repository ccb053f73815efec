"""States of the past: a keyframe, and the commits behind it, in this process's own memory.

What we want: the state after any commit, as real containers, without copying an arena of gigabytes, and without disturbing whoever
serves from it.

What does not work: going back with old bytes. Memory is freed and used again, and what it held was never written down: most
states would be damaged. Nor does a restore into shared memory: it takes as long as the arena is large.

What does: the keyframe's file is mapped as this process's own memory. The kernel reads what is looked at, page by page, and copies
what is changed; then the commits are applied that came between. The file stays as it is, even when it is removed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from recoverable._descriptors import opened
from recoverable._native.feed import Restore
from recoverable.journal.order import END

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from recoverable._native.runtime import NativeArena
    from recoverable.history.line import Line
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Find", "State", "States", "Stepper"]

_FEW: Final = 4  # records that are asked for at a time where it may change which are wanted
_KEPT: Final = 4  # states that were asked for last, and may be asked for again
_REST: Final = 60.0  # seconds after which they are forgotten all the same: each may be as large as the arena


class _Owner:
    """What messages call it, and what it is of."""

    def __init__(self, name: str) -> None:
        self.name = name


class State:
    """A state of the past, which can be brought forward as long as nobody else has it.

    Attributes:
        native: It, for containers.
        position: Of the feed, where it ends; `seq` and `at` are of its last commit.
        chain: The checksum of the last whole batch of the journal before that.
    """

    def __init__(self, line: Line, keyframe: Snapshot) -> None:
        self._line = line
        self._keyframe = keyframe
        self.position, self.seq, self.at = keyframe.position, keyframe.seq, keyframe.at
        self.chain, self._epoch = keyframe.chain, keyframe.epoch
        path = line.folder.snapshot_path(keyframe.position)
        try:
            with opened(path, os.O_RDONLY) as fd:
                self._copy = Restore(fd, "what was asked for", keyframe.size)
        except FileNotFoundError:
            raise line.gone() from None
        self.native: NativeArena = self._copy.past()
        self.native.owner = _Owner(f"{line.folder.path} at {keyframe.seq}")
        _all.add(self.native)

    @property
    def root(self) -> Any:
        """Its root Dict."""
        return self.native.root()

    def forward(self, seq: int, at: int, progress: Callable[[int, int, str], None] | None = None) -> Self:
        """Bring it forward to a commit and a moment, whichever comes first."""
        begin = replace(
            self._keyframe, position=self.position, seq=self.seq, at=self.at, chain=self.chain, epoch=self._epoch
        )
        done = self._line.replay(self._copy, begin, seq, at, progress)
        self.position, self.seq, self.at, self.chain = done.position, done.seq, done.at, done.chain
        self._epoch = next(
            (each.epoch for each in reversed(self._line.starts) if each.position < self.position), self._epoch
        )
        self.native.owner.name = f"{self._line.folder.path} at {self.seq}"
        return self

    def apply(self, records: bytes) -> None:
        """Bring it forward by whole records that come next."""
        self._copy.apply(records)


class States:
    """The states that were asked for last, by the commit that they end with; for a minute."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], State] = OrderedDict()
        self._asked: dict[tuple[int, int], float] = {}  # when
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        _caches.add(self)

    def __del__(self) -> None:
        """Leave no thread behind that waits to forget what is gone."""
        if self._timer is not None:
            self._timer.cancel()

    def at(
        self, line: Line, seq: int = END, at: int = END, progress: Callable[[int, int, str], None] | None = None
    ) -> State:
        """Return the state after a commit, or at a moment.

        Raises:
            HistoryError: It is older than all that is kept.
            ArenaCorruptError: The journal is damaged on the way there.
        """
        with self._lock:
            found = self._kept.get((line.epoch, seq))
            if found is not None:
                self._keep((line.epoch, seq))
                return found
        state = State(line, line.keyframe(seq, at)).forward(seq, at, progress)
        with self._lock:
            state = self._kept.setdefault((line.epoch, state.seq), state)
            self._keep((line.epoch, state.seq))
            dropped = [self._drop(next(iter(self._kept))) for _ in range(len(self._kept) - _KEPT)]
        del dropped  # not under the lock
        return state

    def _keep(self, key: tuple[int, int]) -> None:
        self._kept.move_to_end(key)
        self._asked[key] = time.monotonic()
        if self._timer is None:
            self._rest_in(_REST)

    def _drop(self, key: tuple[int, int]) -> State:
        del self._asked[key]
        return self._kept.pop(key)

    def _rest_in(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, _rest, (weakref.ref(self),))
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # the interpreter ends
            self._timer.start()

    def forget_old(self) -> None:
        """Forget those that nobody has asked for lately."""
        with self._lock:
            self._timer = None
            old = time.monotonic() - _REST
            dropped = [self._drop(key) for key, asked in list(self._asked.items()) if asked <= old]
            if self._asked:
                self._rest_in(min(self._asked.values()) - old)
        del dropped

    def close(self) -> None:
        """Forget them: those that somebody has containers of go with those."""
        with self._lock:
            dropped = list(self._kept.values())
            self._kept.clear()
            self._asked.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        del dropped

    def forked(self) -> None:
        """In a child: the states are the parent's, and so may be the lock."""
        self._kept.clear()
        self._asked.clear()
        self._timer = None
        self._lock = threading.Lock()


def _rest(of: weakref.ref[States]) -> None:
    states = of()
    if states is not None:
        states.forget_old()


#: Returns (offset, length, position) of records of a batch, in their order: of (its bytes, where in the feed they begin, from, to,
#: how many at most; 0: all).
Find: TypeAlias = "Callable[[bytes, int, int, int, int], list[tuple[int, int, int]]]"


class Stepper:
    """Two copies of a state that go through commits together: the one before each of them, and the one after it.

    Attributes:
        position: Of the feed, where both are.
    """

    def __init__(self, line: Line, keyframe: Snapshot, seq: int = 0) -> None:
        """Begin with a keyframe, or with the state after a later commit, or the last one before that number."""
        self.before, self.after = State(line, keyframe), State(line, keyframe)
        if seq > keyframe.seq:
            self.before.forward(seq, END)
            self.after.forward(seq, END)
        self.position = self.after.position
        self._chain = self.after.chain  # of the batch behind which both are, or in which
        self._line = line
        self._again = False

    def find_again(self) -> None:
        """Have `find` asked once more before the next step."""
        self._again = True

    def steps(self, find: Find, end: int, last_seq: int = END) -> Iterator[bytes]:
        """Yield the records that `find` names, with both copies standing around each.

        Args:
            find: Is asked of each batch.
            end: The position of the feed to go up to.
            last_seq: The number of a commit behind which `find` names none.

        Raises:
            ArenaCorruptError: The journal is damaged on the way, or lacks commits.
            HistoryError: A compaction has dropped what comes next.
        """
        for stretch in self._line.stretches:
            last = min(stretch.end, end)
            if last <= self.position:
                continue
            whole = self.position  # where the last batch ends that counts to its end
            with self._line.opened(stretch) as file:
                if stretch.begin == self.position and not self._line.goes_on(stretch, self._chain):
                    raise self._line.strange(stretch)
                while self.position < last and (read := file.next(data=True, beyond=self.position)) is not None:
                    batch, data = read
                    if batch.end <= stretch.end:
                        self._chain, whole = batch.chain, batch.end
                    if batch.end <= self.position:
                        continue
                    if batch.position > self.position:
                        raise self._line.lacks(self.position, batch.position)
                    yield from self.through(data, batch.position, min(last, batch.end), find)
                    if batch.end <= last and batch.seq >= last_seq:  # what was cut off had other numbers
                        return
                if self.position == stretch.end == whole:  # batches without commits are part of the chain
                    while (empty := file.next(tail=True)) is not None and not empty.records:
                        self._chain = empty.chain
            if self.position < last != END:
                with self._line.read():
                    raise self._line.lacks(self.position, last)

    def through(self, data: bytes, begin: int, end: int, find: Find) -> Iterator[bytes]:
        """Go through a batch, which begins at a position of the feed, up to another; yield as `steps` does."""
        most, wanted = 0, deque(find(data, begin, self.position, end, 0))
        found = len(wanted)
        while wanted:
            offset, length, at = wanted.popleft()
            self._both(data[self.position - begin : offset])
            record = data[offset : offset + length]
            self.after.apply(record)
            yield record
            self.before.apply(record)
            self.position = at + length
            if self._again:  # not for all: it may be so behind each of them
                self._again, most = False, _FEW
            elif wanted or found != most:
                continue
            else:
                most *= 2
            wanted = deque(find(data, begin, self.position, end, most))
            found = len(wanted)
        self._both(data[self.position - begin : end - begin])
        self.position = end

    def _both(self, records: bytes) -> None:
        if records:
            self.before.apply(records)
            self.after.apply(records)


_all: weakref.WeakSet[NativeArena] = weakref.WeakSet()
_caches: weakref.WeakSet[States] = weakref.WeakSet()


def _forked() -> None:
    """In a child: who was reading is the parent's thread, and the lock would be taken for good."""
    for native in list(_all):
        native.mark_closed()
    for cache in list(_caches):
        cache.forked()


os.register_at_fork(after_in_child=_forked)
