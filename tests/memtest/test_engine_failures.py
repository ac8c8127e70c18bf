"""Every driver call may fail: the test then says which, and holds nothing any more."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_rig import HOST_UUID, Heard, HostCard, failed, finished, host_config

from p104d.memtest.messages import Failure
from p104d.memtest.run import attempt

_LAUNCH_FAILED = 719
#: Absent or refused, these have something in their place.
_DISPENSABLE = {"cuDeviceGetUuid_v2", "cuGetErrorName", "cuGetErrorString"}
_GIVING_BACK = ("cuMemFree_v2", "cuMemFreeHost", "cuModuleUnload", "cuStreamDestroy_v2", "cuEventDestroy_v2")
_GIVING_BACK += ("cuCtxDestroy_v2",)


class Counting:
    """A driver library that counts its calls, and of which one call fails: the ``at``-th."""

    def __init__(self, path: str, at: int | None = None, code: int = _LAUNCH_FAILED) -> None:
        self._library = ctypes.CDLL(path)
        self._at, self._code = at, code
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        function: Any = getattr(self._library, name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if len(self.calls) - 1 == self._at:
                return self._code
            return int(function(*arguments))

        return call


def test_whatever_call_fails_is_named_and_everything_is_given_back(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M")
    healthy = Counting(card.path)
    finished(attempt(host_config(), Heard(), library=healthy))
    assert {"cuInit", "cuMemAlloc_v2", "cuLaunchKernel", "cuEventSynchronize", "cuCtxDestroy_v2"} < set(healthy.calls)
    named = 0
    for at, name in enumerate(healthy.calls):
        library = Counting(card.path, at)
        outcome = attempt(host_config(), Heard(), library=library)
        assert card.allocations == 0
        if name in _GIVING_BACK or name in _DISPENSABLE:
            finished(outcome)
            continue
        failure = failed(outcome)
        assert (failure.call, failure.code) == (name, _LAUNCH_FAILED), failure
        assert name in failure.text
        assert library.calls[-1] == "cuCtxDestroy_v2" or "cuCtxCreate_v2" not in library.calls[:at]
        named += 1
    assert named > 60


def test_a_card_with_no_memory_left_for_the_test_itself_says_so(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M")
    order = Counting(card.path)
    finished(attempt(host_config(), Heard(), library=order))
    library = Counting(card.path, order.calls.index("cuMemAlloc_v2"), code=2)
    failure = failed(attempt(host_config(), Heard(), library=library))
    assert failure.text == "no memory for the records of findings: 2 MiB of 2 MiB are free"


def test_pinned_memory_may_be_scarce(host_library: Path) -> None:
    """A host with 4 GB: a smaller buffer does as well."""
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M")
    order = Counting(card.path)
    finished(attempt(host_config(), Heard(), library=order))
    library = Counting(card.path, order.calls.index("cuMemHostAlloc"), code=2)
    finished(attempt(host_config(), Heard(), library=library))
    assert library.calls.count("cuMemHostAlloc") == 2


def test_without_a_driver_the_failure_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.hardware.cuda._LIBRARY", "libcuda.so.none")
    outcome = attempt(host_config(), Heard())
    assert isinstance(outcome, Failure) and outcome.call is None
    assert "no CUDA driver: libcuda.so.none is not found; install" in outcome.text


def test_a_library_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "none.so"
    path.write_bytes(b"no library")
    outcome = attempt(host_config(library=str(path)), Heard())
    assert isinstance(outcome, Failure) and f"{path} cannot be loaded" in outcome.text


def test_an_old_driver_without_the_newer_names_is_asked_by_the_older(host_library: Path) -> None:
    class Old(Counting):
        def __getattr__(self, name: str) -> Callable[..., int]:
            if name == "cuDeviceGetUuid_v2":
                raise AttributeError(name)
            return super().__getattr__(name)

    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M")
    library = Old(card.path)
    finished(attempt(host_config(uuid=HOST_UUID.upper()), Heard(), library=library))
    assert "cuDeviceGetUuid" in library.calls
