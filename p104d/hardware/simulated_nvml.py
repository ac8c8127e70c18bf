"""A simulated NVIDIA driver: NVML's C functions in Python, to stand beneath an unmodified ``pynvml``.

``pynvml`` finds the driver's functions with ``getattr(nvmlLib, name)`` and calls them as ctypes would. An object of
``SimulatedNvml`` put there is the driver, for pynvml and for whatever else in the process uses it. References
(``byref(x)``) arrive as objects whose ``_obj`` is ``x``; buffers arrive bare. Functions and codes are those of
``nvml.h`` (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from p104d.hardware.rig import Rig
from p104d.hardware.simulated import SimulatedCard, SimulatedRig, never_return
from p104d.hardware.simulated_answers import (
    ANSWER_ALWAYS,
    DEVICE,
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_FOUND,
    NOT_SUPPORTED,
    NUMBERS,
    SUCCESS,
    TEXTS,
    TIMEOUT,
    UNINITIALIZED,
    UNKNOWN,
    XID_EVENT,
)
from p104d.hardware.simulated_setters import SETTERS

#: Symbols that came after the 580 drivers, the last for Pascal: to look for them must fail as it does there.
_AFTER_580 = frozenset(
    {
        "nvmlEventSetWait_v3",
        "nvmlSystemGetCPER_v1",
        "nvmlDeviceGetBBXTimeData_v1",
        "nvmlEventSetRegisterGpuOperationalEvents_v1",
        "nvmlEventSetGetContextCount_v1",
        "nvmlEventSetGetContextInfo_v1",
        "nvmlEventSetGetContextData_v1",
        "nvmlEventSetGetGpuOperationalEventContextLegacyXid_v1",
        "nvmlDeviceGetNvLinkTelemetrySamples_v1",
        "nvmlDeviceGetUnrepairableMemoryFlag_v1",
        "nvmlDeviceSetRusdSettings_v1",
        "nvmlDevicePerfMetricsGetSamples_v1",
        "nvmlDeviceSetMemoryLimits_v1",
        "nvmlDeviceGetMemoryLimits_v1",
        "nvmlDeviceSetAdaptiveTgpMode_v1",
        "nvmlDeviceGetAdaptiveTgpModeInfo_v1",
        "nvmlDeviceGetBankRemapperStatus_v1",
    }
)
_ON_CARDS = {**DEVICE, **SETTERS}
_DEVICE_TOKEN, _EVENT_TOKEN = 0x7D00_0000, 0x7E00_0000


class NvmlFailure(Exception):
    """A function's return code other than success."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class SimulatedNvml:
    """The driver library of a simulated rig; what is put in the place of ``pynvml.nvmlLib``.

    ``since`` (CLOCK_MONOTONIC) is when the last XID was told: those after it are told again to a new listener;
    None: all since the epoch.
    """

    def __init__(
        self, rig: Rig, epoch: float, *, since: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rig = SimulatedRig(rig, epoch, clock)
        self._xids_told = -1.0 if since is None else since - epoch
        self._initialised: float | None = None
        self._xid_queue: list[tuple[SimulatedCard, int]] = []
        self._registered: set[int] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The C function ``name``: a plain function, because pynvml sets ``restype`` on some."""
        if not name.startswith("nvml") or name in _AFTER_580:
            raise AttributeError(name)
        body = self._body(name)
        supported = [one for card in self.rig.cards for one in card.spec.unsupported]

        def call(*arguments: Any) -> Any:
            if supported and self._unsupported(name, arguments):
                return NOT_SUPPORTED
            try:
                return body(*arguments)
            except NvmlFailure as failure:
                return failure.code

        self.__dict__[name] = call
        return call

    def _body(self, name: str) -> Callable[..., Any]:
        if name in _SYSTEM:
            return _SYSTEM[name].__get__(self)  # type: ignore[no-any-return]
        if name in NUMBERS:
            getter = NUMBERS[name]

            def number(handle: Any, *rest: Any) -> int:
                card, now = self._ask(handle)
                rest[-1]._obj.value = getter(card, now)
                return SUCCESS

            return number
        if name in _ON_CARDS:
            function = _ON_CARDS[name]
            answers_lost = name in ANSWER_ALWAYS

            def device(handle: Any, *rest: Any) -> int:
                card, now = self._ask(handle, even_lost=answers_lost)
                return function(card, now, *rest)

            return device

        def unsupported(handle: Any = None, *_: Any) -> int:
            if name.startswith("nvmlDevice"):
                self._ask(handle)
            return NOT_SUPPORTED

        return unsupported

    def _unsupported(self, name: str, arguments: tuple[Any, ...]) -> bool:
        card = self._by_token(arguments[0]) if arguments and name.startswith("nvmlDevice") else None
        endings = card.spec.unsupported if card is not None else ()
        return name.endswith(endings) or name.removesuffix("_v2").endswith(endings)

    def _alive(self) -> float:
        """The time now, if the driver is loaded and initialised."""
        now = self.rig.now()
        if self._initialised is None or self.rig.reloaded_since(self._initialised, now):
            raise NvmlFailure(UNINITIALIZED)
        return now

    def _by_token(self, handle: Any) -> SimulatedCard | None:
        try:
            token = ctypes.c_void_p.from_buffer(handle).value or 0
        except (TypeError, ValueError):
            return None
        position = token - _DEVICE_TOKEN
        return self.rig.cards[position] if 0 <= position < len(self.rig.cards) else None

    def _ask(self, handle: Any, *, even_lost: bool = False) -> tuple[SimulatedCard, float]:
        now = self._alive()
        card = self._by_token(handle)
        if card is None:
            raise NvmlFailure(INVALID_ARGUMENT)
        if card.faults:
            self._suffer(card, now, even_lost)
        return card, now

    def _suffer(self, card: SimulatedCard, now: float, even_lost: bool) -> None:
        if card.has("hang", now):
            never_return()
        if card.has("gone", now):
            raise NvmlFailure(GPU_IS_LOST)
        if even_lost:
            return
        if card.has("lost", now):
            raise NvmlFailure(GPU_IS_LOST)
        if card.has("unknown", now):
            raise NvmlFailure(UNKNOWN)

    def _open(self, card: SimulatedCard | None, now: float, device: Any) -> int:
        if card is None:
            return NOT_FOUND
        if card.has("hang", now):
            never_return()
        if card.has("lost", now):
            return GPU_IS_LOST
        ctypes.c_void_p.from_buffer(device._obj).value = _DEVICE_TOKEN + card.position
        return SUCCESS

    def bus_ids(self) -> list[str]:
        """Bus addresses of the cards present, as a real driver lists them in /proc/driver/nvidia/gpus."""
        now = self.rig.now()
        return [card.bus_id(now) for card in self.rig.present(now)]

    def _init(self, *_: Any) -> int:
        now = self.rig.now()
        if self.rig.reloading(now):
            return DRIVER_NOT_LOADED
        self.rig.forget_settings(now)
        self._initialised = now
        return SUCCESS

    def _shutdown(self) -> int:
        self._alive()
        self._initialised = None
        self._registered.clear()
        return SUCCESS

    def _error_string(self, code: Any) -> bytes:
        return TEXTS.get(int(getattr(code, "value", code)), b"Unknown Error")

    def _driver_version(self, buffer: Any, _length: Any) -> int:
        self._alive()
        buffer.value = self.rig.rig.driver_version.encode()
        return SUCCESS

    def _nvml_version(self, buffer: Any, _length: Any) -> int:
        self._alive()
        buffer.value = b"13." + self.rig.rig.driver_version.encode()
        return SUCCESS

    def _cuda_version(self, version: Any) -> int:
        version._obj.value = 12080
        return SUCCESS

    def _process_name(self, pid: Any, buffer: Any, _length: Any) -> int:
        try:
            with open(f"/proc/{int(pid.value)}/cmdline", "rb") as file:
                buffer.value = file.read(1000).partition(b"\0")[0]
        except OSError:
            return NOT_FOUND
        return SUCCESS

    def _count(self, count: Any) -> int:
        count._obj.value = len(self.rig.present(self._alive()))
        return SUCCESS

    def _by_index(self, index: Any, device: Any) -> int:
        now = self._alive()
        present, wanted = self.rig.present(now), int(index.value)
        if wanted >= len(present):
            return INVALID_ARGUMENT
        return self._open(present[wanted], now, device)

    def _by_bus(self, bus_id: Any, device: Any) -> int:
        now = self._alive()
        wanted = (bus_id.value or b"").decode().upper().rpartition(":")
        domain, _, bus = wanted[0].rpartition(":")
        text = f"{int(domain or '0', 16):08X}:{bus}:{wanted[2]}"
        return self._open(next((card for card in self.rig.present(now) if card.bus_id(now) == text), None), now, device)

    def _by_uuid(self, uuid: Any, device: Any) -> int:
        now = self._alive()
        wanted = (uuid.value or b"").decode()
        return self._open(next((card for card in self.rig.present(now) if card.spec.uuid == wanted), None), now, device)

    def _index(self, handle: Any, index: Any) -> int:
        card, now = self._ask(handle, even_lost=True)
        index._obj.value = self.rig.present(now).index(card)
        return SUCCESS

    def _event_set_create(self, event_set: Any) -> int:
        self._alive()
        ctypes.c_void_p.from_buffer(event_set._obj).value = _EVENT_TOKEN
        return SUCCESS

    def _event_set_free(self, _event_set: Any) -> int:
        self._registered.clear()
        return SUCCESS

    def _register(self, handle: Any, types: Any, _event_set: Any) -> int:
        card, _ = self._ask(handle)
        if int(types.value) & ~XID_EVENT:
            return NOT_SUPPORTED
        self._registered.add(card.position)
        return SUCCESS

    def _event_wait(self, _event_set: Any, data: Any, _timeout: Any) -> int:
        """The next XID of a registered card. Never waits: a simulated listener asks with a timeout of 0."""
        now = self._alive()
        self._xid_queue += self.rig.xids(self._xids_told, now)
        self._xids_told = max(now, self._xids_told)
        while self._xid_queue:
            card, code = self._xid_queue.pop(0)
            if card.position in self._registered:
                event = data._obj
                ctypes.c_void_p.from_buffer(event, type(event).device.offset).value = _DEVICE_TOKEN + card.position
                event.eventType, event.eventData = XID_EVENT, code
                return SUCCESS
        return TIMEOUT


_SYSTEM: dict[str, Callable[..., Any]] = {
    "nvmlInit_v2": SimulatedNvml._init,
    "nvmlInitWithFlags": SimulatedNvml._init,
    "nvmlShutdown": SimulatedNvml._shutdown,
    "nvmlErrorString": SimulatedNvml._error_string,
    "nvmlSystemGetDriverVersion": SimulatedNvml._driver_version,
    "nvmlSystemGetNVMLVersion": SimulatedNvml._nvml_version,
    "nvmlSystemGetCudaDriverVersion": SimulatedNvml._cuda_version,
    "nvmlSystemGetCudaDriverVersion_v2": SimulatedNvml._cuda_version,
    "nvmlSystemGetProcessName": SimulatedNvml._process_name,
    "nvmlDeviceGetCount": SimulatedNvml._count,
    "nvmlDeviceGetCount_v2": SimulatedNvml._count,
    "nvmlDeviceGetHandleByIndex": SimulatedNvml._by_index,
    "nvmlDeviceGetHandleByIndex_v2": SimulatedNvml._by_index,
    "nvmlDeviceGetHandleByPciBusId": SimulatedNvml._by_bus,
    "nvmlDeviceGetHandleByPciBusId_v2": SimulatedNvml._by_bus,
    "nvmlDeviceGetHandleByUUID": SimulatedNvml._by_uuid,
    "nvmlDeviceGetIndex": SimulatedNvml._index,
    "nvmlEventSetCreate": SimulatedNvml._event_set_create,
    "nvmlEventSetFree": SimulatedNvml._event_set_free,
    "nvmlEventSetWait": SimulatedNvml._event_wait,
    "nvmlEventSetWait_v2": SimulatedNvml._event_wait,
    "nvmlDeviceRegisterEvents": SimulatedNvml._register,
}
