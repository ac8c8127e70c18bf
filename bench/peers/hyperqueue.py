"""HyperQueue from PyPI: a Rust server and worker, here without a journal, so nothing survives them.

The package has no ``hq`` command; it starts server and worker inside a Python process. That process is one of its
own here (``python -m bench.peers.hyperqueue FOLDER SLOTS``), so that nothing of it is in the measuring process.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil

from bench.queues import REPOSITORY, Child, Unavailable

READY = b"ready\n"


def _place(folder: str) -> str:
    return os.path.join(folder, "hq")


class HyperQueue:
    """One server with one worker of ``slots`` cores."""

    name = "HyperQueue"

    def __init__(self, folder: str, slots: int) -> None:
        if importlib.util.find_spec("hyperqueue") is None:
            raise Unavailable("hyperqueue is not installed here: pip install hyperqueue, or use make bench")
        self._folder = folder
        command = [sys.executable, "-m", "bench.peers.hyperqueue", folder, str(slots)]
        env = {**os.environ, "PYTHONPATH": REPOSITORY}
        self._server = Child(command, env=env, cwd=folder, stdout=subprocess.PIPE)
        assert self._server.process.stdout is not None
        # It prints a table of its own first; the end of the pipe means that it died.
        if READY not in iter(self._server.process.stdout.readline, b""):
            self._server.close()
            raise Unavailable(f"hyperqueue's server did not start, see {folder}/output.txt")
        self._hyperqueue: Any = importlib.import_module("hyperqueue")
        self._client: Any = self._hyperqueue.Client(_place(folder))

    def _job(self, command: Sequence[str], count: int) -> Any:
        job = self._hyperqueue.Job(default_workdir=self._folder, max_fails=None)
        for _ in range(count):
            job.program(list(command), stdout=None, stderr=None)
        return job

    def submit(self, command: Sequence[str]) -> None:
        """One job of one task, its output thrown away."""
        self._client.submit(self._job(command, 1))

    def drain(self, command: Sequence[str], count: int) -> None:
        """One job of ``count`` tasks."""
        submitted = self._client.submit(self._job(command, count))
        self._client.connection.wait_for_jobs((submitted.id,), _no_progress)

    def bulk(self, command: Sequence[str], count: int) -> int | None:
        """One job of ``count`` tasks."""
        self._client.submit(self._job(command, count))
        return count

    def processes(self) -> list[int]:
        """The one process that holds server and worker, and what it started."""
        server = psutil.Process(self._server.process.pid)
        return [server.pid, *(child.pid for child in server.children(recursive=True))]

    def close(self) -> None:
        """End server and worker."""
        self._client = None
        self._server.close(patience=3.0)


def _no_progress(*_: object) -> None:
    """HyperQueue wants somebody to tell about progress; a bar on the terminal is not part of the measurement."""


def serve(folder: str, slots: int) -> None:
    """Be the server: say so, then wait for SIGTERM."""
    import signal

    cluster = importlib.import_module("hyperqueue.cluster")
    os.mkdir(_place(folder))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    _kept = cluster.LocalCluster(_place(folder), cluster.WorkerConfig(cores=slots))
    os.write(1, READY)
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
