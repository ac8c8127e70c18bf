"""p104ctl plan: the end of the queue in a line, cards over time, the jobs and what they wait for."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

import pytest
from fake_daemon import UUIDS, Reply, card, refusal
from fake_models import NAME, forecast, planned

from p104d.cli.timeline import timeline
from p104d.cli.verbs.schema import folder


@pytest.fixture
def tell(daemon: Any, ctl: Any, monkeypatch: Any) -> Any:
    """The page of a forecast, on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    daemon.answers["GET", "/v1/cards"] = {"cards": [card(index) for index in range(4)]}

    def page(*jobs: dict[str, Any], options: tuple[str, ...] = (), **changes: Any) -> str:
        daemon.answers["GET", "/v1/plan"] = forecast(*jobs, **changes)
        result = ctl("plan", *options)
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 100
        return str(result.out)

    return page


def clock(moment: str) -> str:
    then = datetime.fromisoformat(moment).astimezone()
    today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M" if today else "%b %d %H:%M")


def test_when_it_will_be_done(tell: Any, daemon: Any) -> None:
    page = tell(planned(12, -60, 7800, 0, state="running"))
    done = clock(daemon.answers["GET", "/v1/plan"]["done_at"])
    assert page.splitlines()[0] == f"done in about 2h10m, at {done}; 3 loads, on 4 cards"
    page = tell(planned(12, 0, 7800), hypothetical=True, cards=6, loads=1)
    assert "; 1 load, as if there were 6 cards\n" in page
    assert "cannot be told, on 4 cards" in tell(planned(12, None, None), seconds=None)
    assert tell(seconds=None) == "nothing runs, nothing waits\n"


def test_each_job_and_what_it_waits_for(tell: Any) -> None:
    page = tell(
        planned(12, -60, 600, 0, state="running"),
        planned(13, 600, 900, 0, 2, guessed=True, waits_for="job 12 on card 0"),
        planned(14, 900, None, 1, model=None, name="posters"),
    )
    rows = {line.split()[0]: line for line in page.splitlines() if line[:2].isdecimal()}
    assert rows["12"].split()[:5] == ["12", "answers", NAME, "running", "0"] and "~" not in rows["12"]
    assert "0,2" in rows["13"] and "~" in rows["13"] and rows["13"].endswith("job 12 on card 0")
    assert rows["14"].split()[1:3] == ["posters", "-"] and rows["14"].split()[-1] == "-"
    assert "~: how long it runs is a guess" in page


def test_what_never_starts_and_what_is_left_out(tell: Any) -> None:
    jobs = [planned(number, 60 * number, 60 * number + 60, 0) for number in range(40)]
    never = [{"id": 99, "name": "big", "reason": "it needs 8 cards and the rig has 4"}]
    page = tell(*jobs, never=never, notes=["card 3 is drained"], left_out=200)
    assert "and 210 more (--limit lists them)" in page and "\n29  answers" in page and "\n30  answers" not in page
    assert page.endswith("job 99 (big) does not start: it needs 8 cards and the rig has 4\n! card 3 is drained\n")
    assert "and 200 more" in tell(*jobs, left_out=200, options=("--limit", "40"))
    assert tell(never=never, seconds=None).startswith("nothing that waits will start\njob 99 (big)")


def test_a_row_a_card(tell: Any) -> None:
    page = tell(
        planned(12, -60, 3000, 0, state="running"),
        planned(13, 3000, 7800, 0, guessed=True),
        planned(14, 0, 7800, 2, 1, model=None, name="two at once"),
    ).splitlines()
    assert [line[:9] for line in page[2:6]] == ["  card 0 ", "  card 1 ", "  card 2 ", "         "]
    first = page[2].partition("│")[2]
    assert first.startswith("▐ 12 qwen2-7b-coder-q8_0 █") and len(first) == 89
    later = first.index("▐", 1)
    assert later == pytest.approx(89 * 3000 / 7800, abs=1) and first[later:].startswith("▐ 13 qwen2")
    assert first.endswith("▒▒▒") and first.count("█") == later - 25
    assert page[3] == page[4].replace("card 2", "card 1") and "▐ 14 two at once █" in page[3]
    assert page[5].lstrip().startswith("└") and "┬" in page[5] and ":" in page[6]
    assert page[7].strip() == "▒ run time guessed"


def test_jobs_that_share_a_card_have_rows_of_their_own(tell: Any) -> None:
    page = tell(*(planned(number, 0, 600, 3, model=None) for number in range(12, 18)), seconds=600.0).splitlines()
    assert [line[:9] for line in page[2:7]] == ["  card 3 ", *[" " * 9] * 4]
    assert [line.partition("│")[2][:4] for line in page[2:6]] == ["▐ 12", "▐ 13", "▐ 14", "▐ 15"]
    assert page[6].strip() == "and 2 more at a time"


def test_an_imagined_rig_is_drawn_by_its_places(tell: Any) -> None:
    jobs = [planned(12, 0, 600, places=[0, 10]), planned(13, 600, 900, places=[1])]
    page = tell(*jobs, hypothetical=True, cards=12, seconds=900.0, options=("--cards", "12"))
    rows = [line for line in page.splitlines() if "card " in line and "│" in line]
    assert [row.split()[1] for row in rows] == [str(place) for place in range(12)]
    assert "▐ 12 " in rows[10] and rows[11].strip() == "card 11 │"
    assert "0,10" in page
    # Where the daemon does not say which, there is nothing to draw.
    assert "│▐" not in tell(planned(12, 0, 600), hypothetical=True, cards=0, seconds=600.0)


def test_many_jobs_in_a_column_and_cards_that_have_gone(tell: Any, daemon: Any) -> None:
    daemon.answers["GET", "/v1/cards"] = refusal(503, 4, "later")
    page = tell(*(planned(number, number, number + 1, 0) for number in range(1, 700)), seconds=700.0)
    assert "card 0000 │ ▐▐▐" in page or "card 0000 │▐▐▐" in page
    assert UUIDS[0][:12] in page


def test_a_narrow_terminal_has_the_table_alone(tell: Any, ctl: Any, monkeypatch: Any) -> None:
    tell(planned(12, 0, 600, 0, waits_for="nothing " * 20))
    monkeypatch.setenv("COLUMNS", "44")
    page = ctl("plan").out
    assert "│" not in page and max(map(len, page.splitlines())) <= 44 and "\n12  answers" in page


def test_plain_characters_where_there_is_no_unicode(monkeypatch: Any) -> None:
    for module in ("timeline", "chart"):
        monkeypatch.setattr(f"p104d.cli.{module}.unicode_output", lambda: False)
    jobs = [planned(12, 0, 600, 0), planned(13, 600, 900, 0, guessed=True, model=None, name="x\x1b[2J")]
    drawn = timeline(forecast(*jobs), {UUIDS[0]: "0"})
    assert "".join(drawn).isascii() and "\x1b" not in "".join(drawn)
    assert "|[ 12 " in drawn[0] and "###[ 13 " in drawn[0] and drawn[0].endswith(":::")


def test_jobs_of_one_model_are_of_one_colour(monkeypatch: Any) -> None:
    for module in ("timeline", "text"):
        monkeypatch.setattr(f"p104d.cli.{module}.coloured", lambda: True)
    jobs = [planned(12, 0, 600, 0), planned(13, 0, 600, 1), planned(14, 0, 600, 2, model="other")]
    drawn = timeline(forecast(*jobs), {uuid: str(index) for index, uuid in enumerate(UUIDS)})
    colours = [line.partition("\x1b[")[2][:2] for line in drawn[:3]]
    assert colours[0] == colours[1] != colours[2]
    assert f"█ {NAME}" in drawn[-1] and "█ other" in drawn[-1]


def test_times_are_the_readers_own(tell: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        moment = "2024-11-23T22:30:00.000+00:00"
        page = tell(planned(12, 0, 600, 0, starts_at=moment, ends_at=None), done_at=moment)
        assert "2024-11-24" in page
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_json_is_what_the_daemon_says_and_as_its_schema(tell: Any, daemon: Any, ctl: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tell(planned(12, 0, 600, 0), planned(13, 600, 700, places=[1]), never=[{"id": 9, "name": "a", "reason": "b"}])
    daemon.requests.clear()
    found = json.loads(ctl("plan", "--cards", "6", "--limit", "9", "--json").out)
    assert found == daemon.answers["GET", "/v1/plan"]
    (request,) = daemon.requests
    assert request.query == {"cards": ["6"], "limit": ["9"]}
    with open(f"{folder()}/plan.json", encoding="utf-8") as stream:
        jsonschema.validate(found, json.load(stream))
    assert ctl("plan").code == 0 and daemon.asked("/v1/plan")[-1].query == {}


@pytest.mark.parametrize("options", [["--cards", "0"], ["--cards", "65"], ["--limit", "0"], ["--limit", "x"], ["12"]])
def test_usage(daemon: Any, ctl: Any, options: list[str]) -> None:
    result = ctl("plan", *options)
    assert result.code == 2 and result.err.count("\n") == 1 and daemon.requests == []


def test_a_daemon_that_is_away_or_refuses(daemon: Any, ctl: Any) -> None:
    assert ctl("--socket", "/nonexistent", "plan").code == 3
    answer: Reply = refusal(503, 4, "this daemon makes no forecast")
    daemon.answers["GET", "/v1/plan"] = answer
    result = ctl("plan")
    assert result.code == 4 and result.err == "p104ctl: this daemon makes no forecast\n" and result.out == ""
