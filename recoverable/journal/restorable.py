"""Whether a restore could bring back what a journal has, as far as that is seen at once.

A start that finds the arena in memory does not need the journal's past, and must not go on from one that is broken: what it says
is durable, nobody could restore. So it looks at the last page of the snapshot that a restore would begin with, and at the heads of
the files behind it. They join if none is missing between two that do. Only where one is, or a head is damaged, what is before that
place is read: a restore may have gone back to there, and then it is not needed.

What is not seen: damage in the middle of a snapshot, or of a file before the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recoverable.errors import ArenaCorruptError
from recoverable.journal import order, snapshots
from recoverable.journal.order import Used

if TYPE_CHECKING:
    from recoverable._native.journal import Start
    from recoverable.journal.folder import Folder

__all__ = ["lack"]


def lack(folder: Folder) -> str:
    """Say what a restore would lack, without a full stop; "": nothing that is seen at once."""
    starts, damaged = folder.heads()  # first: a compaction drops files when its snapshot has its name
    failures: list[ArenaCorruptError] = []
    for snapshot, _ in snapshots.latest(folder, failures):
        if snapshot.position <= order.cut_of(snapshot, starts, damaged):
            break
    else:
        found = (
            str(failures[0])
            if failures
            else f"journal {folder.path!r} has no snapshot that a restore could begin with."
        )
        return found.removesuffix(".")
    total, before = order.replayed_none(snapshot), order.before_all(snapshot, starts, damaged)
    wanted: Start | None = None  # the one before
    ends = order.ends_of(starts, damaged)
    sound = {each.number for each in starts}
    for i, each in enumerate(starts):
        if order.is_older(each, snapshot) or ends[i] <= max(snapshot.position, each.position):
            continue
        if wanted is not None:
            if sound.issuperset(range(wanted.number, each.number)):
                total = total._replace(position=each.position, chain=each.chain)
            else:
                try:
                    position, chain = _end(folder, wanted, ends[starts.index(wanted)])
                except ArenaCorruptError as error:
                    return str(error).removesuffix(".")
                total = total._replace(position=position, chain=chain)
        if why := order.gap(folder, snapshot, starts, i, before, total):
            last = before.number
            return next((bad.why for bad in reversed(damaged) if last < bad.number < each.number), why).removesuffix(
                "."
            )
        wanted, before = each, Used(each.number, each.epoch)
    return ""


def _end(folder: Folder, head: Start, end: int) -> tuple[int, int]:
    """Return where a file ends, or counts up to, and the checksum of the batch before: as a replay finds it, also in a batch."""
    try:
        with folder.open_file(head.number) as file:
            while (part := file.replay(None, head.position, end)).more:
                pass
        return part.position if part.bytes else head.position, part.chain
    except ArenaCorruptError:
        position, chain = head.position, head.chain
        with folder.open_file(head.number) as file:
            while position < end and (batch := file.next()) is not None:
                position, chain = batch.end, batch.chain
        return position, chain
