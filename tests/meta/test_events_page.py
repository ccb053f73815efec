"""docs/events.md against recoverable/events.py: every event with its levels and fields, in both directions."""

from __future__ import annotations

import inspect
import itertools
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import events
from recoverable.reports import Recovery, Restoration
from recoverable.transaction import Lost

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

REPORT = dict.fromkeys(("pages", "bytes", "micros"), 1)

#: What parameters are given, by their annotations: all combinations of them.
VALUES: dict[str, list[Any]] = {
    "str": ["x"],
    "str | None": ["x", None],
    "int": [1],
    "int | None": [2, None],
    "bool": [False, True],
    "list[int]": [[1]],
    "list[str]": [["x"]],
    "BaseException": [ValueError()],
    "BaseException | None": [ValueError(), None],
    "Report": [REPORT],
    "Lost": [Lost("x", "x", "x")],
    "Restoration": [Restoration(1, datetime(2026, 1, 1, tzinfo=UTC), *[1] * 6)],
    "Recovery": [
        Recovery(phase="x", records=undone, bytes=1, pages=undone, chunks=1, microseconds=1, handler="x", pid=1)
        for undone in (0, 1)
    ],
}
THEN = ["raise", "rerun"]

#: Functions that write no event: they answer questions.
ASKED = {"exc_info", "from_handler", "full_told", "traceback_reported"}

TYPES = {
    "text": str,
    "number": int,
    "list of texts": list,
    "list of numbers": list,
    "exception": (tuple, BaseException),
}


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every way of calling each function that writes an event."""
    for name in sorted(set(events.__all__) - ASKED):
        parameters = inspect.signature(getattr(events, name)).parameters.values()
        values = [THEN if parameter.name == "then" else VALUES[parameter.annotation] for parameter in parameters]
        for chosen in itertools.product(*values):
            yield name, {parameter.name: value for parameter, value in zip(parameters, chosen, strict=True)}


def written() -> dict[str, list[dict[str, Any]]]:
    """Return every event in every form, by its name."""
    found: dict[str, list[dict[str, Any]]] = {}
    with structlog.testing.capture_logs() as log:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET))
        for name, arguments in calls():
            getattr(events, name)(**arguments)
    structlog.reset_defaults()
    for event in log:
        found.setdefault(event.pop("event"), []).append(event)
    return found


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None, heading
    lines = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def words(cell: str) -> set[str]:
    """Return what stands in backquotes."""
    return set(re.findall(r"`([^`]+)`", cell))


def test_the_page_has_every_event_at_its_levels_with_its_fields() -> None:
    """Names, levels, fields that are always there and fields that are there sometimes are those of the code."""
    code = {}
    for event, forms in written().items():
        fields = [form.keys() - {"log_level"} for form in forms]
        always, ever = set.intersection(*fields), set.union(*fields)
        code[event] = ({form["log_level"] for form in forms}, always, ever - always)
    page = {}
    for event, level, fields, _ in rows("All events"):
        always, _, sometimes = fields.partition("sometimes")
        (name,) = words(event)
        assert name not in page, "twice"
        levels = set(re.findall(r"\b(?:debug|info|warning|error)\b", level))
        page[name] = (levels, words(always), words(sometimes))
    assert page == code


def test_the_page_has_every_field_with_its_type() -> None:
    """Each field of any event is in the table of fields, with the type of what the code writes."""
    code: dict[str, list[Any]] = {}
    for forms in written().values():
        for form in forms:
            for field, value in form.items():
                if field != "log_level":
                    code.setdefault(field, []).append(value)
    page = {field: kind for names, kind, _ in rows("Fields") for field in words(names)}
    assert page.keys() == code.keys()
    for field, values in code.items():
        for value in values:
            if value is None:
                assert "or none" in page[field], field
            else:
                kind = page[field].removesuffix(" or none").split(",")[0]
                assert isinstance(value, TYPES[kind]), (field, value)


def test_logging_has_the_same_events_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Each form of each event is a record where structlog is not configured, at its level, with its fields as they are."""
    caplog.set_level(logging.DEBUG, "recoverable")
    plain = logging.makeLogRecord({}).__dict__.keys() | {"message", "taskName", "asctime"}
    for name, arguments in calls():
        getattr(events, name)(**arguments)
    by_logging: dict[str, list[dict[str, Any]]] = {}
    for record in caplog.records:
        fields = {field: value for field, value in record.__dict__.items() if field not in plain}
        event = fields.pop("event")
        assert record.name == f"recoverable.{event.partition('.')[0]}"
        assert record.getMessage().startswith(event)
        by_logging.setdefault(event, []).append({**fields, "log_level": record.levelname.lower()})
    for forms in (by_structlog := written()).values():
        for form in forms:
            form.pop("exc_info", None)  # whose that is depends on who else tells of it
    assert by_logging == by_structlog
