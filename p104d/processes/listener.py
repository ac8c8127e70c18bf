"""The datagram socket on which shims without a line tell: those of an earlier daemon, and those in units."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable

from p104d.processes.attempt import Key

_NAME = "events"
_DATAGRAM_BYTES = 4096


class EventSocket:
    """Bound in ``folder``, always at the same place, where the shims of an earlier daemon find it too.

    ``on_hint(key, event)`` is called for what arrives. In a user's own daemon a job could forge it: it is a hint to
    look into the attempt's folder, no more.
    """

    def __init__(self, folder: str, on_hint: Callable[[Key, str], None]) -> None:
        self.path = os.path.join(folder, _NAME)
        self._folder = folder
        self._on_hint = on_hint
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Bind and listen. Raises OSError."""
        # Through the folder's descriptor: the path of a Unix socket may have 107 bytes only.
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NAME, dir_fd=folder)
            listening.bind(f"/proc/self/fd/{folder}/{_NAME}")
            os.chmod(self.path, 0o600)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
        finally:
            os.close(folder)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._receive)

    def look_after(self) -> None:
        """Make it again where somebody has taken it away. Raises OSError."""
        if not os.path.lexists(self.path):
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self.close()
            self.open()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                message = json.loads(data)
                self._on_hint(Key(*message["key"]), str(message["event"]))
