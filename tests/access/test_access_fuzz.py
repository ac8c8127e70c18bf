"""Noise on the socket of a real system daemon, from a user who may do all but be root: never a traceback, never a
crash, never memory without end, and everybody else is served meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from access_rig import BOB, CAROL, Answer, System, need_others, request
from daemon_rig import eventually
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torture import amount

pytestmark = pytest.mark.torture

#: Between the three of them, in each form.
SHAPES, MUTATIONS, NOISE = amount((220, 120, 80), (60_000, 25_000, 15_000))
#: What a daemon's caches take; a leak of a kilobyte a case would show in torture, a kept submission in the short form.
MOST_GROWTH_BYTES = 96 * 2**20

GETS = (
    "status", "cards", "jobs", "schedules", "export", "doctor", "history", "series", "report", "power", "models",
    "plan", "jobs/1/log",
)  # fmt: skip
POSTS = (
    "submit", "pause", "resume", "cards/drain", "cards/power", "cards/verify", "jobs/show", "jobs/explain", "jobs/wait",
    "jobs/cancel", "jobs/hold", "jobs/release", "jobs/retry", "jobs/priority", "schedules/cancel", "schedules/hold",
    "schedules/release", "models/pin", "models/unpin", "models/unload",
)  # fmt: skip
ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308, "", "0", "\0", "\ud800",
     "../..", "x" * 5000, "\u202e", "${matrix.a}", [], {}, [[]], [None], {"": None}, "NaN", "1e999"]
)  # fmt: skip
JSON = st.recursive(
    ODD | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
#: Nothing that is run does anything: the commands that are well formed are all alike.
KEYS = [
    "name", "cards", "vram", "ram", "only", "priority", "after", "retries", "idempotent", "time_limit", "not_before",
    "schedule", "timezone", "env", "cwd", "matrix", "labels", "measure", "gpu_required", "engine",
]  # fmt: skip
DOCUMENT = st.fixed_dictionaries(
    {"command": st.sampled_from(["true", ["true"], ["true", "${matrix.a}"]])}, optional=dict.fromkeys(KEYS, JSON)
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(st.integers(-1, 9) | ODD, max_size=3) | JSON,
        "priority": st.integers(-2000, 2000) | JSON,
        "timeout_seconds": st.just(0) | JSON,
        "cards": st.lists(st.sampled_from(["0", "1", "GPU", "P104-100", "9"]), max_size=3) | JSON,
        "undo": st.booleans() | JSON,
        "watch": st.just(False),
        "depth": st.sampled_from(["quick", "deep"]) | JSON,
        "stop": st.booleans() | JSON,
        "power_limit_watts": st.integers(-1, 500) | JSON,
        "fan_percent": st.integers(-1, 101) | JSON,
        "reset": st.booleans() | JSON,
        "documents": st.lists(st.builds(lambda d: {"file": "f", "text": json.dumps(d)}, DOCUMENT), max_size=2) | JSON,
        "cwd": st.just("/") | JSON,
        "umask": st.integers(0, 0o777) | JSON,
        "set": st.lists(st.sampled_from(["cards=0", "env.A=1", "=", "a.b.c=[", "matrix={a: [1]}"]), max_size=2) | JSON,
        "keep_env": st.just({"A": "1"}) | JSON,
        "model": st.sampled_from(["#1", "/etc/passwd", "tiny", "#9"]) | JSON,
    },
)
FILTERS = [
    "limit", "before", "since", "until", "state", "label", "name", "user", "card", "cards", "tail", "attempt", "what",
    "entity", "metric", "step", "x",
]  # fmt: skip
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(FILTERS),
        st.integers().map(str)
        | st.sampled_from(["all", "a=b", "%00", "%ff", "nan", "inf", "1e400", "2026-01-01", "..%2f"]),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{key}={value}" for key, value in pairs))
#: A follower's silence is no answer, and no fault.
PERHAPS_SILENT = ("jobs/wait", "jobs/1/log")


@pytest.fixture(scope="module")
def target() -> Iterator[System]:
    need_others()
    rig = System(2)
    try:
        rig.start()
        rig.json("pause")
        for text in ("command: 'true'", "command: 'true'\nschedule: '0 3 1 1 *'"):
            body = {"documents": [{"file": "x", "text": text}], "cwd": "/"}
            assert rig.as_user(BOB).ask("POST", "/v1/submit", body).status == 200
        yield rig
    finally:
        rig.close()


@pytest.fixture(autouse=True)
def unharmed(target: System) -> Iterator[None]:
    """The daemon is as it was: the same process, its memory and descriptors, nothing in its log."""
    process = psutil.Process(int(target.status()["daemon"]["pid"]))
    process_before, descriptors = process.memory_info().rss, process.num_fds()
    yield
    assert process.is_running() and target.status()["daemon"]["pid"] == process.pid
    log = target.log.read_text()
    assert "Traceback" not in log and " ERROR " not in log, log[-3000:]
    eventually(lambda: process.num_fds() <= descriptors + 2)
    assert process.memory_info().rss - process_before < MOST_GROWTH_BYTES
    assert target.as_user(BOB).get("/v1/status").status == 200
    eventually(lambda: not list(target.store.glob("export-*")))


def harmless(answer: Answer, sent: object, *, answered: bool = False, silent: bool = False) -> None:
    """An answer, a refusal in our own words, or in HTTP's; ``answered``: and not a hang-up. ``silent``: if any has come
    by now."""
    assert not answered or answer.status or (silent and answer.text == "no answer"), (sent, answer)
    assert answer.status < 500 or answer.status == 503, (sent, answer)
    assert "Traceback" not in answer.text and 'File "/' not in answer.text, (sent, answer)
    assert "p104d met an error of its own" not in answer.text, (sent, answer)


def fuzz(count: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)


@fuzz(SHAPES)
@given(method_path=st.sampled_from([("GET", p) for p in GETS] + [("POST", p) for p in POSTS] * 2), body=FIELDS | JSON,
       query=QUERIES)  # fmt: skip
@example(method_path=("POST", "jobs/wait"), body={"ids": [1], "timeout_seconds": -1e308}, query="")
@example(method_path=("POST", "jobs/wait"), body={"ids": [1], "timeout_seconds": 1e-320}, query="")
@example(method_path=("POST", "submit"), body={"documents": [], "cwd": "/", "umask": 2**70}, query="")
@example(
    method_path=("POST", "submit"), body={"documents": [{"file": "\ud800", "text": "command: x"}], "cwd": "/"}, query=""
)
@example(method_path=("POST", "cards/power"), body={"cards": ["0"], "power_limit_watts": 1e308}, query="")
def test_requests_of_wrong_shapes(target: System, method_path: tuple[str, str], body: Any, query: str) -> None:
    method, path = method_path
    if path in PERHAPS_SILENT and isinstance(body, dict):
        body["timeout_seconds"] = body.get("timeout_seconds") or 0
    data = json.dumps(body).encode("ascii")
    sent = request(method, f"/v1/{path}?{query}", data if method == "POST" else b"")
    silent = path in PERHAPS_SILENT
    answer = target.as_user(CAROL).send(sent, seconds=0.3 if silent else 20.0)
    harmless(answer, sent, answered=True, silent=silent)


VALID = [
    request("GET", "/v1/status"),
    request("GET", "/v1/jobs?state=all&limit=5"),
    request("POST", "/v1/jobs/show", {"ids": [1]}),
    request(
        "POST", "/v1/submit", {"documents": [{"file": "x", "text": "command: ['true']\nlabels: {a: b}"}], "cwd": "/"}
    ),
    b"POST /v1/jobs/show HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'b\r\n{"ids": [1]\r\n1\r\n}\r\n0\r\n\r\n',
]
PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\0", b" ", b"\x80", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1",
     b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"P104-Wire: 2\r\n", b"%00", b"..",
     b"Content-Encoding: gzip\r\n", b"{", b"}", b"\xff\xfe", b"GET / HTTP/1.1\r\n\r\n", b"9" * 40]
) | st.binary(max_size=6)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request that was right, cut, doubled and patched in a few places."""
    data = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 40)))
        how = draw(st.sampled_from(["cut", "put", "twice", "end"]))
        if how == "cut":
            data = data[:start] + data[end:]
        elif how == "put":
            data = data[:start] + draw(PIECES) + data[end:]
        elif how == "twice":
            data = data[:end] + data[start:end] + data[end:]
        else:
            data = data[:start]
    return data


@pytest.mark.parametrize("sent", VALID)
def test_the_requests_that_are_patched_were_right(target: System, sent: bytes) -> None:
    harmless(answer := target.as_user(CAROL).send(sent), sent, answered=True)
    assert answer.status in (200, 403), "a job of somebody else's may be shown"


@fuzz(MUTATIONS)
@given(sent=mutated())
def test_requests_with_wrong_bytes(target: System, sent: bytes) -> None:
    harmless(target.as_user(CAROL).send(sent, seconds=0.03), sent)


@fuzz(NOISE)
@given(sent=st.binary(max_size=400) | st.lists(PIECES, max_size=40).map(b"".join))
@example(sent=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
@example(sent=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
@example(sent=b"SQLite format 3\0")
def test_bytes_of_noise(target: System, sent: bytes) -> None:
    harmless(target.as_user(CAROL).send(sent, seconds=0.03), sent)


def test_after_all_that_everything_works(target: System) -> None:
    """And the queue holds what was taken, each job with one owner and one state."""

    began = time.monotonic()
    jobs = target.as_user(BOB).get("/v1/jobs?state=all&limit=5000").body["jobs"]
    assert jobs and {job["user"] for job in jobs} <= {BOB.name, CAROL.name}
    assert time.monotonic() - began < 5
