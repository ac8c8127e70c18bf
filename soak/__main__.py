"""``python -m soak --minutes 10``: exit code 0 where nothing grew too much and everything came to its expected end."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence

import msgspec
import psutil

from p104d.core.errors import P104Error
from soak.growth import LEAST_MINUTES, growths, smallest_leak, table
from soak.load import Load
from soak.rest import Rest
from soak.rig import Sample, SoakRig

_SAMPLE_SECONDS = 2.0
#: Where nobody looks on, a line is said about as often.
_TOLD_SECONDS = 60.0
#: Parts of the run at which the load pauses; the first is the end of the warm-up.
_RESTS = (0.25, 0.5, 0.75)


class Soak:
    """One run."""

    def __init__(self, rig: SoakRig, minutes: float, seed: int) -> None:
        self._rig, self._minutes = rig, minutes
        self.load = Load(rig, seed)
        self._rest = Rest(rig, self.load, quiet=minutes >= LEAST_MINUTES)
        self.samples: list[Sample] = []
        self.rests: list[Sample] = []
        self.problems: list[str] = []
        self._told = 0.0

    @property
    def judged(self) -> bool:
        """Was there time enough for growth to show? A run that was ended early may not have had it."""
        least = LEAST_MINUTES * 60 * (1 - _RESTS[0])
        return len(self.rests) > 1 and self.rests[-1].seconds - self.rests[0].seconds >= least

    def run(self) -> None:
        """All of it; Ctrl-C ends it early, with what was seen."""
        self._look()
        self.load.start()
        began = self._rig.seconds
        try:
            self._through(began)
        except KeyboardInterrupt:
            print("\nsoak: ended early", file=sys.stderr)
        except (P104Error, psutil.Error) as error:
            self.problems.append(error.line() if isinstance(error, P104Error) else str(error))
        faults = self._rig.faults_between(began, self._rig.seconds)
        self.load.counts["faults"] = faults
        if faults == 0:
            self.problems.append("no fault fell into this run")
        try:
            self.rests.append(self._rest.take())
        except (P104Error, psutil.Error) as error:
            self.problems.append(f"no last look: {error}")
        self.load.stop()
        self.problems += [*self._rest.problems, *self._wrong()]

    def _through(self, began: float) -> None:
        """The load, and the rests in between, where the run is long enough for them."""
        seconds = self._minutes * 60
        waiting = [began + part * seconds for part in _RESTS] if self._minutes >= LEAST_MINUTES else []
        while (left := began + seconds - self._rig.seconds) > 0 and self._rig.process.poll() is None:
            if waiting and self._rig.seconds >= waiting[0]:
                waiting.pop(0)
                self.rests.append(self._rest.take())
                self.load.go_on()
            time.sleep(min(_SAMPLE_SECONDS, left))
            self._look()
            self._progress(began)

    def _look(self) -> None:
        self.samples.append(self._rig.sample(self.load.counts["jobs"]))

    def _progress(self, began: float) -> None:
        last = self.samples[-1]
        done = 100 * min(1.0, (last.seconds - began) / (self._minutes * 60))
        text = f"{done:3.0f} %  {last.daemon_bytes / 2**20:.0f} MiB  {last.jobs} jobs"
        if sys.stderr.isatty():
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
        elif last.seconds >= self._told + _TOLD_SECONDS:
            self._told = last.seconds
            print(text, file=sys.stderr, flush=True)

    def _wrong(self) -> list[str]:
        found = [f"unexpected: {text}" for text in self.load.unexpected[:10]]
        if self._rig.process.poll() is not None:
            return [*found, f"the daemon died with {self._rig.process.returncode}"]
        if "Traceback" in self._rig.log.read_text(errors="replace"):
            found.append("a traceback is in the daemon's log")
        try:
            known = sum(self._rig.client.get("/v1/status")["queue"].values())
        except P104Error as error:
            return [*found, error.line()]
        if known != self.load.counts["jobs"]:
            found.append(f"{self.load.counts['jobs']} jobs were acknowledged, {known} are known")
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load with faults on a simulated rig of 12 cards.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of what is submitted when (default: P104_SEED, else random)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    seed = _seed(given.seed)
    rig = SoakRig(given.minutes)
    try:
        soak = _soaked(rig, given.minutes, seed)
        return _tell(soak, seed, as_json=given.json)
    finally:
        rig.remove()


def _soaked(rig: SoakRig, minutes: float, seed: int) -> Soak:
    """The whole run, and the end of the daemon."""
    try:
        rig.wait_until_ready()
        print(f"soak: seed {seed}, {minutes:g} minutes", file=sys.stderr)
        soak = Soak(rig, minutes, seed)
        soak.run()
    finally:
        ending = rig.close()
    soak.problems += ending
    return soak


def _seed(given: int | None) -> int:
    if given is not None:
        return given
    text = os.environ.get("P104_SEED")
    return int(text) if text else random.randrange(2**31)  # noqa: S311 - a load, no secret


def _tell(soak: Soak, seed: int, *, as_json: bool) -> int:
    rows = growths(soak.samples, soak.rests, judged=soak.judged)
    good = not soak.problems and all(row.good for row in rows)
    if as_json:
        told = {
            "seconds": soak.samples[-1].seconds,
            "seed": seed,
            "judged": soak.judged,
            "growth": msgspec.to_builtins(rows),
            "counts": dict(soak.load.counts),
            "problems": soak.problems,
            "good": good,
        }
        print(json.dumps(told, indent=2))
    else:
        print(table(rows))
        print(", ".join(f"{count} {name}" for name, count in sorted(soak.load.counts.items())))
        _tell_what_it_is_worth(soak)
    for problem in soak.problems:
        print(f"soak: {problem}", file=sys.stderr)
    if not good:
        print(f"soak: failed; P104_SEED={seed} submits the same again", file=sys.stderr)
    return 0 if good else 1


def _tell_what_it_is_worth(soak: Soak) -> None:
    # A cache that fills grows less with each rest, a leak does not.
    steps = ", ".join(f"{rest.daemon_bytes / 2**20:.1f} ({rest.jobs} jobs)" for rest in soak.rests)
    print(f"memory of the daemon at rest: {steps} MiB")
    if not soak.judged:
        print(f"NOT JUDGED: growth was seen, not judged; that takes at least {LEAST_MINUTES:g} minutes")
    elif (least := smallest_leak(soak.rests)) is not None:
        print(f"a leak of the daemon of {least:.0f} bytes a job or more would have been seen")


if __name__ == "__main__":
    sys.exit(main())
