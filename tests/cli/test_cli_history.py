"""p104ctl history: what is asked for, tables, CSV, drawings in the terminal and in files."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_daemon import UUIDS, memory_test, refusal, rig
from fake_records import at, many_results, readings, reference, result, series, span, summary
from hypothesis import given
from hypothesis import strategies as st

from p104d.api import history as wire
from p104d.cli import chart, drawing
from p104d.cli.chart import Bar, Mark, Sample
from p104d.cli.times import axis_ticks
from p104d.core.errors import UsageError

HISTORY, SERIES = ("GET", "/v1/history"), ("GET", "/v1/series")
needs_plot = pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra plot is not installed")


@pytest.fixture(autouse=True)
def one_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(autouse=True)
def known_cards(daemon: Any) -> None:
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}


def answer(**parts: Any) -> dict[str, Any]:
    return {"tests": [], "results": None, "summaries": None, **parts}


def test_what_is_made_up_is_the_wire() -> None:
    full = answer(results=[result()], summaries=[summary()], tests=[memory_test(0)])
    msgspec.convert(full, wire.HistoryAnswer)
    msgspec.convert(readings(), wire.SeriesAnswer)
    for made, kind in ((result(), wire.Result), (summary(), wire.Summary), (readings(), wire.SeriesAnswer)):
        assert set(made) == {field.name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        ([], {"show": "summaries", "speeds": "1"}),
        (["--all"], {"show": "summaries"}),
        (["--measure", "cost"], {"show": "summaries", "measure": "cost"}),
        (["--measure", "generation"], {"show": "summaries", "measure": "generation_tokens_per_second"}),
        (["--name", "posters"], {"show": "summaries,results", "name": "posters", "speeds": "1"}),
        (["--model", "m x", "--csv"], {"show": "results", "model": "m x", "speeds": "1"}),
        (["--job", "12"], {"show": "results", "job": "12"}),
        (["--card", "0", "--last", "5"], {"show": "summaries,results,tests", "card": "0", "limit": "5", "speeds": "1"}),
        (["--card", "0", "--tests"], {"show": "tests", "card": "0"}),
        (["--plot"], {"show": "results", "limit": "1000", "speeds": "1"}),
        (["--card", "0", "--name", "x", "--plot"], {"show": "results", "card": "0", "name": "x", "limit": "1000",
                                                    "speeds": "1"}),
        (["--since", "2026-11-20", "--until", "2026-11-21T12:00"],
         {"show": "summaries", "speeds": "1", "since": at(0), "until": at(129_600)}),
    ],
)  # fmt: skip
def test_what_is_asked_for(daemon, ctl, arguments, query):
    daemon.answers[HISTORY] = answer(results=[result()], summaries=[summary()])
    assert ctl("history", *arguments).code == 0
    asked = {key: values[0] for key, values in daemon.asked("/v1/history")[0].query.items()}
    assert asked == {"limit": "20", **query}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--csv"],
        ["--tests", "--csv"],
        ["--tests", "--name", "x"],
        ["--all", "--measure", "x"],
        ["--last", "0"],
        ["--last", "1001"],
        ["--job", "x"],
        ["--since", "gestern"],
        ["--until", "32.13.2026"],
    ],
)
def test_bad_usage(daemon, ctl, arguments):
    result = ctl("history", *arguments)
    assert result.code == 2 and result.err.count("\n") == 1 and daemon.asked("/v1/history") == []


def test_summaries_by_work_and_card(daemon, ctl, monkeypatch):
    found = [
        summary(0),
        summary(1, median=14.2, reference=reference(75.7)),
        summary(None, reference=None),
        summary(2, model=None, name="posters", measure="iterations_per_second", unit="it/s", reference=None),
    ]
    daemon.answers[HISTORY] = answer(summaries=found)
    head, first, second, third, fourth, source = ctl("history").out.splitlines()
    assert " ".join(head.split()) == "WORK MEASURE CARD RUNS BEST MEDIAN SPREAD LAST UNIT ON RECORD WHEN"
    for words in ("Qwen2-7B-Coder Q8_0", "generation", " 0 ", "12", "18.93", "18.6", "0.21", "18.55", "99 % of 18.75"):
        assert words in first
    # A work is named once.
    assert "Qwen" not in second and "76 % of 18.75" in second and "2 cards" in third
    assert fourth.startswith("posters") and "iterations_per_second" in fourth
    assert source == "on record: the owner's report this project starts from"
    for columns in (80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, ctl("history").out.splitlines())) <= columns
    assert "on record" not in ctl("history").out.replace("on record: the", "")
    daemon.answers[HISTORY] = answer(summaries=[])
    assert ctl("history").out == "nothing recorded\n"


def test_results_of_a_name_come_below_what_they_come_to(daemon, ctl, monkeypatch):
    listed = [result(13, (0, 1), attempt=2, model=None), result(12, None, reference=reference(50.0))]
    daemon.answers[HISTORY] = answer(summaries=[summary()], results=listed)
    lines = ctl("history", "--name", "inference").out.splitlines()
    assert lines[0] == "ON THE WHOLE" and lines[lines.index("RESULTS") - 1] == ""
    first, second = lines[lines.index("RESULTS") + 2 :][:2]
    assert "13.2" in first and "inference" in first and "anna" in first and "0,1" in first and "1m01s" in first
    assert "50 % of 18.75" in second and "Qwen2-7B" in second
    for columns in (80, 110):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, ctl("history", "--name", "inference").out.splitlines())) <= columns


def test_a_card_has_its_tests_too(daemon, ctl):
    daemon.answers[HISTORY] = answer(summaries=[summary()], results=[result()], tests=[memory_test(0)])
    lines = ctl("history", "--card", "0").out.splitlines()
    assert [line for line in lines if line.isupper() and "  " not in line] == [
        "ON THE WHOLE",
        "RESULTS",
        "MEMORY TESTS",
    ]
    assert lines[lines.index("MEMORY TESTS") + 1] == "card 0 (P104-100)"
    daemon.answers[HISTORY] = answer(summaries=[], results=[], tests=[])
    assert ctl("history", "--card", "0").out == "nothing recorded\n"


def test_names_do_not_drive_the_terminal(daemon, ctl):
    evil = result(name="\x1b[2Jx", model=None, user="\x07bob")
    daemon.answers[HISTORY] = answer(summaries=[summary(name="\x1b[2Jx", model=None)], results=[evil])
    for arguments in (["--name", "x"], ["--name", "x", "--plot"]):
        text = ctl("history", *arguments).out
        assert "\x1b[2J" not in text and "\x07" not in text and "\\x1b[2Jx" in text


def test_json_is_what_the_daemon_says(daemon, ctl):
    daemon.answers[HISTORY] = answer(summaries=[summary()])
    assert json.loads(ctl("history", "--json").out) == answer(summaries=[summary()])
    daemon.answers[SERIES] = readings()
    daemon.answers[HISTORY] = answer(results=[])
    assert json.loads(ctl("history", "--card", "0", "--plot", "--json").out) == readings()


def test_a_refusal_is_one_line(daemon, ctl):
    daemon.answers[HISTORY] = refusal(404, 5, "there is no card '9'", "p104ctl cards lists them")
    assert ctl("history", "--card", "9") == (5, "", "p104ctl: there is no card '9'; p104ctl cards lists them\n")


# --- CSV -----------------------------------------------------------------------------------------------------------


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_of_results_and_summaries(daemon, ctl):
    listed = [result(1, (0, 1), name='say "a,b"\nc', reference=reference()), result(2, model=None)]
    daemon.answers[HISTORY] = answer(results=listed, summaries=[summary()])
    first, second = rows(ctl("history", "--job", "1", "--csv").out)
    assert first["name"] == 'say "a,b"\nc' and first["card_uuids"].split() == UUIDS[:2]
    assert (first["value"], first["unit"], first["reference_percent"]) == ("18.6", "tokens/s", "99.2")
    assert (second["model"], second["reference_value"]) == ("", "")
    [only] = rows(ctl("history", "--csv").out)
    assert (only["card"], only["median"], only["count"]) == (UUIDS[0], "18.6", "12")


def test_csv_is_no_formula(daemon, ctl):
    daemon.answers[HISTORY] = answer(results=[result(name="=cmd()", model="-1+1", value=-5.0)])
    [only] = rows(ctl("history", "--job", "1", "--csv").out)
    assert (only["name"], only["model"], only["value"]) == ("'=cmd()", "'-1+1", "-5.0")


def test_csv_of_readings(daemon, ctl):
    daemon.answers[SERIES] = readings(series=[series()])
    daemon.answers[HISTORY] = answer(results=[])
    found = rows(ctl("history", "--card", "0", "--plot", "--csv").out)
    assert (
        len(found) == len(series()["times"]) and found[0]["at"] == at(0) and found[0]["metric"] == "temperature_celsius"
    )


# --- in the terminal -----------------------------------------------------------------------------------------------


def test_the_page_of_a_card(daemon, ctl, monkeypatch):
    daemon.answers[SERIES] = readings(jobs=[*readings()["jobs"], span(15, 50_000.0, None, name="last")])
    speeds = [result(12, value=18.6, at=at(25_000)), result(14, value=18.1, at=at(82_000))]
    daemon.answers[HISTORY] = answer(results=speeds)
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = ctl("history", "--card", "0", "--plot").out.splitlines()
        assert max(map(len, lines)) <= columns
        assert lines[0] == "card 0 (P104-100), Nov 20 00:00 to Nov 21 00:00"
        assert [line for line in lines if line[0] != " "][1:4] == [
            "temperature, °C (mean 55, most 72)",
            "power, W (mean 88, most 172)",
            "clock, MHz (mean 960, most 1805)",
        ]
        assert sum("•" in line for line in lines) == 2 and any("06:00" in line for line in lines)
        assert any("├12 inference" in line for line in lines) and any("├15 last" in line for line in lines)
    assert daemon.asked("/v1/series")[0].query["points"] == ["160"]
    [since] = daemon.asked("/v1/series")[0].query["since"]
    assert time.time() - drawing.timestamp(since) == pytest.approx(86_400, abs=60)


def test_a_card_without_readings_says_so(daemon, ctl):
    nothing = {"times": [], "minimum": [], "mean": [], "maximum": []}
    daemon.answers[SERIES] = readings(series=[series(**nothing)], jobs=[])
    daemon.answers[HISTORY] = answer(results=[])
    assert "temperature: no readings" in ctl("history", "--card", "0", "--plot").out
    daemon.answers[SERIES] = readings(series=[], jobs=[], note="no readings are kept")
    assert "no readings are kept" in ctl("history", "--card", "0", "--plot").out


def test_results_over_time_are_their_cards(daemon, ctl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    daemon.answers[HISTORY] = answer(results=many_results())
    lines = ctl("history", "--plot").out.splitlines()
    text = "\n".join(lines)
    assert "Qwen2-7B-Coder Q8_0: generation_tokens_per_second, tokens/s (median 18.47 of 60, on record 18.75)" in lines
    assert "posters: iterations_per_second, it/s (median 2.499 of 15)" in lines
    assert "╌" in text and lines[-1] == "digits: the cards 0, 1, 2" and max(map(len, lines)) <= 100
    # Card 2, which gets slower, is alone at the bottom of the first chart.
    low = next(line for line in lines if line.startswith("      17"))
    assert "2" in low.partition("│")[2] and not set(low.partition("│")[2]) & {"0", "1"}
    daemon.answers[HISTORY] = answer(results=[])
    assert "nothing recorded to draw" in ctl("history", "--plot").err


def test_gangs_and_jobs_without_cards_have_a_sign(daemon, ctl):
    daemon.answers[HISTORY] = answer(results=[result(1, (0, 1)), result(2, None, value=3.0)])
    text = ctl("history", "--job", "1", "--plot").out
    assert text.splitlines()[-1] == "+: 0,1 | host" and text.count("+") >= 3


def dots(lines: list[str]) -> list[str]:
    """The drawing alone, without heading and axis."""
    return [line.partition("│")[2].ljust(100) for line in lines if "│" in line]


@pytest.fixture
def unicode(monkeypatch):
    for module in (chart, drawing):
        if hasattr(module, "unicode_output"):
            monkeypatch.setattr(module, "unicode_output", lambda: True)


def test_a_gap_stays_a_gap(unicode):
    over = chart.window(0.0, 1000.0, 111)
    samples = [Sample(t, 5.0, 5.0, 5.0) for t in range(0, 1001, 10) if not 300 < t < 700]
    drawn = dots(chart.line_chart("x", samples, over, gap=25.0))
    columns = {place for line in drawn for place, char in enumerate(line) if char != " "}
    assert columns == {*range(31), *range(70, 100)}
    joined = dots(chart.line_chart("x", samples, over, gap=500.0))
    assert {place for line in joined for place, char in enumerate(line) if char != " "} == set(range(100))


def test_what_was_least_and_most_is_drawn(unicode):
    over = chart.window(0.0, 100.0, 111)
    flat = dots(
        chart.line_chart("x", [Sample(t, 50.0, 50.0, 50.0) for t in range(100)] + [Sample(99, 0, 50, 100)], over, 5)
    )
    assert all(line[99] != " " for line in flat) and sum(line[50] != " " for line in flat) == 1


@pytest.mark.parametrize(
    ("low", "high", "parts", "expected"),
    [
        (0.0, 172.0, 2, (0.0, 200.0)),
        (36.0, 72.0, 2, (25.0, 75.0)),
        (5.0, 5.0, 2, (4.6, 5.4)),
        (0.0, 0.0, 2, (-1.0, 1.0)),
    ],
)
def test_ends_of_an_axis_are_round(low, high, parts, expected):
    found = chart.nice_range(low, high, parts)
    assert found[0] <= low and found[1] >= high
    if (low, high) != (5.0, 5.0):
        assert found == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(-1e12, 1e12, allow_subnormal=False)), min_size=1, max_size=30),
    st.integers(1, 300),
)
def test_anything_can_be_drawn(points, columns):
    """Whatever the values and the width: as many lines as ever, none too wide, every mark on the page."""
    times = [at for at, _ in points]
    over = chart.window(min(times), max(times), columns)
    samples = [Sample(at, value - 1, value, value + 1) for at, value in sorted(points)]
    lines = chart.line_chart("x", samples, over, 1e8) + chart.time_axis(over)
    assert len(lines) == 10 and max(map(len, lines)) <= max(columns, 31) + 6
    marks = [Mark(at, value, "#") for at, value in points]
    assert any("#" in line for line in chart.mark_chart("x", marks, over, None)[1:])


def test_jobs_that_overlap_are_side_by_side(unicode):
    over = chart.window(0.0, 100.0, 111)
    bars = [Bar(0.0, 40.0, "1 a"), Bar(20.0, 60.0, "2 b"), Bar(70.0, 70.4, "3 c"), Bar(-50.0, -10.0, "0 gone")]
    first, second = chart.lanes(bars, over)
    assert first.startswith("     jobs ├1 a──") and first.count("├") == 2 and "├2 b──" in second
    assert "gone" not in first + second
    crowd = chart.lanes([Bar(0.0, 90.0, str(n)) for n in range(9)], over)
    assert len(crowd) == 5 and crowd[-1].strip() == "and 5 more"


def test_without_unicode_there_are_plain_characters(ctl, daemon, monkeypatch):
    for module in (chart, drawing):
        if hasattr(module, "unicode_output"):
            monkeypatch.setattr(module, "unicode_output", lambda: False)
    over = chart.window(0.0, 100.0, 80)
    lines = [
        *chart.line_chart("x", [Sample(t, 1.0, 2.0, 3.0) for t in range(100)], over, 5),
        *chart.mark_chart("x", [Mark(5.0, 1.0, "0")], over, 2.0),
        *chart.time_axis(over),
        *chart.lanes([Bar(0.0, 50.0, "1 a")], over),
    ]
    assert "\n".join(lines).isascii() and "|1 a---" in lines[-1]


def test_ticks_are_round_local_times(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    # 2026-10-25 at 03:00 summer time the clocks go back to 02:00.
    start = 1_792_875_600.0  # 2026-10-24 23:00 in Berlin
    labels = [label for _, label in axis_ticks(start, start + 36 * 3600, 8)]
    assert labels == ["Oct 25", "06:00", "12:00", "18:00", "Oct 26", "06:00"]
    days = [label for _, label in axis_ticks(start, start + 5 * 86400, 8)]
    assert "Oct 25" in days and "Oct 26" in days and all(label.startswith("Oct") for label in days)
    assert 0 < len(axis_ticks(0.0, 1e10, 8)) < 12 and axis_ticks(5.0, 6.0, 1)


def test_times_are_told_with_their_option(ctl):
    from p104d.cli.times import moment

    with pytest.raises(UsageError, match="--until soon: not a time"):
        moment("soon", "--until")
    assert moment("2026-11-20T00:00+00:00") == at(0)


# --- in files ------------------------------------------------------------------------------------------------------


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@needs_plot
def test_a_card_drawn_to_files(daemon, ctl, tmp_path):
    import xml.etree.ElementTree as tree

    evil = span(15, 50_000.0, 60_000.0, name="$x_{$ <&>")
    daemon.answers[SERIES] = readings(jobs=[*readings()["jobs"], evil], card_name="$P_{$")
    daemon.answers[HISTORY] = answer(results=[result(12, model="$a_{$ <b>", at=at(25_000))])
    png, svg = tmp_path / "c.png", tmp_path / "c.svg"
    found = ctl("history", "--card", "0", "--png", str(png), "--svg", str(svg))
    assert (found.code, found.out.split(), found.err) == (0, [str(png), str(svg)], "")
    wide, high = png_size(png)
    assert wide > 1000 and high > 1000 and sorted(tmp_path.iterdir()) == [png, svg]
    assert tree.parse(svg).getroot().tag.endswith("svg")
    mask = os.umask(0)
    os.umask(mask)
    assert png.stat().st_mode & 0o777 == 0o666 & ~mask


@needs_plot
def test_results_drawn_to_a_file(daemon, ctl, tmp_path):
    daemon.answers[HISTORY] = answer(results=many_results())
    assert ctl("history", "--png", str(tmp_path / "r.png")).code == 0
    two = png_size(tmp_path / "r.png")[1]
    daemon.answers[HISTORY] = answer(results=[result()])
    assert ctl("history", "--png", str(tmp_path / "r.png")).code == 0
    assert png_size(tmp_path / "r.png")[1] < two


@needs_plot
def test_readings_bands_and_gaps_are_in_the_picture(tmp_path, monkeypatch):
    """Asked of matplotlib's own objects: lines with a hole where nothing was read, a band a job, titles, units."""
    from p104d.cli import figures

    drawn: list[Any] = []
    monkeypatch.setattr(figures, "write", lambda picture, path, kind: drawn.append(picture))
    figures.draw_card(readings(), [result(12, at=at(25_000))], "x", "png")
    [picture] = drawn
    panels = picture.axes
    assert [panel.get_ylabel().split("\n") for panel in panels] == [
        ["temperature", "°C"], ["power", "W"], ["clock", "MHz"], ["speed", "tokens/s"]]  # fmt: skip
    line = panels[0].lines[0]
    assert any(value != value for value in line.get_ydata())
    assert len(line.get_xdata()) == len(series()["times"]) + 1
    assert all(len(panel.patches) == 3 for panel in panels)
    assert picture.get_suptitle() == "card 0 (P104-100): Nov 20 00:00 to Nov 21 00:00"
    assert panels[-1].get_xlabel() == "local time (UTC), 2026"
    assert [text.get_text() for text in picture.legends[0].get_texts()][:2] == ["mean", "least to most"]
    picture.canvas.draw()
    assert "06:00" in [label.get_text() for label in panels[-1].get_xticklabels()]


@needs_plot
def test_results_in_the_picture(monkeypatch):
    from p104d.cli import figures

    drawn: list[Any] = []
    monkeypatch.setattr(figures, "write", lambda picture, path, kind: drawn.append(picture))
    figures.draw_results(many_results(), {uuid: str(n) for n, uuid in enumerate(UUIDS)}, "x", "png")
    first, second = drawn[0].axes
    assert first.get_title("left") == "Qwen2-7B-Coder Q8_0: generation tokens per second"
    legend = [text.get_text() for text in first.get_legend().get_texts()]
    assert legend == ["card 0", "card 1", "card 2", "median 18.47", "on record 18.75"]
    assert first.get_ylabel() == "tokens/s" and second.get_ylabel() == "it/s"
    assert sum(len(line.get_xdata()) for line in first.lines[:3]) == 60


def test_a_file_that_cannot_be_written_is_said_first(daemon, ctl, tmp_path):
    found = ctl("history", "--svg", str(tmp_path / "no" / "x.svg"))
    assert found.code == 2 and "--svg" in found.err and "no file can be written" in found.err
    assert daemon.requests == []
