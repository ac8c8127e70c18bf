"""The caller's side of the wire: find the daemon's socket, ask one thing, read the answer.

HTTP/1.1 by hand over a Unix socket, because importing ``http.client`` or ``urllib`` costs a p104ctl call more than the
request itself. Every failure is a :class:`~p104d.core.errors.P104Error`: the daemon's own refusals with the exit
code it chose, everything else :class:`~p104d.core.errors.UnreachableError`.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from p104d.api.sockets import StrangerError, check_listener, connect, find_socket, is_named, socket_candidates, why
from p104d.core.errors import BY_EXIT_CODE, P104Error, UnreachableError

__all__ = [
    "WIRE_VERSION",
    "Answer",
    "Client",
    "ForeignError",
    "StrangerError",
    "check_listener",
    "connect",
    "find_socket",
    "is_named",
    "socket_candidates",
    "why",
]

#: Sent as ``P104-Wire`` with every request and answer; another number is another language.
WIRE_VERSION = 1

#: Readings come from memory; a daemon that takes longer is stuck, and saying so beats waiting.
READ_TIMEOUT_SECONDS = 30.0
#: Acts end in a durable commit on a disk that may be an old USB stick busy with logs.
ACT_TIMEOUT_SECONDS = 120.0

_HEAD_LIMIT_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class ForeignError(UnreachableError):
    """Somebody answers, but in another language; asking again cannot help."""

    retry = False


class Client:
    """One daemon's callers' end. Each request is a connection of its own, which costs 0.1 ms and leaves no state.

    Several threads may share one.
    """

    def __init__(self, candidates: Sequence[str], *, named: bool = False) -> None:
        """``candidates`` are tried in order at the first request; the one that answers is kept. Unless the caller
        ``named`` it, it must be root's or the caller's own.

        ``reached`` tells whether any request has found a daemon yet.
        """
        self._candidates, self._named = list(candidates), named
        self.reached = False

    def get(self, path: str, query: Mapping[str, object] | None = None, timeout: float = READ_TIMEOUT_SECONDS) -> Any:
        """The JSON answer to ``GET path``. ``query`` values that are None are left out, lists are repeated."""
        return self._whole("GET", path + _query(query or {}), None, timeout)

    def post(self, path: str, body: Mapping[str, object], timeout: float | None = ACT_TIMEOUT_SECONDS) -> Any:
        """The JSON answer to ``POST path``. ``timeout`` None waits without end (for jobs to end)."""
        return self._whole("POST", path, body, timeout)

    def stream(
        self,
        path: str,
        query: Mapping[str, object] | None = None,
        timeout: float | None = None,
        while_silent: Callable[[], None] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Answer:
        """The answer to ``GET path`` as it comes: a log followed, a database. Use it in a ``with``.

        With ``body`` it is a ``POST``, which the daemon may undo when the caller hangs up. ``while_silent`` is called
        if nothing at all has come after a second.
        """
        method = "GET" if body is None else "POST"
        return self._ask(method, path + _query(query or {}), body, timeout, while_silent)

    def _whole(self, method: str, target: str, body: Mapping[str, object] | None, timeout: float | None) -> Any:
        with self._ask(method, target, body, timeout) as answer:
            return answer.json()

    def _ask(
        self,
        method: str,
        target: str,
        body: Mapping[str, object] | None,
        timeout: float | None,
        while_silent: Callable[[], None] | None = None,
    ) -> Answer:
        path, connection = find_socket(self._candidates, timeout, named=self._named)
        self._candidates, self.reached = [path], True
        answer = Answer(connection, path)
        try:
            answer.send(_request(method, target, body))
            if while_silent is not None and not answer.ready(1.0):
                while_silent()
            answer.read_head()
            answer.check()
        except BaseException:
            answer.close()
            raise
        return answer


def _request(method: str, target: str, body: Mapping[str, object] | None) -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: p104d\r\nP104-Wire: {WIRE_VERSION}\r\nConnection: close\r\n"
    if body is None:
        return f"{head}\r\n".encode("ascii")
    # Plain ASCII JSON: escapes carry any character, lone surrogates of odd file names included.
    payload = json.dumps(body).encode("ascii")
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode("ascii") + payload


def _query(query: Mapping[str, object]) -> str:
    pairs = []
    for key, value in query.items():
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [f"{_quote(key)}={_quote(str(one))}" for one in values if one is not None]
    return "?" + "&".join(pairs) if pairs else ""


def _quote(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in raw)


class Answer:
    """One answer being read: the head, then the body whole (:meth:`json`) or piece by piece (:meth:`pieces`)."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._connection = connection
        self._path = path
        self._buffer = b""
        self.status = 0
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. The daemon sees a follower gone at its next write."""
        self._connection.close()

    def hang_up(self) -> None:
        """End the answer from another thread: whoever reads it is woken, and told that the daemon hung up."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def send(self, request: bytes) -> None:
        """Send the whole request. A daemon that answers and hangs up early is heard out by :meth:`read_head`."""
        try:
            self._connection.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            return
        except TimeoutError as error:
            raise self._silent() from error

    def read_head(self) -> None:
        """Read status and headers, leaving the body. Raises UnreachableError if this is no HTTP answer."""
        while b"\r\n\r\n" not in self._buffer:
            piece = self._receive()
            if not piece:
                raise self._broken()
            self._buffer += piece
            if len(self._buffer) > _HEAD_LIMIT_BYTES or not self._buffer.startswith(b"HTTP/"[: len(self._buffer)]):
                raise self._foreign()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        try:
            self.status = int(lines[0].split()[1])
        except (IndexError, ValueError) as error:
            raise self._foreign() from error
        pairs = (line.partition(":") for line in lines[1:])
        self.headers = {key.strip().lower(): value.strip() for key, _, value in pairs}

    def check(self) -> None:
        """Raise what the daemon refused, or the wire's own mismatch."""
        spoken = self.headers.get("p104-wire", str(WIRE_VERSION))
        if spoken != str(WIRE_VERSION):
            message = f"this p104ctl speaks wire version {WIRE_VERSION}, the daemon {spoken}"
            raise ForeignError(message, mend="install the same release")
        if self.status >= 400:
            raise self._refusal()

    def json(self) -> Any:
        """The body as JSON."""
        body = b"".join(self.pieces())
        try:
            return json.loads(body)
        except ValueError as error:
            raise self._foreign() from error

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises UnreachableError if the daemon goes away in the middle."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        length = self.headers.get("content-length")
        return self._until_close() if length is None else self._exactly(int(length))

    def ready(self, timeout: float) -> bool:
        """Whether something, or the end, has come within ``timeout`` seconds."""
        if self._buffer:
            return True
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError as error:
                raise self._foreign() from error
            if size == 0:
                return
            yield from self._exactly(size)
            self._line()

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left > 0:
            piece = self._buffer or self._receive()
            if not piece:
                raise self._broken()
            self._buffer = piece[left:]
            piece = piece[:left]
            left -= len(piece)
            yield piece

    def _until_close(self) -> Iterator[bytes]:
        piece, self._buffer = self._buffer, b""
        while piece or (piece := self._receive()):
            yield piece
            piece = b""

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            piece = self._receive()
            if not piece:
                raise self._broken()
            self._buffer += piece
            if len(self._buffer) > _HEAD_LIMIT_BYTES + _CHUNK_BYTES:
                raise self._foreign()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.strip()

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(_CHUNK_BYTES)
        except TimeoutError as error:
            raise self._silent() from error
        except OSError as error:
            raise self._broken() from error

    def _refusal(self) -> P104Error:
        try:
            error = json.loads(b"".join(self.pieces()))["error"]
            message, mend, exit_code = str(error["message"]), error.get("mend"), error.get("exit_code")
        except (ValueError, KeyError, TypeError, AttributeError):
            return P104Error(f"the daemon answered HTTP {self.status}", mend="see its log: journalctl -u p104d")
        refusal = BY_EXIT_CODE.get(exit_code, P104Error)(message, mend=mend)
        refusal.retry = bool(error.get("retry"))
        return refusal

    def _broken(self) -> UnreachableError:
        message = f"the daemon at {self._path} hung up in the middle of its answer"
        return UnreachableError(message, mend="it may be restarting: try again")

    def _silent(self) -> UnreachableError:
        seconds = self._connection.gettimeout() or 0
        return UnreachableError(
            f"the daemon at {self._path} did not answer within {seconds:.0f} s", mend="see its log: journalctl -u p104d"
        )

    def _foreign(self) -> ForeignError:
        return ForeignError(f"what answers at {self._path} is not p104d", mend="see --socket and P104_SOCKET")
