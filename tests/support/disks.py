"""Disks and file systems that this machine does not have: a library in front of the C library, for a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* LOST=<name of a file>:<offset>: the disk has lost that byte. What is in front of it can be read. */
static ssize_t lost(int fd, void *to, size_t n, off_t at)
{
    static ssize_t (*real)(int, void *, size_t, off_t);
    char link[64], path[4096], name[256];
    long long where;
    const char *said = getenv("LOST");
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "pread");
    if (said != NULL && sscanf(said, "%255[^:]:%lld", name, &where) == 2) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = '\0';
        const char *base = strrchr(path, '/');
        if (base != NULL && strcmp(base + 1, name) == 0 && at <= where && (long long)n > where - at) {
            if (at == where || where - at < 64) {
                errno = EIO;
                return -1;
            }
            n = (size_t)(where - at);
        }
    }
    return real(fd, to, n, at);
}
ssize_t pread(int fd, void *to, size_t n, off_t at) { return lost(fd, to, n, at); }
#ifndef pread64 /* musl: the same */
ssize_t pread64(int fd, void *to, size_t n, off_t at) { return lost(fd, to, n, at); }
#endif

/* PLAIN=1: a file system whose rename() takes no flags, as NFS. KILLED=1: and who has made a link dies. */
int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    static int (*real)(int, const char *, int, const char *, unsigned);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "renameat2");
    if (flags != 0 && getenv("PLAIN") != NULL) {
        errno = EINVAL;
        return -1;
    }
    return real(from, old, to, new, flags);
}
int linkat(int from, const char *old, int to, const char *new, int flags)
{
    static int (*real)(int, const char *, int, const char *, int);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "linkat");
    int rc = real(from, old, to, new, flags);
    if (getenv("KILLED") != NULL)
        raise(SIGKILL);
    return rc;
}
"""


def shim(folder: Path) -> str:
    """Make the library; return its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = folder / "disks.c", folder / "disks.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60)
    return str(library)


def run(library: str, program: str, *arguments: str, **what: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python with that disk; it is not checked."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(), **what},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
