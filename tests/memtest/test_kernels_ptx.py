"""The PTX in the tree: what drivers since CUDA 8 take, and what the source compiles to."""

from __future__ import annotations

import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_harness import PTX

TOOL = Path(__file__).resolve().parents[2] / "tools" / "ptx.py"
WHEELS = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-nvcc-cu12")


def missing() -> list[str]:
    found = {wheel.metadata["Name"] for name in WHEELS for wheel in importlib.metadata.distributions(name=name)}
    return sorted(set(WHEELS) - found)


needs_compilers = pytest.mark.skipif(bool(missing()), reason=f"the extra `ptx` is not installed: {missing()}")


@pytest.fixture
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


def test_the_ptx_declares_what_old_drivers_and_pascal_cards_take() -> None:
    text = PTX.read_text()
    statements = [line for line in text.splitlines() if line and not line.startswith("//")]
    assert statements[:3] == [".version 5.0", ".target sm_61", ".address_size 64"]


def test_the_ptx_has_the_three_kernels_with_their_parameters() -> None:
    entries = dict(re.findall(r"^\.visible \.entry (\w+)\((.*?)\)", PTX.read_text(), flags=re.M | re.S))
    sizes = {name: re.findall(r"\.param \.u(\d+)", parameters) for name, parameters in entries.items()}
    pattern, into = ["32", "64", "64"], ["64", "32", "64"]
    place = ["64", "64", "64"]
    assert sizes == {
        "fill": place + pattern,
        "check": place + pattern + into,
        "swap": place + pattern + pattern + into + ["32"],
    }


def test_the_ptx_moves_16_bytes_at_a_time_past_the_first_level_cache() -> None:
    text = PTX.read_text()
    assert "ld.global.cg.v2.u64" in text and "st.global.cs.v2.u64" in text
    assert not re.search(r"ld\.global(?!\.cg\.v2)", text), "some read could be answered by a cache"
    assert ".local" not in text, "nothing is kept in local memory, which is the memory under test"


def test_the_ptx_names_no_place_and_no_time() -> None:
    assert not re.search(r"(/\w+){2}|\.loc\b|\.file\b|20\d\d-", PTX.read_text())


def run(*arguments: str, python_path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": python_path or os.environ.get("PYTHONPATH", "")}
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@needs_compilers
def test_a_fresh_build_equals_the_file_and_assembles_for_every_card() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split(":")[0] for line in lines} == {"sm_61", "sm_75", "sm_90", "sm_120"}
    assert len(lines) == 12
    # More than 64 registers a thread would leave less than half of Pascal's threads: too few reads on their way.
    assert all(int(line.split()[-2]) <= 64 for line in lines), done.stdout


@needs_compilers
def test_another_source_is_told(tool: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "memtest.cu"
    source.write_text(tool["SOURCE"].read_text().replace("0x85ebca6bu", "0x85ebca6du"))
    assert tool["compiled"](source) != PTX.read_text()
    source.write_text("this is no CUDA")
    with pytest.raises(tool["Problem"], match="does not compile"):
        tool["compiled"](source)


@needs_compilers
def test_ptx_that_needs_a_newer_version_does_not_assemble(tool: dict[str, Any], tmp_path: Path) -> None:
    newer = tmp_path / "newer.ptx"
    newer.write_text(PTX.read_text().replace("ret;", "bar.warp.sync 0xffffffff;\n\tret;", 1))
    with pytest.raises(tool["Problem"], match="does not assemble for sm_61"):
        tool["assembled"]("sm_61", newer)


def test_a_missing_compiler_is_one_line_with_the_mend(tmp_path: Path) -> None:
    """A Python without the wheels, however this one is: -I -S sees the standard library alone."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(TOOL)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == (
        "ptx: nvidia-cuda-nvrtc-cu12 is not installed: "
        "install the extra `ptx`: pip install nvidia-cuda-nvrtc-cu12==12.9.86\n"
    )


def test_a_wheel_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nvidia_cuda_nvrtc_cu12-13.0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: nvidia-cuda-nvrtc-cu12\nVersion: 13.0.1\n"
    (tmp_path / "nvidia_cuda_nvrtc_cu12-13.0.1.dist-info" / "METADATA").write_text(metadata)
    done = run(python_path=str(tmp_path))
    assert done.returncode == 2
    assert "is 13.0.1, and another version writes another text" in done.stderr
