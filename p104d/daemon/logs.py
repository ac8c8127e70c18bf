"""A job's output for its owner: the attempt asked for, or the last; followed until the job ends if wanted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from p104d.api.service import Caller, LogQuery
from p104d.core.errors import NotAllowedError, NotFoundError
from p104d.core.job import ACTIVE, ENDED
from p104d.daemon import views
from p104d.daemon.loop import Loop
from p104d.processes import logs
from p104d.processes.attempt import Key
from p104d.store import reads

_CHUNK_BYTES = 256 * 1024


class LogReader:
    """Reads through the daemon, which alone may open the folders of attempts."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def read(self, caller: Caller, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """The log as it is kept. Raises NotFoundError for an attempt that never was, NotAllowedError for a stranger.

        Following a job goes on over its retries, each attempt's output after the other.
        """
        number, going = self._attempt(caller, query)
        while number is None:
            # Following a job that has not started: its first attempt, or its end without one.
            if not await self._started(query.job_id):
                return
            number, going = self._attempt(caller, query)
        async for chunk in self._one(query, number, going):
            yield chunk
        while query.follow and query.attempt is None:
            following = await self._next(query, number)
            if following is None:
                return
            number = following
            async for chunk in self._one(query, number, going=True):
                yield chunk

    async def _one(self, query: LogQuery, number: int, going: bool) -> AsyncIterator[bytes]:
        folder = self._loop.supervisor.folder(Key("job", query.job_id, number))
        tail = None if query.tail is None else len(logs.tail_lines(folder, query.tail))
        if query.follow and going:
            async for chunk in logs.follow(folder, tail=tail):
                yield chunk
            return
        total = logs.size(folder)
        start = 0 if tail is None else max(0, total - tail)
        for offset in range(start, total, _CHUNK_BYTES):
            yield logs.read(folder, offset=offset, limit=min(_CHUNK_BYTES, total - offset))

    def _attempt(self, caller: Caller, query: LogQuery) -> tuple[int | None, bool]:
        with self._loop.database.read() as conn:
            job = reads.facts(conn, query.job_id)
        if job is None:
            raise views.no_such_job(query.job_id)
        if not views.may_see(caller, job.uid):
            raise NotAllowedError(f"the log of job {job.id} is for {job.user} and root")
        number = query.attempt or job.attempts
        if query.attempt is not None and query.attempt > job.attempts:
            raise NotFoundError(f"job {job.id} has had {job.attempts} attempts", mend="p104ctl show lists them")
        if number == 0:
            if query.follow and job.state not in ENDED:
                return None, True
            raise NotFoundError(f"job {job.id} has not run, so there is no log", mend=f"p104ctl explain {job.id}")
        return number, job.state in ACTIVE and number == job.attempts

    async def _started(self, job_id: int) -> bool:
        """Wait until the job has an attempt (True) or has ended without one."""
        await self._loop.waiters.next_start(job_id)
        with self._loop.database.read() as conn:
            job = reads.facts(conn, job_id)
        return job is not None and job.attempts > 0

    async def _next(self, query: LogQuery, number: int) -> int | None:
        """The attempt after ``number`` of a job that tries again; None when it has ended.

        The shim's end is seen here before it is committed, so an active job is waited for as a queued one is.
        """
        with self._loop.database.read() as conn:
            job = reads.facts(conn, query.job_id)
        if job is not None and job.attempts == number and job.state not in ENDED:
            await self._loop.waiters.next_start(query.job_id)
            with self._loop.database.read() as conn:
                job = reads.facts(conn, query.job_id)
        return number + 1 if job is not None and job.attempts > number else None
