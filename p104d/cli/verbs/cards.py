"""p104ctl cards: what is plugged in."""

from __future__ import annotations

from typing import Any

import click

from p104d.api.client import Client
from p104d.cli.common import CardName, client, json_option, lines, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import NotFoundError


@click.command("cards", short_help=VERBS["cards"])
@click.argument("names", metavar="[CARD]...", type=CardName(), nargs=-1)
@json_option
def command(names: tuple[str, ...], as_json: bool) -> None:
    """Show the cards; with CARD (index, UUID or name) all that is known of these."""
    asked = client()
    found = asked.get("/v1/cards")["cards"]
    if names:
        found = select(found, names)
    if as_json:
        print_json({"cards": found})
        return
    if names:
        _pages(asked, found)
        return
    from p104d.cli.rig import card_table

    lines(card_table(found) if found else ["no cards (p104ctl doctor says why)"])


def _pages(asked: Client, cards: list[dict[str, Any]]) -> None:
    from p104d.cli.cardpage import card_page, last_test

    for place, card in enumerate(cards):
        if place:
            out()
        lines(card_page(card, last_test(asked, card["uuid"])))


def select(cards: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The cards that ``names`` mean, in the rig's order. Raises NotFoundError for one that means none."""
    chosen = []
    for name in names:
        meant = [card["uuid"] for card in cards if _means(name, card)]
        if not meant:
            raise NotFoundError(f"no such card: {name}", mend="p104ctl cards lists them")
        chosen += meant
    return [card for card in cards if card["uuid"] in chosen]


def _means(name: str, card: dict[str, Any]) -> bool:
    wanted = name.lower()
    if wanted == str(card["index"]):
        return True
    names = {(card.get(key) or "").lower() for key in ("name", "catalog_name", "bus_id")}
    uuid = card["uuid"].lower()
    return wanted in names or (len(wanted) >= 4 and uuid.startswith((wanted, f"gpu-{wanted}")))
