"""Cards for people: the table of ``cards`` and the page of one card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, local, paint, span, state, table, width, wrap
from p104d.core.units import GIB, format_size

_PREFIXES = ("NVIDIA GeForce ", "NVIDIA ", "GeForce ")
#: What ``cards`` leaves to ``cards CARD`` on a terminal too narrow, the least missed first.
_DROPPED = ("VBIOS", "LIMIT", "BUS", "UUID")


def card_name(card: dict[str, Any]) -> str:
    """The name without the maker, who is the same for all."""
    name = str(card.get("catalog_name") or card.get("name") or "?")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def card_index(card: dict[str, Any]) -> str:
    """The index the driver gives it; ``-`` for a card that is missing."""
    index = card.get("index")
    return "-" if index is None else str(index)


def figure(value: float | None, unit: str) -> str:
    """``61 °C`` without the blank; ``-`` where the driver gave no reading."""
    return "-" if value is None else f"{value:.0f}{unit}"


def link(card: dict[str, Any], *, best: bool = False) -> str:
    """``1x4``: PCIe generation and width; with ``best``, what the card could do where that is more."""
    generation, lanes = card.get("link_generation"), card.get("link_width")
    if generation is None and lanes is None:
        return "-"
    now = f"{generation or '?'}x{lanes or '?'}"
    most = f"{card.get('link_generation_max') or '?'}x{card.get('link_width_max') or '?'}"
    return f"{now} of {most}" if best and "?" not in most and most != now else now


def share(part: int | None, whole: int | None) -> str:
    """``7.9/8.0 GiB``; a dash for what is not known."""
    if whole is None:
        return format_size(part)
    if part is None or part < GIB <= whole:
        return f"{format_size(part)}/{format_size(whole)}"
    both = format_size(part), format_size(whole)
    return f"{both[0].split()[0]}/{both[1]}" if both[0].split()[1] == both[1].split()[1] else "/".join(both)


def last_proof(card: dict[str, Any], *, long: bool = False) -> Cell:
    """How the proof of a card stands: ``42 %``, ``due: VBIOS changed``, ``3d04h ago, full``; ``never``."""
    percent = card.get("verified_percent")
    if percent is not None:
        return Cell(percent_text(percent), "cyan")
    if card.get("test_due") and not long:
        return Cell(f"due: {card['test_due']}", "yellow")
    when = card.get("verified_at")
    if not when:
        return Cell("never")
    ago = f"{_age(when)} ago"
    moment = f" ({local(when)})" if long else ""
    depth = card.get("verified_depth")
    return Cell(f"{ago}{moment}" + (f", {depth}" if depth else ""))


def _age(when: str) -> str:
    """A test's age in its largest unit: 3d, 2h, 5m."""
    text = span(when, None)
    for unit in "dhm":
        whole, found, _ = text.partition(unit)
        if found:
            return whole + unit
    return text


def percent_text(percent: float) -> str:
    """``42 %``, rounded down: 100 is said when the test is over, not before."""
    return f"{min(99, int(percent))} %"


def model_names(card: dict[str, Any]) -> str:
    """The models that are loaded on a card."""
    return ", ".join(card.get("models") or ()) or "-"


def card_table(cards: Sequence[dict[str, Any]]) -> list[str]:
    """One line a card, its note below it."""
    fields: dict[Column, Callable[[dict[str, Any]], Cell | str]] = {
        Column("#", right=True): card_index,
        Column("NAME", give=True): card_name,
        Column("UUID", give=True, least=12): lambda card: card["uuid"],
        Column("BUS"): lambda card: _short_bus(card.get("bus_id")),
        Column("VBIOS"): lambda card: card.get("vbios") or "-",
        Column("VERDICT"): lambda card: state(card.get("verdict")),
        Column("STATE"): lambda card: state(card.get("state")),
        Column("PROVEN", right=True): lambda card: share(card.get("memory_proven_bytes"), card["memory_total_bytes"]),
        Column("LINK"): lambda card: link(card, best=True),
        Column("TESTED", give=True, least=10): last_proof,
        Column("LIMIT", right=True): lambda card: figure(card.get("power_limit_watts"), "W"),
        Column("MODEL", give=True): model_names,
    }
    if not any(card.get("models") for card in cards):
        fields = {column: field for column, field in fields.items() if column.heading != "MODEL"}
    columns = that_fit(list(fields), [[field(card) for field in fields.values()] for card in cards], _DROPPED)
    rows = [[fields[column](card) for column in columns] for card in cards]
    page = table(columns, rows)
    lines = [page[0]]
    for line, card in zip(page[1:], cards, strict=True):
        lines += [line, *note_lines(card)]
    return lines


def that_fit(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], dropped: Sequence[str]) -> list[Column]:
    """The columns without those of ``dropped``, its first ones first, that the terminal is too narrow for."""
    room = terminal_width()
    kept = list(columns)
    for heading in dropped:
        if room is None or _least_width(columns, kept, rows) <= room:
            break
        kept = [column for column in kept if column.heading != heading]
    return kept


def without(
    headings: Sequence[str], columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]
) -> tuple[list[Column], list[list[Cell | str]]]:
    """Columns and rows without those columns."""
    places = [place for place, column in enumerate(columns) if column.heading not in headings]
    return [columns[place] for place in places], [[row[place] for place in places] for row in rows]


def fitted(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell | str]],
    dropped: Sequence[str],
    if_any: Sequence[str] = (),
) -> list[str]:
    """The table without those columns of ``if_any`` that have nothing (or ``-``) in any row, and without those of
    ``dropped`` that the terminal is too narrow for."""
    empty = [
        column.heading
        for place, column in enumerate(columns)
        if column.heading in if_any and all(_text(row[place]) in ("", "-") for row in rows)
    ]
    shown, rows = without(empty, columns, rows)
    kept = that_fit(shown, rows, dropped)
    return table(*without([column.heading for column in shown if column not in kept], shown, rows))


def _text(field: Cell | str) -> str:
    return field.text if isinstance(field, Cell) else field


def _least_width(columns: Sequence[Column], kept: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> int:
    total = 2 * (len(kept) - 1)
    for place, column in enumerate(columns):
        if column in kept:
            most = max(width(text) for text in [column.heading, *(_text(row[place]) for row in rows)])
            total += min(column.least, most) if column.give else most
    return total


def _short_bus(bus: str | None) -> str:
    """``01:00.0`` of ``00000000:01:00.0``: the domain is the same on every such host."""
    return "-" if not bus else bus[9:] if bus.startswith("00000000:") else bus


def note_lines(card: dict[str, Any]) -> list[str]:
    """What is to say of a card, below its line: its note and why its clocks are held down."""
    throttle = card.get("throttle")
    said = [text for text in (card.get("note"), f"held down: {', '.join(throttle)}" if throttle else None) if text]
    bad = card.get("state") in ("suspect", "missing") or card.get("verdict") in ("aliased", "faulty", "failed")
    room = (terminal_width() or 10_000) - 4
    colour = "red" if bad else "yellow"
    return ["    " + paint(line, colour) for line in wrap("; ".join(said), room, "")] if said else []
