"""Records what every look at the cards shows, and the host beside it, and answers for what was recorded.

In the daemon's loop a look costs a reference to each reading. Once a minute a thread packs and writes them: a disk that
stalls stalls nothing else. What cannot be written waits in memory, up to a bound, and is told of once.

    sampler = Sampler(places.state / "telemetry.db", places.state, settings, clock)
    sampler.on_cycle(cycle)                     with every cycle of the sensor
    await sampler.maintain()                    at the start and every hour
    await sampler.series(uuid, "power_watts", since, until, step)
    await sampler.close()
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import msgspec

from p104d.core.card import CardReading
from p104d.core.clock import Clock
from p104d.core.errors import P104Error, UnavailableError
from p104d.daemon.host import HostReader
from p104d.hardware.messages import Cycle
from p104d.store.migrate import MigrationError
from p104d.store.telemetry import NewChunk, Samples, Series, Telemetry, pack
from p104d.store.telemetry_keeping import Keep, keep
from p104d.store.telemetry_metrics import CARD_METRICS, HOST, HOST_METRICS, throttle_bits

log = logging.getLogger(__name__)

#: The host is looked at this often, or as often as the cards if that is less.
HOST_SECONDS = 5.0
#: Seconds after which samples are written though the clock's minute does not end: it was set back, or stands.
_MOST_SECONDS = 60.0
#: Minutes that wait for a write that does not end, and bytes of packed ones that wait for a disk that takes them: those
#: of twelve cards for half a day.
_MOST_MINUTES, _MOST_WAITING_BYTES = 5, 8 * 2**20

_READ = [metric for metric in CARD_METRICS if not metric.bits]
_THROTTLE = next(metric for metric in CARD_METRICS if metric.bits)
_fields = attrgetter(*(metric.name for metric in _READ))

#: How long a question waits for a write to end.
_PATIENCE_SECONDS = 10.0

#: What one entity read: Unix time, and a card's reading or the host's values as they are kept.
_Row = tuple[float, CardReading | dict[int, int | None]]
_Minute = Mapping[str, Sequence[_Row]]


class SamplerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``interval`` is seconds between samples of a card; ``keep`` what is forgotten when."""

    interval: float = 1.0
    keep: Keep = Keep()


class Sampler:
    """``path`` is telemetry.db, ``folder`` where the daemon's state is. Never raises into the loop: a history that
    cannot be written is a warning (``warnings``)."""

    def __init__(self, path: Path, folder: Path, settings: SamplerSettings, clock: Clock) -> None:
        self._path, self._settings, self._clock = path, settings, clock
        self._host = HostReader(folder)
        self._rows: dict[str, list[_Row]] = {}
        self._minute = 0
        self._began = self._due = self._host_due = float("-inf")
        self._minutes: deque[_Minute] = deque(maxlen=_MOST_MINUTES)
        self._task: asyncio.Task[None] | None = None
        # What follows belongs to the threads, under the lock: written and waiting never hold the same samples.
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._closing = threading.Event()
        self._store: Telemetry | None = None
        self._waiting: deque[NewChunk] = deque()
        self._waiting_bytes = 0
        self._refused: MigrationError | None = None
        self._trouble: str | None = None
        self._lost = 0

    # --- the loop's side -------------------------------------------------------------------------------------------

    def on_cycle(self, cycle: Cycle) -> None:
        """Take in one look at the cards. A card with a fault has no reading: it is a gap."""
        interval, now = self._settings.interval, cycle.monotonic
        # A look that comes a little early is this interval's; one that was asked for in between is not.
        if now < self._due - interval / 4:
            return
        self._due = max(self._due + interval, now + interval / 2) if self._due > 0 else now + interval
        minute = int(cycle.at // 60)
        if self._rows and (minute != self._minute or now - self._began >= _MOST_SECONDS):
            self._turn()
        if not self._rows:
            self._minute, self._began = minute, now
        for report in cycle.cards:
            if report.fault is None:
                self._rows.setdefault(report.identity.uuid, []).append((cycle.at, report.reading))
        if now >= self._host_due:
            self._host_due = now + max(HOST_SECONDS, interval) - interval / 4
            self._rows.setdefault(HOST, []).append((cycle.at, self._host.read(now)))

    def _turn(self) -> None:
        """A minute is over: have it written."""
        if len(self._minutes) == _MOST_MINUTES:
            self._lost += 1
        self._minutes.append(self._rows)
        self._rows = {}
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._write))

    async def flush(self) -> None:
        """Have everything written that can be, the minute that is not over too."""
        await self._written()
        if self._rows:
            self._turn()
        await self._written()

    async def _written(self) -> None:
        """Until no thread writes and no minute waits for one."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
            if self._minutes:
                self._task = asyncio.create_task(asyncio.to_thread(self._write))

    async def close(self) -> None:
        """Write what there is, and close the file."""
        self._closing.set()
        await self.flush()
        await asyncio.to_thread(self._close)

    async def maintain(self) -> None:
        """Compact and forget; at the start and every hour."""
        await asyncio.to_thread(self._keep)

    async def series(self, entity: str, metric: str, since: float, until: float, step: float) -> Series:
        """``metric`` (``store.telemetry_metrics``) of a card's UUID or ``host``, the present minute included; see
        ``Telemetry.series``. Raises NotFoundError for an unknown metric, UnavailableError where the file cannot be
        read, MigrationError where it is of a later release."""
        # Rows may be appended while the thread packs them, and whole minutes be handed over: a copy of the references.
        present = [{entity: list(minute[entity])} for minute in (*self._minutes, self._rows) if entity in minute]
        return await asyncio.to_thread(self._series, present, entity, metric, since, until, step)

    async def entities(self) -> list[str]:
        """Cards (by UUID) and host that anything is recorded of."""
        return await asyncio.to_thread(self._entities)

    async def copy_to(self, target: Path) -> None:
        """Write a consistent copy of the file, up to the last whole minute, while recording goes on. Raises as
        ``series`` does, and sqlite3.Error where ``target`` cannot be written."""
        await asyncio.to_thread(self._copy, target)

    def warnings(self) -> list[str]:
        """What a person should know of the recording: nothing, but where it fails or has lost anything."""
        found = [] if self._trouble is None else [self._trouble]
        if self._lost:
            found.append(f"telemetry: {self._lost} minutes of samples were lost while the disk did not take them")
        store = self._store
        if store is not None and store.file.set_aside:
            found.append(f"telemetry was damaged and has begun anew; what is left of it is {store.file.set_aside[-1]}")
        return found

    # --- the threads' side -----------------------------------------------------------------------------------------

    def _opened(self) -> Telemetry:
        if self._refused is not None:
            raise self._refused
        if self._store is None:
            try:
                self._store = Telemetry(self._path)
            except MigrationError as error:
                self._refused = error
                raise
        return self._store

    def _write(self) -> None:
        with self._lock:
            try:
                while self._minutes:
                    self._wait_for_disk(_packed(self._minutes.popleft()))
                self._opened().append(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
            except P104Error as error:
                self._tell(error.line())
            except Exception as error:
                log.exception("recording failed", extra={"action": "telemetry"})
                self._tell(f"telemetry cannot be recorded: {error}")
            else:
                self._tell(None)

    def _wait_for_disk(self, chunks: Sequence[NewChunk]) -> None:
        self._waiting.extend(chunks)
        self._waiting_bytes += sum(len(chunk.data) for chunk in chunks)
        dropped = set()
        while self._waiting_bytes > _MOST_WAITING_BYTES:
            oldest = self._waiting.popleft()
            self._waiting_bytes -= len(oldest.data)
            dropped.add(oldest.start)
        self._lost += len(dropped)

    def _tell(self, trouble: str | None) -> None:
        """Log a trouble when it begins and when it is over."""
        if trouble is not None and self._trouble is None:
            log.warning("%s", trouble, extra={"action": "telemetry"})
        elif trouble is None and self._trouble is not None:
            log.info("telemetry is written again", extra={"action": "telemetry"})
        self._trouble = trouble

    @contextmanager
    def _reading(self) -> Iterator[Telemetry]:
        """The file, for as long as no thread writes to it. A disk that hangs is an answer, too."""
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise UnavailableError("the history cannot be read: its disk does not answer", mend="try again")
        try:
            yield self._opened()
        finally:
            self._lock.release()

    def _keep(self) -> None:
        with self._keeping:
            self._keep_alone()

    def _keep_alone(self) -> None:
        if self._closing.is_set():
            return
        try:
            # The file's own lock is taken step by step: minutes are written in between.
            with self._reading() as store:
                pass
            keep(store, self._clock.now(), self._settings.keep, self._closing.is_set)
        except P104Error as error:
            self._tell(error.line())
        except Exception:
            log.exception("compaction failed", extra={"action": "telemetry"})

    def _series(
        self, present: Sequence[_Minute], entity: str, metric: str, since: float, until: float, step: float
    ) -> Series:
        with self._reading() as store:
            extra = [chunk for chunk in self._waiting if chunk.entity == entity]
            extra += [chunk for minute in present for chunk in _packed(minute)]
            return store.series(entity, metric, since, until, step, extra)

    def _copy(self, target: Path) -> None:
        with self._reading() as store:
            file = store.file
        # On a connection of its own: minutes are written meanwhile.
        file.copy_to(target)

    def _entities(self) -> list[str]:
        with self._reading() as store:
            return store.entities()

    def _close(self) -> None:
        with self._keeping, self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None


def _packed(minute: _Minute) -> list[NewChunk]:
    """A minute's rows as chunks."""
    return [chunk for entity, rows in minute.items() for chunk in pack(_samples(entity, rows))]


def _samples(entity: str, rows: Sequence[_Row]) -> Samples:
    times = [at for at, _ in rows]
    if entity == HOST:
        values = [row for _, row in rows if isinstance(row, dict)]
        return Samples(entity, times, {each.number: [row.get(each.number) for row in values] for each in HOST_METRICS})
    readings = [reading for _, reading in rows if isinstance(reading, CardReading)]
    columns: dict[int, Sequence[int | None]] = {
        metric.number: column if metric.scale == 1 else [metric.kept(value) for value in column]
        for metric, column in zip(_READ, zip(*map(_fields, readings), strict=True), strict=True)
    }
    columns[_THROTTLE.number] = [
        None if reading.throttle == () and reading.sm_clock_mhz is None else throttle_bits(reading.throttle)
        for reading in readings
    ]
    return Samples(entity, times, columns)


__all__ = ["HOST", "Keep", "Sampler", "SamplerSettings", "Series", "UnavailableError"]
