"""The live screen itself: tables of cards and jobs from what :mod:`top_feed` sees, and keys that act on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from p104d.api.client import Client
from p104d.cli import top_acts
from p104d.cli.screen import ENDED, GOING, WAITING, banners, counts, head, warning_lines
from p104d.cli.terminal import Canvas, drawing_on
from p104d.cli.text import clean, wrap
from p104d.cli.top_feed import Errands, Feed, Reading, misread
from p104d.cli.top_listing import Listing, painted
from p104d.cli.top_screens import Help, Log, Page, Question
from p104d.cli.top_tables import card_lines, heights, running_lines, waiting_lines
from p104d.cli.top_trace import Trace
from p104d.core.errors import P104Error

#: What each table has at least: title, heading and a row.
_LEAST = 3
#: What a message may take below.
_MESSAGE_LINES = 3
#: It gives way to the keys after so long.
_MESSAGE_SECONDS = 10.0
_TABLES = ("cards", "running", "waiting")
_COMMON = (("Tab", "next"), ("p", "pause"), ("?", "help"), ("q", "quit"))
_JOB_KEYS = (("Enter", "details"), ("l", "log"), ("c", "cancel"), ("h", "hold"), *_COMMON)
_CARD_KEYS = (("Enter", "details"), ("d", "drain"), *_COMMON)


class Looked(Message):
    """The feed has seen the daemon, or could not."""

    def __init__(self, seen: Reading | P104Error) -> None:
        super().__init__()
        self.seen = seen


class Done(Message):
    """A key's request has been answered: with a sentence, or an error."""

    def __init__(self, came: str | P104Error) -> None:
        super().__init__()
        self.came = came


class Rig(Screen[None]):
    """Cards, running and waiting jobs, warnings; keys that act on what is selected."""

    DEFAULT_CSS = """
    Rig #head, Rig #warnings { height: auto; }
    Rig #foot { dock: bottom; height: auto; max-height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "app.quit", "Quit"),
        ("question_mark", "help", "Help"),
        ("enter", "details", "Details"),
        ("c", "cancel", "Cancel"),
        ("h", "hold", "Hold"),
        ("l", "log", "Log"),
        ("d", "drain", "Drain"),
        ("p", "pause", "Pause"),
    ]

    def __init__(self, asked: Client, first: Reading, interval: float, unicode: bool) -> None:
        """``first`` is shown until the feed, every ``interval`` seconds, has seen more."""
        super().__init__()
        self._asked, self._canvas = asked, Canvas(None, unicode)
        self._reading = first
        self._trouble: P104Error | None = None
        self._message: str | P104Error | None = None
        self._fading: Timer | None = None
        self._trace = Trace(interval)
        self._trace.add(first.at, first.status["cards"])
        self._feed = Feed(asked, interval, lambda seen: self._post(Looked(seen)))
        self._errands = Errands()

    def compose(self) -> ComposeResult:
        """From top to bottom as ``p104ctl status`` has it."""
        unicode = self._canvas.unicode
        yield Static(id="head")
        yield Listing("CARDS", "no cards (p104ctl doctor says why)", "cards", unicode)
        yield Listing("RUNNING", "nothing runs", "running", unicode)
        yield Listing("WAITING", "nothing waits", "waiting", unicode)
        yield Static(id="warnings")
        yield Static(id="foot")

    def on_mount(self) -> None:
        """Show what is known, and begin to look."""
        self.query_one("#cards", Listing).focus()
        self._draw()
        self._feed.start()
        self._errands.start()

    def on_unmount(self) -> None:
        """Look no more."""
        self._feed.end()
        self._errands.end()

    def on_resize(self) -> None:
        """Cut all lines anew."""
        self._draw()

    def on_descendant_focus(self) -> None:
        """Each table has keys of its own."""
        self._draw_foot()

    def on_looked(self, message: Looked) -> None:
        """Show what the feed has seen; what it saw last stays while the daemon is away."""
        if isinstance(message.seen, P104Error):
            self._trouble = message.seen
        else:
            self._trouble, self._reading = None, message.seen
            self._trace.add(message.seen.at, message.seen.status["cards"])
        self._draw()

    def on_done(self, message: Done) -> None:
        """Say what came of a key, and look at once at what it changed."""
        self._say(message.came)
        self._feed.soon()

    def _post(self, message: Message) -> None:
        # From another thread, at the very end, into a loop that is closed already: nobody is there to be told.
        with contextlib.suppress(RuntimeError):
            self.post_message(message)

    def _say(self, text: str | P104Error) -> None:
        self._message = text
        if self._fading is not None:
            self._fading.stop()
        self._fading = self.set_timer(_MESSAGE_SECONDS, self._fade)
        self._draw()

    def _fade(self) -> None:
        self._message = None
        self._draw()

    def _draw(self) -> None:
        """All of it, from the last reading."""
        if not self.is_mounted or not self.size.width:
            return
        try:
            with drawing_on(self._canvas._replace(columns=self.size.width)):
                above, foot = self._draw_head(), self._draw_foot()
                self._draw_tables(self.size.height - above - foot)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            self._trouble = misread(error)
            with drawing_on(self._canvas._replace(columns=self.size.width)):
                self._part("head", self._away(self._trouble))

    def _part(self, name: str, lines: Sequence[str]) -> int:
        self.query_one(f"#{name}", Static).update(painted(lines))
        return len(lines)

    def _draw_head(self) -> int:
        status = self._reading.status
        first, ended = head(status["daemon"]), counts(status["queue"], ENDED)
        lines = [first, *banners(status["daemon"])]
        if self._trouble is not None:
            lines += self._away(self._trouble)
        gap = self.size.width - Text.from_ansi(first).cell_len - len(ended)
        if ended and gap > 2:
            lines[0] = first + " " * gap + ended
        return self._part("head", lines)

    def _away(self, trouble: P104Error) -> list[str]:
        text = f"the daemon is away, trying again: {trouble.message}" if trouble.retry else trouble.line()
        lines = wrap(f"*** {text} ***", self.size.width, "    ")
        return [f"\x1b[31m\x1b[7m{line}\x1b[0m" for line in lines]

    def _draw_foot(self) -> int:
        said = self._message
        if said is None:
            focused = self.focused
            keys = _CARD_KEYS if focused is not None and focused.id == "cards" else _JOB_KEYS
            return self._part("foot", ["  ".join(f"\x1b[1m{key}\x1b[0m {what}" for key, what in keys)])
        colour = 31 if isinstance(said, P104Error) else 32
        lines = wrap(said.line() if isinstance(said, P104Error) else said, self.size.width, "  ")[:_MESSAGE_LINES]
        return self._part("foot", [f"\x1b[{colour}m{line}\x1b[0m" for line in lines])

    def _draw_tables(self, room: int) -> None:
        status, waiting = self._reading.status, self._reading.waiting
        cards, running, queue = status["cards"], status["running"], status["queue"]
        # In a daemon of one's own all jobs are one's own.
        users = not status["daemon"].get("user_mode")
        # One column is the margin of the selected row.
        with drawing_on(self._canvas._replace(columns=self.size.width - 1)):
            found = {
                "cards": (card_lines(cards, self._trace), [card["uuid"] for card in cards], str(len(cards) or "")),
                "running": (running_lines(running, cards, users=users), [job["id"] for job in running], _going(queue)),
                "waiting": (
                    waiting_lines(waiting, users=users),
                    [job["id"] for job in waiting],
                    counts(queue, WAITING),
                ),
            }
        tables = [self._table(name) for name in _TABLES]
        for table in tables:
            table.show(*found[str(table.id)])
        warnings = warning_lines(status["warnings"])
        wants = [*(table.wanted for table in tables), len(warnings)]
        *given, spare = heights(room, wants, _LEAST)
        for table, lines in zip(tables, given, strict=True):
            table.styles.height = lines
        self._part("warnings", _cut(warnings, spare))

    def _table(self, name: str) -> Listing:
        return self.query_one(f"#{name}", Listing)

    def _selected(self, *tables: str) -> Hashable:
        """The card or job that the keys are for; None, and said so, where none of ``tables`` has them."""
        focused = self.focused
        found = focused.key if isinstance(focused, Listing) and focused.id in tables else None
        if found is None:
            self._say(P104Error("no card is selected" if "cards" in tables else "no job is selected", mend=_SELECT))
        return found

    def _job(self) -> dict[str, Any] | None:
        wanted = self._selected("running", "waiting")
        jobs = [*self._reading.status["running"], *self._reading.waiting]
        return next((job for job in jobs if job["id"] == wanted), None)

    def _card(self) -> dict[str, Any] | None:
        wanted = self._selected("cards")
        return next((card for card in self._reading.status["cards"] if card["uuid"] == wanted), None)

    def _do(self, act: Callable[[], str]) -> None:
        self._errands.do(act, lambda came: self._post(Done(came)))

    def _page(self, fetch: Callable[[], Callable[[], Sequence[str]]]) -> None:
        self.app.push_screen(Page(self._errands, fetch, self._canvas))

    def action_help(self) -> None:
        """The keys."""
        self.app.push_screen(Help())

    def action_details(self) -> None:
        """The page of the selected card or job."""
        if self.focused is not None and self.focused.id == "cards":
            if (card := self._card()) is not None:
                self._page(partial(top_acts.fetch_card, self._asked, card["uuid"]))
        elif (job := self._job()) is not None:
            self._page(partial(top_acts.fetch_job, self._asked, job["id"]))

    def action_cancel(self) -> None:
        """Cancel the selected job, once that has been confirmed."""
        if (job := self._job()) is None:
            return
        act = partial(top_acts.act_on_job, self._asked, "cancel", job["id"])
        self.app.push_screen(Question(f"Cancel {top_acts.described(job)}?"), lambda yes: self._do(act) if yes else None)

    def action_hold(self) -> None:
        """Hold the selected job; release it if it is held."""
        if (job := self._job()) is not None:
            verb = "release" if job["state"] == "held" else "hold"
            self._do(partial(top_acts.act_on_job, self._asked, verb, job["id"]))

    def action_log(self) -> None:
        """Follow the selected job's output."""
        if (job := self._job()) is not None:
            self.app.push_screen(Log(self._asked, job["id"], clean(job["name"]), self._canvas))

    def action_drain(self) -> None:
        """Drain the selected card; undrain it if it is out of service."""
        if (card := self._card()) is not None:
            self._do(partial(top_acts.drain, self._asked, card))

    def action_pause(self) -> None:
        """Pause the queue, or resume it."""
        paused = bool(self._reading.status["daemon"].get("paused"))
        self._do(partial(top_acts.pause, self._asked, paused))


_SELECT = "Tab goes to the other tables"


def _going(queue: dict[str, int]) -> str:
    """How many run, in a number where the title says the rest."""
    return str(queue["running"]) if counts(queue, GOING) == counts(queue, ["running"]) != "" else counts(queue, GOING)


def _cut(lines: Sequence[str], room: int) -> list[str]:
    """As many of ``lines`` as there is room for, and how many are left out."""
    if len(lines) <= room:
        return list(lines)
    kept = max(0, room - 1)
    return [*lines[:kept], f"and {len(lines) - kept} more lines of warnings: p104ctl status"][: max(room, 0)]
