"""Our own daemon under test: ``p104d --simulate`` in a temporary folder, asked over its socket as p104ctl asks."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from bench.queues import REPOSITORY, Child
from p104d.api.client import Client
from p104d.core.errors import P104Error

#: The daemon's queue stays durable: synchronous=FULL is not turned off for the sake of a number.
READY_WITHIN_SECONDS = 60.0


def executable(name: str, module: str) -> list[str]:
    """The command as installed beside this Python, else its module."""
    script = os.path.join(os.path.dirname(sys.executable), name)
    return [script] if os.path.exists(script) else [sys.executable, "-m", module]


class Rig:
    """One p104d with ``cards`` simulated cards and ``slots`` places for jobs without a card.

    ``card_jobs``: whether the jobs handed over by the common calls take a card each, or a processor place.
    """

    name = "p104d"

    def __init__(self, folder: str, slots: int, *, cards: int = 4, card_jobs: bool = False) -> None:
        self.folder = folder
        self.socket = f"{folder}/s"
        self._need = {"cards": 1 if card_jobs else 0}
        with open(f"{folder}/config.toml", "w") as config:
            config.write(f"cpu_jobs = {slots}\n")
        command = [*executable("p104d", "p104d.daemon.main"), "--simulate", str(cards)]
        command += ["--config", f"{folder}/config.toml", "--state-dir", f"{folder}/state", "--socket", self.socket]
        self.env = {
            **os.environ,
            "PYTHONPATH": REPOSITORY,
            "P104_SOCKET": self.socket,
            "XDG_RUNTIME_DIR": folder,
        }
        self._daemon = Child(command, env=self.env, cwd=folder)
        self._client = Client([self.socket])
        self._wait_until_ready(cards)

    def _wait_until_ready(self, cards: int) -> None:
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            try:
                if [card["state"] for card in self.get("/v1/status")["cards"]] == ["ready"] * cards:
                    return
            except P104Error:
                pass
            if self._daemon.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                with open(f"{self.folder}/output.txt") as output:
                    raise RuntimeError(f"p104d did not become ready:\n{output.read()[-2000:]}")
            time.sleep(0.05)

    def get(self, path: str) -> Any:
        """GET, the JSON answer."""
        return self._client.get(path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST, the JSON answer."""
        return self._client.post(path, body, timeout=600)

    def submit_text(self, text: str) -> list[int]:
        """Submit one YAML text (JSON is YAML). Returns the ids."""
        body = {"documents": [{"file": "bench.yaml", "text": text}], "set": [], "cwd": self.folder, "keep_env": {}}
        return [job["id"] for job in self.post("/v1/submit", body)["jobs"]]

    def document(self, command: Sequence[str], **keys: object) -> str:
        """A job as text."""
        return json.dumps({"name": "bench", "command": list(command), **self._need, **keys})

    def matrix(self, command: Sequence[str], count: int, **keys: object) -> str:
        """A document of ``count`` jobs; beyond 10,000 in two dimensions, for a document has 256 KiB at most."""
        if count <= 10_000:
            return self.document(command, matrix={"i": list(range(count))}, **keys)
        assert count % 1000 == 0, "large matrices are made of whole thousands"
        return self.document(command, matrix={"i": list(range(count // 1000)), "j": list(range(1000))}, **keys)

    def submit(self, command: Sequence[str]) -> None:
        """One request with one job; answered when it is durable."""
        self.submit_text(self.document(command))

    def drain(self, command: Sequence[str], count: int) -> None:
        """One matrix, then wait for all of it."""
        self.wait(self.submit_text(self.matrix(command, count)))

    def bulk(self, command: Sequence[str], count: int) -> int | None:
        """One matrix, the queue paused."""
        return len(self.submit_text(self.matrix(command, count)))

    def wait(self, ids: Sequence[int]) -> None:
        """Return when these have ended."""
        self.post("/v1/jobs/wait", {"ids": list(ids), "timeout_seconds": None})

    def processes(self) -> list[int]:
        """The daemon and its children: sensor, zygote, shims."""
        daemon = psutil.Process(self._daemon.process.pid)
        return [daemon.pid, *(child.pid for child in daemon.children(recursive=True))]

    @property
    def pid(self) -> int:
        """The daemon's own."""
        return self._daemon.process.pid

    def close(self) -> None:
        """End jobs that still run, then the daemon."""
        if self._daemon.process.poll() is None:
            self._end_jobs()
        self._daemon.close()

    def _end_jobs(self) -> None:
        try:
            self.post("/v1/pause", {})
            running = [job["id"] for job in self.get("/v1/status")["running"]]
            if running:
                self.post("/v1/jobs/cancel", {"ids": running})
                self.post("/v1/jobs/wait", {"ids": running, "timeout_seconds": 30.0})
        except P104Error as error:
            print(f"bench: jobs of {self.socket} could not be ended: {error.line()}", file=sys.stderr)
