"""How a module of this tree is started as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The tree goes *behind* what is installed: its own `recoverable/` is not built.
START = (
    "import runpy, sys; sys.path.append({root!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with these arguments."""
    return [sys.executable, "-P", "-c", START.format(root=str(ROOT), module=module), *arguments]
