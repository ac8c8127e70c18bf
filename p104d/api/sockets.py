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
#: struct ucred: pid_t is signed, uid_t and gid_t are not.
_UCRED = struct.Struct("iII")
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


def is_named(explicit: str | None, environ: Mapping[str, str]) -> bool:
    """Whether the caller named the socket, so that whoever listens there is meant."""
    return bool(explicit or environ.get("P104_SOCKET"))


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


class StrangerError(OSError):
    """Somebody listens whom the caller has no reason to believe."""


def check_listener(connection: socket.socket) -> None:
    """Raises StrangerError unless root or the caller listens at the other end.

    XDG_RUNTIME_DIR and HOME may come from another user's session (su, sudo -E): a daemon of theirs would be sent the
    caller's jobs, and be believed. Whom the kernel names is who called listen(2), not who answers.
    """
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid not in (0, os.getuid()):
        raise StrangerError(f"of uid {uid}, neither root nor you")


def find_socket(candidates: Sequence[str], timeout: float | None, *, named: bool = False) -> tuple[str, socket.socket]:
    """The first of ``candidates`` that somebody listens on, and the connection made to find out; ``named``: whoever.

    Raises UnreachableError naming every path tried and why it would not do.
    """
    tried, mend = [], _START_MEND
    for path in candidates:
        try:
            connection = connect(path, timeout)
            try:
                if not named:
                    check_listener(connection)
            except BaseException:
                connection.close()
                raise
            return path, connection
        except OSError as error:
            mend = _MENDS.get(type(error), mend)
            tried.append(f"{path}: {why(error)}")
    raise UnreachableError(f"no daemon answers (tried {', '.join(tried)})", mend=mend)


_MENDS = {
    PermissionError: "join the group: sudo adduser $USER p104, then log in again",
    StrangerError: "if you mean that one, name it with --socket or P104_SOCKET",
}


def why(error: OSError) -> str:
    """The reason of a failed connection in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens"
    if isinstance(error, TimeoutError | BlockingIOError):
        return "no answer"
    return (error.strerror or str(error)).lower()
