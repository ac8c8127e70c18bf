"""A model server that does what a test's script says: answers, errors, silence, broken connections, its own death.

    with FakeServer(folder / "s.sock", script) as server: ...

``script(prompt, nth)`` is asked for each request, ``nth`` counting those with that prompt from 1, and returns an
action: :func:`answer`, :func:`error`, :data:`HANG`, :data:`RESET`, :data:`CUT`, :data:`DIE`, or raw bytes to be sent
before the connection is closed. One-token questions whether the server lives come with the prompt ``"1"``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: No answer until the server is closed; RST at once; half of an answer; no more listening, all connections cut.
HANG, RESET, CUT, DIE = "hang", "reset", "cut", "die"
Action = str | bytes
Script = Callable[[str, int], Action]
ALIVE = "1"


def reply(status: int, body: bytes, *headers: str) -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(text: str = "yes", *headers: str, tokens: int = 4) -> bytes:
    """What llama-server answers, with its timings."""
    timings = {"prompt_n": 3, "prompt_ms": 30.0, "predicted_n": tokens, "predicted_ms": tokens * 25.0}
    return reply(200, json.dumps({"content": text, "timings": timings}).encode(), *headers)


def error(status: int, message: str = "no") -> bytes:
    """An error of llama-server."""
    return reply(status, json.dumps({"error": {"code": status, "message": message}}).encode())


def always(action: Action) -> Script:
    """The same for all, but alive."""
    return lambda prompt, _nth: answer() if prompt == ALIVE else action


class FakeServer:
    """Serves on a Unix socket, a thread a connection. ``seen`` counts requests by prompt; ``most`` is how many were
    there at once; ``connections`` counts those."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path, self._script = path, script
        self.seen: Counter[str] = Counter()
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.now = self.most = self.connections = 0
        #: Set when the first request is there.
        self.asked = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def start(self) -> None:
        """Listen (again)."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = self._listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        self._run(self._accept, listener)

    def stop(self) -> None:
        """As when the process dies: nobody listens, every connection is cut."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections, self._open = list(self._open), set()
        if listener is not None:
            # Closing alone does not wake the thread that accepts.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self, what: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = listener.accept()
                with self._lock:
                    self._open.add(connection)
                    self.connections += 1
                self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            with file:
                while self._one(connection, file):
                    pass
        with self._lock:
            self._open.discard(connection)

    def _one(self, connection: socket.socket, file: Any) -> bool:
        """One request; whether there may be another."""
        url = file.readline().split(b" ")
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _colon, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        raw = file.read(length)
        if len(url) < 2 or len(raw) < length:
            return False
        body = json.loads(raw)
        prompt = str(body.get("prompt"))
        with self._lock:
            self.seen[prompt] += 1
            nth = self.seen[prompt]
            self.bodies.append((url[1].decode(), body))
            self.now += 1
            self.most = max(self.most, self.now)
        self.asked.set()
        try:
            return self._act(connection, self._script(prompt, nth))
        finally:
            with self._lock:
                self.now -= 1

    def _act(self, connection: socket.socket, action: Action) -> bool:
        if action == HANG:
            self._over.wait(60)
            return False
        if action == RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if action == DIE:
            self.stop()
            return False
        if action == CUT:
            connection.sendall(answer()[:-10])
            return False
        assert isinstance(action, bytes)
        connection.sendall(action)
        return b"Content-Length" in action and b"Connection: close" not in action
