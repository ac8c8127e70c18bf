"""Who is calling: the kernel's word on the other end of the socket, and what that user may do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct

from p104d.api.service import Caller
from p104d.core.errors import NotAllowedError

ADMIN_GROUP = "p104-admin"
#: struct ucred: pid_t is signed, uid_t and gid_t are not.
_UCRED = struct.Struct("iII")


def peer(connection: socket.socket) -> tuple[int, int]:
    """(uid, gid) of the process that connected, from SO_PEERCRED."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, gid = _UCRED.unpack(raw)
    return uid, gid


def peer_pid(connection: socket.socket) -> int:
    """The process that connected; 0 for one of another pid namespace."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[0])


def user_name(uid: int) -> str:
    """The account's name, or the number where there is no account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_admin(uid: int) -> bool:
    """Root, or a member of group p104-admin by their account, as its primary group or another one. The group of the
    process that connected tells nothing: it may be one that the account has lost since."""
    if uid == 0:
        return True
    try:
        admin = grp.getgrnam(ADMIN_GROUP).gr_gid
    except KeyError:
        return False
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return False
    return admin in os.getgrouplist(account.pw_name, account.pw_gid)


class Gate:
    """Turns a connection into a Caller. In user mode only the daemon's own user (and root) gets in."""

    def __init__(self, *, user_mode: bool) -> None:
        self._user_mode = user_mode
        self._own = os.getuid()

    def caller(self, connection: socket.socket) -> Caller:
        """Raises NotAllowedError for a stranger to a user's own daemon."""
        uid, _gid = peer(connection)
        if self._user_mode:
            if uid not in (self._own, 0):
                raise NotAllowedError(
                    f"this p104d serves {user_name(self._own)} alone", mend="start your own, or use the system's"
                )
            return Caller(uid, user_name(uid), admin=True)
        return Caller(uid, user_name(uid), admin=is_admin(uid), pid=peer_pid(connection))
