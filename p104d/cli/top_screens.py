"""What lies over the live screen for a while: a question, a page about a job or card, a log, help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from p104d.api.client import Client
from p104d.cli.terminal import Canvas, drawing_on
from p104d.cli.text import shorten
from p104d.cli.top_feed import Errands
from p104d.cli.top_listing import LogView, painted
from p104d.cli.top_log import Follower
from p104d.core.errors import P104Error

HELP = """\
[b]p104ctl top[/b]: the rig, as it is

 [b]Tab  Shift-Tab[/b]      from table to table
 [b]Up Down PgUp PgDn[/b]   select a card or a job
 [b]Enter[/b]               all that is known of it; why a job waits

 [b]c[/b]   cancel a job            [b]l[/b]   follow its log
 [b]h[/b]   hold, or release a held job
 [b]d[/b]   drain a card, or undrain it
 [b]p[/b]   pause the queue, or resume
 [b]q[/b]   quit; the jobs go on

The lines of blocks are the last minutes, the newest right."""


class Question(ModalScreen[bool]):
    """Yes or no, before something that cannot be undone."""

    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Static { border: round red; padding: 1 3; width: auto; max-width: 90%; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "Yes"), ("n,escape,q", "answer(False)", "No")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """The question in a box."""
        yield Static(Text.assemble(self._text, "\n\n", ("y", "bold"), " yes    ", ("n", "bold"), " no"))

    def action_answer(self, yes: bool) -> None:
        """End with the answer."""
        self.dismiss(yes)


class Help(ModalScreen[None]):
    """The keys."""

    DEFAULT_CSS = """
    Help { align: center middle; }
    Help Static { border: round cyan; padding: 1 3; width: auto; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,q,enter", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        """The keys in a box."""
        yield Static(HELP)


class Page(Screen[None]):
    """Lines about one thing, fetched by the errands' thread."""

    DEFAULT_CSS = """
    Page VerticalScroll { height: 1fr; }
    Page #foot { dock: bottom; height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "dismiss", "Back"), ("r", "again", "Again")]

    class Came(Message):
        """What was asked for, or the error."""

        def __init__(self, came: Any) -> None:
            super().__init__()
            self.came = came

    def __init__(self, errands: Errands, fetch: Callable[[], Callable[[], Sequence[str]]], canvas: Canvas) -> None:
        """``fetch`` asks the daemon, and returns what makes lines of the answer."""
        super().__init__()
        self._errands, self._fetch, self._canvas = errands, fetch, canvas
        self._came: Any = None

    def compose(self) -> ComposeResult:
        """The lines, and the keys below."""
        with VerticalScroll():
            yield Static("...", id="lines")
        yield Static(Text.assemble(("Esc", "bold"), " back  ", ("r", "bold"), " again"), id="foot")

    def on_mount(self) -> None:
        """Ask at once."""
        self.query_one(VerticalScroll).focus()
        self.action_again()

    def action_again(self) -> None:
        """Ask once more."""
        self._errands.do(self._fetch, lambda came: self.post_message(self.Came(came)))

    def on_page_came(self, message: Came) -> None:
        """Show it."""
        self._came = message.came
        self._show()

    def on_resize(self) -> None:
        """Show it again, for another width."""
        self._show()

    def _show(self) -> None:
        if self._came is None:
            return
        if isinstance(self._came, P104Error):
            lines: Sequence[str] = [f"\x1b[31m{self._came.line()}\x1b[0m"]
        else:
            with drawing_on(self._canvas._replace(columns=self.size.width - 2)):
                lines = self._came()
        text = painted(lines)
        text.no_wrap = False
        self.query_one("#lines", Static).update(text)


class Log(Screen[None]):
    """A job's output as it comes."""

    DEFAULT_CSS = """
    Log LogView { height: 1fr; }
    Log #head { dock: top; height: 1; }
    Log #foot { dock: bottom; height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "dismiss", "Back")]

    class More(Message):
        """There is more."""

    def __init__(self, asked: Client, job: int, name: str, canvas: Canvas) -> None:
        super().__init__()
        self._number, self._called, self._canvas = job, name, canvas
        self._follower = Follower(asked, job, lambda: self.post_message(self.More()))

    def compose(self) -> ComposeResult:
        """How it stands, the lines, the keys."""
        yield Static(id="head")
        yield LogView(self._follower)
        keys = Text.assemble(("Esc", "bold"), " back  ", ("Up Down PgUp PgDn Home", "bold"), " scroll  ")
        yield Static(keys.append("End", "bold").append(" follow"), id="foot")

    def on_mount(self) -> None:
        """Begin to follow."""
        self.query_one(LogView).focus()
        self._follower.start()
        self.on_log_more()

    def on_unmount(self) -> None:
        """Hang up."""
        self._follower.end()

    def on_log_more(self) -> None:
        """Show what came."""
        self._follower.seen()
        with self._follower.lock:
            said = self._follower.said
        with drawing_on(self._canvas):
            # What is said has to be seen, so a long name is cut first.
            room = (self.size.width or 80) - len(f"job {self._number} (): {said}")
            text = f"job {self._number} ({shorten(self._called, max(8, room))}): {said}"
        self.query_one("#head", Static).update(Text(text, style="bold", no_wrap=True))
        self.query_one(LogView).refresh()
