"""Models in a round of placement: what ``residency`` decides for jobs that run on copies of models, among commands.

``Models`` holds both pictures of the rig: the seats, on which commands are placed, and the rig of ``residency``. What
is decided in one is told to the other at once, so that no card is given twice. It exists only where there are models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from p104d.core.plan import KeptCards, LoadModel, Reservation, Start
from p104d.core.snapshot import Hold, Snapshot, WaitingJob
from p104d.policy.fit import Obstacle, Occupant, Seat
from p104d.policy.models_view import Queues, occupants, residency_view
from p104d.policy.residency import Behind, Turn
from p104d.policy.residency_estimate import held
from p104d.policy.residency_view import Begin, Kept, Load, View


class Models:
    """The copies of models and the jobs that wait for them, as a round goes on.

    Starts on copies are added to ``starts``. ``wants_ram_bytes`` is host memory that the first job waits for whose
    model has cards, but not the memory, to be loaded.
    """

    def __init__(self, snapshot: Snapshot, seats: Sequence[Seat], starts: list[Start]) -> None:
        self.now = snapshot.now
        self.seats = {seat.view.uuid: seat for seat in seats}
        self.families = {family.key: family for family in snapshot.families}
        self.residents = {each.id: each for each in snapshot.residents}
        for occupant in occupants(snapshot):
            for uuid in occupant.cards:
                if uuid in self.seats:
                    self.seats[uuid].model = occupant
        self.queues = Queues(snapshot)
        self.view = residency_view(snapshot, seats, self.queues.all_lines())
        self.turn = Turn(self.view)
        self.starts = starts
        self.loads: list[LoadModel] = []
        self.kept: list[KeptCards] = []
        self.kept_for: dict[str, int] = {}
        self.acts: list[Begin | Load] = []
        self.decided_kept: list[Kept] = []
        self.wants_ram_bytes = 0

    def decide(self, ram_free_bytes: int, behind: WaitingJob | None = None) -> int:
        """Act for the jobs that were added, before ``behind`` has its turn; returns what host memory is left."""
        rig = self.turn.rig
        rig.ram_free_bytes = ram_free_bytes
        rig.short.clear()
        found = self.turn.decide(self.queues.lines(), self._behind(behind))
        self.acts += found.acts
        self.decided_kept += found.kept
        for act in found.acts:
            if isinstance(act, Begin):
                self._begin(act)
            else:
                self._load(act)
        for kept in found.kept:
            self._keep(kept)
        self.wants_ram_bytes = self._short()
        return int(rig.ram_free_bytes)

    def shut(self, reservation: Reservation) -> None:
        """Cards are kept for a command: models have them no more, but for the jobs before it."""
        self.turn.rig.shut(reservation.cards, self.queues.waiting_families())

    def shut_for_memory(self, lacking_bytes: int) -> None:
        """A command waits for so much host memory: copies serve later jobs no more whose memory it will get, those that
        are idle first, then those at work for longest."""
        rig = self.turn.rig
        fixed = rig.closed | self.kept_for.keys()
        able = [each for each in rig.residents.values() if not each.pinned and fixed.isdisjoint(each.cards)]
        for copy in sorted(
            able, key=lambda each: (each.id not in rig.idle, each.busy_since or each.last_used, each.id)
        ):
            if lacking_bytes > 0 and copy.ram_bytes and self.seats[copy.cards[0]].model is not None:
                rig.shut(copy.cards, self.queues.waiting_families())
                lacking_bytes -= copy.ram_bytes

    def evict(self, seats: Iterable[Seat], lacking_ram_bytes: int) -> tuple[int, ...]:
        """A command is to start on ``seats`` and needs so much host memory that is not free: the copies that leave."""
        chosen = list(seats)
        gone = sorted({seat.model.id for seat in chosen if seat.model is not None})
        lacking_ram_bytes -= sum(self.residents[number].ram_bytes for number in gone)
        for number in sorted(self._evictable(), key=self._cost):
            if lacking_ram_bytes <= 0:
                break
            if number not in gone and self.residents[number].ram_bytes:
                gone.append(number)
                lacking_ram_bytes -= self.residents[number].ram_bytes
        for number in gone:
            self._unload(number)
        return tuple(gone)

    def take(self, seats: Iterable[Seat]) -> None:
        """A command has started on ``seats``."""
        for seat in seats:
            self.turn.rig.take(seat.view.uuid, held(seat.holds, self.now))

    def ram_bytes_of(self, residents: Iterable[int]) -> int:
        """Host memory that these copies hold."""
        return sum(self.residents[number].ram_bytes for number in residents)

    def pinned_ram_bytes(self) -> int:
        """Host memory that pinned copies hold."""
        return sum(each.ram_bytes for each in self.residents.values() if each.pinned)

    def reclaimable_ram_bytes(self) -> int:
        """Host memory that comes back if all copies are unloaded that may be."""
        return self.ram_bytes_of(self._evictable())

    def kept_job(self, seat: Seat) -> int | None:
        """The model job for which this card, or another one of the copy on it, is kept; None: commands may have it."""
        if not self.kept_for:
            return None
        cards = (seat.view.uuid,) if seat.model is None else (seat.view.uuid, *seat.model.cards)
        return next((self.kept_for[card] for card in cards if card in self.kept_for), None)

    def wanted(self, model: Occupant) -> bool:
        """Whether jobs wait for this copy's family."""
        return model.id in self.residents and self.queues.wanted(self.residents[model.id].family)

    def cards_of(self, family: str) -> tuple[str, ...]:
        """The cards with copies of ``family`` that may be used, as the round has left them."""
        return tuple(
            uuid
            for uuid, seat in self.seats.items()
            if seat.model is not None
            and seat.model.id in self.turn.rig.residents
            and self.residents[seat.model.id].family == family
        )

    def view_now(self) -> View:
        """The view as the round has left it."""
        rig = self.turn.rig
        cards = tuple(replace(card, closed=card.id in rig.closed) for card in self.view.cards)
        on = {seat.model.id for seat in self.seats.values() if seat.model is not None}
        begun = {act.resident for act in self.acts if isinstance(act, Begin)}
        residents = tuple(
            replace(each, busy_since=self.now) if each.id in begun else each
            for each in self.view.residents
            if each.id in on
        )
        return replace(self.view, cards=cards, residents=residents)

    def cost(self, model: Occupant) -> tuple[bool | float, ...]:
        """What it costs to unload this copy, the smaller the better: nobody waits for it; it was used long ago."""
        return self._cost(model.id)

    def _cost(self, number: int) -> tuple[bool | float, ...]:
        copy = self.residents[number]
        return self.queues.wanted(copy.family), copy.last_used, number

    def _evictable(self) -> list[int]:
        """Idle copies on cards that are kept for nobody."""
        rig = self.turn.rig
        return [
            number
            for number in sorted(rig.idle)
            if not rig.residents[number].pinned
            and rig.closed.isdisjoint(rig.residents[number].cards)
            and self.kept_for.keys().isdisjoint(rig.residents[number].cards)
        ]

    def _behind(self, job: WaitingJob | None) -> Behind | None:
        if job is None:
            return None
        return Behind(priority=job.priority, arrival=job.arrival, families=self.queues.later_families())

    def _begin(self, act: Begin) -> None:
        job, copy = self.queues.pop(act.job), self.residents[act.resident]
        ends_by = None if job.time_limit_seconds is None else self.now + job.time_limit_seconds
        seats = [self.seats[uuid] for uuid in copy.cards]
        for seat in seats:
            size = seat.view.capacity_bytes
            seat.add(Hold(job_id=job.id, reserved_bytes=size, exclusive=True, ends_by=ends_by, since=self.now))
            if seat.model is not None:
                seat.model.job_id = job.id
        self.starts.append(
            Start(
                job_id=job.id,
                cards=copy.cards,
                reserved_bytes=tuple(seat.view.capacity_bytes for seat in seats),
                exclusive=True,
                resident=copy.id,
            )
        )

    def _load(self, act: Load) -> None:
        for number in act.evicts:
            self._clear(number)
        label = self.families[act.family].label
        loading = Occupant(
            id=-1 - len(self.loads), label=label, cards=act.cards, since=self.now, blocks=Obstacle.MODEL_LOADING
        )
        for uuid in act.cards:
            self.seats[uuid].model = loading
        self.loads.append(LoadModel(family=act.family, cards=act.cards, job_id=act.job, evicts=act.evicts))

    def _keep(self, kept: Kept) -> None:
        self.kept.append(KeptCards(job_id=kept.job, cards=kept.cards, expected=kept.expected))
        self.kept_for.update(dict.fromkeys(kept.cards, kept.job))

    def _unload(self, number: int) -> None:
        self._clear(number)
        self.turn.rig.drop(number)

    def _clear(self, number: int) -> None:
        for uuid in self.residents[number].cards:
            self.seats[uuid].model = None

    def _short(self) -> int:
        first = next((name for name in self.queues.by_age() if name in self.turn.rig.short), None)
        return 0 if first is None or self.turn.rig.free_at(first) else self.families[first].ram_bytes
