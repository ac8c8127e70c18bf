"""The record for people: summaries and results as tables and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from p104d.cli.rig import that_fit
from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, local, table, wrap
from p104d.core.units import format_duration, format_size

#: At or above this share of the speed on record a result is as it should be; below the second something is wrong.
_GOOD_PERCENT, _BAD_PERCENT = 95.0, 80.0
#: What a terminal too narrow is not shown, the least missed first; --json and --csv have everything.
_DROPPED = ("WHEN", "LAST", "SPREAD", "BEST")
_DROPPED_RESULT = ("USER", "TOOK", "ON RECORD")


def amount(value: float, unit: str) -> str:
    """A figure without its unit; sizes with it."""
    if unit in ("B", "bytes"):
        return format_size(int(value))
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def work(one: Mapping[str, Any]) -> str:
    """What ran: the model where it is known, else the job's name."""
    return str(one.get("model") or one.get("name") or "-")


#: Measures that are said in a word where their unit says the rest.
SHORT = {"generation": "generation_tokens_per_second", "prompt": "prompt_tokens_per_second"}
_SHORT_OF = {whole: word for word, whole in SHORT.items()}


def short(measure: str) -> str:
    """``generation`` for ``generation_tokens_per_second``: beside it stands the unit."""
    return _SHORT_OF.get(measure, measure)


def place(summary: Mapping[str, Any]) -> str:
    """The card of a summary as people know it: ``0``, ``2 cards``, ``-`` for none."""
    if summary.get("card"):
        index = summary.get("card_index")
        return str(summary["card"])[:12] if index is None else str(index)
    return f"{summary['cards']} cards" if summary["cards"] else "-"


def summary_table(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """One line a work, measure and card. SPREAD is between the quartiles; ON RECORD is the median's."""
    columns = [
        Column("WORK", give=True, least=10),
        Column("MEASURE", give=True, least=12),
        Column("CARD", right=True),
        Column("RUNS", right=True),
        Column("BEST", right=True),
        Column("MEDIAN", right=True),
        Column("SPREAD", right=True),
        Column("LAST", right=True),
        Column("UNIT"),
        Column("ON RECORD"),
        Column("WHEN"),
    ]
    rows = []
    before = ""
    for one in summaries:
        name, unit = work(one), one["unit"]
        figures = [amount(one[key], unit) for key in ("best", "median", "spread", "last")]
        # A work is named once; its other lines belong to it.
        first = Cell(name if name != before else "", "bold")
        what = [first, short(one["measure"]), place(one), f"{one['count']:,}"]
        rows.append([*what, *figures, unit, record(one), local(one["last_at"])])
        before = name
    if not any(one.get("reference") for one in summaries):
        rows = [[*row[:9], row[10]] for row in rows]
        columns = [*columns[:9], columns[10]]
    return [*_fitted(columns, rows, _DROPPED), *_sources(summaries)]


def result_table(results: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    """One line a result, in the order given."""
    columns = [
        Column("WHEN"),
        Column("JOB", right=True),
        Column("WORK", give=True, least=8),
        Column("USER"),
        Column("CARDS"),
        Column("TOOK", right=True),
        Column("MEASURE", give=True, least=12),
        Column("VALUE", right=True),
        Column("UNIT"),
        Column("ON RECORD"),
    ]
    rows = [
        [
            local(one["at"]),
            str(one["job_id"]) + (f".{one['attempt']}" if one["attempt"] > 1 else ""),
            work(one),
            one["user"],
            ",".join(indexes.get(uuid, uuid[:12]) for uuid in one["card_uuids"]) or "-",
            format_duration(one.get("seconds")),
            short(one["measure"]),
            amount(one["value"], one["unit"]),
            one["unit"],
            record(one),
        ]
        for one in results
    ]
    if not any(one.get("reference") for one in results):
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    return [*_fitted(columns, rows, _DROPPED_RESULT), *_sources(results)]


def record(one: Mapping[str, Any]) -> Cell:
    """How it stands against the speed on record: ``99 % of 18.75``; a dash where there is none."""
    reference = one.get("reference")
    if not reference:
        return Cell("-")
    percent = reference.get("percent")
    if percent is None:
        return Cell(f"{reference['value']:.4g}")
    colour = "green" if percent >= _GOOD_PERCENT else "red" if percent < _BAD_PERCENT else "yellow"
    return Cell(f"{percent:.0f} % of {reference['value']:.4g}", colour)


def _sources(many: Sequence[dict[str, Any]]) -> list[str]:
    """Where the speeds on record come from, each once."""
    sources = dict.fromkeys(one["reference"]["source"] for one in many if one.get("reference"))
    room = terminal_width() or 10_000
    return [line for source in sources for line in wrap(f"on record: {source}", room, "  ")]


def _fitted(columns: list[Column], rows: list[list[Cell | str]], dropped: Sequence[str]) -> list[str]:
    kept = that_fit(columns, rows, dropped)
    return table(kept, [[row[columns.index(column)] for column in kept] for row in rows])


# --- CSV -------------------------------------------------------------------------------------------------------------


def write_results(stream: TextIO, results: Sequence[dict[str, Any]]) -> None:
    """Results, a line each; several cards are separated by blanks."""
    plain = ("at", "job_id", "attempt", "name", "model", "user", "cards", "card_uuids", "measure", "value", "unit")
    _write(stream, (*plain, "seconds", "driver", "vbios"), results)


def write_summaries(stream: TextIO, summaries: Sequence[dict[str, Any]]) -> None:
    """Summaries, a line each."""
    what = ("name", "model", "card", "card_index", "card_name", "cards", "measure", "unit")
    _write(stream, (*what, "count", "best", "median", "spread", "last", "first_at", "last_at"), summaries)


def write_series(stream: TextIO, series: Sequence[dict[str, Any]]) -> None:
    """Readings, a line a metric and time."""
    fields = ("entity", "metric", "unit", "step_seconds")
    points = ("times", "minimum", "mean", "maximum")
    rows = [
        {**{name: one[name] for name in fields}, "at": at, "minimum": low, "mean": mean, "maximum": high}
        for one in series
        for at, low, mean, high in zip(*(one[name] for name in points), strict=True)
    ]
    _write(stream, ("at", *fields, "minimum", "mean", "maximum"), rows)


def _write(stream: TextIO, fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    import csv

    writer = csv.writer(stream, lineterminator="\n")
    extra = ("reference_value", "reference_percent", "reference_source")
    with_reference = any(row.get("reference") for row in rows)
    writer.writerow([*fields, *(extra if with_reference else ())])
    for row in rows:
        reference = row.get("reference") or {}
        values = [_plain(row.get(name)) for name in fields]
        against = [reference.get(name.removeprefix("reference_")) for name in extra] if with_reference else []
        writer.writerow([*values, *against])


def _plain(value: object) -> object:
    if isinstance(value, list):
        return " ".join(map(str, value))
    # A spreadsheet takes a text that begins so for a formula, and a job's name is anybody's text.
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
