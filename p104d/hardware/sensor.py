"""The sensor process: holds the driver, looks at the cards once a cycle, and may be killed at any time.

Started by ``sensor_child`` with two inherited descriptors: a SOCK_SEQPACKET socket (first the configuration, then
commands; cycles the other way) and the marker that tells what it is about to do. It imports little: on a rig with
4 GB of memory it should not be noticed. It ends when the other end of the socket closes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import Any

import msgspec

from p104d.hardware.driver_problem import no_module
from p104d.hardware.marker import Marker, Stage
from p104d.hardware.messages import CardSettings, Command, Cycle, DriverProblem, SensorConfig
from p104d.hardware.xid import KernelLog, XidCollector

#: The largest packet: a rig of 64 cards with long process lists stays far below.
PACKET_BYTES = 1 << 20


class Sensor:
    """The loop: wait for a command or the next cycle's time, look, tell."""

    def __init__(self, channel: socket.socket, marker: Marker, config: SensorConfig) -> None:
        self._channel = channel
        self._marker = marker
        self._interval = config.interval
        self._encoder = msgspec.msgpack.Encoder()
        self._commands = msgspec.msgpack.Decoder(Command)
        self._sequence = 0
        self._library: Any = None
        self._nvml, self._missing = self._driver(config)
        self._xids = XidCollector(_kernel_log(config))
        self._wanted: dict[str, CardSettings] = {}

    def _driver(self, config: SensorConfig) -> tuple[Any, DriverProblem | None]:
        """The driver's reader, or why there can be none in this process."""
        if config.simulate is not None:
            from p104d.hardware.simulated_nvml import SimulatedNvml

            self._library = SimulatedNvml(config.simulate, config.epoch, since=config.since)
            self._library.rig.set_processes(config.processes)
            self._library.rig.restore(config.settings, at=config.since)
        try:
            from p104d.hardware.nvml import Nvml
        except ImportError as error:
            return None, no_module(error)
        return Nvml(library=self._library, marker=self._marker, only=config.only, skip=config.skip), None

    def run(self) -> None:
        """Until the daemon goes away."""
        due = time.monotonic()
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            wait = due - time.monotonic()
            if wait <= 0:
                self._tell(self._look())
                self._marker.note(Stage.IDLE)
                due = max(due + self._interval, time.monotonic())
                continue
            if poll.poll(wait * 1000):
                packet = self._channel.recv(PACKET_BYTES)
                if not packet:
                    return
                if self._obey(self._commands.decode(packet)):
                    due = time.monotonic()

    def _obey(self, command: Command) -> bool:
        """Carry it out; whether to look at once."""
        if command.interval is not None:
            self._interval = command.interval
        if command.processes is not None and self._library is not None:
            self._library.rig.set_processes(command.processes)
        if command.skip is not None and self._nvml is not None:
            self._nvml.skip = command.skip
        for uuid, settings in (command.settings or {}).items():
            self._wanted[uuid] = self._wanted.get(uuid, CardSettings()).merged(settings)
        return bool(command.look or command.interval is not None or command.skip is not None or command.settings)

    def _look(self) -> Cycle:
        self._sequence += 1
        at, monotonic = time.time(), time.monotonic()
        nvml = self._nvml
        if nvml is None:
            return Cycle(at=at, monotonic=monotonic, sequence=self._sequence, problem=self._missing)
        # Before the look, so that it shows what came of it.
        settings = nvml.apply(self._wanted) if self._wanted else []
        self._wanted = {}
        cards = nvml.cycle()
        xids = self._xids.collect(nvml.events(), nvml.uuids(), monotonic)
        return Cycle(
            at=at,
            monotonic=monotonic,
            sequence=self._sequence,
            driver_version=nvml.driver_version,
            problem=nvml.problem,
            cards=cards,
            xids=xids,
            kernel_sequence=self._xids.log.sequence if self._xids.log is not None else None,
            opened_at=nvml.opened_at,
            settings=tuple(settings),
        )

    def _tell(self, cycle: Cycle) -> None:
        self._channel.send(self._encoder.encode(cycle))


def _kernel_log(config: SensorConfig) -> KernelLog | None:
    if config.kernel_log is None:
        return None
    try:
        return KernelLog(config.kernel_log, config.kernel_after)
    except OSError:
        return None  # not permitted, or in a container: NVML's events remain


def _name_process() -> None:
    """So that people find it in ps and top."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("p104d-sensor")


def main() -> None:
    """Descriptors of channel and marker are the two arguments."""
    _name_process()
    # Ctrl-C at a terminal is for the daemon, which then closes the channel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    marker = Marker(int(sys.argv[2]))
    packet = channel.recv(PACKET_BYTES)
    if not packet:
        return
    config = msgspec.msgpack.decode(packet, type=SensorConfig)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Sensor(channel, marker, config).run()
    # Without the interpreter's farewell: an unloading driver library may take seconds or crash.
    os._exit(0)
