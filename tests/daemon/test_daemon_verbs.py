"""p104ctl against a real daemon: what each verb does, and the exit codes that scripts rely on."""

from __future__ import annotations

import importlib
import json
import signal
from pathlib import Path

import pytest
from daemon_rig import PATIENCE, Rig, eventually


def test_run_ends_as_its_command_does(rig: Rig) -> None:
    done = rig.finished("run", "--", "sh", "-c", "echo out; echo err >&2; exit 0")
    assert (done.code, done.err) == (0, "")
    assert sorted(done.out.split()) == ["err", "out"]
    failed = rig.finished("run", "--", "sh", "-c", "echo before; exit 42")
    assert (failed.code, failed.out) == (42, "before\n")
    assert failed.err.count("\n") == 1 and "failed: exit code 42" in failed.err


def test_run_of_a_command_ended_by_a_signal(rig: Rig) -> None:
    done = rig.ctl("run", "--", "sh", "-c", "kill -TERM $$")
    assert done.code == 128 + signal.SIGTERM
    assert "signal 15 (SIGTERM)" in done.err


def test_run_of_a_command_that_is_not_there(rig: Rig) -> None:
    done = rig.ctl("run", "--", "/nonexistent/program")
    assert done.code not in (0, 2, 3, 4, 5)
    assert "/nonexistent/program" in done.err and done.err.count("\n") == 1


def test_run_gives_words_on_unchanged(rig: Rig) -> None:
    words = ["a b", "$HOME", "*", "ü", "", "--json", "${matrix}"]
    done = rig.ctl("run", "--", "printf", "<%s>\n", *words)
    assert done.out.splitlines() == [f"<{word}>" for word in words]


def test_interrupting_a_waiting_p104ctl_leaves_the_job(rig: Rig) -> None:
    with rig.process("run", "--name", "goes-on", "--", "sh", "-c", "echo started; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.count(b"\n") == 1 and b"goes on" in err
    [job] = rig.json("list", "--name", "goes-on")["jobs"]
    rig.until(job["id"], "running")


def test_submit_show_wait_logs(rig: Rig) -> None:
    (rig.work / "posters.yaml").write_text("command: [echo, drawn]\nlabels: {project: posters}\n")
    done = rig.ctl("submit", "posters.yaml")
    assert done.code == 0 and done.out.strip().isdigit()
    job = int(done.out)
    assert rig.ctl("wait", job) == (0, f"job {job} succeeded: exit code 0\n", "")
    shown = rig.show(job)
    assert (shown["name"], shown["state"], shown["exit_code"]) == ("posters", "succeeded", 0)
    assert shown["spec"]["command"] == ["echo", "drawn"]
    assert shown["labels"] == {"project": "posters"}
    [attempt] = shown["attempts"]
    assert attempt["outcome"] == "succeeded" and attempt["cards"] == shown["cards"] != []
    assert rig.output(job) == "drawn\n"
    assert "posters" in rig.ctl("show", job).out


def test_exit_codes_of_a_shell(rig: Rig, tmp_path: Path) -> None:
    """One call each as a process, because scripts see nothing else."""
    assert rig.finished("status").code == 0
    job = rig.sh("exit 7")
    assert rig.finished("wait", job).code == 1
    assert rig.finished("list", "--state", "nonsense").code == 2
    nobody = rig.finished("--socket", tmp_path / "none", "status")
    assert nobody.code == 3 and "none" in nobody.err and nobody.err.count("\n") == 1
    assert rig.finished("hold", job).code == 4
    assert rig.finished("show", 2**40).code == 5


def test_wait_for_several_and_with_a_timeout(rig: Rig) -> None:
    good, bad = rig.sh("true", cards=0), rig.sh("exit 9", cards=0)
    answer = rig.ctl("wait", "--json", bad, good)
    assert answer.code == 1
    assert [(job["id"], job["state"], job["exit_code"]) for job in answer.json["jobs"]] == [
        (bad, "failed", 9),
        (good, "succeeded", 0),
    ]
    going = rig.sh("exec sleep 60")
    late = rig.ctl("wait", "--timeout", "100ms", going)
    assert late.code == 1 and "not ended" in late.err


def test_submit_wait_tells_the_worst(rig: Rig) -> None:
    documents = (
        json.dumps({"name": "a", "command": "true"}) + "\n---\n" + json.dumps({"name": "b", "command": "exit 1"})
    )
    done = rig.ctl("submit", "--wait", "-", stdin=documents)
    assert done.code == 1 and "failed" in done.err
    assert rig.ctl("submit", "--wait", "-", stdin="command: 'true'").code == 0


def test_following_a_log_until_the_end(rig: Rig) -> None:
    job = rig.sh("echo first; while [ ! -e go ]; do sleep 0.02; done; echo last")
    with rig.process("logs", "-f", job) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        (rig.work / "go").touch()
        assert process.stdout.read() == b"last\n"
        assert process.wait(PATIENCE) == 0
    (rig.work / "go").unlink()


def test_parts_of_a_log(rig: Rig) -> None:
    job = rig.sh("seq 1 100; printf end")
    assert rig.ends(job) == "succeeded"
    assert rig.output(job).splitlines() == [*map(str, range(1, 101)), "end"]
    assert rig.output(job, "--tail", 2) == "100\nend"
    assert rig.output(job, "--attempt", 1).endswith("end")
    assert "1 attempt" in rig.refused("logs", "--attempt", 2, job, code=5)
    assert "there is no job" in rig.refused("logs", 2**40, code=5)


def test_output_is_kept_byte_by_byte(rig: Rig) -> None:
    job = rig.sh(r"printf '\000\377\r\033[1m'", cards=0)
    assert rig.ends(job) == "succeeded"
    with rig.client.stream(f"/v1/jobs/{job}/log") as answer:
        assert b"".join(answer.pieces()) == b"\0\xff\r\x1b[1m"


def test_hold_release_cancel(rig: Rig) -> None:
    rig.json("pause")
    held, gone = rig.sh("echo ran"), rig.sh("echo never")
    assert rig.json("hold", held)["jobs"] == [{"id": held, "state": "held", "priority": 0}]
    assert "held" in rig.because(held)
    assert rig.ctl("cancel", gone).code == 0
    rig.json("resume")
    assert rig.ends(gone) == "cancelled"
    assert rig.show(gone)["attempts"] == []
    assert rig.state(held) == "held"
    assert rig.ctl("release", held).code == 0
    assert rig.ends(held) == "succeeded"


def test_what_verbs_refuse(rig: Rig) -> None:
    running = rig.sh("exec sleep 60")
    rig.until(running, "running")
    assert "only a queued job can be held" in rig.refused("hold", running, code=4)
    assert "not held" in rig.refused("release", running, code=4)
    assert "has not ended" in rig.refused("retry", running, code=4)
    rig.json("cancel", running)
    assert rig.ends(running) == "cancelled"
    assert "has ended already" in rig.refused("cancel", running, code=4)
    assert "has ended" in rig.refused("priority", running, 5, code=4)
    assert "there is no job" in rig.refused("cancel", 2**40, code=5)
    assert rig.ctl("cancel").code == 2


def test_a_verb_is_done_to_all_jobs_or_to_none(rig: Rig) -> None:
    rig.json("pause")
    ended = rig.sh("true")
    rig.json("cancel", ended)
    waiting = rig.sh("true")
    rig.refused("cancel", waiting, ended, code=4)
    assert rig.state(waiting) == "queued"
    rig.refused("hold", waiting, 2**40, code=5)
    assert rig.state(waiting) == "queued"


def test_cancelling_a_running_job_tells_so(rig: Rig) -> None:
    job = rig.sh("trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    rig.reads(job, "up")
    rig.json("cancel", job)
    [ended] = rig.wait(job)
    # An exit code of 0 after a cancel is still a cancel.
    assert (ended["state"], ended["reason"]) == ("cancelled", "cancelled")
    assert "asked" in rig.output(job)


def test_retry_makes_a_new_attempt(rig: Rig) -> None:
    job = rig.sh("echo attempt $P104_ATTEMPT; [ $P104_ATTEMPT = 2 ]")
    assert rig.ends(job) == "failed"
    assert rig.ctl("retry", job).code == 0
    assert rig.ends(job) == "succeeded"
    assert [attempt["outcome"] for attempt in rig.show(job)["attempts"]] == ["failed", "succeeded"]
    assert rig.output(job) == "attempt 2\n"
    assert rig.output(job, "--attempt", 1) == "attempt 1\n"


def test_priority_then_age_decide(rig: Rig) -> None:
    rig.json("pause")
    only = [rig.cards()[0]["uuid"]]
    order = rig.work / "order"
    jobs = [
        rig.sh(f"echo {name} >> order", only=only, priority=p) for name, p in (("a", 0), ("b", 5), ("c", -1), ("d", 0))
    ]
    assert rig.ctl("priority", jobs[2], 10).code == 0
    rig.json("resume")
    rig.wait(*jobs)
    assert order.read_text().split() == ["c", "b", "a", "d"]
    order.unlink()


def test_pause_stops_new_starts_only(rig: Rig) -> None:
    going = rig.sh("while [ ! -e go ]; do sleep 0.02; done")
    rig.until(going, "running")
    assert rig.json("pause") == {"paused": True}
    waiting = rig.sh("true")
    assert "paused" in rig.because(waiting)
    assert rig.status()["daemon"]["paused"]
    (rig.work / "go").touch()
    assert rig.ends(going) == "succeeded"
    assert rig.state(waiting) == "queued"
    assert rig.json("resume") == {"paused": False}
    assert rig.ends(waiting) == "succeeded"
    (rig.work / "go").unlink()


def test_drain_and_undrain(rig: Rig) -> None:
    uuid = rig.card(2)["uuid"]
    going = rig.sh("exec sleep 60", only=["2"])
    rig.until(going, "running")
    assert rig.json("drain", 2)["cards"][0]["state"] == "draining"
    behind = rig.sh("true", only=["2"])
    assert "drain" in rig.because(behind)
    rig.json("cancel", going)
    rig.wait(going)
    assert rig.card(2)["state"] == "drained"
    assert rig.state(behind) == "queued"
    elsewhere = rig.sh("echo $P104_CARDS")
    assert rig.ends(elsewhere) == "succeeded" and uuid not in rig.output(elsewhere)
    rig.json("undrain", uuid[:12])
    assert rig.ends(behind) == "succeeded"
    assert rig.output(behind) == "" and rig.show(behind)["cards"] == [uuid]
    assert "there is no card" in rig.refused("drain", 9, code=5)


def test_list_filters(rig: Rig) -> None:
    mark = "to-be-listed"
    first = rig.sh("true", name=mark, labels={"kind": "a"}, only=["1"])
    second = rig.sh("false", name=mark, labels={"kind": "b"}, only=["3"])
    rig.wait(first, second)

    def ids(*options: object) -> list[int]:
        return [job["id"] for job in rig.json("list", "--name", mark, *options)["jobs"]]

    assert ids() == [second, first]
    assert ids("--state", "failed") == [second]
    assert ids("--state", "succeeded,failed", "--limit", 1) == [second]
    assert ids("--before", second) == [first]
    assert ids("--label", "kind=a") == [first]
    assert ids("--label", "kind=") == []
    assert ids("--card", 3) == [second]
    assert ids("--user", "nobody-of-this-name") == []
    assert ids("--since", "1h") == [second, first]
    assert ids("--state", "active") == []
    assert "labels" in rig.json("list", "--limit", 1)["jobs"][0]
    assert "spec" not in rig.json("list", "--limit", 1)["jobs"][0]


def test_explain_names_every_card(rig: Rig) -> None:
    busy = [rig.sh("exec sleep 60") for _ in range(4)]
    for job in busy:
        rig.until(job, "running")
    job = rig.sh("true", cards=2)
    told = rig.json("explain", job)
    assert told["id"] == job and told["waiting_because"]
    assert {card["uuid"] for card in told["cards"]} == {card["uuid"] for card in rig.cards()}
    assert all(card["refusal"] for card in told["cards"])
    assert rig.show(job)["waiting_because"] == told["waiting_because"]
    assert rig.json("explain", busy[0]) == {"id": busy[0], "waiting_because": None, "cards": []}
    assert len(rig.json("explain", job, busy[0])["jobs"]) == 2


def test_status_counts_and_names_what_runs(rig: Rig) -> None:
    job = rig.sh("exec sleep 60")
    rig.until(job, "running")
    status = rig.json("status")
    assert [one["id"] for one in status["running"]] == [job]
    assert status["queue"]["running"] == 1
    assert status["daemon"] | {"mode": "simulated", "user_mode": True, "paused": False} == status["daemon"]
    card = next(card for card in status["cards"] if job in card["jobs"])
    assert card["state"] == "busy" and card["memory_reserved_bytes"] > 7 * 2**30
    eventually(lambda: rig.card(card["index"])["memory_used_bytes"] > 7 * 2**30)
    screen = rig.ctl("status").out
    assert "P104-100" in screen and "sh" in screen


def test_several_files_are_one_submission(rig: Rig) -> None:
    (rig.work / "good.yaml").write_text("command: 'true'\n")
    (rig.work / "bad.yaml").write_text("command: 'true'\ncards: 99\n")
    before = rig.status()["queue"]
    assert rig.refused("submit", "good.yaml", "bad.yaml", code=4).startswith("p104ctl: bad.yaml:")
    assert rig.status()["queue"] == before
    (rig.work / "bad.yaml").write_text("command: 'true'\n")
    done = rig.ctl("submit", "good.yaml", "bad.yaml")
    ids = [int(line) for line in done.out.split()]
    assert [rig.show(job)["name"] for job in ids] == ["good", "bad"]
    rig.wait(*ids)


def test_set_applies_to_every_document(rig: Rig) -> None:
    ids = rig.submit(
        {"name": "x", "command": "echo $A"},
        {"name": "y", "command": "echo $A", "env": {"A": "old"}},
        options=["--set", "env.A=new", "--set", "cards=0", "--set", "labels.set=yes"],
    )
    rig.wait(*ids)
    assert [rig.output(job) for job in ids] == ["new\n", "new\n"]
    assert all(rig.show(job)["cards"] == [] and rig.show(job)["labels"] == {"set": "yes"} for job in ids)


def test_doctor_has_a_mend_for_what_is_wrong(rig: Rig) -> None:
    checks = rig.ctl("doctor", "--json").json["checks"]
    names = {check["name"] for check in checks}
    assert {"driver", "link width", "locked cards", "disk", "clock", "persistence"} <= names
    assert all(check["mend"] for check in checks if check["ok"] is False)


def test_a_long_list_is_asked_for_in_pages(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (rig.work / "pages.yaml").write_text("command: 'true'\ncards: 0\nname: paged\nmatrix: {n: [1, 2, 3, 4, 5]}\n")
    ids = [int(line) for line in rig.ctl("submit", "pages.yaml", cwd=rig.work).out.split()]
    whole = rig.ctl("list", "--name", "paged", "--limit", 50, "--json").json["jobs"]
    assert [job["id"] for job in whole] == sorted(ids, reverse=True)
    monkeypatch.setattr(importlib.import_module("p104d.cli.verbs.list"), "PAGE", 2)
    for limit in (1, 2, 3, 4, 5, 50):
        listed = rig.ctl("list", "--name", "paged", "--limit", limit, "--json").json["jobs"]
        assert [job["id"] for job in listed] == sorted(ids, reverse=True)[:limit]
