"""How each job has to end. Only what was done to it on purpose excuses another end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

#: As the policy words them (``p104d.policy.retry``).
_SHIM_DIED, _CARD_LOST = "its shim died", "card lost"
#: What a shim keeps ahead looks like a shim, and may have become a job when the kill arrives.
_KILLED = "signal 9"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What ``document`` submits, and the end of each of its jobs: ``state``, a ``reason`` that begins so, and no fewer
    than ``attempts``. ``odd_fails``: those of a matrix with an odd ``i`` fail instead."""

    name: str
    document: dict[str, Any]
    state: str = "succeeded"
    reason: str = ""
    attempts: int = 1
    odd_fails: bool = False

    def expected(self, matrix: Mapping[str, str] | None) -> tuple[str, str]:
        """The state and how the reason begins, for the job of this combination."""
        if self.odd_fails and int((matrix or {}).get("i", "0")) % 2:
            return "failed", "exit code 1"
        return self.state, self.reason


class Ledger:
    """Which jobs were acknowledged, what was done to them, and which of them did not end as they had to.

    Several threads may write to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Kind] = {}
        self._needs: dict[int, tuple[int, ...]] = {}
        self._ends: dict[int, str] = {}
        self._cancelled: set[int] = set()
        self._hit = 0
        self.kills = 0
        self.submitted = 0

    def submit(self, kind: Kind, ids: Iterable[int], needs: Iterable[int] = ()) -> None:
        """These were acknowledged; ``needs`` have to succeed first."""
        with self._lock:
            for number in ids:
                self._open[number] = kind
                self._needs[number] = tuple(needs)
                self.submitted += 1

    def cancel(self, number: int) -> None:
        """Its cancel is about to be asked for."""
        with self._lock:
            self._cancelled.add(number)

    def kill(self) -> None:
        """A shim is about to be killed: one job more may be lost, or be killed in its place."""
        with self._lock:
            self.kills += 1

    def oldest_open(self) -> int | None:
        """The lowest id whose end was not looked at."""
        with self._lock:
            return min(self._open, default=None)

    def judge(self, jobs: Iterable[Mapping[str, Any]], *, at_rest: bool) -> list[str]:
        """What is wrong with these jobs, as the daemon lists them; ``at_rest``, all must have ended."""
        with self._lock:
            found = [text for job in sorted(jobs, key=lambda one: int(one["id"])) if (text := self._one(job))]
            if at_rest:
                found += [f"job {number} ({kind.name}) has no end" for number, kind in list(self._open.items())[:5]]
            if self._hit > self.kills:
                found.append(f"{self._hit} jobs were lost or killed, and {self.kills} shims")
        return found

    def _one(self, job: Mapping[str, Any]) -> str | None:
        number = int(job["id"])
        kind = self._open.pop(number, None)
        if kind is None:
            return None  # looked at before, or of a submission whose answer was lost
        self._ends[number] = str(job["state"])
        state, reason = kind.expected(job["matrix"])
        told = f"job {number} ({kind.name}) {job['state']}: {job['reason']}"
        if self._excused(number, kind, job):
            return None
        if any(self._ends.get(each) != "succeeded" for each in self._needs.pop(number, ())):
            return None if job["state"] == "cancelled" else f"{told}; what it needed had failed"
        if job["state"] != state or not (job["reason"] or "").startswith(reason):
            return f"{told}; expected {state}: {reason or 'any reason'}"
        few = job["attempt_count"] < kind.attempts
        return f"{told} after {job['attempt_count']} attempts of {kind.attempts}" if few else None

    def _excused(self, number: int, kind: Kind, job: Mapping[str, Any]) -> bool:
        """Was it ended by what the load did on purpose?"""
        reason = job["reason"] or ""
        lost = job["state"] == "lost" and reason.startswith(_SHIM_DIED) and not kind.document.get("idempotent")
        if lost or (job["state"] == "failed" and reason.startswith(_KILLED)):
            self._hit += 1
            return True
        if job["state"] == "cancelled" and number in self._cancelled:
            return True
        return job["state"] == "failed" and reason == _CARD_LOST and bool(kind.document.get("cards", 1))
