"""`recoverable capsule`: which requests have crashed, what is known of each, and running one again."""

from __future__ import annotations

import os
import pdb
import re
import sys
from typing import Any, Final

import click

from recoverable.capsules import Capsule
from recoverable.capsules.writer import FILE
from recoverable.cli._codes import DAMAGED, FOUND
from recoverable.cli._history_text import local
from recoverable.cli._render import say, table, write_json
from recoverable.errors import ArenaNotFoundError, CapsuleError

__all__ = ["capsule"]

_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
_file = click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
_SHOWN: Final = 4000  # characters of a body
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@click.group()
def capsule() -> None:
    """See requests that have crashed, and run one again on the state that it saw."""


def _opened(file: str) -> Capsule:
    try:
        return Capsule.open(file)
    except FileNotFoundError:
        raise ArenaNotFoundError(f"there is no file {file!r}") from None
    except CapsuleError as error:
        raise _UnreadableError(str(error)) from None


class _UnreadableError(click.ClickException):
    exit_code = DAMAGED


@capsule.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False))
@_json
def ls(folder: str, as_json: bool) -> None:
    """List the capsules of a folder, the oldest first."""
    try:
        names = sorted(name for name in os.listdir(folder) if FILE.fullmatch(name))  # noqa: PTH208
    except FileNotFoundError:
        raise ArenaNotFoundError(f"there is no folder {folder!r}") from None
    found: list[tuple[str, Capsule | str]] = []
    for name in names:
        try:
            found.append((name, Capsule.open(os.path.join(folder, name))))  # noqa: PTH118
        except FileNotFoundError:  # dropped meanwhile
            continue
        except (CapsuleError, OSError) as error:
            found.append((name, str(error)))
    if as_json:
        write_json([_row(name, each) for name, each in found])
        return
    rows = []
    for name, each in found:
        if isinstance(each, str):
            rows.append((name, "", "", "", "", _harmless(each)))
        else:
            request = (
                ""
                if each.request is None
                else f"{each.request['method']} {each.request['route'] or each.request['url']}"
            )
            commit = "" if each.end is None else str(each.end)
            cells = (_harmless(each.handler), _harmless(request), commit, _harmless(each.summary))
            rows.append((name, local(each.at), *cells))
    table(("FILE", "TIME", "HANDLER", "REQUEST", "COMMIT", "WHAT"), rows, numbers=(4,))


def _harmless(text: str) -> str:
    """Return it with its control characters as escapes: what a client has sent must not move the operator's terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _say(text: str) -> None:
    say(_harmless(text))


def _row(name: str, found: Capsule | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"file": name, "problem": found}
    return {
        "file": name,
        "at": found.at.isoformat(),
        "handler": found.handler,
        "request_id": found.request_id,
        "method": None if found.request is None else found.request["method"],
        "route": None if found.request is None else found.request["route"],
        "end": found.end,
        "error": None if found.error is None else found.error["type"],
        "message": None if found.error is None else found.error["message"],
    }


@capsule.command()
@_file
@click.option("--test", is_flag=True, help="Write a pytest function that replays it.")
@click.option("--app", metavar="MODULE:APP", help="Which that function replays it with. Default: the handler alone.")
@_json
def show(file: str, test: bool, app: str | None, as_json: bool) -> None:
    """Show a capsule: the request, the exception with its traceback, and the commits that its steps stood on."""
    found = _opened(file)
    if as_json:
        write_json(found.data)
        return
    if test:
        say(found.as_test(app).rstrip())
        return
    _say(f"{found.handler}, {local(found.at)}, request {found.request_id or '-'}, arena {found.arena['name']}")
    for run in found.runs:
        what = (
            run["error"]
            or f"conflict at {run['conflict']['path']}, {run['conflict']['key']}, with {run['conflict']['winner']}"
        )
        _say(f"run {run['run']}: {what}")
    if found.steps:
        _say(f"steps on commits {', '.join(str(seq) for seq, _ in found.steps)}; at the end there were {found.end}")
    if found.arena.get("journal") is None:
        _say("its arena had no journal: there is no state to replay it on")
    if found.request is not None:
        _show_request(found, found.request)
    if found.call is not None:
        _say(f"\ncalled: {found.call['module']}.{found.call['function']}")
    if found.exploration is not None:
        _say(f"\n{found.exploration['faults']}: the run {found.exploration['ended']}")
        for problem in found.exploration["problems"]:
            _say(f"  {problem}")
        _say(f"  again: {found.exploration['again']}")
    if found.error is not None:
        _say("\n" + (found.error["traceback"].rstrip() or found.summary))
    for each in found.lacks:
        _say(f"not in it: {each}")
    if found.versions:
        _say(", ".join(f"{name} {version}" for name, version in found.versions.items()))


def _show_request(found: Capsule, request: dict[str, Any]) -> None:
    _say(f"\n{request['method']} {request['url']}  (route {request['route']})")
    for name, value in request["headers"]:
        _say(f"{name}: {value}")
    body = found.body
    if body:
        text = body.decode("utf-8", "backslashreplace")
        _say("\n" + text[:_SHOWN] + ("" if len(text) <= _SHOWN else f"\n… and {len(text) - _SHOWN} characters more"))


@capsule.command()
@_file
@click.option(
    "--app", metavar="MODULE:APP", help="The application, or a function that makes it. Default: the handler alone."
)
@click.option("--journal", type=click.Path(file_okay=False), help="The journal's folder, where it is not where it was.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header to add: one that was hidden, say."
)
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(0.1), help="Seconds that it may take."
)
@click.option("--pdb", "debug", is_flag=True, help="Stop in the debugger where it fails, inside the transaction.")
def run(file: str, app: str | None, journal: str | None, headers: tuple[str, ...], timeout: float, debug: bool) -> int:
    """Run the handler of a capsule again, on the states that its steps saw, in a private arena.

    Ends with 1 if it does not fail in the same way. Nothing is written to the journal, and no arena is made.
    """
    found = _opened(file)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 -- as `python -m` does
    given = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter(f"{header!r} has no colon", param_hint="--header")
        given[name.strip()] = value.strip()
    replay = found.replay(
        app, journal=journal, headers=given, timeout=None if debug else timeout, debug=_post_mortem if debug else None
    )
    _say(replay.text)
    return 0 if replay.same else FOUND


def _post_mortem(error: BaseException) -> None:
    _say(f"{type(error).__qualname__}: {error}")
    trace = error.__traceback__
    while (
        trace is not None
        and trace.tb_next is not None
        and trace.tb_frame.f_globals.get("__name__", "").startswith("recoverable.")
    ):
        trace = trace.tb_next
    pdb.post_mortem(trace)
