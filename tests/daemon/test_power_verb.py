"""What ``p104ctl power`` asks: all of a request or none, answered when it was tried."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pynvml
import pytest
from power_bench import PowerBench

from p104d.api.power import PowerCard, PowerCards, PowerRequest
from p104d.api.service import Caller
from p104d.core.errors import NotAllowedError, NotFoundError, P104Error, RefusedError, UnavailableError
from p104d.daemon.config import CardConfig
from p104d.daemon.power_verb import load_asked, set_power, show_power
from p104d.hardware import nvml as nvml_module
from p104d.hardware.messages import CardSettings

ROOT = Caller(uid=0, user="root", admin=True)
ANNA = Caller(uid=1000, user="anna", admin=False)


@pytest.fixture(autouse=True)
def real_library() -> Iterator[None]:
    yield
    nvml_module.use_library(None)


class Desk:
    """Where requests are made: the sensor's cycles come whenever a look is asked for, and one after."""

    def __init__(self, **options: Any) -> None:
        self.bench = PowerBench(2, **options)
        self.stored: dict[str, str] = {}
        self.bench.tick()
        self.bench.keeper.look = self._look

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self.bench.tick)
        loop.call_soon(self.bench.tick)

    def commit(self, values: Mapping[str, str]) -> None:
        self.stored |= values

    def set(self, *cards: str, caller: Caller = ROOT, patience: float = 10.0, **request: Any) -> list[PowerCard]:
        asked = PowerRequest(cards=list(cards), **request)
        begun = time.monotonic()

        async def ask() -> PowerCards:
            return await set_power(self.bench.known, self.bench.keeper, caller, asked, self.commit, patience)

        found = asyncio.run(ask()).cards
        assert any(card.pending for card in found) or time.monotonic() - begun < patience, "it is not sat out"
        return found

    def untouched(self) -> bool:
        """Has nobody's wish been stored or sent?"""
        self.bench.ticks(3)
        return self.stored == {} and self.bench.sent == []


def test_a_wish_is_stored_applied_and_answered_with_what_came_of_it() -> None:
    desk = Desk()
    card, other = desk.set("1", "0", power_limit_watts=120.0, fan_percent=60, persistence=True)
    assert (card.index, other.index) == (1, 0)
    assert not card.pending and card.refused == []
    assert (card.actual.power_limit_watts, card.actual.persistence, card.actual.fan_automatic) == (120.0, True, False)
    assert card.wished == card.asked
    assert (card.asked.power_limit_watts, card.asked.fan_percent, card.asked.sm_clock_mhz) == (120.0, 60, None)
    assert (card.power_limit_min_watts, card.power_limit_max_watts) == (90.0, 217.0)
    assert load_asked(desk.stored) == {
        uuid: CardSettings(power_limit_watts=120.0, fan_percent=60, persistence=True) for uuid in desk.bench.uuids
    }


def test_wishes_add_up_and_a_later_one_wins() -> None:
    desk = Desk()
    desk.set("0", power_limit_watts=120.0, fan_percent=60)
    (card,) = desk.set("0", power_limit_watts=110.0, fan_automatic=True, sm_clock_mhz=0)
    assert (card.asked.power_limit_watts, card.asked.fan_percent, card.asked.fan_automatic) == (110.0, None, True)
    assert (card.actual.power_limit_watts, card.actual.fan_automatic) == (110.0, True)
    assert desk.bench.card(1).power_limit == 180.0


def test_reset_forgets_what_people_asked_and_may_ask_anew_in_one_go() -> None:
    desk = Desk(cards=(CardConfig(match="0", limit=150.0),))
    desk.set("0", "1", power_limit_watts=120.0, fan_percent=60)
    first, second = desk.set("0", "1", reset=True, persistence=True)
    assert (first.asked.power_limit_watts, first.configured.power_limit_watts) == (None, 150.0)
    assert first.asked.persistence is True
    assert [card.actual.power_limit_watts for card in (first, second)] == [150.0, 180.0]
    assert [card.actual.fan_automatic for card in (first, second)] == [True, True]
    assert set(load_asked(desk.stored).values()) == {CardSettings(persistence=True)}


def test_bounds_of_one_card_refuse_the_whole_request() -> None:
    desk = Desk()
    identity = desk.bench.known.records[desk.bench.uuids[1]].identity
    desk.bench.known.records[desk.bench.uuids[1]].identity = msgspec.structs.replace(
        identity, power_limit_min_watts=130.0
    )
    with pytest.raises(RefusedError) as refused:
        desk.set("0", "1", power_limit_watts=120.0)
    assert refused.value.line() == (
        "card 1: power limit 120 W is refused: the card allows 130 to 217 W; "
        "choose within its bounds; no card was changed"
    )
    assert refused.value.exit_code == 4
    assert desk.untouched()


@pytest.mark.parametrize(
    ("caller", "cards", "request_", "error"),
    [
        (ANNA, ["0"], {"power_limit_watts": 120.0}, NotAllowedError),
        (ROOT, ["0", "7"], {"power_limit_watts": 120.0}, NotFoundError),
        (ROOT, [], {"power_limit_watts": 120.0}, NotFoundError),
        (ROOT, ["0"], {}, RefusedError),
        (ROOT, ["0"], {"power_limit_watts": -5.0}, RefusedError),
        (ROOT, ["0"], {"power_limit_watts": float("nan")}, RefusedError),
        (ROOT, ["0"], {"sm_clock_mhz": -1}, RefusedError),
        (ROOT, ["0"], {"memory_clock_mhz": 10**12}, RefusedError),
        (ROOT, ["0"], {"fan_percent": 101}, RefusedError),
        (ROOT, ["0"], {"fan_percent": 50, "fan_automatic": True}, RefusedError),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_done(
    caller: Caller, cards: list[str], request_: dict[str, Any], error: type[P104Error]
) -> None:
    desk = Desk()
    with pytest.raises(error):
        desk.set(*cards, caller=caller, **request_)
    assert desk.untouched()


def test_what_could_not_be_stored_is_not_done() -> None:
    desk = Desk()

    def full(_: Mapping[str, str]) -> None:
        raise UnavailableError("the disk is full")

    desk.commit = full  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        desk.set("0", power_limit_watts=120.0)
    assert desk.untouched()


def test_what_the_driver_refuses_is_in_the_answer_with_its_mend() -> None:
    desk = Desk()
    desk.bench.break_setter("nvmlDeviceSetPowerManagementLimit", pynvml.NVML_ERROR_NO_PERMISSION)
    (card,) = desk.set("0", power_limit_watts=120.0, persistence=True)
    (refusal,) = card.refused
    assert (refusal.setting, refusal.reason) == ("power limit 120 W", "no_permission")
    assert "CAP_SYS_ADMIN" in refusal.mend
    assert card.actual.persistence is True


def test_a_sensor_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    desk = Desk()
    desk.bench.keeper.look = lambda: None
    (card,) = desk.set("0", power_limit_watts=120.0, patience=0.02)
    assert card.pending and card.actual.power_limit_watts == 180.0
    assert desk.stored


def test_all_cards_are_shown_the_missing_last_and_without_an_index() -> None:
    desk = Desk()
    first, second = desk.bench.uuids
    del desk.bench.known.sights[first]
    shown = show_power(desk.bench.known, desk.bench.keeper).cards
    assert [(card.uuid, card.index) for card in shown] == [(second, 1), (first, None)]
    assert shown[1].actual.power_limit_watts is None
    assert shown[0].wished.power_limit_watts is None and shown[0].actual.power_limit_watts == 180.0


def test_a_stored_wish_of_a_later_release_is_left_alone() -> None:
    stored = {"power:GPU-1": '{"power_limit_watts": "much"}', "power:GPU-2": '{"persistence": true}', "paused": "0"}
    assert load_asked(stored) == {"GPU-2": CardSettings(persistence=True)}
