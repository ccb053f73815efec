"""The program of a server: `python -m support.frameworks.child FRAMEWORK PROTECT SERVER ARENA FOLDER SOCKET`."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import signal
import socket
import sys
from pathlib import Path

from recoverable import Arena
from support.frameworks.work import Outermost, Work


def main(framework: str, protect: str, server: str, name: str, folder: str, fd: str) -> None:
    """Serve an application on a socket that is there already, for as long as the test lives."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    work = Work(Arena.open(name, create=False, busy_timeout=0.5), Path(folder))
    app = Outermost(importlib.import_module(f"support.frameworks.on_{framework}").build(work, protect), Path(folder))
    if server == "uvicorn":
        import uvicorn

        config = uvicorn.Config(app, lifespan="on", log_level="warning", timeout_graceful_shutdown=GRACE)
        uvicorn.Server(config).run([socket.socket(fileno=int(fd))])
    else:
        import hypercorn.asyncio
        import hypercorn.config

        settings = hypercorn.config.Config()
        settings.bind = [f"fd://{fd}"]
        settings.graceful_timeout = GRACE
        asyncio.run(hypercorn.asyncio.serve(app, settings))  # type: ignore[arg-type]


PR_SET_PDEATHSIG = 1
GRACE = 2  # seconds that a request has to end in when the server is to

if __name__ == "__main__":
    main(*sys.argv[1:])
