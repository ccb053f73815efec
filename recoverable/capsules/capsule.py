"""A capsule: a request that has crashed, as its file has it."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import re
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recoverable.capsules.contents import FORMAT, VERSION, where
from recoverable.capsules.replay import replayed
from recoverable.capsules.verdict import Replay
from recoverable.errors import CapsuleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

__all__ = ["Capsule"]


@dataclass(frozen=True, slots=True, repr=False)
class Capsule:
    """A request that has crashed.

    Attributes:
        file: Its file.
        at: When it crashed, in UTC.
        handler: The handler's name.
        request_id: As in its events.
        arena: The arena's name, `identity`, the `epoch` of its line of states, and the folder of its `journal`, or None.
        error: The exception's `module`, `type`, `message`, `traceback` and `frame`; None: it is of an exploration.
        runs: Earlier runs of the same request: the conflict, or the error, that ended each.
        steps: For each step of the last run that used the arena the number of the newest commit then, and its position in the feed;
            none where it has no feed.
        end: The newest commit when it crashed; None: the arena has no feed.
        request: The request: method, url, route, headers, body and more; None: there was none.
        call: The function that was called in the request, and its arguments, where it is not the request's own handler.
        exploration: What an exploration of faults has found; None: it is of a crash.
        versions: Of Python and libraries.
        hidden: What was left out as secret.
    """

    file: str
    at: datetime.datetime
    handler: str
    request_id: str | None
    arena: dict[str, Any]
    error: dict[str, Any] | None
    runs: tuple[dict[str, Any], ...]
    steps: tuple[tuple[int, int], ...]
    end: int | None
    request: dict[str, Any] | None
    call: dict[str, Any] | None
    exploration: dict[str, Any] | None
    versions: dict[str, str]
    hidden: tuple[str, ...]
    data: dict[str, Any]

    @classmethod
    def open(cls, file: str | os.PathLike[str]) -> Self:
        """Read one.

        Raises:
            CapsuleError: It is none, or a newer release has written it in a way that this one does not know.
            OSError: It can't be read.
        """
        path = os.fsdecode(file)
        try:
            data = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise CapsuleError(f"{path!r} is no capsule: it is not JSON. Nothing was run.") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CapsuleError(f"{path!r} is no capsule. Nothing was run.")
        version = data.get("version")
        if not isinstance(version, int) or version > VERSION:
            by = data.get("versions")
            raise CapsuleError(
                f"capsule {path!r} has version {version}, and this release reads up to {VERSION}. It was written by recoverable "
                f"{by.get('recoverable', '?') if isinstance(by, dict) else '?'}. Nothing was run. Use that, or a later one."
            )
        try:
            _check(data, _SHAPE)
            if not all(len(header) == 2 for header in (data["request"] or {"headers": []})["headers"]):
                raise TypeError("a header is no pair")
            base64.b64decode((data["request"] or {"body": {}})["body"].get("base64") or "", validate=True)
            return cls(
                path,
                datetime.datetime.fromisoformat(data["at"]),
                data["handler"],
                data["request_id"],
                data["arena"],
                data["error"],
                tuple(data["runs"]),
                tuple((step["seq"], step["position"]) for step in data["steps"]),
                data["end"],
                data["request"],
                data["call"],
                data["exploration"],
                data["versions"],
                tuple(data["hidden"]),
                data,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CapsuleError(
                f"capsule {path!r} is damaged: {type(error).__name__}: {error}. Nothing was run."
            ) from error

    def __repr__(self) -> str:
        return f"<Capsule {os.path.basename(self.file)}: {self.summary}>"  # noqa: PTH119

    # -- what is in it ----------------------------------------------------------------------------------------------------

    @property
    def whole_request(self) -> bool:
        """Whether all of the request is one transaction, middlewares included (`protect="all"`)."""
        return bool(self.data.get("whole_request"))

    @property
    def handler_of_route(self) -> dict[str, Any] | None:
        """The module and the name of the handler, where it is the route's own."""
        return self.data.get("route_handler")

    @property
    def body(self) -> bytes | None:
        """The request's body, as far as it was kept; None: it was not."""
        told = {} if self.request is None else self.request["body"]
        if told.get("base64") is not None:
            return base64.b64decode(told["base64"])
        return None if told.get("text") is None else str(told["text"]).encode()

    @property
    def lacks(self) -> list[str]:
        """What a replay lacks, in words: secrets, a part of the body, what was put on the request."""
        found = [f"secrets that were left out: {', '.join(self.hidden)}"] if self.hidden else []
        if self.request is not None:
            told = self.request["body"]
            if told["left_out"]:
                found.append("the body, which could not be searched for secrets")
            elif not told["whole"]:
                size, kept = told["size"], len(self.body or b"")
                of = "" if size is None else f" of {size}"
                found.append(
                    f"the body behind its first {kept} bytes{of}: it was cut, or had not arrived, or was not kept"
                )
            if self.request.get("kind") == "websocket" and self.call is None:
                found.append("the messages of its WebSocket")
            if self.request["items_left_out"]:
                found.append(f"what middlewares had put on the request: {', '.join(self.request['items_left_out'])}")
        if self.data.get("faulty"):
            found.append("faults that were injected into its process")
        if self.data.get("steps_left_out"):
            found.append(f"the states that the steps behind the first {len(self.steps)} saw")
        return found

    @property
    def summary(self) -> str:
        """The exception in one line, and where it was raised."""
        if self.error is None:
            problems = (self.exploration or {}).get("problems") or ["?"]
            return f"exploration: {problems[0].splitlines()[0]}"
        first = self.error["message"].splitlines()[0] if self.error["message"] else ""
        frame = self.error["frame"]
        at = "" if frame is None else ", at " + where((frame["file"], frame["line"], frame["function"]))
        return f"{self.error['type']}" + (f": {first}" if first else "") + at

    # -- running it again --------------------------------------------------------------------------------------------------

    def replay(
        self,
        app: Any = None,
        *,
        journal: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 60.0,
        debug: Callable[[BaseException], None] | None = None,
    ) -> Replay:
        """Run the same handler with the same request on the states that its steps saw, in a private arena.

        The private arena stands for whatever arena the program uses or opens meanwhile; nothing is written anywhere else.

        Args:
            app: The application; a function that makes it, of the arena if it takes an argument; "module:name" of either; or the
                handler itself. Default: the handler, imported by its name.
            journal: The folder of the journal, where it is not where it was.
            headers: Headers to be added: those that were hidden, say.
            timeout: Seconds that it may take.
            debug: Is called with what leaves the handler, while its transaction is still there.

        Raises:
            HistoryError: The journal does not have those states, or no longer.
            CapsuleError: Something else is missing: the arena had no journal, the handler can't be found, …
        """
        if running_loop() is not None:
            raise CapsuleError("an event loop runs here. Nothing was run. Use `await capsule.replay_async(...)`.")
        return asyncio.run(self.replay_async(app, journal=journal, headers=headers, timeout=timeout, debug=debug))

    async def replay_async(
        self,
        app: Any = None,
        *,
        journal: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 60.0,
        debug: Callable[[BaseException], None] | None = None,
    ) -> Replay:
        """Do what `replay` does, in an event loop that runs."""
        folder = None if journal is None else os.fsdecode(journal)
        return await replayed(self, app, journal=folder, headers=dict(headers or {}), timeout=timeout, debug=debug)

    def as_test(self, app: str | None = None) -> str:
        """Return the source of a pytest function that replays it, and fails as long as the request does.

        Args:
            app: "module:name" of the application, or of a function that makes it; default: the handler is imported by its name.
        """
        name = re.sub(r"\W+", "_", self.handler.rpartition("<locals>.")[2]).strip("_").lower() or "request"
        given = "" if app is None else repr(app)
        headers = [each.removeprefix("header ") for each in self.hidden if each.startswith("header ")]
        if headers:
            given += f"{given and ', '}headers={dict.fromkeys(headers, '')!r}"
        return (
            "from recoverable.capsules import Capsule\n\n\n"
            f"def test_{name}_of_{self.at:%Y%m%d_%H%M%S}() -> None:\n"
            f'    """{self._told().replace(chr(92), chr(92) * 2).replace(chr(34) * 3, chr(39) * 3)}"""\n'
            f"    replay = Capsule.open({os.path.abspath(self.file)!r}).replay({given})\n"  # noqa: PTH100
            "    assert not replay.crashed, replay.text\n"
            + (
                f"    # Without its secrets ({', '.join(self.hidden)}) it may be refused before it comes as far.\n"
                "    assert (replay.status or 200) < 400, replay.text\n"
                if self.hidden
                else ""
            )
        )

    def _told(self) -> str:
        request = "" if self.request is None else f" ({self.request['method']} {self.request['route'] or ''})"
        return f"{self.handler}{request} no longer fails by {(self.error or {}).get('type', 'a fault')}."


#: The types of what a capsule has, by key: a type or some, `[type]` for a list of such, a dict for one with such keys, or None.
_FRAME: Final = {"file": str, "line": int, "function": str}
_CALLED: Final = {"module": str | None, "function": str, "args": [dict], "kwargs": dict, "missing": [str]}
_BODY: Final = {"text": str | None, "base64": str | None, "size": int | None, "whole": bool, "left_out": bool}
_SHAPE: Final[dict[str, Any]] = {
    "at": str,
    "handler": str,
    "request_id": str | None,
    "arena": {"name": str, "identity": str | None, "epoch": int | None, "journal": str | None},
    "error?": {"module": str, "type": str, "message": str, "traceback": str, "frame?": _FRAME},
    "runs": [dict],
    "steps": [{"seq": int, "position": int}],
    "end": int | None,
    "request?": {
        "method": str,
        "url": str,
        "http": str,
        "route": str | None,
        "headers": [[str]],
        "match": dict,
        "items": dict,
        "keyed_items": dict,
        "body": _BODY,
        "items_left_out": [str],
    },
    "call?": _CALLED,
    "exploration?": {"faults": str, "ended": str, "problems": [str], "again": str},
    "versions": dict,
    "hidden": [str],
}


def _check(value: Any, shape: Any, where: str = "") -> None:
    """Raise TypeError or KeyError where something in a capsule is not what it should be; a key with ? may have None."""
    if isinstance(shape, dict):
        _check(value, dict, where)
        for name, inner in shape.items():
            key = name.rstrip("?")
            if key == name or value[key] is not None:
                _check(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        _check(value, list, where)
        for each in value:
            _check(each, shape[0], f"{where}[]")
    elif not isinstance(value, shape):
        raise TypeError(f"{where[1:]} is {type(value).__name__}")
