"""After a start: what became of the attempts that an earlier daemon left open.

==================================  ============================================================
the attempt's folder says           then
==================================  ============================================================
nobody claimed it, same boot        revoke it (the claim can be taken once); the job waits again
claimed, its shim is alive          adopt it; a stop that was committed is asked for again
an exit record is there             the attempt ended so
claimed, no shim, no record         sweep what is left of its processes; lost
another boot, no exit record        lost: whether it ran before the host died, nobody can know
nothing: it cannot be read          asked again; until then it holds what it was given
==================================  ============================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from p104d.daemon.endings import Finished
from p104d.daemon.loop import Loop
from p104d.daemon.server_launch import KIND
from p104d.daemon.servers import key_of
from p104d.processes.attempt import Key, Look, LookKind
from p104d.processes.supervisor import Supervisor
from p104d.store import dependents, instances, proofs, reads, schedules
from p104d.store.engine import Database
from p104d.store.instances import Instance
from p104d.store.reads import OpenAttempt

log = logging.getLogger(__name__)
#: A folder that cannot be read or written is asked again; one bad folder keeps no daemon from its other jobs.
_AGAIN_SECONDS = 1.0


async def recover(
    loop: Loop, database: Database, supervisor: Supervisor, boot_id: str, ended: Callable[[Key, Look], Awaitable[None]]
) -> list[asyncio.Task[None]]:
    """Find every open attempt again; afterwards each is watched or its end is posted to the loop. Notifications that
    were being sent are owed again; memory tests ended with the daemon that ran them, and are due as before.

    Returns tasks that go on asking for those whose folder the disk refuses; they end with the daemon.
    """
    unsettled = []
    with database.read() as conn:
        attempts = reads.open_attempts(conn)
        copies = instances.open_instances(conn)
        # The daemon may have died in the middle of settling them.
        loop.unsettled = dependents.everything(conn)
    with database.write() as conn:
        schedules.owe_again(conn)
        proofs.interrupt_all(conn, loop.clock.now())
    for copy in copies:
        settle = partial(_recover_copy, loop, supervisor, copy, boot_id, ended)
        unsettled += await _settled(key_of(copy.id), settle)
    await _end_strangers(supervisor, {copy.id for copy in copies})
    for attempt in attempts:
        settle = partial(_recover_one, loop, supervisor, attempt, boot_id, ended)
        unsettled += await _settled(Key("job", attempt.job_id, attempt.number), settle)
    return unsettled


async def _settled(key: Key, settle: Callable[[], Awaitable[None]]) -> list[asyncio.Task[None]]:
    """Do it now, or have it tried until the disk lets it: no task, or the one that does."""
    try:
        await settle()
    except OSError as error:
        log.warning("%s %d cannot be settled yet: %s", key.kind, key.id, error, extra={"action": "recover"})
        return [asyncio.create_task(_until_settled(settle))]
    return []


async def _until_settled(settle: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_AGAIN_SECONDS)
        with contextlib.suppress(OSError):
            return await settle()


async def _recover_copy(
    loop: Loop,
    supervisor: Supervisor,
    copy: Instance,
    boot_id: str,
    ended: Callable[[Key, Look], Awaitable[None]],
) -> None:
    """A copy's server that lives is watched again; of another boot, or unclaimed, it is gone."""
    key = key_of(copy.id)
    look = await asyncio.to_thread(supervisor.look, key)
    if look.kind is LookKind.UNCLAIMED:
        if copy.boot_id != boot_id or supervisor.revoke(key):
            loop.post(Finished(key=key, look=None, note="the daemon ended before it was started"))
            return
        look = supervisor.look(key)
    if look.kind is LookKind.RUNNING and supervisor.adopt(key):
        log.info("copy %d (%s): adopted", copy.id, copy.label, extra={"action": "recover"})
        loop.servers.found(copy)
        return
    look = supervisor.look(key)
    if look.kind is LookKind.DEAD and copy.boot_id != boot_id:
        loop.post(Finished(key=key, look=None, note="its host went down"))
        return
    await ended(key, look)


async def _end_strangers(supervisor: Supervisor, known: set[int]) -> None:
    """Servers that no row tells of, after a queue was restored: nobody would ever end them."""
    for key in await asyncio.to_thread(supervisor.keys, KIND):
        if key.id not in known and supervisor.adopt(key):
            log.warning("a server that nobody knows of (%d) is ended", key.id, extra={"action": "recover"})
            supervisor.kill(key)


async def _recover_one(
    loop: Loop,
    supervisor: Supervisor,
    attempt: OpenAttempt,
    boot_id: str,
    ended: Callable[[Key, Look], Awaitable[None]],
) -> None:
    key = Key("job", attempt.job_id, attempt.number)
    look = await asyncio.to_thread(supervisor.look, key)
    if look.kind is LookKind.UNCLAIMED:
        if attempt.boot_id != boot_id:
            _say(key, "its host died before its end was known")
            loop.post(Finished(key=key, look=Look(kind=LookKind.DEAD), host_died=True))
            return
        if supervisor.revoke(key):
            _say(key, "taken back: no shim had claimed it")
            loop.post(Finished(key=key, look=Look(kind=LookKind.REVOKED)))
            return
        look = supervisor.look(key)
    if look.kind is LookKind.RUNNING and supervisor.adopt(key):
        _say(key, "adopted")
        if attempt.stop_reason is not None:
            supervisor.stop(key)
        return
    if look.kind is LookKind.RUNNING:
        look = supervisor.look(key)
    if look.kind is LookKind.DEAD and attempt.boot_id != boot_id:
        loop.post(Finished(key=key, look=look, host_died=True))
        return
    await ended(key, look)


def _say(key: Key, text: str) -> None:
    log.info("job %d attempt %d: %s", key.id, key.number, text, extra={"action": "recover"})
