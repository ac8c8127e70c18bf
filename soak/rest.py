"""The quiet in between: everything submitted has ended, idle shims have left, and what is left is what is kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from soak.load import Load
from soak.rig import Sample, SoakRig

#: The longest job takes 4 s, one that is deaf 3; a hundred wait at most, and cards may have a fault.
_DRAIN_SECONDS = 120.0
#: The launcher lets idle shims go 5 s after the last start.
_QUIET_SECONDS = 7.0
_CALM_SECONDS = 45.0
_SAMPLES, _SAMPLE_SECONDS = 5, 0.4
_PAGE = 500


class Rest:
    """Lets the load pause, and looks. Not ``quiet``: without waiting for shims and cards, for a run too short to be
    compared with anything."""

    def __init__(self, rig: SoakRig, load: Load, *, quiet: bool) -> None:
        self._rig, self._load, self._quiet = rig, load, quiet
        self.problems: list[str] = []

    def take(self) -> Sample:
        """A quiet sample, and what is wrong with the jobs that have ended; the load stays at rest. Raises
        P104Error or psutil.Error where the daemon has died."""
        self._load.rest()
        drained = self._wait(self._drained, _DRAIN_SECONDS)
        self.judge(at_rest=drained)
        if not drained:
            self.problems.append(f"jobs do not come to an end: {self._rig.client.get('/v1/status')['queue']}")
        if self._quiet:
            time.sleep(_QUIET_SECONDS)
            self._wait(self._rig.calm, _CALM_SECONDS)
        if drained:
            self.problems += [f"left behind by a job: {text}" for text in self._rig.strays()]
        samples = []
        for _ in range(_SAMPLES):
            samples.append(self._rig.sample(self._load.counts["jobs"]))
            time.sleep(_SAMPLE_SECONDS)
        return middle(samples)

    def judge(self, *, at_rest: bool) -> None:
        """Look at the ends of all jobs whose end was not looked at yet, a page at a time."""
        oldest, before = self._load.ledger.oldest_open(), None
        jobs = []
        while oldest is not None and (before is None or before > oldest):
            page = self._rig.client.get("/v1/jobs", {"state": "ended", "limit": _PAGE, "before": before})["jobs"]
            if not page:
                break
            jobs += page
            before = page[-1]["id"]
        self.problems += self._load.ledger.judge(jobs, at_rest=at_rest)

    def _drained(self) -> bool:
        states = self._rig.client.get("/v1/status")["queue"]
        return not any(states.get(name) for name in ("held", "queued", "starting", "running", "stopping"))

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


def middle(samples: Sequence[Sample]) -> Sample:
    """The median of each figure: a request that is just answered does not count."""
    names = Sample.__struct_fields__
    return Sample(**{name: statistics.median_low(getattr(one, name) for one in samples) for name in names})
