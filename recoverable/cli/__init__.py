"""The `recoverable` command: see which arenas there are, what is in them, whether they are sound.

It needs the extra `cli`. Nothing in the library imports this package.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and exit with its code."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        print(f"recoverable: {error.name} is not installed: pip install 'recoverable[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(5)
    from recoverable.cli._app import run

    sys.exit(run())
