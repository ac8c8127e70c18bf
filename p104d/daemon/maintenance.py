"""What is done now and then: old jobs and their folders leave, logs stay below their bound, cards in use elsewhere are
asked for again."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import logging
import os
import shutil
from collections.abc import Collection

from p104d.core.errors import UnavailableError
from p104d.core.job import ENDED
from p104d.daemon.loop import Loop
from p104d.daemon.paths import Places
from p104d.daemon.sampler import Sampler
from p104d.store import instances, lists, retention
from p104d.store.backup import FOLDER, back_up, is_due
from p104d.store.engine import DamagedError

log = logging.getLogger(__name__)
EVERY_SECONDS = 3600.0
_BATCH = 500
#: Long enough for a person to look why a notification did not arrive, or a model could not be loaded.
_NOTICES_KEPT_SECONDS = 86400.0


class Maintenance:
    """Runs in the loop's process, a batch at a time, folders removed in a thread."""

    def __init__(self, loop: Loop, places: Places, sampler: Sampler) -> None:
        self._loop, self._places, self._sampler = loop, places, sampler

    async def run(self, stopping: asyncio.Event) -> None:
        """Once at the start and then every hour, until ``stopping``."""
        while not stopping.is_set():
            try:
                await self.once()
                await self._back_up()
                await self._sampler.maintain()
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
        with self._loop.database.write() as conn:
            instances.forget(conn)
            living = {str(copy.id) for copy in instances.open_instances(conn)}
        old = self._loop.clock.now() - _NOTICES_KEPT_SECONDS
        for folder in ("notify", "servers"):
            kept = living if folder == "servers" else set[str]()
            await asyncio.to_thread(_remove_old, str(self._places.state / folder), old, kept)
        return forgotten

    async def _back_up(self) -> None:
        """A copy of the queue, where the last one is old. One that finds damage has the queue restored."""
        loop, folder = self._loop, self._places.state / FOLDER
        now, every = loop.clock.now(), loop.settings.backup_every_seconds
        if not is_due(folder, now, every):
            return
        try:
            path = await asyncio.to_thread(back_up, loop.database, folder, now, loop.settings.keep_backups)
        except DamagedError as error:
            loop.database.on_damage(error.why)
            raise
        log.info("the queue was copied to %s", path, extra={"action": "backup"})

    def _remove(self, ids: list[int]) -> None:
        for job_id in ids:
            for folder in glob.glob(f"{glob.escape(str(self._places.jobs))}/{job_id // 1000}/{job_id}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    async def _bound_logs(self, most: int) -> None:
        """Remove the oldest ended jobs' folders until all folders together are below ``most`` bytes."""
        folders = await asyncio.to_thread(_sizes, str(self._places.jobs))
        total = sum(size for each in folders.values() for size in each.values())
        ids = sorted(folders)
        while ids and total > most:
            some, ids = ids[:_BATCH], ids[_BATCH:]
            with self._loop.database.read() as conn:
                states = lists.states(conn, some)
            # Only what was there before the states were read: a retry's new folder is not in the list.
            for job_id in (each for each in some if each in states and states[each][0] in ENDED):
                for folder, size in folders[job_id].items():
                    await asyncio.to_thread(shutil.rmtree, folder, True)
                    total -= size
                if total <= most:
                    return


def _sizes(jobs: str) -> dict[int, dict[str, int]]:
    """By job, each of its attempts' folders with the bytes on disk of everything in it."""
    found: dict[int, dict[str, int]] = {}
    for folder in glob.iglob(f"{glob.escape(jobs)}/*/*-*"):
        job_id = os.path.basename(folder).partition("-")[0]
        if job_id.isdigit():
            found.setdefault(int(job_id), {})[folder] = _size(folder)
    return found


def _remove_old(folder: str, before: float, living: Collection[str]) -> None:
    """What notifications and servers left behind, but for the ids that are ``living``."""
    for place in glob.iglob(f"{glob.escape(folder)}/*/*-*"):
        if os.path.basename(place).partition("-")[0] in living:
            continue
        with contextlib.suppress(OSError):
            if os.lstat(place).st_mtime < before:
                shutil.rmtree(place, ignore_errors=True)


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
