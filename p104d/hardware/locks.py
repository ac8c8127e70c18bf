"""One card, one daemon: a lock per card UUID that all users of the host can take.

The lock is flock's, so it goes with the process that holds it. Its file stays: to unlink it would let two daemons
hold locks on two files of one name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Sequence

from p104d.core.errors import RefusedError

#: The host's own place for locks first; the temporary folder for those who may not write there.
SYSTEM_DIRECTORY = "/run/lock"
_UUID = re.compile(r"[A-Za-z0-9-]{1,80}")


class CardLocks:
    """The locks this process holds. Not for simulated cards: they belong to nobody else.

    A lock is taken in every one of ``directories`` that can be used, so that two daemons exclude each other even
    where one of them may use fewer places.
    """

    def __init__(self, directories: Sequence[str] | None = None) -> None:
        self._directories = tuple(directories or (SYSTEM_DIRECTORY, tempfile.gettempdir()))
        self._held: dict[str, list[int]] = {}

    def acquire(self, uuid: str) -> bool:
        """Take the card; False where another process has it. Taking it twice is no harm.

        Raises RefusedError where no lock file can be made at all.
        """
        if uuid in self._held:
            return True
        files: list[int] = []
        for directory in self._directories:
            descriptor = self._open(directory, uuid)
            if descriptor is None:
                continue
            files.append(descriptor)
            if not _lock(descriptor):
                _close(files)
                return False
        if not files:
            raise RefusedError(
                f"no lock for card {uuid} can be made in {' or '.join(self._directories)}",
                mend="make one of these folders writable, or remove the file of another kind that is in the way",
            )
        for descriptor in files:
            _sign(descriptor)
        self._held[uuid] = files
        return True

    def release(self, uuid: str) -> None:
        """Give the card back; no harm where it is not held."""
        _close(self._held.pop(uuid, []))

    def release_all(self) -> None:
        """Give every card back."""
        for uuid in list(self._held):
            self.release(uuid)

    def holder(self, uuid: str) -> int | None:
        """The process that has the card, for messages; None where nobody has it, or that is not known."""
        for directory in self._directories:
            with contextlib.suppress(OSError):
                descriptor = os.open(_path(directory, uuid), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if not _regular(descriptor):
                        continue
                    if uuid not in self._held and _lock(descriptor):
                        continue  # nobody holds it: what is written there is an old holder
                    text = os.pread(descriptor, 32, 0).strip()
                finally:
                    os.close(descriptor)
                if text.isdigit():
                    return int(text)
        return None

    def _open(self, directory: str, uuid: str) -> int | None:
        """The lock file, made where it is not there yet; None where this folder cannot be used."""
        path, flags = _path(directory, uuid), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        for _ in range(3):
            try:
                # Without O_CREAT first: in a sticky folder the kernel denies it for another user's existing file.
                descriptor = os.open(path, flags)
            except FileNotFoundError:
                try:
                    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                except FileExistsError:
                    continue  # somebody was faster: open theirs
                except OSError:
                    return None
                os.fchmod(descriptor, 0o666)  # the umask took some of it
            except OSError:
                return None
            if _regular(descriptor):
                return descriptor
            os.close(descriptor)
            return None
        return None


def _path(directory: str, uuid: str) -> str:
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{uuid!r} is no card's UUID")
    return f"{directory}/p104d-{uuid}.lock"


def _regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True


def _sign(descriptor: int) -> None:
    """Write our pid into it, for messages; a full disk shall not keep a daemon from its cards."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
