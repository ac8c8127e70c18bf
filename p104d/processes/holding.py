"""A shim's hold on its attempt: the lock, the claim, the block for the exit record. Standard library only.

Order matters and is the protocol: hold the lock, set the exit record's block aside, claim, make all that durable, and
only then may the job exec; at the end the record is written into its block and made durable before anybody is told.
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
        self._me = record.Owner("shim", os.getpid(), _start_of(os.getpid()), identity.boot_id())

    def read_launch(self) -> dict[str, Any]:
        """What is to be run. Raises OSError or ValueError."""
        descriptor = os.open(record.LAUNCH, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
        with open(descriptor, "rb", buffering=0) as file:
            launch: dict[str, Any] = json.loads(file.readall())
        if launch["version"] != record.VERSION:
            raise ValueError(f"launch.json has version {launch['version']}")
        return launch

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

    def note(self, main: str = "") -> None:
        """Keep who holds it, where its job's cgroup is, and the job's pid once it runs."""
        text = f"{self._me.text()}\n{self.group or '-'}\n{main}\n"
        os.pwrite(self._exit, text.encode(), record.NOTE_AT)

    def make_durable(self) -> None:
        """The claim survives a power failure from here on."""
        os.fsync(self.folder)
        point("durable")

    def write_exit(self, written: record.ExitDict) -> None:
        """Write how it ended; durable on return. Raises OSError when the disk itself fails."""
        point("ending")
        os.pwrite(self._exit, record.encode_exit(written), 0)
        point("written")
        os.fdatasync(self._exit)
        point("ended")

    def close(self) -> None:
        """Let go, the lock last."""
        for descriptor in (self.folder, self._exit):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._exit = self.folder = -1
