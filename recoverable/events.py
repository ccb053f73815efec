"""The events that the library writes, one function each, over the program's structlog or logging (event_log.py).

Events name containers and keys where a conflict was, never values. What an exception says is its author's.

A traceback is written once. With a configured structlog it is in `request.rolled_back`, and aiohttp's own record of the
same exception points there (`recoverable.aiohttp` asks `traceback_reported`). Otherwise an exception that goes on to a caller
is left to the caller, aiohttp for one, and ours is one line. docs/events.md has all of it for users.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from recoverable.event_log import log, shown
from recoverable.frames import without_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from recoverable._native.runtime import Report
    from recoverable.reports import Recovery, Restoration
    from recoverable.transaction import Lost

__all__ = [
    "arena_attached",
    "arena_busy",
    "arena_corrupt",
    "arena_created",
    "arena_full",
    "arena_not_closed",
    "arena_orphaned",
    "arena_recovered",
    "capsule_dropped",
    "exc_info",
    "fault_injected",
    "fault_not_injected",
    "faults_armed",
    "from_handler",
    "full_told",
    "hook_failed",
    "journal_abandoned",
    "journal_compacted",
    "journal_compaction_failed",
    "journal_damaged",
    "journal_delayed",
    "journal_restored",
    "journal_restoring",
    "journal_set_aside",
    "journal_stopped",
    "request_committed",
    "request_conflict",
    "request_full",
    "request_held_up",
    "request_rolled_back",
    "step_ends_process",
    "step_slow",
    "step_stopped",
    "traceback_reported",
    "write_stray",
]

# -- arenas ---------------------------------------------------------------------------------------------------


def arena_created(name: str, size: int) -> None:
    """Tell that a new arena was made. `size`: its ceiling in bytes."""
    log().info("arena.created", arena=name, size=size)


def arena_attached(
    name: str, size: int, processes: int, asked_size: int | None, *, journaled: bool = False, unjournaled: bool = False
) -> None:
    """Tell that an existing arena was attached, and what was asked for that it does not have, or the other way round.

    Args:
        name: The arena.
        size: The ceiling that it has, in bytes.
        processes: How many are attached, this one included.
        asked_size: The size asked for where it differs; it was ignored.
        journaled: Whether it has a journal, from which it would come back as it is.
        unjournaled: Whether it has one that this process has not named.
    """
    if unjournaled:
        log().warning(
            "arena.attached",
            arena=name,
            size=size,
            processes=processes,
            note="the arena has a journal, and this process has opened it without journal=: it does not write there, nor wait for "
            "the disk; if it is alone, what it commits is in memory only",
        )
    elif asked_size is None:
        log().info("arena.attached", arena=name, size=size, processes=processes)
    else:
        log().warning(
            "arena.attached",
            arena=name,
            size=size,
            processes=processes,
            asked_size=asked_size,
            note=f"the arena exists and keeps its size, and its journal does; to have its state in another one: recoverable export "
            f"{name} FILE --portable; recoverable rm {name}; recoverable import {name} FILE --size SIZE; and a new folder"
            if journaled
            else "the arena exists and keeps its size; unlink it first to make it anew",
        )


def arena_recovered(name: str, report: Recovery, *, found: str) -> None:
    """Tell what a dead process left and recovery undid: a warning, or info where there was nothing to undo.

    Args:
        name: The arena.
        report: What that was.
        found: How it was noticed: "attaching", or "running": this process had the arena open already.
    """
    write = log().warning if report.records or report.pages else log().info
    write(
        "arena.recovered",
        arena=name,
        found=found,
        phase=report.phase,
        records=report.records,
        bytes=report.bytes,
        pages=report.pages,
        chunks=report.chunks,
        microseconds=report.microseconds,
        handler=report.handler,
        pid=report.pid,
    )


def arena_full(name: str, handler: str, detail: str) -> None:
    """Tell that a block was rolled back because there was no room, or that a request found none before it had done anything."""
    log().error("arena.full", arena=name, handler=handler, detail=detail)


def arena_busy(name: str, handler: str, detail: str, stack: str | None = None) -> None:
    """Tell that the lock could not be acquired within `busy_timeout`; nothing was done. `detail` names who holds it.

    Args:
        name: The arena.
        handler: Who wanted it.
        detail: What happened.
        stack: Of the step that holds it, in whatever process, where its watchdog has said so.
    """
    more = {} if stack is None else {"stack": stack}
    log().warning("arena.busy", arena=name, handler=handler, detail=detail, **more)


def arena_corrupt(name: str, handler: str, detail: str) -> None:
    """Tell that the segment is damaged: nobody can use it, and nothing was done."""
    log().error("arena.corrupt", arena=name, handler=handler, detail=detail)


def arena_not_closed(name: str, detail: str) -> None:
    """Tell that an arena could not be closed at shutdown; its state is safe, its memory stays mapped."""
    log().warning("arena.not_closed", arena=name, detail=detail)


def arena_orphaned(name: str, journal: str | None) -> None:
    """Tell, once in a process, that the arena's name does not lead to it any more. `journal`: the folder of its, if it has one."""
    then = (
        "whoever opens the name now gets another arena, and what is committed here is lost when the last process closes it. "
        "Take these workers out of service, save the state if it matters, restart them"
        if journal is None
        else f"what is committed goes to journal {journal!r} as before, so nobody else can open the name with that. End all of "
        "these workers, then start new ones, which restore the state from there"
    )
    log().error(
        "arena.orphaned",
        arena=name,
        detail=(
            f"/dev/shm/recoverable.{name} was removed or replaced while this process has it open. Its state is sound and "
            f"requests go on, but {then}"
        ),
    )


def write_stray(name: str, offsets: list[int]) -> None:
    """Tell that raw writes outside any transaction were taken back. `offsets`: of their pages in the segment."""
    log().warning("write.stray", arena=name, writes=len(offsets), offsets=offsets[:8])


# -- steps that take too long ------------------------------------------------------------------------------------


def step_slow(name: str, handler: str, request_id: str | None, milliseconds: int, where: str, stack: str) -> None:
    """Tell that a step has held the arena for half of its limit: nobody else can use it.

    Args:
        name: The arena.
        handler: The handler's name.
        request_id: The request's id, where that could be found out.
        milliseconds: How long so far.
        where: The line of the program's code that it is at.
        stack: The frames around that, the innermost first.
    """
    _step(log().warning, "step.slow", name, handler, request_id, milliseconds, where, stack)


def step_stopped(name: str, handler: str, request_id: str | None, milliseconds: int, where: str, stack: str) -> None:
    """Tell that a step has reached its limit: its transaction can only roll back, and an exception waits for its code.

    That is raised as soon as the code runs Python again; if it does not, `step_ends_process` follows.
    """
    _step(log().error, "step.stopped", name, handler, request_id, milliseconds, where, stack)


def step_ends_process(
    name: str, handler: str, request_id: str | None, milliseconds: int, where: str, stack: str
) -> None:
    """Tell that a step could not be stopped, and that this process ends in a moment, as by a crash."""
    _step(log().error, "step.ends_process", name, handler, request_id, milliseconds, where, stack)


def _step(write: Callable[..., None], event: str, name: str, *where: Any) -> None:
    fields = ("handler", "request_id", "milliseconds", "where", "stack")
    write(event, arena=name, **dict(zip(fields, where, strict=True)))


# -- requests -------------------------------------------------------------------------------------------------


def from_handler(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our own frames that it begins with."""
    while trace is not None and trace.tb_next and trace.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        trace = trace.tb_next
    return trace


_OURS = "recoverable."
_REPORTED = "_recoverable_reported_in"
_FULL = "_recoverable_full_told"


def traceback_reported(error: BaseException) -> str | None:
    """Return, once, which event has this exception's traceback, and the id of its request, or None: no event has it."""
    reported: str | None = getattr(error, "__dict__", {}).pop(_REPORTED, None)
    return reported


def full_told(error: BaseException) -> bool:
    """Return whether an event has told of this full arena; from now on one has."""
    told = _FULL in error.__dict__
    setattr(error, _FULL, True)
    return told


def _reported(error: BaseException, event: str, request_id: str, then: str) -> tuple[Any, ...]:
    """Return what an event has of an exception; where that goes on, whoever logs it next is to know which event that is."""
    if then == "raise":
        with contextlib.suppress(AttributeError, TypeError):  # a class of exceptions may refuse attributes
            setattr(error, _REPORTED, f"{event}, request_id={request_id}")
    return exc_info(error)


def exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return what a log is given of an exception: its traceback without our own frames."""
    return type(error), error, without_ours(error, error.__traceback__)


def _extent(report: Report) -> dict[str, int]:
    return {"pages": report["pages"], "bytes": report["bytes"], "microseconds": report["micros"]}


def request_committed(name: str, handler: str, report: Report, attempt: int, request_id: str) -> None:
    """Tell that a request's writes were committed."""
    log().debug(
        "request.committed",
        arena=name,
        handler=handler,
        **_extent(report),
        attempt=attempt,
        request_id=request_id,
    )


def request_rolled_back(
    name: str,
    handler: str,
    exception: str | None,
    report: Report,
    attempt: int,
    request_id: str,
    *,
    error: BaseException | None,
    expected: bool,
    then: str,
    capsule: str | None = None,
) -> None:
    """Tell that a request's writes were undone.

    Args:
        name: The arena.
        handler: The handler's qualified name.
        exception: The type of what it raised, or None where it returned an error response.
        report: What was undone, and how long that took.
        attempt: Which run of the request it was, from 1.
        request_id: The request's id.
        error: What it raised, where its traceback is wanted here.
        expected: An answer or a cancellation, not a crash: written as info instead of as a warning.
        then: What comes next: "raise", "retry", "fallback" or "return".
        capsule: The file that the request is kept in, if it is.
    """
    write = log().info if expected else log().warning
    more: dict[str, Any] = {} if capsule is None else {"capsule": capsule}
    if error is not None and (then != "raise" or shown(logging.INFO if expected else logging.WARNING)):
        more["exc_info"] = _reported(error, "request.rolled_back", request_id, then)
    write(
        "request.rolled_back",
        arena=name,
        handler=handler,
        exception_type=exception,
        **_extent(report),
        attempt=attempt,
        request_id=request_id,
        then=then,
        **more,
    )


def request_full(
    name: str,
    handler: str,
    detail: str,
    report: Report,
    attempt: int,
    request_id: str,
    *,
    error: BaseException,
    answered: bool,
    then: str,
    capsule: str | None = None,
) -> None:
    """Tell that a request's writes were undone because there was no room: `arena.full`, with all that `request.rolled_back` has.

    Args:
        name: The arena.
        handler: The handler's qualified name.
        detail: What there was no room for.
        report: What was undone.
        attempt: Which run of the request it was, from 1.
        request_id: The request's id.
        error: What it raised.
        answered: It becomes a response: no framework logs it.
        then: What comes next: "raise", "retry" or "fallback".
        capsule: The file that the request is kept in, if it is.
    """
    more: dict[str, Any] = {} if capsule is None else {"capsule": capsule}
    if answered or then != "raise" or shown(logging.ERROR):
        more["exc_info"] = _reported(error, "arena.full", request_id, then)
    log().error(
        "arena.full",
        arena=name,
        handler=handler,
        detail=detail,
        **_extent(report),
        attempt=attempt,
        request_id=request_id,
        then=then,
        **more,
    )


def request_conflict(
    name: str,
    handler: str,
    report: Report,
    lost: Lost,
    attempt: int,
    request_id: str,
    *,
    then: str,
    capsule: str | None = None,
) -> None:
    """Tell that a run met a conflict. Info while a re-run follows, a warning when none does.

    Args:
        name: The arena.
        handler: The handler's qualified name.
        report: What was undone.
        lost: Where the conflict was.
        attempt: Which run of the request it was, from 1.
        request_id: The request's id.
        then: What comes next: "rerun", "raise" or "fallback".
        capsule: The file that the request is kept in, if it is.
    """
    write = log().info if then == "rerun" else log().warning
    more = {} if capsule is None else {"capsule": capsule}
    write(
        "request.conflict",
        arena=name,
        handler=handler,
        path=lost.path,
        key=lost.key,
        winner=lost.winner,
        **_extent(report),
        attempt=attempt,
        request_id=request_id,
        then=then,
        **more,
    )


def request_held_up(
    name: str,
    handler: str,
    waits_for: str,
    milliseconds: int,
    holder: str | None,
    pid: int,
    path: str | None,
    key: str | None,
    attempt: int,
    request_id: str,
) -> None:
    """Tell, once a request, that it has waited for others for long.

    Args:
        name: The arena.
        handler: The handler's qualified name.
        waits_for: "turn", "privilege", "lock", "feed" or "disk".
        milliseconds: How long it has waited so far, in all of its runs.
        holder: The handler of whom it waits for, or None: not known.
        pid: That one's process, 0: not known.
        path: The container whose hot spot it waits at for its turn.
        key: The part of it.
        attempt: Which run of the request it was in, or before, from 1.
        request_id: The request's id.
    """
    log().info(
        "request.held_up",
        arena=name,
        handler=handler,
        waits_for=waits_for,
        milliseconds=milliseconds,
        holder=holder,
        pid=pid,
        path=path,
        key=key,
        attempt=attempt,
        request_id=request_id,
    )


def hook_failed(name: str, handler: str, hook: str, error: BaseException) -> None:
    """Tell that an `after_commit` callback raised; the commit stands."""
    log().error("after_commit.failed", arena=name, handler=handler, hook=hook, exc_info=exc_info(error))


def capsule_dropped(folder: str, detail: str) -> None:
    """Tell, once until one is written again, that a request which crashed is not kept. `detail`: why."""
    log().warning("capsule.dropped", folder=folder, detail=detail)


# -- journals -----------------------------------------------------------------------------------------------------------


def journal_restored(name: str, folder: str, report: Restoration) -> None:
    """Tell that an arena's state was restored from its journal, since shared memory had none that could be used."""
    log().warning(
        "journal.restored",
        arena=name,
        journal=folder,
        seq=report.seq,
        until=report.at.isoformat(),
        snapshot=report.snapshot,
        commits=report.commits,
        bytes=report.bytes,
        torn=report.torn,
        milliseconds=report.milliseconds,
        epoch=report.epoch,
        damaged=len(report.damaged),
    )


def journal_damaged(name: str, folder: str, detail: str) -> None:
    """Tell that a restore has passed over a damaged snapshot for an older one, or a damaged file of commits that it did not need.

    Or that a start has begun the journal anew, from memory, since no restore could have brought back what it had.
    `detail`: which, and what was found.
    """
    log().warning("journal.damaged", arena=name, journal=folder, detail=detail)


def journal_restoring(name: str, folder: str, doing: str, done: int, total: int, milliseconds: int) -> None:
    """Tell how far a long restore is.

    Args:
        name: The arena.
        folder: The journal's.
        doing: What has been done with so many bytes: `copied` of the snapshot, `replayed` of commits; or `waited for`, where
            another process restores, and has made so many.
        done: How many bytes.
        total: Of how many; 0: not known.
        milliseconds: Since it began.
    """
    log().warning(
        "journal.restoring",
        arena=name,
        journal=folder,
        doing=doing,
        bytes=done,
        total=total,
        milliseconds=milliseconds,
    )


def journal_compacted(
    name: str,
    folder: str,
    seq: int | None,
    commits: int,
    replayed: int,
    snapshots: int,
    files: int,
    freed: int,
    milliseconds: int,
) -> None:
    """Tell that a journal was compacted.

    Args:
        name: The arena.
        folder: The journal's.
        seq: The number of the last commit of the snapshot that was made; None: there was nothing new for one.
        commits: How many were replayed for it.
        replayed: How many bytes of them.
        snapshots: How many older ones were dropped.
        files: How many files of commits were dropped.
        freed: Bytes of both.
        milliseconds: How long it took.
    """
    log().info(
        "journal.compacted",
        arena=name,
        journal=folder,
        seq=seq,
        commits=commits,
        bytes=replayed,
        snapshots=snapshots,
        files=files,
        freed=freed,
        milliseconds=milliseconds,
    )


def journal_compaction_failed(name: str, folder: str, detail: str, again: int) -> None:
    """Tell that a journal could not be compacted, so that it grows. `again`: seconds, after which it is tried again."""
    log().warning("journal.compaction_failed", arena=name, journal=folder, detail=detail, again=again)


def journal_set_aside(name: str, folder: str, aside: str) -> None:
    """Tell that an arena in shared memory was behind its journal and is not used: it lies at `aside` until somebody deletes it."""
    log().warning("journal.set_aside", arena=name, journal=folder, aside=aside)


def journal_stopped(name: str, folder: str, detail: str) -> None:
    """Tell that a flush has failed, or the folder has gone: nothing more becomes durable until the next start. `detail`: why."""
    log().error("journal.stopped", arena=name, journal=folder, detail=detail)


def journal_abandoned(name: str, folder: str, detail: str) -> None:
    """Tell that an arena was closed before all was on the disk, which does not answer, or is full. `detail`: what is known."""
    log().error("journal.abandoned", arena=name, journal=folder, detail=detail)


def journal_delayed(name: str, folder: str, detail: str) -> None:
    """Tell that nothing can be written, of a full disk say, and that it is tried again until it can. `detail` says why."""
    log().warning("journal.delayed", arena=name, journal=folder, detail=detail)


# -- faults -----------------------------------------------------------------------------------------------------------


def faults_armed(rules: list[str], seed: int, source: str) -> None:
    """Tell, loudly, that this process fails on purpose from now on.

    Args:
        rules: What goes wrong where, and how often.
        seed: Of the randomness.
        source: Who has asked for it.
    """
    log().warning(
        "faults.armed",
        note="FAULTS ARE ARMED: this process fails on purpose, and may kill itself. Never in production.",
        rules=rules,
        seed=seed,
        source=source,
    )


def fault_injected(fault_id: str, fault: str, at: str, where: str, handler: str) -> None:
    """Tell that a fault strikes now. It is told before: some leave nobody to tell.

    Args:
        fault_id: Its id: the seed, and its number.
        fault: What goes wrong.
        at: The kind of place.
        where: The line of code, where it is known.
        handler: Whose request it is.
    """
    log().warning("fault.injected", fault_id=fault_id, fault=fault, at=at, where=where, handler=handler)


def fault_not_injected(rule: str, handler: str, why: str) -> None:
    """Tell, once, that what a rule asks for can't be done to a handler.

    Args:
        rule: The rule.
        handler: Whose point was reached.
        why: What is missing there.
    """
    log().warning("fault.not_injected", rule=rule, handler=handler, why=why)
