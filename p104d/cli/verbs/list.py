"""p104ctl list: jobs by what they are."""

from __future__ import annotations

from typing import Any

import click

from p104d.api.client import Client
from p104d.cli.common import CardName, ParamType, client, json_option, lines, out, print_json
from p104d.cli.verbs import VERBS

STATES = ("held", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "lost")
#: Words for several states at once.
GROUPS = ("active", "ended", "all")
#: The most that the daemon lists at once.
PAGE = 5_000


class StateList(ParamType):
    """States with commas between."""

    name = "states"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if word not in (*STATES, *GROUPS):
                self.fail(
                    f"{word!r} is not a state; states are {', '.join(STATES)}; or {', '.join(GROUPS)}", param, ctx
                )
        return ",".join(words)


@click.command("list", short_help=VERBS["list"])
@click.option(
    "--state",
    metavar="STATE,...",
    type=StateList(),
    multiple=True,
    help="Only jobs in these states; active, ended, all.",
)
@click.option("--name", metavar="NAME", help="Only jobs of this name.")
@click.option("--user", metavar="USER", help="Only jobs of this user.")
@click.option("--label", metavar="KEY=VALUE", help="Only jobs with this label.")
@click.option("--card", metavar="CARD", type=CardName(), help="Only jobs that ran on this card.")
@click.option("--since", metavar="TIME", help="Only jobs submitted since: 2h, 7d, or an ISO 8601 time.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 100_000), default=50, help="At most so many. Default: 50.")
@click.option("--before", metavar="JOB", type=click.IntRange(min=1), help="Only jobs with a smaller id: the next page.")
@json_option
def command(
    state: tuple[str, ...],
    name: str | None,
    user: str | None,
    label: str | None,
    card: str | None,
    since: str | None,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    from p104d.cli.times import moment

    query = {
        "state": ",".join(state) or None,
        "name": name,
        "user": user,
        "label": label,
        "card": card,
        "since": None if since is None else moment(since),
    }
    asked = client()
    jobs = pages(asked, query, limit, before)
    if as_json:
        print_json({"jobs": jobs})
        return
    from p104d.cli.jobs import card_indexes, job_table

    if not jobs:
        out("no jobs")
        return
    lines(job_table(jobs, card_indexes(asked, jobs)))


def pages(asked: Client, query: dict[str, Any], limit: int, before: int | None) -> list[dict[str, Any]]:
    """At most ``limit`` jobs that fit, newest first, asked for in pages so that the daemon has time for others."""
    jobs: list[dict[str, Any]] = []
    while len(jobs) < limit:
        size = min(PAGE, limit - len(jobs))
        page = asked.get("/v1/jobs", {**query, "limit": size, "before": before})["jobs"]
        jobs += page
        if len(page) < size:
            break
        before = page[-1]["id"]
    return jobs
