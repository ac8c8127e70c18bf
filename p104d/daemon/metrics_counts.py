"""What is counted for Prometheus while things happen: jobs, XID errors, memory tests, steps of the loop.

Counts begin at 0 with every start of the daemon, as Prometheus expects of a process. Feeding them costs a dictionary's
look-up; nothing here needs the Prometheus library.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from p104d.core.card import Verdict
from p104d.core.job import JobState
from p104d.hardware.messages import Cycle

#: Seconds. From a job that starts at once to one that waits for a busy rig over night.
WAIT_BOUNDS = (0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0)
#: Seconds. From `true` to a week of training.
RUN_BOUNDS = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0, 604_800.0)
#: Seconds. A step is a transaction: a fraction of a millisecond without the disk's part.
STEP_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
#: An emergency backstop against a kernel log that names codes without end; there are some 150.
_MOST_XID_SERIES = 2000

#: Every reason class of an ended job, by its state. All are exported from the start, so that the first failure of a
#: kind is an increase and not a series that begins at 1.
REASONS: dict[JobState, tuple[str, ...]] = {
    JobState.SUCCEEDED: ("exit_code",),
    JobState.FAILED: (
        "exit_code",
        "signal",
        "time_limit",
        "card_lost",
        "over_vram",
        "never_on_card",
        "not_started",
        "other",
    ),
    JobState.CANCELLED: ("asked", "dependency"),
    JobState.LOST: ("shim_died", "host_died"),
}
_FAILED = (
    (re.compile(r"time limit\Z"), "time_limit"),
    (re.compile(r"card lost\Z"), "card_lost"),
    (re.compile(r"over VRAM\Z"), "over_vram"),
    (re.compile(r"never used its card\Z"), "never_on_card"),
    (re.compile(r"could not be started(:|\Z)"), "not_started"),
    (re.compile(r"signal \d+"), "signal"),
    (re.compile(r"(.* \()?exit code (\d+|unknown)\)?\Z", re.DOTALL), "exit_code"),
)


def reason_class(state: JobState, reason: str | None) -> str:
    """Which of ``REASONS`` the text that people read belongs to: few series, however many exit codes there are."""
    text = reason or ""
    if state is JobState.SUCCEEDED:
        return "exit_code"
    if state is JobState.CANCELLED:
        return "dependency" if "which it needed" in text else "asked"
    if state is JobState.LOST:
        return "host_died" if text.startswith("its host died") else "shim_died"
    return next((name for pattern, name in _FAILED if pattern.match(text)), "other")


class Buckets:
    """A histogram: how many values fell at or below each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Take in one value; a clock that was set back makes it 0, not negative."""
        value = max(0.0, value)
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(bound, values up to it), the last bound being ``+Inf``."""
        found, total = list[tuple[str, float]](), 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Counts:
    """All counters and histograms of one daemon. Called from the event loop's thread alone, after the commit of what is
    counted."""

    def __init__(self) -> None:
        self.ended = {(state.value, reason): 0 for state, reasons in REASONS.items() for reason in reasons}
        self.tests = {verdict.value: 0 for verdict in Verdict if verdict is not Verdict.UNVERIFIED}
        self.tests_cut_short = 0
        self.waits, self.runs, self.steps = Buckets(WAIT_BOUNDS), Buckets(RUN_BOUNDS), Buckets(STEP_BOUNDS)
        self.steps_failed = 0
        self.xids: dict[tuple[str, int], int] = {}
        self.last_xid: dict[str, int] = {}
        self.cycles = 0
        self.cycle_at: float | None = None
        self._by_bus: dict[str, str] = {}

    def job_started(self, wait_seconds: float) -> None:
        """A job's first attempt was placed, this long after its submission."""
        self.waits.observe(wait_seconds)

    def job_ended(self, state: JobState, reason: str | None, run_seconds: float | None = None) -> None:
        """A job has reached a final state; ``run_seconds`` of its last attempt, None where nothing ran."""
        self.ended[state.value, reason_class(state, reason)] += 1
        if run_seconds is not None:
            self.runs.observe(run_seconds)

    def test_ended(self, verdict: str | None) -> None:
        """A memory test is over, with this verdict; None: it was stopped or made way for a job."""
        if verdict is None:
            self.tests_cut_short += 1
        else:
            self.tests[verdict] = self.tests.get(verdict, 0) + 1

    def xid(self, card: str, code: int) -> None:
        """An XID error; ``card`` is its UUID, or its bus address where only that is known."""
        key = (card, code)
        if key in self.xids or len(self.xids) < _MOST_XID_SERIES:
            self.xids[key] = self.xids.get(key, 0) + 1
            self.last_xid[card] = code

    def on_cycle(self, cycle: Cycle) -> None:
        """Take in what the sensor told: that it looked, and the XID errors."""
        self.cycles += 1
        self.cycle_at = cycle.at
        self._by_bus |= {one.identity.bus_id: one.identity.uuid for one in cycle.cards if one.identity.bus_id}
        for event in cycle.xids:
            card = event.uuid or self._by_bus.get(event.bus_id or "") or event.bus_id
            if card is not None:
                self.xid(card, event.code)

    def stepped(self, seconds: float) -> None:
        """The loop has made a step."""
        self.steps.observe(seconds)

    def step_failed(self) -> None:
        """A step could not be committed and is tried again."""
        self.steps_failed += 1
