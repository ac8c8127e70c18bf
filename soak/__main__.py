"""``python -m soak --minutes 10``: exit code 0 where nothing grew too much and nothing unexpected was answered."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Sequence

import msgspec

from p104d.core.errors import P104Error
from soak.growth import growths, table
from soak.load import Load
from soak.rig import Sample, SoakRig

_SAMPLE_SECONDS = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Ctrl-C ends it early, with what was seen."""
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load with faults on a simulated rig of 12 cards.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="of what is submitted when; random if left out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    seed = random.randrange(2**31) if given.seed is None else given.seed  # noqa: S311 - a load, no secret
    rig = SoakRig(given.minutes)
    try:
        rig.wait_until_ready()
        print(f"soak: seed {seed}, {given.minutes:g} minutes", file=sys.stderr)
        samples, load = _run(rig, given.minutes, seed)
        problems = [*_problems(rig, load)]
    finally:
        code = rig.close()
    if code != 0:
        problems.append(f"the daemon ended with {code}")
    return _tell(samples, load, problems, as_json=given.json)


def _run(rig: SoakRig, minutes: float, seed: int) -> tuple[list[Sample], Load]:
    load = Load(rig, seed)
    samples = [rig.sample()]
    load.start()
    began = rig.seconds
    try:
        end = time.monotonic() + minutes * 60
        while (left := end - time.monotonic()) > 0 and rig.process.poll() is None:
            time.sleep(min(_SAMPLE_SECONDS, left))
            samples.append(rig.sample())
            _progress(samples[-1], load, minutes)
    except KeyboardInterrupt:
        print("\nsoak: ended early", file=sys.stderr)
    finally:
        load.counts["faults"] = rig.faults_between(began, rig.seconds)
        load.stop()
    samples.append(rig.sample())
    return samples, load


def _progress(last: Sample, load: Load, minutes: float) -> None:
    done = 100 * min(1.0, last.seconds / (minutes * 60))
    text = f"{done:3.0f} %  {last.memory_bytes / 2**20:.0f} MiB  {load.counts['jobs']} jobs"
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)
    elif len(load.unexpected) == 0 and int(last.seconds) % 60 < _SAMPLE_SECONDS:
        print(text, file=sys.stderr, flush=True)


def _problems(rig: SoakRig, load: Load) -> list[str]:
    found = [f"unexpected: {text}" for text in load.unexpected[:10]]
    if load.counts["faults"] == 0:
        found.append("no fault fell into this run")
    if rig.process.poll() is not None:
        found.append(f"the daemon died with {rig.process.returncode}")
        return found
    if "Traceback" in rig.log.read_text(errors="replace"):
        found.append("a traceback is in the daemon's log")
    try:
        states = rig.client.get("/v1/status")["queue"]
        known = sum(states.values())
        if known != load.counts["jobs"]:
            found.append(f"{load.counts['jobs']} jobs were acknowledged, {known} are known")
    except P104Error as error:
        found.append(error.line())
    return found


def _tell(samples: Sequence[Sample], load: Load, problems: Sequence[str], *, as_json: bool) -> int:
    rows = growths(samples)
    good = not problems and all(row.good for row in rows)
    if as_json:
        told = {
            "seconds": samples[-1].seconds,
            "growth": msgspec.to_builtins(rows),
            "counts": dict(load.counts),
            "problems": list(problems),
            "good": good,
        }
        print(json.dumps(told, indent=2))
    else:
        print(table(rows))
        print(", ".join(f"{count} {name}" for name, count in sorted(load.counts.items())))
        for problem in problems:
            print(f"soak: {problem}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
