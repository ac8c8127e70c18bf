"""p104ctl resume: the end of a pause."""

from __future__ import annotations

import click

from p104d.cli.common import client, json_option, out, print_json
from p104d.cli.verbs import VERBS


@click.command("resume", short_help=VERBS["resume"])
@json_option
def command(as_json: bool) -> None:
    """Start jobs again after a pause."""
    answer = client().post("/v1/resume", {})
    if as_json:
        print_json(answer)
    else:
        out("resumed: jobs start as cards allow")
