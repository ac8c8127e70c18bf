"""p104ctl logs: what a job printed."""

from __future__ import annotations

import click

from p104d.cli.common import JobId, client
from p104d.cli.verbs import VERBS


@click.command("logs", short_help=VERBS["logs"])
@click.argument("job", metavar="JOB", type=JobId())
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--tail", metavar="N", type=click.IntRange(min=0), help="Begin with the last so many lines.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="Of this attempt. Default: the last.")
def command(job: int, follow: bool, tail: int | None, attempt: int | None) -> None:
    """Print the output of a job, standard output and standard error as they came, byte by byte."""
    from p104d.cli.waiting import Watch, goes_on, interruptible, write_raw

    query: dict[str, object] = {"tail": tail, "attempt": attempt}
    if follow:
        with interruptible(goes_on([job])):
            Watch(client()).follow(job, query)
        return
    with client().stream(f"/v1/jobs/{job}/log", {"follow": 0, **query}) as answer:
        for piece in answer.pieces():
            write_raw(piece)
