"""`recoverable doctor`: each question with answers that this machine may not have."""

from __future__ import annotations

import json
import resource
from typing import TYPE_CHECKING

import pytest

from recoverable.cli import _doctor
from support.commands import command

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
FREE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (_doctor.shared_memory(None, writable=True), "bad", "mount -t tmpfs"),
        (_doctor.shared_memory((MIB, MIB), writable=False), "bad", "mount -t tmpfs"),
        (_doctor.shared_memory((512 * MIB, 4096), writable=True), "bad", "recoverable rm"),
        (_doctor.shared_memory((64 * MIB, 60 * MIB), writable=True), "note", "--shm-size"),
        (_doctor.shared_memory((512 * MIB, 400 * MIB), writable=True), "ok", ""),
        (_doctor.memory_limit(None, (MIB, MIB)), "ok", ""),
        (_doctor.memory_limit(256 * MIB, (512 * MIB, 0)), "note", "MemoryMax="),
        (_doctor.memory_limit(256 * MIB, (64 * MIB, 0)), "ok", ""),
        (_doctor.map_count(None), "note", "sysctl"),
        (_doctor.map_count(1000), "note", "sysctl -w vm.max_map_count=65530"),
        (_doctor.map_count(65530), "ok", ""),
        (_doctor.page_size(4096), "ok", ""),
        (_doctor.page_size(65536), "note", "imported"),
        (_doctor.segv_handlers(None), "note", "/proc"),
        (_doctor.segv_handlers(1 << 10), "note", "PYTHONFAULTHANDLER=1"),
        (_doctor.segv_handlers(1 << 9 | 1 << 11), "ok", ""),
        (_doctor.address_space(FREE), "ok", ""),
        (_doctor.address_space(1 << 30), "note", "ulimit -v unlimited"),
        (_doctor.orphans([], []), "ok", ""),
        (_doctor.orphans([(12, "shop"), (13, "shop")], []), "bad", "recoverable rm --force"),
        (_doctor.remove_ipc(1000, True, None), "note", "RemoveIPC=no"),
        (_doctor.remove_ipc(1000, True, "no"), "ok", ""),
        (_doctor.remove_ipc(100, True, None), "ok", ""),
        (_doctor.remove_ipc(1000, False, None), "ok", ""),
    ],
)
def test_each_finding_has_its_remedy(finding: _doctor.Finding, level: str, says: str) -> None:
    """What is not right has a level and a remedy that can be typed; what is right has none."""
    assert finding.level == level
    assert says in finding.remedy
    assert bool(finding.remedy) == (level != "ok")


def test_the_limit_is_the_least_of_the_groups_around(tmp_path: Path) -> None:
    """A control group is limited by its own memory.max and by its parents'; "max" is none."""
    group = tmp_path / "system.slice" / "shop.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000000\n")
    assert _doctor._cgroup_limit(tmp_path, "0::/system.slice/shop.service\n") == 1000000
    (group / "memory.max").write_text("500000\n")
    assert _doctor._cgroup_limit(tmp_path, "0::/system.slice/shop.service\n") == 500000
    assert _doctor._cgroup_limit(tmp_path, "0::/\n") is None
    assert _doctor._cgroup_limit(tmp_path, None) is None


def test_the_limit_of_a_version_1_group(tmp_path: Path) -> None:
    """Version 1 has a folder a controller, and a huge number for no limit."""
    group = tmp_path / "memory" / "docker"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("268435456\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert _doctor._cgroup_limit(tmp_path, "5:cpu:/docker\n4:memory:/docker\n") == 268435456


def test_the_last_setting_of_logind_counts(tmp_path: Path) -> None:
    """Files in logind.conf.d come after logind.conf; a comment is no setting."""
    assert _doctor._logind(tmp_path) is None
    (tmp_path / "logind.conf").write_text("[Login]\n#RemoveIPC=yes\n RemoveIPC=yes\n")
    (tmp_path / "logind.conf.d").mkdir()
    (tmp_path / "logind.conf.d" / "10-shop.conf").write_text("[Login]\nRemoveIPC=No\n")
    assert _doctor._logind(tmp_path) == "no"


@pytest.mark.slow
def test_doctor_on_this_machine() -> None:
    """It answers every question, the trial among them, and says remedies below the table."""
    done = command("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    bad = {what for what, finding in findings.items() if finding["level"] == "bad"}
    assert bad <= {"orphaned arenas", "journals"}  # of other tests on this machine
    assert done.returncode == bool(bad)
    assert set(findings) >= {"shared memory", "vm.max_map_count", "page size", "SIGSEGV handlers", "container limit"}
    assert "a fault costs" in findings["trial"]["found"]
    text = command("doctor").stdout
    for what in findings.keys() - {"orphaned arenas"}:  # which come and go between the two
        remedy = findings[what]["remedy"]
        assert (f"{what}: {remedy}" in text) == bool(remedy)


@pytest.mark.slow
def test_doctor_notices_another_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """With faulthandler on before it starts, it says so."""
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    findings = {finding["what"]: finding for finding in json.loads(command("doctor", "--json").stdout)}
    assert findings["SIGSEGV handlers"]["level"] == "note"
