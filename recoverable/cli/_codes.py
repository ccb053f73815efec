"""Exit codes of the command (docs/cli.md)."""

from __future__ import annotations

import click

__all__ = ["ABSENT", "BUG", "DAMAGED", "FOUND", "INTERRUPTED", "MACHINE", "REFUSED", "USAGE", "Refused"]

FOUND, USAGE, ABSENT, REFUSED, MACHINE, DAMAGED, BUG, INTERRUPTED = 1, 2, 3, 4, 5, 6, 70, 130


class Refused(click.ClickException):
    """The command did nothing, because it would do harm."""

    exit_code = REFUSED
