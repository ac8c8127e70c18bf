"""The record drawn to files, by matplotlib: results over time, and a card's readings with its jobs as bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from statistics import median
from typing import Any

from p104d.cli.drawing import MOST_CHARTS, TITLES, gap_of, kinds, level, on_cards, samples, title, unit_of
from p104d.cli.plotting import new_picture, write
from p104d.cli.records import amount
from p104d.cli.text import clean, local, timestamp

_WIDTH = 11.0
_PANEL = 2.3
#: Colours that people who see colours differently can tell apart (Okabe and Ito's), black left for text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00")
_METRIC_COLOURS = {"temperature_celsius": "#D55E00", "power_watts": "#0072B2", "sm_clock_mhz": "#009E73"}
_BAND = "#8a8a8a"
#: A band narrower than this part of the picture has no room for the job's number.
_LABEL_PART = 0.022


def draw_results(results: Sequence[dict[str, Any]], indexes: Mapping[str, str], path: str, kind: str) -> None:
    """A panel a work and measure, a colour a card, the median and the speed on record as lines.

    Raises P104Error where the file cannot be written.
    """
    panels = list(kinds(results).items())[:MOST_CHARTS]
    picture = new_picture(_WIDTH, 0.9 + 3.1 * len(panels))
    axes = picture.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    cards = sorted({on_cards(one, indexes) for one in results}, key=lambda text: (len(text), text))
    colours = {card: COLOURS[place % len(COLOURS)] for place, card in enumerate(cards)}
    for axis, ((what, measure, unit), some) in zip(axes, panels, strict=True):
        _title(axis, f"{what}: {_words(measure)}")
        axis.set_ylabel(clean(unit), parse_math=False)
        for card in [card for card in cards if any(on_cards(one, indexes) == card for one in some)]:
            mine = [one for one in some if on_cards(one, indexes) == card]
            times, values = [_when(one["at"]) for one in mine], [one["value"] for one in mine]
            name = "no card" if card == "host" else f"{'cards' if ',' in card else 'card'} {card}"
            axis.plot(times, values, marker="o", ms=4, lw=0.8, alpha=0.9, color=colours[card], label=name)
        _levels(axis, some, unit)
        _legend(axis)
        _plain(axis)
    days = sorted(str(one["at"]) for one in results)
    _time_axis(axes[-1], days[0], days[-1])
    write(picture, path, kind)


def _levels(axis: Any, some: Sequence[dict[str, Any]], unit: str) -> None:
    middle, record = median(one["value"] for one in some), level(some)
    if len(some) > 2:
        axis.axhline(middle, color="#444444", lw=0.9, ls=":", label=f"median {amount(middle, unit)}")
    if record is not None:
        axis.axhline(record, color="#444444", lw=1.1, ls="--", label=f"on record {amount(record, unit)}")
    values = [one["value"] for one in some] + ([] if record is None else [record])
    # Three per cent of noise blown up to the whole height would look like a catastrophe.
    spare = max((max(values) - min(values)) * 0.15, abs(middle) * 0.05, 1e-9)
    axis.set_ylim(min(values) - spare, max(values) + spare)


def draw_card(answer: dict[str, Any], results: Sequence[dict[str, Any]], path: str, kind: str) -> None:
    """A panel a metric, one of the speeds, and the jobs as shaded bands behind all of them, on one axis of time.

    Raises P104Error where the file cannot be written.
    """
    speeds = list(kinds(results).items())[:MOST_CHARTS]
    count = len(answer["series"]) + bool(speeds)
    heights = [1.0] * count
    picture = new_picture(_WIDTH, 1.3 + _PANEL * max(1, count))
    axes = picture.subplots(max(1, count), 1, squeeze=False, sharex=True, height_ratios=heights or [1.0])[:, 0]
    head = f"{title(answer)}: {local(answer['since'])} to {local(answer['until'])}"
    picture.suptitle(head, fontsize=13, parse_math=False)
    for axis, series in zip(axes, answer["series"], strict=False):
        _curve(axis, series)
    if speeds:
        _speeds(axes[-1], speeds)
    for axis in axes:
        _bands(axis, answer)
        _plain(axis)
    _numbers(axes[0], answer)
    _what_is_what(picture)
    picture.align_ylabels(list(axes))
    axes[-1].set_xlim(_when(answer["since"]), _when(answer["until"]))
    _time_axis(axes[-1], answer["since"], answer["until"])
    write(picture, path, kind)


def _what_is_what(picture: Any) -> None:
    """One legend for all panels: their colours differ, what is drawn does not."""
    lines: Any = import_module("matplotlib.lines")
    patches: Any = import_module("matplotlib.patches")
    handles = [
        lines.Line2D([], [], color="#444444", lw=1.1, label="mean"),
        patches.Patch(color="#444444", alpha=0.25, lw=0, label="least to most"),
        patches.Patch(color=_BAND, alpha=0.2, lw=0, label="a job ran (its number above)"),
    ]
    picture.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)


def _curve(axis: Any, series: Mapping[str, Any]) -> None:
    name, colour = TITLES.get(series["metric"], series["metric"]), _METRIC_COLOURS.get(series["metric"], COLOURS[3])
    axis.set_ylabel(f"{name}\n{unit_of(series)}", parse_math=False)
    times: list[datetime] = []
    low: list[float] = []
    mean: list[float] = []
    high: list[float] = []
    last = -math.inf
    points = samples(series)
    gap = gap_of(series, points)
    for point in points:
        if point.at - last > gap and times:
            # Not a number breaks the line: where nothing was read, nothing is drawn.
            times.append(datetime.fromtimestamp(last + series["step_seconds"], UTC))
            for values in (low, mean, high):
                values.append(math.nan)
        times.append(datetime.fromtimestamp(point.at, UTC))
        last = point.at
        for values, value in zip((low, mean, high), point[1:], strict=True):
            values.append(value)
    if not times:
        axis.text(0.5, 0.5, "no readings", ha="center", va="center", transform=axis.transAxes, color="#666666")
        axis.set_yticks([])
        return
    if low != high:
        axis.fill_between(times, low, high, color=colour, alpha=0.25, lw=0)
    axis.plot(times, mean, color=colour, lw=1.1)
    real = [value for value in (*low, *high) if not math.isnan(value)]
    spare = max((max(real) - min(real)) * 0.08, 1.0)
    # Degrees begin anywhere; watts, megahertz and per cent are amounts, and those begin at nothing.
    bottom = min(real) - spare if series["unit"] == "celsius" else 0.0
    axis.set_ylim(bottom, max(real) + spare)


def _speeds(axis: Any, speeds: Sequence[tuple[tuple[str, str, str], list[dict[str, Any]]]]) -> None:
    """Results of several works share a panel only where they share a unit; the one with the most results has it."""
    unit = speeds[0][0][2]
    axis.set_ylabel(f"speed\n{unit}", parse_math=False)
    for place, ((what, measure, _), some) in enumerate(one for one in speeds if one[0][2] == unit):
        times, values = [_when(one["at"]) for one in some], [one["value"] for one in some]
        text = clean(f"{what}: {_words(measure)}")
        axis.plot(times, values, ls="none", marker="o", ms=4.5, color=COLOURS[place % len(COLOURS)], label=text)
    low, high = axis.get_ylim()
    spare = max((high - low) * 0.25, abs(high) * 0.05)
    axis.set_ylim(low - spare, high + spare)
    for text in axis.legend(fontsize=8, loc="lower left", framealpha=0.8).get_texts():
        text.set_parse_math(False)


def _bands(axis: Any, answer: Mapping[str, Any]) -> None:
    edge = _when(answer["since"])
    for span in answer["jobs"]:
        end = _when(span["ended_at"] or answer["until"])
        start = max(_when(span["started_at"]), edge)
        if end > edge:
            axis.axvspan(start, end, color=_BAND, alpha=0.13, lw=0, zorder=0)
            axis.axvline(start, color=_BAND, alpha=0.45, lw=0.6, zorder=0)


def _numbers(axis: Any, answer: Mapping[str, Any]) -> None:
    """Above the panels: the number of each job that has room, and its name where that has."""
    since, until = (timestamp(answer[key]) or 0.0 for key in ("since", "until"))
    free = since
    for span in sorted(answer["jobs"], key=lambda one: str(one["started_at"])):
        start = max(since, timestamp(span["started_at"]) or 0.0)
        end = min(until, timestamp(span["ended_at"]) or until)
        room = (end - start) / (until - since)
        name = f"{span['job_id']} {clean(span['name'])}"
        text = name if room > 0.0095 * len(name) else str(span["job_id"])
        if room < _LABEL_PART or start < free or room < 0.0095 * len(text):
            continue
        middle = datetime.fromtimestamp((start + end) / 2, UTC)
        style = {"ha": "center", "va": "bottom", "fontsize": 8, "color": "#444444", "parse_math": False}
        axis.annotate(text, (middle, 1.02), xycoords=("data", "axes fraction"), **style)
        free = end


# --- what all of them share ------------------------------------------------------------------------------------------


def _words(measure: str) -> str:
    return measure.replace("_", " ")


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _title(axis: Any, text: str) -> None:
    # Names are anybody's text; a dollar sign in one is no formula.
    axis.set_title(clean(text), fontsize=11, loc="left", parse_math=False)


def _legend(axis: Any) -> None:
    legend = axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.005, 0.5), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _plain(axis: Any) -> None:
    axis.grid(True, color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _time_axis(axis: Any, since: str, until: str) -> None:
    """Times in the reader's own zone, which is said once, as is the year."""
    dates: Any = import_module("matplotlib.dates")
    zone = import_module("dateutil.tz").tzlocal()
    locator = dates.AutoDateLocator(tz=zone, minticks=4, maxticks=10)
    axis.xaxis.set_major_locator(locator)
    forms = ["%Y", "%b %Y", "%b %d", "%H:%M", "%H:%M", "%H:%M:%S"]
    starts = ["", "%Y", "%b %d", "%b %d", "%H:%M", "%H:%M"]
    axis.xaxis.set_major_formatter(
        dates.ConciseDateFormatter(locator, tz=zone, formats=forms, zero_formats=starts, show_offset=False)
    )
    years = dict.fromkeys(_when(text).astimezone(zone).strftime("%Y") for text in (since, until))
    axis.set_xlabel(f"local time ({datetime.now().astimezone().tzname()}), {'-'.join(years)}")
