"""p104ctl show: all that is known of jobs."""

from __future__ import annotations

import click

from p104d.cli.common import client, jobs_argument, json_option, lines, out, print_json, unique
from p104d.cli.verbs import VERBS


@click.command("show", short_help=VERBS["show"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Show all that is known of jobs: states, attempts, measurements, specification."""
    asked = client()
    answer = asked.post("/v1/jobs/show", {"ids": unique(jobs)})
    found = answer["jobs"]
    if as_json:
        print_json(found[0] if len(found) == 1 else answer)
        return
    from p104d.cli.jobs import card_indexes, job_page

    indexes = card_indexes(asked, found)
    for place, job in enumerate(found):
        if place:
            out()
        lines(job_page(job, indexes))
