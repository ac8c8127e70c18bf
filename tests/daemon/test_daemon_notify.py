"""Who is told of a job's end: a command and a webhook of the user's own."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from daemon_rig import Rig, eventually


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server on this host and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()
        thread.join()


def test_notify_tells_by_command_and_webhook(rig: Rig, hook: tuple[str, list[dict[str, Any]]]) -> None:
    url, told = hook
    command = f"echo $P104_JOB_ID $P104_JOB_NAME $P104_STATE $P104_REASON >> {rig.work}/told"
    notify = {"on": ["failed", "cancelled"], "command": command, "webhook": url}
    rig.ends(rig.sh("true", notify=notify))
    bad = rig.sh("exit 4", name="bad", notify=notify)
    assert rig.ends(bad) == "failed"
    file = rig.work / "told"
    eventually(lambda: file.exists() and f"{bad} bad failed exit code 4" in file.read_text())
    eventually(lambda: any(body["job_id"] == bad for body in told))
    body = next(body for body in told if body["job_id"] == bad)
    assert body == {"job_id": bad, "name": "bad", "state": "failed", "reason": "exit code 4", "user": body["user"]}
    # The one that succeeded told nobody.
    assert [one["job_id"] for one in told] == [bad] and file.read_text().count("\n") == 1
    file.unlink()


def test_dependents_cancelled_with_a_job_are_told_of_too(rig: Rig, hook: tuple[str, list[dict[str, Any]]]) -> None:
    url, told = hook
    _, needs = rig.submit(
        {"name": "bad", "command": "exit 4"},
        {"name": "needs", "command": "true", "after": ["bad"], "notify": {"on": ["cancelled"], "webhook": url}},
    )
    assert rig.ends(needs) == "cancelled"
    eventually(lambda: [body["job_id"] for body in told] == [needs])
    assert told[0]["state"] == "cancelled"


@pytest.mark.parametrize("state", ["owed", "sending"])
def test_what_an_earlier_daemon_owed_is_sent(start: Callable[..., Rig], state: str) -> None:
    """Its last act was to write down who is to be told; nothing happens after the restart that owes another."""
    rig = start(1)
    file = rig.work / "told"
    command = f"echo $P104_JOB_ID >> {file}"
    job = rig.sh("exit 4", notify={"on": ["failed"], "command": command})
    eventually(file.exists)
    rig.kill()
    file.unlink()
    shutil.rmtree(rig.store / "notify")
    with contextlib.closing(sqlite3.connect(rig.store / "queue.db")) as database, database:
        database.execute("UPDATE notifications SET state = ?, tries = 1", (state,))
    rig.start()
    eventually(lambda: file.exists() and file.read_text() == f"{job}\n")
