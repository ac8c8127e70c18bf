"""p104ctl retry: another attempt for jobs that ended."""

from __future__ import annotations

import click

from p104d.cli.acting import act
from p104d.cli.common import jobs_argument, json_option
from p104d.cli.verbs import VERBS


@click.command("retry", short_help=VERBS["retry"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Run ended jobs once more, as a new attempt of the same job.

    All of them or, where one cannot be, none.
    """
    act("retry", {"ids": jobs}, as_json)
