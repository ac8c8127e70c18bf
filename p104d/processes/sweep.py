"""Ending what a dead shim left behind, and telling our processes from strangers'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Container

from p104d.processes import attempt, cgroup, identity, record
from p104d.processes.attempt import LaunchSpec, Look, LookKind

_AGAIN_SECONDS = 0.005
#: A process that executes shows an empty environment meanwhile. One that still does so after this long has one.
_UNSURE_SECONDS = 0.3
#: How often in a row nobody may be found, where no cgroup knows for certain.
_CLEAN_LOOKS = 2


def _group_of(found: Look) -> str | None:
    """The cgroup that the shim noted; None for one of another boot, or of a name that it could not have given, which is
    not enough to kill by."""
    name = os.path.basename(found.group or "")
    ours = name == "job" or record.parse_group(name) == (found.pid, found.start)
    return found.group if ours and found.boot == identity.boot_id() else None


def remove_group(found: Look) -> None:
    """Remove the empty cgroup of an attempt whose shim died between its record and the removal."""
    group = _group_of(found)
    if group is not None:
        cgroup.remove(group)


def remove_leftovers(groups: str, dying: Container[int] = ()) -> int:
    """Remove the empty cgroups of dead shims in the folder ``groups``; returns how many of theirs are not empty, or are
    of shims that are just ``dying`` (their pids)."""
    left = 0
    for name in cgroup.leftovers(groups):
        shim = record.parse_group(name)
        if shim is None:
            continue
        if identity.alive(*shim):
            left += shim[0] in dying
        else:
            left += not cgroup.remove(os.path.join(groups, name))
    return left


async def remove_base(groups: str, busy: Container[int | None], within_seconds: float = 1.0) -> None:
    """Remove the folder ``groups`` once the idle shims, just told to end, took their own cgroups away; it stays where
    ``busy`` shims (their pids) have jobs in it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_seconds
    while os.path.isdir(groups):
        remove_leftovers(groups)
        shims = [record.parse_group(name) for name in cgroup.leftovers(groups)]
        with contextlib.suppress(OSError):
            os.rmdir(groups)
            return
        # An idle one, that was perhaps just born and has made its first group since, was told to end and is waited for.
        if (shims and all(shim is None or shim[0] in busy for shim in shims)) or loop.time() > deadline:
            return
        await asyncio.sleep(_AGAIN_SECONDS)


async def sweep(folder: str, within_seconds: float) -> int:
    """SIGKILL what is left of the attempt in ``folder``: its cgroup, and every process that carries its token.

    Returns how many could not be ended in time. Does nothing to an attempt whose shim is alive.
    """
    found = attempt.look(folder)
    if found.kind is LookKind.RUNNING:
        return 0
    group = _group_of(found)
    spec = attempt.read_launch(folder)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    clean = 0
    while True:
        marked, unsure = _kill_marked(spec)
        left = _kill_group(group) | marked
        waited = loop.time() - begun
        clean = clean + 1 if not left and _is_settled(group, unsure, waited) else 0
        # A process born after the list was made, whose parent died before it was asked, is seen by the next look only.
        if clean >= (_CLEAN_LOOKS if group is None else 1):
            return 0
        if waited > within_seconds:
            return len(left)
        await asyncio.sleep(_AGAIN_SECONDS)


def _is_settled(group: str | None, unsure: bool, waited_seconds: float) -> bool:
    """Whether finding nobody means that nobody is there: at once with a cgroup, which knows its members for certain."""
    return cgroup.remove(group) if group is not None else not unsure or waited_seconds > _UNSURE_SECONDS


def _kill_group(group: str | None) -> set[int]:
    if group is None:
        return set()
    left = set(cgroup.processes(group))
    cgroup.kill(group)
    return left


def _kill_marked(spec: LaunchSpec | None) -> tuple[set[int], bool]:
    """SIGKILL what carries the attempt's token: (who did, whether somebody was just executing and not to be read)."""
    left: set[int] = set()
    unsure = False
    if spec is None or not spec.token:
        return left, unsure
    for pid in identity.all_pids():
        start = identity.start_time(pid)
        environment = identity.environment(pid)
        if start is None or environment is None or pid == os.getpid():
            continue
        if not environment:
            unsure = unsure or identity.is_user_process(pid)
        if environment.get(record.TOKEN_VARIABLE.encode()) != spec.token.encode():
            continue
        pidfd = identity.open_pidfd(pid, start)
        if pidfd is not None:
            with contextlib.suppress(PermissionError):
                identity.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            left.add(pid)
    return left, unsure
