"""The forecast drawn: a row a card over time, each job a bar, jobs of one model in one colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from p104d.cli.chart import MARGIN, Window, time_axis, window
from p104d.cli.terminal import coloured, terminal_width, unicode_output
from p104d.cli.text import clean, paint, shorten, timestamp, width

#: A drawing narrower than this tells less than the table.
_LEAST_COLUMNS = 48
#: Rows of one card, for jobs that share it; more at a time are told by number.
_LANES = 4
_COLOURS = ("green", "cyan", "yellow", "magenta", "blue")
#: Kinds of work in the legend.
_LEGEND = 8


class _Bar(NamedTuple):
    """A job on one card, in Unix seconds; ``label`` is its model, or its name."""

    start: float
    end: float
    id: int
    label: str
    guessed: bool


#: A character of the drawing and its colour.
_Dot = tuple[str, str | None]


def timeline(answer: Mapping[str, Any], indexes: Mapping[str, str]) -> list[str]:
    """The rows, the axis of time in local time, and what the marks mean; nothing where there is nothing to draw."""
    room = terminal_width()
    since = timestamp(answer["at"]) or 0.0
    ends = [timestamp(job["ends_at"]) or 0.0 for job in answer["jobs"] if job["starts_at"] and job["ends_at"]]
    if (room is not None and room < _LEAST_COLUMNS) or not ends or max(ends) <= since:
        return []
    over = window(since, max(ends), room)
    cards = _by_card(answer, indexes, over)
    if not any(cards.values()):
        return []
    kinds = list(dict.fromkeys(_label(job) for job in answer["jobs"]))
    colours = {kind: _COLOURS[place % len(_COLOURS)] for place, kind in enumerate(kinds)}
    rows = [line for card, bars in cards.items() for line in _card(card, bars, over, colours)]
    return [*rows, *time_axis(over), *_legend(answer, colours)]


def _by_card(answer: Mapping[str, Any], indexes: Mapping[str, str], over: Window) -> dict[str, list[_Bar]]:
    """The bars of each card by its name, in the rig's order; of an imagined rig also the cards that nothing uses."""
    found: dict[str, list[_Bar]] = {}
    if answer["hypothetical"]:
        found = {str(place): [] for place in range(answer["cards"])}
    for job in answer["jobs"]:
        bar = _bar_of(job, over)
        if bar is None:
            continue
        names = [indexes.get(uuid, uuid[4:8]) for uuid in job["cards"]] or [str(one) for one in job.get("places") or ()]
        for name in names:
            found.setdefault(name, []).append(bar)
    # A card that has gone since has no index; "12" comes after "3".
    return {name: found[name] for name in sorted(found, key=lambda name: (not name.isdecimal(), len(name), name))}


def _bar_of(job: Mapping[str, Any], over: Window) -> _Bar | None:
    start, end = timestamp(job["starts_at"]), timestamp(job["ends_at"])
    if start is None:
        return None
    # One whose end nobody knows goes on.
    end, guessed = (over.until, True) if end is None else (end, bool(job["guessed"]))
    return _Bar(max(start, over.since), min(max(end, start), over.until), job["id"], _label(job), guessed)


def _label(job: Mapping[str, Any]) -> str:
    return clean(job["model"] or job["name"])


def _card(card: str, bars: Iterable[_Bar], over: Window, colours: Mapping[str, str]) -> list[str]:
    """A card's row; as many as jobs share it at a time."""
    lanes: list[tuple[float, list[_Dot]]] = [(over.since, [(" ", None)] * over.columns)]
    left = 0
    for bar in sorted(bars):
        place = next((place for place, (free, _) in enumerate(lanes) if free <= bar.start), len(lanes))
        if place == _LANES:
            left += 1
            continue
        if place == len(lanes):
            lanes.append((0.0, [(" ", None)] * over.columns))
        dots = lanes[place][1]
        _draw(bar, dots, over, colours[bar.label])
        lanes[place] = (bar.end, dots)
    axis = "│" if unicode_output() else "|"
    heads = [f"card {card}".rjust(MARGIN - 2), *[" " * (MARGIN - 2)] * len(lanes)]
    rows = [f"{head} {axis}{_painted(dots)}" for head, (_, dots) in zip(heads, lanes, strict=False)]
    return [*rows, *([f"{'':{MARGIN}}and {left} more at a time"] if left else [])]


def _draw(bar: _Bar, dots: list[_Dot], over: Window, colour: str) -> None:
    first = min(over.place(bar.start, over.columns), over.columns - 1)
    last = min(max(first + 1, over.place(bar.end, over.columns)), over.columns)
    full, guess, edge = "█▒▐" if unicode_output() else "#:["
    text = [edge, *(guess if bar.guessed else full) * (last - first - 1)]
    for said in (f" {bar.id} {bar.label} ", f" {bar.id} "):
        # The bar is seen at both ends of the words.
        if width(said) == len(said) <= len(text) - 2:
            text[1 : 1 + len(said)] = said
            break
    dots[first:last] = [(char, colour) for char in text]


def _painted(dots: Sequence[_Dot]) -> str:
    runs = groupby(dots, key=lambda dot: dot[1])
    return "".join(paint("".join(char for char, _ in run), colour) for colour, run in runs).rstrip()


def _legend(answer: Mapping[str, Any], colours: Mapping[str, str]) -> list[str]:
    full, guess = "█▒" if unicode_output() else "#:"
    said = []
    if coloured():
        said = [paint(f"{full} {shorten(kind, 24)}", colour) for kind, colour in list(colours.items())[:_LEGEND]]
        said += [f"and {len(colours) - _LEGEND} more kinds"] if len(colours) > _LEGEND else []
    if any(job["guessed"] or not job["ends_at"] for job in answer["jobs"]):
        said.append(f"{guess} run time guessed")
    return _rows(said)


def _rows(said: Sequence[str]) -> list[str]:
    """The legend's parts, three a line, below the drawing."""
    return [" " * MARGIN + "   ".join(said[place : place + 3]) for place in range(0, len(said), 3)]
