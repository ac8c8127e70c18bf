"""Text for people: colours where wanted, widths as a terminal counts them, tables, times."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from p104d.cli.terminal import coloured, terminal_width, unicode_output

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "dim": 2, "bold": 1, "loud": 7}

#: What each state of a job, a card and a verdict looks like; what is not here is plain.
STATE_COLOURS = {
    "running": "green",
    "starting": "green",
    "stopping": "yellow",
    "queued": "cyan",
    "held": "magenta",
    "succeeded": "dim",
    "failed": "red",
    "lost": "red",
    "cancelled": "yellow",
    "ready": "green",
    "busy": "green",
    "verifying": "cyan",
    "loading": "cyan",
    "draining": "yellow",
    "drained": "magenta",
    "suspect": "red",
    "missing": "red",
    "proven": "green",
    "locked": "yellow",
    "aliased": "red",
    "faulty": "red",
    "active": "green",
    "waiting": "cyan",
    "preempted": "yellow",
    "stopped": "yellow",
    "interrupted": "yellow",
}


def clean(text: str) -> str:
    """``text`` with control characters shown, not sent: a job's name must not drive the reader's terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def paint(text: str, colour: str | None) -> str:
    """``text`` in ``colour`` (a key of the palette) if colour is wanted here."""
    if colour is None or not text or not coloured():
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def state(word: str | None) -> Cell:
    """A state or verdict as a cell in its colour."""
    return Cell(word or "-", STATE_COLOURS.get(word or ""))


def width(text: str) -> int:
    """Columns that ``text`` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def shorten(text: str, room: int) -> str:
    """``text`` cut to ``room`` columns, the cut shown by an ellipsis."""
    if width(text) <= room:
        return text
    mark = "…" if unicode_output() else "~"
    while text and width(text) + 1 > room:
        text = text[:-1]
    return text + mark


class Cell(NamedTuple):
    """One field of a table: its text and the colour of it."""

    text: str
    colour: str | None = None


class Column(NamedTuple):
    """A heading; ``right`` aligns numbers; ``give`` lets the column shrink to ``least`` when the terminal is narrow."""

    heading: str
    right: bool = False
    give: bool = False
    least: int = 8


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], indent: str = "") -> list[str]:
    """Aligned lines, headed, for the terminal's width. Fields are cleaned of control characters."""
    cells = [[_cell(field) for field in row] for row in rows]
    widths = [
        max([width(column.heading)] + [width(row[place].text) for row in cells]) for place, column in enumerate(columns)
    ]
    _squeeze(columns, widths, len(indent))
    lines = [indent + _line(columns, widths, [Cell(column.heading, "bold") for column in columns])]
    return lines + [indent + _line(columns, widths, row) for row in cells]


def _cell(field: Cell | str) -> Cell:
    cell = field if isinstance(field, Cell) else Cell(field)
    return Cell(clean(cell.text), cell.colour)


def _squeeze(columns: Sequence[Column], widths: list[int], indent: int) -> None:
    room = terminal_width()
    if room is None:
        return
    excess = sum(widths) + 2 * (len(widths) - 1) + indent - room
    while excess > 0:
        able = [place for place, column in enumerate(columns) if column.give and widths[place] > column.least]
        if not able:
            return
        widest = max(able, key=lambda place: widths[place])
        widths[widest] -= 1
        excess -= 1


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> str:
    fields = []
    for column, room, cell in zip(columns, widths, row, strict=True):
        text = shorten(cell.text, room)
        gap = " " * (room - width(text))
        painted = paint(text, cell.colour)
        fields.append(gap + painted if column.right else painted + gap)
    return "  ".join(fields).rstrip()


def wrap(text: str, room: int, indent: str) -> list[str]:
    """``text`` broken at blanks into lines of ``room`` columns, all but the first begun with ``indent``."""
    lines, line = [], ""
    for word in clean(text).split():
        if line and width(line) + 1 + width(word) > room:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line.strip() else line + word
    return [*lines, line]


def timestamp(text: str | None) -> float | None:
    """Unix seconds of an ISO 8601 time as the daemon writes it; None for None."""
    if text is None:
        return None
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def local(text: str | None) -> str:
    """A time in the reader's own zone: ``14:02:11`` today, ``Nov 23 14:02`` this year, else ``2026-11-23``."""
    moment = timestamp(text)
    if moment is None:
        return "-"
    then, now = time.localtime(moment), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%b %d %H:%M" if then.tm_year == now.tm_year else "%Y-%m-%d", then)


def relative(text: str | None) -> str:
    """``3m05s ago`` or ``in 2h07m``."""
    moment = timestamp(text)
    if moment is None:
        return "-"
    from p104d.core.units import format_duration

    seconds = time.time() - moment
    return f"{format_duration(seconds)} ago" if seconds >= 0 else f"in {format_duration(-seconds)}"


def span(start: str | None, end: str | None) -> str:
    """How long something took, or takes by now; ``-`` if it has not begun."""
    from p104d.core.units import format_duration

    begun, ended = timestamp(start), timestamp(end)
    if begun is None:
        return "-"
    return format_duration(max(0.0, (time.time() if ended is None else ended) - begun))
