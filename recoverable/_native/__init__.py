"""The native core: one shared library under ctypes (the control plane) and Cython (the containers, the driver).

Both must use the *same* instance of the library: its SIGSEGV handler and its table of dirty pages exist once in a
process, and a second copy would fight the first over them. The Cython module is linked to the library, so importing it
loads the library from wherever the build has put it: beside the package in a wheel, in the build folder in an editable
install. `library_path` therefore looks beside the Cython module's own file, and `load` opens that file only if it is
the one that is loaded already.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["LIBRARY", "library_path", "load"]

LIBRARY = "librecoverable_core.so"

if not sys.platform.startswith("linux"):
    raise ImportError(
        f"recoverable runs on Linux only (this is {sys.platform}): it needs /dev/shm, futexes and "
        "open-file-description locks."
    )


def library_path() -> Path:
    """Find the shared library that the Cython module is linked to."""
    try:
        from recoverable._native import runtime
    except ModuleNotFoundError as error:
        if error.name != "recoverable._native.runtime":
            raise
        raise ImportError(
            "recoverable's native core is not built, so nothing can be opened. Install the package "
            "(`pip install .`, or `pip install -e .` in a source tree) instead of importing it from its sources."
        ) from error
    folder = Path(runtime.__file__).resolve().parent
    # In a build folder the library may lie one or two levels above the module, depending on which meson.build made it.
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / LIBRARY).is_file():
            return place / LIBRARY
    raise ImportError(f"{LIBRARY} is not beside {runtime.__file__}: the installation is damaged; install it again.")


def load() -> ctypes.PyDLL:
    """Open the library for ctypes.

    `PyDLL` keeps the GIL during a call, which is what guards the core's process state. RTLD_NOLOAD refuses to load
    a second copy.
    """
    return ctypes.PyDLL(str(library_path()), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
