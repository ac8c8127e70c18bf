"""Whose a process is: one of our attempts', or a stranger's."""

from __future__ import annotations

from collections.abc import Mapping

from p104d.processes import cgroup, identity, record
from p104d.processes.attempt import Key, Look


class Owners:
    """Tells by shims that live, and by those that died and left processes behind."""

    def __init__(self) -> None:
        self._dead: dict[tuple[int | None, int | None], Key] = {}

    def left_by(self, found: Look, key: Key) -> None:
        """The shim of ``key`` is gone, its processes are not."""
        self._dead[found.pid, found.start] = key

    def swept(self, key: Key) -> None:
        """Nothing of it is left."""
        self._dead = {shim: owned for shim, owned in self._dead.items() if owned != key}

    def owner_of(self, pid: int, shims: Mapping[int, Key], base: cgroup.Base | None) -> Key | None:
        """The attempt that ``pid`` belongs to, ``shims`` being those that live; None for a stranger's process."""
        ancestor = pid
        shim = record.parse_group(cgroup.name_within(pid, base)) if base is not None else None
        if shim is not None:  # however far it strayed from its parents
            if shim in self._dead:
                return self._dead[shim]
            ancestor = shim[0] if identity.alive(*shim) else pid
        found = identity.ancestor_among(ancestor, shims)
        return None if found is None else shims[found]
