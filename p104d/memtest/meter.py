"""How far a test is, and how long it still takes: by what each kind of operation was measured to cost here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from p104d.memtest.messages import Progress
from p104d.memtest.steps import Check, Hold, Operation, Pass, Swap

#: Words about progress come at most this often, in seconds.
_INTERVAL = 0.25
_Kind = tuple[type[object], int]


class Meter:
    """Counts what is done of a plan and tells ``on_progress``. The fraction never goes back."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._started = self._since = time.monotonic()
        self._told, self._fraction = float("-inf"), 0.0
        self._size = 0
        self._left: dict[_Kind, int] = {}  # bytes to be moved, the present operation's included
        self._measured: dict[_Kind, tuple[int, float]] = {}  # bytes moved, in seconds
        self._hold_left = 0.0
        #: Real seconds for one of a hold: a simulated card's time may run faster.
        self._hold_pace = 1.0
        self._operation: Operation | None = None
        self._done = 0.0  # of the present operation: bytes moved, or seconds held
        self._checked = 0
        self._step, self._errors = "", 0

    def plan(self, passes: Iterable[Pass], size: int) -> None:
        """What is to come, on ``size`` bytes of memory."""
        self._size = size
        for operation in (operation for one in passes for operation in one.operations):
            if isinstance(operation, Hold):
                self._hold_left += operation.seconds
            else:
                kind = _kind(operation)
                self._left[kind] = self._left.get(kind, 0) + operation.moved(size)

    def step(self, label: str) -> None:
        """What is done from now on, for people."""
        self._step = label
        self.tell(now=True)

    def found(self, errors: int) -> None:
        """So many more bad words."""
        self._errors += errors

    def begin(self, operation: Operation) -> None:
        """It starts now."""
        self._operation, self._done, self._since = operation, 0.0, time.monotonic()

    def progress(self, amount: float) -> None:
        """The present operation is done with so many more bytes of the memory; a hold: seconds."""
        operation = self._operation
        if isinstance(operation, Hold):
            self._done += amount
            self._hold_left -= amount
            self._hold_pace = (time.monotonic() - self._since) / self._done
        elif operation is not None:
            self._done += operation.moved(int(amount))
            if isinstance(operation, Check | Swap):
                self._checked = min(self._size, self._checked + int(amount))
        self.tell()

    def end(self) -> None:
        """The present operation is done."""
        operation, self._operation = self._operation, None
        if operation is None or isinstance(operation, Hold):
            return
        kind, moved = _kind(operation), operation.moved(self._size)
        self._left[kind] -= moved
        before, seconds = self._measured.get(kind, (0, 0.0))
        self._measured[kind] = (before + moved, seconds + time.monotonic() - self._since)

    def finish(self) -> None:
        """Nothing is left to do, whatever was planned."""
        self._left, self._hold_left = {}, 0.0
        self.tell(now=True)

    def tell(self, *, now: bool = False) -> None:
        """A word about it, unless there was one just before."""
        at = time.monotonic()
        if not now and at - self._told < _INTERVAL:
            return
        self._told = at
        left = self._seconds_left()
        if left is not None:
            elapsed = at - self._started
            # Only what has come to its end is all of it.
            self._fraction = min(max(self._fraction, elapsed / (elapsed + left)), 0.999 if left else 1.0)
        self._on_progress(
            Progress(
                fraction=self._fraction,
                step=self._step,
                errors=self._errors,
                tested_bytes=self._checked,
                seconds_left=left,
            )
        )

    def _seconds_left(self) -> float | None:
        """None as long as nothing was measured."""
        now = None if self._operation is None or isinstance(self._operation, Hold) else _kind(self._operation)
        measured = dict(self._measured)
        if now is not None and now not in measured and self._done:
            measured[now] = (int(self._done), time.monotonic() - self._since)
        all_moved = sum(moved for moved, _ in measured.values())
        if not all_moved:
            return None
        # What a kind of operation costs that was not seen yet, is what the others cost.
        pace = sum(seconds for _, seconds in measured.values()) / all_moved
        seconds = self._hold_left * self._hold_pace
        for kind, left in self._left.items():
            moved, took = measured.get(kind, (1, pace))
            seconds += (left - (self._done if kind == now else 0)) * took / max(1, moved)
        return max(0.0, seconds)


def _kind(operation: Operation) -> _Kind:
    if isinstance(operation, Swap):
        return Swap, operation.before.kind
    assert not isinstance(operation, Hold)
    return type(operation), operation.pattern.kind
