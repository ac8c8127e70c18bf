"""What every queue under test can do, ours and the peers'."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

#: Where ``bench`` and, unless installed, ``p104d`` are found by processes that run elsewhere.
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Queue(Protocol):
    """A queue that runs commands; ``slots`` at once was settled when it was started."""

    name: str

    def submit(self, command: Sequence[str]) -> None:
        """Hand over one command; returns when the queue has accepted it."""
        ...

    def drain(self, command: Sequence[str], count: int) -> None:
        """Hand over ``command`` ``count`` times in the quickest way there is, and return when all have ended."""
        ...

    def bulk(self, command: Sequence[str], count: int) -> int | None:
        """Hand over ``command`` at most ``count`` times without waiting for them to run.

        Returns how many were handed over, None where this queue cannot hold as many.
        """
        ...

    def processes(self) -> list[int]:
        """The pids of the queue's own processes."""
        ...

    def close(self) -> None:
        """End it, with its processes."""
        ...


class Unavailable(Exception):
    """A peer that is not installed; the message says how to get it."""


class Child:
    """A process of a queue under test: started in its own session, ended for sure."""

    def __init__(self, command: Sequence[str], *, env: dict[str, str], cwd: str, stdout: int | None = None) -> None:
        self.log = open(os.path.join(cwd, "output.txt"), "ab")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=self.log if stdout is None else stdout,
            stderr=self.log,
            start_new_session=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self, patience: float = 10.0) -> None:
        """SIGTERM, and SIGKILL to the whole session after ``patience`` seconds."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()
