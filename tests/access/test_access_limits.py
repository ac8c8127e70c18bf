"""What one user can take of a shared daemon: the others are served, whatever comes."""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from access_rig import ALICE, BOB, System, request
from daemon_rig import eventually

from p104d.api.door import MOST_CONNECTIONS
from p104d.core.errors import P104Error
from p104d.daemon.config import Config
from p104d.daemon.listening import listen
from p104d.daemon.paths import Places, make_folders
from p104d.daemon.submission import MOST_SCHEDULES

#: Resident memory that a daemon may take above what it had, whatever one user sends or leaves unread.
MOST_GROWTH_BYTES = 400 * 2**20


def submission(*texts: str, **more: object) -> dict[str, object]:
    return {"documents": [{"file": "x.yaml", "text": text} for text in texts], "cwd": "/", **more}


def daemon(system: System) -> psutil.Process:
    return psutil.Process(int(system.status()["daemon"]["pid"]))


def prompt(system: System, seconds: float = 5.0) -> None:
    """Somebody else is answered in time, and may submit."""
    began = time.monotonic()
    assert system.as_user(ALICE).get("/v1/status").status == 200
    assert system.as_user(ALICE).ask("POST", "/v1/submit", submission("command: 'true'")).status == 200
    assert time.monotonic() - began < seconds


def test_one_user_cannot_fill_the_queue(system: System) -> None:
    """4,000 waiting jobs a user here, 5,000 in all; as shipped, a user has half of the queue."""
    system.json("pause")
    thousand = json.dumps({"command": "true", "matrix": {"n": list(range(1000))}})
    bob = system.as_user(BOB)
    for _ in range(4):
        assert bob.ask("POST", "/v1/submit", submission(thousand)).status == 200
    refused = bob.ask("POST", "/v1/submit", submission("command: 'true'"))
    assert refused.status == 409 and "4000" in refused.text
    # Not by holding them, and not by taking others for them.
    ids = [job["id"] for job in bob.get(f"/v1/jobs?user={BOB.name}&limit=10").body["jobs"]]
    assert bob.post("/v1/jobs/hold", ids=ids).status == 200
    assert bob.ask("POST", "/v1/submit", submission("command: 'true'")).status == 409
    prompt(system)
    assert system.as_user(ALICE).ask("POST", "/v1/submit", submission(thousand)).status == 409, "5,000 in all"
    while ids := [job["id"] for job in bob.get(f"/v1/jobs?user={BOB.name}&state=active&limit=5000").body["jobs"]]:
        assert bob.post("/v1/jobs/cancel", ids=ids).status == 200
    assert bob.ask("POST", "/v1/submit", submission("command: 'true'")).status == 200


def test_as_shipped_a_user_has_half_of_the_queue() -> None:
    assert Config().queue_limit_per_user <= Config().queue_limit // 2


def test_one_user_cannot_have_schedules_without_end(system: System) -> None:
    text = "command: 'true'\nschedule: '0 3 1 1 *'"
    bob = system.as_user(BOB)
    assert bob.ask("POST", "/v1/submit", submission(*[text] * (MOST_SCHEDULES + 1))).status == 409
    made = bob.ask("POST", "/v1/submit", submission(*[text] * MOST_SCHEDULES))
    assert made.status == 200
    refused = bob.ask("POST", "/v1/submit", submission(text))
    assert refused.status == 409 and "schedules" in refused.text
    assert system.as_user(ALICE).ask("POST", "/v1/submit", submission(text)).status == 200
    ids = [schedule["id"] for schedule in made.body["schedules"]]
    assert bob.post("/v1/schedules/cancel", ids=ids).status == 200
    assert bob.ask("POST", "/v1/submit", submission(text)).status == 200


def test_connections_are_counted_by_user(system: System) -> None:
    """Half-open requests, and ones that never say anything."""
    most = min(MOST_CONNECTIONS, daemon(system).rlimit(resource.RLIMIT_NOFILE)[0] // 4)
    bob = system.as_user(BOB)
    before = daemon(system).num_fds()
    half = base64.b64encode(b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{").decode()
    bob.do(do="open", count=most // 2, raw=half)
    bob.do(do="open", count=most, raw="")
    assert daemon(system).num_fds() <= before + most + 8
    refused = bob.get("/v1/status")
    assert refused.status == 503 and refused.refused and "too many connections" in refused.text
    told = system.by(BOB, "status")
    assert told.code == 4 and "too many connections" in told.err and "Traceback" not in told.err
    for _ in range(3):
        prompt(system)
    bob.do(do="shut")
    eventually(lambda: bob.get("/v1/status").status == 200)
    eventually(lambda: daemon(system).num_fds() <= before + 8)


def test_large_submissions_wait_for_their_own_users_others(system: System) -> None:
    """Thirty-three megabytes each, left hanging: memory for two of them at most, and others are served."""
    before = daemon(system).memory_info().rss
    bob = system.as_user(BOB)
    start = b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 34000000\r\n\r\n"
    with subprocess.Popen(
        BOB.acting(sys.executable, "-I", "-S", "-c", FLOOD, str(system.socket), str(len(start))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as flood:
        assert flood.stdin is not None and flood.stdout is not None
        try:
            flood.stdin.write(start)
            flood.stdin.flush()
            taken = int(flood.stdout.readline())
            assert 60_000_000 < taken < 100_000_000, "two of them, and what fits into the sockets of the others"
            assert bob.get("/v1/status").status == 200
            prompt(system)
            assert daemon(system).memory_info().rss - before < MOST_GROWTH_BYTES
        finally:
            flood.kill()


#: Sends 20 requests as far as they are taken, without ever finishing one; tells how many bytes that was.
FLOOD = """
import select, socket, sys
start = sys.stdin.buffer.read(int(sys.argv[2]))
left, taken, piece = {}, 0, b" " * (1 << 20)
for _ in range(20):
    made = socket.socket(socket.AF_UNIX)
    made.connect(sys.argv[1])
    made.sendall(start)
    made.setblocking(False)
    left[made] = 33000000
while ready := select.select([], [one for one in left if left[one]], [], 0.5)[1]:
    for one in ready:
        try:
            sent = one.send(piece[: left[one]])
        except BlockingIOError:
            continue
        left[one] -= sent
        taken += sent
print(taken, flush=True)
sys.stdin.read()
"""


def test_answers_that_nobody_reads_take_no_memory_without_end(system: System) -> None:
    bob = system.as_user(BOB)
    system.json("pause")
    fat = json.dumps({"command": ["x" * 60_000] * 2, "labels": {"k": "v" * 200}, "cards": 2})
    made = bob.ask("POST", "/v1/submit", submission(*[fat] * 100))
    assert made.status == 200, made.text[:500]
    jobs = made.body["jobs"]
    ids = [job["id"] for job in jobs]
    shown = bob.post("/v1/jobs/show", ids=ids)
    assert shown.status == 200 and len(shown.body["jobs"]) == 100 and len(shown.text) > 12_000_000
    before = daemon(system).memory_info().rss
    ask = base64.b64encode(request("POST", "/v1/jobs/show", {"ids": ids})).decode()
    assert bob.do(do="open", count=40, raw=ask)["let_in"] == 40
    prompt(system)
    said = bob.do(do="answers", seconds=2.0)
    heads = [base64.b64decode(raw) for raw in said["raw"]]
    assert any(head.startswith(b"HTTP/1.1 503") and b"still to be read" in head for head in heads)
    assert daemon(system).memory_info().rss - before < MOST_GROWTH_BYTES
    bob.do(do="shut")
    eventually(lambda: bob.post("/v1/jobs/show", ids=ids).status == 200)
    cancelled = bob.post("/v1/jobs/cancel", ids=ids)
    assert cancelled.status == 200


def test_no_answer_is_as_large_as_all_that_was_written(system: System) -> None:
    """A thousand jobs of a hundred kilobytes each cost a list nothing, and are too much to show at once."""
    bob = system.as_user(BOB)
    system.json("pause")
    fat = json.dumps({"command": ["x" * 60_000] * 2, "matrix": {"n": list(range(1000))}})
    made = bob.ask("POST", "/v1/submit", submission(fat))
    ids = [job["id"] for job in made.body["jobs"]]
    before = daemon(system).memory_info().rss
    began = time.monotonic()
    listed = bob.get("/v1/jobs?limit=5000")
    assert listed.status == 200 and len(listed.body["jobs"]) >= 1000 and time.monotonic() - began < 5
    refused = bob.post("/v1/jobs/show", ids=ids)
    assert refused.status == 409 and "too large" in refused.text
    assert bob.post("/v1/jobs/show", ids=ids[:100]).status == 200
    assert bob.post("/v1/jobs/wait", ids=ids, timeout_seconds=0).status == 200
    assert bob.post("/v1/jobs/show", ids=ids * 2).status == 409, "a thousand at a time"
    assert bob.post("/v1/jobs/explain", ids=ids * 2).status == 409
    assert bob.post("/v1/jobs/cancel", ids=ids).status == 200
    assert daemon(system).memory_info().rss - before < MOST_GROWTH_BYTES


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("command: " + "x" * 300_000, "256 KiB"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ncommand: *b", "anchor"),
        ("command: " + "[" * 20 + "]" * 20, "levels"),
        (json.dumps({"command": ["x"] * 1025}), "1024"),
        (json.dumps({"command": ["x" * 65_000] * 3}), "128 KiB"),
        (json.dumps({"command": "x", "env": {f"A{n}": "1" for n in range(257)}}), "256"),
        (json.dumps({"command": "x", "matrix": {k: list(range(10)) for k in "abcdef"}}), "combinations"),
        (json.dumps({"command": "x\0y"}), "NUL"),
        ("command: x\nname: \"a\\u001b]0;pwned\\u0007\"", "name"),
        ("command: x\nlabels: {\"k\\n\": v}", "labels"),
    ],
    ids=["document", "anchors", "depth", "argv", "argv bytes", "env", "matrix", "nul", "name", "label"],
)  # fmt: skip
def test_a_submission_has_its_caps(system: System, text: str, problem: str) -> None:
    refused = system.as_user(BOB).ask("POST", "/v1/submit", submission(text))
    assert refused.status in (400, 409) and problem in refused.text and refused.refused, refused.text[:500]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ],
    ids=["line", "headers", "header", "body", "negative", "chunk", "smuggled", "two lengths"],
)
def test_a_frame_has_its_caps(system: System, head: bytes) -> None:
    answer = system.as_user(BOB).send(head + b" " * 1000, seconds=0.5)
    assert answer.status == 0 or 400 <= answer.status < 500, answer
    assert "Traceback" not in answer.text and "Traceback" not in system.log.read_text()
    assert system.as_user(BOB).get("/v1/status").status == 200


def test_what_jobs_say_drives_no_terminal(system: System) -> None:
    """Root looks at tables with names, reasons and commands of other people's in them."""
    escape = "\x1b]0;pwned\x07"
    document = json.dumps({"command": [f"/no{escape}such", escape], "name": "plain", "matrix": {"m": [escape]}})
    [job] = system.as_user(BOB).ask("POST", "/v1/submit", submission(document)).body["jobs"]
    assert system.ends(job["id"]) == "failed"
    for arguments in (["list", "--state", "all"], ["show", job["id"]], ["status"], ["report"], ["history"]):
        told = system.ctl(*arguments)
        assert told.code == 0 and "\x1b" not in told.out and "\x07" not in told.out, arguments
    text = system.log.read_text()
    assert "\x1b" not in text and "\x07" not in text


@pytest.mark.parametrize("kind", ["file", "symlink", "folder", "fifo"])
def test_what_is_in_the_sockets_place_is_not_removed(tmp_path: Path, kind: str) -> None:
    """``--socket notes.txt`` by mistake, or a link that somebody else put there."""
    place, victim = tmp_path / "s", tmp_path / "victim"
    victim.write_text("kept")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: place.write_text("kept"),
        "symlink": lambda: place.symlink_to(victim),
        "folder": place.mkdir,
        "fifo": lambda: os.mkfifo(place),
    }
    make[kind]()
    before = place.lstat()
    with pytest.raises(P104Error, match="is in the way"):
        listen(place, system=False)
    assert place.lstat() == before and victim.read_text() == "kept"


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with listen(tmp_path / "s", system=False) as made:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        with pytest.raises(P104Error, match="another daemon"):
            listen(tmp_path / "s", system=False)
        assert made.fileno() >= 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_system_daemon_keeps_nothing_in_anothers_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, BOB.uid, BOB.gid)
    where = Places(state=state, runtime=tmp_path / "run", socket=tmp_path / "s", config=None)
    with pytest.raises(P104Error, match=str(BOB.uid)):
        make_folders(where, system=True)
    os.chown(state, 0, 0)
    state.chmod(0o777)
    make_folders(where, system=True)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
