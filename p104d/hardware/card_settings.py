"""Sets what can be set on a card, through pynvml, with the driver's own words for what it refuses.

Power limit, clocks, fan and persistence mode want root (CAP_SYS_ADMIN); which of them a mining card has is known of no
kind, so each stands for itself. Clocks: NVML locks them on Volta and later (``nvmlDeviceSetGpuLockedClocks``); before,
there are application clocks, which name one of the speeds that the card lists. Function names and errors are those of
``nvml.h`` (docs.nvidia.com/deploy/nvml-api).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p104d.hardware.messages import CLOCK_FREE, FAN_AUTOMATIC, CardSettings, Refused, SettingResult


class _Refusal(Exception):
    """Refused before the driver was asked."""

    def __init__(self, refused: Refused, text: str) -> None:
        super().__init__(text)
        self.refused = refused


def apply_settings(module: Any, handle: Any, uuid: str, wanted: CardSettings) -> tuple[SettingResult, ...]:
    """Set each of ``wanted`` on the card behind ``handle``; one refused costs no other. ``module`` is pynvml."""
    setters: dict[str, Callable[[Any, Any, Any], None]] = {
        # First: without it a driver that nobody uses forgets what follows.
        "persistence": _persistence,
        "power_limit_watts": _power_limit,
        # Before the SM clock: the speeds to choose from depend on it where application clocks are what there is.
        "memory_clock_mhz": _memory_clock,
        "sm_clock_mhz": _sm_clock,
        "fan_percent": _fan,
    }
    values = wanted.items()
    return tuple(_result(module, handle, uuid, name, values[name], setters[name]) for name in setters if name in values)


def _result(
    module: Any, handle: Any, uuid: str, name: str, value: Any, setter: Callable[[Any, Any, Any], None]
) -> SettingResult:
    try:
        setter(module, handle, value)
    except _Refusal as refusal:
        return SettingResult(uuid=uuid, name=name, value=value, refused=refusal.refused, text=str(refusal))
    except module.NVMLError as error:
        return SettingResult(uuid=uuid, name=name, value=value, refused=_refused(module, error), text=str(error))
    except AttributeError as error:  # a pynvml too old for the function
        return SettingResult(uuid=uuid, name=name, value=value, refused=Refused.NOT_SUPPORTED, text=str(error))
    return SettingResult(uuid=uuid, name=name, value=value)


def _refused(module: Any, error: Any) -> Refused:
    return {
        module.NVML_ERROR_NOT_SUPPORTED: Refused.NOT_SUPPORTED,
        module.NVML_ERROR_FUNCTION_NOT_FOUND: Refused.NOT_SUPPORTED,
        module.NVML_ERROR_NO_PERMISSION: Refused.NO_PERMISSION,
        module.NVML_ERROR_INVALID_ARGUMENT: Refused.OUT_OF_BOUNDS,
        module.NVML_ERROR_GPU_IS_LOST: Refused.GONE,
        module.NVML_ERROR_UNINITIALIZED: Refused.GONE,
        module.NVML_ERROR_DRIVER_NOT_LOADED: Refused.GONE,
    }.get(error.value, Refused.FAILED)


def _persistence(nvml: Any, handle: Any, on: bool) -> None:
    nvml.nvmlDeviceSetPersistenceMode(handle, nvml.NVML_FEATURE_ENABLED if on else nvml.NVML_FEATURE_DISABLED)


def _power_limit(nvml: Any, handle: Any, watts: float) -> None:
    low, high = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    milliwatts = round(watts * 1000)
    if not low <= milliwatts <= high:
        raise _Refusal(Refused.OUT_OF_BOUNDS, f"the card allows {low / 1000:g} to {high / 1000:g} W")
    nvml.nvmlDeviceSetPowerManagementLimit(handle, milliwatts)


def _fan(nvml: Any, handle: Any, percent: int) -> None:
    fans = range(nvml.nvmlDeviceGetNumFans(handle))
    if not fans:
        raise _Refusal(Refused.NOT_SUPPORTED, "the card has no fan of its own")
    if percent == FAN_AUTOMATIC:
        for fan in fans:
            nvml.nvmlDeviceSetDefaultFanSpeed_v2(handle, fan)
        return
    bounds = _fan_bounds(nvml, handle)
    if bounds is not None and not bounds[0] <= percent <= bounds[1]:
        raise _Refusal(Refused.OUT_OF_BOUNDS, f"the card allows {bounds[0]} to {bounds[1]} %")
    for fan in fans:
        nvml.nvmlDeviceSetFanSpeed_v2(handle, fan, percent)


def _fan_bounds(nvml: Any, handle: Any) -> tuple[int, int] | None:
    """Per cent; None where the driver does not tell, and has to judge itself."""
    try:
        low, high = nvml.nvmlDeviceGetMinMaxFanSpeed(handle)
    except (nvml.NVMLError, AttributeError):
        return None
    return int(low), int(high)


def _sm_clock(nvml: Any, handle: Any, megahertz: int) -> None:
    try:
        if megahertz == CLOCK_FREE:
            nvml.nvmlDeviceResetGpuLockedClocks(handle)
        else:
            nvml.nvmlDeviceSetGpuLockedClocks(handle, 0, megahertz)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        memory = nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_MEM)
        if megahertz == CLOCK_FREE:
            graphics = nvml.nvmlDeviceGetDefaultApplicationsClock(handle, nvml.NVML_CLOCK_GRAPHICS)
        else:
            graphics = _fastest(nvml.nvmlDeviceGetSupportedGraphicsClocks(handle, memory), megahertz)
        nvml.nvmlDeviceSetApplicationsClocks(handle, memory, graphics)


def _memory_clock(nvml: Any, handle: Any, megahertz: int) -> None:
    try:
        if megahertz == CLOCK_FREE:
            nvml.nvmlDeviceResetMemoryLockedClocks(handle)
        else:
            nvml.nvmlDeviceSetMemoryLockedClocks(handle, 0, megahertz)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        if megahertz == CLOCK_FREE:
            memory = nvml.nvmlDeviceGetDefaultApplicationsClock(handle, nvml.NVML_CLOCK_MEM)
        else:
            memory = _fastest(nvml.nvmlDeviceGetSupportedMemoryClocks(handle), megahertz)
        # What the SM clock was set to stays, as near as this memory clock allows.
        now = nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_GRAPHICS)
        graphics = _fastest(nvml.nvmlDeviceGetSupportedGraphicsClocks(handle, memory), now)
        nvml.nvmlDeviceSetApplicationsClocks(handle, memory, graphics)


def _fastest(speeds: list[int], most: int) -> int:
    """The fastest of the card's ``speeds`` (MHz) that is not above ``most``."""
    allowed = [speed for speed in speeds if speed <= most]
    if not allowed:
        told = f"the card's slowest is {min(speeds)} MHz" if speeds else "the card lists no speeds"
        raise _Refusal(Refused.OUT_OF_BOUNDS if speeds else Refused.NOT_SUPPORTED, told)
    return max(allowed)
