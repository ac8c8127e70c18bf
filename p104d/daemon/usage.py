"""What a running job makes of its cards, added up with every look: power, energy, memory, heat, clocks.

Nothing is made up: energy is the trapezoid between two readings at most ``MOST_GAP_SECONDS`` apart, and what lies
between others (the daemon was down, the card did not answer) counts neither as energy nor as time. Time is the sensor's
own monotonic clock; the host's clock may be set meanwhile. Of a card that jobs share, each gets power in proportion to
the memory it reserved; of a card of its own, a job gets all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from p104d.core.card import CardReading, CardReport
from p104d.core.job import Measurement
from p104d.daemon.sights import Sight
from p104d.engines.measure_names import GENERATION_TOKENS, ITEMS, ITERATIONS
from p104d.hardware.messages import Cycle
from p104d.policy.health import THROTTLE_NOTES, throttle_alarms
from p104d.store.reads import OpenAttempt

#: Readings come once a second; of a longer gap nobody knows what was between.
MOST_GAP_SECONDS = 5.0
#: Where the store keeps what was added up of running attempts, as JSON by ``<job>-<attempt>``.
KEY = "usage"
_POWER_CAP = THROTTLE_NOTES[0x04]
_JOULES_PER_WATT_HOUR = 3600.0
#: Of an attempt's time, the part whose power must be known for energy by the token: below it the rest is a guess.
_LEAST_COVERED = 0.8


class _Mean(msgspec.Struct):
    """A quantity averaged over time: its integral, the seconds that counted, its most; ``last`` is the reading that the
    next stretch begins at: (monotonic second, value)."""

    total: float = 0.0
    seconds: float = 0.0
    most: float | None = None
    last: tuple[float, float] | None = None

    def add(self, at: float, value: float | None) -> None:
        """Take in a reading; None ends the stretch."""
        if value is None:
            self.last = None
            return
        if self.last is not None and 0 < at - self.last[0] <= MOST_GAP_SECONDS:
            step = at - self.last[0]
            self.total += (value + self.last[1]) / 2 * step
            self.seconds += step
        self.most = value if self.most is None else max(self.most, value)
        self.last = (at, value)

    @property
    def mean(self) -> float | None:
        return self.total / self.seconds if self.seconds > 0 else None


class _OnCard(msgspec.Struct):
    """What an attempt did on one of its cards. Bytes are the most that its processes held, and that the card held."""

    power: _Mean = msgspec.field(default_factory=_Mean)
    temperature: _Mean = msgspec.field(default_factory=_Mean)
    sm_clock: _Mean = msgspec.field(default_factory=_Mean)
    memory_clock: _Mean = msgspec.field(default_factory=_Mean)
    link: _Mean = msgspec.field(default_factory=_Mean)
    own_bytes: int = 0
    card_bytes: int = 0
    exclusive: bool = True


class _Attempt(msgspec.Struct):
    """What an attempt did on all its cards together. Seconds in which one of them or more was held back."""

    cards: dict[str, _OnCard] = {}
    peak_watts: float | None = None
    throttled: float = 0.0
    capped: float = 0.0
    seen: float = 0.0
    last: float | None = None


_decode = msgspec.json.Decoder(dict[str, _Attempt]).decode


class Usage:
    """Adds up what running attempts use. ``energy_price`` is of a kWh, in ``currency``; 0: no cost is told."""

    def __init__(self, *, energy_price: float = 0.0, currency: str = "EUR") -> None:
        self._price, self._currency = energy_price, currency
        self._attempts: dict[tuple[int, int], _Attempt] = {}

    def on_cycle(self, cycle: Cycle, attempts: Sequence[OpenAttempt], sights: Mapping[str, Sight]) -> None:
        """Take in one look at the cards. ``sights`` tell whose processes are on them, after this cycle."""
        running = [each for each in attempts if each.holds and each.started_at is not None]
        reports = {report.identity.uuid: report for report in cycle.cards if report.fault is None}
        shares = _shares(running)
        for attempt in running:
            key = (attempt.job_id, attempt.number)
            self._look(self._attempts.setdefault(key, _Attempt()), attempt, cycle.monotonic, reports, sights, shares)
        open_now = {(each.job_id, each.number) for each in attempts}
        # An attempt whose end nobody asked about (it was swept before it was told) is not kept for ever.
        for key in [key for key, known in self._attempts.items() if key not in open_now and _stale(known, cycle)]:
            del self._attempts[key]

    def _look(
        self,
        known: _Attempt,
        attempt: OpenAttempt,
        now: float,
        reports: Mapping[str, CardReport],
        sights: Mapping[str, Sight],
        shares: Mapping[tuple[int, str], float],
    ) -> None:
        watts: list[float | None] = []
        reasons: set[str] = set()
        for uuid, _reserved, exclusive in attempt.holds:
            card = known.cards.setdefault(uuid, _OnCard())
            reading = reports[uuid].reading if uuid in reports else CardReading()
            share = 1.0 if exclusive else shares[attempt.job_id, uuid]
            power = None if reading.power_watts is None else reading.power_watts * share
            watts.append(power)
            reasons.update(reading.throttle)
            card.exclusive = exclusive
            _take(card, reading, power, now)
            _take_memory(card, attempt.job_id, reading, sights.get(uuid))
        present = [each for each in watts if each is not None]
        if present and len(present) == len(watts):
            known.peak_watts = max(known.peak_watts or 0.0, sum(present))
        if known.last is not None and 0 < now - known.last <= MOST_GAP_SECONDS:
            step = now - known.last
            known.seen += step
            known.throttled += step if throttle_alarms(tuple(reasons)) else 0.0
            known.capped += step if _POWER_CAP in reasons else 0.0
        known.last = now

    def ended(
        self,
        job_id: int,
        number: int,
        read: Sequence[Measurement] = (),
        *,
        whole: bool = True,
        seconds: float | None = None,
    ) -> tuple[Measurement, ...]:
        """What the attempt used, with what follows from what was ``read`` from its output; it is forgotten.

        ``whole``: all of its output was read, so that its tokens and items are counted. ``seconds``: how long it ran;
        energy by the token is made from power over all of that, and only where the power was known for most of it.
        Empty where the attempt was never seen on a card: a job of a second, or one for the host's processor.
        """
        known = self._attempts.pop((job_id, number), None)
        return () if known is None else self._figures(known, read if whole else (), seconds)

    def so_far(self, job_id: int, number: int) -> tuple[Measurement, ...]:
        """What a running attempt has used until now."""
        known = self._attempts.get((job_id, number))
        return () if known is None else self._figures(known, ())

    def _figures(
        self, known: _Attempt, read: Sequence[Measurement], seconds: float | None = None
    ) -> tuple[Measurement, ...]:
        cards = known.cards.values()
        powers = [card.power for card in cards if card.power.seconds > 0]
        joules = sum(power.total for power in powers) if len(powers) == len(known.cards) and powers else None
        figures: list[tuple[str, float | None, str]] = [
            ("peak_vram_bytes", _most(float(_bytes(card)) for card in cards if _bytes(card)), "B"),
            ("mean_power_watts", None if joules is None else sum(power.mean or 0.0 for power in powers), "W"),
            ("peak_power_watts", known.peak_watts, "W"),
            ("energy_watt_hours", None if joules is None else joules / _JOULES_PER_WATT_HOUR, "Wh"),
            ("throttled_seconds", known.throttled if known.seen > 0 else None, "s"),
            ("power_capped_seconds", known.capped if known.seen > 0 else None, "s"),
            ("mean_temperature_celsius", _most(card.temperature.mean for card in cards), "°C"),
            ("max_temperature_celsius", _most(card.temperature.most for card in cards), "°C"),
            ("mean_sm_clock_mhz", _least(card.sm_clock.mean for card in cards), "MHz"),
            ("mean_memory_clock_mhz", _least(card.memory_clock.mean for card in cards), "MHz"),
            ("link_lanes_gen1", _least(card.link.most for card in cards), "lanes"),
        ]
        if joules is not None:
            figures.append(("measured_seconds", min(power.seconds for power in powers), "s"))
        if joules is not None and joules > 0:
            if self._price > 0:
                figures.append(("cost", joules / _JOULES_PER_WATT_HOUR / 1000 * self._price, self._currency))
            covered = min(power.seconds for power in powers) / seconds if seconds else 1.0
            if covered >= _LEAST_COVERED:
                figures += _derived(joules / min(1.0, covered), {each.name: each.value for each in read})
        return tuple(Measurement(name=name, value=each, unit=unit) for name, each, unit in figures if each is not None)

    # --- over a restart of the daemon --------------------------------------------------------------------------------

    def save(self) -> dict[str, str]:
        """Setting -> JSON of all running attempts, to be kept in place of what was kept before. Worth doing every
        minute or so: what is lost in a crash is what was used since."""
        kept = {f"{job}-{number}": known for (job, number), known in self._attempts.items()}
        return {KEY: msgspec.json.encode(kept).decode()}

    def load(self, kept: str | None) -> None:
        """Go on from what ``save`` gave to an earlier daemon. The time between is not bridged."""
        try:
            attempts = {} if kept is None else _decode(kept)
        except msgspec.DecodeError:
            return  # of another release: it is added up anew
        for key, known in attempts.items():
            job, _, number = key.partition("-")
            if not (job.isdecimal() and number.isdecimal()):
                continue
            self._attempts[int(job), int(number)] = known
            known.last = None
            for card in known.cards.values():
                for mean in (card.power, card.temperature, card.sm_clock, card.memory_clock, card.link):
                    mean.last = None


def _derived(joules: float, read: Mapping[str, float]) -> list[tuple[str, float | None, str]]:
    """Energy by what it was spent on."""
    figures: list[tuple[str, float | None, str]] = []
    watt_hours = joules / _JOULES_PER_WATT_HOUR
    if tokens := read.get(GENERATION_TOKENS):
        figures += [
            ("joules_per_token", joules / tokens, "J/token"),
            ("watt_hours_per_1000_tokens", watt_hours / tokens * 1000, "Wh"),
        ]
    if items := read.get(ITEMS):
        figures.append(("watt_hours_per_item", watt_hours / items, "Wh"))
    if iterations := read.get(ITERATIONS):
        figures.append(("joules_per_iteration", joules / iterations, "J/it"))
    return figures


def _stale(known: _Attempt, cycle: Cycle) -> bool:
    """Long enough for its end to have been asked about."""
    return known.last is None or not 0 <= cycle.monotonic - known.last < 600.0


def _shares(running: Sequence[OpenAttempt]) -> dict[tuple[int, str], float]:
    """(job, card) -> which part of a shared card's power is the job's."""
    reserved: dict[str, dict[int, int]] = {}
    for attempt in running:
        for uuid, size, exclusive in attempt.holds:
            if not exclusive:
                reserved.setdefault(uuid, {})[attempt.job_id] = max(1, size)
    return {(job, uuid): size / sum(sizes.values()) for uuid, sizes in reserved.items() for job, size in sizes.items()}


def _take(card: _OnCard, reading: CardReading, power: float | None, now: float) -> None:
    lanes = None
    if reading.link_width and reading.link_generation:
        # A generation doubles what a lane carries: one figure for both, in lanes of generation 1.
        lanes = float(reading.link_width * 2 ** (reading.link_generation - 1))
    card.power.add(now, power)
    card.temperature.add(now, reading.temperature_celsius)
    card.sm_clock.add(now, reading.sm_clock_mhz)
    card.memory_clock.add(now, reading.memory_clock_mhz)
    card.link.add(now, lanes)


def _take_memory(card: _OnCard, job_id: int, reading: CardReading, sight: Sight | None) -> None:
    """Whose memory it is was told anew only with a look that has processes."""
    if reading.processes is not None and sight is not None:
        card.own_bytes = max(card.own_bytes, sight.ours.get(job_id, 0))
    if reading.memory_used_bytes is not None:
        foreign = sight.foreign_bytes if sight is not None else 0
        card.card_bytes = max(card.card_bytes, reading.memory_used_bytes - foreign)


def _bytes(card: _OnCard) -> int:
    return card.own_bytes or (card.card_bytes if card.exclusive else 0)


def _most(values: Iterable[float | None]) -> float | None:
    return max((each for each in values if each is not None), default=None)


def _least(values: Iterable[float | None]) -> float | None:
    return min((each for each in values if each is not None), default=None)
