"""The composition: store, rig, supervisor, sensors, loop and server of one daemon, started and stopped in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from typing import Literal, cast

import msgspec

from p104d.api.access import Gate
from p104d.api.metrics_server import MetricsServer
from p104d.api.server import Server
from p104d.core.errors import RefusedError, UnavailableError
from p104d.daemon import sdnotify
from p104d.daemon.care import KEYS, Care
from p104d.daemon.config import Settings
from p104d.daemon.ends import Ends
from p104d.daemon.history import HistoryReader
from p104d.daemon.listening import listen, lock_state
from p104d.daemon.lookout import Lookout
from p104d.daemon.loop import Loop
from p104d.daemon.maintenance import Maintenance
from p104d.daemon.metrics import Metrics
from p104d.daemon.metrics_listen import serve_if_possible
from p104d.daemon.models import Models
from p104d.daemon.paths import Places, make_folders
from p104d.daemon.proofs import Proofs
from p104d.daemon.reachable import stay_reachable
from p104d.daemon.reading import DaemonFacts
from p104d.daemon.recover import recover
from p104d.daemon.residents import processes
from p104d.daemon.restore import RESCUE, check_queue, take_in_forgotten
from p104d.daemon.rig import Rig
from p104d.daemon.sampler import Sampler
from p104d.daemon.server_launch import GRACE_SECONDS, KIND, ServerPlaces
from p104d.daemon.service import DaemonService
from p104d.daemon.sights import MEMORY_TEST, Onlooker
from p104d.daemon.signals import heed
from p104d.daemon.submission import Intake
from p104d.daemon.usage import Usage
from p104d.hardware.locks import CardLocks
from p104d.hardware.rig import Rig as SimulatedRig
from p104d.hardware.sensors import Sensors
from p104d.processes import identity
from p104d.processes.supervisor import Supervisor
from p104d.store import cards, instances, reads
from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child

log = logging.getLogger(__name__)

#: A step makes some hundred short-lived objects and no cycles: Python's own 700 would have the collector run all day.
_GC_THRESHOLD = (20_000, 20, 50)


#: A server that is told to go is killed after GRACE_SECONDS; a unit of systemd has 90 s to stop.
_FAREWELL_SECONDS = GRACE_SECONDS + 5.0


class WallClock:
    """The host's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How this daemon was started."""

    system: bool
    places: Places
    settings: Settings
    simulate: SimulatedRig | None


class Daemon:
    """One daemon from start to stop. Jobs and their shims outlive it. ``doubt`` is what the one before it found wrong
    with the queue's file, ``insist`` that it was found again although a closer look showed nothing."""

    def __init__(self, options: Options, doubt: str | None = None, *, insist: bool = False) -> None:
        self._options = options
        self._places, self._settings = options.places, options.settings
        self._clock = WallClock()
        self._epoch = time.monotonic()
        self._locks = CardLocks()
        self._stopping = asyncio.Event()
        self._doubt, self._insist = doubt, insist
        #: What was found to be wrong with the queue's file while it was used; it wants to be restored.
        self.damage: str | None = None

    async def run(self) -> None:
        """Until SIGTERM, SIGINT or SIGHUP. Raises P104Error where it cannot start."""
        make_folders(self._places, system=self._options.system)
        held = lock_state(self._places.state)
        try:
            check_queue(self._places, self._clock.now(), self._doubt, insist=self._insist)
            upgrade_in_child(self._places.database)
            self._database = Database(self._places.database)
            self._database.on_damage = self._damaged
            try:
                await self._serve()
            finally:
                self._database.close()
        finally:
            self._locks.release_all()
            os.close(held)

    def _damaged(self, what: str) -> None:
        """End, for a new start to restore it; jobs do not notice. May be called from any thread."""
        if self.damage is None:
            self.damage = what
            log.error("the queue is damaged: %s; starting anew", what, extra={"action": "damaged"})
            self._asyncio.call_soon_threadsafe(self._stopping.set)

    async def _serve(self) -> None:
        boot_id = identity.boot_id()
        self._asyncio = asyncio.get_running_loop()
        jobs, keep = str(self._places.jobs), self._settings.keep_jobs_seconds
        take_in_forgotten(self._database, jobs, self._clock.now(), keep_seconds=keep, boot_id=boot_id)
        self._build(boot_id)
        heed(self._asyncio, self._stopping.set)
        await self._supervisor.start()
        server: Server | None = None
        page: MetricsServer | None = None
        unsettled: list[asyncio.Task[None]] = []
        try:
            unsettled += await recover(self._loop, self._database, self._supervisor, boot_id, self._ends.ended)
            listening = listen(self._places.socket, system=self._options.system)
            metrics = self._metrics()
            server = Server(self._service(metrics), Gate(user_mode=not self._options.system))
            await server.start(listening)
            reachable = stay_reachable(server, self._supervisor.listener, self._places, system=self._options.system)
            unsettled.append(asyncio.create_task(reachable))
            page = await serve_if_possible(self._settings.metrics, metrics)
            await self._sensors.start()
            self._tell_simulator()  # of the jobs that were found running
            await self._work()
        finally:
            sdnotify.notify("STOPPING=1")
            for task in unsettled:
                task.cancel()
            if page is not None:
                await page.stop()
            if server is not None:
                await server.stop()
                self._places.socket.unlink(missing_ok=True)
            self._lookout.close(self._clock.monotonic())
            await self._farewell()
            await self._loop.servers.close()
            await self._loop.models.close()
            await self._loop.proofs.close()
            await self._sensors.close()
            await self._sampler.close()
            await self._supervisor.close()
            self._ends.close()

    async def _farewell(self) -> None:
        """Unload what is idle, where the daemon ends because it was told to; nothing else begins meanwhile."""
        if not self._stopping.is_set() or self.damage is not None:
            return
        self._loop.closing, stop = True, asyncio.Event()
        try:
            left = self._loop.step(self._loop.servers.unload_idle)
        except UnavailableError:
            return  # the next daemon finds them
        if left:
            stepping = asyncio.create_task(self._loop.run(stop))
            await asyncio.wait(left, timeout=_FAREWELL_SECONDS)
            stop.set()
            await stepping

    async def _work(self) -> None:
        # What start-up made lives as long as the daemon: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)
        sdnotify.notify("READY=1")
        log.info("ready on %s", self._places.socket, extra={"action": "ready"})
        watchdog = sdnotify.watchdog_seconds()
        maintenance = asyncio.create_task(Maintenance(self._loop, self._places, self._sampler).run(self._stopping))
        try:
            if watchdog is None:
                await self._loop.run(self._stopping)
            else:
                self._loop.tick = lambda: sdnotify.notify("WATCHDOG=1")
                await self._loop.run(self._stopping, longest=watchdog / 3)
        finally:
            maintenance.cancel()
            await asyncio.gather(maintenance, return_exceptions=True)

    def _build(self, boot_id: str) -> None:
        settings = self._settings
        with self._database.read() as conn:
            records = cards.load_cards(conn)
            paused = cards.get_setting(conn, "paused", "0") == "1"
            kept = {key: text for prefix in KEYS for key, text in cards.settings_below(conn, prefix).items()}
            used, rescued = cards.get_setting(conn, "usage", ""), cards.get_setting(conn, RESCUE, "")
        self._supervisor = Supervisor(
            jobs_dir=str(self._places.jobs),
            runtime_dir=str(self._places.runtime / "shims"),
            on_event=lambda event: self._ends.on_event(event),
            system=self._options.system,
            roots={KIND: str(self._places.state / "servers")},
            launcher=cast(Literal["auto", "zygote", "systemd"], settings.launcher),
        )
        self._rig = Rig(
            records,
            missing_after=settings.missing_after_seconds,
            first_depth=settings.verify.first,
            onlooker=Onlooker(self._owner_of, self._is_alive),
            take_lock=self._take_lock,
        )
        self._loop = Loop(
            database=self._database,
            rig=self._rig,
            supervisor=self._supervisor,
            proofs=lambda post: Proofs(
                self._rig, settings, simulate=self._options.simulate, epoch=self._epoch, post=post
            ),
            models=lambda wake: Models(
                system=self._options.system,
                user=settings.models.user,
                units_in=str(self._places.runtime) if self._supervisor.own_units else None,
                monotonic=self._clock.monotonic,
                wake=wake,
            ),
            servers=ServerPlaces(self._places.runtime, self._places.state, system=self._options.system),
            settings=settings,
            clock=self._clock,
            boot_id=boot_id,
            paused=paused,
        )
        self._loop.trouble.rescued = rescued
        self._loop.on_running_changed = self._tell_simulator
        self._loop.proofs.on_changed = self._tests_changed
        care = Care(settings, kept, lambda uuid: self._rig.was_testing(uuid, self._clock.monotonic()))
        self._rig.too_hot = care.closed_reason
        usage = Usage(energy_price=settings.energy_price, currency=settings.energy_currency)
        usage.load(used or None)
        state = self._places.state
        self._sampler = Sampler(state / "telemetry.db", state, settings.sampling, self._clock)
        self._lookout = Lookout(self._loop, care, usage, self._sampler, lambda wanted: self._sensors.apply(wanted))
        self._ends = Ends(self._loop, self._supervisor, self._lookout)
        self._sensors = Sensors(
            simulate=self._options.simulate,
            epoch=self._epoch,
            interval=settings.interval_seconds,
            deadline=settings.sensor_deadline_seconds,
            on_cycle=self._lookout.on_cycle,
        )
        care.power.look = self._sensors.look_now

    def _metrics(self) -> Metrics:
        simulated = self._options.simulate is not None
        metrics = Metrics(self._loop, self._loop.counts, started_at=self._clock.now(), simulated=simulated)
        metrics.warnings = self._lookout.warnings
        return metrics

    def _service(self, metrics: Metrics) -> DaemonService:
        facts = DaemonFacts(
            started_at=self._clock.now(),
            simulated=self._options.simulate is not None,
            user_mode=not self._options.system,
        )
        intake = Intake(self._loop, self._settings, user_mode=not self._options.system)
        reader = HistoryReader(self._loop, telemetry=self._sampler)
        service = DaemonService(self._loop, self._places, facts, intake, self._lookout.care.power, metrics, reader)
        service.warnings = self._lookout.warnings
        service.copy_telemetry = self._sampler.copy_to
        return service

    # --- what the sensor says --------------------------------------------------------------------------------------

    def _owner_of(self, pid: int) -> int | None:
        if self._loop.proofs.owns(pid):
            return MEMORY_TEST
        key = self._supervisor.owner_of(pid)
        if key is not None and key.kind == KIND:
            return self._loop.servers.sights.owner(key.id)
        return key.id if key is not None and key.kind == "job" else None

    def _is_alive(self, pid: int) -> bool:
        """A process of somebody else's that the driver names; a simulated rig's exist in its file alone."""
        simulated = self._options.simulate.processes if self._options.simulate is not None else ()
        return any(process.pid == pid for process in simulated) or identity.start_time(pid) is not None

    def _take_lock(self, uuid: str) -> str | None:
        """None where the card is ours; else who has it, as people are told."""
        if self._options.simulate is not None:
            return None
        try:
            if self._locks.acquire(uuid):
                return None
        except RefusedError as error:
            return error.line()
        holder = self._locks.holder(uuid)
        return f"in use by another p104d{f' (pid {holder})' if holder else ''}"

    def _tell_simulator(self) -> None:
        """On a simulated rig a job's process, or its model's server, uses as much memory as was reserved for it."""
        if self._options.simulate is None:
            return
        try:
            with self._database.read() as conn:
                attempts, copies = reads.open_attempts(conn), instances.open_instances(conn)
        except UnavailableError:
            return  # a step is done by now, and must not look as if it had failed
        self._sensors.set_processes([*processes(attempts, copies), *self._loop.proofs.processes()])

    def _tests_changed(self) -> None:
        self._loop.touch()
        self._tell_simulator()
