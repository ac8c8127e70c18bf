"""What is done to the world once a step's decisions are durable: launches, stops, kills, tests, notifications."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from p104d.core.errors import P104Error, UnavailableError
from p104d.daemon.endings import Finished
from p104d.daemon.launch import notify_spec
from p104d.daemon.servers import key_of
from p104d.daemon.work import Work
from p104d.processes.attempt import Key, LaunchSpec
from p104d.processes.supervisor import LaunchFailed
from p104d.store import schedules

if TYPE_CHECKING:
    from p104d.daemon.loop import Loop

log = logging.getLogger(__name__)
#: What was killed and has not left its card by then is stuck in the driver: nothing is started there.
_LEAVE_SECONDS = 30.0
#: An attempt that could be neither stopped nor taken back is tried again after this.
_AGAIN_SECONDS = 1.0
#: Notifications that the disk did not let be noted as being sent are tried again after this.
_OWED_AGAIN_SECONDS = 10.0


class Actor:
    """Acts for the loop. Nothing here decides."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._patient: dict[Key, asyncio.Task[None]] = {}
        #: Notifications wait to be sent: at first those that an earlier daemon owed.
        self._owes = True

    def act(self, work: Work) -> None:
        """Do all of it. Tests leave their cards first."""
        loop = self._loop
        self._count(work)
        loop.proofs.act(work)
        if work.cards:
            loop.touch()  # the step has placed by the records of before
        loop.servers.act(work)
        for number in work.evicts:
            at_once = number in work.evicts_at_once
            self._end(key_of(number), loop.supervisor.kill if at_once else loop.supervisor.stop)
        for spec in work.launches:
            cards = work.launch_cards.get(spec.key, ())
            self._launch(spec, [*loop.proofs.leaving(cards), *loop.servers.leaving(cards)])
        for key, text in work.unstartable:
            loop.post(Finished(key=key, look=None, failure=text))
        for key, text in work.taken_back:
            loop.post(Finished(key=key, look=None, note=text))
        for key in work.stops:
            self._end(key, loop.supervisor.stop)
        for key in work.kills:
            self._end(key, loop.supervisor.kill)
        for job_id in work.ended:
            loop.waiters.ended(job_id)
        if work.results:
            loop.on_results(work.results)
        if work.running_changed:
            loop.on_running_changed()
        if work.notify or self._owes:
            self._owes = False
            asyncio.get_running_loop().call_soon(self._send_owed)

    def _count(self, work: Work) -> None:
        counts = self._loop.counts
        for wait in work.waits:
            counts.job_started(wait)
        for state, reason, seconds in work.ends:
            counts.job_ended(state, reason, seconds)
        for verdict in work.verdicts:
            counts.test_ended(verdict)

    def _launch(self, spec: LaunchSpec, leaving: Sequence[asyncio.Future[bool]]) -> None:
        if spec.kind == "job":
            self._loop.waiters.started(spec.id)
        if not leaving:
            self._loop.supervisor.launch(spec)
            return
        task = self._patient[spec.key] = asyncio.create_task(self._launch_after(spec, leaving))
        task.add_done_callback(lambda _: self._patient.pop(spec.key, None))

    def _end(self, key: Key, how: Callable[[Key], bool]) -> None:
        """Stop or kill an attempt. Where no shim has claimed it yet, nobody could be told: then none ever will."""
        try:
            if self._taken_back(key) or how(key):
                return
            if self._loop.supervisor.revoke(key):
                self._loop.post(Finished(key=key, look=None))
            else:
                how(key)  # claimed just now; or it has ended, and that is on its way
        except OSError:  # the disk refuses, or no descriptor is to be had; it runs, or it may yet be claimed
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._end, key, how)

    def _taken_back(self, key: Key) -> bool:
        """Stop an attempt that waits for others to leave: it never ran."""
        task = self._patient.get(key)
        if task is None or task.done():
            return False
        task.cancel()
        self._loop.post(Finished(key=key, look=None))
        return True

    async def _launch_after(self, spec: LaunchSpec, leaving: Sequence[asyncio.Future[bool]]) -> None:
        """Start a job or a copy where tests or copies are just leaving: two on one card would get in each other's way.
        A daemon that dies here has launched nothing, and queues the job again when it is back."""
        _, late = await asyncio.wait(leaving, timeout=_LEAVE_SECONDS)
        if late:
            self._loop.post(LaunchFailed(spec.key, "what is on its card does not end: the card hangs"))
        else:
            self._loop.supervisor.launch(spec)

    def _send_owed(self) -> None:
        """Start the notifications that are owed: noted as being sent first, as every act."""
        loop = self._loop
        try:
            with loop.database.write() as conn:
                owed = schedules.take_owed(conn)
        except UnavailableError as error:
            log.error("%s", error.line(), extra={"action": "notify_failed"})
            asyncio.get_running_loop().call_later(_OWED_AGAIN_SECONDS, self._send_owed)
            return
        for each in owed:
            try:
                loop.supervisor.launch(notify_spec(each, loop.settings))
            except P104Error as error:
                loop.post(LaunchFailed(Key("notify", each.id, 1), error.message))
