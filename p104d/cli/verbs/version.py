"""p104ctl version: which release is here, which answers."""

from __future__ import annotations

import click

from p104d.api.client import WIRE_VERSION
from p104d.cli.common import client, json_option, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import P104Error, UnreachableError


def own_version() -> str:
    """The release of this p104ctl."""
    from p104d import __version__

    return __version__


@click.command("version", short_help=VERBS["version"])
@json_option
def command(as_json: bool) -> None:
    """Print the versions of p104ctl, of the wire, and of the daemon if one answers."""
    trouble = None
    daemon = None
    try:
        daemon = str(client().get("/v1/status", timeout=5.0)["daemon"]["version"])
    except UnreachableError as error:
        trouble = error
    except P104Error:
        daemon = "unknown"
    if as_json:
        print_json({"version": own_version(), "wire": WIRE_VERSION, "daemon": daemon})
        return
    out(f"p104ctl {own_version()}, wire version {WIRE_VERSION}")
    out(f"p104d {daemon}" if daemon else f"p104d does not answer: {trouble.message if trouble else 'no reason given'}")
