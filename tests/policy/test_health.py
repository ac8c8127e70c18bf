"""What faults, XIDs and readings mean for a card."""

from __future__ import annotations

import msgspec
import pytest

from p104d.core.card import CardIdentity, CardReading, CardReport, CardState, Verdict, XidEvent
from p104d.core.units import GIB
from p104d.policy.health import (
    THROTTLE_ALARMS,
    Condition,
    XidKind,
    card_condition,
    card_warnings,
    fault_text,
    suspicion,
    throttle_alarms,
    throttle_names,
    xid_kind,
    xid_text,
)

IDENTITY = CardIdentity(uuid="GPU-1", index=2, link_width_max=4, link_generation_max=1, memory_total_bytes=4 * GIB)
FINE = CardReport(identity=IDENTITY, reading=CardReading())
LOST = CardReport(identity=IDENTITY, reading=CardReading(), fault="lost", fault_text="GPU is lost")


def xid(code: int) -> XidEvent:
    return XidEvent(code=code)


@pytest.mark.parametrize("code", [79, 62, 61, 32, 38, 58])
def test_xids_that_condemn_a_card(code) -> None:
    assert xid_kind(code) is XidKind.CARD
    told = suspicion([xid(13), xid(code)])
    assert told is not None and told.startswith(f"XID {code} (")


@pytest.mark.parametrize("code", [13, 31, 43, 45])
def test_xids_of_an_application_condemn_only_under_our_own_test(code) -> None:
    assert xid_kind(code) is XidKind.APPLICATION
    assert suspicion([xid(code)]) is None
    assert xid_kind(code, own_memory_test=True) is XidKind.CARD
    assert suspicion([xid(code)], own_memory_test=True) is not None


@pytest.mark.parametrize("code", [1, 48, 63, 74, 94, 119, 999])
def test_other_xids_warn(code) -> None:
    assert xid_kind(code) is xid_kind(code, own_memory_test=True) is XidKind.WARNING
    assert suspicion([xid(code)]) is None
    assert xid_text(code) == f"XID {code}"


def condition(report=FINE, verdict=Verdict.PROVEN, **given) -> tuple[CardState, str | None, str | None, bool]:
    found = card_condition(report, verdict=verdict, **given)
    return found.state, found.note, found.closed, found.temporary


def test_conditions_the_gravest_first() -> None:
    assert condition() == (CardState.READY, None, None, False)
    assert condition(jobs=2) == (CardState.BUSY, None, None, False)
    assert condition(verifying=True, proven=False) == (CardState.VERIFYING, None, "its memory is being tested", True)
    # A proven card's test is a guest: the card stays open for jobs.
    assert condition(verifying=True) == (CardState.VERIFYING, None, None, False)
    assert condition(proven=False) == (
        CardState.VERIFYING,
        "its memory is not proven yet",
        "its memory is not proven yet",
        True,
    )
    assert condition(drained=True, jobs=1) == (CardState.DRAINING, None, "draining", False)
    assert condition(drained=True) == (CardState.DRAINED, None, "drained", False)
    assert condition(drained=True, verifying=True)[2:] == ("drained, and its memory is being tested", False)
    assert condition(LOST, drained=True)[:2] == (CardState.SUSPECT, "fell off the bus (GPU is lost)")
    assert condition(LOST)[2] == "suspect: fell off the bus (GPU is lost)"
    assert condition(None, drained=True) == (CardState.MISSING, "the driver does not see it", "missing", False)


def test_a_suspicion_stays_and_new_xids_add_one() -> None:
    assert condition(suspected="XID 62 (halt)", jobs=1)[:2] == (CardState.SUSPECT, "XID 62 (halt)")
    assert condition(xids=[xid(31)]) == (CardState.READY, None, None, False)
    assert condition(xids=[xid(79)])[2] == "suspect: XID 79 (fell off the bus)"


@pytest.mark.parametrize("verdict", [Verdict.ALIASED, Verdict.FAULTY, Verdict.FAILED])
def test_bad_memory_takes_nothing_and_can_be_tested_again(verdict) -> None:
    state, note, closed, _ = condition(verdict=verdict)
    assert state is CardState.SUSPECT and note is not None and closed == f"suspect: {note}"
    assert condition(verdict=verdict, verifying=True) == (
        CardState.VERIFYING, note, f"suspect: {note}; its memory is being tested", False
    )  # fmt: skip


@pytest.mark.parametrize("verdict", [Verdict.UNVERIFIED, Verdict.LOCKED, Verdict.PROVEN])
def test_other_verdicts_take_jobs(verdict) -> None:
    assert condition(verdict=verdict)[2] is None


def test_fault_texts() -> None:
    assert fault_text("hang") == "hangs"
    assert fault_text("odd", "Driver said so") == "odd (Driver said so)"
    assert fault_text("lost", "fell off the bus") == "fell off the bus"


def test_throttle() -> None:
    assert throttle_names(0x1 | 0x40) == ("idle", "hardware thermal slowdown")
    assert throttle_names(0) == ()
    assert throttle_names(0x4 | 0x1000) == ("software power cap", "0x1000")
    assert throttle_alarms(throttle_names(0xFF)) == tuple(THROTTLE_ALARMS.values())
    assert throttle_alarms(("idle", "software power cap")) == ()


def warnings(verdict=Verdict.PROVEN, fault=None, state=CardState.READY, note=None, **reading) -> tuple[str, ...]:
    report = CardReport(identity=IDENTITY, reading=CardReading(**reading), fault=fault)
    return card_warnings(report, IDENTITY, verdict=verdict, condition=Condition(state=state, note=note))


def test_a_healthy_card_warns_of_nothing() -> None:
    assert warnings(link_width=4, link_generation=1, throttle=("idle",), temperature_celsius=60) == ()
    assert warnings() == (), "an absent reading is no warning"


def test_warnings_name_the_card_and_the_mend() -> None:
    assert warnings(link_width=1) == (
        "card 2: PCIe link x1 of x4, loading takes 4 times as long; use a wider slot or riser, or reseat it",
    )
    assert warnings(Verdict.LOCKED) == (
        "card 2 is locked at 4.0 GiB; only jobs with vram run on it until its ROM is unlocked",
    )
    assert warnings(throttle=("hardware thermal slowdown",), temperature_celsius=91) == (
        "card 2: slowed down at 91 °C: hardware thermal slowdown; clean its fan and heat sink, give it air",
    )
    assert warnings(throttle=("power brake slowdown",))[0].endswith("check the power supply and its cables")
    # The driver tells of a power brake as a hardware slowdown too.
    assert warnings(throttle=throttle_names(0x88))[0].endswith("check the power supply and its cables")
    assert "give it air" in warnings(throttle=throttle_names(0xC8))[0]


def test_a_slow_generation_shows_only_under_load() -> None:
    fast = msgspec.structs.replace(IDENTITY, link_generation_max=3)
    ready = Condition(state=CardState.READY)

    def told(load: int | None) -> tuple[str, ...]:
        reading = CardReading(link_generation=1, utilization_percent=load)
        return card_warnings(CardReport(identity=fast, reading=reading), fast, verdict=Verdict.PROVEN, condition=ready)

    assert told(None) == told(10) == ()
    assert told(90) == ("card 2: PCIe generation 1 of 3 under load; check the riser and the slot's setting",)


def test_a_card_out_of_service_is_told_once_with_its_mend() -> None:
    missing = Condition(state=CardState.MISSING)
    assert card_warnings(None, IDENTITY, verdict=Verdict.PROVEN, condition=missing) == (
        "card 2 (GPU-1) is missing; check its riser and power, then reboot",
    )
    lost = warnings(fault="lost", state=CardState.SUSPECT, note="fell off the bus", link_width=1)
    assert lost == ("card 2 took itself out: fell off the bus; check its riser and power, then reboot",)
    bad = warnings(Verdict.FAULTY, state=CardState.SUSPECT, note="its memory is faulty")
    assert bad == (
        "card 2 took itself out: its memory is faulty; cool it and p104ctl verify 2 --depth full, else replace it",
    )
    odd = warnings(state=CardState.SUSPECT, note="XID 62")
    assert odd[0].endswith("p104ctl undrain 2")
