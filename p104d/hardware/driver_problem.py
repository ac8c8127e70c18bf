"""Why the driver cannot be asked, in words that a person can act on."""

from __future__ import annotations

import os
from typing import Any

from p104d.hardware.messages import DriverProblem

_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0")
_INSTALL = "install the NVIDIA driver (580 is the last branch for Pascal; the open kernel modules do not drive it)"


def missing_module(module: Any) -> DriverProblem | None:
    """What is wrong with the module that was imported as ``pynvml``, if anything."""
    if hasattr(module, "_nvmlGetFunctionPointer"):
        return None
    return DriverProblem(
        kind="shadowed",
        message=f"another package shadows nvidia-ml-py's module pynvml: {getattr(module, '__file__', 'unknown file')}",
        mend="pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py",
    )


def no_module(error: ImportError) -> DriverProblem:
    """nvidia-ml-py is not there or does not load."""
    return DriverProblem(
        kind="no_pynvml", message=f"the module pynvml cannot be imported: {error}", mend="pip install nvidia-ml-py"
    )


def diagnose(module: Any, error: Exception) -> DriverProblem:
    """The problem behind an error of nvmlInit, or of a call that says that the driver went away."""
    code = getattr(error, "value", None)
    barred = [path for path in _DEVICES if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK)]
    if code == module.NVML_ERROR_LIBRARY_NOT_FOUND:
        return DriverProblem(
            kind="no_driver",
            message="no NVIDIA driver: libnvidia-ml.so.1 is not found",
            mend=f"{_INSTALL}, or try a simulated rig: p104d --simulate 4",
        )
    if barred or code == module.NVML_ERROR_NO_PERMISSION:
        return DriverProblem(
            kind="no_permission",
            message=f"no permission to use {barred[0] if barred else 'the NVIDIA devices'}",
            mend="look at `ls -l /dev/nvidia*`; add the daemon's user to the group that owns them (often video)",
        )
    if code == module.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return DriverProblem(
            kind="version_mismatch",
            message=f"the driver's library and its kernel module ({_kernel_version()}) are of different versions",
            mend="reboot, or unload and load the nvidia modules: the driver was updated while it ran",
        )
    if code in (module.NVML_ERROR_DRIVER_NOT_LOADED, module.NVML_ERROR_UNINITIALIZED):
        return DriverProblem(
            kind="not_loaded",
            message="the NVIDIA kernel module is not loaded",
            mend="sudo modprobe nvidia; where that fails, `dmesg | grep -i nvrm` tells why",
        )
    return DriverProblem(
        kind="driver_error",
        message=f"the NVIDIA driver does not start: {error}",
        mend="look at `nvidia-smi` and `dmesg | grep -i nvrm`",
    )


def unreadable_card(module: Any, error: Exception, index: int, bus_id: str | None) -> DriverProblem:
    """A card that is counted but cannot be opened, and was never seen before."""
    place = f"at {bus_id}" if bus_id else f"number {index}"
    if getattr(error, "value", None) == module.NVML_ERROR_NO_PERMISSION:
        return DriverProblem(
            kind="no_permission",
            message=f"no permission to use the card {place} (/dev/nvidia{index})",
            mend="look at `ls -l /dev/nvidia*`; add the daemon's user to the group that owns them (often video)",
        )
    return DriverProblem(
        kind="card_unreadable",
        message=f"the card {place} cannot be opened: {error}",
        mend="check its riser, power cable and `dmesg | grep -i xid`; a reboot often brings it back",
    )


def _kernel_version() -> str:
    try:
        with open("/sys/module/nvidia/version", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "version unknown"
