"""HTTP/1.1 over a Unix socket, as much of it as a model server needs, without waiting: one connection, one request
at a time. The standard library's client would cost a thread a connection, and 6 MiB."""

from __future__ import annotations

import errno
import socket

#: Embeddings of every token of a long text, written out, are the largest answers there are.
MOST_BODY_BYTES = 64 * 1024 * 1024
_MOST_HEAD_BYTES = 64 * 1024
_MOST_CHUNK_HEAD_BYTES = 1024
_PIECE_BYTES = 256 * 1024
_MOST_LENGTH_DIGITS = 12


class BrokenError(Exception):
    """The connection ended, or what came is no HTTP. ``silent``: not a byte of the answer had come."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class AwayError(Exception):
    """Nobody listens at the socket."""


class FullError(Exception):
    """The server listens, and its queue of new connections is full."""


class Response:
    """Reads one answer from bytes cut anywhere. Interim answers (100 Continue) are skipped."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self.begun = False
        self._next()

    def _next(self) -> None:
        self.status = 0
        self.keep = True
        self.body = bytearray()
        self._headed = False
        self._length: int | None = None
        self._chunked = False
        self._chunk = -1

    def feed(self, data: bytes) -> bool:
        """Take what came; returns whether the answer is complete. Raises BrokenError."""
        self.begun = True
        self._raw += data
        while not self._headed:
            end = self._raw.find(b"\r\n\r\n")
            if end < 0 or end > _MOST_HEAD_BYTES:
                if len(self._raw) > _MOST_HEAD_BYTES:
                    raise BrokenError("the server's answer has no end of its header")
                return False
            self._head(bytes(self._raw[:end]))
            del self._raw[: end + 4]
            if 100 <= self.status < 200:
                self._next()
            else:
                self._headed = True
        return self._chunks() if self._chunked else self._plain()

    def end(self) -> bool:
        """The server closed: whether that completes the answer."""
        self.keep = False
        return self._headed and self._length is None and not self._chunked

    def _head(self, head: bytes) -> None:
        first, *fields = head.split(b"\r\n")
        parts = first.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
            raise BrokenError("what the server sent is not HTTP")
        self.status = int(parts[1])
        self.keep = parts[0] != b"HTTP/1.0"
        for field in fields:
            name, _colon, value = field.partition(b":")
            self._field(name.strip().lower(), value.strip().lower())
        if self.status in (204, 304):
            self._length, self._chunked = 0, False

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MOST_LENGTH_DIGITS:
                raise BrokenError("the server's answer has no proper length")
            self._length = int(value)
            self._bounded(self._length)
        elif name == b"transfer-encoding":
            self._chunked = b"chunked" in value
        elif name == b"connection":
            self.keep = value != b"close"

    def _plain(self) -> bool:
        self.body += self._raw
        self._raw.clear()
        self._bounded(len(self.body))
        if self._length is None or len(self.body) < self._length:
            return False
        # What nobody asked for would be taken for the beginning of the next answer.
        self.keep = self.keep and len(self.body) == self._length
        del self.body[self._length :]
        return True

    def _chunks(self) -> bool:
        while True:
            if self._chunk < 0:
                end = self._raw.find(b"\r\n")
                if end < 0:
                    if len(self._raw) > _MOST_CHUNK_HEAD_BYTES:
                        raise BrokenError("a chunk of the server's answer has no proper length")
                    return False
                self._chunk = _hex(bytes(self._raw[:end]))
                self._bounded(len(self.body) + self._chunk)
                del self._raw[: end + 2]
            if len(self._raw) < self._chunk + 2:
                return False
            if self._chunk == 0:
                # Trailers are not asked for; where there are some, the connection is not used again.
                self.keep = self.keep and self._raw == b"\r\n"
                return True
            if self._raw[self._chunk : self._chunk + 2] != b"\r\n":
                raise BrokenError("a chunk of the server's answer has no end")
            self.body += self._raw[: self._chunk]
            del self._raw[: self._chunk + 2]
            self._chunk = -1

    def _bounded(self, length: int) -> None:
        if length > MOST_BODY_BYTES:
            raise BrokenError(f"the server's answer is longer than {MOST_BODY_BYTES // 1024 // 1024} MiB")


def _hex(text: bytes) -> int:
    digits = text.split(b";", 1)[0].strip()
    if not 0 < len(digits) <= _MOST_LENGTH_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        raise BrokenError("a chunk of the server's answer has no proper length")
    return int(digits, 16)


class Connection:
    """One connection. ``used`` tells that an answer came over it before: a server may close such a one at any time."""

    def __init__(self, path: str) -> None:
        """Raises AwayError, FullError."""
        self.used = False
        self._out = memoryview(b"")
        self._response = Response()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            if error.errno == errno.EAGAIN:
                raise FullError from None
            raise AwayError(error.strerror) from None

    def fileno(self) -> int:
        """For poll; -1 once closed."""
        return self._sock.fileno()

    @property
    def writing(self) -> bool:
        """Whether some of the request is still to be sent."""
        return len(self._out) > 0

    def send(self, method: str, url: str, body: bytes) -> None:
        """Begin a request; ``flush`` sends what could not go at once. Raises BrokenError."""
        head = (
            f"{method} {url} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._response = Response()
        self._out = memoryview(head.encode() + body)
        self.flush()

    def flush(self) -> None:
        """Send what goes. Raises BrokenError."""
        try:
            while self._out:
                self._out = self._out[self._sock.send(self._out) :]
        except BlockingIOError:
            return
        except OSError as error:
            # An answer may have come before the end (413, say): reading tells.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise BrokenError(f"the server ended the connection ({error.strerror})", silent=True) from None
            self._out = memoryview(b"")

    def receive(self) -> Response | None:
        """Take what came: the answer once it is complete. Raises BrokenError."""
        while True:
            try:
                data = self._sock.recv(_PIECE_BYTES)
            except BlockingIOError:
                return None
            except OSError as error:
                raise BrokenError(
                    f"the server ended the connection ({error.strerror})", silent=not self._response.begun
                ) from None
            if not data:
                if self._response.end():
                    return self._response
                raise BrokenError("the server ended the connection", silent=not self._response.begun)
            if self._response.feed(data):
                self.used = True
                return self._response

    def close(self) -> None:
        """Give it up; the server cancels what it was doing for it."""
        self._sock.close()
