"""What is old leaves: jobs after their time, logs beyond their bound; never what is still needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from daemon_rig import CONFIG, Rig, eventually


def folders(rig: Rig) -> set[int]:
    """The jobs that have something on the disk."""
    return {int(path.name.split("-")[0]) for path in rig.store.glob("jobs/*/*")}


def bytes_on_disk(rig: Rig) -> int:
    """What the jobs' folders take; files may go while they are counted."""
    total = 0
    for place, _folders, names in os.walk(rig.store / "jobs"):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def test_old_jobs_leave_with_their_logs(start: Callable[..., Rig]) -> None:
    rig = start(1, config=CONFIG + 'keep_jobs = "1ms"\n')
    told = rig.work / "told"
    old = rig.sh("echo old", notify={"on": ["succeeded"], "command": f"touch {told}"})
    assert rig.ends(old) == "succeeded"
    eventually(told.exists)
    [notice] = rig.store.glob("notify/*/*")
    going = rig.sh("echo going; exec sleep 60")
    rig.reads(going, "going")
    assert folders(rig) == {old, going}
    rig.kill()
    os.utime(notice, (0, 0))
    rig.start()
    # The start looks after what is old.
    eventually(lambda: rig.ctl("show", old).code == 5)
    eventually(lambda: folders(rig) == {going})
    assert rig.output(going) == "going\n" and rig.state(going) == "running"
    eventually(lambda: not notice.exists())
    # Ids are not used again.
    assert rig.sh("true", cards=0) > going


def test_logs_stay_below_their_bound_the_oldest_go_first(start: Callable[..., Rig]) -> None:
    rig = start(1, config=CONFIG + 'keep_logs = "300KiB"\n')
    going = rig.sh("seq 1 11000; exec sleep 60")
    rig.reads(going, "11000")
    jobs = rig.submit({"name": "m", "matrix": {"n": [*range(10)]}, "command": "seq 1 11000", "cards": 0})
    rig.wait(*jobs)
    rig.kill()
    rig.start()
    eventually(lambda: len(folders(rig)) <= 10)
    eventually(lambda: bytes_on_disk(rig) <= 300 * 1024)
    # The oldest of all still runs, and keeps what it has.
    assert rig.output(going).endswith("11000\n")
    left = folders(rig) - {going}
    assert left and left == set(jobs[-len(left) :])
    # The jobs themselves are remembered; only their output is gone.
    assert rig.show(jobs[0])["state"] == "succeeded"
    assert rig.ctl("logs", jobs[0]).code in (0, 5) and rig.output(jobs[-1]).endswith("11000\n")
