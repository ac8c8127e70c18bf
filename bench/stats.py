"""Summaries of measurements, and the order they are taken in."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """The value that one in twenty exceeds (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * 95 // 100) - 1)]


def timed(act: Callable[[], object]) -> float:
    """Seconds that ``act`` takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def interleaved(acts: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Take each measurement ``rounds`` times, A B C A B C: the machine's drift then falls on all alike.

    The first ``warm_up`` rounds are thrown away: they pay for page caches and lazy imports.
    """
    taken: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(warm_up + rounds):
        for name, act in acts.items():
            value = act()
            if number >= warm_up:
                taken[name].append(value)
    return taken


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)
