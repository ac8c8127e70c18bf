"""p104ctl plan: when the queue will be done, foretold with the daemon's own policy."""

from __future__ import annotations

import click

from p104d.cli.common import client, json_option, lines, print_json
from p104d.cli.verbs import VERBS

#: A long queue on many cards takes the daemon seconds to play through.
_PATIENCE_SECONDS = 120.0
#: Jobs in the table, if nobody says otherwise: about a screen. The drawing has all that the daemon tells of.
_LISTED = 30


@click.command("plan", short_help=VERBS["plan"])
@click.option("--cards", metavar="N", type=click.IntRange(1, 64), help="As if the rig had N cards.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), help="List and draw at most N jobs.")
@json_option
def command(cards: int | None, limit: int | None, as_json: bool) -> None:
    """Foretell when the queue will be done, when each job starts and what it waits for until then.

    The daemon plays its own policy in virtual time, with the run times and load times it has seen. What comes later or
    fails changes the end. Without --limit 30 jobs are listed, and all that the daemon tells of are drawn.
    """
    asked = client()
    answer = asked.get("/v1/plan", {"cards": cards, "limit": limit}, timeout=_PATIENCE_SECONDS)
    if as_json:
        print_json(answer)
        return
    from p104d.cli.jobs import card_indexes
    from p104d.cli.planning import page

    lines(page(answer, card_indexes(asked, answer["jobs"]), limit or _LISTED))
