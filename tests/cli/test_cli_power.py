"""p104ctl power: what it asks, what it shows, how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_daemon import UUIDS, Reply, Request, refusal

NOTHING = {
    "power_limit_watts": None,
    "sm_clock_mhz": None,
    "memory_clock_mhz": None,
    "fan_percent": None,
    "fan_automatic": None,
    "persistence": None,
}
ACTUAL = {
    "power_limit_watts": 180.0,
    "sm_clock_mhz": 1733,
    "memory_clock_mhz": 5005,
    "fan_percent": 44,
    "fan_automatic": True,
    "persistence": False,
}
REFUSED = {
    "setting": "fan 60 %",
    "reason": "no_permission",
    "text": "Insufficient Permissions",
    "mend": "only root with CAP_SYS_ADMIN may",
}


def card(place: int, **changes: Any) -> dict[str, Any]:
    return {
        "index": place,
        "uuid": UUIDS[place],
        "name": "NVIDIA P104-100",
        "catalog_name": "P104-100",
        "bus_id": f"00000000:0{place + 1}:00.0",
        "wished": NOTHING,
        "configured": NOTHING,
        "asked": NOTHING,
        "actual": ACTUAL,
        "power_watts": 151.4,
        "power_limit_min_watts": 90.0,
        "power_limit_max_watts": 217.0,
        "power_limit_default_watts": 180.0,
        "pending": False,
        "refused": [],
        **changes,
    }


def body(daemon: Any) -> Any:
    (request,) = daemon.asked("/v1/cards/power")
    return request.body


@pytest.fixture
def rig(daemon: Any) -> Any:
    wished = {**NOTHING, "power_limit_watts": 140.0, "sm_clock_mhz": 1500, "fan_automatic": True, "persistence": True}
    asked = {**NOTHING, "power_limit_watts": 140.0}
    unread = {**dict.fromkeys(ACTUAL), "fan_percent": 60, "fan_automatic": False}
    bad = card(2, actual=unread, power_watts=None, refused=[REFUSED])
    cards = [card(0), card(1, wished=wished, asked=asked), bad, card(3, index=None)]
    daemon.answers["GET", "/v1/power"] = {"cards": cards}

    def answer(request: Request) -> dict[str, Any]:
        return {"cards": [card(UUIDS.index(name) if name in UUIDS else int(name)) for name in request.body["cards"]]}

    daemon.answers["POST", "/v1/cards/power"] = answer
    return daemon


def test_without_options_it_shows_what_is_wished_and_what_is(rig: Any, ctl: Any) -> None:
    result = ctl("power")
    assert result.code == 0 and rig.asked("/v1/cards/power") == []
    lines = result.out.splitlines()
    assert " ".join(lines[1].split()) == "0 P104-100 151W 180W 90-217W 1733MHz 5005MHz 44% auto off -"
    assert lines[2].endswith("140W (asked), SM 1500MHz, fan auto, persistence on")
    assert "60% set" in lines[3] and " 0W" not in lines[3]
    assert lines[4].strip() == "fan 60 % is refused (Insufficient Permissions); only root with CAP_SYS_ADMIN may"
    assert lines[5].split()[0] == "-"


def test_it_fits_a_terminal_and_takes_cards_by_name(rig: Any, ctl: Any, monkeypatch: Any) -> None:
    assert [one["uuid"] for one in json.loads(ctl("power", "1", "--json").out)["cards"]] == [UUIDS[1]]
    assert ctl("power", "9").code == 5
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, ctl("power").out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--limit", "140W"], {"power_limit_watts": 140.0}),
        (["--limit", "137.5"], {"power_limit_watts": 137.5}),
        (["--sm-clock", "1500", "--memory-clock", "off"], {"sm_clock_mhz": 1500, "memory_clock_mhz": 0}),
        (["--sm-clock", "1500MHz"], {"sm_clock_mhz": 1500}),
        (["--fan", "60%"], {"fan_percent": 60}),
        (["--fan", "auto", "--persistence", "on"], {"fan_automatic": True, "persistence": True}),
        (["--persistence", "off"], {"persistence": False}),
        (["--reset"], {}),
        (["--reset", "--limit", "140"], {"power_limit_watts": 140.0}),
    ],
)
def test_what_is_asked(rig: Any, ctl: Any, options: list[str], asked: dict[str, Any]) -> None:
    result = ctl("power", "1", "0", "1", *options)
    assert result.code == 0, result.err
    assert body(rig) == {"cards": ["1", "0"], "reset": "--reset" in options, **asked}
    assert result.out.splitlines()[1].split()[0] == "1"


def test_without_a_card_all_that_are_there_are_meant(rig: Any, ctl: Any) -> None:
    assert ctl("power", "--limit", "140W").code == 0
    assert body(rig)["cards"] == UUIDS[:3]
    rig.answers["GET", "/v1/power"] = {"cards": []}
    assert ctl("power", "--limit", "140W").code == 4
    assert "doctor" in ctl("power").out


@pytest.mark.parametrize(
    "options",
    [["--limit", "much"], ["--limit", "1.2.3"], ["--limit", "-5"], ["--limit", "W"], ["--sm-clock", "1.5"],
     ["--sm-clock", "auto"], ["--fan", "off"], ["--persistence", "maybe"], ["--limit", "١٤٠"]],
)  # fmt: skip
def test_what_cannot_be_read_is_usage(rig: Any, ctl: Any, options: list[str]) -> None:
    result = ctl("power", "0", *options)
    assert result.code == 2 and rig.asked("/v1/cards/power") == []


def test_what_a_driver_refuses_ends_with_four_and_its_mend(rig: Any, ctl: Any) -> None:
    rig.answers["POST", "/v1/cards/power"] = {"cards": [card(0, refused=[REFUSED, REFUSED]), card(1)]}
    result = ctl("power", "0", "1", "--fan", "60")
    assert result.code == 4
    assert result.err.splitlines()[-1] == (
        "p104ctl: card 0: fan 60 % is refused: Insufficient Permissions (and 1 more); only root with CAP_SYS_ADMIN may"
    )
    assert "P104-100" in result.out
    assert ctl("power", "0", "1", "--fan", "60", "--json").code == 4


def test_what_the_daemon_refuses_is_said(rig: Any, ctl: Any) -> None:
    answer: Reply = refusal(409, 4, "card 1: power limit 300 W: the card allows 90 to 217 W", "choose within")
    rig.answers["POST", "/v1/cards/power"] = answer
    result = ctl("power", "1", "--limit", "300W")
    assert result.code == 4 and "90 to 217 W; choose within" in result.err and result.out == ""


def test_what_takes_its_time_is_no_failure(rig: Any, ctl: Any) -> None:
    rig.answers["POST", "/v1/cards/power"] = {"cards": [card(0, pending=True)]}
    result = ctl("power", "0", "--limit", "140W")
    assert result.code == 0 and "not done yet on card 0" in result.err
