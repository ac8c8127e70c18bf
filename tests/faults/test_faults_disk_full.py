"""A full disk: refused in words where something new is asked for, survived by what was promised, over when it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from daemon_rig import CONFIG, eventually
from fault_rig import MIB, FaultRig

pytestmark = pytest.mark.torture

#: Room for the queue, its WAL at its largest (a checkpoint every 4 MiB) and telemetry.
DISK = 24 * MIB


@pytest.fixture(scope="module")
def shared_disk() -> Iterator[FaultRig]:
    rig = FaultRig(2, disk=DISK, telemetry_seconds=1, config=CONFIG.replace("64KiB", "8MiB"))
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def disk(shared_disk: FaultRig) -> Iterator[FaultRig]:
    """A daemon on a small disk, which is free again after each test."""
    yield shared_disk
    shared_disk.free()
    shared_disk.quiet()


def queue(rig: FaultRig) -> int:
    """How many jobs the daemon knows."""
    return sum(rig.status()["queue"].values())


def test_jobs_that_wait_when_the_disk_is_full_start_when_it_is_not(disk: FaultRig) -> None:
    """No folder can be made, no claim set aside: not the job's fault, so the job waits. It runs once, when it can."""
    disk.json("pause")
    jobs = [disk.sh(f"echo {number} >> ran; exit {number}") for number in range(1, 5)]
    disk.fill_with_files()
    disk.json("resume")
    # It is tried; but neither can a folder be made for it, nor, in that folder, can it be taken back.
    eventually(lambda: disk.state(jobs[0]) == "starting")
    later = disk.sh("echo 5 >> ran; exit 5")  # nobody else is turned away
    assert not (disk.work / "ran").exists()
    assert {disk.state(job) for job in jobs} <= {"queued", "starting"}
    disk.free()
    jobs.append(later)
    ended = disk.wait(*jobs)
    assert [(job["state"], job["exit_code"]) for job in ended] == [("failed", number) for number in range(1, 6)], ended
    assert sorted((disk.work / "ran").read_text().split()) == ["1", "2", "3", "4", "5"]


def test_a_start_that_fails_is_told_and_tried_again(disk: FaultRig) -> None:
    """No failure of the job's: it uses up no retry, and says what it waits for."""
    disk.json("pause")
    job = disk.sh("echo $P104_ATTEMPT")
    for number in range(1, 5):
        folder = disk.store / f"jobs/0/{job}-{number}"
        folder.mkdir(parents=True)
        (folder / "launch.json").touch()
    disk.json("resume")
    eventually(
        lambda: "taken back before it ran: its folder cannot be written: " in disk.because(job), what="why it waits"
    )
    assert "failure" not in disk.because(job)
    assert disk.ends(job) == "succeeded" and disk.output(job) == "5\n"
    assert {each["outcome"] for each in disk.show(job)["attempts"][:4]} == {"revoked"}


def test_output_and_exit_of_what_runs_when_the_disk_fills(disk: FaultRig) -> None:
    """Lines of the log are lost; how the job ended is not, whoever is told of it later."""
    wait = "while [ ! -e {0} ]; do sleep 0.02; done; "
    talks = disk.sh("echo first; " + wait.format("go") + "head -c 3000000 /dev/zero; echo last; exit 9")
    ends = disk.sh("echo up; " + wait.format("go") + "exit 7")
    for job in (talks, ends):
        eventually(lambda job=job: disk.output(job), what="it runs")  # type: ignore[misc]
    disk.fill()
    (disk.work / "go").touch()
    # The shims are done with both, whatever the daemon can write of it meanwhile.
    records = [disk.store / f"jobs/0/{job}-1/exit" for job in (talks, ends)]
    eventually(lambda: all(path.read_bytes()[:1] == b"{" for path in records), what="records are written")
    disk.free()
    ended = disk.wait(talks, ends)
    assert [(job["state"], job["exit_code"]) for job in ended] == [("failed", 9), ("failed", 7)]
    output = disk.output(talks)
    assert output.startswith("first\n") and len(output) < 3_000_000
    again = disk.sh("echo whole")
    assert disk.ends(again) == "succeeded" and disk.output(again) == "whole\n"


def test_telemetry_waits_for_the_disk_and_is_written_then(disk: FaultRig) -> None:
    """A gap is all that a lost reading costs; here not even that: minutes wait in memory."""

    def troubled() -> bool:
        return any("telemetry cannot be" in text for text in disk.status()["warnings"])

    eventually(lambda: (disk.store / "telemetry.db").exists())
    disk.fill()
    eventually(troubled, what="it is said that telemetry is not written")
    disk.free()
    eventually(lambda: not troubled(), what="it is written again")
    assert not any("lost" in text for text in disk.status()["warnings"])
    assert disk.ends(disk.sh("true")) == "succeeded"


def told_full(rig: FaultRig) -> bool:
    """Whether status tells of the full disk of the queue."""
    return any("full" in text and str(rig.store / "queue.db") in text for text in rig.status()["warnings"])


def test_a_submission_is_refused_whole_and_acknowledged_ones_stay(disk: FaultRig) -> None:
    disk.json("pause")
    known = queue(disk)
    acknowledged = disk.submit({"name": "before", "command": "true"})
    disk.fill()
    documents = "name: many\ncommand: 'true'\nmatrix: {n: [" + ", ".join(map(str, range(2000))) + "]}\n"
    refusals = 0
    for _ in range(40):
        # What room there is within the files is used up first; everything that is said to be stored is.
        result = disk.ctl("submit", "--json", "-", stdin=documents)
        if result.code == 0:
            acknowledged += [job["id"] for job in result.json["jobs"]]
            continue
        assert result.code == 4 and result.out == "" and result.err.count("\n") == 1, result
        assert "full" in result.err and "free space on" in result.err, result
        assert told_full(disk), disk.status()["warnings"]
        assert queue(disk) == known + len(acknowledged)  # nothing half stored, and reading goes on
        refusals += 1
        if refusals == 3:
            break
    assert refusals == 3, "the disk was never full"
    disk.free()
    acknowledged += disk.submit({"name": "after", "command": "true"})
    assert not told_full(disk)
    assert queue(disk) == known + len(set(acknowledged))
    # Also in the file, by its own account.
    assert disk.terminate() == 0
    with sqlite3.connect(disk.store / "queue.db") as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
        stored = {row[0] for row in database.execute("SELECT id FROM jobs")}
        orphans = database.execute("SELECT count(*) FROM documents WHERE id NOT IN (SELECT document_id FROM jobs)")
        assert len(stored) == known + len(acknowledged) and stored >= set(acknowledged) and orphans.fetchone() == (0,)
        # The rest of the test is not about thousands of jobs.
        database.execute("UPDATE jobs SET state = 'cancelled', ended_at = 1 WHERE name = 'many'")
    database.close()
    disk.start()
    disk.json("resume")
    assert [job["exit_code"] for job in disk.wait(acknowledged[0], acknowledged[-1])] == [0, 0]
