"""p104ctl verify: does the memory of cards hold what is written to it?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from p104d.cli.common import CardName, client, json_option, note, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import NotFoundError

DEPTHS = ("quick", "full", "thorough")
_INTERRUPTED = "interrupted: the tests were stopped; the cards keep their verdicts"


@click.command("verify", short_help=VERBS["verify"])
@click.argument("cards", metavar="[CARD]...", type=CardName(), nargs=-1)
@click.option(
    "--depth",
    metavar="DEPTH",
    type=click.Choice(DEPTHS),
    help="quick (seconds, the default), full (a minute), thorough (hours).",
)
@click.option("--no-wait", is_flag=True, help="Ask for the tests and end; they go on.")
@click.option("--stop", is_flag=True, help="Stop the tests of these cards instead.")
@click.option(
    "--map",
    "picture",
    metavar="FILE.png",
    type=click.Path(),
    help="Draw where and in which bits errors were found. Needs matplotlib.",
)
@json_option
def command(
    cards: tuple[str, ...], depth: str | None, no_wait: bool, stop: bool, picture: str | None, as_json: bool
) -> None:
    """Test the memory of cards (all, if none is named) and show what was found.

    Waits, showing progress. Exits with 1 if a card is aliased, faulty or failed, or its test did not finish. Ctrl-C
    stops the tests that were asked for; the cards keep the verdicts they had.

    CARD is an index, a UUID or its beginning, or a name.
    """
    _check(depth, no_wait, stop, picture)
    body: dict[str, object] = {"cards": list(dict.fromkeys(cards)), "depth": depth or DEPTHS[0]}
    if stop or no_wait:
        _ask({"cards": body["cards"], "stop": True} if stop else body, as_json)
        return
    from p104d.cli.proof import good

    if picture is not None:
        from p104d.cli.plotting import require

        require(picture)
    tests = _watch(body, as_json)
    if picture is not None:
        _draw(tests, picture, None if as_json else note)
    if not all(good(test) for test in tests):
        click.get_current_context().exit(1)


def _check(depth: str | None, no_wait: bool, stop: bool, picture: str | None) -> None:
    if stop and (depth or no_wait or picture):
        raise click.UsageError("--stop goes with CARD and --json only")
    if no_wait and picture:
        raise click.UsageError("--map needs the tests' end, so it cannot go with --no-wait")


def _ask(body: dict[str, object], as_json: bool) -> None:
    answer = client().post("/v1/cards/verify", body)
    if as_json:
        print_json(answer)
        return
    from p104d.cli.proof import label

    for test in answer["tests"]:
        because = f": {test['waiting_because']}" if test.get("waiting_because") else ""
        out(f"{label(test)}: {test['depth']} test {test['state']}{because}")
    if not answer["tests"]:
        out("no memory test to stop" if body.get("stop") else "no card to test")


def _watch(body: dict[str, object], as_json: bool) -> list[dict[str, Any]]:
    from p104d.cli.verifying import watch
    from p104d.cli.waiting import interruptible

    display = _display(as_json)
    with interruptible(_INTERRUPTED):
        verified = watch(client(), body, display)
    tests: list[dict[str, Any]] = verified["tests"]
    if as_json:
        print_json(verified)
    if not tests:
        raise NotFoundError("there is no card to test", mend="p104ctl doctor says why")
    display.end(tests)
    return tests


def _display(as_json: bool) -> Any:
    """Redrawn lines on a terminal; a log's lines elsewhere; beside JSON only what a terminal on stderr can show."""
    from p104d.cli.verifying import Lines, Live, Silent

    stream = sys.stderr if as_json else sys.stdout
    if stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb":
        return Live(stream, None if as_json else out)
    return Silent() if as_json else Lines(_at_once)


def _at_once(line: str) -> None:
    """A line that whoever follows a log sees now, not when the tests have ended."""
    out(line)
    if sys.stdout is not None:
        sys.stdout.flush()


def _draw(tests: list[dict[str, Any]], picture: str, tell: Callable[[str], None] | None) -> None:
    from p104d.cli.plotting import draw_map

    asked = client()
    queries = [{"card": test["card"], "limit": 1, "map": 1} for test in tests]
    found = [test for query in queries for test in asked.get("/v1/history", query)["tests"]]
    draw_map(found, picture)
    if tell is not None:
        tell(f"{picture}: the map of bad bits of {len(found)} card{'s' * (len(found) != 1)}")
