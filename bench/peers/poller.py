"""gpustat and nvitop, each looking at a simulated rig once a second, in a process of its own.

``python -m bench.peers.poller gpustat|nvitop CARDS``: our simulated driver stands beneath pynvml, as in our sensor, so
that all three ask the same driver the questions each has. They only look; nothing is recorded or judged.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

from bench.queues import REPOSITORY, Child, Unavailable

NAMES = ("gpustat", "nvitop")


def _gpustat() -> Callable[[], object]:
    query = importlib.import_module("gpustat").new_query
    return lambda: query().jsonify()


def _nvitop() -> Callable[[], object]:
    devices = importlib.import_module("nvitop").Device.all()
    return lambda: [(device.as_snapshot(), device.processes()) for device in devices]


class Poller:
    """One of them, for the length of a block; ready when it has looked once."""

    def __init__(self, name: str, cards: int, folder: str) -> None:
        if importlib.util.find_spec(name) is None:
            raise Unavailable(f"{name} is not installed: pip install {name}")
        self.name, self._ready = name, f"{folder}/ready"
        env = {**os.environ, "PYTHONPATH": REPOSITORY}
        command = [sys.executable, "-m", "bench.peers.poller", name, str(cards), self._ready]
        self._child = Child(command, env=env, cwd=folder)
        self._log = f"{folder}/output.txt"

    def __enter__(self) -> Poller:
        deadline = time.monotonic() + 30.0
        while not os.path.exists(self._ready):
            if self._child.process.poll() is not None or time.monotonic() > deadline:
                self._child.close()
                with open(self._log) as output:
                    raise RuntimeError(f"{self.name} did not look:\n{output.read()[-1000:]}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()

    @property
    def pid(self) -> int:
        """Its one process."""
        return self._child.process.pid


def main() -> None:
    """Look once a second until killed."""
    name, cards, ready = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    from p104d.hardware.nvml import use_library
    from p104d.hardware.rig import healthy_rig
    from p104d.hardware.simulated_nvml import SimulatedNvml

    use_library(SimulatedNvml(healthy_rig(cards), time.monotonic()))
    look = {"gpustat": _gpustat, "nvitop": _nvitop}[name]()
    # Once, for what it says to be seen: a peer that sees nothing costs nothing.
    assert str(look()).count("P104") >= cards, f"{name} did not see {cards} cards"
    with open(ready, "w"):
        pass
    due = time.monotonic()
    while True:
        look()
        due += 1.0
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
