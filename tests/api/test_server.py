"""The routes, and what becomes of requests that are wrong, too large, or whose caller goes away."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from server_rig import Served

from p104d.api import exchange
from p104d.api import messages as m
from p104d.api.bodies import MAX_IDS
from p104d.api.queries import MAX_FORECAST_JOBS
from p104d.api.service import Caller, LogQuery
from p104d.core import errors
from p104d.core.errors import P104Error
from p104d.core.job import ENDED, JobState
from p104d.store.lists import JobFilter

SUBMISSION = {"documents": [{"file": "a", "text": "x"}], "cwd": "/"}
REQUEST = m.SubmitRequest(documents=[m.SubmittedFile("a", "x")], cwd="/")

ROUTES: list[tuple[str, str, Any, tuple[Any, ...]]] = [
    ("GET", "/v1/status", None, ("status",)),
    ("GET", "/v1/cards", None, ("cards",)),
    ("GET", "/v1/doctor", None, ("doctor",)),
    ("GET", "/v1/schedules", None, ("schedules",)),
    ("GET", "/v1/jobs", None, ("listed", JobFilter())),
    ("GET", "/v1/jobs?name=a%20b&limit=7&before=9", None, ("listed", JobFilter(name="a b", limit=7, before=9))),
    ("GET", "/v1/jobs?order=next&limit=7", None, ("listed", JobFilter(next_first=True, limit=7))),
    ("GET", "/v1/jobs?order=newest", None, ("listed", JobFilter())),
    ("GET", "/v1/jobs/12/log?follow=1&tail=0&attempt=2", None,
     ("log", LogQuery(job_id=12, follow=True, tail=0, attempt=2))),
    ("GET", "/v1/models", None, ("models",)),
    *[("POST", f"/v1/models/{verb}", {"model": "#3"}, ("models_verb", verb, "#3"))
      for verb in ("pin", "unpin", "unload")],
    ("GET", "/v1/plan", None, ("plan", None, MAX_FORECAST_JOBS)),
    ("GET", "/v1/plan?cards=6&limit=9", None, ("plan", 6, 9)),
    ("POST", "/v1/submit", SUBMISSION, ("submit", REQUEST)),
    ("POST", "/v1/pause", None, ("pause", True)),
    ("POST", "/v1/resume", None, ("pause", False)),
    ("POST", "/v1/cards/drain", {"cards": ["0"]}, ("drain", ["0"], False)),
    ("POST", "/v1/cards/drain", {"cards": ["0", "1"], "undo": True}, ("drain", ["0", "1"], True)),
    ("POST", "/v1/jobs/show", {"ids": [3, 1]}, ("show", [3, 1])),
    ("POST", "/v1/jobs/explain", {"ids": [3]}, ("explain", [3])),
    ("POST", "/v1/jobs/wait", {"ids": [3]}, ("wait", [3], None)),
    ("POST", "/v1/jobs/wait", {"ids": [3], "timeout_seconds": 1.5}, ("wait", [3], 1.5)),
    ("POST", "/v1/jobs/priority", {"ids": [3], "priority": -5}, ("verb", "priority", [3], -5)),
    *[("POST", f"/v1/jobs/{verb}", {"ids": [3]}, ("verb", verb, [3], None))
      for verb in ("cancel", "hold", "release", "retry")],
    *[("POST", f"/v1/schedules/{verb}", {"ids": [3]}, ("schedule_verb", verb, [3]))
      for verb in ("cancel", "hold", "release")],
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "call"), ROUTES)
def test_a_route_reaches_its_method(served: Served, method: str, path: str, body: Any, call: tuple[Any, ...]) -> None:
    answer = served.ask(method, path, body)
    assert answer.status == 200 and answer.headers["p104-wire"] == str(m.WIRE_VERSION)
    ((name, caller, *given),) = served.service.calls
    assert (name, *given) == call
    assert caller == Caller(os.getuid(), caller.user, admin=True)
    # The other method of the same path is no route.
    other = served.ask("PUT", path, body)
    assert (other.status, other.error["exit_code"]) == (404, 5)


def test_export_is_the_file(served: Served, tmp_path: Path) -> None:
    served.service.copy = tmp_path / "copy.db"
    content = os.urandom(700_000)
    served.service.copy.write_bytes(content)
    answer = served.ask("GET", "/v1/export")
    assert answer.status == 200 and answer.raw == content
    assert answer.headers["content-length"] == "700000"
    assert served.ask("GET", "/v1/export?what=telemetry").raw == content
    assert [call[2:] for call in served.service.calls] == [("queue",), ("telemetry",)]
    assert served.ask("GET", "/v1/export?what=secrets").status == 400


def test_who_does_not_read_an_export_does_not_keep_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for their copy while somebody has one open."""
    monkeypatch.setattr(exchange, "SILENT_SECONDS", 0.2)
    served.service.copy = tmp_path / "copy.db"
    served.service.copy.write_bytes(os.urandom(5_000_000))
    tasks = served.tasks()
    with served.connect() as silent:
        silent.sendall(b"GET /v1/export HTTP/1.1\r\nHost: x\r\n\r\n")
        assert served.service.opened.wait(10)
        [file] = served.service.files
        settled(served, tasks)
        assert file.closed
        assert len(b"".join(iter(lambda: silent.recv(65536), b""))) < 5_000_000


def test_a_trickle_is_not_reading(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENT_SECONDS", 0.4)
    monkeypatch.setattr(exchange, "_CHUNK_SECONDS", 0.0)
    served.service.copy = tmp_path / "copy.db"
    served.service.copy.write_bytes(bytes(20_000_000))
    with served.connect() as slow:
        slow.sendall(b"GET /v1/export HTTP/1.1\r\nHost: x\r\n\r\n")
        pause, size = threading.Event(), 0
        while piece := slow.recv(600_000):
            size += len(piece)
            pause.wait(0.05)
    assert 0 < size < 20_000_000


@pytest.mark.parametrize("version", ["2", "0", "", "x" * 5000])
def test_another_wire_version_is_refused_before_anything_is_done(served: Served, version: str) -> None:
    answer = served.ask("POST", "/v1/pause", P104_Wire=version)
    assert answer.status == 409 and answer.error["exit_code"] == 4
    assert "wire version 1" in answer.error["message"] and "same release" in answer.error["mend"]
    assert len(answer.error["message"]) < 200
    assert served.service.calls == []


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, P104Error)]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_keeps_its_kind_on_the_wire(served: Served, kind: type[P104Error]) -> None:
    served.service.raises = kind("what is wrong", mend="what to do")
    for method, path, body, _call in ROUTES:
        answer = served.ask(method, path, body)
        assert answer.status == kind.http_status, path
        assert answer.error == {
            "message": "what is wrong", "mend": "what to do", "exit_code": kind.exit_code, "retry": kind.retry
        }  # fmt: skip


def test_an_error_of_our_own_is_logged_and_not_shown(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.service.raises = ZeroDivisionError("secret-7")
    answer = served.ask("GET", "/v1/status")
    assert answer.status == 500 and answer.error["exit_code"] == 1
    assert b"secret-7" not in answer.raw and b"Traceback" not in answer.raw
    assert "secret-7" in caplog.text
    served.service.raises = None
    assert served.ask("GET", "/v1/status").status == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=100001", "limit"),
        ("limit=1.0", "limit"), ("order=oldest", "order"),
        ("limit=%D9%A3", "limit"), ("before=99999999999999999999", "before"), ("before=" + "9" * 5000, "before"),
        ("before=" + "0" * 20 + "9" * 20, "before"), ("state=broken", "state"),
        ("label=x", "label"), ("colour=red", "colour"),
        ("since=yesterday", "since"), ("since=nan", "since"), ("since=inf", "since"), ("since=-1e400", "since"),
        ("since=0001-01-01T00:00:00", "since"), ("since=9999-12-31T23:59:59", None), ("since=1e9", None),
    ],
)  # fmt: skip
def test_filters_that_cannot_be(served: Served, query: str, field: str | None) -> None:
    answer = served.ask("GET", f"/v1/jobs?{query}")
    if field is None:
        assert answer.status == 200
        return
    assert (answer.status, answer.error["exit_code"]) == (400, 2)
    assert field in answer.error["message"] and len(answer.error["message"]) < 250
    assert served.service.calls == []


@pytest.mark.parametrize("query", ["cards=0", "cards=65", "cards=x", "limit=0", "limit=1001", "card=1"])
def test_forecasts_that_cannot_be(served: Served, query: str) -> None:
    answer = served.ask("GET", f"/v1/plan?{query}")
    assert (answer.status, answer.error["exit_code"]) == (400, 2)
    assert query.partition("=")[0] in answer.error["message"] and served.service.calls == []


@pytest.mark.parametrize(
    ("text", "states"),
    [("", ()), ("running,held", ("running", "held")), ("ended", ENDED), ("active", set(JobState) - ENDED),
     ("all", JobState), ("held,held,", ("held",))],
)  # fmt: skip
def test_states_by_their_groups(served: Served, text: str, states: Any) -> None:
    assert served.ask("GET", f"/v1/jobs?state={text}").status == 200
    assert set(served.service.calls[0][2].states) == {JobState(state) for state in states}


@pytest.mark.parametrize("job", ["0", "-1", "x", "1.5", "9" * 17, "9" * 5000, "%00", "1%2F2"])
def test_logs_of_no_number(served: Served, job: str) -> None:
    answer = served.ask("GET", f"/v1/jobs/{job}/log")
    assert answer.status in (400, 404) and answer.error["exit_code"] in (2, 5)
    assert served.service.calls == []


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/jobs/show", {"ids": []}, 2), ("/v1/jobs/show", {}, 2), ("/v1/jobs/show", {"ids": "1"}, 2),
        ("/v1/jobs/show", {"ids": [1.5]}, 2), ("/v1/jobs/show", {"ids": [True]}, 2), ("/v1/jobs/show", [1], 2),
        ("/v1/jobs/show", b"{", 2), ("/v1/jobs/show", b"\xff\xfe", 2), ("/v1/jobs/show", b"[" * 100_000, 2),
        ("/v1/jobs/show", {"ids": [2**53 + 1]}, 5), ("/v1/jobs/cancel", {"ids": [10**30]}, 5),
        ("/v1/jobs/cancel", {"ids": [0]}, 5), ("/v1/schedules/hold", {"ids": [-3]}, 5),
        ("/v1/jobs/show", {"ids": [1] * (MAX_IDS + 1)}, 4), ("/v1/jobs/show", {"ids": [1], "more": 1}, 2),
        ("/v1/jobs/priority", {"ids": [1]}, 2), ("/v1/submit", {"documents": []}, 2),
        ("/v1/submit", {**SUBMISSION, "umask": "022"}, 2), ("/v1/submit", {**SUBMISSION, "extra": 1}, 2),
        ("/v1/models/pin", {}, 2), ("/v1/models/pin", {"model": " "}, 2), ("/v1/models/unload", {"model": 3}, 2),
        ("/v1/models/unpin", {"model": "x" * 5000}, 2), ("/v1/models/pin", {"model": "a\0"}, 2),
        ("/v1/cards/drain", {"cards": [1]}, 2), ("/v1/cards/drain", {"cards": [], "undo": 1}, 2),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be(served: Served, path: str, body: Any, code: int) -> None:
    answer = served.ask("POST", path, body)
    assert answer.error["exit_code"] == code and 400 <= answer.status < 500
    assert len(answer.error["message"]) < 300
    assert served.service.calls == []


# --- logs: streams, and callers that go away ---


def chunked(raw: bytes) -> bytes:
    """The content of a chunked body; raises where it does not end as one."""
    content = b""
    while True:
        size, rest = raw.split(b"\r\n", 1)
        if not int(size, 16):
            assert rest == b"\r\n"
            return content
        content, raw = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def test_a_log_is_streamed_as_it_is(served: Served) -> None:
    parts = [b"\x1b[1mstart\r\n", bytes(range(256)) * 3000, b"end"]

    async def chunks() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    served.service.chunks = chunks
    answer = served.ask("GET", "/v1/jobs/1/log")
    assert answer.status == 200 and chunked(answer.raw) == b"".join(parts)


def test_an_empty_log_is_no_error(served: Served) -> None:
    assert chunked(served.ask("GET", "/v1/jobs/1/log").raw) == b""


def test_a_log_that_breaks_off_is_not_whole(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The caller must be able to tell it from a log that ended, and must not be told so in the middle of the log."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise OSError("disk gone")

    served.service.chunks = chunks
    answer = served.ask("GET", "/v1/jobs/1/log")
    assert answer.raw == b"5\r\nfirst\r\n"
    assert "disk gone" in caplog.text


async def endless() -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.Event().wait()


async def flood() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65536


@pytest.mark.parametrize("chunks", [endless, flood])
def test_a_caller_who_leaves_a_log_leaves_nothing(
    served: Served, chunks: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    served.service.chunks = chunks
    tasks = served.tasks()
    connection = served.connect()
    connection.sendall(b"GET /v1/jobs/1/log?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in connection.recv(65536)
    connection.close()
    assert served.service.gone.wait(10), "the log is still being followed"
    settled(served, tasks)
    assert caplog.text == ""


def test_a_caller_who_stops_waiting_leaves_nothing(served: Served) -> None:
    tasks = served.tasks()
    connection = served.connect()
    body = b'{"ids":[7]}'
    connection.sendall(b"POST /v1/jobs/wait HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert served.service.waiting.wait(10)
    connection.close()
    assert served.service.gone.wait(10), "the job is still being waited for"
    settled(served, tasks)


def settled(served: Served, tasks: int) -> None:
    """Until the server has no more than ``tasks`` tasks."""
    pause = threading.Event()
    assert any(served.tasks() <= tasks or pause.wait(0.02) for _ in range(500)), "a task was left behind"


def test_stopping_ends_those_who_wait_and_follow(served: Served) -> None:
    served.service.chunks = endless
    follower, waiter = served.connect(), served.connect()
    with follower, waiter:
        follower.sendall(b"GET /v1/jobs/1/log?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in follower.recv(65536)
        waiter.sendall(b'POST /v1/jobs/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n{"ids":[7]}')
        assert served.service.waiting.wait(10)
        served.run(served.server.stop())
        for connection in (follower, waiter):
            while chunk := connection.recv(65536):
                assert b"500" not in chunk
