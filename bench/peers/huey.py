"""huey with its SQLite storage, made durable (``fsync=True``): the peer that also keeps its queue."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from bench.queues import REPOSITORY, Child, Unavailable


class Huey:
    """A consumer process with ``slots`` threads on a database of its own."""

    name = "huey"

    def __init__(self, folder: str, slots: int) -> None:
        if importlib.util.find_spec("huey") is None:
            raise Unavailable("huey is not installed here: pip install huey, or use make bench")
        os.environ["BENCH_HUEY_DB"] = f"{folder}/huey.db"
        sys.modules.pop("bench.peers.huey_app", None)
        self._app: Any = importlib.import_module("bench.peers.huey_app")
        # It polls; 10 ms is as eager as is sensible, its default of up to 10 s would be no comparison.
        command = [sys.executable, "-m", "huey.bin.huey_consumer", "bench.peers.huey_app.huey"]
        command += ["-w", str(slots), "-k", "thread", "-d", "0.01", "-m", "0.01", "-q"]
        env = {**os.environ, "PYTHONPATH": REPOSITORY}
        self._consumer = Child(command, env=env, cwd=folder)
        self._app.run(["true"]).get(blocking=True, timeout=30)

    def submit(self, command: Sequence[str]) -> None:
        """One task."""
        self._app.run(list(command))

    def drain(self, command: Sequence[str], count: int) -> None:
        """One task a command: huey has no bulk insert."""
        results = [self._app.run(list(command)) for _ in range(count)]
        while self._app.huey.pending_count():
            time.sleep(0.005)
        for result in results[-16:]:
            result.get(blocking=True, timeout=60)

    def bulk(self, command: Sequence[str], count: int) -> int | None:
        """A tenth of them: the rest is more of the same."""
        part = max(1, count // 10)
        for _ in range(part):
            self._app.run(list(command))
        return part

    def processes(self) -> list[int]:
        """The consumer."""
        consumer = psutil.Process(self._consumer.process.pid)
        return [consumer.pid, *(child.pid for child in consumer.children(recursive=True))]

    def close(self) -> None:
        """End the consumer."""
        self._consumer.close(patience=5.0)
        self._app.huey.storage.close()
