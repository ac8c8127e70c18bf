"""A job's log: bounded, rotated, and never in the job's way."""

from __future__ import annotations

from daemon_rig import Rig

LIMIT = 64 * 1024


def test_the_end_of_a_long_log_is_kept(rig: Rig) -> None:
    job = rig.sh("seq 1 60000; exit 4", cards=0)
    [ended] = rig.wait(job)
    assert ended["exit_code"] == 4
    text = rig.output(job)
    assert LIMIT // 4 < len(text) <= LIMIT + 256
    lines = text.splitlines()
    assert lines[-1] == "60000"
    kept = [int(line) for line in lines[1:] if line.isdigit()]
    assert kept == sorted(kept)
    folder = rig.store / "jobs" / str(job // 1000) / f"{job}-1"
    assert sum((folder / name).stat().st_size for name in ("log", "log.1")) <= LIMIT + 256


def test_a_slow_long_log_is_kept_without_gaps(rig: Rig) -> None:
    """Below the rate, only age removes lines."""
    job = rig.sh("for i in 1 2 3 4 5 6; do seq $((i*1000)) $((i*1000+999)); sleep 0.05; done", cards=0)
    assert rig.ends(job) == "succeeded"
    numbers = [int(line) for line in rig.output(job).splitlines() if len(line) == 4]
    assert numbers[-1] == 6999
    assert numbers == [*range(numbers[0], 7000)]


def test_a_reader_that_stalls_does_not_hold_the_job(rig: Rig) -> None:
    with rig.process(
        "logs", "-f", job := rig.sh("echo up; while [ ! -e go ]; do sleep 0.02; done; seq 1 200000", cards=0)
    ) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == b"up\n"
        (rig.work / "go").touch()
        # Nobody reads from here on, and the pipe is full soon.
        assert rig.ends(job) == "succeeded"
        p.kill()
    (rig.work / "go").unlink()
