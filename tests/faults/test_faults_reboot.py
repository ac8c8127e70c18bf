"""The host went down with everything on it: what left a record keeps it, what said that it may runs again, no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from daemon_rig import eventually
from fault_rig import FaultRig

pytestmark = pytest.mark.torture

WAIT = "echo $P104_ATTEMPT >> {0}; echo up; while [ ! -e {0}.go ]; do sleep 0.02; done; exit 4"


def test_after_a_reboot(make: Callable[..., FaultRig]) -> None:
    rig = make(3, world=True)
    rig.start()
    done = rig.sh("exit 3")
    rig.wait(done)
    ends = rig.sh(WAIT.format("ends"), time_limit="1h")
    plain = rig.sh(WAIT.format("plain"), retries=5)
    again = rig.sh(WAIT.format("again"), idempotent=True)
    for job in (ends, plain, again):
        rig.reads(job, "up")
    waits = rig.sh("echo ran >> waits; exit 5")
    after = rig.sh("true", after=[plain], cards=0)
    assert rig.state(waits) == "queued"
    # One ends while no daemon is there to hear of it; then the power goes.
    rig.kill()
    (rig.work / "ends.go").touch()
    record = rig.store / f"jobs/0/{ends}-1/exit"
    eventually(lambda: record.read_bytes()[:1] == b"{", what="its record is written")
    rig.reboot()
    assert not rig.processes()
    (rig.work / "again.go").touch()
    rig.start()

    ended = {job["id"]: (job["state"], job["exit_code"]) for job in rig.wait(done, ends, plain, again, waits, after)}
    assert ended == {
        done: ("failed", 3),
        ends: ("failed", 4),
        plain: ("lost", None),
        again: ("failed", 4),
        waits: ("failed", 5),
        after: ("cancelled", None),
    }
    shown = rig.show(plain)
    assert "its host died" in shown["reason"] and [each["outcome"] for each in shown["attempts"]] == ["lost"]
    assert [each["outcome"] for each in rig.show(again)["attempts"]] == ["lost", "failed"]
    assert len(rig.show(ends)["attempts"]) == len(rig.show(done)["attempts"]) == 1
    # Each ran as often as it has attempts.
    assert [(rig.work / name).read_text().split() for name in ("ends", "plain", "again", "waits")] == [
        ["1"], ["1"], ["1", "2"], ["ran"],
    ]  # fmt: skip
    # Their cards are free, and a second start finds nothing more to do.
    assert all(card["state"] == "ready" and not card["jobs"] for card in rig.cards())
    rig.reboot()
    rig.start()
    assert {job["id"]: (job["state"], job["exit_code"]) for job in rig.wait(*ended)} == ended
