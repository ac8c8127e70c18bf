"""The rig as the daemon sees it: cycles from a sensor process that may hang, die and come back.

While one card hangs, the others are read on by a new sensor that leaves it alone; a separate process knocks at the
hung card with growing pauses until it answers, and then it is read with the others again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from p104d.core.card import CardIdentity, CardReading, CardReport
from p104d.hardware.messages import CardSettings, Command, Cycle, DriverProblem, Place, ProcessClaim, SensorConfig
from p104d.hardware.rig import Rig
from p104d.hardware.sensor_child import START_SECONDS, End, SensorChild
from p104d.hardware.setting_asks import SettingAsks

#: Pause before a sensor that died is started again, growing while it keeps dying.
_RESTART_SECONDS = (0.1, 30.0)
#: From this many deaths in a row on, people are told.
_DEATHS_TOLD = 3
#: How long ``close`` waits for killed children to be gone.
_CLOSE_SECONDS = 2.0
#: A probe looks once: the next cycle of its sensor never comes.
_PROBE_INTERVAL = 3600.0


class _Hung:
    """A card whose calls do not return."""

    def __init__(self, place: Place, identity: CardIdentity | None, delay: float) -> None:
        self.place, self.identity, self.delay = place, identity, delay
        self.probe: asyncio.Task[None] | None = None

    def report(self, seconds: float) -> CardReport | None:
        if self.identity is None:
            return None
        text = f"a call into the driver did not return for {seconds:g} s"
        return CardReport(identity=self.identity, reading=CardReading(), fault="hang", fault_text=text)


class Sensors:
    """Keeps a sensor running and merges what it says.

    ``simulate`` is a rig in the place of the real one, its times counted from ``epoch`` (CLOCK_MONOTONIC seconds).
    ``interval`` is seconds from cycle to cycle, ``deadline`` how long one card may take, ``start_deadline`` how long
    the driver may take to initialise. ``on_cycle`` is called in the event loop for every cycle, with every card
    known: one that hangs is in it with ``fault="hang"``, one that is gone is not in it. ``probe_seconds`` are the
    first and the longest pause between attempts to reach a hung card.
    """

    def __init__(
        self,
        *,
        simulate: Rig | None = None,
        epoch: float = 0.0,
        interval: float = 1.0,
        deadline: float = 5.0,
        start_deadline: float = START_SECONDS,
        probe_seconds: tuple[float, float] = (10.0, 300.0),
        kernel_log: str | None = "/dev/kmsg",
        on_cycle: Callable[[Cycle], None],
    ) -> None:
        self._deadline, self._start_deadline = deadline, start_deadline
        self._probe_seconds = probe_seconds
        self._on_cycle = on_cycle
        # A simulated rig has nothing to do with the XIDs of this host's real cards.
        log = kernel_log if simulate is None or kernel_log != "/dev/kmsg" else None
        self._config = SensorConfig(interval=interval, simulate=simulate, epoch=epoch, kernel_log=log)
        self._child: SensorChild | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._ended: list[SensorChild] = []
        self._hung: dict[Place, _Hung] = {}
        self._pauses: dict[Place, tuple[float, float]] = {}
        self._last: tuple[CardReport, ...] = ()
        self._asks = SettingAsks()
        self._sequence = self._restarts = self._deaths = 0
        self._closed = False

    @property
    def restarts(self) -> int:
        """How often a sensor was started anew since ``start``."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """The process that reads the cards now; None between two of them."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> None:
        """Start looking; the first cycle comes as soon as the driver is initialised."""
        self._start_child()

    async def close(self) -> None:
        """End all sensor processes. Waits for them a moment, never for one that cannot die."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        probes = [hung.probe for hung in self._hung.values() if hung.probe is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        if self._child is not None:
            self._child.kill()
            self._ended.append(self._child)
            self._child = None
        reaped = [child.reaped for child in self._ended if child.reaped is not None]
        if reaped:
            _, late = await asyncio.wait(reaped, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for child in self._ended:
            child.abandon()

    def look_now(self) -> None:
        """Ask for a cycle at once."""
        self._send(Command(look=True))

    def set_interval(self, seconds: float) -> None:
        """From now on a cycle every ``seconds``."""
        self._config = msgspec.structs.replace(self._config, interval=seconds)
        self._send(Command(interval=seconds))

    def set_processes(self, processes: Iterable[tuple[int, str, int]]) -> None:
        """All job processes as (pid, card UUID, bytes of its memory): the simulator shows them on their cards.
        A real driver needs nobody to tell it."""
        if self._config.simulate is None:
            return
        claims = tuple(ProcessClaim(pid, uuid, memory) for pid, uuid, memory in processes)
        if claims != self._config.processes:
            self._config = msgspec.structs.replace(self._config, processes=claims)
            self._send(Command(processes=claims))

    def apply(self, wanted: Mapping[str, CardSettings]) -> None:
        """Have these set on cards, by UUID, and look at once. Every setting is answered in a cycle's ``settings``, also
        where the sensor hangs or dies over it; nothing is tried twice."""
        self._asks.ask(wanted)
        if self._child is None:
            self._asks.end()
        self._send(Command(settings=dict(wanted)))

    def _send(self, command: Command) -> None:
        if self._child is not None:
            self._child.send(command)

    def _start_child(self) -> None:
        self._restart = None
        if self._closed:
            return
        self._config = msgspec.structs.replace(self._config, skip=tuple(self._hung))
        self._child = SensorChild(
            self._config,
            deadline=self._deadline,
            start=self._start_deadline,
            on_cycle=self._heard,
            on_end=self._child_ended,
        )

    def _heard(self, cycle: Cycle) -> None:
        self._deaths = 0
        self._asks.heard(cycle.settings)
        self._config = msgspec.structs.replace(
            self._config,
            since=cycle.monotonic,
            kernel_after=self._config.kernel_after if cycle.kernel_sequence is None else cycle.kernel_sequence,
            settings=self._asks.applied if self._config.simulate is not None else {},
        )
        self._publish(cycle)

    def _publish(self, cycle: Cycle) -> None:
        self._sequence += 1
        answering = {card.identity.uuid for card in cycle.cards}
        reports = [hung.report(self._deadline) for hung in self._hung.values()]
        hung = [report for report in reports if report is not None and report.identity.uuid not in answering]
        self._last = tuple(sorted([*cycle.cards, *hung], key=lambda card: card.identity.index))
        problem = cycle.problem or self._unknown_hung()
        told = {"sequence": self._sequence, "cards": self._last, "problem": problem}
        self._on_cycle(msgspec.structs.replace(cycle, **told, settings=(*cycle.settings, *self._asks.take())))

    def _unknown_hung(self) -> DriverProblem | None:
        """A card that never said who it is cannot be reported as a card."""
        for place, hung in self._hung.items():
            if hung.identity is None:
                return DriverProblem(
                    kind="card_hangs",
                    message=f"the card at {place.bus_id or place.index} does not answer: a call into the driver hangs",
                    mend="check its riser and power cable and `dmesg | grep -i xid`; a reboot often brings it back",
                )
        return None

    def _child_ended(self, end: End, place: Place, text: str) -> None:
        self._retire()
        self._restarts += 1
        if end is End.HUNG_CARD:
            self._hang(place)
            self._start_child()
            return
        self._asks.end()
        self._deaths += 1
        if end is End.HUNG_DRIVER:
            self._driver_hangs()
        elif self._deaths >= _DEATHS_TOLD:
            self._sensor_dies(text)
        pause = min(_RESTART_SECONDS[1], _RESTART_SECONDS[0] * 2 ** (self._deaths - 1))
        self._restart = asyncio.get_running_loop().call_later(pause, self._start_child)

    def _retire(self) -> None:
        assert self._child is not None
        self._ended = [child for child in self._ended if child.reaped is not None and not child.reaped.done()]
        self._ended.append(self._child)
        self._child = None

    def _hang(self, place: Place) -> None:
        identity = next((card.identity for card in self._last if _at(card.identity, place)), None)
        self._asks.end(hung=identity.uuid if identity is not None else None)
        if identity is not None:
            place = Place(index=identity.index, bus_id=identity.bus_id)
        first, longest = self._probe_seconds
        pause, ended = self._pauses.get(place, (0.0, float("-inf")))
        again = time.monotonic() - ended < longest
        hung = _Hung(place, identity, min(longest, pause * 2) if again else first)
        self._hung[place] = hung
        hung.probe = asyncio.get_running_loop().create_task(self._knock(hung))

    async def _knock(self, hung: _Hung) -> None:
        """Until the card answers."""
        while True:
            await asyncio.sleep(hung.delay)
            if await self._probe(hung.place):
                break
            hung.delay = min(hung.delay * 2, self._probe_seconds[1])
        self._pauses[hung.place] = (hung.delay, time.monotonic())
        del self._hung[hung.place]
        self._config = msgspec.structs.replace(self._config, skip=tuple(self._hung))
        self._send(Command(skip=self._config.skip))

    async def _probe(self, place: Place) -> bool:
        """Whether a sensor of its own gets through a cycle of this card alone."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def settle(answer: bool) -> None:
            if not answered.done():
                answered.set_result(answer)

        config = msgspec.structs.replace(
            self._config, interval=_PROBE_INTERVAL, only=(place,), skip=(), processes=(), kernel_log=None
        )
        child = SensorChild(
            config,
            deadline=self._deadline,
            start=self._start_deadline,
            on_cycle=lambda _: settle(True),
            on_end=lambda *_: settle(False),
        )
        try:
            answer = await answered
        finally:
            child.kill()
            self._ended.append(child)
        if not answer and child.reaped is not None:
            # One that cannot die is stuck in the driver still: another beside it would be stuck as well.
            await asyncio.shield(child.reaped)
        return answer

    def _driver_hangs(self) -> None:
        self._report(
            DriverProblem(
                kind="hang",
                message="the NVIDIA driver does not answer: its initialisation hangs",
                mend="look at `dmesg | grep -i -e nvrm -e xid`; only a reboot ends processes stuck in the driver",
            ),
            tuple(
                CardReport(identity=card.identity, reading=CardReading(), fault="hang", fault_text="the driver hangs")
                for card in self._last
            ),
        )

    def _sensor_dies(self, text: str) -> None:
        self._report(
            DriverProblem(
                kind="sensor",
                message=f"the process that reads the cards keeps dying: {text or 'without a word'}",
                mend="see the daemon's log; `nvidia-smi` tells whether the driver works",
            ),
            (),
        )

    def _report(self, problem: DriverProblem, cards: tuple[CardReport, ...]) -> None:
        self._publish(Cycle(at=time.time(), monotonic=time.monotonic(), sequence=0, problem=problem, cards=cards))


def _at(identity: CardIdentity, place: Place) -> bool:
    if place.bus_id is not None and identity.bus_id is not None:
        return place.bus_id == identity.bus_id
    return place.index is not None and place.index == identity.index
