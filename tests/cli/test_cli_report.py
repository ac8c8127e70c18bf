"""p104ctl report: one page for a terminal, as Markdown and as HTML."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import msgspec
import pytest
from fake_records import at, card_part, group, report

from p104d.api import history as wire
from p104d.cli import reportpage

REPORT = ("GET", "/v1/report")
EVIL = "<script>alert(1)</script> | `x` **b** [l](http://x) \x1b[2J & \"q\" 'p'"


@pytest.fixture(autouse=True)
def one_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_what_is_made_up_is_the_wire() -> None:
    found = msgspec.convert(report(), wire.Report)
    assert len(found.groups) == 3
    for made, kind in ((report(), wire.Report), (group(), wire.Group), (card_part(), wire.CardPart)):
        assert set(made) == {field.name for field in msgspec.structs.fields(kind)}


def test_what_is_asked_for(daemon, ctl):
    daemon.answers[REPORT] = report()
    assert ctl("report", "--since", "2026-11-20", "--until", "2026-11-27").code == 0
    assert daemon.requests[-1].query == {"since": [at(0)], "until": [at(7 * 86_400)]}
    assert json.loads(ctl("report", "--json").out) == report()
    [since] = daemon.requests[-1].query["since"]
    assert time.time() - reportpage.timestamp(since) == pytest.approx(7 * 86_400, abs=60)
    assert ctl("report", "--json", "--html").code == 2 and ctl("report", "--since", "x").code == 2


def test_the_page_at_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    lines = reportpage.terminal_lines(reportpage.page(report()))
    assert lines[:2] == [
        "p104d report, 2026-11-20 00:00 to 2026-11-27 00:00",
        "165 jobs, 6 failed, 43.8 h of work, 9.74 kWh, 2.92 EUR, 1.20 M tokens, 1,140 items",
    ]
    text = "\n".join(lines)
    # What is wrong comes first.
    headings = [line for line in lines if line.isupper() and "  " not in line and line[0].isalpha()]
    assert headings == ["LOOK AT", "JOBS", "CARDS", "FAILURES BY CAUSE"]
    assert "! card 3 took itself out: XID 79 (fell off the bus); reboot" in lines
    assert re.search(r"posters +- +41 +2 +31\.2 h +4\.87 kWh +1\.46 EUR +- +1,140 +2\.49 it/s", text)
    assert re.search(r"3  P104-100  suspect  proven +29\.5 h +40 +4 +4\.40 kWh +5\.31 kWh +2, 1 bad", text)
    assert max(map(len, lines)) <= 110
    monkeypatch.setenv("COLUMNS", "80")
    wide = reportpage.terminal_lines(reportpage.page(report(look_at=["word " * 60])))
    assert max(len(line) for line in wide if line.startswith(("!", "  word"))) <= 80


def test_a_quiet_week(monkeypatch):
    empty = report(groups=[], cards=[card_part(0, tests=0)], failures=[], look_at=[], notes=["jobs before X"])
    text = "\n".join(reportpage.terminal_lines(reportpage.page(empty)))
    assert (
        "nothing stands out" in text and "no job ended" in text and "no job failed" in text and "jobs before X" in text
    )
    # Columns in which nobody has anything are left out.
    assert "TESTS" not in text and "FAILED" not in text


def test_markdown_where_no_terminal_reads_it(daemon, ctl):
    daemon.answers[REPORT] = report(groups=[group(EVIL)], failures=[{"reason": EVIL, "count": 1}], look_at=[EVIL])
    text = ctl("report").out
    assert text.startswith("# p104d report\n") and text == ctl("report", "--markdown").out
    tables = [line for line in text.splitlines() if line.startswith("|")]
    # No name breaks its table, nor means anything to Markdown or HTML.
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables if "script" in line or "Name" in line}
    assert widths == {9, 3}
    assert "<script" not in text and "\x1b" not in text
    assert not re.search(r"(?<!\\)(\*\*b|`x|\[l)", text)


class _Tags(HTMLParser):
    """What is in a page: tags, attributes, text; open tags that were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def test_html_is_one_file_that_fetches_and_runs_nothing(daemon, ctl):
    daemon.answers[REPORT] = report(
        groups=[group(EVIL, model=EVIL, speed_unit=EVIL)], failures=[{"reason": EVIL, "count": 1}], look_at=[EVIL],
        cards=[card_part(0, name=EVIL)], notes=[EVIL],
    )  # fmt: skip
    text = ctl("report", "--html").out
    page = _Tags()
    page.feed(text)
    assert page.open == [] and text.startswith("<!DOCTYPE html>")
    assert not {"script", "img", "link", "iframe", "object", "a"} & set(page.tags)
    assert page.attributes <= {"lang", "charset", "name", "content", "class"}
    assert page.said.count("<script>alert(1)</script>") >= 6 and "\x1b" not in text
    assert "http" not in re.sub(r"http://x", "", text) and "url(" not in text and "@import" not in text
    assert 'class="n bad">2<' in text and 'class="loud"' in text


@pytest.mark.parametrize(("name", "begins"), [("w.html", "<!DOCTYPE html>"), ("w.md", "# p104d"), ("w", "# p104d")])
def test_output_to_a_file(daemon, ctl, tmp_path, name, begins):
    daemon.answers[REPORT] = report()
    target = tmp_path / name
    target.write_text("old")
    found = ctl("report", "--output", str(target))
    assert (found.code, found.out) == (0, f"{target}\n")
    assert target.read_text().startswith(begins) and list(tmp_path.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_that_cannot_be_written(daemon, ctl, tmp_path):
    daemon.answers[REPORT] = report()
    found = ctl("report", "--output", str(tmp_path / "no" / "x.md"))
    assert found.code == 1 and found.err.count("\n") == 1 and "no such file" in found.err


@pytest.mark.parametrize(
    ("call", "value", "said"),
    [
        (reportpage.hours, 0.0, "-"), (reportpage.hours, 0.001, "1 min"), (reportpage.hours, 0.5, "30 min"),
        (reportpage.hours, 1234.56, "1,234.6 h"), (reportpage.energy, None, "-"), (reportpage.energy, 650.4, "650 Wh"),
        (reportpage.energy, 0.0, "0 Wh"), (reportpage.energy, 12_345.0, "12.35 kWh"), (reportpage.count, None, "-"),
        (reportpage.count, 1140.0, "1,140"), (reportpage.count, 2.5e6, "2.50 M"),
    ],
)  # fmt: skip
def test_amounts(call, value, said):
    assert call(value) == said
