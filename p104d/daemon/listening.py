"""The daemon's socket and its lock: one daemon a state folder, one listener a socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from p104d.core.errors import P104Error

GROUP = "p104"
_BACKLOG = 1024
#: To look whether somebody listens, and to listen, takes a millisecond.
_PATIENCE_SECONDS = 5.0


def lock_state(state: Path) -> int:
    """Hold the state folder for this process's life; the descriptor. Raises P104Error where another daemon has it."""
    descriptor = os.open(state / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise P104Error(
            f"another p104d (pid {pid}) uses {state}", mend="stop it, or name another folder with --state-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


def listen(path: Path, *, system: bool) -> socket.socket:
    """Bind the socket: for its owner alone, or (system) root:p104 0660. A dead daemon's socket is replaced.

    Bound through its folder's descriptor: a Unix socket's path may have 107 bytes only.
    """
    path.parent.mkdir(mode=0o755 if system else 0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        with _alone(path.parent):
            _make_way(short, path)
            return _bind(short, path, system=system)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else replaces a socket there meanwhile: of two that find a dead daemon's, the later would take away what
    the earlier has just made. A stranger who holds the lock of a folder for all delays a start, no more."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield
        return
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while not _locked(descriptor) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_way(short: str, path: Path) -> None:
    _must_be_a_socket(short, path)
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(short)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ECONNREFUSED:
            raise P104Error(f"{path} is in the way: {error.strerror}", mend="remove it, or use --socket") from None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(short)
        return
    finally:
        probe.close()
    raise P104Error(f"another daemon listens on {path}", mend="stop it, or name another socket with --socket")


def _must_be_a_socket(short: str, path: Path) -> None:
    """A file of another kind refuses connections as a dead daemon's socket does, and is not ours to remove; a symlink
    leads to somebody else's."""
    try:
        mode = os.lstat(short).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise P104Error(f"{path} is in the way: it is no socket", mend="remove it, or use --socket")


def _bind(short: str, path: Path, *, system: bool) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(short)
    except OSError as error:
        listening.close()
        raise P104Error(f"{path} cannot be made: {error.strerror}", mend="name another with --socket") from None
    finally:
        os.umask(before)
    if system:
        with contextlib.suppress(KeyError):
            os.chown(short, 0, grp.getgrnam(GROUP).gr_gid)
            os.chmod(short, 0o660)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening
