"""p104ctl drain: take cards out of service."""

from __future__ import annotations

import click

from p104d.cli.acting import drain
from p104d.cli.common import CardName, json_option
from p104d.cli.verbs import VERBS


@click.command("drain", short_help=VERBS["drain"])
@click.argument("cards", metavar="CARD...", type=CardName(), nargs=-1, required=True)
@json_option
def command(cards: tuple[str, ...], as_json: bool) -> None:
    """Let cards finish the jobs they have and take no more.

    CARD is an index, a UUID or its beginning, or a name.
    """
    drain(cards, undo=False, as_json=as_json)
