"""What a simulated card does when NVML's functions set something on it, and what is asked before that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from p104d.hardware.simulated import SimulatedCard
from p104d.hardware.simulated_answers import INSUFFICIENT_SIZE, INVALID_ARGUMENT, SUCCESS

#: The fan of a mining card stops below this.
_FAN_MINIMUM_PERCENT = 30
_SLOWEST_MHZ, _FASTEST_MHZ = 139, 1911
#: The speeds that a Pascal card of this kind lists for application clocks, the fastest first, as the driver does.
_MEMORY_SPEEDS = (5005, 4513, 810, 405)
_GRAPHICS_SPEEDS = tuple(range(_FASTEST_MHZ, _SLOWEST_MHZ - 1, -4))
_DEFAULT_CLOCKS = (5005, 1607)
_MEMORY_CLOCK = 2


def _number(value: Any) -> int:
    return int(getattr(value, "value", value))


def _set_power_limit(card: SimulatedCard, now: float, limit: Any) -> int:
    watts = _number(limit) / 1000
    if not card.spec.power_limit_min <= watts <= card.spec.power_limit_max:
        return INVALID_ARGUMENT
    card.power_limit, card.set_at = watts, now
    return SUCCESS


def _set_persistence(card: SimulatedCard, now: float, mode: Any) -> int:
    card.persistence, card.set_at = bool(_number(mode)), now
    return SUCCESS


def _set_clocks(card: SimulatedCard, now: float, low: Any, high: Any) -> int:
    if not 0 <= _number(low) <= _number(high) or not _SLOWEST_MHZ <= _number(high) <= _FASTEST_MHZ:
        return INVALID_ARGUMENT
    card.locked_clock_mhz, card.set_at = _number(high), now
    return SUCCESS


def _reset_clocks(card: SimulatedCard, now: float) -> int:
    card.locked_clock_mhz, card.set_at = None, now
    return SUCCESS


def _set_memory_clocks(card: SimulatedCard, now: float, low: Any, high: Any) -> int:
    if not 0 <= _number(low) <= _number(high) or not _MEMORY_SPEEDS[-1] <= _number(high) <= _MEMORY_SPEEDS[0]:
        return INVALID_ARGUMENT
    card.locked_memory_mhz, card.set_at = _number(high), now
    return SUCCESS


def _reset_memory_clocks(card: SimulatedCard, now: float) -> int:
    card.locked_memory_mhz, card.set_at = None, now
    return SUCCESS


def _set_application_clocks(card: SimulatedCard, now: float, memory: Any, graphics: Any) -> int:
    if _number(memory) not in _MEMORY_SPEEDS or _number(graphics) not in _graphics_speeds(_number(memory)):
        return INVALID_ARGUMENT
    card.application_clocks, card.set_at = (_number(memory), _number(graphics)), now
    return SUCCESS


def _application_clock(card: SimulatedCard, _now: float, kind: Any, clock: Any) -> int:
    memory, graphics = card.application_clocks or _DEFAULT_CLOCKS
    clock._obj.value = memory if _number(kind) == _MEMORY_CLOCK else graphics
    return SUCCESS


def _default_application_clock(_card: SimulatedCard, _now: float, kind: Any, clock: Any) -> int:
    clock._obj.value = _DEFAULT_CLOCKS[0] if _number(kind) == _MEMORY_CLOCK else _DEFAULT_CLOCKS[1]
    return SUCCESS


def _graphics_speeds(memory: int) -> Sequence[int]:
    """With the slowest memory clock the others are slow too; the default is one of the list."""
    most = memory if memory < _MEMORY_SPEEDS[2] else _FASTEST_MHZ
    return [speed for speed in _GRAPHICS_SPEEDS if speed <= most]


def _speeds(found: Sequence[int], count: Any, array: Any) -> int:
    room, count._obj.value = _number(count._obj), len(found)
    if array is None or room < len(found):
        return INSUFFICIENT_SIZE
    for place, speed in enumerate(found):
        array[place] = speed
    return SUCCESS


def _supported_memory(_card: SimulatedCard, _now: float, count: Any, array: Any) -> int:
    return _speeds(_MEMORY_SPEEDS, count, array)


def _supported_graphics(_card: SimulatedCard, _now: float, memory: Any, count: Any, array: Any) -> int:
    return _speeds(_graphics_speeds(_number(memory)), count, array)


def _set_fan(card: SimulatedCard, now: float, fan: Any, percent: Any) -> int:
    if _number(fan) != 0 or not _FAN_MINIMUM_PERCENT <= _number(percent) <= 100:
        return INVALID_ARGUMENT
    card.fan_percent, card.set_at = _number(percent), now
    return SUCCESS


def _reset_fan(card: SimulatedCard, now: float, _fan: Any) -> int:
    card.fan_percent, card.set_at = None, now
    return SUCCESS


def _fan_bounds(_card: SimulatedCard, _now: float, low: Any, high: Any) -> int:
    low._obj.value, high._obj.value = _FAN_MINIMUM_PERCENT, 100
    return SUCCESS


def _fan_policy(card: SimulatedCard, _now: float, _fan: Any, policy: Any) -> int:
    policy._obj.value = int(card.fan_percent is not None)
    return SUCCESS


#: Functions on a card, its handle already resolved.
SETTERS: dict[str, Callable[..., int]] = {
    "nvmlDeviceSetPowerManagementLimit": _set_power_limit,
    "nvmlDeviceSetPersistenceMode": _set_persistence,
    "nvmlDeviceSetGpuLockedClocks": _set_clocks,
    "nvmlDeviceResetGpuLockedClocks": _reset_clocks,
    "nvmlDeviceSetMemoryLockedClocks": _set_memory_clocks,
    "nvmlDeviceResetMemoryLockedClocks": _reset_memory_clocks,
    "nvmlDeviceSetApplicationsClocks": _set_application_clocks,
    "nvmlDeviceGetApplicationsClock": _application_clock,
    "nvmlDeviceGetDefaultApplicationsClock": _default_application_clock,
    "nvmlDeviceGetSupportedMemoryClocks": _supported_memory,
    "nvmlDeviceGetSupportedGraphicsClocks": _supported_graphics,
    "nvmlDeviceSetFanSpeed_v2": _set_fan,
    "nvmlDeviceSetDefaultFanSpeed_v2": _reset_fan,
    "nvmlDeviceGetMinMaxFanSpeed": _fan_bounds,
    "nvmlDeviceGetFanControlPolicy_v2": _fan_policy,
}
