"""Every verb: what it asks the daemon, what it prints for people and for programs."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
import sys
from datetime import UTC, datetime, timedelta

import pytest
from fake_daemon import GIB, UUIDS, card, job, rig, status

SPEC = {"name": "posters", "command": ["python3", "a b.py"], "cwd": "/w", "vram_bytes": 2 * GIB, "retries": 2}


def test_status_is_one_screen_for_people_and_the_object_for_programs(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/status"] = status()
    assert json.loads(ctl("status", "--json").out) == status()
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        page = ctl("status").out
        assert max(map(len, page.splitlines())) <= columns
        for word in ("busy", "12 13", "5.9/8.0 GiB", "71°C", "99%", "148W", "GTX 1070", "fell off the bus (XID 79)"):
            assert word in page
        assert "2 running · 7 queued · 1 held" in page and "41 succeeded" in page and "lost" not in page
        assert "2.52 it/s" in page and "0,1" in page and "! card 3 is suspect" in page
        assert "SIMULATED" not in page and "PAUSED" not in page


def test_running_jobs_show_how_far_they_are_and_what_is_left(daemon, ctl, monkeypatch):
    end = (datetime.now(UTC) + timedelta(seconds=80.9)).isoformat()
    started = "2026-11-23T12:00:00.000+00:00"
    speed = [{"name": "iterations_per_second", "value": 10.0, "unit": "it/s"}]
    known = {"measurements": speed, "progress_percent": 62.7, "estimated_end_at": end}
    running = [job(12, "running", cards=[UUIDS[0]], started_at=started, **known)]
    running.append(job(13, "running", name="captions", started_at=started))
    daemon.answers["GET", "/v1/status"] = status() | {"running": running}

    def table():
        found = ctl("status").out.partition("JOB ")[2].partition("\n\n")[0].splitlines()
        assert max(map(len, found)) <= int(os.environ["COLUMNS"])
        return found

    monkeypatch.setenv("COLUMNS", "120")
    heading, told, silent = table()[:3]
    assert heading.split()[-3:] == ["SPEED", "DONE", "LEFT"] and silent.split()[-2:-1] != ["%"]
    assert told.split()[-5:-1] == ["10", "it/s", "62", "%"] and told.split()[-1] in ("1m20s", "1m19s")
    monkeypatch.setenv("COLUMNS", "46")
    heading = table()[0].split()
    assert "DONE" in heading and "USER" not in heading
    # An estimate that has passed, or a percentage nobody knows, is no column of its own.
    running[0] |= {"estimated_end_at": started, "progress_percent": None}
    monkeypatch.setenv("COLUMNS", "120")
    assert table()[0].split()[-1] == "SPEED"
    running[0]["measurements"] = []
    assert table()[0].split()[-1] == "TIME"


def test_show_tells_progress_and_the_end_expected(daemon, ctl):
    end = datetime.now(UTC) + timedelta(seconds=80.9)
    known = {"progress_percent": 62.7, "estimated_end_at": end.isoformat()}
    told = job(12, "running", attempts=[], spec=None, **known)
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [told]}
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    [line] = [line for line in ctl("show", "12").out.splitlines() if "progress" in line]
    clock = end.astimezone().strftime("%H:%M:%S")
    assert line.split("progress")[1].strip() in {f"62 %, done about {clock} (in 1m{s}s)" for s in (20, 19)}
    told["estimated_end_at"] = None
    assert "progress     62 %\n" in ctl("show", "12").out
    told["progress_percent"] = None
    assert "progress" not in ctl("show", "12").out


def test_status_says_loudly_that_it_is_simulated_or_paused(daemon, ctl):
    daemon.answers["GET", "/v1/status"] = status(mode="simulated", paused=True)
    page = ctl("status").out
    assert "*** SIMULATED RIG" in page and "*** PAUSED" in page


def test_status_of_an_empty_rig_says_where_to_look(daemon, ctl):
    empty = status() | {"cards": [], "running": [], "queue": {}, "warnings": []}
    daemon.answers["GET", "/v1/status"] = empty
    page = ctl("status").out
    assert "p104ctl doctor" in page and "nothing runs, nothing waits" in page


def test_a_card_without_readings_shows_dashes_never_zeros(daemon, ctl):
    keys = ("memory_total_bytes", "memory_used_bytes", "temperature_celsius", "power_watts", "utilization_percent")
    lost = card(0, **dict.fromkeys(keys), power_limit_watts=None, link_generation=None, link_width=None)
    daemon.answers["GET", "/v1/status"] = status() | {"cards": [lost], "running": []}
    line = next(line for line in ctl("status").out.splitlines() if "P104-100" in line)
    assert "0W" not in line and "0%" not in line and line.split()[4:] == [*["-"] * 6, "never", "-"]


def test_names_cannot_drive_the_terminal(daemon, ctl):
    daemon.answers["GET", "/v1/jobs"] = {"jobs": [job(1, name="\x1b[2J\x9b31m\u202eevil\r")]}
    assert not any(char in ctl("list").out for char in "\x1b\x9b\u202e\r")


def test_cards(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    assert json.loads(ctl("cards", "--json").out) == {"cards": rig()}
    wide = ctl("cards").out
    for word in (UUIDS[0], "01:00.0", "86.04.7A.00.20", "1x1 of 1x4", "180W", "reports its stock 4 GiB"):
        assert word in wide
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, ctl("cards").out.splitlines())) <= 80


@pytest.mark.parametrize(
    "name", ["3", UUIDS[3], UUIDS[3][:8].lower(), "33333333", "GeForce GTX 1070", "00000000:04:00.0"]
)
def test_cards_of_one_card(daemon, ctl, name):
    daemon.answers["GET", "/v1/cards"] = {"cards": [*rig()[:3], rig()[3] | {"name": "GeForce GTX 1070"}]}
    found = json.loads(ctl("cards", name, "--json").out)["cards"]
    assert [one["index"] for one in found] == [3]
    page = ctl("cards", name).out
    for word in ("card 3  GTX 1070", "driver      535.183.01", "90W to 217W", "8.0 GiB reported, - proven"):
        assert word in page


def test_cards_that_are_not_there(daemon, ctl):
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    assert ctl("cards", "7").code == 5
    assert ctl("cards", "GPU").code == 5


@pytest.mark.parametrize(("verb", "undo"), [("drain", False), ("undrain", True)])
def test_drain_and_undrain(daemon, ctl, verb, undo):
    after = {"cards": [card(0, state="draining", jobs=[12])]}
    daemon.answers["POST", "/v1/cards/drain"] = after
    result = ctl(verb, "0", "P104-100", "0")
    assert daemon.requests[-1].body == {"cards": ["0", "P104-100"], "undo": undo}
    assert result.out.startswith("card 0 (P104-100): draining") and ("still runs 12" in result.out) is not undo
    assert json.loads(ctl(verb, "0", "--json").out) == after


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pause_and_resume(daemon, ctl, verb):
    daemon.answers["POST", f"/v1/{verb}"] = {"paused": verb == "pause"}
    assert ctl(verb).out.startswith(verb)
    assert json.loads(ctl(verb, "--json").out) == {"paused": verb == "pause"}


SUBMITTED = {"jobs": [{"id": 4, "name": "a"}, {"id": 5, "name": "b"}], "schedules": [{"id": 1, "name": "c"}]}


def test_submit_sends_the_texts_and_prints_one_id_a_line(daemon, ctl, tmp_path, monkeypatch):
    daemon.answers["POST", "/v1/submit"] = SUBMITTED
    (tmp_path / "a.yaml").write_text("command: [true]\nname: é\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKEN", "x=y")
    old = os.umask(0o027)
    try:
        result = ctl(
            "submit", "a.yaml", "--set", "priority=5", "--set", "env.A=b", "--keep-env", "TOKEN", "--name", "7"
        )
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert result == (0, "4\n5\nschedule 1\n", "")
    assert daemon.requests[-1].body == {
        "documents": [{"file": "a.yaml", "text": "command: [true]\nname: é\n"}],
        "set": ["priority=5", "env.A=b", 'name="7"'],
        "cwd": str(tmp_path),
        "keep_env": {"TOKEN": "x=y"},
        "umask": 0o027,
    }
    assert json.loads(ctl("submit", "a.yaml", "--json").out) == SUBMITTED


def test_submit_tells_warnings_beside_the_ids(daemon, ctl, tmp_path):
    warned = SUBMITTED | {"warnings": ["job.yaml:3: context: more than \x1b[2J it was trained to", "another"]}
    daemon.answers["POST", "/v1/submit"] = warned
    (tmp_path / "a.yaml").write_text("command: x\n")
    result = ctl("submit", str(tmp_path / "a.yaml"))
    assert result.out == "4\n5\nschedule 1\n"
    first, second = result.err.splitlines()
    assert first.startswith("warning: job.yaml:3: context: more than") and "\x1b" not in first
    assert second == "warning: another"
    result = ctl("submit", str(tmp_path / "a.yaml"), "--json")
    assert (json.loads(result.out), result.err) == (warned, "")
    result = ctl("run", "--detach", "true")
    assert (result.out, result.err.splitlines()[1]) == ("4\n", "warning: another")
    assert ctl("run", "--detach", "--json", "true").err == ""


def test_submit_reads_standard_input_beside_files(daemon, ctl, tmp_path, monkeypatch):
    daemon.answers["POST", "/v1/submit"] = SUBMITTED
    (tmp_path / "a.yaml").write_text("A")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"command: x")))
    assert ctl("submit", str(tmp_path / "a.yaml"), "-").code == 0
    assert [one["file"] for one in daemon.requests[-1].body["documents"]] == [str(tmp_path / "a.yaml"), "-"]
    assert daemon.requests[-1].body["documents"][1]["text"] == "command: x"


def test_list_hands_the_filters_on(daemon, ctl, monkeypatch):
    jobs = [job(3, waiting_because="no card has room", priority=7), job(2, "failed", reason="exit code 3")]
    daemon.answers["GET", "/v1/jobs"] = {"jobs": jobs}
    arguments = "--state queued,failed --state held --name n --user u --label a=b --card 0 --limit 9 --before 70"
    result = ctl("list", *arguments.split(), "--since", "2026-11-23T12:00:00+01:00")
    assert daemon.asked("/v1/jobs")[-1].query == {
        "state": ["queued,failed,held"],
        "name": ["n"],
        "user": ["u"],
        "label": ["a=b"],
        "card": ["0"],
        "since": ["2026-11-23T11:00:00.000+00:00"],
        "limit": ["9"],
        "before": ["70"],
    }
    assert "no card has room" in result.out and "exit code 3" in result.out and "PRIO" in result.out
    assert json.loads(ctl("list", "--json").out) == {"jobs": jobs}
    assert daemon.asked("/v1/jobs")[-1].query == {"limit": ["50"]}
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, ctl("list").out.splitlines())) <= 80


def test_list_shows_cards_by_index_and_survives_their_absence(daemon, ctl):
    daemon.answers["GET", "/v1/jobs"] = {"jobs": [job(3, "running", cards=[UUIDS[2]])]}
    assert UUIDS[2][:12] in ctl("list").out
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    assert UUIDS[2][:12] not in ctl("list").out
    daemon.answers["GET", "/v1/jobs"] = {"jobs": []}
    assert ctl("list").out == "no jobs\n"


def shown(number: int, **changes):
    attempts = [
        {"number": 1, "outcome": "failed", "exit_code": 3, "signal": None, "reason": "exit code 3", "cards": UUIDS[:1]},
        {"number": 2, "outcome": "failed", "exit_code": None, "signal": 9, "reason": "killed", "cards": []},
    ]
    return job(number, "failed", reason="killed", spec=SPEC, attempts=attempts, labels={"a": "b"}, **changes)


def test_show_one_is_an_object_several_a_list(daemon, ctl):
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [shown(3)]}
    assert json.loads(ctl("show", "3", "3", "--json").out) == shown(3)
    assert daemon.requests[-1].body == {"ids": [3]}
    page = ctl("show", "3").out
    for word in ("posters", "failed", "killed", "python3 'a b.py'", "2.0 GiB", "a=b", "signal 9", "ATTEMPT"):
        assert word in page
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [shown(3), job(4, spec=None, attempts=[])]}
    assert len(json.loads(ctl("show", "3", "4", "--json").out)["jobs"]) == 2
    assert "job 4" in ctl("show", "3", "4").out


def test_show_names_the_model_and_the_files(daemon, ctl):
    engine = {"engine": "llama.cpp", "model": "/m/a.gguf", "context": 4096, "kv_cache": "q8_0", "parallel": 4}
    files = {"input": "/w/in.jsonl", "output": "/w/out.jsonl"}
    told = job(3, spec={"name": "answers"} | engine | files | {"cwd": "/w", "idempotent": True}, attempts=[])
    daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [told]}
    page = [" ".join(line.split()) for line in ctl("show", "3").out.splitlines()]
    start = page.index("engine llama.cpp")
    assert page[start : start + 7] == [
        "engine llama.cpp",
        "model /m/a.gguf",
        "context 4096",
        "kv cache q8_0",
        "parallel 4",
        "input /w/in.jsonl",
        "output /w/out.jsonl",
    ]
    assert "command" not in ctl("show", "3").out


def test_explain(daemon, ctl):
    reasons = [{"uuid": UUIDS[0], "refusal": "holds job 12 alone"}, {"uuid": UUIDS[1], "refusal": None}]
    answer = {"jobs": [{"id": 15, "waiting_because": "no card has room", "cards": reasons}]}
    daemon.answers["POST", "/v1/jobs/explain"] = answer
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    page = ctl("explain", "15").out
    assert page.startswith("job 15: no card has room\n") and "holds job 12 alone" in page
    assert "would take it" in page
    assert json.loads(ctl("explain", "15", "--json").out) == answer["jobs"][0]


@pytest.mark.parametrize("verb", ["cancel", "hold", "release", "retry"])
def test_acts_on_several_jobs_are_one_request(daemon, ctl, verb):
    answer = {"jobs": [job(1, "cancelled"), job(2, "stopping")]}
    daemon.answers["POST", f"/v1/jobs/{verb}"] = answer
    assert ctl(verb, "1", "2").out == "job 1 (posters): cancelled\njob 2 (posters): stopping\n"
    assert [request.body for request in daemon.requests] == [{"ids": [1, 2]}]
    assert json.loads(ctl(verb, "1", "--json").out) == answer


def test_priority_takes_the_number_last_below_zero_too(daemon, ctl):
    daemon.answers["POST", "/v1/jobs/priority"] = {"jobs": [job(1, priority=-5)]}
    assert ctl("priority", "1", "2", "-5").out == "job 1 (posters): priority -5\n"
    assert daemon.requests[-1].body == {"ids": [1, 2], "priority": -5}
    assert ctl("priority", "1", "1001").code == 2
    assert ctl("priority", "1").code == 2


SCHEDULE = {"id": 1, "name": "nightly", "cron": "0 3 * * *", "timezone": None, "state": "active", "user": "anna"}
SCHEDULE |= {"next_run_at": "2026-11-24T03:00:00.000+00:00", "last_run_at": None, "last_job_id": None}


def test_schedules(daemon, ctl):
    daemon.answers["GET", "/v1/schedules"] = {"schedules": [SCHEDULE]}
    daemon.answers["POST", "/v1/schedules/hold"] = {"schedules": [SCHEDULE | {"state": "held"}]}
    assert "0 3 * * *" in ctl("schedules").out
    assert json.loads(ctl("schedules", "--json").out) == {"schedules": [SCHEDULE]}
    assert ctl("schedules", "hold", "1").out == "schedule 1 (nightly): held\n"
    assert daemon.requests[-1].body == {"ids": [1]}
    assert ctl("schedules", "hold").code == ctl("schedules", "list", "1").code == 2


@pytest.fixture
def database(tmp_path) -> bytes:
    with sqlite3.connect(tmp_path / "made.db") as connection:
        connection.execute("create table jobs (id integer)")
    connection.close()
    return (tmp_path / "made.db").read_bytes()


def test_export_writes_a_private_whole_file(daemon, ctl, tmp_path, database):
    daemon.answers["GET", "/v1/export"] = lambda _: _reply(pieces=[database[:100], database[100:]])
    target = tmp_path / "queue.db"
    assert ctl("export", str(target)).code == 0
    assert target.read_bytes() == database and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert ctl("export", str(target)).code == 4
    again = ctl("export", str(target), "--force", "--json")
    assert json.loads(again.out) == {"file": str(target), "size_bytes": len(database)}
    assert ctl("export", "--telemetry", str(tmp_path / "telemetry.db")).code == 0
    assert [request.query["what"] for request in daemon.asked("/v1/export")] == [["queue"], ["queue"], ["telemetry"]]


def _reply(**fields):
    from fake_daemon import Reply

    return Reply(**fields)


@pytest.mark.parametrize("kind", ["cut", "no database"])
def test_export_leaves_nothing_of_a_broken_answer(daemon, ctl, tmp_path, database, kind):
    pieces = [database if kind == "cut" else b"hello"]
    daemon.answers["GET", "/v1/export"] = lambda _: _reply(pieces=pieces, cut=kind == "cut")
    (tmp_path / "out").mkdir()
    result = ctl("export", str(tmp_path / "out" / "queue.db"))
    assert result.code in (1, 3) and result.err.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_doctor_with_a_daemon(daemon, ctl):
    good = {"name": "driver", "ok": True, "text": "535", "mend": None}
    bad = {"name": "persistence", "ok": False, "text": "off", "mend": "nvidia-smi -pm 1"}
    unknown = {"name": "clock", "ok": None, "text": "cannot tell", "mend": None}
    daemon.answers["GET", "/v1/doctor"] = {"checks": [good, unknown]}
    assert ctl("doctor").code == 0
    daemon.answers["GET", "/v1/doctor"] = {"checks": [good, bad]}
    result = ctl("doctor")
    assert result.code == 1 and "-> nvidia-smi -pm 1" in result.out
    assert json.loads(ctl("doctor", "--json").out) == {"checks": [good, bad]}


def test_schema_prints_what_is_shipped(ctl, tmp_path, monkeypatch):
    from p104d.cli.verbs import schema

    (tmp_path / "status.json").write_text('{"type": "object"}\n')
    monkeypatch.setattr(schema, "folder", lambda: str(tmp_path))
    assert ctl("schema").out == "status\n"
    assert json.loads(ctl("schema", "--json").out) == {"schemas": ["status"]}
    assert json.loads(ctl("schema", "status").out) == {"type": "object"}
    missing = ctl("schema", "../status")
    assert missing.code == 5 and "status" in missing.err


def test_version_with_and_without_a_daemon(daemon, ctl):
    daemon.answers["GET", "/v1/status"] = status()
    assert "p104d 0.1.0" in ctl("version").out
    told = json.loads(ctl("version", "--json").out)
    assert told["wire"] == 1 and told["daemon"] == "0.1.0"
    assert ctl("--socket", "/nonexistent", "version").code == 0
