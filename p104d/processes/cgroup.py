"""A cgroup per attempt where cgroup v2 is writable: bounds for memory and processes, and a kill nobody escapes.

Controllers may be missing (hybrid mounts have v2 without memory); ``cgroup.kill`` works all the same.
Source: the kernel's Documentation/admin-guide/cgroup-v2.rst. Standard library only: shims import this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import NamedTuple

_DELEGATE_MARKS = ("trusted.delegate", "user.delegate")  # systemd sets them on a unit with Delegate=yes
_LEAF = "daemon"


class Base(NamedTuple):
    """Where the groups of attempts are made, and which bounds can be set there."""

    path: str
    memory: bool
    pids: bool


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(path: str) -> str:
    try:
        with open(path, newline="\n") as file:
            return file.read()
    except OSError:
        return ""


def _own_path(pid: int | str = "self") -> str | None:
    """The cgroup v2 path of a process as the kernel names it; None where v2 is not mounted or the process is gone."""
    for line in _read(f"/proc/{pid}/cgroup").split("\n"):
        if line.startswith("0::"):
            return line[3:]
    return None


def own_folder() -> str | None:
    """The folder of this process's own cgroup v2; None where it cannot be seen."""
    own = _own_path()
    if own is None:
        return None
    for line in _read("/proc/self/mountinfo").split("\n"):
        left, _, right = line.partition(" - ")
        fields = left.split()
        if right.split(" ", 1)[0] != "cgroup2" or len(fields) < 5:
            continue
        root, point = fields[3].rstrip("/"), fields[4].encode().decode("unicode_escape")
        if own == root or own.startswith(root + "/"):
            return os.path.join(point, own[len(root) :].lstrip("/")).rstrip("/")
    return None


def _delegated(folder: str) -> bool:
    for mark in _DELEGATE_MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return True
    return False


def vacate(folder: str, leaf: str = _LEAF) -> None:
    """Move the processes of ``folder`` into a leaf: a group with processes of its own may not hand controllers down.

    Raises OSError where that is not allowed.
    """
    target = os.path.join(folder, leaf)
    with contextlib.suppress(FileExistsError):
        os.mkdir(target)
    for pid in _read(f"{folder}/cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):
            _write(f"{target}/cgroup.procs", pid)


def enable(folder: str) -> set[str]:
    """Hand memory and pids down to the groups in ``folder``, as far as they are there; returns those that are."""
    for name in {"memory", "pids"} & set(_read(f"{folder}/cgroup.controllers").split()):
        with contextlib.suppress(OSError):
            _write(f"{folder}/cgroup.subtree_control", f"+{name}")
    return set(_read(f"{folder}/cgroup.subtree_control").split())


def find(tag: str) -> Base | None:
    """Make (or find again) the group ``tag`` for attempts below our own; None where nothing is writable.

    In a delegated unit the daemon first moves into a leaf of its own. Elsewhere processes stay where they are:
    groups without controllers may stand beside processes, and rearranging a session's group is not our business.
    """
    own = own_folder()
    if own is None:
        return None
    own = os.path.dirname(own) if os.path.basename(own) == _LEAF else own
    try:
        if _delegated(own):
            vacate(own)
        if _delegated(own) or not os.path.exists(f"{own}/cgroup.type"):  # only the root group lacks that file
            enable(own)
        path = os.path.join(own, tag)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        if not os.access(f"{path}/cgroup.procs", os.W_OK) or not os.access(f"{own}/cgroup.procs", os.W_OK):
            os.rmdir(path)
            return None
    except OSError:
        return None
    given = enable(path)
    return Base(path, "memory" in given, "pids" in given)


def create(path: str) -> None:
    """Make the group ``path``.

    A group left by an earlier process of the same name is emptied first. Raises OSError when it cannot be made: where
    a daemon that closed took the empty folder along, a shim that was born meanwhile must not leave it behind again.
    """
    try:
        os.mkdir(path)
    except FileExistsError:
        kill(path)


def bound(path: str, ram_bytes: int, pids_max: int) -> None:
    """Set these bounds (0: none), as far as the controllers for them are there."""
    if ram_bytes:
        with contextlib.suppress(OSError):
            _write(f"{path}/memory.max", str(ram_bytes))
            # One process killed out of a job leaves a job that hangs: the whole of it goes.
            _write(f"{path}/memory.oom.group", "1")
    if pids_max:
        with contextlib.suppress(OSError):
            _write(f"{path}/pids.max", str(pids_max))


def join(path: str) -> None:
    """Move this process into the group ``path``."""
    _write(f"{path}/cgroup.procs", "0")


def _subgroups(path: str) -> list[str]:
    """``path`` and all groups below it, deepest first."""
    return [folder for folder, _, _ in os.walk(path, topdown=False)]


def processes(path: str) -> list[int]:
    """The pids in the group and all groups below it; empty when it is gone."""
    return [int(pid) for folder in _subgroups(path) for pid in _read(f"{folder}/cgroup.procs").split()]


def populated(path: str) -> bool:
    """Whether a living process is in the group or below it."""
    return "populated 1" in _read(f"{path}/cgroup.events")


def kill(path: str) -> None:
    """SIGKILL every process in the group and below, forks in flight included. Nothing when it is gone."""
    try:
        _write(f"{path}/cgroup.kill", "1")
    except FileNotFoundError:
        if os.path.isdir(path):
            _kill_frozen(path)
    except OSError:
        _kill_frozen(path)


def _kill_frozen(path: str) -> None:
    """The same before Linux 5.14: frozen, they cannot fork while they are counted."""
    with contextlib.suppress(OSError):
        _write(f"{path}/cgroup.freeze", "1")
    for pid in processes(path):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        _write(f"{path}/cgroup.freeze", "0")


def remove(path: str) -> bool:
    """Remove the group and those below it; True when none is left."""
    try:
        os.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        pass
    for folder in _subgroups(path):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not os.path.isdir(path)


def end(path: str, within_seconds: float = 2.0) -> bool:
    """Kill and remove the group, waiting at most that long for the killed to go; True when it is gone."""
    deadline = time.monotonic() + within_seconds
    while not remove(path):
        kill(path)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def leftovers(path: str) -> list[str]:
    """Names of the groups in the folder ``path``, whether anything lives in them or not."""
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir()]
    except OSError:
        return []


def name_within(pid: int, base: Base) -> str:
    """The name of the group in ``base`` that ``pid`` is in or below; empty when it is in none of ours."""
    parts = (_own_path(pid) or "").split("/")
    tag = os.path.basename(base.path)
    return parts[parts.index(tag) + 1] if tag in parts[:-1] else ""
