"""The report as a page: built once as headed tables and lists, then written for a terminal, as Markdown or as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from p104d.cli.records import amount
from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, clean, paint, table, timestamp, wrap

_TITLE = "p104d report"


class Part(NamedTuple):
    """One section: what stands in it is a table, or (without columns) a list. ``loud``: something is wrong."""

    heading: str
    columns: tuple[Column, ...]
    rows: list[list[str]]
    empty: str
    loud: bool = False


class Page(NamedTuple):
    """The whole report."""

    span: str
    summary: str
    parts: list[Part]


def page(report: Mapping[str, Any]) -> Page:
    """What is to be said, in the order of what matters."""
    looks = [[text] for text in report["look_at"]]
    parts = [
        Part("Look at", (), looks, "nothing stands out", loud=bool(looks)),
        _jobs(report["groups"]),
        _cards(report["cards"]),
        Part(
            "Failures by cause",
            (Column("CAUSE", give=True), Column("JOBS", right=True)),
            [[one["reason"], f"{one['count']:,}"] for one in report["failures"]],
            "no job failed",
        ),
    ]
    if report["notes"]:
        parts.append(Part("Notes", (), [[text] for text in report["notes"]], ""))
    return Page(f"{_day(report['since'])} to {_day(report['until'])}", _summary(report["groups"]), parts)


def _summary(groups: Sequence[Mapping[str, Any]]) -> str:
    def total(key: str) -> float:
        return sum(group[key] or 0 for group in groups)

    costs: dict[str, float] = {}
    for group in groups:
        if group["cost"] is not None:
            costs[group["currency"]] = costs.get(group["currency"], 0.0) + group["cost"]
    said = [
        f"{total('jobs'):,.0f} jobs",
        f"{total('failed'):,.0f} failed",
        f"{hours(total('hours'))} of work",
        f"{energy(total('energy_watt_hours'))}" if any(g["energy_watt_hours"] is not None for g in groups) else "",
        *(f"{value:.2f} {currency}" for currency, value in costs.items()),
        f"{count(total('tokens'))} tokens" if any(group["tokens"] is not None for group in groups) else "",
        f"{count(total('items'))} items" if any(group["items"] is not None for group in groups) else "",
    ]
    return ", ".join(text for text in said if text)


def _jobs(groups: Sequence[Mapping[str, Any]]) -> Part:
    columns = (
        Column("NAME", give=True, least=8),
        Column("MODEL", give=True, least=8),
        Column("JOBS", right=True),
        Column("FAILED", right=True),
        Column("TIME", right=True),
        Column("ENERGY", right=True),
        Column("COST", right=True),
        Column("TOKENS", right=True),
        Column("ITEMS", right=True),
        Column("SPEED", right=True),
    )
    rows = [
        [
            group["name"],
            group["model"] or "-",
            f"{group['jobs']:,}",
            f"{group['failed']:,}" if group["failed"] else "-",
            hours(group["hours"]),
            energy(group["energy_watt_hours"]),
            "-" if group["cost"] is None else f"{group['cost']:.2f} {group['currency']}",
            count(group["tokens"]),
            count(group["items"]),
            "-" if group["speed"] is None else f"{amount(group['speed'], '')} {group['speed_unit']}",
        ]
        for group in groups
    ]
    return _without_empty(Part("Jobs", columns, rows, "no job ended"))


def _cards(cards: Sequence[Mapping[str, Any]]) -> Part:
    columns = (
        Column("#", right=True),
        Column("CARD", give=True),
        Column("STATE"),
        Column("VERDICT"),
        Column("BUSY", right=True),
        Column("ATTEMPTS", right=True),
        Column("FAILED", right=True),
        Column("JOBS' ENERGY", right=True),
        Column("DRAWN", right=True),
        Column("TESTS", right=True),
    )
    rows = [
        [
            "-" if card["index"] is None else str(card["index"]),
            card["name"] or card["card"],
            card["state"],
            card["verdict"],
            hours(card["hours"]),
            f"{card['attempts']:,}",
            f"{card['failed']:,}" if card["failed"] else "-",
            energy(card["energy_watt_hours"]),
            energy(card["drawn_watt_hours"]),
            _tests(card),
        ]
        for card in cards
    ]
    return _without_empty(Part("Cards", columns, rows, "no card is known"))


def _without_empty(part: Part) -> Part:
    """The table without those columns in which nobody has anything."""
    kept = [place for place in range(len(part.columns)) if any(row[place] != "-" for row in part.rows)]
    columns = tuple(part.columns[place] for place in kept)
    return part._replace(columns=columns, rows=[[row[place] for place in kept] for row in part.rows])


def _tests(card: Mapping[str, Any]) -> str:
    return f"{card['tests']}, {card['tests_bad']} bad" if card["tests_bad"] else str(card["tests"] or "-")


def hours(value: float) -> str:
    """``31.2 h``, ``12 min``; ``-`` for none."""
    if value <= 0:
        return "-"
    return f"{value:,.1f} h" if value >= 1 else f"{max(1, round(value * 60))} min"


def energy(value: float | None) -> str:
    """``4.87 kWh``, ``650 Wh``; ``-`` where it is not known."""
    if value is None:
        return "-"
    return f"{value / 1000:,.2f} kWh" if value >= 1000 else f"{value:.0f} Wh"


def count(value: float | None) -> str:
    """``1.20 M``, ``1,140``; ``-`` where it is not known."""
    if value is None:
        return "-"
    return f"{value / 1e6:,.2f} M" if value >= 1e6 else f"{value:,.0f}"


def _day(text: str) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(timestamp(text)))


# --- a terminal ------------------------------------------------------------------------------------------------------


def terminal_lines(found: Page) -> list[str]:
    """For people at a terminal."""
    room = terminal_width() or 10_000
    lines = [paint(f"{_TITLE}, {found.span}", "bold"), *wrap(found.summary, room, "")]
    for part in found.parts:
        lines += ["", paint(part.heading.upper(), "red" if part.loud else "bold")]
        if not part.rows:
            lines.append(part.empty)
        elif part.columns:
            cells = [list(map(_coloured, part.columns, row)) for row in part.rows]
            lines += table(part.columns, cells)
        else:
            lines += [line for row in part.rows for line in wrap(f"! {row[0]}", room, "  ")]
    return lines


def _coloured(column: Column, field: str) -> Cell:
    from p104d.cli.text import STATE_COLOURS

    if column.heading == "FAILED" and field != "-":
        return Cell(field, "red")
    return Cell(field, STATE_COLOURS.get(field) if column.heading in ("STATE", "VERDICT") else None)


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown_lines(found: Page) -> list[str]:
    """For a file, a mail, a wiki."""
    lines = [f"# {_TITLE}", "", f"{found.span}: {_escaped(found.summary)}"]
    for part in found.parts:
        lines += ["", f"## {part.heading}", ""]
        if not part.rows:
            lines.append(part.empty)
        elif part.columns:
            lines.append("| " + " | ".join(_heading(column) for column in part.columns) + " |")
            lines.append("|" + "|".join("---:" if column.right else "---" for column in part.columns) + "|")
            lines += ["| " + " | ".join(_escaped(field) for field in row) + " |" for row in part.rows]
        else:
            lines += [f"- {_escaped(row[0])}" for row in part.rows]
    return lines


def _heading(column: Column) -> str:
    return "\\#" if column.heading == "#" else column.heading.capitalize()


def _escaped(text: str) -> str:
    """``text`` in which nothing means anything to Markdown, nor to HTML inside of it."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "\\`*_[]|~" else char for char in text)


# --- HTML ------------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 75em; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin: 1.8em 0 .4em; }
.span { color: #555; margin: .2em 0 1em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .3em .9em .3em 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #888; font-size: .85em; color: #444; white-space: nowrap; }
td { border-bottom: 1px solid #e4e4e4; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.loud { border-left: 4px solid #c0392b; background: #fdf1ef; padding: .6em 1em .6em 2em; }
.bad { color: #b03020; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #181818; } .span, th { color: #aaa; }
  td { border-color: #333; } .loud { background: #3a201c; } .bad { color: #ff8a75; } }
@media print { body { margin: 0; max-width: none; } }
"""


def html_lines(found: Page) -> list[str]:
    """One file for a browser or a printer: no scripts, nothing fetched."""
    lines = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_TITLE}, {_text(found.span)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>{_TITLE}</h1><p class="span">{_text(found.span)}</p><p>{_text(found.summary)}</p>',
    ]
    for part in found.parts:
        lines.append(f"<h2>{_text(part.heading)}</h2>")
        if not part.rows:
            lines.append(f"<p>{_text(part.empty)}</p>")
        elif part.columns:
            lines += _html_table(part)
        else:
            kind = ' class="loud"' if part.loud else ""
            lines += [f"<ul{kind}>", *(f"<li>{_text(row[0])}</li>" for row in part.rows), "</ul>"]
    return [*lines, "</body></html>"]


def _html_table(part: Part) -> list[str]:
    def field(tag: str, column: Column, text: str, bad: bool = False) -> str:
        kinds = " ".join([*(["n"] if column.right else []), *(["bad"] if bad else [])])
        return f'<{tag} class="{kinds}">{_text(text)}</{tag}>' if kinds else f"<{tag}>{_text(text)}</{tag}>"

    head = "".join(field("th", column, column.heading.capitalize()) for column in part.columns)
    lines = [f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>']
    for row in part.rows:
        cells = zip(part.columns, row, strict=True)
        fields = (field("td", column, text, column.heading == "FAILED" and text != "-") for column, text in cells)
        lines.append(f"<tr>{''.join(fields)}</tr>")
    return [*lines, "</tbody></table></div>"]


def _text(text: str) -> str:
    from html import escape

    return escape(clean(text))
