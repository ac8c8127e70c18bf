"""Starts, watches and ends attempts for the daemon; knows nothing of queues or cards.

Everything here can be forgotten by a kill -9: the folders and the shims keep what matters, and :meth:`Supervisor.look`
and :meth:`Supervisor.adopt` find it again. The order of events for one attempt is Running, then Ended; Running may be
missing for a job that ended before anybody could be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from p104d.processes import attempt, cgroup, identity, record, sweep
from p104d.processes.attempt import Key, LaunchSpec, Look, LookKind
from p104d.processes.commands import Commands
from p104d.processes.events import Ended, Event, LaunchFailed, Running
from p104d.processes.launchers import Launcher, SystemdLauncher, systemd_runs
from p104d.processes.listener import EventSocket
from p104d.processes.ownership import Owners
from p104d.processes.pool import ZygoteLauncher
from p104d.processes.watched import Watched

__all__ = ["Ended", "Event", "Key", "LaunchFailed", "LaunchSpec", "Look", "LookKind", "Running", "Supervisor"]

#: A shim that has not claimed by then is on a disk that hangs, or was never started: the attempt is revoked.
_CLAIM_SECONDS = 30.0
#: A unit's shim divides the cgroup it finds itself in.
_UNIT_GROUP: str | None = "own"
#: A folder that cannot be read now (no descriptor to be had, a disk that fails) is asked again.
_AGAIN_SECONDS = 1.0
#: A dying shim's lock may be held for an instant by a child that has not executed yet.
_SETTLE_SECONDS = 0.01
_SETTLE_TRIES = 200


class Supervisor:
    """All attempts of one daemon.

    ``roots`` maps kinds to the folder their attempts are in; left out: jobs in ``jobs_dir`` and notifications in
    ``notify`` beside it. ``runtime_dir`` holds the socket for the shims' events, the same for every daemon that is to
    adopt the others' shims. ``zygote_argv`` replaces the zygote's start, for tests. ``own_units``: attempts are units.
    """

    def __init__(
        self,
        *,
        jobs_dir: str,
        runtime_dir: str,
        on_event: Callable[[Event], None],
        system: bool = False,
        launcher: Literal["auto", "zygote", "systemd"] = "auto",
        roots: Mapping[str, str] | None = None,
        zygote_argv: list[str] | None = None,
        claim_seconds: float = _CLAIM_SECONDS,
        cgroups: bool = True,
    ) -> None:
        notify = os.path.join(os.path.dirname(os.path.abspath(jobs_dir)), "notify")
        self._roots = {"job": os.path.abspath(jobs_dir), "notify": notify, **(roots or {})}
        self._runtime = os.path.abspath(runtime_dir)
        self._on_event = on_event
        use_systemd = launcher == "systemd" or (launcher == "auto" and system and systemd_runs())
        self._launcher: Launcher = SystemdLauncher() if use_systemd else ZygoteLauncher(zygote_argv)
        self.own_units = use_systemd
        self._cgroups = cgroups
        self._claim_seconds = claim_seconds
        self._tag = f"p104d-{zlib.crc32(self._roots['job'].encode()):08x}"
        self._base: cgroup.Base | None = None
        self.listener = EventSocket(self._runtime, self._on_hint)
        self._folders: dict[Key, str] = {}
        self._watched: dict[Key, Watched] = {}
        self._owners = Owners()
        self._commands = Commands(self._watched, self.adopt)

    # --- its own life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the folders and the event socket, find a cgroup, start the launcher. Raises OSError."""
        for folder in (*self._roots.values(), self._runtime):
            os.makedirs(folder, 0o700, exist_ok=True)
        if self._cgroups and not self.own_units:
            self._base = cgroup.find(self._tag)
        if self._base is not None:
            sweep.remove_leftovers(self._base.path)
        self.listener.open()
        await self._launcher.start(self._base.path if self._base else None)

    async def close(self) -> None:
        """Stop watching; every shim and its job run on."""
        busy = {watched.pid for watched in self._watched.values()}
        await self._launcher.close()
        self.listener.close()
        for watched in list(self._watched.values()):
            self._forget(watched)
        if self._base is not None:
            await sweep.remove_base(self._base.path, busy)

    @property
    def cgroup_base(self) -> cgroup.Base | None:
        """Where attempts have their cgroups; None where no cgroup v2 is writable, or each has a unit of its own."""
        return self._base

    # --- starting ------------------------------------------------------------------------------------------------

    def folder(self, key: Key) -> str:
        """The attempt's folder, there or not."""
        return self._folders.get(key) or attempt.folder_of(self._roots[key.kind], key)

    def keys(self, kind: str) -> list[Key]:
        """Every attempt of ``kind`` that has a folder. Reads the disk."""
        return attempt.keys_in(self._roots[kind], kind)

    def launch(self, spec: LaunchSpec) -> None:
        """Start an attempt, committed before; what comes of it, a failure to start included, is told by events. Never
        raises OSError."""
        key = spec.key
        if key in self._watched:
            return  # under way already, and its events are on their way
        filled = self._fill(spec)
        if spec.folder:
            self._folders[key] = spec.folder
        watched = self._watched[key] = Watched(self, key, filled.folder)
        loop = asyncio.get_running_loop()
        try:
            attempt.write_launch(filled)
        except (OSError, ValueError, TypeError) as error:
            loop.call_soon(self.on_launch_failed, watched, f"its folder cannot be written: {error}")
            return
        self._again(
            self._claim_seconds,
            watched,
            self.on_launch_failed,
            f"no shim claimed it within {self._claim_seconds:.0f} s",
        )
        self._launcher.launch(key, filled.folder, watched)

    def _fill(self, spec: LaunchSpec) -> LaunchSpec:
        token = spec.token or secrets.token_hex(16)
        group = _UNIT_GROUP if self.own_units else None
        if self._base is not None:
            group = self._base.path
        return msgspec.structs.replace(
            spec,
            folder=spec.folder or self.folder(spec.key),
            events=self.listener.path,
            cgroup=group,
            token=token,
            env={**spec.env, record.TOKEN_VARIABLE: token},
        )

    def _is_current(self, watched: Watched) -> bool:
        return self._watched.get(watched.key) is watched

    def on_launch_failed(self, watched: Watched, text: str) -> None:
        """Say so if, and only if, nobody can run it any more."""
        if not self._is_current(watched):
            return
        watched.disarm()
        try:
            ours = attempt.revoke(watched.folder)
        except OSError:  # until that is settled it may yet be claimed
            self._again(_AGAIN_SECONDS, watched, self.on_launch_failed, text)
            return
        if ours:
            self._forget(watched)
            self._on_event(LaunchFailed(watched.key, text))
        elif not watched.known:
            self.on_gone(watched, 0)

    def _again(self, seconds: float, watched: Watched, step: Callable[..., None], argument: object) -> None:
        """What cannot be read now is no answer: an end that was told once would be lost, and its cards with it."""
        watched.timer = asyncio.get_running_loop().call_later(seconds, step, watched, argument)

    # --- watching ------------------------------------------------------------------------------------------------

    def adopt(self, key: Key) -> bool:
        """Watch the shim of an earlier daemon; False when none is alive: then :meth:`look` says what there is.

        Running follows as an event if the job was executed. Raises OSError when that cannot be read.
        """
        if key in self._watched and self._watched[key].shim is not None:
            return True  # its own shim, to which there is a line
        found = self.look(key)
        if found.kind is not LookKind.RUNNING or found.pid is None or found.start is None:
            return False
        pidfd = identity.open_pidfd(found.pid, found.start)
        if pidfd is None:
            return False
        watched = self._watched.get(key) or Watched(self, key, self.folder(key))
        watched.let_go()
        watched.disarm()
        self._watched[key] = watched
        watched.pid, watched.pidfd = found.pid, pidfd
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, self.on_gone, watched, 0)
        if found.job_pid is not None and found.started_at is not None:
            loop.call_soon(self._say_running, watched, found.job_pid, found.started_at)
        return True

    def on_gone(self, watched: Watched, tries: int = 0) -> None:
        """The shim's process ended, or was never known: what it left, or who else runs the attempt."""
        if not self._is_current(watched):
            return
        watched.let_go()
        watched.disarm()
        try:
            found = attempt.look(watched.folder)
            adopted = found.kind is LookKind.RUNNING and self.adopt(watched.key)
        except OSError:
            self._again(_AGAIN_SECONDS, watched, self.on_gone, tries)
            return
        if found.kind is LookKind.UNCLAIMED:
            self.on_launch_failed(watched, "its shim ended before it claimed")
        elif found.kind is not LookKind.RUNNING:
            if found.kind is LookKind.ENDED:
                sweep.remove_group(found)
            self._settle(watched, found)
        elif not adopted:
            if tries < _SETTLE_TRIES:
                self._again(_SETTLE_SECONDS, watched, self.on_gone, tries + 1)
            else:
                self._settle(watched, Look(kind=LookKind.DEAD, pid=found.pid, start=found.start))

    def _settle(self, watched: Watched, found: Look) -> None:
        if not self._is_current(watched):
            return
        self._forget(watched)
        if found.kind is LookKind.DEAD or (found.exit is not None and found.exit.left_behind):
            self._owners.left_by(found, watched.key)
        if found.kind is LookKind.REVOKED:
            self._on_event(LaunchFailed(watched.key, "revoked"))
        else:
            self._on_event(Ended(watched.key, found))

    def _say_running(self, watched: Watched, pid: int, at: float) -> None:
        watched.disarm()
        if self._is_current(watched) and not watched.said_running:
            watched.said_running = True
            self._on_event(Running(watched.key, pid, at))

    def _on_hint(self, key: Key, event: str) -> None:
        """A shim without a line told something: look."""
        watched = self._watched.get(key)
        if watched is None or watched.shim is not None:
            return
        try:
            if event == "running" and not watched.said_running:
                self.adopt(key)
            elif event == "ended" and (found := attempt.look(watched.folder)).kind is LookKind.ENDED:
                self._settle(watched, found)
        except OSError:  # its timer stays: what it waits for comes, whether this is answered or not
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._on_hint, key, event)

    def on_message(self, watched: Watched, message: dict[str, object]) -> None:
        """From the shim itself, over its line."""
        pid, at = message["pid"], message["at"]
        if message["event"] == "running" and isinstance(pid, int) and isinstance(at, float):
            self._say_running(watched, pid, at)
        elif message["event"] == "ended":
            watched.shim = None  # free for another attempt, which no command for this one may reach
            self.on_gone(watched)

    def _forget(self, watched: Watched) -> None:
        if self._is_current(watched):
            del self._watched[watched.key]
        watched.let_go()
        watched.disarm()

    # --- asking and ending ---------------------------------------------------------------------------------------

    def look(self, key: Key) -> Look:
        """What the attempt's folder says now. Raises OSError when the folder cannot be read."""
        return attempt.look(self.folder(key))

    def revoke(self, key: Key) -> bool:
        """Take an attempt back before it runs; True when it never will. No event follows. Raises OSError."""
        ours = attempt.revoke(self.folder(key))
        watched = self._watched.get(key)
        if ours and watched is not None:
            self._forget(watched)
        return ours

    def stop(self, key: Key) -> bool:
        """SIGTERM to the whole of it, SIGKILL after its grace. False when no shim is there to do it. Raises OSError."""
        return self._commands.stop(key)

    def kill(self, key: Key) -> bool:
        """SIGKILL to the whole of it, now. False when no shim is there to do it. Raises OSError."""
        return self._commands.kill(key)

    async def sweep(self, key: Key, within_seconds: float = 5.0) -> int:
        """End what a dead shim left: its cgroup, and every process that carries the attempt's token.

        Returns how many could not be ended in time; nothing is done where its shim is alive. Raises OSError.
        """
        left = await sweep.sweep(self.folder(key), within_seconds)
        if not left:
            self._owners.swept(key)
        return left

    def owner_of(self, pid: int) -> Key | None:
        """The attempt of ours that ``pid`` belongs to; None for a stranger's process."""
        return self._owners.owner_of(
            pid, {each.pid: key for key, each in self._watched.items() if each.pid}, self._base
        )

    def remove_folder(self, key: Key) -> None:
        """Remove an ended attempt's folder. Raises OSError."""
        folder = self.folder(key)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        self._folders.pop(key, None)
