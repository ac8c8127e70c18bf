"""Watching memory tests: the daemon's stream of lines in; lines redrawn in place, or a line a card, out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TextIO

from p104d.api.client import Client
from p104d.cli.proof import end_lines, label, outcome
from p104d.cli.rig import card_index, card_name, percent_text
from p104d.cli.terminal import terminal_width, unicode_output
from p104d.cli.text import Cell, Column, table
from p104d.core.errors import P104Error, UnreachableError
from p104d.core.units import format_duration

#: Where nobody watches a line being redrawn, how often a long test may say how far it is.
HEARTBEAT_SECONDS = 30.0
#: States after which nothing more comes of a test. A preempted one is asked for again by the daemon itself.
_ENDED = ("finished", "stopped", "interrupted")
_BLOCKS = 16


class Display(Protocol):
    """Where progress goes."""

    def show(self, tests: Sequence[dict[str, Any]]) -> None:
        """The tests as they stand."""

    def close(self) -> None:
        """Leave the screen ready for whoever writes next."""

    def end(self, tests: Sequence[dict[str, Any]]) -> None:
        """How all of them ended."""


def watch(asked: Client, body: Mapping[str, object], display: Display) -> dict[str, Any]:
    """Ask for tests and show them until all have ended; the last answer.

    Leaving early (Ctrl-C) hangs up, and the daemon stops what was asked for. Raises UnreachableError if the daemon goes
    away before the tests have ended.
    """
    with asked.stream("/v1/cards/verify", body={**body, "watch": True}) as answer:
        try:
            for verified in json_lines(answer.pieces()):
                if verified.get("done"):
                    return verified
                display.show(verified["tests"])
        finally:
            display.close()
    message = "the daemon ended before the tests did; cards keep their verdicts"
    raise UnreachableError(message, mend="it may be restarting: try again")


def json_lines(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a stream of JSON lines, however it was cut into pieces."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield _parsed(line)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise P104Error("the daemon sent a line that is not JSON", mend="see its log: journalctl -u p104d") from error
    assert isinstance(found, dict)
    return found


class Silent:
    """Nobody watches: what ``--json`` prints comes at the end."""

    def show(self, tests: Sequence[dict[str, Any]]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def end(self, tests: Sequence[dict[str, Any]]) -> None:
        """Nothing."""


class Lines:
    """For a log or a pipe: a line where something begins or ends, and now and then how far a long test is."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._said: dict[str, str] = {}
        self._last: dict[str, float] = {}

    def show(self, tests: Sequence[dict[str, Any]]) -> None:
        """Say what is new."""
        for test in tests:
            card, now = test["card"], self._clock()
            if self._said.get(card) != test["state"]:
                self._said[card], self._last[card] = test["state"], now
                self._changed(test)
            elif test["state"] in ("running", "waiting") and now - self._last[card] >= HEARTBEAT_SECONDS:
                self._last[card] = now
                running = test["state"] == "running"
                self._write(f"{label(test)}: {how_far(test)}") if running else self._changed(test)

    def _changed(self, test: dict[str, Any]) -> None:
        if test["state"] in _ENDED:
            for line in end_lines(test, terminal_width()):
                self._write(line)
        elif test["state"] == "running":
            self._write(f"{label(test)}: {test['depth']} test begins")
        else:
            because = test.get("waiting_because")
            self._write(f"{label(test)}: {test['depth']} test {test['state']}" + (f": {because}" if because else ""))

    def close(self) -> None:
        """Nothing: what was written stays."""

    def end(self, tests: Sequence[dict[str, Any]]) -> None:
        """Say what is new with the last answer."""
        self.show(tests)


def how_far(test: dict[str, Any]) -> str:
    """``42 %, hash, second seed, 1m20s left, 3 errors``."""
    progress = test.get("progress") or {}
    left = progress.get("seconds_left")
    errors = progress.get("errors") or 0
    parts = (
        percent_text(progress.get("percent") or 0.0),
        progress.get("step"),
        f"{format_duration(left)} left" if left is not None else "",
        f"{errors:,} errors" if errors else "",
    )
    return ", ".join(part for part in parts if part)


class Live:
    """Lines redrawn in place on a terminal, one a test; at the end they make room for how the tests ended."""

    def __init__(self, stream: TextIO, result: Callable[[str], None] | None) -> None:
        """``result`` takes the lines about how tests ended; None: somebody else tells it."""
        self._stream = stream
        self._result = result
        self._drawn = 0

    def show(self, tests: Sequence[dict[str, Any]]) -> None:
        """Draw the tests over what was drawn before."""
        page = self._page(tests)
        # Lines are clipped, not wrapped, while drawing: a wrapped one would be two, and the next drawing one too low.
        self._stream.write(self._erase() + "\x1b[?7l" + "".join(f"{line}\n" for line in page) + "\x1b[?7h")
        self._stream.flush()
        self._drawn = len(page)

    def close(self) -> None:
        """Erase what was drawn."""
        self._stream.write(self._erase())
        self._stream.flush()
        self._drawn = 0

    def end(self, tests: Sequence[dict[str, Any]]) -> None:
        """Tell how each test ended."""
        for line in (line for test in tests for line in end_lines(test, terminal_width())):
            if self._result is not None:
                self._result(line)

    def _erase(self) -> str:
        return f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""

    def _page(self, tests: Sequence[dict[str, Any]]) -> list[str]:
        # More lines than the screen has would scroll, and what scrolled away cannot be redrawn.
        most = max(1, self._height() - 3)
        if len(tests) <= most:
            return progress_table(tests)
        order = {"running": 0, "waiting": 1, "preempted": 1}
        first = sorted(tests, key=lambda test: order.get(test["state"], 2))[:most]
        return [*progress_table(first), f"and {len(tests) - most} more"]

    def _height(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).lines or 24
        except (OSError, ValueError):
            return 24


def progress_table(tests: Sequence[dict[str, Any]]) -> list[str]:
    """One line a test: its bar while it runs, what it waits for, how it ended."""
    columns = [
        Column("#", right=True),
        Column("CARD", give=True),
        Column("DEPTH"),
        Column("PROGRESS"),
        Column("LEFT", right=True),
        Column("ERRORS", right=True),
        Column("STEP", give=True, least=12),
    ]
    return table(columns, [_row(test) for test in tests])


def _row(test: dict[str, Any]) -> list[Cell | str]:
    progress = (test.get("progress") or {}) if test["state"] == "running" else {}
    errors = progress.get("errors", test.get("errors"))
    left = progress.get("seconds_left")
    said = progress.get("step") or (test.get("text") if test["state"] in _ENDED else test.get("waiting_because"))
    return [
        card_index(test),
        card_name(test),
        test["depth"],
        _bar(progress.get("percent") or 0.0) if test["state"] == "running" else outcome(test),
        format_duration(left),
        Cell(f"{errors:,}", "red") if errors else "-" if errors is None else "0",
        said or "",
    ]


def _bar(percent: float) -> Cell:
    full, free = "█░" if unicode_output() else "#."
    blocks = min(_BLOCKS, int(percent / 100 * _BLOCKS))
    return Cell(f"{full * blocks}{free * (_BLOCKS - blocks)} {percent_text(percent):>4}", "cyan")
