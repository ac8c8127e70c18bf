"""A memory test, run in this process on the host's memory or on a simulated card."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import msgspec

from p104d.hardware.rig import Rig, RigCard, healthy_rig
from p104d.memtest.messages import Depth, Failure, Progress
from p104d.memtest.messages import TestConfig as Config  # what is called Test... pytest takes for a test
from p104d.memtest.messages import TestResult as Result
from p104d.memtest.run import attempt

HOST_UUID = "GPU-00112233-4455-6677-8899-aabbccddeeff"
MIB = 1 << 20


class HostCard:
    """The driver library of the tests, told what its card is. One a process: made anew for each test."""

    def __init__(self, path: Path, *lines: str) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.host_reset()
        self.library.host_allocations.restype = ctypes.c_ulonglong
        self.configure(*lines)

    def configure(self, *lines: str) -> None:
        """More of it."""
        wrong = self.library.host_configure(ctypes.c_char_p("\n".join(lines).encode()))
        assert not wrong, f"line {wrong} is wrong"

    @property
    def allocations(self) -> int:
        """How many the driver has given out and not got back."""
        return int(self.library.host_allocations())


class Heard:
    """What a test said meanwhile."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.times: list[float] = []

    def __call__(self, progress: Progress) -> None:
        self.progress.append(progress)
        self.times.append(time.monotonic())

    def steps(self) -> list[str]:
        """What was done, in order, each once."""
        return list(dict.fromkeys(progress.step for progress in self.progress))


def host_config(depth: Depth = Depth.QUICK, **more: Any) -> Config:
    return Config(**{"uuid": HOST_UUID, "depth": depth, "seed": 20260101, **more})


def on_host(card: HostCard, depth: Depth = Depth.QUICK, heard: Heard | None = None, **more: Any) -> Result | Failure:
    return attempt(host_config(depth, **more), heard or Heard(), library=card.path)


def finished(outcome: Result | Failure) -> Result:
    assert isinstance(outcome, Result), outcome
    return outcome


def failed(outcome: Result | Failure) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def rig_with(speedup: float = 1000.0, faults: tuple[Any, ...] = (), **card: Any) -> Rig:
    """One simulated card, healthy but for what is named; its tests run fast."""
    rig = healthy_rig(1)
    cards: tuple[RigCard, ...] = (msgspec.structs.replace(rig.cards[0], **card),)
    return msgspec.structs.replace(rig, cards=cards, faults=faults, speedup=speedup)


def simulated_config(rig: Rig, depth: Depth = Depth.QUICK, **more: Any) -> Config:
    values = {"uuid": rig.cards[0].uuid, "depth": depth, "seed": 7, "simulate": rig, "epoch": time.monotonic()}
    return Config(**{**values, **more})


def on_rig(rig: Rig, depth: Depth = Depth.QUICK, heard: Heard | None = None, **more: Any) -> Result | Failure:
    return attempt(simulated_config(rig, depth, **more), heard or Heard())
