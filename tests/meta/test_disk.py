"""What is measured as durable is on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import disk
from benchmarks.harness import Settings


def test_a_folder_in_memory_is_refused() -> None:
    """It would make any journal look fast."""
    with pytest.raises(disk.NoDisk, match="tmpfs"), disk.folder(Settings(disk=Path("/dev/shm"))):
        pass


def test_a_bare_loop_goes_round_in_a_file_that_never_grows(tmp_path: Path) -> None:
    """A file that grew would be flushed with its metadata, and make the journal beside it look fast."""
    bare, took = disk.Bare(tmp_path / "bare", 10_000), list[float]()
    seconds = bare.write([4096, 300, 5000, 4096], took.append)
    bare.close()
    assert (tmp_path / "bare").stat().st_size == 10_000
    assert len(took) == 4
    assert seconds == pytest.approx(sum(took))
