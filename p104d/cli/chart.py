"""Drawing in a terminal: lines of braille dots (of plain characters where there is no Unicode), axes, jobs below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from p104d.cli.terminal import terminal_width, unicode_output
from p104d.cli.text import clean, paint, shorten, width
from p104d.cli.times import axis_ticks

#: Columns left of the drawing: the labels of the values, and the axis.
MARGIN = 10
#: A time label and the room around it.
_TICK_ROOM = 12
_LANES = 4
#: The dots of a braille character, by column and row.
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


class Sample(NamedTuple):
    """Values around one time (Unix seconds): the least, the mean, the most."""

    at: float
    low: float
    mean: float
    high: float


class Mark(NamedTuple):
    """One result: its time, value, and the character that it is shown as, with its colour."""

    at: float
    value: float
    char: str
    colour: str | None = None


class Bar(NamedTuple):
    """Something that went on for a while: a job."""

    start: float
    end: float
    text: str


class Window(NamedTuple):
    """The time that is drawn, in Unix seconds, and the columns that it has."""

    since: float
    until: float
    columns: int

    def place(self, at: float, dots: int) -> int:
        """Where in ``dots`` the time ``at`` is; may lie outside."""
        return math.floor((at - self.since) / (self.until - self.since) * dots)


def window(since: float, until: float, room: int | None) -> Window:
    """The drawing of that time on a terminal of ``room`` columns (None: no terminal; 100)."""
    return Window(since, max(until, since + 1.0), max(20, (room or 100) - MARGIN - 1))


def nice_range(low: float, high: float, parts: int) -> tuple[float, float]:
    """Round ends around the values, ``parts`` round steps apart."""
    if high <= low:
        spare = abs(low) * 0.05 or 1.0
        low, high = low - spare, high + spare
    size = 10.0 ** math.floor(math.log10((high - low) / parts))
    for factor in (1.0, 2.0, 2.5, 4.0, 5.0, 10.0, 20.0):
        step = factor * size
        start = math.floor(low / step + 1e-9) * step
        if start + step * parts >= high - step * 1e-9:
            break
    return start, start + step * parts


def line_chart(heading: str, samples: Sequence[Sample], over: Window, gap: float, height: int = 7) -> list[str]:
    """A headed curve. Where two samples are more than ``gap`` seconds apart nothing is drawn between them; what was
    least and most around a time is a stroke."""
    bottom, top = nice_range(min(s.low for s in samples), max(s.high for s in samples), 2)
    canvas = _Canvas(over.columns, height)
    before: tuple[int, int] | None = None
    last = -math.inf
    for sample in samples:
        column = min(max(over.place(sample.at, canvas.wide), 0), canvas.wide - 1)
        low, mean, high = (canvas.row((v - bottom) / (top - bottom)) for v in (sample.low, sample.mean, sample.high))
        canvas.stroke(column, low, high)
        if before is not None and sample.at - last <= gap:
            canvas.line(before, (column, mean))
        before, last = (column, mean), sample.at
    return [_heading(heading), *_framed(canvas.lines(), bottom, top, 2)]


def mark_chart(heading: str, marks: Sequence[Mark], over: Window, level: float | None, parts: int = 4) -> list[str]:
    """Results as characters, ``*`` where several that differ share a place; ``level`` is drawn through as dashes."""
    values = [mark.value for mark in marks] + ([] if level is None else [level])
    bottom, top = nice_range(min(values), max(values), parts)
    height = 3 * parts + 1 if parts > 2 else 2 * parts + 1
    grid: list[list[tuple[str, str | None]]] = [[(" ", None)] * over.columns for _ in range(height)]

    def row(value: float) -> int:
        return min(height - 1, max(0, round((top - value) / (top - bottom) * (height - 1))))

    if level is not None:
        grid[row(level)] = [("╌" if unicode_output() else "-", "dim")] * over.columns
    taken: dict[tuple[int, int], str] = {}
    for mark in marks:
        place = row(mark.value), min(max(over.place(mark.at, over.columns), 0), over.columns - 1)
        same = taken.setdefault(place, mark.char) == mark.char
        grid[place[0]][place[1]] = (mark.char, mark.colour) if same else ("*", None)
    drawn = ["".join(paint(char, colour) for char, colour in line).rstrip() for line in grid]
    return [_heading(heading), *_framed(drawn, bottom, top, parts)]


def time_axis(over: Window) -> list[str]:
    """The axis below all charts of one window, and its labels in local time."""
    plain = not unicode_output()
    line = ["-" if plain else "─"] * over.columns
    labels = [" "] * (over.columns + 1)
    free = 0
    for at, label in axis_ticks(over.since, over.until, over.columns // _TICK_ROOM):
        column = over.place(at, over.columns)
        start = max(0, column - len(label) // 2)
        if not 0 <= column < over.columns or start < free or start + len(label) > len(labels):
            continue
        line[column] = "+" if plain else "┬"
        labels[start : start + len(label)] = label
        free = start + len(label) + 1
    corner = "+" if plain else "└"
    return [" " * (MARGIN - 1) + corner + "".join(line), " " * MARGIN + "".join(labels).rstrip()]


def lanes(bars: Sequence[Bar], over: Window) -> list[str]:
    """What went on, below the charts: each a bar with its text where that has room, side by side where they overlap."""
    rows: list[tuple[int, list[str]]] = []
    left = 0
    for bar in sorted(bars):
        first, last = (over.place(at, over.columns) for at in (bar.start, bar.end))
        if last < 0 or first >= over.columns:
            continue
        first, last = max(0, first), min(over.columns - 1, last)
        row = next((place for place, (end, _) in enumerate(rows) if end < first), None)
        if row is None and len(rows) == _LANES:
            left += 1
            continue
        if row is None:
            rows.append((-1, [" "] * over.columns))
            row = len(rows) - 1
        drawn = rows[row][1]
        drawn[first : last + 1] = _bar(clean(bar.text), last - first + 1)
        # One column stays free behind a bar, or two would look like one.
        rows[row] = (last + 1, drawn)
    heads = ["jobs".rjust(MARGIN - 1) + " ", *[" " * MARGIN] * len(rows)]
    found = [head + paint("".join(drawn).rstrip(), "cyan") for head, (_, drawn) in zip(heads, rows, strict=False)]
    return [*found, *([f"{'':{MARGIN}}and {left} more"] if left else [])]


def _bar(text: str, columns: int) -> list[str]:
    begin, line, end = "├─┤" if unicode_output() else "|-|"
    if columns < 2:
        return [begin if unicode_output() else "|"] * columns
    inner = [line] * (columns - 2)
    if width(text) == len(text) <= len(inner):
        inner[: len(text)] = text
    return [begin, *inner, end]


def _heading(text: str) -> str:
    return paint(shorten(clean(text), terminal_width() or 10_000), "bold")


def _framed(drawn: Sequence[str], bottom: float, top: float, parts: int) -> list[str]:
    """The drawing with its axis, labelled at ``parts`` + 1 lines."""
    axis = "│" if unicode_output() else "|"
    every = (len(drawn) - 1) // parts
    lines = []
    for row, text in enumerate(drawn):
        value = top - (top - bottom) * row / (len(drawn) - 1)
        label = _label(value, (top - bottom) / parts) if row % every == 0 else ""
        lines.append(f"{label:>{MARGIN - 2}} {axis}{text}".rstrip())
    return lines


def _label(value: float, step: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (size > 1e3 or abs(value) >= 1e4):
            return f"{value / size:.4g}{unit}"
    # As many digits as a step has: 18.5, 0.025.
    digits = next((n for n in range(7) if abs(round(step, n) - step) < step * 1e-6), 6)
    return f"{value:.{digits}f}"


class _Canvas:
    """Dots, 2 by 4 a character of braille; without Unicode one a character."""

    def __init__(self, columns: int, rows: int) -> None:
        self._unicode = unicode_output()
        self._x, self._y = (2, 4) if self._unicode else (1, 1)
        self.wide, self.high = columns * self._x, rows * self._y
        self._cells = [[0] * columns for _ in range(rows)]

    def row(self, part: float) -> int:
        """The row of dots for a value that is ``part`` of the way up."""
        return min(self.high - 1, max(0, round((1.0 - part) * (self.high - 1))))

    def dot(self, x: int, y: int) -> None:
        self._cells[y // self._y][x // self._x] |= _BRAILLE[x % self._x][y % self._y]

    def stroke(self, x: int, first: int, last: int) -> None:
        for y in range(min(first, last), max(first, last) + 1):
            self.dot(x, y)

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Dots from one to the other, every row on the way."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x, y = (round(a + (b - a) * step / steps) for a, b in zip(start, end, strict=True))
            self.dot(x, y)

    def lines(self) -> list[str]:
        """The rows of characters, top first."""
        if not self._unicode:
            return ["".join("*" if cell else " " for cell in row) for row in self._cells]
        return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in self._cells]
