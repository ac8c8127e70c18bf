"""GET /metrics over TCP, and nothing else: the one door to the network, kept small.

No verb, no cookie, no other origin; what it shows are figures of cards and counts of jobs, no names and no users. A
page of another origin in a browser cannot read it by a name of its own (DNS rebinding): only the host's own names, IP
addresses and the configured names are answered. Connections are few, short and closed after one answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aiohttp import web

from p104d.api.acceptor import Acceptor
from p104d.core.errors import P104Error

log = logging.getLogger(__name__)

#: Prometheus has one, a person with curl another.
MOST_CONNECTIONS = 8
#: A scrape takes milliseconds; whoever holds a connection longer holds it for its own sake.
LIFE_SECONDS = 10.0
#: A connection that was accepted is among the server's within one turn of the event loop.
_ACCEPT_SECONDS = 0.5
_SHUTDOWN_SECONDS = 0.2
#: Bytes of a request's first line and of each of its headers; a token may have 4096.
_MOST_LINE_BYTES = 2048
_MOST_FIELD_BYTES = 8190
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def own_names(extra: Iterable[str] = ()) -> frozenset[str]:
    """The names under which this host is answered: localhost, its own (with and without domain), and ``extra``."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", name, name.partition(".")[0], *(each.lower().rstrip(".") for each in extra)})


def host_allowed(header: str, names: frozenset[str]) -> bool:
    """Whether a request's Host is one of ``names`` or an IP address: an attacker's page has a name of its own."""
    host, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "")
    if not host:
        host, port = header, ""
    if port and not (port.isascii() and port.isdigit()):
        return False
    if host.startswith("[") and host.endswith("]"):
        return _is_address(host[1:-1], 6)
    return _is_address(host, 4) or host.lower().rstrip(".") in names


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


class _Refused(asyncio.Protocol):
    """A connection too many: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class MetricsServer:
    """Serves ``page``. ``token``: what requests must carry as ``Authorization: Bearer``; None: nothing. ``names``: the
    host names that are answered (``own_names``)."""

    def __init__(
        self,
        page: Callable[[], Awaitable[bytes]],
        content_type: str,
        *,
        token: bytes | None,
        names: frozenset[str],
        life_seconds: float = LIFE_SECONDS,
    ) -> None:
        self._page, self._content_type, self._names, self._life = page, content_type, names, life_seconds
        # Digests are of one length: comparing them tells nothing of the token's.
        self._digest = hashlib.sha256(token).digest() if token is not None else None
        self._server = web.Server(
            self._answer,
            access_log=None,
            keepalive_timeout=0,
            # Bodies are not waited for.
            lingering_time=0.0,
            max_line_size=_MOST_LINE_BYTES,
            max_field_size=_MOST_FIELD_BYTES,
        )
        self._acceptors: list[Acceptor] = []
        self._ends: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on bound sockets; they are closed by ``stop``."""
        for each in sockets:
            each.listen(MOST_CONNECTIONS)
            # None of those that are accepted in one turn is counted before it is over.
            self._acceptors.append(Acceptor(each, self._connection, at_once=MOST_CONNECTIONS))

    async def stop(self) -> None:
        """Close everything, answers under way too."""
        for acceptor in self._acceptors:
            acceptor.close()
        for end in self._ends.values():
            end.cancel()
        await self._server.shutdown(_SHUTDOWN_SECONDS)
        self._acceptors.clear()

    def _connection(self) -> asyncio.Protocol:
        if len(self._server.connections) >= MOST_CONNECTIONS:
            return _Refused()
        self._forget_gone()
        handler = self._server()
        self._ends[handler] = asyncio.get_running_loop().call_later(self._life, self._expire, handler)
        return handler

    def _expire(self, handler: web.RequestHandler) -> None:
        self._ends.pop(handler, None)
        if isinstance(handler.transport, asyncio.Transport):
            handler.transport.abort()

    def _forget_gone(self) -> None:
        """Let go of connections that are over: many short ones must not pile up until their time is up."""
        now, alive = asyncio.get_running_loop().time(), set(self._server.connections)
        for handler, end in list(self._ends.items()):
            age = self._life - (end.when() - now)
            if handler not in alive and age > _ACCEPT_SECONDS:
                self._ends.pop(handler).cancel()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        status, text, headers = self._refusal(request)
        if status == 200:
            try:
                response = web.Response(body=await self._page(), headers=_HEADERS)
                response.headers["Content-Type"] = self._content_type
                response.force_close()
                return response
            except P104Error as error:
                status, text = 503, error.line()
            except Exception:
                log.exception("metrics failed", extra={"action": "metrics_failed"})
                status, text = 500, "p104d met an error of its own; its log has the details"
        refused = web.Response(status=status, text=f"{text}\n", headers=_HEADERS | headers)
        refused.force_close()
        return refused

    def _refusal(self, request: web.BaseRequest) -> tuple[int, str, dict[str, str]]:
        """Status 200 where there is none."""
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not host_allowed(hosts[0], self._names):
            return 421, "this p104d does not go by that name; metrics.hosts lists the names it answers to", {}
        if not self._authorized(request.headers.getall("Authorization", [])):
            return (
                401,
                "a token is needed: Authorization: Bearer TOKEN (metrics.token_file)",
                {"WWW-Authenticate": "Bearer"},
            )
        if request.path != "/metrics":
            return 404, "there is only /metrics", {}
        if request.method not in ("GET", "HEAD"):
            return 405, "only GET and HEAD", {"Allow": "GET, HEAD"}
        return 200, "", {}

    def _authorized(self, given: Sequence[str]) -> bool:
        if self._digest is None:
            return True
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(" ")
        found = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(found, self._digest) and scheme.lower() == "bearer"
