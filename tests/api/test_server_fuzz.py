"""Requests made of noise: never a traceback to the caller, never a 500, and the next caller is served."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from server_rig import Served, read_answer

PATHS = ["status", "cards", "jobs", "submit", "pause", "jobs/show", "jobs/wait", "jobs/cancel", "jobs/priority",
         "jobs/1/log", "models", "models/pin", "plan", "cards/drain", "schedules", "schedules/hold", "doctor",
         ""]  # fmt: skip
METHODS = st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
LATIN = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
PATH = st.builds("/v1/{}{}".format, st.sampled_from(PATHS), st.one_of(st.just(""), st.text(LATIN, max_size=20)))
QUERY = st.lists(
    st.tuples(
        st.sampled_from(
            ["limit", "before", "since", "state", "label", "name", "card", "cards", "follow", "tail", "attempt", "x"]
        ),
        st.one_of(st.integers().map(str), st.floats().map(str), st.text(LATIN, max_size=12), st.just("%00%ff")),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{key}={value}" for key, value in pairs))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(st.integers(-1, 6) | st.integers(), max_size=3) | JSON,
        "priority": st.none() | st.integers() | JSON,
        "timeout_seconds": st.none() | st.floats(allow_nan=False) | JSON,
        "cards": st.lists(st.text(max_size=4)) | JSON,
        "documents": st.lists(st.fixed_dictionaries({"file": st.text(max_size=3), "text": st.text(max_size=9)})) | JSON,
        "cwd": st.text(max_size=4),
        "umask": st.integers(),
    },
)
BODY = st.one_of((FIELDS | JSON).map(lambda value: json.dumps(value).encode()), st.binary(max_size=60), st.just(b"["))
HEADER = st.sampled_from(
    ["Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: zz", "Content-Type: x; charset=zz",
     "Expect: 100-continue", "Expect: tea", "Connection: Upgrade\r\nUpgrade: websocket", "Upgrade: h2c", "Host: ",
     "Range: bytes=9-1", "Cookie: \xff=\xff", "P104-Wire: 1", "P104-Wire: one", "If-None-Match: *", "X: " + "y" * 9000,
     "Accept-Encoding: gzip, br", "Content-Type: multipart/form-data; boundary=x", "Sec-WebSocket-Key: x"]
)  # fmt: skip
LENGTH = st.sampled_from(["right", "right", "right", "short", "none", "chunked", "bad chunk", "two"])


@pytest.fixture(scope="module")
def target() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def sized(body: bytes, how: str) -> tuple[list[str], bytes]:
    """Headers that tell the length of ``body``, rightly or not, and what is sent."""
    if how == "chunked":
        return ["Transfer-Encoding: chunked"], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    if how == "bad chunk":
        return ["Transfer-Encoding: chunked"], b"zz\r\n" + body
    length = {"right": len(body), "short": max(len(body) - 1, 0), "two": len(body)}.get(how)
    lines = [] if length is None else [f"Content-Length: {length}"]
    return lines + (["Content-Length: 3"] if how == "two" else []), body


def harmless(served: Served, request: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Send it, leave, and see that nothing of ours broke."""
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        # A request whose end never comes is answered by silence; what matters is that it harms nobody.
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            answer = read_answer(connection)
            assert answer.status == 0 or answer.status < 500, answer
            assert b"Traceback" not in answer.raw and b'File "' not in answer.raw, answer
    broken = [
        record for record in caplog.records if record.name.startswith("p104d") and record.levelno >= logging.ERROR
    ]
    assert not broken, broken[0].getMessage()


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(method=METHODS, path=PATH, query=QUERY, body=BODY, headers=st.lists(HEADER, max_size=2), length=LENGTH)
@example(
    method="POST", path="/v1/jobs/show", query="", body=b'{"ids":[' + b"9" * 400 + b"]}", headers=[], length="right"
)
@example(method="GET", path="/v1/jobs/%FF/log", query="tail=" + "9" * 4500, body=b"", headers=[], length="right")
def test_requests_of_noise(
    target: Served,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    query: str,
    body: bytes,
    headers: list[str],
    length: str,
) -> None:
    target.service.copy = None
    lines, data = sized(body, length)
    head = [f"{method} {path.replace(' ', '%20')}?{query.replace(' ', '%20')} HTTP/1.1", "Host: x", "Connection: close",
            *headers, *lines]  # fmt: skip
    harmless(target, "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + data, caplog)


@FUZZ
@given(noise=st.one_of(st.binary(max_size=200), st.text(LATIN | st.sampled_from("\r\n :/?"), max_size=200).map(
    lambda text: text.encode("latin-1"))))  # fmt: skip
@example(noise=b"\x16\x03\x01\x02\x00\x01\x00")
@example(noise=b"GET / HTTP/9.9\r\n\r\n")
@example(noise=b"GET http://x/v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
@example(noise=b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
@example(noise=b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
@example(noise=b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n")
@example(noise=b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n")
def test_bytes_of_noise(target: Served, caplog: pytest.LogCaptureFixture, noise: bytes) -> None:
    harmless(target, noise, caplog)


def test_after_all_that_the_next_caller_is_served(target: Served) -> None:
    for data in (b"", b"GET", b"POST /v1/submit HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"):
        with target.connect() as connection:
            connection.sendall(data)
    answer: Any = target.ask("GET", "/v1/status")
    assert answer.status == 200 and answer.body["queue"] == {}
