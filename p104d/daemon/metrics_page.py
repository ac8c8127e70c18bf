"""The page that Prometheus reads, made of a picture of the daemon: families of samples, then text.

Names follow the Prometheus naming guide: base units (bytes, seconds, hertz, ratios from 0 to 1), counters end in
``_total``. A reading that the driver does not give is no sample. This module alone imports the Prometheus library, and
is imported by the first scrape: a daemon that nobody scrapes does not carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from p104d.api.messages import Card
from p104d.core.card import CardState, Verdict
from p104d.daemon.metrics_counts import Buckets, Counts
from p104d.daemon.metrics_dcgm import dcgm_families

MHZ = 1_000_000.0
_CARD = ["card", "index", "name"]

Reading = Callable[[Card], float | None]


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon knew at one moment; nothing in it changes any more. ``counts`` is a copy, ``scrapes`` counts the
    pages before this one, ``gather_seconds`` is what making the picture took."""

    version: str
    mode: str
    started_at: float
    paused: bool
    hostname: str
    cards: Sequence[Card]
    jobs: Mapping[str, int]
    counts: Counts
    heat: Mapping[str, float]
    warnings: int
    problem: str | None
    scrapes: int
    gather_seconds: float


def _scaled(name: str, factor: float) -> Reading:
    def read(card: Card) -> float | None:
        value = getattr(card, name)
        return None if value is None else value * factor

    return read


def _plain(name: str) -> Reading:
    return lambda card: getattr(card, name)


def _time(name: str) -> Reading:
    def read(card: Card) -> float | None:
        text = getattr(card, name)
        return None if text is None else datetime.fromisoformat(text).timestamp()

    return read


def _progress(card: Card) -> float | None:
    return None if card.verified_percent is None else card.verified_percent / 100


#: Every gauge of a card that is one number: name after ``p104_card_``, help, where it comes from.
CARD_GAUGES: tuple[tuple[str, str, Reading], ...] = (
    ("temperature_celsius", "Temperature of the GPU.", _plain("temperature_celsius")),
    ("power_watts", "Power drawn.", _plain("power_watts")),
    ("power_limit_watts", "Power limit in force.", _plain("power_limit_watts")),
    ("utilization_ratio", "Part of the time in which a kernel ran.", _scaled("utilization_percent", 0.01)),
    (
        "memory_utilization_ratio",
        "Part of the time in which memory was read or written.",
        _scaled("memory_utilization_percent", 0.01),
    ),
    ("fan_ratio", "Speed of the fan as a part of its highest.", _scaled("fan_percent", 0.01)),
    ("sm_clock_hertz", "Clock of the processors.", _scaled("sm_clock_mhz", MHZ)),
    ("memory_clock_hertz", "Clock of the memory.", _scaled("memory_clock_mhz", MHZ)),
    ("memory_size_bytes", "Memory that the card reports.", _plain("memory_total_bytes")),
    ("memory_used_bytes", "Memory in use, by whomever.", _plain("memory_used_bytes")),
    ("memory_reserved_bytes", "Memory that jobs have reserved.", _plain("memory_reserved_bytes")),
    ("memory_proven_bytes", "Memory that its test has proven.", _plain("memory_proven_bytes")),
    ("memory_foreign_bytes", "Memory used by processes that are no jobs.", _plain("memory_foreign_bytes")),
    ("link_generation", "PCIe generation of the link as it is.", _plain("link_generation")),
    ("link_generation_max", "PCIe generation that card and slot can have.", _plain("link_generation_max")),
    ("link_width", "PCIe lanes of the link as it is.", _plain("link_width")),
    ("link_width_max", "PCIe lanes that card and slot can have.", _plain("link_width_max")),
    (
        "host_to_device_bytes_per_second",
        "Speed of copies to the card, as its last memory test measured it.",
        _plain("host_to_device_bytes_per_second"),
    ),
    (
        "device_to_host_bytes_per_second",
        "Speed of copies from the card, as its last memory test measured it.",
        _plain("device_to_host_bytes_per_second"),
    ),
    ("jobs", "Jobs that hold the card or a part of it.", lambda card: len(card.jobs)),
    ("last_seen_timestamp_seconds", "When the card was last seen, as Unix time.", _time("last_seen_at")),
    ("verified_timestamp_seconds", "When its memory was last tested, as Unix time.", _time("verified_at")),
    ("memory_test_progress_ratio", "How far the memory test under way has come.", _progress),
    (
        "memory_test_due",
        "1 where a memory test is wanted and has not begun.",
        lambda card: 1.0 if card.test_due else 0.0,
    ),
)


def _label(value: object) -> str:
    return "" if value is None else str(value)


def card_labels(card: Card) -> list[str]:
    """UUID, index (empty for a missing card whose index is another's by now), name."""
    return [card.uuid, _label(card.index), _label(card.name)]


def _card_gauges(cards: Sequence[Card]) -> Iterator[Metric]:
    for name, text, read in CARD_GAUGES:
        family = GaugeMetricFamily(f"p104_card_{name}", text, labels=_CARD)
        for card in cards:
            value = read(card)
            if value is not None:
                family.add_metric(card_labels(card), value)
        yield family


def _card_words(cards: Sequence[Card]) -> Iterator[Metric]:
    """What is a word rather than a number: one series a word, 1 for the one that holds."""
    state = GaugeMetricFamily("p104_card_state", "1 for the state that the card is in.", labels=[*_CARD, "state"])
    verdict = GaugeMetricFamily(
        "p104_card_verdict", "1 for the verdict on the card's memory.", labels=[*_CARD, "verdict"]
    )
    # That a driver tells of no throttling and that it tells nothing look alike: there is no 0 to give.
    throttle = GaugeMetricFamily(
        "p104_card_throttle", "1 while the driver names this reason for a lowered clock.", labels=[*_CARD, "reason"]
    )
    info = GaugeMetricFamily(
        "p104_card_info",
        "Always 1; what the card is, in its labels.",
        labels=[*_CARD, "bus_id", "device_id", "vbios", "driver", "catalog_name"],
    )
    for card in cards:
        labels = card_labels(card)
        for each in CardState:
            state.add_metric([*labels, each.value], float(card.state == each.value))
        for one in Verdict:
            verdict.add_metric([*labels, one.value], float(card.verdict == one.value))
        for reason in card.throttle:
            throttle.add_metric([*labels, reason], 1.0)
        facts = (card.bus_id, card.device_id, card.vbios, card.driver, card.catalog_name)
        info.add_metric([*labels, *map(_label, facts)], 1.0)
    yield from (state, verdict, throttle, info)


def _xids(picture: Picture) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "p104_card_xid_errors", "XID errors that the driver reported of the card.", labels=[*_CARD, "code"]
    )
    known = {card.uuid: card_labels(card) for card in picture.cards}
    for (card, code), count in picture.counts.xids.items():
        family.add_metric([*known.get(card, [card, "", ""]), str(code)], count)
    yield family


def _histogram(name: str, text: str, values: Buckets) -> Metric:
    return HistogramMetricFamily(name, text, buckets=values.cumulative(), sum_value=values.sum)


def _jobs(picture: Picture) -> Iterator[Metric]:
    counts = picture.counts
    jobs = GaugeMetricFamily("p104_jobs", "Jobs that p104d keeps, by state.", labels=["state"])
    for state, number in picture.jobs.items():
        jobs.add_metric([state], number)
    ended = CounterMetricFamily("p104_jobs_ended", "Jobs that have ended, by why.", labels=["state", "reason"])
    for key, number in counts.ended.items():
        ended.add_metric(key, number)
    yield from (jobs, ended)
    yield _histogram("p104_job_wait_seconds", "From a job's submission to its first start.", counts.waits)
    yield _histogram("p104_job_run_seconds", "How long the last attempt of an ended job ran.", counts.runs)


def _tests(counts: Counts) -> Iterator[Metric]:
    family = CounterMetricFamily("p104_memory_tests", "Memory tests that have ended, by verdict.", labels=["verdict"])
    for verdict, number in counts.tests.items():
        family.add_metric([verdict], number)
    family.add_metric(["none"], counts.tests_cut_short)
    yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _daemon(picture: Picture) -> Iterator[Metric]:
    counts = picture.counts
    info = GaugeMetricFamily("p104_daemon_info", "Always 1; which p104d answers.", labels=["version", "mode"])
    info.add_metric([picture.version, picture.mode], 1.0)
    yield info
    yield _gauge("p104_daemon_start_time_seconds", "When p104d was started, as Unix time.", picture.started_at)
    yield _gauge("p104_daemon_paused", "1 while no new jobs are started.", float(picture.paused))
    yield _gauge("p104_warnings", "Warnings that p104ctl status shows.", picture.warnings)
    problem = GaugeMetricFamily("p104_driver_problem", "1 while the driver cannot be asked.", labels=["kind"])
    if picture.problem is not None:
        problem.add_metric([picture.problem], 1.0)
    heat = GaugeMetricFamily("p104_heat_limit_celsius", "Temperatures at which p104d acts.", labels=["limit"])
    for name, limit in picture.heat.items():
        heat.add_metric([name], limit)
    yield from (problem, heat)
    yield CounterMetricFamily("p104_sensor_cycles", "Looks at the whole rig.", value=counts.cycles)
    if counts.cycle_at is not None:
        yield _gauge("p104_sensor_last_cycle_timestamp_seconds", "When the rig was last looked at.", counts.cycle_at)
    yield _histogram("p104_loop_step_seconds", "Time that steps of the scheduler took.", counts.steps)
    yield CounterMetricFamily(
        "p104_loop_steps_failed", "Steps that could not be committed and were tried again.", value=counts.steps_failed
    )
    yield CounterMetricFamily("p104_scrapes", "Pages of metrics made before this one.", value=picture.scrapes)
    yield _gauge("p104_scrape_gather_seconds", "Time the event loop gave to this page.", picture.gather_seconds)


def families(picture: Picture) -> Iterable[Metric]:
    """Every family of the page, without those of the process."""
    yield from _daemon(picture)
    yield from _card_gauges(picture.cards)
    yield from _card_words(picture.cards)
    yield from _xids(picture)
    yield from _jobs(picture)
    yield from _tests(picture.counts)
    yield from dcgm_families(picture.cards, picture.hostname, picture.counts.last_xid)


class _Page(Collector):
    def __init__(self, picture: Picture) -> None:
        self._picture = picture

    def collect(self) -> Iterable[Metric]:
        return families(self._picture)


def render(picture: Picture) -> bytes:
    """The page as text, format 0.0.4: classic names, which every Prometheus reads. Safe in a thread."""
    # A registry of this page's own: nothing that another library puts into the global one is shown.
    registry = CollectorRegistry()
    registry.register(_Page(picture))
    ProcessCollector(namespace="p104", registry=registry)
    return generate_latest(registry)
