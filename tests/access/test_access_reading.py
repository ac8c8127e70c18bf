"""Who sees and who does what of whose jobs, in every verb and on every page."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from access_rig import ALICE, BOB, CAROL, System, User
from daemon_rig import eventually

MARK = "zq7-secret"
#: Everything that a person can write into a job, each with the mark that nobody else may read.
TELLING = {
    "name": "public-name",
    "command": f"echo {MARK}-output; echo {MARK}-error >&2; : {MARK}-command; exec sleep 60",
    "env": {"TOKEN": f"{MARK}-env"},
    "labels": {f"{MARK}-key": f"{MARK}-label"},
    "matrix": {"seed": [f"{MARK}-matrix"]},
    "notify": {"on": ["failed", "cancelled"], "command": ["true", f"{MARK}-notify"]},
}
VERBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cancel", {}),
    ("hold", {}),
    ("release", {}),
    ("retry", {}),
    ("priority", {"priority": -1}),
)


def telling(system: System, user: User, **more: Any) -> int:
    """Submit a job that has the mark wherever there is room for one."""
    folder = system.home(user) / f"{MARK}-folder"
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, user.uid, user.gid)
    document = {**TELLING, "cwd": str(folder), **more}
    body = {
        "documents": [{"file": f"{MARK}.yaml", "text": json.dumps(document)}],
        "cwd": str(folder),
        "keep_env": {"KEPT": f"{MARK}-kept"},
    }
    answer = system.as_user(user).ask("POST", "/v1/submit", body)
    assert answer.status == 200, answer
    made = answer.body["jobs"] or answer.body["schedules"]
    return int(made[0]["id"])


def pages(system: System, user: User, *jobs: int) -> dict[str, str]:
    """All that a user can be told by the socket of these jobs and of everything."""
    agent, found = system.as_user(user), {}
    for path in (
        "/v1/status", "/v1/cards", "/v1/jobs?limit=500", "/v1/jobs?state=all",
        f"/v1/jobs?label={MARK}-key={MARK}-label",
        "/v1/jobs?name=public-name", "/v1/schedules", "/v1/doctor", "/v1/history", "/v1/history?what=results",
        "/v1/history?what=summaries", "/v1/series?entity=rig&metric=power_watts", "/v1/report", "/v1/power", "/metrics",
        "/v1/plan", "/v1/plan?cards=4&limit=500",
        *(f"/v1/jobs/{job}/log" for job in jobs), "/v1/export",
    ):  # fmt: skip
        found[path] = agent.get(path).text
    for path in ("/v1/jobs/show", "/v1/jobs/explain"):
        found[path] = agent.post(path, ids=list(jobs)).text
    found["/v1/jobs/wait"] = agent.post("/v1/jobs/wait", ids=list(jobs), timeout_seconds=0).text
    for verb, body in VERBS:
        found[verb] = agent.post(f"/v1/jobs/{verb}", ids=list(jobs), **body).text
    return found


def reasons_for(system: System, user: User) -> dict[int, str]:
    """Why jobs ended, as that user is told."""
    jobs = system.as_user(user).get("/v1/jobs?state=all&limit=50").body["jobs"]
    return {job["id"]: job["reason"] for job in jobs}


def test_what_a_job_is_stays_with_its_owner(system: System) -> None:
    running = telling(system, ALICE)
    system.reads(running, f"{MARK}-output")
    failed = [
        telling(system, ALICE, command=[f"/{MARK}-no-such-command"]),
        telling(system, ALICE, command=[f"{MARK}-unknown", "x"]),
        telling(system, ALICE, cwd=f"/tmp/{MARK}-no-such-folder"),
        telling(system, ALICE, command=f"echo {MARK}; exit 3"),
    ]
    system.wait(*failed)
    mine = pages(system, ALICE, running)
    assert f"{MARK}-command" in mine["/v1/jobs/show"] and f"{MARK}-output" in mine[f"/v1/jobs/{running}/log"]
    assert f"{MARK}-env" in mine["/v1/jobs/show"] and f"{MARK}-label" in mine["/v1/jobs?limit=500"]
    assert f"{MARK}-kept" not in "".join(mine.values()), "what --keep-env took along is shown to nobody"
    shown = system.as_user(ALICE).post("/v1/jobs/show", ids=[running]).body["jobs"][0]
    assert "KEPT" in json.dumps(shown), "but that it was, to its owner"
    reasons = {
        job["id"]: job["reason"] for job in system.as_user(ALICE).get("/v1/jobs?state=all&limit=50").body["jobs"]
    }
    assert MARK in reasons[failed[0]] and MARK in reasons[failed[2]]
    running = telling(system, ALICE)
    system.reads(running, f"{MARK}-output")
    waiting = telling(system, ALICE, cards=2)
    schedule = telling(system, ALICE, schedule="0 3 1 1 *")
    every = [running, *failed, waiting]
    for user in (BOB, CAROL):
        for where, text in pages(system, user, running, *every).items():
            assert MARK not in text, (user.name, where, text[:2000])
        for job in every[:-1]:
            assert system.as_user(user).get(f"/v1/jobs/{job}/log").status == 403
        assert system.as_user(user).post("/v1/schedules/cancel", ids=[schedule]).status == 403
    others = reasons_for(system, BOB)
    assert others[failed[0]] == "command not found (exit code 127)", "what kind of end it was is for everybody"
    assert others[failed[2]] == "cwd does not exist (exit code 126)" and others[failed[3]] == "exit code 3"
    # It is there for everybody, though: a queue in which one cannot see who is before oneself is no queue.
    shown = system.as_user(BOB).post("/v1/jobs/show", ids=[running]).body["jobs"][0]
    assert (shown["name"], shown["user"], shown["state"]) == ("public-name", ALICE.name, "running")
    assert shown["spec"] is None and shown["labels"] is None and shown["matrix"] is None
    assert "public-name" in system.as_user(BOB).get("/v1/status").text


@pytest.mark.parametrize("state", ["held", "running", "failed"])
def test_every_verb_in_every_state_is_the_owners(system: System, state: str) -> None:
    job = in_state(system, state)
    for user in (BOB, CAROL):
        own = in_state(system, "held", user)
        for verb, body in VERBS:
            agent = system.as_user(user)
            refused = agent.post(f"/v1/jobs/{verb}", ids=[job], **body)
            assert refused.status == 403 and refused.refused, (user.name, verb, state, refused)
            # Nor together with one's own: all of them or none.
            assert agent.post(f"/v1/jobs/{verb}", ids=[own, job], **body).status in (403, 409), verb
            assert agent.post(f"/v1/jobs/{verb}", ids=[job, own], **body).status == 403, verb
            shown = system.as_user(None).post("/v1/jobs/show", ids=[job, own]).body["jobs"]
            assert [(each["state"], each["priority"]) for each in shown] == [(state, 0), ("held", 0)], verb


def in_state(system: System, state: str, user: User = ALICE) -> int:
    """A job of that user's in that state."""
    if state == "held":
        system.as_user(None).post("/v1/pause")
    job = telling(system, user, command="exit 3" if state == "failed" else "exec sleep 60")
    if state == "held":
        assert system.as_user(user).post("/v1/jobs/hold", ids=[job]).status == 200
        system.as_user(None).post("/v1/resume")
    else:
        eventually(lambda: system.state(job) == state)
    return job


def test_root_may_what_owners_may(system: System) -> None:
    job = system.submitted_by(ALICE, "--", "sh", "-c", "echo mine; exec sleep 60")
    system.reads(job, "mine")
    assert system.show(job)["spec"]["command"]
    assert system.ctl("cancel", job).code == 0
    assert system.ends(job) == "cancelled"


def test_a_priority_is_not_raised_by_any_way(system: System) -> None:
    job = system.submitted_by(ALICE, "--", "sleep", "60")
    assert system.as_user(ALICE).post("/v1/jobs/priority", ids=[job], priority=1).status == 403
    body = {"documents": [{"file": "x", "text": "command: 'true'"}], "cwd": "/", "set": ["priority=1"]}
    assert system.as_user(ALICE).ask("POST", "/v1/submit", body).status == 409
    for priority in (1001, 10**30, -1001):
        assert system.as_user(ALICE).post("/v1/jobs/priority", ids=[job], priority=priority).status >= 400


def test_an_admin_raises_the_priority_of_their_own_jobs(system: System) -> None:
    """At the submission and later; not of others', which test_access_identity asks for."""
    body = {"documents": [{"file": "x", "text": "command: exec sleep 60"}], "cwd": "/", "set": ["priority=7"]}
    made = system.as_user(CAROL).ask("POST", "/v1/submit", body)
    assert made.status == 200, made
    [job] = [each["id"] for each in made.body["jobs"]]
    assert system.show(job)["priority"] == 7
    raised = system.as_user(CAROL).post("/v1/jobs/priority", ids=[job], priority=1000)
    assert raised.status == 200 and raised.body["jobs"][0]["priority"] == 1000, raised
    assert system.show(job)["priority"] == 1000


NOT_NUMBERS = (
    "../1", "..%2f..%2fqueue.db", "1/../2", "1%2f..%2f2", "%2e%2e", "-1", "0", "+1", "1.0", "0x1", "1e3", "%D9%A3",
    "9" * 30, str(2**63), str(2**53 + 1), "1%00", "", "%201", "1;2", "1-1", "\u0663",
)  # fmt: skip


def test_a_log_is_named_by_a_whole_number(system: System) -> None:
    agent = system.as_user(BOB)
    for job in NOT_NUMBERS:
        for tail in ("", "?attempt=../1", "?follow=1&attempt=-1"):
            path = f"/v1/jobs/{job}/log{tail}"
            answer = agent.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert answer.status in (400, 404), (path, answer)
            assert str(system.folder) not in answer.text and "Traceback" not in answer.text
    for tail in ("attempt=../1", "attempt=-1", f"attempt={2**40}", "tail=-1", "tail=x"):
        assert agent.get(f"/v1/jobs/1/log?{tail}").status in (400, 403, 404), tail


def test_only_root_takes_the_queue_along(system: System) -> None:
    for user in (ALICE, CAROL):
        assert system.as_user(user).get("/v1/export").status == 403
        assert system.as_user(user).get("/v1/export?what=queue").status == 403
        assert system.as_user(user).get("/v1/export?what=../queue").status == 400
    assert not list(system.store.glob("export-*"))


def test_an_export_goes_where_its_caller_may_write_and_nowhere_else(system: System) -> None:
    private = system.folder / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    (private / "victim").write_text("kept")
    link = system.work / "link.db"
    link.unlink(missing_ok=True)
    link.symlink_to(private / "victim")
    told = system.by(BOB, "export", "--telemetry", str(link))
    assert told.code != 0 and "Traceback" not in told.err
    assert (private / "victim").read_text() == "kept"
    file = system.home(BOB) / "readings.db"
    assert system.by(BOB, "export", "--telemetry", str(file)).code == 0
    assert file.stat().st_uid == BOB.uid
    tables = sqlite3.connect(file)
    names = {row[0] for row in tables.execute("SELECT name FROM sqlite_master")}
    tables.close()
    assert not names & {"jobs", "documents", "notifications", "attempts"}


def test_the_state_is_roots_alone(system: System) -> None:
    job = system.ran(ALICE, "--", "echo", "x") and system.as_user(ALICE).get("/v1/jobs?limit=1").body["jobs"][0]["id"]
    wrong = []
    for folder, _, files in os.walk(system.store):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            told = path.lstat()
            allowed = 0o700 if stat.S_ISDIR(told.st_mode) else 0o600
            if told.st_uid != 0 or (stat.S_IMODE(told.st_mode) & ~allowed and not stat.S_ISLNK(told.st_mode)):
                wrong.append((str(path), oct(told.st_mode), told.st_uid))
    assert not wrong and list(system.store.glob(f"jobs/*/{job}-1/launch.json"))
