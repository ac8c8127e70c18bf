"""p104ctl history: what was recorded over time."""

from __future__ import annotations

from typing import Any

import click

from p104d.cli.common import CardName, client, json_option, lines, print_json
from p104d.cli.verbs import VERBS


@click.command("history", short_help=VERBS["history"])
@click.option("--card", metavar="CARD", type=CardName(), help="Only of this card: an index, a UUID or a name.")
@click.option(
    "--last", metavar="N", type=click.IntRange(1, 1000), default=20, help="At most so many. Default: the last 20."
)
@json_option
def command(card: str | None, last: int, as_json: bool) -> None:
    """Show the memory tests of a card, or of all cards, over time, the newest first."""
    answer = client().get("/v1/history", {"card": card, "limit": last})
    if as_json:
        print_json(answer)
        return
    lines(_tests(answer["tests"], of_one_card=card is not None))


def _tests(tests: list[dict[str, Any]], *, of_one_card: bool) -> list[str]:
    from p104d.cli.proof import history_table, label

    if not tests:
        return ["no memory test recorded"]
    of_one_card = of_one_card and len({test["card"] for test in tests}) == 1
    return [*([label(tests[0])] if of_one_card else []), *history_table(tests, of_one_card=of_one_card)]
