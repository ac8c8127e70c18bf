"""The cards as the daemon knows them: what is remembered, what the sensor last said, what follows for placement."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from p104d.core.card import CardIdentity, CardReading, CardReport, CardState, DueTest, Verdict
from p104d.core.snapshot import CardView, Hold
from p104d.daemon.cardfacts import link_speed, measured_link, merged_identity, settled_verdict, short_name
from p104d.daemon.doubts import Doubts
from p104d.daemon.events import CardBad
from p104d.daemon.sights import Changes, Onlooker, Sight
from p104d.hardware.catalog import lookup, promised_bytes
from p104d.hardware.messages import Cycle, DriverProblem
from p104d.policy.health import UNPROVEN, Condition, card_condition, card_warnings, fault_text, suspicion
from p104d.policy.proof import Candidate, is_first, is_thin, too_little_left
from p104d.store.cards import CardRecord
from p104d.store.reads import OpenAttempt

#: A remembered card's last sight is written down this often at most; the record is for people, not for decisions.
_SEEN_EVERY_SECONDS = 3600.0


#: An error that our own test met is heard of within this time, from one source or the other.
_OWN_TEST_SECONDS = 5.0
_OUT = frozenset({CardState.SUSPECT, CardState.MISSING})


class Rig:
    """All known cards. Nothing here blocks or writes; the loop saves what ``on_cycle`` says is to be saved."""

    def __init__(
        self,
        records: Mapping[str, CardRecord],
        *,
        missing_after: float,
        first_depth: str,
        onlooker: Onlooker,
        take_lock: Callable[[str], str | None],
    ) -> None:
        self.records = dict(records)
        self.sights: dict[str, Sight] = {}
        self.problem: DriverProblem | None = None
        self.driver: str | None = None
        self.counted = False
        self.testing: set[str] = set()
        self.tested_at: dict[str, float] = {}
        self.too_hot: Callable[[str], str | None] = lambda _: None
        self._first_look = asyncio.Event()
        self._missing_after = missing_after
        self._first_depth = first_depth
        self._onlooker = onlooker
        self._take_lock = take_lock
        self._taken: dict[str, str | None] = {}
        self._absent_since: dict[str, float] = {}
        self._told_gone: set[str] = set()
        self._doubts = Doubts(first_depth)
        self._conditions: dict[str, Condition] = {}

    def on_cycle(self, cycle: Cycle) -> Changes:
        """Take in one look at the rig."""
        changes = Changes()
        changes.material = self.problem != cycle.problem
        self.problem, self.driver = cycle.problem, cycle.driver_version or self.driver
        if cycle.problem is None or cycle.cards:
            changes.material |= not self.counted
            self.counted = True
            self._first_look.set()
        for report in cycle.cards:
            self._seen(report, cycle, changes)
        self._suspect(cycle, changes)
        self._absent(cycle, changes)
        conditions = {uuid: self.condition(uuid, ()) for uuid in self.records}
        if conditions != self._conditions:
            changes.material = True
            changes.bad = self._gone_bad(conditions)
        self._conditions = conditions
        return changes

    async def first_look(self, patience: float) -> None:
        """Until the first look at the cards is in, or ``patience`` seconds have passed without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._first_look.wait()

    def _gone_bad(self, conditions: Mapping[str, Condition]) -> list[CardBad]:
        """Cards that were in service at the last look and have taken themselves out."""
        return [
            CardBad(uuid, self.records[uuid].identity.index, now.state.value, now.note or now.state.value)
            for uuid, now in conditions.items()
            if now.state in _OUT and uuid in self._conditions and self._conditions[uuid].state not in _OUT
        ]

    def _seen(self, report: CardReport, cycle: Cycle, changes: Changes) -> None:
        uuid = report.identity.uuid
        before = self.sights.get(uuid)
        sight = self._onlooker.sight(report, cycle, before)
        self.sights[uuid] = sight
        if report.fault != "lost":
            self._absent_since.pop(uuid, None)
            self._told_gone.discard(uuid)
        if before is None or before.foreign_bytes != sight.foreign_bytes:
            changes.material = True
        record = self._remembered(report.identity, cycle, changes)
        if record.last_seen_at + _SEEN_EVERY_SECONDS < cycle.at:
            record.last_seen_at = cycle.at
            changes.save.append(record)

    def _remembered(self, identity: CardIdentity, cycle: Cycle, changes: Changes) -> CardRecord:
        record = self.records.get(identity.uuid)
        if record is None:
            record = CardRecord(
                identity=identity,
                driver=cycle.driver_version,
                verdict=settled_verdict(identity, Verdict.UNVERIFIED),
                proven_bytes=None,
                drained=False,
                drained_by=None,
                suspect=None,
                first_seen_at=cycle.at,
                last_seen_at=cycle.at,
            )
            self.records[identity.uuid] = record
            changes.save.append(record)
            changes.material = True
        elif (record.identity, record.driver) != (identity, cycle.driver_version):
            record.identity, record.driver = merged_identity(record.identity, identity), cycle.driver_version
            record.verdict = settled_verdict(record.identity, record.verdict)
            changes.save.append(record)
            changes.material = True
        sight = self.sights[identity.uuid]
        if record.due is None and identity.uuid not in self.testing and sight.trusted:
            record.due = self._doubts.of_card(record, sight, cycle)
            if record.due is not None:
                changes.save.append(record)
                changes.material = True
        if identity.uuid not in self._taken:
            self._taken[identity.uuid] = self._take_lock(identity.uuid)
        return record

    def _suspect(self, cycle: Cycle, changes: Changes) -> None:
        by_bus = {record.identity.bus_id: uuid for uuid, record in self.records.items()}
        for event in cycle.xids:
            uuid = event.uuid or by_bus.get(event.bus_id)
            record = self.records.get(uuid) if uuid else None
            cause = suspicion([event], own_memory_test=uuid is not None and self.was_testing(uuid, cycle.monotonic))
            changes.warnings.append(f"XID {event.code} on {event.bus_id or uuid}: {event.text or 'no text'}")
            if record is None:
                continue
            if record.due is None:
                record.due = self._doubts.of_xid(record, event, cycle.at, condemns=cause is not None)
            record.suspect = record.suspect or cause
            changes.save.append(record)
            changes.material = True

    def _absent(self, cycle: Cycle, changes: Changes) -> None:
        """Cards that a look did not show. Their jobs are given up only after a while: drivers are reloaded, sensors
        restarted, and a job that still runs is worth a few seconds' patience."""
        named = {report.identity.uuid for report in cycle.cards}
        shown = {report.identity.uuid for report in cycle.cards if report.fault != "lost"}
        for uuid in self.records.keys() - shown:
            since = self._absent_since.setdefault(uuid, cycle.monotonic)
            if uuid not in named:
                # What was read of it before is no reading any more: it takes no new job from now on. When it is back,
                # a test that could not finish is tried once more.
                self._doubts.forget(uuid)
                self.sights.pop(uuid, None)
            if cycle.monotonic - since >= self._missing_after and uuid not in self._told_gone:
                self._told_gone.add(uuid)
                changes.gone.append(uuid)

    def release_locks(self) -> None:
        """Forget what was locked, so that cards in use elsewhere are asked for again at the next look."""
        self._taken = {uuid: holder for uuid, holder in self._taken.items() if holder is None}

    def condition(self, uuid: str, jobs: Sequence[int]) -> Condition:
        """A card's state, its cause and what placement is told; ``jobs`` are those that hold it."""
        record, sight = self.records[uuid], self.sights.get(uuid)
        report, suspected = (sight.report if sight else None), record.suspect
        if sight is not None and sight.report.fault is None and not sight.trusted:
            # It answers again; a few more good looks before it is given work.
            report = msgspec.structs.replace(sight.report, fault="recovering", fault_text="it answers again")
        found = card_condition(
            report,
            verdict=record.verdict,
            drained=record.drained,
            suspected=suspected,
            verifying=uuid in self.testing,
            finding=record.proof.text if record.proof is not None else None,
            proven=not is_first(record.verdict, record.proven_bytes),
            jobs=len(jobs),
        )
        if report is not None and report.fault == "lost":
            note = f"fell off the bus ({report.fault_text})" if report.fault_text else "fell off the bus"
            return Condition(state=CardState.MISSING, note=note, closed="missing: fell off the bus")
        if report is None and self.problem is not None and self._concerns(self.problem, record.identity):
            return Condition(state=CardState.MISSING, note=self.problem.message, closed="missing")
        holder = self._taken.get(uuid)
        if holder is not None and found.closed is None:
            return Condition(state=CardState.SUSPECT, note=holder, closed=holder)
        if found.closed == UNPROVEN and (stands := self.candidate(uuid, jobs).hindrance) is not None:
            return msgspec.structs.replace(found, note=f"{UNPROVEN}: {stands}")
        hot = self.too_hot(uuid)
        if hot is not None and found.closed is None:
            return msgspec.structs.replace(found, note=hot, closed=hot, temporary=True)
        if found.state is CardState.DRAINED and record.drained_by:
            return msgspec.structs.replace(found, note=found.note or f"drained by {record.drained_by}")
        return found

    def _concerns(self, problem: DriverProblem, identity: CardIdentity) -> bool:
        """Is a problem of the whole driver, or of just this card, what keeps the card away?"""
        if problem.kind not in ("card_unreadable", "card_hangs"):
            return not self.sights
        return identity.bus_id is not None and identity.bus_id in problem.message

    def capacity(self, record: CardRecord) -> int:
        """Bytes that are known to be there: proven ones; before the first proof, for judging what could ever run, what
        the card reports."""
        return record.proven_bytes or record.identity.memory_total_bytes or 0

    def views(self, attempts: Iterable[OpenAttempt]) -> tuple[CardView, ...]:
        """What placement sees."""
        holds = holds_by_card(attempts)
        return tuple(self._view(uuid, holds.get(uuid, ())) for uuid in self.records)

    def _view(self, uuid: str, holds: Sequence[Hold]) -> CardView:
        record, sight = self.records[uuid], self.sights.get(uuid)
        identity = record.identity
        reported = identity.memory_total_bytes or 0
        condition = self.condition(uuid, [hold.job_id for hold in holds])
        reading = sight.report.reading if sight else CardReading()
        # What others held under the test is not proven, but may be one day: taken, not absent.
        untested = record.proof.foreign_bytes if record.proof is not None and is_thin(record.proof) else 0
        return CardView(
            uuid=uuid,
            index=identity.index,
            name=short_name(identity),
            capacity_bytes=self.capacity(record) + untested,
            promised_bytes=promised_bytes(lookup(identity.device_id, identity.name), reported),
            foreign_bytes=max(sight.foreign_bytes if sight else 0, untested),
            closed=condition.closed,
            temporary=condition.temporary,
            holds=tuple(holds),
            link_bytes_per_second=measured_link(record.proof) or link_speed(reading, identity),
        )

    def was_testing(self, uuid: str, now: float) -> bool:
        """Whether our own memory test was what ran on the card lately (``now`` is CLOCK_MONOTONIC): the sensor may hear
        of an error only after it has ended the test."""
        return uuid in self.testing or now - self.tested_at.get(uuid, -math.inf) < _OWN_TEST_SECONDS

    def due(self, record: CardRecord) -> DueTest | None:
        """The test that the card is to have next: one that was asked for, or its first."""
        if record.due is None and is_first(record.verdict, record.proven_bytes):
            return DueTest(cause="its memory was never tested", depth=self._first_depth, asked_at=record.first_seen_at)
        return record.due

    def candidate(self, uuid: str, jobs: Sequence[int]) -> Candidate:
        """What the choice of tests sees of a card."""
        record, sight = self.records[uuid], self.sights.get(uuid)
        hindrance = self._taken.get(uuid)
        if sight is None:
            hindrance = "it is missing"
        elif sight.report.fault is not None or not sight.trusted:
            hindrance = fault_text(sight.report.fault or "recovering")
        else:
            total = record.identity.memory_total_bytes
            hindrance = hindrance or too_little_left(sight.foreign_bytes, total) or self.too_hot(uuid)
        return Candidate(
            uuid=uuid,
            index=record.identity.index,
            due=self.due(record),
            first=is_first(record.verdict, record.proven_bytes),
            testing=uuid in self.testing,
            hindrance=hindrance,
            jobs=tuple(jobs),
        )

    def warnings(self) -> list[str]:
        """What a person should know of the cards and the driver, each a line with its mend."""
        found = [f"{self.problem.message}; {self.problem.mend}"] if self.problem is not None else []
        for uuid in sorted(self.records, key=lambda each: self.records[each].identity.index):
            record, sight = self.records[uuid], self.sights.get(uuid)
            condition = self.condition(uuid, ())
            report = sight.report if sight else None
            if report is not None and report.fault is None and sight is not None and not sight.trusted:
                found.append(f"card {record.identity.index} answers again; it is given work after a few good looks")
                continue
            if report is None and not self.sights and (self.problem is not None or not self.counted):
                continue  # the driver is what is missing, and that was said; or nobody has looked yet
            found += card_warnings(report, record.identity, verdict=record.verdict, condition=condition)
            if record.proof is not None and record.proven_bytes and is_thin(record.proof):
                share = f"{100 * (record.proof.coverage or 0):.0f} %"
                text = (
                    f"only {share} of its memory is proven, others held the rest; it is tested again when they let go"
                )
                found.append(f"card {record.identity.index}: {text}")
        return found


def holds_by_card(attempts: Iterable[OpenAttempt]) -> dict[str, list[Hold]]:
    """What open attempts hold, by card."""
    found: dict[str, list[Hold]] = {}
    for attempt in attempts:
        for uuid, reserved, exclusive in attempt.holds:
            hold = Hold(
                job_id=attempt.job_id,
                reserved_bytes=reserved,
                exclusive=exclusive,
                ends_by=attempt.ends_by,
                since=attempt.placed_at,
            )
            found.setdefault(uuid, []).append(hold)
    return found
