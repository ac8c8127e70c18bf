"""What p104ctl can find out by itself when no daemon answers: why one may not be able to run here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from p104d.api.client import StrangerError, check_listener, connect, is_named, socket_candidates, why

Check = dict[str, Any]

#: 580 is the last driver branch for Pascal, and the open kernel modules reject it.
_DRIVER_MEND = "install NVIDIA's own (not open) driver, 535 to 580: sudo apt install nvidia-driver"
_GROUP_MEND = "sudo adduser $USER p104, then log in again"


def local_checks(explicit: str | None, environ: Mapping[str, str], root: str = "/") -> list[Check]:
    """The checks in the order in which to mend them. ``root`` is where the host's files are (tests have their own)."""
    cards = nvidia_cards(root)
    return [
        *(_socket(path, is_named(explicit, environ)) for path in socket_candidates(explicit, environ)),
        _cards(cards),
        _kernel_module(root, bool(cards)),
        *_devices(root, bool(cards)),
        _library(bool(cards)),
    ]


def check(name: str, ok: bool | None, text: str, mend: str | None = None) -> Check:
    """One check as ``doctor --json`` prints it; ``ok`` None where it does not apply or cannot be told."""
    return {"name": name, "ok": ok, "text": text, "mend": None if ok else mend}


def _socket(path: str, named: bool) -> Check:
    try:
        with connect(path, timeout=2.0) as connection:
            if not named:
                check_listener(connection)
    except StrangerError as error:
        return check("socket", False, f"{path}: {why(error)}", "name it with --socket if you mean it")
    except FileNotFoundError as error:
        mend = "start a daemon: systemctl start p104d, or p104d --simulate 4"
        return check("socket", None, f"{path}: {why(error)}", mend)
    except PermissionError as error:
        return check("socket", False, f"{path}: {why(error)}", _GROUP_MEND)
    except OSError as error:
        return check("socket", False, f"{path}: {why(error)}", "its daemon is gone: start it again")
    return check("socket", True, f"{path}: somebody listens")


def nvidia_cards(root: str) -> list[str]:
    """PCI addresses of NVIDIA's display and 3D controllers, as the kernel sees them without any driver."""
    folder = os.path.join(root, "sys/bus/pci/devices")
    try:
        addresses = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        one
        for one in addresses
        if _line(folder, one, "vendor") == "0x10de" and _line(folder, one, "class").startswith("0x03")
    ]


def _line(*parts: str) -> str:
    try:
        with open(os.path.join(*parts), encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip()
    except OSError:
        return ""


def _cards(cards: list[str]) -> Check:
    if cards:
        return check("cards", True, f"{len(cards)} NVIDIA cards on the PCI bus: {', '.join(cards)}")
    mend = "check risers and power if there should be; p104d --simulate 4 does without"
    return check("cards", None, "no NVIDIA card on the PCI bus", mend)


def _kernel_module(root: str, wanted: bool) -> Check:
    version = _line(root, "proc/driver/nvidia/version")
    if version:
        return check("driver", True, version)
    if os.path.exists(os.path.join(root, "sys/module/nouveau")) and wanted:
        mend = f"nouveau holds the cards: blacklist it, reboot, and {_DRIVER_MEND}"
        return check("driver", False, "the nouveau driver is loaded, NVIDIA's is not", mend)
    return check("driver", False if wanted else None, "NVIDIA's kernel module is not loaded", _DRIVER_MEND)


def _devices(root: str, wanted: bool) -> list[Check]:
    folder = os.path.join(root, "dev")
    try:
        numbered = [entry for entry in os.listdir(folder) if entry.startswith("nvidia") and entry[6:].isdecimal()]
    except OSError:
        numbered = []
    found = ["nvidiactl", *sorted(numbered, key=lambda entry: int(entry[6:]))]
    return [_device(os.path.join(folder, entry), wanted) for entry in found]


def _device(path: str, wanted: bool) -> Check:
    if not os.path.exists(path):
        mend = "sudo nvidia-modprobe -u -c 0, or any nvidia-smi as root, makes it"
        return check("device", False if wanted else None, f"{path}: not there", mend)
    if os.access(path, os.R_OK | os.W_OK):
        return check("device", True, f"{path}: readable and writable")
    mend = f"ls -l {path} names its group: sudo adduser $USER to that group, then log in again"
    return check("device", False, f"{path}: no permission", mend)


def _library(wanted: bool) -> Check:
    import ctypes

    name = "libnvidia-ml.so.1"
    try:
        ctypes.CDLL(name)  # loading it asks the driver nothing, so a wedged driver cannot hang this
    except OSError as error:
        mend = "install the driver's library: sudo apt install libnvidia-ml1"
        return check(
            "library", False if wanted else None, f"{name}: {str(error).removeprefix(name).lstrip(': ')}", mend
        )
    return check("library", True, f"{name}: loads")
