"""Widgets of the live screen: a table of which a row is selected, and a log."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import BindingType
from textual.widget import Widget

from p104d.cli.top_log import Follower, broken

#: A table's title and its heading.
_HEAD_LINES = 2


def painted(lines: Sequence[str]) -> Text:
    """Lines as the other verbs print them, in their colours."""
    return Text("\n", no_wrap=True, overflow="crop", end="").join([Text.from_ansi(line, end="") for line in lines])


class Listing(Widget, can_focus=True):
    """Rows under a title, one of them selected. What is selected stays so when the rows around it change."""

    DEFAULT_CSS = "Listing { height: 3; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "move(-1)", "Up"),
        ("down,j", "move(1)", "Down"),
        ("pageup", "page(-1)", "Page up"),
        ("pagedown", "page(1)", "Page down"),
        ("home", "move(-1000000)", "First"),
        ("end", "move(1000000)", "Last"),
    ]

    def __init__(self, title: str, empty: str, name: str, unicode: bool) -> None:
        """``empty`` is said where there are no rows."""
        super().__init__(id=name)
        self._title, self._empty, self._count = title, empty, ""
        self._mark = "─" if unicode else "-"
        self._heading, self._lines = "", list[str]()
        self._keys: list[Hashable] = []
        self._selected, self._first = 0, 0

    def show(self, lines: Sequence[str], keys: Sequence[Hashable], count: str) -> None:
        """Show a table: its heading and a line for each of ``keys``; ``count`` is said beside the title."""
        selected = self.key
        self._heading, self._lines = (lines[0], list(lines[1:])) if keys else ("", [])
        self._keys, self._count = list(keys), count
        if selected in self._keys:
            self._selected = self._keys.index(selected)
        self._selected = max(0, min(self._selected, len(self._keys) - 1))
        self.refresh()

    @property
    def key(self) -> Any:
        """The key of the selected row; None where there are no rows."""
        return self._keys[self._selected] if self._keys else None

    @property
    def wanted(self) -> int:
        """Lines that all of it takes."""
        return _HEAD_LINES + len(self._keys)

    def action_move(self, rows: int) -> None:
        """Select another row."""
        self._selected = max(0, min(self._selected + rows, len(self._keys) - 1))
        self.refresh()

    def action_page(self, pages: int) -> None:
        """Select the row a page further."""
        self.action_move(pages * max(1, self.size.height - _HEAD_LINES))

    def on_click(self, event: events.Click) -> None:
        """Select the row clicked on."""
        place = self._first + event.y - _HEAD_LINES
        if event.y >= _HEAD_LINES and place < len(self._keys):
            self._selected = place
            self.refresh()

    def on_mouse_scroll_down(self) -> None:
        """Select the next row."""
        self.action_move(1)

    def on_mouse_scroll_up(self) -> None:
        """Select the row before."""
        self.action_move(-1)

    def on_focus(self) -> None:
        """Show which table has the keys."""
        self.refresh()

    on_blur = on_focus

    def render(self) -> Text:
        """The title, the heading, and as many rows as there is room for, the selected one among them."""
        room = max(1, self.size.height - _HEAD_LINES)
        self._first = max(min(self._first, self._selected, len(self._keys) - room), self._selected - room + 1, 0)
        last = min(self._first + room, len(self._keys))
        lines = [self._rule(last if last - self._first < len(self._keys) else 0)]
        if not self._keys:
            return Text("\n").join([*lines, Text(f"   {self._empty}", style="dim")])
        lines.append(Text.from_ansi(f" {self._heading}"))
        for place in range(self._first, last):
            line = Text.from_ansi(f" {self._lines[place]}")
            if place == self._selected and self.has_focus:
                line.pad_right(max(0, self.size.width - line.cell_len))
                line.stylize("reverse")
            lines.append(line)
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _rule(self, last: int) -> Text:
        """``── CARDS 4 ───── 1-3 of 4 ──``; bold in colour where the keys go."""
        where = f" {self._first + 1}-{last} of {len(self._keys)} {self._mark}{self._mark}" if last else ""
        left = f"{self._mark}{self._mark} {self._title}{' ' if self._count else ''}{self._count} "
        fill = self._mark * max(0, self.size.width - len(left) - len(where))
        return Text(left + fill + where, style="bold cyan" if self.has_focus else "dim", no_wrap=True, overflow="crop")


class LogView(Widget, can_focus=True):
    """The lines of a log, the last ones while nobody scrolls back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("up,k", "back(1)", "Up"),
        ("down,j", "back(-1)", "Down"),
        ("pageup", "page(1)", "Page up"),
        ("pagedown,space", "page(-1)", "Page down"),
        ("home,g", "back(1000000)", "First"),
        ("end,G", "back(-1000000)", "Last"),
    ]

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower
        #: The line below the last one shown; None: the end, whatever comes.
        self._below: int | None = None

    def action_back(self, lines: int) -> None:
        """Scroll back by so many lines; the end follows again."""
        with self._follower.lock:
            count = len(self._follower.lines)
        below = (count if self._below is None else self._below) - lines
        self._below = None if below >= count else max(min(self.size.height, count), below)
        self.refresh()

    def action_page(self, pages: int) -> None:
        """Scroll back by so many screens."""
        self.action_back(pages * max(1, self.size.height - 1))

    def on_mouse_scroll_down(self) -> None:
        """Scroll on."""
        self.action_back(-3)

    def on_mouse_scroll_up(self) -> None:
        """Scroll back."""
        self.action_back(3)

    @property
    def scrolled(self) -> bool:
        """Whether something else than the end is shown."""
        return self._below is not None

    def render(self) -> Text:
        """From the last line upwards, long ones broken, until the screen is full."""
        high, wide = max(1, self.size.height), max(1, self.size.width)
        found: list[str] = []
        with self._follower.lock:
            lines = self._follower.lines
            for line in lines.upwards(len(lines) if self._below is None else self._below):
                found[:0] = broken(line, wide)
                if len(found) >= high:
                    break
        return Text("\n".join(found[-high:]), no_wrap=True, overflow="crop")
