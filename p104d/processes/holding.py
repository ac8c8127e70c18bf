"""A shim's hold on its attempt: the lock, the claim, the block for the exit record. Standard library only.

Order matters and is the protocol: hold the lock, set the exit record's block aside, claim, and only then may the job
exec; while it runs all that is made durable; at the end the record is written into its block and made durable before
anybody is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Callable
from typing import Any

from p104d.processes import identity, record

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def _nowhere(_name: str) -> None:
    """Nothing happens between two steps; a crash test puts its own function into ``point``."""


#: Called with the name of each step of the protocol, just after it was done.
point: Callable[[str], None] = _nowhere


class NotOursError(Exception):
    """Somebody else owns the attempt: another shim, or a daemon that revoked it."""


@functools.lru_cache(maxsize=1)
def _start_of(pid: int) -> int:
    return identity.start_time(pid) or 0


class Holding:
    """The open files of one attempt's folder."""

    def __init__(self, path: str) -> None:
        self.folder = os.open(path, _FOLDER)
        self.group: str | None = None
        self._exit = -1
        self._durable = False
        self._me = record.Owner("shim", os.getpid(), _start_of(os.getpid()), identity.boot_id())

    def read_launch(self) -> tuple[bytes, dict[str, Any]]:
        """What is to be run, as it is in the file and decoded. Raises OSError or ValueError."""
        descriptor = os.open(record.LAUNCH, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
        with open(descriptor, "rb", buffering=0) as file:
            data = file.readall()
        launch: dict[str, Any] = json.loads(data)
        if launch["version"] != record.VERSION:
            raise ValueError(f"launch.json has version {launch['version']}")
        return data, launch

    def take(self, group: str | None) -> None:
        """Lock and claim the attempt, whose job is to be in ``group``. Raises NotOursError, or OSError on a full disk:
        then nothing is claimed, and let go."""
        self.group = group
        try:
            self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        self._exit = os.open(record.EXIT, _FILE, 0o600, dir_fd=self.folder)
        try:
            fcntl.flock(self._exit, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotOursError("another shim holds the lock") from None
        point("locked")
        if os.access(record.CLAIM, os.F_OK, dir_fd=self.folder, follow_symlinks=False):
            raise NotOursError("the attempt is over")  # and the note of who ran it must stay
        os.posix_fallocate(self._exit, 0, record.FILE_BYTES)
        self.note()
        point("allocated")
        try:
            os.link(record.EXIT, record.CLAIM, src_dir_fd=self.folder, dst_dir_fd=self.folder, follow_symlinks=False)
        except FileExistsError:
            raise NotOursError("the attempt was revoked, or claimed before") from None
        point("claimed")

    @property
    def lock(self) -> int:
        """The descriptor that is locked for as long as it, or a copy of it, is open."""
        return self._exit

    def note(self, main: str = "") -> None:
        """Keep who holds it, where its job's cgroup is, and the job's pid once it runs."""
        text = f"{self._me.text()}\n{self.group or '-'}\n{main}\n"
        os.pwrite(self._exit, text.encode(), record.NOTE_AT)

    def make_durable(self) -> None:
        """From here on a power failure leaves the claim, and with it the record in its place. Raises OSError.

        Nothing is run twice without it: the daemon committed the attempt, with the boot it is of, before it asked for
        a shim, and an attempt of another boot that left no record is lost, claimed or not.
        """
        if not self._durable:
            os.fsync(self.folder)
            self._durable = True
            point("durable")

    def write_exit(self, written: record.ExitDict) -> None:
        """Write how it ended; durable on return, and the claim with it. Raises OSError when the disk itself fails."""
        point("ending")
        os.pwrite(self._exit, record.encode_exit(written), 0)
        point("written")
        os.fdatasync(self._exit)
        try:
            self.make_durable()
        except OSError:
            self.make_durable()  # a disk that refused once is asked again
        point("ended")

    def close(self) -> None:
        """Let go, the lock last."""
        for descriptor in (self.folder, self._exit):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._exit = self.folder = -1
