"""The XID errors of the last day, for people: each kind once a card, with whose fault it is and the mend."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p104d.core.card import XidEvent
from p104d.core.units import format_duration
from p104d.hardware.messages import Cycle
from p104d.policy.health import XidKind, xid_kind, xid_text

#: How long people are told.
KEPT_SECONDS = 86_400.0


class _Seen(msgspec.Struct):
    """One code on one card: how often, when last (Unix time), by which process, and whether our own test ran then."""

    uuid: str | None
    bus_id: str | None
    code: int
    count: int
    at: float
    pid: int | None
    tested: bool


class XidLog:
    """``testing`` tells whether our own memory test runs on a card: then there is no other program to blame."""

    def __init__(self, testing: Callable[[str], bool] = lambda _: False) -> None:
        self._testing = testing
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._index: dict[str, int] = {}

    def on_cycle(self, cycle: Cycle) -> None:
        """Take in what the sensor told: every error is told once, whichever source told of it first."""
        by_bus = {report.identity.bus_id: report.identity.uuid for report in cycle.cards}
        self._index |= {report.identity.uuid: report.identity.index for report in cycle.cards}
        for event in cycle.xids:
            self._add(event, event.uuid or by_bus.get(event.bus_id), cycle.at)

    def _add(self, event: XidEvent, uuid: str | None, at: float) -> None:
        key = (uuid or event.bus_id or "", event.code)
        before = self._seen.get(key)
        count = before.count + 1 if before is not None and at - before.at < KEPT_SECONDS else 1
        tested = uuid is not None and self._testing(uuid)
        self._seen[key] = _Seen(uuid, event.bus_id, event.code, count, at, event.pid, tested)

    def warnings(self, now: float) -> list[str]:
        """The errors of the last day (``now`` is Unix time), the newest first."""
        self._seen = {key: one for key, one in self._seen.items() if now - one.at < KEPT_SECONDS}
        return [self._text(one, now) for one in sorted(self._seen.values(), key=lambda each: -each.at)]

    def _text(self, one: _Seen, now: float) -> str:
        index = self._index.get(one.uuid or "")
        where = f"card {index}" if index is not None else f"the card at {one.bus_id}"
        often = f", {one.count} times" if one.count > 1 else ""
        ago = format_duration(max(0.0, now - one.at))
        who = f" of process {one.pid}" if one.pid else ""
        return f"{where}: {xid_text(one.code)}{often}, {ago} ago{who}: {self._judgement(one, index)}"

    def _judgement(self, one: _Seen, index: int | None) -> str:
        kind = xid_kind(one.code, own_memory_test=one.tested)
        if kind is XidKind.CARD:
            back = f", then p104ctl undrain {index}" if index is not None else ""
            return f"the card's fault; check its riser, power cable and power supply{back}"
        if kind is XidKind.APPLICATION:
            return "the program's fault; look at the log of the job that ran there"
        return "nobody's for certain; look at dmesg, and test the card's memory if it comes again"
