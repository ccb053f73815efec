"""The file that `export` writes: a copy of a segment without its holes, and a checksum.

    RCVFILE1 · head: 4 bytes of length, then JSON · pieces: offset and length of 8 bytes each, then the bytes · a piece of
    length 0 · SHA-256 of all before it

Numbers are little endian. The bytes are the segment's own format (docs/format.md), so a file is read where the segment
could be: same format number, byte order, page size, C library, user.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from recoverable.cli._image import extents
from recoverable.errors import RecoverableError
from recoverable.portable import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DamagedFileError", "read", "write"]

_MAGIC: Final = b"RCVFILE1"
_HEAD: Final = struct.Struct("<I")
_PIECE: Final = struct.Struct("<QQ")
_LARGEST: Final = 1 << 22
_MOST_HEAD: Final = 1 << 16


class DamagedFileError(RecoverableError):
    """An exported file is not one, or not whole."""


def write(copy: int, name: str, path: Path) -> int:
    """Write a copy of an arena to a file; it has its name only when it is whole and on the disk.

    Returns:
        The bytes written.
    """
    head = json.dumps({"name": name, "size": os.fstat(copy).st_size, "exported_at": int(time.time())}).encode()
    total = hashlib.sha256()
    with whole_file(path) as file:

        def put(data: bytes) -> None:
            total.update(data)
            file.write(data)

        put(_MAGIC + _HEAD.pack(len(head)) + head)
        for start, length in extents(copy):
            for at in range(start, start + length, _LARGEST):
                data = os.pread(copy, min(_LARGEST, start + length - at), at)
                put(_PIECE.pack(at, len(data)))
                put(data)
        put(_PIECE.pack(0, 0))
        file.write(total.digest())
        return file.tell()


@contextmanager
def read(path: Path) -> Iterator[int]:
    """Read a file that `write` has written, checksum included.

    Yields:
        The file descriptor of a private copy of the segment, closed afterwards.

    Raises:
        DamagedFileError: It is no such file, or it has changed since.
    """
    copy = os.memfd_create("recoverable.import", os.MFD_CLOEXEC)
    try:
        with path.open("rb") as file:
            total = hashlib.sha256()

            def take(length: int) -> bytes:
                data = file.read(length)
                if len(data) != length:
                    raise DamagedFileError(
                        f"{path} ends too early; nothing was imported: copy it again from where it was made"
                    )
                total.update(data)
                return data

            if file.read(len(_MAGIC)) != _MAGIC:
                raise DamagedFileError(f"{path} is no file that `recoverable export` has written; nothing was imported")
            total.update(_MAGIC)
            damaged = DamagedFileError(
                f"{path} has changed since it was written: its checksum does not fit; nothing was imported"
            )
            (length,) = _HEAD.unpack(take(_HEAD.size))
            try:
                size = int(json.loads(take(min(length, _MOST_HEAD)))["size"])
                os.ftruncate(copy, size)
            except (ValueError, KeyError, TypeError, OverflowError, OSError):
                raise damaged from None
            while True:
                start, length = _PIECE.unpack(take(_PIECE.size))
                if not length:
                    break
                if length > _LARGEST or start + length > size:
                    raise damaged
                os.pwrite(copy, take(length), start)
            expected = total.digest()
            if file.read() != expected:
                raise damaged
        yield copy
    finally:
        os.close(copy)
