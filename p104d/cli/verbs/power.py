"""p104ctl power: what cards may draw, how fast they run, how they are cooled."""

from __future__ import annotations

from typing import Any

import click

from p104d.cli.common import CardName, ParamType, client, json_option, lines, note, out, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import RefusedError


class Figure(ParamType):
    """A number with or without its unit, or a word in its place."""

    def __init__(self, name: str, unit: str, words: dict[str, Any] | None = None, *, whole: bool = True) -> None:
        self.name, self._unit, self._words, self._whole = name, unit, words or {}, whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text = value.strip().lower()
        if text in self._words:
            return self._words[text]
        text = text.removesuffix(self._unit.lower()).strip()
        parts = text.split(".")
        if len(parts) > (1 if self._whole else 2) or not all(part.isascii() and part.isdecimal() for part in parts):
            also = "".join(f" or {word}" for word in self._words)
            self.fail(f"{value!r} is not a number of {self._unit}{also}", param, ctx)
        # Longer numbers are beyond any card, and the daemon says so.
        return int(text[:15]) if self._whole else float(text[:15])


_AUTO = "auto"


@click.command("power", short_help=VERBS["power"])
@click.argument("cards", metavar="[CARD]...", type=CardName(), nargs=-1)
@click.option("--limit", type=Figure("watts", "W", whole=False), metavar="WATTS", help="Power limit, such as 140W.")
@click.option("--sm-clock", type=Figure("mhz", "MHz", {"off": 0}), metavar="MHZ|off", help="Highest SM clock, or none.")
@click.option(
    "--memory-clock", type=Figure("mhz", "MHz", {"off": 0}), metavar="MHZ|off", help="Highest memory clock, or none."
)
@click.option("--fan", type=Figure("percent", "%", {_AUTO: _AUTO}), metavar="PERCENT|auto", help="Fan speed.")
@click.option("--persistence", type=click.Choice(["on", "off"]), help="Keep the driver loaded without a client.")
@click.option("--reset", is_flag=True, help="Forget what people asked before; the configuration rules again.")
@json_option
def command(cards: tuple[str, ...], reset: bool, as_json: bool, **wish: Any) -> None:
    """Show what cards may draw, how fast they run and how they are cooled, or set it: p104ctl power 0 --limit 140W.

    CARD is an index, a UUID or its beginning, or a name; left out, all cards are meant. What is set is kept until it is
    set otherwise, over restarts of the host too, and goes before the configuration. It is for root and the group
    p104-admin.
    """
    change = _change(**wish)
    if not change and not reset:
        found = _chosen(client().get("/v1/power")["cards"], cards)
    else:
        names = list(dict.fromkeys(cards)) or _present()
        found = client().post("/v1/cards/power", {"cards": names, "reset": reset, **change})["cards"]
    if as_json:
        print_json({"cards": found})
    elif found:
        lines(_table(found))
    else:
        out("no cards (p104ctl doctor says why)")
    if change or reset:
        _complain(found)


def _change(
    limit: float | None,
    sm_clock: int | None,
    memory_clock: int | None,
    fan: int | str | None,
    persistence: str | None,
) -> dict[str, Any]:
    """What is asked, as the request has it."""
    asked = {
        "power_limit_watts": limit,
        "sm_clock_mhz": sm_clock,
        "memory_clock_mhz": memory_clock,
        "fan_percent": None if fan == _AUTO else fan,
        "fan_automatic": True if fan == _AUTO else None,
        "persistence": None if persistence is None else persistence == "on",
    }
    return {key: value for key, value in asked.items() if value is not None}


def _chosen(found: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    if not names:
        return found
    from p104d.cli.verbs.cards import select

    return select(found, names)


def _present() -> list[str]:
    """All cards that are there."""
    found = [card["uuid"] for card in client().get("/v1/power")["cards"] if card["index"] is not None]
    if not found:
        raise RefusedError("there is no card", mend="p104ctl doctor says why")
    return found


def _complain(found: list[dict[str, Any]]) -> None:
    """Say what was asked and is not so. Raises RefusedError where a card or its driver refused."""
    late = [str(card["index"]) for card in found if card["pending"]]
    if late:
        note(f"not done yet on card {', '.join(late)}; p104ctl power shows when it is")
    refused = [(card, one) for card in found for one in card["refused"]]
    if refused:
        card, one = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        where = f"card {card['index']}: {one['setting']} is refused"
        raise RefusedError(f"{where}: {one['text']}{more}", mend=one["mend"])


def _table(found: list[dict[str, Any]]) -> list[str]:
    from p104d.cli.rig import card_index, card_name, figure
    from p104d.cli.terminal import terminal_width
    from p104d.cli.text import Column, paint, table, wrap

    columns = [
        Column("#", right=True),
        Column("NAME", give=True),
        Column("POWER", right=True),
        Column("LIMIT", right=True),
        Column("BOUNDS", right=True),
        Column("SM", right=True),
        Column("MEMORY", right=True),
        Column("FAN", right=True),
        Column("PERSISTENCE"),
        Column("WISHED", give=True, least=12),
    ]
    rows = []
    for card in found:
        actual = card["actual"]
        low, high = card["power_limit_min_watts"], card["power_limit_max_watts"]
        rows.append(
            [
                card_index(card),
                card_name(card),
                figure(card["power_watts"], "W"),
                figure(actual["power_limit_watts"], "W"),
                "-" if low is None or high is None else f"{low:.0f}-{high:.0f}W",
                figure(actual["sm_clock_mhz"], "MHz"),
                figure(actual["memory_clock_mhz"], "MHz"),
                _fan(actual),
                {True: "on", False: "off"}.get(actual["persistence"], "-"),
                _wishes(card) or "-",
            ]
        )
    page = table(columns, rows)
    room = (terminal_width() or 10_000) - 4
    made = [page[0]]
    for line, card in zip(page[1:], found, strict=True):
        made.append(line)
        for one in card["refused"]:
            text = f"{one['setting']} is refused ({one['text']}); {one['mend']}"
            made += ["    " + paint(part, "red") for part in wrap(text, room, "")]
    return made


def _fan(actual: dict[str, Any]) -> str:
    speed = "-" if actual["fan_percent"] is None else f"{actual['fan_percent']}%"
    return speed + {True: " auto", False: " set"}.get(actual["fan_automatic"], "")


def _wishes(card: dict[str, Any]) -> str:
    """What a card is kept at; what a person asked is marked."""
    wished, asked = card["wished"], card["asked"]
    words = [
        _word(wished, asked, "power_limit_watts", lambda watts: f"{watts:g}W"),
        _word(wished, asked, "sm_clock_mhz", lambda mhz: f"SM {mhz}MHz" if mhz else "SM free"),
        _word(wished, asked, "memory_clock_mhz", lambda mhz: f"memory {mhz}MHz" if mhz else "memory free"),
        _word(wished, asked, "fan_percent", lambda percent: f"fan {percent}%"),
        _word(wished, asked, "fan_automatic", lambda auto: "fan auto" if auto else None),
        _word(wished, asked, "persistence", lambda on: f"persistence {'on' if on else 'off'}"),
    ]
    return ", ".join(word for word in words if word)


def _word(wished: dict[str, Any], asked: dict[str, Any], key: str, text: Any) -> str | None:
    if wished[key] is None:
        return None
    word = text(wished[key])
    return f"{word} (asked)" if word and asked[key] is not None else word
