"""Every key of job.yaml, as a job feels it."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from daemon_processes import alive
from daemon_rig import Rig, eventually


def environment(rig: Rig, job: int) -> dict[str, str]:
    return dict(line.split("=", 1) for line in rig.output(job).splitlines())


def test_a_list_is_executed_and_a_string_is_the_shells(rig: Rig) -> None:
    listed, string = rig.submit(
        {"name": "listed", "command": ["echo", "$HOME", "a  b", 3]}, {"name": "string", "command": "echo a  b | tr a c"}
    )
    rig.wait(listed, string)
    assert rig.output(listed) == "$HOME a  b 3\n"
    assert rig.output(string) == "c b\n"


def test_the_environment_is_built_and_not_inherited(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    job = rig.sh("env", cards=2, env={"STEPS": "30", "LANG": "C", "EMPTY": ""})
    assert rig.ends(job) == "succeeded"
    found = environment(rig, job)
    cards = rig.show(job)["cards"]
    assert found["CUDA_VISIBLE_DEVICES"] == found["P104_CARDS"] == ",".join(cards) and len(cards) == 2
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert (found["P104_JOB_ID"], found["P104_ATTEMPT"]) == (str(job), "1")
    assert (found["STEPS"], found["LANG"], found["EMPTY"]) == ("30", "C", "")
    assert {"PATH", "HOME", "USER"} <= found.keys()
    assert not {"SECRET_OF_THE_CALLER", "PYTHONPATH", "XDG_RUNTIME_DIR"} & found.keys()


@pytest.mark.parametrize("name", ["P104_JOB_ID", "P104_ANYTHING", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "A=B"])
def test_names_that_env_may_not_have(rig: Rig, name: str) -> None:
    text = json.dumps({"command": "true", "env": {name: "0"}})
    assert "env" in rig.refused("submit", "-", stdin=text, code=4)


def test_a_kept_variable_reaches_the_job_and_nobody_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "s3cret-value")
    [job] = rig.submit({"name": "k", "command": "echo $TOKEN_OF_MINE"}, options=["--keep-env", "TOKEN_OF_MINE"])
    assert rig.ends(job) == "succeeded"
    assert rig.output(job) == "s3cret-value\n"
    shown = rig.ctl("show", job).out + json.dumps(rig.show(job))
    assert "TOKEN_OF_MINE" in shown and "s3cret-value" not in shown
    assert "not set here" in rig.refused("submit", "--keep-env", "NOT_THERE", "-", stdin="command: 'true'", code=2)


def test_cwd_resolves_against_the_callers_folder(rig: Rig) -> None:
    (rig.work / "sub").mkdir(exist_ok=True)
    jobs = [rig.sh("pwd"), rig.sh("pwd", cwd="sub"), rig.sh("pwd", cwd="/")]
    rig.wait(*jobs)
    assert [rig.output(job).strip() for job in jobs] == [str(rig.work), str(rig.work / "sub"), "/"]
    gone = rig.sh("pwd", cwd="not-there")
    assert rig.ends(gone) == "failed"
    assert "not-there" in rig.show(gone)["reason"]


def test_files_are_made_with_the_callers_umask(rig: Rig) -> None:
    before = os.umask(0o027)
    try:
        job = rig.sh("rm -f made; touch made; stat -c %a made")
    finally:
        os.umask(before)
    assert rig.ends(job) == "succeeded"
    assert rig.output(job) == "640\n"


def test_only_names_cards(rig: Rig) -> None:
    cards = rig.cards()
    jobs = [
        rig.sh("true", only=["3"]),
        rig.sh("true", only=[cards[1]["uuid"]]),
        rig.sh("true", only=[cards[2]["uuid"][:14]]),
        rig.sh("true", only=["P104-100"]),
        rig.sh("true", only=["0", "1"], cards=2),
    ]
    rig.wait(*jobs)
    placed = [rig.show(job)["cards"] for job in jobs]
    assert placed[:3] == [[cards[3]["uuid"]], [cards[1]["uuid"]], [cards[2]["uuid"]]]
    assert len(placed[3]) == 1
    assert set(placed[4]) == {cards[0]["uuid"], cards[1]["uuid"]}
    # An index becomes a UUID at submission.
    assert rig.show(jobs[0])["spec"]["only"] == [cards[3]["uuid"]]
    assert "no card" in rig.refused("run", "--only", "GTX 1070", "--", "true", code=4)
    assert "only" in rig.refused("run", "--only", "0", "--cards", "2", "--", "true", code=4)


def test_a_matrix_makes_a_job_for_each_combination(rig: Rig) -> None:
    jobs = rig.submit(
        {
            "name": "m",
            "matrix": {"seed": [1, 2], "size": ["s", "l"]},
            "command": "echo ${matrix.seed} $SIZE ${HOME:+shell}",
            "env": {"SIZE": "${matrix.size}"},
            "vram": "1GiB",
        }
    )
    rig.wait(*jobs)
    assert [rig.output(job) for job in jobs] == [f"{seed} {size} shell\n" for seed in (1, 2) for size in "sl"]
    assert rig.show(jobs[1])["matrix"] == {"seed": "1", "size": "l"}


def test_after_waits_for_names_and_ids(rig: Rig) -> None:
    order = rig.work / "after"
    first = rig.sh("while [ ! -e go ]; do sleep 0.02; done; echo id >> after", cards=0)
    *matrix, last = rig.submit(
        {"name": "all", "matrix": {"n": [1, 2, 3]}, "command": "echo m >> after", "vram": "1GiB", "after": [first]},
        {"name": "last", "command": "echo last >> after", "after": ["all"]},
    )
    assert f"{matrix[0]}" in rig.because(last) and f"{first}" in rig.because(matrix[0])
    assert rig.show(last)["after"] == matrix
    (rig.work / "go").touch()
    rig.wait(last)
    assert order.read_text().split() == ["id", "m", "m", "m", "last"]
    order.unlink()
    (rig.work / "go").unlink()


def test_what_needs_a_failed_job_is_cancelled_with_that_reason(rig: Rig) -> None:
    bad, needs, and_so_on = rig.submit(
        {"name": "bad", "command": "exit 3"},
        {"name": "needs", "command": "true", "after": ["bad"]},
        {"name": "on", "command": "true", "after": ["needs"]},
    )
    rig.wait(bad, needs, and_so_on)
    assert rig.state(needs) == rig.state(and_so_on) == "cancelled"
    assert str(bad) in rig.show(needs)["reason"] and "failed" in rig.show(needs)["reason"]
    assert str(needs) in rig.show(and_so_on)["reason"]
    assert f"job {bad}" in rig.refused("run", "--after", bad, "--", "true", code=4)
    assert "there is no job" in rig.refused("run", "--after", 2**40, "--", "true", code=4)


def test_one_failing_job_of_a_matrix_cancels_what_needs_all(rig: Rig) -> None:
    *_, needs = rig.submit(
        {"name": "all", "matrix": {"n": [0, 1]}, "command": "exit ${matrix.n}", "vram": "1GiB"},
        {"name": "needs", "command": "true", "after": ["all"]},
    )
    assert rig.ends(needs) == "cancelled"


def test_retries_wait_longer_each_time(rig: Rig) -> None:
    job = rig.sh("echo attempt $P104_ATTEMPT; exit 5", retries=2)
    eventually(lambda: rig.show(job)["attempt_count"] == 1 and rig.state(job) == "queued")
    assert "again" in rig.because(job) or "wait" in rig.because(job)
    assert rig.ends(job) == "failed"
    attempts = rig.show(job)["attempts"]
    assert [(one["number"], one["outcome"], one["exit_code"]) for one in attempts] == [
        (number, "failed", 5) for number in (1, 2, 3)
    ]
    times = [datetime.fromisoformat(one[key]) for one in attempts for key in ("started_at", "ended_at")]
    first, second = times[2] - times[1], times[4] - times[3]
    assert timedelta(seconds=0.7) < first < second


def test_a_retried_job_may_succeed_and_its_logs_follow_each_other(rig: Rig) -> None:
    job = rig.sh("echo attempt $P104_ATTEMPT; [ $P104_ATTEMPT = 2 ]", retries=3)
    assert rig.ctl("logs", "-f", job).out == "attempt 1\nattempt 2\n"
    assert rig.ends(job) == "succeeded"
    assert rig.show(job)["attempt_count"] == 2


def test_a_time_limit_ends_the_whole_tree(rig: Rig) -> None:
    child = "setsid sh -c 'trap \"\" TERM; echo $$; exec sleep 60' &"
    script = f"{child} trap '' TERM; sleep 0.1; echo $$; while :; do sleep 1; done"
    job = rig.sh(script, time_limit="700ms")
    began = time.monotonic()
    [ended] = rig.wait(job)
    assert (ended["state"], ended["reason"]) == ("failed", "time limit")
    # It ignored SIGTERM, so the grace of 1 s has passed.
    assert time.monotonic() - began > 1.5
    pids = [int(line) for line in rig.output(job).split()]
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


def test_cancel_ends_the_whole_tree(rig: Rig) -> None:
    script = "setsid sh -c 'trap \"\" TERM; echo $$; exec sleep 60' & (nohup sleep 61 & echo $!); echo up; wait"
    job = rig.sh(script)
    rig.reads(job, "up")
    eventually(lambda: len(rig.output(job).split()) == 3)
    pids = [int(word) for word in rig.output(job).split() if word != "up"]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    rig.json("cancel", job)
    assert rig.ends(job) == "cancelled"
    assert not any(alive(pid) for pid in pids)


def test_what_a_job_leaves_behind_ends_with_it(rig: Rig) -> None:
    job = rig.sh("setsid sleep 60 & echo $!")
    assert rig.ends(job) == "succeeded"
    assert not alive(int(rig.output(job)))


def test_not_before(rig: Rig) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1.5)
    job = rig.sh("true", not_before=at.isoformat())
    assert rig.state(job) == "queued" and rig.because(job)
    assert rig.ends(job) == "succeeded"
    assert datetime.fromisoformat(rig.show(job)["started_at"]) >= at - timedelta(milliseconds=1)
    past = rig.sh("true", not_before="2020-01-01T00:00:00+01:00")
    assert rig.ends(past) == "succeeded"


def test_vram_shares_a_card_by_reserved_bytes(rig: Rig) -> None:
    share = [rig.sh("exec sleep 60", only=["0"], vram="3GiB") for _ in range(2)]
    for job in share:
        rig.until(job, "running")
    assert rig.card(0)["memory_reserved_bytes"] == 6 * 2**30
    third = rig.sh("true", only=["0"], vram="3GiB")
    whole = rig.sh("true", only=["0"])
    assert rig.state(third) == "queued" and f"until jobs {share[0]}, {share[1]} end" in rig.because(third)
    fits = rig.sh("true", only=["0"], vram="1GiB", priority=1)
    assert rig.ends(fits) == "succeeded"
    rig.json("cancel", share[0])
    assert rig.ends(third) == "succeeded"
    assert rig.state(whole) == "queued"
    rig.json("cancel", share[1])
    assert rig.ends(whole) == "succeeded"


def test_jobs_without_cards_have_places_of_their_own(rig: Rig) -> None:
    cards = [rig.sh("exec sleep 60") for _ in range(4)]
    two = [rig.sh("exec sleep 60", cards=0) for _ in range(2)]
    for job in cards + two:
        rig.until(job, "running")
    third = rig.sh("echo [$CUDA_VISIBLE_DEVICES]", cards=0)
    assert rig.state(third) == "queued" and "place" in rig.because(third)
    rig.json("cancel", two[0])
    assert rig.ends(third) == "succeeded"
    # Hidden, not unset: a job without cards sees none.
    assert rig.output(third) == "[]\n" and rig.show(third)["cards"] == []


def test_host_memory_is_reserved(rig: Rig) -> None:
    import psutil

    most = psutil.virtual_memory().total // 2**20
    big = rig.sh("exec sleep 60", ram=f"{most * 2 // 3}MiB", cards=0)
    rig.until(big, "running")
    next_one = rig.sh("true", ram=f"{most // 2}MiB")
    assert "host memory" in rig.because(next_one)
    small = rig.sh("true", ram="1MiB", priority=1)
    assert rig.ends(small) == "succeeded"
    rig.json("cancel", big)
    assert rig.ends(next_one) == "succeeded"
    assert "ram" in rig.refused("run", "--ram", "900TiB", "--", "true", code=4)


def test_measurements_are_committed_with_the_end(rig: Rig) -> None:
    line = "100%|##########| 30/30 [00:12<00:00,  2.50it/s]"
    job = rig.sh(f"printf '%s\\r\\n' '{line}' >&2", measure=["tqdm"])
    assert rig.ends(job) == "succeeded"
    [found] = [one for one in rig.show(job)["measurements"] if one["unit"] == "it/s"]
    assert found["value"] == pytest.approx(2.5)


def test_a_measure_of_ones_own(rig: Rig) -> None:
    pattern = {"name": "score", "unit": "points", "pattern": "score=(?P<value>[0-9.]+)"}
    job = rig.sh("echo score=0.25; echo score=0.75", measure=[pattern])
    assert rig.ends(job) == "succeeded"
    assert rig.show(job)["measurements"] == [{"name": "score", "value": 0.75, "unit": "points"}]


def test_a_schedule_is_listed_held_and_cancelled(rig: Rig) -> None:
    text = json.dumps({"name": "nightly", "command": "true", "schedule": "0 3 * * 7", "timezone": "UTC"})
    made = rig.json("submit", "-", stdin=text)
    assert made["jobs"] == []
    [schedule] = made["schedules"]
    found = next(one for one in rig.json("schedules")["schedules"] if one["id"] == schedule["id"])
    assert (found["name"], found["cron"], found["state"], found["timezone"]) == (
        "nightly",
        "0 3 * * 7",
        "active",
        "UTC",
    )
    at = datetime.fromisoformat(found["next_run_at"])
    assert (at.hour, at.minute, at.isoweekday()) == (3, 0, 7) and at > datetime.now(UTC)
    assert rig.json("schedules", "hold", schedule["id"])["schedules"][0]["state"] == "held"
    assert rig.json("schedules", "release", schedule["id"])["schedules"][0]["state"] == "active"
    assert rig.json("schedules", "cancel", schedule["id"])["schedules"][0]["state"] == "cancelled"
    assert "there is no schedule" in rig.refused("schedules", "hold", schedule["id"], code=5)
    assert rig.json("schedules")["schedules"] == []
