"""What people do to jobs: cancel, hold, release, retry, priority. All of the ids in one request, or none."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.engine import Connection

from p104d.api import messages as m
from p104d.api.service import Caller
from p104d.core.errors import NotAllowedError, RefusedError
from p104d.core.job import ENDED, JobState
from p104d.daemon.endings import settle
from p104d.daemon.loop import Loop
from p104d.daemon.views import no_such_job
from p104d.daemon.work import Work
from p104d.policy.retry import Stop
from p104d.store import dependents, lists, moves, reads
from p104d.store.reads import JobFacts

MOST_PRIORITY = 1000


class Verbs:
    """Each verb is one transition, guarded in SQL; what was checked and then lost to a race is refused, not redone."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._table: dict[str, Callable[[Connection, JobFacts, float, Work], None]] = {
            "cancel": self._cancel,
            "hold": self._hold,
            "release": self._release,
            "retry": self._retry,
        }

    def do(self, caller: Caller, verb: str, ids: list[int], priority: int | None) -> m.MovedJobs:
        """Do ``verb`` to ``ids``. Raises NotFoundError, NotAllowedError or RefusedError; then nothing was done."""
        if verb == "priority":
            _check_priority(caller, priority)

        def request(conn: Connection, now: float, work: Work) -> bool:
            for job_id in ids:
                job = reads.facts(conn, job_id)
                if job is None:
                    raise no_such_job(job_id)
                if caller.uid not in (job.uid, 0):
                    raise NotAllowedError(f"job {job_id} belongs to {job.user}", mend="ask its owner, or use sudo")
                if verb == "priority":
                    self._priority(conn, job, priority or 0)
                else:
                    self._table[verb](conn, job, now, work)
            work.dirty = True
            return True

        self._loop.step(request)
        with self._loop.database.read() as conn:
            rows = lists.job_rows(conn, ids)
        return m.MovedJobs([m.Moved(row.id, row.state, row.priority) for row in rows])

    def _cancel(self, conn: Connection, job: JobFacts, now: float, work: Work) -> None:
        if job.state in ENDED:
            raise RefusedError(f"job {job.id} has ended already ({job.state})")
        if job.state is JobState.STOPPING:
            # It ends anyway; but whatever stopped it first, it is not to be tried again.
            if not moves.stop_again(conn, job.id, Stop.CANCEL):
                raise RefusedError(f"job {job.id} is being stopped already")
        elif moves.cancel_waiting(conn, job.id, Stop.CANCEL, now):
            settle(conn, job, JobState.CANCELLED, Stop.CANCEL, work, now)
        elif not self._loop.stop(conn, job.id, Stop.CANCEL, work):
            raise RefusedError(f"job {job.id} changed meanwhile", mend="try again")

    def _hold(self, conn: Connection, job: JobFacts, _now: float, _work: Work) -> None:
        if not moves.hold(conn, job.id):
            raise RefusedError(
                f"job {job.id} is {job.state}; only a queued job can be held",
                mend=None if job.state in ENDED else f"p104ctl cancel {job.id} ends it",
            )

    def _release(self, conn: Connection, job: JobFacts, _now: float, _work: Work) -> None:
        if not moves.release(conn, job.id):
            raise RefusedError(f"job {job.id} is {job.state}, not held")

    def _retry(self, conn: Connection, job: JobFacts, _now: float, _work: Work) -> None:
        if job.state not in ENDED:
            raise RefusedError(f"job {job.id} has not ended ({job.state})")
        doomed = reads.doomed_need(conn, job.document_id)
        if doomed is not None:
            raise RefusedError(
                f"job {job.id} needs job {doomed[0]}, which has {_past(doomed[1])}",
                mend=f"p104ctl retry {doomed[0]} first",
            )
        if not moves.retry(conn, job.id, job.document_id):
            raise RefusedError(f"job {job.id} changed meanwhile", mend="try again")
        dependents.block(conn, job.id, job.document_id)

    def _priority(self, conn: Connection, job: JobFacts, priority: int) -> None:
        if not moves.set_priority(conn, job.id, priority):
            raise RefusedError(f"job {job.id} has ended ({job.state}); its priority means nothing any more")


def _past(state: str) -> str:
    return {"lost": "been lost", "cancelled": "been cancelled"}.get(state, state)


def _check_priority(caller: Caller, priority: int | None) -> None:
    if priority is None or not -MOST_PRIORITY <= priority <= MOST_PRIORITY:
        raise RefusedError(f"priority {priority} is out of range", mend=f"-{MOST_PRIORITY} to {MOST_PRIORITY}")
    if priority > 0 and not caller.admin:
        raise NotAllowedError("a priority above 0 is for root and group p104-admin", mend="0 is the highest for others")
