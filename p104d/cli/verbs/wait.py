"""p104ctl wait: block until jobs have ended."""

from __future__ import annotations

import click

from p104d.cli.common import client, jobs_argument, json_option, note, out, print_json, unique
from p104d.cli.verbs import VERBS
from p104d.core.errors import UsageError


@click.command("wait", short_help=VERBS["wait"])
@jobs_argument
@click.option("--timeout", metavar="DURATION", help="Wait no longer than 90s, 5m, 2h; exit with 1 if jobs go on.")
@json_option
def command(jobs: tuple[int, ...], timeout: str | None, as_json: bool) -> None:
    """Wait until jobs have ended. Exits with 1 if one of them did not succeed."""
    from p104d.cli.waiting import ENDED, Watch, describe_end, goes_on, interruptible

    ids = unique(jobs)
    with interruptible(goes_on(ids)):
        ended = Watch(client()).wait(ids, _seconds(timeout))
    if as_json:
        print_json({"jobs": ended})
    else:
        for job in ended:
            out(describe_end(job) if job["state"] in ENDED else f"job {job['id']} goes on: {job['state']}")
    going = sum(job["state"] not in ENDED for job in ended)
    if going:
        note(f"{going} of {len(ended)} jobs not ended after {timeout}")
    if any(job["state"] != "succeeded" for job in ended):
        click.get_current_context().exit(1)


def _seconds(timeout: str | None) -> float | None:
    if timeout is None:
        return None
    from p104d.core.units import parse_duration

    try:
        return 0.0 if timeout in ("0", "0s") else parse_duration(timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
