"""p104ctl hold: jobs that shall wait."""

from __future__ import annotations

import click

from p104d.cli.acting import act
from p104d.cli.common import jobs_argument, json_option
from p104d.cli.verbs import VERBS


@click.command("hold", short_help=VERBS["hold"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Keep queued jobs from starting until they are released.

    All of them or, where one cannot be, none.
    """
    act("hold", {"ids": jobs}, as_json)
