"""Telling systemd: ready, stopping, alive. Without NOTIFY_SOCKET nothing is done."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Send ``text`` (``READY=1``, ``WATCHDOG=1``, ...) to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path or path[0] not in "/@":
        return
    address = "\0" + path[1:] if path[0] == "@" else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.connect(address)
        link.send(text.encode())


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear of us; None where it does not watch this process."""
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not micros.isdigit() or (pid is not None and pid != str(os.getpid())):
        return None
    return int(micros) / 1e6
