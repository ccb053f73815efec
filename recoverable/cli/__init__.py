"""The `recoverable` command: see which arenas there are, what is in them, whether they are sound.

Nothing in the library imports this package, and so neither click nor rich.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    from recoverable.cli._app import run

    sys.exit(run())
