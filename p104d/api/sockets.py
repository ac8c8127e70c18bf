"""Where daemons listen, and how to get through: the order of sockets p104ctl tries.

In a file of its own beside the client because the daemon makes its socket by the same rules.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping, Sequence

from p104d.core.errors import UnreachableError

SYSTEM_SOCKET = "/run/p104d/p104d.sock"

_SUN_PATH_BYTES = 107
_START_MEND = "start it: systemctl start p104d, or p104d --simulate 4"


def socket_candidates(explicit: str | None, environ: Mapping[str, str]) -> list[str]:
    """The sockets to try, in order. ``--socket`` or ``P104_SOCKET``, where given, is the only one.

    A user's own daemon comes before the system's; a real one before a simulated one.
    """
    given = explicit or environ.get("P104_SOCKET")
    if given:
        return [given]
    names = ("p104d", "p104d-simulated")
    found = []
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):  # the XDG specification has relative ones ignored
        found += [f"{runtime}/{name}/p104d.sock" for name in names]
    state = environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        state = (environ.get("HOME") or _home()) + "/.local/state"
    found += [f"{state}/{name}/run/p104d.sock" for name in names]
    return [*found, SYSTEM_SOCKET]


def _home() -> str:
    """The account's folder, for a caller whose HOME is empty or unset; / where there is no account."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def connect(path: str, timeout: float | None) -> socket.socket:
    """A connected socket; paths longer than the 107 bytes of ``sun_path`` go through ``/proc/self/fd``.

    Raises OSError. ``timeout`` is in seconds; None waits without end.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A blocking connect with a kernel timeout: a non-blocking one fails at once while the daemon's backlog is full.
        whole = int(timeout or 0)
        limit = struct.pack("ll", whole, int(((timeout or 0) - whole) * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _connect(connection, path)
        connection.settimeout(timeout)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        connection.connect(path)
        return
    anchor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{anchor}")
    finally:
        os.close(anchor)


def find_socket(candidates: Sequence[str], timeout: float | None) -> tuple[str, socket.socket]:
    """The first of ``candidates`` that somebody listens on, and the connection made to find out.

    Raises UnreachableError naming every path tried and why it would not do.
    """
    tried, denied = [], False
    for path in candidates:
        try:
            return path, connect(path, timeout)
        except OSError as error:
            denied = denied or isinstance(error, PermissionError)
            tried.append(f"{path}: {why(error)}")
    mend = "join the group: sudo adduser $USER p104, then log in again" if denied else _START_MEND
    raise UnreachableError(f"no daemon answers (tried {', '.join(tried)})", mend=mend)


def why(error: OSError) -> str:
    """The reason of a failed connection in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens"
    if isinstance(error, TimeoutError | BlockingIOError):
        return "no answer"
    return (error.strerror or str(error)).lower()
