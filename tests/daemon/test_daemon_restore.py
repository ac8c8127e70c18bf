"""A queue whose file is damaged, cut short or gone, with jobs running: what a user finds afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_rig import CONFIG, Rig, eventually

from p104d.daemon import restore
from p104d.processes import attempt

pytestmark = pytest.mark.torture

GO = "while [ ! -e go ]; do sleep 0.05; done"


def spoil(path: Path, table: str) -> None:
    """Overwrite the pages of a table with noise."""
    connection = sqlite3.connect(path)
    try:
        pages = [row[0] for row in connection.execute("SELECT pageno FROM dbstat WHERE name = ?", (table,))]
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat")
    finally:
        connection.close()
    with open(path, "r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)


def backup_now(rig: Rig) -> None:
    """The daemon makes one at its start; it is waited for."""
    eventually(lambda: list((rig.store / "backup").glob("queue-*.db")), what="a backup")


def warned(rig: Rig) -> str:
    return " ".join(rig.status()["warnings"])


def starts_of(rig: Rig, name: str) -> list[str]:
    path = rig.work / name
    return path.read_text().split() if path.exists() else []


def test_a_missing_queue_with_live_jobs(start: Callable[..., Rig]) -> None:
    rig = start(4)
    backup_now(rig)
    keys = {"env": {"SECRET": "x"}, "labels": {"k": "v"}, "retries": 1}
    running = rig.sh(f"echo $P104_JOB_ID >> ran; {GO}; exit 7", **keys)
    gang = rig.sh(f"echo $P104_JOB_ID >> ran; {GO}", cards=2)
    ended = rig.sh("echo $P104_JOB_ID >> ran; exit 3")
    for job in (running, gang):
        rig.until(job, "running")
    assert rig.ends(ended) == "failed"
    rig.until(running, "running")
    before = rig.show(running)
    eventually(lambda: len(starts_of(rig, "ran")) == 3)
    rig.kill()
    ends_meanwhile = rig.store / "queue.db"
    for ending in ("", "-wal", "-shm"):
        ends_meanwhile.with_name(f"queue.db{ending}").unlink(missing_ok=True)
    rig.start()
    status = rig.status()
    assert status["daemon"]["paused"]
    assert "was missing" in warned(rig) and "backup of" in warned(rig) and "3 attempts" in warned(rig)
    shown = rig.show(running)
    assert {key: shown[key] for key in ("id", "name", "user", "labels", "state", "cards", "submitted_at")} == {
        key: before[key] for key in ("id", "name", "user", "labels", "state", "cards", "submitted_at")
    }
    assert shown["spec"]["command"] == before["spec"]["command"] and shown["spec"]["retries"] == 1
    assert shown["spec"]["env"]["SECRET"] == "x"
    assert rig.state(gang) == "running" and len(rig.show(gang)["cards"]) == 2
    [over] = rig.wait(ended)
    assert (over["state"], over["exit_code"]) == ("failed", 3)
    # What holds cards still holds them; nothing else starts before a person has looked.
    waits = rig.sh("true")
    assert waits > ended
    eventually(lambda: "paused" in rig.because(waits))
    (rig.work / "go").touch()
    assert rig.ends(gang) == "succeeded"
    eventually(lambda: rig.state(running) == "queued")  # it has a retry left
    rig.ctl("resume")
    assert rig.ends(running) == "failed" and rig.ends(waits) == "succeeded"
    assert not warned(rig) and sorted(starts_of(rig, "ran")) == sorted(map(str, [running, running, gang, ended]))
    rig.terminate()
    rig.start()
    assert not warned(rig) and not rig.status()["daemon"]["paused"]


def test_a_damaged_page_found_while_it_runs(start: Callable[..., Rig]) -> None:
    """The daemon notices, restores and goes on in the same process: its jobs, and who waits for them, do not."""
    rig = start(2)
    job = rig.sh(f"{GO}; exit 5")
    rig.until(job, "running")
    done = [rig.sh("true", cards=0) for _ in range(3)]
    rig.wait(*done)
    pid = rig.status()["daemon"]["pid"]
    # Everything into the file, then noise over the table: the next look at it finds it.
    connection = sqlite3.connect(rig.store / "queue.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    spoil(rig.store / "queue.db", "results")
    assert "malformed" in rig.refused("history", code=4)
    eventually(lambda: "restored" in rig.log.read_text(), what=rig.log.read_text)  # type: ignore[arg-type]
    eventually(lambda: rig.ctl("status").code == 0)
    assert rig.status()["daemon"]["pid"] == pid and rig.status()["daemon"]["paused"]
    [warning] = rig.status()["warnings"]
    assert "malformed" in warning and warning.isprintable() and "***" not in warning
    assert rig.state(job) == "running"
    rig.ctl("resume")
    (rig.work / "go").touch()
    [over] = rig.wait(job)
    assert (over["state"], over["exit_code"]) == ("failed", 5)
    assert [rig.state(each) for each in done] == ["succeeded"] * 3
    assert len(os.listdir(rig.store / "quarantine")) == 1


def test_a_damaged_page_found_at_the_start(start: Callable[..., Rig]) -> None:
    rig = start(1)
    jobs = [rig.sh("exit 4", cards=0) for _ in range(5)]
    rig.wait(*jobs)
    held = rig.submit({"name": "later", "command": "true", "not_before": "2030-01-01T00:00:00Z"})
    rig.terminate()
    spoil(rig.store / "queue.db", "jobs_state")
    rig.start()
    assert "all 6 jobs of the damaged file were read" in warned(rig)
    assert [rig.show(job)["exit_code"] for job in jobs] == [4] * 5
    assert rig.state(*held) == "queued"


def test_a_wal_that_lost_its_end(start: Callable[..., Rig]) -> None:
    """The queue is whole and of an earlier moment: what ran since is known by its folder, and is not run again."""
    rig = start(1)
    rig.kill()
    shutil.copytree(rig.store, earlier := rig.folder / "earlier")
    rig.start()
    job = rig.sh("echo $P104_JOB_ID >> ran")
    assert rig.ends(job) == "succeeded"
    again = rig.sh(f"echo again >> ran; {GO}")
    rig.until(again, "running")
    rig.kill()
    for path in rig.store.glob("queue.db*"):
        path.unlink()
    for path in earlier.glob("queue.db*"):
        shutil.copy(path, rig.store / path.name)
    rig.start()
    assert "2 attempts that the queue had forgotten were taken in again" in warned(rig)
    assert rig.wait(job)[0]["exit_code"] == 0
    assert rig.state(again) == "running"
    rig.ctl("resume")
    (rig.work / "go").touch()
    assert rig.ends(again) == "succeeded"
    assert sorted(starts_of(rig, "ran")) == [str(job), "again"]


def test_a_wal_that_is_cut_with_jobs_running(start: Callable[..., Rig]) -> None:
    """Its last third is gone: all that was acknowledged before is there, and what runs is known by its folder."""
    rig = start(2)
    wal = rig.store / "queue.db-wal"
    early = rig.sh(f"echo early >> ran; {GO}; exit 7")
    rig.until(early, "running")
    acknowledged: dict[int, int] = {}
    while len(acknowledged) < 12:
        job = rig.sh(f"exit {len(acknowledged) % 5}", cards=0)
        assert rig.wait(job)
        # Its end was told, so it was durable by then: in what the log has, which only grows until it is checkpointed.
        acknowledged[job] = wal.stat().st_size
    late = rig.sh(f"echo late >> ran; {GO}; exit 8")
    rig.until(late, "running")
    eventually(lambda: len(starts_of(rig, "ran")) == 2)
    rig.kill()
    size, sizes = wal.stat().st_size, list(acknowledged.values())
    assert sizes == sorted(sizes) and sizes[-1] < size, "it was checkpointed meanwhile"
    cut = size * 2 // 3
    kept = {job: number for number, job in enumerate(acknowledged) if acknowledged[job] <= cut}
    assert kept and len(kept) < len(acknowledged)
    os.truncate(wal, cut)
    rig.start()
    ended = rig.wait(*kept)
    assert {job["id"]: job["exit_code"] for job in ended} == {job: number % 5 for job, number in kept.items()}
    # Those after the cut are there too, by their folders: nothing that was started is started again.
    assert "taken in again" in warned(rig) and rig.status()["daemon"]["paused"]
    assert rig.show(list(acknowledged)[-1])["exit_code"] == (len(acknowledged) - 1) % 5
    assert [rig.state(job) for job in (early, late)] == ["running", "running"]
    rig.ctl("resume")
    (rig.work / "go").touch()
    assert [job["exit_code"] for job in rig.wait(early, late)] == [7, 8]
    assert starts_of(rig, "ran") == ["early", "late"]
    assert [len(rig.show(job)["attempts"]) for job in (early, late)] == [1, 1]


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_forgotten_attempt_whose_shim_died(start: Callable[..., Rig], idempotent: bool) -> None:
    rig = start(1)
    backup_now(rig)
    job = rig.sh("echo ran >> ran; exec sleep 300", idempotent=idempotent)
    rig.until(job, "running")
    rig.kill()
    [folder] = rig.store.glob(f"jobs/*/{job}-1")
    shim = attempt.look(str(folder)).pid
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    for path in rig.store.glob("queue.db*"):
        path.unlink()
    rig.start()
    if not idempotent:
        assert rig.ends(job) == "lost"
        rig.ctl("resume")
    else:
        rig.until(job, "queued")
        rig.ctl("resume")
        rig.until(job, "running")
        rig.ctl("cancel", job)
    eventually(lambda: len(starts_of(rig, "ran")) == 1 + idempotent)


def test_launches_of_an_earlier_release_are_taken_in_too(start: Callable[..., Rig]) -> None:
    rig = start(1)
    backup_now(rig)
    job = rig.sh("exit 6", vram="1GiB")
    assert rig.ends(job) == "failed"
    rig.terminate()
    launch = next(rig.store.glob(f"jobs/*/{job}-1/launch.json"))
    told = json.loads(launch.read_bytes())
    launch.write_text(json.dumps(told | {"annex": ""}))
    for path in rig.store.glob("queue.db*"):
        path.unlink()
    rig.start()
    shown = rig.show(job)
    assert (shown["state"], shown["exit_code"], shown["name"]) == ("failed", 6, f"job-{job}")


def test_a_folder_that_outlived_its_retention_is_removed(start: Callable[..., Rig]) -> None:
    """A daemon that dies between forgetting a job and removing its folder does not remember it later."""
    rig = start(1, config=CONFIG + 'keep_jobs = "1ms"\n')
    job = rig.sh("true")
    rig.wait(job)
    rig.terminate()
    connection = sqlite3.connect(rig.store / "queue.db")
    for table in ("attempt_cards", "measurements", "attempts", "jobs"):
        connection.execute(f"DELETE FROM {table}")
    connection.commit()
    connection.close()
    [folder] = rig.store.glob(f"jobs/*/{job}-1")
    rig.start()
    assert not warned(rig) and not folder.exists()


def test_old_folders_are_told_by_their_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "jobs" / "0" / "7-1"
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text("{}")
    made = folder.stat().st_mtime
    assert not restore._is_old(str(folder), made - 1)
    assert folder.exists()
    assert restore._is_old(str(folder), made + 1)
    assert not folder.exists()


def test_a_queue_that_is_damaged_again_and_again(start: Callable[..., Rig]) -> None:
    rig = start(1)
    rig.terminate()
    for _ in range(3):
        spoil(rig.store / "queue.db", "settings")
        rig.start()
        rig.terminate()
    spoil(rig.store / "queue.db", "settings")
    process = rig.spawn()
    assert process.wait(30) == 1
    assert "damaged 4 times within an hour; check the disk" in rig.log.read_text()
    shutil.rmtree(rig.store / "quarantine")
