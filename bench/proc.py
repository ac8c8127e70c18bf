"""What processes cost, from /proc."""

from __future__ import annotations

import os
from collections.abc import Sequence

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes, reaped children included; gone ones count nothing."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def cpu_nanoseconds(pids: Sequence[int]) -> int:
    """Time on a processor of every thread, to the nanosecond: an idle daemon uses less than a clock tick a second."""
    total = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                    total += int(file.read().split()[0])
        except OSError:
            continue
    return total


def memory_bytes(pids: Sequence[int], kind: str = "Pss") -> int:
    """``Pss`` (shared pages divided among those who share them) or ``Rss`` of these processes together."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith(f"{kind}:"))
        except OSError:
            continue
    return total * 1024
