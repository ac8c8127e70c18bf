"""Waiting: exit codes of jobs, output as it comes, Ctrl-C, a daemon that is restarted meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading

import pytest
from fake_daemon import FakeDaemon, Reply, job, refusal

from p104d.cli import waiting
from p104d.cli.main import main

BOUND = 20.0


def ended(number: int, state: str = "succeeded", exit_code: int | None = 0, reason: str | None = None):
    return {"id": number, "state": state, "exit_code": exit_code, "reason": reason}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(waiting, "_PAUSE_SECONDS", 0.01)


def prepare_run(daemon, end, output=(b"hello\n",), attempts=()):
    daemon.answers["POST", "/v1/submit"] = {"jobs": [{"id": 7, "name": "sh"}], "schedules": []}
    daemon.answers["GET", "/v1/jobs/7/log"] = lambda _: Reply(pieces=list(output))
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [end]}
    if attempts is not None:
        daemon.answers["POST", "/v1/jobs/show"] = {"jobs": [job(7, end["state"], attempts=list(attempts))]}


@pytest.mark.parametrize(
    ("end", "attempts", "code"),
    [
        (ended(7), [], 0),
        (ended(7, "failed", 3, "exit code 3"), [], 3),
        (ended(7, "failed", -9), [], 137),
        (ended(7, "failed", None, "signal 15"), [{"signal": 9}, {"signal": 15}], 143),
        (ended(7, "failed", None, "signal 15") | {"signal": 15}, None, 143),
        (ended(7, "cancelled", None), [], 1),
        (ended(7, "lost", None), [{"signal": None}], 1),
        (ended(7, "failed", 0, "never used its card"), [{"signal": None}], 1),
    ],
)
def test_run_ends_as_its_job_did(daemon, ctl, end, attempts, code):
    prepare_run(daemon, end, [b"a\r\n\x00\xff", b"b\n"], attempts)
    result = ctl("run", "sh", "-c", "x --json")
    assert result.code == code
    assert result.err == ("" if code == 0 else f"p104ctl: {waiting.describe_end(end)}\n")
    [sent] = daemon.asked("/v1/submit")
    assert json.loads(sent.body["documents"][0]["text"]) == {"name": "sh", "command": ["sh", "-c", "x --json"]}


def test_run_passes_the_output_byte_by_byte(daemon, spawn):
    prepare_run(daemon, ended(7), [b"\x00\xff", b"\xe2\x82", b"\xac\r"])
    out, err = spawn("run", "true").communicate(timeout=BOUND)
    assert (out, err) == (b"\x00\xff\xe2\x82\xac\r", b"")


def test_run_options_are_job_yaml(daemon, ctl, monkeypatch):
    import yaml

    prepare_run(daemon, ended(7))
    monkeypatch.setenv("KEPT", "k")
    options = (
        "--name n --cards 2 --vram 3GiB --ram 1GiB --only 0 --only GPU-1 --priority -5 --after 3 --after 4 --retries 1"
    )
    more = (
        "--idempotent --time-limit 5m --not-before 2026-12-01T03:00:00+01:00 --cwd sub --gpu-required --keep-env KEPT"
    )
    words = ["say", "h\u2028i \U0001f600", "\x7f\x85\x1b", "--cards"]
    pairs = ["--env", "A=b=c", "--env", "B=", "--label", "p=\u00e9"]
    result = ctl("run", *options.split(), *more.split(), *pairs, "--detach", "--", *words)
    assert result == (0, "7\n", "")
    body = daemon.requests[-1].body
    assert body["keep_env"] == {"KEPT": "k"} and body["cwd"] == os.getcwd()
    assert yaml.load(body["documents"][0]["text"], yaml.CBaseLoader) == {
        "name": "n",
        "command": words,
        "cards": "2",
        "vram": "3GiB",
        "ram": "1GiB",
        "priority": "-5",
        "retries": "1",
        "time_limit": "5m",
        "not_before": "2026-12-01T03:00:00+01:00",
        "cwd": "sub",
        "only": ["0", "GPU-1"],
        "after": ["3", "4"],
        "idempotent": "true",
        "gpu_required": "true",
        "env": {"A": "b=c", "B": ""},
        "labels": {"p": "\u00e9"},
    }
    assert json.loads(ctl("run", "--detach", "--json", "true").out) == {
        "jobs": [{"id": 7, "name": "sh"}],
        "schedules": [],
    }


@pytest.mark.parametrize(
    ("program", "name"), [("/bin/sh", "sh"), ("./a b", "a b"), ("x" * 99, "x" * 64), ("\x1b", "run")]
)
def test_run_names_the_job_after_the_program(daemon, ctl, program, name):
    prepare_run(daemon, ended(7))
    ctl("run", "--detach", program)
    assert json.loads(daemon.requests[-1].body["documents"][0]["text"])["name"] == name


def test_wait_tells_each_end_and_fails_if_one_failed(daemon, ctl):
    answer = {"jobs": [ended(1), ended(2, "failed", 3, "exit code 3")]}
    daemon.answers["POST", "/v1/jobs/wait"] = answer
    result = ctl("wait", "1", "2")
    assert result == (1, "job 1 succeeded\njob 2 failed: exit code 3\n", "")
    assert daemon.requests[-1].body == {"ids": [1, 2], "timeout_seconds": None}
    assert json.loads(ctl("wait", "1", "2", "--json").out) == answer
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [ended(1)]}
    assert ctl("wait", "1").code == 0


def test_wait_gives_up_in_time(daemon, ctl):
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [ended(1, "running", None)]}
    result = ctl("wait", "1", "--timeout", "50ms")
    assert result.code == 1 and result.out == "job 1 goes on: running\n" and "50ms" in result.err
    assert all(0 <= request.body["timeout_seconds"] <= 0.05 for request in daemon.requests)


def test_submit_wait(daemon, ctl, tmp_path):
    (tmp_path / "j.yaml").write_text("command: x")
    arguments = ("submit", str(tmp_path / "j.yaml"), "--wait")
    prepare_run(daemon, ended(7))
    assert ctl(*arguments) == (0, "7\n", "")
    prepare_run(daemon, ended(7, "failed", 3, "exit code 3"))
    assert ctl(*arguments) == (1, "7\n", "p104ctl: job 7 failed: exit code 3\n")
    [told] = json.loads(ctl(*arguments, "--json").out)["jobs"]
    assert told == {"name": "sh", **ended(7, "failed", 3, "exit code 3")}
    daemon.answers["POST", "/v1/submit"] = {"jobs": [], "schedules": [{"id": 1, "name": "c"}]}
    assert ctl(*arguments) == (0, "schedule 1\n", "")


def test_logs_prints_what_is_asked_for(daemon, ctl):
    daemon.answers["GET", "/v1/jobs/7/log"] = lambda _: Reply(pieces=[b"one\n", b"two\n"], framed=False)
    assert ctl("logs", "7", "--tail", "2", "--attempt", "1") == (0, "one\ntwo\n", "")
    assert daemon.requests[-1].query == {"follow": ["0"], "tail": ["2"], "attempt": ["1"]}
    assert ctl("logs", "8").code == 5


def test_logs_follows_until_the_job_has_ended(daemon, ctl):
    answers = [Reply(pieces=[b"one\n"]), Reply(pieces=[b"one\n", b"two\n"])]
    daemon.answers["GET", "/v1/jobs/7/log"] = lambda _: answers.pop(0)
    daemon.answers["POST", "/v1/jobs/wait"] = [{"jobs": [ended(7, "running")]}] * 1 + [{"jobs": [ended(7)]}]

    def wait(request):
        # A daemon shutting down ends the stream in good order, though the job goes on.
        return {"jobs": [ended(7, "running" if answers else "succeeded")]}

    daemon.answers["POST", "/v1/jobs/wait"] = wait
    assert ctl("logs", "-f", "7") == (0, "one\ntwo\n", "")


def test_following_goes_on_where_a_broken_stream_stopped(daemon, ctl):
    def log(request):
        if "from" in request.query:
            assert request.query["from"] == ["104"] and "tail" not in request.query
            return Reply(pieces=[b"o\ntwo\n"], headers={"P104-Log-Offset": "102"})
        return Reply(pieces=[b"one\n"], headers={"P104-Log-Offset": "100"}, cut=True)

    daemon.answers["GET", "/v1/jobs/7/log"] = log
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [ended(7)]}
    assert ctl("logs", "-f", "7", "--tail", "1") == (0, "one\ntwo\n", "")


def test_a_broken_tail_whose_place_is_unknown_goes_on_with_what_is_new(daemon, ctl):
    def log(request):
        assert "from" not in request.query
        return Reply(pieces=[b"new\n"]) if request.query["tail"] == ["0"] else Reply(pieces=[b"one\n"], cut=True)

    daemon.answers["GET", "/v1/jobs/7/log"] = log
    daemon.answers["POST", "/v1/jobs/wait"] = {"jobs": [ended(7)]}
    assert ctl("logs", "-f", "7", "--tail", "1") == (0, "one\nnew\n", "")


def test_run_of_a_job_cancelled_before_it_ran(daemon, ctl):
    prepare_run(daemon, ended(7, "cancelled", None, "cancelled"))
    daemon.answers["GET", "/v1/jobs/7/log"] = refusal(404, 5, "job 7 has not run, so there is no log")
    assert ctl("run", "true") == (1, "", "p104ctl: job 7 cancelled: cancelled\n")


def test_waiting_outlives_a_restart_of_the_daemon(capfd):
    folder = tempfile.mkdtemp(dir="/tmp")
    path = f"{folder}/p104d.sock"
    first = FakeDaemon(path)
    arrived, second = threading.Event(), []

    def restart() -> None:
        arrived.wait(BOUND)
        first.close()
        os.unlink(path)
        second.append(FakeDaemon(path))
        second[0].answers["POST", "/v1/jobs/wait"] = {"jobs": [ended(1)]}

    def hang_up(_):
        arrived.set()
        return Reply({}, cut=True)

    first.answers["POST", "/v1/jobs/wait"] = hang_up
    helper = threading.Thread(target=restart)
    helper.start()
    try:
        assert main(["--socket", path, "wait", "1"]) == 0
    finally:
        helper.join()
        second[0].close()
        shutil.rmtree(folder)
    told = capfd.readouterr()
    assert told.out == "job 1 succeeded\n" and told.err.count("the daemon went away") == 1


def test_patience_ends(daemon, ctl, monkeypatch):
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.05)
    daemon.answers["POST", "/v1/jobs/wait"] = Reply({}, cut=True)
    result = ctl("wait", "1")
    assert result.code == 3 and "hung up" in result.err.splitlines()[-1] and len(daemon.requests) > 1


def test_a_refusal_is_not_waited_out(daemon, ctl):
    daemon.answers["POST", "/v1/jobs/wait"] = refusal(404, 5, "no such job: 9")
    assert ctl("wait", "9").code == 5 and len(daemon.requests) == 1


def test_a_daemon_that_was_never_there_is_not_waited_for(capfd):
    assert main(["--socket", "/nonexistent/p104d.sock", "wait", "1"]) == 3
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["wait", "7"], ["logs", "-f", "7"], ["run", "true"], ["submit", "--wait", "/dev/null"]]
)
def test_ctrl_c_ends_the_waiting_with_130_and_says_the_job_goes_on(daemon, spawn, arguments):
    arrived, over = threading.Event(), threading.Event()

    def hang(_=None):
        arrived.set()
        over.wait(BOUND)
        return {"jobs": [ended(7)]}

    prepare_run(daemon, ended(7), [b"hello\n", hang])
    daemon.answers["POST", "/v1/jobs/wait"] = hang
    process = spawn(*arguments)
    try:
        assert arrived.wait(BOUND)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND)
    finally:
        over.set()
    assert process.returncode == 130
    assert err == b"p104ctl: interrupted; job 7 goes on, p104ctl cancel 7 stops it\n"
    assert not daemon.asked("/v1/jobs/cancel")


def test_ctrl_c_elsewhere_is_130_too(daemon, spawn):
    arrived, over = threading.Event(), threading.Event()

    def hang(_):
        arrived.set()
        over.wait(BOUND)
        return {}

    daemon.answers["GET", "/v1/status"] = hang
    process = spawn("status")
    try:
        assert arrived.wait(BOUND)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND)
    finally:
        over.set()
    assert process.returncode == 130 and err == b"p104ctl: interrupted\n"


def test_a_person_is_told_why_a_silent_job_waits(daemon, spawn):
    told = threading.Event()

    def show(_):
        told.set()
        return {"jobs": [job(7, waiting_because="no card has room")]}

    def log(_):
        told.wait(BOUND)
        return Reply(pieces=[b"hello\n"])

    prepare_run(daemon, ended(7))
    daemon.answers["GET", "/v1/jobs/7/log"] = log
    daemon.answers["POST", "/v1/jobs/show"] = show
    leader, follower = os.openpty()
    try:
        process = spawn("run", "true", stderr=follower)
        os.close(follower)
        out, _ = process.communicate(timeout=BOUND)
        assert os.read(leader, 1000) == b"p104ctl: job 7: no card has room\r\n" and out == b"hello\n"
    finally:
        os.close(leader)
