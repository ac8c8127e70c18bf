"""Builds the CUDA driver library of the tests: host/hostcuda.cpp, real memory that really aliases, with the memory
test's own kernels. What it can be told is at the top of that file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "host" / "hostcuda.cpp"
ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "p104d" / "memtest" / "kernels"

# Kernels see the same memory as pairs and as words, and one word at several addresses.
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-Wall", "-Wextra")
FLAGS += ("-Wno-unused-function", "-Werror")


def build(folder: Path, kernels: Path = KERNELS) -> Path:
    """The library, built from ``kernels``/memtest.cu; skips the test where there is no C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++): the kernels' host build cannot be made")
    library = folder / "libhostcuda.so"
    command = [compiler, *FLAGS, f"-I{kernels}", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture(scope="session")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library lies. Its state is one for a process: begin with ``host_reset()``; a child process is told what
    its card is by the variable P104_HOSTCUDA."""
    return build(tmp_path_factory.mktemp("hostcuda"))
