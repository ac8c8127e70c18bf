"""History: bytes a value, the time to read a day's series, the size of a month, and what looking costs.

The day is written by the daemon's own sampler, minute by minute, with its hourly maintenance; only the cards are made
up (``telemetry_load``). The month is that day times thirty.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.peers import prometheus
from bench.peers.poller import NAMES, Poller
from bench.proc import cpu_nanoseconds, memory_bytes
from bench.queues import Unavailable
from bench.rows_idle import cost_rows
from bench.setting import Setting, folder
from bench.stats import interleaved, median
from bench.table import Ratios, Row, milliseconds
from bench.telemetry_load import LoadedCard, cycles
from p104d.core.card import CardReading
from p104d.core.clock import ManualClock
from p104d.daemon.sampler import Sampler, SamplerSettings
from p104d.store.telemetry import Telemetry
from p104d.store.telemetry_metrics import throttle_bits

CARDS = 12
HOUR, DAY, MONTH_DAYS = 3600, 86400, 30
#: A midnight (UTC), so that the day is whole.
START = 1_760_054_400
#: What wavers. The metrics that stand still for days (limit, link) cost next to nothing and are not counted as values.
VARYING = (
    "temperature_celsius",
    "fan_percent",
    "power_watts",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "utilization_percent",
    "memory_utilization_percent",
    "memory_used_bytes",
    "throttle_bits",
    "pcie_receive_bytes_per_second",
)
BYTES_LIMIT, READ_LIMIT_SECONDS, MONTH_LIMIT = 0.55, 0.015, 250e6


@dataclass(frozen=True)
class Written:
    """A history on disk: ``used`` bytes hold samples of ``seconds`` seconds, and there is room (``free`` bytes) for
    what comes: the minutes of an hour before they are compacted, once, however long the history is."""

    path: Path
    used: int
    free: int
    seconds: int

    @property
    def bytes_per_value(self) -> float:
        """Everything the file holds, points and host included, over the values of cards that vary."""
        return self.used / (CARDS * len(VARYING) * self.seconds)


async def record(place: str, seconds: int) -> Written:
    """Let the sampler record a rig for so long, with maintenance every hour."""
    path = Path(place) / "telemetry.db"
    clock = ManualClock(float(START))
    sampler = Sampler(path, Path(place), SamplerSettings(), clock)
    for cycle in cycles(CARDS, START, seconds):
        sampler.on_cycle(cycle)
        clock.advance(1.0)
        # Minutes follow each other here faster than threads take turns: each is waited for.
        if cycle.sequence % 60 == 59:
            await sampler.flush()
        if cycle.sequence % HOUR == HOUR - 1:
            await sampler.maintain()
    clock.advance(float(DAY))
    await sampler.maintain()
    await sampler.close()
    store = Telemetry(path)
    used = store.size_bytes()
    store.close()
    return Written(path, used, os.path.getsize(path) - used, seconds)


def value_of(reading: CardReading, name: str) -> float:
    """A varying metric as a number, watts to the tenth that we keep."""
    if name == "throttle_bits":
        return throttle_bits(reading.throttle)
    value = getattr(reading, name)
    return round(value, 1) if name == "power_watts" else int(value)


def open_metrics(seconds: int) -> Iterator[str]:
    """One card's series as OpenMetrics text, metric by metric as the format has it."""
    card = LoadedCard(0)
    readings = [card.second(second) for second in range(START, START + seconds)]
    for name in VARYING:
        yield f"# TYPE p104_{name} gauge\n"
        for second, reading in enumerate(readings):
            yield f'p104_{name}{{card="{card.identity.uuid}"}} {value_of(reading, name)} {START + second}.31\n'


def measure_store(setting: Setting) -> list[Row]:
    """Size and reading, beside Prometheus with one card's same series."""
    seconds = 2 * HOUR if setting.quick else DAY
    card = LoadedCard(0).identity.uuid
    theirs: dict[str, float] = {}
    with folder() as place, folder() as other, contextlib.ExitStack() as stack:
        written = asyncio.run(record(place, seconds))
        sampler = Sampler(written.path, Path(place), SamplerSettings(), ManualClock(START))
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        stack.callback(lambda: loop.run_until_complete(sampler.close()))

        def ours(metric: str) -> float:
            started = time.perf_counter()
            series = loop.run_until_complete(sampler.series(card, metric, START, START + DAY, 1.0))
            took = time.perf_counter() - started
            assert len(series.times) == seconds, f"{len(series.times)} samples instead of {seconds}"
            return took

        acts: dict[str, Callable[[], float]] = {metric: partial(ours, metric) for metric in VARYING}
        try:
            data = prometheus.imported(open_metrics(seconds), other)
            theirs["size"] = prometheus.size(data) / (len(VARYING) * seconds)
            server = stack.enter_context(prometheus.served(data, other))
        except Unavailable as error:
            print(f"bench: going on without a peer: {error}", file=sys.stderr)
        else:

            def asked() -> float:
                started = time.perf_counter()
                found = prometheus.samples(server, "p104_power_watts[24h]", START + DAY)
                took = time.perf_counter() - started
                assert found >= seconds - 1, f"{found} samples instead of {seconds}"
                return took

            acts["prometheus"] = asked
        taken = {name: median(values) for name, values in interleaved(acts, setting.rounds(30)).items()}
    return _store_rows(written, taken, theirs)


def _store_rows(written: Written, taken: dict[str, float], theirs: dict[str, float]) -> list[Row]:
    hours = written.seconds // HOUR
    value = Ratios(written.bytes_per_value)
    value.against("prometheus", theirs.get("size"))
    asked = taken.pop("prometheus", None)
    slowest = max(taken, key=taken.__getitem__)
    reading = Ratios(taken[slowest])
    reading.against("prometheus", asked)
    month = written.used * MONTH_DAYS * DAY / written.seconds + written.free
    size = Ratios(month)
    peer = theirs.get("size")
    peer_month = None if peer is None else peer * CARDS * len(VARYING) * MONTH_DAYS * DAY
    size.against("prometheus", peer_month)
    return [
        Row(
            f"telemetry: {hours} h of {CARDS} cards at 1 Hz, bytes a value (all that is kept, {len(VARYING)} values)",
            f"{value.ours:.3f} B",
            "-" if peer is None else f"prometheus {peer:.3f} B",
            value.text,
            f"<= {BYTES_LIMIT} B",
            value.ours <= BYTES_LIMIT,
        ),
        Row(
            f"telemetry: all samples of {hours} h of one series (slowest: {slowest})",
            milliseconds(reading.ours),
            "-" if asked is None else f"prometheus (HTTP, power) {milliseconds(asked)}",
            reading.text,
            f"<= {milliseconds(READ_LIMIT_SECONDS)}",
            reading.ours <= READ_LIMIT_SECONDS,
        ),
        Row(
            f"telemetry: a month of {CARDS} cards ({hours} h written, times {MONTH_DAYS * 24 // hours})",
            f"{month / 1e6:.0f} MB",
            "-" if peer_month is None else f"prometheus {peer_month / 1e6:.0f} MB",
            size.text,
            f"< {MONTH_LIMIT / 1e6:.0f} MB",
            month < MONTH_LIMIT,
        ),
    ]


def measure_looking(setting: Setting) -> list[Row]:
    """Daemon and sensor, recording, beside monitors that only look: the same simulated driver, the same seconds."""
    with contextlib.ExitStack() as stack:
        pids: dict[str, list[int]] = {}
        for name in NAMES:
            try:
                poller = stack.enter_context(Poller(name, CARDS, stack.enter_context(folder())))
            except (Unavailable, RuntimeError) as error:
                print(f"bench: going on without a peer: {error}", file=sys.stderr)
                continue
            pids[name] = [poller.pid]
        rig = stack.enter_context(setting.rig(cards=CARDS))
        pids["p104d"] = rig.processes()
        # Over a minute's end at least twice: the write is part of the cost.
        time.sleep(2.0 if setting.quick else 10.0)
        before = {name: cpu_nanoseconds(found) for name, found in pids.items()}
        started = time.monotonic()
        time.sleep(6.0 if setting.quick else 121.0)
        elapsed = time.monotonic() - started
        used = {name: (cpu_nanoseconds(found) - before[name]) / elapsed / 1e7 for name, found in pids.items()}
        memory = {name: float(memory_bytes(found)) for name, found in pids.items()}
    return cost_rows(f"looking at {CARDS} cards at 1 Hz, recording", used, memory)
