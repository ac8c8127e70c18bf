"""/metrics over TCP: who is answered, who is not, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.api.metrics_server import MOST_CONNECTIONS, MetricsServer, host_allowed, own_names
from p104d.core.errors import UnavailableError

ROOT = Path(__file__).resolve().parents[2]
TOKEN = b"0123456789abcdef0123456789abcdef"
PAGE = b"# HELP x y\n# TYPE x gauge\nx 1.0\n"
WAIT_SECONDS = 10.0
GOOD = "GET /metrics HTTP/1.1\r\nHost: localhost:9104\r\n\r\n"


async def a_page() -> bytes:
    return PAGE


@asynccontextmanager
async def serving(
    page: Callable[[], Awaitable[bytes]] = a_page, *, token: bytes | None = None, life: float = WAIT_SECONDS
) -> AsyncIterator[int]:
    """A server on a free port."""
    server = MetricsServer(
        page, "text/plain; version=0.0.4", token=token, names=own_names(["rig.lan"]), life_seconds=life
    )
    listening = socket.create_server(("127.0.0.1", 0))
    await server.start([listening])
    try:
        yield listening.getsockname()[1]
    finally:
        await server.stop()


async def ask(port: int, request: str | bytes) -> str:
    """The whole answer, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode() if isinstance(request, str) else request)
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                return (await reader.read()).decode()
            except ConnectionResetError:
                return ""
    finally:
        writer.close()


def asked(request: str | bytes, *, token: bytes | None = None, page: Callable[[], Awaitable[bytes]] = a_page) -> str:
    """One request to a server of its own."""

    async def run() -> str:
        async with serving(page, token=token) as port:
            return await ask(port, request)

    return asyncio.run(run())


def status(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


def with_headers(*lines: str, method: str = "GET", path: str = "/metrics") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_page_comes_with_its_type_and_the_connection_ends() -> None:
    head, _, body = asked(GOOD).partition("\r\n\r\n")
    assert body.encode() == PAGE
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert headers["content-type"] == "text/plain; version=0.0.4"
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert not {name for name in headers if name.startswith("access-control") or name == "set-cookie"}


def test_head_is_answered_without_a_body() -> None:
    answer = asked(with_headers("Host: 127.0.0.1", method="HEAD"))
    assert status(answer) == 200 and answer.endswith("\r\n\r\n")
    assert f"Content-Length: {len(PAGE)}" in answer


@pytest.mark.parametrize("path", ["/", "/metrics/", "/v1/status", "/metrics/../v1/status", "/%6detrics2"])
def test_there_is_only_one_path(path: str) -> None:
    assert status(asked(with_headers("Host: localhost", path=path))) == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading(method: str) -> None:
    answer = asked(with_headers("Host: localhost", "Origin: http://evil.example", "Content-Length: 0", method=method))
    assert status(answer) == 405 and "Allow: GET, HEAD" in answer and "Access-Control" not in answer


def test_a_body_is_not_waited_for() -> None:
    assert status(asked(with_headers("Host: localhost", "Content-Length: 1000000"))) == 200


def test_errors_are_lines() -> None:
    async def unavailable() -> bytes:
        raise UnavailableError("the queue cannot be read", mend="free space")

    async def broken() -> bytes:
        raise ZeroDivisionError("secret")

    answer = asked(GOOD, page=unavailable)
    assert status(answer) == 503 and answer.endswith("the queue cannot be read; free space\n")
    answer = asked(GOOD, page=broken)
    assert status(answer) == 500 and "secret" not in answer and "Traceback" not in answer


# --- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9104", "127.0.0.1:9104", "[::1]:9104", "[::1]", "192.168.1.9:1", "rig.lan", "Rig.Lan.:1"],
)
def test_hosts_that_are_ours(host: str) -> None:
    assert host_allowed(host, own_names(["rig.lan"]))


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:9104", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "[x]"]
)
def test_hosts_that_are_not(host: str) -> None:
    assert not host_allowed(host, own_names(["rig.lan"]))


def test_another_name_is_refused_whatever_it_asks() -> None:
    assert status(asked(with_headers("Host: evil.example:9104"))) == 421
    assert (
        status(asked(with_headers("Host: evil.example", f"Authorization: Bearer {TOKEN.decode()}"), token=TOKEN)) == 421
    )
    assert status(asked("GET http://localhost/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n")) == 421


@pytest.mark.parametrize("hosts", [(), ("Host: localhost", "Host: evil.example")])
def test_exactly_one_host(hosts: tuple[str, ...]) -> None:
    assert status(asked(with_headers(*hosts))) in (400, 421)


def test_an_old_request_without_a_host() -> None:
    assert status(asked("GET /metrics HTTP/1.0\r\n\r\n")) in (400, 421)


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("Authorization: Bearer",),
        (f"Authorization: Basic {TOKEN.decode()}",),
        (f"Authorization: {TOKEN.decode()}",),
        (f"Authorization: Bearer {TOKEN.decode()[:-1]}",),
        (f"Authorization: Bearer {TOKEN.decode()}x",),
        (f"Authorization: Bearer {TOKEN.decode()}", "Authorization: Bearer x"),
    ],
)
def test_without_the_token_nothing_is_told(authorization: tuple[str, ...]) -> None:
    for path in ("/metrics", "/other"):
        answer = asked(with_headers("Host: localhost", *authorization, path=path), token=TOKEN)
        assert status(answer) == 401 and "WWW-Authenticate: Bearer" in answer and "x 1.0" not in answer


def test_with_the_token() -> None:
    for scheme in ("Bearer", "bearer"):
        request = with_headers("Host: localhost", f"Authorization: {scheme} {TOKEN.decode()}")
        assert status(asked(request, token=TOKEN)) == 200


def test_a_token_that_is_no_text_is_a_wrong_one() -> None:
    request = with_headers("Host: localhost").encode()[:-2] + b"Authorization: Bearer \xff\xfe\xf0\r\n\r\n"
    assert status(asked(request, token=TOKEN)) in (400, 401)


# --- who would hold it up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_text",
    [
        with_headers("Host: localhost", f"X: {'x' * 20_000}"),
        with_headers("Host: localhost", *(f"X{number}: x" for number in range(3000))),
        with_headers("Host: localhost", path=f"/{'x' * 20_000}"),
    ],
)
def test_what_is_too_long_is_refused(request_text: str) -> None:
    answer = asked(request_text)
    assert answer == "" or status(answer) in (400, 404, 431)
    assert "x 1.0" not in answer


def test_a_connection_that_says_nothing_is_ended() -> None:
    async def run() -> str:
        async with serving(life=0.2) as port:
            return await ask(port, "GET /metrics HTT")

    assert asyncio.run(run()) == ""


def test_connections_are_few_and_their_end_makes_room() -> None:
    async def run() -> None:
        async with serving(life=60.0) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_CONNECTIONS)]
            for reader, writer in idle:
                # The server has them all once it has answered none of this half a request.
                writer.write(b"GET /metrics HTTP/1.1\r\n")
                await writer.drain()
                assert not reader.at_eof()
            async with asyncio.timeout(WAIT_SECONDS):
                while await ask(port, GOOD) != "":
                    pass
                idle[0][1].close()
                while "x 1.0" not in await ask(port, GOOD):
                    pass
            for _, writer in idle:
                writer.close()

    asyncio.run(run())


def test_stop_ends_what_is_under_way() -> None:
    async def run() -> str:
        begun, never = asyncio.Event(), asyncio.Event()

        async def slow() -> bytes:
            begun.set()
            await never.wait()
            return PAGE

        async with serving(slow) as port:
            answer = asyncio.ensure_future(ask(port, GOOD))
            await begun.wait()
        return await answer

    assert "x 1.0" not in asyncio.run(run())


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_rubbish_gets_no_page(rubbish: bytes) -> None:
    async def run() -> str:
        async with serving(life=0.05) as port:
            return await ask(port, rubbish + b"\r\n\r\n")

    assert "x 1.0" not in asyncio.run(run())


def test_short_connections_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.api.metrics_server._ACCEPT_SECONDS", 0.0)

    async def run() -> int:
        server = MetricsServer(a_page, "text/plain", token=None, names=own_names())
        listening = socket.create_server(("127.0.0.1", 0))
        await server.start([listening])
        for _ in range(30):
            assert "x 1.0" in await ask(listening.getsockname()[1], GOOD)
        left = len(server._ends)
        await server.stop()
        return left

    assert asyncio.run(run()) <= 3
