"""What is written into a capsule.

First the facts, which are taken where the request has crashed; then, in the writer's thread, JSON data without secrets, which takes
longer.

The format has a version. A reader takes what is of its version or an older one; more keys may come without a new one.
"""

from __future__ import annotations

import base64
import datetime
import importlib.metadata
import inspect
import linecache
import math
import os
import platform
import sys
import sysconfig
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from recoverable import watchdog
from recoverable._native import feed as native_feed
from recoverable.capsules.hiding import UNSEARCHED, Hiding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from recoverable._native.runtime import NativeArena, Transaction
    from recoverable.capsules.steps import Steps

__all__ = [
    "COMPARED",
    "FORMAT",
    "VERSION",
    "Facts",
    "arena_of",
    "call_of",
    "frame_of",
    "is_plain",
    "message_of",
    "where",
]

FORMAT: Final = "recoverable capsule"
VERSION: Final = 1
_TEXT: Final = 64 * 1024  # characters of a text
COMPARED: Final = _TEXT - 1024  # of a message: hiding may have cut its end
_MESSAGE: Final = 4 * _TEXT  # of a message, in which secrets are looked for
_ERROR: Final = 200  # of the error of an earlier run
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120
_STANDARD: Final = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib") if sysconfig.get_path(name)}
)
_CORE: Final = f"recoverable{os.sep}_native{os.sep}"  # what Cython writes into tracebacks
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(slots=True)
class Facts:
    """A request that has crashed, with its secrets.

    Attributes:
        at: When, in seconds since the epoch.
        handler: Its name.
        request_id: As in its events.
        arena: What `arena_of` has returned.
        error: Its class's module and qualified name, and its message.
        trace: Its traceback; None: it has none.
        frame: Where it was raised, in the program's code: file, line, function.
        runs: What became of its earlier runs.
        steps: Of the last run.
        end: The newest commit when it crashed.
        request: What the framework's adapter has told, or None.
        whole: Whether all of the request is one transaction.
        call: What `call_of` has returned: the function and its arguments.
        route_handler: The module and the name of the handler, where it is the route's own.
        faulty: Whether faults were injected into the process: it may be one that it has crashed by.
        conflict: Where its last run has lost a conflict, and to whom.
        exploration: What an exploration has found.
    """

    at: float
    handler: str
    request_id: str | None
    arena: dict[str, Any]
    error: tuple[str, str, str] | None = None
    trace: traceback.TracebackException | None = None
    frame: tuple[str, int, str] | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    steps: Steps | None = None
    end: int | None = None
    request: dict[str, Any] | None = None
    whole: bool = False
    call: dict[str, Any] | None = None
    route_handler: dict[str, Any] | None = None
    faulty: bool = False
    conflict: dict[str, Any] | None = None
    exploration: dict[str, Any] | None = None

    def size(self) -> int:
        """Return about how many bytes it takes in memory."""
        request = self.request or {}
        texts = [value for _, value in request.get("headers", ())]
        texts += [str(run["error"] or "") for run in self.runs]
        return 4096 + len(request.get("body") or b"") + sum(map(len, texts)) + _size_of(self.trace)

    def written(self, hide: Iterable[str], limit: int) -> dict[str, Any]:
        """Return it as JSON data, without secrets.

        Args:
            hide: Names of headers and fields.
            limit: Bytes of the body.
        """
        hiding = Hiding(hide, None if self.request is None else self.request["parts_of"])
        request = None if self.request is None else _request(self.request, hiding)
        call = None if self.call is None else _call(self.call, hiding)
        # Only now all secrets are known.
        if request is not None:
            request = _clean_request(request, hiding, limit)
        if call is not None:
            call["args"] = [_clean_argument(arg, hiding) for arg in call["args"]]
            call["kwargs"] = {name: _clean_argument(arg, hiding) for name, arg in call["kwargs"].items()}
            call["missing"] = hiding.data(call["missing"])
        steps = [] if self.steps is None else self.steps.stood
        return {
            "format": FORMAT,
            "version": VERSION,
            "at": datetime.datetime.fromtimestamp(self.at, datetime.UTC).isoformat(timespec="microseconds"),
            "versions": _versions(() if self.request is None else self.request["libraries"]),
            "process": os.getpid(),
            "handler": self.handler,
            "request_id": None if self.request_id is None else hiding.text(self.request_id),
            "arena": self.arena,
            "error": None if self.error is None else self._error(hiding),
            "runs": [_run(run, hiding) for run in self.runs],
            "steps": [{"seq": seq, "position": position} for seq, position in steps],
            "steps_left_out": 0 if self.steps is None else self.steps.more,
            "end": self.end,
            "request": request,
            "whole_request": self.whole,
            "route_handler": self.route_handler,
            "call": call,
            "faulty": self.faulty,
            "exploration": hiding.data(self.exploration),
            "hidden": list(hiding.found),
        }

    def _error(self, hiding: Hiding) -> dict[str, Any]:
        assert self.error is not None
        module, name, message = self.error
        frame = None
        if self.frame is not None:
            file, line, function = self.frame
            code = linecache.getline(file, line).strip()
            frame = {"file": file, "line": line, "function": function, "code": hiding.text(code)}
        # A class can be made of a secret as well; one that its module has was not.
        if not _is_there(module, name):
            name = hiding.said(name)
        if hiding.unsearched:
            message = UNSEARCHED
        text = "" if self.trace is None else "".join(_formatted(self.trace, hiding))
        return {
            "module": hiding.text(module),
            "type": hiding.text(name),
            "message": hiding.beginning(message, cut=len(message) >= _MESSAGE)[:_TEXT],
            "traceback": hiding.text(text)[-_TEXT:],
            "frame": frame,
            "conflict": _clean_conflict(self.conflict, hiding),
        }


def _is_there(module: str, name: str) -> bool:
    """Return whether a module has a class of that name."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type)


def _formatted(trace: traceback.TracebackException, hiding: Hiding) -> Iterable[str]:
    """Return the lines of a traceback; only which code it went through, where its messages are left out."""
    return [*trace.stack.format(), UNSEARCHED, "\n"] if hiding.unsearched else trace.format()


def _clean_conflict(conflict: dict[str, Any] | None, hiding: Hiding) -> dict[str, Any] | None:
    return (
        None
        if conflict is None
        else {key: hiding.made(conflict[key]) for key in ("path", "key")} | {"winner": hiding.data(conflict["winner"])}
    )


def _size_of(trace: traceback.TracebackException | None) -> int:
    """Return about how many bytes a traceback takes, with those that it was raised from: messages can be of any length."""
    size, left = 0, [trace]
    while left:
        each = left.pop()
        if each is not None:
            size += 256 * len(each.stack) + len(getattr(each, "_str", ""))
            left += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return size


def _run(run: dict[str, Any], hiding: Hiding) -> dict[str, Any]:
    """Return what an earlier run was, without secrets, and with less of its error: cut before, one would be half there."""
    error = None if run["error"] is None else hiding.said(run["error"])[:_ERROR]
    return run | {"conflict": _clean_conflict(run["conflict"], hiding), "error": error}


def _request(facts: dict[str, Any], hiding: Hiding) -> dict[str, Any]:
    """Find the secrets of a request, and replace those that have a place of their own."""
    headers = hiding.headers(facts["headers"])
    hiding.cookies(facts["cookies"])
    content_type = next((value for name, value in facts["headers"] if name.lower() == "content-type"), "")
    raw: bytes | None = facts["body"]
    body = None if raw is None else hiding.body(raw, content_type, whole=facts["all"], charset=facts["charset"])
    hiding.unsearched = facts["seen"] and (hiding.unsearched or (raw is None and hiding.has_fields))
    return facts | {
        "url": hiding.url(facts["url"]),
        "headers": headers,
        "match": hiding.mapping(facts["match"], "path"),
        "state": hiding.mapping(facts["state"], "item"),
        "keyed": hiding.mapping(facts["keyed"], "item"),
        "body": body,
        "left_out": raw is not None and body is None,
    }


def _clean_request(request: dict[str, Any], hiding: Hiding, limit: int) -> dict[str, Any]:
    body: bytes | None = request["body"]
    hidden = None if body is None else hiding.bytes(body, cut=not request["all"], charset=request["charset"] or "")
    kept = None if hidden is None else hidden[:limit]
    whole = request["whole"] and hidden is not None and len(hidden) <= limit  # it may have become longer
    told = {"text": None, "base64": None, "size": request["size"], "whole": whole, "left_out": request["left_out"]}
    if kept is not None:
        try:
            told["text"] = kept.decode()
        except UnicodeDecodeError:
            told["base64"] = base64.b64encode(kept).decode()
    return {
        "method": request["method"],
        "url": hiding.text(request["url"]),
        "host": hiding.text(request["host"]),
        "http": request["version"],
        "route": request["route"],
        "headers": [[name, hiding.text(value)] for name, value in request["headers"]],
        "match": hiding.data(request["match"]),
        "items": {hiding.text(name): hiding.made(value) for name, value in request["state"].items()},
        "keyed_items": {hiding.text(name): hiding.made(value) for name, value in request["keyed"].items()},
        "items_left_out": request["state_left_out"],
        "body": told,
        "interface": request["interface"],
        **hiding.data(request.get("more", {})),
    }


def _call(call: dict[str, Any], hiding: Hiding) -> dict[str, Any]:
    names: list[str] = call["names"]
    kept = {key: value for key, value in call.items() if key != "names"}
    kept["args"] = [_argument(name, arg, hiding) for name, arg in zip(names, call["args"], strict=True)]
    kept["kwargs"] = {name: _argument(name, arg, hiding) for name, arg in call["kwargs"].items()}
    return kept


def _clean_argument(arg: dict[str, Any], hiding: Hiding) -> dict[str, Any]:
    return {"value": hiding.made(arg["value"])} if "value" in arg else arg


def _argument(name: str, arg: dict[str, Any], hiding: Hiding) -> dict[str, Any]:
    if "value" not in arg:
        return arg
    secret = hiding.is_field(name)
    return {"value": hiding.add(arg["value"], f"argument {name}") if secret else hiding.fields(arg["value"])}


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("recoverable", *libraries):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


# -- facts ---------------------------------------------------------------------------------------------------------------


def arena_of(transaction: Transaction) -> tuple[dict[str, Any], int | None]:
    """Return what a capsule has of a transaction's arena, and the number of its newest commit."""
    native = transaction.arena
    facts: dict[str, Any] = {"name": native.owner.name, "identity": None, "epoch": None, "journal": None}
    if native.closed:
        return facts, None
    facts["step_limit"] = watchdog.limit_of(native)
    state = native_feed.state(native)
    if state is None:
        return facts, None
    facts |= {"identity": state[0], "epoch": state[1], "journal": getattr(native.journal, "path", None)}
    return facts, state[5]


def call_of(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], is_request: Callable[[object], bool], native: NativeArena
) -> dict[str, Any]:
    """Return a function and its arguments: those that can be written as JSON, and what the others are."""
    missing: list[str] = []

    def told(value: object, name: str) -> dict[str, Any]:
        if is_request(value):
            return {"request": True}
        if getattr(value, "native", None) is native:
            return {"arena": True}
        if is_plain(value):
            return {"value": value}
        missing.append(f"{name}: {type(value).__qualname__}")
        return {"missing": type(value).__qualname__}

    try:
        names = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        names = []
    names = [*names, *(f"argument {i}" for i in range(len(names), len(args)))][: len(args)]
    return {
        "module": getattr(fn, "__module__", None),
        "function": getattr(fn, "__qualname__", type(fn).__qualname__),
        "names": names,
        "args": [told(value, name) for name, value in zip(names, args, strict=True)],
        "kwargs": {name: told(value, name) for name, value in kwargs.items()},
        "missing": missing,
    }


def is_plain(value: object, depth: int = 8, room: list[int] | None = None) -> bool:
    """Return whether a value can be written as JSON and is the same again, and is not too large to be kept."""
    room = [_TEXT] if room is None else room
    room[0] -= len(value) if isinstance(value, str) else 8
    if room[0] < 0 or depth == 0:
        return False
    if type(value) is list:
        return all(is_plain(each, depth - 1, room) for each in value)
    if type(value) is dict:
        return all(type(key) is str and is_plain(each, depth - 1, room) for key, each in value.items())
    if type(value) is float:
        return math.isfinite(value)  # others are not JSON
    return value is None or type(value) in (bool, int, str)


def message_of(error: BaseException) -> str:
    """Return what an exception says; its `__str__` is the program's."""
    try:
        return str(error)[:_MESSAGE]
    except Exception as failure:
        return f"<{type(failure).__name__} in its __str__>"


def frame_of(trace: TracebackType | None) -> tuple[str, int, str] | None:
    """Return file, line and function of the innermost frame of the program's code; of installed code, where there is none."""
    found: list[tuple[str, int, str] | None] = [None, None]
    while trace is not None:
        code = trace.tb_frame.f_code
        file = code.co_filename
        if not file.startswith((_OURS, _CORE, "<")):
            installed = any(part in file for part in _INSTALLED)
            if installed or not file.startswith(_STANDARD):
                name = getattr(code, "co_qualname", code.co_name)
                found[installed] = (file, trace.tb_lineno, name)
        trace = trace.tb_next
    return found[0] or found[1]


def where(frame: tuple[str, int, str] | None) -> str:
    """Return a frame in words."""
    return "" if frame is None else f"{os.path.basename(frame[0])}:{frame[1]} in {frame[2]}"  # noqa: PTH119
