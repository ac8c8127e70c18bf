"""p104ctl explain: why a job waits, in the scheduler's own words."""

from __future__ import annotations

import click

from p104d.cli.common import client, jobs_argument, json_option, lines, out, print_json, unique
from p104d.cli.verbs import VERBS


@click.command("explain", short_help=VERBS["explain"])
@jobs_argument
@json_option
def command(jobs: tuple[int, ...], as_json: bool) -> None:
    """Say why a waiting job waits, card by card, as the scheduler itself sees it."""
    asked = client()
    answer = asked.post("/v1/jobs/explain", {"ids": unique(jobs)})
    found = answer["jobs"]
    if as_json:
        print_json(found[0] if len(found) == 1 else answer)
        return
    from p104d.cli.jobs import explain_page

    cards = asked.get("/v1/cards")["cards"]
    for place, job in enumerate(found):
        if place:
            out()
        lines(explain_page(job, cards))
