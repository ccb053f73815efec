"""Times as records have them: nanoseconds since the epoch."""

from __future__ import annotations

import datetime
from typing import Final

__all__ = ["of"]

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LAST: Final = (
    253_402_300_799_999_999  # microseconds: a damaged record may say anything, and datetime ends with the year 9999
)


def of(at: int) -> datetime.datetime:
    """Return the moment that a record says, in UTC."""
    return _EPOCH + datetime.timedelta(microseconds=min(at // 1000, _LAST))
