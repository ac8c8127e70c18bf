"""What a card's memory and its link do at their best: the yardstick for the test, and for the scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from p104d.core.units import GIB, MIB
from p104d.hardware.cuda import Event
from p104d.memtest.card import Card

#: Long enough for launch overheads not to count, on a card of 3 TB/s too.
_LARGEST_COPY = 2 * GIB
_COPIES = 5
#: Each direction over the link: at least two transfers, and no more once this has passed. At 0.16 GiB/s a transfer
#: takes 0.1 s.
_LINK_SECONDS = 0.35
_TRANSFERS = (2, 8)


class Speeds(NamedTuple):
    """Bytes a second, the best of several tries each. ``copy`` counts what is read and what is written; 0 where the
    memory is too small to tell."""

    copy: float
    host_to_device: float
    device_to_host: float


def measure(card: Card, stack: ExitStack) -> Speeds:
    """Overwrites the card's memory. Also wakes it: clocks are up when the test begins. Raises CudaError."""
    start, end = (card.context.event() for _ in range(2))
    for event in (start, end):
        stack.callback(event.close)
    largest = max(card.blocks, key=lambda block: block.size)
    half = min(_LARGEST_COPY, largest.size // 2 // MIB * MIB)
    copy = 0.0
    for _ in range(_COPIES if half else 0):
        copy = max(copy, 2 * half / _timed(card, start, end, lambda: _copy(card, largest.address, half)))
    size = min(card.host.size, largest.size)
    return Speeds(
        copy,
        _link(card, start, end, size, lambda: card.stream.upload(largest.address, card.host, size)),
        _link(card, start, end, size, lambda: card.stream.download(card.host, largest.address, size)),
    )


def _copy(card: Card, address: int, size: int) -> None:
    card.stream.copy(address + size, address, size)


def _timed(card: Card, start: Event, end: Event, work: Callable[[], None]) -> float:
    start.record(card.stream)
    work()
    end.record(card.stream)
    end.synchronize()
    return max(end.seconds_since(start), 1e-9)


def _link(card: Card, start: Event, end: Event, size: int, work: Callable[[], None]) -> float:
    best, begun = 0.0, time.monotonic()
    for number in range(_TRANSFERS[1]):
        if number >= _TRANSFERS[0] and time.monotonic() - begun > _LINK_SECONDS:
            break
        best = max(best, size / _timed(card, start, end, work))
    return best
