"""p104ctl priority: who goes first."""

from __future__ import annotations

import click

from p104d.cli.acting import act
from p104d.cli.common import jobs_argument, json_option
from p104d.cli.verbs import VERBS


@click.command("priority", short_help=VERBS["priority"], context_settings={"ignore_unknown_options": True})
@jobs_argument
@click.argument("priority", metavar="PRIORITY", type=click.IntRange(-1000, 1000))
@json_option
def command(jobs: tuple[int, ...], priority: int, as_json: bool) -> None:
    """Change the priority of waiting jobs, -1000 to 1000, higher first: p104ctl priority 12 13 -5.

    In a system daemon, above 0 is for root and group p104-admin.
    """
    act("priority", {"ids": jobs, "priority": priority}, as_json)
