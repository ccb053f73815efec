"""What is known of a file of commits whose head can't be read.

A restore begins a file, and what earlier files have beyond its place in the feed no longer counts. So a head that is passed over
must not take that with it: an earlier file would bring back what was cut off. The first batch says, under a checksum of its own,
where the file begins. Where that one can't be read either, nobody knows.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from recoverable._descriptors import opened
from recoverable._native.journal import crc32c

__all__ = ["Damaged", "begin_of"]

_HEAD: Final = 4096  # bytes
_BATCH: Final = struct.Struct("<2I6Q2I")  # format.h: struct rcv_batch
_MARK: Final = 0x48435442
_SUMMED: Final = 8  # the checksum is over what follows it


class Damaged(NamedTuple):
    """A file of commits whose head can't be read.

    Attributes:
        number: Of the file.
        why: What was found: a sentence with the file and the place, without a full stop.
        position: Where in the feed it begins; None: that can't be read, or it has no commits.
        end: Where the file before it ends in the feed, as far as that is wanted: between the two lies what may have been cut off.
    """

    number: int
    why: str
    position: int | None = None
    end: int = 0


def begin_of(path: str, number: int) -> int | None:
    """Return where in the feed a file begins, by its first batch; None: that is not sound, or there is none."""
    try:
        with opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
            head = os.pread(fd, _BATCH.size, _HEAD)
            if len(head) < _BATCH.size:
                return None
            mark, crc, of, offset, length, position, *_ = _BATCH.unpack(head)
            room = os.fstat(fd).st_size - _HEAD - _BATCH.size
            if (mark, of, offset) != (_MARK, number, _HEAD) or length > room:
                return None
            records = os.pread(fd, length, _HEAD + _BATCH.size)
    except OSError:
        return None
    is_sound = len(records) == length and crc32c(crc32c(0, head[_SUMMED:]), records) == crc
    return position if is_sound else None
