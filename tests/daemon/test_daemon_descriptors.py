"""The daemon runs out of descriptors: it says so, waits, and has lost nothing when there are some again."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import psutil
import pytest
from daemon_rig import Rig, eventually


@pytest.fixture
def few() -> Iterator[Rig]:
    """A daemon that is started with a low soft limit, as a login gives it."""
    rig = Rig(2)
    rig.prefix = ["prlimit", "--nofile=200:4000", "--"]
    try:
        yield rig.start()
    finally:
        rig.close()


def test_it_takes_what_it_may_have_and_its_jobs_have_what_it_was_given(few: Rig) -> None:
    assert few.daemon is not None
    assert psutil.Process(few.daemon.pid).rlimit(resource.RLIMIT_NOFILE) == (4000, 4000)
    job = few.sh("ulimit -Sn; ulimit -Hn")
    assert few.ends(job) == "succeeded"
    assert few.output(job).split() == ["200", "4000"]


def test_a_job_that_ends_while_there_are_none(few: Rig) -> None:
    assert few.daemon is not None
    process = psutil.Process(few.daemon.pid)
    ending, cancelled = few.sh("while [ ! -e go ]; do sleep 0.02; done; exit 3"), few.sh("sleep 300")
    few.until(ending, "running")
    few.until(cancelled, "running")
    written = few.log.stat().st_size
    process.rlimit(resource.RLIMIT_NOFILE, (8, 4000))
    try:
        (few.work / "go").touch()
        with few.process("cancel", cancelled) as asking, few.process("status") as looking:
            time.sleep(2.5)  # there is no event of what does not happen
            process.rlimit(resource.RLIMIT_NOFILE, (4000, 4000))
            assert asking.wait(30) == 0 and looking.wait(30) == 0
            for each in (asking, looking):
                each.communicate()
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, (4000, 4000))
    assert [few.ends(ending), few.ends(cancelled)] == ["failed", "cancelled"]
    eventually(lambda: all(card["state"] == "ready" for card in few.cards()))
    assert few.log.stat().st_size - written < 20_000
