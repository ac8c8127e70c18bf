"""Debian's task-spooler: a queue in the memory of a small server, driven by its command alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence

import psutil

from bench.queues import Unavailable

#: The server refuses, or rather blocks, beyond about a thousand jobs: TS_MAXCONN connections and its own table.
CAPACITY = 900


class TaskSpooler:
    """One tsp server with a socket of its own."""

    name = "tsp"

    def __init__(self, folder: str, slots: int) -> None:
        if shutil.which("tsp") is None:
            raise Unavailable("task-spooler is not installed: sudo apt install task-spooler")
        self._env = {**os.environ, "TS_SOCKET": f"{folder}/tsp.sock", "TMPDIR": folder, "TS_MAXFINISHED": "2000"}
        self._run("-S", str(slots))

    def _run(self, *arguments: str) -> str:
        return subprocess.run(["tsp", *arguments], env=self._env, check=True, capture_output=True, text=True).stdout

    def submit(self, command: Sequence[str]) -> None:
        """``-n``: output is thrown away, which is the least work for tsp."""
        subprocess.run(["tsp", "-n", *command], env=self._env, check=True, stdout=subprocess.DEVNULL)

    def drain(self, command: Sequence[str], count: int) -> None:
        """One tsp call a job, as there is nothing else."""
        for _ in range(count):
            self.submit(command)
        while any(state in self._run() for state in (" queued ", " running ", " allocating ")):
            time.sleep(0.002)
        self._run("-C")

    def bulk(self, command: Sequence[str], count: int) -> int | None:
        """It cannot hold them."""
        return None if count > CAPACITY else self._bulk(command, count)

    def _bulk(self, command: Sequence[str], count: int) -> int:
        for _ in range(count):
            self.submit(command)
        return count

    def processes(self) -> list[int]:
        """The server is a daemon that tsp forked off; its socket's path is in its environment."""
        found = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "tsp" and process.environ().get("TS_SOCKET") == self._env["TS_SOCKET"]:
                    found.append(process.pid)
        return found

    def close(self) -> None:
        """``-K`` ends the server."""
        subprocess.run(["tsp", "-K"], env=self._env, check=False, capture_output=True)
