"""A Supervisor with its folders, driven by tests: what it told, bounded waits, and proof that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

from p104d.processes import cgroup, identity
from p104d.processes.attempt import ExitRecord, Key, LaunchSpec
from p104d.processes.events import Ended, Event, LaunchFailed, Running
from p104d.processes.supervisor import Supervisor

#: The longest that anything here may take on a loaded machine with two processors.
PATIENCE = 30.0
PATH = os.environ.get("PATH", "/usr/bin:/bin")


class Rig:
    """``folder`` holds jobs/ and run/; ``token`` marks every process it starts."""

    def __init__(self, folder: str, **options: Any) -> None:
        self.folder = folder
        self.token = options.pop("token", None) or secrets.token_hex(16)
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        self.supervisor = Supervisor(
            jobs_dir=f"{folder}/jobs", runtime_dir=f"{folder}/run", on_event=self._on_event, **options
        )
        self._next = 0

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    def spec(self, *argv: str, **fields: Any) -> LaunchSpec:
        self._next += 1
        given = {"id": self._next, "number": 1, "cwd": "/", "env": {"PATH": PATH}, "token": self.token, **fields}
        return LaunchSpec(argv=argv, **given)

    def launch(self, *argv: str, **fields: Any) -> Key:
        spec = self.spec(*argv, **fields)
        self.supervisor.launch(spec)
        return spec.key

    def sh(self, script: str, **fields: Any) -> Key:
        return self.launch("/bin/sh", "-c", script, **fields)

    async def until(self, kind: type, key: Key, seconds: float = PATIENCE) -> Any:
        """The first event of that kind for ``key``."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.events:
                if isinstance(event, kind) and event.key == key:
                    return event
            self._arrived.clear()
            left = deadline - time.monotonic()
            assert left > 0, f"no {kind.__name__} for {key} in {seconds} s; told: {self.events}"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    async def running(self, key: Key) -> Running:
        return await self.until(Running, key)

    async def ended(self, key: Key) -> ExitRecord:
        """How it ended; it must have ended with a record."""
        event = await self.until((Ended, LaunchFailed), key)  # type: ignore[arg-type]
        assert isinstance(event, Ended) and event.look.exit is not None, event
        return event.look.exit

    def log(self, key: Key) -> str:
        """All of the newest file of its log."""
        try:
            with open(os.path.join(self.supervisor.folder(key), "log"), errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    async def run(self, *argv: str, **fields: Any) -> tuple[ExitRecord, str]:
        """Launch, wait, and return how it ended and what it printed."""
        key = self.launch(*argv, **fields)
        return await self.ended(key), self.log(key)

    def marked(self) -> list[int]:
        """Living processes that carry this rig's token."""
        return [
            pid
            for pid in identity.all_pids()
            if (identity.environment(pid) or {}).get(b"P104_TOKEN") == self.token.encode() and is_alive(pid)
        ]

    def shims(self) -> list[int]:
        return [shim.pid for shim in self.supervisor._launcher._all]  # type: ignore[attr-defined]


def is_alive(pid: int) -> bool:
    start = identity.start_time(pid)
    return start is not None and identity.alive(pid, start)


async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Look again and again, for what no event tells, until it holds."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"did not come to hold within {seconds} s"
        await asyncio.sleep(0.01)
    return result


def drive(body: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    """Run ``body`` with a started Rig in a short folder; afterwards nothing of it may be alive."""

    async def whole(folder: str) -> None:
        rig = Rig(folder, **options)
        await rig.supervisor.start()
        base = rig.supervisor.cgroup_base
        try:
            await body(rig)
            # What a test left running on purpose is ended here; what it should have ended must be gone.
            shims = rig.shims() if hasattr(rig.supervisor._launcher, "_all") else []
            await eventually(lambda: not rig.marked(), 10)
        finally:
            await rig.supervisor.close()
        await eventually(lambda: not [pid for pid in shims if is_alive(pid)], 10)
        if base is not None:
            await eventually(lambda: not cgroup.leftovers(base.path), 10)
            cgroup.remove(base.path)

    folder = tempfile.mkdtemp(dir="/tmp", prefix="p104-")
    try:
        asyncio.run(whole(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
