"""Threads of the library's own."""

from __future__ import annotations

import threading

from recoverable._native.runtime import own_thread

__all__ = ["OwnThread"]


class OwnThread(threading.Thread):
    """One that stores nothing through raw buffers, and is counted as such."""

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: There can be no more threads.
        """
        own_thread(1)
        try:
            super().start()
        except RuntimeError:
            own_thread(-1)
            raise

    def run(self) -> None:
        """Do what it is for."""
        try:
            super().run()
        finally:
            own_thread(-1)
