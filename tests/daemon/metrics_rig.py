"""Metrics over a rig whose cycles are made by hand and a real queue, without a daemon around."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from p104d.core.card import CardIdentity, CardReading, CardReport, Proof, Verdict, XidEvent
from p104d.core.job import JobState
from p104d.core.units import GIB
from p104d.daemon.config import Config, settle
from p104d.daemon.metrics import Metrics
from p104d.daemon.metrics_counts import Counts
from p104d.daemon.rig import Rig
from p104d.daemon.sights import Onlooker
from p104d.hardware.messages import Cycle, DriverProblem
from p104d.store.engine import Database
from p104d.store.migrate import upgrade

ROOT = Path(__file__).resolve().parents[2]
STARTED_AT = 1_700_000_000.0
FULL = CardReading(
    memory_used_bytes=3 * GIB,
    temperature_celsius=61,
    power_watts=118.5,
    power_limit_watts=150.0,
    utilization_percent=97,
    memory_utilization_percent=40,
    fan_percent=55,
    sm_clock_mhz=1607,
    memory_clock_mhz=5005,
    link_generation=1,
    link_width=4,
    throttle=("software power cap",),
)
_EXPRESSION_NAME = re.compile(r"\b(?:p104_\w+|DCGM_\w+)\b")


def uuid(number: int) -> str:
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def report(number: int = 0, reading: CardReading = FULL, **identity: Any) -> CardReport:
    given = {
        "uuid": uuid(number),
        "index": number,
        "name": "P104-100",
        "device_id": "10de:1b87",
        "bus_id": f"00000000:{number + 1:02X}:00.0",
        "vbios": "86.04.7A.00.20",
        "memory_total_bytes": 8 * GIB,
        "link_generation_max": 2,
        "link_width_max": 4,
    }
    return CardReport(identity=CardIdentity(**given | identity), reading=reading)


class World:
    """What Metrics looks at. ``close`` it."""

    def __init__(self, folder: Path) -> None:
        upgrade(str(folder / "queue.db"))
        self.database = Database(folder / "queue.db")
        self.rig = Rig(
            {},
            missing_after=5.0,
            first_depth="quick",
            onlooker=Onlooker(lambda _: None, lambda _: True),
            take_lock=lambda _: None,
        )
        self.loop: Any = SimpleNamespace(
            database=self.database,
            rig=self.rig,
            proofs=SimpleNamespace(running={}),
            settings=settle(Config()),
            paused=False,
        )
        self.counts = Counts()
        self.metrics = Metrics(self.loop, self.counts, started_at=STARTED_AT, simulated=True)
        self._at = 0

    def cycle(self, *reports: CardReport, xids: Sequence[XidEvent] = (), problem: DriverProblem | None = None) -> None:
        self._at += 1
        cycle = Cycle(
            at=STARTED_AT + self._at,
            monotonic=float(self._at),
            sequence=self._at,
            driver_version="535.183.01",
            cards=reports,
            xids=tuple(xids),
            problem=problem,
        )
        self.counts.on_cycle(cycle)
        self.rig.on_cycle(cycle)

    def page(self) -> Page:
        return Page(self.metrics.text())

    def close(self) -> None:
        self.database.close()


def give_all(world: World) -> None:
    """Every kind of series there is."""
    world.cycle(report(0), report(1), xids=[XidEvent(code=31, uuid=uuid(0))])
    record = world.rig.records[uuid(0)]
    record.verdict, record.proven_bytes = Verdict.PROVEN, 8 * GIB
    record.proof = Proof(
        at=STARTED_AT,
        depth="full",
        test_id=1,
        driver="1",
        vbios="2",
        total_bytes=1,
        host_to_device=8e8,
        device_to_host=7e8,
    )
    world.counts.job_started(0.2)
    world.counts.job_ended(JobState.SUCCEEDED, "exit code 0", 12.0)
    world.counts.test_ended("proven")
    world.counts.stepped(0.0007)
    world.loop.proofs.running = {uuid(1): SimpleNamespace(progress=SimpleNamespace(fraction=0.5))}
    world.rig.problem = DriverProblem(kind="card_unreadable", message="no", mend="look")


class Page:
    """A page of metrics, parsed by the library's own parser."""

    def __init__(self, text: bytes) -> None:
        self.text = text.decode()
        self.families: dict[str, Metric] = {one.name: one for one in text_string_to_metric_families(self.text)}
        self._samples = [sample for one in self.families.values() for sample in one.samples]

    def values(self, name: str, /, **labels: str) -> list[float]:
        """The values of the samples of this name with these labels."""
        return [one.value for one in self._samples if one.name == name and labels.items() <= one.labels.items()]

    def value(self, name: str, /, **labels: str) -> float:
        found = self.values(name, **labels)
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def labels(self, name: str) -> list[dict[str, str]]:
        return [one.labels for one in self._samples if one.name == name]

    @property
    def sample_names(self) -> set[str]:
        return {one.name for one in self._samples}


def names_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    return set(_EXPRESSION_NAME.findall(expression))
