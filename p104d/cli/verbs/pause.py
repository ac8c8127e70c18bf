"""p104ctl pause: no new starts."""

from __future__ import annotations

import click

from p104d.cli.common import client, json_option, out, print_json
from p104d.cli.verbs import VERBS


@click.command("pause", short_help=VERBS["pause"])
@json_option
def command(as_json: bool) -> None:
    """Start no more jobs, running ones go on, until p104ctl resume."""
    answer = client().post("/v1/pause", {})
    if as_json:
        print_json(answer)
    else:
        out("paused: running jobs go on, no other starts until p104ctl resume")
