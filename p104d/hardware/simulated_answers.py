"""What a simulated card answers to each of NVML's functions, its handle already resolved to the card.

Arguments come as pynvml passes them to the driver: references as objects whose ``_obj`` is the target, buffers bare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p104d.hardware.simulated import RESERVED_BYTES, SimulatedCard

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED = 0, 1, 2, 3
NOT_FOUND, INSUFFICIENT_SIZE, DRIVER_NOT_LOADED, TIMEOUT, GPU_IS_LOST, UNKNOWN = 6, 7, 9, 10, 15, 999
XID_EVENT = 8

#: What nvmlErrorString says of each.
TEXTS = {
    SUCCESS: b"The operation was successful",
    UNINITIALIZED: b"Uninitialized",
    INVALID_ARGUMENT: b"Invalid Argument",
    NOT_SUPPORTED: b"Not Supported",
    NOT_FOUND: b"Not Found",
    INSUFFICIENT_SIZE: b"Insufficient Size",
    DRIVER_NOT_LOADED: b"Driver Not Loaded",
    TIMEOUT: b"Timeout",
    GPU_IS_LOST: b"GPU is lost",
    UNKNOWN: b"Unknown Error",
}

_Getter = Callable[[SimulatedCard, float], int]

#: What still answers when a card fell off the bus or answers nothing else: the driver knows it by heart.
ANSWER_ALWAYS = frozenset({"nvmlDeviceGetUUID", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetPciInfo_v2",
                            "nvmlDeviceGetPciInfo", "nvmlDeviceGetMinorNumber"})  # fmt: skip

#: Functions that put one number where their last argument points.
NUMBERS: dict[str, _Getter] = {
    "nvmlDeviceGetTemperature": lambda card, now: card.temperature(now),
    "nvmlDeviceGetPowerUsage": lambda card, now: round(card.power(now) * 1000),
    "nvmlDeviceGetPowerManagementLimit": lambda card, _: round(card.power_limit * 1000),
    "nvmlDeviceGetEnforcedPowerLimit": lambda card, _: round(card.power_limit * 1000),
    "nvmlDeviceGetPowerManagementDefaultLimit": lambda card, _: round(card.spec.power_limit_default * 1000),
    "nvmlDeviceGetPowerManagementMode": lambda _card, _: 1,
    "nvmlDeviceGetFanSpeed": lambda card, now: card.fan(now),
    "nvmlDeviceGetFanSpeed_v2": lambda card, now: card.fan(now),
    "nvmlDeviceGetNumFans": lambda _card, _: 1,
    "nvmlDeviceGetPersistenceMode": lambda card, _: int(card.persistence),
    "nvmlDeviceGetCurrPcieLinkGeneration": lambda card, _: card.spec.link_generation,
    "nvmlDeviceGetCurrPcieLinkWidth": lambda card, _: card.spec.link_width,
    "nvmlDeviceGetMaxPcieLinkGeneration": lambda card, _: card.spec.link_generation_max,
    "nvmlDeviceGetMaxPcieLinkWidth": lambda card, _: card.spec.link_width_max,
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda card, now: card.throttle(now),
    "nvmlDeviceGetCurrentClocksEventReasons": lambda card, now: card.throttle(now),
    "nvmlDeviceGetSupportedEventTypes": lambda _card, _: XID_EVENT,
    "nvmlDeviceGetPerformanceState": lambda card, now: 0 if card.busy(now) else 8,
    "nvmlDeviceGetMinorNumber": lambda card, _: card.position,
    "nvmlDeviceGetComputeMode": lambda _card, _: 0,
}


def _text(read: Callable[[SimulatedCard], str]) -> Callable[..., int]:
    def answer(card: SimulatedCard, _now: float, buffer: Any, length: Any) -> int:
        text = read(card).encode()
        if len(text) >= int(getattr(length, "value", length)):
            return INSUFFICIENT_SIZE
        buffer.value = text
        return SUCCESS

    return answer


def _pci_info(card: SimulatedCard, now: float, info: Any) -> int:
    out, bus_id = info._obj, card.bus_id(now)
    domain, bus, device = bus_id.removesuffix(".0").split(":")
    out.busId, out.busIdLegacy = bus_id.encode(), bus_id[4:].encode()
    out.domain, out.bus, out.device = int(domain, 16), int(bus, 16), int(device, 16)
    out.pciDeviceId, out.pciSubSystemId = _pci_number(card.spec.device_id), _pci_number(card.spec.subsystem_id)
    return SUCCESS


def _pci_number(text: str) -> int:
    vendor, _, device = text.partition(":")
    return int(device, 16) << 16 | int(vendor, 16)


def _memory(card: SimulatedCard, now: float, info: Any) -> int:
    """Version 1 counts the driver's own reserve as used."""
    out, total = info._obj, card.spec.memory
    out.total, out.used = total, min(total, card.memory_used(now) + RESERVED_BYTES)
    out.free = total - out.used
    return SUCCESS


def _memory_v2(card: SimulatedCard, now: float, info: Any) -> int:
    out, total = info._obj, card.spec.memory
    out.total, out.reserved = total, RESERVED_BYTES
    out.used = min(total - RESERVED_BYTES, card.memory_used(now))
    out.free = total - RESERVED_BYTES - out.used
    return SUCCESS


def _utilization(card: SimulatedCard, now: float, rates: Any) -> int:
    busy = card.busy(now)
    rates._obj.gpu, rates._obj.memory = (98, 61) if busy else (0, 0)
    return SUCCESS


def _processes(card: SimulatedCard, now: float, count: Any, array: Any) -> int:
    found, room = card.processes(now), int(count._obj.value)
    count._obj.value = len(found)
    if len(found) > room:
        return INSUFFICIENT_SIZE
    for slot, (pid, memory) in enumerate(found):
        array[slot].pid, array[slot].usedGpuMemory = pid, memory
    return SUCCESS


def _no_processes(_card: SimulatedCard, _now: float, count: Any, _array: Any) -> int:
    count._obj.value = 0
    return SUCCESS


def _clock(card: SimulatedCard, now: float, kind: Any, clock: Any) -> int:
    clock._obj.value = card.memory_clock(now) if int(kind.value) == 2 else card.clock(now)
    return SUCCESS


def _throughput(card: SimulatedCard, now: float, counter: Any, kilobytes: Any) -> int:
    """A job's process keeps an eighth of the link busy one way, a hundredth the other; counter 1: received."""
    share = 0 if not card.busy(now) else 8 if int(getattr(counter, "value", counter)) == 1 else 100
    kilobytes._obj.value = int(card.spec.host_to_device / 1000 / share) if share else 0
    return SUCCESS


def _max_clock(_card: SimulatedCard, _now: float, kind: Any, clock: Any) -> int:
    clock._obj.value = 5005 if int(kind.value) == 2 else 1911
    return SUCCESS


def _threshold(_card: SimulatedCard, _now: float, kind: Any, degrees: Any) -> int:
    degrees._obj.value = 99 if int(kind.value) == 0 else 96
    return SUCCESS


def _power_bounds(card: SimulatedCard, _now: float, low: Any, high: Any) -> int:
    low._obj.value, high._obj.value = round(card.spec.power_limit_min * 1000), round(card.spec.power_limit_max * 1000)
    return SUCCESS


def _capability(card: SimulatedCard, _now: float, major: Any, minor: Any) -> int:
    one, _, two = card.spec.compute_capability.partition(".")
    major._obj.value, minor._obj.value = int(one), int(two)
    return SUCCESS


#: Functions on a card, its handle already resolved.
DEVICE: dict[str, Callable[..., int]] = {
    "nvmlDeviceGetName": _text(lambda card: card.spec.name),
    "nvmlDeviceGetUUID": _text(lambda card: card.spec.uuid),
    "nvmlDeviceGetVbiosVersion": _text(lambda card: card.spec.vbios),
    "nvmlDeviceGetPciInfo": _pci_info,
    "nvmlDeviceGetPciInfo_v2": _pci_info,
    "nvmlDeviceGetPciInfo_v3": _pci_info,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetMemoryInfo_v2": _memory_v2,
    "nvmlDeviceGetUtilizationRates": _utilization,
    "nvmlDeviceGetComputeRunningProcesses_v2": _processes,
    "nvmlDeviceGetComputeRunningProcesses_v3": _processes,
    "nvmlDeviceGetGraphicsRunningProcesses_v2": _no_processes,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": _no_processes,
    "nvmlDeviceGetClockInfo": _clock,
    "nvmlDeviceGetMaxClockInfo": _max_clock,
    "nvmlDeviceGetPcieThroughput": _throughput,
    "nvmlDeviceGetTemperatureThreshold": _threshold,
    "nvmlDeviceGetPowerManagementLimitConstraints": _power_bounds,
    "nvmlDeviceGetCudaComputeCapability": _capability,
}
