"""A process that has imported all of p104d and forks daemons from itself: a start costs no import.

Run as ``python nursery.py FD`` under the interposer; FD is a socket of packets, one JSON request and one JSON answer
each. The nursery is the subreaper of everything its daemons start: whoever is left over anywhere is below it, and who
stops it takes its daemons along.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PACKET_BYTES = 65536


class Nursery:
    """Answers requests until its socket closes."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._libc = ctypes.CDLL(None)
        self._statuses: dict[int, int] = {}

    def serve(self) -> None:
        self._link.send(b"{}")  # ready
        while packet := self._link.recv(_PACKET_BYTES):
            request: dict[str, Any] = json.loads(packet)
            answer = getattr(self, f"on_{request.pop('do')}")(**request)
            self._link.send(json.dumps(answer).encode())

    def on_fork(self, **order: Any) -> dict[str, int]:
        """A daemon with ``argv``, its output appended to ``log``; ``rule`` and ``trace`` are the interposer's,
        ``sabotage`` names what is broken in it."""
        self._reap()
        pid = os.fork()
        if not pid:
            self._become(**order)
        return {"pid": pid}

    def on_reap(self, pid: int) -> dict[str, int | None]:
        """The wait status of a daemon that ended; also takes all other dead orphans away."""
        self._reap()
        return {"status": self._statuses.get(pid)}

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._statuses[pid] = status

    def _become(
        self, argv: list[str], log: str, env: dict[str, str], rule: str, trace: str, sabotage: str | None
    ) -> NoReturn:
        code = 70
        try:
            nursery = os.getppid()
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != nursery:
                os._exit(code)
            os.setsid()
            self._link.close()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            os.environ.update(env)
            code = self._run(argv, rule, trace, sabotage)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(code)

    def _run(self, argv: list[str], rule: str, trace: str, sabotage: str | None) -> int:
        from p104d.daemon import main

        if sabotage is not None:
            import mutants

            mutants.sabotage(sabotage)
        if rule:
            from interposer import Interposer

            here = Interposer()
            here.trace(trace)
            here.arm(rule)
        return main.main(argv)


def preload() -> None:
    """Everything a daemon imports, at its start or later; and what makes tests wait is made short."""
    import importlib

    for name in (
        "aiohttp.web", "apscheduler.schedulers.asyncio", "apscheduler.triggers.cron", "psutil",
        "sqlalchemy.dialects.sqlite", "p104d.daemon.main", "yaml", "zoneinfo",
        "prometheus_client", "mutants", "interposer",
    ):  # fmt: skip
        importlib.import_module(name)
    from p104d.policy import retry

    retry.FIRST_BACKOFF_SECONDS = 0.05


def main(descriptor: int) -> None:
    """Serve on the inherited ``descriptor``."""
    preload()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.set_inheritable(descriptor, False)
    gc.collect()
    gc.freeze()
    Nursery(socket.socket(fileno=descriptor)).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
