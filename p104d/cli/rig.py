"""Cards for people: the table of ``cards`` and the page of one card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, clean, local, paint, relative, state, table, wrap
from p104d.core.units import format_size

_PREFIXES = ("NVIDIA GeForce ", "NVIDIA ", "GeForce ")
#: What ``cards`` leaves to ``cards CARD`` on a terminal too narrow, the least missed first.
_DROPPED = ("VBIOS", "LIMIT", "BUS")


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
        Column("MEMORY", right=True): lambda card: format_size(card.get("memory_total_bytes")),
        Column("PROVEN", right=True): lambda card: format_size(card.get("memory_proven_bytes")),
        Column("LINK"): lambda card: link(card, best=True),
        Column("LIMIT", right=True): lambda card: figure(card.get("power_limit_watts"), "W"),
    }
    columns = _that_fit(list(fields), [[field(card) for field in fields.values()] for card in cards])
    rows = [[fields[column](card) for column in columns] for card in cards]
    page = table(columns, rows)
    lines = [page[0]]
    for line, card in zip(page[1:], cards, strict=True):
        lines += [line, *note_lines(card)]
    return lines


def _that_fit(columns: list[Column], rows: list[list[Cell | str]]) -> list[Column]:
    room = terminal_width()
    kept = list(columns)
    for dropped in _DROPPED:
        if room is None or _least_width(columns, kept, rows) <= room:
            break
        kept = [column for column in kept if column.heading != dropped]
    return kept


def _least_width(columns: list[Column], kept: list[Column], rows: list[list[Cell | str]]) -> int:
    total = 2 * (len(kept) - 1)
    for place, column in enumerate(columns):
        if column in kept:
            fields = [row[place] for row in rows]
            texts = [field.text if isinstance(field, Cell) else field for field in fields]
            total += column.least if column.give else max(len(text) for text in [column.heading, *texts])
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


def card_page(card: dict[str, Any]) -> list[str]:
    """All that is known of one card, in words."""
    low, high = card.get("power_limit_min_watts"), card.get("power_limit_max_watts")
    default = figure(card.get("power_limit_default_watts"), "W")
    between = f" ({figure(low, 'W')} to {figure(high, 'W')}, {default} by default)" if low is not None else ""
    clocks = [figure(card.get(key), " MHz") for key in ("sm_clock_mhz", "memory_clock_mhz")]
    fields = {
        "uuid": card["uuid"],
        "bus": card.get("bus_id"),
        "device": " / ".join(filter(None, (card.get("device_id"), card.get("subsystem_id")))),
        "vbios": card.get("vbios"),
        "driver": card.get("driver"),
        "compute": card.get("compute_capability"),
        "memory": f"{format_size(card.get('memory_total_bytes'))} reported, "
        f"{format_size(card.get('memory_proven_bytes'))} proven",
        "in use": f"{format_size(card.get('memory_used_bytes'))}, {format_size(card.get('memory_reserved_bytes'))} "
        f"reserved by jobs, {format_size(card.get('memory_foreign_bytes'))} used by others",
        "link": link(card, best=True),
        "power": f"{figure(card.get('power_watts'), 'W')}, limit {figure(card.get('power_limit_watts'), 'W')}{between}",
        "heat": f"{figure(card.get('temperature_celsius'), '°C')}, fan {figure(card.get('fan_percent'), '%')}",
        "load": f"{figure(card.get('utilization_percent'), '%')}, clocks {clocks[0]}, memory {clocks[1]}",
        "jobs": ", ".join(str(job) for job in card.get("jobs") or ()),
        "models": ", ".join(card.get("models") or ()),
        "first seen": _moment(card.get("first_seen_at")),
        "last seen": _moment(card.get("last_seen_at")),
    }
    verdict, doing = state(card.get("verdict")), state(card.get("state"))
    head = f"card {card_index(card)}  {paint(clean(card_name(card)), 'bold')}  "
    head += f"{paint(verdict.text, verdict.colour)}  {paint(doing.text, doing.colour)}"
    return [head, *note_lines(card), *(f"  {key:<11} {clean(str(value))}" for key, value in fields.items() if value)]


def _moment(text: str | None) -> str | None:
    return f"{local(text)} ({relative(text)})" if text else None
