"""What the supervisor tells of attempts, read and judged before it becomes an event of the loop."""

from __future__ import annotations

import asyncio
import logging

from p104d.core.errors import UnavailableError
from p104d.daemon.endings import Finished, Output, against_card, last_word, read_output, together
from p104d.daemon.lookout import Lookout
from p104d.daemon.loop import Loop
from p104d.processes.attempt import Key, Look, LookKind
from p104d.processes.supervisor import Ended, Event, Supervisor
from p104d.store import reads

log = logging.getLogger(__name__)
#: The queue's disk is full or fails: the next try to read it.
_AGAIN_SECONDS = 1.0


class Ends:
    """Reads what an attempt left, its output and what it used, and posts its end."""

    def __init__(self, loop: Loop, supervisor: Supervisor, lookout: Lookout) -> None:
        self._loop, self._supervisor, self._lookout = loop, supervisor, lookout
        self._sweeps: set[asyncio.Task[None]] = set()

    def on_event(self, event: Event) -> None:
        """An event of the supervisor's, in the loop's thread."""
        if not isinstance(event, Ended):
            self._loop.post(event)
        elif event.look.kind is LookKind.DEAD:
            task = asyncio.create_task(self._until_ended(event.key, event.look))
            self._sweeps.add(task)
            task.add_done_callback(self._sweeps.discard)
        else:
            self._post(event.key, event.look)

    async def _until_ended(self, key: Key, look: Look) -> None:
        """An end is told once: what cannot be swept now (no descriptor to be had) is tried until it can."""
        while True:
            try:
                return await self.ended(key, look)
            except OSError as error:
                log.warning("what is left of %s waits: %s", key, error, extra={"action": "end_waits"})
            await asyncio.sleep(_AGAIN_SECONDS)

    async def ended(self, key: Key, look: Look) -> None:
        """Post an attempt's end; what a dead shim left is ended first, before its cards are free for others. Raises
        OSError while nobody can say what is left."""
        if look.kind is LookKind.DEAD:
            left = await self._supervisor.sweep(key)
            if left:
                log.error("%d processes of %s could not be ended", left, key, extra={"action": "sweep"})
        self._post(key, look)

    def _post(self, key: Key, look: Look) -> None:
        """An end is told once: while the queue cannot be read it is kept, not lost."""
        try:
            done = self._finished(key, look)
        except UnavailableError as error:
            log.warning("the end of %s waits: %s", key, error.line(), extra={"action": "end_waits"})
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._post, key, look)
            return
        self._loop.post(done)

    def close(self) -> None:
        """Leave what is being swept to the next daemon."""
        for task in self._sweeps:
            task.cancel()

    def _finished(self, key: Key, look: Look) -> Finished:
        if key.kind != "job":
            return Finished(key=key, look=look)
        folder = self._supervisor.folder(key)
        output, job = Output(), None
        if look.exit is not None:
            with self._loop.database.read() as conn:
                job = reads.facts(conn, key.id)
            output = read_output(folder, job, look)
        never_seen = self._lookout.appearances.never(key.id)
        self._lookout.appearances.forget(key.id)
        seconds = look.exit.wall_seconds if look.exit is not None else None
        used = self._lookout.usage.ended(key.id, key.number, output.measurements, whole=output.whole, seconds=seconds)
        return Finished(
            key=key,
            look=look,
            never_seen=never_seen,
            measurements=together(output.measurements, used),
            model=output.model,
            complaint=against_card(folder, look),
            said=last_word(folder, job, look),
        )
