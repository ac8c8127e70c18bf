"""A shim's line to its daemon: the socket it was given at birth, and datagrams once that daemon is gone.

Standard library only. Everything told here is also in the folder: a daemon that heard nothing looks there.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from p104d.processes import record

_MESSAGE_BYTES = 8192
_PATH_BYTES = 107  # sun_path of unix(7), less its final NUL


class Line:
    """``link`` is the SOCK_SEQPACKET end towards the daemon that started this shim; None for a unit of systemd."""

    def __init__(self, link: socket.socket | None) -> None:
        self.link = link
        self._datagrams: socket.socket | None = None
        self.unsent: tuple[bytes, str] | None = None

    def receive(self) -> bytes:
        """The next command, waiting for it; empty once the daemon is gone."""
        if self.link is None:
            return b""
        try:
            command = self.link.recv(_MESSAGE_BYTES)
        except OSError:
            command = b""
        if not command:
            self.hang_up()
        return command

    def hang_up(self) -> None:
        """The daemon is gone; from here on datagrams tell its successor."""
        if self.link is not None:
            self.link.close()
            self.link = None

    def tell(self, message: dict[str, Any], events: str) -> None:
        """Tell the daemon, without ever waiting for it; ``events`` is the path of its datagram socket."""
        data = json.dumps({"version": record.VERSION, **message}).encode()
        if self.link is not None:
            try:
                self.link.send(data, socket.MSG_DONTWAIT)
                return
            except OSError:
                self.hang_up()
        self._send(data, events)

    def resend(self) -> None:
        """Try again what the daemon's queue had no room for (net.unix.max_dgram_qlen: 10 by default)."""
        if self.unsent is not None:
            self._send(*self.unsent)

    def _send(self, data: bytes, events: str) -> None:
        self.unsent = None
        if self._datagrams is None:
            self._datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        folder = -1
        try:
            path = events
            if len(os.fsencode(events)) > _PATH_BYTES:
                folder = os.open(os.path.dirname(events), os.O_PATH | os.O_CLOEXEC)
                path = f"/proc/self/fd/{folder}/{os.path.basename(events)}"
            self._datagrams.sendto(data, path)
        except BlockingIOError:
            self.unsent = data, events
        except OSError:
            pass  # no daemon now; the next one looks at the folder
        finally:
            if folder >= 0:
                os.close(folder)
