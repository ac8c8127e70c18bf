"""p104ctl undrain: put cards back into service."""

from __future__ import annotations

import click

from p104d.cli.acting import drain
from p104d.cli.common import CardName, json_option
from p104d.cli.verbs import VERBS


@click.command("undrain", short_help=VERBS["undrain"])
@click.argument("cards", metavar="CARD...", type=CardName(), nargs=-1, required=True)
@json_option
def command(cards: tuple[str, ...], as_json: bool) -> None:
    """Let drained cards, and cards that took themselves out, take jobs again.

    CARD is an index, a UUID or its beginning, or a name.
    """
    drain(cards, undo=True, as_json=as_json)
