"""p104ctl cancel: jobs that no longer need to run."""

from __future__ import annotations

import click

from p104d.cli.acting import act
from p104d.cli.common import jobs_argument, json_option
from p104d.cli.verbs import VERBS


@click.command("cancel", short_help=VERBS["cancel"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Cancel jobs. A running job's whole process tree is stopped: SIGTERM, ten seconds later SIGKILL.

    All of them or, where one cannot be, none.
    """
    act("cancel", {"ids": jobs}, as_json)
