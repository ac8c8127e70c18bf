"""Those who wait for jobs: for their ends, or for a next start."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterator

from p104d.core.errors import UnavailableError

#: Two of the largest requests. Each id that is waited for takes some 400 bytes.
MOST_AWAITED = 200_000


class _Waiter:
    """One who waits until ``left`` more jobs have told."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def told(self) -> None:
        self.left -= 1
        if self.left <= 0 and not self.done.done():
            self.done.set_result(None)


_Waiting = dict[int, set[_Waiter]]


class Waiters:
    """Waiters by job. Ask for a job's state in the same breath in which you begin to wait: what happened before is not
    told."""

    def __init__(self) -> None:
        self._ends: _Waiting = {}
        self._starts: _Waiting = {}
        self._awaited: Counter[int] = Counter()

    def started(self, job_id: int) -> None:
        """A new attempt was placed."""
        _tell(self._starts, job_id)

    def ended(self, job_id: int) -> None:
        """The job has reached a final state."""
        _tell(self._ends, job_id)

    async def all_ended(self, job_ids: Collection[int], timeout: float | None) -> None:
        """Until each of these has reached a final state, or for ``timeout`` seconds."""
        with _waiting((self._ends, job_ids), left=len(job_ids)) as done:
            await asyncio.wait((done,), timeout=timeout)

    async def next_start(self, job_id: int) -> None:
        """Until the job's next attempt is placed, or it ends."""
        with _waiting((self._starts, (job_id,)), (self._ends, (job_id,)), left=1) as done:
            await done

    @contextlib.contextmanager
    def room(self, uid: int, count: int) -> Iterator[None]:
        """While a request of this user names ``count`` jobs to wait for. Raises UnavailableError for too many."""
        if self._awaited[uid] + count > MOST_AWAITED:
            raise UnavailableError(
                f"more than {MOST_AWAITED} jobs are waited for already", mend="wait for fewer at a time"
            )
        self._awaited[uid] += count
        try:
            yield
        finally:
            self._awaited[uid] -= count
            if not self._awaited[uid]:
                del self._awaited[uid]


@contextlib.contextmanager
def _waiting(*where: tuple[_Waiting, Collection[int]], left: int) -> Iterator[asyncio.Future[None]]:
    """Done when ``left`` of these jobs have told."""
    waiter = _Waiter(left)
    for waiting, job_ids in where:
        for job_id in job_ids:
            waiting.setdefault(job_id, set()).add(waiter)
    try:
        yield waiter.done
    finally:
        waiter.done.cancel()
        for waiting, job_ids in where:
            for job_id in job_ids:
                _drop(waiting, job_id, waiter)


def _drop(waiting: _Waiting, job_id: int, waiter: _Waiter) -> None:
    others = waiting.get(job_id)
    if others is not None:
        others.discard(waiter)
        if not others:
            del waiting[job_id]


def _tell(waiting: _Waiting, job_id: int) -> None:
    for waiter in waiting.pop(job_id, ()):
        waiter.told()
