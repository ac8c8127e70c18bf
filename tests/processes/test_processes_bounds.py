"""What a job may use at most: written to its control group before it may run, held by its own limits without one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from process_rig import drive

from p104d.processes import cgroup, shim

FILES = ("memory.max", "memory.oom.group", "pids.max")


def group(folder: Path, *files: str) -> Path:
    """A folder in a control group's place, as the kernel fills it."""
    for name in files:
        (folder / name).write_text("max" if name.endswith("max") else "0")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_bounds_are_written(tmp_path: Path) -> None:
    cgroup.bound(str(group(tmp_path)), 2**30, 64)
    assert content(tmp_path) == {}, "a group without these controllers has no such files, and none is made"
    # The kernel takes a whole value with each write; a file keeps what is longer.
    for name in FILES:
        (tmp_path / name).touch()
    cgroup.bound(str(tmp_path), 2**30, 64)
    assert content(tmp_path) == {"memory.max": str(2**30), "memory.oom.group": "1", "pids.max": "64"}


def test_no_bound_is_left_as_it_is(tmp_path: Path) -> None:
    before = content(group(tmp_path, *FILES))
    cgroup.bound(str(tmp_path), 0, 0)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("there", "written"),
    [
        (("pids.max",), {"pids.max": "64"}),
        (("memory.max", "memory.oom.group"), {"memory.max": "99", "memory.oom.group": "1"}),
        (("memory.max",), {"memory.max": "99"}),  # before Linux 4.19
    ],
)
def test_a_controller_that_is_missing_keeps_no_other_from_its_bound(
    tmp_path: Path, there: tuple[str, ...], written: dict[str, str]
) -> None:
    for name in there:
        (tmp_path / name).touch()
    cgroup.bound(str(tmp_path), 99, 64)
    assert content(tmp_path) == written


def test_bounds_are_there_before_the_job_may_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps: list[Any] = []
    child = SimpleNamespace(
        pid=1, report=2, output=3, group=str(tmp_path), problem="", let_go=lambda _: steps.append("go")
    )
    monkeypatch.setattr(cgroup, "bound", lambda *given: steps.append(given))
    one = shim.Shim.__new__(shim.Shim)
    one._tree = SimpleNamespace(group=None)  # type: ignore[assignment]
    one._launch = {"ram_bytes": 5, "pids_max": 6}
    one._hold = SimpleNamespace(lock=4)  # type: ignore[assignment]
    one._log = None  # type: ignore[assignment]
    monkeypatch.setattr(shim, "Pump", lambda *_: None)
    one._start(child)  # type: ignore[arg-type]
    assert steps == [(str(tmp_path), 5, 6), "go"]


EATS = "import os; os.write(1, b'up\\n'); x = bytearray(2**30); os.write(1, b'has it\\n')"


def test_a_job_that_has_no_more_memory_fails_alone() -> None:
    """By its own limit, so that it shows where no controller does: the others, and their shims, go on."""

    async def body(rig: Any) -> None:
        go = f"{rig.folder}/go"
        other = rig.sh(f"while [ ! -e {go} ]; do sleep 0.02; done; exit 5")
        await rig.running(other)
        bound = 512 * 2**20
        ended, said = await rig.run(sys.executable, "-I", "-S", "-c", EATS, rlimits={"as": (bound, bound)})
        assert ended.exit_code == 1 and said.startswith("up\n") and "MemoryError" in said and "has it" not in said
        ended, said = await rig.run(sys.executable, "-I", "-S", "-c", EATS)
        assert ended.exit_code == 0 and said == "up\nhas it\n"
        assert not [each for each in rig.events if getattr(each, "key", None) == other and hasattr(each, "look")]
        Path(go).touch()
        assert (await rig.ended(other)).exit_code == 5

    drive(body)
