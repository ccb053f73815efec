"""The `recoverable` command as a user has it: a process with arguments, two streams and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

__all__ = ["child", "command", "command_json"]


def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with its output in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "recoverable.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        check=False,
    )


def command_json(*arguments: str) -> Any:
    """Run the command with --json, which must end well, and return what it wrote."""
    done = command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that has written "ready" and waits for its standard input to close."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process
