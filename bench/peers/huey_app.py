"""What huey's consumer imports: one task that runs a command. The database's path comes by the environment."""

from __future__ import annotations

import importlib
import os
import subprocess
from typing import Any

huey: Any = importlib.import_module("huey").SqliteHuey(filename=os.environ["BENCH_HUEY_DB"], fsync=True)


def _run(command: list[str]) -> int:
    """Run ``command``; its exit code is the result."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


run: Any = huey.task(name="run")(_run)
