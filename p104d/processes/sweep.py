"""Ending what a dead shim left behind, and telling our processes from strangers'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from p104d.processes import attempt, cgroup, identity, record
from p104d.processes.attempt import Key, LaunchSpec, Look, LookKind

_AGAIN_SECONDS = 0.005
#: A process that executes shows an empty environment meanwhile. One that still does so after this long has one.
_UNSURE_SECONDS = 0.3


def group_name(key: Key) -> str:
    """The name of the attempt's cgroup."""
    return f"{key.kind}-{key.id}-{key.number}"


def key_of_group(name: str | None) -> Key | None:
    """The attempt whose cgroup is called ``name``; None when it is nobody's."""
    kind, _, rest = (name or "").partition("-")
    number, _, last = rest.partition("-")
    return Key(kind, int(number), int(last)) if number.isdigit() and last.isdigit() else None


def _group_of(key: Key, found: Look) -> str | None:
    """The cgroup that the shim noted; None for one of another boot, or of a name that we could not have given, which is
    not enough to kill by."""
    ours = os.path.basename(found.group or "") in (group_name(key), "job") and found.boot == identity.boot_id()
    return found.group if ours else None


def remove_group(key: Key, found: Look) -> None:
    """Remove the empty cgroup of an attempt whose shim died between its record and the removal."""
    group = _group_of(key, found)
    if group is not None:
        cgroup.remove(group)


def remove_leftovers(base: cgroup.Base, folder: Callable[[Key], str]) -> None:
    """Remove empty groups of attempts that are over: their shims died with their daemon."""
    for name in cgroup.leftovers(base):
        key = key_of_group(name)
        if key is not None and attempt.look(folder(key)).kind not in (LookKind.RUNNING, LookKind.UNCLAIMED):
            cgroup.remove(os.path.join(base.path, name))


async def sweep(key: Key, folder: str, within_seconds: float) -> int:
    """SIGKILL what is left of the attempt in ``folder``: its cgroup, and every process that carries its token.

    Returns how many could not be ended in time. Does nothing to an attempt whose shim is alive.
    """
    found = attempt.look(folder)
    if found.kind is LookKind.RUNNING:
        return 0
    group = _group_of(key, found)
    spec = attempt.read_launch(folder)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        marked, unsure = _kill_marked(spec)
        left = _kill_group(group) | marked
        waited = loop.time() - begun
        if not left and _is_settled(group, unsure, waited):
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
