"""Operations on all of a card's memory: cut into pieces, several of them on their way at any time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import CDLL, c_uint, c_uint64
from typing import Any

from p104d.core.units import GIB
from p104d.hardware.cuda import Argument, Event
from p104d.memtest.card import WORD_BYTES, Card, Piece
from p104d.memtest.meter import Meter
from p104d.memtest.steps import Check, Fill, Hold, Operation, Pattern, Swap

#: An eighth of the memory, so that a slow card has something to say often enough: 1 GiB of 8, 4 ms of a healthy one.
#: More than this would gain nothing.
_PARTS, _LARGEST_PIECE = 8, 4 * GIB
#: Launches given to the card before the first of them is waited for: no gap between two, yet little to throw away.
_IN_FLIGHT = 4
_HOLD_SLICE_SECONDS = 1.0


class Sweeper:
    """Runs operations on a card and counts them on a meter. Raises CudaError."""

    def __init__(self, card: Card, meter: Meter, stack: ExitStack) -> None:
        self._card, self._meter = card, meter
        self._pieces = card.pieces(min(_LARGEST_PIECE, card.tested_words * WORD_BYTES // _PARTS))
        self._events = [card.context.event() for _ in range(_IN_FLIGHT + 2)]
        for event in self._events:
            stack.callback(event.close)
        self._sleep = sleeper(card.cuda.library)

    def run(self, operation: Operation) -> float:
        """Do it; seconds on the card's own clock."""
        self._meter.begin(operation)
        seconds = self._hold(operation) if isinstance(operation, Hold) else self._sweep(operation)
        self._meter.end()
        return seconds

    def _hold(self, hold: Hold) -> float:
        left = hold.seconds
        while left > 0:
            part = min(left, _HOLD_SLICE_SECONDS)
            self._sleep(part)
            left -= part
            self._meter.progress(part)
        return hold.seconds

    def _sweep(self, operation: Fill | Check | Swap) -> float:
        start, *free = self._events
        flying: deque[tuple[Event, Piece]] = deque()
        last = start
        start.record(self._card.stream)
        descending = isinstance(operation, Swap) and operation.descending
        for piece in reversed(self._pieces) if descending else self._pieces:
            if len(flying) == _IN_FLIGHT:
                free.append(self._land(flying))
            self._launch(operation, piece)
            last = free.pop()
            last.record(self._card.stream)
            flying.append((last, piece))
        while flying:
            self._land(flying)
        return last.seconds_since(start)

    def _land(self, flying: deque[tuple[Event, Piece]]) -> Event:
        """Wait for the first that is on its way."""
        event, piece = flying.popleft()
        event.synchronize()
        self._meter.progress(piece.words * WORD_BYTES)
        return event

    def _launch(self, operation: Fill | Check | Swap, piece: Piece) -> None:
        card = self._card
        head: list[Argument] = [c_uint64(piece.address), c_uint64(piece.words), c_uint64(piece.first)]
        tail: list[Argument] = [c_uint64(card.records.address), c_uint(card.cell_shift), c_uint64(card.tested_words)]
        match operation:
            case Fill(pattern):
                card.launch(card.fill, head + _arguments(pattern))
            case Check(pattern):
                card.launch(card.check, head + _arguments(pattern) + tail)
            case Swap(before, after, descending):
                patterns = _arguments(before) + _arguments(after)
                card.launch(card.swap, [*head, *patterns, *tail, c_uint(descending)])

    def clear_records(self) -> None:
        """Nothing was found."""
        self._card.stream.clear(self._card.records.address, self._card.records.size)

    def read_records(self) -> memoryview:
        """What was found since then, as 64-bit words; overwritten by the next reading."""
        card = self._card
        card.stream.download(card.host, card.records.address, card.records.size)
        card.stream.synchronize()
        return card.host.view[: card.records.size].cast("Q")


def _arguments(pattern: Pattern) -> list[Argument]:
    return [c_uint(pattern.kind), c_uint64(pattern.a), c_uint64(pattern.b)]


def sleeper(library: Any) -> Callable[[float], None]:
    """How to let a card's time pass: a simulated one's may be faster than ours. (A real library is not asked: it would
    answer with the C library's own ``sleep``.)"""
    return time.sleep if isinstance(library, CDLL) else getattr(library, "sleep", time.sleep)
