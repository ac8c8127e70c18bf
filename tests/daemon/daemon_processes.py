"""What a daemon of a test may leave behind, and whether it did."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import psutil


def bears(process: psutil.Process, marks: list[bytes]) -> bool:
    """Whether it lives and has one of ``marks`` on its command line or in its environment."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            text = file.read()
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            text += file.read()
    except (psutil.Error, OSError):
        return False
    return any(mark in text for mark in marks)


def command_of(process: psutil.Process) -> str:
    """Its command line; empty for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def remove_cgroups(jobs: Path) -> None:
    """The group of a daemon stays for its jobs' sake; a test's has none left."""
    name = f"p104d-{zlib.crc32(str(jobs).encode()):08x}"
    # Not glob(), which trips over what other tests remove meanwhile.
    for group in [Path(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") if name in names]:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def alive(pid: int) -> bool:
    """Whether that process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
