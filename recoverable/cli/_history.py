"""`recoverable log`, `blame`, `show`, `diff`, `bisect`: what an arena was, and who has changed it, by its journal."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import click

from recoverable._keys import said
from recoverable._native.runtime import Container
from recoverable.cli import _history_blame
from recoverable.cli._codes import FOUND
from recoverable.cli._history_text import (
    as_json,
    change_json,
    clipped,
    coloured,
    commit_json,
    line,
    local,
    span,
    value_json,
    when,
)
from recoverable.cli._history_where import opened, place
from recoverable.cli._render import say, table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from recoverable.feed import Commit
    from recoverable.history import Change, Difference, History

__all__ = ["commands"]

_SHOWN: Final = 20  # commits, unless -n says otherwise

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_where = click.argument("where", metavar="ARENA|FOLDER")


def _note(text: str) -> None:
    """Say that there is nothing to show: not among the results, which may go on to another program."""
    click.echo(text, err=True)


def _parts(commit: Commit) -> tuple[str, str, str, str]:
    return str(commit.seq), local(commit.at), commit.handler, commit.request_id or ""


# -- log ---------------------------------------------------------------------------------------------------------------------


@click.command()
@_where
@click.option("--path", help="Those that have changed what is there: root['accounts']['ann'], or accounts/ann.")
@click.option("--handler", help="Those of this handler.")
@click.option("--request-id", help="Those of this request.")
@click.option("--since", callback=when, help="From this commit, or time, on.")
@click.option("--until", callback=when, help="Up to this commit, or time.")
@click.option("-n", "number", type=click.IntRange(0), help=f"How many; 0: all, a line each. Default: {_SHOWN}.")
@click.option("-f", "--follow", is_flag=True, help="The oldest first, and go on with new ones, until Ctrl-C.")
@_json
def log(where: str, path: str | None, number: int | None, follow: bool, as_json: bool, **filters: Any) -> None:
    """List commits, the newest first.

    A time is local unless it says otherwise: 2026-05-31, '2026-05-31 12:00', 2026-05-31T12:00:00Z; 2h is two hours ago.
    """
    number = _SHOWN if number is None else number
    with opened(where) as history:
        if follow:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
                _follow(history, path, number, as_json, filters)
            return
        found = _found(history, path, filters)
        shown = 0
        if number == 0:
            for each in found:
                _line(each, as_json)
                shown += 1
        else:
            rows = list(itertools.islice(found, number + 1))
            shown = len(rows)
            _page(rows[:number], path is not None, as_json)
            if shown > number:
                _note(f"the last {number}; -n {number * 2} shows more, -n 0 all")
        if not shown:
            _note("no such commit in the history that is kept" if path or any(filters.values()) else "no commits")


def _found(history: History, path: str | None, filters: dict[str, Any]) -> Iterator[tuple[Commit, Any]]:
    """Yield commits, each with what it has changed at a path; None: no path was named."""
    if path is None:
        yield from ((commit, None) for commit in history.commits(**filters))
    else:
        yield from ((each.commit, each.differences) for each in history.changes(place(history, path), **filters))


def _follow(history: History, path: str | None, number: int, as_json: bool, filters: dict[str, Any]) -> None:
    """Show the last commits, and then those that come."""
    if filters.pop("until") is not None:
        raise click.UsageError("--follow goes on with new commits, and --until ends: choose one of them")
    newest = history.newest
    at = None if path is None else place(history, path)
    since = filters.pop("since")
    watch = history.watch(at, after=newest, **filters)
    found = _found(history, at, {"since": since, "until": newest, **filters})
    for each in [*itertools.islice(found, number)][::-1]:
        _line(each, as_json)
    for change in watch:
        _line((change.commit, None if at is None else change.differences), as_json)


def _page(found: list[tuple[Commit, Any]], changes: bool, as_json: bool) -> None:
    if as_json:
        write_json([_json_of(*each) for each in found])
        return
    rows = [(*_parts(commit), *_summary(differences)) for commit, differences in found]
    titles = ("COMMIT", "TIME", "HANDLER", "REQUEST", *(("CHANGED",) if changes else ()))
    if rows:
        table(titles, rows, numbers=(0,))


def _line(each: tuple[Commit, Any], as_json: bool) -> None:
    if as_json:
        say(json.dumps(_json_of(*each), ensure_ascii=False))
        return
    seq, at, handler, request = _parts(each[0])
    say("  ".join((seq, at, handler, request or "-", *_summary(each[1]))))


def _json_of(commit: Commit, differences: Any) -> dict[str, Any]:
    return commit_json(commit) if differences is None else change_json(commit, differences)


def _summary(differences: Any) -> tuple[str, ...]:
    if differences is None:
        return ()
    more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
    return (f"{line(differences[0], plain=True)}{more}",)


# -- blame -------------------------------------------------------------------------------------------------------------------


@click.command()
@_where
@click.argument("path", default="root")
@click.option("--offset", default=0, type=click.IntRange(0), help="Entries to leave out.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Entries to show.")
@_json
def blame(where: str, path: str, offset: int, limit: int, as_json: bool) -> None:
    """Show who has last changed what is at PATH: each entry of a container, or the one value."""
    with opened(where) as history:
        found, left_out, oldest = _history_blame.of(history, place(history, path), offset, limit)
    if as_json:
        write_json(
            [
                {"path": each.path}
                | ({} if each.gone else {"value": value_json(_history_blame.whole(each.value))})
                | {"commit": None if each.commit is None else commit_json(each.commit)}
                for each in found
            ]
        )
        return
    rows = [
        (
            each.path,
            "(nothing)" if each.gone else _text(each.value),
            *(("", f"up to commit {oldest}", "", "") if each.commit is None else _parts(each.commit)),
        )
        for each in found
    ]
    if rows:
        table(("PATH", "VALUE", "COMMIT", "TIME", "HANDLER", "REQUEST"), rows, numbers=(2,))
    else:
        _note("it is empty")
    if left_out:
        _note(f"{left_out} more: --offset, --limit")


def _text(value: Any) -> str:
    """Return a value for a table; of a container what `inspect` says."""
    if not isinstance(value, Container):
        return clipped(value)
    kind, length, about = value._about()
    if length is None:
        return clipped(value.to_python())
    return (about and f"{kind} {about}") or f"{kind} of {length}"


# -- show and diff -----------------------------------------------------------------------------------------------------------


@click.command()
@_where
@click.argument("commit", metavar="[COMMIT]", callback=when, required=False)
@_json
def show(where: str, commit: Any, as_json: bool) -> None:
    """Show a commit, and what it has changed. COMMIT is its number, or a time; the newest if not said."""
    with opened(where) as history:
        change = history.changed_by(history.newest if commit is None else commit)
    _show(change, as_json)


def _show(change: Change, as_json: bool, before: str = "") -> None:
    if as_json:
        write_json(change_json(change.commit, change.differences))
        return
    commit = change.commit
    say(coloured(f"commit {commit.seq}{before}", "yellow"))
    say(f"Time:    {local(commit.at)}")
    say(f"Handler: {commit.handler}")
    if commit.request_id is not None:
        say(f"Request: {commit.request_id}")
    say("")
    if not _lines(change.differences):
        say("it has left everything as it was")


def _lines(differences: Any) -> int:
    for each in differences:
        say(line(each))
    return len(differences)


@click.command()
@_where
@click.argument("commits", metavar="A..B")
@click.option("--path", default="root", help="At this path, or below it.")
@click.option("--exit-code", is_flag=True, help="End with 1 if anything is different.")
@_json
def diff(where: str, commits: str, path: str, exit_code: bool, as_json: bool) -> int:
    """Show what is different in the state after commit B from the one after commit A.

    Either may be a time. A.. goes up to the newest, ..B begins with the oldest state that is kept.
    """
    first, last = span(commits)
    with opened(where) as history:
        first = history.oldest if first is None else first
        last = history.newest if last is None else last
        found: list[Difference] = history.diff(first, last, place(history, path))
    if as_json:
        write_json([_as_json(each) for each in found])
    elif not _lines(found):
        _note("nothing is different")
    return FOUND if found and exit_code else 0


_as_json = as_json  # the commands have an argument of that name


# -- bisect ------------------------------------------------------------------------------------------------------------------


class FunctionError(click.ClickException):
    """The function that bisect was given can't say whether a state is good."""

    exit_code = FOUND


@click.command()
@_where
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--good", callback=when, help="A commit, or time, after which it is true. Default: the oldest state that is kept."
)
@click.option("--bad", callback=when, help="One after which it is false. Default: the newest.")
@click.option("--quiet", is_flag=True, help="Don't say what is being looked at.")
@_json
def bisect(where: str, function: str, good: Any, bad: Any, quiet: bool, as_json: bool) -> None:
    """Find the first commit after which FUNCTION is false, and show it.

    FUNCTION is called with the root of a state, which can only be read, and returns whether that is good. MODULE is imported from
    the current directory, or from where Python looks.
    """
    asks = _function(function)

    def progress(first: int, last: int) -> None:
        left = last - first - 1
        if not quiet:
            steps = max(left, 0).bit_length()
            _note(f"good after {first}, bad after {last}: about {steps} more to look at" if left else f"found: {last}")

    with opened(where) as history:
        try:
            change = history.bisect(asks, good, bad, progress)
        except _Raised as raised:
            raise FunctionError(f"{function} {raised} {' '.join(raised.__notes__)}") from None
    _show(change, as_json, " is the first bad one")


class _Raised(Exception):
    """The function has raised something, or has returned no answer."""


def _function(text: str) -> Callable[[Any], bool]:
    """Return the function that MODULE:FUNCTION names, which raises nothing but _Raised."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise click.BadParameter(f"{text!r} is not MODULE:FUNCTION, as checks:balanced", param_hint="MODULE:FUNCTION")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    found: ModuleType | Any
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise click.BadParameter(f"{text!r} can't be had: {_of(error)}", param_hint="MODULE:FUNCTION") from None
    if not callable(found):
        raise click.BadParameter(f"{text!r} is no function", param_hint="MODULE:FUNCTION")

    def asks(root: Any) -> bool:
        try:
            answer = found(root)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError("it is asynchronous; bisect takes a plain function")
            return bool(answer)
        except (Exception, SystemExit) as error:  # of a function that would end the program we say no less
            raise _Raised(f"has failed: {_of(error)}.") from None

    return asks


def _of(error: BaseException) -> str:
    """Say what was raised, and where, without our own frames."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(("<", _HERE))]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119
    return f"{type(error).__name__}: {said(error)}{where}"


_HERE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120

commands: Final = (log, blame, show, diff, bisect)
