"""A snapshot as ``residency`` sees it: cards, copies, families, and the lines of jobs that wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from p104d.core.snapshot import CardView, ModelFamily, ResidentModel, Snapshot, WaitingJob
from p104d.policy.fit import Obstacle, Occupant, Seat
from p104d.policy.residency_estimate import held
from p104d.policy.residency_view import Ask, Family, Line, Resident, RigCard, View

#: Links differ by no more: x1 of the first generation to x16 of it.
MOST_SLOWNESS = 16.0


def occupants(snapshot: Snapshot) -> Iterator[Occupant]:
    """Each copy as the cards see it."""
    closed = {card.uuid for card in snapshot.cards if card.closed is not None}
    known = {card.uuid for card in snapshot.cards}
    families = {family.key for family in snapshot.families}
    for each in snapshot.residents:
        stays = Obstacle.MODEL_PINNED if each.pinned else None
        if not closed.isdisjoint(each.cards) or not known.issuperset(each.cards) or each.family not in families:
            stays = Obstacle.MODEL_STRANDED
        blocks = stays
        if each.job_id is not None:
            blocks = Obstacle.HELD_ALONE
        elif each.ready_at is not None:
            blocks = Obstacle.MODEL_LOADING
        yield Occupant(
            id=each.id,
            label=each.label,
            cards=each.cards,
            since=each.last_used,
            job_id=each.job_id,
            blocks=blocks,
            stays=stays,
        )


def residency_view(snapshot: Snapshot, seats: Sequence[Seat], lines: Iterable[Line]) -> View:
    """The whole view; ``seats`` are in order of preference, with the copies on them."""
    fastest = max((seat.view.link_bytes_per_second for seat in seats), default=0.0)
    stranded = {
        seat.model.id for seat in seats if seat.model is not None and seat.model.stays is Obstacle.MODEL_STRANDED
    }
    return View(
        now=snapshot.now,
        cards=tuple(_card(seat, fastest, snapshot.now) for seat in seats),
        residents=tuple(
            _resident(each, snapshot.now)
            for each in snapshot.residents
            if each.id not in stranded and any(seat.model is not None and seat.model.id == each.id for seat in seats)
        ),
        families=tuple(_family(each) for each in snapshot.families),
        lines=tuple(lines),
        ram_free_bytes=snapshot.host.ram_free_bytes,
    )


def _card(seat: Seat, fastest: float, now: float) -> RigCard:
    view, model = seat.view, seat.model
    runs = None if model is None else model.job_id
    others = [hold for hold in view.holds if hold.job_id != runs]
    stranded = model is not None and model.stays is Obstacle.MODEL_STRANDED
    return RigCard(
        id=view.uuid,
        closed=view.closed is not None or bool(others) or stranded,
        full=seat.foreign_bytes > 0,
        slowness=_slowness(view, fastest),
        held=held(others, now) if others and view.closed is None and not stranded else None,
    )


def _slowness(view: CardView, fastest: float) -> float:
    if view.link_bytes_per_second <= 0:
        return 1.0
    return min(MOST_SLOWNESS, max(1.0, fastest / view.link_bytes_per_second))


def _resident(each: ResidentModel, now: float) -> Resident:
    loading = each.job_id is None and each.ready_at is not None
    since = each.ready_at if loading else None
    if each.job_id is not None:
        since = now if each.busy_since is None else each.busy_since
    return Resident(
        id=each.id,
        family=each.family,
        cards=each.cards,
        last_used=each.last_used,
        busy_since=since,
        loading=loading,
        pinned=each.pinned,
        ram_bytes=each.ram_bytes,
    )


def _family(each: ModelFamily) -> Family:
    return Family(
        name=each.key,
        label=each.label,
        cards=each.cards,
        load_seconds=each.load_seconds,
        mean_seconds=each.mean_seconds,
        seen=each.seen,
        fits=frozenset(each.fits),
        ram_bytes=each.ram_bytes,
    )


class Queues:
    """The model jobs of a snapshot, as they have their turn.

    A snapshot may be cut: the jobs that it leaves out come after those of their family that it has, so they count once
    all of these have had their turn.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        families = {family.key: family for family in snapshot.families}
        self._jobs = {job.id: job for job in snapshot.waiting if job.family in families}
        self._lines: dict[tuple[str, int], list[WaitingJob]] = {}
        self._later: dict[str, int] = {}
        for job in self._jobs.values():
            assert job.family is not None
            self._later[job.family] = self._later.get(job.family, 0) + 1
        self._hidden = {key: max(0, each.waiting - self._later.get(key, 0)) for key, each in families.items()}

    def add(self, job: WaitingJob) -> bool:
        """``job`` has its turn; False: its family is not known."""
        if job.family is None or job.id not in self._jobs:
            return False
        self._later[job.family] -= 1
        self._lines.setdefault((job.family, job.priority), []).append(job)
        return True

    def pop(self, number: int) -> WaitingJob:
        """A job that waits no more."""
        job = self._jobs[number]
        assert job.family is not None
        self._lines[job.family, job.priority].remove(job)
        return job

    def lines(self) -> tuple[Line, ...]:
        """What had its turn and waits."""
        return _lines(self._lines, {key: 0 if self._later.get(key) else more for key, more in self._hidden.items()})

    def all_lines(self) -> tuple[Line, ...]:
        """What waits, whether it had its turn or not."""
        lines: dict[tuple[str, int], list[WaitingJob]] = {}
        for job in sorted(self._jobs.values(), key=lambda job: job.id):
            assert job.family is not None
            lines.setdefault((job.family, job.priority), []).append(job)
        return _lines(lines, self._hidden)

    def wanted(self, family: str) -> bool:
        """Whether anybody waits for a copy of ``family``."""
        return bool(self._later.get(family)) or self._hidden[family] > 0 or family in self.waiting_families()

    def waiting_families(self) -> set[str]:
        """The families of the jobs that had their turn and wait."""
        return {family for (family, _), jobs in self._lines.items() if jobs}

    def later_families(self) -> frozenset[str]:
        """The families of the jobs that have still to have their turn."""
        return frozenset(family for family, count in self._later.items() if count)

    def by_age(self) -> list[str]:
        """The families of the jobs that had their turn and wait, in the order of their first jobs."""
        heads = sorted((-priority, jobs[0].id, family) for (family, priority), jobs in self._lines.items() if jobs)
        return list(dict.fromkeys(family for _, _, family in heads))


def _lines(lines: dict[tuple[str, int], list[WaitingJob]], hidden: dict[str, int]) -> tuple[Line, ...]:
    """``hidden`` jobs of a family count in its line of the lowest priority."""
    lowest: dict[str, int] = {}
    for (family, priority), jobs in lines.items():
        if jobs:
            lowest[family] = min(priority, lowest.get(family, priority))
    return tuple(
        Line(
            family=family,
            priority=priority,
            count=len(jobs) + (hidden.get(family, 0) if lowest[family] == priority else 0),
            first=tuple(Ask(job.id, job.arrival) for job in jobs),
        )
        for (family, priority), jobs in sorted(lines.items())
        if jobs
    )
