"""Errors: the exit code, one line on standard error with the mend, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fake_daemon import Reply, job, refusal, status

from p104d.cli.main import main
from p104d.core.errors import BY_EXIT_CODE


def one_line(result) -> str:
    assert result.err.startswith("p104ctl: ") and result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    return result.err


@pytest.mark.parametrize("exit_code", sorted(BY_EXIT_CODE))
def test_the_daemon_s_refusals_keep_their_exit_code(daemon, ctl, exit_code):
    daemon.answers["POST", "/v1/jobs/cancel"] = refusal(409, exit_code, "it is\nso", "do that")
    result = ctl("cancel", "1")
    assert result.code == exit_code and one_line(result) == "p104ctl: it is so; do that\n" and result.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "no such verb"),
        (["cancle", "1"], "did you mean 'cancel'?"),
        (["cancel"], "JOB"),
        (["cancel", "posters"], "'posters' is not a job's id"),
        (["cancel", "-1"], "-1"),
        (["list", "--state", "sleeping"], "states are held"),
        (["list", "--since", "yesterday"], "--since yesterday"),
        (["list", "--limit", "0"], "--limit"),
        (["wait", "1", "--timeout", "5 apples"], "5 apples"),
        (["run"], "COMMAND"),
        (["run", "--json", "true"], "--detach"),
        (["run", "--env", "A", "true"], "--env A"),
        (["run", "--label", "=b", "true"], "--label =b"),
        (["run", "--", b"\xff".decode("utf-8", "surrogateescape")], "not UTF-8"),
        (["submit", "/nonexistent.yaml"], "/nonexistent.yaml: no such file"),
        (["submit", "/"], "/: is a directory"),
        (["submit", "/dev/zero"], "16 MiB"),
        (["submit", "/dev/null", "--set", "priority"], "--set priority"),
        (["submit", "/dev/null", "--keep-env", "NOT_SET_HERE"], "NOT_SET_HERE"),
        (["completion", "tcsh"], "tcsh"),
        (["drain", " "], "index"),
        (["status", "--no-such-option"], "p104ctl status --help"),
    ],
)
def test_usage_errors_are_two_and_ask_the_daemon_nothing(daemon, ctl, arguments, said):
    result = ctl(*arguments)
    assert result.code == 2 and said in one_line(result) and daemon.requests == []


def test_a_file_that_is_not_utf8_is_named_with_its_line(daemon, ctl, tmp_path):
    (tmp_path / "j.yaml").write_bytes(b"name: a\ncommand: \xff\n")
    result = ctl("submit", str(tmp_path / "j.yaml"))
    assert result.code == 2 and f"{tmp_path}/j.yaml:2: not UTF-8" in one_line(result) and daemon.requests == []


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "9" * 5000])
def test_ids_no_job_can_have_are_no_such_job(ctl, number):
    result = ctl("show", number)
    assert result.code == 5 and "no such job" in one_line(result)


def test_no_daemon_names_what_was_tried_and_how_to_start_it(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("p104d.api.sockets.SYSTEM_SOCKET", str(tmp_path / "system.sock"))
    assert main(["status"]) == 3
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and "systemctl start p104d" in told
    for place in ("run/p104d/p104d.sock", "state/p104d-simulated/run/p104d.sock", "system.sock"):
        assert f"{tmp_path}/{place}: no such socket" in told


def test_an_answer_nobody_understands_is_a_line_too(daemon, ctl):
    daemon.answers["GET", "/v1/status"] = {"daemon": None}
    result = ctl("status")
    assert result.code == 1 and "internal error at screen.py:" in one_line(result)
    daemon.answers["GET", "/v1/status"] = Reply(b"<html>", 502)
    assert "HTTP 502" in one_line(ctl("status"))


def test_another_wire_version_is_said_plainly(daemon, ctl):
    daemon.answers["GET", "/v1/status"] = Reply(status(), headers={"P104-Wire": "2"})
    daemon.answers["GET", "/v1/status"] = lambda _: Reply(status(), headers={"P104-Wire": "2"})
    result = ctl("status", "--json")
    assert result.code == 3 and result.out == ""
    assert "this p104ctl speaks wire version 1, the daemon 2; install the same release" in one_line(result)


def test_requests_carry_the_wire_version(daemon, ctl):
    daemon.answers["GET", "/v1/status"] = status()
    ctl("status", "--json")
    assert daemon.requests[-1].headers["p104-wire"] == "1"


def test_a_closed_pipe_is_silent(daemon, spawn):
    daemon.answers["GET", "/v1/jobs"] = {"jobs": [job(number, name="x" * 100) for number in range(1, 2000)]}
    read, write = os.pipe()
    process = spawn("list", stdout=write)
    os.close(write)
    assert os.read(read, 10)
    os.close(read)
    _, err = process.communicate(timeout=20)
    assert err == b"" and process.returncode == 141


def test_a_full_disk_under_the_output_is_one_line(daemon, spawn):
    daemon.answers["GET", "/v1/status"] = status()
    with open("/dev/full", "wb") as full:
        process = spawn("status", stdout=full)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 74 and err == b"p104ctl: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ids_that_cannot_be_written_are_told_with_the_error(daemon, spawn, tmp_path, options):
    (tmp_path / "x.yaml").write_text("command: 'true'\n")
    jobs = [{"id": number, "name": "x"} for number in (7, 8)]
    daemon.answers["POST", "/v1/submit"] = {"jobs": jobs, "schedules": [{"id": 3, "name": "y"}]}
    with open("/dev/full", "wb") as full:
        process = spawn("submit", *options, str(tmp_path / "x.yaml"), stdout=full)
        _, err = process.communicate(timeout=20)
    told = "cannot write the output: No space left on device; submitted all the same: 7, 8, schedule 3"
    assert process.returncode == 74 and err.decode() == f"p104ctl: {told}\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_encoding_gets_valid_json_and_a_table(daemon, spawn, encoding):
    import json

    found = status() | {"warnings": ["Kärtchen ☃ \ud800"]}
    daemon.answers["GET", "/v1/status"] = found
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "P104_SOCKET": daemon.path}
    for arguments in (["status", "--json"], ["status"]):
        command = [sys.executable, "-m", "p104d.cli.main", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=20, check=False)
        assert done.returncode == 0 and done.stderr == b""
        if "--json" in arguments:
            assert json.loads(done.stdout.decode(encoding)) == found


def test_no_colour_but_on_a_terminal(daemon, ctl, monkeypatch):
    daemon.answers["GET", "/v1/status"] = status(mode="simulated")
    assert "\x1b" not in ctl("status").out
    monkeypatch.setattr("p104d.cli.text.coloured", lambda: True)
    assert "\x1b[31msuspect\x1b[0m" in ctl("status").out


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_no_color_is_honoured_on_a_terminal(daemon, spawn, monkeypatch, variable, coloured):
    daemon.answers["GET", "/v1/status"] = status()
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = os.openpty()
    try:
        process = spawn("status", stdout=follower)
        os.close(follower)
        seen = b""
        while b"undrain" not in seen:
            seen += os.read(leader, 65536)
        assert process.wait(20) == 0
    finally:
        os.close(leader)
    assert (b"\x1b[" in seen) is coloured
