"""Those who wait for a job: for its end, or for its next start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Waiters:
    """Futures by job. Ask for the job's state after making one: what happened before is not told."""

    def __init__(self) -> None:
        self._ends: dict[int, set[asyncio.Future[None]]] = {}
        self._starts: dict[int, set[asyncio.Future[None]]] = {}

    def started(self, job_id: int) -> None:
        """A new attempt was placed."""
        _wake_all(self._starts.get(job_id, ()))

    def ended(self, job_id: int) -> None:
        """The job has reached a final state."""
        _wake_all(self._ends.pop(job_id, ()))

    def end_of(self, job_id: int) -> asyncio.Future[None]:
        """Done when the job has reached a final state."""
        return self._future(self._ends, job_id)

    async def next_start(self, job_id: int) -> None:
        """Until the job's next attempt is placed, or it ends."""
        start, end = self._future(self._starts, job_id), self.end_of(job_id)
        try:
            await asyncio.wait((start, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            start.cancel()
            end.cancel()

    def _future(self, where: dict[int, set[asyncio.Future[None]]], job_id: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        where.setdefault(job_id, set()).add(future)
        future.add_done_callback(lambda done: _drop(where, job_id, done))
        return future


def _drop(where: dict[int, set[asyncio.Future[None]]], job_id: int, future: asyncio.Future[None]) -> None:
    waiting = where.get(job_id)
    if waiting is not None:
        waiting.discard(future)
        if not waiting:
            del where[job_id]


def _wake_all(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in list(futures):
        if not future.done():
            future.set_result(None)
