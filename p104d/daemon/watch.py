"""What is watched on running jobs with every look at the cards: memory beyond a reservation, a card never used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from p104d.core.units import format_duration, format_size
from p104d.daemon.sights import Sight
from p104d.policy.retry import Stop
from p104d.store.reads import OpenAttempt


class Finding(msgspec.Struct, frozen=True):
    """What was found of one job; ``stop`` None means that telling is enough."""

    job_id: int
    text: str
    stop: Stop | None = None


def over_vram(attempts: Sequence[OpenAttempt], sights: Mapping[str, Sight], margin: int) -> list[Finding]:
    """Sharing jobs above their reservation by more than ``margin`` bytes; to be stopped only where another job on the
    card could not get the rest of its own."""
    found: list[Finding] = []
    for uuid, sight in sights.items():
        holders = {a.job_id: r for a in attempts for u, r, exclusive in a.holds if u == uuid and not exclusive}
        total = sight.report.identity.memory_total_bytes
        used = sight.report.reading.memory_used_bytes
        for job_id, reserved in holders.items():
            over = sight.ours.get(job_id, 0) - reserved
            if over <= margin:
                continue
            owed = sum(max(0, r - sight.ours.get(j, 0)) for j, r in holders.items() if j != job_id)
            squeezed = total is not None and used is not None and owed > total - used
            text = (
                f"job {job_id} uses {format_size(sight.ours[job_id])} on card {sight.report.identity.index}, "
                f"{format_size(over)} more than it reserved; give it more vram"
            )
            found.append(Finding(job_id, text, Stop.OVER_VRAM if squeezed else None))
    return found


class Appearances:
    """Which running jobs were ever seen on their cards, and on how many looks they could have been."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._looks: dict[int, set[float]] = {}

    def note(self, attempts: Sequence[OpenAttempt], sights: Mapping[str, Sight]) -> None:
        """Take in the newest look."""
        running = {a.job_id: a for a in attempts if a.holds and a.started_at is not None}
        for job_id in self._looks.keys() - running.keys():
            self.forget(job_id)
        for job_id, attempt in running.items():
            looks = self._looks.setdefault(job_id, set())
            for uuid, _reserved, _exclusive in attempt.holds:
                sight = sights.get(uuid)
                if sight is None:
                    continue
                if job_id in sight.ours:
                    self._seen.add(job_id)
                if attempt.started_at is not None and sight.looked_at > attempt.started_at and len(looks) < _ENOUGH:
                    looks.add(sight.looked_at)

    def never(self, job_id: int) -> bool:
        """Was the job looked for often enough, and never seen?"""
        return job_id not in self._seen and len(self._looks.get(job_id, ())) >= _ENOUGH

    def late(self, attempts: Sequence[OpenAttempt], now: float, after: float) -> list[Finding]:
        """Running jobs that should have shown up by now."""
        return [
            Finding(
                a.job_id,
                f"job {a.job_id} has not used its card in {format_duration(now - a.started_at)}; "
                "is it running on the processor? its log may say",
                Stop.NEVER_ON_CARD,
            )
            for a in attempts
            if a.holds and a.started_at is not None and now - a.started_at >= after and self.never(a.job_id)
        ]

    def forget(self, job_id: int) -> None:
        """The job's attempt has ended."""
        self._looks.pop(job_id, None)
        self._seen.discard(job_id)


#: Looks with processes that must have missed a job before it counts as never having used its card: one may fall
#: between its start and its first allocation.
_ENOUGH = 3
