"""Whether a card is fit to work: what its faults, its XID errors and its readings mean, and what mends them.

XID meanings follow NVIDIA's "XID Errors" catalogue; which of them condemn a card is judged for Pascal cards without
ECC, GSP and NVLink (48, 63, 64, 74, 94, 95, 119 and 120 should not occur there: a warning that something else is odd).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from p104d.core.card import CardIdentity, CardReading, CardReport, CardState, Verdict, XidEvent
from p104d.core.units import format_size


class XidKind(StrEnum):
    """Whose fault an XID error is."""

    CARD = "card"
    APPLICATION = "application"
    WARNING = "warning"


_XIDS: dict[int, tuple[XidKind, str]] = {
    79: (XidKind.CARD, "fell off the bus"),
    62: (XidKind.CARD, "internal microcontroller halt"),
    61: (XidKind.CARD, "internal microcontroller breakpoint"),
    58: (XidKind.CARD, "clock set-up error"),
    38: (XidKind.CARD, "driver firmware error"),
    32: (XidKind.CARD, "corrupted push buffer stream"),
    13: (XidKind.APPLICATION, "graphics engine exception"),
    31: (XidKind.APPLICATION, "memory page fault"),
    43: (XidKind.APPLICATION, "stopped processing"),
    45: (XidKind.APPLICATION, "pre-emptive cleanup"),
}

#: The driver's clock event bits (nvmlClocksEventReason* of nvml.h) that mean heat or power trouble, in words.
THROTTLE_ALARMS: dict[int, str] = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake slowdown",
}
#: The other bits: why a clock is as it is, no trouble.
THROTTLE_NOTES: dict[int, str] = {
    0x01: "idle",
    0x02: "application clocks",
    0x04: "software power cap",
    0x10: "sync boost",
    0x100: "display clocks",
}

_FAULTS = {
    "lost": "fell off the bus",
    "unknown": "the driver answers only with unknown errors",
    "hang": "hangs",
    "reset_required": "needs a reset",
}

_BAD_VERDICTS = {
    Verdict.ALIASED: "its memory is aliased",
    Verdict.FAULTY: "its memory is faulty",
    Verdict.FAILED: "its memory test could not finish",
}

#: What placement is told of a card that waits for its first test.
UNPROVEN = "its memory is not proven yet"

#: Below this load a card may save power by a slower link; only a busy one shows what the link can do.
_BUSY_PERCENT = 50


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """A card's state as shown, its cause, and what placement is told (``CardView.closed`` and ``temporary``)."""

    state: CardState
    note: str | None = None
    closed: str | None = None
    temporary: bool = False


def xid_kind(code: int, *, own_memory_test: bool = False) -> XidKind:
    """Whose fault XID ``code`` is. Under our own memory test there is no application: its XIDs condemn the card."""
    kind = _XIDS.get(code, (XidKind.WARNING, ""))[0]
    return XidKind.CARD if own_memory_test and kind is XidKind.APPLICATION else kind


def xid_text(code: int) -> str:
    """``XID 79 (fell off the bus)``; the bare code where its meaning is not known here."""
    known = _XIDS.get(code)
    return f"XID {code} ({known[1]})" if known else f"XID {code}"


def suspicion(xids: Sequence[XidEvent], *, own_memory_test: bool = False) -> str | None:
    """Why these XIDs of one card condemn it, to be kept until somebody clears it; None: they do not."""
    bad = (event.code for event in xids if xid_kind(event.code, own_memory_test=own_memory_test) is XidKind.CARD)
    return next((xid_text(code) for code in bad), None)


def bad_memory(verdict: Verdict, finding: str | None = None) -> str | None:
    """What is wrong with a card of this verdict, with what its test found; None for a card that may work."""
    text = _BAD_VERDICTS.get(verdict)
    return f"{text}: {finding}" if text and finding else text


def fault_text(fault: str, detail: str | None = None) -> str:
    """A fault word of ``CardReport`` as people read it, with the driver's own message where there is one."""
    text = _FAULTS.get(fault, fault)
    return f"{text} ({detail})" if detail and detail.casefold() not in text.casefold() else text


def card_condition(
    report: CardReport | None,
    *,
    verdict: Verdict,
    drained: bool = False,
    suspected: str | None = None,
    xids: Sequence[XidEvent] = (),
    verifying: bool = False,
    proven: bool = True,
    finding: str | None = None,
    jobs: int = 0,
) -> Condition:
    """A card's state from all that is known, the gravest first: missing, suspect, verifying, drained, busy, ready.

    ``report`` None: the driver does not list it. ``suspected`` is the suspicion kept from before; ``xids`` are new
    ones; ``drained`` a person's wish; ``verifying`` that its memory is being tested; ``proven`` that a test stands
    behind its verdict: then a job may push the present test aside; ``finding`` what that test said. ``jobs`` is how
    many of ours are on it.
    """
    if report is None:
        return Condition(state=CardState.MISSING, note="the driver does not see it", closed="missing")
    cause = fault_text(report.fault, report.fault_text) if report.fault else suspected or suspicion(xids)
    cause = cause or bad_memory(verdict, finding)
    if cause is not None and not (verifying and report.fault is None):
        return Condition(state=CardState.SUSPECT, note=cause, closed=f"suspect: {cause}")
    if drained:
        return _drained(verifying, jobs)
    if verifying and (cause is not None or not proven):
        closed = "its memory is being tested" if cause is None else f"suspect: {cause}; its memory is being tested"
        return Condition(state=CardState.VERIFYING, note=cause, closed=closed, temporary=cause is None)
    if not proven:
        # Jobs of an unverified card can only be from a release that knew no proof; they are not disturbed.
        state = CardState.BUSY if jobs else CardState.VERIFYING
        return Condition(state=state, note=UNPROVEN, closed=UNPROVEN, temporary=True)
    if verifying:
        return Condition(state=CardState.VERIFYING)
    return Condition(state=CardState.BUSY if jobs else CardState.READY)


def _drained(verifying: bool, jobs: int) -> Condition:
    if verifying:
        return Condition(state=CardState.VERIFYING, note="drained", closed="drained, and its memory is being tested")
    if jobs:
        return Condition(state=CardState.DRAINING, closed="draining")
    return Condition(state=CardState.DRAINED, closed="drained")


def throttle_alarms(throttle: Sequence[str]) -> tuple[str, ...]:
    """Those of a reading's throttle reasons that mean heat or power trouble."""
    alarms = set(THROTTLE_ALARMS.values())
    return tuple(reason for reason in throttle if reason in alarms)


def throttle_names(bits: int) -> tuple[str, ...]:
    """The reasons in the driver's clock event bit mask, as ``CardReading.throttle`` names them; unknown bits in hex."""
    known = {**THROTTLE_NOTES, **THROTTLE_ALARMS}
    named = [text for bit, text in known.items() if bits & bit]
    rest = bits & ~sum(known)
    return (*named, f"0x{rest:x}") if rest else tuple(named)


def card_warnings(
    report: CardReport | None, identity: CardIdentity, *, verdict: Verdict, condition: Condition
) -> tuple[str, ...]:
    """What a person should know of a card, each a line with its mend; for ``status``."""
    where = f"card {identity.index}"
    found: list[str] = []
    if condition.state is CardState.MISSING:
        found.append(f"{where} ({identity.uuid}) is missing; check its riser and power, then reboot")
    elif condition.state is CardState.SUSPECT:
        found.append(f"{where} took itself out: {condition.note}; {_suspect_mend(report, verdict, identity.index)}")
    if verdict is Verdict.LOCKED:
        size = format_size(identity.memory_total_bytes)
        found.append(f"{where} is locked at {size}; only jobs with vram run on it until its ROM is unlocked")
    if report is not None and report.fault is None:
        found += [f"{where}: {text}" for text in (*_link_warnings(identity, report.reading), *_heat(report.reading))]
    return tuple(found)


def _suspect_mend(report: CardReport | None, verdict: Verdict, index: int) -> str:
    if report is not None and report.fault is not None:
        return "check its riser and power, then reboot"
    if verdict is Verdict.ALIASED:
        return "flash the ROM that fits its memory chips"
    if verdict is Verdict.FAULTY:
        return f"cool it and p104ctl verify {index} --depth full, else replace it"
    if verdict is Verdict.FAILED:
        return f"check its riser and power, then p104ctl verify {index}"
    return f"look into the cause, then p104ctl verify {index} --depth full, or p104ctl undrain {index}"


def _link_warnings(identity: CardIdentity, reading: CardReading) -> list[str]:
    """A narrow link shows at once; a slow generation only under load, for an idle card may have slowed it itself."""
    found = []
    width, widest = reading.link_width, identity.link_width_max
    if width and widest and width < widest:
        slower = f"loading takes {widest / width:.0f} times as long"
        found.append(f"PCIe link x{width} of x{widest}, {slower}; use a wider slot or riser, or reseat it")
    generation, best = reading.link_generation, identity.link_generation_max
    busy = (reading.utilization_percent or 0) >= _BUSY_PERCENT
    if busy and generation is not None and best is not None and generation < best:
        found.append(f"PCIe generation {generation} of {best} under load; check the riser and the slot's setting")
    return found


def _heat(reading: CardReading) -> list[str]:
    alarms = throttle_alarms(reading.throttle)
    if not alarms:
        return []
    at = "" if reading.temperature_celsius is None else f" at {reading.temperature_celsius} °C"
    # The driver tells of a power brake as a hardware slowdown too; heat has bits of its own beside it.
    power = THROTTLE_ALARMS[0x80] in alarms and not {THROTTLE_ALARMS[0x20], THROTTLE_ALARMS[0x40]} & set(alarms)
    mend = "check the power supply and its cables" if power else "clean its fan and heat sink, give it air"
    return [f"slowed down{at}: {', '.join(alarms)}; {mend}"]
