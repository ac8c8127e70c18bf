"""One attempt under way, as the Supervisor keeps it."""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from p104d.processes.attempt import Key
from p104d.processes.launchers import ShimProcess


class Owner(Protocol):
    """Who decides what comes of an attempt: the Supervisor."""

    def on_message(self, watched: Watched, message: dict[str, object]) -> None: ...
    def on_gone(self, watched: Watched, tries: int = 0) -> None: ...
    def on_launch_failed(self, watched: Watched, text: str) -> None: ...


class Watched:
    """Run by a shim we have a line to, or by one known by its pidfd (adopted, or a unit's); by neither yet at first.

    Its methods are a launcher's Watcher.
    """

    def __init__(self, owner: Owner, key: Key, folder: str) -> None:
        self._owner = owner
        self.key = key
        self.folder = folder
        self.shim: ShimProcess | None = None
        self.pid: int | None = None
        self.pidfd: int | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.said_running = False

    @property
    def known(self) -> bool:
        """Whether somebody will tell of the shim's end."""
        return self.shim is not None or self.pidfd is not None

    def started(self, shim: ShimProcess) -> None:
        """A shim was given the attempt."""
        self.shim, self.pid = shim, shim.pid

    def message(self, message: dict[str, object]) -> None:
        """It tells something."""
        self._owner.on_message(self, message)

    def gone(self) -> None:
        """It died."""
        self.shim = None
        self._owner.on_gone(self)

    def failed(self, text: str) -> None:
        """There will be none."""
        self._owner.on_launch_failed(self, f"no process could be started: {text}")

    def disarm(self) -> None:
        """No timer any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def let_go(self) -> None:
        """Close the pidfd."""
        if self.pidfd is not None:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
