"""Which processes there are, and what each of them costs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import psutil

from bench.proc import memory_bytes


class Family(msgspec.Struct, kw_only=True):
    """The daemon's processes by what they are for, as pids. ``shims`` are the forks of the zygote that have not become
    a job: busy ones, idle ones and what these keep ahead."""

    daemon: int
    sensors: list[int] = []
    tests: list[int] = []
    zygotes: list[int] = []
    shims: list[int] = []

    @property
    def all(self) -> list[int]:
        """Everybody."""
        return [self.daemon, *self.sensors, *self.tests, *self.zygotes, *self.shims]


def family(daemon: int) -> Family:
    """The processes of the daemon with this pid. Raises psutil.NoSuchProcess where it is gone."""
    found = Family(daemon=daemon)
    for process in psutil.Process(daemon).children(recursive=True):
        try:
            words, parent = " ".join(process.cmdline()), process.ppid()
        except psutil.Error:
            continue
        if "p104d.hardware.sensor" in words:
            found.sensors.append(process.pid)
        elif "p104d.memtest" in words:
            found.tests.append(process.pid)
        elif "zygote" in words:
            (found.zygotes if parent == daemon else found.shims).append(process.pid)
    return found


def own_bytes(pids: list[int]) -> int:
    """Memory that these processes wrote to: what a leak is made of, whoever else has the same libraries loaded."""
    return memory_bytes(pids, "Anonymous")


def descriptors(pids: list[int]) -> int:
    """Open descriptors of these processes together; gone ones count nothing."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).num_fds()
    return total


def living_in(folder: Path) -> list[psutil.Process]:
    """Every process of this host whose working folder is ``folder`` or below: the daemon, its shims, jobs, and what
    these left behind."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found
