"""p104ctl status: the rig on one screen."""

from __future__ import annotations

import click

from p104d.cli.common import client, json_option, lines, print_json
from p104d.cli.verbs import VERBS


@click.command("status", short_help=VERBS["status"])
@json_option
def command(as_json: bool) -> None:
    """Show the cards, the queue, running jobs and warnings on one screen."""
    answer = client().get("/v1/status")
    if as_json:
        print_json(answer)
        return
    from p104d.cli.screen import screen

    lines(screen(answer))
