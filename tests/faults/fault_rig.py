"""A real daemon in a world of the test's own: its clock, boot and disk; see ``world.c`` and ``faulty_daemon.py``."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import interposer
import pytest
from daemon_rig import CONFIG, Rig

_HERE = Path(__file__).resolve().parent
MIB = 2**20
#: Eight numbers; world.c says which.
_WORLD_BYTES = 64
#: Of a small disk: few enough to be used up by a test.
_INODES = 1000


@functools.lru_cache(maxsize=1)
def _compiled() -> bytes:
    """world.c as a library: kept as bytes, so that nothing is left of it but what a rig puts into its folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build tests/faults/world.c with")
    flags = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-x", "c")
    with tempfile.TemporaryDirectory(prefix="p104-world-", dir="/tmp") as name:
        folder = Path(name)
        target = folder / "world.so"
        done = subprocess.run(
            [compiler, *flags, str(_HERE / "world.c"), "-o", str(target), "-ldl"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return target.read_bytes()


class FaultRig(Rig):
    """A daemon whose surroundings a test commands.

    ``rule`` is the interposer's for the daemon (``""``: none), ``trace`` where it writes what happened; ``world``: its
    clock, boot id, reads and syncs can be changed; ``disk`` is the size in bytes of a file system of its own for its
    state, 0 for none.
    """

    def __init__(
        self,
        simulate: int | str,
        *,
        config: str = CONFIG,
        world: bool = False,
        disk: int = 0,
        telemetry_seconds: float | None = None,
    ) -> None:
        super().__init__(simulate, config=config)
        self.rule = ""
        self.trace: str | None = None
        self._mounted = False
        self._world: mmap.mmap | None = None
        self._more = {"P104_TEST_STUCK": str(self.stuck)}
        if telemetry_seconds is not None:
            self._more["P104_TEST_TELEMETRY"] = str(telemetry_seconds)
        try:
            if world:
                self._make_world()
            if disk:
                self._mount(disk)
        except BaseException:
            self._destroy()
            raise

    # --- the world -----------------------------------------------------------------------------------------------

    def _make_world(self) -> None:
        (self.folder / "world.so").write_bytes(_compiled())
        (self.folder / "world").write_bytes(bytes(_WORLD_BYTES))
        with open(self.folder / "world", "r+b") as file:
            self._world = mmap.mmap(file.fileno(), _WORLD_BYTES)
        self._boot = self.folder / "boot"
        self._boot.write_text(f"{uuid.uuid4()}\n")

    def _set(self, slot: int, value: int) -> None:
        assert self._world is not None
        self._world[slot * 8 : slot * 8 + 8] = value.to_bytes(8, "little", signed=True)

    def _get(self, slot: int) -> int:
        assert self._world is not None
        return int.from_bytes(self._world[slot * 8 : slot * 8 + 8], "little", signed=True)

    def jump(self, seconds: int) -> None:
        """Set the host's clock ahead, or back."""
        self._set(0, self._get(0) + seconds)

    @property
    def ahead(self) -> int:
        """By how many seconds its clock is ahead of ours."""
        return self._get(0)

    def fail_reads(self, count: int) -> None:
        """From now on so many reads of the queue's files fail with EIO."""
        self._set(1, count)

    @property
    def failed_reads(self) -> int:
        """How many did."""
        return self._get(2)

    def fail_sync(self, which: int, *, of: str = "queue", more: int = 0) -> None:
        """Let one sync of the ``queue``'s files, or of the ``attempts``', fail with EIO: 1 is the next, 0 none; and
        (of the queue's) so many ``more`` right after it."""
        self._set(7, more)
        self._set({"queue": 3, "attempts": 5}[of], which)

    def failed_syncs(self, of: str = "queue") -> int:
        """How many did."""
        return self._get({"queue": 4, "attempts": 6}[of])

    def reboot(self) -> None:
        """The host goes down with all its processes, and comes up again as another boot. The daemon is not started."""
        self.kill()
        while processes := self.processes():
            for process in processes:
                with contextlib.suppress(Exception):
                    process.kill()
        self._boot.write_text(f"{uuid.uuid4()}\n")

    @property
    def stuck(self) -> Path:
        """While this file is there the daemon's loop stands still, and its process lives."""
        return self.folder / "stuck"

    # --- its disk ------------------------------------------------------------------------------------------------

    def _mount(self, size: int) -> None:
        self.store.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={_INODES},mode=0700", "tmpfs", str(self.store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
        self._mounted = True

    def fill(self) -> None:
        """Take all that is free on its disk."""
        with open(self._filler / "bytes", "ab", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(64 * 1024)):
                pass
        assert os.statvfs(self.store).f_bavail == 0

    def fill_with_files(self) -> None:
        """Let no file be made on its disk any more; those that are there may grow."""
        filler = self._filler
        with contextlib.suppress(OSError):
            for number in range(_INODES):
                (filler / str(number)).touch(exist_ok=False)
        assert os.statvfs(self.store).f_favail == 0

    @property
    def _filler(self) -> Path:
        folder = self.store / "filler"
        folder.mkdir(exist_ok=True)
        return folder

    def free(self) -> None:
        """Give it back."""
        shutil.rmtree(self.store / "filler", ignore_errors=True)

    def close(self) -> None:
        """End it on a sound host."""
        self.free()
        self.stuck.unlink(missing_ok=True)
        if self._world is not None:
            self.fail_reads(0)
            self.fail_sync(0)
            self.fail_sync(0, of="attempts")
        super().close()

    # --- the daemon ----------------------------------------------------------------------------------------------

    def _preloads(self, rule: str) -> dict[str, str]:
        env = interposer.environment(rule, self.trace) if rule else {}
        if self._world is not None:
            libraries = [env["LD_PRELOAD"]] if env else []
            env["LD_PRELOAD"] = ":".join([str(self.folder / "world.so"), *libraries])
            env |= {"P104_WORLD": str(self.folder / "world"), "P104_WORLD_BOOT": str(self._boot)}
        return env

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        """A daemon's process in its world."""
        shims = json.dumps({**self._preloads(""), "P104_TEST_RIG": str(self.folder)})
        env = {**self.environment(), **self._more, **self._preloads(self.rule), "P104_TEST_SHIMS": shims}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*self.prefix, sys.executable, str(_HERE / "faulty_daemon.py"), *self.arguments, *more],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _destroy(self) -> None:
        super()._destroy()
        if self._world is not None:
            self._world.close()
            self._world = None
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.store)], check=True)
            self._mounted = False
            shutil.rmtree(self.folder, ignore_errors=True)
