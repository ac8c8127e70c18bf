"""p104ctl release: jobs that shall wait no longer."""

from __future__ import annotations

import click

from p104d.cli.acting import act
from p104d.cli.common import jobs_argument, json_option
from p104d.cli.verbs import VERBS


@click.command("release", short_help=VERBS["release"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Let held jobs start again.

    All of them or, where one cannot be, none.
    """
    act("release", {"ids": jobs}, as_json)
