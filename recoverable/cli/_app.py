"""The command's arguments, one function a command, and which exit code an error has."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import click

from recoverable import _shm
from recoverable._keys import said
from recoverable._options import human_size, parse_name
from recoverable.arena import open_copy
from recoverable.cli import (
    _capsule,
    _doctor,
    _doctor_journal,
    _file,
    _history,
    _image,
    _inspect,
    _journal,
    _outside,
    _portable,
    _top,
    _waiting,
    _watch,
)
from recoverable.cli._codes import ABSENT, BUG, DAMAGED, FOUND, INTERRUPTED, MACHINE, REFUSED, USAGE, Refused
from recoverable.cli._history_text import when
from recoverable.cli._history_where import opened
from recoverable.cli._live import Copy, Live, live
from recoverable.cli._portable_file import is_portable
from recoverable.cli._render import Progress, ago, say, show, table, write_json
from recoverable.errors import (
    ArenaBusyError,
    ArenaCorruptError,
    ArenaNotFoundError,
    ArenaOptionError,
    ArenaVersionError,
    CapsuleError,
    HistoryError,
    InternalError,
    RecoverableError,
)

__all__ = ["run"]

#: The first that fits: an error's class and its exit code. What is in no line is of the machine: memory, rights.
_CODES: Final = (
    (ArenaOptionError, USAGE),
    (ArenaNotFoundError, ABSENT),
    (HistoryError, ABSENT),
    (_inspect.PathError, ABSENT),
    (_file.DamagedFileError, DAMAGED),
    (ArenaBusyError, REFUSED),
    (ArenaCorruptError, DAMAGED),
    (CapsuleError, REFUSED),
    (ArenaVersionError, DAMAGED),
    (InternalError, BUG),
)


def run(arguments: list[str] | None = None) -> int:
    """Run the command; errors become one line on standard error.

    Returns:
        The exit code.
    """
    path = sys.path[:]  # commands that import the program's modules add its folder
    try:
        code = group.main(arguments, prog_name="recoverable", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit:  # click's own answer to a broken pipe, and to a shell that has got its completions
        return 0
    except BrokenPipeError:  # whoever reads has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0
    except RecoverableError as error:
        return _failed(str(error), next((code for kind, code in _CODES if isinstance(error, kind)), MACHINE))
    except OSError as error:
        return _failed(f"{error.filename or 'a system call'}: {error.strerror}", MACHINE)
    except MemoryError:
        return _failed(
            "this process got no more memory. Nothing was changed; ask for less, or raise its limit", MACHINE
        )
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return _failed(
            f"{type(error).__name__}: {said(error)} ({where}). This is a bug in recoverable: please report it", BUG
        )
    finally:
        sys.path[:] = path
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int) -> int:
    line = f"recoverable: {' '.join(message.split())}"
    click.echo(line.encode(errors="backslashreplace").decode(), err=True)
    return code


class _Commands(click.Group):
    """The commands: what a program that one of them runs ends itself with is no end of the command."""

    def invoke(self, context: click.Context) -> Any:
        """Run one."""
        try:
            return super().invoke(context)
        except SystemExit as error:
            raise click.ClickException(
                f"what was imported, or run, has ended the program (SystemExit: {said(error)})"
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="recoverable")
def group() -> None:
    """See which arenas there are, what is in them, and whether they are sound."""


group.add_command(_journal.journal)
for _command in _history.commands:
    group.add_command(_command)
group.add_command(_capsule.capsule)

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


@group.command()
@_json
def ls(as_json: bool) -> None:
    """List the arenas of this machine."""
    found: list[_outside.Peek] = []
    bad: list[tuple[str, str]] = []
    for name in _outside.names():
        try:
            found.append(_outside.peek(name))
        except ArenaNotFoundError:
            bad.append((name, "its making was not finished"))
        except RecoverableError as error:
            bad.append((name, str(error)))
    bad += _outside.others().items()
    if as_json:
        write_json([*map(_as_json, found), *({"name": name, "error": why} for name, why in bad)])
        return
    if found:
        table(
            ("NAME", "USED", "OF", "PROCESSES", "COMMITS", "LAST RECOVERY", "JOURNAL"),
            [
                (p.name, human_size(p.used), human_size(p.size), _processes(p), str(p.commits), _last(p), _journaled(p))
                for p in found
            ],
            numbers=(1, 2, 4),
        )
    for name, why in bad:
        say(f"{name}: {why}")


def _as_json(peek: _outside.Peek) -> dict[str, Any]:
    fields = dataclasses.asdict(peek)
    del fields["backed"], fields["cuts"]
    columns = (fields.pop("alive"), fields.pop("attached_at"), fields.pop("foreign"))
    fields["processes"] = [
        {"pid": pid, "attached_at": at, "other_namespace": foreign} for pid, at, foreign in zip(*columns, strict=True)
    ]
    return fields


def _processes(peek: _outside.Peek) -> str:
    here = [str(pid) for pid, foreign in zip(peek.alive, peek.foreign, strict=True) if not foreign]
    there = [str(pid) for pid, foreign in zip(peek.alive, peek.foreign, strict=True) if foreign]
    parts = [" ".join(here)] if here else []
    if there:
        parts.append(f"{' '.join(there)} (of another PID namespace)")
    if peek.dead:
        parts.append(f"{' '.join(map(str, peek.dead))} (dead)")
    return ", ".join(parts) or "none"


def _last(peek: _outside.Peek) -> str:
    """Say when a step was last undone; that one waits to be undone where nobody is left to do it."""
    if peek.phase != "idle" and not peek.alive:
        return "at the next open"
    return ago(peek.recovered_at) + (f" ({peek.recoveries})" if peek.recoveries else "")


def _journaled(peek: _outside.Peek) -> str:
    """Say how far its journal is; "": it has none."""
    if peek.feed is None or (journal := peek.feed.journal) is None:
        return ""
    flushes = peek.feed.flushes
    if flushes is not None and (flushes.stopped or flushes.delayed):
        return f"{'stopped' if flushes.stopped else 'waits'}: {flushes.stopped or flushes.delayed}"
    by = f"by {journal.process}" if journal.process else "by nobody"
    return f"{journal.commits} behind, {by}" if journal.bytes else f"up to date, {by}"


@group.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Remove it even though processes are attached, or though it can't be told.")
def rm(name: str, force: bool) -> None:
    """Remove an arena and all that is in it.

    Refused while a live process is attached. With --force such a process keeps the memory and goes on in it, but nobody
    else can reach that any more: who opens the name next makes a new, empty arena, and all that the process commits
    is lost when it ends.
    """
    if name not in _outside.others():
        parse_name(name)
    with _shm.locked(name, create=False, timeout=5.0) as fd:  # nobody can attach meanwhile
        try:
            alive = _outside.peek_fd(fd, name).alive
        except ArenaNotFoundError:
            alive = ()  # half-made: nobody has ever had it
        except (ArenaCorruptError, ArenaVersionError) as error:
            if not force:
                raise Refused(
                    f"can't tell whether a process is attached to {name!r}: {error}. It was not removed; --force removes it"
                ) from None
            alive = ()
        if alive and not force:
            raise Refused(
                f"{name!r} was not removed: {_pids(alive)} {_are(alive)} attached. End them first; or --force, after which they "
                "go on in memory that nobody else can reach, and what they commit is lost when they end, but for a journal"
            )
        _shm.unlink(name)
    say(f"removed {name}")
    if alive:
        click.echo(
            f"recoverable: {_pids(alive)} {_are(alive)} still in the removed arena; what they commit is lost when they end, "
            f"and who opens {name!r} now makes a new one; with a journal it is written there, and who opens it now is refused: "
            "restart them",
            err=True,
        )


def _are(pids: tuple[int, ...]) -> str:
    return "is" if len(pids) == 1 else "are"


def _pids(pids: tuple[int, ...]) -> str:
    return f"{'process' if len(pids) == 1 else 'processes'} {', '.join(map(str, pids))}"


@group.command()
@click.argument("name")
@_json
def verify(name: str, as_json: bool) -> None:
    """Check everything in an arena.

    What is checked is a private copy, so the arena stays as it is. A server that works without a pause waits while
    the copy is made, less than a millisecond for each megabyte in use.
    """
    with _image.opened_copy(name) as copy:
        report = dataclasses.asdict(copy.verify())
        recovered = copy.recovered
    pending = recovered.records if recovered is not None else 0
    if as_json:
        write_json({"name": name, "sound": True, "undo_records": pending, **report})
        return
    say(
        f"{name} is sound: {report['containers']} containers, {report['entries']} entries, {report['blocks']} blocks of "
        f"{human_size(report['bytes'])}, {report['leaked_blocks']} leaked"
    )
    if pending:
        say(f"a process died in the middle of a step; the next to open {name} will undo its {pending} writes")


@group.command()
@click.argument("name")
@click.argument("path", default="root")
@click.option("--depth", default=1, show_default=True, type=click.IntRange(0, 20), help="Levels of containers to open.")
@click.option("--offset", default=0, type=click.IntRange(0), help="Entries to leave out, of the container at PATH.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Entries to show of each.")
@click.option("--memory", is_flag=True, help="Look at a copy, which tells memory of the largest, too.")
@click.option(
    "--at", callback=when, metavar="COMMIT|TIME", help="As it was after a commit, or at a time, by its journal."
)
@_json
def inspect(name: str, path: str, depth: int, offset: int, limit: int, memory: bool, at: Any, as_json: bool) -> None:
    """Show what is in an arena, or the value at PATH. With --at, NAME may also be the folder of its journal, as a path.

    PATH is written as in Python: 'root["carts"]["ann"].total', or '["carts"]["ann"]', or carts/ann/total. Servers that
    work in the arena don't notice: it is read without its lock, as of a moment between two commits.
    """
    steps = _inspect.parse(path)
    with contextlib.ExitStack() as stack:
        source: Copy | Live
        if at is not None:
            source = Copy(stack.enter_context(opened(name)).at(at, progress := Progress(quiet=as_json)))
            progress.end()
        elif memory:
            source = Copy(stack.enter_context(_image.opened_copy(name)).root)
        else:
            source = stack.enter_context(live(name))
        node = _inspect.look(source, steps, depth=depth, offset=offset, limit=limit)
    if as_json:
        write_json(node.as_json())
        return
    rows = [(label, item.kind, item.size, _memory(item), item.text) for label, item in node.rows()]
    table(("PATH", "TYPE", "SIZE", "MEMORY", "VALUE"), rows, numbers=(2, 3))


def _memory(node: _inspect.Node) -> str:
    return "" if node.memory is None else human_size(node.memory)


@group.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--portable", is_flag=True, help="Write text that any release reads, on any machine.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def export(name: str, file: Path, portable: bool, force: bool) -> None:
    """Write the committed state of an arena to a file, with a checksum.

    A server that works without a pause waits while its memory is copied; the file is written after that.
    """
    if file.exists() and not force:
        raise Refused(f"{file} is there already and was not touched; --force replaces it")
    progress = Progress()
    with _image.capture(name) as copy:
        with open_copy(name, copy) as arena:
            arena.verify()  # recovered, and sound
            if portable:
                size = _portable.export_file(arena, name, file, progress)
        if not portable:
            size = _file.write(copy, name, file)
    progress.end()
    say(f"exported {name}: {human_size(size)} in {file}")


@group.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--size", help="The new arena's size, as '256 MiB', if the file is a portable one. Default: as it was.")
@click.option("--feed", help="Bytes of its feed, likewise; a journal needs one. Default: as it was.")
def import_(name: str, file: Path, size: str | None, feed: str | None) -> None:
    """Make an arena of what `export` has written, of either kind.

    The checksum and everything in the state are checked before it gets its name. Refused where there is an arena of
    that name.
    """
    parse_name(name)
    if is_portable(file):
        progress = Progress()
        try:
            _portable.import_file(file, name, size=size, feed=feed, progress=progress)
        finally:
            progress.end()
    elif size is not None or feed is not None:
        raise click.UsageError(
            f"{file} is a copy of an arena, which keeps its size and its feed: --size and --feed need a file of export --portable"
        )
    else:
        _import_copy(name, file)
    say(f"imported {name}")


def _import_copy(name: str, file: Path) -> None:
    with _file.read(file) as copy:
        try:
            with open_copy(name, copy) as arena:
                arena.verify()
        except ArenaVersionError as error:
            raise ArenaVersionError(
                f"{file} can't be imported here: {error}. Nothing was imported. Import it with the release that wrote it, and move "
                "what is in it from there: docs/howto/migration.md"
            ) from None
        _image.renew(copy, name)
        if not _image.publish(copy, name):
            raise _portable.there_is(name)


@group.command()
@click.argument("name")
@click.option(
    "--interval", default=1.0, show_default=True, type=click.FloatRange(0.05, 3600), help="Seconds between looks."
)
@click.option("--count", default=0, type=click.IntRange(0), help="Looks, after which it ends; 0: until Ctrl-C.")
@click.option("--once", is_flag=True, help="One table, of what happened within one interval.")
@click.option("--waiting", is_flag=True, help="The requests in flight, the oldest first, and what they wait for.")
@_json
def top(name: str, interval: float, count: int, once: bool, waiting: bool, as_json: bool) -> None:
    """Watch an arena: requests, commits, rollbacks, conflicts a second and what checkpoints cost, by handler.

    On a terminal it is one screen that is kept up to date, until q or Ctrl-C; in a pipe a line a look, or with --json an
    object a line.
    """
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        if waiting:
            _top_waiting(name, interval, 1 if once else count, once, as_json)
            return
        if once:
            *_, last = _top.samples(name, interval, 2)
            if as_json:
                write_json(last.as_json())
            else:
                show(_top.screen(last, hint=False))
            return
        if sys.stdout.isatty() and not as_json:
            _watch.watch(lambda pause: map(_top.screen, _top.samples(name, interval, count, pause)), count)
            return
        for sample in _top.samples(name, interval, count):
            say(json.dumps(sample.as_json(), ensure_ascii=False) if as_json else _top.line(sample))


def _top_waiting(name: str, interval: float, count: int, once: bool, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json and not once:
        _watch.watch(lambda pause: map(_waiting.screen, _waiting.looks(name, interval, count, pause)), count)
        return
    for look in _waiting.looks(name, interval, count):
        if not as_json:
            show(_waiting.screen(look, hint=False))
        elif once:
            write_json(look.as_json())
        else:
            say(json.dumps(look.as_json(), ensure_ascii=False))


@group.command()
@click.option("--journal", "folder", type=click.Path(), help="The folder of a journal: look at that, too.")
@_json
def doctor(folder: str | None, as_json: bool) -> int:
    """Check what this machine allows, with the remedy for each finding.

    Ends with 1 if something has to be mended.
    """
    findings = _doctor.examine()
    if folder is not None:
        findings += _doctor_journal.examine(folder)
    if as_json:
        write_json([dataclasses.asdict(finding) for finding in findings])
    else:
        table(("", "WHAT", "FOUND"), [(f.level, f.what, f.found) for f in findings])
        for finding in findings:
            if finding.remedy:
                say(f"\n{finding.what}: {finding.remedy}")
    return FOUND if any(finding.level == "bad" for finding in findings) else 0
