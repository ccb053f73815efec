"""The arena: open, close, unlink, root, and what it tells about itself."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import uuid
from typing import TYPE_CHECKING, Any, Final, TypeVar

from recoverable import (
    _options,
    _registry,
    _shm,
    callbacks,
    events,
    feed_state,
    frameworks,
    inflight,
    outcome,
    runner,
    speculation,
    waits,
    watchdog,
)
from recoverable._native import _core, _counts, _faults, _policies
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.paths import hot_spots
from recoverable._native.runtime import ArenaBase
from recoverable._segment import map_segment
from recoverable.errors import (
    ArenaNotFoundError,
    ArenaOptionError,
    JournalError,
    RecoverableError,
    TransactionClosedError,
    TransactionError,
)
from recoverable.feed import Feed
from recoverable.history import History
from recoverable.journal import attach
from recoverable.journal import keep as journal_keep
from recoverable.journal.folder import Folder
from recoverable.lock_times import LockTimes
from recoverable.reports import HotSpot, Recovery, Request, Restoration, Stats, VerifyReport, WorkingSet
from recoverable.transaction import SavepointBlock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import TracebackType

    from recoverable._segment import Segment
    from recoverable.containers import Dict

__all__ = ["Arena"]

T = TypeVar("T")

_ROUNDED_UP: Final = 1024**2  # the core rounds a size up to whole chunks, and a tiny one to the least that works


class Arena(ArenaBase):
    """State that survives its process: a root `Dict` in a named shared-memory segment.

    Open one with `Arena.open`; it is a context manager that closes itself.
    """

    __slots__ = ("__weakref__", "_history", "_segment")

    def __init__(self, segment: Segment) -> None:
        """Attach to a mapped segment. Use `Arena.open`."""
        self._segment = segment
        self._closed = False
        self._history: dict[None, History] = {}  # one, or none yet
        self.native = segment.native
        segment.arenas.append(self)
        if len(segment.arenas) == 1:
            segment.native.owner = self

    # -- opening and closing ----------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        name: str,
        size: int | str | None = None,
        create: bool = True,
        *,
        undo_size: int | str | None = None,
        feed: int | str | None = None,
        journal: str | os.PathLike[str] | None = None,
        durable: str | None = None,
        compact: bool = True,
        keep: str | int | datetime.timedelta | None = None,
        tracking: str = "hybrid",
        policy: str = speculation.DEFAULT,
        policy_options: Mapping[str, Any] | None = None,
        busy_timeout: float = 5.0,
        step_limit: float | None = None,
    ) -> Arena:
        """Create the arena of that name, or attach to it and undo what a dead process left half-done.

        Args:
            name: 1 to 100 of `A-Z a-z 0-9 . _ -`.
            size: The ceiling of its data, in bytes or as text ("256 MiB"); memory is only taken as it is needed. The
                default is 256 MiB, or less where `/dev/shm` is smaller. An arena that exists keeps its own size.
            create: Create the arena if it does not exist.
            undo_size: The ceiling of the undo log, which bounds what one step may change. Default: chosen from `size`.
            feed: Bytes of its commit feed, a ring of what each commit has changed (`Arena.feed`), rounded up to a power of two;
                they are taken at once. Default: there is none. An arena that exists keeps what it was made with.
            journal: The folder of its journal, made if only the last part of its path is missing. Commits are written there,
                and the state is restored from there where shared memory has none, or an older one. It needs a feed: a new
                arena gets one of 64 MiB, or of a sixteenth of `size` if that is less. Default: none.
            durable: What a request of this process knows when it is answered, unless its handler says otherwise. "disk": it waits
                until what it did and saw is on the disk. "journal", the default with a journal: it does not wait; what was
                committed is on the disk 10 ms later, and only a power loss can take it before. "memory", the default without.
            compact: Whether the journal is compacted when it has grown, as long as this process is the one that writes it: by a
                child process, at low priority. Otherwise `recoverable journal compact` has to be run now and then.
            keep: How much of the past the journal keeps, beyond what a start needs, for `Arena.history`: a time ("24h", "30 d", a
                timedelta) or a size ("10 GiB"); 0: nothing. The folder remembers it, for all who compact it, until it is told
                something else.
            tracking: How writes are found. "hybrid": containers announce theirs, raw ones fault. "trap": containers fault,
                too, so that page protection alone tracks all state, as in the paper that this project builds on: slower,
                there to measure against. All processes that have the arena open must agree.
            policy: How hot pages are chosen: one of `recoverable.speculation.POLICIES`.
            policy_options: Its options by name, as in `recoverable.speculation.OPTIONS`.
            busy_timeout: Seconds to wait for the arena's lock before `ArenaBusyError`.
            step_limit: Seconds that a step of this process may hold the arena, as `Arena.step_limit`, which it sets, also where
                this process has the arena open already. Default: that stays as it is, which is None at first.

        Returns:
            The arena. Opening a name again in one process shares the mapping and its options, of which the last `step_limit`
            counts; close each.

        Raises:
            ArenaOptionError: The name, the size or an option is invalid. Also a `ValueError`.
            ArenaNotFoundError: It does not exist, and `create` is false.
            ArenaFullError: `/dev/shm` is too small or has no room.
            ArenaPermissionError: It belongs to another user.
            ArenaSystemError: Something else than a file has its place in `/dev/shm`.
            ArenaVersionError: Another format has made it.
            ArenaCorruptError: It is damaged.
            ArenaBusyError: Another process holds it for longer than `busy_timeout`.
            JournalError: The folder can't be used: it is another arena's, another user's, in use on another machine, …
        """
        _options.parse_name(name)
        asked = None if size is None else _options.parse_size(size)
        undo = 0 if undo_size is None else _options.parse_size(undo_size, "undo_size")
        ring = 0 if feed is None else _options.parse_size(feed, "feed")
        trap_mode = _options.parse_tracking(tracking)
        speculation.checked(policy)
        numbers, recording = speculation.checked_options(policy, policy_options)
        timeout = _options.parse_timeout(busy_timeout)
        if step_limit is not None:
            watchdog.parse_limit(step_limit)
        level = None if durable is None else outcome.parse_durability(durable)
        past = None if keep is None else journal_keep.parse(keep)
        if past is not None and journal is None:
            raise ArenaOptionError(
                f"keep={keep!r} is for the history of a journal, and there is none. Nothing was opened. Name its folder: journal=."
            )

        if _registry.stand_in is not None:
            arena = cls(_registry.stand_in)
            _registry.borrowed.add(arena)
            return arena

        def make(fd: int) -> Segment:
            return map_segment(
                name,
                fd,
                asked,
                create,
                undo_size=undo,
                feed_size=ring,
                trap_mode=trap_mode,
                policy=policy,
                policy_options=numbers,
                recording=None if recording is None else (recording.ends, recording.pages),
                busy_timeout=timeout,
            )

        with _registry.turn(name):
            if journal is None:
                with _shm.locked(name, create=create, timeout=timeout) as fd:
                    shared = _registry.find_behind(fd)
                    segment = shared or make(fd)
            else:
                ring = ring or attach.ring_for(asked)
                segment, shared = attach.opened(name, Folder(journal, create=create), make, create, timeout)
            arena = cls(segment)
        try:
            if level is not None:
                arena.durability = level
            if past is not None and journal is not None:
                journal_keep.write(Folder(journal), past)
            if shared is None and journal is not None:
                segment.native.journal.keep(compact)
            if step_limit is not None:
                watchdog.set_limit(segment.native, step_limit)
            arena._announce(asked, opened=shared is None)
        except BaseException:  # it has no journal; no thread can be made; the program's log pipeline raises
            arena._give_up(made=shared is None and journal is None and _core.created(segment.native))
            raise
        return arena

    @staticmethod
    def unlink(name: str) -> None:
        """Remove the arena of that name and, once the last process has closed it, its memory.

        Raises:
            ArenaNotFoundError: It does not exist.
            ArenaPermissionError: It belongs to another user.
        """
        if _registry.stand_in is not None:  # a replay: the arena of that name is the server's
            return
        _options.parse_name(name)
        with _shm.locked(name, create=False, timeout=5.0):
            _shm.unlink(name)

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, size: int | str | None = None, *, name: str | None = None, **options: Any) -> Iterator[Arena]:
        """Open a new arena that is closed and unlinked at the end of the `with` block, whatever happens in it.

        Args:
            size: As for `open`.
            name: Its name; the default is a new one. An arena of that name that exists is refused.
            options: As for `open`.

        Raises:
            TransactionError: Raw buffers of it are alive at the end. It is unlinked all the same.
        """
        name = _options.parse_name(f"temporary-{os.getpid()}-{uuid.uuid4().hex[:12]}" if name is None else name)
        arena = cls.open(name, size, **options)
        if _registry.stand_in is not None:  # a replay: it stands for this one as well
            yield arena
            return
        process = os.getpid()
        if not _core.created(arena.native) or len(arena._segment.arenas) > 1:
            arena.close()
            raise ArenaOptionError(
                f"arena {name!r} exists already, so it can't be a temporary one. It is unchanged. "
                "Leave name out to have a new one made."
            )
        failed = True
        try:
            yield arena
            failed = False
        finally:
            if os.getpid() == process:  # a forked child must not take its parent's arena away
                try:
                    arena._unlink_own()
                finally:
                    try:
                        arena.close()
                    except TransactionError:
                        if not failed:  # the block's own exception tells more
                            raise

    def close(self) -> None:
        """Close this arena; what was committed stays. Closing twice is fine.

        The last `Arena` of a segment in this process rolls back the transactions in flight and unmaps it.

        Raises:
            TransactionError: Raw buffers of it are alive, or this is inside one of its transactions. It stays open.
        """
        callbacks.abandon()  # which calls user code, so not under the lock
        with _registry.turn(self._segment.name):
            if self._closed:
                return
            segment = self._segment
            others = [arena for arena in segment.arenas if arena is not self]
            if others and self.native.owner is self:
                self.native.owner = others[0]
            failure: BaseException | None = None
            if not others:
                try:
                    self._report_found()
                except BaseException as error:
                    failure = error  # of the program's log pipeline: what was taken is let go all the same
                segment.close()
            segment.arenas[:] = others
            self._closed = True
            for history in list(self._history.values()):
                history.close()
            native_feed.wake(self.native)  # who waits for a commit by way of this one finds out
        if failure is not None:
            raise failure

    def __enter__(self) -> Arena:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._segment.name

    @property
    def orphaned(self) -> bool:
        """Whether its name no longer leads to it: it was unlinked, or replaced by another arena of that name.

        All that this process does in it goes on as before, but a process that opens the name now gets another arena. A
        health check that asks this takes such a worker out of service. Looks it up each time, in about a microsecond.
        """
        self._check()
        return _core.orphaned(self.native)

    @property
    def size(self) -> int:
        """The ceiling of its data, in bytes."""
        return self._segment.size

    @property
    def step_limit(self) -> float | None:
        """How many seconds a step of this process may hold the arena; None: as long as it likes.

        At half of it `step.slow` tells where the step is. At the limit it is stopped: its transaction is rolled back, and it
        ends by a `StepTooLongError`. Where its code can't be stopped or does not come back, the process ends by SIGABRT
        at twice the limit, and what the step has written is undone by the next process. docs/howto/stuck-handlers.md has all of it.
        """
        self._check()
        return watchdog.limit_of(self.native)

    @step_limit.setter
    def step_limit(self, seconds: float | None) -> None:
        self._check()
        watchdog.set_limit(self.native, seconds)

    @property
    def root(self) -> Dict[Any, Any]:
        """The `Dict` that all state hangs from. Reads outside a transaction see committed state."""
        if self._closed:
            self._check()
        return self._segment.root

    @property
    def durability(self) -> outcome.Durability:
        """What a request of this process knows when it is answered, unless its handler says otherwise: as `durable` of `open`.

        Raises:
            JournalError: Where "journal" or "disk" is set, and the arena was opened without a journal.
        """
        self._check()
        if self.native.gated:
            return "disk"
        return "memory" if self.native.journal is None else "journal"

    @durability.setter
    def durability(self, level: outcome.Durability) -> None:
        self._check()
        if outcome.parse_durability(level) != "memory" and self.native.journal is None:
            raise JournalError(
                f"arena {self.name!r} was opened without a journal, so it can't be durable={level!r}. Nothing was changed. "
                "Open it with journal=, the path of a folder."
            )
        self.native.gated = level == "disk"

    @property
    def history(self) -> History:
        """The past of this arena, as far as its journal keeps it: states, commits, changes. It is read from the disk.

        Raises:
            JournalError: The arena was opened without a journal.
        """
        if self.native.journal is None:
            raise JournalError(
                f"arena {self.name!r} was opened without a journal, so it has no history. Nothing was changed. "
                "Open it with journal=, the path of a folder."
            )
        found = self._history.get(None)
        if found is None:
            found = self._history.setdefault(
                None, History.of(self.native)
            )  # several threads may be here: one of theirs
        return found

    async def durable(self, seq: int | None = None, timeout: float | None = None) -> None:
        """Wait until commits are on the disk: for streams, and for what was done in `with` blocks.

        Args:
            seq: The number of the last of them, as `Commit.seq`. Default: all that there are, of all processes.
            timeout: Seconds after which it is in doubt. Default: `busy_timeout`.

        Raises:
            InDoubtError: They are not, after that time, or since the journal has stopped.
            JournalError: The arena was opened without a journal.
            ArenaOptionError: There was no commit of that number yet, or `timeout` is not a time. Also a `ValueError`.
            TypeError: `seq` is not an int.
        """
        self._check()
        gate = self.native.journal
        if gate is None:
            raise JournalError(
                f"arena {self.name!r} was opened without a journal. Nothing was changed. Open it with journal=."
            )
        seconds = (
            self.native.busy_timeout if timeout is None else _options.parse_timeout(timeout, "timeout", "waited for")
        )
        await gate.wait(gate.position(self.native, seq), seconds)

    def savepoint(self) -> SavepointBlock:
        """Undo a `with` block's writes alone when an exception leaves it; needs a running transaction."""
        if self._closed:
            self._check()
        return SavepointBlock(self.native)

    async def run(self, async_fn: Callable[..., Awaitable[T]], /, *args: Any, **options: Any) -> T:
        """Run `async_fn(*args)` as one transaction, across its awaits.

        Args:
            async_fn: A coroutine function. Inside a running transaction of this arena it is a part of that one.
            args: Its arguments; bind keyword arguments with `functools.partial`.
            options: As for `@recoverable`, except `arena`.

        Returns:
            What it returned, once committed.

        Raises:
            ConflictError: It met more than `max_conflicts` conflicts.
        """
        self._check()
        chosen = outcome.DEFAULT
        if options:
            if unknown := options.keys() - outcome.NAMES:
                raise TypeError(
                    f"Arena.run() has no option {min(unknown)!r}; its options are {', '.join(sorted(outcome.NAMES))}. Nothing was "
                    "run. Bind keyword arguments of the function: "
                    f"functools.partial({callbacks.name_of(async_fn)}, {min(unknown)}=...)."
                )
            chosen = outcome.options(**options)
        frameworks.discover()
        fn, arguments = runner.coroutine(async_fn, args)
        return await runner.transactional(fn, callbacks.name_of(async_fn), chosen, self.native)(*arguments)

    @contextlib.contextmanager
    def record(self, *, announced: bool = False) -> Iterator[speculation.Recorder]:
        """Record which pages each step of this process writes, for `recoverable.speculation.evaluate`.

        Only steps that have to do with raw writes are recorded; with `policy="incremental"` all their writes are, with
        others not those that leave a hot page as it was. It takes memory: four bytes a written page.

        Args:
            announced: Record the pages that containers and items of an `Array` write, too: those that would trap if
                they were not announced. Steps that write nothing are not recorded.

        Raises:
            ArenaOptionError: It is being recorded already.
        """
        self._check()
        recorder = speculation.Recorder(self.native, announced=announced)
        try:
            yield recorder
        finally:
            recorder.end(mapped=bool(self._segment.arenas))

    # -- reports ------------------------------------------------------------------------------------------------

    @property
    def recovered(self) -> Recovery | None:
        """What was undone of a dead process's work, by attaching or since; None where there was nothing."""
        self._check()
        found = _core.recovered(self.native)
        return None if found is None else Recovery(**found)

    @property
    def restored(self) -> Restoration | None:
        """What was restored from the journal when this process opened it; None where shared memory had the state."""
        self._check()
        return self._segment.restored

    def stats(self) -> Stats:
        """Return the counters of the arena and of this process's use of it."""
        self._check()
        numbers: dict[str, Any] = _counts.stats(self.native)
        numbers["orphaned"] = bool(numbers["orphaned"])
        self._report_found()
        lock = LockTimes.of(_counts.lock_times(self.native))  # first: to name hot spots the lock is taken
        spots = tuple(HotSpot(*spot) for spot in hot_spots(self.native))
        return Stats(
            **numbers,
            hot_spots=spots,
            lock=lock,
            faults=_faults.fault_struck(),
            in_doubt=0 if self.native.journal is None else self.native.journal.doubts,
            capsules=getattr(self.native.capsules, "written", 0),
            capsules_dropped=getattr(self.native.capsules, "dropped", 0),
            feed=feed_state.of(self.native),
            durability=self.durability,
        )

    def feed(self, after: int | None = None, *, follow: bool = True, durable: bool = False) -> Feed:
        """Return an iterator of the commits, of all processes, the oldest first, for `for` and for `async for`.

        Args:
            after: The number of the commit that it begins behind: 0 for the first of all. Default: with the next one.
            follow: Whether it waits for further commits when it has given all there are, or ends.
            durable: Give commits when they are on the disk: what a power loss takes back is given to nobody.

        Raises:
            TypeError: `after` is not an int.
            ArenaOptionError: It is no commit's number.
            FeedMissingError: The arena was made without a feed.
            JournalError: They are to be on the disk, and the arena is open without a journal.
            FeedOverrunError: That commit is overwritten by now. Raised, too, while iterating, by one that is too slow.

        With `durable`, a journal that stops ends the waiting by a JournalError, when all that is on the disk was given.
        """
        self._check()
        return Feed(self, after, follow, durable)

    def requests(self) -> list[Request]:
        """Return the requests in flight, of all processes, the oldest first: where each is, and what it waits for.

        Other processes are asked, and this waits for their answers for up to 200 ms: in an event loop, call it by
        `asyncio.to_thread`. Those answer whose applications were `setup()`, or that have called `listen()`. There is room for 64
        of their requests, the oldest of each.
        """
        self._check()
        return inflight.everywhere(self.native)

    def listen(self) -> None:
        """Answer when other processes ask for this one's requests: `requests()` there, `recoverable top --waiting`.

        Starts a thread that sleeps until somebody asks, and ends when the arena is closed. `recoverable.aiohttp.setup` does it when
        the application starts; a forked process does it for itself.
        """
        self._check()
        inflight.listen(self.native)

    @property
    def profiles(self) -> bool:
        """Whether this process learns which pages each handler writes raw, and captures them when it runs next.

        Can be switched while the arena is open; off, what was learned is forgotten.
        """
        self._check()
        return _policies.profiles(self.native)

    @profiles.setter
    def profiles(self, on: bool) -> None:
        self._check()
        _policies.profiles(self.native, bool(on))

    def working_sets(self) -> list[WorkingSet]:
        """Return what is known about each handler's raw writes, those with most captured pages first."""
        self._check()
        found = [WorkingSet(**profile) for profile in _policies.read_profiles(self.native)]
        return sorted(found, key=lambda each: (-each.captured, each.handler, each.step))

    def verify(self) -> VerifyReport:
        """Walk everything in the arena.

        Raises:
            ArenaCorruptError: Something does not add up; the message has the path of the first damage.
        """
        self._check()
        return VerifyReport(**_core.verify(self.native))

    def processes(self) -> list[int]:
        """Return the ids of the processes that have the arena open, this one included; each as its own PID namespace has it."""
        self._check()
        return _core.processes(self.native)

    def __repr__(self) -> str:
        state = "closed" if self._closed else _options.human_size(self.size)
        return f"<Arena {self.name!r} {state}>"

    # -- inside -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise TransactionClosedError(
                f"arena {self.name!r} is closed. What was committed is kept. "
                f"Open it again with Arena.open({self.name!r})."
            )

    def _announce(self, asked: int | None, *, opened: bool) -> None:
        """Write the events of opening; after the file lock is released, since a log pipeline may be slow."""
        if opened and _core.created(self.native):
            events.arena_created(self.name, self.size)
            return
        differs = asked is not None and not self.size - _ROUNDED_UP < asked <= self.size
        events.arena_attached(
            self.name,
            self.size,
            len(_core.processes(self.native)),
            asked if differs else None,
            journaled=self.native.journal is not None,
            unjournaled=opened and self.native.journal is None and native_journal.state(self.native) is not None,
        )
        if opened and (report := self.recovered) is not None:
            events.arena_recovered(self.name, report, found="attaching")

    def _report_found(self) -> None:
        """Write an event for what steps have found: work of a dead process, undone; raw writes that were taken back; no name."""
        if _core.take_repair(self.native) and (report := self.recovered) is not None:
            events.arena_recovered(self.name, report, found="running")
        if _core.strays_pending(self.native):
            events.write_stray(self.name, [page for page, _ in _core.take_strays(self.native)])
        if _core.take_orphan(self.native):
            journal = self.native.journal
            events.arena_orphaned(self.name, None if journal is None else journal.path)
        waits.tell_held_up(self.native)

    def _give_up(self, *, made: bool) -> None:
        """Close what `open` does not return; `made`: and remove it, unless another process has it open by now."""
        if made:
            self._unlink_own(unless_shared=True)
        with contextlib.suppress(Exception):  # what is raised is why it was given up
            self.close()

    def _unlink_own(self, *, unless_shared: bool = False) -> None:
        """Unlink the name if it still is this arena's; `unless_shared`: and no other process has it open."""
        try:
            with _shm.locked(self.name, create=False, timeout=5.0) as fd:
                status = os.fstat(fd)
                shared = unless_shared and len(_core.processes(self.native)) > 1
                if (status.st_dev, status.st_ino) == self._segment.key and not shared:
                    _shm.unlink(self.name)
        except ArenaNotFoundError:
            pass


def open_copy(name: str, fd: int) -> Arena:
    """Open a segment that nobody else can have: a copy in an object without a name. Recovers it as any attach does.

    Args:
        name: What messages call it.
        fd: The object, which stays the caller's to close.

    Raises:
        ArenaCorruptError: It is damaged.
        ArenaVersionError: Another format has made it.
        ArenaPermissionError: The one that it was copied from belongs to another user.
    """
    return _open_fd(name, fd, None, 0, create=False)


def open_new(name: str, fd: int, size: int, feed: int) -> Arena:
    """Make an arena in an empty object that nobody else can have yet.

    Args:
        name: What the object is called, which need not be a name that an arena can have. A failure removes it.
        fd: The object, locked; it stays the caller's to close.
        size: The ceiling of its data, in bytes.
        feed: Bytes of its feed; 0: none.

    Raises:
        ArenaFullError: `/dev/shm` is too small or has no room.
    """
    return _open_fd(name, fd, size, feed, create=True)


def _open_fd(name: str, fd: int, size: int | None, feed: int, *, create: bool) -> Arena:
    numbers, _ = speculation.checked_options(speculation.DEFAULT, None)
    with _registry.turn(name):
        return Arena(
            map_segment(
                name,
                fd,
                size,
                create=create,
                undo_size=0,
                feed_size=feed,
                trap_mode=False,
                policy=speculation.DEFAULT,
                policy_options=numbers,
                recording=None,
                busy_timeout=5.0,
            )
        )


def _close_all() -> None:
    """Close what is open when the interpreter ends; quietly, since the next process recovers whatever is left."""
    callbacks.abandon(at_exit=True)
    with contextlib.ExitStack() as rest:  # if the program's log pipeline raises, the others are closed all the same
        rest.callback(watchdog.stop)
        for segment in _registry.all_open():
            for arena in segment.arenas:
                rest.callback(_close, arena)


def _close(arena: Arena) -> None:
    with contextlib.suppress(RecoverableError):
        arena.close()


atexit.register(_close_all)
