"""What is done now and then: old jobs and their folders leave, logs stay below their bound, cards in use elsewhere are
asked for again."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

from p104d.core.errors import UnavailableError
from p104d.daemon.loop import Loop
from p104d.daemon.paths import Places
from p104d.store import retention

log = logging.getLogger(__name__)
EVERY_SECONDS = 3600.0
_BATCH = 500


class Maintenance:
    """Runs in the loop's process, a batch at a time, folders removed in a thread."""

    def __init__(self, loop: Loop, places: Places) -> None:
        self._loop, self._places = loop, places

    async def run(self, stopping: asyncio.Event) -> None:
        """Once at the start and then every hour, until ``stopping``."""
        while not stopping.is_set():
            try:
                await self.once()
            except UnavailableError as error:
                log.error("%s", error.line(), extra={"action": "maintenance_failed"})
            except Exception:
                log.exception("maintenance failed", extra={"action": "maintenance_failed"})
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await stopping.wait()
            except TimeoutError:
                continue

    async def once(self) -> int:
        """Forget what is too old; how many jobs were forgotten."""
        settings = self._loop.settings
        before, forgotten = self._loop.clock.now() - settings.keep_jobs_seconds, 0
        while True:
            with self._loop.database.write() as conn:
                ids = retention.forget_jobs(conn, before, _BATCH)
            await asyncio.to_thread(self._remove, ids)
            forgotten += len(ids)
            if len(ids) < _BATCH:
                break
            await asyncio.sleep(0)
        await self._bound_logs(settings.keep_logs_bytes)
        return forgotten

    def _folder(self, job_id: int) -> str:
        return f"{self._places.jobs}/{job_id // 1000}/{job_id}"

    def _remove(self, ids: list[int]) -> None:
        for job_id in ids:
            shutil.rmtree(self._folder(job_id), ignore_errors=True)

    async def _bound_logs(self, most: int) -> None:
        """Remove the oldest ended jobs' folders until all folders together are below ``most`` bytes."""
        total = await asyncio.to_thread(_size, str(self._places.jobs))
        if total <= most:
            return
        with self._loop.database.read() as conn:
            oldest = retention.ended_oldest_first(conn)
        for job_id in oldest:
            if total <= most:
                return
            folder = self._folder(job_id)
            total -= await asyncio.to_thread(_size, folder)
            await asyncio.to_thread(shutil.rmtree, folder, True)


def _size(folder: str) -> int:
    """Bytes on disk of everything below ``folder``."""
    total = 0
    for place, _folders, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total
