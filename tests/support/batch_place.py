"""A folder with one batch in it, and the runner as a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: Far beyond what any batch of a test takes: what keeps a stuck one from keeping the tests.
WITHIN_SECONDS = 60.0


class Ended(NamedTuple):
    """How a runner ended, and what it said."""

    code: int
    out: str
    err: str


class Place:
    """``input`` and ``output`` are paths; ``orders`` what the runner is told, to be changed before it is started."""

    def __init__(self) -> None:
        # Short: a Unix socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="p104-b-", dir="/tmp"))
        self.socket = self.folder / "s.sock"
        self.input = self.folder / "in.jsonl"
        self.output = self.folder / "out.jsonl"
        self.orders: dict[str, Any] = {
            "version": 1,
            "socket": str(self.socket),
            "input": str(self.input),
            "output": str(self.output),
            "parallel": 4,
            "model": "tiny",
            "request_timeout_seconds": 30,
            "server_wait_seconds": 10,
            "retry_wait_seconds": 0.02,
            "report_seconds": 0,
        }
        self.runners: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        """Leave nothing."""
        for runner in self.runners:
            runner.kill()
            runner.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, lines: Iterable[Any]) -> None:
        """The input: objects become lines, bytes and texts are written as they are."""
        with self.input.open("wb") as file:
            for line in lines:
                raw = line if isinstance(line, bytes) else line.encode() if isinstance(line, str) else None
                file.write(raw if raw is not None else json.dumps(line).encode() + b"\n")

    def prompts(self, count: int) -> None:
        """``count`` plain requests, ``p0`` and so on, with ids of the same name."""
        self.write({"custom_id": f"p{i}", "prompt": f"p{i}"} for i in range(count))

    def start(self) -> subprocess.Popen[str]:
        """The runner, started. -P: a job's folder may have a file ``json.py``."""
        runner = subprocess.Popen(
            [sys.executable, "-P", "-m", "p104d.engines.batch", json.dumps(self.orders)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
        )
        self.runners.append(runner)
        return runner

    def end(self, runner: subprocess.Popen[str]) -> Ended:
        """What became of a runner."""
        out, err = runner.communicate(timeout=WITHIN_SECONDS)
        return Ended(runner.returncode, out, err)

    def run(self) -> Ended:
        """Start it and wait for its end."""
        return self.end(self.start())

    def answers(self) -> list[dict[str, Any]]:
        """Every line of the output; each must be whole."""
        raw = self.output.read_bytes()
        assert raw.endswith(b"\n") or not raw
        # Not splitlines(): it splits at U+0085 and U+2028 too, which a model may well say and JSON does not escape.
        return [json.loads(line) for line in raw.split(b"\n") if line.strip()]

    def good(self) -> list[str]:
        """The ids with an answer, in the order of the file; an id with two comes twice."""
        return [line["custom_id"] for line in self.answers() if line["error"] is None]

    def bad(self) -> dict[str | None, str]:
        """The codes of errors by id."""
        return {line["custom_id"]: line["error"]["code"] for line in self.answers() if line["error"] is not None}


def wait_for_lines(path: Path, count: int, runner: subprocess.Popen[str]) -> bool:
    """Wait until ``path`` has so many lines; False where the runner ended before."""
    tick = threading.Event()
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        if runner.poll() is not None:
            return False
        tick.wait(0.002)
    return True
