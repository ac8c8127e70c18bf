"""A stop that comes after a job was placed and before any shim has claimed it: nobody is there yet to be told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
from daemon_rig import Rig, eventually


def zygote_of(rig: Rig) -> int:
    """The process that makes shims."""
    assert rig.daemon is not None
    children = psutil.Process(rig.daemon.pid).children()
    return next(child.pid for child in children if "zygote" in " ".join(child.cmdline()))


def test_a_job_that_is_cancelled_before_its_shim_claims_it_never_runs(start: Callable[..., Rig]) -> None:
    rig = start(4)
    zygote = zygote_of(rig)
    os.kill(zygote, signal.SIGSTOP)  # from here on there are no more shims than those kept ahead
    try:
        jobs = rig.submit(*({"name": f"j{n}", "command": f"echo > ran{n}; sleep 60"} for n in range(4)))
        eventually(lambda: [rig.state(job) for job in jobs].count("starting") in (1, 2, 3))
        waiting = [job for job in jobs if rig.state(job) == "starting"]
        for job in waiting:
            assert rig.ctl("cancel", job).code == 0
        # The zygote still stands, and an attempt is given up after 30 s only: the claim was taken back.
        assert {job["state"] for job in rig.wait(*waiting, seconds=15)} == {"cancelled"}
        shown = [rig.show(job) for job in waiting]
        assert all(attempt["started_at"] is None for job in shown for attempt in job["attempts"])
    finally:
        os.kill(zygote, signal.SIGCONT)
    rig.quiet()  # what ran is ended; shims that come late find their attempts taken back
    assert len(list(rig.work.glob("ran*"))) == len(jobs) - len(waiting)
