"""What an arena tells about itself: recovery, statistics, verification. Plain frozen records of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from recoverable.feed_state import FeedState
    from recoverable.lock_times import LockTimes

__all__ = ["HotSpot", "Recovery", "Request", "Restoration", "Stats", "VerifyReport", "WorkingSet"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was undone when a process was found to have died in the middle of a step.

    Attributes:
        phase: What the dead process was in: "idle" (between steps), "step", or "publish" (its commit stood already).
        records: Undo records applied.
        bytes: Bytes put back from them.
        pages: Pages put back from pre-images and shadows.
        chunks: Heap chunks returned that dead processes had reserved.
        microseconds: How long it took.
        handler: What the dead process was running, as far as known, else "".
        pid: The dead process, or 0.
    """

    phase: str
    records: int
    bytes: int
    pages: int
    chunks: int
    microseconds: int
    handler: str
    pid: int


@dataclass(frozen=True, slots=True)
class Restoration:
    """What was restored from a journal, since shared memory had no state that could be used.

    Attributes:
        seq: The number of the last commit that it has.
        at: When that was, in UTC.
        snapshot: The number of the last commit of the snapshot that it began with.
        commits: How many were replayed after that, and `bytes` of them.
        torn: Bytes of a last batch that was not finished: nobody was told that those commits are durable.
        milliseconds: How long it took.
        epoch: How often the state was restored so far.
        damaged: What was found of newer snapshots that are damaged, and of files of commits that were not needed, and were passed
            over: a sentence each, with the file.
    """

    seq: int
    at: datetime
    snapshot: int
    commits: int
    bytes: int
    torn: int
    milliseconds: int
    epoch: int
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A request in flight: from the moment when its handler is first awaited until its transaction has ended.

    Or what is not a request and may be in the way of one: a `with arena.transaction():`, from its beginning to its end; and an
    access outside of any transaction, or a call such as `arena.verify()`, while its thread waits for the lock.

    Attributes:
        handler: The handler's name; if it is not a request, the function's.
        process: The id of its process, as that one's PID namespace has it.
        age: Seconds since it began, all of its runs included.
        request_id: Its id, as its events have it; None: it is not a request.
        run: Which run of the handler it is in, or was in last, from 1.
        step: Which of that run's steps that use the arena it is in, or before, from 1; 0: it is between two runs.
        line: Where its code is, as `file:line in function`: the innermost line that it awaits at, or runs, which is neither in
            Python's library nor in this one; None: it is between two runs, or about to commit.
        running: Whether that code runs, and does not await.
        waits_for: What it waits for: "turn", at a hot spot; "privilege", the end of a privileged run; "lock"; "feed", room in it;
            "disk", that what it did and saw is there; None: for nobody.
        waited: Seconds that it has waited for others so far, in all.
        holder: The handler that it waits for, or None: it waits for nobody, or the name is not known.
        holder_process: The process of that handler. 0: it waits for nobody; whoever was ahead has just gone or died, and it goes
            on in a moment; it waits for room in the feed or for the disk, which no handler holds; or another process is attaching.
        path: The container whose hot spot it waits at, or None.
        key: The part of it, or None.
        what: "request"; "block", a `with arena.transaction():` outside of any request; or "access".
    """

    handler: str
    process: int
    age: float
    request_id: str | None
    run: int
    step: int
    line: str | None
    running: bool
    waits_for: str | None
    waited: float
    holder: str | None
    holder_process: int
    path: str | None
    key: str | None
    what: str = "request"


@dataclass(frozen=True, slots=True)
class HotSpot:
    """Where transactions of this process have lost conflicts more often than elsewhere.

    64 places are counted at a time: those with the most conflicts. A place that comes in takes over the count of the one that
    goes, which is its `error`. Places are left out that are not certainly above what comes of that: where conflicts are spread
    over hundreds of places alike, none is hot, and there is no hot spot.

    Attributes:
        path: The container's path from the root, or None: it is gone, or not known.
        key: The key, item or other part of it, or None.
        conflicts: How many, at most.
        error: How much too high that may be: there were at least `conflicts - error`.
        queue: Requests that stand there now, of all processes, for that place or for all of its container: the one whose turn it
            is, and those that wait.
    """

    path: str | None
    key: str | None
    conflicts: int
    error: int = 0
    queue: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of an arena. Sizes are in bytes; what is not a size or a time is a count.

    Attributes:
        size: The ceiling of the data region.
        claimed: How much of it has memory behind it.
        used: How much of that is allocated.
        reserved: How much lies in chunks that processes have reserved for themselves.
        undo_size: The ceiling of the undo log.
        undo_claimed: How much of it has memory behind it.
        shadow_claimed: Memory behind the shadows of hot pages.
        overhead: Memory behind everything but data: tables, log, shadows.
        commit_seq: Commits since the arena was made, in all processes.
        recoveries: How often a dead process's step was undone.
        hot_pages: Pages in the estimated writable working set.
        processes: Processes attached now.
        orphaned: Whether its name no longer leads to it, as `arena.orphaned`.
        transactions: Transactions of this process that touched the arena.
        commits: Those that committed.
        rollbacks: Those that rolled back.
        conflicts: Those that rolled back because of a conflict.
        suspends: Steps that ended in the middle of a transaction.
        traps: First raw writes that faulted.
        pages_compared: Hot pages compared with their shadows.
        pages_copied: Pages copied: pre-images and shadows.
        promotions: Pages made hot.
        demotions: Hot pages given up.
        strays: Raw writes outside any step, taken back.
        dooms: Steps that ran out of memory in a raw write and were rolled back.
        map_fallbacks: Times the kernel had no map entries left and a block of pages was unprotected at once.
        undo_bytes: Bytes logged, in all: old content, without the heads of its records.
        undo_records: Records logged, in all.
        raw_buffers: Raw buffers alive now: array views, memoryviews.
        raw_views: Mappings that they have been made in: one for each transaction that had live ones at the same time.
        in_flight: Transactions alive now.
        profiles: Working sets of handlers that are kept: `arena.working_sets()`.
        pages_captured: Pages that were made writable ahead because their handler was going to write them.
        captured_in_vain: Those of them that it did not write.
        cost_trap_ns: Measured cost of a trap, nanoseconds.
        cost_protect_ns: Measured cost of protecting a page again, nanoseconds.
        cost_compare_ns: Measured cost of comparing a page, nanoseconds.
        cost_copy_ns: Measured cost of copying a page, nanoseconds.
        hot_spots: Where conflicts were lost more often than elsewhere, the most frequent first.
        lock: For how long the lock was held and waited for, by all processes since the arena was made.
        faults: Faults injected into this process, in all of its arenas: 0 unless somebody has asked for some.
        in_doubt: Requests of this process that were answered by an `InDoubtError`.
        capsules: Requests of this process that have crashed and were kept, by the `Capsules` of this arena.
        capsules_dropped: Those that were not: they came too fast, or the folder can't be written to.
        feed: How far its feed, the feed's sinks and its journal are; None: it was made without a feed.
        durability: What an answer of this process means, as `arena.durability`.
    """

    size: int
    claimed: int
    used: int
    reserved: int
    undo_size: int
    undo_claimed: int
    shadow_claimed: int
    overhead: int
    commit_seq: int
    recoveries: int
    hot_pages: int
    processes: int
    orphaned: bool
    transactions: int
    commits: int
    rollbacks: int
    conflicts: int
    suspends: int
    traps: int
    pages_compared: int
    pages_copied: int
    promotions: int
    demotions: int
    strays: int
    dooms: int
    map_fallbacks: int
    undo_bytes: int
    undo_records: int
    raw_buffers: int
    raw_views: int
    in_flight: int
    profiles: int
    pages_captured: int
    captured_in_vain: int
    cost_trap_ns: int
    cost_protect_ns: int
    cost_compare_ns: int
    cost_copy_ns: int
    hot_spots: tuple[HotSpot, ...]
    lock: LockTimes
    faults: int
    in_doubt: int
    capsules: int
    capsules_dropped: int
    feed: FeedState | None
    durability: str

    @property
    def traps_avoided(self) -> int:
        """Captured pages that were written: each would have trapped."""
        return self.pages_captured - self.captured_in_vain


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """What one handler's requests write raw, as far as this process has learned.

    Attributes:
        handler: Its name; of a long one the end.
        route: The method and the route by which the requests came, such as `POST /baskets`, of a long one the end; empty for
            the first request of a process, and where there is no web request.
        step: Which of its requests' steps, from 0; 3 stands for all from there.
        steps: How many of them it was learned from.
        known: Pages that are watched.
        predicted: Pages that the next such step will capture.
        captured: Pages captured so far.
        vain: Those of them that were not written.
    """

    handler: str
    route: str
    step: int
    steps: int
    known: int
    predicted: int
    captured: int
    vain: int


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `arena.verify()` has walked and found sound.

    Attributes:
        containers: Containers reached from the root.
        entries: Entries and items in them.
        blocks: Allocated blocks.
        bytes: Bytes in those blocks.
        leaked_blocks: Allocated blocks that nothing reaches.
        leaked_bytes: Bytes in those.
        hot_pages: Hot pages whose shadow was compared.
    """

    containers: int
    entries: int
    blocks: int
    bytes: int
    leaked_blocks: int
    leaked_bytes: int
    hot_pages: int
