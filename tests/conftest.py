"""What every test gets: fresh arenas, a check that no segment is left behind, reproducible randomness."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import structlog

from recoverable import Arena
from recoverable._native import feed as native_feed

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs so, and children inherit it: those that a test interrupts would not notice.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Behind everything else, so that `examples` imports from the tree but `recoverable` from where it is installed.
sys.path.append(str(Path(__file__).parents[1]))

SHARED = Path("/dev/shm")
PREFIX = f"test-{os.getpid()}-"

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

for option in ("tracking", "policy"):  # the whole suite another way: tests/README.md
    if (value := os.environ.get(f"RECOVERABLE_{option.upper()}")) is not None:
        Arena.open.__func__.__kwdefaults__[option] = value  # type: ignore[attr-defined]

if os.environ.get("RECOVERABLE_MIRROR"):  # each commit is compared with what the feed tells of it
    _open = Arena.open.__func__  # type: ignore[attr-defined]

    def _opened(cls: type[Arena], *args: Any, **options: Any) -> Arena:
        arena: Arena = _open(cls, *args, **{"feed": "32 MiB"} | options)
        if native_feed.state(arena.native) is not None:
            native_feed.mirror(arena.native)
        return arena

    Arena.open = classmethod(_opened)  # type: ignore[assignment]

_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed."""
    parser.addoption("--seed", type=int, default=None, help="seed of the tests' own randomness; printed in the header")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed."""
    seed = config.getoption("--seed")
    config.stash[_seed] = random.SystemRandom().randrange(2**32) if seed is None else seed


def pytest_report_header(config: pytest.Config) -> str:
    """Print what it takes to run the same again."""
    return f"seed: {config.stash[_seed]} (again with --seed={config.stash[_seed]})"


_seed = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave folders of tests to another Python where tox says which, and that one is there (see tox.ini)."""
    folders = set()
    for folder in ("faults", "property"):
        others = os.environ.get(f"RECOVERABLE_{folder.upper()}_TESTS_RUN_ON", "").split()
        if any(_is_there(python) for python in others):
            folders.add(folder)
    left = [item for item in items if item.path.parent.name in folders]
    if left:
        items[:] = [item for item in items if item.path.parent.name not in folders]
        config.hook.pytest_deselected(items=left)


def pytest_collection_finish() -> None:
    """Have no collection look at the tests themselves: it took a tenth of a second, and closing an arena may ask for one."""
    gc.collect()
    gc.freeze()


def _is_there(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@pytest.fixture(autouse=True)
def no_garbage_of_interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what an interrupted test leaves to the collector collected here, where it may be: a coroutine that was never awaited."""
    yield
    if any("never awaited" in text for mark in request.node.iter_markers("filterwarnings") for text in mark.args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Give the run's seed."""
    return request.config.stash[_seed]


def _left() -> set[str]:
    """Return this run's test segments: names have the process's id in them, since others may be testing here too."""
    names = {path.name.removeprefix("recoverable.") for path in SHARED.glob("recoverable.test*")}
    return {name for name in names if str(os.getpid()) in name.split("-") or not re.search(r"-\d+(-|$)", name)}


@pytest.fixture(autouse=True)
def no_segment_left() -> Iterator[None]:
    """Fail the test that leaves a segment behind, and remove the segment for the others."""
    before = _left()
    yield
    left = _left() - before
    for name in left:
        (SHARED / f"recoverable.{name}").unlink(missing_ok=True)
    assert not left, f"the test left segments in {SHARED}: {sorted(left)}"


@pytest.fixture
def new_name() -> Iterator[Callable[[], str]]:
    """Give names that no arena has; what was made under them is unlinked after the test."""
    given: list[str] = []

    def make() -> str:
        given.append(f"{PREFIX}{next(_numbers)}")
        return given[-1]

    yield make
    for name in given:
        (SHARED / f"recoverable.{name}").unlink(missing_ok=True)


@pytest.fixture
def name(new_name: Callable[[], str]) -> str:
    """Give one such name."""
    return new_name()


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an empty arena of 16 MiB."""
    with Arena.temporary("16 MiB", name=name) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Give a folder for a journal, which does not exist yet."""
    return str(tmp_path / "journal")


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    """Collect the events that are written, debug included."""
    with structlog.testing.capture_logs() as events:
        yield events
    structlog.reset_defaults()


class _Forgets(logging.Handler):
    """Makes text of a record's exception, for the handlers after it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None


@pytest.fixture(autouse=True)
def exceptions_as_text(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have pytest's records, where no test asks for them, not keep exceptions, and all that their frames refer to, alive."""
    logger, handler = logging.getLogger("recoverable"), _Forgets()
    asked = "caplog" in request.fixturenames
    if not asked:
        logger.addHandler(handler)
    yield
    if not asked:
        logger.removeHandler(handler)
