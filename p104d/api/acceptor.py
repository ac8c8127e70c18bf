"""Connections taken from a listening socket, also when there are no descriptors for them.

asyncio's own loop (Python 3.11) does not leave off when accept fails for want of descriptors: it fails once for each
place of the backlog, logs each, and each schedules another such round. A daemon that was short of descriptors for a
moment did nothing else any more.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)
#: What is short now is not there in a millisecond either; who connects waits in the kernel meanwhile.
_PAUSE_SECONDS = 1.0


class Acceptor:
    """Takes connections, at most ``at_once`` in one turn of the event loop, and gives each to a ``protocol``."""

    def __init__(
        self, listening: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], *, at_once: int = 128
    ) -> None:
        self._listening, self._protocol, self._at_once = listening, protocol, at_once
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._short = False
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Take no more, and close the socket. Who was taken stays."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._wait(error)
                return
            self._short = False
            coming = self._loop.create_task(self._take(connection))
            self._coming.add(coming)
            coming.add_done_callback(self._coming.discard)

    async def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # gone already

    def _wait(self, error: OSError) -> None:
        """EMFILE, ENFILE, ENOBUFS, ENOMEM; said once, until one is taken again."""
        if not self._short:
            log.warning("no connection can be accepted: %s", error.strerror, extra={"action": "accept_failed"})
        self._short = True
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._loop.add_reader, self._listening, self._accept)
