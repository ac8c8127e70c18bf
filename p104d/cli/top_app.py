"""The app around the live screen: what Textual has to know of it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import BindingType

from p104d.api.client import Client
from p104d.cli.top_feed import Reading
from p104d.cli.top_rig import Rig


class Top(App[None]):
    """The live screen, in the terminal's own colours (none where NO_COLOR is set)."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+c", "quit", "Quit"), ("ctrl+z", "suspend_process", "Suspend")]

    def __init__(self, asked: Client, first: Reading, interval: float, unicode: bool) -> None:
        """Show ``first``, then what ``asked`` says every ``interval`` seconds; ``unicode``: not only ASCII."""
        super().__init__(ansi_color=True)
        self.rig = Rig(asked, first, interval, unicode)

    def on_mount(self) -> None:
        """Show it."""
        self.push_screen(self.rig)

    def run_whole(self) -> None:
        """Run until somebody quits. Raises what went wrong inside, the terminal being as it was."""
        self.run()
        if self._exception is not None:
            raise self._exception

    def _fatal_error(self) -> None:
        # Textual's own prints a traceback of a hundred lines; p104ctl tells of its mistakes in one.
        self._close_messages_no_wait()
