"""The rig of a forecast: cards and what holds them, copies of models, the host; changed as a plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from p104d.core.plan import LoadModel, Start
from p104d.core.snapshot import Hold, HostView, ModelFamily, ResidentModel, Snapshot, WaitingJob
from p104d.policy.forecast_view import Loaded, Underway

replace = msgspec.structs.replace


class Last(msgspec.Struct):
    """Who had a card last, and the load that followed (None: none did)."""

    job: int | None = None
    load: Loaded | None = None


class Rig:
    """``last`` is kept to tell people what a job waited for."""

    def __init__(self, snapshot: Snapshot, underway: Iterable[Underway]) -> None:
        self.cards = {card.uuid: card for card in snapshot.cards}
        self.residents = {each.id: each for each in snapshot.residents}
        self.families = {family.key: family for family in snapshot.families}
        self.host = snapshot.host
        self.last = {uuid: Last() for uuid in self.cards}
        self.loads = 0
        self._fastest = max((card.link_bytes_per_second for card in snapshot.cards), default=0.0)
        self._runs = {each.id: each for each in underway}
        self._copy_of = {each.job_id: each.id for each in snapshot.residents if each.job_id is not None}
        self._holds: dict[int, tuple[str, ...]] = {}
        self._next_copy = max((each.id for each in snapshot.residents), default=-1) + 1
        #: Of each family: how many of its jobs have ended, and how long they ran together.
        self._learnt = {key: (each.seen, (each.mean_seconds or 0.0) * each.seen) for key, each in self.families.items()}
        for card in snapshot.cards:
            for hold in card.holds:
                self._holds[hold.job_id] = (*self._holds.get(hold.job_id, ()), card.uuid)
                self.last[card.uuid].job = hold.job_id
        for copy in snapshot.residents:
            if copy.ready_at is not None and copy.job_id is None:
                seconds = max(0.0, copy.ready_at - snapshot.now)
                for uuid in self._known(copy.cards):
                    self.last[uuid].load = Loaded(label=copy.label, seconds=seconds, began=None)

    def _known(self, uuids: Iterable[str]) -> list[str]:
        return [uuid for uuid in uuids if uuid in self.cards]

    def snapshot(self, now: float, waiting: tuple[WaitingJob, ...], families: Iterable[ModelFamily]) -> Snapshot:
        """The moment as the policy sees it."""
        return Snapshot(
            now=now,
            paused=False,
            cards=tuple(self.cards.values()),
            host=self.host,
            waiting=waiting,
            residents=tuple(self.residents.values()),
            families=tuple(families),
        )

    def idle(self) -> list[ResidentModel]:
        """The copies that are loaded and run nothing."""
        return [each for each in self.residents.values() if each.job_id is None and each.ready_at is None]

    def idle_by_family(self) -> Counter[str]:
        """How many copies of each family are idle."""
        return Counter(each.family for each in self.idle())

    def loading(self) -> int:
        """How many copies are being loaded."""
        return sum(each.ready_at is not None for each in self.residents.values())

    def number_of(self, job: int) -> int:
        """What ends are put in order by: the copy that the job runs on, or the job itself."""
        return self._copy_of.get(job, job)

    # --- what a plan says ------------------------------------------------------------------------------------------

    def load(self, load: LoadModel, now: float) -> tuple[int, float]:
        """Unload, then load; the new copy, and when it is ready."""
        self.evict(load.evicts)
        family, number = self.families[load.family], self._next_copy
        self._next_copy += 1
        self.loads += 1
        slowest = min((self.cards[uuid].link_bytes_per_second for uuid in load.cards), default=0.0)
        seconds = family.load_seconds * (max(1.0, self._fastest / slowest) if slowest > 0 else 1.0)
        self.residents[number] = ResidentModel(
            id=number,
            family=family.key,
            label=family.label,
            cards=load.cards,
            last_used=now,
            ready_at=now + seconds,
            ram_bytes=family.ram_bytes,
        )
        self._use(family.ram_bytes)
        for uuid in load.cards:
            self.last[uuid].load = Loaded(label=family.label, seconds=seconds, began=now)
        return number, now + seconds

    def ready(self, number: int, now: float) -> None:
        """A copy is loaded."""
        self.residents[number] = replace(self.residents[number], ready_at=None, last_used=now)

    def evict(self, numbers: Iterable[int]) -> None:
        """Unload idle copies."""
        for number in numbers:
            self._use(-self.residents.pop(number).ram_bytes)

    def start(self, start: Start, job: WaitingJob, now: float, ends_at: float) -> None:
        """A job takes its cards, or the copy that it runs on."""
        self.evict(start.evicts)
        limit = job.time_limit_seconds
        for uuid, share in zip(start.cards, start.reserved_bytes, strict=True):
            hold = Hold(
                job_id=job.id,
                reserved_bytes=share,
                exclusive=start.exclusive,
                ends_by=None if limit is None else now + limit,
                since=now,
            )
            self.cards[uuid] = replace(self.cards[uuid], holds=(*self.cards[uuid].holds, hold))
            self.last[uuid] = Last(job.id)
        ram = 0
        if start.resident is not None:
            copy = self.residents[start.resident]
            self.residents[copy.id] = replace(copy, job_id=job.id, busy_since=now, last_used=now)
            self._copy_of[job.id] = copy.id
        else:
            ram = job.requirement.ram_bytes
        self._holds[job.id] = start.cards
        self._runs[job.id] = Underway(
            id=job.id, since=now, ends_at=ends_at, ram_bytes=ram, on_processor=job.requirement.cards == 0
        )
        self._use(ram, int(job.requirement.cards == 0))

    def end(self, job: int, now: float) -> Underway:
        """A job is over; what is known of it."""
        run = self._runs.pop(job)
        for uuid in self._known(self._holds.pop(job, ())):
            card = self.cards[uuid]
            self.cards[uuid] = replace(card, holds=tuple(hold for hold in card.holds if hold.job_id != job))
        self._use(-run.ram_bytes, -int(run.on_processor))
        copy = self.residents.get(self._copy_of.pop(job, -1))
        if copy is not None:
            self.residents[copy.id] = replace(copy, job_id=None, busy_since=None, last_used=now)
            self._learn(copy.family, now - run.since)
        return run

    def open(self, uuid: str) -> None:
        """A card is back; what is not known of its memory is what its kind promises."""
        card = self.cards[uuid]
        self.cards[uuid] = replace(card, closed=None, capacity_bytes=card.capacity_bytes or card.promised_bytes)

    def _use(self, ram_bytes: int, places: int = 0) -> None:
        if ram_bytes or places:
            host = self.host
            self.host = HostView(
                ram_free_bytes=host.ram_free_bytes - ram_bytes,
                ram_total_bytes=host.ram_total_bytes,
                cpu_slots_free=host.cpu_slots_free - places,
                cpu_slots_total=host.cpu_slots_total,
            )

    def _learn(self, family: str, seconds: float) -> None:
        """The means move on as they will."""
        if family in self.families:
            count, total = self._learnt[family]
            self._learnt[family] = count, total = count + 1, total + seconds
            self.families[family] = replace(self.families[family], seen=count, mean_seconds=total / count)
