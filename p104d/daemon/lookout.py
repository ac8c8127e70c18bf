"""What every look at the cards leads to: the rig's own picture, findings about running jobs, events for the loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from p104d.core.errors import UnavailableError
from p104d.daemon.cardfacts import short_name
from p104d.daemon.care import Care, Cared
from p104d.daemon.events import CardsGone, CardsTooHot, StopJob
from p104d.daemon.loop import Loop
from p104d.daemon.sampler import Sampler
from p104d.daemon.server_watch import CPU_ONLY
from p104d.daemon.slowness import CardKind, Slowness
from p104d.daemon.usage import Usage
from p104d.daemon.watch import Appearances, over_vram
from p104d.hardware.messages import CardSettings, Cycle
from p104d.policy.retry import Stop
from p104d.store import instances, reads
from p104d.store.cards import set_setting
from p104d.store.reads import OpenAttempt

log = logging.getLogger(__name__)

#: A card that another daemon holds is asked for again this often.
_LOCK_AGAIN_CYCLES = 10
#: A daemon that is killed loses this much of what running jobs used.
_USAGE_CYCLES = 60


class Lookout:
    """Takes in the sensor's cycles. ``apply`` sends settings to the cards."""

    def __init__(
        self,
        loop: Loop,
        care: Care,
        usage: Usage,
        sampler: Sampler,
        apply: Callable[[Mapping[str, CardSettings]], None],
    ) -> None:
        self._loop, self.care, self.usage, self.sampler, self._apply = loop, care, usage, sampler, apply
        self.slowness = Slowness(loop.database, self._kinds)
        loop.on_results = self.slowness.on_results
        self.appearances = Appearances()
        self._warnings: list[str] = []
        self._cycles = 0

    def warnings(self) -> Sequence[str]:
        """What a person should know of running jobs and of the cards' health, beside what the rig itself says."""
        now, trouble = self._loop.clock.now(), self._loop.trouble.text
        rescued = self._loop.trouble.rescued
        cards = [*self.slowness.warnings(), *self.care.warnings(now), *self.sampler.warnings()]
        told = [f"{rescued}; look at p104ctl list, then p104ctl resume"] if rescued else []
        return [*([trouble] if trouble else []), *told, *self._warnings, *cards]

    def _kinds(self) -> dict[str, CardKind]:
        records = self._loop.rig.records
        return {uuid: CardKind(each.identity.index, short_name(each.identity)) for uuid, each in records.items()}

    def on_cycle(self, cycle: Cycle) -> None:
        """One look at the whole rig."""
        loop = self._loop
        self._cycles += 1
        if self._cycles % _LOCK_AGAIN_CYCLES == 0:
            loop.rig.release_locks()
        self._look_after(self.care.on_cycle(cycle))
        loop.counts.on_cycle(cycle)
        self.sampler.on_cycle(cycle)
        changes = loop.rig.on_cycle(cycle)
        loop.proofs.on_cycle(cycle)
        for text in changes.warnings:
            log.warning("%s", text, extra={"action": "xid"})
        if changes.material or changes.save:
            loop.touch(changes.save)
        for bad in changes.bad:
            loop.post(bad)
        if changes.gone:
            loop.post(CardsGone(tuple(changes.gone)))
        with contextlib.suppress(UnavailableError):  # the next look is soon; who needs the queue more says so
            self._watch(cycle)

    def close(self, now: float) -> None:
        """Store what is to be remembered; ``now`` is CLOCK_MONOTONIC."""
        self.store({**self.care.close(now), **self.usage.save()})

    def _look_after(self, cared: Cared) -> None:
        """What the cards' own good calls for; before placement, so that a hot card is given nothing."""
        loop = self._loop
        if cared.send:
            self._apply(cared.send)
        if cared.too_hot:
            loop.post(CardsTooHot(tuple(sorted(cared.too_hot))))
        if cared.material:
            loop.touch()
        self.store(cared.save)

    def store(self, settings: Mapping[str, str]) -> None:
        """Keep what the care of cards wants to remember; losing it costs a history of clocks, no more."""
        if not settings:
            return
        try:
            with self._loop.database.write() as conn:
                for key, text in settings.items():
                    set_setting(conn, key, text)
        except UnavailableError as error:
            log.warning("%s", error.line(), extra={"action": "settings_failed"})

    def _watch(self, cycle: Cycle) -> None:
        """Judge running jobs by what the cards showed."""
        loop = self._loop
        with loop.database.read() as conn:
            attempts = [each for each in reads.open_attempts(conn) if each.holds]
            copies = instances.open_instances(conn)
        if copies:
            loop.servers.note(copies, attempts, {uuid: sight.ours for uuid, sight in loop.rig.sights.items()})
        self.usage.on_cycle(cycle, attempts, loop.rig.sights)
        if attempts and self._cycles % _USAGE_CYCLES == 0:
            self.store(self.usage.save())
        self._warnings = [
            *(self._findings(attempts) if attempts else []),
            *(f"{copy.label} runs on the processor: {CPU_ONLY}" for copy in copies if copy.cpu_only and copy.usable),
        ]

    def _findings(self, attempts: Sequence[OpenAttempt]) -> list[str]:
        loop, sights = self._loop, self._loop.rig.sights
        self.appearances.note(attempts, sights)
        over = over_vram(attempts, sights, loop.settings.vram_margin_bytes)
        late = self.appearances.late(attempts, loop.clock.now(), loop.settings.gpu_appear_seconds)
        for finding in over:
            if finding.stop is not None:
                loop.post(StopJob(finding.job_id, finding.stop))
        self._stop_required([finding.job_id for finding in late])
        return [finding.text for finding in (*over, *late)]

    def _stop_required(self, job_ids: Sequence[int]) -> None:
        for job_id in job_ids:
            with self._loop.database.read() as conn:
                job = reads.facts(conn, job_id)
            if job is not None and job.spec.gpu_required and job.state == "running":
                self._loop.post(StopJob(job_id, Stop.NEVER_ON_CARD))
