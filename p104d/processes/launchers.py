"""How a shim is started: taken from a pool that a warm zygote fills, or as a transient unit of systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from typing import Protocol

from p104d.processes.attempt import Key

#: What an isolated Python runs: no site-packages, only, and last, the folder this package is in.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from p104d.processes import {0}; {0}.main({1})"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SYSTEMD_RUN_SECONDS = 30.0


def boot_argv(module: str, call: str, *arguments: str) -> list[str]:
    """The argv that runs ``p104d.processes.MODULE.main(CALL)`` in an isolated Python; ``arguments`` are argv[2:]."""
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT.format(module, call), _ROOT, *arguments]


def program_argv(module: str, *arguments: str) -> list[str]:
    """The argv that runs ``main(arguments)`` of a module of ours, the standard library its only other imports, in an
    isolated Python: as a submitter's, who has no say in what is imported."""
    run = f"import sys; sys.path.append(sys.argv.pop(1)); from {module} import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", run, _ROOT, *arguments]


class ShimProcess(Protocol):
    """A shim that a launcher has a line to."""

    @property
    def pid(self) -> int:
        """Its process id, valid until the watcher is told that it is gone."""
        ...

    def send(self, command: bytes) -> bool:
        """``stop`` or ``kill`` the attempt it runs; False when it is gone."""
        ...


class Watcher(Protocol):
    """Who is told of one attempt. ``message`` brings what the shim tells, ``gone`` that it died with the attempt
    under way, ``failed`` that there will be no shim. A launcher without lines never calls the first three."""

    def started(self, shim: ShimProcess) -> None: ...
    def message(self, message: dict[str, object]) -> None: ...
    def gone(self) -> None: ...
    def failed(self, text: str) -> None: ...


class Launcher(Protocol):
    """Starts shims."""

    async def start(self, groups: str | None) -> None: ...
    async def close(self) -> None: ...
    def launch(self, key: Key, folder: str, watcher: Watcher) -> None: ...


def unit_of(key: Key) -> str:
    """The transient unit's name."""
    return f"p104-{key.kind}-{key.id}-{key.number}.service"


def systemd_argv(key: Key, folder: str) -> list[str]:
    """The systemd-run call that starts the shim outside the daemon's sandbox, with a cgroup that is its own to divide.

    KillMode=process leaves it to the shim to end its job, so that it can write how the job ended.
    """
    properties = {
        "Delegate": "yes",
        "KillMode": "process",
        "SendSIGKILL": "no",
        "OOMPolicy": "continue",
        "StandardOutput": "null",
        "StandardError": "null",
    }
    settings = [part for name, value in properties.items() for part in ("-p", f"{name}={value}")]
    return [
        "systemd-run",
        *("--system", "--no-block", "--collect", "--quiet", "--no-ask-password"),
        f"--unit={unit_of(key)}",
        f"--description=p104d {key.kind} {key.id}, attempt {key.number}",
        *settings,
        "--",
        *boot_argv("shim", "sys.argv[2]", folder),
    ]


class SystemdLauncher:
    """A transient service per attempt. Its shim is found by its claim, and tells by datagrams."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, groups: str | None) -> None:
        """Nothing to prepare: units have groups of their own."""

    async def close(self) -> None:
        """Give up the calls under way; the units live on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def launch(self, key: Key, folder: str, watcher: Watcher) -> None:
        """Ask systemd for a unit that runs the shim of the attempt in ``folder``."""
        task = asyncio.get_running_loop().create_task(self._call(systemd_argv(key, folder), watcher))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, argv: list[str], watcher: Watcher) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as error:
            watcher.failed(f"systemd-run: {error.strerror}")
            return
        try:
            async with asyncio.timeout(_SYSTEMD_RUN_SECONDS):
                _, text = await process.communicate()
        except TimeoutError:
            watcher.failed(f"systemd-run did not return within {_SYSTEMD_RUN_SECONDS:.0f} s")
        else:
            if process.returncode:
                watcher.failed(f"systemd-run: {' '.join(text.decode('utf-8', 'replace').split())}")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def systemd_runs() -> bool:
    """Whether systemd is PID 1 here and can be asked for units (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system") and shutil.which("systemd-run") is not None
