"""p104ctl top: the rig as it is, all the time."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click

from p104d.cli.common import client
from p104d.cli.verbs import VERBS
from p104d.core.errors import RefusedError, UsageError


@click.command("top", short_help=VERBS["top"])
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    help="Look at the rig this often. Default: 1.",
)
def command(interval: float) -> None:
    """Watch cards, running and waiting jobs, and warnings, in a screen that keeps itself up to date.

    Keys: Tab and the arrows select a card or a job; Enter shows all of it, l follows a job's log, c cancels, h holds
    or releases a job, d drains or undrains a card, p pauses or resumes the queue, ? lists the keys, q ends. Jobs go on
    without it. Needs the package textual.
    """
    _require()
    import gc

    from p104d.cli.terminal import unicode_output
    from p104d.cli.top_feed import look

    asked = client()
    first = look(asked)
    # p104ctl leaves its garbage to its end, which is soon; not here.
    gc.enable()
    from p104d.cli.top_app import Top

    Top(asked, first, interval, unicode_output()).run_whole()


def _require() -> None:
    """Raise where there is no terminal to draw on, or nothing to draw with."""
    # All three: keys are read from the first, and textual draws on the last.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("top needs a terminal", mend="p104ctl status --json is for programs")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("top needs a terminal with a cursor, and TERM says there is none", mend="p104ctl status")
    if find_spec("textual") is None:
        raise RefusedError("top needs textual, which is not installed", mend="pip install 'p104d[top]'")
