"""Why jobs wait: the words for ``list``, ``show`` and ``explain``, from the scheduler's own snapshot and predicate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy.engine import Connection, Row

from p104d.api.service import Caller
from p104d.core.job import JobState, Requirement
from p104d.core.plan import Explanation
from p104d.core.snapshot import WaitingJob
from p104d.daemon.loop import Loop
from p104d.daemon.models import Bad, Known
from p104d.daemon.views import may_see, public_reason
from p104d.policy import explain as words
from p104d.store import reads

#: ``list`` may show thousands of waiting jobs; the first so many (per requirement one answer serves all but the
#: head) are explained from one snapshot, and the rest are known to wait behind them.
_EXPLAINED = 64
#: So many unmet needs are counted for a sentence; a job may come after more by naming a matrix.
_COUNTED = 10_000


class Explainer:
    """Explains waiting jobs of one moment to ``caller``; made anew for each request."""

    def __init__(self, loop: Loop, conn: Connection, caller: Caller) -> None:
        self._loop, self._conn, self._caller = loop, conn, caller
        self._now = loop.clock.now()
        self._attempts = reads.open_attempts(conn)
        self._snapshot = loop.placer.peek(conn, self._attempts, self._now)
        self._by_requirement: dict[int, str] = {}

    def because(self, row: Row[Any]) -> str | None:
        """One sentence; None for a job that does not wait."""
        early = self._before_placement(row)
        if early is not None or row.state != JobState.QUEUED:
            return early
        known = self._by_requirement.get(row.requirement_id)
        if known is None or len(self._by_requirement) < _EXPLAINED:
            text = self.explain(row).waiting_because
            self._by_requirement.setdefault(row.requirement_id, text)
            return text
        return known

    def explain(self, row: Row[Any]) -> Explanation:
        """The policy's whole answer for a job that waits for room; each card's own for any other waiting one."""
        requirement = reads.requirement(self._conn, row.requirement_id)
        family = self._family(requirement)
        if isinstance(family, str):
            return Explanation(waiting_because=self._before_placement(row) or family, cards=())
        job = WaitingJob(
            id=row.id,
            priority=row.priority,
            requirement=requirement,
            time_limit_seconds=reads.time_limit(self._conn, row.document_id),
            family=family.family.key if family is not None else None,
            arrival=row.submitted_at,
        )
        found = words.explain(self._snapshot, job)
        early = self._before_placement(row)
        if early is not None:
            return msgspec.structs.replace(found, waiting_because=early)
        if not self._loop.rig.counted and requirement.cards:
            return msgspec.structs.replace(found, waiting_because=self._uncounted())
        return found

    def _family(self, requirement: Requirement) -> Known | str | None:
        """The model that a job needs; a text where that is not known; None for a command."""
        if requirement.model is None:
            return None
        found = self._loop.models.resolve(self._conn, requirement, self._snapshot.cards)
        if found is None:
            return "its model is being looked at"
        if isinstance(found, Bad):
            seen = not found.never and may_see(self._caller, requirement.model.uid)
            return f"{found.public}: {found.text}" if seen else found.public
        return found

    def asks_cards(self, row: Any) -> bool:
        """Does the job want any card?"""
        return reads.requirement(self._conn, row.requirement_id).cards > 0

    def _uncounted(self) -> str:
        problem = self._loop.rig.problem
        return f"{problem.message}; {problem.mend}" if problem else words.blocked_by_inventory()

    def _before_placement(self, row: Row[Any]) -> str | None:
        if row.state == JobState.HELD:
            return words.blocked_by_hold(row.id)
        if row.state != JobState.QUEUED:
            return None
        if row.blocked:
            return words.blocked_by_dependencies(self._unmet(row.document_id))
        if row.eligible_at is not None:
            if row.failures or row.attempts:
                # Everybody may ask why a job waits; what exactly went wrong is its owner's to know.
                reason = row.reason if may_see(self._caller, row.uid) else public_reason(row.reason)
                return words.blocked_by_backoff(row.eligible_at, self._now, failures=row.failures, reason=reason)
            return words.blocked_until(row.eligible_at, self._now)
        return None

    def _unmet(self, document_id: int) -> Iterable[int]:
        return [job_id for job_id, _ in reads.unmet_needs(self._conn, document_id, _COUNTED)]
