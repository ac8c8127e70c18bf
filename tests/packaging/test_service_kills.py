"""Jobs as units of a real systemd while the daemon and their shims are killed at random moments."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest
from test_service import STEP_SECONDS, Machine, machine, settings_of, wait_for
from torture import LONG, amount

__all__ = ["machine"]  # a fixture: found by its name
#: Of the daemon and of jobs' shims while jobs run as units.
KILLS = amount(8, 300)
#: Notes that it ran, takes a moment, and ends with a code that can be told from its id.
NOTING = "echo $P104_JOB_ID >>/run/lock/storm; sleep 0.$((P104_JOB_ID % 5)); exit $((P104_JOB_ID % 7))"


@pytest.mark.torture
def test_units_are_neither_lost_nor_run_twice_under_kills(machine: Machine) -> None:
    """kill -9 of the daemon and of shims at random moments; systemd starts the one again, and the other is a loss."""
    source = random.Random(None if LONG else 1)
    with settings_of(machine, "RestartSec=50ms"):
        machine.run("install", "-m", "666", "/dev/null", "/run/lock/storm")
        jobs, killed = set[int](), set[int]()
        for _ in range(KILLS):
            # Some kills come during the start and the recovery.
            if source.random() < 0.7:
                wait_for(machine.answers, STEP_SECONDS)
            made = machine.ctl("run", "--detach", "--vram", "1GiB", "--", "sh", "-c", NOTING)
            if made.returncode == 0:
                jobs.add(int(made.stdout))
            time.sleep(0.3 * source.random())
            unit = "p104d.service" if not jobs or source.random() < 0.6 else f"p104-job-{max(jobs)}-1.service"
            if unit != "p104d.service":
                killed.add(max(jobs))
            machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit)
        wait_for(machine.answers, STEP_SECONDS)
        assert machine.ctl("wait", "--timeout", "50s", *map(str, jobs)).returncode in (0, 1)
        listed = json.loads(machine.ctl("list", "--state", "all", "--limit", "5000", "--json").stdout)["jobs"]
        ran = Counter(map(int, machine.run("cat", "/run/lock/storm").stdout.split()))
    ended = {job["id"]: (job["state"], job["exit_code"]) for job in listed if job["id"] >= min(jobs)}
    assert len(jobs) > KILLS // 2 and jobs <= set(ended), "what was acknowledged is there"
    for job, (state, code) in ended.items():
        lost = state == "lost" and job in killed
        assert lost or (code == job % 7 and state == ("failed" if code else "succeeded")), (job, state, code)
        assert ran[job] == 1 or (lost and not ran[job]), (job, state, ran)
    left = ("systemctl", "list-units", "--no-legend", "--state=active", "p104-job-*")
    wait_for(lambda: machine.run(*left).stdout == "", STEP_SECONDS)
